"""Draw the pictures of docs/plots.md at full size: ``python -m tests.docs.gallery``."""

import re
from typing import Any, Final

import matplotlib

from tests.docs.pages import DOCS, text_of

_DPI: Final = 100
_PART: Final = re.compile(r"^```python\n(.*?)^```$|^!\[[^\]]*\]\((images/[\w.]+)\)$", re.M | re.S)


def main() -> None:
    """Run the blocks of the page; write the current figure where a picture is shown."""
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    scope: dict[str, Any] = {}
    for code, picture in _PART.findall(text_of("plots")):
        if code:
            exec(code, scope)
            continue
        plt.gcf().savefig(DOCS / picture, dpi=_DPI, metadata={"Software": "rvrae_pyro"})
        plt.close("all")


if __name__ == "__main__":
    main()
