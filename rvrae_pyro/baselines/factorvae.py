"""FactorVAE: factors from the whole cross-section, a predictor that must guess them before."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import xarray as xr
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from rvrae_pyro.baselines.factor_baseline import FactorBaseline
from rvrae_pyro.baselines.linear_gaussian import FactorView
from rvrae_pyro.baselines.network_training import (
    TrainConfig,
    WindowedNetwork,
    last_months,
    over_buckets,
    training_of,
)
from rvrae_pyro.data.batch import Batch
from rvrae_pyro.errors import check_count, check_number

_LEAST_SCALE = 1e-3  # of a return of order one


class Gaussian(NamedTuple):
    """Independent Gaussians."""

    loc: Tensor
    scale: Tensor

    def kl_from(self, other: Gaussian) -> Tensor:
        """KL(self || other) in nats, summed over the last dim."""
        ratio = (self.scale / other.scale).square()
        distance = ((self.loc - other.loc) / other.scale).square()
        return 0.5 * (ratio + distance - 1.0 - ratio.log()).sum(-1)

    def log_density(self, value: Tensor) -> Tensor:
        """Log density of each entry in nats."""
        z = (value - self.loc) / self.scale
        return -0.5 * z.square() - self.scale.log() - 0.5 * math.log(2.0 * math.pi)


class _SquaredLength(torch.autograd.Function):
    """Sum of squares over the last dim, with one pass forward and one back."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        ctx.save_for_backward(value)
        length: Tensor = torch.linalg.vector_norm(value, dim=-1)
        return length.square()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, above: Tensor) -> Tensor:
        (value,) = ctx.saved_tensors
        slope: Tensor = value * (2.0 * above).unsqueeze(-1)
        return slope


