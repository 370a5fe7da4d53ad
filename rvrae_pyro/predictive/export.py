"""From arrays of draws to a DataTree in the ArviZ schema, with labels that survive."""

import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from rvrae_pyro._version import __version__
from rvrae_pyro.data.validation import listed
from rvrae_pyro.errors import PanelError, ShapeError, check_choice, warn_user
from rvrae_pyro.names import (
    ASSET,
    CHAIN,
    CHARACTERISTICS,
    DECODED_FACTORS,
    DRAW,
    FACTORS,
    RETURNS,
    TIME,
)
from rvrae_pyro.predictive.storage import to_json
from rvrae_pyro.predictive.tree import DIMS, LATENTS, PLATES, build_tree, to_numpy

if TYPE_CHECKING:
    from pyro.infer import MCMC

Array = NDArray[Any]
Kind = Literal["posterior", "prior", "predictions"]

_LIBRARIES: Final = ("numpy", "xarray", "arviz-base", "torch", "pyro-ppl")


def provenance(
    seed: int, config: object = None, fingerprint: str | None = None
) -> dict[str, str | int]:
    """Describe the origin of draws, in attributes that any file format can hold.

    Parameters
    ----------
    seed : int
    config : object, optional
        Mapping, dataclass or text; written as JSON.
    fingerprint : str, optional
        Hash of the data.

    Returns
    -------
    dict
        ``seed``, ``versions`` and ``config`` (JSON, sorted), ``data_fingerprint``. No date:
        the same run gives the same attributes.

    Examples
    --------
    >>> provenance(1, {"b": 2, "a": None})["config"]
    '{"a": null, "b": 2}'
    """
    versions = {"python": platform.python_version(), "rvrae-pyro": __version__}
    for library in _LIBRARIES:
        try:
            versions[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue  # not installed, hence not used
    attrs: dict[str, str | int] = {"seed": int(seed), "versions": to_json(versions)}
    if config is not None:
        attrs["config"] = config if isinstance(config, str) else to_json(config)
    if fingerprint is not None:
        attrs["data_fingerprint"] = fingerprint
    return attrs


def to_datatree(
    samples: "Mapping[str, ArrayLike] | MCMC",
    panel: xr.Dataset,
    *,
    kind: Kind = "posterior",
    log_likelihood: Mapping[str, ArrayLike] | None = None,
    log_prior: Mapping[str, ArrayLike] | None = None,
    sample_stats: Mapping[str, ArrayLike] | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
    coords: Mapping[str, ArrayLike] | None = None,
    group_by_chain: bool = False,
    attrs: Mapping[str, object] | None = None,
) -> xr.DataTree:
    """Turn the output of any Pyro ``Predictive`` (or ``MCMC``) into a DataTree for ArviZ.

    Parameters
    ----------
    samples : mapping from site name to array or tensor, or MCMC
        A finished ``pyro.infer.MCMC`` keeps its chains and adds ``log_prior``,
        ``log_likelihood`` and ``sample_stats["diverging"]``, at the cost of one evaluation of
        its model per draw. A mapping has arrays with one leading sample dim, as ``Predictive``
        returns them. Singleton dims of the plates ``time`` (-2) and ``asset`` (-1), counted from
        a site's event dims, are dropped by their place; sizes of one elsewhere stay.
    panel : Dataset
        The panel the model was called with, for labels, observed and listed cells.
    kind : {"posterior", "prior", "predictions"}
        ``returns`` of a posterior goes to its predictive along ``obs`` (observed cells); of a
        prior to its predictive as (time, asset), NaN where not listed; of predictions likewise,
        to the one group of all sites.
    log_likelihood : mapping, optional
        Log density of every return under every draw, (sample, n_times, n_assets); unobserved
        cells are dropped.
    log_prior : mapping, optional
        Log density of each latent site under every draw, (sample,) or (sample, n_times), which
        ``arviz_stats.psense_summary`` scales.
    sample_stats : mapping, optional
        Such as ``lp`` and ``log_q``, (sample,) or (sample, n_times).
    dims : mapping from site to dims, optional
        Dims after the sample dim of sites that the package does not know, plates first:
        ``{"log_variance": ("time",)}``. Without it they lose leading singletons, and the
        dims left are numbered.
    coords : mapping, optional
        Labels of further dims.
    group_by_chain : bool
        The samples start with (chain, draw), as ``MCMC.get_samples(group_by_chain=True)``
        gives them. Otherwise there is one chain.
    attrs : mapping, optional
        Attributes of the tree, say from ``provenance``.

    Returns
    -------
    DataTree
        ``posterior`` and ``posterior_predictive`` (or ``prior`` and ``prior_predictive``, or
        ``predictions``), ``observed_data``, and ``log_likelihood``, ``log_prior``,
        ``sample_stats`` if given.
        A deterministic ``decoded_factors`` becomes ``factors``, and the latent code
        ``latents``.

    Raises
    ------
    ShapeError
        If a site does not have the panel's sizes, or sites differ in their number of samples.
    PanelError
        If ``panel`` is no panel.
    ConfigError
        For an unknown ``kind``.

    Warns
    -----
    RvraeWarning
        If every draw of ``returns`` is the panel's own: ``Predictive`` was called on a batch that
        holds them. ``batch.without_returns()`` leaves them to be drawn.

    Notes
    -----
    Information set: that of the samples. A smoothing guide's draws know later months. With one
    chain of independent draws r-hat and effective sample sizes have no meaning; ask ``summary`` for
    ``kind="stats"``.
    """
    check_choice("kind", kind, ("posterior", "prior", "predictions"))
    if not isinstance(panel, xr.Dataset) or not {RETURNS, CHARACTERISTICS} <= set(panel.data_vars):
        raise PanelError(
            "`panel` must be the Dataset that the model was called with, with 'returns' and "
            f"'characteristics'; got {type(panel).__name__}."
        )
    is_listed = listed(panel)
    if not isinstance(samples, Mapping):
        # torch is loaded if there is an MCMC; this module must not load it
        from rvrae_pyro.predictive.mcmc import read_chains

        run = read_chains(samples)
        samples, group_by_chain = run.samples, True
        log_prior = run.log_prior if log_prior is None else log_prior
        if log_likelihood is None and run.log_likelihood is not None:
            log_likelihood = {RETURNS: run.log_likelihood}
        sample_stats = {**run.sample_stats, **(sample_stats or {})}
    observed = (panel[RETURNS].transpose(TIME, ASSET).notnull() & is_listed).values
    labels = {TIME: panel[TIME].values, ASSET: panel[ASSET].values, **dict(coords or {})}
    lead = 2 if group_by_chain else 1
    arrays = {name: to_numpy(values) for name, values in samples.items()}
    _check_samples(arrays, lead)
    sizes = {dim: len(to_numpy(each)) for dim, each in labels.items()}

    def prepared(given: Mapping[str, Any]) -> dict[str, Array]:
        chosen = dims or {}
        return {
            name: _drop_plates(name, to_numpy(values), chosen.get(name), sizes, lead)
            for name, values in given.items()
        }

    sites = prepared(arrays)
    if DECODED_FACTORS in sites:
        if FACTORS in sites:
            sites[LATENTS] = sites.pop(FACTORS)
        sites[FACTORS] = sites.pop(DECODED_FACTORS)
    groups: dict[str, Mapping[str, ArrayLike] | xr.Dataset] = {}
    if kind != "posterior" and RETURNS in sites:
        # of every listed cell, whether its return was observed or not
        sites[RETURNS] = np.where(is_listed.values, sites[RETURNS], np.nan)
    if kind == "predictions":
        groups[kind] = sites
    else:
        returns = sites.pop(RETURNS, None)
        groups[kind] = sites
        if returns is not None:
            if returns.shape[-2:] == observed.shape:
                _warn_of_copies(
                    returns[..., observed], panel[RETURNS].transpose(TIME, ASSET).values[observed]
                )
            groups[f"{kind}_predictive"] = {RETURNS: returns}
        if observed.any():
            groups["observed_data"] = {RETURNS: panel[RETURNS].transpose(TIME, ASSET).values}
    if log_likelihood is not None:
        groups["log_likelihood"] = prepared(log_likelihood)
    if log_prior:
        groups["log_prior"] = _log_prior(log_prior, labels[TIME], lead)
    if sample_stats is not None:
        groups["sample_stats"] = prepared(sample_stats)
    return build_tree(
        {name: each for name, each in groups.items() if len(each)},
        coords=labels,
        observed=observed if observed.any() else None,
        dims=dims,
        attrs=attrs,
    )


def _log_prior(given: Mapping[str, ArrayLike], times: ArrayLike, lead: int) -> xr.Dataset:
    """Label log densities by site, (chain, draw) or (chain, draw, time)."""
    labels = to_numpy(times)
    found, count = {}, 0
    for name, values in given.items():
        array = to_numpy(values)
        array = array if lead == 2 else array[None]
        rest = array.shape[2:]
        if array.ndim < 2 or rest not in ((), labels.shape):
            raise ShapeError(
                f"`log_prior[{name!r}]` must have one number per draw, or per draw and month "
                f"({len(labels)}); got shape {np.shape(to_numpy(values))}."
            )
        dims = (CHAIN, DRAW, TIME)[: 2 + len(rest)]
        found[name] = (dims, array)
        count = array.shape[1]
    coords = {CHAIN: np.arange(next(iter(found.values()))[1].shape[0]), DRAW: np.arange(count)}
    dated = any(TIME in dims for dims, _ in found.values())
    return xr.Dataset(found, {**coords, TIME: labels} if dated else coords)


def _warn_of_copies(returns: Array, given: Array) -> None:
    """Warn where draws (chain, draw, cells) are the data: the model was given the returns."""
    draws = returns.reshape(-1, returns.shape[-1])
    if len(draws) > 1 and given.size and np.allclose(draws, given, rtol=1e-5, atol=1e-9):
        warn_user(
            "every draw of `returns` is the panel's own: the model was given them and drew none, "
            "so that a predictive check would find no fault. Call Predictive on "
            "`batch.without_returns()`."
        )


def _check_samples(arrays: Mapping[str, Array], lead: int) -> None:
    counts = {name: values.shape[:lead] for name, values in arrays.items()}
    short = [name for name, count in counts.items() if len(count) < lead]
    if not counts or short or len(set(counts.values())) > 1:
        expected = "(chain, draw)" if lead == 2 else "one sample dim"
        raise ShapeError(
            f"`samples` must hold sites that all start with the same {expected}; got {counts}."
        )


def _drop_plates(
    name: str, values: Array, dims: Sequence[str] | None, sizes: Mapping[str, int], lead: int
) -> Array:
    """Drop a site's singleton plate dims and give it dims (chain, draw, ...)."""
    count, shape = values.shape[:lead], values.shape[lead:]
    sample = count if lead == 2 else (1, *count)
    choices = (tuple(dims),) if dims is not None else DIMS.get(name)
    if choices is None:
        while shape and shape[0] == 1:
            shape = shape[1:]
        return values.reshape(*sample, *shape)
    for chosen in choices:
        for places in _layouts(chosen, len(shape)):
            kept = tuple(shape[place] for place in places)
            others = [size for i, size in enumerate(shape) if i not in places]
            fits = all(sizes.get(d, s) == s for d, s in zip(chosen, kept, strict=True))
            if fits and all(size == 1 for size in others):
                return values.reshape(*sample, *kept)
    expected = " or ".join(str({dim: sizes.get(dim, "any") for dim in each}) for each in choices)
    raise ShapeError(
        f"Site `{name}` has shape {values.shape}, which after {lead} sample dim(s) does not hold "
        f"{expected} with dims of size one between. Was it drawn for this panel?"
    )


def _layouts(dims: tuple[str, ...], n: int) -> list[tuple[int, ...]]:
    """Places of ``dims`` among ``n``: with plates where Pyro puts them, or all at the end."""
    events = [dim for dim in dims if dim not in PLATES]
    first = n - len(events)
    places = [first - len(PLATES) + PLATES.index(dim) for dim in dims if dim in PLATES]
    at_plates = (*places, *range(first, n))
    at_end = tuple(range(n - len(dims), n))
    before_one = tuple(place - 1 for place in at_plates)  # an event of size one has no dim
    layouts = (at_plates, at_end, before_one)
    return [each for each in layouts if all(place >= 0 for place in each)]
