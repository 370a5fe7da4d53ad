"""RVRAE: parts put together."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, Final, Literal, NoReturn

import pandas as pd
import pyro
import torch
import xarray as xr
from torch import Tensor, nn

from rvrae_pyro import displays
from rvrae_pyro.data.batch import Batch, check_batch
from rvrae_pyro.data.validation import check_panel
from rvrae_pyro.errors import ConfigError, ShapeError, check_choice, check_count
from rvrae_pyro.models import decoders, guides, likelihoods, priors
from rvrae_pyro.models import loadings as _loadings
from rvrae_pyro.models.filter_pass import Walk, follow
from rvrae_pyro.models.hyperguides import HyperGuide, MultivariateNormal
from rvrae_pyro.models.kinds import choices_of, describe_kind, require_instance
from rvrae_pyro.models.pair import Guide, Half, Model
from rvrae_pyro.models.panel_choice import choose_parts
from rvrae_pyro.models.part import Part, rebuild, spell
from rvrae_pyro.models.parts import Parts
from rvrae_pyro.models.random_weights import RandomParameter, Weights, named_parameters
from rvrae_pyro.models.swapping import prior_table, swapped
from rvrae_pyro.models.untrained import single_precision
from rvrae_pyro.models.weights import WeightPrior
from rvrae_pyro.names import CHARACTERISTIC
from rvrae_pyro.nn.seeding import seeded


def _slot(module: ModuleType, prefix: str, base: type) -> tuple[type, list[str]]:
    return base, choices_of(module, prefix, base)


_SLOTS: Final = {
    "loadings": _slot(_loadings, "rv.loadings", _loadings.Loadings),
    "factor_prior": _slot(priors, "rv.priors", priors.FactorPrior),
    "decoder": _slot(decoders, "rv.decoders", decoders.Decoder),
    "likelihood": _slot(likelihoods, "rv.likelihoods", likelihoods.Likelihood),
    "guide": _slot(guides, "rv.guides", guides.Guide),
}
"""Base class and built-in choices of each slot."""
_SIZED: Final = ("factor_prior", "loadings")
"""Slots whose part knows the number of factors."""


class RVRAE(nn.Module):
    """Recurrent variational autoencoder of returns: ``r_t = B_t f_t + u_t``.

    Parameters
    ----------
    n_characteristics, n_factors : int
    loadings : Loadings, optional
        B_t from characteristics; an LSTM with a feed-forward path unless told.
    factor_prior : FactorPrior, optional
        p(z_t | h_{t-1}). Default: the VRNN prior inside a common volatility.
    decoder : Decoder, optional
        From code to factors; the identity unless told.
    likelihood : Likelihood, optional
        p(r_t | f_t); Student-t with scales from the characteristics unless told.
    guide : Guide, optional
        q(z | r); conjugate unless told.
    n_context : int
        Features of the panel's ``context`` that the default parts read: the factor prior,
        which moves the factors and the level of all idiosyncratic scales with them; with
        a prior of your own the default likelihood's scale.
    hyper_guide : HyperGuide, optional
        Posterior of interpretable parameters that have a prior. Default:
        ``rv.guides.MultivariateNormal()``.
    weight_priors : mapping, optional
        Weight priors by path, in place of the parts' own; see :meth:`with_priors`.

    Attributes
    ----------
    model, guide : PyroModule
        An ordinary Pyro pair, called with ``(batch, kl_weight=1.0)``.
    choice : str or None
        What :meth:`for_panel` chose and why.

    Raises
    ------
    ShapeError
        If parts disagree on the number of characteristics or factors.
    ConfigError
        If a slot got another kind of object than it takes, such as a class or a Pyro
        distribution, or a part needs what another does not give, such as an affine decoder.

    Notes
    -----
    **Sites.** ``factors``: the latent code, plates ``time`` (dim -2), event n_factors, one site
    for the whole path. ``returns``: plates ``time`` (-2), ``asset`` (-1). ``log_volatility``:
    before ``factors``, where the prior has it (the default). ``decoded_factors``:
    deterministic, where the decoder is not the identity. Weights whose prior asks for a
    posterior: one site a matrix, named by its path (``loadings.path.0.weight``), outside the
    plates.

    **Units.** Codes are of order one; ``return_scale`` (set by ``rv.fit`` to the typical size of
    a training return) carries the unit, so a panel in other units trains alike.

    References
    ----------
    Wang and Guo (2024), arXiv 2403.02500, eqs. (2), (7): "RVRAE: A Dynamic Factor Model Based
    on Variational Recurrent Autoencoder for Stock Returns Prediction".
    """

    def __init__(
        self,
        n_characteristics: int,
        n_factors: int,
        *,
        loadings: _loadings.Loadings | None = None,
        factor_prior: priors.FactorPrior | None = None,
        decoder: decoders.Decoder | None = None,
        likelihood: likelihoods.Likelihood | None = None,
        guide: guides.Guide | None = None,
        n_context: int = 0,
        hyper_guide: HyperGuide | None = None,
        weight_priors: Mapping[str, WeightPrior | None] | None = None,
    ) -> None:
        super().__init__()
        self.choice: str | None = None
        self.n_characteristics = check_count("n_characteristics", n_characteristics)
        self.n_factors = check_count("n_factors", n_factors)
        self.n_context = n_context
        if likelihood is None:
            # the default prior moves the scales with the context; another one need not
            read = 0 if factor_prior is None else n_context
            scale = likelihoods.CharacteristicScale(n_characteristics, read)
            likelihood = likelihoods.StudentT(scale)
        if loadings is None:
            loadings = _loadings.LSTM(n_characteristics, n_factors)
        if factor_prior is None:
            # without context a level of its own would only repeat the common volatility
            vrnn = priors.Recurrent(n_factors, n_context=n_context, idio_level=n_context > 0)
            factor_prior = priors.CommonVolatility(vrnn, persistence=0.97, gain=0.3)
        decoder = decoders.Identity() if decoder is None else decoder
        guide = guides.Conjugate() if guide is None else guide
        sizes = {
            "n_characteristics": n_characteristics,
            "n_factors": n_factors,
            "n_context": n_context,
        }
        given = {
            "loadings": loadings,
            "factor_prior": factor_prior,
            "decoder": decoder,
            "likelihood": likelihood,
            "guide": guide,
        }
        for slot, part in given.items():
            base, choices = _SLOTS[slot]
            require_instance(slot, part, base, choices, sizes)
        hyper_guide = MultivariateNormal() if hyper_guide is None else hyper_guide
        families = ("rv.guides.MultivariateNormal", "rv.guides.MeanField")
        require_instance("hyper_guide", hyper_guide, HyperGuide, families)
        parts = Parts(
            loadings, factor_prior, decoder, likelihood, guide, hyper_guide, weight_priors or {}
        )
        _check_fit(parts, n_characteristics, n_factors)
        with pyro.settings.context(module_local_params=True):
            self.parts = parts
            self.model = Model(parts)
            self.guide = Guide(parts)
        parts.mark_built()

    @classmethod
    def paper(
        cls,
        n_characteristics: int,
        n_factors: int = 5,
        *,
        hidden: int = 32,
        code: Literal["step", "last"] = "step",
        window: int = 60,
    ) -> RVRAE:
        """Build the literal reading of the paper.

        Plain LSTM loadings (22)-(29), recurrent encoder (11)-(16) and decoder (20)-(21), VRNN
        prior (4) and (6), Normal returns with one scale, no weight prior. Use it with
        ``rv.FitConfig.paper()``, whose KL is averaged over timesteps: not a bound.

        Parameters
        ----------
        n_characteristics : int
        n_factors : int
        hidden : int
            Width of all networks; the paper does not state it.
        code : {"step", "last"}
            ``"step"``: every month's factors from that month's code (eqs. 4-6, 10 and 17), the
            only reading that is a factor model of every month. ``"last"``: all factors of a
            window from its last code, as the prose and eq. (31) have it; see
            :class:`~rvrae_pyro.models.decoders.LastCode` for what its objective then is.
        window : int
            Months a window, for ``code="last"``. The paper does not state it.

        Raises
        ------
        ConfigError
            If ``code`` is neither.
        """
        check_choice("code", code, ("step", "last"))
        decoder: decoders.Decoder = decoders.Recurrent(n_factors, hidden)
        if code == "last":
            decoder = decoders.LastCode(n_factors, hidden, window)
        return cls(
            n_characteristics,
            n_factors,
            loadings=_loadings.LSTM(
                n_characteristics, n_factors, hidden=hidden, weights=None, skip=False
            ),
            factor_prior=priors.Recurrent(
                n_factors, hidden, idio_level=False, weights=None, skip=False
            ),
            decoder=decoder,
            likelihood=likelihoods.Normal(),
            guide=guides.Recurrent(n_factors, hidden),
        )

    @classmethod
    def for_panel(
        cls, panel: xr.Dataset, n_factors: int = 5, *, n_context: int = 0, **parts: Any
    ) -> RVRAE:
        """Build the best model known for a kind of panel, by one rule.

        The rule reads the listing of assets and the number of characteristics, no return:

        - A fixed universe, of up to 100 assets that are listed in 90 % of 60 months or more, on
          average over the assets (one of them may be listed in less):
          loadings and scales by asset (:class:`~rvrae_pyro.models.loadings.AssetEffects`,
          :class:`~rvrae_pyro.models.scales.AssetScale`), one more factor for every three assets
          (8 at the most), for such assets have covariances that few factors do not span. Train
          it on all months before the forecast, without validation: the effects have a posterior,
          and the newest months tell more than a better time to stop is worth. Validation months
          do no other harm; on the embedded portfolios they cost about 0.02 nats per return.
        - 200 listed assets per month or more with up to 60 characteristics: a small factor for
          every characteristic and two-piece tails, as in :meth:`for_stocks`.
        - Others: an LSTM and Student-t returns.

        All have the common volatility around a VRNN prior
        (:class:`~rvrae_pyro.models.priors.CommonVolatility`).

        Parameters
        ----------
        panel : Dataset
            The training panel, ranked.
        n_factors : int
            Factors before those that the rule adds; ``model.n_factors`` counts all.
        n_context : int
            Features of the panel's context to read. Default: none, for with a common volatility
            they added nothing to the log density of the two panels of stocks tried.
        **parts
            Arguments of ``RVRAE`` in place of those chosen. A given factor prior, or given
            loadings, decide the number of factors, and the rule adds none.

        Returns
        -------
        RVRAE
            ``print(model)`` states what was chosen and why (attribute ``choice``).

        Raises
        ------
        ConfigError, ShapeError
            As for ``RVRAE``.
        PanelError
            If ``panel`` is not a panel.

        Examples
        --------
        >>> import rvrae_pyro as rv
        >>> panel = rv.data.rank_characteristics(rv.data.load_french())
        >>> model = rv.RVRAE.for_panel(panel)
        >>> model.n_factors
        13
        """
        check_panel(panel, returns_required=False)
        check_count("n_factors", n_factors)
        sizes = [parts[slot].n_factors for slot in _SIZED if slot in parts]
        total, chosen, reason = choose_parts(panel, n_factors, n_context, *sizes[:1])
        model = cls(panel.sizes[CHARACTERISTIC], total, **{**chosen, **parts})
        replaced = f"; given: {', '.join(sorted(parts))}" if parts else ""
        model.choice = reason + replaced
        return model

    @classmethod
    def for_stocks(cls, n_characteristics: int, n_factors: int = 8, *, n_context: int = 0) -> RVRAE:
        """Build the model for single stocks and the risk of portfolios sorted by characteristics.

        The defaults, with two parts exchanged: a small factor for every characteristic beside
        the learned ones, for few factors do not span what like stocks share
        (:class:`~rvrae_pyro.models.loadings.Augmented`), and two-piece Student-t returns
        (:class:`~rvrae_pyro.models.likelihoods.SkewStudentT`).

        Parameters
        ----------
        n_characteristics : int
            Some dozens at the most: each is a factor.
        n_factors : int
            Learned factors; ``model.n_factors`` counts the small ones too.
        n_context : int
            Features of the panel's context to read; 0 for none.

        Notes
        -----
        With 25 characteristics a step costs about a fifth more than that of the default.
        """
        total = n_factors + n_characteristics
        prior = priors.Recurrent(n_factors, n_context=n_context)
        scale = likelihoods.CharacteristicScale(n_characteristics, n_context)
        return cls(
            n_characteristics,
            total,
            loadings=_loadings.Augmented(_loadings.LSTM(n_characteristics, n_factors)),
            factor_prior=priors.Augmented(prior, n_characteristics),
            likelihood=likelihoods.SkewStudentT(scale),
            n_context=n_context,
        )

    def forward(self, *_: object, **__: object) -> NoReturn:
        """Say what to call instead: there is no one answer of a pair."""
        raise TypeError(
            "an RVRAE is a pair, not a function; pass `model.model` and `model.guide` to Pyro, "
            "or train it with rv.fit(model, train, valid)."
        )

    def __repr__(self) -> str:
        """Summarise sizes and kinds of the parts."""
        kinds = ", ".join(f"{name} {type(part).__name__}" for name, part in self._named_parts())
        return f"{self._title()}\n  {kinds}"

    def __str__(self) -> str:
        """Show the parts, one per line, as the calls that make them."""
        size = _count(self.parts)
        lines = [f"  {name}={spell(part)}," for name, part in self._named_parts()]
        if self.hyper_sites:
            lines.append(f"  hyper_guide={self.parts.weight_guide.hyper!r},")
        if self.parts.weight_priors:
            lines.append(f"  weight_priors={self.parts.weight_priors!r},")
        choice = [] if self.choice is None else [f"  # {self.choice}"]
        return "\n".join([f"RVRAE(  # {size:,} weights", *choice, *lines, ")"])

    def _repr_html_(self) -> str:
        """Show the parts as a table."""
        rows = [(name, *_described(part), _count(part)) for name, part in self._named_parts()]
        table = displays.grid(("part", "kind", "settings", "weights"), rows)
        notes = [] if self.choice is None else [displays.listing([self.choice])]
        return displays.card(self._title(), table, *notes)

    def _title(self) -> str:
        return (
            f"RVRAE({self.n_characteristics} characteristics, {self.n_factors} factors, "
            f"{_count(self.parts):,} weights)"
        )

    @property
    def loadings(self) -> _loadings.Loadings:
        """The loadings part."""
        return self.parts.loadings

    @property
    def factor_prior(self) -> priors.FactorPrior:
        """The factor prior part."""
        return self.parts.factor_prior

    @property
    def decoder(self) -> decoders.Decoder:
        """The decoder part."""
        return self.parts.decoder

    @property
    def likelihood(self) -> likelihoods.Likelihood:
        """The likelihood part."""
        return self.parts.likelihood

    @property
    def guide_part(self) -> guides.Guide:
        """The guide part; ``guide`` itself is the Pyro module made of it."""
        return self.parts.guide

    @property
    def return_scale(self) -> Tensor:
        """Typical size of a return, the unit of loadings and scales; a scalar."""
        return self.parts.return_scale

    def log_weights(self) -> Tensor:
        """Log prior density of all weights at their MAP, up to a constant; a scalar.

        Weights with a posterior are latents of the pair, whose ELBO has their part.
        """
        return self.parts.log_weights()

    @property
    def weight_sites(self) -> tuple[str, ...]:
        """Names of the sites of all weights that have a posterior."""
        return tuple(site.name for site in self.parts.weight_guide.weights)

    @property
    def hyper_sites(self) -> tuple[str, ...]:
        """Names of the sites of all interpretable parameters that have a prior of their own."""
        return tuple(site.name for site in self.parts.weight_guide.parameters_)

    @property
    def drawn_sites(self) -> tuple[str, ...]:
        """Names of all sites outside the plates: weights, then interpretable parameters."""
        return (*self.weight_sites, *self.hyper_sites)

    @torch.no_grad()
    def hyperparameters(self) -> dict[str, Tensor]:
        """Values of all interpretable parameters by path, on their own scale.

        Returns
        -------
        dict of Tensor
            Learned values, or posterior means of those with a prior (:attr:`hyper_sites`).

        Examples
        --------
        >>> import rvrae_pyro as rv
        >>> model = rv.RVRAE(4, 2, factor_prior=rv.priors.AR1(2, coefficient=0.5))
        >>> model.hyperparameters()["factor_prior.coefficient"]
        tensor([0.5000, 0.5000])
        """
        parts, guide = self.parts, self.parts.weight_guide
        return {
            each.name: guide.mean_value(parts, each)
            if isinstance(each, RandomParameter)
            else each.value(parts).detach().clone()
            for each in named_parameters(parts)
        }

    def priors(self) -> pd.DataFrame:
        """Table of all interpretable parameters and weight matrices with their priors.

        Returns
        -------
        DataFrame
            By path, columns ``prior`` (None for none), ``inference`` (``"posterior"``: a Pyro
            site; ``"map"``: its density is added to the objective; ``"learned"``: no prior;
            ``"fixed"``), ``shape`` and ``value`` (mean of the entries; of weights their root mean
            square).

        Examples
        --------
        >>> import rvrae_pyro as rv
        >>> table = rv.RVRAE(4, 2, loadings=rv.loadings.Linear(4, 2)).priors()
        >>> str(table.loc["loadings.layer.weight", "inference"])
        'learned'
        """
        return prior_table(self.parts)

    def with_priors(self, priors: Mapping[str, object]) -> RVRAE:
        """Copy the model with other priors.

        Parameters
        ----------
        priors : mapping
            By path, as in :meth:`priors`. An interpretable parameter takes a distribution, or a
            number that takes its prior away. Weights take a weight prior or None; their path may
            be that of a part (``"loadings"``), of a layer within one (``"loadings.path"``), or of
            a matrix. The longest path that holds counts.

        Returns
        -------
        RVRAE
            A new model. All other parameters have their present values; parameters with a new
            prior start at its median.

        Raises
        ------
        ConfigError
            For an unknown path, a prior that the parameter does not take, or two priors for one
            parameter.

        Examples
        --------
        >>> import pyro.distributions as dist
        >>> import rvrae_pyro as rv
        >>> model = rv.RVRAE(4, 2, factor_prior=rv.priors.AR1(2))
        >>> other = model.with_priors(
        ...     {"factor_prior.scale": dist.LogNormal(0.0, 0.5), "loadings": rv.weights.Normal()}
        ... )
        >>> other.hyper_sites, model.hyper_sites
        (('factor_prior.scale',), ())
        """
        made, weight_priors = swapped(self.parts, priors)
        other = RVRAE(
            self.n_characteristics,
            self.n_factors,
            n_context=self.n_context,
            hyper_guide=self.parts.weight_guide.hyper,
            weight_priors=weight_priors,
            **made,  # type: ignore[arg-type]
        )
        other.parts.take_state(self.parts)
        return other

    def draw_weights(self) -> dict[str, Tensor]:
        """Draw all :attr:`drawn_sites` from the guide, with torch's global random stream."""
        return self.parts.weight_guide.draw(self.parts)

    @torch.no_grad()
    def at(self, weights: Weights) -> RVRAE:
        """Copy the model with some drawn sites set to the values given."""
        fixed = copy.deepcopy(self)
        fixed.set_values(weights)
        return fixed

    @torch.no_grad()
    def set_values(self, weights: Weights) -> None:
        """Set some drawn sites to the values given, in place."""
        for site in self.parts.weight_guide.sites:
            if site.name in weights:
                raw = site.to_raw(self.parts, weights[site.name])
                self.parts.get_parameter(site.parameter).copy_(raw)

    @property
    def untrained(self) -> bool:
        """Whether no weight was modified since construction.

        Casts of dtype or device leave a model untrained. An optimizer's step, ``load_state_dict``
        and in-place edits make it trained, as does ``rv.fit``.
        """
        return self.parts.untrained

    def redraw(self, seed: int) -> bool:
        """Draw the initial weights of an untrained model again, from a seed.

        The draws depend on the seed alone, not on torch's default dtype or the model's.

        Returns
        -------
        bool
            False, and nothing changed, if the model is trained, or a part cannot be rebuilt from
            its constructor arguments.
        """
        if not self.untrained:
            return False
        with seeded(seed), single_precision():
            try:
                fresh = {name: rebuild(part) for name, part in self._named_parts()}
            except TypeError:
                return False
        for name, part in self._named_parts():
            part.load_state_dict(fresh[name].state_dict())
        self.parts.weight_guide.reset()
        self.parts.mark_redrawn()
        return True

    def _named_parts(self) -> list[tuple[str, nn.Module]]:
        guide = self.parts.weight_guide
        return [(name, part) for name, part in self.parts.named_children() if part is not guide]

    @torch.no_grad()
    def set_units(self, batch: Batch) -> None:
        """Set all units from a batch of training months: of returns, and of parts' inputs.

        ``return_scale`` becomes 1.48 x the median absolute observed return.
        """
        check_batch(batch)
        for part in self.parts.modules():
            if isinstance(part, Part):
                part.set_units(batch)
        typical = typical_return(batch)
        if typical > 0:
            self.parts.return_scale.fill_(typical)

    @torch.no_grad()
    def walk(self, batch: Batch, starts: Sequence[int] = ()) -> Walk:
        """Filter once through a batch: a draw of the guide, and the states on its way.

        Parameters
        ----------
        batch : Batch
        starts : sequence of int
            Months whose incoming states are wanted; ``n_times`` stands for the end.

        Returns
        -------
        Walk
            Month t of it depends on returns up to t, its states on returns before t. Uses
            torch's global random stream. Costs one pass without gradient.
        """
        check_batch(batch)
        parts = self.parts
        beta, states = parts.loadings.online(batch, starts)
        shared = parts.prepare(batch, parts.cross_section(batch, beta))
        course = follow(
            parts, batch, shared.view, shared.cross.potential, starts, states.__getitem__
        )
        likelihood = parts.likelihood.distribution(
            shared.cross.location(course.factors), shared.cross.scale_at(course.draw.level)
        )
        log_likelihood = (likelihood.log_prob(batch.returns) * batch.observed).sum(-1)
        return course.walk(shared.cross, log_likelihood)


