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
# # Which characteristics matter?
#
# A panel offers more characteristics than the returns can tell apart. Which of them move the
# loadings, and how sure can one be of it? The panel is simulated, so that the answer is known: the
# loadings depend on the first three characteristics, and the others are noise. The prior over the
# weights is what separates the two; the posterior of the weights says how surely.

# %%
import os

import numpy as np
import pandas as pd
from IPython.display import Markdown

import rvrae_pyro as rv

SEED = 0
SIZES = {"assets": 200, "months": (60, 30, 12), "characteristics": 50, "steps": 800, "draws": 100}
if os.environ.get("RVRAE_SMOKE") == "1":  # a trial run in seconds
    SIZES = {"assets": 80, "months": (40, 10, 10), "characteristics": 8, "steps": 90, "draws": 40}

# %% [markdown]
# ## The data
#
# The linear design of Gu, Kelly and Xiu (2021): ranked characteristics, three factors, noise
# with heavy tails that is larger than what the factors explain.

# %%
panel = rv.data.simulate_gkx(
    "linear",
    n_assets=SIZES["assets"],
    n_times=sum(SIZES["months"]),
    n_characteristics=SIZES["characteristics"],
    seed=SEED,
)
train, valid, test = rv.data.split(panel, *SIZES["months"])
names = panel["characteristic"].to_numpy()
real = list(names[:3])
panel["true_beta"].std(("time", "asset")).to_series().round(2).rename("sd of true loadings")

# %% [markdown]
# ## What each prior expects
#
# Before any data: how unequal are the characteristics in a network drawn from the prior? A
# Normal prior expects all to matter alike; grouped priors leave room for a few to stand out.

# %%
priors = {
    "Normal": rv.weights.Normal(0.1, inference="posterior"),
    "GroupLog": rv.weights.GroupLog(inference="posterior"),
    "Horseshoe": rv.weights.Horseshoe(inference="posterior"),
}


def build(prior: object) -> rv.RVRAE:
    n = SIZES["characteristics"]
    return rv.RVRAE(n, 3, loadings=rv.loadings.MLP(n, 3, hidden=(8,), weights=prior))


month, shares = train.isel(time=slice(0, 1)), {}
for name, prior in priors.items():
    drawn = rv.prior_predictive(build(prior), month, num_samples=200, seed=SEED)["prior"]
    weights = drawn["loadings.network.0.weight"].to_numpy()[0]
    norms = np.sort(np.linalg.norm(weights, axis=1), axis=1)[:, ::-1]
    shares[name] = (norms**2 / (norms**2).sum(1, keepdims=True)).mean(0)
axis = pd.DataFrame(shares).plot(logy=True, figsize=(8, 3.4))
_ = axis.set(xlabel="characteristic, largest first", ylabel="share of squared weights")

# %% [markdown]
# *How to read it.* A flat line is a prior that shrinks all alike. The steeper the line, the more
# the prior is at ease with a few large characteristics among many that do nothing.

# %% [markdown]
# ## Fit

# %%
config = rv.FitConfig(max_steps=SIZES["steps"])
fits = {
    name: rv.fit(build(priors[name]), train, valid, config=config, seed=SEED, progress=False)
    for name in ("GroupLog", "Horseshoe")
}
_ = rv.plots.training(fits)

# %% [markdown]
# *How to read it.* The bound of months that training does not see. It should level off; if it
# falls at the end, the best state on the way is the one that was kept.

# %% [markdown]
# ## Relevance
#
# For every draw of the weights, the root mean square slope of the loadings in each
# characteristic. Rotating the factors does not change it.

# %%
trees = {name: fit.relevance(num_draws=SIZES["draws"], seed=SEED) for name, fit in fits.items()}
ranked = {
    name: tree["posterior"]["relevance"].mean(("chain", "draw")) for name, tree in trees.items()
}
order = names[np.argsort(-ranked["GroupLog"].to_numpy())]
_ = rv.plots.relevance(trees["GroupLog"], variable="relevance", max_characteristics=8)

# %% [markdown]
# *How to read it.* Intervals of the slope of the loadings, one row per characteristic. Those that
# stay clear of the crowd near zero matter; a wide interval near the crowd is a maybe.

# %%
top = {name: sorted(names[np.argsort(-values.to_numpy())[:3]]) for name, values in ranked.items()}
sure = {}
for name, tree in trees.items():
    each = tree["posterior"]["relevance"].isel(chain=0)
    noise = each.drop_sel(characteristic=real).max("characteristic")
    sure[name] = float((each.sel(characteristic=real).min("characteristic") > noise).mean())
lines = [
    f"- {name}: the three largest are {', '.join(top[name])}; the three real ones lie above all "
    f"others in {sure[name]:.0%} of the draws."
    for name in trees
]
Markdown(f"The loadings depend on {', '.join(real)}.\n\n" + "\n".join(lines))

# %% [markdown]
# ## What it does to a forecast
#
# Forecasts integrate over the weights. The part of the variance that comes from not knowing
# them is small beside what next month brings, and it is measured.

# %%
forecast = fits["GroupLog"].forecast(panel, num_samples=1000, seed=SEED, times=test.time[0])
risk = rv.risk.summarize(forecast, tail=0.05)
share = risk[["factor_var", "idio_var", "parameter_var"]].mean() / float((risk["sd"] ** 2).mean())
{name: round(float(value), 4) for name, value in share.items()}

# %% [markdown]
# ## Limits
#
# - Mean field: where two characteristics can stand in for each other, the posterior picks one and
#   is too sure of it. Refit with other seeds, or leave one out.
# - Slopes are taken at ranks spread evenly; `fit.relevance(panel)` takes them at your own rows.
# - Relevance for *loadings* is relevance for co-movement and risk, not for expected returns.
# - Weights of recurrent layers stay at one best value.
#
# Next: [the priors over weights](../docs/weights.md).

# %% [markdown]
# ## The claim of this notebook, asserted

# %%
assert top["GroupLog"] == sorted(real)
assert float(share.to_array().sum()) > 0.999
assert float(share["parameter_var"]) < 0.5
