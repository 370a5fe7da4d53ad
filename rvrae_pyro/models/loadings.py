"""Loadings B_t: how much of each factor an asset carries, from its characteristics."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from rvrae_pyro.data.batch import Batch, State
from rvrae_pyro.errors import ShapeError
from rvrae_pyro.models.asset_labels import AssetEffect
from rvrae_pyro.models.kinds import require_instance
from rvrae_pyro.models.part import Part
from rvrae_pyro.models.weights import GroupLog, Hierarchical, WeightMatrices, WeightPrior
from rvrae_pyro.nn.lstm import run_lstm_packed
from rvrae_pyro.nn.sequences import months_apart, rnn_weights, run_lstm_online

__all__ = [
    "LSTM",
    "MLP",
    "AssetEffects",
    "Augmented",
    "Linear",
    "Loadings",
    "feed_forward",
    "over_rows",
]


_EFFECTS = Hierarchical()
"""Default prior of effects by asset."""


class Loadings(Part):
    """Base of all loadings. A subclass needs ``forward(batch)`` and nothing else.

    ``forward`` returns loadings of shape (*particles, n_times, n_assets, n_factors) per unit of
    ``model.return_scale``, from characteristics known at the end of the month before; what it
    says of unlisted cells is ignored.

    References
    ----------
    Wang and Guo (2024), arXiv 2403.02500, eq. (1).
    """

    n_characteristics: int
    n_factors: int
    weights: WeightPrior | None = None

    def online(self, batch: Batch, starts: Sequence[int] = ()) -> tuple[Tensor, dict[int, State]]:
        """Compute loadings, each month from months up to it, and states on the way.

        Parameters
        ----------
        batch : Batch
        starts : sequence of int
            Months whose incoming state is wanted; ``n_times`` stands for the end.

        Returns
        -------
        beta : Tensor of shape (n_times, n_assets, n_factors)
            Bit-equal up to any month whatever happens after it.
        states : dict
            State before each month of ``starts``; empty where the part has none.
        """
        return self(batch), dict.fromkeys(starts, ())

    def check(self, batch: Batch) -> None:
        """Raise :class:`ShapeError` where the batch has other characteristics than the part."""
        if batch.n_characteristics != self.n_characteristics:
            raise ShapeError(
                f"`characteristics` must have {self.n_characteristics} columns, as the model was "
                f"built for; got {batch.n_characteristics}. Build the model with "
                f"rv.RVRAE({batch.n_characteristics}, ...) or select the characteristics first."
            )


class _FeedForward(Loadings):
    """Loadings of a month from that month's characteristics alone."""

    def online(self, batch: Batch, starts: Sequence[int] = ()) -> tuple[Tensor, dict[int, State]]:
        """Month by month, so that the arithmetic of a month does not depend on the others."""
        months = [
            self(batch.window(t, t + 1, every_asset=True)).squeeze(-3) for t in range(batch.n_times)
        ]
        return torch.stack(months, dim=-3), dict.fromkeys(starts, ())


class Linear(_FeedForward):
    """Loadings linear in the characteristics, ``beta = W x + b``: IPCA's form.

    Parameters
    ----------
    n_characteristics, n_factors : int
    weights : WeightPrior, optional
        Prior over ``W``.

    References
    ----------
    Kelly, Pruitt and Su (2019), Journal of Financial Economics 134.
    """

    def __init__(
        self, n_characteristics: int, n_factors: int, weights: WeightPrior | None = None
    ) -> None:
        super().__init__()
        self.n_characteristics, self.n_factors, self.weights = n_characteristics, n_factors, weights
        self.layer = nn.Linear(n_characteristics, n_factors)

    def forward(self, batch: Batch) -> Tensor:
        """Compute loadings of shape (n_times, n_assets, n_factors)."""
        self.check(batch)
        return batch.spread(self.layer(batch.row_characteristics))

    def weight_matrices(self) -> WeightMatrices:
        """Return the one matrix that sees the characteristics."""
        return WeightMatrices([self.layer.weight], [])


class MLP(_FeedForward):
    """Feed-forward loadings: the conditional autoencoder's beta network.

    Parameters
    ----------
    n_characteristics, n_factors : int
    hidden : sequence of int
        Widths of the ReLU layers.
    weights : WeightPrior, optional
        Prior over the weights; :class:`~rvrae_pyro.models.weights.GroupLog` unless told, None
        for none.

    References
    ----------
    Gu, Kelly and Xiu (2021), Journal of Econometrics 222, section 2.
    """

    def __init__(
        self,
        n_characteristics: int,
        n_factors: int,
        hidden: Sequence[int] = (32,),
        weights: WeightPrior | None = GroupLog(),
    ) -> None:
        super().__init__()
        self.n_characteristics, self.n_factors, self.weights = n_characteristics, n_factors, weights
        self.hidden = tuple(hidden)
        self.network = feed_forward([n_characteristics, *self.hidden, n_factors])

    def forward(self, batch: Batch) -> Tensor:
        """Compute loadings of shape (n_times, n_assets, n_factors)."""
        self.check(batch)
        return batch.spread(over_rows(self.network, batch.row_characteristics))

    def weight_matrices(self) -> WeightMatrices:
        """First layer as inputs, the rest as others."""
        tables = [p for p in self.network.parameters() if p.ndim == 2]
        return WeightMatrices(tables[:1], tables[1:])


