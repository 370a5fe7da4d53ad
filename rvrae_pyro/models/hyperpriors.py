"""Priors of interpretable parameters: checks, coordinates, and their form in JSON.

An interpretable parameter of a part takes a number, where training starts, or a Pyro distribution,
its prior. Either way the part holds one unconstrained ``nn.Parameter``; a transform maps it to the
parameter's own scale.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor
from torch.distributions import Distribution, Transform, biject_to, constraints
from torch.distributions.transforms import ExpTransform, SigmoidTransform, identity_transform

from rvrae_pyro.errors import ConfigError, check_choice, check_number
from rvrae_pyro.models.kinds import describe_kind
from rvrae_pyro.nn.seeding import seeded

_DRAWS = 1001
"""Draws of a prior whose median is where training starts."""


class _Tanh(Transform):
    """From the real line to the open interval (-1, 1), in floating point too."""

    domain = constraints.real
    codomain = constraints.interval(-1.0, 1.0)
    bijective = True
    sign = 1

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Tanh)

    __hash__ = Transform.__hash__

    def _call(self, x: Tensor) -> Tensor:
        edge = 1.0 - torch.finfo(x.dtype).eps
        return torch.tanh(x).clamp(-edge, edge)

    def _inverse(self, y: Tensor) -> Tensor:
        edge = 1.0 - torch.finfo(y.dtype).eps
        return torch.atanh(y.clamp(-edge, edge))

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return 2.0 * (math.log(2.0) - x - torch.nn.functional.softplus(-2.0 * x))


@dataclass(frozen=True)
class Support:
    """Values that a parameter can have.

    Attributes
    ----------
    text : str
        As an interval, for messages.
    low, high : float
    transform : Transform
        From the real line, elementwise.
    unbounded : bool
        True if a prior may also have the whole real line as its support.
    """

    text: str
    low: float
    high: float
    transform: Transform
    unbounded: bool = False

    def transform_for(self, prior: Distribution) -> Transform | None:
        """Transform onto the support of a prior; None where it is not inside this one."""
        support = _elementwise(prior)
        bounds = _bounds(support)
        if bounds is None:
            return None
        if bounds == (self.low, self.high):
            return self.transform
        if self.unbounded and bounds == (-math.inf, math.inf):
            return identity_transform
        if bounds[0] < self.low or bounds[1] > self.high:
            return None
        onto: Transform = biject_to(support)
        return onto


REAL = Support("the real line", -math.inf, math.inf, identity_transform)
POSITIVE = Support("(0, inf)", 0.0, math.inf, ExpTransform())
UNIT = Support("(0, 1)", 0.0, 1.0, SigmoidTransform())
SIGNED_UNIT = Support("(-1, 1)", -1.0, 1.0, _Tanh())


@dataclass(frozen=True)
class Hyperparameter:
    """An interpretable parameter of a part.

    Attributes
    ----------
    name : str
        Constructor argument.
    path : str
        Path of its unconstrained ``nn.Parameter`` below the part.
    support : Support
    transform : Transform
        From the unconstrained parameter, elementwise.
    shape : tuple of int
        Of the parameter on its own scale.
    prior : TorchDistribution or None
        Over the whole parameter, without batch dimensions; None for a number.
    penalty : TorchDistribution or None
        Prior that acts at the MAP where a number is given.
    """

    name: str
    path: str
    support: Support
    transform: Transform
    shape: tuple[int, ...] = ()
    prior: Any = None
    penalty: Any = None

    def to_raw(self, value: Tensor, raw_shape: torch.Size) -> Tensor:
        """Unconstrained parameter of a value (*batch, *shape), of shape (*batch, *raw_shape)."""
        batch = value.shape[: value.ndim - len(self.shape)]
        raw: Tensor = self.transform.inv(value)
        return raw.reshape(torch.Size((*batch, *raw_shape)))


def is_distribution(value: object) -> bool:
    """Whether a value is a distribution of torch or Pyro."""
    return isinstance(value, Distribution)


def read_hyperparameter(
    owner: str, name: str, given: object, support: Support, shape: tuple[int, ...]
) -> tuple[Transform, Any, Tensor]:
    """Read a number or a prior.

    Parameters
    ----------
    owner, name : str
        Class of the part and name of the argument, for messages.
    given : object
        A number within the support, or a Pyro distribution on it: of one number, which stands for
        independent ones, or of the parameter's shape.
    support : Support
    shape : tuple of int
        Shape of the parameter.

    Returns
    -------
    transform : Transform
        From unconstrained values.
    prior : TorchDistribution or None
    start : Tensor
        Unconstrained value to start training from: that of the number, or the prior's median.

    Raises
    ------
    ConfigError
        For anything else: argument, expected, got, remedy.
    """
    where = f"`{name}` of {owner}"
    if not is_distribution(given):
        # a product has strides of its own, also for one entry
        start = _number(where, name, given, support) * torch.ones(shape)
        return support.transform, None, start
    prior = _expanded(where, given, shape)
    transform = support.transform_for(prior)
    if transform is None:
        raise ConfigError(
            f"{where} must have a prior on {support.text}; got {spell_distribution(given)}, whose "
            f"support is {_range(prior)}. Choose a distribution on {support.text}"
            f"{_example(support)}."
        )
    with seeded(0), torch.no_grad():
        try:
            draws = transform.inv(prior.sample(torch.Size((_DRAWS,))))
        except NotImplementedError as error:
            raise ConfigError(f"{where} must have a prior that can be sampled: {error}") from error
    start = draws.median(0).values
    if not bool(torch.isfinite(start).all()):
        raise ConfigError(
            f"{where} must have a prior with a finite median; got {spell_distribution(given)}."
        )
    return transform, prior, start.to(torch.get_default_dtype())


def _number(where: str, name: str, given: object, support: Support) -> Tensor:
    scalar = getattr(given, "ndim", None) == 0 and hasattr(given, "item")
    if not (scalar or isinstance(given, Real)) or isinstance(given, bool):
        raise ConfigError(
            f"{where} must be a number or a Pyro distribution; got {describe_kind(given)}. Pass a "
            f"number within {support.text}, or a prior{_example(support)}."
        )
    number = check_number(name, given, f"({support.low}, {support.high})")
    # in double precision first, so that the start is the nearest float
    value = support.transform.inv(torch.tensor(number, dtype=torch.float64))
    start: Tensor = value.to(torch.get_default_dtype())
    return start


def _expanded(where: str, given: Any, shape: tuple[int, ...]) -> Any:
    """Spread a prior over a parameter's shape; refuse what is none, or of another shape."""
    if not isinstance(given, TorchDistributionMixin):
        raise ConfigError(
            f"{where} must be a distribution of pyro.distributions; got torch's "
            f"{type(given).__name__}. Use pyro.distributions.{type(given).__name__}."
        )
    devices = {str(tensor.device) for tensor in _tensors(given)}
    if devices - {"cpu"}:
        raise ConfigError(
            f"{where} must have a prior on the CPU, from where it follows the model; got "
            f"parameters on {', '.join(sorted(devices))}. Build it of numbers or CPU tensors."
        )
    try:
        support = given.support
        discrete = bool(support.is_discrete)
    except NotImplementedError:
        discrete = False
    if discrete:
        raise ConfigError(f"{where} must have a continuous prior; got {spell_distribution(given)}.")
    got = (*given.batch_shape, *given.event_shape)
    if got == () and shape:
        return given.expand(torch.Size(shape)).to_event(len(shape))
    if got == shape:
        batch = len(given.batch_shape)
        return given.to_event(batch) if batch else given
    wanted = "shape () or " + str(shape) if shape else "shape ()"
    raise ConfigError(
        f"{where} must have a prior of {wanted}; got {spell_distribution(given)} with batch shape "
        f"{tuple(given.batch_shape)} and event shape {tuple(given.event_shape)}. A prior of one "
        "number stands for independent ones."
    )


