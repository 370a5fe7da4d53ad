# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The risk of a portfolio
#
# **Question.** You hold a portfolio and answer for its risk. How much can it lose next month, which
# positions carry that risk, what happens to it if the market falls, and should you believe the
# answer?
#
# The steps are: data, fit, forecast, the risk of assets and where it comes from, a portfolio
# against its benchmark, contributions, a scenario, the portfolio of least variance, and a test of
# the risk forecasts on months that the model has not seen.

# %%
import os
import warnings

SEED = 0
SIZES = {
    "months": {"train": 180, "valid": 36, "test": 120},
    "n_factors": 5,
    "training": {"max_steps": 300, "window": 12, "learning_rate": 0.01},
    "draws": 2000,
}
if os.environ.get("RVRAE_SMOKE") == "1":  # seconds instead of minutes; the numbers mean little
    SIZES = {
        "months": {"train": 24, "valid": 6, "test": 12},
        "n_factors": 2,
        "training": {"max_steps": 8, "window": 12, "learning_rate": 0.04},
        "draws": 1000,
    }

# %%
import arviz_stats as azs
import numpy as np
import pandas as pd

import rvrae_pyro as rv

warnings.filterwarnings("ignore", message="IProgress not found")  # of a bar that is not used

# %% [markdown]
# ## Data and fit
#
# Thirty portfolios of US stocks, ranked characteristics, and the state of the market as context,
# as in [01](01_quickstart.ipynb), which explains each step.

# %%
raw = rv.data.load_french()
panel = rv.data.rank_characteristics(rv.data.market_context(raw))
train, valid, test = rv.data.split(panel, **SIZES["months"])
recent = panel.sel(time=slice(train.time[0], None))
live = panel.time[-1]

model = rv.RVRAE(
    panel.sizes["characteristic"], SIZES["n_factors"], n_context=panel.sizes["feature"]
)
config = rv.FitConfig(**SIZES["training"])
fit = rv.fit(model, train, valid, config=config, seed=SEED, progress=False)
fit.check()

# %% [markdown]
# ## Assets: how much risk, and of which kind
#
# The forecast is a cloud of draws. `rv.risk.summarize` turns it into standard deviation, value at
# risk and expected shortfall, and splits the variance: what moves with the factors cannot be
# diversified away, what is idiosyncratic can.

# %%
forecast = fit.forecast(recent, num_samples=SIZES["draws"], seed=SEED, times=live)
risk = rv.risk.summarize(forecast).isel(time=0)
_ = rv.plots.risk_split(forecast, panel)

# %% [markdown]
# *How to read it.* For diversified portfolios most of the variance comes from the factors: holding
# more of them does not help.

# %% [markdown]
# ## A portfolio against its benchmark
#
# Ours holds the five with the least risk; the benchmark holds all thirty equally. Weights are a
# pandas Series by asset: every asset is named, so that none is forgotten silently.

# %%
assets = panel.asset.to_index()
calm = risk["sd"].to_series().nsmallest(5).index
ours = pd.Series(0.0, assets)
ours[calm] = 0.2
benchmark = pd.Series(1 / len(assets), assets)

result = rv.risk.portfolio(forecast, ours, benchmark=benchmark)
rows = {"ours": result.to_dataset()} | {
    name: result[name].to_dataset() for name in ("benchmark", "active")
}
pd.DataFrame(
    {
        name: {
            "mean, %": 100 * each["mean"].item(),
            "sd, %": 100 * each["sd"].item(),
            "VaR 5 %, %": 100 * each["var"].sel(tail=0.05).item(),
            "ES 5 %, %": 100 * each["es"].sel(tail=0.05).item(),
            "ES 1 %, %": 100 * each["es"].sel(tail=0.01).item(),
            "P(loss)": each["prob_loss"].item(),
        }
        for name, each in rows.items()
    }
).T.round(2)

# %% [markdown]
# `active` is the difference of the two; its standard deviation is the tracking error. The draws of
# all three are variables of the tree, so ArviZ summarises and draws them like any other.

# %%
azs.summary(
    result,
    group="predictions",
    var_names=["portfolio_returns", "benchmark_returns", "active_returns"],
    kind="stats",
    round_to="none",
).round(4)

# %% [markdown]
# ## Which positions carry the risk
#
# Contributions say how much each position adds to the whole, and they sum to it: for the standard
# deviation, for VaR and for ES alike.

