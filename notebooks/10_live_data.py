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
# # What happens when assets come and go, a month is missing, another arrives?
#
# In use, data are never a neat table: assets are listed and delisted, a month goes missing, another
# month arrives. What happens to forecasts then, and how much does it cost that the model has never
# seen an asset, or was fitted some months ago? Real returns, with holes that we make ourselves, so
# that we know what was lost.

# %%
import os
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from IPython.display import Markdown

import rvrae_pyro as rv

SEED = 0
SIZES = {"months": (144, 0, 24), "training": {"max_steps": 400}, "draws": 400}
if os.environ.get("RVRAE_SMOKE") == "1":  # a trial run in seconds; its numbers mean little
    SIZES = {"months": (30, 0, 12), "training": {"max_steps": 8}, "draws": 200}

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
n_test, names = SIZES["months"][2], complete["name"]
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
pd.Series({"rows": len(raw), "after taking some away": len(table)}).to_frame("count")


# %% [markdown]
# Ranks are made within each month, of the rows that the table has.


# %%
def prepare(frame):
    panel = rv.data.from_frame(frame, risk_free="risk_free", excess=True)
    return rv.data.rank_characteristics(panel)


panel = prepare(table)
train, _, test = rv.data.split(panel, *SIZES["months"])
listed, observed = rv.data.listed(panel), panel["returns"].notnull()
shown = slice(-1 - n_test - 24, None)
state = (listed.astype(int) + (listed & observed)).isel(time=shown)
options = {"levels": [-0.5, 0.5, 1.5, 2.5], "cmap": "Blues", "figsize": (9, 6.5)}
state = state.assign_coords(asset=names.sel(asset=state["asset"]).values).drop_attrs()
_ = state.rename("0 not listed, 1 listed, no return, 2 return seen").plot(x="time", **options)

# %% [markdown]
# *How to read it.* Dark cells train. Medium ones, the closed month and the live one at the right
# edge, are forecast and teach nothing. White ones are not listed: no forecast, no training.

# %% [markdown]
# ## Two fits: with the holes, and without
#
# The second one has seen everything; it is the yardstick that one does not have in life.

# %%
# so few steps have no time for a KL weight that rises
config = rv.FitConfig(kl_schedule=rv.schedules.Constant(), **SIZES["training"])
whole = prepare(raw)
recent = slice(train["time"][0], None)
fits, filtered = {}, {}
for label, data in {"never seen": panel, "seen": whole}.items():
    first, _, _ = rv.data.split(data, *SIZES["months"])
    model = rv.RVRAE.for_panel(first)
    fits[label] = rv.fit(model, first, config=config, seed=SEED, progress=False)
    filtered[label] = fits[label].filter(data.sel(time=recent), SIZES["draws"], SEED)
fit = fits["never seen"]
fit.check()

# %% [markdown]
# ## An asset that training has never seen
#
# Loadings are a function of characteristics plus an effect of the asset's own, which of a new asset
# is drawn from its prior. So a new asset has loadings in its first month. Below, forecasts of the
# newcomer by the model that never saw it, and by the one that saw all of its past.

# %%
test_months = slice(test["time"][0], test["time"][-1])
truth = whole["returns"].sel(time=test_months)
trees = {label: each.forecast(test_months) for label, each in filtered.items()}
draws = {label: tree["predictions"]["returns"] for label, tree in trees.items()}
book = {newcomer: pd.Series(panel["asset"].values == newcomer, panel["asset"].values, float)}
for label, tree in trees.items():
    rv.plots.var_backtest(tree, truth, portfolios=book).set_xlabel(f"month; {label} in training")

# %% [markdown]
# *How to read it.* The first picture's line lies lower: what is particular to the newcomer is not
# known, so it is drawn with the spread that the effects of the other assets have, and the risk of
# not knowing it is part of the forecast. Dots are months whose returns the model had to forecast
# for an asset it knew by its characteristics alone.

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
# In the closed month nothing is learned about the factors. The filtered state should equal the
# predicted one, and the month should cost nothing in evidence.

