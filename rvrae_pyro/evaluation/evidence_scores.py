"""Monthly log scores of anything that can give them."""

from typing import Final, Protocol, runtime_checkable

import xarray as xr

from rvrae_pyro.errors import ConfigError, ShapeError
from rvrae_pyro.names import TIME

ESS: Final = "ess"
FILTER_ERROR: Final = "filter_error"


@runtime_checkable
class LogEvidence(Protocol):
    """A fit, an ensemble, or anything else that scores months one after the other."""

    def log_evidence(
        self, panel: xr.Dataset, num_samples: int = ..., seed: int = ...
    ) -> xr.DataArray:
        """Log density of each month's returns given the months before (time,), in nats."""
        ...


@runtime_checkable
class ParticleFilter(Protocol):
    """A filtered panel whose evidence may have a Monte-Carlo error."""

    @property
    def ess(self) -> xr.DataArray:
        """Effective sample size of the particle filter (time,)."""
        ...

    @property
    def evidence_error(self) -> xr.DataArray:
        """Monte-Carlo standard error of the log evidence (time,)."""
        ...


class Evidence(Protocol):
    """A filtered panel."""

    def log_evidence(self) -> xr.DataArray:
        """Log density of each month's returns given the months before (time,), in nats."""
        ...


@runtime_checkable
class Filters(Protocol):
    """A fit, an ensemble or a baseline."""

    def filter(self, panel: xr.Dataset, num_samples: int = ..., seed: int = ...) -> Evidence:
        """Filter a panel."""
        ...


def monthly_scores(
    scored: LogEvidence | xr.DataArray, panel: xr.Dataset | None, num_samples: int, seed: int
) -> xr.DataArray:
    """Log score by month, from a fit or as it is.

    Those of a particle filter have its sample size and Monte-Carlo error as coordinates.
    """
    if isinstance(scored, xr.DataArray):
        scores = scored
    elif isinstance(scored, Filters) and panel is not None:
        filtered = scored.filter(panel, num_samples, seed)
        scores = filtered.log_evidence()
        if isinstance(filtered, ParticleFilter):
            scores = scores.assign_coords(
                {ESS: filtered.ess, FILTER_ERROR: filtered.evidence_error}
            )
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
