"""Several fits of one model, and what they say together."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import xarray as xr
from scipy.special import logsumexp

from rvrae_pyro.atomic import replacing
from rvrae_pyro.diagnostics.alignment import align, rotate
from rvrae_pyro.diagnostics.check import Check
from rvrae_pyro.diagnostics.check_members import check_members
from rvrae_pyro.errors import CheckpointError, ConfigError
from rvrae_pyro.fitting.fit import Fit
from rvrae_pyro.fitting.forecasts import Asked, Forecasts
from rvrae_pyro.fitting.readings import Readings
from rvrae_pyro.fitting.training import load as load_fit
from rvrae_pyro.inference.config import FitConfig
from rvrae_pyro.models.rvrae import RVRAE
from rvrae_pyro.names import CHAIN, FACTOR, FACTORS, TIME
from rvrae_pyro.predictive.beliefs import Kind
from rvrae_pyro.predictive.storage import Block, Drawing
from rvrae_pyro.predictive.tree_files import write_tree

__all__ = ["META", "Ensemble"]

META: Final = "ensemble.json"
"""Name of the file that tells an ensemble's folder from a fit's."""

_ROTATION: Final = "rotation.nc"


@dataclass(frozen=True, eq=False)
class Ensemble(Forecasts, Readings):
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

    def log_evidence(
        self,
        panel: xr.Dataset,
        num_samples: int = 1000,
        seed: int = 0,
        *,
        by_weights: int | None = None,
        by_member: bool = False,
    ) -> xr.DataArray:
        """As :meth:`Fit.log_evidence`; ``by_member`` gives each member's own, (chain, time).

        Else it is of the mixture of the members with equal weights in every month, which is
        what :meth:`forecast` draws from. ``by_weights`` gives that of as many draws of each
        one's weights, (chain, weight_draw, time).
        """
        return self._log_evidence(Asked(panel, num_samples, seed), by_weights, by_member)

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
        return self._attribution(Asked(panel, num_samples, seed, times), by_member)

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
        return self._sensitivity(Asked(panel, num_samples, seed, times), by_member)

    def _factors(self, asked: Asked, kind: Kind) -> xr.Dataset:
        each = [m._factors(asked, kind) for m in self.members]
        draws = rotate(self._stacked([one[FACTORS] for one in each]), self.rotation)
        over = draws.dims[:2]
        data = xr.Dataset({FACTORS: draws, "mean": draws.mean(over), "sd": draws.std(over)})
        data.attrs.update(each[0].attrs)
        data.attrs.update(self._attrs())
        return data

    def _prior_state(self, asked: Asked) -> xr.Dataset:
        each = [m._prior_state(asked) for m in self.members]
        return self._stacked_all(each).assign_attrs({**each[0].attrs, **self._attrs()})

    def _loadings(self, panel: xr.Dataset) -> xr.DataArray:
        each = [m._loadings(panel) for m in self.members]
        return rotate(self._stacked(each), self.rotation, loadings=True)

    def _idio_scale(self, asked: Asked) -> xr.DataArray:
        return self._stacked([m._idio_scale(asked) for m in self.members])

    def _reconstruct(self, asked: Asked) -> xr.DataArray:
        return self._pooled([m._reconstruct(asked) for m in self.members], by_member=False)

    def _log_evidence(
        self, asked: Asked, by_weights: int | None, by_member: bool = False
    ) -> xr.DataArray:
        each = self._stacked([m._log_evidence(asked, by_weights) for m in self.members])
        if by_member or by_weights is not None:
            return each
        mixed = each.isel({CHAIN: 0}, drop=True)
        values = logsumexp(each.transpose(CHAIN, TIME).to_numpy(), axis=0)
        return mixed.copy(data=values - np.log(len(self.members)))

    def _posterior_predictive(self, asked: Asked) -> Drawing:
        return self._joined([member._posterior_predictive(asked) for member in self.members])

    def _forecast(self, asked: Asked) -> Drawing:
        return self._joined([member._forecast(asked) for member in self.members])

    def _moments(self, asked: Asked) -> xr.Dataset:
        each = [m._moments(asked) for m in self.members]
        joined = xr.concat(each, CHAIN, join="exact", combine_attrs="override")
        joined["share"] = joined["share"] / len(each)
        return joined.assign_coords({CHAIN: np.arange(joined.sizes[CHAIN])})

    def _attribution(self, asked: Asked, by_member: bool = False) -> xr.DataArray:
        turns = zip(self.members, self.rotation.to_numpy(), strict=True)
        return self._pooled([m._attribution(asked, turn) for m, turn in turns], by_member)

    def _sensitivity(self, asked: Asked, by_member: bool = False) -> xr.DataArray:
        return self._pooled([m._sensitivity(asked) for m in self.members], by_member)

    def _relevance(self, panel: xr.Dataset | None, num_draws: int, seed: int) -> xr.DataTree:
        each = [
            m._relevance(panel, num_draws, seed)["posterior"].to_dataset() for m in self.members
        ]
        joined = self._stacked_all(each)
        if "note" in each[0].attrs:
            joined.attrs["note"] = "weights are at their MAP: one draw a member, one member a seed"
        return xr.DataTree.from_dict({"posterior": joined})

    def _check(self, panel: xr.Dataset | None, num_particles: int) -> Check:
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

    def _attrs(self) -> dict[str, Any]:
        return {"seeds": json.dumps([m.seed for m in self.members]), "n_members": len(self.members)}

    def _stacked(self, arrays: Sequence[xr.DataArray]) -> xr.DataArray:
        """Join one array a member along ``chain``, numbered anew."""
        joined = xr.concat(arrays, CHAIN, join="exact", combine_attrs="override")
        return joined.assign_coords({CHAIN: np.arange(len(arrays))})

    def _stacked_all(self, each: Sequence[xr.Dataset]) -> xr.Dataset:
        """Join all variables of one dataset a member along ``chain``."""
        return xr.Dataset({name: self._stacked([e[name] for e in each]) for name in each[0]})

    def _pooled(self, each: Sequence[xr.DataArray], by_member: bool) -> xr.DataArray:
        """Mean over members, or all of them along ``chain``."""
        joined = self._stacked(each)
        return joined if by_member else joined.mean(CHAIN, keep_attrs=True)

    def _joined(self, each: Sequence[Drawing]) -> Drawing:
        """Draw a block of every member at a time, and join their groups."""

        def blocks(done: int) -> Iterator[Block]:
            for parts in zip(*(one.blocks(done) for one in each), strict=True):
                yield {name: self._group(name, [p[name] for p in parts]) for name in parts[0]}

        attrs = {**each[0].attrs, **self._attrs()}
        identity = {
            "members": [dict(one.identity) for one in each],
            "rotation": self.rotation.values.tolist(),
        }
        return Drawing(blocks, attrs, identity)

    def _group(self, name: str, each: Sequence[xr.Dataset]) -> xr.Dataset:
        """Join one group of all members: draws by chain, data once, constants by member."""
        if name == "observed_data":
            return each[0]
        variables = {}
        for key in each[0].data_vars:
            arrays = [one[key] for one in each]
            joined = self._stacked(arrays)
            if key == FACTORS and FACTOR in joined.dims:  # in `log_prior` a density by month
                joined = rotate(joined, self.rotation)
            elif key in ("beta", "beta_by_weights"):
                joined = rotate(joined, self.rotation, loadings=True)
            variables[key] = joined
        return xr.Dataset(variables, attrs=each[0].attrs)
