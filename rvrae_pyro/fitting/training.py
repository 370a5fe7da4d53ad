"""``rv.fit``, and reading a saved fit or a checkpoint."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
import xarray as xr
from pyro.infer import ELBO, Trace_ELBO

from rvrae_pyro._version import __version__
from rvrae_pyro.atomic import only_run, scratch_folder
from rvrae_pyro.data.batch import Batch, to_batch, to_light_batch
from rvrae_pyro.data.chunks import give_back, is_lazy
from rvrae_pyro.data.panel_match import describe_panel, fingerprint, match_panel
from rvrae_pyro.data.splits import join_months
from rvrae_pyro.errors import ConfigError, FitError, ShapeError, check_count, warn_user
from rvrae_pyro.fitting.checkpoint import STATE, Checkpoint
from rvrae_pyro.fitting.fit import Fit, describe_outcome, from_checkpoint, outcome
from rvrae_pyro.fitting.saved import describe_config, load_parts
from rvrae_pyro.inference import svi
from rvrae_pyro.inference.config import FitConfig, with_fields
from rvrae_pyro.inference.elbo import settle
from rvrae_pyro.inference.epochs import Epoch, Keep, State
from rvrae_pyro.inference.gradients import Slopes
from rvrae_pyro.inference.refinement import refine
from rvrae_pyro.inference.sharded.distributed import Team, team
from rvrae_pyro.inference.sharded.shards import CutPanel, SpilledPanel, without_assets
from rvrae_pyro.inference.sharded.streaming import Streamed
from rvrae_pyro.models.exact import is_exact
from rvrae_pyro.models.identity import own_identity
from rvrae_pyro.models.kinds import describe_kind
from rvrae_pyro.models.random_weights import matched_effects
from rvrae_pyro.models.registry import chosen_parts, describe_model
from rvrae_pyro.models.rvrae import RVRAE, require_model, typical_return
from rvrae_pyro.nn.digest import digest_of
from rvrae_pyro.predictive.export import provenance
from rvrae_pyro.progress import progress_bar

_FAR: Final = 3.0
"""Ratio of kept units to the size of training returns that warns."""


def fit(
    model: RVRAE,
    train: xr.Dataset,
    valid: xr.Dataset | None = None,
    *,
    config: FitConfig | None = None,
    seed: int = 0,
    progress: bool = True,
    checkpoint: str | os.PathLike[str] | None = None,
    init: Fit | None = None,
    elbo: ELBO | None = None,
    on_check: Callable[[Epoch], object] | None = None,
    **settings: Any,
) -> Fit:
    """Train a model on a panel.

    Parameters
    ----------
    model : RVRAE
        Trained in place. An untrained model is re-initialised from ``seed``, and its units are
        set from the training months; casts of dtype or device leave it untrained. A model whose
        weights were modified, by an optimizer, ``load_state_dict`` or in place, continues from
        them and keeps its units; these are set only if no call of the pair used them before.
    train : xarray.Dataset
        Training months. Characteristics are taken as they are: rank them before. Those of a
        panel on disk (``rv.data.read_panel`` of a ``.zarr``) are streamed over shards of assets.
    valid : xarray.Dataset, optional
        The months that follow; training stops early on their bound and keeps the best state.
        Their returns do not train, which matters most to a fixed universe of assets: on the
        embedded portfolios validation costs about 0.02 nats per return.
    config : FitConfig, optional
        Settings of training. Default: ``FitConfig()``.
    seed : int
        Same seed, same numbers (on one thread count).
    progress : bool
        Show a progress bar on a terminal.
    checkpoint : path, optional
        Folder that keeps the whole state of training. The same call resumes from there, to the
        same bits as an uninterrupted run (on one thread), or returns at once where training had
        ended; ``rv.load`` reads the best state so far.
    init : Fit, optional
        Warm start from an earlier fit of the same parts: its weights and its units.
    elbo : pyro.infer.ELBO, optional
        An :class:`~rvrae_pyro.inference.elbo.AnnealedELBO`, whose schedule, reduction and
        particles replace those of ``config``, or any other Pyro ELBO, which is then annealed as
        ``config`` states. Default: ``Trace_ELBO``.
    on_check : callable, optional
        Called with an :class:`~rvrae_pyro.inference.epochs.Epoch` at every evaluation of all
        months, about once per pass through them: ``step``, ``elbo``, ``valid_elbo``, ``kl``,
        ``seconds``. True ends training with the best state so far
        (``fit.stopped == "callback"``); any other value continues. An exception, such as
        ``optuna.TrialPruned``, is raised again with ``model`` at its best state. Under
        ``torch.distributed`` it is called in every process and must return the same in all.
    **settings
        Fields of ``FitConfig`` that replace those of ``config``: ``max_steps=150`` is
        ``config=rv.FitConfig(max_steps=150)``.

    Returns
    -------
    Fit
        ``attrs["start"]`` is "seed"; "construction" if a part does not keep its constructor
        arguments, so that it cannot be drawn again; or for a warm start "model" (the weights that
        ``model`` came with) or "init". ``repr`` states the ``return_scale`` of a warm start.

    Notes
    -----
    Under ``torch.distributed`` every process passes the same panel and computes some of its
    assets; loss and gradient are those of one process, up to rounding, and process 0 writes.

    Raises
    ------
    PanelError
        If a panel is not valid, has NaN characteristics in listed cells, validation does not
        follow training, or panels differ in characteristics, ``transform``, ``frequency`` or
        ``lag``.
    ConfigError
        If ``model``, ``config``, ``init`` or ``elbo`` is of another kind than it takes, or an
        argument is unknown.
    FitError
        If the bound breaks again and again, or there is no return to learn from.
    CheckpointError
        If ``checkpoint`` cannot be written, is held by another run, is damaged, or belongs to
        other data, settings or seed.

    Warns
    -----
    RvraeWarning
        If a warm start keeps a ``return_scale`` that is far from the size of the training returns.

    References
    ----------
    Wang and Guo (2024), arXiv 2403.02500, eqs. (3), (30).
    """
    require_model(model)
    config = with_fields(config, settings)
    _check_kinds(init, elbo, on_check)
    config, elbo = settle(config, elbo)
    check_count("seed", seed, 0)
    if init is not None:
        train = match_panel(train, init.attrs, "train")
    panel, n_train = join_months(train, valid)
    to_tensors = to_light_batch if is_lazy(panel) else to_batch
    batch = to_tensors(panel, device=config.device, dtype=config.dtype)
    model.to(device=config.device, dtype=config.dtype)
    model.loadings.check(batch)
    start = _start(model, init, batch.window(0, n_train, every_asset=True), seed)
    mark = fingerprint(train)
    described = {"config": describe_config(config), "model": describe_model(model)}
    attrs = {**provenance(seed, described, mark), "start": start}
    reads_context = any(getattr(part, "n_context", 0) for part in model.parts.modules())
    attrs |= describe_panel(train, context=reads_context)
    attrs["n_train_returns"] = int(batch.observed[:n_train].sum())
    attrs["n_valid_returns"] = int(batch.observed[n_train:].sum())
    attrs["last_seen_month"] = str(batch.times[-1])[:10]
    if init is not None:  # its weights know its months
        earlier = str(init.attrs.get("last_seen_month", ""))
        attrs["last_seen_month"] = max(str(attrs["last_seen_month"]), earlier)
    times, together = batch.times[:n_train], team()
    together.share(model.parts.state_dict())
    with (
        _checkpointed(
            checkpoint,
            lambda: _identity(model, config, seed, mark, valid, elbo),
            describe_outcome(model, times, attrs),
            model,
            together,
        ) as (resume, keep, about),
        _slopes(model, panel, batch, config, elbo, together) as slopes,
        progress_bar("fitting", config.max_steps, progress and together.rank == 0) as show,
    ):

        def on_epoch(epoch: Epoch) -> object:
            score = epoch.valid_elbo if np.isfinite(epoch.valid_elbo) else epoch.elbo
            show(completed=epoch.step, note=f"ELBO {score:,.0f}")
            return None if on_check is None else on_check(epoch)

        del panel  # training has made a copy
        if slopes is not None:
            batch = without_assets(batch)
        give_back()
        trained = svi.train(
            model,
            batch,
            n_train,
            config,
            seed=seed,
            elbo=elbo,
            on_epoch=on_epoch,
            resume=resume,
            keep=keep,
            slopes=slopes,
        )
    if model.hyper_sites and (is_exact(model) or config.refine_draws is not None):
        refine(model, batch.window(0, n_train, every_asset=True), config.refine_draws, seed=seed)
    model.parts.mark_trained()
    return outcome(model, config, seed, times, about["attrs"], trained)


def load(
    path: str | os.PathLike[str], model: RVRAE | None = None, *, config: FitConfig | None = None
) -> Fit:
    """Read a fit that :meth:`Fit.save` wrote, or the best state in a checkpoint's folder.

    Parameters and errors: see :func:`rvrae_pyro.loading.load`.
    """
    if (Path(path) / STATE).exists():
        return from_checkpoint(Path(path), model, config)
    return Fit(**load_parts(path, model, config))


def _identity(
    model: RVRAE,
    config: FitConfig,
    seed: int,
    mark: str,
    valid: xr.Dataset | None,
    elbo: ELBO | None,
) -> dict[str, Any]:
    """Describe what determines a run."""
    return {
        "train": mark,
        "valid": None if valid is None else fingerprint(valid),
        "model": describe_model(model),
        "weights at the start": digest_of(model.parts.state_dict()),
        "config": describe_config(config),
        "seed": seed,
        "elbo": _describe_elbo(elbo),
        "user-defined code": own_identity(chosen_parts(model), config),
        # another version may compute different numbers
        "rvrae_pyro": __version__,
        "torch": torch.__version__,
    }


@contextmanager
def _slopes(
    model: RVRAE,
    panel: xr.Dataset,
    batch: Batch,
    config: FitConfig,
    elbo: ELBO | None,
    together: Team,
) -> Iterator[Slopes | None]:
    """Gradients streamed from disk, shards or processes; None for one panel in memory."""
    sampled = config.asset_batch is not None and config.asset_sampling == "whole"
    cut_up = sampled or config.shard_size is not None or together.size > 1
    if not cut_up and not is_lazy(panel):
        del panel  # the batch has all of it
        yield None
        return
    if elbo is not None:
        raise ConfigError(
            f"`elbo` {type(elbo).__name__} needs the whole panel at once; shards of assets and "
            "several processes train by Trace_ELBO. Leave `elbo` and set config.num_particles, or "
            "load the panel and leave `shard_size`."
        )
    who = {"rank": together.rank, "n_processes": together.size}
    if not is_lazy(panel):
        cut = CutPanel(batch, config.shard_size, **who)
        del panel, batch
        yield Streamed(model, cut, config, together.total, together.rank)
        return
    with scratch_folder() as folder:
        spilled = SpilledPanel(panel, batch, folder, config.shard_size or 1024, **who)
        del panel, batch  # each is as large as all returns, and training needs neither
        yield Streamed(model, spilled, config, together.total, together.rank)


def _describe_elbo(elbo: ELBO | None) -> dict[str, Any] | None:
    """Name Pyro's class of an estimator and its particles; a subclass counts as what it extends."""
    if elbo is None or (type(elbo) is Trace_ELBO and elbo.num_particles == 1):
        return None
    kinds = (kind for kind in type(elbo).__mro__ if kind.__module__.startswith("pyro."))
    name = next(kinds).__name__
    if name == "Trace_ELBO" and elbo.num_particles == 1:
        return None
    return {"kind": name, "num_particles": elbo.num_particles}


