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
# # What does a weighted divergence do to the answer?
#
# The bound is a likelihood less a divergence of the guide from the prior. What happens when that
# divergence is weighted? On a market whose truth is known: a posterior that collapses and how
# annealing cures it; the paper's weight 1/T; and what either does to calibration, measured by
# simulation.

# %%
import os
import warnings

import arviz_plots as azp
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pyro
import torch
from IPython.display import Markdown

import rvrae_pyro as rv

warnings.filterwarnings("ignore", category=FutureWarning, module="arviz_plots")

SEED = 0
SIZES = {"months": 240, "assets": 15, "steps": 600, "datasets": 200, "window": 12}
if os.environ.get("RVRAE_SMOKE") == "1":  # a trial run in seconds; its numbers mean little
    SIZES = {"months": 60, "assets": 10, "steps": 60, "datasets": 40, "window": 12}

# %% [markdown]
# ## A market whose truth is known
#
# One factor with memory, loadings that are the characteristics themselves, Normal noise. The model
# below *is* the simulator; only the guide, the paper's recurrent encoder, has anything to learn.

# %%
panel = rv.data.simulate_linear_gaussian(SIZES["assets"], SIZES["months"], 1, seed=SEED)
year = rv.data.simulate_linear_gaussian(SIZES["assets"], 12, 1, seed=SEED + 1)
panel["returns"].to_series().describe().round(3).to_frame()


# %%
def truth(guide, memory=0.9):
    """Build the simulator as a model: weights at the truth, those of the guide free."""
    model = rv.RVRAE(
        1,
        1,
        loadings=rv.loadings.Linear(1, 1),
        factor_prior=rv.priors.AR1(1),
        likelihood=rv.likelihoods.Normal(),
        guide=guide,
    ).double()
    with torch.no_grad():
        model.return_scale.fill_(0.05)
        model.loadings.layer.weight.fill_(1.0)
        model.loadings.layer.bias.zero_()
        model.factor_prior.unbounded_coefficient.fill_(float(np.arctanh(memory)))
        model.factor_prior.log_scale.fill_(0.5 * float(np.log(0.5)))
        model.likelihood.scale.log_scale.zero_()
    for name, weight in model.parts.named_parameters():
        weight.requires_grad_(name.startswith("guide"))
    return model


def train(schedule, reduction="sum", data=panel, memory=0.9):
    """Fit the guide under a weighted divergence."""
    pyro.set_rng_seed(SEED)
    config = rv.FitConfig(
        max_steps=SIZES["steps"],
        window=SIZES["window"],
        kl_schedule=schedule,
        kl_reduction=reduction,
        dtype=torch.float64,
    )
    guide = rv.guides.Recurrent(1, 8)
    return rv.fit(truth(guide, memory), data, config=config, progress=False)


# %% [markdown]
# ## Two terms, one bound

