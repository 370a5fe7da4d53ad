"""Simulate a model month by month: paths from any state, and prior predictive draws."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyro
import torch
import xarray as xr
from pyro import poutine
from torch import Tensor

from rvrae_pyro.data.batch import Batch, State
from rvrae_pyro.data.panel_match import fingerprint
from rvrae_pyro.inference.particle_filter import month_random
from rvrae_pyro.models.parts import Parts, Placed
from rvrae_pyro.models.priors import Transition
from rvrae_pyro.models.priors.base import for_each
from rvrae_pyro.models.registry import describe_model
from rvrae_pyro.models.rvrae import RVRAE, require_model
from rvrae_pyro.models.scan import at_level
from rvrae_pyro.names import ASSET, CHAIN, DRAW, FACTOR, FACTORS, RETURNS, TIME
from rvrae_pyro.nn.asset_sums import along_factors
from rvrae_pyro.nn.gaussian import Potential
from rvrae_pyro.nn.month_summary import MonthStatistics
from rvrae_pyro.predictive.export import provenance
from rvrae_pyro.predictive.months import factor_coord, load, sample_coords
from rvrae_pyro.predictive.storage import tree_of
from rvrae_pyro.predictive.tree import label_months
from rvrae_pyro.predictive.weight_draws import in_double, label_parameter


class PathState(NamedTuple):
    """States of all parts that factors and returns move, before a month."""

    prior: State  # tensors (num_samples, size); empty for none
    auxiliary: State
    decoder: State

    @classmethod
    def initial(cls, parts: Parts | Placed, num_samples: int) -> PathState:
        """States before the first month of a panel."""
        latent = parts.factor_prior.auxiliary
        states = (
            parts.factor_prior.initial(),
            () if latent is None else latent.initial(),
            parts.decoder.initial(),
        )
        return cls(*(spread(state, num_samples) for state in states))

    def first(self, num_samples: int) -> PathState:
        """Keep the first draws."""
        return PathState(*(tuple(s[:num_samples] for s in state) for state in self))


class Moment(NamedTuple):
    """Context of a month, as the factor prior and its auxiliary latent encode it."""

    context: Tensor | None
    latent_context: Tensor | None

    @classmethod
    def of(cls, parts: Parts | Placed, context: Tensor | None) -> Moment:
        """Encode the context (n_features,) of a single month."""
        month = None if context is None else context[None]
        prior, latent = parts.factor_prior, parts.factor_prior.auxiliary
        both = (prior.encode(month), None if latent is None else latent.encode(month))
        return cls(*(None if each is None else each[..., 0, :] for each in both))


class Draw(NamedTuple):
    """Draws of a month, before its returns."""

    ahead: Transition  # prior of the codes, one per draw
    codes: Tensor  # (num_samples, n_factors)
    level: Tensor | None  # (num_samples,), log multiplier of the idiosyncratic scales
    latent: Tensor | None  # (num_samples, size), auxiliary latent of the prior


class Cells(NamedTuple):
    """Cross-section of the assets that have a return in a month."""

    beta: Tensor  # (n_assets, n_factors), with draws in front where weights are drawn
    alpha: Tensor | None  # (n_assets,)
    scale: Tensor  # (n_assets,), idiosyncratic scales at level 0
    listed: Tensor  # (n_assets,), assets whose returns may move the state


def spread(state: State, num_samples: int) -> State:
    """Give every draw the same state."""
    return tuple(s.expand(num_samples, s.shape[-1]) for s in state)


def draw_month(parts: Parts | Placed, state: PathState, moment: Moment, num_samples: int) -> Draw:
    """Draw a month's auxiliary latent and codes from the prior, with torch's global stream."""
    prior, latent = parts.factor_prior, parts.factor_prior.auxiliary
    context, value = moment.context, None
    if latent is not None:
        coming = for_each(latent.transition(state.auxiliary, moment.latent_context), num_samples)
        value = coming.sample(latent.noise(coming.loc.shape, coming.loc))
        context = prior.drive(context, value)
    ahead, level = prior.ahead(state.prior, context)
    ahead = for_each(ahead, num_samples)
    codes = ahead.sample(prior.noise(ahead.loc.shape, ahead.loc))
    return Draw(ahead, codes, None if level is None else level.expand(num_samples), value)


def advance(
    parts: Parts | Placed,
    state: PathState,
    moment: Moment,
    draw: Draw,
    cells: Cells,
    returns: Tensor,
) -> PathState:
    """States after a month, given its draws and simulated returns (num_samples, n_assets).

    A prior that conditions on history is moved by the returns: an observed recurrence by the
    filtered mean of the factors given them, one with both by their summary.
    """
    prior, latent = parts.factor_prior, parts.factor_prior.auxiliary
    decoder_state = parts.decoder.advance(state.decoder, draw.codes)
    context, driver, auxiliary = moment.context, draw.codes, state.auxiliary
    if latent is not None and draw.latent is not None:
        context = prior.drive(context, draw.latent)
        auxiliary = latent.advance(state.auxiliary, draw.latent, moment.latent_context)
    if prior.conditions_on_history:
        residual = returns if cells.alpha is None else returns - cells.alpha
        scale = cells.scale.expand_as(residual)
        if prior.summarises:
            sums = MonthStatistics.of(residual, cells.beta, scale, cells.listed)
            context = prior.drive(context, sums.summary())
        else:
            unit = parts.return_scale
            beta = cells.beta.expand(*residual.shape, cells.beta.shape[-1])
            start = prior.transition(prior.initial(), moment.context)
            # with a month, so that draws of parameters are particles
            month = parts.likelihood.potential(
                residual.unsqueeze(-2) / unit,
                beta.unsqueeze(-3) / unit,
                scale.unsqueeze(-2) / unit,
                cells.listed.unsqueeze(-2),
                _with_month(start),
            )
            potential = Potential(month.precision.squeeze(-3), month.shift.squeeze(-2))
            driver = draw.ahead.update(at_level(potential, draw.level)).mean
    return PathState(prior.advance(state.prior, driver, context), auxiliary, decoder_state)


def _with_month(ahead: Transition) -> Transition:
    """Add a dimension for the month to fields that have draws."""
    fields = [
        field.unsqueeze(field.ndim - dims) if field.ndim > dims else field
        for field, dims in zip(ahead, ahead.event_dims, strict=True)
    ]
    return type(ahead)(*fields)


_CELLS = 20_000_000
"""Hidden values of the networks that are held at a time."""


def prior_predictive(
    model: RVRAE, panel: xr.Dataset, num_samples: int = 500, seed: int = 0
) -> xr.DataTree:
    """Draw factors and returns from the model before it has seen any return.

    Parameters
    ----------
    model : RVRAE
        Trained or not: weights at their MAP are as they are; those with a posterior, and
        interpretable parameters with a prior, are drawn from it for every draw.
    panel : xarray.Dataset
        Its characteristics, context and listing are used. A latent recurrence uses no return at
        all; one that conditions on history is simulated month by month, each month's return drawn
        before the next state is computed.
    num_samples, seed : int

    Returns
    -------
    xarray.DataTree
        Groups ``prior`` (``factors``, the prior's auxiliary latent where it has one, such as
        ``log_volatility``, and drawn weights by the name of their site) and
        ``prior_predictive`` (``returns`` (chain, draw, time, asset), NaN where not listed).
        Attributes: seed, versions, the model's description, the panel's fingerprint.
    """
    require_model(model)
    batch, precise = load(model, panel), in_double(model)
    codes, returns, others = simulate(precise, batch, num_samples, seed)
    latent, months = precise.factor_prior.auxiliary, {}
    if latent is not None:
        path = others.pop(latent.site).unsqueeze(0).cpu().numpy()
        dims, path = label_months(latent.site, path)
        months[latent.site] = ((CHAIN, DRAW, *dims), path)
    factors = precise.decoder(codes, None)
    drawn = returns.cpu().numpy().astype(np.float32)
    drawn[:, ~batch.listed.cpu().numpy()] = np.nan
    coords = sample_coords(num_samples)
    labels = {TIME: batch.times, ASSET: batch.assets}
    with torch.no_grad():
        values = factors.unsqueeze(0).cpu().numpy()
    groups = {
        "prior": xr.Dataset(
            {
                FACTORS: ((CHAIN, DRAW, TIME, FACTOR), values),
                **months,
                **{name: _labelled(model, name, drawn) for name, drawn in others.items()},
            },
            coords={**coords, TIME: batch.times, FACTOR: factor_coord(model.n_factors)},
        ),
        "prior_predictive": xr.Dataset(
            {RETURNS: ((CHAIN, DRAW, TIME, ASSET), drawn[None])}, coords={**coords, **labels}
        ),
    }
    return tree_of(groups, provenance(seed, {"model": describe_model(model)}, fingerprint(panel)))


_Run = tuple[Tensor, Tensor, dict[str, Tensor]]
"""Codes, returns, and by site weights and auxiliary latent (num_samples, *shape)."""


@torch.no_grad()
def simulate(
    model: RVRAE, batch: Batch, num_samples: int, seed: int, *, fixed: bool = False
) -> _Run:
    """Draw codes (num_samples, n_times, n_factors) and the returns of all assets from the model.

    The batch's returns are not used; the model has its floating type. Weights and parameters with a
    posterior are ``fixed`` at its mean, or drawn from their prior for every draw. Also returned by
    site: these draws, and the auxiliary latent.
    """
    run = _simulate_forward if model.factor_prior.conditions_on_history else _simulate_at_once
    with month_random(seed, batch.times[0], "prior"):
        runs = [run(model, batch, size, fixed) for size in _chunks(model, batch, num_samples)]
    codes, returns = torch.cat([r[0] for r in runs]), torch.cat([r[1] for r in runs])
    return codes, returns, {n: torch.cat([r[2][n] for r in runs]) for n in runs[0][2]}


def _chunks(model: RVRAE, batch: Batch, num_samples: int) -> list[int]:
    """Draws at a time: each draw of the weights needs its own loadings and networks."""
    size = num_samples
    if model.drawn_sites:
        parts = model.parts
        widths = [parts.get_parameter(name).shape[0] for name in model.weight_sites]
        widest = max([parts.loadings.n_factors, *widths])
        size = max(1, _CELLS // (batch.listed.numel() * widest))
    return [min(size, num_samples - start) for start in range(0, num_samples, size)]


def _labelled(model: RVRAE, name: str, drawn: Tensor) -> tuple[tuple[str, ...], np.ndarray]:
    """Name the dims of drawn weights and parameters (draw, *shape)."""
    dims = tuple(f"{name}_dim_{i}" for i in range(drawn.ndim - 1))
    if name in model.hyper_sites:
        dims, _ = label_parameter(model, name, drawn.shape[1:])
    return (CHAIN, DRAW, *dims), drawn.unsqueeze(0).cpu().numpy()


def _at_means(model: RVRAE, num_samples: int) -> dict[str, Tensor]:
    """Means of all weights that have a posterior, the same for every draw."""
    sites = model.parts.weight_guide.sites
    each = {site.name: site.value(model.parts).detach() for site in sites}
    return {name: mean.expand(num_samples, *mean.shape) for name, mean in each.items()}


def _simulate_at_once(model: RVRAE, batch: Batch, num_samples: int, fixed: bool) -> _Run:
    """Run the Pyro model itself, with particles on a plate of their own."""
    known = _at_means(model, num_samples) if fixed else {}
    given = poutine.condition(model.model, {n: w[:, None, None] for n, w in known.items()})
    with pyro.plate("particles", num_samples, dim=-3), pyro.validation_enabled(False):
        trace = poutine.trace(given).get_trace(batch.without_returns())
    codes, returns = trace.nodes[FACTORS]["value"], trace.nodes[RETURNS]["value"]
    assert isinstance(codes, Tensor)
    assert isinstance(returns, Tensor)
    codes = codes.squeeze(-2)
    shapes = {s.name: s.shape(model.parts) for s in model.parts.weight_guide.sites}
    latent = model.factor_prior.auxiliary
    if latent is not None:
        shapes[latent.site] = torch.Size((batch.n_times, latent.n_factors))
    others = {}
    for name, shape in shapes.items():
        drawn = trace.nodes[name]["value"]
        assert isinstance(drawn, Tensor)
        others[name] = drawn.reshape(torch.Size((num_samples, *shape)))
    return codes, returns.expand(num_samples, *returns.shape[-2:]), others


def _simulate_forward(model: RVRAE, batch: Batch, num_samples: int, fixed: bool) -> _Run:
    """Simulate a prior that conditions on history: a month's returns move the next state."""
    whole = model.parts
    weights = _at_means(model, num_samples)
    if not fixed:
        shape, random = torch.Size((num_samples,)), whole.weight_guide.sites
        weights = {s.name: s.prior(whole).expand(shape).sample() for s in random}
    # no return enters it: loadings and scales of all months are known beforehand
    sites = {name: drawn[:, None, None] for name, drawn in weights.items()}
    parts = whole.placed(sites)
    cross = (
        whole.cross_section_before_returns(batch, sites)
        if sites
        else whole.online_cross_section(batch)
    )
    state = PathState.initial(parts, num_samples)
    codes, returns = [], []
    for t in range(batch.n_times):
        moment = Moment.of(parts, None if batch.context is None else batch.context[t])
        draw = draw_month(parts, state, moment, num_samples)
        cells = Cells(
            cross.beta[..., t, :, :],
            None if cross.alpha is None else cross.alpha[..., t, :],
            cross.scale[..., t, :],
            batch.listed[t],
        )
        decoder_state = parts.decoder.advance(state.decoder, draw.codes)
        loc = along_factors(cells.beta, parts.decoder.read(decoder_state, draw.codes))
        loc = loc if cells.alpha is None else loc + cells.alpha
        scale = cells.scale.expand_as(loc)
        scale = scale if draw.level is None else scale * draw.level.exp().unsqueeze(-1)
        # with a month, so that draws of the likelihood's parameters are particles
        law = parts.likelihood.distribution(loc.unsqueeze(-2), scale.unsqueeze(-2))
        value = law.sample().squeeze(-2)
        state = advance(parts, state, moment, draw, cells, value)
        codes.append(draw.codes)
        returns.append(value)
    return torch.stack(codes, 1), torch.stack(returns, 1), weights
