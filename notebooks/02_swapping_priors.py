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
# # Swap the factor prior: what do memory and common volatility buy?
#
# What should a model expect of next month's factors before the month begins? Two ideas about
# markets: factors have *memory* (a recurrent network, the VRNN prior, moves their means and
# scales), and months have a *common volatility* that clusters and moves all factors and residuals
# at once. A prior is an object passed to the model, so each idea can be switched on by itself, and
# its worth measured on months that no fit has seen.

# %%
import os

import pandas as pd
from IPython.display import Markdown

import rvrae_pyro as rv

SEED = 0
SIZES = {"months": (180, 0, 72), "factors": 13, "steps": 400, "draws": 400}
if os.environ.get("RVRAE_SMOKE") == "1":  # a trial run in seconds; its numbers mean little
    SIZES = {"months": (30, 0, 12), "factors": 2, "steps": 6, "draws": 200}

# %% [markdown]
# ## Three priors and two models without latent factors
#
# `for_panel` builds the default model around the prior it is given. Everything else stays the same:
# panel, loadings, likelihood, guide, training, seed. The last of the three is the default. The test
# months are 2007 to 2012.

# %%
panel = rv.data.rank_characteristics(rv.data.load_french()).sel(time=slice(None, "2012"))
train, _, test = rv.data.split(panel, *SIZES["months"])
K = SIZES["factors"]
constant, vrnn = rv.priors.StandardNormal(K), rv.priors.Recurrent(K, idio_level=False)
common = {"persistence": 0.97, "gain": 0.3}  # where training starts
PRIORS = {
    "no memory": constant,
    "common volatility": rv.priors.CommonVolatility(constant, **common),
    "VRNN, common volatility": rv.priors.CommonVolatility(vrnn, **common),
}
variants = {
    name: rv.RVRAE.for_panel(train, factor_prior=prior) for name, prior in PRIORS.items()
} | {"EWMA": rv.baselines.EWMA(), "Student-t": rv.baselines.MultivariateT()}
variants["VRNN, common volatility"].priors().iloc[:8]

# %% [markdown]
# ## The swap
#
# One call fits all variants and scores their one-month-ahead forecasts of the same test months. The
# score is the log density of a month's 30 returns together, from the months before: it sees
# means, volatility, tails and co-movement at once.

# %%
found = rv.swap(
    variants,
    panel,
    split=SIZES["months"],
    max_steps=SIZES["steps"],
    num_samples=SIZES["draws"],
    seed=SEED,
    progress=False,
)
found.table[["log_score", "difference", "difference_error", "weight"]].round(2)

# %% [markdown]
# *How to read it.* Nats per month, best first; `difference` is to the best, with its standard error
# (Newey-West over months, Monte-Carlo error of the filter included); `weight` is the share in the
# best mixture of forecasts (stacking).

# %%
_ = found.plot()

# %%
_ = found.plot(kind="cumulative", reference="EWMA")

# %% [markdown]
# *How to read it.* A rising line gains on the EWMA. A steady climb is a habit; one jump is one
# month.

# %% [markdown]
# ## The answer
#
# Scores are compared in pairs, month by month, so that what makes a month hard for all cancels.

# %%
scores, n_assets = found.scores["log_scores"], panel.sizes["asset"]


def gain(name, over):
    """Mean difference of two scores in nats per return, and its standard error."""
    difference = (scores.sel(model=name) - scores.sel(model=over)) / n_assets
    return difference.mean().item(), rv.evaluation.hac_standard_error(difference).item()


pairs = {
    "common volatility alone": gain("common volatility", "no memory"),
    "memory, given common volatility": gain("VRNN, common volatility", "common volatility"),
    "the default over the EWMA": gain("VRNN, common volatility", "EWMA"),
    "the default over the multivariate Student-t": gain("VRNN, common volatility", "Student-t"),
}
answer = pd.DataFrame(pairs, index=["nats per return", "s.e."]).T
answer.round(4)

