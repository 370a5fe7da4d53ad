"""``rvrae report``: what it writes, says and refuses."""

import json
from pathlib import Path

from tests.cli.conftest import Command
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
