"""Tests of a part of your own: whether it keeps the contract that all parts share.

Call :func:`check_part` from a test, or from a notebook, on a function that makes your part::

    rv.testing.check_part("factor_prior", lambda: Garch(2))

It puts the part into small models with built-in ones around it and runs every check below. The
built-in parts pass the same checks.
"""

from __future__ import annotations

import copy
import inspect
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyro
import torch
import xarray as xr
from pyro import poutine
from pyro.infer import Predictive, Trace_ELBO
from torch import Tensor, nn

from rvrae_pyro.data.batch import Batch, to_batch
from rvrae_pyro.data.simulators import simulate_dynamic
from rvrae_pyro.errors import ConfigError, ContractError, RvraeError, check_choice
from rvrae_pyro.fitting.fit import Fit
from rvrae_pyro.fitting.training import fit, load
from rvrae_pyro.inference.config import FitConfig
from rvrae_pyro.inference.kl import month_kl
from rvrae_pyro.models import guides, likelihoods, loadings, priors
from rvrae_pyro.models.contract import check_arguments, check_likelihood, check_prior
from rvrae_pyro.models.kinds import describe_kind
from rvrae_pyro.models.part import Part
from rvrae_pyro.models.rvrae import RVRAE, require_model
from rvrae_pyro.names import FACTORS, RETURNS
from rvrae_pyro.nn.seeding import seeded

__all__ = ["CHECKS", "N_CHARACTERISTICS", "N_FACTORS", "ContractError", "check_model", "check_part"]

N_CHARACTERISTICS = 4
"""Characteristics of the panel that parts are tested on."""

N_FACTORS = 2
"""Factors of the models that parts are tested in."""

Slot = Literal["loadings", "factor_prior", "decoder", "likelihood", "guide"]

_EMPTY = 3
"""Month of the test panel without a return."""

_LATE = 6
"""Month from which returns are changed to see whether anything before it notices."""


def check_part(slot: Slot, make: Callable[[], nn.Module], **others: Callable[[], Any]) -> None:
    """Run all checks on a part, within a small model.

    Parameters
    ----------
    slot : {"loadings", "factor_prior", "decoder", "likelihood", "guide"}
        The argument of ``rv.RVRAE`` that takes the part.
    make : callable
        Makes the part anew, for ``N_CHARACTERISTICS`` and ``N_FACTORS``.
    **others : callable
        By slot, what makes the other parts; linear loadings, AR1, Normal returns and the
        conjugate guide unless told.

    Raises
    ------
    ConfigError
        If ``make`` is no function, or what it makes does not belong in the slot.
    ContractError
        At the first check that fails; the message says what was expected and what to look at.
    """
    makers: dict[str, Callable[[], Any]] = {
        "loadings": lambda: loadings.Linear(N_CHARACTERISTICS, N_FACTORS),
        "factor_prior": lambda: priors.AR1(N_FACTORS),
        "likelihood": likelihoods.Normal,
        "guide": guides.Conjugate,
    }
    check_choice("slot", slot, (*makers, "decoder"))
    for name, maker in {**others, slot: make}.items():
        if name not in (*makers, "decoder"):
            raise ConfigError(
                f"no slot {name!r}; there are {', '.join([*makers, 'decoder'])}. Each takes a "
                "function that builds a part."
            )
        _check_maker(slot if name == slot else name, maker)
    makers.update({**others, slot: make})

    def build() -> RVRAE:
        parts = {name: maker() for name, maker in makers.items()}
        return RVRAE(N_CHARACTERISTICS, N_FACTORS, **parts)

    build()  # a part of another kind raises before any check

    check_model(build)


def check_model(make: Callable[[], RVRAE]) -> None:
    """Run all checks on a whole model of ``N_CHARACTERISTICS`` and ``N_FACTORS``.

    Parameters
    ----------
    make : callable
        Makes the model anew, with the same parts.

    Raises
    ------
    ContractError
        At the first check that fails.
    """
    _check_maker("model", make)
    require_model(make(), "make()")
    for check in CHECKS:
        with seeded(0):
            _run(check, make)


