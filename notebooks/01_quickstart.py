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
# # What will my assets return next month, and how sure can I be?
#
# You have a table with one row per month and asset: a return, and numbers that were known before
# it. This notebook goes from the table to next month's predictive return and risk, and to a check
# of both on months that the model has not seen.

# %%
import os
import tempfile
from pathlib import Path

import arviz_stats as azs
import pandas as pd
from IPython.display import Markdown

import rvrae_pyro as rv

SEED = 0
SIZES = {"months": (216, 0, 36), "training": {"max_steps": 500}, "draws": 1000}
if os.environ.get("RVRAE_SMOKE") == "1":  # a trial run in seconds; its numbers mean little
    SIZES = {"months": (30, 0, 12), "training": {"max_steps": 8}, "draws": 200}

# %% [markdown]
# ## The table
#
# Thirty portfolios of US stocks stand in for your table. `date` is any day of the month, `asset` an
# id, `ret` the simple return in decimals (0.01 is 1 %). Every other numeric column is a
# *characteristic*, known **before** the month of the return in its row (pass `lag=1` to
# `from_frame` if yours is known only at the month's end). The last month, 2017-04, has
# characteristics and no return yet: the *live* month, which will be forecast.

# %%
frame = rv.data.to_frame(rv.data.load_french())
frame.iloc[[0, 1, -2, -1], :8]

# %% [markdown]
# `from_frame` makes a labelled `xarray.Dataset`, the *panel*, and checks it: everything that is
# wrong with a table comes in one error that names dates and assets. `rank_characteristics` replaces
# each characteristic by its rank among the month's assets, `split` cuts the months in time order.

# %%
panel = rv.data.from_frame(frame, risk_free="risk_free", excess=True)
panel = rv.data.rank_characteristics(panel)
train, _, test = rv.data.split(panel, *SIZES["months"])  # no months of validation
recent = panel.sel(time=slice(train.time[0], None))  # from the first training month to the live one
live = panel.time[-1]
parts = {"train": train, "test": test}
spans = {name: [str(t)[:7] for t in part.time.values[[0, -1]]] for name, part in parts.items()}
pd.DataFrame(spans, index=["first month", "last month"])

# %% [markdown]
# ## The model
#
# `for_panel` chooses the parts for this kind of panel and states why. Each part can be replaced by
# passing another: [notebook 02](02_swapping_priors.ipynb).

# %%
model = rv.RVRAE.for_panel(train)
model

# %% [markdown]
# ## Fit, and what can be trusted
#
# For a fixed universe like this one, the newest months teach more than a better time to stop would
# gain: all months before the test train. One filter pass over all months serves everything below.
# `check` states in words and figures what was found.

# %%
config = rv.FitConfig(**SIZES["training"])
fit = rv.fit(model, train, config=config, seed=SEED, progress=False)
filtered = fit.filter(recent, num_samples=SIZES["draws"], seed=SEED)
fit.check(filtered)

# %%
_ = rv.plots.training(fit)

# %% [markdown]
# *How to read it.* The bound on the log density of the training returns. It should rise and level
# off.

# %% [markdown]
# ## The answer: next month
#
# `forecast` draws each asset's return of the live month from data before it. `rv.risk.summarize`
# turns draws into mean, spread, value at risk (`var`) and expected shortfall (`es`), both as
# positive losses. The interval comes from ArviZ, which reads the same tree.

# %%
forecast = filtered.forecast(live)
risk = rv.risk.summarize(forecast, tail=0.05).isel(time=0)
interval = azs.hdi(forecast["predictions"]["returns"], prob=0.9).isel(time=0)
columns = {
    "portfolio": panel["name"].to_series(),
    "mean": risk["mean"].to_series(),
    "sd": risk["sd"].to_series(),
    "90 % from": interval.sel(ci_bound="lower").to_series(),
    "to": interval.sel(ci_bound="upper").to_series(),
    "VaR 5 %": risk["var"].sel(tail=0.05).to_series(),
    "ES 5 %": risk["es"].sel(tail=0.05).to_series(),
    "P(loss)": risk["prob_loss"].to_series(),
    "variance from factors": (risk["factor_var"] / risk["sd"] ** 2).to_series(),
}
table = pd.DataFrame(columns)
table.sort_values("sd").iloc[[0, 1, 2, -3, -2, -1]].round(3)

# %%
_ = rv.plots.forecast(forecast, panel)

