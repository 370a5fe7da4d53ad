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
# # Would this model make up months like those seen?
#
# A fit gives forecasts and risk figures whether or not its model has anything to do with the data.
# Simulate from it and compare: how far assets spread, how heavy the tails are, how much assets move
# together, whether large moves come in clusters. Which of these does a Normal likelihood miss, and
# does a Student-t mend it?

# %%
import os
import warnings

import arviz_plots as azp
import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import Markdown

import rvrae_pyro as rv

warnings.filterwarnings("ignore", category=FutureWarning, module="arviz_plots")

SEED = 0
SIZES = {"months": (144, 0, 36), "n_factors": 5, "training": {"max_steps": 400}, "draws": 300}
if os.environ.get("RVRAE_SMOKE") == "1":  # a trial run in seconds; its numbers mean little
    SIZES = {"months": (42, 0, 12), "n_factors": 2, "training": {"max_steps": 6}, "draws": 60}

# %% [markdown]
# ## Before any return is known
#
# An untrained model, in the units of the training returns, makes up months. Near 0 it makes up too
# little of a statistic, near 1 too much.

# %%
panel = rv.data.rank_characteristics(rv.data.load_french())
train, _, test = rv.data.split(panel, *SIZES["months"])
recent = panel.sel(time=slice(train.time[0], test.time[-1]))
untrained = rv.RVRAE.for_panel(train, SIZES["n_factors"])
untrained.set_units(rv.data.to_batch(train))
before = rv.diagnostics.predictive_check(
    untrained, train, when="prior", num_samples=SIZES["draws"] // 4, seed=SEED
)
before["p_value"].to_dataset().to_pandas().round(2).rename("share of draws as large").to_frame()

# %% [markdown]
# Loadings are small and random before training, so assets hardly move together: co-movement has to
# be learned.

# %% [markdown]
# ## Two models that differ in their likelihood and nothing else

# %%
LIKELIHOODS = {"Normal": rv.likelihoods.Normal, "Student-t": rv.likelihoods.StudentT}
P = panel.sizes["characteristic"]
# so few steps have no time for a KL weight that rises
config = rv.FitConfig(kl_schedule=rv.schedules.Constant(), **SIZES["training"])
fits = {}
for name, kind in LIKELIHOODS.items():
    scale = rv.likelihoods.AssetScale(rv.likelihoods.CharacteristicScale(P), panel.asset.values)
    model = rv.RVRAE.for_panel(train, SIZES["n_factors"], likelihood=kind(scale))
    fits[name] = rv.fit(model, train, config=config, seed=SEED, progress=False)
_ = rv.plots.training(fits)

# %% [markdown]
# ## In sample, and one month ahead
#
# `in_sample`: with the months' own factors. `ahead`: each test month from the months before
# it, with nothing given away.

# %%
filtered = {name: fit.filter(recent, SIZES["draws"], SEED) for name, fit in fits.items()}
checks = {}
for name, fit in fits.items():
    replicates = fit.posterior_predictive(train, SIZES["draws"], SEED)
    checks[name, "in sample"] = rv.diagnostics.predictive_check(replicates, train)
    ahead = filtered[name].forecast(test.time)
    checks[name, "one month ahead"] = rv.diagnostics.predictive_check(ahead, test)
p_values = pd.DataFrame(
    {key: tree["p_value"].to_dataset().to_pandas() for key, tree in checks.items()}
)
p_values.round(2)

# %%
for name in fits:
    tree = checks[name, "one month ahead"]
    azp.plot_ppc_tstat(tree, var_names=["kurtosis", "comovement"], t_stat="mean")
    _ = plt.suptitle(f"{name}, one month ahead", y=1.12)

# %% [markdown]
# *How to read it.* The dot, the data, should lie among the draws. In sample the factors were
# inferred from the months themselves, so that spread and co-movement agree almost by construction;
# the tails do not, and judge the likelihood. One month ahead nothing is given away.

# %% [markdown]
# ## Are the probabilities right?

# %%
_ = rv.plots.calibration(filtered["Student-t"].forecast(test.time), test)

# %% [markdown]
# *How to read it.* A flat histogram and a line on the diagonal are right; the bands show what
# chance alone does to forecasts that are right.

# %% [markdown]
# ## In plain words

# %%
fits["Student-t"].check(filtered["Student-t"])

# %% [markdown]
# ## The answer

# %%
missed = {
    f"{name}, {when}": [s for s, p in column.items() if min(p, 1 - p) < 0.025]
    for (name, when), column in p_values.items()
}
tails = {name: p_values[name, "one month ahead"]["kurtosis"] for name in fits}
Markdown(
    "Statistics outside the middle 95 % of the simulated ones:\n\n"
    + "\n".join(f"- {key}: {', '.join(found) or 'none'}" for key, found in missed.items())
    + "\n\nOne month ahead, "
    + " and ".join(f"{100 * p:.0f} % of the draws of {name}" for name, p in tails.items())
    + " have at least the kurtosis across portfolios that was seen."
)

# %% [markdown]
# ## Limits
#
# - These are thirty diversified portfolios: their tails are far thinner than those of single
#   stocks.
# - A statistic that agrees is no proof; one that was not computed may be wrong. In-sample shares
#   are drawn to 1/2, because the draws have seen the months they are compared with.
# - Draws one month ahead start from months that were seen: clustering compares a sequence with
#   months drawn one by one.

# %% [markdown]
# ## The claim of this notebook, asserted
#
# Student-t replicates have heavier tails than Normal ones, in months given their factors.

# %%
heavy, thin = (
    float(checks[name, "in sample"]["posterior_predictive"]["kurtosis"].mean())
    for name in ("Student-t", "Normal")
)
assert heavy > thin, (heavy, thin)
