"""Pictures as files."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rvrae_pyro.atomic import replacing

_DPI: Final = 130


def save_picture(picture: Figure | Axes, path: Path) -> None:
    """Write a picture as PNG, atomically, and close its figure; same picture, same bytes."""
    import matplotlib.pyplot as plt

    figure = picture if isinstance(picture, Figure) else picture.get_figure(root=True)
    assert figure is not None  # axes that were drawn on have one
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=_DPI, metadata={"Software": "rvrae_pyro"})
    plt.close(figure)