class _GaussianLayer(nn.Module):
    """Linear maps to a location and a positive scale."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.loc, self.scale = nn.Linear(n_in, n_out), nn.Linear(n_in, n_out)

    def forward(self, x: Tensor) -> Gaussian:
        return Gaussian(self.loc(x), functional.softplus(self.scale(x)) + _LEAST_SCALE)


class Encoder(nn.Module):
    """Posterior of the factors from the returns of learned portfolios.

    Parameters
    ----------
    hidden, n_portfolios, n_factors : int
    """

    def __init__(self, hidden: int, n_portfolios: int, n_factors: int) -> None:
        super().__init__()
        self.portfolio = nn.Linear(hidden, n_portfolios)
        self.posterior = _GaussianLayer(n_portfolios, n_factors)

    def weights(self, features: Tensor, observed: Tensor) -> Tensor:
        """Portfolio weights (T, N, M): positive, one a portfolio over observed assets; 0 else."""
        scores = self.portfolio(features).masked_fill(~observed.unsqueeze(-1), -torch.inf)
        weights: Tensor = scores.softmax(-2)
        return weights.nan_to_num()  # NaN in a month without returns

    def forward(self, features: Tensor, returns: Tensor, observed: Tensor) -> Gaussian:
        """Return the posterior (T, K) given features (T, N, H) and returns (T, N)."""
        weights = self.weights(features, observed)
        portfolios = (weights * returns.unsqueeze(-1)).sum(-2)
        posterior: Gaussian = self.posterior(portfolios)
        return posterior


class Decoder(nn.Module):
    """Alpha (Gaussian) and loadings of every asset.

    Parameters
    ----------
    hidden, n_factors : int
    """

    def __init__(self, hidden: int, n_factors: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(hidden, hidden), nn.LeakyReLU())
        self.alpha = _GaussianLayer(hidden, 1)
        self.beta = nn.Linear(hidden, n_factors)

    def parts(self, features: Tensor) -> tuple[Gaussian, Tensor]:
        """Return alpha (T, N) and loadings (T, N, K)."""
        alpha = self.alpha(self.inner(features))
        flat = Gaussian(alpha.loc.squeeze(-1), alpha.scale.squeeze(-1))
        return flat, self.beta(features)

    def forward(self, features: Tensor, factors: Gaussian) -> Gaussian:
        """Return the distribution of returns (T, N) given that of the factors (T, K)."""
        alpha, beta = self.parts(features)
        loc = alpha.loc + (beta * factors.loc.unsqueeze(-2)).sum(-1)
        spread = (beta * factors.scale.unsqueeze(-2)).square().sum(-1)
        return Gaussian(loc, (alpha.scale.square() + spread).sqrt())


class Predictor(nn.Module):
    """Prior of the factors: one attention head a factor over the listed assets.

    Parameters
    ----------
    hidden, n_factors : int
    """

    def __init__(self, hidden: int, n_factors: int) -> None:
        super().__init__()
        self.hidden, self.n_factors = hidden, n_factors
        self.query = nn.Parameter(torch.randn(n_factors, hidden))
        self.key = nn.Linear(hidden, n_factors * hidden)
        self.value = nn.Parameter(torch.empty(n_factors, hidden, hidden))
        self.value_bias = nn.Parameter(torch.zeros(n_factors, hidden))
        bound = 1.0 / math.sqrt(hidden)
        nn.init.uniform_(self.value, -bound, bound)
        self.inner = nn.Sequential(nn.Linear(hidden, hidden), nn.LeakyReLU())
        self.prior = _GaussianLayer(hidden, 1)

    def weights(self, features: Tensor, listed: Tensor) -> Tensor:
        """Attention (T, N, K): the positive part of the cosine of query and key, normalised.

        Sums to one over listed assets, or is 0 throughout where no cosine is positive.
        """
        heads = (self.n_factors, self.hidden)
        key = self.key(features).unflatten(-1, heads)
        squares: Tensor = _SquaredLength.apply(key)  # type: ignore[no-untyped-call]
        # query and key are multiplied in the weights of the key, not in every cell
        to_query = torch.einsum("khi,kh->ki", self.key.weight.unflatten(0, heads), self.query)
        shift = (self.key.bias.unflatten(0, heads) * self.query).sum(-1)
        product = functional.linear(features, to_query, shift)
        # lengths below 1e-8 count as that, as in torch's own cosine
        lengths = (squares.clamp_min(1e-16) * self.query.square().sum(-1).clamp_min(1e-16)).rsqrt()
        positive = (product * lengths).relu() * listed.unsqueeze(-1)
        return positive / positive.sum(-2, keepdim=True).clamp_min(1e-6)

    def forward(self, features: Tensor, listed: Tensor) -> Gaussian:
        """Return the prior (T, K) given features (T, N, H) of the listed assets."""
        weights = self.weights(features, listed)
        # values are linear in the features: averaging first saves a map of every asset
        mean = weights.mT @ features
        value = torch.einsum("tkh,khg->tkg", mean, self.value)
        attended = value + self.value_bias * weights.sum(-2).unsqueeze(-1)
        prior = self.prior(self.inner(attended))
        return Gaussian(prior.loc.squeeze(-1), prior.scale.squeeze(-1))


class Network(nn.Module):
    """Features of every asset, and the three parts that use them.

    Parameters
    ----------
    n_characteristics, n_factors, hidden, n_portfolios : int
    """

    def __init__(
        self, n_characteristics: int, n_factors: int, hidden: int, n_portfolios: int
    ) -> None:
        super().__init__()
        self.hidden = hidden
        self.embed = nn.Sequential(nn.Linear(n_characteristics, hidden), nn.LeakyReLU())
        self.rnn = nn.GRU(hidden, hidden)
        self.encoder = Encoder(hidden, n_portfolios, n_factors)
        self.decoder = Decoder(hidden, n_factors)
        self.predictor = Predictor(hidden, n_factors)

    def features(self, batch: Batch) -> Tensor:
        """Features (n_times, n_assets, hidden), 0 where not listed."""

        def read(inputs: Tensor, months: Tensor) -> Tensor:
            states: Tensor = self.rnn(self.embed(inputs))[0]
            return states

        return over_buckets(batch, read, self.hidden)

    def loss(self, batch: Batch, first: int, scale: float, kl_weight: float) -> Tensor:
        """Negative log-likelihood plus weighted KL, summed over months from ``first``, in nats."""
        features = self.features(batch)[first:]
        listed, seen = batch.listed[first:], batch.observed[first:]
        returns = batch.returns[first:] / scale
        posterior = self.encoder(features, returns, seen)
        prior = self.predictor(features, listed)
        log_likelihood = self.decoder(features, posterior).log_density(returns)
        kl = posterior.kl_from(prior) * seen.any(1)
        loss: Tensor = kl_weight * kl.sum() - (log_likelihood * seen).sum()
        return loss


class FactorVAE(WindowedNetwork, FactorBaseline):
    r"""Variational autoencoder with a prior that predicts the factors.

    .. math:: r_{it} = \alpha_{it} + \beta_{it}' z_t, \quad
        \alpha_{it} \sim N(\mu^\alpha_{it}, (\sigma^\alpha_{it})^2)

    A recurrent network reads an asset's last months; the posterior of z knows the month's
    returns through learned portfolios, the prior attends to the listed assets' features.

    Parameters
    ----------
    n_factors : int
    hidden : int
        Size of the features.
    n_portfolios : int
        Learned portfolios whose returns the posterior sees.
    window : int
        Months of history.
    kl_weight : float
        Weight of KL(posterior || prior) against the log-likelihood *summed* over assets. The
        paper averages over assets, which multiplies the weight by their number.
    config : TrainConfig, optional

    Notes
    -----
    Loss in nats with the decoder's own scale. The decoder's density of one return integrates
    the posterior out of that return alone, as published; so the loss is not a bound on the joint
    evidence, even at weight 1. Assets without a return carry no portfolio weight and no loss;
    the prior never depends on which returns were observed. Forecasts are the decoder's mean at
    the prior's mean; draws share z, so assets are correlated.

    Cost O(T N hidden (hidden n_factors + P)) per epoch, times (months + window - 1) / months
    for the recurrent part.

    References
    ----------
    Duan, Wang, Zhang and Li (2022), FactorVAE: a probabilistic dynamic factor model based on
    variational autoencoder for predicting cross-sectional stock returns, AAAI 36.
    """

    def __init__(
        self,
        n_factors: int,
        *,
        hidden: int = 32,
        n_portfolios: int = 32,
        window: int = 12,
        kl_weight: float = 1.0,
        config: TrainConfig | None = None,
    ) -> None:
        super().__init__(window, training_of(config, TrainConfig(months=24)))
        self.n_factors = check_count("n_factors", n_factors)
        self.hidden = check_count("hidden", hidden)
        self.n_portfolios = check_count("n_portfolios", n_portfolios)
        self.kl_weight = check_number("kl_weight", kl_weight, "(0, inf)")

    def _build(self, n_characteristics: int) -> Network:
        return Network(n_characteristics, self.n_factors, self.hidden, self.n_portfolios)

    def _loss(self, network: nn.Module, block: Batch, first: int, scale: float) -> Tensor:
        assert isinstance(network, Network)
        return network.loss(block, first, scale, self.kl_weight)

    def _views(self, panel: xr.Dataset, batch: Batch) -> Iterator[FactorView]:
        shape, k = batch.returns.shape, self.n_factors
        alpha, idio = batch.returns.new_zeros(shape), batch.returns.new_zeros(shape)
        beta = batch.returns.new_zeros(*shape, k)
        loc = batch.returns.new_full((shape[0], k), torch.nan)
        factors, spread = torch.full_like(loc, torch.nan), torch.zeros_like(loc)
        for t in range(batch.n_times):
            if bool(batch.listed[t].any()):
                assets, month = self._month(batch, t)
                alpha[t, assets], idio[t, assets], beta[t, assets] = month[:3]
                loc[t], spread[t], factors[t] = month[3:]
        yield FactorView(
            alpha=alpha * self._scale,
            beta=beta,
            loc=loc * self._scale,
            factor_scale=torch.diag_embed(spread * self._scale),
            idio_scale=idio * self._scale,
            factors=factors * self._scale,
        )

    def _month(self, batch: Batch, t: int) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Assets listed in month t, and their distribution and that of the factors."""
        network = self._network
        assert isinstance(network, Network)
        block, assets = last_months(batch, t, self.window)
        features = network.features(block)[-1:]
        alpha, beta = network.decoder.parts(features)
        prior = network.predictor(features, block.listed[-1:])
        seen = block.observed[-1:]
        posterior = network.encoder(features, block.returns[-1:] / self._scale, seen).loc[0]
        if not bool(seen.any()):
            posterior = torch.full_like(posterior, torch.nan)
        return assets, (
            alpha.loc[0],
            alpha.scale[0],
            beta[0],
            prior.loc[0],
            prior.scale[0],
            posterior,
        )
