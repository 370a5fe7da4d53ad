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
# # How long does a volatility shock last, and what does the market pay for its risk?
#
# Four years of monthly returns say little about either. What does a prior that one can defend add,
# how far do the data move it, and how much of the answer is the prior? Elicit, check before any
# return, update, compare with NUTS, measure the sensitivity.

# %%
import os
import warnings

import arviz_stats as azs
import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import torch
from IPython.display import Markdown
from pyro.infer import MCMC, NUTS

import rvrae_pyro as rv

warnings.filterwarnings("ignore", category=UserWarning, module="pyro")
warnings.filterwarnings("ignore", category=rv.RvraeWarning)

SEED = 0
SIZES = {"months": 48, "steps": 400, "nuts": (40, 80), "refine": (100, 100), "draws": 400}
if os.environ.get("RVRAE_SMOKE") == "1":  # a trial run in seconds; its numbers mean little
    SIZES = {"months": 10, "steps": 6, "nuts": (4, 6), "refine": (20, 20), "draws": 60}

# %% [markdown]
# ## A small market
#
# Every sixth of the 30 portfolios, so that NUTS has a chance.

# %%
panel = rv.data.load_french().isel(asset=slice(None, None, 6))
panel = rv.data.rank_characteristics(panel).isel(time=slice(-SIZES["months"], None))
P = panel.sizes["characteristic"]
dict(panel.sizes)

# %% [markdown]
# ## Elicit
#
# **Persistence.** Few would say that half of a volatility shock is gone within two months, or that
# it takes five years. The persistence $\phi$ per month leaves a half after
# $\log 0.5 / \log \phi$ months, so `Beta(20, 2)` puts nine tenths of its mass between three and
# forty months.
#
# **Price of risk.** With a factor of unit scale, its mean is the Sharpe ratio per month. An annual
# ratio around 0.4, between 0 and 0.8, is `Normal(0.115, 0.06)` per month.

# %%
priors = {
    "factor_prior.persistence": dist.Beta(20.0, 2.0),
    "factor_prior.volatility": dist.LogNormal(float(np.log(0.25)), 0.5),
    "factor_prior.base.mean": dist.Normal(0.115, 0.06),
}


def half_life(persistence):
    return np.log(0.5) / np.log(np.clip(persistence, 1e-6, 1 - 1e-6))


pyro.set_rng_seed(SEED)
named = pd.DataFrame(
    {
        "half-life, months": half_life(
            priors["factor_prior.persistence"].sample((5000,)).numpy().astype(float)
        ),
        "Sharpe ratio, annual": np.sqrt(12)
        * priors["factor_prior.base.mean"].sample((5000,)).numpy(),
    }
)
named.quantile([0.05, 0.5, 0.95]).round(2)

# %% [markdown]
# ## Put them into a model
#
# `with_priors` takes a model and returns it with others. The original stays as it is.

# %%
plain = rv.RVRAE(
    P,
    1,
    loadings=rv.loadings.Linear(P, 1, weights=rv.weights.Normal(0.5)),
    factor_prior=rv.priors.CommonVolatility(rv.priors.AR1(1, scale=dist.LogNormal(0.0, 0.1))),
    likelihood=rv.likelihoods.Normal(),
)
model = plain.with_priors(priors)
model.priors()

# %% [markdown]
# ## Check before any return
#
# Each line is a draw of the prior, a market. Is this what years of monthly returns look like?

# %%
before = rv.prior_predictive(model, panel, num_samples=SIZES["draws"], seed=SEED)
path = np.exp(before["prior"]["log_volatility"].squeeze(drop=True).transpose("draw", "time"))
axis = path[:8].transpose("time", ...).to_pandas().plot(legend=False, lw=1, figsize=(8, 3))
_ = axis.set(xlabel="month", ylabel="multiplier of all scales", title="Eight paths from the prior")

# %% [markdown]
# A quantity that the prior does not state, but implies: how much larger the most volatile year is
# than the median year.

# %%
ratio = path.max("time") / path.median("time")
pd.Series(ratio).quantile([0.05, 0.5, 0.95]).rename("peak over median volatility").round(2)

# %% [markdown]
# ## Update
#
# `rv.fit` trains everything else and gives the parameters a posterior by the bound, which prefers
# values at which the guide of the factors is good. With latent volatility there is no closed form,
# so importance sampling with a particle filter replaces it.

# %%
config = rv.FitConfig(max_steps=SIZES["steps"])
fit = rv.fit(model, panel, config=config, seed=SEED, progress=False)
bound = fit.posterior(SIZES["draws"], seed=SEED)
num_draws, particles = SIZES["refine"]
batch = rv.data.to_batch(panel)
found = rv.inference.refine(fit.model, batch, num_draws, particles, seed=SEED)
tree = fit.posterior(SIZES["draws"], seed=SEED)
found

