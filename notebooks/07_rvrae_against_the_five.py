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
# # RVRAE against the five
#
# **Question.** The paper holds RVRAE against IPCA, the conditional autoencoder, FactorVAE, ALSTM
# and a Transformer, on data that nobody else has. On data that come with this package: is it
# better, at what, and by more than chance?
#
# All six see the same months, assets and characteristics, stop early on the same validation months
# and are scored once on the same test months.

# %%
import os

SEED = 0
SIZES = {
    "split": (180, 36, 36),
    "n_factors": 5,
    "seeds": [SEED, SEED + 1],
    "omit": (5, 10),
    "draws": 1000,
    "steps": 1000,
    "epochs": 100,
    "members": 5,
}
if os.environ.get("RVRAE_SMOKE") == "1":  # seconds instead of minutes; the numbers mean little
    SIZES = {
        "split": (24, 6, 12),
        "n_factors": 2,
        "seeds": [SEED],
        "omit": (5,),
        "draws": 200,
        "steps": 3,
        "epochs": 1,
        "members": 1,
    }

# %%
import numpy as np

import rvrae_pyro as rv
from rvrae_pyro.baselines import TrainConfig

# %% [markdown]
# ## The competitors
#
# Each is an untrained template: every fit is one of a fresh copy. A function from the training
# panel to a model serves where sizes depend on the panel. IPCA gets the constant that its authors
# add.

# %%
panel = rv.data.rank_characteristics(rv.data.market_context(rv.data.load_french()))
K = SIZES["n_factors"]
short = TrainConfig(max_epochs=SIZES["epochs"])


def rvrae(train):
    return rv.RVRAE(train.sizes["characteristic"], K, n_context=train.sizes["feature"])


models = {
    "IPCA": rv.baselines.IPCA(K, constant=True),
    "CA": rv.baselines.ConditionalAutoencoder(K, n_members=SIZES["members"], config=short),
    "FactorVAE": rv.baselines.FactorVAE(K, config=short),
    "ALSTM": rv.baselines.ALSTM(config=short),
    "Transformer": rv.baselines.Transformer(config=short),
    "RVRAE": rv.experiments.FactoryEntrant("RVRAE", rvrae, rv.FitConfig(max_steps=SIZES["steps"])),
}
result = rv.experiments.compare(
    panel,
    models,
    split=SIZES["split"],
    seeds=SIZES["seeds"],
    omit=SIZES["omit"],
    num_samples=SIZES["draws"],
    progress=False,
)
result.failures

# %% [markdown]
# ## How much is explained, how much is forecast
#
# Total R2 knows the month's own returns: it measures how well a few factors describe a month.
# ALSTM and Transformer have no factors and so no total R2. Predictive R2 knows the months before
# only.


# %%
def table(number):
    """Every cell with its standard error."""
    return next(shown for k, _, shown in result.readable() if k == number).set_index("Model")


def draw(number, metric, label, scale=1.0, omitted=0):
    rows = result.tables[number].query("metric == @metric and omitted == @omitted")[::-1]
    rows = rows.set_index("model")[["estimate", "standard_error"]] * scale
    options = {"figsize": (7, 2.8), "legend": False, "title": "bars: two standard errors"}
    rows.plot.barh(y="estimate", xerr=2 * rows["standard_error"], xlabel=label, **options)


table("1")

# %%
draw("1", "total_r2", "total R2, own factors, %", 100)
draw("1", "predictive_r2", "predictive R2, %", 100)

# %% [markdown]
# *How to read it.* Bars are means over seeds, lines two standard errors to each side: over the
# test months (Newey-West) and over seeds together. Monthly returns are nearly unpredictable, so
# predictive R2 lies around zero for everyone; what differs is the width of the bars.

# %% [markdown]
# ## Money, and assets nobody trained on
#
# Long the best tenth by forecast, short the worst: three portfolios each here. Net of 30 basis
# points on all that is traded. Then the harder question: assets left out of training, their
# returns hidden.

# %%
table("2")

# %%
table("3")

# %%
most = max(SIZES["omit"])
draw("2", "sharpe_net", "Sharpe ratio, net, annualised")
draw("3", "rank_ic", f"Rank IC of {most} assets never trained on", omitted=most)

# %% [markdown]
# *How to read it.* Bars that cross zero, and one another, are the rule: three years of months
# cannot rank six models by their Sharpe ratios.

# %% [markdown]
# ## Whole distributions
#
# Here the forecasts differ: how wide, how heavy the tails, what moves together. The log score is
# the joint density of a month's returns given the months before. Diebold and Mariano's test asks
# whether a difference is more than chance.

# %%
table("4")

# %%
result.p_values.round(4)

# %%
_ = result.plot()

# %% [markdown]
# *How to read it.* Left of the line, the best gave what happened a higher density. FactorVAE is
# trained, as published, on the density of each asset by itself; the joint density that its factors
# imply is then far too sure of what assets share, which CRPS, a score of single assets, cannot see.

# %% [markdown]
# ## Answer

# %%
for row in result.p_values.query("score == 'log_score'").itertuples():
    clear = row.p_value < 0.05
    verdict = "better" if row.difference > 0 else "worse"
    print(
        f"Log score: RVRAE is {verdict + ' than' if clear else 'not clearly different from'} "
        f"{row.model}, {row.difference:+.3f} nats a return (s.e. {row.standard_error:.3f})."
    )

# %% [markdown]
# ## Limits
#
# - Thirty diversified portfolios, 36 test months of calm markets, one history.
# - Settings of the baselines are their authors' or near them, not tuned here; nor are RVRAE's.
# - The paper's printed figures come from other, private data and cannot be set beside these.
#
# The same on your own panel, in parallel and resumable: [compare](../docs/howto_compare.md).

# %%
factorless = result.tables["1"].query("model in ['ALSTM', 'Transformer']")["metric"].unique()
assert not result.failures
assert set(factorless) == {"predictive_r2"}
assert all(np.isfinite(each["standard_error"]).all() for each in result.tables.values())