# %%
around = filtered["never seen"]
spread = {kind: around.factors(kind)["sd"] for kind in ("predicted", "filtered")}
window = slice(closed - np.timedelta64(200, "D"), closed + np.timedelta64(120, "D"))
sds = {kind: one.mean("factor").sel(time=window).to_series() for kind, one in spread.items()}
axis = pd.DataFrame(sds).plot(marker="o", figsize=(8, 3.2), xlabel="month", ylim=(0, None))
_ = axis.set_ylabel("sd of a factor,\nmean over factors")
evidence = around.log_evidence().sel(time=closed).item()

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
late = slice(months[-26], None)  # two years lead to the state of the end of February
then, now = prepare(before).sel(time=late), panel.sel(time=late)

with tempfile.TemporaryDirectory() as folder:
    fit.save(Path(folder) / "model")
    loaded = rv.load(Path(folder) / "model")
old = fit.filter(then, SIZES["draws"], SEED).forecast(march)
later = loaded.filter(now, SIZES["draws"], SEED)
again, new = later.forecast(march), later.forecast(april)
unchanged = old["predictions"]["returns"].identical(again["predictions"]["returns"])
unchanged

# %% [markdown]
# Whether the forecast *of March* is the same, to the last bit, when it is made with March's return
# still unknown and a month later. What March brought shows in the forecast of April only:

# %%
risk = {
    str(tree["predictions"]["time"].values[0])[:7]: rv.risk.summarize(tree, tail=0.05).isel(time=0)
    for tree in (old, new)
}
_ = rv.plots.forecast(old, panel)

# %%
sds = pd.DataFrame({month: 100 * one["sd"].to_series() for month, one in risk.items()})
axis = sds.plot.scatter(*sds.columns, xlabel="sd forecast for 2017-03, %", figsize=(4.5, 3.6))
axis.axline((sds.min().min(), sds.min().min()), slope=1, color="0.6", linestyle=":")
_ = axis.set_ylabel("sd forecast for 2017-04, %")

# %%
change = sds.iloc[:, 1].median() / sds.iloc[:, 0].median() - 1
gap = scores["never seen"]["CRPS, %"] - scores["seen"]["CRPS, %"]
error = np.hypot(scores["never seen"]["its s.e. "], scores["seen"]["its s.e. "])
Markdown(
    f"**The answer.** Never having seen {names.sel(asset=newcomer).item()} costs {gap:+.2f} points "
    f"of CRPS (s.e. {error:.2f}, as if the two forecasts were independent): "
    + ("more than noise. " if abs(gap) > 2 * error else "within noise. ")
    + f"The month without returns adds {evidence:.1g} nats of evidence. The forecast of March is "
    f"{'unchanged' if unchanged else 'changed'} by what came later, and the return of March moved "
    f"the predicted volatility of April by {100 * change:+.0f} % (median over portfolios)."
)

# %% [markdown]
# *How to read it.* First picture: the forecasts of March; intervals are wide because one month is
# nearly all surprise. Second: each portfolio's predicted volatility in both months. Points below
# the line: less volatility expected in April than in March.

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
# The newcomer is forecast in every test month, by a wider distribution than had training seen it,
# whose intervals hold; a month without returns adds neither knowledge nor evidence; the delisted
# asset has no forecast; earlier forecasts do not move when a month arrives.

# %%
never, seen = scores["never seen"], scores["seen"]
assert draws["never seen"].sel(asset=newcomer).notnull().all()
wide, narrow = (draws[label].sel(asset=newcomer).std() for label in ("never seen", "seen"))
assert wide > narrow
assert never["90 % coverage, %"] >= 80, scores
blind = {kind: each.sel(time=closed).mean("factor").item() for kind, each in spread.items()}
assert abs(blind["filtered"] / blind["predicted"] - 1) < 0.1, blind
assert abs(evidence) < 1e-6
assert draws["never seen"].sel(asset=leaver, time=slice(middle, None)).isnull().all()
assert unchanged
assert sds.iloc[:, 1][newcomer] > 0
