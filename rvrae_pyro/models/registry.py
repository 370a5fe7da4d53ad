"""Built-in parts by slot and name: what a saved model or a configuration file may ask for."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from rvrae_pyro.errors import ConfigError, did_you_mean
from rvrae_pyro.models import decoders, guides, likelihoods, loadings, priors, weights
from rvrae_pyro.models.hyperpriors import build_distribution, is_allowed, is_distribution
from rvrae_pyro.models.part import Part, describe
from rvrae_pyro.models.rvrae import RVRAE


def _named(*kinds: type) -> dict[str, type]:
    return {kind.__name__: kind for kind in kinds}


_LOADINGS = (loadings.LSTM, loadings.MLP, loadings.Linear)
_GAUSSIAN = (priors.AR1, priors.Augmented, priors.Recurrent, priors.StandardNormal)
_SCALES = (likelihoods.CharacteristicScale, likelihoods.GlobalScale)
_WEIGHTS = _named(
    weights.GroupLog, weights.Hierarchical, weights.Horseshoe, weights.Laplace, weights.Normal
)
PARTS: dict[str, dict[str, type]] = {
    "loadings": _named(loadings.AssetEffects, loadings.Augmented, *_LOADINGS),
    "factor_prior": _named(
        priors.AR1,
        priors.Augmented,
        priors.CommonVolatility,
        priors.Flow,
        priors.Recurrent,
        priors.RegimeSwitching,
        priors.StandardNormal,
        priors.StochasticVolatility,
    ),
    "learned": _named(*_LOADINGS),
    "factor_prior.base": _named(*_GAUSSIAN),
    "loadings.base": _named(loadings.Augmented, *_LOADINGS),
    "scale.base": _named(*_SCALES),
    "decoder": _named(decoders.Identity, decoders.LastCode, decoders.MLP, decoders.Recurrent),
    "likelihood": _named(
        likelihoods.Laplace,
        likelihoods.Normal,
        likelihoods.NormalMixture,
        likelihoods.SkewStudentT,
        likelihoods.StudentT,
    ),
    "guide": _named(guides.Conjugate, guides.Recurrent, guides.Smoothing),
    "scale": _named(likelihoods.AssetScale, *_SCALES),
    "alpha": _named(likelihoods.Alpha),
    "hyper_guide": _named(guides.MeanField, guides.MultivariateNormal),
    "weights": _WEIGHTS,
    "skip_weights": _WEIGHTS,
}

_SLOTS = ("loadings", "factor_prior", "decoder", "likelihood", "guide")


def _slot_of(slot: str, argument: str) -> str:
    """Slot of a part nested in another: that of the argument, which may depend on the owner's."""
    owned = f"{slot.removesuffix('.base')}.{argument}"
    return owned if owned in PARTS else argument


def is_built_in(model: RVRAE) -> bool:
    """Whether every part of a model, nested ones included, is one of ours, not just named so."""

    def known(slot: str, value: Any) -> bool:
        if isinstance(value, Part):
            arguments = value.arguments()
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            arguments = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        elif is_distribution(value):
            return is_allowed(value)
        else:
            return not isinstance(value, nn.Module)
        if PARTS.get(slot, {}).get(type(value).__name__) is not type(value):
            return False
        return all(known(_slot_of(slot, name), value) for name, value in arguments.items())

    chosen = all(known(slot, part) for slot, part in chosen_parts(model).items())
    guide, weights = model.parts.weight_guide.hyper, model.parts.weight_priors.values()
    return chosen and known("hyper_guide", guide) and all(known("weights", w) for w in weights)


def chosen_parts(model: RVRAE) -> dict[str, Part]:
    """Parts of a model by slot."""
    return {slot: getattr(model.parts, slot) for slot in _SLOTS}


def describe_model(model: RVRAE) -> dict[str, Any]:
    """Describe a model with JSON types; :func:`build_model` reads it back."""
    parts = {slot: describe(part) for slot, part in chosen_parts(model).items()}
    return {
        "n_characteristics": model.n_characteristics,
        "n_factors": model.n_factors,
        "n_context": model.n_context,
        **parts,
        **_prior_settings(model),
    }


