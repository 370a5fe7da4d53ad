"""Draw the first picture of the README and print its table: ``python -m tests.docs.front_picture``.

Walk-forward evaluation of the default model on the embedded panel, 1975 to 2017, with yearly refits
on the 360 months before, next to simple models with the same refits. Hours of CPU; refits are kept
in ``runs/french_risk`` as those of ``tests.benchmarks.french_risk`` are.
"""

from collections.abc import Mapping
from typing import Any, Final

import matplotlib
import pandas as pd
import xarray as xr

import rvrae_pyro as rv
from tests.benchmarks.french_risk import Spec, run
from tests.docs.pages import DOCS

PICTURE: Final = DOCS / "images" / "log_score.png"
NAMES: Final = {"Normal": "naive", "MultivariateT": "Student-t", "EWMA": "EWMA"}
MEASURES: Final = ["log_score", "coverage", "below_5", "below_1", "qlike", "rank_ic"]
_DPI: Final = 100


def make(train: xr.Dataset) -> rv.RVRAE:
    """Return the default model."""
    return rv.RVRAE.for_panel(train)


def draw(records: Mapping[str, xr.Dataset]) -> pd.DataFrame:
    """Write the picture of cumulative log scores; return the table.

    Parameters
    ----------
    records : mapping from name to Dataset
        From ``rv.experiments.risk_record``, "EWMA" among them.

    Returns
    -------
    DataFrame
        As of ``rv.experiments.risk_table``.
    """
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    shown = {name: each for name, each in records.items() if name != "naive"}
    scores = {name: record["log_evidence"] for name, record in shown.items()}
    figure, axes = plt.subplots(figsize=(9.0, 3.8), layout="constrained")
    rv.plots.comparison(
        rv.evaluation.compare(scores), kind="cumulative", reference="EWMA", ax=axes, style="light"
    )
    figure.savefig(PICTURE, dpi=_DPI, metadata={"Software": "rvrae_pyro"})
    plt.close(figure)
    return rv.experiments.risk_table(records, reference="EWMA", measures=MEASURES)


def main() -> None:
    """Run, or read, all refits; write the picture; print the table."""
    years: Any = {"refit": 12, "years": (1975, 2017)}
    factory = "tests.docs.front_picture:make"
    ours = Spec(name="for_panel", factory=factory, train=360, valid=0, **years)
    records = {"RVRAE": run(ours)}
    records |= {label: run(Spec(name=name, **years)) for name, label in NAMES.items()}
    print(draw(records).T.to_string())


if __name__ == "__main__":
    main()
