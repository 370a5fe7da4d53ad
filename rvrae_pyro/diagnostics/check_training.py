"""Findings on a training run: convergence, the guide's bound, and the loadings it left."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Final

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor

from rvrae_pyro.data.batch import Batch
from rvrae_pyro.diagnostics.check import FULL_WEIGHT, NO_PRIOR, SINGLE, Finding, Verdict, advise
from rvrae_pyro.displays import NEGLIGIBLE, share_text
from rvrae_pyro.models.cross_section import CrossSection
from rvrae_pyro.models.loadings import Augmented
from rvrae_pyro.models.rvrae import RVRAE
from rvrae_pyro.names import TIME


def check_training(
    history: pd.DataFrame,
    kl: xr.DataArray,
    stopped: str,
    best_step: int,
    kl_reduction: str,
    n_train: int,
    n_valid: int,
    *,
    common: xr.Dataset | None = None,
    used: Collection[str] = (),
) -> list[Finding]:
    """Judge a training run from its records, and the loadings that it left.

    Parameters
    ----------
    history, kl, stopped, best_step
        As in ``Fit``.
    kl_reduction : str
        As in ``FitConfig``.
    n_train, n_valid : int
        Observed returns in the two spans.
    common : Dataset, optional
        From ``common_variation``, of the model as it is now.
    used : collection of str
        What the fit uses already, and advice must not recommend.

    Returns
    -------
    list of Finding
    """
    findings = [_converged(history, stopped, best_step, n_train, n_valid)]
    if kl_reduction != "sum" or float(history["kl_weight"].iloc[-1]) < 1.0:
        findings.append(_weight(history, kl_reduction))
    findings.append(_collapsed(kl, best_step, common, used))
    if common is not None:
        findings.append(_characteristics(common, used))
    if n_valid:
        findings.append(_generalises(history, best_step, n_train, n_valid, used))
    return findings


def check_evidence(
    bound: xr.DataArray, evidence: xr.DataArray, used: Collection[str] = ()
) -> Finding:
    """Judge the guide: how far its bound lies under the particle filter's evidence, by month."""
    gap = float((evidence - bound).mean(TIME))
    error = float((evidence - bound).std(TIME, ddof=1)) / np.sqrt(bound.sizes[TIME])
    side = "below" if gap >= 0 else "above"
    answer = f"Its bound lies {abs(gap):.2f} nats per month (s.e. {error:.2f}) {side} the evidence."
    question = "Is the guide good enough?"
    if gap < -(0.1 + 3 * error):
        return Finding(
            question,
            "look" if gap > -1 else "bad",
            f"{answer} No lower bound can lie above: the particle filter's estimate of the "
            "evidence is too low, and so are log scores that come from it.",
            "more particles (`num_particles`, `num_samples`).",
        )
    if gap < 0.5 + 2 * error:
        if gap < 0:
            answer = f"{answer} The difference is within the error of both estimates."
        return Finding(question, "good", answer)
    verdict: Verdict = "look" if gap < 5 else "bad"
    remedy = advise(
        used,
        ("guide:Conjugate", "guide=rv.guides.Conjugate()"),
        ("", "longer training (`max_steps`)"),
    )
    return Finding(question, verdict, answer, remedy)


