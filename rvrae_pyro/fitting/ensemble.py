"""Several fits that differ in their seeds, and what they say together."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from scipy.special import logsumexp

from rvrae_pyro.atomic import draft, remove
from rvrae_pyro.data.portfolios import managed_portfolios
from rvrae_pyro.data.sources import InMemory, Source
from rvrae_pyro.diagnostics.alignment import align, rotate
from rvrae_pyro.diagnostics.check import Check
from rvrae_pyro.diagnostics.check_members import check_members
from rvrae_pyro.errors import CheckpointError, ConfigError
from rvrae_pyro.evaluation.profile import factor_profile
from rvrae_pyro.fitting.fit import Fit
from rvrae_pyro.fitting.parallel import Submits, outcomes
from rvrae_pyro.fitting.training import fit
from rvrae_pyro.fitting.training import load as load_fit
from rvrae_pyro.inference.config import FitConfig
from rvrae_pyro.models.rvrae import RVRAE
from rvrae_pyro.names import CHAIN, FACTORS, MEMBER, TIME
from rvrae_pyro.predictive.beliefs import Kind
from rvrae_pyro.predictive.tree_files import write_tree

__all__ = ["Ensemble", "fit_ensemble", "load"]

_META, _ROTATION = "ensemble.json", "rotation.nc"


def fit_ensemble(
    make_model: Callable[[], RVRAE],
    train: xr.Dataset,
    valid: xr.Dataset | None = None,
    *,
    seeds: Iterable[int] = range(10),
    config: FitConfig | None = None,
    progress: bool = True,
    n_jobs: int = 1,
    executor: Submits | None = None,
) -> Ensemble:
    """Fit the same model from several seeds; members are the chains of all draws that follow.

    Parameters
    ----------
    make_model : callable
        Called without arguments for every member; returns a new, untrained model.
    train, valid : xarray.Dataset
        As for ``rv.fit``.
    seeds : iterable of int
        One a member, all different. A seed sets starting weights and the order of months.
    config : FitConfig, optional
    progress : bool
        Show a progress bar on a terminal, one a member; none where others fit them.
    n_jobs : int
        Processes. More than 1 needs a script whose top level is safe to import, and gives every
        member one thread.
    executor : object with ``submit``, optional
        As in :mod:`concurrent.futures`, or what ``rv.experiments.connect`` gives: takes the fits
        instead.

    Returns
    -------
    Ensemble

    Raises
    ------
    ConfigError
        Without a seed, with a seed twice, or if ``make_model`` returns a model it had returned
        before or one that shares weights with it, one that was trained, or anything but a model.
    FitError
        If a member's fit fails, as ``rv.fit`` does; the others are given up.

    Notes
    -----
    Differences between members show how much of a forecast hangs on the optimiser's start: a
    lower bound on what is unknown about the weights, as all members see the same data. Costs
    as many fits as there are seeds.

    References
    ----------
    Lakshminarayanan, Pritzel and Blundell (2017), Simple and scalable predictive uncertainty
    estimation using deep ensembles, NIPS.
    """
    chosen = [int(seed) for seed in seeds]
    if not chosen or len(set(chosen)) < len(chosen):
        raise ConfigError(f"`seeds` must hold one or more different numbers; got {chosen}.")
    if not isinstance(n_jobs, int) or isinstance(n_jobs, bool) or n_jobs < 1:
        raise ConfigError(f"`n_jobs` must be a whole number of at least 1; got {n_jobs!r}.")
    here = executor is None and n_jobs == 1
    months = InMemory(train), None if valid is None else InMemory(valid)
    jobs: dict[int, _Member] = {}
    for seed in chosen:
        model = make_model()
        _check_new(model, [job.model for job in jobs.values()])
        jobs[seed] = _Member(model, *months, config, seed, progress and here)
    fits: dict[int, Fit] = {}
    with closing(outcomes(_fit_member, jobs, n_jobs=n_jobs, executor=executor)) as running:
        for seed, outcome in running:
            if isinstance(outcome, Exception):
                raise outcome
            fits[seed] = outcome
    return Ensemble.of([fits[seed] for seed in chosen], train)


@dataclass(frozen=True, eq=False)
class _Member:
    """All that a process needs to fit a member."""

    model: RVRAE
    train: Source
    valid: Source | None
    config: FitConfig | None
    seed: int
    progress: bool


def _fit_member(job: _Member) -> Fit:
    valid = None if job.valid is None else job.valid.load()
    return fit(
        job.model,
        job.train.load(),
        valid,
        config=job.config,
        seed=job.seed,
        progress=job.progress,
    )


@dataclass(frozen=True, eq=False)
class Ensemble:
    """Fits of one model from several seeds; says what ``Fit`` says, with a chain a member.

    Attributes
    ----------
    members : tuple of Fit
    alignment : Dataset
        As from ``rv.diagnostics.align`` on the training months' factor means: ``rotation``
        (chain, factor, reference), ``before``, ``agreement``, ``misfit``. Every answer is given
        in the first member's coordinates; no later month takes part in finding them.
    """

    members: tuple[Fit, ...]
    alignment: xr.Dataset

    @classmethod
    def of(cls, members: Sequence[Fit], train: xr.Dataset, num_samples: int = 200) -> Ensemble:
        """Make an ensemble of fits that exist already.

        Parameters
        ----------
        members : sequence of Fit
            Of models with the same number of factors.
        train : xarray.Dataset
            Months on which their factors are aligned: the training months.
        num_samples : int
            Draws behind the factor means that are aligned.
        """
        if not members:
            raise ConfigError("`members` must hold at least one fit; got none.")
        sizes = {member.model.n_factors for member in members}
        if len(sizes) > 1:
            raise ConfigError(
                f"`members` must have the same number of factors; got {sorted(sizes)}."
            )
        means = [member.factors(train, "filtered", num_samples)["mean"] for member in members]
        chains = np.arange(len(members))
        found = align(xr.concat(means, CHAIN).assign_coords({CHAIN: chains}), freedom="linear")
        keep = found[["rotation", "before", "agreement", "misfit"]]
        return cls(tuple(members), keep)

    @property
    def rotation(self) -> xr.DataArray:
        """Map of each member's factors to the first member's, (chain, factor, reference)."""
        return self.alignment["rotation"]

    def factors(
        self,
        panel: xr.Dataset,
        kind: Kind = "filtered",
        num_samples: int = 1000,
        seed: int = 0,
    ) -> xr.Dataset:
        """Draws, means and deviations of the aligned factors; as :meth:`Fit.factors`.

        ``num_samples`` draws a member; ``mean`` and ``sd`` are those of all draws.
        """
        each = [m.factors(panel, kind, num_samples, seed) for m in self.members]
        draws = rotate(self._stacked([one[FACTORS] for one in each]), self.rotation)
        over = draws.dims[:2]
        data = xr.Dataset({FACTORS: draws, "mean": draws.mean(over), "sd": draws.std(over)})
        data.attrs.update(each[0].attrs)
        data.attrs.update(self._attrs())
        return data

    def loadings(self, panel: xr.Dataset) -> xr.DataArray:
        """Return loadings (chain, time, asset, factor) that belong to the aligned factors."""
        each = [member.loadings(panel) for member in self.members]
        return rotate(self._stacked(each), self.rotation, loadings=True)

    def idio_scale(self, panel: xr.Dataset, num_samples: int = 1000, seed: int = 0) -> xr.DataArray:
        """Idiosyncratic standard deviations (chain, time, asset)."""
        return self._stacked([m.idio_scale(panel, num_samples, seed) for m in self.members])

    def reconstruct(
        self, panel: xr.Dataset, num_samples: int = 1000, seed: int = 0
    ) -> xr.DataArray:
        """Fitted returns (time, asset), the mean over members; as :meth:`Fit.reconstruct`."""
        each = [member.reconstruct(panel, num_samples, seed) for member in self.members]
        return self._pooled(each, by_member=False)

    def log_evidence(
        self,
        panel: xr.Dataset,
        num_samples: int = 1000,
        seed: int = 0,
        *,
        by_weights: int | None = None,
        by_member: bool = False,
    ) -> xr.DataArray:
        """Log density of each month's returns given the months before (time,), in nats.

        Of the mixture of the members with equal weights in every month, which is what
        :meth:`forecast` draws from; ``by_member`` gives each one's own, (chain, time), and
        ``by_weights`` that of as many draws of each one's weights, (chain, weight_draw, time).
        """
        each = self._stacked(
            [m.log_evidence(panel, num_samples, seed, by_weights=by_weights) for m in self.members]
        )
        if by_member or by_weights is not None:
            return each
        mixed = each.isel({CHAIN: 0}, drop=True)
        values = logsumexp(each.transpose(CHAIN, TIME).to_numpy(), axis=0)
        return mixed.copy(data=values - np.log(len(self.members)))

    def posterior_predictive(
        self,
        panel: xr.Dataset,
        num_samples: int = 1000,
        seed: int = 0,
        times: object | None = None,
        out: str | os.PathLike[str] | None = None,
    ) -> xr.DataTree:
        """Replicates of seen months, a chain a member; as :meth:`Fit.posterior_predictive`.

        Factors are aligned; ``latents``, where a decoder stands between, are left as they are.
        """
        return self._joined(
            (m.posterior_predictive(panel, num_samples, seed, times) for m in self.members), out
        )

    def forecast(
        self,
        panel: xr.Dataset,
        num_samples: int = 1000,
        seed: int = 0,
        times: object | None = None,
        out: str | os.PathLike[str] | None = None,
    ) -> xr.DataTree:
        """Predictive draws of month t from data to t-1, a chain a member; as :meth:`Fit.forecast`.

        ``beta`` and ``idio_scale`` differ by member and get a ``chain`` too, so that
        ``rv.risk.summarize`` finds ``parameter_var`` from the members' differences.
        """
        return self._joined(
            (m.forecast(panel, num_samples, seed, times) for m in self.members), out
        )

    def moments(
        self,
        panel: xr.Dataset,
        num_samples: int = 1000,
        seed: int = 0,
        times: object | None = None,
    ) -> xr.Dataset:
        """Moments of month t's returns, all members in one row; as :meth:`Fit.moments`.

        Each in its own factors' coordinates: what is asked of them does not depend on these.
        """
        each = [m.moments(panel, num_samples, seed, times) for m in self.members]
        joined = xr.concat(each, MEMBER, join="exact", combine_attrs="override")
        joined["share"] = joined["share"] / len(each)
        return joined.assign_coords({MEMBER: np.arange(joined.sizes[MEMBER])})

    def attribution(
        self,
        panel: xr.Dataset,
        num_samples: int = 1000,
        seed: int = 0,
        times: object | None = None,
        *,
        by_member: bool = False,
    ) -> xr.DataArray:
        """Split every mean forecast by aligned factor; as :meth:`Fit.attribution`.

        The mean over members, or with ``by_member`` each one's own, (chain, time, asset,
        factor).
        """
        turns = self.rotation.to_numpy()
        each = [
            m._attribute(panel, num_samples, seed, times, turn)
            for m, turn in zip(self.members, turns, strict=True)
        ]
        return self._pooled(each, by_member)

    def sensitivity(
        self,
        panel: xr.Dataset,
        num_samples: int = 1000,
        seed: int = 0,
        times: object | None = None,
        *,
        by_member: bool = False,
    ) -> xr.DataArray:
        """Slope of each mean forecast in each characteristic; as :meth:`Fit.sensitivity`.

        The mean over members, or with ``by_member`` each one's own, with a leading ``chain``.
        """
        each = [m.sensitivity(panel, num_samples, seed, times) for m in self.members]
        return self._pooled(each, by_member)

    def relevance(
        self, panel: xr.Dataset | None = None, num_draws: int = 100, seed: int = 0
    ) -> xr.DataTree:
        """Relevance of each characteristic, a chain a member; as :meth:`Fit.relevance`.

        Each member's slopes are per unit of its own factors: ``share`` compares across members.
        Where weights are at their MAP, the spread over chains is that between seeds.
        """
        each = [m.relevance(panel, num_draws, seed)["posterior"].to_dataset() for m in self.members]
        joined = xr.Dataset({name: self._stacked([e[name] for e in each]) for name in each[0]})
        if "note" in each[0].attrs:
            joined.attrs["note"] = "weights are at their MAP: one draw a member, one member a seed"
        return xr.DataTree.from_dict({"posterior": joined})

    def prior_state(self, panel: xr.Dataset, num_samples: int = 1000, seed: int = 0) -> xr.Dataset:
        """Each member's filtered state of the factor prior, with ``chain``; as ``Fit``'s.

        Regimes are in one order by scale. What belongs to single factors belongs to the
        member's own: variances cannot be turned as factors are.
        """
        each = [m.prior_state(panel, num_samples, seed) for m in self.members]
        data = xr.Dataset({name: self._stacked([e[name] for e in each]) for name in each[0]})
        return data.assign_attrs({**each[0].attrs, **self._attrs()})

    def factor_profile(
        self,
        panel: xr.Dataset,
        known: xr.DataArray | pd.DataFrame | None = None,
        num_samples: int = 1000,
        seed: int = 0,
    ) -> xr.Dataset:
        """Say what each aligned factor is like, by its mean; as :meth:`Fit.factor_profile`."""
        mean = self.factors(panel, num_samples=num_samples, seed=seed)["mean"]
        return factor_profile(mean, managed_portfolios(panel), known)

    def check(self, panel: xr.Dataset | None = None, num_particles: int = 1000) -> Check:
        """Say in plain words what can be trusted: the worst member's page, and their agreement."""
        pages = [member.check(panel, num_particles) for member in self.members]
        fitted = None
        if panel is not None:
            fitted = self._stacked([m.reconstruct(panel, num_particles) for m in self.members])
        return check_members(pages, self.alignment, fitted)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write all members to a folder, each as :meth:`Fit.save` does, whole or not at all.

        Raises
        ------
        CheckpointError
            If the folder cannot be written, or holds something that is not an ensemble.
        """
        target = Path(path)
        if target.exists() and any(target.iterdir()) and not (target / _META).exists():
            raise CheckpointError(
                f"`path` {str(target)!r} holds something that is not an ensemble; choose another."
            )
        temporary, old = draft(target), draft(target)
        try:
            temporary.mkdir(parents=True)
            for i, member in enumerate(self.members):
                member.save(temporary / f"member_{i:03d}")
            write_tree(xr.DataTree(self.alignment), temporary / _ROTATION)
            meta = {"package": "rvrae_pyro", "format": 1, "n_members": len(self.members)}
            (temporary / _META).write_text(json.dumps(meta))
            if target.exists():
                os.replace(target, old)
            os.replace(temporary, target)
        except OSError as error:
            if old.exists() and not target.exists():
                os.replace(old, target)
            raise CheckpointError(f"`path` {str(target)!r} cannot be written: {error}.") from error
        finally:
            remove(temporary)
            remove(old)
        return target

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        make_model: Callable[[], RVRAE] | None = None,
        *,
        config: FitConfig | None = None,
    ) -> Ensemble:
        """Read an ensemble that :meth:`save` wrote.

        Parameters
        ----------
        path : path
        make_model : callable, optional
            As for ``fit_ensemble``; needed only where a part is not one of ours.
        config : FitConfig, optional
            As for :func:`load`.

        Raises
        ------
        CheckpointError
            If the folder is missing, damaged, or of a newer version.
        """
        folder = Path(path)
        try:
            meta = json.loads((folder / _META).read_text())
            n_members = int(meta["n_members"])
            with xr.open_dataset(folder / _ROTATION) as opened:
                alignment = opened.load()
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"no ensemble in {str(folder)!r}, or a damaged one: {error}. Pass the folder that "
                "Ensemble.save wrote; a single fit is read by rv.load."
            ) from error
        if meta.get("format") != 1:
            raise CheckpointError(
                f"{str(folder)!r} has layout {meta.get('format')!r}, this version reads 1. Install "
                "the version of rvrae_pyro that wrote it, or a newer one."
            )
        folders = [folder / f"member_{i:03d}" for i in range(n_members)]
        members = [
            load_fit(each, None if make_model is None else make_model(), config=config)
            for each in folders
        ]
        return cls(tuple(members), alignment)

    def _attrs(self) -> dict[str, Any]:
        return {"seeds": json.dumps([m.seed for m in self.members]), "n_members": len(self.members)}

    def _stacked(self, arrays: Sequence[xr.DataArray]) -> xr.DataArray:
        """Join one array a member along ``chain``, numbered anew."""
        joined = xr.concat(arrays, CHAIN, join="exact", combine_attrs="override")
        return joined.assign_coords({CHAIN: np.arange(len(arrays))})

    def _pooled(self, each: Sequence[xr.DataArray], by_member: bool) -> xr.DataArray:
        """Mean over members, or all of them along ``chain``."""
        joined = self._stacked(each)
        return joined if by_member else joined.mean(CHAIN, keep_attrs=True)

    def _joined(
        self, trees: Iterator[xr.DataTree], out: str | os.PathLike[str] | None
    ) -> xr.DataTree:
        each = list(trees)
        groups = {
            name: self._group(name, [tree[name].to_dataset() for tree in each])
            for name in each[0].children
        }
        tree = xr.DataTree.from_dict(groups)
        tree.attrs.update(each[0].attrs)
        tree.attrs.update(self._attrs())
        if out is not None:
            write_tree(tree, out)
        return tree

    def _group(self, name: str, each: Sequence[xr.Dataset]) -> xr.Dataset:
        """Join one group of all members: draws by chain, data once, constants by member."""
        if name == "observed_data":
            return each[0]
        variables = {}
        for key in each[0].data_vars:
            arrays = [one[key] for one in each]
            joined = self._stacked(arrays)
            if key == FACTORS:
                joined = rotate(joined, self.rotation)
            elif key in ("beta", "beta_by_weights"):
                joined = rotate(joined, self.rotation, loadings=True)
            variables[key] = joined
        return xr.Dataset(variables, attrs=each[0].attrs)


def load(
    path: str | os.PathLike[str], model: RVRAE | None = None, *, config: FitConfig | None = None
) -> Fit | Ensemble:
    """Read a fit or an ensemble that its ``save`` wrote, or a checkpoint's best state.

    Parameters
    ----------
    path : path
        The folder.
    model : RVRAE, optional
        A model built as the saved one was; needed only where a part is not one of ours. Its
        weights are filled in. For an ensemble every member gets a copy.
    config : FitConfig, optional
        The configuration it was fitted with; needed only where a schedule is not one of ours.

    Returns
    -------
    Fit or Ensemble
        What was saved.

    Raises
    ------
    CheckpointError
        If the folder is missing, damaged, foreign or of a newer version, or needs ``model``.
    """
    if (Path(path) / _META).exists():
        make = None if model is None else partial(copy.deepcopy, model)
        return Ensemble.load(path, make, config=config)
    return load_fit(path, model, config=config)


def _check_new(model: object, others: Sequence[RVRAE]) -> None:
    if not isinstance(model, RVRAE):
        raise ConfigError(f"`make_model` must return an rv.RVRAE; got {type(model).__name__}.")
    weights = {id(weight) for other in others for weight in other.parameters()}
    if not model.untouched or any(id(weight) in weights for weight in model.parameters()):
        raise ConfigError(
            "`make_model` must build a new model at every call; it returned one that is trained "
            "already, or has weights of one before. Build it inside: make_model=lambda: "
            "rv.RVRAE(...)."
        )
