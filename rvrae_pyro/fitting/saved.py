"""Training records on disk: weights as safetensors, the rest as JSON and netCDF; no pickle."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import safetensors
import torch
import xarray as xr
from safetensors.torch import load_file, save

from rvrae_pyro.atomic import replacing
from rvrae_pyro.errors import CheckpointError, ConfigError
from rvrae_pyro.fitting.checkpoint import STATE
from rvrae_pyro.inference import schedules
from rvrae_pyro.inference.config import FitConfig
from rvrae_pyro.models.part import describe
from rvrae_pyro.models.registry import build_model, describe_model, is_built_in
from rvrae_pyro.models.rvrae import RVRAE


@dataclass(frozen=True, eq=False)
class TrainingRecord:
    """A trained model and the history of its training.

    :class:`~rvrae_pyro.fitting.fit.Fit` documents the fields.
    """

    model: RVRAE
    config: FitConfig
    seed: int
    history: pd.DataFrame
    kl_total: xr.DataArray
    kl: xr.DataArray
    stopped: str
    best_step: int
    attrs: dict[str, str | int]


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
    for name, known_kinds in _SCHEDULES.items():
        if name in settings:
            settings[name] = _schedule(name, settings[name], known_kinds)
    try:
        return FitConfig(**settings)
    except TypeError as error:
        raise ConfigError(f"a setting of fit has the wrong type: {error}.") from error


def resolve_config(described: Mapping[str, Any], config: FitConfig | None) -> FitConfig:
    """Build the configuration of a saved fit, or take the one passed if it is the same.

    It is needed for a user-defined schedule or optimiser.

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
                f"its `{name}` {kind.removesuffix(_OWN)} is user-defined. Build the configuration "
                "as it was and pass it as `config=`"
            )
    return build_config(described)


def _spelled(value: object) -> str:
    return json.dumps(value, sort_keys=True)


def _describe_own(schedule: object) -> dict[str, Any]:
    """Describe a user-defined schedule: its class, and those attributes that JSON can hold."""
    held = getattr(schedule, "__dict__", {})
    plain = {name: describe(value) for name, value in held.items() if _is_plain(value)}
    return {"kind": f"{type(schedule).__name__}{_OWN}", **plain}


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


FORMAT = 1
"""Version of the folder's layout; an older layout stays readable, a newer one raises."""

_WEIGHTS, _META, _TRAINING = "model.safetensors", "fit.json", "training.nc"
_BY_FACTOR = "kl_by_factor"


def save_parts(fit: TrainingRecord, path: str | os.PathLike[str]) -> Path:
    """Write a fit to a folder, all or nothing.

    Raises
    ------
    CheckpointError
        If the folder cannot be written; a fit that was there before is left as it was.
    """
    target = Path(path)
    reject_foreign(target, (_META, STATE), "a fit")
    state = {k: v.detach().cpu().contiguous() for k, v in fit.model.parts.state_dict().items()}
    try:
        with replacing(target) as temporary:
            temporary.mkdir(parents=True)
            (temporary / _WEIGHTS).write_bytes(save(state))
            _training(fit).to_netcdf(temporary / _TRAINING)
            meta = {**_meta(fit), "sha256": _digests(temporary)}
            (temporary / _META).write_text(json.dumps(meta, indent=2, default=str))
    except (OSError, RuntimeError) as error:  # netCDF raises RuntimeError on a full disk
        raise CheckpointError(
            f"`path` {str(target)!r} cannot be written: {error}. Choose a folder you may write to."
        ) from error
    return target


def load_parts(
    path: str | os.PathLike[str], model: RVRAE | None = None, config: FitConfig | None = None
) -> dict[str, Any]:
    """Read what :func:`save_parts` wrote: the arguments of a ``Fit``.

    A model with the same parts, and the same configuration, are needed for user-defined ones.

    Raises
    ------
    CheckpointError
        If the folder is missing, damaged, foreign, of a newer layout, or holds parts or schedules
        that are not built in and no ``model`` or ``config`` was given.
    """
    folder = Path(path)
    meta = read_meta(folder, _META, "fit", FORMAT)
    _check_digests(meta, folder)
    settings = _settings(meta, folder, config)
    if model is None:
        model = _rebuild(meta, folder)
    try:
        state = load_file(folder / _WEIGHTS)
        with xr.open_dataset(folder / _TRAINING) as opened:
            training = opened.load()
    except (OSError, ValueError, OverflowError, safetensors.SafetensorError) as error:
        raise damaged(folder, error) from error
    dtype = next((v.dtype for v in state.values() if v.is_floating_point()), torch.float32)
    model.to(dtype=dtype)
    try:
        model.parts.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(
            f"the weights in {str(folder)!r} do not fit the model: {error}. Pass `model=` built "
            "with the parts and sizes it was saved with."
        ) from error
    try:
        return {"model": model, "config": settings, **_arguments(meta, training)}
    except (ConfigError, KeyError, TypeError, ValueError) as error:
        raise damaged(folder, error) from error


