"""A comparison on disk: CSV for programs, Markdown and pictures for people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pandas as pd

from rvrae_pyro.atomic import replacing
from rvrae_pyro.errors import ConfigError
from rvrae_pyro.experiments.figures import draw_table
from rvrae_pyro.experiments.published import NOT_COMPARABLE, PAPER_RANK
from rvrae_pyro.experiments.tables import TABLES, skill_alarms, to_markdown, wide, with_printed
from rvrae_pyro.plots._files import save_picture

if TYPE_CHECKING:
    from rvrae_pyro.experiments.comparison import Comparison
    from rvrae_pyro.experiments.running import Failure

PAGE: Final = "report.md"
TITLE: Final = "# Comparison"

_CAVEATS = (
    "Standard errors: Newey-West over the test months, pooled with the spread over seeds. One span "
    "of test months is one history: differences of less than two standard errors say little.",
    "Assets that left the market before the data were collected are missing from many panels "
    "(survivorship), which flatters every model.",
)


def write_report(comparison: Comparison, out: Path) -> Path:
    """Write tables, tests and figures; see :meth:`Comparison.write`."""
    try:
        (out / "figures").mkdir(parents=True, exist_ok=True)
        write_csv(comparison.results, out / "results.csv")
        write_csv(comparison.p_values, out / "p_values.csv")
        write_csv(failure_table(comparison.failures), out / "failures.csv")
        for number, table in comparison.tables.items():
            write_csv(with_printed(table), out / f"table{number}.csv")
            picture = out / "figures" / f"table{number}.png"
            if table.empty:
                picture.unlink(missing_ok=True)  # of an earlier run into this folder
            else:
                save_picture(draw_table(table, TABLES[number].title), picture)
        page = out / PAGE
        write_text(page, markdown(comparison))
    except OSError as error:
        raise ConfigError(f"`out` {str(out)!r} cannot be written: {error}.") from error
    return page


def refuse_foreign(folder: Path, title: str) -> None:
    """Refuse a folder whose page is not of this kind, before it is written over.

    Raises
    ------
    ConfigError
        If there is a page with another title.
    """
    page = folder / PAGE
    if page.is_file():
        with page.open(encoding="utf-8", errors="replace") as file:
            found = file.readline().strip()
        if not found.startswith(title):
            raise ConfigError(
                f"`out` {str(folder)!r} holds results of another kind, {found.lstrip('# ')!r}; "
                "choose another folder."
            )


def markdown(comparison: Comparison) -> str:
    """All tables as one page of Markdown."""
    lines = [TITLE, "", *_facts(comparison), ""]
    for number, rows in comparison.tables.items():
        if rows.empty:
            continue
        table = TABLES[number]
        picture = f"![Table {number}](figures/table{number}.png)"
        lines += [f"## Table {number}. {table.title}", "", to_markdown(wide(rows, number)), ""]
        lines += [table.note, *_printed_note(number), "", picture, ""]
        if number == "4":
            lines += _tests(comparison)
    alarms = skill_alarms(comparison.results)
    if alarms:
        lines += ["## Too good to be true", "", *(f"- {each}" for each in alarms), ""]
    if comparison.failures:
        lines += ["## Fits that failed", "", to_markdown(failure_table(comparison.failures)), ""]
    lines += ["## How to read it", "", *(f"- {each}" for each in _CAVEATS), ""]
    return "\n".join(lines)


def _facts(comparison: Comparison) -> list[str]:
    info = comparison.info
    spans = [f"{name} {' to '.join(info[name])}" for name in ("train", "valid", "test")]  # type: ignore[arg-type]
    return [
        f"- Months: {', '.join(spans)}; {info['n_assets']} assets.",
        f"- Seeds {info['seeds']}, {info['n_factors']} factors, {info['num_samples']} draws, costs "
        f"{1e4 * float(info['cost']):g} basis points, legs of {info['quantile']:.0%}.",  # type: ignore[arg-type]
        f"- {len(comparison.monthly)} fits, {info['seconds_of_fits']} s in all, "
        f"{len(comparison.failures)} failed. This run took {info['seconds']} s.",
        f"- Data {str(info['data_fingerprint'])[:16]}; versions {info['versions']}.",
    ]


def _printed_note(number: str) -> list[str]:
    if number in ("1", "2"):
        return ["", f"[printed]: {NOT_COMPARABLE}"]
    if number == "3":
        cells = "; ".join(f"{m} omitted {ic} ({ir})" for m, (ic, ir) in PAPER_RANK.items())
        return ["", f"Printed for RVRAE, Rank IC (ICIR): {cells}. {NOT_COMPARABLE}"]
    return []


def _tests(comparison: Comparison) -> list[str]:
    if comparison.p_values.empty:
        return []
    shown = comparison.p_values.assign(
        difference=[f"{x:.4f}" for x in comparison.p_values["difference"]],
        standard_error=[f"{x:.4f}" for x in comparison.p_values["standard_error"]],
        p_value=[f"{x:.3g}" for x in comparison.p_values["p_value"]],
    )
    return [
        f"Diebold-Mariano: {comparison.reference} less the other model. Above 0 favours "
        f"{comparison.reference} for the log score, below 0 for CRPS (both in natural units).",
        "",
        to_markdown(shown),
        "",
    ]


def failure_table(failures: Sequence[Failure]) -> pd.DataFrame:
    """One row a failed fit."""
    rows = [(f.cell.model, f.cell.seed, f.cell.omitted, f.message) for f in failures]
    return pd.DataFrame(rows, columns=["model", "seed", "omitted", "message"])


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write a table, whole or not at all."""
    with replacing(path) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
