"""``rvrae report``: what it writes, says and refuses."""

import json
from pathlib import Path

import pandas as pd
import xarray as xr

import rvrae_pyro as rv
from rvrae_pyro.report.tables import number
from tests.cli.conftest import Command, assert_refused
from tests.cli.helpers import content


def test_writes_one_page(
    rvrae: Command, run_folder: Path, panel_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "report.html"
    done = rvrae("report", run_folder, panel_file, "--out", out, "--json")
    assert done.code == 0, done.err
    said = json.loads(done.out)
    assert said["month"] == "2001-12-31"
    assert said["judged_on"] == "valid"
    assert said["bytes"] == out.stat().st_size < 5_000_000
    page = out.read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert page.rstrip().endswith("</html>")
    assert content(tmp_path) == {"report.html": said["bytes"]}
    spoken = rvrae("report", run_folder, panel_file, "--out", out)
    assert f"Wrote {out}" in spoken.out
    assert "Not known from this fit" in spoken.out
    assert out.read_text(encoding="utf-8") == page


def test_bad_input_writes_nothing(
    rvrae: Command, run_folder: Path, panel_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "report.html"
    for arguments, said in (
        ((run_folder, panel_file, "--out", tmp_path / "report.pdf"), "unknown suffix"),
        ((run_folder, panel_file, "--out", out, "--num-samples", 50), "must be at least 1000"),
        ((tmp_path / "none", panel_file, "--out", out), "does not exist"),
        ((run_folder, tmp_path / "none.parquet", "--out", out), "cannot read"),
        ((run_folder, panel_file, "--out", tmp_path / "a" / "b.html"), "does not exist"),
    ):
        done = rvrae("report", *arguments)
        assert done.code == 2
        assert said in done.err
        assert "Traceback" not in done.err
    assert content(tmp_path) == {}


def test_a_portfolio_of_the_user_is_on_the_page(
    rvrae: Command, run_folder: Path, panel_file: Path, panel: xr.Dataset, tmp_path: Path
) -> None:
    listed = rv.data.listed(panel).isel(time=-1)
    ids = [str(name) for name in panel["asset"].values[listed.values]]
    for name, values in (("p", {ids[0]: 300.0, ids[1]: 100.0}), ("b", {ids[2]: 1.0})):
        frame = pd.DataFrame({"asset": list(values), "value": list(values.values())})
        frame.to_csv(tmp_path / f"{name}.csv", index=False)
    files = ("--portfolio", tmp_path / "p.csv", "--benchmark", tmp_path / "b.csv")
    out = tmp_path / "report.html"
    done = rvrae("report", run_folder, panel_file, *files, "--out", out)
    assert done.code == 0, done.err
    page = out.read_text(encoding="utf-8")
    rows = {
        name: page[page.index(f">{name}<") :].split("</tr>")[0]
        for name in ("Your portfolio", "Your benchmark", "Your portfolio less benchmark")
    }
    found = json.loads(rvrae("risk", run_folder, panel_file, *files, "--json").out)
    for name, key in zip(rows, ("portfolio", "benchmark", "active"), strict=True):
        for figure in ("mean", "sd", "var_05", "es_01"):
            assert number(100 * found[key][figure]) in rows[name]
    assert "shortfall of your portfolio comes from" in page
    assert "over all 2 assets" in page
    before = content(tmp_path)
    alone = ("report", run_folder, panel_file, *files[2:], "--out", tmp_path / "r.html")
    assert_refused(rvrae(*alone), "`--benchmark` needs `--portfolio`")
    (tmp_path / "x.csv").write_text("asset,weight\nXYZ,1\n")
    unknown = ("--portfolio", tmp_path / "x.csv", "--out", tmp_path / "r.html")
    assert_refused(rvrae("report", run_folder, panel_file, *unknown), "panel does not have: XYZ")
    assert set(content(tmp_path)) == {*before, "x.csv"}
