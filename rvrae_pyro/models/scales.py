"""Idiosyncratic scales of the returns, and their mispricing.

Both are per unit of ``model.return_scale``, like loadings.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from rvrae_pyro.data.batch import Batch
from rvrae_pyro.errors import ConfigError, ShapeError
from rvrae_pyro.models.asset_labels import AssetEffect
from rvrae_pyro.models.hyperpriors import POSITIVE, REAL, is_distribution
from rvrae_pyro.models.kinds import require_instance
from rvrae_pyro.models.loadings import feed_forward, over_rows
from rvrae_pyro.models.part import Part, spell
from rvrae_pyro.models.weights import GroupLog, Hierarchical, WeightMatrices, WeightPrior
from rvrae_pyro.nn.standardise import Standardise

_EFFECTS = Hierarchical()
"""Default prior of effects by asset."""

_SCALE = math.exp(-0.3)


class Scale(Part):
    """Base of idiosyncratic scales: ``forward(batch)`` gives log scales (n_times, n_assets)."""

    weights: WeightPrior | None = None


class GlobalScale(Scale):
    """One scale for all assets and months.

    Parameters
    ----------
    scale : float or distribution
        In units of the model's ``return_scale``, above 0: a number to start training from, or a
        prior. Default: 0.74.
    """

    def __init__(self, scale: Any = _SCALE) -> None:
        super().__init__()
        self.add_hyperparameter("scale", scale, "log_scale", POSITIVE)

    def forward(self, batch: Batch) -> Tensor:
        """Log scale, of shape (1, 1)."""
        return self.log_value("scale").reshape(1, 1)


class CharacteristicScale(Scale):
    """Log scale from the characteristics and context known at the end of the month before.

    Parameters
    ----------
    n_characteristics : int
    n_context : int
        Features of the panel's context to read; 0 for none.
    hidden : int
        Width of the ReLU layer.
    weights : WeightPrior, optional
        Prior over the weights.
    """

    def __init__(
        self,
        n_characteristics: int,
        n_context: int = 0,
        hidden: int = 16,
        weights: WeightPrior | None = GroupLog(),
    ) -> None:
        super().__init__()
        self.n_characteristics, self.n_context = n_characteristics, n_context
        self.hidden, self.weights = hidden, weights
        self.network = feed_forward([n_characteristics, hidden, 1])
        last = self.network[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.constant_(last.bias, -0.3)
        self.unit = Standardise(n_context) if n_context else None
        self.context = nn.Linear(n_context, 1, bias=False) if n_context else None
        if self.context is not None:
            nn.init.zeros_(self.context.weight)

    def set_units(self, batch: Batch) -> None:
        """Count each feature of the context in standard deviations of the training months."""
        if self.unit is not None and batch.context is not None:
            self.unit.take(batch.context)

    def forward(self, batch: Batch) -> Tensor:
        """Log scales, of shape (n_times, n_assets)."""
        if batch.n_characteristics != self.n_characteristics:
            raise ShapeError(
                f"`characteristics` must have {self.n_characteristics} columns, as the scale was "
                f"built for; got {batch.n_characteristics}."
            )
        log_scale = batch.spread(over_rows(self.network, batch.row_characteristics)).squeeze(-1)
        if self.context is None or self.unit is None:
            return log_scale
        if batch.context is None or batch.context.shape[-1] != self.n_context:
            raise ShapeError(
                f"`context` must have {self.n_context} features, as the scale was built for. Add "
                "it with rv.data.market_context(panel) or build with n_context=0."
            )
        shift: Tensor = self.context(self.unit(batch.context))
        return log_scale + shift

    def weight_matrices(self) -> WeightMatrices:
        """First layer as inputs, output and context weights as others."""
        tables = [p for p in self.parameters() if p.ndim == 2]
        return WeightMatrices(tables[:1], tables[1:])


class AssetScale(AssetEffect, Scale):
    r"""Idiosyncratic scales with a factor particular to an asset.

    .. math::
        \log \sigma_{it} = s(x_{i, t-1}) + c_i, \qquad c_i \sim N(0, \tau^2), \qquad
        \tau \sim C^+(0, \text{scale}),

    with :math:`s` the log scales of ``base``.

    Parameters
    ----------
    base : Scale
        Log scale from characteristics and context, or a global one.
    assets : sequence of str
        Labels of the assets that have an effect of their own, as ``panel.asset`` has them.
    weights : WeightPrior, optional
        Prior over the effects. Default: ``rv.weights.Hierarchical()``, whose scale is learned and
        whose effects have a posterior.

    Notes
    -----
    Site ``likelihood.scale.effects`` (n_labels + 16, 1); new assets, warm starts and costs as for
    :class:`rvrae_pyro.models.loadings.AssetEffects`.

    Examples
    --------
    >>> import rvrae_pyro as rv
    >>> scale = rv.likelihoods.CharacteristicScale(4)
    >>> likelihood = rv.likelihoods.StudentT(rv.likelihoods.AssetScale(scale, ["Energy", "Health"]))
    """

    def __init__(self, base: Scale, assets: Iterable[str], weights: WeightPrior = _EFFECTS) -> None:
        super().__init__()
        choices = ("rv.likelihoods.CharacteristicScale", "rv.likelihoods.GlobalScale")
        require_instance("base", base, Scale, choices)
        self.base, self.weights = base, weights
        self._new_effects(assets, 1)

    def forward(self, batch: Batch) -> Tensor:
        """Log scales, of shape (n_times, n_assets)."""
        log_scale: Tensor = self.base(batch)
        return log_scale + self.of(batch.assets).squeeze(-1)

    def weight_matrices(self) -> WeightMatrices:
        """Return the effects; the weights of the base have its own prior."""
        return WeightMatrices([], [self.effects])


_DEFAULT = GroupLog()


class Alpha(Part):
    """Mispricing linear in the characteristics; off unless asked for (no arbitrage).

    Parameters
    ----------
    n_characteristics : int
    weights : WeightPrior, optional
        Prior over the coefficients. Default: ``rv.weights.GroupLog()``, or none where
        ``coefficient`` has one.
    coefficient : float or distribution
        Expected return per unit of each characteristic, in units of the model's
        ``return_scale``: a number to start training from, or a prior. Default: 0.
    intercept : float or distribution
        Expected return of an asset whose characteristics are zero. Default: 0.

    Raises
    ------
    ConfigError
        If ``weights`` and ``coefficient`` both give a prior.
    """

    def __init__(
        self,
        n_characteristics: int,
        weights: WeightPrior | None = _DEFAULT,
        coefficient: Any = 0.0,
        intercept: Any = 0.0,
    ) -> None:
        super().__init__()
        if is_distribution(coefficient):
            if weights not in (None, _DEFAULT):
                raise ConfigError(
                    "`weights` and `coefficient` of Alpha are two priors for one parameter; got "
                    f"{weights!r} and {spell(coefficient)}. Leave one out."
                )
            weights = None
        self.n_characteristics, self.weights = n_characteristics, weights
        self.layer = nn.Linear(n_characteristics, 1)
        shape = (n_characteristics,)
        self.add_hyperparameter("coefficient", coefficient, "layer.weight", REAL, shape)
        self.add_hyperparameter("intercept", intercept, "layer.bias", REAL)

    def forward(self, batch: Batch) -> Tensor:
        """Alphas, of shape (n_times, n_assets)."""
        alphas = batch.row_characteristics @ self.value("coefficient") + self.value("intercept")
        return batch.spread(alphas.unsqueeze(-1)).squeeze(-1)

    def weight_matrices(self) -> WeightMatrices:
        """Return the coefficients."""
        return WeightMatrices([self.layer.weight], [])
