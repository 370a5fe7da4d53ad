"""Forecasts over several periods: joint paths of factors, volatility and returns."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from rvrae_pyro.data.batch import Batch, to_batch
from rvrae_pyro.data.calendar import frequency_of, next_row
from rvrae_pyro.data.chunks import each_row
from rvrae_pyro.data.panel_match import describe_panel, match_panel
from rvrae_pyro.errors import ConfigError, PanelError
from rvrae_pyro.inference.particle_filter import Cloud, Upcoming, month_random
from rvrae_pyro.models import exact
from rvrae_pyro.models.cross_section import CrossSection
from rvrae_pyro.models.parts import Parts
from rvrae_pyro.models.priors.base import for_each
from rvrae_pyro.names import (
    ASSET,
    CHAIN,
    CHARACTERISTIC,
    CHARACTERISTICS,
    COMPOUNDED_RETURNS,
    CONTEXT,
    DRAW,
    FACTOR,
    FACTORS,
    IDIO_LOG_SCALE,
    RETURNS,
    STEP,
    TIME,
    WEIGHT_DRAW,
)
from rvrae_pyro.nn.asset_sums import along_factors
from rvrae_pyro.nn.digest import digest_of
from rvrae_pyro.predictive.filtering import FilteredDraw
from rvrae_pyro.predictive.months import by_label, chunks, drawn_from, factor_coord
from rvrae_pyro.predictive.simulate import (
    Cells,
    Draw,
    Moment,
    PathState,
    advance,
    draw_month,
    spread,
)
from rvrae_pyro.predictive.storage import Block, Drawing
from rvrae_pyro.predictive.tree import label_months
from rvrae_pyro.predictive.weight_draws import sample_labels


@dataclass(frozen=True, eq=False)
class LaterRows:
    """Characteristics, listing and context of the periods after an origin."""

    horizon: int
    given: Batch | None  # None holds the origin's own row
    positions: dict[int, list[int]]  # by origin, rows of `given` for the steps 2 to `horizon`

    def after(self, origin: int, row: Batch) -> list[Batch]:
        """Rows of the steps 2 to ``horizon``, without returns, for the origin's own ``row``."""
        if self.given is None:
            return [row] * (self.horizon - 1)
        return [self.given.window(k, k + 1, every_asset=True) for k in self.positions[origin]]


def later_rows(
    panel: xr.Dataset, batch: Batch, origins: list[int], horizon: int, future: xr.Dataset | None
) -> LaterRows:
    """Check the rows given for the periods after every origin, and find them.

    Raises
    ------
    ConfigError
        If ``future`` lacks a period, names unknown assets, or has no use.
    PanelError
        If it is no panel, or differs from ``panel`` in kind.
    """
    if future is None:
        return LaterRows(horizon, None, {})
    if horizon == 1:
        raise ConfigError(
            "`future` holds rows of the periods after the first one forecast, of which there are "
            "none with horizon=1. Leave it out, or raise `horizon`."
        )
    has_context = CONTEXT in panel
    future = match_panel(future, describe_panel(panel, context=has_context), "future")
    known = set(batch.assets.tolist())
    unknown = [str(a) for a in future[ASSET].to_numpy() if str(a) not in known]
    if unknown:
        raise ConfigError(
            f"`future` holds {len(unknown)} assets that the panel does not have, first "
            f"{unknown[0]!r}. Leave them out."
        )
    future = future.assign_coords({ASSET: future[ASSET].to_numpy().astype(str)})
    given = to_batch(
        future.reindex({ASSET: batch.assets}).assign_attrs(future.attrs),
        batch.returns.device,
        batch.returns.dtype,
    )
    if (given.context is None) != (batch.context is None):
        raise PanelError("`future` must have `context` if and only if the panel has.")
    given = dataclasses.replace(
        given, returns=torch.zeros_like(given.returns), observed=torch.zeros_like(given.observed)
    )
    return LaterRows(horizon, given, _positions(panel, batch, given, origins, horizon))


