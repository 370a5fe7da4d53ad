"""``rv.fit`` and ``rv.load``: where fits come from."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pandas as pd
import xarray as xr
from pyro.infer import ELBO

from rvrae_pyro.data.batch import Batch, to_batch
from rvrae_pyro.data.fingerprint import fingerprint
from rvrae_pyro.errors import PanelError, ShapeError
from rvrae_pyro.fitting.describe import describe_config
from rvrae_pyro.fitting.fit import Fit
from rvrae_pyro.fitting.saved import load_parts
from rvrae_pyro.inference import svi
from rvrae_pyro.inference.config import FitConfig
from rvrae_pyro.inference.svi import Epoch, Trained
from rvrae_pyro.models.registry import describe_model
from rvrae_pyro.models.rvrae import RVRAE
from rvrae_pyro.names import CHARACTERISTIC, FACTOR, TIME
from rvrae_pyro.predictive.export import provenance
from rvrae_pyro.predictive.months import factor_coord

__all__ = ["fit", "load"]

_HISTORY = (
    "step",
    "elbo",
    "log_likelihood",
    "kl",
    "kl_weight",
    "log_weights",
    "valid_elbo",
    "seconds",
)


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
) -> Fit:
    """Train a model on a panel.

    Parameters
    ----------
    model : RVRAE
        Trained in place. A model nobody has touched since it was built starts from weights
        drawn with ``seed``; one that was changed or trained goes on from where it is.
    train : xarray.Dataset
        Training months. Characteristics are taken as they are: rank them before.
    valid : xarray.Dataset, optional
        The months that follow; training stops early on their bound and keeps the best state.
    config : FitConfig, optional
    seed : int
        Same seed, same numbers (on one thread count).
    progress : bool
        Show a progress bar on a terminal.
    checkpoint : path, optional
        Folder in which the best state so far is kept during training.
    init : Fit, optional
        Warm start from an earlier fit of the same parts.
    elbo : pyro.infer.ELBO, optional
        Any Pyro ELBO; ``Trace_ELBO`` unless told.

    Returns
    -------
    Fit

    Raises
    ------
    PanelError
        If a panel is not valid, has NaN characteristics in listed cells, or validation does
        not follow training.
    FitError
        If training meets a bound that is not finite, or no return to learn from.
    """
    config = FitConfig() if config is None else config
    panel, n_train = _join(train, valid)
    batch = to_batch(panel, device=config.device, dtype=config.dtype)
    model.to(device=config.device, dtype=config.dtype)
    model.loadings.check(batch)
    if init is not None:
        _warm_start(model, init)
    elif model.untouched:
        model.redraw(seed)
        model.set_return_scale(batch.window(0, n_train, every_asset=True))
    attrs = _attrs(model, config, seed, train)
    attrs["n_train_returns"] = int(batch.observed[:n_train].sum())
    attrs["n_valid_returns"] = int(batch.observed[n_train:].sum())
    keeper = _Keeper(model, config, seed, batch, n_train, attrs, checkpoint)
    with _progress_bar(config, progress) as advance:

        def on_epoch(epoch: Epoch) -> None:
            advance(epoch)
            keeper(epoch)

        trained = svi.train(model, batch, n_train, config, seed=seed, elbo=elbo, on_epoch=on_epoch)
    result = _result(model, config, seed, batch, n_train, attrs, trained)
    if checkpoint is not None:
        result.save(checkpoint)
    return result


def load(path: str | os.PathLike[str], model: RVRAE | None = None) -> Fit:
    """Read a fit that :meth:`Fit.save` wrote.

    Parameters
    ----------
    path : path
        The folder.
    model : RVRAE, optional
        A model built as the saved one was; needed only where a part is not one of ours. Its
        weights are filled in.

    Returns
    -------
    Fit

    Raises
    ------
    CheckpointError
        If the folder is missing, damaged, foreign or of a newer version, or needs ``model``.
    """
    return Fit(**load_parts(path, model))


class _Keeper:
    """Writes the state of the last finished epoch to the checkpoint, if there is one."""

    def __init__(
        self,
        model: RVRAE,
        config: FitConfig,
        seed: int,
        batch: Batch,
        n_train: int,
        attrs: dict[str, str | int],
        checkpoint: str | os.PathLike[str] | None,
    ) -> None:
        self.parts = (model, config, seed, batch, n_train, attrs)
        self.checkpoint = checkpoint
        self.epochs: list[Epoch] = []
        self.best = -np.inf

    def __call__(self, epoch: Epoch) -> None:
        if self.checkpoint is None:
            return
        self.epochs.append(epoch)
        score = epoch.valid_elbo if np.isfinite(epoch.valid_elbo) else epoch.elbo
        if score > self.best:
            self.best = score
            trained = Trained(list(self.epochs), "interrupted", epoch.step)
            _result(*self.parts, trained).save(self.checkpoint)


def _result(
    model: RVRAE,
    config: FitConfig,
    seed: int,
    batch: Batch,
    n_train: int,
    attrs: dict[str, str | int],
    trained: Trained,
) -> Fit:
    epochs = trained.epochs
    steps = np.array([e.step for e in epochs])
    times = batch.times[:n_train]
    kl_total = xr.DataArray(
        np.stack([e.kl_months.double().numpy() for e in epochs]),
        coords={"step": steps, TIME: times},
        dims=("step", TIME),
        name="kl_total",
        attrs={"units": "nats"},
    )
    kl = xr.DataArray(
        np.stack([e.kl_factors.double().numpy() for e in epochs]),
        coords={"step": steps, TIME: times, FACTOR: factor_coord(model.n_factors)},
        dims=("step", TIME, FACTOR),
        name="kl",
        attrs={"units": "nats"},
    )
    history = pd.DataFrame({name: [getattr(e, name) for e in epochs] for name in _HISTORY})
    return Fit(
        model, config, seed, history, kl_total, kl, trained.stopped, trained.best_step, attrs
    )


def _join(train_panel: xr.Dataset, valid: xr.Dataset | None) -> tuple[xr.Dataset, int]:
    n_train = train_panel.sizes.get(TIME, 0)
    if valid is None:
        return train_panel, n_train
    mine, theirs = train_panel[CHARACTERISTIC].to_numpy(), valid[CHARACTERISTIC].to_numpy()
    if list(mine) != list(theirs):
        raise ShapeError(
            "`valid` must have the characteristics of `train`, in the same order; got "
            f"{list(theirs)[:3]}... against {list(mine)[:3]}...."
        )
    if (
        n_train
        and valid.sizes[TIME]
        and not valid[TIME].to_numpy()[0] > train_panel[TIME].to_numpy()[-1]
    ):
        raise PanelError(
            "`valid` must follow `train` in time; it starts at "
            f"{np.datetime_as_string(valid[TIME].to_numpy()[0], 'D')}, `train` ends at "
            f"{np.datetime_as_string(train_panel[TIME].to_numpy()[-1], 'D')}."
        )
    names = [n for n in train_panel.data_vars if TIME in train_panel[n].dims and n in valid]
    joined = xr.concat(
        [train_panel[names], valid[names]],
        TIME,
        join="outer",
        data_vars="minimal",
        coords="minimal",
        compat="override",
        combine_attrs="override",
    )
    return joined, n_train


def _warm_start(model: RVRAE, init: Fit) -> None:
    mine, theirs = model.parts.state_dict(), init.model.parts.state_dict()
    shapes = {k: v.shape for k, v in mine.items()}
    if shapes != {k: v.shape for k, v in theirs.items()}:
        raise ShapeError(
            "`init` must be a fit of the same parts with the same sizes; its weights do not fit "
            "this model. Build the model as the earlier one was built."
        )
    model.parts.load_state_dict(theirs)


def _attrs(model: RVRAE, config: FitConfig, seed: int, panel: xr.Dataset) -> dict[str, str | int]:
    described = {"config": describe_config(config), "model": describe_model(model)}
    return provenance(seed=seed, config=described, fingerprint=fingerprint(panel))


@contextmanager
def _progress_bar(config: FitConfig, wanted: bool) -> Iterator[Callable[[Epoch], None]]:
    """Show a bar on a terminal or in a notebook; nothing in a pipe."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    shown = wanted and (console.is_terminal or console.is_jupyter)
    bar = Progress(
        TextColumn("fitting"),
        BarColumn(),
        TextColumn("step {task.completed:.0f} of at most {task.total:.0f}"),
        TextColumn("{task.fields[score]}"),
        TimeElapsedColumn(),
        console=console,
        disable=not shown,
        transient=True,
    )
    with bar:
        task = bar.add_task("fit", total=config.max_steps, score="")

        def advance(epoch: Epoch) -> None:
            score = epoch.valid_elbo if np.isfinite(epoch.valid_elbo) else epoch.elbo
            bar.update(task, completed=epoch.step, score=f"ELBO {score:,.0f}")

        yield advance
