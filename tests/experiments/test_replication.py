"""The paper's setting: its months, its models, its tables beside the printed figures."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import rvrae_pyro as rv
from rvrae_pyro.experiments.competitors import PAPER_NAME
from rvrae_pyro.experiments.result_tables import PAPER_TABLE
from tests.helpers import random_panel


def months(first: str, n_times: int, frequency: str = "monthly") -> xr.Dataset:
    """Panel of two assets with a return in every month."""
    times = pd.period_range(first, periods=n_times, freq="M").to_timestamp("M").normalize()
    if frequency == "weekly":
        times = pd.date_range(first, periods=n_times, freq="W-FRI")
    cells = (n_times, 2)
    panel = xr.Dataset(
        {
            "returns": (("time", "asset"), np.full(cells, 0.01)),
            "characteristics": (("time", "asset", "characteristic"), np.zeros((*cells, 1))),
        },
        {"time": times.as_unit("ns"), "asset": ["a", "b"], "characteristic": ["c"]},
    )
    panel.attrs = {**random_panel(2, 2).attrs, "frequency": frequency}
    return panel


def spans(panel: xr.Dataset) -> list[tuple[str, str, int]]:
    parts = rv.data.split(panel, *rv.experiments.paper_split(panel))
    return [(str(p.time.values[0])[:7], str(p.time.values[-1])[:7], p.sizes["time"]) for p in parts]


def test_the_papers_own_months_are_taken_where_they_are_there() -> None:
    assert spans(months("1995-03", 400)) == [
        ("2000-01", "2014-12", 180),
        ("2015-01", "2017-12", 36),
        ("2018-01", "2020-12", 36),
    ]


def test_other_panels_end_with_21_years_or_are_cut_in_shares() -> None:
    assert spans(months("1970-01", 300))[0] == ("1974-01", "1988-12", 180)
    assert [n for _, _, n in spans(months("2005-01", 70))] == [50, 10, 10]
    weekly = rv.data.split(
        w := months("1990-01-05", 1200, "weekly"), *rv.experiments.paper_split(w)
    )
    assert [part.sizes["time"] for part in weekly] == [780, 156, 156]


def test_omitted_assets_are_the_papers_or_shares_of_what_there_is() -> None:
    panel = random_panel(20, 14)
    parts = rv.data.split(panel, 14, 3, 3)
    both = [
        set(p.asset.values[p["returns"].notnull().any("time").values])
        for p in (parts.train, parts.test)
    ]
    n_assets = len(both[0] & both[1])
    counts = rv.experiments.paper_omit(parts)
    assert counts == tuple(n for n in (n_assets // 6, n_assets // 3, n_assets // 2) if n >= 3)
    wide = random_panel(8, 300)
    wide["returns"][:] = 0.01
    parts = rv.data.split(wide, 4, 2, 2)
    assert rv.experiments.paper_omit(parts) == (50, 100, 150)


def test_46_characteristics_in_six_groups() -> None:
    chosen = rv.data.PAPER_CHARACTERISTICS
    assert len(chosen) == len(set(chosen)) == 46
    assert list(rv.data.PAPER_GROUPS) == [
        "past returns",
        "investment",
        "profitability",
        "intangibles",
        "value",
        "trading frictions",
    ]
    # the 94 names of the published file
    published = (  # noqa: SIM905  (as the file's page lists them)
        "absacc acc aeavol age agr baspread beta betasq bm bm_ia cash cashdebt cashpr cfp cfp_ia "
        "chatoia chcsho chempia chinv chmom chpmia chtx cinvest convind currat depr divi divo "
        "dolvol dy ear egr ep gma grcapx grltnoa herf hire idiovol ill indmom invest lev lgr "
        "maxret mom12m mom1m mom36m mom6m ms mvel1 mve_ia nincr operprof orgcap pchcapx_ia "
        "pchcurrat pchdepr pchgm_pchsale pchquick pchsale_pchinvt pchsale_pchrect "
        "pchsale_pchxsga pchsaleinv pctacc pricedelay ps quick rd rd_mve rd_sale realestate "
        "retvol roaq roavol roeq roic rsup salecash saleinv salerec secured securedind sgr sin "
        "sp std_dolvol std_turn stdacc stdcf tang tb turn zerotrade"
    ).split()
    assert len(published) == 94
    assert set(chosen) <= set(published)


def test_tables_have_the_six_models_beside_the_printed_figures(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    """All models are asked for, with the paper's names; here one that is quick stands for each."""
    panel = rv.data.rank_characteristics(random_panel(20, 14, seed=2))
    asked: list[str] = []

    def quick(panel: xr.Dataset, models: object, **settings: object) -> object:
        asked.extend(models)  # type: ignore[call-overload]
        entrants = {name: rv.baselines.IPCA(1) for name in models}  # type: ignore[attr-defined]
        return rv.experiments.compare(panel, entrants, **settings)

    monkeypatch.setattr("rvrae_pyro.experiments.replication.compare", quick)
    result = rv.experiments.paper(
        panel, split=(12, 4, 4), seeds=2, omit=(4,), num_samples=200, progress=False, out=tmp_path
    )
    assert asked == list(rv.experiments.PAPER_MODELS)
    assert set(asked) == set(PAPER_TABLE)
    assert set(asked) <= set(rv.experiments.COMPETITORS)
    shown = {number: table for number, _, table in result.readable(published=True)}
    assert list(shown) == ["1", "2", "3"]
    total = shown["1"].set_index("Model")["Total R2, own factors, % [printed]"]
    assert total[PAPER_NAME] == "20.06"
    numbers = result.tables["1"]
    assert np.isfinite(numbers["standard_error"]).any()
    assert set(numbers["n_seeds"]) == {2}
    assert "Rank IC [printed]" in shown["3"].columns


def test_table_3_shows_what_was_printed_for_the_same_number_of_assets() -> None:
    from rvrae_pyro.experiments.result_tables import wide

    rows = pd.DataFrame(
        {
            "model": [PAPER_NAME, PAPER_NAME, "IPCA"],
            "omitted": [50, 40, 50],
            "metric": "rank_ic",
            "estimate": 0.01,
            "standard_error": 0.02,
        }
    )
    assert wide(rows, "3")["Rank IC [printed]"].tolist() == ["0.055", "", ""]
    assert "Rank IC [printed]" not in wide(rows, "3", published=False)
