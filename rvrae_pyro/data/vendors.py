"""Readers of published data: Gu, Kelly and Xiu; Global Factor Data; Open Source Asset Pricing."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import pandas as pd
import xarray as xr

from rvrae_pyro.data.calendar import month_end
from rvrae_pyro.data.plain_tables import asset_ids, column_names, read_rest
from rvrae_pyro.data.readers import ColumnMap, month_bounds, panel_of, read_long, read_rows
from rvrae_pyro.data.validation import first_three
from rvrae_pyro.errors import PanelError

_JKP: Final = ColumnMap(time="eom", asset="id", returns="ret_exc_lead1m", weight="me")
_SCREENS: Final = ("obs_main", "exch_main", "primary_sec", "common")
_COUNTRY: Final = "excntry"
_INDUSTRY: Final = "ff49"

_NO_CHARACTERISTICS: Final = frozenset(
    {"id", "date", "eom", "eom_ret", "source_crsp", "size_grp", "gvkey", "iid", "permno", "permco"}
    | {*_SCREENS, _COUNTRY, "curcd", "fx", "adjfct", "shares", "tvol", "bidask", "comp_tpci"}
    | {"crsp_shrcd", "comp_exchg", "crsp_exchcd", "gics", "naics", "sic", _INDUSTRY}
    | {"ret", "ret_local", "ret_exc", "ret_lag_dif", "ret_exc_lead1m", "ret_lead1m"}
    | {"me", "me_company", "prc_local", "prc_high", "prc_low", "dolvol", "enterprise_value"}
    | {"book_equity", "assets", "sales", "net_income", "intrinsic_value"}
    | {"div_tot", "div_cash", "div_spc"}
)
"""Columns of ids, flags, codes, returns and amounts in money; `prc` is one of the 153."""

_OPENAP: Final = ColumnMap(time="yyyymm", asset="permno", returns=None, lag=1)


GKX_COLUMNS: Final = ColumnMap(
    time="DATE", asset="permno", returns="RET", drop=("Unnamed: 0",), label="sic2"
)
"""Columns of the ``datashare.csv`` that Gu, Kelly and Xiu publish (June 2021; earlier ones lack
RET): permno, DATE (YYYYMMDD, the month's last trading day), RET, 94 characteristics that are
lagged already, sic2."""


def read_gkx(
    path: str | os.PathLike[str],
    *,
    returns: pd.Series[Any] | None = None,
    risk_free: pd.Series[Any] | None = None,
    excess: bool = False,
    characteristics: tuple[str, ...] | None = None,
    start: object | None = None,
    end: object | None = None,
) -> xr.Dataset:
    """Read the characteristics file of Gu, Kelly and Xiu (``datashare.csv``).

    Parameters
    ----------
    path : str or path
        The csv file, or the same table as parquet.
    returns : Series, optional
        Simple decimal returns indexed by (permno, date), for files without RET; it takes the
        place of RET where there is one.
    risk_free : Series by date, optional
        Decimal rate per month, subtracted unless ``excess``.
    excess : bool
        Whether the returns are in excess of the rate already.
    characteristics : tuple of str, optional
        A choice of the 94. Default: all.
    start, end : month or year, optional
        First and last month to keep, such as "2004-12" or a Period; "2004" is the whole year.

    Returns
    -------
    Dataset
        Raw characteristics, float32, known at the end of t-1 as the file's authors lag them.
        ``weight`` is mvel1 where the file has it; the coordinate ``sic2`` labels assets with
        their last industry.

    Raises
    ------
    PanelError
        If the file is missing, damaged, or lacks columns or returns.

    Warns
    -----
    RvraeWarning
        If nothing states that the returns are excess.

    Notes
    -----
    Characteristics that are missing stay NaN until ``rank_characteristics``. Letters in RET,
    CRSP's codes for missing returns, become NaN: the row is live. The whole file makes a dense
    panel of more than 100 GB; choose ``start``, ``end`` and ``characteristics``. Read in pieces
    of half a million rows.

    References
    ----------
    Gu, Kelly and Xiu (2020), Empirical asset pricing via machine learning, Review of Financial
    Studies 33, internet appendix and the description that comes with the file.
    """
    names = column_names(Path(path))
    columns = GKX_COLUMNS
    if columns.returns not in names:
        columns = dataclasses.replace(columns, returns=None)
    if columns.label not in names:
        columns = dataclasses.replace(columns, label=None)
    sized, chosen = "mvel1" in names, characteristics
    if sized and chosen is not None and "mvel1" not in chosen:
        chosen = (*chosen, "mvel1")
    columns = dataclasses.replace(columns, characteristics=chosen)
    panel = read_long(
        path, columns, returns=returns, risk_free=risk_free, excess=excess, start=start, end=end
    )
    if sized:
        size = panel["characteristics"].sel(characteristic="mvel1", drop=True)
        panel["weight"] = size.where(size > 0).astype("float64")
        if chosen != characteristics:
            panel = panel.sel(characteristic=list(characteristics or ()))
    panel.attrs["source"] = "Gu, Kelly and Xiu, datashare"
    return panel


def read_jkp(
    path: str | os.PathLike[str],
    *,
    characteristics: Sequence[str] | None = None,
    countries: Sequence[str] | None = None,
    screens: bool = True,
    start: object | None = None,
    end: object | None = None,
) -> xr.Dataset:
    """Read the Global Factor Data of Jensen, Kelly and Pedersen (WRDS: ``contrib.global_factor``).

    Parameters
    ----------
    path : str or path
        A file with the columns ``eom``, ``id`` and ``ret_exc_lead1m``: .csv, compressed or not, or
        .parquet, for one country or several.
    characteristics : sequence of str, optional
        Default: every numeric column that is no id, flag, code, return or amount of money.
    countries : sequence of str, optional
        Codes to keep, such as ``["USA"]``. Default: all of the file.
    screens : bool
        Whether to keep only rows with ``obs_main``, ``exch_main``, ``primary_sec`` and ``common``
        equal to 1, as its authors do. Default: True.
    start, end : month or year, optional
        First and last month of the panel, such as "2004-12" or a Period.

    Returns
    -------
    Dataset
        Raw characteristics, float32. ``returns`` are in US dollars and in excess of the US bill
        rate. ``weight`` is ``me`` where the file has it. Coordinates of ``asset``: ``ff49``, the
        last industry, and ``excntry``, where the file has them.

    Raises
    ------
    PanelError
        If the file is missing, damaged, or lacks columns, or no row passes the screens.

    Notes
    -----
    The row of month ``eom`` holds characteristics known at its end, and in ``ret_exc_lead1m`` the
    excess return of the month *after*. It becomes the row of that month, so that nothing on it is
    known later than the end of the month before. The last month of the file has no such return
    yet: it becomes the live one. ``ret`` and ``ret_exc`` are returns of ``eom`` itself and are left
    out; ``ret_1_0`` is the characteristic.

    Accounting data are taken as known four months after the fiscal period, by the authors. US
    stocks of CRSP and Compustat both appear, under different ids: ``screens=False`` gives both.

    References
    ----------
    Jensen, Kelly and Pedersen (2023), Is there a replication crisis in finance?, Journal of
    Finance 78, and the documentation of the Global Factor Data.
    """
    path = Path(path)
    names = column_names(path)
    columns = _JKP
    if columns.weight not in names:
        columns = dataclasses.replace(columns, weight=None)
    columns = dataclasses.replace(
        columns,
        characteristics=None if characteristics is None else tuple(characteristics),
        drop=tuple(_NO_CHARACTERISTICS),
        label=_INDUSTRY if _INDUSTRY in names else None,
    )
    chosen = columns.chosen(names, path)
    flags = [name for name in (*_SCREENS, _COUNTRY) if name in names]
    roles = [columns.time, columns.asset, columns.returns, columns.weight, columns.label]
    usecols = list(dict.fromkeys([*(name for name in roles if name is not None), *flags, *chosen]))
    first, last = month_bounds(start, end)
    if countries is not None and _COUNTRY not in names:
        raise PanelError(f"{path} has no column {_COUNTRY!r} to choose `countries` by.")

    def where(rows: pd.DataFrame) -> pd.Series[bool]:
        kept = pd.Series(True, index=rows.index)
        for flag in flags:
            if flag in _SCREENS and screens:
                kept &= rows[flag] == 1
        return kept if countries is None else kept & rows[_COUNTRY].isin(list(countries))

    frame = read_rest(list(read_rows(path, usecols, columns, (first - 1, last - 1), {}, where)))
    if frame.empty:
        raise PanelError(
            f"{path} has no row that passes the screens in the requested months and countries."
        )
    frame[columns.asset] = asset_ids(frame[columns.asset], f"{path}: column {columns.asset!r}")
    # data known at the end of eom belong to the row of the return after it
    after = pd.DatetimeIndex(frame[columns.time]) + pd.Timedelta(days=1)
    frame[columns.time] = month_end(after)
    frame = frame.rename(columns={str(columns.returns): "ret"}).drop(
        columns=[flag for flag in flags if flag in _SCREENS]
    )
    labels = None if columns.label is None else frame.pop(columns.label)
    text = [name for name in chosen if not pd.api.types.is_numeric_dtype(frame[name].dtype)]
    if columns.characteristics is None:
        chosen = [name for name in chosen if name not in text]
        frame = frame.drop(columns=text)
    elif text:
        raise PanelError(f"{path}: characteristics with text: {first_three(text)}.")
    panel = panel_of(frame, columns, labels, path, characteristics=chosen, excess=True)
    panel.attrs["source"] = "Jensen, Kelly and Pedersen, Global Factor Data"
    return panel


def read_openap(
    path: str | os.PathLike[str],
    returns: pd.Series[Any],
    *,
    risk_free: pd.Series[Any] | None = None,
    excess: bool = False,
    characteristics: Sequence[str] | None = None,
    start: object | None = None,
    end: object | None = None,
) -> xr.Dataset:
    """Read the signals of Open Source Asset Pricing (``signed_predictors_dl_wide.csv``).

    Parameters
    ----------
    path : str or path
        The csv file, the zip file that it comes in, or the same table as parquet: ``permno``,
        ``yyyymm`` and one column for each signal.
    returns : Series
        Simple decimal returns indexed by (permno, date): the file has none, for those of CRSP
        cannot be shared. CRSP's letters for a missing return are read as such.
    risk_free : Series by date, optional
        Decimal rate per month, subtracted unless ``excess``.
    excess : bool
        Whether the returns are in excess of the rate already. Default: False.
    characteristics : sequence of str, optional
        A choice of the signals. Default: all, about 200.
    start, end : month or year, optional
        First and last month of the panel, such as "2004-12" or a Period.

    Returns
    -------
    Dataset
        Raw signals, float32, known at the end of t-1. The month after the file's last one is live.

    Raises
    ------
    PanelError
        If the file is missing, damaged, or lacks columns, or the returns match no row.

    Warns
    -----
    RvraeWarning
        If returns match few rows, or nothing states that they are excess.

    Notes
    -----
    The row of ``yyyymm`` holds signals known at the end of that month; they are joined with the
    return of the month after it. Signals are signed by the authors so that a higher value predicts
    a higher return. The file leaves out Price, Size and STreversal, which are CRSP data: minus the
    logarithm of the price, minus that of market value, and minus the return of the month. Most
    cells are empty; binary signals stay as they are. The whole file makes a dense panel of more
    than 100 GB: choose ``start``, ``end`` and ``characteristics``.

    References
    ----------
    Chen and Zimmermann (2022), Open source cross-sectional asset pricing, Critical Finance Review
    11, and www.openassetpricing.com.
    """
    chosen = None if characteristics is None else tuple(characteristics)
    first, last = month_bounds(start, end)
    panel = read_long(
        path,
        dataclasses.replace(_OPENAP, characteristics=chosen),
        returns=returns,
        risk_free=risk_free,
        excess=excess,
        start=None if start is None else first - 1,
        end=None if end is None else last - 1,
    )
    panel.attrs["source"] = "Chen and Zimmermann, Open Source Asset Pricing"
    return panel


PAPER_GROUPS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "past returns": ("mom1m", "mom6m", "mom12m", "mom36m", "chmom", "indmom"),
        "investment": ("agr", "egr", "invest", "chcsho", "chinv", "grcapx", "grltnoa"),
        "profitability": ("gma", "operprof", "roaq", "roeq", "roic", "chatoia", "chpmia", "depr",
                          "cashdebt"),
        "intangibles": ("acc", "absacc", "pctacc", "pchgm_pchsale"),
        "value": ("bm", "bm_ia", "cash", "cfp", "cfp_ia", "dy", "ep", "lev", "sp"),
        "trading frictions": ("baspread", "beta", "betasq", "dolvol", "idiovol", "ill", "maxret",
                              "mvel1", "retvol", "std_turn", "turn"),
    }
)  # fmt: skip
"""Characteristics by group, under the names of ``datashare.csv``.

Wang and Guo (2024) use 46 characteristics and do not print their names; the number is that of
Chen, Pelger and Zhu (2024, Management Science), whose six groups these are. For every group the
file's characteristics nearest to theirs were chosen; some of theirs are not in the file (operating
leverage, standard unexplained volume, closeness to the 52-week high), and others of the group take
their place.
"""

PAPER_CHARACTERISTICS: Final[tuple[str, ...]] = tuple(chain(*PAPER_GROUPS.values()))
"""All 46, group by group."""
