"""The Gu-Kelly-Xiu benchmark at a size that costs nothing."""

import numpy as np
import pytest

import rvrae_pyro as rv
from rvrae_pyro.experiments import benchmark_gkx
from rvrae_pyro.experiments.gkx import GKX_TABLE
from tests.experiments.helpers import Slope

SMALL = {"n_assets": 30, "n_characteristics": 4}


def test_ipca_beside_the_oracle_and_the_published(tmp_path):
    found = benchmark_gkx("linear", 2, 3, "IPCA", out=tmp_path, num_samples=200, sizes=SMALL)
    table = found.table.set_index(["model", "metric"])
    assert table.loc[("IPCA", "total_r2"), "published"] == 40.7
    assert table.loc[("IPCA", "predictive_r2_running"), "published"] == 3.33
    assert np.isnan(table.loc[("Oracle", "total_r2"), "published"])
    # with 4 characteristics, 3 of them true, IPCA is as good as the truth
    assert table.loc[("IPCA", "total_r2_ols"), "share"] == pytest.approx(1.0, abs=0.02)
    assert table.loc[("IPCA", "total_r2"), "estimate"] == pytest.approx(
        table.loc[("IPCA", "total_r2_ols"), "estimate"]
    )
    assert (table["n_reps"] == 2).all()
    each = found.results.query("model == 'Oracle' and metric == 'total_r2'")["estimate"]
    row = table.loc[("Oracle", "total_r2")]
    assert row["estimate"] == pytest.approx(100 * each.mean())
    assert row["standard_error"] == pytest.approx(100 * each.std(ddof=1) / 2**0.5)
    assert "[40.7]" in (tmp_path / "report.md").read_text()


def test_oracle_against_independent_arithmetic():
    found = benchmark_gkx("nonlinear", 1, 3, [Slope()], num_samples=200, sizes=SMALL)
    panel = rv.data.simulate_gkx("nonlinear", 30, 180, 4, 0)
    beta, returns = panel["true_beta"].values, panel["returns"].values
    factors = np.stack(
        [np.linalg.lstsq(b, r, rcond=None)[0] for b, r in zip(beta, returns, strict=True)]
    )
    means = np.cumsum(factors, 0) / np.arange(1, 181)[:, None]
    fitted = np.einsum("tnk,tk->tn", beta, factors)[120:]
    ahead = np.einsum("tnk,tk->tn", beta[1:], means[:-1])[119:]
    square = (returns[120:] ** 2).sum()
    oracle = found.results.query("model == 'Oracle'").set_index("metric")["estimate"]
    assert oracle["total_r2"] == pytest.approx(1 - ((returns[120:] - fitted) ** 2).sum() / square)
    assert oracle["predictive_r2"] == pytest.approx(
        1 - ((returns[120:] - ahead) ** 2).sum() / square
    )


def test_published_rows_cover_one_to_six_factors():
    for rows in GKX_TABLE.values():
        assert set(rows) == {"PCA", "IPCA", "CA0", "CA", "CA2", "CA3"}
        assert all(len(numbers) == 6 for both in rows.values() for numbers in both)


def test_misuse():
    with pytest.raises(rv.ConfigError, match="`case` must be 'linear' or 'nonlinear'"):
        benchmark_gkx("cubic")
    with pytest.raises(rv.ConfigError, match="`reps` must be a whole number"):
        benchmark_gkx(reps=0)
    with pytest.raises(rv.ConfigError, match="`seed` must be"):
        benchmark_gkx(seed=-1)


def test_an_ipca_of_ones_own_stays_as_it_is():
    mine = rv.baselines.IPCA(2, constant=True, alpha=True)
    options = {"num_samples": 200, "sizes": SMALL, "progress": False}
    unnamed = benchmark_gkx("linear", 1, 3, [mine], **options).table.set_index(["model", "metric"])
    named = benchmark_gkx("linear", 1, 3, {"mine": mine}, **options).table
    named = named.set_index(["model", "metric"])
    for metric in ("total_r2", "predictive_r2_running"):
        assert unnamed.loc[("IPCA", metric), "estimate"] == named.loc[("mine", metric), "estimate"]


def test_the_oracle_has_its_name_to_itself():
    with pytest.raises(rv.ConfigError, match="'Oracle' comes twice"):
        benchmark_gkx("linear", 1, 3, {"Oracle": rv.baselines.IPCA(2)}, sizes=SMALL)


@pytest.mark.parametrize("change", [{"num_samples": 0}, {"seed": -1}, {"seed": True}])
def test_counts_are_checked_before_anything_runs(change, tmp_path):
    with pytest.raises(rv.ConfigError, match=next(iter(change))):
        benchmark_gkx("linear", 1, 3, "IPCA", out=tmp_path / "out", sizes=SMALL, **change)
    assert not (tmp_path / "out").exists()