# %%
_ = rv.plots.prior_posterior(tree)

# %%
SITES = list(fit.model.hyper_sites)


def summary(group):
    return pd.DataFrame(
        {
            name: [float(group[name].mean()), float(group[name].std())]
            for name in SITES
            if name in group
        },
        index=["mean", "sd"],
    ).T


table = pd.concat(
    {
        "prior": summary(tree["prior"]),
        "bound": summary(bound["posterior"]),
        "refined": summary(tree["posterior"]),
    },
    axis=1,
)
table.round(3)

# %% [markdown]
# ## NUTS
#
# The pair is an ordinary Pyro program: NUTS samples parameters, volatility and factors together,
# given the same weights.

# %%
precise = fit.model.at({}).double()
warmup, num_samples = SIZES["nuts"]
pyro.set_rng_seed(SEED)
for weight in precise.parts.parameters():
    weight.requires_grad_(False)
mcmc = MCMC(
    NUTS(precise.model, max_tree_depth=4),
    num_samples=num_samples,
    warmup_steps=warmup,
    disable_progbar=True,
)
mcmc.run(rv.data.to_batch(panel, dtype=torch.float64))
samples = {name: value.numpy() for name, value in mcmc.get_samples().items()}
nuts = pd.DataFrame({name: [samples[name].mean(), samples[name].std()] for name in SITES}).T
nuts.columns = pd.MultiIndex.from_product([["NUTS"], ["mean", "sd"]])
table = table.join(nuts)
table.round(3)

# %% [markdown]
# ## How much of the answer is the prior?
#
# Power scaling makes the prior, or the likelihood, a little stronger or weaker, and watches the
# posterior. A parameter that moves with its prior and not with the data is one about which the
# data say nothing.

# %%
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    sensitivity = azs.psense_summary(tree)
sensitivity

# %% [markdown]
# The blunt check: another prior that somebody might defend. A sceptic of persistence halves it.

# %%
sceptic = fit.model.with_priors({"factor_prior.persistence": dist.Beta(5.0, 5.0)})
rv.inference.refine(sceptic, batch, num_draws, particles, seed=SEED)
name = "factor_prior.persistence"
believer, doubter = (float(m.hyperparameters()[name]) for m in (fit.model, sceptic))
pd.Series({"believer": believer, "sceptic": doubter}, name="posterior mean of it").round(3)

# %% [markdown]
# ## What it does to a forecast
#
# Every draw of the forecast carries a draw of the parameters; risk splits off the part of the
# variance that is due to not knowing them.

# %%
forecast = fit.forecast(panel, SIZES["draws"], times=panel.time[-1], seed=SEED)
risk = rv.risk.summarize(forecast, tail=0.25)
risk[["factor_var", "idio_var", "parameter_var"]].mean("asset").to_dataframe().round(6)

# %%
_ = rv.plots.fan(fit, panel, horizon=6)

# %% [markdown]
# ## The answer

# %%
draws = half_life(tree["posterior"][name].values.ravel())
low, middle, high = np.quantile(draws, [0.05, 0.5, 0.95])
price = np.sqrt(12) * tree["posterior"]["factor_prior.base.mean"].values.ravel()
moved = (table["refined"]["mean"] - table["prior"]["mean"]) / table["prior"]["sd"]
Markdown(
    f"Half of a volatility shock is gone after {middle:.0f} months (90 % interval {low:.0f} to "
    f"{high:.0f}; prior {named.iloc[:, 0].median():.0f}). The annual Sharpe ratio is "
    f"{price.mean():.2f}, give or take {price.std():.2f} (prior {named.iloc[:, 1].mean():.2f} "
    f"and {named.iloc[:, 1].std():.2f}). In prior standard deviations the data moved the "
    f"persistence by {moved[name]:+.1f} and the price of risk by "
    f"{moved['factor_prior.base.mean']:+.1f}. A sceptic of persistence "
    f"ends at {doubter:.2f} instead of {believer:.2f}."
)

# %% [markdown]
# ## Limits
#
# - Bound, refined guide and NUTS are three answers to one question; where they differ, believe the
#   one that integrates the factors out.
# - The persistence is where prior and likelihood compete: report the sensitivity with it.
# - One factor and five portfolios, so that NUTS has a chance.
#
# More: [priors on parameters](../docs/howto_priors.md).

# %% [markdown]
# ## The claims of this notebook, asserted

# %%
assert plain.hyper_sites == ("factor_prior.base.scale",)  # the original is as it was
assert set(priors) <= set(SITES)
assert bool((table["refined"]["sd"] > 0).all())
assert "weight_draw" in forecast["predictions"].coords