class LSTM(Loadings):
    """Loadings from each firm's history of characteristics, eqs. (22)-(29).

    By default a feed-forward path from the current characteristics carries most of the load and
    the recurrent part is a correction that starts at zero: the paper's plain LSTM
    (``skip=False``) loses half of the signal on the Gu-Kelly-Xiu simulation.

    Parameters
    ----------
    n_characteristics, n_factors : int
    hidden : int
        Width of the LSTM state, and of the feed-forward layer.
    weights : WeightPrior, optional
        Prior over the weights; :class:`~rvrae_pyro.models.weights.GroupLog` unless told.
    skip : bool
        False for the paper's plain LSTM.

    Notes
    -----
    An asset's state starts at zero in its first listed month, and waits through months in which
    the asset is not listed. Assets unseen in training work. Costs O(listed cells).

    References
    ----------
    Wang and Guo (2024), arXiv 2403.02500, eqs. (22)-(29).
    """

    def __init__(
        self,
        n_characteristics: int,
        n_factors: int,
        hidden: int = 32,
        weights: WeightPrior | None = GroupLog(),
        skip: bool = True,
    ) -> None:
        super().__init__()
        self.n_characteristics, self.n_factors, self.weights = n_characteristics, n_factors, weights
        self.hidden, self.skip = hidden, skip
        self.lstm = nn.LSTM(n_characteristics, hidden)
        self.head = nn.Linear(hidden, n_factors, bias=not skip)
        self.path = feed_forward([n_characteristics, hidden, n_factors]) if skip else None
        if skip:
            nn.init.zeros_(self.head.weight)

    def forward(self, batch: Batch) -> Tensor:
        """Compute loadings of shape (n_times, n_assets, n_factors), 0 where not listed."""
        self.check(batch)
        packing, rows = batch.packing, batch.row_characteristics
        hidden, cell = (each.index_select(0, packing.assets) for each in self._initial(batch))
        output = run_lstm_packed(self.lstm, rows, packing.counts, (hidden, cell))
        return batch.spread(self._read_out(rows, output))

    def online(self, batch: Batch, starts: Sequence[int] = ()) -> tuple[Tensor, dict[int, State]]:
        """Compute loadings month by month over the listed rows; see :meth:`Loadings.online`."""
        self.check(batch)
        x = batch.characteristics
        output, states = run_lstm_online(self.lstm, x, batch.listed, self._initial(batch), starts)
        if not months_apart():
            flat = x.flatten(0, 1), output.flatten(0, 1)
            blocks = batch.packing.cells.split(_ROWS)
            read = [self._read_out(*(t.index_select(0, b) for t in flat)) for b in blocks]
            return batch.spread(torch.cat(read)), dict(states)
        rows = [live.nonzero().squeeze(-1) for live in batch.listed]
        beta = x.new_zeros(*x.shape[:2], self.n_factors)
        for t, live in enumerate(rows):
            beta[t, live] = self._read_out(x[t, live], output[t, live])
        return beta, dict(states)

    def weight_matrices(self) -> WeightMatrices:
        """Every matrix that sees the characteristics, and the output matrices."""
        w_in, w_state, _, _ = rnn_weights(self.lstm)
        inputs, others = [w_in], [self.head.weight, w_state]
        if self.path is not None:
            tables = [p for p in self.path.parameters() if p.ndim == 2]
            inputs.append(tables[0])
            others.append(tables[1])
        return WeightMatrices(inputs, others)

    def _read_out(self, inputs: Tensor, output: Tensor) -> Tensor:
        beta: Tensor = self.head(output)
        return beta if self.path is None else beta + over_rows(self.path, inputs)

    def _initial(self, batch: Batch) -> tuple[Tensor, Tensor]:
        state = batch.state("loadings")
        if state:
            return state[0], state[1]
        zeros = batch.characteristics.new_zeros(batch.n_assets, self.hidden)
        return zeros, zeros


