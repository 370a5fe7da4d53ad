"""Drawn values: weights and interpretable parameters with a posterior, their sites and guide.

Both kinds are one thing to the pair: a site outside the plates, whose draw takes the place of a
parameter of a part. Parts are called with the values in place
(:mod:`rvrae_pyro.models.placed`), so that a draw reaches every method of a part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions.transforms import ReshapeTransform

from rvrae_pyro.data.batch import Batch
from rvrae_pyro.errors import ConfigError
from rvrae_pyro.models.asset_labels import AssetEffect
from rvrae_pyro.models.hyperguides import HyperGuide
from rvrae_pyro.models.hyperpriors import Hyperparameter, moved, spell_distribution
from rvrae_pyro.models.part import Part
from rvrae_pyro.models.placed import place
from rvrae_pyro.models.weights import WeightMatrices, WeightPrior, weight_matrices

Weights = Mapping[str, Tensor]
"""Values by site, each (*particles, 1, 1, *shape) under plates or of its own shape."""

_WHERE = ("loadings", "likelihood.scale", "likelihood.alpha")
"""Parts that are called with drawn weights; the others keep their MAP."""

_START = 0.02
"""Scale of the guide to start from, small beside the weights of a fresh network."""

_NONE: Mapping[str, WeightPrior | None] = MappingProxyType({})

_HYPER_START = 0.1
"""The same for interpretable parameters, in unconstrained space."""


@dataclass(frozen=True)
class RandomWeight:
    """A weight matrix that has a posterior.

    Attributes
    ----------
    name : str
        Path of the parameter below the parts; also the name of its site.
    law : WeightPrior
        Prior that it is under.
    is_input : bool
        True where its columns are characteristics.
    """

    name: str
    law: Any
    is_input: bool

    @property
    def parameter(self) -> str:
        """Path of the ``nn.Parameter`` below the parts."""
        return self.name

    def shape(self, parts: nn.Module) -> torch.Size:
        """Shape of a draw."""
        return parts.get_parameter(self.name).shape

    def value(self, parts: nn.Module) -> Tensor:
        """Value at the middle of the guide."""
        return parts.get_parameter(self.name)

    def to_raw(self, parts: nn.Module, value: Tensor) -> Tensor:
        """Parameter (*batch, *shape) that belongs to a value: itself."""
        return value

    def prior(self, parts: nn.Module) -> dist.TorchDistribution:
        """Prior of the matrix."""
        weight = parts.get_parameter(self.name)
        made: dist.TorchDistribution = self.law.distribution(weight.detach(), self.is_input)
        return made


@dataclass(frozen=True)
class NamedParameter:
    """An interpretable parameter of a part.

    Attributes
    ----------
    name : str
        Path of the parameter as users write it; also the name of its site, if it has one.
    part : str
        Path of the part below the parts.
    known : Hyperparameter
    """

    name: str
    part: str
    known: Hyperparameter

    @property
    def parameter(self) -> str:
        """Path of the ``nn.Parameter`` below the parts."""
        return f"{self.part}.{self.known.path}"

    def value(self, parts: nn.Module) -> Tensor:
        """Value at the middle of the guide, or the learned one."""
        part = parts.get_submodule(self.part)
        assert isinstance(part, Part)
        return part.value(self.known.name)


@dataclass(frozen=True)
class RandomParameter(NamedParameter):
    """An interpretable parameter that has a posterior."""

    def shape(self, parts: nn.Module) -> torch.Size:
        """Shape of a draw."""
        return torch.Size(self.known.shape)

    def to_raw(self, parts: nn.Module, value: Tensor) -> Tensor:
        """Unconstrained parameter that belongs to a value (*batch, *shape)."""
        return self.known.to_raw(value, parts.get_parameter(self.parameter).shape)

    def prior(self, parts: nn.Module) -> dist.TorchDistribution:
        """Prior, in the parameter's dtype and on its device."""
        made: dist.TorchDistribution = moved(
            self.known.prior, parts.get_parameter(self.parameter).detach()
        )
        return made


Site = RandomWeight | RandomParameter


@dataclass(frozen=True)
class PriorWeight:
    """A weight matrix under a weight prior.

    Attributes
    ----------
    name : str
        Path of the parameter below the parts.
    weight : Tensor
    is_input : bool
        True where its columns are characteristics.
    prior : WeightPrior or None
    path : str
        Path that the prior was given for: of the part, or within it.
    """

    name: str
    weight: Tensor
    is_input: bool
    prior: WeightPrior | None
    path: str