# %%
parts = result.to_dataset().isel(time=0).sel(tail=0.05)
carried = pd.DataFrame(
    {
        "weight": parts["weights"].to_series(),
        "part of sd": (parts["component_sd"] / parts["sd"]).to_series(),
        "part of VaR": (parts["component_var"] / parts["var"]).to_series(),
        "part of ES": (parts["component_es"] / parts["es"]).to_series(),
    }
)
carried[carried["weight"] > 0].round(3)

# %% [markdown]
# ## What if the market falls 10 %?
#
# `rv.risk.scenario` conditions the forecast on the benchmark's return; every draw is moved by what
# its own surprise implies, and the answer is again a forecast.

# %%
fallen = rv.risk.scenario(forecast, weights=benchmark, value=-0.10)
after = rv.risk.portfolio(fallen, ours, benchmark=benchmark)
before, given = (100 * each["predictions"]["portfolio_returns"] for each in (result, after))
_ = rv.plots.forecast(fallen, panel)
distance = fallen["scenario"]["distance"].item()
print(
    f"Such a fall is {distance:.1f} standard deviations away. Our portfolio then returns "
    f"{given.mean().item():.1f} % on average, give or take {given.std().item():.1f} %."
)

# %% [markdown]
# ## Least variance
#
# The covariance is kept as loadings, factor covariance and diagonal, so that solving with thousands
# of assets takes milliseconds. Here it finds the fully invested portfolio of least variance.

# %%
covariance = rv.risk.covariance(fit, recent, times=live, num_samples=SIZES["draws"], seed=SEED)
least = covariance.minimum_variance()
least_risk = rv.risk.portfolio(forecast, least)
pd.Series(
    {
        "least variance": 100 * least_risk["sd"].item(),
        "ours": 100 * rows["ours"]["sd"].item(),
        "benchmark": 100 * rows["benchmark"]["sd"].item(),
    },
    name="sd, %",
).round(2)

# %% [markdown]
# ## Should you believe it?
#
# Every test month is forecast from the months before it. If VaR at 5 % is honest, one month in
# twenty loses more. `rv.risk.backtest` tests that, and says when there are too few months to tell.

# %%
past = fit.forecast(
    recent, num_samples=SIZES["draws"], seed=SEED, times=slice(test.time[0], test.time[-1])
)
tested = rv.risk.backtest(past, test, {"ours": ours, "benchmark": benchmark}, seed=SEED)
print(tested.attrs["conclusion"].replace(". ", ".\n"))

# %%
_ = rv.plots.var_backtest(tested, portfolio="ours")

# %%
_ = rv.plots.calibration(tested)

# %% [markdown]
# *How to read it.* First picture: about one return in twenty should lie below the line, and not
# several in a row. Second: flat is right; a hump in the middle means that intervals are too wide.
# The band comes from resampling blocks of months, for the assets of a month are not separate
# evidence.
#
# At full size the answer is **no**: of the ten years to 2017 about one month in ten, not one in
# twenty, lost more than its VaR, half of them in 2008 and early 2009. One fit that ended before
# the crisis had seen nothing like it. Believe such numbers for months like those of the training;
# refit every year (`rv.experiments.walk_forward`), and keep this test beside every risk figure.

# %% [markdown]
# ## Limits
#
# - The weights of the model are one estimate; what is unknown about them is not in these numbers.
# - Contributions to VaR and ES rest on the draws in the tail; ask for more draws where they matter.
# - A scenario says what tends to happen together, not what causes what.
# - Thirty diversified portfolios are easy; single stocks have far more idiosyncratic risk.
#
# Next: [risk in full](../docs/risk.md), [hand the draws to an optimiser](../docs/howto_skfolio.md).

# %% [markdown]
# ## The claim of this notebook, asserted
#
# Risk is split without remainder, contributions sum to the whole, the scenario is met in every
# draw, and the benchmark has more variance than the portfolio of least variance.

# %%
split = risk["factor_var"] + risk["idio_var"] + risk["parameter_var"]
assert np.allclose(split, risk["sd"] ** 2)
assert np.allclose(carried.sum(), 1.0)
assert np.allclose(after["predictions"]["benchmark_returns"], -0.10, atol=1e-6)
equal = benchmark.rename_axis("asset").to_xarray()
lowest, other = ((w * covariance.dot(w)).sum("asset").item() for w in (least, equal))
assert lowest <= other
assert 0 <= tested["pooled"]["rate"].sel(tail=0.05).item() <= 0.3
