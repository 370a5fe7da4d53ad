"""RVRAE written out one asset and one month at a time, one sample statement a month.

Loops and plain torch, none of the production code. ``w`` maps names of weights to tensors,
``paper`` picks the paper's parts or the default ones, the guide's draws land on ``path``.
"""

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch.nn.functional import linear


def dense(w, name, x):
    return linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))


def layers(w, name, x):
    return dense(w, f"{name}.2", dense(w, f"{name}.0", x).relu())


def gates(w, n, **signals):
    return [linear(v, w[f"{n}.weight_{s}_l0"], w[f"{n}.bias_{s}_l0"]) for s, v in signals.items()]


def loadings(w, x, listed, k, paper):
    """Eqs. (22)-(29): one LSTM an asset, which starts in its first listed month and waits."""
    beta = [[x.new_zeros(k)] * x.shape[1] for _ in x]
    for i in range(x.shape[1]):
        s = c = x.new_zeros(w["loadings.head.weight"].shape[1])
        for t in listed[:, i].nonzero().flatten().tolist():
            enter, forget, new, out = sum(gates(w, "loadings.lstm", ih=x[t, i], hh=s)).chunk(4)
            c = forget.sigmoid() * c + enter.sigmoid() * new.tanh()
            s = out.sigmoid() * c.tanh()
            skip = 0 if paper else layers(w, "loadings.path", x[t, i])
            beta[t][i] = dense(w, "loadings.head", s) + skip
    return torch.stack([torch.stack(month) for month in beta])


def months(w, batch, k, paper):
    """Each month's observed returns, their loadings and scales, and the month's context."""
    unit, beta = w["return_scale"], loadings(w, batch.characteristics, batch.listed, k, paper)
    for t, seen in enumerate(batch.observed):
        x, name = batch.characteristics[t, seen], "likelihood.scale"
        log_scale = w[f"{name}.log_scale"] if paper else layers(w, f"{name}.network", x)[:, 0]
        scale = unit * log_scale.exp().expand(len(x))
        yield batch.returns[t, seen], unit * beta[t, seen], scale, batch.context[t]


def prior(w, h, a, context, k):
    """Eq. (4): mean and scale of the month's code, and the level of its idiosyncratic scales."""
    out = dense(w, "factor_prior.head", h)
    if "factor_prior.context.layer.weight" in w:
        shift = w["factor_prior.context.layer.weight"] @ context / len(context) ** 0.5
        out = out + torch.cat([shift[:k] / 6, shift[k : 2 * k] / 3, shift[2 * k :]])
    if "factor_prior.memory.effects" in w:
        long_run = w["factor_prior.head.bias"][k : 2 * k].exp()
        out = torch.cat([long_run * out[:k], out[k:]])
        lag, own, common = w["factor_prior.memory.effects"]
        market = a[k:].mean()
        level = w["factor_prior.memory.level"][0] * market
        scale = (own * a[k:] + common * market) / (2 * (own.abs() + common.abs())).clamp(min=1)
        out = out + torch.cat([lag / 3 * a[:k], scale, level])
    return out[:k], out[k : 2 * k].exp(), 3 * (out[-1] / 3).tanh()


def remember(w, a, z):
    """Leaky averages of the factors and of the log of their squares, beside eq. (6)."""
    if "factor_prior.memory.unbounded_decay" not in w:
        return a
    keep = w["factor_prior.memory.unbounded_decay"].sigmoid()
    return keep * a + (1 - keep) * torch.cat([z, (1 + z**2).log() - 0.53])


def advance(w, h, z):
    """Eq. (6): one step of the gated recurrent unit."""
    x, y = gates(w, "factor_prior.gru", ih=torch.cat([z, (1 + z**2).log() - 0.53]), hh=h)
    (xr, xu, xn), (yr, yu, yn) = x.chunk(3), y.chunk(3)
    update = (xu + yu).sigmoid()
    return (1 - update) * (xn + (xr + yr).sigmoid() * yn).tanh() + update * h


