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
# # From your own DataFrame to next month's return and risk
#
# **Question.** You have a table with one row a month and asset: a return, and numbers that were
# known before it. What will each asset return next month, how sure can you be, and how was
# that checked?
#
# The steps are: table, panel, a look at what the model expects before it has learned, fit,
# convergence, a look at whether the fitted model could have made the data, forecast with risk,
# and what all this cannot tell you.

# %%
import os
import tempfile
import warnings
from pathlib import Path

SEED = 0
SIZES = {
    "months": {"train": 180, "valid": 36, "test": 36},
    "n_factors": 5,
    "training": {"max_steps": 300, "window": 12, "learning_rate": 0.01},
    "annealing": 100,
    "draws": 1000,
}
if os.environ.get("RVRAE_SMOKE") == "1":  # seconds instead of minutes; the numbers mean little
    SIZES = {
        "months": {"train": 24, "valid": 6, "test": 12},
        "n_factors": 2,
        "training": {"max_steps": 8, "window": 12, "learning_rate": 0.04},
        "annealing": 4,
        "draws": 1000,
    }

# %%
import arviz_plots as azp
import arviz_stats as azs
import matplotlib.pyplot as plt
import pandas as pd

import rvrae_pyro as rv

warnings.filterwarnings("ignore", message="IProgress not found")  # of a bar that is not used

# %% [markdown]
# ## Data
#
# Thirty portfolios of US stocks stand in for your table. Yours may come from anywhere, as long as
# it has one row a (month, asset). The columns here:
#
# - `date` any day of the month, `asset` an id, `ret` the simple return in decimals (0.01 is 1 %);
# - every other numeric column is a *characteristic*, known **before** the month of the return it
#   stands beside (pass `lag=1` to `from_frame` if yours is known only at the month's end);
# - `risk_free` is named below, or it would be taken for a characteristic too.
#
# The last month, 2017-04, has characteristics and no return yet: the *live* month, which will be
# forecast.

# %%
frame = rv.data.to_frame(rv.data.load_french())
frame.iloc[[0, 1, -2, -1], :8]

# %% [markdown]
# `from_frame` makes a labelled `xarray.Dataset`, the *panel*, and checks it: all that is wrong
# with a table comes in one error that names dates and assets. `excess=True` says that these returns
# are already in excess of the risk-free rate.
#
# Then three steps whose order matters. `market_context` measures the state of the market (level
# and spread of volatility and betas) on raw characteristics. `rank_characteristics` replaces each
# by its rank among the month's assets. Both use what was known before the month and nothing else.
# `split` cuts the months in time order, so that the test months come last.

# %%
panel = rv.data.from_frame(frame, risk_free="risk_free", excess=True)
rv.data.check_panel(panel)
panel = rv.data.rank_characteristics(rv.data.market_context(panel))
train, valid, test = rv.data.split(panel, **SIZES["months"])
recent = panel.sel(time=slice(train.time[0], None))  # from the first training month to the live one
live = panel.time[-1]
pd.DataFrame(
    {
        name: [str(part.time.values[0])[:7], str(part.time.values[-1])[:7], part.sizes["time"]]
        for name, part in {"train": train, "valid": valid, "test": test}.items()
    },
    index=["first", "last", "months"],
)

# %% [markdown]
# ## The model, and what it expects before it has learned
#
# `RVRAE(n_characteristics, n_factors)` is made of parts with defaults: loadings from each asset's
# characteristics, a recurrent prior that says what the factors may do next month, and heavy-tailed
# returns around loadings times factors. `n_context` lets the prior read the market state.
#
# A prior is worth a look before it meets data: would it be surprised by returns of ordinary size?
# `rv.fit` sets the model's unit (the size of a typical training return); here we set it ourselves
# to look first. The network weights are still their random starting values.

# %%
model = rv.RVRAE(
    panel.sizes["characteristic"], SIZES["n_factors"], n_context=panel.sizes["feature"]
)
model.set_units(rv.data.to_batch(train))
prior = rv.prior_predictive(model, train, num_samples=100, seed=SEED)