# %%
spread, typical = table["mean"].max() - table["mean"].min(), table["sd"].median()
Markdown(
    f"**In words.** The predictive means of the {len(table)} portfolios lie within "
    f"{100 * spread:.1f} percentage points of each other; one month's return has a standard "
    f"deviation of {100 * typical:.1f} % (median). What can be forecast is mostly how large the "
    f"surprise will be, from {100 * table['sd'].min():.1f} % ({table['sd'].idxmin()}) to "
    f"{100 * table['sd'].max():.1f} % ({table['sd'].idxmax()}), and who shares it: the factors "
    f"carry {100 * table['variance from factors'].median():.0f} % of the variance."
)

# %% [markdown]
# ## The check: months the model has not seen
#
# Each test month is forecast from the months before it, with the weights of the training months.
# If 90 % intervals are right, 90 % of returns fall inside. Two simple models see the same months:
# an exponentially weighted covariance (EWMA) and a multivariate Student-t.

# %%
rivals = {"EWMA": rv.baselines.EWMA(), "Student-t": rv.baselines.MultivariateT()}
filters = {"RVRAE": filtered} | {
    name: rival.fit(train).filter(recent, SIZES["draws"], SEED) for name, rival in rivals.items()
}
records = {
    name: rv.experiments.risk_record(each, recent, test.time.values)
    for name, each in filters.items()
}
scores = rv.experiments.risk_table(records, reference="EWMA")
scores.round(3)

# %% [markdown]
# *How to read it.* `log_score` is the joint log density of a month's returns, in nats per return
# (higher is better), `less EWMA` its paired difference; `below_5` the share of returns below the
# 5 % VaR; `qlike` scores the variance of the equally weighted portfolio (lower is better).
# Standard errors are Newey-West over months, for assets of one month move together.

# %%
checked = filtered.forecast(test.time)
_ = rv.plots.calibration(checked, test)

# %%
_ = rv.plots.volatility({"RVRAE": filtered, "EWMA": filters["EWMA"]}, recent)

# %% [markdown]
# *How to read it.* First picture: a flat histogram and a line on the diagonal are right; the grey
# bands show what chance alone does to forecasts that are right. Second: predicted volatility of
# the equally weighted portfolio against the size of its returns in the months around; only those
# from 2014-04 on are months that the fit has not seen.

# %%
covered, error = scores.loc["RVRAE", "coverage"]
away = (covered - 0.9) / error
gain, gain_error = scores.loc["RVRAE", "less EWMA"]
Markdown(
    f"**In words.** The 90 % intervals covered {100 * covered:.1f} % of the returns of "
    f"{test.sizes['time']} unseen months, {abs(away):.1f} standard errors "
    f"{'above' if away > 0 else 'below'} 90 %: "
    + ("no sign that they are wrong." if abs(away) < 2 else "a sign that they are wrong.")
    + f" The joint log density is {abs(gain):.3f} nats per return "
    f"{'above' if gain > 0 else 'below'} that of the EWMA (s.e. {gain_error:.3f}): "
    + ("more than noise." if abs(gain) > 2 * gain_error else "these months cannot tell them apart.")
)

# %% [markdown]
# ## Keep it
#
# A fit is a folder of weights (safetensors), settings (JSON) and the record of the training. A
# loaded fit gives the same draws; with another month in the panel it forecasts the next one
# without a refit.

# %%
with tempfile.TemporaryDirectory() as folder:
    fit.save(Path(folder) / "model")
    loaded = rv.load(Path(folder) / "model")
last_year = panel.isel(time=slice(-13, None))
first, second = (each.forecast(last_year, times=live, seed=SEED) for each in (fit, loaded))
identical = first["predictions"]["returns"].identical(second["predictions"]["returns"])
identical

# %% [markdown]
# ## Limits
#
# - Network weights are one estimate: another seed gives another fit, and the spread between them
#   is not in the intervals above. Effects by asset have a posterior.
# - One split, with few test months: the standard errors are rough themselves. The
#   [risk log](../docs/development/risk_log.md) has refits over four decades.
# - Thirty diversified portfolios are easy. On single stocks expect wider intervals; survivorship
#   in your table goes straight into the forecasts.
#
# Next: [swap a prior and check it](02_swapping_priors.ipynb),
# [the risk of a portfolio](04_portfolio_risk.ipynb),
# [bring your own data](../docs/howto_own_data.md).

# %% [markdown]
# ## The claims of this notebook, asserted
#
# Intervals of unseen months are off by no more than five points beyond what noise explains; the
# live month has no returns to read; the saved fit forecasts as the first did.

# %%
assert abs(covered - 0.9) <= 0.05 + 3 * error, f"covered {covered:.3f} (s.e. {error:.3f})"
assert panel["returns"].sel(time=live).isnull().all()
assert table[["mean", "sd", "VaR 5 %", "ES 5 %"]].notna().all(axis=None)
assert identical
