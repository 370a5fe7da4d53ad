"""Formulas as MathML, which browsers draw themselves: no script, no font, no network."""

import re
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import MathError, tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)

# MathML stretches delimiters by itself
_SIZES = re.compile(r"\\[bB]igg?[lrm]?(?![a-zA-Z])")
# \frac12 is a half: TeX takes single characters, the converter whole numbers
_ABOVE = re.compile(r"(\\[td]?frac)\s*([0-9A-Za-z])")
_BELOW = re.compile(r"(\\[td]?frac\{[^{}]*\})\s*([0-9A-Za-z])")


def to_mathml(tex: str, *, block: bool) -> str:
    """Return a formula as MathML.

    Raises
    ------
    MathError
        If it holds a command that is not known.
    """
    tex = _SIZES.sub("", tex)
    tex = _BELOW.sub(r"\1{\2}", _ABOVE.sub(r"\1{\2}", tex))
    return tex2mathml(tex, as_block=block)


def _visit(self: Any, node: nodes.Element, *, block: bool) -> None:
    try:
        self.body.append(to_mathml(node.astext(), block=block))
    except MathError as error:
        logger.warning("formula not understood: %s (%s)", node.astext(), error, location=node)
    raise nodes.SkipNode


def visit_inline(self: Any, node: nodes.math) -> None:
    """Write a formula within a line."""
    _visit(self, node, block=False)


def visit_block(self: Any, node: nodes.math_block) -> None:
    """Write a formula of its own, which scrolls where it is wider than the screen."""
    self.body.append('<div class="math">')
    try:
        _visit(self, node, block=True)
    except nodes.SkipNode:
        self.body.append("</div>\n")
        raise


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer ``mathml``."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