def _check_maker(what: str, make: object) -> None:
    """Raise unless ``make`` can be called without arguments."""
    remedy = f"Pass a function that builds the {what}, e.g. lambda: MyPart(N_FACTORS)."
    if isinstance(make, nn.Module) or not callable(make):
        raise ConfigError(
            f"what makes the {what} must be a function; got {describe_kind(make)}. {remedy}"
        )
    try:
        inspect.signature(make).bind()
    except TypeError as error:
        raise ConfigError(
            f"what makes the {what} must be called without arguments: {error}. {remedy}"
        ) from error


def parts_are_well_formed(make: Callable[[], RVRAE]) -> None:
    """States, transitions and distributions have the types and shapes that others rely on."""
    model = make().double()
    for part in (model.loadings, model.factor_prior, model.likelihood, model.guide_part):
        if isinstance(part, Part):
            check_arguments(part)
    check_prior(model.factor_prior, torch.float64)
    check_likelihood(model.likelihood, torch.float64)


def shapes_and_plates(make: Callable[[], RVRAE]) -> None:
    """One term a month and a cell, plates where they belong, the same latents on both sides."""
    model, batch = _stirred(make), _batch()
    guide, trace = _traces(model, batch)
    drawn = {n for n, s in guide.nodes.items() if s["type"] == "sample"} - {"time"}
    latent = {n for n, s in trace.nodes.items() if s["type"] == "sample" and not s["is_observed"]}
    _expect(drawn == latent - {"time", "asset"}, f"model and guide differ in latents: {drawn}")
    for name, owner in ((FACTORS, guide), (FACTORS, trace)):
        site: Any = owner.nodes[name]
        found = tuple(site["value"].shape), tuple(site["log_prob"].shape)
        wanted = (batch.n_times, 1, N_FACTORS), (batch.n_times, 1)
        _expect(found == wanted, f"{name!r} must have value and log_prob {wanted}; got {found}")
    cells: Any = trace.nodes[RETURNS]["log_prob"]
    _expect(cells.shape == batch.returns.shape, f"'returns' has log_prob {tuple(cells.shape)}")
    unseen = bool((cells[~batch.observed] == 0).all())
    _expect(unseen, "a return that was not observed adds to the density")
    for owner in (guide, trace):
        _expect(
            bool(torch.isfinite(torch.as_tensor(owner.log_prob_sum()))), "a density is not finite"
        )


def particles_agree(make: Callable[[], RVRAE]) -> None:
    """Vectorised particles are so many draws: one by one they give the same terms."""
    model, batch = _stirred(make), _batch()
    plate = pyro.plate("particles", 3, dim=-3)
    guide = poutine.trace(plate(model.guide)).get_trace(batch)
    trace = poutine.trace(poutine.replay(plate(model.model), guide)).get_trace(batch)
    trace.compute_log_prob()
    names = _latents(guide)
    draws = _values(guide)
    for i in range(3):
        fixed = {name: values[i] for name, values in draws.items()}
        one = poutine.trace(poutine.condition(model.model, fixed)).get_trace(batch)
        one.compute_log_prob()
        for name in (*names, RETURNS):
            many, single = _density(trace, name)[i], _density(one, name)
            _expect(
                torch.allclose(many, single.expand_as(many), rtol=1e-8, atol=1e-8),
                f"{name!r} has another density with particles on a leading dimension than "
                "alone; let every operation work on the last dimensions",
            )


def predictive_works(make: Callable[[], RVRAE]) -> None:
    """Pyro's ``Predictive`` draws the same shapes in parallel and one by one."""
    model, batch = _stirred(make), _batch().without_returns()
    for parallel in (False, True):
        draw = Predictive(model.model, guide=model.guide, num_samples=3, parallel=parallel)
        returns = draw(batch)[RETURNS]
        size = batch.n_times * batch.n_assets * 3
        _expect(returns.numel() == size, f"Predictive(parallel={parallel}) gave {returns.shape}")
        _expect(bool(torch.isfinite(returns).all()), "a replicate is not finite")