def require_model(value: object, argument: str = "model") -> RVRAE:
    """Return a model, or raise where something else came.

    Raises
    ------
    ConfigError
        Naming the argument, what came, and what to pass.
    """
    if isinstance(value, RVRAE):
        return value
    remedy = "Build one: rv.RVRAE(n_characteristics, n_factors)."
    if isinstance(value, Half):
        half = type(value).__name__
        raise ConfigError(
            f"`{argument}` must be an rv.RVRAE; got its Pyro {half.lower()}. Pass the whole model, "
            f"not its `.{half.lower()}`."
        )
    if isinstance(getattr(value, "model", None), RVRAE):
        remedy = "Pass its `.model`."
    raise ConfigError(f"`{argument}` must be an rv.RVRAE; got {describe_kind(value)}. {remedy}")


def typical_return(batch: Batch) -> float:
    """Typical size of a batch's observed returns: 1.48 x the median absolute one; 0 for none."""
    # month by month, since positions of all observed cells would outweigh them
    months = zip(batch.returns, batch.observed, strict=True)
    sizes = torch.cat([returns[seen] for returns, seen in months]).abs_()
    return float(sizes.median() / 0.6745) if sizes.numel() else 0.0


def _check_fit(parts: Parts, n_characteristics: int, n_factors: int) -> None:
    """Refuse parts that do not fit together, with the reason and the way out."""
    for name, part in parts.named_children():
        for size, expected in (("n_characteristics", n_characteristics), ("n_factors", n_factors)):
            got = getattr(part, size, expected)
            if got != expected:
                raise ShapeError(
                    f"`{name}` was built with {size}={got}, the model with {size}={expected}; "
                    "build both with the same number."
                )
    latent = parts.factor_prior.auxiliary
    if latent is not None and parts.factor_prior.conditions_on_history:
        raise ConfigError(
            f"`factor_prior` with an auxiliary latent ({latent.site!r}) must not condition on "
            "returns of past months: leave `observed` and `summarises` False, or use "
            "rv.priors.Recurrent(recurrence='observed' or 'both') without such a latent."
        )
    affine = parts.decoder.affine
    if parts.guide.needs_affine_decoder and not affine:
        raise ConfigError(
            f"`guide` {type(parts.guide).__name__} needs factors that are affine in the code, and "
            f"decoder {type(parts.decoder).__name__} is not. Use guide=rv.guides.Recurrent"
            f"({n_factors}) or decoder=rv.decoders.Identity()."
        )
    if parts.factor_prior.observed and not affine:
        raise ConfigError(
            "`factor_prior` with an observed recurrence is driven by the filtered mean of the "
            f"factors, which decoder {type(parts.decoder).__name__} does not define. Use "
            "recurrence='latent' or decoder=rv.decoders.Identity()."
        )


def _count(module: nn.Module) -> int:
    """Count weights."""
    return sum(weight.numel() for weight in module.parameters())


def _described(part: nn.Module) -> tuple[str, str]:
    """Return kind and settings of a part."""
    kind = type(part).__name__
    return kind, spell(part).removeprefix(f"{kind}(").removesuffix(")")