# %%
steps = SIZES["steps"]
fits = {
    "weight 1": train(rv.schedules.Constant()),
    "annealed to 1": train(rv.schedules.Linear(steps=steps // 3)),
    "weight 1/T": train(rv.schedules.Constant(), "mean"),
}
with torch.no_grad():
    batch = rv.data.to_batch(panel, dtype=torch.float64)
    evidence = rv.exact.evidence(truth(rv.guides.Conjugate()), batch).item()
axis = rv.plots.training(fits)
_ = axis.axhline(evidence / panel["returns"].count().item(), color="0.4", linestyle="--")

# %%
_ = rv.plots.elbo(fits["weight 1/T"])

# %% [markdown]
# *How to read it.* First picture: the bound cannot rise above the dashed line, the exact evidence,
# and under 1/T it ends lower. Second: why, under 1/T: a higher likelihood term is bought with a
# larger KL, because the guide commits to more than the data say.

# %% [markdown]
# ## Collapse, provoked and cured
#
# A posterior collapses when the guide answers with the prior, whatever it sees: divergence zero. A
# strong weight on the divergence provokes it at once. Starting there and annealing to 1 cures it.
#
# Factors without memory show it best. A guide that draws each month by itself stays at least
# $\frac12 \log(1 + \phi^2)$ away from a prior with coefficient $\phi$, 0.30 nats per month for 0.9,
# however collapsed it is: a divergence above zero is no proof that a factor is in use.


# %%
def divergence(fit):
    """Return nats per month of the state that was kept."""
    return fit.history["kl"].iloc[-1] / SIZES["months"]


class Heavy:
    """A divergence that weighs two hundred times too much, for good or for a while."""

    def __init__(self, until):
        self.until = until

    def weight(self, step, n_times):
        """200, then 1."""
        return 200.0 if step < self.until else 1.0


forgetful = rv.data.simulate_linear_gaussian(
    SIZES["assets"], SIZES["months"], 1, phi=0.0, seed=SEED
)
collapsed, cured, never = (
    train(schedule, data=forgetful, memory=0.0)
    for schedule in (Heavy(steps + 1), Heavy(steps // 3), rv.schedules.Constant())
)
pd.Series(
    {
        "weight 200": divergence(collapsed),
        "weight 200, then 1": divergence(cured),
        "weight 1": divergence(never),
    },
    name="KL, nats per month",
).round(3).to_frame()

# %%
collapsed.check()

# %% [markdown]
# ## What it does to calibration
#
# Draw a year from the model, ask the guide for its factors, rank the truth among its draws, and do
# it again. An honest posterior gives uniform ranks.

# %%
ranked = {
    "exact guide": rv.diagnostics.sbc(
        truth(rv.guides.Conjugate()), year, SIZES["datasets"], seed=SEED
    ),
    "optimal under 1/T": rv.diagnostics.sbc(
        truth(rv.guides.Conjugate()), year, SIZES["datasets"], seed=SEED, kl_weight=1 / 12
    ),
    "recurrent, weight 1": rv.diagnostics.sbc(fits["weight 1"], year, SIZES["datasets"], seed=SEED),
    "recurrent, weight 1/T": rv.diagnostics.sbc(
        fits["weight 1/T"], year, SIZES["datasets"], seed=SEED
    ),
}
last = {
    name: tree["uniformity"].to_dataset().isel(time=-1, factor=0) for name, tree in ranked.items()
}
table = pd.DataFrame(
    {
        name: {
            "spread of ranks (1 is honest, more is too sure)": test["spread_factors"].item(),
            "p-value of uniformity": test["p_value_factors"].item(),
        }
        for name, test in last.items()
    }
).T
table.round(3)

# %%
for name in ("exact guide", "recurrent, weight 1/T"):
    last_month = {"time": year.time[-1].values}
    azp.plot_ecdf_pit(ranked[name], var_names=["factors"], coords=last_month)
    _ = plt.title(name)

# %% [markdown]
# *How to read it.* Inside the band: calibrated. An S that leaves it: ranks pile up at both ends,
# the truth lies outside the guide's intervals far too often.

# %% [markdown]
# ## The answer

# %%
spread = table["spread of ranks (1 is honest, more is too sure)"]
Markdown(
    f"Weighted by 200 the divergence is {divergence(collapsed):.3f} nats per month: the guide "
    f"answers with the prior. Annealed from there to 1 it is {divergence(cured):.3f}, against "
    f"{divergence(never):.3f} for a weight of 1 throughout. Under 1/T the ranks spread "
    f"{spread['recurrent, weight 1/T']:.1f} times as far as those of a calibrated guide "
    f"({spread['optimal under 1/T']:.1f} for the best guide there is): its intervals are too "
    "narrow."
)

# %% [markdown]
# ## Limits
#
# - One factor and known parameters, so that the guide alone is on trial. In a fit of everything at
#   once a weighted divergence also bends the model.
# - Calibration by simulation is about data that the model makes up; it says nothing about real
#   months.
# - The weight 1/T is a fair ablation of the paper's objective. It is no bound, and `fit.check` says
#   so.

# %% [markdown]
# ## The claim of this notebook, asserted
#
# The guide that is optimal under 1/T is far too sure, the exact one is not; the collapsed guide has
# lost its divergence, annealing brings it back, and `fit.check` names the fit that lost it.

# %%
assert spread["optimal under 1/T"] > 1.5 * spread["exact guide"], spread
assert divergence(cured) > 2 * divergence(collapsed), (divergence(cured), divergence(collapsed))
if SIZES["steps"] >= 600:  # with the steps it takes
    assert "nothing" in str(collapsed.check()), collapsed.check()
    assert abs(divergence(cured) / divergence(never) - 1) < 0.15
    assert table["p-value of uniformity"]["exact guide"] > 0.001
    assert table["p-value of uniformity"]["recurrent, weight 1/T"] < 1e-6