expected = prior["prior_predictive"]["returns"]
probabilities = [0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99]
pd.DataFrame(
    {
        "expected by the prior, %": 100 * expected.quantile(probabilities),
        "seen in training, %": 100 * train["returns"].quantile(probabilities),
    },
    index=pd.Index(probabilities, name="quantile"),
).round(1)

# %% [markdown]
# The two columns should be of one order: a prior ten times as wide, or as narrow, would need most
# of the data to be corrected.

# %% [markdown]
# ## Fit
#
# `valid` decides when to stop and is not learned from. The KL term, which holds the guide to the
# prior, is let in over the first `annealing` steps. The same seed gives the same numbers.

# %%
config = rv.FitConfig(
    **SIZES["training"], kl_schedule=rv.schedules.Linear(steps=SIZES["annealing"])
)
fit = rv.fit(model, train, valid, config=config, seed=SEED, progress=False)

# %% [markdown]
# ## Did it converge?
#
# `check()` puts it in words and figures. The panel given to it lets it hold the guide's bound
# against the evidence that a particle filter finds.

# %%
fit.check(train)

# %%
_ = rv.plots.training(fit)

# %%
_ = rv.plots.elbo(fit)

# %% [markdown]
# *How to read it.* First picture: the bound should rise and then level off; validation lies higher
# or lower than training because its months have another volatility. Second: the KL is the distance
# between expected log likelihood and bound; by month, how much the returns taught about the
# factors. Bright months are those that the prior did not expect; a dark picture would mean that the
# factors are not used.

# %% [markdown]
# ## The factors
#
# *Filtered* means: known at the end of the month, from returns up to it and none after.

# %%
filtered = fit.filter(recent, num_samples=SIZES["draws"], seed=SEED)
_ = rv.plots.factors(filtered, marks={"valid": valid.time[0], "test": test.time[0]})

# %% [markdown]
# *How to read it.* Line and band: mean and 90 % interval. Turning all factors and loadings together
# leaves every return unchanged, so the picture shows their principal axes, the largest first, each
# in the size of its effect on the assets' returns.

# %% [markdown]
# ## Could the fitted model have made these data?
#
# Replicates of the training months: factors drawn given the month's returns, returns drawn anew.

# %%
replicates = fit.posterior_predictive(train, num_samples=50, seed=SEED)
azp.plot_ppc_dist(replicates, num_samples=50, figure_kwargs={"figsize": (7, 3.6)})
_ = plt.gca().set(xlabel="excess return, decimal per month", ylabel="density", xlim=(-0.25, 0.25))

# %% [markdown]
# *How to read it.* The thick line should run inside the bundle. Where it leaves it, the model makes
# too few or too many returns of that size. These replicates have seen the months they imitate, so
# this can find faults and cannot prove skill: forecasts are tested below.

# %% [markdown]
# ## The answer: next month
#
# `forecast` draws each asset's return of the live month from what was known before it.
# `rv.risk.summarize` turns draws into mean, spread, value at risk (`var`) and expected shortfall
# (`es`), both as positive losses, and splits the variance by source. The interval comes from ArviZ.

# %%
forecast = fit.forecast(recent, num_samples=SIZES["draws"], seed=SEED, times=live)
risk = rv.risk.summarize(forecast, tail=(0.05, 0.01)).isel(time=0)
interval = azs.hdi(forecast["predictions"]["returns"], prob=0.9).isel(time=0)
table = pd.DataFrame(
    {
        "portfolio": panel["name"],
        "mean": risk["mean"],
        "sd": risk["sd"],
        "90 % from": interval.sel(ci_bound="lower"),
        "to": interval.sel(ci_bound="upper"),
        "VaR 5 %": risk["var"].sel(tail=0.05),
        "ES 5 %": risk["es"].sel(tail=0.05),
        "P(loss)": risk["prob_loss"],
        "variance from factors": risk["factor_var"] / risk["sd"] ** 2,
    },
    index=panel["asset"].to_index(),
).sort_values("mean", ascending=False)
table.head(8).style.format(precision=3)

