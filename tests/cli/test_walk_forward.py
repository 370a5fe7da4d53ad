"""``rvrae walk-forward``: refits, forecasts, scores and pictures."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rvrae_pyro.predictive.export import read_tree
from tests.cli.conftest import Command, assert_refused
from tests.cli.helpers import content, long_table

SIZES = ("--split", "14,4,3", "--factors", "2", "--jobs", "1", "--num-samples", "200")
FILES = {
    "calibration.png",
    "forecast.nc",
    "log_score.png",
    "refits.json",
    "scores.csv",
    "volatility.png",
}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("walk") / "table.csv"
    long_table(24, 10).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("settings") / "short.toml"
    path.write_text("[fit]\nmax_steps = 3\n")
    return path


def test_forecasts_are_joined_and_scored(
    rvrae: Command, table: Path, settings: Path, tmp_path: Path
) -> None:
    out = tmp_path / "walk"
    call = ("walk-forward", table, "--excess", *SIZES, "--config", settings, "--out", out)
    done = rvrae(*call)
    assert done.code == 0, done.err
    assert "2 refits" in done.out
    assert "EWMA" in done.out
    assert set(content(out)) == FILES
    tree = read_tree(out / "forecast.nc")
    drawn = tree["predictions"]["returns"]
    assert drawn.sizes["time"] == 6
    assert np.unique(drawn["refit"]).tolist() == [0, 1]
    scores = pd.read_csv(out / "scores.csv")
    assert set(scores["model"]) == {"RVRAE", "EWMA"}
    assert {"log_score", "crps", "coverage"} <= set(scores["measure"])
    assert (scores["standard_error"] > 0).any()
    spans = json.loads((out / "refits.json").read_text())["spans"]
    for each in spans:
        assert each["train"][1] < each["valid"][0] <= each["valid"][1] < each["test"][0]
    again = rvrae(*call, "--json")
    said = json.loads(again.out)
    assert said["refits"] == 2
    assert said["scores"][0]["estimate"] == pytest.approx(scores["estimate"][0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--split", "14,4"), "`--split` must be TRAIN,VALID,TEST"),
        (("--split", "0.5,0.2,0.3"), "`--split` must be three counts of months"),
        (("--split", "140,4,4"), "row"),
        (("--num-samples", "20"), "`--num-samples` must be at least 200"),
    ],
)
def test_bad_options(
    rvrae: Command, table: Path, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    out = ("--out", tmp_path / "walk")
    assert_refused(rvrae("walk-forward", table, "--excess", *SIZES, *options, *out), message)
    assert content(tmp_path) == {}
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("kept")
    refused = rvrae("walk-forward", table, "--excess", *SIZES, "--out", tmp_path / "other")
    assert_refused(refused, "not a walk-forward")