def _prior_settings(model: RVRAE) -> dict[str, Any]:
    """Describe what the model states of priors besides its parts."""
    found: dict[str, Any] = {}
    if model.hyper_sites:
        found["hyper_guide"] = describe(model.parts.weight_guide.hyper)
    if model.parts.weight_priors:
        held = model.parts.weight_priors.items()
        found["weight_priors"] = {path: describe(prior) for path, prior in held}
    return found


def build_model(spec: Mapping[str, Any]) -> RVRAE:
    """Build a model from a description.

    Parameters
    ----------
    spec : mapping
        ``n_characteristics``, ``n_factors``, ``n_context`` and, by slot, descriptions of parts
        (``{"kind": name, ...}``); sizes that a part needs are filled in, slots left out take
        their defaults.

    Raises
    ------
    ConfigError
        If a slot, a part or an argument is unknown; the message lists what exists.
    """
    sizes = {name: spec[name] for name in ("n_characteristics", "n_factors")}
    sizes["n_context"] = spec.get("n_context", 0)
    for name in sorted(set(spec) - set(sizes) - set(_SLOTS) - {"hyper_guide", "weight_priors"}):
        raise ConfigError(
            f"the model has no part {name!r}{did_you_mean(name, _SLOTS)}; there are "
            f"{', '.join(_SLOTS)}."
        )
    parts = {slot: build_part(slot, spec[slot], sizes) for slot in _SLOTS if slot in spec}
    if "hyper_guide" in spec:
        parts["hyper_guide"] = build_part("hyper_guide", spec["hyper_guide"], {})
    if "weight_priors" in spec:
        parts["weight_priors"] = {
            path: build_part("weights", prior, {}) for path, prior in spec["weight_priors"].items()
        }
    return RVRAE(
        sizes["n_characteristics"], sizes["n_factors"], n_context=sizes["n_context"], **parts
    )


def build_part(slot: str, spec: Any, sizes: Mapping[str, int]) -> Any:
    """Build one part from its description, filling in sizes it asks for and was not given."""
    if not isinstance(spec, Mapping):
        return spec
    if "distribution" in spec:
        return build_distribution(spec)
    known = PARTS[slot]
    arguments = dict(spec)
    kind = arguments.pop("kind", None)
    if kind not in known:
        raise ConfigError(
            f"`{slot}` must have a `kind` among {', '.join(known)}"
            f"{did_you_mean(str(kind), known)}; got {kind!r}."
        )
    parameters = inspect.signature(known[kind]).parameters
    accepted = list(parameters)
    for name in arguments:
        if name not in accepted:
            raise ConfigError(
                f"`{slot}` {kind} has no setting {name!r}{did_you_mean(name, accepted)}; it has "
                f"{', '.join(accepted) or 'none'}."
            )
    for name, value in arguments.items():
        if isinstance(value, Mapping) and "distribution" in value:
            arguments[name] = build_distribution(value)
        elif isinstance(value, Mapping) and _slot_of(slot, name) in PARTS:
            arguments[name] = build_part(_slot_of(slot, name), value, sizes)
        elif isinstance(value, str) and value in PARTS.get(_slot_of(slot, name), ()):
            raise ConfigError(
                f"`{slot}` {kind} takes {name!r} as a part of its own; got {value!r}. Give it a "
                f"`kind`: {name} = {{kind = {value!r}}}."
            )
    for name, size in sizes.items():
        if name in accepted:
            arguments.setdefault(name, size)
    for name, parameter in parameters.items():
        named = parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if named and parameter.default is parameter.empty and name not in arguments:
            kinds = ", ".join(PARTS.get(_slot_of(slot, name), ()))
            nested = f", a part with a `kind` among {kinds}" if kinds else ""
            raise ConfigError(f"`{slot}` {kind} needs the setting {name!r}{nested}.")
    try:
        return known[kind](**arguments)
    except TypeError as error:
        raise ConfigError(f"`{slot}` {kind} cannot be built: {error}.") from error
