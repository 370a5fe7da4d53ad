"""Monthly log scores of anything that can give them."""

from typing import Protocol, runtime_checkable

import xarray as xr

from rvrae_pyro.errors import ConfigError, ShapeError
from rvrae_pyro.names import TIME

__all__ = ["LogEvidence", "monthly_scores"]


@runtime_checkable
class LogEvidence(Protocol):
    """A fit, an ensemble, or anything else that scores months one after the other."""

    def log_evidence(
        self, panel: xr.Dataset, num_samples: int = ..., seed: int = ...
    ) -> xr.DataArray:
        """Log density of each month's returns given the months before (time,), in nats."""
        ...


def monthly_scores(
    scored: LogEvidence | xr.DataArray, panel: xr.Dataset | None, num_samples: int, seed: int
) -> xr.DataArray:
    """Log score by month, from a fit or as it is."""
    if isinstance(scored, xr.DataArray):
        scores = scored
    elif isinstance(scored, LogEvidence):
        if panel is None:
            raise ConfigError("`panel` must be given where fits are to be scored; got None.")
        scores = scored.log_evidence(panel, num_samples, seed)
    else:
        raise ConfigError(
            "`fits` must hold fits (with log_evidence) or DataArrays of monthly log scores; got "
            f"{type(scored).__name__}."
        )
    if scores.dims != (TIME,):
        raise ShapeError(f"Log scores must have the dim (time,) alone; got {scores.dims}.")
    return scores
