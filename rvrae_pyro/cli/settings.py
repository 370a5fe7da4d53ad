"""Settings of a fit: from TOML to a model, a configuration and a split, and back to TOML."""

import dataclasses
import datetime
import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import xarray as xr

from rvrae_pyro.data.chunks import row_blocks
from rvrae_pyro.data.splits import split
from rvrae_pyro.errors import ConfigError, PanelError, RvraeError, check_count, did_you_mean
from rvrae_pyro.names import CHARACTERISTIC, CHARACTERISTICS, FEATURE, RETURNS, TIME

if TYPE_CHECKING:
    from rvrae_pyro.inference.config import FitConfig
    from rvrae_pyro.models.rvrae import RVRAE

_SLOTS: Final = ("loadings", "factor_prior", "decoder", "likelihood", "guide")
_PRIORS: Final = ("hyper_guide", "weight_priors")
_SIZES: Final = ("n_characteristics", "n_factors", "n_context")
_NONE: Final = "none"  # TOML has no null
_VALID_SHARE: Final = 0.15


@dataclass(frozen=True)
class Settings:
    """Sections of a settings file; missing settings take their defaults.

    Attributes
    ----------
    data : mapping
        ``rank`` and ``context``: whether to rank characteristics and to add the market context.
    model : mapping
        ``n_factors`` and parts by slot, ``{"kind": name, ...}``; a prior of an interpretable
        parameter is ``{"distribution": name, ...}``. ``hyper_guide`` and ``weight_priors`` as in
        :class:`rvrae_pyro.RVRAE`.
    fit : mapping
        Fields of ``rv.FitConfig``.
    split : mapping
        ``train``, ``valid`` and ``test`` of ``rv.data.split``; empty for the default.
    """

    data: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    fit: Mapping[str, Any] = field(default_factory=dict)
    split: Mapping[str, Any] = field(default_factory=dict)

    def with_options(self, split: str = "", factors: int | None = None) -> "Settings":
        """Replace settings by the options ``--split`` and ``--factors``, where given."""
        model, parts = self.model, self.split
        if factors is not None:
            model = {**model, "n_factors": check_count("--factors", factors)}
        if split:
            parts = dict(zip(("train", "valid", "test"), split_parts(split), strict=True))
        return dataclasses.replace(self, model=model, split=parts)

    @property
    def n_factors(self) -> int:
        """Factors asked for."""
        count: int = self.model.get("n_factors", 5)
        return count

    def build_model(self, panel: xr.Dataset) -> "RVRAE":
        """Build the model of a prepared panel, by ``RVRAE.for_panel`` if no part is named."""
        from rvrae_pyro.models.registry import build_model  # torch takes seconds
        from rvrae_pyro.models.rvrae import RVRAE

        if not self.model.keys() - {"n_factors"}:
            return RVRAE.for_panel(panel, self.n_factors)
        spec = {
            **self.model,
            "n_factors": self.n_factors,
            "n_characteristics": panel.sizes[CHARACTERISTIC],
            "n_context": panel.sizes.get(FEATURE, 0),
        }
        try:
            return build_model(spec)
        except RvraeError:
            raise
        except (TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise ConfigError(f"[model] cannot be built: {error}. Check its values.") from error

    def describe_factors(self, panel: xr.Dataset, model: "RVRAE") -> str:
        """State the factors asked for, and those that the rule for the panel adds."""
        from rvrae_pyro.models.panel_choice import PanelKind, describe_n_factors

        if model.choice is None:
            return str(model.n_factors)
        more = model.n_factors - self.n_factors
        return describe_n_factors(PanelKind.of(panel), self.n_factors, more)

    def build_config(self) -> "FitConfig":
        """Build the training configuration."""
        import torch

        from rvrae_pyro.fitting.saved import build_config
        from rvrae_pyro.inference.config import FitConfig

        _check_known("[fit]", self.fit, [f.name for f in dataclasses.fields(FitConfig)])
        config = build_config(self.fit)
        try:
            torch.empty(0, device=config.device)
        except (RuntimeError, AssertionError, TypeError) as error:
            raise ConfigError(f"[fit] device {config.device!r} is not there: {error}.") from error
        return config


def split_parts(text: str) -> tuple[int | float | str, ...]:
    """Read TRAIN,VALID,TEST as ``rv.data.split`` takes them: counts, shares or last dates."""
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 3 or not all(parts):
        raise ConfigError(
            "`--split` must be TRAIN,VALID,TEST: three numbers of months, shares or last dates; "
            f"got {text!r}."
        )
    return tuple(map(_split_part, parts))


def _split_part(text: str) -> int | float | str:
    if re.fullmatch(r"[-+]?\d{1,5}", text):  # 201512 is a date
        return int(text)
    try:
        return float(text) if "." in text else text
    except ValueError:
        return text


def read_settings(path: Path | None) -> Settings:
    """Read a settings file; None gives the defaults."""
    if path is None:
        return Settings()
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"`--config` {path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise ConfigError(f"`--config` {path} is not valid TOML: {error}.") from error
    try:
        return _check(_plain(content))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _check(content: Mapping[str, Any]) -> Settings:
    sections = [f.name for f in dataclasses.fields(Settings)]
    _check_known("the file", content, sections, what="section")
    for name, section in content.items():
        if not isinstance(section, Mapping):
            raise ConfigError(f"{name!r} must be a section [{name}]; got {section!r}.")
    settings = Settings(**content)
    _check_known("[data]", settings.data, ["rank", "context"])
    _check_known("[model]", settings.model, ["n_factors", *_SLOTS, *_PRIORS])
    _check_known("[split]", settings.split, ["train", "valid", "test"])
    for name, value in settings.data.items():
        if not isinstance(value, bool):
            raise ConfigError(f"[data] `{name}` must be true or false; got {value!r}.")
    for name in set(settings.model) & set(_SLOTS):
        if not isinstance(settings.model[name], Mapping):
            raise ConfigError(
                f"[model] `{name}` must be a section [model.{name}] with a `kind`; got "
                f"{settings.model[name]!r}."
            )
    if settings.split and len(settings.split) < 3:
        raise ConfigError(
            "[split] needs `train`, `valid` and `test`: counts of rows, fractions, or last dates. "
            f"It has {', '.join(settings.split)}."
        )
    return settings


def _check_known(
    where: str, given: Iterable[str], known: Iterable[str], what: str = "setting"
) -> None:
    known = list(known)
    for name in given:
        if name not in known:
            hint = did_you_mean(name, known)
            raise ConfigError(f"{where} has no {what} {name!r}{hint}; it has {', '.join(known)}.")


def _plain(value: Any) -> Any:
    """Turn "none" into None and dates into text."""
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, datetime.date | datetime.datetime):
        return value.isoformat()
    return None if value == _NONE else value