def prior_weights(
    parts: nn.Module, overrides: Mapping[str, WeightPrior | None] = _NONE
) -> Iterator[PriorWeight]:
    """List all weight matrices with the priors that they are under, in the order of the parts.

    Parameters
    ----------
    parts : Module
    overrides : mapping, optional
        Weight priors by path, in place of the parts' own; the longest path that holds counts.
    """
    names = {id(p): name for name, p in parts.named_parameters()}
    done = set()
    for path, part in parts.named_modules():
        if not isinstance(part, Part) or not hasattr(part, "weights"):
            continue
        matrices = weight_matrices(part)
        for is_input, tables in ((True, matrices.inputs), (False, matrices.others)):
            for weight in tables:
                # a matrix made of a parameter, as a row of a bias, is under the part's own prior
                name = names.get(id(weight), path)
                holds = [key for key in overrides if name == key or name.startswith(f"{key}.")]
                key = max(holds, key=len, default=None)
                if key is not None:
                    if name in done:  # listed by the part and by one around it
                        continue
                    done.add(name)
                prior: Any = part.weights if key is None else overrides[key]
                yield PriorWeight(name, weight, is_input, prior, path if key is None else key)


def find_random_weights(
    parts: nn.Module, overrides: Mapping[str, WeightPrior | None] = _NONE
) -> tuple[RandomWeight, ...]:
    """List the feed-forward weights whose prior asks for a posterior, in the order of the parts.

    Raises
    ------
    ConfigError
        If a prior asks for a posterior but has no ``distribution``.
    """
    recurrent = {
        id(p) for m in parts.modules() if isinstance(m, nn.RNNBase) for p in m.parameters()
    }
    found = []
    for each in prior_weights(parts, overrides):
        fixed = getattr(each.prior, "inference", "map") != "posterior"
        if fixed or id(each.weight) in recurrent:
            continue
        if not any(each.name.startswith(f"{where}.") for where in _WHERE):
            continue
        if not hasattr(each.prior, "distribution"):
            raise ConfigError(
                f"`weights` {type(each.prior).__name__} of `{each.path}` asks for a posterior but "
                "has no method distribution(weight, is_input). Write it, or use inference='map'."
            )
        found.append(RandomWeight(each.name, each.prior, each.is_input))
    return tuple(found)


def named_parameters(parts: nn.Module) -> tuple[NamedParameter, ...]:
    """List the interpretable parameters of all parts, with those that have a posterior as sites.

    The parameters of an auxiliary latent count as those of the prior that it belongs to.

    Raises
    ------
    ConfigError
        If one ``nn.Parameter`` has two priors.
    """
    found: list[NamedParameter] = []
    owners: dict[int, NamedParameter] = {}
    for path, part in parts.named_modules():
        if not isinstance(part, Part):
            continue
        above = path.removesuffix(".auxiliary")
        for known in part.hyperparameters.values():
            taken = {each.name for each in found}
            name = f"{above}.{known.name}"
            if name in taken:
                name = f"{path}.{known.name}"
            kind = NamedParameter if known.prior is None else RandomParameter
            each = kind(name, path, known)
            parameter = parts.get_parameter(each.parameter)
            other = owners.setdefault(id(parameter), each)
            if known.prior is not None and other is not each and other.known.prior is not None:
                raise ConfigError(
                    f"`{name}` and `{other.name}` are one parameter with two priors; got "
                    f"{spell_distribution(other.known.prior)} and "
                    f"{spell_distribution(known.prior)}. Leave one out."
                )
            if known.prior is not None and not parameter.requires_grad:
                raise ConfigError(
                    f"`{name}` is frozen and has a prior; got requires_grad=False. Let it be "
                    "learned, or give a number."
                )
            found.append(each)
    return tuple(found)


def find_random_parameters(parts: nn.Module) -> tuple[RandomParameter, ...]:
    """List the interpretable parameters that have a posterior."""
    return tuple(each for each in named_parameters(parts) if isinstance(each, RandomParameter))


