"""Whose model a diagnostic looks at."""

from __future__ import annotations

from typing import Protocol

import xarray as xr

from rvrae_pyro.data.panel_match import match_panel
from rvrae_pyro.errors import ConfigError
from rvrae_pyro.models.rvrae import RVRAE

__all__ = ["HasModel", "matched", "model_of"]


class HasModel(Protocol):
    """Anything that holds a model: a fit, say."""

    @property
    def model(self) -> RVRAE:
        """The model, trained or not."""
        ...


def model_of(fit: HasModel | RVRAE) -> RVRAE:
    """Return the one model that a diagnostic is asked about.

    Parameters
    ----------
    fit : Fit or RVRAE
        Anything with a ``model``, or the model itself.

    Raises
    ------
    ConfigError
        For several fits at once, such as an ensemble, and for anything without a model.
    """
    if isinstance(fit, RVRAE):
        return fit
    model = getattr(fit, "model", None)
    if isinstance(model, RVRAE):
        return model
    members, got = getattr(fit, "members", None), type(fit).__name__
    if isinstance(members, tuple):
        raise ConfigError(
            f"`fit` must be one fit; got {got} with {len(members)} members, each of which has a "
            "model of its own. Pass one member at a time, as in fit.members[0]."
        )
    raise ConfigError(
        f"`fit` must be a fit or an rv.RVRAE; got {got}. Pass what rv.fit returned, or the model."
    )


def matched(fit: HasModel | RVRAE, panel: xr.Dataset) -> xr.Dataset:
    """Compare a panel with that of a fit, characteristics by name; a bare model has none."""
    return match_panel(panel, getattr(fit, "attrs", {}))
