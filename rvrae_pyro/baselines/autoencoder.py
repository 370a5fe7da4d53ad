"""The conditional autoencoder: nonlinear loadings, factors as portfolios."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor, nn

from rvrae_pyro.baselines.baseline import Fitting
from rvrae_pyro.baselines.factor_baseline import FactorBaseline
from rvrae_pyro.baselines.linear_gaussian import FactorHistory, FactorView, cholesky_like
from rvrae_pyro.baselines.network_training import (
    TrainConfig,
    return_scale,
    train_network,
    training_of,
)
from rvrae_pyro.data.batch import Batch
from rvrae_pyro.data.panel_match import in_order
from rvrae_pyro.data.transforms import managed_portfolios
from rvrae_pyro.errors import ConfigError, check_count, check_number
from rvrae_pyro.names import CHARACTERISTIC
from rvrae_pyro.nn.seeding import seeded


class Network(nn.Module):
    """Loadings by a feed-forward network, factors by a linear map of managed portfolios.

    Parameters
    ----------
    n_characteristics, n_factors : int
    hidden : sequence of int
        Sizes of the hidden layers of the loadings; each has batch normalisation and ReLU.
    """

    def __init__(self, n_characteristics: int, n_factors: int, hidden: Sequence[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for n_in, n_out in itertools.pairwise([n_characteristics, *hidden]):
            layers += [nn.Linear(n_in, n_out), nn.BatchNorm1d(n_out), nn.ReLU()]
        last = hidden[-1] if hidden else n_characteristics
        self.beta = nn.Sequential(*layers, nn.Linear(last, n_factors))
        self.factors = nn.Linear(n_characteristics + 1, n_factors)

    def forward(self, rows: Tensor, months: Tensor, portfolios: Tensor) -> Tensor:
        """Return fitted returns (n_rows,) of rows (n_rows, P) in months (n_rows,)."""
        factors = self.factors(portfolios).index_select(0, months)
        fitted: Tensor = torch.linalg.vecdot(self.beta(rows), factors)
        return fitted

    def absolute_weights(self) -> Tensor:
        """Sum of absolute weights, biases and normalisation left out."""
        weights = [m.weight.flatten() for m in self.modules() if isinstance(m, nn.Linear)]
        return torch.cat(weights).abs().sum()


class ConditionalAutoencoder(FactorBaseline):
    r"""The conditional autoencoder of Gu, Kelly and Xiu.

    .. math:: r_{it} = \beta(z_{i,t-1})' f_t + u_{it}, \quad f_t = W x_t + b

    with x_t the managed portfolios of month t, a constant among them.

    Parameters
    ----------
    n_factors : int
    hidden : sequence of int
        Hidden layers of the loadings network: ``()`` is CA0, ``(32,)`` CA1, ``(32, 16)`` CA2,
        ``(32, 16, 8)`` CA3.
    n_members : int
        Networks from different seeds; their predictions are averaged.
    l1 : float
        Weight of the absolute weights in the loss, which is the mean squared error of returns
        divided by their training root mean square.
    config : TrainConfig, optional

    Notes
    -----
    Forecasts are loadings times the mean of all earlier factors: of the months fitted and of
    earlier months in the panel given. Each member's predictive distribution is Gaussian
    around its own forecast, with its factors' covariance and one residual standard deviation
    over training and validation months; members form an equal mixture.

    The factor side sees returns that are linear in characteristics. Where loadings are not, as in
    the authors' nonlinear simulation, it misses factors that the loadings find: total R2 there is
    about 18 % with the model's own factors and 31 % with ``kind="ols"`` (published: 31.8 %), while
    forecasts are similar.

    Cost: O(T N (P^2 + P hidden)) once and O(T N P hidden) per epoch and member.

    References
    ----------
    Gu, Kelly and Xiu (2021), Autoencoder asset pricing models, Journal of Econometrics 222,
    sections 2 and 3.
    """

    def __init__(
        self,
        n_factors: int,
        hidden: Sequence[int] = (32,),
        *,
        n_members: int = 10,
        l1: float = 3e-3,
        config: TrainConfig | None = None,
    ) -> None:
        super().__init__()
        self.n_factors = check_count("n_factors", n_factors)
        if not isinstance(hidden, Iterable) or isinstance(hidden, str):
            raise ConfigError(
                f"`hidden` must be a sequence of layer sizes; got {hidden!r}. One layer is (32,)."
            )
        self.hidden = tuple(check_count("hidden", size) for size in hidden)
        self.n_members = check_count("n_members", n_members)
        self.l1 = check_number("l1", l1, "[0, inf)")
        self.config = training_of(config, TrainConfig(learning_rate=5e-3))
        self._members: list[Network] = []
        self._numbers: dict[str, Tensor] = {}

    @classmethod
    def _read_settings(cls, described: dict[str, Any]) -> dict[str, Any]:
        return {**described, "config": TrainConfig(**described["config"])}

    def _learn(self, fitting: Fitting) -> None:
        batch, n_train = fitting.batch, fitting.n_train
        scale = return_scale(batch.returns[:n_train], batch.observed[:n_train])
        portfolios = _portfolios(fitting.panel, batch) / scale
        seeds = np.random.SeedSequence(fitting.seed).generate_state(self.n_members)
        rows = _Rows(batch, portfolios.nan_to_num(), scale)
        members, records = [], []
        for number, seed in enumerate(map(int, seeds)):
            with seeded(seed):
                member = Network(batch.n_characteristics, self.n_factors, self.hidden)
            members.append(member.to(batch.returns))
            name = f"{type(self).__name__}, member {number + 1} of {self.n_members}"
            record = self._train(members[-1], rows, replace(fitting, seed=seed), name)
            records.append(record.assign(member=number))
        self._members = [member.cpu().double().eval() for member in members]
        self.history = pd.concat(records, ignore_index=True)
        self._numbers = {"scale": torch.tensor(scale, dtype=torch.float64)}
        self._remember(batch.to("cpu"), portfolios.cpu().double())

    def _train(self, member: Network, rows: _Rows, fitting: Fitting, name: str) -> pd.DataFrame:
        def objective(start: int, stop: int) -> tuple[Tensor, int]:
            x, months, returns = rows.window(start, stop)
            if len(x) < 2:  # batch normalisation needs two rows
                return returns.new_zeros(()), 0
            fitted = member(x, months, rows.portfolios[start:stop])
            return (fitted - returns).square().sum(), len(x)

        return train_network(
            member,
            objective,
            fitting,
            self.config,
            name=name,
            penalty=lambda: self.l1 * member.absolute_weights(),
        )

    def _remember(self, batch: Batch, portfolios: Tensor) -> None:
        """Keep factors and residual spread of the fitted months."""
        stamps = torch.as_tensor(batch.times.astype("datetime64[ns]").astype(np.int64))
        factors, spreads = [], []
        scale = self._numbers["scale"]
        with torch.no_grad():
            for member in self._members:
                mine = member.factors(portfolios) * scale
                squares, count = 0.0, 0
                for t, seen in enumerate(batch.observed):
                    if bool(seen.any()):
                        beta = member.beta(batch.characteristics[t, seen].double())
                        error = batch.returns[t, seen].double() - beta @ mine[t]
                        squares, count = squares + float(error.square().sum()), count + len(error)
                factors.append(mine)
                spreads.append((squares / max(1, count)) ** 0.5)
        self._numbers |= {
            "times": stamps,
            "factors": torch.stack(factors),
            "idio_scale": torch.tensor(spreads, dtype=torch.float64),
        }

    def _views(self, panel: xr.Dataset, batch: Batch) -> Iterator[FactorView]:
        numbers = self._numbers
        portfolios = _portfolios(panel, batch) / numbers["scale"]
        times = numbers["times"].numpy().astype("datetime64[ns]")
        for number, member in enumerate(self._members):
            # month by month, so that a month's arithmetic is free of other months
            beta = torch.stack([member.beta(x) for x in batch.characteristics])
            factors = torch.stack([member.factors(x) for x in portfolios]) * numbers["scale"]
            past = FactorHistory(times, numbers["factors"][number])
            yield FactorView(
                alpha=torch.zeros_like(batch.returns),
                beta=beta,
                loc=past.running_mean(batch.times, factors),
                factor_scale=cholesky_like(past.covariance()).expand(batch.n_times, -1, -1),
                idio_scale=numbers["idio_scale"][number].expand_as(batch.returns),
                factors=factors,
            )

    def _state(self) -> dict[str, Tensor]:
        members = {
            f"member.{number}.{name}": value
            for number, member in enumerate(self._members)
            for name, value in member.state_dict().items()
        }
        return {**self._numbers, **members}

    def _restore(self, state: dict[str, Tensor]) -> None:
        names = ("scale", "times", "factors", "idio_scale")
        self._numbers = {name: state[name] for name in names}
        self._members = []
        for number in range(self.n_members):
            member = Network(len(self._names), self.n_factors, self.hidden).double().eval()
            prefix = f"member.{number}."
            mine = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            member.load_state_dict(mine)
            self._members.append(member)


class _Rows:
    """Observed rows in month order, so that a window of months is a view."""

    def __init__(self, batch: Batch, portfolios: Tensor, scale: float) -> None:
        time, asset = batch.observed.nonzero(as_tuple=True)
        self.n_times, self.portfolios = batch.n_times, portfolios
        self.rows = batch.characteristics[time, asset]
        self.months, self.returns = time, batch.returns[time, asset] / scale
        counts = batch.observed.sum(1).cumsum(0).tolist()
        self.ends = [0, *counts]

    def window(self, start: int, stop: int) -> tuple[Tensor, Tensor, Tensor]:
        """Characteristics, months counted from ``start``, and returns of a window."""
        here = slice(self.ends[start], self.ends[stop])
        return self.rows[here], self.months[here] - start, self.returns[here]


def _portfolios(panel: xr.Dataset, batch: Batch) -> Tensor:
    """Return managed portfolios with a constant (n_times, P + 1); NaN in months without returns."""
    ordered = in_order(panel, CHARACTERISTIC, batch.names.tolist())
    return torch.as_tensor(managed_portfolios(ordered).to_numpy()).to(batch.returns)