def _converged(
    history: pd.DataFrame, stopped: str, best_step: int, n_train: int, n_valid: int
) -> Finding:
    question = "Did training converge?"
    last = int(history["step"].iloc[-1])
    if stopped == "converged":
        answer = f"Yes: nothing better after step {best_step}, stopped at {last}."
        return Finding(question, "good", answer)
    if stopped == "interrupted":
        answer = f"No: interrupted at step {last}."
        return Finding(question, "bad", answer, "run it again, or rv.fit(init=...).")
    judged = n_valid > 0 and history["valid_elbo"].notna().any()
    if judged and best_step <= 0.75 * last:
        answer = f"As far as validation can tell: nothing better after step {best_step} of {last}."
        return Finding(question, "good", answer)
    # by return: a percentage of a log density would change with the unit of the returns
    bound = history["valid_elbo"] / n_valid if judged else history["elbo"] / n_train
    final = float(bound.iloc[-1])
    tenth = bound.iloc[-max(2, len(bound) // 10)]
    # a rate that falls to nothing hides what is left to gain in the last tenth, less in a third
    third = bound[history["step"] <= last * 2 / 3].iloc[-1]
    gain, longer = final - float(tenth), final - float(third)
    answer = (
        f"It used all {last} steps; the bound {_moved_by(gain)} nats per return over the last "
        f"tenth of them and {_moved_by(longer)} over the last third (best at step {best_step})."
    )
    if _settled(history["step"], bound, gain, longer):
        return Finding(question, "good", f"{answer} That is too little to matter.")
    if gain + longer < 0:
        remedy = "a smaller `learning_rate`, or more draws per step (`num_particles`)."
        return Finding(question, "look", f"{answer} Training should raise it.", remedy)
    verdict: Verdict = "look" if gain < 0.01 and longer < 0.03 else "bad"
    return Finding(
        question, verdict, answer, "a larger `max_steps` ([fit] in --config), or init= this fit."
    )


def _moved_by(change: float) -> str:
    return f"{'fell' if change < 0 else 'rose'} by {abs(change):.3f}"


def _settled(steps: pd.Series, bound: pd.Series, gain: float, longer: float) -> bool:
    """Whether the bound's change at the end is within 0.01 nats per return and its noise.

    The bound is an estimate by few draws. Its noise is estimated from its changes between epochs
    of the last third, if there are five or more, or from the residuals of a line through them.
    """
    gain, longer = abs(gain), abs(longer)
    late = steps > steps.iloc[-1] * 2 / 3
    recent, when = bound[late].to_numpy(), steps[late].to_numpy(dtype=float)
    if recent.size < 5:
        return gain < 0.002 and longer < 0.01
    noise = float(np.diff(recent).std()) / np.sqrt(2)
    if noise > 0.02:
        return False
    if gain < 0.002 + 2 * noise and longer < 0.01 + 2 * noise:
        return True
    centred = when - when.mean()
    slope = float(centred @ recent / (centred @ centred))
    left = recent - recent.mean() - slope * centred
    error = np.sqrt(left @ left / (recent.size - 2) / (centred @ centred))
    span = when[-1] - when[0]
    return bool(abs(slope) * span < 0.01 + 2 * error * span)


def _weight(history: pd.DataFrame, kl_reduction: str) -> Finding:
    weights = history["kl_weight"].to_numpy()
    weight = float(weights[-1])
    answer = f"No: the KL weight ended at {weight:.3g} (kl_reduction={kl_reduction!r})."
    remedy = "kl_reduction='sum' and a schedule that ends at 1."
    if kl_reduction == "sum":
        remedy = "a `kl_schedule` that ends at 1."
        if len(weights) > 1 and weight > weights[-2]:
            answer = (
                f"No: training ended while the KL weight was still rising, at {weight:.3g} of 1."
            )
            remedy = "a larger `max_steps`, or a `kl_schedule` that reaches 1 in fewer steps."
    # two digits: 1.1 times is not 1
    narrow = f"{1.0 / np.sqrt(weight):.1f}".removesuffix(".0")
    return Finding(
        "Was the objective a bound on the evidence?",
        "bad",
        f"{answer} A learned guide's factor posteriors can be up to {narrow} times too narrow.",
        remedy,
    )


def _collapsed(
    kl: xr.DataArray, best_step: int, common: xr.Dataset | None, used: Collection[str]
) -> Finding:
    """Judge the rank of the common variation, and whether the guide sees the returns.

    A factor whose KL is 0 is not used. The converse does not hold: several factors with a KL
    can be one, seen from different sides, so the loadings are judged too.
    """
    question = "Are all factors in use?"
    mean = kl.sel(step=best_step, method="nearest").mean(TIME).to_numpy()
    blind = int((mean < _NOTHING).sum())
    answer = f"KL by factor, nats per month: {_listed(mean)}."
    unused, size = blind, mean.size
    if common is not None:
        information = common["information"].to_numpy()
        lost = int((information < _NOTHING).sum())
        if lost / information.size >= blind / size:
            unused, size = lost, information.size
            answer = (
                "Information of a month's returns by principal axis of the common variation, "
                f"nats: {_listed(information)}."
            )
    if not unused:
        return Finding(question, "good", answer)
    verdict: Verdict = "bad" if unused == size else "look"
    return Finding(
        question,
        verdict,
        f"{answer} {unused} of {size} {'carries' if unused == 1 else 'carry'} nothing.",
        advise(
            used,
            (SINGLE, "fewer factors"),
            (NO_PRIOR, WEAKER),
            ("guide:Conjugate", "guide=rv.guides.Conjugate(), which is built on the month's sums"),
            (FULL_WEIGHT, "a slower KL annealing that ends at 1"),
        ),
    )


def _characteristics(common: xr.Dataset, used: Collection[str]) -> Finding:
    """Judge whether loadings differ by the assets' characteristics, or by asset."""
    question = "Do characteristics move the loadings?"
    share, apart = float(common["moved"]), float(common["apart"])
    percent = f"{share_text(share)} of the common variance goes with them."
    if share >= _HARDLY:
        return Finding(question, "good", f"Yes: {percent}")
    effects = "loadings:AssetEffects" in used
    if effects and apart >= _HARDLY:
        hardly = "not" if share < _FIXED else "hardly"
        return Finding(
            question,
            "good",
            f"Exposures differ by asset, {hardly} by characteristic: {share_text(apart)} of the "
            f"common variance goes with the assets' differences, {share_text(share)} with their "
            "characteristics. A new asset has the exposures of the average asset, with their "
            "spread.",
        )
    remedy = advise(
        used,
        (NO_PRIOR, EFFECTS if effects else WEAKER),
        (
            "loadings:AssetEffects" if effects else "loadings:Linear",
            "loadings=rv.loadings.Linear(...), whose few weights need less data",
        ),
        ("", "longer training"),
    )
    if share < _FIXED:
        answer = f"No characteristic moves any loading: {percent}"
        if apart < _FIXED:  # else the time since an asset was first listed moves a recurrent state
            answer = f"{answer} All assets have the same exposures."
        return Finding(question, "bad", answer, remedy)
    return Finding(question, "look", f"Hardly: {percent}", remedy)


WEAKER: Final = "a weaker prior of the loadings' weights (`weights=` of the loadings)"
EFFECTS: Final = "a wider prior of the effects by asset (`weights=` of rv.loadings.AssetEffects)"
_NOTHING: Final = 0.02  # nats per month below which a factor or axis carries nothing
_FIXED: Final = NEGLIGIBLE  # share of the common variance: loadings vary by 1 % of their size
_HARDLY: Final = 2.5e-3  # by 5 %


def _listed(values: np.ndarray) -> str:
    return ", ".join(f"{value:.2f}" for value in values)


def _generalises(
    history: pd.DataFrame, best_step: int, n_train: int, n_valid: int, used: Collection[str]
) -> Finding:
    row = history[history["step"] == best_step].iloc[-1]
    seen, unseen = row["elbo"] / n_train, row["valid_elbo"] / n_valid
    answer = (
        f"Bound per return, in nats: {seen:.3f} in training, {unseen:.3f} in validation. Months "
        "differ in how hard they are, so only a large drop means overfitting."
    )
    verdict: Verdict = "good" if seen - unseen < 0.15 else "look"
    remedy = ""
    if verdict != "good":
        remedy = advise(
            used, ("", "a stronger weight prior"), (SINGLE, "fewer factors"), ("", "more data")
        )
    return Finding("Does it hold outside the training months?", verdict, answer, remedy)


AXIS = "axis"


@torch.no_grad()
def common_variation(
    model: RVRAE, batch: Batch, predicted: Tensor, cross: CrossSection
) -> xr.Dataset:
    r"""Judge loadings B and factor covariance S together, free of rotation and scale.

    The nonzero eigenvalues of :math:`B S B'` relative to the idiosyncratic variances D are those
    of :math:`S^{1/2} B' D^{-1} B S^{1/2}`; an axis with eigenvalue :math:`\lambda` lets a month's
    returns carry :math:`\tfrac12 \log(1 + \lambda)` nats of information on the factors.

    ``predicted`` (n_times, num_samples, n_factors) are draws given the months before. The result
    has ``information`` (axis,): nats per month, mean over months with two listed assets or more,
    largest first; ``moved``: share of the learned loadings' part of the common variance,
    :math:`\sum_{it} \beta_{it}' S_t \beta_{it}`, that goes away (or comes in) when every
    characteristic is set to its month's mean over the listed assets; and ``apart``: share that
    goes away when all loadings are set to their month's mean. Both are 0 if there is none.

    Only the learned loadings of ``rv.loadings.Augmented`` are judged: its other factors are the
    characteristics themselves. Cost O(T N K^2) and two passes through the loadings.
    """
    loadings = model.loadings
    learned = loadings.learned if isinstance(loadings, Augmented) else loadings
    n_factors = int(learned.n_factors)
    listed = batch.listed.unsqueeze(-1)
    centred = predicted[..., :n_factors] - predicted[..., :n_factors].mean(1, keepdim=True)
    covariance = centred.mT @ centred / predicted.shape[1]
    values, vectors = torch.linalg.eigh(covariance)
    root = vectors * values.clamp_min(0.0).sqrt().unsqueeze(-2)
    beta = torch.where(listed, cross.beta[..., :n_factors], 0.0) @ root
    scaled = beta / model.likelihood.deviation(cross.scale).unsqueeze(-1)
    power = torch.linalg.eigvalsh(scaled.mT @ scaled).clamp_min(0.0).flip(-1)
    enough = batch.listed.sum(1) > 1
    information = 0.5 * torch.log1p(power[enough]).mean(0)
    moved, apart = _moved(model, batch, root, n_factors)
    return xr.Dataset(
        {
            "information": (AXIS, information.cpu().numpy()),
            "moved": ((), moved),
            "apart": ((), apart),
        },
        {AXIS: np.arange(1, n_factors + 1)},
    )


def _moved(model: RVRAE, batch: Batch, root: Tensor, n_factors: int) -> tuple[float, float]:
    """Shares of the common variance: by the characteristics' differences, by all differences."""
    listed = batch.listed.unsqueeze(-1)
    count = listed.sum(1, keepdim=True).clamp_min(1)
    mean = torch.where(listed, batch.characteristics, 0.0).sum(1, keepdim=True) / count
    level = dataclasses.replace(batch, characteristics=torch.where(listed, mean, 0.0))
    own, same = (
        torch.where(listed, model.loadings.online(each)[0][..., :n_factors], 0.0) @ root
        for each in (batch, level)
    )
    total = float(own.square().sum())
    if not total > 0.0:
        return 0.0, 0.0
    middle = torch.where(listed, own.sum(1, keepdim=True) / count, 0.0)
    moved, apart = (float((own - each).square().sum()) / total for each in (same, middle))
    return moved, apart
