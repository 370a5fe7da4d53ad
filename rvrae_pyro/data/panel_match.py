"""Identity of panels: content hash, and comparison with the panel that a model was fitted on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from rvrae_pyro.data.chunks import each_row
from rvrae_pyro.data.validation import raise_problems
from rvrae_pyro.errors import PanelError, warn_user
from rvrae_pyro.names import CHARACTERISTIC, CONTEXT, FEATURE

_NAMES: Final = "characteristics"
_REST: Final = "panel"

_REMEDIES: Final[dict[tuple[str, object], str]] = {
    ("transform", "rank"): "Rank the panel: rv.data.rank_characteristics(panel).",
    ("transform", "none"): "Pass the panel with raw characteristics.",
}
_GENERAL: Final = {
    "transform": "Transform the characteristics as those of the fit.",
    "frequency": "Pass a panel of the fit's frequency, or fit again.",
    "lag": (
        "Read the table as that of the fit, from_frame(..., lag={expected}); if its rows were "
        "shifted before, set panel.attrs['lag'] = {expected}."
    ),
}

_COMPARED: Final = ("transform", "frequency", "lag", "return_kind")
_CONTEXT_ATTRS: Final = {"context_source": "source", "context_from": "standardised_from"}


def describe_panel(panel: xr.Dataset, *, context: bool) -> dict[str, str]:
    """Describe a panel by what later panels must share with it, as attributes of a fit.

    Each is JSON text. ``characteristics``: names in the order of the model's inputs. ``panel``: the
    attributes ``transform``, ``frequency``, ``lag``, ``return_kind`` and ``source`` that the panel
    has; with ``context`` (for models that read it) its ``features``, and where it was made by
    ``market_context``, ``context_source`` and ``context_from``.
    """
    rest = {name: panel.attrs[name] for name in _COMPARED if name in panel.attrs}
    rest |= {"source": panel.attrs["source"]} if panel.attrs.get("source") else {}
    if context and CONTEXT in panel:
        rest["features"] = _labels(panel, FEATURE)
        for name, given in _CONTEXT_ATTRS.items():
            if given in panel[CONTEXT].attrs:
                rest[name] = panel[CONTEXT].attrs[given]
    return {
        _NAMES: json.dumps(_labels(panel, CHARACTERISTIC)),
        _REST: json.dumps(rest, default=str),
    }


def match_panel(
    panel: xr.Dataset, fitted: Mapping[str, Any], argument: str = "panel"
) -> xr.Dataset:
    """Take a panel's characteristics by name and compare the rest with the panel of a fit.

    Parameters
    ----------
    panel : Dataset
        Any months and assets. Attributes that it or the fit lacks are not compared.
    fitted : mapping
        Attributes of the fit, with those of :func:`describe_panel`.
    argument : str
        Name of the argument, for messages.

    Returns
    -------
    Dataset
        The same panel, characteristics and features of the context in the fit's order.

    Raises
    ------
    PanelError
        Listing every difference.

    Warns
    -----
    RvraeWarning
        If returns are in excess of the risk-free rate in one panel only, or ``market_context`` is
        standardised from another month on.
    """
    if not isinstance(panel, xr.Dataset):
        raise PanelError(
            f"`{argument}` must be a panel, an xarray.Dataset; got {type(panel).__name__}. Make "
            "one with rv.data.from_frame, or read one with rv.data.read_panel."
        )
    stated = json.loads(str(fitted.get(_REST, "{}")))
    names = json.loads(str(fitted.get(_NAMES, "null")))
    problems = list(_attribute_problems(panel, stated))
    problems += _name_problems(panel, CHARACTERISTIC, names)
    features = stated.get("features")
    if features is not None:
        problems += _context_problems(panel, stated)
    raise_problems(
        f"`{argument}` does not match the panel of the fit", problems, several="in {} ways"
    )
    _warn(panel, stated, argument)
    return in_order(in_order(panel, CHARACTERISTIC, names), FEATURE, features)


def _attribute_problems(panel: xr.Dataset, stated: Mapping[str, Any]) -> Iterator[str]:
    for name, general in _GENERAL.items():
        expected, got = stated.get(name), panel.attrs.get(name)
        if expected is None or got is None or got == expected:
            continue
        remedy = _REMEDIES.get((name, expected), general).format(expected=expected)
        yield f"`{name}` must be {expected!r}, got {got!r}. {remedy}"


def _name_problems(
    panel: xr.Dataset, dim: str, names: Sequence[str] | None, what: str = "characteristics"
) -> list[str]:
    if names is None or dim not in panel.coords:
        return []
    have = _labels(panel, dim)
    absent = [name for name in names if name not in have]
    extra = [name for name in have if name not in names]
    if not absent and not extra:
        return []
    text = f"{what} must be the {len(names)} of the fit"
    text += f"; missing: {_few(absent)}" if absent else ""
    text += f"; unknown to the model: {_few(extra)}" if extra else ""
    remedy = f"Add them, or fit again on the {what} that there are."
    if not absent:
        remedy = f"Leave them out: panel.sel({dim}=[...])."
    return [f"{text}. {remedy}"]


def _context_problems(panel: xr.Dataset, stated: Mapping[str, Any]) -> list[str]:
    source = stated.get("context_source")
    if CONTEXT not in panel:
        remedy = f"Add it with rv.data.{source}, before ranking." if source else "Add it."
        return [f"`context` with {_few(stated['features'])} is missing. {remedy}"]
    problems = _name_problems(panel, FEATURE, stated["features"], "features of `context`")
    got = panel[CONTEXT].attrs.get("source")
    if source is not None and got is not None and got != source:
        problems.append(
            f"`context` must be from {source!r}, got {got!r}. Make it as that of the fit."
        )
    return problems


def _warn(panel: xr.Dataset, stated: Mapping[str, Any], argument: str) -> None:
    # one place in the code for all callers, so that Python shows each text once
    expected, got = stated.get("return_kind"), panel.attrs.get("return_kind")
    if None not in (expected, got) and expected != got:
        warn_user(
            f"`{argument}`: returns are {got!r}, those of the fit were {expected!r}. Pass both "
            "with the same risk-free rate subtracted."
        )
    expected = stated.get("context_from")
    got = panel[CONTEXT].attrs.get("standardised_from") if CONTEXT in panel else None
    if None not in (expected, got) and expected != got:
        warn_user(
            f"`{argument}`: the market context is standardised from {got} on, that of the fit from "
            f"{expected}, so that its values differ. Add it to the panel that starts in {expected} "
            "before cutting months."
        )


def in_order(panel: xr.Dataset, dim: str, names: Sequence[str] | None) -> xr.Dataset:
    """Select labels in order; the panel itself, not a copy, if it has that order."""
    if names is None or dim not in panel.coords or _labels(panel, dim) == list(names):
        return panel
    return panel.sel({dim: list(names)})


def _labels(panel: xr.Dataset, dim: str) -> list[str]:
    return [str(label) for label in panel[dim].values]


def _few(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:5]))
    return shown if len(names) <= 5 else f"{shown}, ... ({len(names)} in all)"


def fingerprint(panel: xr.Dataset) -> str:
    """Hash the labels and values of a panel.

    Parameters
    ----------
    panel : Dataset

    Returns
    -------
    str
        SHA-256, 64 hexadecimal digits. Equal for panels with the same variables,
        dimensions, labels in the same order, and values, on every machine; attributes
        and the width of floats do not matter, so a file round trip leaves it unchanged.

    Examples
    --------
    >>> from rvrae_pyro.data.datasets import load_french
    >>> panel = load_french()
    >>> fingerprint(panel) == fingerprint(panel.copy(deep=True))
    True
    """
    digest = hashlib.sha256()
    for name in sorted(map(str, panel.variables)):
        array = panel[name]
        digest.update(f"{name}{array.dims}{array.shape}".encode())
        # a row at a time, so that large panels are not copied whole
        for row in each_row(array) if array.ndim > 1 else [array.values]:
            digest.update(_plain_bytes(np.asarray(row)))
    return digest.hexdigest()


def _plain_bytes(values: NDArray[np.generic]) -> bytes:
    """Bytes of values in one form, for any width, byte order and kind of NaN."""
    if values.dtype.kind in "fiub":
        plain = values.astype("<f8")
        plain[np.isnan(plain)] = np.nan
        return plain.tobytes()
    if values.dtype.kind == "M":
        return values.astype("datetime64[ns]").astype("<i8").tobytes()
    return "\0".join(map(str, values.ravel())).encode()
