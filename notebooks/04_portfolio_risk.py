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
# # How much can this portfolio lose next month, and should I believe the answer?
#
# You hold a portfolio and answer for its risk. This notebook measures it: value at risk, expected
# shortfall, the positions that carry them, a scenario. Then it tests the same numbers on ten years
# of months that the model has not seen, 2008 among them, next to two simple risk models.

# %%
import os

import numpy as np
import pandas as pd
from IPython.display import Markdown

import rvrae_pyro as rv

SEED = 0
SIZES = {"months": (216, 0, 120), "training": {"max_steps": 500}, "draws": 1000}
if os.environ.get("RVRAE_SMOKE") == "1":  # a trial run in seconds; its numbers mean little
    SIZES = {"months": (30, 0, 24), "training": {"max_steps": 8}, "draws": 1000}

# %% [markdown]
# ## A portfolio and its benchmark
#
# Weights are a pandas Series by asset: every asset is named, so that none is forgotten silently.
# Ours holds utilities, food and health; the benchmark holds all thirty portfolios equally.

# %%
panel = rv.data.rank_characteristics(rv.data.load_french())
train, _, test = rv.data.split(panel, *SIZES["months"])
recent = panel.sel(time=slice(train.time[0], None))
live, assets = panel.time[-1], panel.asset.to_index()
ours = pd.Series(0.0, assets)
ours[["Utils", "NoDur", "Hlth"]] = [0.5, 0.3, 0.2]
benchmark = pd.Series(1 / len(assets), assets)
books = {"ours": ours, "benchmark": benchmark}
ours[ours > 0].rename("weight").to_frame()

# %% [markdown]
# ## Next month
#
# The forecast is a cloud of joint draws of all returns. `active` is ours less the benchmark; its
# standard deviation is the tracking error.

# %%
fit = rv.fit(
    rv.RVRAE.for_panel(train),
    train,
    config=rv.FitConfig(**SIZES["training"]),
    seed=SEED,
    progress=False,
)
filtered = fit.filter(recent, SIZES["draws"], SEED)
forecast = filtered.forecast(live)
result = rv.risk.portfolio(forecast, ours, benchmark=benchmark)
rows = {"ours": result, "benchmark": result["benchmark"], "active": result["active"]}
risk = pd.DataFrame(
    {
        name: {
            "mean, %": 100 * each["mean"].item(),
            "sd, %": 100 * each["sd"].item(),
            "VaR 5 %, %": 100 * each["var"].sel(tail=0.05).item(),
            "ES 5 %, %": 100 * each["es"].sel(tail=0.05).item(),
            "P(loss), %": 100 * each["prob_loss"].item(),
        }
        for name, each in rows.items()
    }
).T
risk.round(2)

# %%
var, es = risk.loc["ours", ["VaR 5 %, %", "ES 5 %, %"]]
Markdown(
    f"**In words.** In one month of twenty our portfolio is expected to lose more than {var:.1f} % "
    f"of its value, and then {es:.1f} % on average; the benchmark more than "
    f"{risk.loc['benchmark', 'VaR 5 %, %']:.1f} %."
)

# %% [markdown]
# ## Where the risk comes from
#
# By position: contributions sum to the whole, for the standard deviation, VaR and ES alike. By
# kind: what moves with the factors cannot be diversified away, what is idiosyncratic can.

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

# %%
_ = rv.plots.risk_split(forecast, panel)

# %% [markdown]
# ## What if the market falls 10 %?
#
# `rv.risk.scenario` conditions the forecast on the benchmark's return; every draw is moved by what
# its own surprise implies, and the answer is again a forecast.

# %%
fallen = rv.risk.scenario(forecast, weights=benchmark, value=-0.10)
after = rv.risk.portfolio(fallen, ours, benchmark=benchmark)
given = 100 * after["predictions"]["portfolio_returns"]
Markdown(
    f"Such a fall is {fallen['scenario']['distance'].item():.1f} standard deviations away. Our "
    f"portfolio then returns {given.mean().item():.1f} % on average, with a standard deviation of "
    f"{given.std().item():.1f} %."
)

# %% [markdown]
# ## Should you believe it? Unseen months
#
# Each of the test months is forecast from the months before it, by a fit that ended before them.
# The first picture is the test that anybody can read: did predicted volatility rise when the market
# moved?

# %%
rivals = {"EWMA": rv.baselines.EWMA(), "Student-t": rv.baselines.MultivariateT()}
filters = {"RVRAE": filtered} | {
    name: rival.fit(train).filter(recent, SIZES["draws"], SEED) for name, rival in rivals.items()
}
tested = recent.sel(time=test.time)
_ = rv.plots.volatility(filters, tested)

