"""Tables in order and spoilt ones, generated: what `test_corruption` counts the errors on.

A table in order has returns with a common factor, market values that grow with them, persistent and
passing characteristics, gaps, assets that come and go, and a label. A corruption takes it and gives
a way to read the spoilt table, and the columns that a warning has to name.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from rvrae_pyro.data import (
    ColumnMap,
    characteristics_from_prices,
    from_frame,
    from_prices,
    from_wide,
    read_long,
    read_openap,
    read_panel,
    to_frame,
)
from rvrae_pyro.errors import RvraeError, RvraeWarning

Read = Callable[[], xr.Dataset]


@dataclass(frozen=True)
class Spoilt:
    """A way to read a spoilt table, and what a warning of it must name."""

    read: Read
    names: tuple[str, ...] = ("ret",)
    expected: xr.Dataset | None = None


def clean(rng: np.random.Generator, *, months: int | None = None) -> pd.DataFrame:
    """A table in order: what stands on a row was known before its month."""
    n_times = months or int(rng.integers(26, 48))
    n_assets = int(rng.integers(12, 30))
    dates = pd.period_range(
        f"{rng.integers(1980, 2012)}-{rng.integers(1, 13):02d}", periods=n_times + 1, freq="M"
    )
    beta = rng.normal(1.0, 0.3, n_assets)
    factor = 0.04 * rng.standard_normal((n_times + 1, 1))
    returns = 0.005 + factor * beta + 0.07 * rng.standard_t(5, (n_times + 1, n_assets)) / 1.3
    returns = np.maximum(returns, -0.8)
    issues = 0.002 * rng.standard_normal(returns.shape)
    value = np.exp(rng.normal(8, 1, n_assets) + (np.log1p(returns) + issues).cumsum(axis=0))
    vol = np.exp(0.2 * rng.standard_normal(returns.shape).cumsum(axis=0) - 3)
    wide = {
        "ret": returns[1:],
        "me": value[:-1],
        "mom_1m": returns[:-1],
        "beta": (beta + 0.1 * rng.standard_normal(returns.shape))[1:],
        "vol": vol[:-1],
        "bm": rng.lognormal(0.0, 0.6, returns.shape)[1:],
    }
    table = pd.DataFrame(
        {
            "date": np.repeat(dates[1:].to_timestamp(how="end").normalize(), n_assets),
            "asset": np.tile(10_001 + 7 * np.arange(n_assets), n_times),
            **{name: values.ravel() for name, values in wide.items()},
        }
    )
    table["country"] = np.array(["US", "NA", "DE", "FR"])[table["asset"] % 4]
    position = np.repeat(np.arange(n_times), n_assets)
    born = rng.integers(0, n_times // 3, n_assets)[np.tile(np.arange(n_assets), n_times)]
    born[np.tile(np.arange(n_assets), n_times) < 6] = 0
    table.loc[rng.random(len(table)) < 0.03, "beta"] = np.nan
    table.loc[rng.random(len(table)) < 0.02, "ret"] = np.nan
    return table[position >= born].reset_index(drop=True)


def frame(table: pd.DataFrame, **kwargs: object) -> Read:
    return lambda: from_frame(table, **({"excess": True} | kwargs))  # type: ignore[arg-type]


def csv(table: pd.DataFrame, folder: Path, **kwargs: object) -> Read:
    """Through a csv file, which is read later."""
    path = folder / "t.csv"
    table.to_csv(path, index=False, **kwargs)  # type: ignore[call-overload]
    return lambda: read_long(path, excess=True)


def text(table: pd.DataFrame, folder: Path, name: str, write: Callable[[float], str]) -> Read:
    """Through a csv file in which one column is written in another way."""
    written = table[name].map(lambda v: "" if np.isnan(v) else write(v))
    return csv(table.assign(**{name: written}), folder)


def some(
    rng: np.random.Generator, table: pd.DataFrame, least: int = 3, share: float = 0.05
) -> np.ndarray:
    """Positions of a few rows."""
    count = max(least, int(share * len(table) * rng.random()))
    return rng.choice(len(table), count, replace=False)


def put(table: pd.DataFrame, rows: np.ndarray, name: str, value: object) -> pd.DataFrame:
    changed = table.copy()
    if not isinstance(value, float):
        changed[name] = changed[name].astype(object)
    changed.loc[rows, name] = value
    return changed


def ahead(table: pd.DataFrame, step: int = 1) -> pd.Series:
    return table.groupby("asset")["ret"].shift(-step)


def late(table: pd.DataFrame) -> np.ndarray:
    """Marks the last third of the months."""
    return (table["date"] > table["date"].quantile(0.66)).to_numpy()


# ---- corruptions: (rng, table, folder) -> Spoilt


def _dates(write: Callable[[pd.Series], pd.Series]):
    def spoil(rng, table, folder):
        changed = table.assign(date=write(table["date"]))
        return Spoilt(frame(changed) if rng.random() < 0.5 else csv(changed, folder), ("date",))

    return spoil


def _typo(value):
    def spoil(rng, table, folder):
        coded = table["date"].dt.strftime("%Y%m").astype(int)
        return Spoilt(
            frame(put(table.assign(date=coded), some(rng, table), "date", value)), ("date",)
        )

    return spoil


def mixed_dates(rng, table, folder):
    iso, other = (table["date"].dt.strftime(f) for f in ("%Y-%m-%d", "%d.%m.%Y"))
    return Spoilt(
        frame(table.assign(date=iso.where(rng.random(len(table)) < 0.5, other))), ("date",)
    )


def missing_dates(rng, table, folder):
    changed = put(table, some(rng, table), "date", None)
    return Spoilt(frame(changed) if rng.random() < 0.5 else csv(changed, folder), ("date",))


def month_lost(rng, table, folder):
    months = table["date"].unique()
    return Spoilt(
        frame(table[table["date"] != months[rng.integers(2, len(months) - 2)]]), ("time",)
    )


def missing_ids(rng, table, folder):
    changed = put(
        table, some(rng, table), "asset", rng.choice(np.array([None, "", np.nan], object))
    )
    return Spoilt(frame(changed), ("asset",))


def ids_cut_short(rng, table, folder):
    return Spoilt(frame(table.assign(asset=table["asset"].astype(str).str[:3])), ("asset",))


def ids_as_fractions(rng, table, folder):
    return Spoilt(frame(table.assign(asset=table["asset"] / 10)), ("asset",))


def ids_too_large(rng, table, folder):
    return Spoilt(
        frame(table.assign(asset=(table["asset"] * 10_001).astype("float32"))), ("asset",)
    )


def ids_as_floats(rng, table, folder):
    changed = table.assign(asset=table["asset"].astype(float))
    read = frame(changed) if rng.random() < 0.5 else csv(changed, folder)
    return Spoilt(read, ("asset",), from_frame(table, excess=True))


def ids_padded(rng, table, folder):
    ids = table["asset"].astype(str)
    changed = table.assign(asset=ids.where(rng.random(len(table)) < 0.5, ids + " "))
    read = frame(changed) if rng.random() < 0.5 else csv(changed, folder)
    return Spoilt(read, ("asset",), from_frame(table, excess=True))


def ids_in_two_ways(rng, table, folder):
    ids = "T" + table["asset"].astype(str)
    other = ids.str.lower() if rng.random() < 0.5 else "00" + table["asset"].astype(str)
    ids = ids if other.iloc[0].startswith("t") else table["asset"].astype(str)
    return Spoilt(
        frame(table.assign(asset=ids.where(rng.random(len(table)) < 0.5, other))), ("ids",)
    )


def ids_and_dates_swapped(rng, table, folder):
    return Spoilt(
        frame(table.rename(columns={"asset": "date", "date": "asset"})), ("asset", "date")
    )


def header_in_other_case(rng, table, folder):
    name = str(rng.choice(["date", "asset", "ret"]))
    change = rng.choice(
        np.array([str.upper, lambda v: f" {v}", lambda v: f"{v} ", str.title], object)
    )
    return Spoilt(csv(table.rename(columns={name: change(name)}), folder), (name,))


def header_lost(rng, table, folder):
    return Spoilt(csv(table, folder, header=False), ("date",))


def header_twice_in_the_file(rng, table, folder):
    path = folder / "t.csv"
    lines = table.to_csv(index=False).splitlines()
    at = int(rng.integers(5, len(lines) - 5))
    path.write_text("\n".join([*lines[:at], lines[0], *lines[at:]]))
    return Spoilt(lambda: read_long(path, excess=True), ("date",))


def header_names_repeated(rng, table, folder):
    one, two = rng.choice(["me", "beta", "vol", "bm"], 2, replace=False)
    return Spoilt(csv(table.rename(columns={two: one}), folder), (str(one),))


def row_numbers_saved(rng, table, folder):
    name = str(rng.choice(["Unnamed: 0", "index", "level_0", ""]))
    changed = table.copy()
    changed.insert(0, name, np.arange(len(table)))
    return Spoilt(csv(changed, folder), (name or "Unnamed: 0",))


def two_levels(rng, table, folder):
    wide = table.pivot(index="date", columns="asset", values=["ret", "me", "bm"])
    return Spoilt(frame(wide), ("levels",))


def names_of_parts(rng, table, folder):
    name = str(rng.choice(["returns", "time", "characteristics", "context"]))
    return Spoilt(frame(table.rename(columns={str(rng.choice(["beta", "vol"])): name})), (name,))


def ids_left_in(rng, table, folder):
    name = str(rng.choice(["permno", "gvkey", "year", "sic", "yyyymm"]))
    values = table["date"].dt.year if name in ("year", "yyyymm") else table["asset"] % 97
    return Spoilt(frame(table.assign(**{name: values})), (name,))


def _unit(change: Callable[[pd.Series], pd.Series]):
    def spoil(rng, table, folder):
        changed = table.assign(ret=change(table["ret"]))
        return Spoilt(frame(changed) if rng.random() < 0.5 else csv(changed, folder))

    return spoil


def percent_later_on(rng, table, folder):
    return Spoilt(frame(table.assign(ret=table["ret"].where(~late(table), 100 * table["ret"]))))


def percent_for_some(rng, table, folder):
    odd = table["asset"].isin(rng.choice(table["asset"].unique(), 3, replace=False))
    return Spoilt(frame(table.assign(ret=table["ret"].where(~odd, 100 * table["ret"]))))


def one_return_in_percent(rng, table, folder):
    known = table.index[table["ret"].notna()].to_numpy()
    return Spoilt(frame(put(table, rng.choice(known, 1), "ret", float(rng.uniform(60, 900)))))


def unit_of_a_characteristic(rng, table, folder):
    name = str(rng.choice(["me", "vol", "bm"]))
    factor = float(rng.choice([100.0, 1000.0, 1e6, 0.01, 1e-3]))
    changed = table.assign(**{name: table[name].where(~late(table), factor * table[name])})
    return Spoilt(frame(changed), (f"'{name}'",))


def prices_for_returns(rng, table, folder):
    price = 20 * np.exp(
        table.groupby("asset")["ret"].transform(lambda r: np.log1p(r.fillna(0)).cumsum())
    )
    return Spoilt(frame(table.assign(ret=price)))


def total_return_index(rng, table, folder):
    growth = table.groupby("asset")["ret"].transform(lambda r: r.fillna(0).cumsum())
    return Spoilt(frame(table.assign(ret=growth)))


def yearly_returns_by_month(rng, table, folder):
    year = table.groupby("asset")["ret"].transform(lambda r: r.fillna(0).rolling(12, 1).sum())
    return Spoilt(frame(table.assign(ret=year)))


def rate_in_percent(rng, table, folder):
    rate = pd.Series(rng.uniform(0.1, 0.4), table["date"].unique())
    return Spoilt(frame(table, risk_free=rate, excess=False), ("risk_free",))


def rate_a_year(rng, table, folder):
    rate = pd.Series(rng.uniform(0.02, 0.045), table["date"].unique())
    return Spoilt(frame(table, risk_free=rate, excess=False), ("risk_free",))


def rate_too_short(rng, table, folder):
    rate = pd.Series(0.001, table["date"].unique()[: -int(rng.integers(1, 6))])
    return Spoilt(frame(table, risk_free=rate, excess=False), ("risk_free",))


def _leak(make: Callable[[np.random.Generator, pd.DataFrame], pd.Series]):
    def spoil(rng, table, folder):
        name = str(rng.choice(["signal", "alpha_1", "x7", "score"]))
        changed = table.assign(**{name: make(rng, table)})
        return Spoilt(
            frame(changed) if rng.random() < 0.7 else csv(changed, folder), (f"'{name}'",)
        )

    return spoil


def named_like_a_lead(rng, table, folder):
    name = str(rng.choice(["ret_lead1", "fwd_ret", "next_ret", "target", "ret_exc_lead1m", "y"]))
    return Spoilt(frame(table.assign(**{name: rng.standard_normal(len(table))})), (f"'{name}'",))


def known_at_the_end(rng, table, folder):
    """Values of the end of the month on the row of the month, and no lag."""
    changed = table.assign(me=table["me"] * (1 + table["ret"]), mom_1m=table["ret"])
    gone = str(rng.choice(["mom_1m", "me", "bm"]))
    return Spoilt(frame(changed.drop(columns=gone)), ("'me'", "'mom_1m'"))


def lagged_twice(rng, table, folder):
    return Spoilt(frame(table, lag=1), ("'me'",))


def returns_a_month_early(rng, table, folder):
    return Spoilt(frame(table.assign(ret=ahead(table))), ("'me'",))


def returns_a_month_late(rng, table, folder):
    return Spoilt(frame(table.assign(ret=ahead(table, -1))), ("'me'", "'mom_1m'"))


def rows_repeated(rng, table, folder):
    return Spoilt(frame(pd.concat([table, table.iloc[some(rng, table, 1)]])), ("asset",))


def rows_contradict(rng, table, folder):
    again = table.iloc[some(rng, table, 1)].assign(ret=0.01)
    return Spoilt(csv(pd.concat([table, again]), folder), ("asset",))


def asset_under_two_ids(rng, table, folder):
    twin = table[table["asset"] == 10_001].assign(asset=99_999)
    return Spoilt(frame(pd.concat([table, twin])), ("99999",))


def month_copied(rng, table, folder):
    months = table["date"].unique()
    k = int(rng.integers(len(months) // 2, len(months)))
    before = table[table["date"] == months[k - 1]].set_index("asset")["ret"]
    here = table["date"] == months[k]
    return Spoilt(frame(table.assign(ret=table["ret"].where(~here, table["asset"].map(before)))))


def rows_shuffled(rng, table, folder):
    changed = table.sample(frac=1, random_state=int(rng.integers(99)))
    read = frame(changed) if rng.random() < 0.5 else csv(changed, folder)
    return Spoilt(read, (), from_frame(table, excess=True))


def columns_shuffled(rng, table, folder):
    changed = table[list(rng.permutation(table.columns))]
    read = frame(changed) if rng.random() < 0.5 else csv(changed, folder)
    return Spoilt(read, (), from_frame(table, excess=True))


def code_for_a_missing_return(rng, table, folder):
    code = float(rng.choice([-0.9999, -9.99, -0.99, -0.88, -99.0, -99.99, -999.0, -0.66]))
    return Spoilt(frame(put(table, some(rng, table, 6), "ret", code)))


def code_in_a_characteristic(rng, table, folder):
    name = str(rng.choice(["beta", "bm", "mom_1m", "vol"]))
    code = float(rng.choice([-99.99, -999.0, -9999.0, 9999.0, -99.0]))
    return Spoilt(csv(put(table, some(rng, table, 6), name, code), folder), (f"'{name}'",))


def missing_filled_with_zero(rng, table, folder):
    return Spoilt(frame(table.assign(ret=table["ret"].mask(rng.random(len(table)) < 0.55, 0.0))))


def missing_filled_forward(rng, table, folder):
    holes = table.assign(ret=table["ret"].mask(rng.random(len(table)) < 0.35))
    return Spoilt(frame(holes.assign(ret=holes.groupby("asset")["ret"].ffill())))


def _returns_as(write: Callable[[float], str]):
    return lambda rng, table, folder: Spoilt(text(table, folder, "ret", write))


def stray_text(rng, table, folder):
    name = str(rng.choice(["ret", "beta", "vol"]))
    word = str(rng.choice(["n.a.", "-", "--", "?", "error", "1,234", "#DIV/0!", "see note"]))
    return Spoilt(csv(put(table, some(rng, table), name, word), folder), (name,))


def letters_of_crsp(rng, table, folder):
    rows = some(rng, table)
    expected = from_frame(put(table, rows, "ret", np.nan), excess=True)
    return Spoilt(csv(put(table, rows, "ret", str(rng.choice(list("BCDE")))), folder), (), expected)


def _encoded(encoding: str):
    def spoil(rng, table, folder):
        named = table.assign(country=table["country"] + " Österreich")
        return Spoilt(csv(named, folder, encoding=encoding), ("UTF-8",))

    return spoil


def other_separator(rng, table, folder):
    return Spoilt(csv(table, folder, sep=str(rng.choice([";", "\t", "|"]))), ("separated",))


def separator_and_decimal_comma(rng, table, folder):
    return Spoilt(csv(table, folder, sep=";", decimal=","), ("separated",))


def file_cut_off(rng, table, folder):
    read = csv(table, folder)
    path = folder / "t.csv"
    content = path.read_bytes().rstrip()
    start = content.rindex(b"\n") + 1
    path.write_bytes(content[: start + int(rng.integers(8, 40))])
    return Spoilt(read, ("line",))


def quarterly_assets(rng, table, folder):
    months = {date: k for k, date in enumerate(table["date"].unique())}
    odd = table["asset"].isin([10_001, 10_008, 10_015]) & (table["date"].map(months) % 3 > 0)
    return Spoilt(frame(table[~odd]), ("10001",))


def days_among_months(rng, table, folder):
    day = table[late(table)].assign(
        date=lambda t: t["date"] - pd.Timedelta(days=int(rng.integers(1, 20)))
    )
    return Spoilt(frame(pd.concat([table, day])), ("frequency",))


def months_called_days_or_weeks(rng, table, folder):
    return Spoilt(frame(table, frequency=str(rng.choice(["daily", "weekly"]))), ("frequency",))


def quarters_called_months(rng, table, folder):
    return Spoilt(frame(table[table["date"].dt.month % 3 == 0]), ("time",))


def monthly_prices_called_daily(rng, table, folder):
    prices = 20 * np.exp(0.05 * rng.standard_normal((60, 5)).cumsum(axis=0))
    close = pd.DataFrame(prices, pd.date_range("2010-01-31", periods=60, freq="ME"), list("ABCDE"))
    return Spoilt(lambda: characteristics_from_prices(close, excess=True), ("close",))


def download_as_closes(rng, table, folder):
    days = pd.bdate_range("2014-01-01", periods=200)
    close = pd.DataFrame(20 + rng.random((200, 4)), days, list("ABCD"))
    wide = pd.concat({"Close": close, "Volume": 1e6 * close}, axis=1)
    return Spoilt(lambda: characteristics_from_prices(wide, excess=True), ("levels",))


def returns_swapped_with(*others: str):
    def spoil(rng, table, folder):
        other = str(rng.choice(others))
        return Spoilt(
            frame(table.rename(columns={"ret": other, other: "ret"})), ("ret", f"'{other}'")
        )

    return spoil


def infinite(rng, table, folder):
    return Spoilt(
        frame(put(table, some(rng, table), str(rng.choice(["ret", "beta", "bm"])), np.inf)), ()
    )


def lost_column(rng, table, folder):
    return Spoilt(frame(table.assign(bm=np.nan)), ("bm",))


def below_total_loss(rng, table, folder):
    return Spoilt(frame(put(table, some(rng, table), "ret", -1.7)), ("returns",))


def negative_weights(rng, table, folder):
    return Spoilt(frame(table.assign(weight=rng.standard_normal(len(table)))), ("weight",))


def other_ids_in_returns(rng, table, folder):
    path = folder / "t.csv"
    signals = table.assign(yyyymm=table["date"].dt.strftime("%Y%m"), permno=table["asset"])
    signals[["permno", "yyyymm", "beta", "bm"]].to_csv(path, index=False)
    ids = table["asset"] + (90_000 if rng.random() < 0.5 else 35)
    returns = table.assign(asset=ids).set_index(["asset", "date"])["ret"]
    return Spoilt(lambda: read_openap(path, returns, excess=True), ("returns",))


CORRUPTIONS = {
    "dates: US text": _dates(lambda d: d.dt.strftime("%m/%d/%Y")),
    "dates: day first": _dates(lambda d: d.dt.strftime("%d.%m.%Y")),
    "dates: names of months": _dates(lambda d: d.dt.strftime("%b %Y")),
    "dates: two-digit years": _dates(lambda d: d.dt.strftime("%d/%m/%y")),
    "dates: mixed text": mixed_dates,
    "dates: days since 1900": _dates(lambda d: (d - pd.Timestamp("1899-12-30")).dt.days),
    "dates: nanoseconds": _dates(lambda d: d.astype("datetime64[ns]").astype("int64")),
    "dates: years only": _dates(lambda d: d.dt.year),
    "dates: month 13": _typo(201013),
    "dates: another century": _typo(291001),
    "dates: missing": missing_dates,
    "dates: a month lost": month_lost,
    "ids: missing": missing_ids,
    "ids: cut short": ids_cut_short,
    "ids: fractions": ids_as_fractions,
    "ids: too large for floats": ids_too_large,
    "ids: floats": ids_as_floats,
    "ids: white space": ids_padded,
    "ids: case, leading zeros": ids_in_two_ways,
    "ids: swapped with dates": ids_and_dates_swapped,
    "headers: case, white space": header_in_other_case,
    "headers: lost": header_lost,
    "headers: again in the file": header_twice_in_the_file,
    "headers: repeated names": header_names_repeated,
    "headers: row numbers": row_numbers_saved,
    "headers: two levels": two_levels,
    "headers: names of parts": names_of_parts,
    "headers: ids and codes left in": ids_left_in,
    "units: percent": _unit(lambda r: 100 * r),
    "units: basis points": _unit(lambda r: 10_000 * r),
    "units: 1 + return": _unit(lambda r: 1 + r),
    "units: percent later on": percent_later_on,
    "units: percent for some assets": percent_for_some,
    "units: one return": one_return_in_percent,
    "units: of a characteristic": unit_of_a_characteristic,
    "units: prices": prices_for_returns,
    "units: index of returns": total_return_index,
    "units: yearly returns": yearly_returns_by_month,
    "units: rate in percent": rate_in_percent,
    "units: rate a year": rate_a_year,
    "rate: too short": rate_too_short,
    "leads: next return": _leak(lambda rng, t: ahead(t)),
    "leads: next return, noisy": _leak(
        lambda rng, t: ahead(t) + 0.03 * rng.standard_normal(len(t))
    ),
    "leads: three months": _leak(lambda rng, t: t["ret"] + ahead(t) + ahead(t, 2)),
    "leads: own return": _leak(lambda rng, t: rng.choice([-1.0, 1.0, 100.0]) * t["ret"]),
    "leads: rank of own return": _leak(lambda rng, t: t.groupby("date")["ret"].rank(pct=True)),
    "leads: direction": _leak(lambda rng, t: np.sign(t["ret"])),
    "leads: market of the month": _leak(lambda rng, t: t.groupby("date")["ret"].transform("mean")),
    "leads: names": named_like_a_lead,
    "lag: known at the end": known_at_the_end,
    "lag: twice": lagged_twice,
    "lag: returns a month early": returns_a_month_early,
    "lag: returns a month late": returns_a_month_late,
    "duplicates: rows": rows_repeated,
    "duplicates: rows that differ": rows_contradict,
    "duplicates: asset under two ids": asset_under_two_ids,
    "duplicates: month copied": month_copied,
    "shuffles: rows": rows_shuffled,
    "shuffles: columns": columns_shuffled,
    "missing codes: returns": code_for_a_missing_return,
    "missing codes: characteristics": code_in_a_characteristic,
    "missing codes: 0": missing_filled_with_zero,
    "missing codes: filled forward": missing_filled_forward,
    "missing codes: CRSP letters": letters_of_crsp,
    "text: typeset minus": _returns_as(lambda v: f"{v:.6f}".replace("-", "\u2212")),
    "text: brackets": _returns_as(lambda v: f"({-v:.6f})" if v < 0 else f"{v:.6f}"),
    "text: per cent sign": _returns_as(lambda v: f"{100 * v:.3f}%"),
    "text: decimal comma": _returns_as(lambda v: f"{v:.6f}".replace(".", ",")),
    "text: stray": stray_text,
    "encodings: UTF-16": _encoded("utf-16"),
    "encodings: Latin-1": _encoded("latin-1"),
    "encodings: separator": other_separator,
    "encodings: decimal comma": separator_and_decimal_comma,
    "encodings: cut off": file_cut_off,
    "frequency: quarterly assets": quarterly_assets,
    "frequency: days among months": days_among_months,
    "frequency: wrong name": months_called_days_or_weeks,
    "frequency: quarters": quarters_called_months,
    "frequency: monthly prices": monthly_prices_called_daily,
    "swapped: return and value": returns_swapped_with("me"),
    "swapped: return and characteristic": returns_swapped_with("beta", "vol", "bm"),
    "swapped: return and last return": returns_swapped_with("mom_1m"),
    "wide: a download as closes": download_as_closes,
    "values: infinite": infinite,
    "values: a column lost": lost_column,
    "values: below a total loss": below_total_loss,
    "values: negative weights": negative_weights,
    "joins: other ids": other_ids_in_returns,
}


# ---- panels in order, of every supported kind: (rng, folder) -> Read


def _renamed(table: pd.DataFrame) -> pd.DataFrame:
    return table.rename(columns={"date": "DATE", "asset": "permno", "ret": "RET"})


def _own_columns(rng, folder):
    path = folder / "own.csv"
    _renamed(clean(rng)).to_csv(path, index=False)
    return lambda: read_long(path, ColumnMap("DATE", "permno", "RET", label="country"), excess=True)


def _plain(rng, folder):
    suffix = str(rng.choice([".csv", ".parquet"]))
    table, path = clean(rng), folder / f"plain{suffix}"
    table.to_csv(path, index=False) if suffix == ".csv" else table.to_parquet(path, index=False)

    def read() -> xr.Dataset:
        with warnings.catch_warnings():  # that nothing says whether returns are excess is right
            warnings.filterwarnings("ignore", message=".*nothing was subtracted")
            return read_panel(path)

    return read


def _any_dates(rng, folder):
    table = clean(rng)
    forms = [
        lambda d: d.dt.strftime("%Y%m").astype(int),
        lambda d: d.dt.strftime("%Y%m%d").astype(float),
        lambda d: d.dt.to_period("M"),
        lambda d: d.dt.strftime("%Y-%m-%d"),
        lambda d: d.dt.to_period("M").dt.to_timestamp() + pd.offsets.BMonthEnd(0),
        lambda d: d.dt.to_period("M").dt.to_timestamp(),
        lambda d: d.dt.strftime("%Y-%m").astype("category"),
    ]
    return frame(table.assign(date=forms[rng.integers(len(forms))](table["date"])))


def _any_ids(rng, folder):
    table = clean(rng)
    kinds = ["float64", "str", "object", "Int64", "category", "int32"]
    return frame(table.astype({"asset": str(rng.choice(kinds))}))


def _known_at_the_end(rng, folder):
    """The same numbers a row earlier, as vendors date them, read with lag=1."""
    table = clean(rng)
    known = [c for c in table.columns if c not in ("date", "asset", "ret", "country")]
    moved = table.copy()
    moved[known] = table.groupby("asset")[known].shift(-1)
    return frame(moved, lag=1)


def _weighted_with_rate(rng, folder):
    table = clean(rng)
    table["rf"] = 0.001 + 0.002 * (table["date"].dt.month % 5) / 5
    return frame(table.rename(columns={"me": "weight"}), risk_free="rf", excess=False)


def _to_frame_and_back(rng, folder):
    table = to_frame(from_frame(clean(rng), excess=True, weight="me"))
    return lambda: from_frame(table)


def _wide(rng, folder):
    table = clean(rng)
    wide = {n: table.pivot(index="date", columns="asset", values=n) for n in ("ret", "me", "bm")}
    returns = wide.pop("ret")
    return lambda: from_wide(returns, excess=True, **wide)


def _other_frequency(rng, folder):
    frequency = str(rng.choice(["weekly", "daily"]))
    table = clean(rng)
    days = pd.date_range(
        "2012-01-06",
        periods=table["date"].nunique(),
        freq="W-FRI" if frequency == "weekly" else "B",
    )
    moved = table["date"].map(dict(zip(np.sort(table["date"].unique()), days, strict=True)))
    small = table.assign(date=moved, ret=0.3 * table["ret"])
    return frame(small.drop(columns=["me", "mom_1m"]), frequency=frequency)


def _prices(rng, folder):
    days = pd.bdate_range("2012-01-02", "2014-12-31")
    shape = len(days), int(rng.integers(4, 12))
    names = [f"T{k}" for k in range(shape[1])]
    moves = 0.006 * rng.standard_normal((shape[0], 1)) + 0.012 * rng.standard_normal(shape)
    close = pd.DataFrame(30 * np.exp(moves.cumsum(axis=0)), days, names)
    volume = pd.DataFrame(rng.integers(1000, 10**6, shape).astype(float), days, names)
    fields = {"Close": close, "High": 1.01 * close, "Low": close / 1.02, "Volume": volume}
    return lambda: from_prices(pd.concat(fields, axis=1), excess=True)


def _single_precision(rng, folder):
    table = clean(rng)
    numbers = table.select_dtypes("float").columns
    return frame(table.astype(dict.fromkeys(numbers, "float32")))


def _rounded(rng, folder):
    table = clean(rng)
    return csv(table.round({"ret": 3, "mom_1m": 3, "me": 0, "beta": 2, "bm": 2}), folder)


def _discrete(rng, folder):
    table = clean(rng)
    table["dummy"] = (rng.random(len(table)) < 0.2).astype(int)
    table["rating"] = rng.integers(1, 22, len(table))
    table["age"] = (table["date"].dt.year - 1950 + table["asset"] % 30).astype(float)
    table["vix"] = table["date"].map(
        pd.Series(rng.lognormal(3, 0.3, table["date"].nunique()), table["date"].unique())
    )
    return frame(table)


def _short_or_narrow(rng, folder):
    table = clean(rng, months=int(rng.integers(4, 14)))
    few = table["asset"].unique()[: int(rng.integers(2, 12))]
    return frame(table[table["asset"].isin(few)])


def _ranked(rng, folder):
    table = clean(rng)
    known = ["me", "mom_1m", "beta", "vol", "bm"]
    table[known] = 2 * table.groupby("date")[known].rank(pct=True) - 1
    return frame(table)


CLEAN = {
    "long table": lambda rng, folder: frame(clean(rng)),
    "(date, id) index": lambda rng, folder: frame(
        clean(rng).set_index(list(rng.permutation(["date", "asset"])))
    ),
    "plain files": _plain,
    "files with a column map": _own_columns,
    "dates of any kind": _any_dates,
    "ids of any kind": _any_ids,
    "lag=1": _known_at_the_end,
    "weight and rate": _weighted_with_rate,
    "to_frame and back": _to_frame_and_back,
    "wide tables": _wide,
    "weekly and daily": _other_frequency,
    "downloads of prices": _prices,
    "single precision": _single_precision,
    "rounded": _rounded,
    "dummies, ratings, market states": _discrete,
    "short or narrow": _short_or_narrow,
    "ranked": _ranked,
}


def judge(case: Spoilt) -> str:
    """What became of a spoilt table: error, warning, right, raw (an error of others) or silent."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        try:
            panel = case.read()
        except RvraeError as error:
            return "error" if str(error) else "raw"
        except Exception:  # any error of another library: counted as not caught
            return "raw"
    told = [str(each.message) for each in seen if issubclass(each.category, RvraeWarning)]
    if any(name in text for text in told for name in case.names):
        return "warning"
    if case.expected is not None and _same(panel, case.expected) and not told:
        return "right"
    return "silent"


def _same(one: xr.Dataset, two: xr.Dataset) -> bool:
    if set(one["characteristic"].values) != set(two["characteristic"].values):
        return False
    try:
        xr.testing.assert_allclose(
            one.sel(characteristic=two["characteristic"].values), two, rtol=1e-5
        )
    except AssertionError:
        return False
    return True
