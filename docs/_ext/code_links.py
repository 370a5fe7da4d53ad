"""Names of the package in running text lead to its reference.

Pages write ```rv.fit`` or ``Fit.forecast`` as plain code, which reads well everywhere; on the site
each such name that the reference holds becomes a link to it.
"""

import re
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.domains.python import PythonDomain
from sphinx.transforms.post_transforms import SphinxPostTransform

# the name, and what may follow it: an argument list, a closing bracket
_NAME = re.compile(
    r"^(?P<name>(?:rv|fit|Fit|FitConfig|model|RVRAE)(?:\.\w+)*)(?:\(.*\))?$", re.DOTALL
)
_OWNERS = {
    "rv": "rvrae_pyro",
    "fit": "rvrae_pyro.Fit",  # of a fitted model: fit.forecast(...)
    "Fit": "rvrae_pyro.Fit",
    "FitConfig": "rvrae_pyro.FitConfig",
    "model": "rvrae_pyro.RVRAE",
    "RVRAE": "rvrae_pyro.RVRAE",
}


def full_name(text: str) -> str | None:
    """Return the full name that a piece of code speaks of, if it has the form of one."""
    found = _NAME.match(text.strip())
    if found is None:
        return None
    head, _, rest = found["name"].partition(".")
    if not rest:
        return _OWNERS[head] if head[0].isupper() else None
    return f"{_OWNERS[head]}.{rest}"


class ShortNames(SphinxPostTransform):
    """Show names in the reference's tables as users type them: ``rv.fit``."""

    default_priority = 9

    def run(self, **kwargs: Any) -> None:
        """Go through the page, if it is one of the reference."""
        if not self.env.docname.startswith("api/"):
            return
        for literal in self.document.findall(nodes.literal):
            text = literal.astext()
            if re.fullmatch(r"rvrae_pyro(\.\w+)+", text):
                literal.children = [nodes.Text(f"rv.{text.partition('.')[2]}")]


class LinkCode(SphinxPostTransform):
    """Wrap literals that name a documented object in a reference to it."""

    default_priority = 8

    def run(self, **kwargs: Any) -> None:
        """Go through the page."""
        domain = self.env.domains["py"]
        assert isinstance(domain, PythonDomain)
        for literal in list(self.document.findall(nodes.literal)):
            name = full_name(literal.astext())
            inside = isinstance(literal.parent, pending_xref | nodes.reference | nodes.title)
            if name is None or inside or name not in domain.objects:
                continue
            page, anchor, *_ = domain.objects[name]
            uri = self.app.builder.get_relative_uri(self.env.docname, page)
            reference = nodes.reference("", "", internal=True, refuri=f"{uri}#{anchor}")
            literal.replace_self(reference)
            reference += literal


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the transforms."""
    app.add_post_transform(LinkCode)
    app.add_post_transform(ShortNames)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