# %%
past = {name: each.forecast(test.time) for name, each in filters.items()}
tests = {name: rv.risk.backtest(tree, test, books, seed=SEED) for name, tree in past.items()}
_ = rv.plots.var_backtest(tests["RVRAE"], portfolio="ours")

# %% [markdown]
# *How to read it.* About one return in twenty should lie below the 5 % VaR, and not several in a
# row.

# %% [markdown]
# ### Does the VaR pass?
#
# Shares of months that lost more than VaR, with the p-value of Kupiec's exact test of their number
# and the verdict of three tests, adjusted for being several (Holm).

# %%
verdicts = {}
for name, tree in tests.items():
    for book in books:
        one = tree["portfolio"].sel(portfolio=book)
        for tail in (0.05, 0.01):
            row = one.sel(tail=tail)
            verdicts[name, book, f"{tail:.0%}"] = {
                "months": int(row["n_months"]),
                "share below VaR, %": 100 * float(row["rate"]),
                "p (Kupiec)": float(row["kupiec_p_exact"]),
                "verdict": row["verdict"].item(),
            }
verdicts = pd.DataFrame.from_dict(verdicts, orient="index").sort_index()
verdicts.rename_axis(["model", "portfolio", "tail"]).round(3)

# %% [markdown]
# The backtest's own summary of the model, all assets and portfolios together:

# %%
said = tests["RVRAE"].attrs["conclusion"]
Markdown("- " + said.replace(". Portfolio", ".\n- Portfolio").replace(". VaR", ".\n- VaR"))

# %% [markdown]
# ### Next to simple models
#
# The joint log density of a month's 30 returns sees volatility, tails and co-movement at once.

# %%
months = test.time.values
records = {name: rv.experiments.risk_record(each, recent, months) for name, each in filters.items()}
measures = ["log_score", "coverage", "below_5", "qlike", "least_variance_sd"]
table = rv.experiments.risk_table(records, reference="EWMA", measures=measures)
table.round(3)

# %%
scores = {name: each.log_evidence() for name, each in filters.items()}
compared = rv.evaluation.compare(scores, recent, times=test.time)
_ = rv.plots.comparison(compared, kind="cumulative", reference="EWMA")

# %% [markdown]
# ### The answer

# %%
gain, error = table.loc["RVRAE", "less EWMA"]
rate, rate_error = table.loc["RVRAE", "below_5"]
mine = verdicts.loc[("RVRAE", "ours")]
judged = ", ".join(f"at {tail}: {text}" for tail, text in mine["verdict"].items())
Markdown(
    f"Over {len(months)} unseen months, {str(months[0])[:7]} to {str(months[-1])[:7]}, without a "
    f"refit: {100 * rate:.1f} % of all returns (s.e. {100 * rate_error:.1f}) fell below the 5 % "
    f"VaR. The VaR of our portfolio, {judged}. The joint log density is {abs(gain):.3f} nats per "
    f"return {'above' if gain > 0 else 'below'} that of the EWMA (s.e. {error:.3f}): "
    + ("more than noise." if abs(gain) > 2 * error else "a difference that noise could explain.")
    + " The best of the three on these months is "
    + f"{table['log_score', 'estimate'].idxmax()}."
)

# %% [markdown]
# ## Limits
#
# - One fit serves ten years. In use, refit every year (`rv.experiments.walk_forward`); the
#   [risk log](../docs/development/risk_log.md) has such refits over four decades.
# - Contributions to VaR and ES rest on the draws in the tail; ask for more draws where they matter.
# - A scenario says what tends to happen together, not what causes what.
# - Thirty diversified portfolios are easy; single stocks have far more idiosyncratic risk.
#
# Next: [risk in full](../docs/risk.md), [hand the draws to an optimiser](../docs/howto_skfolio.md).

# %% [markdown]
# ## The claims of this notebook, asserted
#
# Risk is split without remainder, contributions sum to the whole, the scenario is met in every
# draw, and the shares below VaR are of the size that they claim.

# %%
single = rv.risk.summarize(forecast).isel(time=0)
split = single["factor_var"] + single["idio_var"] + single["parameter_var"]
assert np.allclose(split, single["sd"] ** 2)
assert np.allclose(carried.sum(), 1.0)
assert np.allclose(after["predictions"]["benchmark_returns"], -0.10, atol=1e-6)
assert abs(rate - 0.05) < 0.05 + 3 * rate_error, (rate, rate_error)