def cut(panel: xr.Dataset, wanted: Mapping[str, Any]) -> tuple[xr.Dataset, xr.Dataset | None]:
    """Cut the months to train on and those that decide when to stop.

    ``wanted`` has ``train``, ``valid`` and ``test`` as ``rv.data.split`` takes them. Empty: nothing
    is held out; of a fixed universe, whose effects by asset have a posterior, all months train,
    else the last 15 % of those with returns validate. ``valid`` is None where no month does.
    """
    if wanted:
        parts = split(panel, wanted["train"], wanted["valid"], wanted["test"])
        train: xr.Dataset = parts.train
        valid = parts.valid if parts.valid.sizes[TIME] else None
    else:
        train, valid = _hold_out_nothing(panel)
    if not _any_usable(train):
        begin, end = (str(train[TIME].values[k])[:10] for k in (0, -1))
        raise PanelError(
            f"no asset has both characteristics and a return between {begin} and {end}, the months "
            "to train on. Change [split], or look where the returns were lost."
        )
    return train, valid


def _any_usable(panel: xr.Dataset) -> bool:
    """Test whether a listed asset has a return; stops at the first."""
    returns = panel[RETURNS].values
    for first, block in row_blocks(panel[CHARACTERISTICS]):
        for month, row in zip(block, returns[first:], strict=False):
            if (~np.isnan(month).all(axis=-1) & ~np.isnan(row)).any():
                return True
    return False


def _hold_out_nothing(panel: xr.Dataset) -> tuple[xr.Dataset, xr.Dataset | None]:
    """All months with returns; effects by asset need their last ones more than a stop does."""
    from rvrae_pyro.models.panel_choice import PanelKind

    returns = panel[RETURNS].values
    last = next(n for n in range(len(returns), 0, -1) if not np.isnan(returns[n - 1]).all())
    first = last - min(max(1, round(_VALID_SHARE * last)), last - 1)
    if first == last or PanelKind.of(panel).fixed_universe:
        return panel.isel({TIME: slice(last)}), None
    return panel.isel({TIME: slice(first)}), panel.isel({TIME: slice(first, last)})


def to_toml(
    settings: Settings, model: "RVRAE", config: "FitConfig", factors: str | None = None
) -> str:
    """Write every setting in force, defaults included, as a file for ``--config``.

    Sizes that follow from the panel are left out, so that the file serves other panels.
    ``factors`` is a comment on their number, where a rule for the panel adds to them.
    """
    from rvrae_pyro.fitting.saved import describe_config
    from rvrae_pyro.models.registry import describe_model

    described = describe_model(model)
    sizes = {name: described[name] for name in _SIZES}
    stated = [*_SLOTS, *(name for name in _PRIORS if name in described)]
    parts = {slot: _without_sizes(described[slot], sizes) for slot in stated}
    by_rule = model.choice is not None  # parts follow from the panel, as sizes do
    chosen = (
        {"n_factors": settings.n_factors} if by_rule else {"n_factors": model.n_factors, **parts}
    )
    content: dict[str, Any] = {
        "data": {"rank": True, "context": True, **settings.data},
        "model": chosen,
        "fit": describe_config(config),
    }
    if settings.split:
        content["split"] = dict(settings.split)
    lines = [line for name, section in content.items() for line in _section(name, section)]
    if by_rule:
        found = [line for line in _section("model", parts) if line not in ("", "[model]")]
        at = lines.index("[model]")
        lines[at + 2 : at + 2] = [
            *([] if factors in (None, str(model.n_factors)) else [f"# factors: {factors}"]),
            f"# Without parts here, a rule chooses them for the panel. {model.choice}:",
            *(f"# {line}" for line in found),
        ]
    return "\n".join(lines).lstrip("\n") + "\n"


def _without_sizes(spec: Any, sizes: Mapping[str, int]) -> Any:
    if not isinstance(spec, Mapping):
        return spec
    kept = {n: value for n, value in spec.items() if n not in sizes or value != sizes[n]}
    return {name: _without_sizes(value, sizes) for name, value in kept.items()}


def _section(name: str, content: Mapping[str, Any]) -> list[str]:
    """Lines of a section: its own values first, then its sub-sections."""
    lines = ["", f"[{name}]"]
    tables = {key: value for key, value in content.items() if isinstance(value, Mapping)}
    lines += [f"{key} = {_value(value)}" for key, value in content.items() if key not in tables]
    for key, value in tables.items():
        # a path of weights holds dots
        lines += _section(f"{name}.{json.dumps(key) if '.' in key else key}", value)
    return lines


def _value(value: Any) -> str:
    if value is None:
        return json.dumps(_NONE)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    return json.dumps(str(value))
