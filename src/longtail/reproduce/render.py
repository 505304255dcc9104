"""From a table and its records to Markdown: paper, ours, difference."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from longtail.core.groups import GROUP_NAMES
from longtail.reproduce.records import Evidence, find_evidence
from longtail.reproduce.tables import PaperTable, Row


def render(table: PaperTable, profile: str, files: Sequence[Path]) -> str:
    """Return a table as Markdown; a row without a record is printed as not measured.

    Args:
        table: What to show.
        profile: `full` or `short`.
        files: Results files that may hold records of its rows.
    """
    lines = [
        f"## {table.title}",
        "",
        f"Paper: {table.source}.",
        "",
        "| row | paper | ours | difference | many | medium | few | seeds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    sources: list[str] = []
    for row in table.rows:
        found = find_evidence(row.config(profile), files)
        sources += [evidence.file for evidence in found]
        lines.append(_line(row, found))
    schedule = "the recipe's schedule" if profile == "full" else table.short_schedule
    lines += [
        "",
        f"Accuracy in % on the test set, last epoch, mean ± standard deviation over seeds; {schedule}.",
    ]
    if profile != "full":
        lines[-1] += " The paper's numbers are of its full schedule, so no difference is printed."
    if sources:
        lines[-1] += f" Records: {', '.join(f'`{name}`' for name in dict.fromkeys(sources))}."
    if table.note:
        lines += ["", table.note]
    if profile != "full":
        lines = [_without_difference(line) for line in lines]
    return "\n".join(lines) + "\n"


def _line(row: Row, found: Sequence[Evidence]) -> str:
    paper = "-" if row.paper is None else f"{row.paper:g}"
    if not found:
        return f"| {row.name} | {paper} | not measured | - | - | - | - | 0 |"
    accuracy = [100 * evidence.line["accuracy"] for evidence in found]
    difference = "-"
    if row.paper is not None:
        difference = f"{statistics.mean(accuracy) - row.paper:+.1f}"
    groups = [
        _spread([100 * evidence.line[name] for evidence in found])
        if all(evidence.line[name] is not None for evidence in found)
        else "-"
        for name in GROUP_NAMES
    ]
    cells = [row.name, paper, _spread(accuracy), difference, *groups, str(len(found))]
    return f"| {' | '.join(cells)} |"


def _spread(values: Sequence[float]) -> str:
    mean = statistics.mean(values)
    return f"{mean:.1f} ± {statistics.stdev(values):.1f}" if len(values) > 1 else f"{mean:.1f}"


def _without_difference(line: str) -> str:
    """Drop the fourth column of a line of the table."""
    if not line.startswith("|"):
        return line
    cells = line.strip("|").split("|")
    return f"|{'|'.join([*cells[:3], *cells[4:]])}|"