@contextmanager
def _checkpointed(
    folder: str | os.PathLike[str] | None,
    identity: Callable[[], dict[str, Any]],
    about: Mapping[str, Any],
    model: RVRAE,
    together: Team,
) -> Iterator[tuple[State | None, Keep | None, Mapping[str, Any]]]:
    """Hold the checkpoint's folder: the state to resume, where to keep later ones, the outcome.

    Process 0 holds and writes; the others read the same state before anything is written.
    """
    if folder is None:
        yield None, None, about
        return
    checkpoint = Checkpoint(folder, identity(), about)
    weights = digest_of(model.parts.state_dict())
    if together.rank > 0:
        together.wait()
        resume = checkpoint.read_for(weights)
        together.wait()
        yield resume, None, checkpoint.about
        return
    with only_run(Path(folder)):
        resume = checkpoint.read_for(weights)
        together.wait()
        together.wait()
        try:
            yield resume, checkpoint.keep, checkpoint.about
        except FitError as error:
            checkpoint.flush()
            raise FitError(
                f"{error} {str(folder)!r} keeps the last good state; rv.load reads it."
            ) from error
        finally:
            checkpoint.flush()


def _check_kinds(init: object, elbo: object, on_check: object) -> None:
    """Raise where an option of :func:`fit` is of another kind than it takes."""
    if init is not None and not isinstance(init, Fit):
        raise ConfigError(
            f"`init` must be a Fit; got {describe_kind(init)}. Pass what rv.fit returned, or "
            "rv.load(path) of a saved one."
        )
    if on_check is not None and not callable(on_check):
        raise ConfigError(
            f"`on_check` must be a function of an evaluation; got {describe_kind(on_check)}. Pass "
            "one, e.g. lambda epoch: print(epoch.step, epoch.valid_elbo)."
        )
    if elbo is not None and not isinstance(elbo, ELBO):
        raise ConfigError(
            f"`elbo` must be a Pyro ELBO; got {describe_kind(elbo)}. Pass an instance, e.g. "
            "pyro.infer.Trace_ELBO()."
        )


