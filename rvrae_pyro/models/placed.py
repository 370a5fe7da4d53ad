"""Parts with values in place of their parameters: how a draw reaches every method of a part.

Without particles a part with values is a shallow copy that holds them. Particles are vectorised
by ``torch.vmap`` over such copies, method by method: every method sees the value of one particle,
and no value can broadcast against another dimension than its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from rvrae_pyro.data.batch import Batch, State
from rvrae_pyro.models.likelihood_base import Likelihood
from rvrae_pyro.models.priors.base import FactorPrior, Transition, Updated
from rvrae_pyro.nn.gaussian import Dispersion, Potential


def place(part: nn.Module, values: Mapping[str, Tensor], particles: torch.Size) -> Any:
    """Return a part that works with some values in place of its parameters.

    Parameters
    ----------
    part : Module
        Not modified.
    values : mapping from path to Tensor of shape (*particles, *shape)
        By path of the parameter below the part.
    particles : tuple of int

    Returns
    -------
    Module or callable
        For particles, a factor prior or likelihood with all methods that the pair calls; of other
        parts a callable that takes a batch.
    """
    if not values:
        return part
    if not particles:
        return place_in(part, values)
    if isinstance(part, FactorPrior):
        recurrent = any(isinstance(module, nn.RNNBase) for module in part.modules())
        return (_LoopedPrior if recurrent else _ManyPriors)(part, values, particles)
    if isinstance(part, Likelihood):
        return _ManyLikelihoods(part, values, particles)
    many = _Many(part, values, particles)

    def call(batch: Batch) -> Tensor:
        result: Tensor = many.run(lambda placed: placed(batch))
        return result

    return call


def place_in(part: nn.Module, values: Mapping[str, Tensor]) -> Any:
    """Copy a part, sharing all but some parameters, which are replaced by values."""
    copied: dict[str, nn.Module] = {"": _shallow(part)}

    def at(path: str) -> nn.Module:
        if path not in copied:
            above, _, name = path.rpartition(".")
            copied[path] = _shallow(at(above)._modules[name])
            at(above)._modules[name] = copied[path]
        return copied[path]

    for path, value in values.items():
        owner, _, name = path.rpartition(".")
        at(owner)._parameters[name] = value  # type: ignore[assignment]
    return copied[""]


def _shallow(module: nn.Module | None) -> nn.Module:
    assert module is not None
    clone = object.__new__(type(module))
    clone.__dict__ = dict(module.__dict__)
    clone.__dict__["_parameters"] = dict(module._parameters)
    clone.__dict__["_modules"] = dict(module._modules)
    return clone


class _Many:
    """One part under each of several values."""

    def __init__(
        self, part: nn.Module, values: Mapping[str, Tensor], particles: torch.Size
    ) -> None:
        self.part, self.particles = part, particles
        skip = len(particles)
        self.names = list(values)
        self.values = [value.reshape(-1, *value.shape[skip:]) for value in values.values()]
        self.n = particles.numel()

    def run(self, call: Callable[..., Any], *args: Any, batch_ndim: int = 0) -> Any:
        """Call a function of the part, and of arguments, for each particle.

        Parameters
        ----------
        call : callable
            Takes the part with values in place, then the arguments.
        *args : tuple (value, event dimensions)
            A tensor or tuple of tensors, or None. A tensor with ``batch_ndim`` batch dimensions
            has particles in front; one with fewer is the same for all.
        batch_ndim : int
            Particles included.
        """
        tensors: list[Tensor] = []
        dims: list[int | None] = []
        places: list[Any] = []
        for value, event in args:
            leaves, spec = pytree.tree_flatten(value)
            events = event if isinstance(event, tuple) else (event,) * len(leaves)
            held: list[int | None] = []
            for leaf, event_dim in zip(leaves, events, strict=True):
                if leaf is None:
                    held.append(None)
                    continue
                tensor, dim = self._spread(leaf, leaf.ndim - event_dim == batch_ndim)
                held.append(len(tensors))
                tensors.append(tensor)
                dims.append(dim)
            places.append((held, spec))
        kept: list[Any] = []

        def one(values: list[Tensor], *flat: Tensor) -> tuple[Tensor, ...]:
            placed = place_in(self.part, dict(zip(self.names, values, strict=True)))
            given = [
                pytree.tree_unflatten([None if at is None else flat[at] for at in held], spec)
                for held, spec in places
            ]
            leaves, spec = pytree.tree_flatten(call(placed, *given))
            kept[:] = [leaves, spec]
            return tuple(leaf for leaf in leaves if isinstance(leaf, Tensor))

        found = iter(
            torch.vmap(one, in_dims=(0, *dims), randomness="different")(self.values, *tensors)
        )
        leaves, spec = kept
        shaped = [self._shaped(next(found)) if isinstance(x, Tensor) else x for x in leaves]
        return pytree.tree_unflatten(shaped, spec)

    def _spread(self, tensor: Tensor, has_particles: bool) -> tuple[Tensor, int | None]:
        if not has_particles:
            return tensor, None
        rest = tensor.shape[len(self.particles) :]
        return tensor.expand(*self.particles, *rest).reshape(self.n, *rest), 0

    def _shaped(self, tensor: Tensor) -> Tensor:
        return tensor.reshape(*self.particles, *tensor.shape[1:])

    def below(self, name: str) -> dict[str, Tensor]:
        """Values of a nested part."""
        return {
            path.removeprefix(f"{name}."): self._shaped(value)
            for path, value in zip(self.names, self.values, strict=True)
            if path.startswith(f"{name}.")
        }


_STATED = (
    "n_factors", "n_context", "gaussian", "observed", "summarises", "reads_dispersion", "site",
)  # fmt: skip


class _ManyPriors(FactorPrior):
    """A factor prior under each of several values; states and factors have particles in front."""

    part: FactorPrior
    many: _Many
    ndim: int

    def __init__(
        self, part: FactorPrior, values: Mapping[str, Tensor], particles: torch.Size
    ) -> None:
        super().__init__()
        many = _Many(part, values, particles)
        self.__dict__.update(part=part, many=many, ndim=len(particles))
        for name in _STATED:
            self.__dict__[name] = getattr(part, name)
        if part.auxiliary is not None:
            self.auxiliary = place(part.auxiliary, many.below("auxiliary"), particles)

    def initial(self) -> State:
        found: State = self.many.run(lambda part: part.initial())
        return found

    def transition(self, state: State, context: Tensor | None) -> Transition:
        found: Transition = self._of_state(lambda part, *a: part.transition(*a), state, context)
        return found

    def ahead(self, state: State, context: Tensor | None) -> tuple[Transition, Tensor | None]:
        found: tuple[Transition, Tensor | None] = self._of_state(
            lambda part, *a: part.ahead(*a), state, context
        )
        return found

    def level(self, state: State, context: Tensor | None) -> Tensor | None:
        found: Tensor | None = self._of_state(lambda part, *a: part.level(*a), state, context)
        return found

    def advance(self, state: State, factors: Tensor, context: Tensor | None) -> State:
        found: State = self.many.run(
            lambda part, *a: part.advance(*a),
            (state, 1),
            (factors, 1),
            (context, 1),
            batch_ndim=max(state[0].ndim, factors.ndim) - 1,
        )
        return found

    def unroll(self, factors: Tensor, context: Tensor | None, state: State) -> State:
        # tensors of paths have a month before the event, the state has none
        found: State = self.many.run(
            lambda part, *a: part.unroll(*a),
            (factors, 2),
            (context, 2),
            (state, 1),
            batch_ndim=self.ndim,
        )
        return found

    def encode(self, context: Tensor | None) -> Tensor | None:
        if context is None:
            return None
        found: Tensor | None = self.many.run(
            lambda part, *a: part.encode(*a), (context, 2), batch_ndim=self.ndim
        )
        return found

    def drive(self, context: Tensor | None, latent: Tensor) -> Tensor:
        return self.part.drive(context, latent)

    def start(self, context: Tensor | None) -> Transition:
        """Transition at the initial state, of batch shape (*particles, n_times or 1)."""
        found = self.many.run(lambda part, *a: part.start(*a), (context, 2), batch_ndim=self.ndim)
        fields = [
            field.unsqueeze(self.ndim) if field.ndim - dims == self.ndim else field
            for field, dims in zip(found, found.event_dims, strict=True)
        ]
        started: Transition = type(found)(*fields)
        return started

    @property
    def degrees_of_freedom(self) -> Tensor | None:
        found: Tensor | None = self.many.run(lambda part: part.degrees_of_freedom)
        return found

    def noise(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """Draw noise of a shape that begins with the particles, or of one path for each."""
        shape = tuple(shape)
        if self.part.gaussian:
            return self.part.noise(shape, like)
        inner = shape[self.ndim :] if shape[: self.ndim] == self.many.particles else shape
        of_each: Tensor = self.many.run(lambda part: part.noise(inner, like))
        return of_each

    def slope(self) -> Tensor | None:
        found: Tensor | None = self.many.run(lambda part: part.slope())
        return found

    def reading(self, state: State) -> dict[str, Tensor]:
        found: dict[str, Tensor] = self.many.run(
            lambda part, *a: part.reading(*a), (state, 1), batch_ndim=state[0].ndim - 1
        )
        return found

    def propose_auxiliary(
        self,
        ahead: Transition,
        state: State,
        context: Tensor | None,
        potential: Potential,
        dispersion: Dispersion | None,
    ) -> Updated:
        found: Updated = self.many.run(
            lambda part, *a: part.propose_auxiliary(*a),
            (ahead, tuple(ahead.event_dims)),
            (state, 1),
            (context, 1),
            (potential, (2, 1)),
            (dispersion, 0),
            batch_ndim=state[0].ndim - 1,
        )
        return found

    def _of_state(self, call: Callable[..., Any], state: State, context: Tensor | None) -> Any:
        return self.many.run(call, (state, 1), (context, 1), batch_ndim=state[0].ndim - 1)


class _LoopedPrior(_ManyPriors):
    """The same around a recurrent network, which ``torch.vmap`` takes month by month only."""

    unroll = FactorPrior.unroll


class _ManyLikelihoods(Likelihood):
    """A likelihood under each of several values of its own parameters."""

    part: Likelihood
    many: _Many
    ndim: int
    own: dict[str, Tensor]

    def __init__(
        self, part: Likelihood, values: Mapping[str, Tensor], particles: torch.Size
    ) -> None:
        super().__init__(part.scale, part.alpha)
        own = {name: value for name, value in values.items() if "." not in name}
        self.__dict__.update(part=part, own=own, many=_Many(part, own, particles))
        self.__dict__.update(ndim=len(particles), exact_potential=part.exact_potential)

    def distribution(self, loc: Tensor, scale: Tensor) -> dist.TorchDistribution:
        """Distribution of returns (*particles, n_times, n_assets), elementwise."""
        spread = {
            name: value.reshape(*value.shape[: self.ndim], 1, 1, *value.shape[self.ndim :])
            for name, value in self.own.items()
        }
        found: dist.TorchDistribution = place_in(self.part, spread).distribution(loc, scale)
        return found

    def deviation(self, scale: Tensor) -> Tensor:
        found: Tensor = self.many.run(
            lambda part, *a: part.deviation(*a), (scale, 2), batch_ndim=self.ndim
        )
        return found

    def potential(
        self, residual: Tensor, beta: Tensor, scale: Tensor, observed: Tensor, start: Transition
    ) -> Potential:
        found: Potential = self._of_months("potential", residual, beta, scale, observed, start)
        return found

    def dispersed_potential(
        self, residual: Tensor, beta: Tensor, scale: Tensor, observed: Tensor, start: Transition
    ) -> tuple[Potential, Dispersion]:
        found: tuple[Potential, Dispersion] = self._of_months(
            "dispersed_potential", residual, beta, scale, observed, start
        )
        return found

    def _of_months(
        self,
        method: str,
        residual: Tensor,
        beta: Tensor,
        scale: Tensor,
        observed: Tensor,
        start: Transition,
    ) -> Any:
        # months come last but one; a prior's start may have none, and then no particles either
        return self.many.run(
            lambda part, *a: getattr(part, method)(*a),
            (residual, 1),
            (beta, 2),
            (scale, 1),
            (observed, 1),
            (start, tuple(start.event_dims)),
            batch_ndim=self.ndim + 1,
        )
