"""Priors of a model by name: the table of all, and parts with others."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pandas as pd
import torch
from torch import nn

from rvrae_pyro.errors import ConfigError, did_you_mean
from rvrae_pyro.models.hyperpriors import is_distribution, spell_distribution
from rvrae_pyro.models.kinds import describe_kind
from rvrae_pyro.models.part import Part, spell
from rvrae_pyro.models.parts import Parts
from rvrae_pyro.models.random_weights import RandomParameter, named_parameters, prior_weights
from rvrae_pyro.models.weights import check_weights
from rvrae_pyro.nn.seeding import seeded

SLOTS = ("loadings", "factor_prior", "decoder", "likelihood", "guide")
"""Parts by their names in a model."""

_COLUMNS = ["prior", "inference", "shape", "value"]


@torch.no_grad()
def prior_table(parts: Parts) -> pd.DataFrame:
    """List every interpretable parameter and weight matrix with its prior.

    Parameters
    ----------
    parts : Parts

    Returns
    -------
    DataFrame
        See ``RVRAE.priors``.
    """
    rows: dict[str, list[Any]] = {}
    guide = parts.weight_guide
    weights = {
        id(each.weight): each
        for each in prior_weights(parts, parts.weight_priors)
        if each.prior is not None
    }
    random = {site.name for site in guide.weights}
    held = set()
    for each in named_parameters(parts):
        held.add(id(parts.get_parameter(each.parameter)))
        known = each.known
        if isinstance(each, RandomParameter):
            value, inference = guide.mean_value(parts, each), "posterior"
            prior = spell_distribution(_given(parts, each.name, known.prior))
        else:
            learned = parts.get_parameter(each.parameter).requires_grad
            value = each.value(parts)
            inference = "learned" if learned else "fixed"
            prior = None
            if known.penalty is not None and learned:
                prior, inference = spell_distribution(known.penalty), "map"
            under = weights.get(id(parts.get_parameter(each.parameter)))
            if under is not None:
                prior = spell(under.prior)
                inference = "posterior" if under.name in random else "map"
        rows[each.name] = [prior, inference, known.shape, float(value.double().mean())]
    for weight in prior_weights(parts, parts.weight_priors):
        if id(weight.weight) in held:
            continue
        inference = "learned" if weight.prior is None else "map"
        inference = "posterior" if weight.name in random else inference
        prior = None if weight.prior is None else spell(weight.prior)
        size = float(weight.weight.double().square().mean().sqrt())
        row = [prior, inference, tuple(weight.weight.shape), size]
        if prior is not None or weight.name not in rows:
            rows[weight.name] = row
    table = pd.DataFrame.from_dict(rows, orient="index", columns=_COLUMNS)
    table["prior"] = table["prior"].astype(object).where(table["prior"].notna(), None)
    return table.rename_axis("parameter")


def _given(parts: nn.Module, name: str, prior: Any) -> Any:
    """Prior as the user wrote it, before it was spread over the parameter's shape."""
    path, _, argument = name.rpartition(".")
    given = getattr(parts.get_submodule(path), argument, None)
    return given if is_distribution(given) else prior


def swapped(parts: Parts, priors: Mapping[str, Any]) -> tuple[dict[str, Part], dict[str, Any]]:
    """Copy parts, with other priors.

    Parameters
    ----------
    parts : Parts
        Not modified.
    priors : mapping
        By path: distributions or numbers of interpretable parameters, weight priors of weights.

    Returns
    -------
    dict of Part
        By slot.
    dict of WeightPrior
        Weight priors by path, in place of the parts' own.

    Raises
    ------
    ConfigError
        For an unknown path or a prior of the wrong kind, or if a parameter has two.
    """
    if not isinstance(priors, Mapping):
        raise ConfigError(
            f"`priors` must be a mapping from path to prior; got {describe_kind(priors)}. Pass "
            '{"factor_prior.coefficient": dist.Uniform(-1., 1.)}, say.'
        )
    weights = [each.name for each in prior_weights(parts)]
    arguments = dict(_arguments(parts))
    changes: dict[str, Any] = {}
    overrides = dict(parts.weight_priors)
    for path, prior in priors.items():
        if path in arguments:
            changes[path] = prior
            continue
        held = [name for name in weights if name == path or name.startswith(f"{path}.")]
        if not held:
            raise _unknown(path, [*arguments, *weights])
        if is_distribution(prior) or isinstance(prior, (int, float)):
            raise ConfigError(
                f"`{path}` holds weights, which take a weight prior; got {spell(prior)}. Pass "
                "rv.weights.Normal(), GroupLog(), Horseshoe() or Laplace(), or None."
            )
        check_weights(path, prior)
        overrides = {k: v for k, v in overrides.items() if not f"{k}.".startswith(f"{path}.")}
        taken = [name for name in priors if name in arguments and name.startswith(f"{path}.")]
        if taken and prior is not None and isinstance(parts.get_submodule(path), Part):
            both = [name for name in taken if _is_weight(parts, name)]
            if both:
                raise ConfigError(
                    f"`{path}` and `{both[0]}` are two priors for one parameter; got "
                    f"{spell(prior)} and {spell(priors[both[0]])}. Leave one out."
                )
        if path in _weighted(parts):
            changes[f"{path}.weights"] = prior
        else:
            overrides[path] = prior
    made = {}
    for slot in SLOTS:
        own = {
            k.removeprefix(f"{slot}."): v for k, v in changes.items() if k.startswith(f"{slot}.")
        }
        part = parts.get_submodule(slot)
        assert isinstance(part, Part)
        made[slot] = _rebuilt(part, own)
    return made, overrides


