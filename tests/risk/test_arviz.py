"""ArviZ summarises and draws what this layer makes, with matplotlib and with plotly."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from rvrae_pyro.risk import portfolio, scenario
from tests.risk.helpers import equal_weights, make_forecast

NAMES = ["portfolio_returns", "benchmark_returns", "active_returns"]


@pytest.fixture(scope="module")
def azp():
    pytest.importorskip("arviz_plots", exc_type=ImportError)
    import arviz_plots

    return arviz_plots


@pytest.fixture(scope="module")
def result():
    tree, _ = make_forecast(draws=1000, n_times=2)
    weights = equal_weights(tree)
    first = xr.zeros_like(weights)
    first[:, 0] = 1.0
    return portfolio(tree, first, benchmark=weights)


@pytest.mark.parametrize(
    ("name", "backend"),
    [
        ("plot_forest", "matplotlib"),
        ("plot_dist", "matplotlib"),
        ("plot_ridge", "matplotlib"),
        ("plot_forest", "plotly"),
        ("plot_dist", "plotly"),
    ],
)
def test_portfolio_draws_are_pictured(azp, result, name: str, backend: str, tmp_path: Path) -> None:
    if backend == "plotly" and not (find_spec("plotly") and find_spec("webcolors")):
        pytest.skip("the extra `notebooks` is not installed")
    picture = getattr(azp, name)(result, group="predictions", var_names=NAMES, backend=backend)
    file = tmp_path / ("picture.html" if backend == "plotly" else "picture.png")
    picture.savefig(file)
    assert file.stat().st_size > 5000
    if backend == "matplotlib":
        import matplotlib.pyplot as plt

        plt.close("all")


def test_summary_knows_the_draws(result) -> None:
    import arviz_stats as azs

    table = azs.summary(
        result, group="predictions", var_names=NAMES, kind="stats", round_to="none"
    ).astype(float)
    drawn = result["predictions"].to_dataset()
    for name in NAMES:
        rows = table[table.index.str.startswith(name)]
        np.testing.assert_allclose(rows["mean"], drawn[name].mean(("chain", "draw")), rtol=1e-6)
    interval = azs.eti(drawn[NAMES], prob=0.9)
    low = interval["portfolio_returns"].sel(ci_bound="lower")
    values = -result["var"].sel(tail=0.05).values
    # ArviZ interpolates between draws, VaR is one of them
    np.testing.assert_allclose(low, values, rtol=0.02)


def test_a_scenario_is_pictured_like_a_forecast(azp, tmp_path: Path) -> None:
    import matplotlib.pyplot as plt

    tree, _ = make_forecast(draws=400, n_times=1)
    fallen = scenario(tree, factors={1: -2.0})
    azp.plot_forest(
        fallen, group="predictions", var_names="returns", combined=True, backend="matplotlib"
    ).savefig(tmp_path / "fallen.png")
    plt.close("all")
    assert (tmp_path / "fallen.png").stat().st_size > 5000


def test_pit_of_one_step_forecasts(azp, tmp_path: Path) -> None:
    """Cells that were observed, flattened to ``obs``, are what ArviZ's PIT takes."""
    import arviz_base as azb
    import matplotlib.pyplot as plt

    tree, _ = make_forecast(draws=400, n_times=12)
    draws = tree["predictions"].to_dataset()["returns"]
    truth = draws.isel(chain=0, draw=0, drop=True)
    rest = draws.isel(draw=slice(1, None)).stack(obs=("time", "asset"), create_index=False)
    flat = azb.from_dict(
        {
            "posterior_predictive": {"returns": rest.transpose("chain", "draw", "obs").values},
            "observed_data": {"returns": truth.stack(obs=("time", "asset")).values},
        },
        dims={"returns": ["obs"]},
    )
    azp.plot_ppc_pit(flat, backend="matplotlib").savefig(tmp_path / "pit.png")
    plt.close("all")
    assert (tmp_path / "pit.png").stat().st_size > 5000