def _elementwise(prior: Any) -> Any:
    """Support of each entry."""
    support = prior.support
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support


def _bounds(support: Any) -> tuple[float, float] | None:
    """Return the ends of a support that is an interval; None for others."""
    if support is constraints.real or isinstance(support, type(constraints.real)):
        return -math.inf, math.inf
    low = getattr(support, "lower_bound", None)
    high = getattr(support, "upper_bound", None)
    if low is None and high is None:
        return None
    return (
        -math.inf if low is None else float(torch.as_tensor(low).min()),
        math.inf if high is None else float(torch.as_tensor(high).max()),
    )


def _range(prior: Any) -> str:
    """Write the support of a prior."""
    support = _elementwise(prior)
    bounds = _bounds(support)
    return str(support) if bounds is None else f"({bounds[0]:g}, {bounds[1]:g})"


def _example(support: Support) -> str:
    known = {
        POSITIVE.text: "dist.LogNormal(0., .5) or dist.Gamma(2., .1)",
        UNIT.text: "dist.Beta(20., 2.)",
        SIGNED_UNIT.text: "dist.Uniform(-1., 1.)",
        REAL.text: "dist.Normal(0., 1.)",
    }
    return f", such as {known[support.text]}" if support.text in known else ""


def _tensors(value: Any) -> list[Tensor]:
    """All tensors that a distribution is made of."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, (list, tuple)):
        return [tensor for each in value for tensor in _tensors(each)]
    if isinstance(value, (Distribution, Transform)):
        return [tensor for each in vars(value).values() for tensor in _tensors(each)]
    return []


def moved(prior: Any, like: Tensor) -> Any:
    """Copy a distribution, or anything it is made of, to the dtype and device of a tensor."""
    if isinstance(prior, Tensor):
        return prior.to(like) if prior.is_floating_point() else prior.to(like.device)
    if isinstance(prior, (list, tuple)) and not isinstance(prior, torch.Size):
        return type(prior)(moved(each, like) for each in prior)
    if isinstance(prior, (Distribution, Transform)):
        fresh = copy.copy(prior)
        for name, value in vars(prior).items():
            if isinstance(value, (Tensor, Distribution, Transform, list, tuple)):
                fresh.__dict__[name] = moved(value, like)
        return fresh
    return prior


_ALLOWED = (
    "Beta", "Cauchy", "Chi2", "Exponential", "Gamma", "Gumbel", "HalfCauchy", "HalfNormal",
    "InverseGamma", "Laplace", "LogNormal", "Logistic", "MultivariateNormal", "Normal", "Pareto",
    "StudentT", "Uniform", "Weibull",
)  # fmt: skip
"""Distributions that files and configurations may name."""

_ARGUMENTS = {"MultivariateNormal": ("loc", "scale_tril"), "Uniform": ("low", "high")}
"""Constructor arguments where they are not those of ``arg_constraints``."""


def describe_distribution(prior: Any) -> dict[str, Any]:
    """Describe a distribution with JSON types: ``{"distribution": name, argument: value}``.

    Raises
    ------
    ConfigError
        For a distribution that files may not name.
    """
    base = prior
    while isinstance(base, dist.Independent):
        base = base.base_dist
    name = type(base).__name__
    if name not in _ALLOWED or type(base) is not getattr(dist, name):
        raise ConfigError(
            f"distribution {name} cannot be written to a file. Choose among {', '.join(_ALLOWED)}, "
            "or pass `model=` when you load."
        )
    arguments = _ARGUMENTS.get(name) or tuple(base.arg_constraints)
    return {"distribution": name, **{each: _plain(getattr(base, each)) for each in arguments}}


def is_allowed(prior: Any) -> bool:
    """Whether a distribution is one that files may name."""
    try:
        describe_distribution(prior)
    except ConfigError:
        return False
    return True


def build_distribution(spec: Mapping[str, Any]) -> Any:
    """Build a distribution from its description; :func:`describe_distribution` makes one.

    Raises
    ------
    ConfigError
        For an unknown name or argument.
    """
    arguments = dict(spec)
    name = arguments.pop("distribution", None)
    check_choice("distribution", name, _ALLOWED)
    known = _ARGUMENTS.get(name) or tuple(getattr(dist, name).arg_constraints)
    unknown = [each for each in arguments if each not in known]
    if unknown or len(arguments) < len(known):
        raise ConfigError(
            f"`distribution` {name} takes {', '.join(known)}; got {', '.join(arguments) or 'none'}."
        )
    try:
        values = {
            each: torch.as_tensor(value, dtype=torch.get_default_dtype())
            for each, value in arguments.items()
        }
        return getattr(dist, name)(**values, validate_args=True)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"`distribution` {name} cannot be built: {error}.") from error


def spell_distribution(prior: Any) -> str:
    """Write a distribution as the call that makes it."""
    try:
        spec = describe_distribution(prior)
    except ConfigError:
        return repr(prior)
    name = spec.pop("distribution")
    return f"dist.{name}({', '.join(f'{key}={value!r}' for key, value in spec.items())})"


def _plain(value: Any) -> Any:
    """Convert to a number or nested lists, in as few digits as give the same value again."""
    if isinstance(value, Tensor):
        flat = value.detach().cpu()
        array = flat.numpy()
        if array.ndim == 0:
            return float(str(array[()]))
        # an expanded prior is written as the one number it stands for
        if array.size and (array == array.flat[0]).all() and 0 in flat.stride():
            return float(str(array.flat[0]))
        return [_plain(torch.as_tensor(row)) for row in array]
    if isinstance(value, np.generic):
        return float(str(value))
    return value
