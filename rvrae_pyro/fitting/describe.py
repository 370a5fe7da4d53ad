"""A training configuration as JSON types, and back."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import torch

from rvrae_pyro.errors import ConfigError
from rvrae_pyro.inference import schedules
from rvrae_pyro.inference.config import FitConfig
from rvrae_pyro.models.part import describe

__all__ = ["build_config", "describe_config", "resolve_config"]

SCHEDULES = {
    "Constant": schedules.Constant,
    "Cyclical": schedules.Cyclical,
    "Linear": schedules.Linear,
}
_OWN = " (own)"
RATE_SCHEDULES = {"Cosine": schedules.Cosine, "Flat": schedules.Flat}
_SCHEDULES = {"kl_schedule": SCHEDULES, "rate_schedule": RATE_SCHEDULES}
_DTYPES = {"float32": torch.float32, "float64": torch.float64}


def describe_config(config: FitConfig) -> dict[str, Any]:
    """Describe a configuration with JSON types; :func:`build_config` reads it back."""
    described: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name in _SCHEDULES and type(value) not in _SCHEDULES[field.name].values():
            described[field.name] = _describe_own(value)
            continue
        if isinstance(value, torch.dtype):
            value = str(value).removeprefix("torch.")
        elif isinstance(value, type):
            value = value.__name__
        described[field.name] = describe(value)
    return described


def build_config(described: Mapping[str, Any]) -> FitConfig:
    """Build a configuration from a description; settings left out take their defaults.

    Raises
    ------
    ConfigError
        If a setting is unknown or outside its range.
    """
    known = {field.name for field in dataclasses.fields(FitConfig)}
    settings = dict(described)
    for name in settings:
        if name not in known:
            raise ConfigError(f"fit has no setting {name!r}; it has {', '.join(sorted(known))}.")
    if "optimizer" in settings:
        settings["optimizer"] = _optimizer(settings["optimizer"])
    if "dtype" in settings:
        if settings["dtype"] not in _DTYPES:
            raise ConfigError(f"`dtype` must be float32 or float64; got {settings['dtype']!r}.")
        settings["dtype"] = _DTYPES[settings["dtype"]]
    if "kl_schedule" in settings:
        settings["kl_schedule"] = _schedule("kl_schedule", settings["kl_schedule"], SCHEDULES)
    if "rate_schedule" in settings:
        settings["rate_schedule"] = _schedule(
            "rate_schedule", settings["rate_schedule"], RATE_SCHEDULES
        )
    try:
        return FitConfig(**settings)
    except TypeError as error:
        raise ConfigError(f"a setting of fit has the wrong type: {error}.") from error


def resolve_config(described: Mapping[str, Any], config: FitConfig | None) -> FitConfig:
    """Build the configuration of a saved fit, or take the one passed if it is the same.

    Parameters
    ----------
    described : mapping
        What :func:`describe_config` said of it.
    config : FitConfig, optional
        Needed where a schedule or the optimiser is not one of ours.

    Raises
    ------
    ConfigError
        If it is needed and missing, or differs; the message names the settings.
    """
    if config is not None:
        given = describe_config(config)
        differ = [
            name for name in described if _spelled(given.get(name)) != _spelled(described[name])
        ]
        if differ:
            raise ConfigError(
                f"`config` differs from the saved one in {', '.join(differ)}: "
                f"{_spelled(given.get(differ[0]))} is not {_spelled(described[differ[0]])}"
            )
        return config
    for name in _SCHEDULES:
        kind = dict(described.get(name) or {}).get("kind", "")
        if kind.endswith(_OWN):
            raise ConfigError(
                f"its `{name}` {kind.removesuffix(_OWN)} is of your own. Build the configuration "
                "as it was and pass it as `config=`"
            )
    return build_config(described)


def _spelled(value: object) -> str:
    return json.dumps(value, sort_keys=True)


def _describe_own(schedule: object) -> dict[str, Any]:
    """Describe a schedule of a user's own: its class, and what it holds as far as JSON can say."""
    held = getattr(schedule, "__dict__", {})
    said = {name: describe(value) for name, value in held.items() if _is_plain(value)}
    return {"kind": f"{type(schedule).__name__}{_OWN}", **said}


def _is_plain(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _optimizer(name: object) -> type[torch.optim.Optimizer]:
    found = getattr(torch.optim, str(name), None)
    if not (isinstance(found, type) and issubclass(found, torch.optim.Optimizer)):
        raise ConfigError(f"`optimizer` must be the name of a torch optimizer; got {name!r}.")
    return found


def _schedule(setting: str, described: object, known: Mapping[str, Any]) -> Any:
    settings = dict(described) if isinstance(described, Mapping) else {}
    kind = settings.pop("kind", None)
    if kind not in known:
        raise ConfigError(f"`{setting}` must have a `kind` among {', '.join(known)}; got {kind!r}.")
    try:
        return known[kind](**settings)
    except TypeError as error:
        raise ConfigError(f"`{setting}` {kind} cannot be built: {error}.") from error
