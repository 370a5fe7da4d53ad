"""Bad input gives one clear message, exit code 2 and no file; the same through the API."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import rvrae_pyro as rv
from tests.cli.conftest import Command, assert_refused
from tests.cli.helpers import SMALL, content, long_table, write_settings

Table = pd.DataFrame


def repeat_a_row(table: Table) -> Table:
    return pd.concat([table, table.iloc[[3]]])


def lose_a_date(table: Table) -> Table:
    return table.assign(date=table["date"].where(table.index != 7))


def skip_a_month(table: Table) -> Table:
    return table[table["date"] != pd.Timestamp("2010-06-30")]


def returns_as_text(table: Table) -> Table:
    return table.assign(ret=table["ret"].map("{:.2%}".format))


def lose_a_characteristic(table: Table) -> Table:
    return table.assign(size=np.nan)


def make_infinite(table: Table) -> Table:
    return table.assign(size=table["size"].where(table.index != 11, np.inf))


def in_percent(table: Table) -> Table:
    return table.assign(ret=100 * table["ret"])


def without_returns(table: Table) -> Table:
    return table.drop(columns="ret")


def without_characteristics(table: Table) -> Table:
    return table[["date", "asset", "ret"]].assign(size="large", name=table["date"].astype(str))


def without_rows(table: Table) -> Table:
    return table.iloc[:0]


BAD_TABLES: list[tuple[Callable[[Table], Table], str]] = [
    (repeat_a_row, r"repeated \(date, asset\): \(2010-01-31, s3\)"),
    (lose_a_date, r"'date' is missing \(NaN or NaT\) in rows 7"),
    (skip_a_month, r"skips months: 2010-06"),
    (returns_as_text, r"'ret' must be numeric.*pandas\.to_numeric"),
    (lose_a_characteristic, r"without a single value: size"),
    (make_infinite, r"infinite characteristics in size.*2010-02-28 s5"),
    (in_percent, r"look like percent.*Divide by 100"),
    (without_returns, r"no column 'ret' for `returns`"),
    (
        without_characteristics,
        r"no numeric column is left.*name .* hold no numbers. Convert these columns, or drop",
    ),
    (without_rows, r"empty"),
]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize(("spoil", "match"), BAD_TABLES, ids=lambda v: getattr(v, "__name__", ""))
def test_bad_tables(
    rvrae: Command, tmp_path: Path, spoil: Callable[[Table], Table], match: str, suffix: str
) -> None:
    table = spoil(long_table())
    path = tmp_path / f"bad{suffix}"
    table.to_csv(path, index=False) if suffix == ".csv" else table.to_parquet(path, index=False)
    before = content(tmp_path)
    assert_refused(rvrae("check", path, "--excess"), match)
    assert_refused(rvrae("fit", path, "--excess", "--out", tmp_path / "run"), match)
    assert content(tmp_path) == before
    with pytest.raises(rv.PanelError, match=match):
        rv.data.from_frame(table, excess=True)


def test_a_file_without_a_byte(rvrae: Command, tmp_path: Path) -> None:
    for suffix in (".csv", ".parquet", ".nc"):
        path = tmp_path / f"empty{suffix}"
        path.touch()
        assert_refused(rvrae("check", path), "cannot read.*damaged")
        with pytest.raises(rv.PanelError, match="damaged"):
            rv.data.read_panel(path)
        options = ["--time", "date"]
        match = "only|plain tables" if suffix == ".nc" else "damaged"
        assert_refused(rvrae("check", path, *options), match)


@pytest.mark.parametrize("options", [(), ("--excess",)], ids=["panel", "table"])
def test_unknown_suffix_and_missing_file(
    rvrae: Command, tmp_path: Path, options: tuple[str, ...]
) -> None:
    wrong = tmp_path / "panel.xlsx"
    wrong.touch()
    assert_refused(rvrae("check", wrong, *options), r"\.xlsx")
    missing = tmp_path / "missing.csv"
    assert_refused(rvrae("check", missing, *options), "does not exist|is missing")
    for path in (wrong, missing):
        with pytest.raises(rv.PanelError):
            rv.data.read_panel(path)


@pytest.mark.parametrize("options", [(), ("--excess",)], ids=["panel", "table"])
def test_truncated_parquet(
    rvrae: Command, panel_file: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    path = tmp_path / "cut.parquet"
    path.write_bytes(panel_file.read_bytes()[:-100])
    assert_refused(rvrae("fit", path, *options, "--out", tmp_path / "run"), "damaged")
    assert content(tmp_path) == {"cut.parquet": path.stat().st_size}
    with pytest.raises(rv.PanelError, match="damaged"):
        rv.data.read_panel(path)


def test_column_options_for_a_panel_are_refused(rvrae: Command, panel_file: Path) -> None:
    assert_refused(
        rvrae("check", panel_file, "--returns", "ret"), "is a panel and states its columns"
    )


def test_training_months_without_a_return(rvrae: Command, tmp_path: Path) -> None:
    table = long_table()
    table.loc[table["date"] < "2011-01", "ret"] = np.nan
    path = tmp_path / "late.parquet"
    table.to_parquet(path)
    for text, match in (
        ("train = 8\nvalid = 4\ntest = 8", "no observed return between 2010-01-31 and 2010-08-31"),
        ('train = "2010-10"\nvalid = "2011-04"\ntest = "2011-08"', "no observed return"),
    ):
        settings = write_settings(tmp_path / "split.toml", f"{SMALL}[split]\n{text}\n")
        outcome = rvrae("fit", path, "--excess", "--config", settings, "--out", tmp_path / "run")
        assert_refused(outcome, match)
    assert not (tmp_path / "run").exists()
    panel = rv.data.rank_characteristics(rv.data.from_frame(table, excess=True))
    with pytest.raises(rv.PanelError, match="no observed return"):
        rv.data.split(panel, 8, 4, 8)


def test_returns_of_unlisted_assets_alone_cannot_train(rvrae: Command, tmp_path: Path) -> None:
    table = long_table()
    early = table["date"] < "2011-01"
    table.loc[early, ["size", "vol_12m", "mom_1m"]] = np.nan
    path = tmp_path / "late.parquet"
    table.to_parquet(path)
    split = f"{SMALL}[split]\ntrain = 8\nvalid = 4\ntest = 8\n"
    settings = write_settings(tmp_path / "split.toml", split)
    arguments = ("--excess", "--config", settings, "--out", tmp_path / "run")
    assert_refused(rvrae("fit", path, *arguments), "no asset has both characteristics and a return")
    assert not (tmp_path / "run").exists()


def test_other_characteristics_than_the_model(
    rvrae: Command, run_folder: Path, panel_file: Path, tmp_path: Path
) -> None:
    panel = rv.data.read_panel(panel_file)
    fewer = panel.isel(characteristic=slice(1, None))
    renamed = panel.assign_coords(characteristic=["c0", "c1", "c2", "other"])
    for name, other, match in (
        ("fewer", fewer, "must be the 4 of the fit; missing: 'c0'"),
        ("renamed", renamed, "missing: 'c3'; unknown to the model: 'other'"),
    ):
        path = tmp_path / f"{name}.nc"
        rv.data.write_panel(other, path)
        assert_refused(rvrae("forecast", run_folder, path, "--out", tmp_path / "f.csv"), match)
    assert not (tmp_path / "f.csv").exists()
    with pytest.raises(rv.PanelError, match="must be the 4 of the fit; missing: 'c0'"):
        rv.load(run_folder / "model").forecast(fewer)


def test_other_transform_context_and_frequency_than_the_fit(
    rvrae: Command, run_folder: Path, panel: xr.Dataset, tmp_path: Path
) -> None:
    raw = panel.assign(characteristics=2 * panel["characteristics"])
    raw.attrs["transform"] = "none"
    bare = panel.drop_dims("feature")
    weekly = panel.assign_coords(
        time=np.datetime64("2020-01-05", "ns") + 7 * np.arange(24) * np.timedelta64(1, "D")
    )
    weekly.attrs["frequency"] = "weekly"
    for name, other, match in (
        ("raw", raw, "`transform` must be 'rank', got 'none'"),
        ("bare", bare, "`context` with .*dispersion.* is missing"),
        ("weekly", weekly, "`frequency` must be 'monthly', got 'weekly'"),
    ):
        path = tmp_path / f"{name}.nc"
        rv.data.write_panel(other, path)
        assert_refused(rvrae("forecast", run_folder, path, "--out", tmp_path / "f.csv"), match)


def test_months_outside_the_panel(
    rvrae: Command, run_folder: Path, panel_file: Path, tmp_path: Path
) -> None:
    for times in ("1999-05", "1990-01:1991-01", "someday"):
        outcome = rvrae(
            "forecast", run_folder, panel_file, "--out", tmp_path / "f.csv", "--times", times
        )
        assert_refused(outcome, "`times` must name")
    assert content(tmp_path) == {}


def test_outputs_that_cannot_be_written(
    rvrae: Command, run_folder: Path, panel_file: Path, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    before = content(tmp_path)
    for out, match in (
        (file, "is a file"),
        (file / "run", "is a file"),
        (other, "something that is not a run"),
    ):
        assert_refused(rvrae("fit", panel_file, "--out", out), match)
        assert_refused(rvrae("demo", "--quick", "--out", out), match)
    for out, match in (
        (tmp_path / "missing" / "f.csv", "does not exist"),
        (tmp_path / "f.xlsx", r"unknown suffix '\.xlsx'"),
        (other, "unknown suffix"),
    ):
        assert_refused(rvrae("forecast", run_folder, panel_file, "--out", out), match)
        assert_refused(rvrae("simulate", "dynamic", "--out", out), match)
    own = tmp_path / ".." / tmp_path.name / "table.csv"
    own.write_text("date,asset,ret\n")
    assert_refused(rvrae("forecast", run_folder, own, "--out", tmp_path / "table.csv"), "itself")
    own.unlink()
    assert_refused(rvrae("fit", panel_file), "`--out` is missing")
    assert content(tmp_path) == before


def test_a_disk_that_refuses_leaves_nothing(
    rvrae: Command,
    run_folder: Path,
    panel_file: Path,
    settings_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", refuse)
    for out in ("f.csv", "f.parquet", "f.nc"):
        outcome = rvrae("forecast", run_folder, panel_file, "--out", tmp_path / out)
        assert_refused(outcome, "No space left on device")
    run = ("fit", panel_file, "--config", settings_file, "--out", tmp_path / "run")
    assert_refused(rvrae(*run), "No space left on device")
    assert list(tmp_path.rglob("*")) == []


SPOILED: dict[str, tuple[str, Callable[[bytes], bytes], str]] = {
    "no description": ("fit.json", lambda _: b"", "damaged"),
    "foreign": ("fit.json", lambda _: b'{"package": "other"}', "not written by this package"),
    "newer": (
        "fit.json",
        lambda old: json.dumps({**json.loads(old), "format": 99}).encode(),
        "layout 99",
    ),
    "incomplete": (
        "fit.json",
        lambda old: json.dumps(
            {k: v for k, v in json.loads(old).items() if k != "config"}
        ).encode(),
        "damaged",
    ),
    "weights cut": ("model.safetensors", lambda old: old[:-50], "damaged"),
    "history cut": ("training.nc", lambda old: old[: len(old) // 2], "damaged"),
    "preparation cut": ("preparation.json", lambda old: old[:40], "damaged"),
    "preparation foreign": ("preparation.json", lambda _: b'{"a": 1}', "damaged"),
}


@pytest.mark.parametrize("case", list(SPOILED))
def test_damaged_checkpoints(
    rvrae: Command, run_folder: Path, panel_file: Path, tmp_path: Path, case: str
) -> None:
    name, spoil, match = SPOILED[case]
    run = tmp_path / "run"
    shutil.copytree(run_folder, run)
    file = run / "model" / name
    file.write_bytes(spoil(file.read_bytes()))
    before = content(tmp_path)
    assert_refused(rvrae("forecast", run, panel_file, "--out", tmp_path / "f.csv"), match)
    assert content(tmp_path) == before
    if name in ("fit.json", "model.safetensors") and case != "incomplete":
        with pytest.raises(rv.CheckpointError):
            rv.load(run / "model")


def test_a_folder_that_is_no_run(rvrae: Command, panel_file: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "f.csv")
    assert_refused(rvrae("forecast", tmp_path / "none", panel_file, *out), "does not exist")
    assert_refused(rvrae("forecast", panel_file, panel_file, *out), "is a file")
    assert_refused(rvrae("forecast", tmp_path, panel_file, *out), "no fit in")
    with pytest.raises(rv.CheckpointError, match="no fit in"):
        rv.load(tmp_path)


def test_a_fit_without_its_preparation(
    rvrae: Command, run_folder: Path, panel_file: Path, tmp_path: Path
) -> None:
    shutil.copytree(run_folder / "model", tmp_path / "model")
    (tmp_path / "model" / "preparation.json").unlink()
    outcome = rvrae("forecast", tmp_path, panel_file, "--out", tmp_path / "f.csv")
    assert_refused(outcome, "preparation.json is missing")


SETTINGS = [
    ("[modle]\nn_factors = 2", r"no section 'modle' \(did you mean 'model'\?\)"),
    ("n_factors = 2", "no section 'n_factors'"),
    ("model = 3", r"'model' must be a section \[model\]"),
    (
        "[model]\nn_factor = 2",
        r"\[model\] has no setting 'n_factor' \(did you mean 'n_factors'\?\)",
    ),
    ("[model]\nn_factors = 0", "n_factors.*at least 1"),
    ("[model]\nn_factors = 'two'", "n_factors.*'two'"),
    ("[model]\nloadings = 'LSTM'", r"\[model.loadings\] with a `kind`"),
    ("[model.factor_prior]\nkind = 'AR2'", r"AR1.*did you mean 'AR1'\?"),
    ("[model.factor_prior]\nkind = 'AR1'\nphi = 0.5", "AR1 has no setting 'phi'"),
    ("[model.factor_prior]\nkind = 'CommonVolatility'", "needs the setting 'base'"),
    ("[model.loadings]\nhiden = 8", r"`kind` among .*LSTM"),
    ("[model.loadings]\nkind = 'LSTM'\nhiden = 8", r"'hiden' \(did you mean 'hidden'\?\)"),
    ("[model.loadings]\nkind = 'LSTM'\nhidden = -8", "cannot be built"),
    ("[fit]\nmax_step = 8", r"\[fit\] has no setting 'max_step' \(did you mean 'max_steps'\?\)"),
    ("[fit]\nmax_steps = 0", "`max_steps` must be a whole number of at least 1"),
    ("[fit]\nlearning_rate = 'fast'", "must be above 0; got 'fast'"),
    ("[fit]\noptimizer = 'Adamm'", "optimizer"),
    ("[fit]\ndevice = 'nowhere'", "device 'nowhere'"),
    ("[fit.kl_schedule]\nkind = 'Cosine'", "`kl_schedule` must have a `kind`"),
    ("[split]\ntrain = 10", r"\[split\] needs `train`, `valid` and `test`"),
    ("[split]\ntrain = 10\nvalid = 5\ntest = 50", "ask for 65 rows"),
    ("[split]\ntrian = 10", "did you mean 'train'"),
    ("[data]\nrank = 1", r"\[data\] `rank` must be true or false"),
    ("[model", "is not valid TOML"),
]


@pytest.mark.parametrize(("text", "match"), SETTINGS)
def test_bad_settings(
    rvrae: Command, panel_file: Path, tmp_path: Path, text: str, match: str
) -> None:
    settings = write_settings(tmp_path / "bad.toml", text)
    outcome = rvrae("fit", panel_file, "--config", settings, "--out", tmp_path / "run")
    assert_refused(outcome, match)
    assert list(content(tmp_path)) == ["bad.toml"]


def test_missing_settings(rvrae: Command, panel_file: Path, tmp_path: Path) -> None:
    missing = ("--config", tmp_path / "none.toml", "--out", tmp_path / "run")
    assert_refused(rvrae("fit", panel_file, *missing), "none.toml cannot be read")


def test_bad_numbers_on_the_command_line(
    rvrae: Command, run_folder: Path, panel_file: Path, tmp_path: Path
) -> None:
    out = ("--out", tmp_path / "f.csv")
    assert_refused(
        rvrae("forecast", run_folder, panel_file, *out, "--num-samples", 0), "num_samples"
    )
    assert_refused(
        rvrae("forecast", run_folder, panel_file, *out, "--num-samples", 10), "holds none of 10"
    )
    assert_refused(
        rvrae("simulate", "dinamic", "--out", tmp_path / "p.csv"), "did you mean 'dynamic'"
    )
    sizes = ("--n-assets", 1, "--out", tmp_path / "p.csv")
    assert_refused(rvrae("simulate", "dynamic", *sizes), "`n_assets`.*at least 2")
    sizes = ("--n-characteristics", 4, "--out", tmp_path / "p.csv")
    assert_refused(rvrae("simulate", "linear-gaussian", *sizes), "no `--n-characteristics`")
    assert content(tmp_path) == {}


def leak_the_next_return(table: Table) -> Table:
    return table.assign(signal=table.groupby("asset")["ret"].shift(-1))


def name_a_lead(table: Table) -> Table:
    return table.assign(ret_lead1=table["size"])


def write_a_code(table: Table) -> Table:
    return table.assign(ret=table["ret"].mask(table.index % 9 == 0, -0.9999))


SUSPICIOUS: list[tuple[Callable[[Table], Table], str]] = [
    (leak_the_next_return, "equal the return of the row after theirs: 'signal'"),
    (name_a_lead, "named like a later return or a target: 'ret_lead1'"),
    (write_a_code, r"'ret' repeats a value far from the others: -0\.9999"),
]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize(("spoil", "match"), SUSPICIOUS, ids=lambda v: getattr(v, "__name__", ""))
@pytest.mark.parametrize("written", [False, True], ids=["table", "panel"])
@pytest.mark.filterwarnings("always::rvrae_pyro.errors.RvraeWarning")
def test_check_warns_once_of_what_is_most_likely_wrong(
    rvrae: Command,
    tmp_path: Path,
    spoil: Callable[[Table], Table],
    match: str,
    suffix: str,
    written: bool,
) -> None:
    table = spoil(long_table(40, 10))
    path, options = tmp_path / f"odd{suffix}", ["--excess"]
    if written:  # a panel states its columns itself
        with pytest.warns(rv.RvraeWarning):
            panel = rv.data.from_frame(table, excess=True)
        rv.data.write_panel(panel, path)
        options = []
    else:
        table.to_csv(path, index=False) if suffix == ".csv" else table.to_parquet(path)
    outcome = rvrae("check", path, *options, "--json")
    assert outcome.code == 0
    assert len(re.findall(f"warning: .*{match}", outcome.err)) == 1
    assert any(re.search(match, text) for text in json.loads(outcome.out)["warnings"])


def test_check_of_a_table_in_order_is_silent(rvrae: Command, tmp_path: Path) -> None:
    path = tmp_path / "good.csv"
    long_table().to_csv(path, index=False)
    outcome = rvrae("check", path, "--excess", "--json")
    assert (outcome.code, outcome.err) == (0, "")
    assert json.loads(outcome.out)["warnings"] == []