# %%
_ = rv.plots.forecast(forecast, panel)

# %% [markdown]
# *How to read it.* Dots are predictive means, bars 50 % and 90 % intervals. The means differ by
# tenths of a per cent and the bars span many per cent: one month's return is nearly all
# surprise. What the model knows is how large that surprise will be, and which assets share it.

# %% [markdown]
# ## How far to trust it: forecasts of months it has not seen
#
# Each test month is forecast from the months before it, with the weights of the training months,
# and held against what happened. If 90 % intervals are honest, 90 % of returns fall inside. The
# benchmark knows no model: each asset's own training returns, as if next month were one of them.

# %%
checked = fit.forecast(
    recent, num_samples=SIZES["draws"], seed=SEED, times=slice(test.time[0], test.time[-1])
)
draws = checked["predictions"]["returns"]
history = train["returns"].rename(time="draw").drop_vars("draw").broadcast_like(test["time"])
scores = {}
for name, each in {"RVRAE": draws, "own history": history}.items():
    covered = rv.evaluation.coverage(test["returns"], each, prob=0.9, standard_error=True)
    missed = rv.evaluation.crps(test["returns"], each, standard_error=True)
    scores[name] = [
        *(100 * covered[v].item() for v in ("estimate", "standard_error")),
        *(100 * missed[v].item() for v in ("estimate", "standard_error")),
    ]
scores = pd.DataFrame(
    scores, index=["90 % coverage, %", "its s.e.", "CRPS, % (lower is better)", "its s.e. "]
).T
scores.round(2)

# %% [markdown]
# *How to read it.* Standard errors are Newey-West over months, for assets of one month rise and
# fall together and do not count as separate evidence. CRPS is the distance between the forecast
# distribution and the outcome, averaged over assets and months.

# %%
coverage, error = scores.loc["RVRAE", ["90 % coverage, %", "its s.e."]]
away = (coverage - 90) / error
print(
    f"The 90 % intervals covered {coverage:.1f} % of the test returns, {abs(away):.1f} standard "
    f"errors {'above' if away > 0 else 'below'} 90: "
    + ("no sign that they are wrong." if abs(away) < 2 else "they are too ")
    + ("" if abs(away) < 2 else "wide for these months." if away > 0 else "narrow.")
)

# %%
_ = rv.plots.calibration(checked, test)

# %%
_ = rv.plots.volatility(checked, test, quantity="cross_section")

# %% [markdown]
# *How to read it.* First picture: a flat histogram and a line on the diagonal are right; the grey
# bands show what chance alone does to forecasts that are right, for assets of one month move
# together. Second: each month's band was known before the month; one dot in ten should lie outside.
# A band that stays wide through low-volatility months reacts slowly.

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
again = loaded.forecast(recent, num_samples=SIZES["draws"], seed=SEED, times=live)
identical = again["predictions"]["returns"].identical(forecast["predictions"]["returns"])
identical

# %% [markdown]
# ## Limits
#
# - Weights are fixed at one estimate. Another seed gives another fit, and the spread between them
#   is not in the intervals above.
# - Three years of test months are few, and they were calmer than the training months, which hold
#   two crashes: the standard errors above do not know that.
# - Thirty diversified portfolios are easy. On single stocks expect wider intervals and more misses;
#   there, survivorship in your table is your own affair.
# - Expected returns: a difference of means within the table is far below its uncertainty.
#
# Next: [swap a prior and check it](02_swapping_priors.ipynb),
# [bring your own data](../docs/howto_own_data.md),
# [information sets](../docs/information_set.md).

# %% [markdown]
# ## The claim of this notebook, asserted
#
# The intervals of unseen months are off by no more than five points beyond what noise explains;
# the live month has no returns to peep at; the saved fit forecasts as the first did.

# %%
assert abs(coverage - 90) <= 5 + 3 * error, f"covered {coverage:.1f} % (s.e. {error:.1f})"
assert panel["returns"].sel(time=live).isnull().all()
assert table[["mean", "sd", "VaR 5 %", "ES 5 %"]].notna().all(axis=None)
assert identical