def map_weights(
    parts: nn.Module, sites: Sequence[Site], overrides: Mapping[str, WeightPrior | None] = _NONE
) -> Iterator[tuple[WeightPrior, WeightMatrices]]:
    """Go through the priors of all parts, each with those of its matrices that have no site."""
    random = {id(parts.get_parameter(site.parameter)) for site in sites}
    groups: dict[str, tuple[WeightPrior, list[Tensor], list[Tensor]]] = {}
    for each in prior_weights(parts, overrides):
        if each.prior is None or id(each.weight) in random:
            continue
        _, inputs, others = groups.setdefault(each.path, (each.prior, [], []))
        (inputs if each.is_input else others).append(each.weight)
    for prior, inputs, others in groups.values():
        yield prior, WeightMatrices(inputs, others)


class SiteGuide(nn.Module):
    """Guide of all sites outside the plates: weights, then interpretable parameters.

    Weights are independent Normals. Interpretable parameters are Normal in unconstrained space,
    with or without correlations (:class:`~rvrae_pyro.models.hyperguides.HyperGuide`). Locations
    are the parts' own parameters, so that a part called without draws works at the middle of the
    posterior; scales are held here.

    Parameters
    ----------
    parts : nn.Module
        Owner of the parameters. It is not kept: every method takes it again.
    hyper : HyperGuide
    overrides : mapping, optional
        See :func:`prior_weights`.
    """

    def __init__(
        self,
        parts: nn.Module,
        hyper: HyperGuide,
        overrides: Mapping[str, WeightPrior | None] = _NONE,
    ) -> None:
        super().__init__()
        self.hyper = hyper
        self.weights = find_random_weights(parts, overrides)
        self.parameters_ = find_random_parameters(parts)
        self.sites: tuple[Site, ...] = (*self.weights, *self.parameters_)
        self.log_scales = nn.ParameterDict()
        for site in self.sites:
            like = parts.get_parameter(site.parameter).detach()
            self.log_scales[_key(site.name)] = torch.full_like(like, _start(site)).log()
            site.prior(parts)  # a prior without a density is refused here
        self.sizes = [int(np.prod(site.known.shape, dtype=int)) for site in self.parameters_]
        size = sum(self.sizes)
        tied = hyper.full and size > 1
        self.ties = nn.Parameter(torch.zeros(size, size)) if tied else None

    @torch.no_grad()
    def reset(self) -> None:
        """Put all scales back to where they start."""
        for site in self.sites:
            scale = self.log_scales[_key(site.name)]
            scale.copy_(torch.full_like(scale, _start(site)).log())
        if self.ties is not None:
            self.ties.zero_()

    def proposal(
        self, parts: nn.Module, site: Site, given: Weights | None = None
    ) -> dist.TorchDistribution:
        """Guide of one site.

        Parameters
        ----------
        parts : Module
        site : Site
        given : mapping, optional
            Values of the sites before it, on which a parameter's proposal is conditional.
        """
        raw: Tensor = parts.get_parameter(site.parameter)
        scale = self.log_scales[_key(site.name)].exp()
        if isinstance(site, RandomWeight):
            effects = parts.get_submodule(site.name.rpartition(".")[0])
            if isinstance(effects, AssetEffect):
                raw, scale = effects.weight_proposal(raw, scale)
            proposed: dist.TorchDistribution = dist.Normal(raw, scale, validate_args=False)
            matrix: dist.TorchDistribution = proposed.to_event(raw.ndim)
            return matrix
        shape, known = site.known.shape, site.known
        if self.ties is None:
            free = dist.Normal(raw.reshape(shape), scale.reshape(shape), validate_args=False)
            transforms = [known.transform]
        else:
            loc, root = self._conditional(parts, site, given or {})
            free = dist.MultivariateNormal(loc, scale_tril=root, validate_args=False)
            transforms = [ReshapeTransform(loc.shape[-1:], torch.Size(shape)), known.transform]
        onto: dist.TorchDistribution = dist.TransformedDistribution(
            free, transforms, validate_args=False
        )
        missing = len(shape) - len(onto.event_shape)
        return onto.to_event(missing) if missing else onto

    def scale_tril(self) -> Tensor:
        """Root (d, d) of the covariance of all interpretable parameters in unconstrained space."""
        scale = torch.cat(
            [self.log_scales[_key(site.name)].reshape(-1) for site in self.parameters_]
        ).exp()
        if self.ties is None:
            return torch.diag_embed(scale)
        eye = torch.eye(len(scale), dtype=scale.dtype, device=scale.device)
        return scale.unsqueeze(-1) * (eye + self.ties.tril(-1))

    @torch.no_grad()
    def set_moments(self, parts: nn.Module, mean: Tensor, scale_tril: Tensor) -> None:
        """Set the Normal in unconstrained space.

        Parameters
        ----------
        parts : Module
        mean : Tensor of shape (d,)
        scale_tril : Tensor of shape (d, d)
            Of mean-field guides only the deviations are used.
        """
        scale = scale_tril.diagonal()
        if self.ties is None:
            scale = scale_tril.square().sum(-1).sqrt()
        else:
            self.ties.copy_((scale_tril / scale.unsqueeze(-1)).tril(-1))
        for site, loc, own in zip(
            self.parameters_, mean.split(self.sizes), scale.split(self.sizes), strict=True
        ):
            raw = parts.get_parameter(site.parameter)
            raw.copy_(loc.reshape(raw.shape))
            raw_scale = self.log_scales[_key(site.name)]
            raw_scale.copy_(own.log().reshape(raw_scale.shape))

    def moments(self, parts: nn.Module) -> tuple[Tensor, Tensor]:
        """Mean (d,) and root (d, d) of the covariance in unconstrained space."""
        raws = [parts.get_parameter(site.parameter).reshape(-1) for site in self.parameters_]
        return torch.cat(raws), self.scale_tril()

    def split(self, free: Tensor) -> dict[str, Tensor]:
        """Values by site of unconstrained vectors (*batch, d)."""
        parted = free.split(self.sizes, -1)
        return {
            site.name: site.known.transform(each.reshape(*each.shape[:-1], *site.known.shape))
            for site, each in zip(self.parameters_, parted, strict=True)
        }

    def transform(self, free: Tensor) -> Tensor:
        """Values (*batch, d) of unconstrained vectors (*batch, d)."""
        parted = zip(self.parameters_, free.split(self.sizes, -1), strict=True)
        return torch.cat([site.known.transform(each) for site, each in parted], -1)

    def join(self, values: Weights) -> Tensor:
        """Unconstrained vectors (*particles, d) of values by site."""
        flat = []
        for site in self.parameters_:
            plain = _without_plates(values[site.name], len(site.known.shape))
            batch = plain.shape[: plain.ndim - len(site.known.shape)]
            flat.append(site.known.transform.inv(plain).reshape(*batch, -1))
        return torch.cat(flat, -1)

    def log_joint_prior(self, parts: nn.Module, free: Tensor) -> Tensor:
        """Log prior density of unconstrained vectors (*batch, d), in that space."""
        total = free.new_zeros(free.shape[:-1])
        for site, each in zip(self.parameters_, free.split(self.sizes, -1), strict=True):
            raw = each.reshape(*each.shape[:-1], *site.known.shape)
            value = site.known.transform(raw)
            slopes = site.known.transform.log_abs_det_jacobian(raw, value)
            total = total + site.prior(parts).log_prob(value)
            total = total + slopes.reshape(*each.shape[:-1], -1).sum(-1)
        return total

    @torch.no_grad()
    def mean_value(self, parts: nn.Module, site: RandomParameter) -> Tensor:
        """Posterior mean of a parameter on its own scale, by quadrature."""
        at = self.parameters_.index(site)
        first = sum(self.sizes[:at])
        rows = self.scale_tril()[first : first + self.sizes[at]]
        deviation = rows.square().sum(-1).sqrt().reshape(site.known.shape)
        raw = parts.get_parameter(site.parameter).reshape(site.known.shape)
        nodes, weights = np.polynomial.hermite_e.hermegauss(61)
        node = torch.as_tensor(nodes).to(raw)
        share = torch.as_tensor(weights / weights.sum()).to(raw)
        points = site.known.transform(raw.unsqueeze(-1) + deviation.unsqueeze(-1) * node)
        mean: Tensor = (points * share).sum(-1)
        return mean

    def sample_prior(self, parts: nn.Module) -> dict[str, Tensor]:
        """Sample every site from its prior, as the model does."""
        return self._sample(lambda site, _: site.prior(parts))

    def sample_proposal(self, parts: nn.Module) -> dict[str, Tensor]:
        """Sample every site from the guide."""
        return self._sample(lambda site, drawn: self.proposal(parts, site, drawn))

    @torch.no_grad()
    def draw(self, parts: nn.Module) -> dict[str, Tensor]:
        """Draw every site from the guide, with torch's global random stream."""
        drawn: dict[str, Tensor] = {}
        for site in self.sites:
            drawn[site.name] = self.proposal(parts, site, drawn).sample()
        return drawn

    def log_ratio(self, parts: nn.Module, weights: Weights) -> Tensor:
        """Log prior less log guide of one draw of all sites, a scalar."""
        total = next(parts.buffers()).new_zeros(())
        for site in self.sites:
            value = weights[site.name]
            total = total + site.prior(parts).log_prob(value)
            total = total - self.proposal(parts, site, weights).log_prob(value)
        return total

    def _conditional(
        self, parts: nn.Module, site: RandomParameter, given: Weights
    ) -> tuple[Tensor, Tensor]:
        """Mean and root of a parameter's unconstrained values given those of the ones before."""
        at = self.parameters_.index(site)
        first = sum(self.sizes[:at])
        last = first + self.sizes[at]
        root = self.scale_tril()
        loc = parts.get_parameter(site.parameter).reshape(-1)
        if at:
            before = []
            for each in self.parameters_[:at]:
                value, dims = given[each.name], len(each.known.shape)
                raw = each.known.transform.inv(value)
                raw = raw.reshape(*value.shape[: value.ndim - dims], -1)
                before.append(raw - parts.get_parameter(each.parameter).reshape(-1))
            off = torch.cat(before, -1).unsqueeze(-1)
            noise = torch.linalg.solve_triangular(root[:first, :first], off, upper=False)
            loc = loc + (root[first:last, :first] @ noise).squeeze(-1)
        return loc, root[first:last, first:last]

    def _sample(
        self, source: Callable[[Site, Weights], dist.TorchDistribution]
    ) -> dict[str, Tensor]:
        drawn: dict[str, Tensor] = {}
        for site in self.sites:
            value = pyro.sample(site.name, source(site, drawn))
            assert isinstance(value, Tensor)
            drawn[site.name] = value
        return drawn