def _positions(
    panel: xr.Dataset, batch: Batch, given: Batch, origins: list[int], horizon: int
) -> dict[int, list[int]]:
    """Rows of ``given`` for each origin, by the calendar of panel and rows together."""
    frequency = frequency_of(panel)
    last = batch.times[-1]
    beyond = given.times[given.times > last]
    if beyond.size and beyond[0] > next_row(last, frequency) and frequency != "daily":
        raise ConfigError(
            f"`future` must continue the panel, which ends in {_day(last)}; its next row is "
            f"{_day(beyond[0])}. Start it in {_day(next_row(last, frequency))}."
        )
    calendar = np.concatenate([batch.times, beyond])
    row = {stamp: k for k, stamp in enumerate(given.times.tolist())}
    found = {}
    for t in origins:
        wanted = calendar[t + 1 : t + horizon]
        missing = [stamp for stamp in wanted if stamp.astype(np.int64).item() not in row]
        if missing or len(wanted) < horizon - 1:
            what = f"first {_day(missing[0])}" if missing else f"after {_day(calendar[-1])}"
            raise ConfigError(
                f"`future` must hold the {horizon - 1} periods after every month forecast; for "
                f"the origin {_day(batch.times[t])} some are missing, {what}. Add them, lower "
                "`horizon`, or leave `future` out to hold the last row."
            )
        found[t] = [row[stamp.astype(np.int64).item()] for stamp in wanted]
    return found


def _day(stamp: np.datetime64) -> str:
    return str(np.datetime_as_string(stamp, "D"))


def draw_paths(
    chain: Sequence[FilteredDraw],
    panel: xr.Dataset,
    batch: Batch,
    months: Sequence[int],
    rows: LaterRows,
    num_particles: int,
    attrs: Mapping[str, str | int],
) -> Drawing:
    """Draw joint paths over ``rows.horizon`` periods from every origin.

    See :meth:`rvrae_pyro.fitting.fit.Fit.forecast`. ``months`` are the positions of the origins,
    the first months forecast, in order. They are streamed: characteristics are read row by row,
    and states of the filter and of the loadings are held for one origin at a time.
    """
    num_samples = sum(draw.states.predicted.shape[1] for draw in chain)
    weights = [draw.model.parts.state_dict() for draw in chain]
    identity = drawn_from("paths", weights, batch, months, num_samples)
    identity["horizon"] = rows.horizon
    if rows.given is not None:
        names = ("characteristics", "listed", "context")
        each = {name: getattr(rows.given, name) for name in names}
        identity["future"] = digest_of({k: v for k, v in each.items() if v is not None})
    return Drawing(
        partial(_blocks, chain, panel, batch, months, rows, num_particles), attrs, identity
    )


@dataclass(eq=False)
class _Paths:
    """Draws of one origin under one draw of the weights; unlisted cells are NaN."""

    returns: Tensor  # (n_draws, horizon, n_assets)
    mean: Tensor  # (horizon, n_assets), of the draws' conditional means
    beta: Tensor  # (horizon, n_assets, n_factors)
    idio_variance: Tensor  # (horizon, n_assets)
    factors: list[Tensor] = field(default_factory=list)  # each (n_draws, n_factors)
    levels: list[Tensor | None] = field(default_factory=list)  # each (n_draws,)
    latents: list[Tensor | None] = field(default_factory=list)  # each (n_draws, size)

    @classmethod
    def empty(cls, like: Tensor, num_samples: int, horizon: int, n: int) -> _Paths:
        by_asset = like.new_full((horizon, n), torch.nan)
        returns, beta = by_asset.expand(num_samples, -1, -1), by_asset.unsqueeze(-1)
        return cls(
            returns.clone(), by_asset.clone(), beta.repeat(1, 1, like.shape[-1]), by_asset.clone()
        )


