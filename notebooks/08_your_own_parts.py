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
# # How much code is a prior, likelihood or guide of my own, and does it beat the default?
#
# You know Pyro and have an idea about markets. How much code is it, how do you know that it is
# right, and does it help? Three parts follow, each a class of a few lines that is passed as an
# argument: a factor prior whose volatility remembers, returns whose losses are heavier than their
# gains, and a guide that forgets.

# %%
import os
import tempfile

import numpy as np
import pandas as pd
import pyro.distributions as dist
import torch
from IPython.display import Markdown
from torch import nn

import rvrae_pyro as rv

SEED = 0
SIZES = {"months": (54, 12, 60), "factors": 5, "steps": 400, "draws": 300}
if os.environ.get("RVRAE_SMOKE") == "1":  # a trial run in seconds; its numbers mean little
    SIZES = {"months": (72, 12, 12), "factors": 2, "steps": 60, "draws": 100}

# %% [markdown]
# ## A short history
#
# Five years to learn from, so that fits take seconds; the default for so few months has no effects
# by asset.

# %%
panel = rv.data.rank_characteristics(rv.data.load_french())
train, valid, test = rv.data.split(panel, *SIZES["months"])
recent = panel.sel(time=slice(train.time[0], test.time[-1]))
default = rv.RVRAE.for_panel(train, SIZES["factors"])
K, P = default.n_factors, panel.sizes["characteristic"]
default

# %% [markdown]
# ## A factor prior: volatility that remembers
#
# Three methods. The factors of month t are Normal with a variance that is a weighted mean of its
# long-run value, of last month's variance and of last month's squared factor: a GARCH process of
# the latent factors. The conjugate guide multiplies it with what the returns say; there is nothing
# else to write.


# %%
class Garch(rv.priors.FactorPrior):
    """Factor variances that remember last month's variance and shock."""

    def __init__(self, n_factors):
        super().__init__()
        self.n_factors = n_factors
        self.logits = nn.Parameter(torch.tensor([[0.0], [2.0], [0.0]]).repeat(1, n_factors))

    def initial(self):
        return (torch.ones_like(self.logits[0]),)

    def transition(self, state, context):
        return rv.priors.Gaussian(torch.zeros_like(state[0]), state[0].sqrt())

    def advance(self, state, factors, context):
        longrun, memory, shock = torch.softmax(self.logits, 0)
        return (longrun + memory * state[0] + shock * factors.square(),)


# %% [markdown]
# ## A likelihood: losses heavier than gains
#
# One method: the distribution of returns given location and scale. The location is shifted, so
# that the mean of a return stays its loading times the factors.


# %%
class Skewed(rv.likelihoods.Likelihood):
    """Asymmetric Laplace returns with mean ``loc``."""

    def __init__(self, scale=None, alpha=None):
        super().__init__(scale, alpha)
        self.log_asymmetry = nn.Parameter(torch.tensor(0.0))

    def distribution(self, loc, scale):
        asymmetry = self.log_asymmetry.exp()
        shift = scale * (1 / asymmetry - asymmetry)  # mean of the distribution at location 0
        return dist.AsymmetricLaplace(loc - shift, scale, asymmetry, validate_args=False)


# %% [markdown]
# ## A guide: each month by itself
#
# One method: a distribution over the whole path. A month's cross-section arrives as a precision
# and a shift, whatever the number of assets. This guide ignores what the prior has learned, so it
# should cost something.


# %%
class Forgetful(rv.guides.Guide):
    """Each month by itself: standard normal times the month's likelihood."""

    needs_affine_decoder = True  # the potential speaks of factors; here they are the code

    def forward(self, batch, potential, view, kl_weight):
        precision, shift = potential.tempered(kl_weight)
        total = precision + torch.eye(shift.shape[-1]).to(shift)
        mean = torch.linalg.solve(total, shift.unsqueeze(-1)).squeeze(-1)
        return dist.MultivariateNormal(
            mean.unsqueeze(-2), precision_matrix=total.unsqueeze(-3), validate_args=False
        )


# %% [markdown]
# ## Is the prior right?
#
# `rv.testing` holds a part to the contract: shapes and plates, particles side by side or one by
# one, Pyro's `Predictive`, precision, files, a step that improves the bound, and nothing that
# looks ahead. It raises an error that says what was expected.

# %%
rv.testing.check_part("factor_prior", lambda: Garch(rv.testing.N_FACTORS))