def raw_values(
    parts: nn.Module, sites: Sequence[Site], weights: Weights, path: str = ""
) -> tuple[dict[str, Tensor], torch.Size]:
    """Parameters that belong to values of sites, by path below a part; also the particles.

    Parameters
    ----------
    parts : Module
    sites : sequence of Site
    weights : mapping
        Values by site; sites that it lacks are left out.
    path : str
        Path of the part. Default: all parts.
    """
    found: dict[str, Tensor] = {}
    particles = torch.Size()
    prefix = f"{path}." if path else ""
    for site in sites:
        if site.name not in weights or not site.parameter.startswith(prefix):
            continue
        shape = site.shape(parts)
        plain = _without_plates(weights[site.name], len(shape))
        found[site.parameter.removeprefix(prefix)] = site.to_raw(parts, plain)
        own = plain.shape[: plain.ndim - len(shape)]
        # numpy's, for torch's imports sympy
        particles = torch.Size(np.broadcast_shapes(particles, own))
    if particles:
        raws = {site.parameter.removeprefix(prefix): site.parameter for site in sites}
        for name, value in found.items():
            event = parts.get_parameter(raws[name]).shape
            found[name] = value.expand(*particles, *event)
    return found, particles


def call_with(
    parts: nn.Module, sites: Sequence[Site], path: str, weights: Weights, batch: Batch
) -> Tensor:
    """Call a part on a batch with drawn values in place of its own.

    Parameters
    ----------
    parts : nn.Module
    sites : sequence of Site
    path : str
        Path of the part below ``parts``.
    weights : mapping
        Values by site; those of other parts are ignored, and without any the part is called as
        it is.
    batch : Batch

    Returns
    -------
    Tensor
        What the part returns, with the particle dimensions of the values in front. Particles
        are vectorised, so that every ``x @ W.mT`` is one product.
    """
    values, particles = raw_values(parts, sites, weights, path)
    result: Tensor = place(parts.get_submodule(path), values, particles)(batch)
    return result


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
    assert batch[-2:] == (1, 1), "sites of weights live outside the plates of months and assets"
    return value.reshape(*batch[:-2], *value.shape[value.ndim - event_dim :])


def _start(site: Site) -> float:
    return _START if isinstance(site, RandomWeight) else _HYPER_START


def _key(name: str) -> str:
    """Name of a site's scale: a parameter's own name may hold no dot."""
    return name.replace(".", "__")