def _blocks(
    chain: Sequence[FilteredDraw],
    panel: xr.Dataset,
    batch: Batch,
    months: Sequence[int],
    rows: LaterRows,
    num_particles: int,
    done: int,
) -> Iterator[Block]:
    sizes = [draw.states.predicted.shape[1] for draw in chain]
    cells = sum(sizes) * batch.n_assets * rows.horizon
    left = [t for some in chunks(months, cells, done) for t in some]
    runs = [_origins(draw, panel, batch, left, rows, num_particles) for draw in chain]
    for chosen in chunks(months, cells, done):
        found = [[next(run) for run in runs] for _ in chosen]  # by origin, then by weights
        for draw in chain:
            draw.states.cross.release()
        yield _label(chain, batch, chosen, rows.horizon, found, sizes)


@torch.no_grad()
def _origins(
    draw: FilteredDraw,
    panel: xr.Dataset,
    batch: Batch,
    origins: Sequence[int],
    rows: LaterRows,
    num_particles: int,
) -> Iterator[_Paths]:
    """Simulate from one origin after another, under one draw of the weights."""
    if not origins:
        return
    starts = (_exact_starts if exact.is_exact(draw.model) else _particle_starts)(
        draw, batch, origins, num_particles
    )
    later = _later_cross_sections(draw.model.parts, panel, batch, origins, rows)
    for t, start, following in zip(origins, starts, later, strict=True):
        yield _simulate(draw, batch, t, start, following)


_Start = tuple[PathState, Draw]
"""States before the first month forecast, and the draws of that month."""


def _particle_starts(
    draw: FilteredDraw, batch: Batch, origins: Sequence[int], num_particles: int
) -> Iterator[_Start]:
    """Repeat the filter, whose draws of a month are those of a one-step forecast."""
    shared = draw.model.parts.prepare(batch, draw.states.cross)
    cloud = Cloud(draw.model.parts, batch, num_particles, draw.seed, 0, shared)
    size, wanted = draw.states.predicted.shape[1], set(origins)
    for t in range(origins[-1] + 1):
        cloud.step(t)
        cloud.forget()
        if t in wanted:
            assert cloud.upcoming is not None
            yield _first(cloud.upcoming, size)


def _first(coming: Upcoming, size: int) -> _Start:
    """Keep the draws that the forecast keeps."""
    state = PathState(coming.state, coming.latent_state, coming.decoder_state).first(size)
    n = coming.codes.shape[0]
    ahead = type(coming.ahead)(*(each[:size] for each in coming.ahead))
    level = None if coming.level is None else coming.level.expand(n)[:size]
    latent = None if coming.latent is None else coming.latent[:size]
    return state, Draw(ahead, coming.codes[:size], level, latent)


def _exact_starts(
    draw: FilteredDraw, batch: Batch, origins: Sequence[int], num_particles: int
) -> Iterator[_Start]:
    """Draws of each month's exact distribution, and the state that the months before left.

    A linear prior is Markov in the factors, so that the draw of the first month suffices; the state
    of an observed recurrence does not depend on the draw.
    """
    parts, states = draw.model.parts, draw.states
    walk = parts.prepare(batch, states.cross).view.walk
    size, state, wanted = states.predicted.shape[1], parts.factor_prior.initial(), set(origins)
    decoder = spread(parts.decoder.initial(), size)
    for t in range(origins[-1] + 1):
        moment = _moment(parts, batch, t)
        if t in wanted:
            ahead, _ = parts.factor_prior.ahead(state, moment.context)
            level = None if states.level is None else states.level[t]
            first = Draw(for_each(ahead, size), states.predicted_codes[t], level, None)
            yield PathState(spread(state, size), (), decoder), first
        if walk is not None:
            state = parts.factor_prior.advance(state, walk.factors[t], moment.context)


def _moment(parts: Parts, row: Batch, t: int = 0) -> Moment:
    return Moment.of(parts, None if row.context is None else row.context[t])