# %% [markdown]
# What does it expect before it has seen a return? Each line is a simulated history of the average
# portfolio; the data are in grey. Read it for size and clustering, not for months.

# %%
prior_model = rv.RVRAE.for_panel(train, factor_prior=Garch(K))
tree = rv.prior_predictive(prior_model, train, num_samples=20, seed=SEED)
simulated = tree["prior_predictive"]["returns"].isel(chain=0).mean("asset")
lines = 100 * simulated.transpose("time", "draw").to_pandas()
axis = lines.plot(color="C0", alpha=0.25, lw=0.8, figsize=(9, 3), legend=False)
axis.plot(train.time, 100 * train["returns"].mean("asset"), color="0.5", lw=1.2)
_ = axis.set(xlabel="month", ylabel="average portfolio, % per month", title="Prior predictive")

# %% [markdown]
# ## Does it beat the default?
#
# Models that differ from the default in one part each; the same months, seed and steps.

# %%
CHOICES = {
    "default": {},
    "own prior": {"factor_prior": Garch(K)},
    "own likelihood": {"likelihood": Skewed(rv.likelihoods.CharacteristicScale(P))},
    "own guide": {"factor_prior": rv.priors.Recurrent(K, idio_level=False), "guide": Forgetful()},
    "Recurrent, default guide": {"factor_prior": rv.priors.Recurrent(K, idio_level=False)},
}
found = rv.swap(
    {
        name: rv.RVRAE.for_panel(train, **{"n_factors": SIZES["factors"], **parts})
        for name, parts in CHOICES.items()
    },
    panel,
    split=SIZES["months"],
    max_steps=SIZES["steps"],
    num_samples=max(200, SIZES["draws"]),
    progress=False,
)
found.table[["log_score", "difference", "difference_error"]].round(2)

# %% [markdown]
# `difference` is to the best, in nats per month, with its standard error. A difference of less than
# two standard errors is none. The common volatility of the default needs the conjugate guide, so
# that the guide of our own is held against the plain recurrent prior. The picture shows when
# differences arise.

# %%
_ = found.plot(kind="cumulative", reference="default")

# %% [markdown]
# What the prior of our own learned: the share of long-run variance, of last month's variance and
# of last month's shock in each factor's variance. Persistent volatility means a large second bar.

# %%
with torch.no_grad():
    shares = torch.softmax(found.fits["own prior"].model.factor_prior.logits, 0).numpy()
parts = pd.DataFrame(shares.T, columns=["long run", "memory", "shock"]).rename_axis("factor")
_ = parts.plot.bar(stacked=True, ylabel="weight in the variance", figsize=(6, 3), rot=0)

# %% [markdown]
# ## Save and load
#
# A fit with a part of your own is saved like any other; to load it, build the model again.

# %%
few = recent.isel(time=slice(-24, None))
with tempfile.TemporaryDirectory() as folder:
    found.fits["own prior"].save(f"{folder}/fit")
    untrained = rv.RVRAE.for_panel(train, factor_prior=Garch(K))
    again = rv.load(f"{folder}/fit", model=untrained)
first, second = (f.forecast(few, num_samples=50) for f in (found.fits["own prior"], again))
first["predictions"]["returns"].identical(second["predictions"]["returns"])

# %% [markdown]
# ## The answer

# %%
scores, lines = found.scores["log_scores"], []
pairs = dict.fromkeys(("own prior", "own likelihood"), "default")
for name, over in (pairs | {"own guide": "Recurrent, default guide"}).items():
    gap = scores.sel(model=name) - scores.sel(model=over)
    mean, error = gap.mean().item(), rv.evaluation.hac_standard_error(gap).item()
    verdict = "more than noise" if abs(mean) > 2 * error else "which noise could explain"
    lines.append(f"- {name} over {over}: {mean:+.2f} nats per month (s.e. {error:.2f}), {verdict}.")
Markdown("\n".join(lines))

# %% [markdown]
# ## Limits
#
# - Thirty diversified portfolios, few test months, one seed, short training.
# - `rv.testing` finds errors of form and look-ahead, not ideas that are wrong about markets.
#
# Line by line: [write your own part](../docs/howto_own_part.md).

# %% [markdown]
# ## The claims of this notebook, asserted

# %%
assert len(found.table) == len(CHOICES)
assert np.isfinite(found.table["log_score"]).all()
np.testing.assert_array_equal(second["predictions"]["returns"], first["predictions"]["returns"])
