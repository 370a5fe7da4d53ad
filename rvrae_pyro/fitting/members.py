"""Ensembles: several fits of one model, whose members are chains."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import xarray as xr

from rvrae_pyro import displays
from rvrae_pyro.atomic import replacing
from rvrae_pyro.diagnostics.alignment import align
from rvrae_pyro.diagnostics.check import Check
from rvrae_pyro.diagnostics.check_members import check_members
from rvrae_pyro.errors import CheckpointError, ConfigError
from rvrae_pyro.fitting.fit import Fit
from rvrae_pyro.fitting.results import Results
from rvrae_pyro.fitting.training import load as load_fit
from rvrae_pyro.inference.config import FitConfig
from rvrae_pyro.models.rvrae import RVRAE
from rvrae_pyro.names import CHAIN
from rvrae_pyro.predictive.chains import stack_arrays
from rvrae_pyro.predictive.filtered import Filtered
from rvrae_pyro.predictive.storage import write_tree

__all__ = ["META", "Ensemble"]

META: Final = "ensemble.json"
"""Name of the file that tells an ensemble's folder from a fit's."""

_ROTATION: Final = "rotation.nc"


@dataclass(frozen=True, eq=False, repr=False)
class Ensemble(Results):
    """Fits of one model from several seeds, with the methods of ``Fit`` and a chain per member.

    Attributes
    ----------
    members : tuple of Fit
    alignment : Dataset
        As from ``rv.diagnostics.align`` on the training months' factor means: ``rotation``
        (chain, factor, reference), ``before``, ``agreement``, ``misfit``. Results are in
        the first member's coordinates; no later month takes part in finding them.
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

    def __repr__(self) -> str:
        """Summarise the members."""
        seeds = ", ".join(str(member.seed) for member in self.members)
        last = self.members[0].attrs.get("last_seen_month", "an unknown month")
        return (
            f"Ensemble({len(self.members)} members of {self.members[0].model.n_factors} factors, "
            f"seeds {seeds}; saw data to {last})"
        )

    def _repr_html_(self) -> str:
        """Show the members as a table, with the model folded."""
        agreement = self.alignment["agreement"].mean("factor").to_numpy()
        rows = [
            (str(chain), member.seed, member.stopped, member.best_step, float(agreement[chain]))
            for chain, member in enumerate(self.members)
        ]
        head = ("chain", "seed", "stopped", "kept step", "factor correlation with chain 0")
        model = self.members[0].model
        folded = displays.fold(repr(model).partition("\n")[0], model._repr_html_())
        return displays.card(
            f"Ensemble of {len(self.members)} members", displays.grid(head, rows), folded
        )

    @property
    def _records(self) -> tuple[Fit, ...]:
        return self.members

    @property
    def rotation(self) -> xr.DataArray:
        """Map of each member's factors to the first member's, (chain, factor, reference)."""
        return self.alignment["rotation"]

    @property
    def provenance(self) -> dict[str, str | int]:
        """Attributes of all results: the first member's, and the seeds of all."""
        seeds = json.dumps([member.seed for member in self.members])
        return {**self.members[0].attrs, "seeds": seeds, "n_members": len(self.members)}

    def check(self, panel: xr.Dataset | Filtered | None = None, num_particles: int = 1000) -> Check:
        """Report the worst member's findings, and how far the members agree.

        Parameters as for :meth:`Fit.check`.
        """
        if panel is None:
            pages = [member.check() for member in self.members]
            return check_members(pages, self.alignment, None)
        filtered = panel
        if not isinstance(filtered, Filtered):
            filtered = self.filter(filtered, num_particles, self.members[0].seed)
        filtered.require_models([member.model for member in self.members])
        each = filtered.by_member()
        pages = [m.check(one) for m, one in zip(self.members, each, strict=True)]
        fitted = stack_arrays([one.reconstruct() for one in each])
        return check_members(pages, self.alignment, fitted)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write all members to a folder, each as :meth:`Fit.save` does, whole or not at all.

        Raises
        ------
        CheckpointError
            If the folder cannot be written, or holds something that is not an ensemble.
        """
        target = Path(path)
        if target.exists() and any(target.iterdir()) and not (target / META).exists():
            raise CheckpointError(
                f"`path` {str(target)!r} holds something that is not an ensemble; choose another."
            )
        try:
            with replacing(target) as temporary:
                temporary.mkdir(parents=True)
                for i, member in enumerate(self.members):
                    member.save(temporary / f"member_{i:03d}")
                write_tree(xr.DataTree(self.alignment), temporary / _ROTATION)
                meta = {"package": "rvrae_pyro", "format": 1, "n_members": len(self.members)}
                (temporary / META).write_text(json.dumps(meta))
        except (OSError, ConfigError) as error:
            raise CheckpointError(f"`path` {str(target)!r} cannot be written: {error}.") from error
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
            meta = json.loads((folder / META).read_text())
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
