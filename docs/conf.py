"""How Sphinx builds the site; ``make docs`` runs it.

Environment
-----------
RVRAE_DOCS_NOTEBOOKS : {"stored", "small", "full"}
    Outputs of notebooks: as stored in them (default), or of a run at small or full sizes.
RVRAE_DOCS_ONLINE : "1"
    Ask other projects for the inventories of their documentation. Default: those in
    ``_inventories``, so that a build needs no network.
"""

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent)]

import api_pages  # noqa: E402
import inventories  # noqa: E402

from rvrae_pyro import __version__  # noqa: E402

# rv.priors is rvrae_pyro.models.priors, loaded on first use; the reference calls it what users do
for name in api_pages.namespaces():
    sys.modules.setdefault(f"rvrae_pyro.{name}", api_pages.lookup(name))

# -- project ---------------------------------------------------------------------------------------

project = "rvrae_pyro"
author = "The rvrae_pyro developers"
copyright = author
version = release = __version__

# -- what is read ----------------------------------------------------------------------------------

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.viewcode",
    "numpydoc",
    "myst_nb",
    "sphinx_copybutton",
    "sphinx_design",
    "api_pages",
    "code_links",
    "docstrings",
    "mathml",
    "diagrams",
    "repository_links",
]
exclude_patterns = ["_build", "_ext", "_inventories", "_templates", "**.ipynb_checkpoints"]
templates_path = ["_templates"]
nitpicky = True
# torch's own docstring of Module.forward, which parts inherit, names it without its package
nitpick_ignore = [("py:class", "Module")]

myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
myst_dmath_double_inline = True

# -- notebooks -------------------------------------------------------------------------------------

notebooks = os.environ.get("RVRAE_DOCS_NOTEBOOKS", "stored")
if notebooks not in {"stored", "small", "full"}:
    raise SystemExit(f"RVRAE_DOCS_NOTEBOOKS must be stored, small or full; got {notebooks!r}")
nb_execution_mode = "off" if notebooks == "stored" else "cache"
# small and full runs keep their own outputs
nb_execution_cache_path = str(HERE / "_build" / f"notebooks-{notebooks}")
nb_execution_raise_on_error = True
nb_execution_timeout = 600 if notebooks == "small" else 3600
nb_merge_streams = True
if notebooks == "small":
    os.environ["RVRAE_SMOKE"] = "1"
# the kernels draw inline and find the package where this file found it
os.environ.pop("MPLBACKEND", None)
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")])
)

# -- API -------------------------------------------------------------------------------------------

# where file names do not tell upper from lower case, rv.Fit and rv.fit need two
autosummary_filename_map = {"rvrae_pyro.Fit": "rvrae_pyro.Fit-class"}
autodoc_member_order = "bysource"
# numpydoc sections state the types, with shapes and units; signatures stay readable
autodoc_typehints = "none"
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False
numpydoc_xref_param_type = False

intersphinx_mapping = inventories.mapping(online=os.environ.get("RVRAE_DOCS_ONLINE") == "1")
intersphinx_timeout = 10

# -- how it looks ----------------------------------------------------------------------------------

html_theme = "pydata_sphinx_theme"
html_title = project
html_static_path = ["_static"]
html_css_files = ["style.css"]
html_extra_path = ["llms.txt"]
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = False
html_math_renderer = "mathml"
html_theme_options = {
    "show_prev_next": True,
    "navigation_with_keys": False,
    "header_links_before_dropdown": 7,
    "footer_start": ["sphinx-version"],
    "footer_end": [],
    # wide pages take the room of the contents on the right
    "secondary_sidebar_items": {"**": ["page-toc"], "index": [], "model": [], "results": []},
    "pygments_light_style": "tango",
    "pygments_dark_style": "github-dark",
}
html_sidebars = {"index": [], "changelog": [], "cite": []}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
