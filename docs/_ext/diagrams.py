"""Diagrams become part of the page, so that they take its colours, light or dark.

A page shows ``![what it says](images/name.svg)``, which works wherever Markdown does; here the
file's content goes into the page itself.
"""

import html
import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform


class InlineDiagrams(SphinxPostTransform):
    """Replace images of hand-drawn SVG files by their content."""

    default_priority = 900
    formats = ("html",)

    def run(self, **kwargs: Any) -> None:
        """Go through the page."""
        for image in list(self.document.findall(nodes.image)):
            path = Path(self.env.srcdir) / image["uri"]
            if path.suffix != ".svg" or not path.is_file():
                continue
            text = re.sub(r"<\?xml.*?\?>\s*", "", path.read_text("utf-8"))
            label = html.escape(image.get("alt", ""), quote=True)
            text = text.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
            image.replace_self(nodes.raw("", text, format="html"))


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the transform."""
    app.add_post_transform(InlineDiagrams)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