def types_and_devices_move(make: Callable[[], RVRAE]) -> None:
    """Single and double precision agree, and no tensor stays behind when the model moves."""
    model, batch = _stirred(make), _batch()
    guide = poutine.trace(model.guide).get_trace(batch)
    path = _values(guide)
    exact = _log_joint(model, batch, path)
    small = {name: value.float() for name, value in path.items()}
    rounded = _log_joint(copy.deepcopy(model).float(), batch.to(dtype=torch.float32), small)
    _expect(rounded.dtype == torch.float32, f"single precision gave {rounded.dtype}")
    near = torch.allclose(rounded.double(), exact, rtol=1e-3, atol=1e-1)
    _expect(near, f"single precision gave {float(rounded):.4f}, double {float(exact):.4f}")
    there = copy.deepcopy(model).to("meta")
    tensors = [*there.parts.parameters(), *there.parts.buffers()]
    _expect(all(t.device.type == "meta" for t in tensors), "a tensor stayed on the CPU")


def saving_keeps_everything(make: Callable[[], RVRAE]) -> None:
    """Expect the same forecasts of a fit that comes back from disk."""
    panel = _panel()
    config = FitConfig(max_steps=2, window=4)
    first = fit(make(), panel, config=config, progress=False)
    with tempfile.TemporaryDirectory() as folder:
        path = first.save(Path(folder) / "fit")
        again = load(path, model=make())
    draws = [_forecast(given, panel) for given in (first, again)]
    same = np.array_equal(draws[0], draws[1], equal_nan=True)
    _expect(
        same,
        "forecasts differ after saving and loading; keep all that is learned in "
        "nn.Parameters or buffers, and every argument of __init__ under its own name",
    )


def a_step_improves_the_bound(make: Callable[[], RVRAE]) -> None:
    """Expect a small step along the gradient to raise the bound at the same draws."""
    model, batch = _stirred(make), _batch()

    def bound() -> Tensor:
        torch.manual_seed(1)
        elbo = Trace_ELBO(num_particles=8, vectorize_particles=True, max_plate_nesting=2)
        loss: Tensor = elbo.differentiable_loss(model.model, model.guide, batch)
        return -loss

    with pyro.settings.context(module_local_params=True):
        before = bound()
        weights = [w for w in model.parts.parameters() if w.requires_grad]
        slopes = torch.autograd.grad(before, weights, materialize_grads=True)
        size = torch.sqrt(sum((s.square().sum() for s in slopes), torch.zeros(()).double()))
        _expect(bool(size > 0) and bool(torch.isfinite(size)), f"the gradient has norm {size}")
        with torch.no_grad():
            for weight, slope in zip(weights, slopes, strict=True):
                weight.add_(1e-4 * slope / size)
            after = bound()
    gain = float((after - before).detach())
    _expect(gain > 0, f"a small step along the gradient moved the bound by {gain:.3g} nats")


def nothing_looks_ahead(make: Callable[[], RVRAE]) -> None:
    """Expect returns of later months to change nothing that was said of earlier ones."""
    model, panel = _stirred(make), _panel()
    later = panel.copy(deep=True)
    later[RETURNS][_LATE:] *= -3.0
    walks = []
    for given in (panel, later):
        torch.manual_seed(2)
        walks.append(model.walk(_as_batch(given)))
    if not isinstance(model.guide_part, guides.Smoothing):
        same = torch.equal(walks[0].log_likelihood[:_LATE], walks[1].log_likelihood[:_LATE])
        _expect(same, "a month's factors depend on later returns")
    trained = fit(make(), panel, config=FitConfig(max_steps=1, window=4), progress=False)
    drawn = [_forecast(trained, given)[:, :, : _LATE + 1] for given in (panel, later)]
    same = np.array_equal(drawn[0], drawn[1], equal_nan=True)
    _expect(same, "a forecast depends on the month's own return or a later one")


