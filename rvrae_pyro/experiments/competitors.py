"""Competitors behind one protocol: a name, a description, and a fit that forecasts."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import partial
from typing import Any, Final, Literal, Protocol, runtime_checkable

import xarray as xr

from rvrae_pyro.baselines.alstm import ALSTM
from rvrae_pyro.baselines.autoencoder import ConditionalAutoencoder
from rvrae_pyro.baselines.baseline import Baseline
from rvrae_pyro.baselines.ewma import EWMA, MultivariateT
from rvrae_pyro.baselines.ewma_mixture import EWMAMixture
from rvrae_pyro.baselines.factor_garch import FactorGARCH
from rvrae_pyro.baselines.factorvae import FactorVAE
from rvrae_pyro.baselines.ipca import IPCA
from rvrae_pyro.baselines.transformer import Transformer
from rvrae_pyro.errors import ConfigError
from rvrae_pyro.experiments.forecast_tree import Fitted
from rvrae_pyro.fitting.fit import Fit
from rvrae_pyro.fitting.saved import describe_config
from rvrae_pyro.fitting.training import fit as fit_rvrae
from rvrae_pyro.fitting.training import load as load_rvrae
from rvrae_pyro.inference.config import FitConfig
from rvrae_pyro.models import loadings, priors
from rvrae_pyro.models.identity import own_identity
from rvrae_pyro.models.registry import chosen_parts, describe_model
from rvrae_pyro.models.rvrae import RVRAE
from rvrae_pyro.names import CHARACTERISTIC, FEATURE


@runtime_checkable
class Entrant(Protocol):
    """Competitor before its fit: any object with these three attributes.

    Attributes
    ----------
    name : str
        As the tables show it.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    def describe(self, panel: xr.Dataset) -> dict[str, Any]:
        """Return the settings that determine its results, in JSON types."""
        ...

    def fit(self, train: xr.Dataset, valid: xr.Dataset | None, seed: int) -> Fitted:
        """Fit a fresh copy.

        Returns
        -------
        Fit, Ensemble, baseline, or object with ``outlook``
            See :func:`~rvrae_pyro.experiments.forecast_tree`.
        """
        ...


@dataclass(frozen=True, eq=False)
class BaselineEntrant:
    """A baseline; every fit is one of a fresh copy.

    Parameters
    ----------
    name : str
    template : Baseline
    """

    name: str
    template: Baseline

    def describe(self, panel: xr.Dataset) -> dict[str, Any]:
        """Return the class and its settings."""
        kind, settings = type(self.template), self.template.settings()
        return {"kind": kind.__name__, **settings, **_own(kind, settings)}

    def fit(self, train: xr.Dataset, valid: xr.Dataset | None, seed: int) -> Baseline:
        """Fit a copy of the template."""
        return copy.deepcopy(self.template).fit(train, valid, seed)


@dataclass(frozen=True, eq=False)
class ModelEntrant:
    """An RVRAE; every fit is one of a fresh copy.

    Parameters
    ----------
    name : str
    template : RVRAE
        Untrained: each fit starts from weights drawn with its seed.
    config : FitConfig, optional
    options : mapping, optional
        Further arguments of ``rv.fit``: ``elbo``, ``init``.
    """

    name: str
    template: RVRAE
    config: FitConfig | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.template.untrained:
            raise ConfigError(
                f"model {self.name!r} must be untrained; got one whose weights have changed, which "
                "may have seen the test months. Build a new one: rv.RVRAE(...)."
            )

    def describe(self, panel: xr.Dataset) -> dict[str, Any]:
        """Return the parts and the training configuration."""
        config = FitConfig() if self.config is None else self.config
        return {
            "kind": "RVRAE",
            "model": describe_model(self.template),
            "config": describe_config(config),
            **({"options": {k: repr(v) for k, v in self.options.items()}} if self.options else {}),
            **_own(chosen_parts(self.template), config),
        }

    def fit(self, train: xr.Dataset, valid: xr.Dataset | None, seed: int) -> Fit:
        """Fit a copy of the template."""
        model = copy.deepcopy(self.template)
        fit = fit_rvrae(
            model, train, valid, config=self.config, seed=seed, progress=False, **self.options
        )
        return fit.uninterrupted()

    def warm(self, first: Fit, config: FitConfig | None = None) -> ModelEntrant:
        """Return the same model, each fit of which starts from an earlier fit.

        Parameters
        ----------
        first : Fit
        config : FitConfig, optional
            Of the warm fits. Default: :meth:`FitConfig.warm` of this model's configuration.
        """
        config = (self.config or FitConfig()).warm() if config is None else config
        return replace(self, config=config, options={**self.options, "init": first})

    def load(self, path: str | os.PathLike[str]) -> Fit:
        """Read a saved fit of this model, user-defined parts and schedules included."""
        config = FitConfig() if self.config is None else self.config
        return load_rvrae(path, copy.deepcopy(self.template), config=config)