def _later_cross_sections(
    parts: Parts, panel: xr.Dataset, batch: Batch, origins: Sequence[int], rows: LaterRows
) -> Iterator[list[tuple[Batch, CrossSection]]]:
    """Rows, loadings and scales of the steps after the first, of one origin after another.

    The loadings pass through the months once; from each origin their state continues through the
    later rows.
    """
    values = panel[CHARACTERISTICS].transpose(TIME, ASSET, CHARACTERISTIC)[: origins[-1] + 1]
    wanted, state = set(origins), batch.state("loadings") or ()
    for t, row in enumerate(each_row(values)):
        if t not in wanted and t > 0 and not state:
            continue  # loadings without memory
        cells = torch.as_tensor(np.nan_to_num(row, nan=0.0)).to(batch.returns)
        month = dataclasses.replace(
            batch.window(t, t + 1, every_asset=True),
            characteristics=(cells * batch.listed[t, :, None])[None],
            returns=torch.zeros_like(batch.returns[t : t + 1]),
            observed=torch.zeros_like(batch.observed[t : t + 1]),
            carry={"loadings": state},
        )
        state = parts.loadings.online(month, (1,))[1][1]
        if t not in wanted:
            continue
        following, after = [], state
        for later in rows.after(t, month):
            given = dataclasses.replace(later, carry={"loadings": after})
            beta, states = parts.loadings.online(given, (1,))
            following.append((given, parts.cross_section(given, beta)))
            after = states[1]
        yield following


def _simulate(
    draw: FilteredDraw,
    batch: Batch,
    t: int,
    start: _Start,
    following: Sequence[tuple[Batch, CrossSection]],
) -> _Paths:
    """Draw paths from one origin; the first month as a one-step forecast draws it."""
    parts, states, size = draw.model.parts, draw.states, start[1].codes.shape[0]
    state, first = start
    paths = _Paths.empty(states.predicted, size, len(following) + 1, batch.n_assets)
    month = batch.window(t, t + 1, every_asset=True)
    cells, order = _cells(states.cross, t, month)
    factors = states.predicted[t]
    with month_random(draw.seed, batch.times[t], "returns"):
        returns = _record(paths, parts, 0, cells, order, first, factors)
    paths.mean[0, order] = states.expected_returns([t])[0, order]
    state = advance(parts, state, _moment(parts, month), first, cells, returns)
    with month_random(draw.seed, batch.times[t], "path"):
        for step, (row, cross) in enumerate(following, 1):
            moment = _moment(parts, row)
            drawn = draw_month(parts, state, moment, size)
            decoder = parts.decoder
            after = decoder.advance(state.decoder, drawn.codes)
            factors = decoder.read(after, drawn.codes)
            expected, mean = factors.mean(0), drawn.ahead.mean
            # without the noise of the draws, where `mean` is more than a centre
            if decoder.affine and drawn.ahead.pooled() is not None:
                expected = decoder.read(decoder.advance(state.decoder, mean), mean).mean(0)
            cells, order = _cells(cross, 0, row)
            returns = _record(paths, parts, step, cells, order, drawn, factors)
            loc = along_factors(cells.beta, expected)
            paths.mean[step, order] = loc if cells.alpha is None else loc + cells.alpha
            state = advance(parts, state, moment, drawn, cells, returns)
    return paths


def _cells(cross: CrossSection, t: int, row: Batch) -> tuple[Cells, Tensor]:
    """Take a month's listed assets in the order of their labels, and their positions."""
    order = by_label(row, row.listed[0].nonzero().squeeze(-1))
    cells = Cells(
        cross.beta[t].index_select(0, order),
        None if cross.alpha is None else cross.alpha[t, order],
        cross.scale[t, order],
        torch.ones_like(order, dtype=torch.bool),
    )
    return cells, order


