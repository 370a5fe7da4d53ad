"""The paper as one plain Pyro program: networks by equation, one sample statement per month.

Equations are numbered as in Wang and Guo (2024), arXiv 2403.02500; the page "The model" restores
them. ``rv.RVRAE.paper(...)`` is the same pair made fast: density, bound and gradient are equal.
"""

from collections.abc import Iterator

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor, nn

from rvrae_pyro.data.batch import Batch

__all__ = ["RVRAE", "Beta", "Decoder", "Encoder", "Prior", "train"]


class Beta(nn.Module):
    """Loadings beta_{i,t}: an LSTM along the characteristics of each asset, eqs. (22)-(29)."""

    def __init__(self, n_characteristics: int, n_factors: int, hidden: int) -> None:
        super().__init__()
        inputs = (nn.Linear(n_characteristics, hidden) for _ in range(4))
        states = (nn.Linear(hidden, hidden, bias=False) for _ in range(4))
        self.W_f, self.W_i, self.W_c, self.W_o = inputs
        self.U_f, self.U_i, self.U_c, self.U_o = states
        self.W_beta = nn.Linear(hidden, n_factors)

    def forward(self, x: Tensor, s: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # (22)
        forget = torch.sigmoid(self.W_f(x) + self.U_f(s))  # (23)
        enter = torch.sigmoid(self.W_i(x) + self.U_i(s))  # (24)
        new = torch.tanh(self.W_c(x) + self.U_c(s))  # (25)
        c = forget * c + enter * new  # (26)
        output = torch.sigmoid(self.W_o(x) + self.U_o(s))  # (27)
        s = output * torch.tanh(c)  # (28)
        return self.W_beta(s), s, c  # (29)


class Prior(nn.Module):
    """VRNN prior p(z_t | h_{t-1}): a gated recurrent state of past codes, eqs. (4) and (6)."""

    def __init__(self, n_factors: int, hidden: int) -> None:
        super().__init__()
        self.loc, self.log_scale = nn.Linear(hidden, n_factors), nn.Linear(hidden, n_factors)
        self.gru = nn.GRUCell(2 * n_factors, hidden)

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        return self.loc(h), self.log_scale(h).exp()  # (4)

    def advance(self, h: Tensor, z: Tensor) -> Tensor:
        phi = torch.cat([z, torch.log1p(z.square()) - 0.53])  # 0.53: their mean for a Normal z
        return torch.as_tensor(self.gru(phi, h))  # (6), by z_t: a prior that can be simulated


class Encoder(nn.Module):
    """Factor posterior q(z_t | r_t, h_{t-1}): a tanh recurrence over returns, eqs. (10)-(14)."""

    def __init__(self, n_factors: int, hidden: int) -> None:
        super().__init__()
        self.W_in, self.W_enc = nn.Linear(2 * n_factors, hidden), nn.Linear(hidden, hidden, False)
        self.W_mu, self.W_sigma = nn.Linear(hidden, n_factors), nn.Linear(hidden, n_factors)

    def forward(self, h: Tensor, r: Tensor, B: Tensor, sigma: Tensor) -> tuple[Tensor, ...]:
        # r_t enters by its least-squares factors under a unit prior and their log precisions:
        # 2 n_factors numbers, regardless of how many assets the month has
        precision, information = B.T @ (B / sigma[:, None] ** 2), B.T @ (r / sigma**2)
        estimate = torch.linalg.solve(precision + torch.eye(len(precision)).to(r), information)
        summary = torch.cat([estimate, torch.log1p(precision.diagonal())])
        h = torch.tanh(self.W_enc(h) + self.W_in(summary))  # (12)
        return h, self.W_mu(h), self.W_sigma(h).exp()  # (13), (14)


class Decoder(nn.Module):
    """Factors f_t from the codes: eqs. (20), (21). No (18), (19): each month has its own code."""

    def __init__(self, n_factors: int, hidden: int) -> None:
        super().__init__()
        self.W_f, self.W_dec = nn.Linear(n_factors, hidden), nn.Linear(hidden, hidden, False)
        self.W_out = nn.Linear(hidden, n_factors)

    def forward(self, d: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        d = torch.tanh(self.W_dec(d) + self.W_f(z))  # (20)
        return d, self.W_out(d)  # (21)


class RVRAE(nn.Module):
    """Model and guide of the paper. ``unit`` is the size of a typical return."""

    def __init__(
        self, n_characteristics: int, n_factors: int = 5, hidden: int = 32, unit: float = 0.1
    ) -> None:
        super().__init__()
        self.hidden, self.unit = hidden, unit
        self.beta = Beta(n_characteristics, n_factors, hidden)
        self.prior, self.encoder = Prior(n_factors, hidden), Encoder(n_factors, hidden)
        self.decoder = Decoder(n_factors, hidden)
        self.log_sigma = nn.Parameter(torch.zeros(()))

    def months(self, batch: Batch) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield observed returns r_t, their loadings B_t and their scales sigma, per month."""
        s = c = batch.returns.new_zeros(batch.n_assets, self.hidden)
        for t in range(batch.n_times):
            listed, seen = batch.listed[t].unsqueeze(-1), batch.observed[t]
            beta, s_t, c_t = self.beta(batch.characteristics[t], s, c)
            s, c = torch.where(listed, s_t, s), torch.where(listed, c_t, c)  # or the state waits
            sigma = self.log_sigma.exp().expand(int(seen.sum()))
            yield batch.returns[t, seen], self.unit * beta[seen], self.unit * sigma

    def likelihood(self, f: Tensor, B: Tensor, sigma: Tensor) -> dist.TorchDistribution:
        """Return likelihood p(r_t | f_t): eqs. (5), (7) and (17)."""
        return dist.Normal(B @ f, sigma).to_event(1)  # type: ignore[no-any-return]

    def model(self, batch: Batch, kl_weight: float | Tensor = 1.0) -> None:
        """Joint density p(z, r) = prod_t p(z_t | h_{t-1}) p(r_t | z_t): eqs. (1)-(8)."""
        pyro.module("rvrae", self)
        kl_weight = torch.as_tensor(kl_weight).expand(batch.n_times)
        h = d = batch.returns.new_zeros(self.hidden)
        for t, (r, B, sigma) in enumerate(self.months(batch)):
            mu_0, sigma_0 = self.prior(h)
            with poutine.scale(scale=kl_weight[t]):  # as in the guide: month t's KL, (30)
                z = pyro.sample(f"z_{t}", dist.Normal(mu_0, sigma_0).to_event(1))  # (4)
            d, f = self.decoder(d, z)  # (20), (21)
            pyro.sample(f"r_{t}", self.likelihood(f, B, sigma), obs=r)  # (5), (7), (17)
            h = self.prior.advance(h, z)  # (6)

    def guide(self, batch: Batch, kl_weight: float | Tensor = 1.0) -> None:
        """Posterior q(z | r) = prod_t q(z_t | r_t, g_{t-1}), g its own state: eqs. (9)-(16)."""
        pyro.module("rvrae", self)
        kl_weight = torch.as_tensor(kl_weight).expand(batch.n_times)
        g = batch.returns.new_zeros(self.hidden)  # (11)
        for t, (r, B, sigma) in enumerate(self.months(batch)):
            g, mu, scale = self.encoder(g, r, B, sigma)  # (12)-(14)
            with poutine.scale(scale=kl_weight[t]):
                pyro.sample(f"z_{t}", dist.Normal(mu, scale).to_event(1))  # (15), (16)


def train(
    rvrae: RVRAE, batch: Batch, steps: int = 1000, warmup: int = 200, learning_rate: float = 1e-3
) -> list[float]:
    """Maximise the ELBO (30), each month's KL annealed from 0.1 to 1 and not divided by T (31)."""
    optimizer = pyro.optim.ClippedAdam({"lr": learning_rate, "clip_norm": 10.0})
    svi, losses = SVI(rvrae.model, rvrae.guide, optimizer, Trace_ELBO()), []
    with pyro.get_param_store().scope():  # the caller's parameters are neither read nor removed
        for step in range(steps):
            weight = 1.0 if step >= warmup else 0.1 + 0.9 * step / warmup
            losses.append(float(svi.step(batch, torch.full((batch.n_times,), weight))))
    return losses