# %%
lines = [
    f"- {name[0].upper()}{name[1:]}: {row['nats per return']:+.3f} nats per return "
    f"(s.e. {row['s.e.']:.3f}), "
    + ("more than noise." if abs(row.iloc[0]) > 2 * row.iloc[1] else "which noise could explain.")
    for name, row in answer.iterrows()
]
Markdown(f"**In words, over {test.sizes['time']} months:**\n\n" + "\n".join(lines))

# %% [markdown]
# ## Why: what each prior expects of a month
#
# Statistics of months simulated one month ahead (`mean`), against those observed. `p_value` is the
# share of draws with as much or more.

# %%
names = ["common_shocks", "spread", "comovement", "kurtosis"]
shown = found.statistics.sel(model=["no memory", "VRNN, common volatility"], statistic=names)
shown[["observed", "mean", "p_value"]].to_dataframe().unstack("model").round(2)

# %% [markdown]
# *How to read it.* `common_shocks` is how much the size of a month's returns varies from month to
# month: a prior whose months all have one volatility expects less than there is.

# %% [markdown]
# ## Volatility through the test months

# %%
recent = panel.isel(time=slice(-SIZES["months"][2] - 24, None))  # two years lead into the state
LABELS = {"no memory": "constant volatility", "VRNN, common volatility": "common volatility"}
filtered = {
    LABELS[name]: found.fits[name].filter(recent, SIZES["draws"], SEED + 1) for name in LABELS
}
marks = {"test": test.time[0], "Lehman": "2008-09-15"}
_ = rv.plots.volatility(filtered, recent, marks=marks if SIZES["factors"] > 2 else None)

# %%
months = test.time.values
records = {
    name: rv.experiments.risk_record(each, recent, months) for name, each in filtered.items()
}
rivals = {"EWMA": found.fits["EWMA"], "Student-t": found.fits["Student-t"]}
records |= {name: rv.experiments.risk_record(each, recent, months) for name, each in rivals.items()}
rv.experiments.risk_table(records, measures=["coverage", "below_5", "below_1", "qlike"]).round(3)

# %% [markdown]
# *How to read it.* Coverage of 90 % intervals and the shares of returns below VaR at 5 and 1 % are
# of all returns; `qlike` scores the variance of the equally weighted portfolio, lower is better.

# %% [markdown]
# ## Sensitivity
#
# Two choices that were not the point: the particles of the filter and where it begins, and the
# months (leaving out the three that move the comparison most).

# %%
monthly = (scores.sel(model="VRNN, common volatility") - scores.sel(model="no memory")) / n_assets
again = filtered["common volatility"].log_evidence().sel(time=test.time) / n_assets
moved = (again - scores.sel(model="VRNN, common volatility") / n_assets).mean().item()
largest = abs(monthly).argsort().values[-3:]
checks = {
    "default over no memory": monthly.mean().item(),
    "without the three months that matter most": monthly.drop_isel(time=largest).mean().item(),
    "shift of the default's score with another filter": moved,
}
pd.Series(checks, name="nats per return").round(4).to_frame()

# %% [markdown]
# ## Limits
#
# - One panel of thirty diversified portfolios, one split, one seed of training. The
#   [risk log](../docs/development/risk_log.md) has refits over four decades.
# - The score rewards knowing how large and how common moves are. It says next to nothing about
#   whether the *means* can be traded on.
# - Having seen these test months, choosing among more priors on them would be fishing.
#
# Your own prior is a class of a few lines: [notebook 08](08_your_own_parts.ipynb),
# [parts](../docs/howto_own_part.md).

# %% [markdown]
# ## The claims of this notebook, asserted
#
# Common volatility is worth more than its standard error, and more than memory; the filter's own
# noise did not decide.

# %%
worth = answer["nats per return"]
if SIZES["factors"] > 2:  # a year of a trial run cannot tell
    assert worth["common volatility alone"] > answer["s.e."]["common volatility alone"], answer
    assert worth["common volatility alone"] > worth["memory, given common volatility"], answer
    assert abs(moved) < abs(worth["common volatility alone"]), checks
assert set(found.table.index) == set(variants)
assert not found.failures
