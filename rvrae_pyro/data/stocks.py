"""Twenty US stocks that the package ``skfolio`` ships."""

import importlib.util
from functools import lru_cache
from pathlib import Path

import pandas as pd
import xarray as xr

from rvrae_pyro.data.prices import characteristics_from_prices
from rvrae_pyro.errors import PanelError

_FILE = "sp500_dataset.csv.gz"


def load_sp500() -> xr.Dataset:
    """Load 20 large US stocks, 1990-02 to 2022-12, as a panel.

    Daily adjusted closing prices of 20 members of the S&P 500, as the package ``skfolio`` ships
    them (extra ``stocks``), turned into months and price characteristics by
    :func:`~rvrae_pyro.data.prices.characteristics_from_prices`.

    Returns
    -------
    Dataset
        395 months with returns and the live month 2023-01. Characteristics are raw: see
        ``rank_characteristics``.

    Raises
    ------
    PanelError
        If ``skfolio`` or its data file is missing.

    Notes
    -----
    Returns are total returns, taken as excess: the file has no risk-free rate, and the attribute
    ``return_kind`` says that nothing was subtracted. The stocks were chosen after the fact from
    survivors, so that returns and every backtest on them are flattered: an example, not evidence.

    Examples
    --------
    >>> panel = load_sp500()  # doctest: +SKIP
    >>> panel.sizes["asset"]  # doctest: +SKIP
    20
    """
    return _sp500().copy(deep=True)


@lru_cache(maxsize=1)
def _sp500() -> xr.Dataset:
    # the folder is found without importing skfolio, which takes seconds
    spec = importlib.util.find_spec("skfolio")
    folders = list(spec.submodule_search_locations or []) if spec is not None else []
    path = Path(folders[0] if folders else ".", "datasets", "data", _FILE)
    if not folders or not path.is_file():
        raise PanelError(
            "load_sp500 reads the prices that the package `skfolio` ships, and found none. Install "
            "it: pip install 'rvrae-pyro[stocks]'."
        )
    close = pd.read_csv(path, parse_dates=["Date"], index_col="Date").astype("float64")
    # the rate is not known; told so in the attribute instead of by a warning at every call
    panel = characteristics_from_prices(close, excess=True)
    panel.attrs["return_kind"] = "simple, taken as excess"
    panel.attrs["source"] = "20 members of the S&P 500, as shipped by skfolio"
    return panel