def _record(
    paths: _Paths, parts: Parts, step: int, cells: Cells, order: Tensor, draw: Draw, factors: Tensor
) -> Tensor:
    """Draw a month's returns given its factors, and keep what was drawn."""
    # the arithmetic of `CrossSection.given`, so that the first step has its bits
    loc = factors @ cells.beta.mT
    if cells.alpha is not None:
        loc = loc + cells.alpha
    scale = cells.scale
    if draw.level is not None:
        scale = scale * draw.level.exp().unsqueeze(-1)
    scale = scale.expand_as(loc)
    returns: Tensor = parts.likelihood.distribution(loc, scale).sample()
    paths.returns[:, step, order] = returns
    paths.beta[step, order] = cells.beta
    paths.idio_variance[step, order] = parts.likelihood.deviation(scale).square().mean(0)
    paths.factors.append(factors)
    paths.levels.append(draw.level)
    paths.latents.append(draw.latent)
    return returns


def _label(
    chain: Sequence[FilteredDraw],
    batch: Batch,
    chosen: Sequence[int],
    horizon: int,
    found: Sequence[Sequence[_Paths]],
    sizes: Sequence[int],
) -> Block:
    """Make the groups of a few origins, draws of all weights one after another."""
    sample = sample_labels(sizes)
    labels = {
        TIME: batch.times[list(chosen)],
        STEP: np.arange(1, horizon + 1),
        ASSET: batch.assets,
        FACTOR: factor_coord(chain[0].model.n_factors),
    }

    def over_draws(name: str) -> np.ndarray:
        """Stack what each path has by step: (chain, draw, time, step, size)."""
        each = [
            torch.cat([torch.stack(getattr(paths, name), 1) for paths in origin])
            for origin in found
        ]
        return torch.stack(each, 1).unsqueeze(0).cpu().numpy()

    returns = torch.stack([torch.cat([p.returns for p in origin]) for origin in found], 1)
    # a draw below -1 is a total loss: compounding it would turn the sign of what follows
    compounded = (1.0 + returns).clamp_min(0.0).cumprod(2) - 1.0
    cells = (CHAIN, DRAW, TIME, STEP, ASSET)
    predictions: dict[str, tuple[tuple[str, ...], np.ndarray]] = {
        RETURNS: (cells, returns.float().unsqueeze(0).cpu().numpy()),
        COMPOUNDED_RETURNS: (cells, compounded.float().unsqueeze(0).cpu().numpy()),
        FACTORS: ((CHAIN, DRAW, TIME, STEP, FACTOR), over_draws("factors")),
    }
    if found[0][0].levels[0] is not None:
        predictions[IDIO_LOG_SCALE] = ((CHAIN, DRAW, TIME, STEP), over_draws("levels"))
    latent = chain[0].model.factor_prior.auxiliary
    if latent is not None:
        dims, values = label_months(latent.site, over_draws("latents"))
        predictions[latent.site] = ((CHAIN, DRAW, TIME, STEP, *dims[1:]), values)
    return {
        "predictions": xr.Dataset(predictions, coords={**sample, **labels}),
        "predictions_constant_data": _constants(found, labels),
    }


def _constants(found: Sequence[Sequence[_Paths]], labels: Mapping[str, np.ndarray]) -> xr.Dataset:
    """Label loadings, expected returns and scales: means over the weights, and each one's."""

    def each(name: str) -> Tensor:
        """Values (weights, time, step, ...)."""
        return torch.stack([torch.stack([getattr(p, name) for p in o]) for o in found], 1)

    beta, mean = each("beta"), each("mean")
    over = (TIME, STEP, ASSET)
    data: dict[str, tuple[tuple[str, ...], np.ndarray]] = {
        "beta": ((*over, FACTOR), beta.mean(0).cpu().numpy()),
        "mean": (over, mean.mean(0).cpu().numpy()),
        "idio_scale": (over, each("idio_variance").mean(0).sqrt().cpu().numpy()),
    }
    if len(beta) > 1:
        data["beta_by_weights"] = ((WEIGHT_DRAW, *over, FACTOR), beta.float().cpu().numpy())
        data["mean_by_weights"] = ((WEIGHT_DRAW, *over), mean.cpu().numpy())
    return xr.Dataset(data, coords=labels)