@dataclass(frozen=True, eq=False)
class FactoryEntrant:
    """Anything that a function makes of the training panel: sizes may depend on it.

    Parameters
    ----------
    name : str
    make : callable
        From the training panel to an RVRAE, a baseline or an entrant.
    config : FitConfig, optional
        Of an RVRAE.
    """

    name: str
    make: Callable[[xr.Dataset], object]
    config: FitConfig | None = None

    def describe(self, panel: xr.Dataset) -> dict[str, Any]:
        """Describe what the function makes."""
        return self.made(panel).describe(panel)

    def fit(self, train: xr.Dataset, valid: xr.Dataset | None, seed: int) -> Fitted:
        """Make it for the training panel and fit it."""
        return self.made(train).fit(train, valid, seed)

    def made(self, panel: xr.Dataset) -> Entrant:
        """Make the competitor for a training panel."""
        return as_entrant(self.make(panel), name=self.name, config=self.config)


@dataclass(frozen=True, eq=False)
class _Renamed:
    """An entrant under another name."""

    name: str
    entrant: Entrant

    def describe(self, panel: xr.Dataset) -> dict[str, Any]:
        return self.entrant.describe(panel)

    def fit(self, train: xr.Dataset, valid: xr.Dataset | None, seed: int) -> Fitted:
        return self.entrant.fit(train, valid, seed)


def model_entrant(entrant: Entrant, panel: xr.Dataset) -> ModelEntrant:
    """Return the RVRAE that a competitor fits to a training panel.

    Raises
    ------
    ConfigError
        If it is no RVRAE.
    """
    found = entrant
    while not isinstance(found, ModelEntrant):
        if isinstance(found, _Renamed):
            found = found.entrant
        elif isinstance(found, FactoryEntrant):
            found = found.made(panel)
        else:
            raise ConfigError(
                "`warm_start` needs an RVRAE: an untrained model, its name, or a function that "
                f"makes one from the training panel; got {entrant.name!r}. Leave `warm_start` for "
                "other models."
            )
    return found


def _own(*values: object) -> dict[str, str]:
    """Hash user-defined code for a description; empty for built-in parts."""
    found = own_identity(*values)
    return {} if found is None else {"own": found}


def as_entrant(
    model: object, *, name: str | None = None, config: FitConfig | None = None
) -> Entrant:
    """Let a model take part.

    Parameters
    ----------
    model : RVRAE, Baseline, Entrant, or callable
        A callable gets the training panel and gives one of the others.
    name : str, optional
        For the tables; by default that of its class or function.
    config : FitConfig, optional
        How an RVRAE is trained; others have their settings.

    Raises
    ------
    ConfigError
        For anything else, or an RVRAE that was trained already.
    """
    if isinstance(model, RVRAE):
        return ModelEntrant(name or "RVRAE", model, config)
    if isinstance(model, Baseline):
        return BaselineEntrant(name or type(model).__name__, model)
    if isinstance(model, Entrant) and not isinstance(model, type):
        return model if name in (None, model.name) else _Renamed(str(name), model)
    if callable(model):
        return FactoryEntrant(name or str(getattr(model, "__name__", "model")), model, config)
    raise ConfigError(
        "a competitor must be an RVRAE, a baseline, a callable that makes one from the training "
        f"panel, or an object with `name`, `describe` and `fit`; got {type(model).__name__}."
    )


