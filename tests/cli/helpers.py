"""Files for the tests of the commands."""

from pathlib import Path

import numpy as np
import pandas as pd

SMALL = """
[model]
n_factors = 2
[model.loadings]
kind = "MLP"
hidden = [4]
[model.factor_prior]
kind = "AR1"
[fit]
max_steps = 6
"""


def write_settings(path: Path, text: str = SMALL) -> Path:
    path.write_text(text)
    return path


def long_table(n_times: int = 20, n_assets: int = 6, seed: int = 0) -> pd.DataFrame:
    """A raw long table: returns of 5 % a month, three characteristics, a name for each asset."""
    rng = np.random.default_rng(seed)
    months = pd.period_range("2010-01", periods=n_times, freq="M").to_timestamp(how="end")
    cells = pd.MultiIndex.from_product(
        [months.normalize(), [f"s{i}" for i in range(n_assets)]], names=["date", "asset"]
    )
    table = pd.DataFrame(index=cells).reset_index()
    table["ret"] = 0.05 * rng.standard_normal(len(table))
    for name in ("size", "vol_12m", "mom_1m"):
        table[name] = rng.lognormal(size=len(table))
    table["name"] = table["asset"].str.upper()
    return table


def content(folder: Path) -> dict[str, int]:
    """Every file below a folder, hidden ones included, with its size."""
    return {
        str(path.relative_to(folder)): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
