"""What can be seen of a part without data: shapes, dtypes and flags, told in the part's own words.

:mod:`rvrae_pyro.testing` asks here first, so that a slip in a part of one's own is named where it
was made and not by a matrix product far below.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rvrae_pyro.data.batch import State
from rvrae_pyro.errors import ConfigError, ContractError
from rvrae_pyro.models.likelihoods import Likelihood
from rvrae_pyro.models.part import Part
from rvrae_pyro.models.priors.base import FactorPrior
from rvrae_pyro.nn.gaussian import Gaussian
from rvrae_pyro.nn.transitions import Mixture, StudentT

_FROM_A_WEIGHT = "make it from a weight, as torch.zeros_like(self.log_scale), or keep it a buffer"


def check_arguments(part: Part) -> None:
    """Expect every argument of the constructor under its own name.

    Raises
    ------
    ContractError
        Naming the arguments that are missing.
    """
    lost = part.lost_arguments()
    if lost:
        name = type(part).__name__
        raise ContractError(
            f"`{name}.__init__` takes {', '.join(lost)} and does not keep it: write "
            f"`self.{lost[0]} = {lost[0]}`. Saving, and `seed=` of rv.fit, read it back."
        )


def check_prior(prior: FactorPrior, dtype: torch.dtype) -> None:
    """Expect tuples for states, a transition of the package's, one dtype and an honest flag.

    Parameters
    ----------
    prior : FactorPrior
        Of a model without context, already moved to ``dtype``.
    dtype : torch.dtype

    Raises
    ------
    ContractError
        At the first thing that is not as it must be.
    """
    name = type(prior).__name__
    state = prior.initial()
    _check_state(f"{name}.initial", state, dtype)
    if prior.auxiliary is not None:
        return  # its transition needs the auxiliary latent; the checks on a whole model follow
    try:
        ahead = prior.transition(state, prior.encode(None))
    except ConfigError as error:
        raise ContractError(str(error)) from error
    if isinstance(ahead, (Gaussian, StudentT, Mixture)):
        _check_transition(prior, ahead, dtype)
    after = prior.advance(state, torch.zeros_like(state[0][..., :1]).expand(prior.n_factors), None)
    _check_state(f"{name}.advance", after, dtype)
    sizes = [[tensor.shape[-1] for tensor in each] for each in (state, after)]
    if sizes[0] != sizes[1]:
        raise ContractError(
            f"`{name}.advance` must return a state like `initial`, of sizes {sizes[0]}; "
            f"got {sizes[1]}."
        )


def check_likelihood(likelihood: Likelihood, dtype: torch.dtype) -> None:
    """Expect one univariate distribution a cell, and a finite deviation.

    Parameters
    ----------
    likelihood : Likelihood
        Already moved to ``dtype``.
    dtype : torch.dtype

    Raises
    ------
    ContractError
        At the first thing that is not as it must be.
    """
    name = type(likelihood).__name__
    scale = torch.ones(3, 5, dtype=dtype)
    found = likelihood.distribution(torch.zeros_like(scale), scale)
    shapes = tuple(found.batch_shape), tuple(found.event_shape)
    if shapes != ((3, 5), ()):
        raise ContractError(
            f"`{name}.distribution` must have the batch shape of `loc` and no event dims (the "
            f"plates are outside); for (3, 5) it has batch {shapes[0]} and event {shapes[1]}. "
            "Leave out `.to_event`."
        )
    deviation = likelihood.deviation(scale)
    if not bool((torch.isfinite(deviation) & (deviation > 0)).all()):
        raise ContractError(
            f"`{name}.deviation` gives {float(deviation.flatten()[0])} for scale 1, so that guides "
            "and filters learn nothing from a return. Where the distribution has no variance, "
            "override `deviation(scale)` with the deviation of a Normal as wide in its middle."
        )


def _check_state(where: str, state: State, dtype: torch.dtype) -> None:
    if not isinstance(state, tuple) or not all(isinstance(each, Tensor) for each in state):
        raise ContractError(
            f"`{where}` must return a tuple of tensors, as `(level,)`; got {type(state).__name__}."
        )
    for each in state:
        if not each.dim():
            raise ContractError(f"`{where}` must return tensors whose last dimension is a size.")
        _check_dtype(where, each, dtype)


def _check_transition(
    prior: FactorPrior, ahead: Gaussian | StudentT | Mixture, dtype: torch.dtype
) -> None:
    where = f"{type(prior).__name__}.transition"
    kind = type(ahead).__name__
    for field, value in ahead._asdict().items():
        if not isinstance(value, Tensor):
            raise ContractError(
                f"`{where}`: `{field}` of {kind} must be a tensor; got {type(value).__name__}."
            )
        _check_dtype(f"{where}: `{field}`", value, dtype)
        vectors = field in ("loc", "scale", "locs", "scales")
        if vectors and (not value.dim() or value.shape[-1] != prior.n_factors):
            raise ContractError(
                f"`{where}`: `{field}` of {kind} must end in n_factors = {prior.n_factors}; got "
                f"shape {tuple(value.shape)}. Use `.expand_as`."
            )
    if prior.gaussian and not isinstance(ahead, Gaussian):
        raise ContractError(
            f"`{where}` returns {kind} while `gaussian` is True: closed forms would be taken for "
            "exact that are not. Write `gaussian = False` in the class."
        )
    if isinstance(ahead, Mixture):
        total = ahead.logits.detach().exp().sum(-1)
        if not torch.allclose(total, torch.ones_like(total), atol=1e-5):
            raise ContractError(
                f"`{where}`: `logits` of Mixture must be log probabilities that sum to one; "
                f"they sum to {float(total.flatten()[0]):.3g}. Use `.log_softmax(-1)`."
            )


def _check_dtype(where: str, value: Tensor, dtype: torch.dtype) -> None:
    if value.dtype != dtype:
        raise ContractError(
            f"`{where}` gave {value.dtype} in a model of {dtype}: {_FROM_A_WEIGHT}."
        )
