"""From a table and its records to Markdown: paper, ours, difference."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from longtail.core.groups import GROUP_NAMES
from longtail.reproduce.records import Evidence, find_evidence
from longtail.reproduce.tables import PaperTable, Row

BEST = "ours, best epoch on test"


def render(table: PaperTable, profile: str, files: Sequence[Path]) -> str:
    """Return a table as Markdown; a row without a record is printed as not measured.

    Only the full profile is set against the paper's numbers: it has a column of differences and, where
    the paper takes its best epoch on test, one that says what ours would be.

    Args:
        table: What to show.
        profile: `full` or `short`.
        files: Results files that may hold records of its rows.
    """
    full = profile == "full"
    against = [*(["difference"] * full), *([BEST] * (full and table.best_on_test))]
    titles = ["row", "paper", "ours", *against, *GROUP_NAMES, "seeds"]
    lines = [f"## {table.title}", "", f"Paper: {table.source}.", ""]
    lines += [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    sources: list[str] = []
    for row in table.rows:
        found = find_evidence(row.config(profile), files)
        sources += [evidence.file for evidence in found]
        cells = _cells(row, found)
        lines.append(f"| {' | '.join(cells[title] for title in titles)} |")
    schedule = "the recipe's schedule" if full else table.short_schedule
    below = f"Accuracy in % on the test set, last epoch, mean ± standard deviation over seeds; {schedule}."
    if not full:
        below += " The paper's numbers are of its full schedule, so no difference is printed."
    elif table.best_on_test:
        below += (
            f" The numbers of the paper are of its best epoch on test. So is the column `{BEST}`, to be held "
            "against it; it is no estimate of accuracy, and the difference is that of the last epoch."
        )
    if sources:
        below += f" Records: {', '.join(f'`{name}`' for name in dict.fromkeys(sources))}."
    lines += ["", below]
    if table.note:
        lines += ["", table.note]
    return "\n".join(lines) + "\n"


def _cells(row: Row, found: Sequence[Evidence]) -> dict[str, str]:
    """Return every cell of a row by the title of its column."""
    lines = [evidence.line for evidence in found]
    cells = dict.fromkeys(("difference", BEST, *GROUP_NAMES), "-")
    cells |= {"row": row.name, "paper": "-" if row.paper is None else f"{row.paper:g}"}
    cells |= {"ours": "not measured", "seeds": str(len(found))}
    if not found:
        return cells
    accuracy = [100 * line["accuracy"] for line in lines]
    cells["ours"] = _spread(accuracy)
    if row.paper is not None:
        cells["difference"] = f"{statistics.mean(accuracy) - row.paper:+.1f}"
    if all(line.get("best_on_test") for line in lines):
        cells[BEST] = _spread([100 * line["best_on_test"]["accuracy"] for line in lines])
    for name in GROUP_NAMES:
        if all(line[name] is not None for line in lines):
            cells[name] = _spread([100 * line[name] for line in lines])
    return cells


def _spread(values: Sequence[float]) -> str:
    mean = statistics.mean(values)
    return f"{mean:.1f} ± {statistics.stdev(values):.1f}" if len(values) > 1 else f"{mean:.1f}"