def model(w, batch, kl_weight, path, paper):
    k, h = path.shape[1], path.new_zeros(w["factor_prior.head.weight"].shape[1])
    d, a = h, path.new_zeros(2 * k)  # recurrent states are of one width
    for t, (r, b, s, x) in pyro.markov(enumerate(months(w, batch, k, paper))):
        loc, scale, level = prior(w, h, a, x, k)
        with poutine.scale(scale=kl_weight[t]):
            z = pyro.sample(f"z_{t}", dist.Normal(loc, scale).to_event(1))
        h, a = advance(w, h, z), remember(w, a, z)
        if paper:  # eqs. (20) and (21)
            d = sum(gates(w, "decoder.rnn", ih=z, hh=d)).tanh()
            returns = dist.Normal(b @ dense(w, "decoder.out", d), s)
        else:
            df = 2 + w["likelihood.log_excess_df"].exp()
            returns = dist.StudentT(df, b @ z, s * level.exp())
        pyro.sample(f"r_{t}", returns.to_event(1), obs=r)


def quadratic(w, r, b, s, start, paper):
    """Score and curvature of a month's factors: exact for Normal, averages for Student-t."""
    at = b.T @ (b / s[:, None] ** 2), b.T @ (r / s**2)
    if paper:
        return at
    df, loc, precision = 2 + w["likelihood.log_excess_df"].exp(), start[0], (start[1] ** -2).diag()
    fisher = (df + 1) / (df + 3) * at[0]
    for _ in range(4):  # the Gaussian answer, then Fisher scoring
        covariance = torch.linalg.inv(precision + at[0]).detach()
        mode = (covariance @ (precision @ loc + at[1])).detach()
        e, reach = (r - b @ mode) / s, ((3 * (b @ covariance) * b).sum(1).sqrt() / s).detach()
        low, middle, high = ((df + 1) * x / (df + x**2) for x in (e - reach, e, e + reach))
        at = fisher, b.T @ (middle / s) + fisher @ mode
    lam = b.T @ (b * (((high - low) / (2 * reach)).clamp(min=0) / s**2)[:, None])
    return lam, b.T @ ((low + 4 * middle + high) / 6 / s) + lam @ mode


def guide(w, batch, kl_weight, path, paper):
    k, h = path.shape[1], path.new_zeros(w["factor_prior.head.weight"].shape[1])
    a = start = path.new_zeros(2 * k)
    for t, (r, b, s, x) in pyro.markov(enumerate(months(w, batch, k, paper))):
        lam, eta = quadratic(w, r, b, s, None if paper else prior(w, h * 0, start, x, k), paper)
        if paper:  # eqs. (12)-(14)
            estimate = torch.linalg.solve(lam + torch.eye(k).to(path), eta)
            features = torch.cat([estimate, (1 + lam.diagonal()).log()])
            h = sum(gates(w, "guide.rnn", ih=features, hh=h)).tanh()
            m, precision = dense(w, "guide.loc", h), dense(w, "guide.log_scale", h).exp() ** -2
            precision = precision.diag()
        else:
            loc, scale, level = prior(w, h, a, x, k)
            shrink = (-2 * level).exp() / kl_weight[t]
            precision = (scale**-2).diag() + shrink * lam
            m = torch.linalg.solve(precision, loc / scale**2 + shrink * eta)
        root = torch.linalg.cholesky(precision).T
        z = m + torch.linalg.solve(root, (root @ (path[t] - m)).detach())
        log_q = dist.MultivariateNormal(m, precision_matrix=precision).log_prob(z)
        with poutine.scale(scale=kl_weight[t]):
            pyro.sample(f"z_{t}", dist.Delta(z, log_density=log_q, event_dim=1))
        h, a = (h, a) if paper else (advance(w, h, z), remember(w, a, z))
