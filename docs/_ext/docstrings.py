"""Small repairs between docstrings as they are read in code and as Sphinx reads them."""

import re
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.domains.python import PythonDomain
from sphinx.environment import BuildEnvironment
from sphinx.util.nodes import make_refnode

# leading dimensions are written (*batch, n): an asterisk, not the start of emphasis
_LEADING = re.compile(r"(?<![`\\])\(\*(?=\w)")


def escape_leading_dimensions(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Keep the asterisk of ``(*batch, n_factors)`` an asterisk."""
    lines[:] = [_LEADING.sub(r"(\\*", line) for line in lines]


def resolve(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.TextElement
) -> nodes.reference | None:
    """Lead a name of the package to where it is documented under the name that users type.

    ``align`` finds ``rvrae_pyro.diagnostics.align`` if that is the only one, and
    ``rvrae_pyro.models.priors`` finds ``rvrae_pyro.priors``. A module inside a public one leads to
    the public one. Anything else stays unresolved, and is reported.
    """
    if node.get("refdomain") != "py":
        return None
    domain = env.domains["py"]
    assert isinstance(domain, PythonDomain)
    target = str(node["reftarget"])
    short = re.sub(r"^rvrae_pyro\.(models\.)?", "", target)
    objects = domain.objects.items()
    found = [name for name, o in objects if name.endswith(f".{short}") and not o.aliased]
    if not found and target.startswith("rvrae_pyro."):
        # a module inside a public one, named by where its code stands
        inner = target.rpartition(".")[2]
        found = [name for name, o in objects if name.endswith(f".{inner}") and not o.aliased]
    if not found and node.get("reftype") == "mod" and target.startswith("rvrae_pyro."):
        found = [name for name in domain.modules if target.startswith(name + ".")]
    if len(found) > 1:
        # compare in the docstring of something in experiments is rv.experiments.compare
        where = " ".join(filter(None, [target, node.get("py:module"), str(node["refdoc"])]))
        found = [name for name in found if name.split(".")[1] in where.replace("/", ".").split(".")]
    if len(found) != 1:
        return None
    if found[0] in domain.objects:
        page, anchor = domain.objects[found[0]][:2]
    else:
        module = domain.modules[found[0]]
        page, anchor = module.docname, module.node_id
    assert app.builder is not None
    return make_refnode(app.builder, node["refdoc"], page, anchor, content, found[0])


def setup(app: Sphinx) -> dict[str, bool]:
    """Run after numpydoc has laid the docstring out."""
    app.connect("autodoc-process-docstring", escape_leading_dimensions, priority=900)
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