class Augmented(Loadings):
    """Learned loadings, followed by the characteristics themselves.

    The last ``n_characteristics`` factors then are returns that all assets of like
    characteristics share beyond the learned factors; with
    :class:`rvrae_pyro.models.priors.Augmented` they are small, and portfolios sorted by a
    characteristic keep a risk that does not diversify away.

    Parameters
    ----------
    learned : Loadings
        Loadings on the first factors.

    References
    ----------
    Wang and Guo (2024), arXiv 2403.02500, eq. (1).
    """

    def __init__(self, learned: Loadings) -> None:
        super().__init__()
        choices = ("rv.loadings.LSTM", "rv.loadings.MLP", "rv.loadings.Linear")
        require_instance("learned", learned, Loadings, choices)
        self.learned = learned
        self.n_characteristics = learned.n_characteristics
        self.n_factors = learned.n_factors + learned.n_characteristics

    def forward(self, batch: Batch) -> Tensor:
        """Compute loadings of shape (*particles, n_times, n_assets, n_factors)."""
        return self._joined(self.learned(batch), batch)

    def online(self, batch: Batch, starts: Sequence[int] = ()) -> tuple[Tensor, dict[int, State]]:
        """Do as the learned loadings do; see :meth:`Loadings.online`."""
        beta, states = self.learned.online(batch, starts)
        return self._joined(beta, batch), states

    def weight_matrices(self) -> WeightMatrices:
        """Return none: the learned loadings speak for themselves."""
        return WeightMatrices([], [])

    @staticmethod
    def _joined(beta: Tensor, batch: Batch) -> Tensor:
        own = torch.where(batch.listed.unsqueeze(-1), batch.characteristics, 0.0)
        return torch.cat([beta, own.expand(*beta.shape[:-1], own.shape[-1])], -1)


class AssetEffects(AssetEffect, Loadings):
    r"""Loadings from characteristics plus what is particular to an asset.

    .. math::
        \beta_{it} = g(x_{i, \le t-1}) + b_i, \qquad b_{ik} \sim N(0, \tau_k^2), \qquad
        \tau_k \sim C^+(0, \text{scale}),

    with :math:`g` the loadings of ``base``. For a universe that stays (portfolios, sectors,
    countries, funds), where characteristics do not tell all assets apart.

    Parameters
    ----------
    base : Loadings
        Loadings from characteristics.
    assets : sequence of str
        Labels of the assets that have an effect of their own, as ``panel.asset`` has them.
    weights : WeightPrior, optional
        Prior over the effects. Default: ``rv.weights.Hierarchical()``, whose scale per factor is
        learned and whose effects have a posterior.

    Notes
    -----
    **Site.** ``loadings.effects`` (n_labels + 16, n_factors) with the default prior. The last
    16 rows are for assets without a label, which draw their effect from the prior at the learned
    scale: a label always takes the same of these rows.

    A prior whose weights are a single best value (``inference="map"``) needs a scale that is
    given, such as ``rv.weights.Normal(0.3)``: maximising effects and their scale together
    collapses both to zero. With it the effect of a new asset is zero.

    A warm start finds effects by label. Costs O(n_assets n_factors) per month in addition to the
    base; a forecast filters once for every draw of the effects.

    Examples
    --------
    >>> import rvrae_pyro as rv
    >>> loadings = rv.loadings.AssetEffects(rv.loadings.LSTM(4, 2), assets=["Energy", "Health"])
    >>> loadings.effects.shape
    torch.Size([18, 2])
    """

    def __init__(
        self, base: Loadings, assets: Iterable[str], weights: WeightPrior = _EFFECTS
    ) -> None:
        super().__init__()
        choices = ("rv.loadings.LSTM", "rv.loadings.MLP", "rv.loadings.Linear")
        require_instance("base", base, Loadings, choices)
        self.base, self.weights = base, weights
        self.n_characteristics, self.n_factors = base.n_characteristics, base.n_factors
        self._new_effects(assets, base.n_factors)

    def forward(self, batch: Batch) -> Tensor:
        """Compute loadings of shape (*particles, n_times, n_assets, n_factors)."""
        return self._joined(self.base(batch), batch)

    def online(self, batch: Batch, starts: Sequence[int] = ()) -> tuple[Tensor, dict[int, State]]:
        """Compute the base's loadings month by month, plus the effects."""
        beta, states = self.base.online(batch, starts)
        return self._joined(beta, batch), states

    def weight_matrices(self) -> WeightMatrices:
        """Return the effects; the weights of the base have its own prior."""
        return WeightMatrices([], [self.effects])

    def _joined(self, beta: Tensor, batch: Batch) -> Tensor:
        return beta + torch.where(batch.listed.unsqueeze(-1), self.of(batch.assets), 0.0)


def feed_forward(widths: Sequence[int]) -> nn.Sequential:
    """Linear layers of the given widths with ReLU between them."""
    layers: list[nn.Module] = []
    for wide, narrow in itertools.pairwise(widths[:-1]):
        layers += [nn.Linear(wide, narrow), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))


def over_rows(network: nn.Module, rows: Tensor) -> Tensor:
    """Apply a network to some thousand rows at a time, so that its layers stay in the cache."""
    return torch.cat([network(block) for block in rows.split(_ROWS)])


_ROWS = 8192
