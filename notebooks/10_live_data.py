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
# # New listings, missing months, the live month
#
# **Question.** In use, data are never a neat table: assets are listed and delisted, a month goes
# missing, another month arrives. What happens to forecasts then, and how much does it cost that
# the model has never seen an asset, or was fitted some months ago?
#
# Real returns, with holes that we make ourselves, so that we know what was lost.

# %%
import os
import tempfile
import warnings
from pathlib import Path

SEED = 0
SIZES = {
    "months": {"train": 180, "valid": 36, "test": 36},
    "n_factors": 5,
    "training": {"max_steps": 400, "window": 12},
    "draws": 1000,
}
if os.environ.get("RVRAE_SMOKE") == "1":  # seconds instead of minutes; the numbers mean little
    SIZES = {
        "months": {"train": 24, "valid": 6, "test": 12},
        "n_factors": 2,
        "training": {"max_steps": 8, "window": 12},
        "draws": 200,
    }

# %%
import arviz_stats as azs
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import rvrae_pyro as rv

warnings.filterwarnings("ignore", message="IProgress not found")  # of a bar that is not used

# %% [markdown]
# ## Data, and holes in them
#
# Thirty portfolios of US stocks to 2017-03, and 2017-04 as the live month. From this table we take
#
# - every row of one portfolio before the test months: it is *listed* only then, and training never
#   sees it;
# - every row of a second one from the middle of the test months on: *delisted*;
# - half a year of rows of a third one in training: *suspended*;
# - all returns of one test month: nothing is known of that month but the characteristics before it.

