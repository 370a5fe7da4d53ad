"""Rows of the periods after each forecast origin: held at their last value, or given."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr

from rvrae_pyro.data.batch import Batch, to_batch
from rvrae_pyro.data.calendar import frequency_of, next_row
from rvrae_pyro.data.panel_match import describe_panel, match_panel
from rvrae_pyro.errors import ConfigError, PanelError
from rvrae_pyro.names import ASSET, CONTEXT

__all__ = ["LaterRows", "later_rows"]


@dataclass(frozen=True, eq=False)
class LaterRows:
    """Source of characteristics, listing and context of the periods after an origin.

    Attributes
    ----------
    horizon : int
    given : Batch or None
        Rows of later periods; None holds the origin's own row.
    positions : dict
        By origin the rows of ``given`` for the steps 2 to ``horizon``.
    """

    horizon: int
    given: Batch | None
    positions: dict[int, list[int]]

    def after(self, origin: int, row: Batch) -> list[Batch]:
        """Rows of the steps 2 to ``horizon``, without returns, for the origin's own ``row``."""
        if self.given is None:
            return [row] * (self.horizon - 1)
        return [self.given.window(k, k + 1, every_asset=True) for k in self.positions[origin]]


def later_rows(
    panel: xr.Dataset,
    batch: Batch,
    origins: list[int],
    horizon: int,
    future: xr.Dataset | None,
) -> LaterRows:
    """Check the rows given for the periods after every origin, and find them.

    Parameters
    ----------
    panel : Dataset
    batch : Batch
        The same panel, for labels, dtype and device.
    origins : list of int
        Positions of the first period forecast.
    horizon : int
    future : Dataset or None

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
        given,
        returns=torch.zeros_like(given.returns),
        observed=torch.zeros_like(given.observed),
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