def _arguments(parts: nn.Module) -> list[tuple[str, Part]]:
    """Paths of all constructor arguments that are interpretable parameters, given or not."""
    found = []
    for path, part in _described(parts):
        own = set(part.hyperparameters)
        auxiliary = getattr(part, "auxiliary", None)
        if isinstance(auxiliary, Part):
            own |= set(auxiliary.hyperparameters)
        own |= {name for name in part.optional if getattr(part, name, None) is None}
        found += [(f"{path}.{name}", part) for name in part.arguments() if name in own]
    return found


def _described(parts: nn.Module) -> list[tuple[str, Part]]:
    """Parts that are slots, or arguments of parts, with their paths."""
    found: list[tuple[str, Part]] = []

    def add(path: str, part: object) -> None:
        if isinstance(part, Part):
            found.append((path, part))
            for name, value in part.arguments().items():
                add(f"{path}.{name}", value)

    for slot in SLOTS:
        add(slot, parts.get_submodule(slot))
    return found


def _weighted(parts: nn.Module) -> set[str]:
    """Paths of parts whose weight prior is an argument."""
    return {path for path, part in _described(parts) if "weights" in part.arguments()}


def _is_weight(parts: Parts, name: str) -> bool:
    """Whether an interpretable parameter is made of a weight matrix, as Alpha's coefficients."""
    tables = {id(each.weight) for each in prior_weights(parts)}
    known = {each.name: each for each in named_parameters(parts)}
    return name in known and id(parts.get_parameter(known[name].parameter)) in tables


def _unknown(path: object, known: list[str]) -> ConfigError:
    return ConfigError(
        f"`priors` must name parameters of the model; got {path!r}{did_you_mean(str(path), known)}."
        f" There are {', '.join(known)}."
    )


def _rebuilt(part: Part, changes: Mapping[str, Any]) -> Part:
    """Construct a part again with some arguments changed, keeping all other parameters."""
    if not changes:
        return copy.deepcopy(part)
    lost = part.lost_arguments()
    if lost:
        raise ConfigError(
            f"{type(part).__name__} does not keep its arguments {', '.join(lost)}, so that its "
            f"priors cannot be swapped. Write self.{lost[0]} = {lost[0]} in its constructor."
        )
    arguments = dict(part.arguments())
    for name, value in arguments.items():
        below = {
            path.removeprefix(f"{name}."): prior
            for path, prior in changes.items()
            if path.startswith(f"{name}.")
        }
        if isinstance(value, Part):
            arguments[name] = _rebuilt(value, below)
    own = {name: prior for name, prior in changes.items() if name in arguments}
    arguments.update(own)
    for name in own:
        arguments.pop(part.in_place_of.get(name, ""), None)
    if "weights" in own:
        # weights under a prior again are no interpretable parameters with one of their own
        for name, known in part.hyperparameters.items():
            if known.prior is not None and "." in known.path and name not in own:
                arguments[name] = 0.0
    elif any(is_distribution(prior) and "." in _path(part, name) for name, prior in own.items()):
        arguments["weights"] = None
    with seeded(0):
        fresh = type(part)(**arguments)
    _copy_state(part, fresh, set(own))
    return fresh


def _path(part: Part, name: str) -> str:
    known = part.hyperparameters.get(name)
    return "" if known is None else known.path


@torch.no_grad()
def _copy_state(old: Part, new: Part, changed: set[str]) -> None:
    """Copy parameters and buffers, but for interpretable parameters that were changed."""
    skip = set()
    for prefix, part in (("", new), ("auxiliary.", getattr(new, "auxiliary", None))):
        if isinstance(part, Part):
            skip |= {
                f"{prefix}{known.path}"
                for name, known in part.hyperparameters.items()
                if name in changed
            }
    values = old.state_dict(keep_vars=True)
    for name, tensor in new.state_dict(keep_vars=True).items():
        known = values.get(name)
        if known is None or name in skip or known.shape != tensor.shape:
            continue
        tensor.data = known.detach().clone()
        if isinstance(tensor, nn.Parameter):
            tensor.requires_grad_(known.requires_grad)
    like = next((v for v in values.values() if v.is_floating_point()), None)
    if like is not None:
        new.to(device=like.device, dtype=like.dtype)
