"""Weights with a posterior: their sites, their mean-field guide, and parts called with draws."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.func import functional_call

from rvrae_pyro.data.batch import Batch
from rvrae_pyro.errors import ConfigError
from rvrae_pyro.models.asset_labels import AssetEffect
from rvrae_pyro.models.part import Part
from rvrae_pyro.models.weights import WeightMatrices, WeightPrior, weight_matrices

__all__ = [
    "MeanField",
    "RandomWeight",
    "Weights",
    "call_with",
    "find_random_weights",
    "map_weights",
    "matched_effects",
]

Weights = Mapping[str, Tensor]
"""Values of weights by site, each (*particles, 1, 1, *shape) under plates or of its own shape."""

_WHERE = ("loadings", "likelihood.scale", "likelihood.alpha")
"""Parts that are called with drawn weights; the others keep their MAP."""

_START = 0.02
"""Scale of the guide to start from, small beside the weights of a fresh network."""


@dataclass(frozen=True)
class RandomWeight:
    """A weight matrix that has a posterior.

    Attributes
    ----------
    name : str
        Path of the parameter below the parts; also the name of its site.
    part : str
        Path of the part whose prior it is under.
    is_input : bool
        True where its columns are characteristics.
    """

    name: str
    part: str
    is_input: bool


def find_random_weights(parts: nn.Module) -> tuple[RandomWeight, ...]:
    """List the feed-forward weights whose prior asks for a posterior, in the order of the parts.

    Raises
    ------
    ConfigError
        If a prior asks for a posterior but has no ``distribution``.
    """
    names = {id(p): name for name, p in parts.named_parameters()}
    recurrent = {
        id(p) for m in parts.modules() if isinstance(m, nn.RNNBase) for p in m.parameters()
    }
    found = []
    for path, part in parts.named_modules():
        prior = getattr(part, "weights", None)
        if not isinstance(part, Part) or not _is_posterior(prior):
            continue
        if not any(path == where or path.startswith(f"{where}.") for where in _WHERE):
            continue
        if not hasattr(prior, "distribution"):
            raise ConfigError(
                f"`weights` {type(prior).__name__} of `{path}` asks for a posterior but has no "
                "method distribution(weight, is_input). Write it, or use inference='map'."
            )
        matrices = weight_matrices(part)
        for is_input, tables in ((True, matrices.inputs), (False, matrices.others)):
            found += [
                RandomWeight(names[id(w)], path, is_input) for w in tables if id(w) not in recurrent
            ]
    return tuple(found)


def map_weights(
    parts: nn.Module, sites: Sequence[RandomWeight]
) -> Iterator[tuple[WeightPrior, WeightMatrices]]:
    """Go through the priors of all parts, each with those of its matrices that have no site."""
    random = {id(parts.get_parameter(site.name)) for site in sites}
    for part in parts.modules():
        prior = getattr(part, "weights", None)
        if prior is None or not isinstance(part, Part):
            continue
        matrices = weight_matrices(part)
        kept = WeightMatrices(
            [w for w in matrices.inputs if id(w) not in random],
            [w for w in matrices.others if id(w) not in random],
        )
        if kept.inputs or kept.others:
            yield prior, kept


class MeanField(nn.Module):
    """Independent Normals about the parts' own weights: the guide of all weights with a site.

    Locations are the weights themselves, so that a part called without draws works at the
    posterior mean; log scales are held here.

    Parameters
    ----------
    parts : nn.Module
        Owner of the weights. It is not kept: every method takes it again.
    """

    def __init__(self, parts: nn.Module) -> None:
        super().__init__()
        self.sites = find_random_weights(parts)
        self.log_scales = nn.ParameterDict()
        for site in self.sites:
            weight = parts.get_parameter(site.name)
            self.log_scales[_key(site.name)] = torch.full_like(weight.detach(), _START).log()
            self.prior(parts, site)  # a prior without a density is refused here

    @torch.no_grad()
    def reset(self) -> None:
        """Put all scales back to where they start."""
        for scale in self.log_scales.values():
            scale.copy_(torch.full_like(scale, _START).log())

    def prior(self, parts: nn.Module, site: RandomWeight) -> dist.TorchDistribution:
        """Prior of one matrix."""
        prior = parts.get_submodule(site.part).weights
        weight = parts.get_parameter(site.name)
        made: dist.TorchDistribution = prior.distribution(weight.detach(), site.is_input)  # type: ignore[union-attr, operator]
        return made

    def proposal(self, parts: nn.Module, site: RandomWeight) -> dist.TorchDistribution:
        """Guide of one matrix."""
        weight: Tensor = parts.get_parameter(site.name)
        loc, scale = weight, self.log_scales[_key(site.name)].exp()
        part = parts.get_submodule(site.part)
        if isinstance(part, AssetEffect):
            loc, scale = part.weight_proposal(loc, scale)
        proposed: dist.TorchDistribution = dist.Normal(loc, scale, validate_args=False)
        matrix: dist.TorchDistribution = proposed.to_event(weight.ndim)
        return matrix

    def sample_prior(self, parts: nn.Module) -> dict[str, Tensor]:
        """Sample every site from its prior, as the model does."""
        return self._sample(parts, self.prior)

    def sample_proposal(self, parts: nn.Module) -> dict[str, Tensor]:
        """Sample every site from the guide."""
        return self._sample(parts, self.proposal)

    def log_ratio(self, parts: nn.Module, weights: Weights) -> Tensor:
        """Log prior less log guide of one draw of all weights, a scalar."""
        total = next(parts.buffers()).new_zeros(())
        for site in self.sites:
            value = weights[site.name]
            total = total + self.prior(parts, site).log_prob(value)
            total = total - self.proposal(parts, site).log_prob(value)
        return total

    def _sample(
        self,
        parts: nn.Module,
        source: Callable[[nn.Module, RandomWeight], dist.TorchDistribution],
    ) -> dict[str, Tensor]:
        drawn: dict[str, Tensor] = {}
        for site in self.sites:
            value = pyro.sample(site.name, source(parts, site))
            assert isinstance(value, Tensor)
            drawn[site.name] = value
        return drawn


def call_with(parts: nn.Module, path: str, weights: Weights, batch: Batch) -> Tensor:
    """Call a part on a batch with drawn weights in place of its own.

    Parameters
    ----------
    parts : nn.Module
    path : str
        Path of the part below ``parts``.
    weights : mapping
        Values by site; those of other parts are ignored, and without any the part is called as
        it is.
    batch : Batch

    Returns
    -------
    Tensor
        What the part returns, with the particle dimensions of the weights in front. Particles
        are vectorised, so that every ``x @ W.mT`` is one product.
    """
    part = parts.get_submodule(path)

    def one(drawn: dict[str, Tensor]) -> Tensor:
        result: Tensor = functional_call(part, drawn, (batch,))
        return result

    own: dict[str, Tensor] = {}
    shape = torch.Size()
    for name, value in weights.items():
        if name.startswith(f"{path}."):
            plain = _without_plates(value, parts.get_parameter(name).ndim)
            own[name.removeprefix(f"{path}.")] = plain
            shape = plain.shape[: plain.ndim - parts.get_parameter(name).ndim]
    if not own:
        as_it_is: Tensor = part(batch)
        return as_it_is
    if not shape:
        return one(own)
    flat = {name: w.reshape(-1, *w.shape[len(shape) :]) for name, w in own.items()}
    many: Tensor = torch.vmap(one, randomness="different")(flat)
    return many.reshape(*shape, *many.shape[1:])


@torch.no_grad()
def matched_effects(parts: nn.Module, other: nn.Module) -> dict[str, Tensor]:
    """Effects by asset of other parts, and their guide's log scales, in the order of these labels.

    Assets without a label there start from the prior.
    """
    found: dict[str, Tensor] = {}
    earlier = dict(other.named_modules())
    for path, part in parts.named_modules():
        before = earlier.get(path)
        if not (isinstance(part, AssetEffect) and isinstance(before, AssetEffect)):
            continue
        name, rows = f"{path}.effects", part.rows_from(before)
        key = f"weight_guide.log_scales.{_key(name)}"
        theirs = other.state_dict()
        loc = theirs[name]
        if key in theirs:
            loc, scale = before.weight_proposal(loc, theirs[key].exp())
            found[key] = scale[rows].log()
        found[name] = loc[rows]
    return found


def _without_plates(value: Tensor, event_dim: int) -> Tensor:
    """Drop the time and asset dimensions, of size 1, of a site under a plate of particles."""
    batch = value.shape[: value.ndim - event_dim]
    if not batch:
        return value
    assert batch[-2:] == (1, 1), "weights live outside the plates of months and assets"
    return value.reshape(*batch[:-2], *value.shape[value.ndim - event_dim :])


def _is_posterior(prior: object) -> bool:
    return getattr(prior, "inference", "map") == "posterior"


def _key(name: str) -> str:
    """Name of a weight's scale: a parameter's own name may hold no dot."""
    return name.replace(".", "__")
