"""The commands ``compare`` and ``benchmark gkx``."""

import json

import pytest

from tests.cli.helpers import content, long_table

SIZES = (
    "--split",
    "14,4,4",
    "--models",
    "IPCA",
    "--factors",
    "2",
    "--jobs",
    "1",
    "--num-samples",
    "200",
)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("compare") / "table.csv"
    long_table(24, 10).to_csv(path, index=False)
    return path


def test_compare_writes_tables(rvrae, table, tmp_path):
    out = tmp_path / "out"
    done = rvrae("compare", table, "--excess", *SIZES, "--omit", "4", "--seeds", 2, "--out", out)
    assert (done.code, done.err) == (0, "")
    assert "Table 1. Total and predictive R2" in done.out
    assert f"Wrote {out / 'report.md'}" in done.out
    assert {"report.md", "table1.csv", "results.csv", "figures/table1.png"} <= set(content(out))
    again = rvrae(
        "compare", table, "--excess", *SIZES, "--omit", "4", "--seeds", 2, "--out", out, "--json"
    )
    said = json.loads(again.out)
    assert said["seeds"] == [0, 1]
    assert {row["metric"] for row in said["tables"]["4"]} >= {"log_score", "crps", "coverage"}
    assert said["failures"] == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--omit", "99"), "`--omit` must hold whole numbers from 3"),
        (("--omit", "few"), "`--omit` must be whole numbers with commas"),
        (("--models", "IPAC"), "no competitor 'IPAC'"),
        (("--models", ","), "`--models` must name at least one"),
        (("--split", "14,4"), "`--split` must be TRAIN,VALID,TEST"),
        (("--seeds", "0"), "`--seeds` must be a whole number"),
        (("--num-samples", "20"), "`--num-samples` must be at least 200"),
        (("--jobs", "0"), "`--jobs` must be a whole number"),
        (("--split", "140,4,4"), "ask for 148 rows"),
        (("--split=-1,4,4",), "`train` must be at least 1 row; got -1"),
    ],
)
def test_bad_input_is_told_and_nothing_written(rvrae, table, tmp_path, options, message):
    done = rvrae("compare", table, "--excess", *SIZES, *options, "--out", tmp_path / "out")
    assert done.code == 2
    assert message in done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / "out").exists()


def test_a_failed_fit_is_exit_1(rvrae, table, tmp_path):
    chosen = ("--split", "14,4,4", "--jobs", "1", "--num-samples", "200")
    # more factors than characteristics: IPCA cannot, the autoencoder can
    done = rvrae(
        "compare", table, "--excess", *chosen, "--models", "IPCA,ALSTM", "--factors", "9",
        "--out", tmp_path / "out",
    )  # fmt: skip
    assert done.code == 1
    assert "1 of 2 fits failed; the first, IPCA with seed 0: ShapeError" in done.err
    assert "ALSTM" in (tmp_path / "out" / "table1.csv").read_text()


def test_a_foreign_folder_is_left_alone(rvrae, table, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    done = rvrae("compare", table, "--excess", *SIZES, "--out", tmp_path)
    assert done.code == 2
    assert "holds something that is not a comparison" in done.err
    assert list(content(tmp_path)) == ["thesis.tex"]


def test_benchmark_gkx(rvrae, tmp_path):
    out = tmp_path / "gkx"
    options = ("--case", "linear", "--models", "IPCA", "--out", out, "--jobs", 1)
    done = rvrae("benchmark", "gkx", *options)
    assert (done.code, done.err) == (0, "")
    assert "Oracle" in done.out
    assert "[40.7]" in done.out
    said = json.loads(rvrae("benchmark", "gkx", *options, "--json").out)
    found = {(r["model"], r["metric"]): r["estimate"] for r in said["table"]}
    # one repetition; over repetitions the published figure is 40.7
    assert 35 < found["IPCA", "total_r2"] < 46


def test_benchmark_refuses(rvrae):
    done = rvrae("benchmark", "gkx", "--case", "cubic")
    assert done.code == 2
    assert "`--case` must be 'linear' or 'nonlinear'" in done.err
    assert "`--reps` must be a whole number" in rvrae("benchmark", "gkx", "--reps", 0).err