# %%
raw = rv.data.to_frame(rv.data.load_french())
complete = rv.data.from_frame(raw, risk_free="risk_free", excess=True)
n_test, names = SIZES["months"]["test"], complete["name"]
months, assets = complete["time"].values, complete["asset"].values
live, first_test = months[-1], months[-1 - n_test]
middle, closed = months[-1 - n_test // 2], months[-1 - n_test // 3]
newcomer, leaver, away = assets[[8, 17, 26]]

asset, date = raw["asset"], raw["date"]
unlisted = (
    ((asset == newcomer) & (date < first_test))
    | ((asset == leaver) & (date >= middle))
    | ((asset == away) & (date >= months[-1 - n_test - 18]) & (date < months[-1 - n_test - 12]))
)
table = raw[~unlisted].copy()
table.loc[table["date"] == closed, "ret"] = np.nan
len(raw), len(table)


# %% [markdown]
# Context and ranks are made from the whole history of whatever table there is, before it is cut.


# %%
def prepare(frame):
    panel = rv.data.from_frame(frame, risk_free="risk_free", excess=True)
    return rv.data.rank_characteristics(rv.data.market_context(panel))


panel = prepare(table)
train, valid, test = rv.data.split(panel, **SIZES["months"])
listed, observed = rv.data.listed(panel), panel["returns"].notnull()
shown = slice(-1 - n_test - 24, None)
state = (listed.astype(int) + (listed & observed)).isel(time=shown)
figure, axis = plt.subplots(figsize=(9, 5), layout="constrained")
image = axis.pcolormesh(
    state["time"], names.sel(asset=state["asset"]), state.T, cmap="Blues", vmin=0, vmax=2
)
bar = figure.colorbar(image, ticks=[0, 1, 2])
bar.ax.set_yticklabels(["not listed", "listed, no return", "listed, return seen"])
axis.set(xlabel="month", title="who takes part, and whose return trains")
axis.tick_params(axis="y", labelsize=7)
plt.show()

# %% [markdown]
# *How to read it.* Dark cells train. Medium ones, the closed month and the live one at the right
# edge, are forecast and teach nothing. White ones are not listed: no forecast, no training.

# %% [markdown]
# ## Two fits: with the holes, and without
#
# The second one has seen everything; it is the yardstick that one does not have in life.

# %%
config = rv.FitConfig(**SIZES["training"])


def build(panel):
    return rv.RVRAE(
        panel.sizes["characteristic"], SIZES["n_factors"], n_context=panel.sizes["feature"]
    )


fit = rv.fit(build(panel), train, valid, config=config, seed=SEED, progress=False)
whole = prepare(raw)
spared = rv.fit(
    build(whole),
    *rv.data.split(whole, **SIZES["months"])[:2],
    config=config,
    seed=SEED,
    progress=False,
)

# %%
fit.check()

# %% [markdown]
# ## An asset that training has never seen
#
# Loadings are a function of characteristics, so a new asset has loadings in its first month. Below,
# forecasts of the newcomer by the model that never saw it, and by the one that saw all of its
# past.

# %%
test_months = slice(test["time"][0], test["time"][-1])
recent = slice(train["time"][0], None)
draws = {}
for label, (one, data) in {"never seen": (fit, panel), "seen": (spared, whole)}.items():
    tree = one.forecast(
        data.sel(time=recent), num_samples=SIZES["draws"], seed=SEED, times=test_months
    )
    draws[label] = tree["predictions"]["returns"]
truth = whole["returns"].sel(time=test_months)

figure, axes = plt.subplots(2, 1, figsize=(9, 5), sharex=True, sharey=True, layout="constrained")
for axis, (label, drawn) in zip(axes, draws.items(), strict=True):
    mine = 100 * drawn.sel(asset=newcomer)
    low, high = azs.eti(mine, prob=0.9).transpose("ci_bound", "time").values
    axis.fill_between(mine["time"], low, high, alpha=0.3, label="90 % interval")
    axis.plot(mine["time"], mine.mean(("chain", "draw")), label="mean")
    axis.plot(truth["time"], 100 * truth.sel(asset=newcomer), "k.", label="realised")
    axis.set_ylabel(f"{label} in training,\nexcess return, %")
axes[0].legend(ncols=3, loc="upper left")
axes[1].set_xlabel("test month")
plt.show()

# %% [markdown]
# *How to read it.* The bands should look alike: what characteristics say about a portfolio's
# exposure is learned from the others. Dots in the upper panel are months whose returns the
# model had to forecast for an asset it knew by its characteristics alone.

# %%
scores = {}
for label, drawn in draws.items():
    one = drawn.sel(asset=[newcomer])
    actual = truth.sel(asset=[newcomer])
    covered = rv.evaluation.coverage(actual, one, prob=0.9, standard_error=True)
    distance = rv.evaluation.crps(actual, one, standard_error=True)
    scores[label] = {
        "90 % coverage, %": 100 * covered["estimate"].item(),
        "its s.e.": 100 * covered["standard_error"].item(),
        "CRPS, %": 100 * distance["estimate"].item(),
        "its s.e. ": 100 * distance["standard_error"].item(),
    }
pd.DataFrame(scores).T.round(2)

# %% [markdown]
# ## A month without returns
#
# In the closed month nothing is learned about the factors. What is believed afterwards should equal
# what was believed before, and the month should cost nothing in evidence.

# %%
around = panel.sel(time=slice(None, live)).isel(time=slice(-1 - n_test - 12, None))
spread = {
    kind: fit.factors(around, kind=kind, num_samples=4 * SIZES["draws"], seed=SEED)["sd"]
    for kind in ("predicted", "filtered")
}
window = slice(closed - np.timedelta64(200, "D"), closed + np.timedelta64(120, "D"))
figure, axis = plt.subplots(figsize=(9, 3.4), layout="constrained")
for kind, marker in (("predicted", "o--"), ("filtered", "s-")):
    mean_sd = spread[kind].mean("factor").sel(time=window)
    axis.plot(
        mean_sd["time"],
        mean_sd,
        marker,
        label=f"{kind}: returns up to "
        + ("the month before" if kind == "predicted" else "the month"),
    )
axis.axvline(closed, color="0.6", linestyle=":", label="month without returns")
axis.set(
    xlabel="month",
    ylabel="sd of a factor, mean over factors\n(its starting prior sd is 1)",
    ylim=(0, None),
)
axis.legend(fontsize=8)
plt.show()
evidence = fit.log_evidence(around, num_samples=SIZES["draws"], seed=SEED).sel(time=closed).item()

# %% [markdown]
# *How to read it.* Ordinary months pull the factors' uncertainty far down. In the closed month both
# lines meet: there was nothing to learn from. The month after, all is as usual.

# %% [markdown]
# ## Last month's model, this month
#
# Suppose it is early March 2017: the last row of the table is the live month 2017-03. We fit, save
# and forecast. A month later the return of March is known and April is live. The saved model
# forecasts it from the longer table, without a refit.

# %%
march, april = months[-2], live
before = table[table["date"] < april].copy()
before.loc[before["date"] == march, "ret"] = np.nan
then = prepare(before).sel(time=recent)
now = panel.sel(time=recent)

with tempfile.TemporaryDirectory() as folder:
    fit.save(Path(folder) / "model")
    loaded = rv.load(Path(folder) / "model")
old = fit.forecast(then, num_samples=SIZES["draws"], seed=SEED, times=march)
again = loaded.forecast(now, num_samples=SIZES["draws"], seed=SEED, times=march)
new = loaded.forecast(now, num_samples=SIZES["draws"], seed=SEED, times=april)
unchanged = old["predictions"]["returns"].identical(again["predictions"]["returns"])
unchanged

# %% [markdown]
# True: the forecast *of March* is the same, to the last bit, whether it is made with March's return
# still unknown or a month later. What March brought shows in the forecast of April only:

# %%
risk = {
    str(tree["predictions"]["time"].values[0])[:7]: rv.risk.summarize(tree, tail=0.05).isel(time=0)
    for tree in (old, new)
}
happened = 100 * panel["returns"].sel(time=march)
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
first, second = risk.values()
left.errorbar(
    100 * first["mean"], happened, xerr=100 * first["sd"], fmt="o", alpha=0.6, elinewidth=0.6
)
left.axhline(0, color="0.7", linewidth=0.8)
left.set(xlabel="forecast of 2017-03, mean and sd, %", ylabel="what happened in 2017-03, %")
right.scatter(100 * first["sd"], 100 * second["sd"])
limits = [
    100 * min(first["sd"].min(), second["sd"].min()).item(),
    100 * max(first["sd"].max(), second["sd"].max()).item(),
]
right.plot(limits, limits, color="0.6", linestyle=":")
right.set(xlabel="sd forecast for 2017-03, %", ylabel="sd forecast for 2017-04, %")
plt.show()

# %% [markdown]
# *How to read it.* Left: a month's returns against their forecasts; the bars are wide because one
# month is nearly all surprise. Right: each portfolio's predicted volatility in both months. Points
# below the line: March was calmer than expected, and the model has noticed.

# %% [markdown]
# ## Limits
#
# - The newcomer is a portfolio like the others. A stock of a kind that no training stock resembles
#   has characteristics outside of what the loadings were learned on, and nothing here warns of it.
# - A return that is missing *because* of what it would have been (a bankruptcy) is lost to any
#   model of returns. Put delisting returns into the table.
# - How long a fit may be used without a refit is a matter of evidence: follow `fit.log_evidence`
#   month by month. A refit starts from the old weights with `rv.fit(..., init=fit)`.
#
# See also [unbalanced panels](../docs/howto_unbalanced.md) and
# [information sets](../docs/information_set.md).

# %% [markdown]
# ## The claim of this notebook, asserted
#
# The newcomer is forecast in every test month, and scores within noise of what it would have scored
# had training seen it; a month without returns adds neither knowledge nor evidence; the delisted
# asset has no forecast; earlier forecasts do not move when a month arrives.

# %%
never, seen = scores["never seen"], scores["seen"]
assert draws["never seen"].sel(asset=newcomer).notnull().all()
noise = np.hypot(never["its s.e. "], seen["its s.e. "])
assert abs(never["CRPS, %"] - seen["CRPS, %"]) < 0.1 * seen["CRPS, %"] + 2 * noise, scores
assert np.allclose(
    spread["predicted"].sel(time=closed), spread["filtered"].sel(time=closed), rtol=0.1
)
assert abs(evidence) < 1e-6
assert draws["never seen"].sel(asset=leaver, time=slice(middle, None)).isnull().all()
assert unchanged
assert second["sd"].sel(asset=newcomer) > 0