def no_return_gives_the_prior(make: Callable[[], RVRAE]) -> None:
    """Expect a month without a return to leave the factors where the prior had them."""
    model = _stirred(make)
    if not isinstance(model.guide_part, guides.Conjugate):
        return  # only this guide promises it
    walk = model.walk(_batch())
    if isinstance(walk.prior, priors.Mixture):
        return  # one Gaussian stands for the mixture, with or without returns
    kl = month_kl(walk)[_EMPTY].abs()
    _expect(bool(kl < 1e-9), f"a month without a return has a KL of {float(kl):.3g} nats")


CHECKS: tuple[Callable[[Callable[[], RVRAE]], None], ...] = (
    parts_are_well_formed, shapes_and_plates, particles_agree, predictive_works,
    types_and_devices_move, a_step_improves_the_bound, no_return_gives_the_prior,
    nothing_looks_ahead, saving_keeps_everything,
)  # fmt: skip
"""All checks, each a function of what makes a model; :func:`check_model` runs them in order."""


def _run(check: Callable[[Callable[[], RVRAE]], None], make: Callable[[], RVRAE]) -> None:
    """Run one check; whatever the part raises in it becomes a breach that names the check."""
    try:
        check(make)
    except RvraeError:
        raise
    except Exception as error:
        told = (str(error).strip().splitlines() or ["no message"])[0]
        raise ContractError(
            f"the check `{check.__name__}` ended in {type(error).__name__}: {told} "
            "(the part's own lines are in the traceback above). Expected: "
            f"{(check.__doc__ or '').splitlines()[0]}"
        ) from error


def _expect(holds: bool, message: str) -> None:
    if not holds:
        raise ContractError(f"{message}.")


def _forecast(given: Fit, panel: xr.Dataset) -> np.ndarray:
    drawn: xr.DataTree = given.forecast(panel, num_samples=8)
    return drawn["predictions"].to_dataset()[RETURNS].to_numpy()


def _panel() -> xr.Dataset:
    panel = simulate_dynamic(9, 8, N_CHARACTERISTICS, N_FACTORS, turnover=0.5, missing=0.1, seed=0)
    panel = panel[["returns", "characteristics"]]
    panel[RETURNS][_EMPTY] = np.nan
    return panel


def _as_batch(panel: xr.Dataset) -> Batch:
    return to_batch(panel, dtype=torch.float64)


def _batch() -> Batch:
    return _as_batch(_panel())


def _stirred(make: Callable[[], RVRAE]) -> RVRAE:
    """Model whose weights all moved a little: no zero of the initialisation hides an error."""
    model = make().double()
    model.set_units(_batch())
    with torch.no_grad():
        for weight in model.parts.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return model


def _traces(model: RVRAE, batch: Batch) -> tuple[poutine.Trace, poutine.Trace]:
    guide = poutine.trace(model.guide).get_trace(batch)
    trace = poutine.trace(poutine.replay(model.model, guide)).get_trace(batch)
    guide.compute_log_prob()
    trace.compute_log_prob()
    return guide, trace


def _latents(guide: poutine.Trace) -> list[str]:
    return [n for n, s in guide.nodes.items() if s["type"] == "sample" and n != "time"]


def _values(guide: poutine.Trace) -> dict[str, Tensor]:
    found: dict[str, Any] = {name: guide.nodes[name]["value"] for name in _latents(guide)}
    return {name: value.detach() for name, value in found.items()}


def _density(trace: poutine.Trace, name: str) -> Tensor:
    density: Any = trace.nodes[name]["log_prob"]
    return torch.as_tensor(density).detach()


def _log_joint(model: RVRAE, batch: Batch, path: dict[str, Tensor]) -> Tensor:
    trace = poutine.trace(poutine.condition(model.model, path)).get_trace(batch)
    return torch.as_tensor(trace.log_prob_sum()).detach()
