"""The notebooks join the site, and links between them and the pages hold in both places.

In the repository notebooks stand beside ``docs``; Sphinx reads only what is under it. So they are
copied to ``docs/notebooks`` before reading, with ``../docs/page.md`` made ``../page.md``, and in
pages ``../notebooks/x.ipynb`` is read as ``notebooks/x.ipynb``. Both forms keep working where the
repository itself is browsed.
"""

import json
import re
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.config import Config

_TO_PAGES = re.compile(r"\]\(\.\./docs/")
_TO_NOTEBOOKS = re.compile(r"\]\(\.\./((?:\.\./)*notebooks/)")

_PATTERN = re.compile(r"^([\w/]+\*)\n", re.MULTILINE)

SMALL = (
    ":::{note}\n"
    "This page was built at small sizes, to show the form. Its figures mean little; run the "
    "notebook as it is for the full ones.\n:::"
)


def copied(text: str, note: str | None) -> str:
    """Return a notebook as it goes into the site."""
    notebook = json.loads(text)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = _TO_PAGES.sub("](../", "".join(cell["source"]))
    if note is not None:
        extra = {"cell_type": "markdown", "id": "built-small", "metadata": {}, "source": note}
        notebook["cells"].insert(1, extra)
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def copy_notebooks(app: Sphinx, config: Config) -> None:
    """Bring ``docs/notebooks`` up to date, touching only what has changed."""
    source, target = Path(app.srcdir).parent / "notebooks", Path(app.srcdir) / "notebooks"
    target.mkdir(exist_ok=True)
    note = SMALL if config.notebooks == "small" else None
    wanted = {path.name: copied(path.read_text("utf-8"), note) for path in source.glob("*.ipynb")}
    for stale in {path.name for path in target.glob("*.ipynb")} - set(wanted):
        (target / stale).unlink()
    for name, text in wanted.items():
        path = target / name
        if not path.exists() or path.read_text("utf-8") != text:
            path.write_text(text, "utf-8")


def relink(app: Sphinx, docname: str, content: list[str]) -> None:
    """Turn links to the notebooks to their copies in the site; drop patterns without a page.

    A line ``name*`` in a table of contents may announce a page that is still to be written.
    """
    folder = Path(app.srcdir) / Path(docname).parent
    text = _TO_NOTEBOOKS.sub(r"](\1", content[0])
    content[0] = _PATTERN.sub(lambda m: m[0] if any(folder.glob(m[1])) else "", text)


def setup(app: Sphinx) -> dict[str, bool]:
    """Copy before reading, relink while reading."""
    app.add_config_value("notebooks", "stored", "env", [str])
    app.connect("config-inited", copy_notebooks)
    app.connect("source-read", relink)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