PAPER_NAME: Final = "RVRAE (paper)"
RVRAE_NAME: Final = "RVRAE"
STOCKS_NAME: Final = "RVRAE (stocks)"

Make = Callable[[int], Entrant]
"""From the number of factors to a competitor."""


def _autoencoder(hidden: tuple[int, ...], name: str) -> Make:
    return lambda k: BaselineEntrant(name, ConditionalAutoencoder(k, hidden))


def _sizes(panel: xr.Dataset) -> tuple[int, int]:
    return panel.sizes[CHARACTERISTIC], panel.sizes.get(FEATURE, 0)


def _rvrae(panel: xr.Dataset, *, n_factors: int) -> RVRAE:
    n_characteristics, n_context = _sizes(panel)
    return RVRAE(n_characteristics, n_factors, n_context=n_context)


def _stocks(panel: xr.Dataset, *, n_factors: int) -> RVRAE:
    n_characteristics, n_context = _sizes(panel)
    return RVRAE.for_stocks(n_characteristics, n_factors, n_context=n_context)


def _paper(panel: xr.Dataset, *, n_factors: int, code: Literal["step", "last"] = "step") -> RVRAE:
    return RVRAE.paper(panel.sizes[CHARACTERISTIC], n_factors, code=code)


def _standard(panel: xr.Dataset, *, n_factors: int) -> RVRAE:
    n_characteristics, _ = _sizes(panel)
    return RVRAE(n_characteristics, n_factors, factor_prior=priors.StandardNormal(n_factors))


def _observed(panel: xr.Dataset, *, n_factors: int) -> RVRAE:
    n_characteristics, n_context = _sizes(panel)
    prior = priors.Recurrent(n_factors, n_context=n_context, recurrence="observed")
    return RVRAE(n_characteristics, n_factors, factor_prior=prior)


def _plain_lstm(panel: xr.Dataset, *, n_factors: int) -> RVRAE:
    n_characteristics, n_context = _sizes(panel)
    plain = loadings.LSTM(n_characteristics, n_factors, skip=False)
    return RVRAE(n_characteristics, n_factors, loadings=plain, n_context=n_context)


def _model(
    name: str, make: Callable[..., RVRAE], config: Callable[[], FitConfig] = FitConfig
) -> Make:
    return lambda k: FactoryEntrant(name, partial(make, n_factors=k), config())


COMPETITORS: Final[Mapping[str, Make]] = {
    # with the constant that its authors add to the characteristics
    "IPCA": lambda k: BaselineEntrant("IPCA", IPCA(k, constant=True)),
    "CA": _autoencoder((32,), "CA"),
    "FactorVAE": lambda k: BaselineEntrant("FactorVAE", FactorVAE(k)),
    "ALSTM": lambda k: BaselineEntrant("ALSTM", ALSTM()),
    "Transformer": lambda k: BaselineEntrant("Transformer", Transformer()),
    RVRAE_NAME: _model(RVRAE_NAME, _rvrae),
    PAPER_NAME: _model(PAPER_NAME, _paper, FitConfig.paper),
    "EWMA": lambda k: BaselineEntrant("EWMA", EWMA()),
    "MultivariateT": lambda k: BaselineEntrant("MultivariateT", MultivariateT()),
    "EWMAMixture": lambda k: BaselineEntrant("EWMAMixture", EWMAMixture()),
    # needs the extra `garch`, and one univariate fit per asset: by name only
    "FactorGARCH": lambda k: BaselineEntrant("FactorGARCH", FactorGARCH(k)),
    "CA0": _autoencoder((), "CA0"),
    "CA2": _autoencoder((32, 16), "CA2"),
    "CA3": _autoencoder((32, 16, 8), "CA3"),
    # its small factors, one a characteristic, are of no use on portfolios
    STOCKS_NAME: _model(STOCKS_NAME, _stocks),
}
"""Every competitor by the name that tables and the command line use."""