def damaged(folder: Path, reason: object) -> CheckpointError:
    """Error of a folder that cannot be read."""
    return CheckpointError(
        f"{str(folder)!r} is damaged: {reason}. Restore it from a copy or fit again."
    )


def _digests(folder: Path) -> dict[str, str]:
    """Hash the files whose damage would not be detected otherwise."""
    names = (_WEIGHTS, _TRAINING)
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}


def _check_digests(meta: dict[str, Any], folder: Path) -> None:
    expected = meta.get("sha256")
    if expected is None:  # saved before there were any
        return
    try:
        changed = [name for name, found in _digests(folder).items() if expected.get(name) != found]
    except (OSError, AttributeError) as error:
        raise damaged(folder, error) from error
    if changed:
        raise damaged(folder, f"the hash of {' and '.join(changed)} does not match")


def _settings(meta: dict[str, Any], folder: Path, config: FitConfig | None) -> FitConfig:
    try:
        return resolve_config(meta["config"], config)
    except (ConfigError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"the settings in {str(folder)!r} cannot be read: {error}. If the file is damaged, "
            "restore it from a copy or fit again."
        ) from error


def _arguments(meta: dict[str, Any], training: xr.Dataset) -> dict[str, Any]:
    """Arguments of a ``Fit`` found in its settings and training curves."""
    columns = [str(name) for name in training.data_vars if training[name].dims == ("epoch",)]
    return {
        "seed": int(meta["seed"]),
        "history": training[columns].to_dataframe().reset_index(drop=True),
        "kl_total": _by_step(training, "kl_total"),
        "kl": _by_step(training, _BY_FACTOR).rename("kl"),
        "stopped": str(meta["stopped"]),
        "best_step": int(meta["best_step"]),
        "attrs": meta["attrs"],
    }


def _by_step(training: xr.Dataset, name: str) -> xr.DataArray:
    curve = training[name].rename(epoch="step").assign_coords(step=training["step"].to_numpy())
    return (
        curve.drop_vars("factor")
        if "factor" not in curve.dims and "factor" in curve.coords
        else curve
    )


def _meta(fit: TrainingRecord) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "package": "rvrae_pyro",
        "model": describe_model(fit.model),
        "built_in": is_built_in(fit.model),
        "config": describe_config(fit.config),
        "seed": fit.seed,
        "stopped": fit.stopped,
        "best_step": fit.best_step,
        "attrs": fit.attrs,
    }


def _training(fit: TrainingRecord) -> xr.Dataset:
    history = {name: ("epoch", np.asarray(fit.history[name])) for name in fit.history}
    curves = {
        "kl_total": fit.kl_total.rename(step="epoch").drop_vars("epoch", errors="ignore"),
        # the history has a column "kl" of its own
        _BY_FACTOR: fit.kl.rename(step="epoch").drop_vars("epoch", errors="ignore"),
    }
    return xr.Dataset({**history, **curves})


def reject_foreign(target: Path, marks: Sequence[str], kind: str) -> None:
    """Refuse to write over a folder with content, or a file, unless it has one of some files.

    Raises
    ------
    CheckpointError
        If it holds something that is not of this kind.
    """
    empty = target.is_dir() and not any(target.iterdir())
    if target.exists() and not empty and not any((target / mark).exists() for mark in marks):
        raise CheckpointError(
            f"`path` {str(target)!r} holds something that is not {kind}; choose another folder."
        )


def read_meta(folder: Path, name: str, kind: str, newest: int) -> dict[str, Any]:
    """Read the JSON file of a saved fit, ensemble or baseline (its ``kind``), of known layout.

    Raises
    ------
    CheckpointError
        If it is missing, damaged, foreign or of a newer layout.
    """
    try:
        meta = json.loads((folder / name).read_text())
    except FileNotFoundError as error:
        raise CheckpointError(
            f"no {kind} in {str(folder)!r}: {name} is missing. Pass the folder that save wrote; "
            "rv.load finds its kind."
        ) from error
    except (OSError, ValueError) as error:
        raise damaged(folder / name, error) from error
    if not isinstance(meta, dict) or meta.get("package") != "rvrae_pyro":
        raise CheckpointError(f"{str(folder)!r} was not written by this package.")
    if not isinstance(meta.get("format"), int):
        raise damaged(folder / name, "it names no layout")
    if meta["format"] > newest:
        raise CheckpointError(
            f"{str(folder)!r} has layout {meta['format']}, this version reads up to {newest}. "
            "Install the version of rvrae_pyro that wrote it, or a newer one."
        )
    return meta


def _rebuild(meta: dict[str, Any], folder: Path) -> RVRAE:
    if not meta.get("built_in"):
        raise CheckpointError(
            f"{str(folder)!r} holds a model with user-defined parts. Build that model and pass it "
            "as `model=`; its weights are then filled in."
        )
    try:
        return build_model(meta["model"])
    except (ConfigError, KeyError) as error:
        raise CheckpointError(f"the model in {str(folder)!r} cannot be rebuilt: {error}") from error
