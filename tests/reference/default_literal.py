"""Default parts, but for the common volatility, in the paper's program: loops and plain torch.

``w`` maps names of weights to tensors, as the production parts name them.
"""

from collections.abc import Iterator

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor
from torch.nn.functional import linear

from rvrae_pyro import literal


def dense(w, name, x):
    return linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))


def layers(w, name, x):
    return dense(w, f"{name}.2", dense(w, f"{name}.0", x).relu())


def gates(w, n, **signals):
    return [linear(v, w[f"{n}.weight_{s}_l0"], w[f"{n}.bias_{s}_l0"]) for s, v in signals.items()]


def loadings(w, x, listed, k):
    """One LSTM per asset, from its first listed month, and a feed-forward path beside it."""
    beta = [[x.new_zeros(k)] * x.shape[1] for _ in x]
    for i in range(x.shape[1]):
        s = c = x.new_zeros(w["loadings.head.weight"].shape[1])
        for t in listed[:, i].nonzero().flatten().tolist():
            enter, forget, new, out = sum(gates(w, "loadings.lstm", ih=x[t, i], hh=s)).chunk(4)
            c = forget.sigmoid() * c + enter.sigmoid() * new.tanh()
            s = out.sigmoid() * c.tanh()
            beta[t][i] = dense(w, "loadings.head", s) + layers(w, "loadings.path", x[t, i])
    return torch.stack([torch.stack(month) for month in beta])


def prior(w, state, context, k):
    """Mean and scale of the month's code, and the log multiplier of the idiosyncratic scales."""
    h, a = state.split([len(state) - 2 * k, 2 * k])
    shift = w["factor_prior.context.layer.weight"] @ context / len(context) ** 0.5
    out = dense(w, "factor_prior.head", h)
    out = out + torch.cat([shift[:k] / 6, shift[k : 2 * k] / 3, shift[2 * k :]])
    long_run = w["factor_prior.head.bias"][k : 2 * k].exp()
    lag, own, common = w["factor_prior.memory.effects"]
    market = a[k:].mean()
    scale = (own * a[k:] + common * market) / (2 * (own.abs() + common.abs())).clamp(min=1)
    loc = long_run * out[:k] + lag / 3 * a[:k]
    level = out[-1] + w["factor_prior.memory.level"][0, 0] * market
    return loc, (out[k : 2 * k] + scale).exp(), 3 * (level / 3).tanh()


def advance(w, state, z):
    """One step of the gated recurrent unit, and of leaky averages of z and its log square."""
    k = len(z)
    h, a = state.split([len(state) - 2 * k, 2 * k])
    features = torch.cat([z, (1 + z**2).log() - 0.53])
    x, y = gates(w, "factor_prior.gru", ih=features, hh=h)
    (xr, xu, xn), (yr, yu, yn) = x.chunk(3), y.chunk(3)
    update = (xu + yu).sigmoid()
    h = (1 - update) * (xn + (xr + yr).sigmoid() * yn).tanh() + update * h
    keep = w["factor_prior.memory.unbounded_decay"].sigmoid()
    return torch.cat([h, keep * a + (1 - keep) * features])


def quadratic(df, r, b, s, start):
    """Score and curvature of a month's factors under Student-t returns, averaged near the mode."""
    at = b.T @ (b / s[:, None] ** 2), b.T @ (r / s**2)
    loc, precision = start[0], (start[1] ** -2).diag()
    fisher = (df + 1) / (df + 3) * at[0]
    for _ in range(4):  # the Gaussian answer, then Fisher scoring
        covariance = torch.linalg.inv(precision + at[0]).detach()
        mode = (covariance @ (precision @ loc + at[1])).detach()
        e, reach = (r - b @ mode) / s, ((3 * (b @ covariance) * b).sum(1).sqrt() / s).detach()
        low, middle, high = ((df + 1) * x / (df + x**2) for x in (e - reach, e, e + reach))
        at = fisher, b.T @ (middle / s) + fisher @ mode
    lam = b.T @ (b * (((high - low) / (2 * reach)).clamp(min=0) / s**2)[:, None])
    return lam, b.T @ ((low + 4 * middle + high) / 6 / s) + lam @ mode


class Prior(torch.nn.Module):
    """The VRNN prior with leaky averages; keeps the month's context and level for the caller."""

    def __init__(self, w: dict[str, Tensor], n_factors: int) -> None:
        super().__init__()
        self.w, self.k, self.context, self.level = w, n_factors, None, None

    def forward(self, h):
        loc, scale, self.level = prior(self.w, h, self.context, self.k)
        return loc, scale

    def advance(self, h, z):
        return advance(self.w, h, z)


class Identity(torch.nn.Module):
    def forward(self, d, z):
        return d, z


class Default(literal.RVRAE):
    """The default parts: the paper's ``model`` with other networks, and the conjugate guide."""

    def __init__(self, w: dict[str, Tensor], n_factors: int) -> None:
        torch.nn.Module.__init__(self)
        self.w, self.k = w, n_factors
        # the state of the prior: gated recurrent unit, then leaky averages
        self.hidden = w["factor_prior.head.weight"].shape[1] + 2 * n_factors
        self.prior, self.decoder = Prior(w, n_factors), Identity()

    def months(self, batch) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        w, unit = self.w, self.w["return_scale"]
        beta = loadings(w, batch.characteristics, batch.listed, self.k)
        for t, seen in enumerate(batch.observed):
            x = batch.characteristics[t, seen]
            scale = unit * layers(w, "likelihood.scale.network", x)[:, 0].exp()
            self.prior.context = batch.context[t]
            yield batch.returns[t, seen], unit * beta[t, seen], scale

    @property
    def df(self):
        return 2 + self.w["likelihood.log_excess_df"].exp()

    def likelihood(self, f, B, sigma):
        return dist.StudentT(self.df, B @ f, sigma * self.prior.level.exp()).to_event(1)

    def guide(self, batch, kl_weight):
        h = batch.returns.new_zeros(self.hidden)
        for t, (r, b, s) in enumerate(self.months(batch)):
            lam, eta = quadratic(self.df, r, b, s, self.prior(h * 0))
            loc, scale = self.prior(h)
            shrink = (-2 * self.prior.level).exp() / kl_weight[t]
            precision = (scale**-2).diag() + shrink * lam
            m = torch.linalg.solve(precision, loc / scale**2 + shrink * eta)
            with poutine.scale(scale=kl_weight[t]):
                z = pyro.sample(f"z_{t}", dist.MultivariateNormal(m, precision_matrix=precision))
            h = self.prior.advance(h, z)