def _start(
    model: RVRAE, init: Fit | None, batch: Batch, seed: int
) -> Literal["seed", "construction", "model", "init"]:
    """Initialise weights and units from the seed, or keep those of a warm start."""
    if init is None and model.untrained:
        drawn = model.redraw(seed)
        model.set_units(batch)
        return "seed" if drawn else "construction"
    if init is not None:
        _take_weights(model, init)
    if model.parts.unset_units:  # initial values set by hand; no weight has adapted to a unit
        model.set_units(batch)
    kept, typical = float(model.return_scale), typical_return(batch)
    if typical > 0 and not 1 / _FAR < kept / typical < _FAR:
        what = "`init`" if init is not None else "`model`, whose weights were modified before,"
        warn_user(
            f"{what} is a warm start that keeps its units: return_scale {kept:.3g}, while a "
            f"typical training return is {typical:.3g}. Pass returns in the units that it was "
            "trained in, or an untrained model for new units."
        )
    return "model" if init is None else "init"


def _take_weights(model: RVRAE, init: Fit) -> None:
    mine, theirs = model.parts.state_dict(), init.model.parts.state_dict()
    theirs |= matched_effects(model.parts, init.model.parts)
    shapes = {k: v.shape for k, v in mine.items()}
    if shapes != {k: v.shape for k, v in theirs.items()}:
        raise ShapeError(
            "`init` must be a fit of the same parts with the same sizes; its weights do not fit "
            "this model. Build the model as the earlier one was built."
        )
    model.parts.load_state_dict(theirs)