ALL: Final = (
    "IPCA", "CA", "FactorVAE", "ALSTM", "Transformer", RVRAE_NAME, PAPER_NAME, "EWMA",
    "MultivariateT", "EWMAMixture",
)  # fmt: skip
"""Competitors of ``"all"``."""

ABLATIONS: Final[Mapping[str, Make]] = {
    "standard prior": _model("standard prior", _standard),
    "observed prior": _model("observed prior", _observed),
    "KL mean": _model("KL mean", _rvrae, lambda: FitConfig(kl_reduction="mean")),
    "LSTM without feed-forward path": _model("LSTM without feed-forward path", _plain_lstm),
    "RVRAE (paper), last code": _model(
        "RVRAE (paper), last code", partial(_paper, code="last"), FitConfig.paper
    ),
}
"""One change each against RVRAE, which has a latent prior, one code per step, the summed KL and a
feed-forward path; the last against RVRAE (paper), since a single code for all months of a window
needs the paper's encoder."""


def find_entrant(
    name: str, n_factors: int = 5, competitors: Mapping[str, Make] = COMPETITORS
) -> Entrant:
    """Find a competitor by name, upper or lower case.

    Raises
    ------
    ConfigError
        If there is none of that name; the message lists all.
    """
    known = {key.lower(): key for key in competitors}
    aliases = {
        "conditionalautoencoder": "CA",
        "ca1": "CA",
        "paper": PAPER_NAME,
        "stocks": STOCKS_NAME,
    }
    key = known.get(name.lower(), aliases.get(name.lower()))
    if key is None:
        close = get_close_matches(name.lower(), known, n=1)
        hint = f" Did you mean {known[close[0]]!r}?" if close else ""
        raise ConfigError(
            f"`models` has no competitor {name!r}; there are {', '.join(competitors)}, and 'all' "
            f"for the first {len(ALL)}.{hint}"
        )
    return competitors[key](n_factors)


def enter_all(
    models: object, n_factors: int = 5, competitors: Mapping[str, Make] = COMPETITORS
) -> list[Entrant]:
    """Make competitors of ``"all"``, names, models, an iterable of these or a mapping by name.

    Raises
    ------
    ConfigError
        If one is unknown, two share a name, or there is none.
    """
    if isinstance(models, Mapping):
        entered = [as_entrant(model, name=str(name)) for name, model in models.items()]
    else:
        single = isinstance(models, str) or not isinstance(models, Iterable)
        listed = [models] if single else list(models)  # type: ignore[call-overload]
        entered = [
            entrant for each in listed for entrant in _enter_one(each, n_factors, competitors)
        ]
    if not entered:
        raise ConfigError("`models` must name at least one competitor; got none.")
    check_distinct(entered)
    return entered


def check_distinct(entrants: Iterable[Entrant]) -> None:
    """Reject two competitors of one name, whose numbers a table would take for two seeds.

    Raises
    ------
    ConfigError
        Naming them.
    """
    names = [entrant.name for entrant in entrants]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(
            f"`models` must have distinct names; {twice[0]!r} comes twice, variants and oracles "
            "that take part included. Pass a mapping from names to models."
        )


def names_all(models: object) -> bool:
    """Test whether ``models`` holds the name ``"all"``."""
    if isinstance(models, str) or not isinstance(models, Iterable):
        models = [models]
    return any(isinstance(each, str) and each.strip().lower() == "all" for each in models)


def _enter_one(model: object, n_factors: int, competitors: Mapping[str, Make]) -> list[Entrant]:
    if not isinstance(model, str):
        return [as_entrant(model)]
    names = ALL if model.strip().lower() == "all" else (model.strip(),)
    return [find_entrant(name, n_factors, competitors) for name in names]
