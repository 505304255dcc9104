"""The headline table: the methods most people ask for, trained with the full schedule of their papers."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from longtail.core.groups import GROUP_NAMES
from longtail.evaluation.scores import percent_of_seeds
from longtail.reproduce.records import Evidence, Records
from longtail.reproduce.render import MARK, earlier_note, evidence_of, seeds_of
from longtail.reproduce.tables import Row, read_row

NOT_YET = "not yet trained"
SHORT = "overview-cifar100"  # the table whose short schedule stands beside the full one
TITLES = (
    "method", "paper", "ours, full schedule", "difference", *GROUP_NAMES, "seeds", "ours, short schedule",
)  # fmt: skip


@dataclass(frozen=True)
class Line:
    """A row of the headline table.

    Attributes:
        name: As shown.
        table: Whose row is trained with the full schedule.
        row: Its name there.
        short: Name of the row of `SHORT` that is shown beside it.
    """

    name: str
    table: str
    row: str
    short: str


LINES = (
    Line("Cross-entropy", "decoupling-cifar100", "Joint", "Cross-entropy"),
    Line("Balanced softmax", "baselines-cifar100", "Balanced softmax", "Balanced softmax"),
    Line("cRT", "decoupling-cifar100", "cRT", "cRT"),
    Line("LWS", "decoupling-cifar100", "LWS", "LWS"),
    Line("tau-normalisation", "decoupling-cifar100", "tau-normalisation", "tau-normalisation"),
    Line("NCM", "decoupling-cifar100", "NCM", "Nearest class mean"),
    Line("ResLT", "reslt-table-5", "ResLT, ratio 100", "ResLT"),
    Line("PaCo", "paco-table-6", "PaCo, ratio 100", "PaCo"),
    Line(
        "DO as printed", "do-table-5", "DO, as printed (instance-level test-time learning)", "DO"
    ),
)  # fmt: skip


def headline(records: Records, lines: Sequence[Line] = LINES) -> str:
    """Return the headline table as Markdown; a row without a record of the full schedule says so.

    Args:
        records: That may hold some of its rows.
        lines: Its rows.
    """
    table = [f"| {' | '.join(TITLES)} |", "|---" * len(TITLES) + "|"]
    files: list[str] = []
    marked: list[Row] = []
    hardware: dict[str, list[str]] = {}
    for line in lines:
        row = read_row(line.table, line.row)
        found, of_now = evidence_of(row, "full", records)
        files += [evidence.file for evidence in found]
        for where in dict.fromkeys(map(_where, found)):
            hardware.setdefault(where, []).append(line.name)
        short_row = read_row(SHORT, line.short)
        short, short_of_now = evidence_of(short_row, "short", records)
        cells = _cells(row, found)
        cells["method"] = line.name if of_now else f"{line.name} {MARK}"
        cells["ours, short schedule"] = _accuracy(short) + f" {MARK}" * (not short_of_now)
        # the note names rows as this table does
        marked += [] if of_now else [row.model_copy(update={"name": line.name})]
        marked += (
            []
            if short_of_now
            else [short_row.model_copy(update={"name": f"{line.name}, short schedule"})]
        )
        table.append(f"| {' | '.join(cells[title] for title in TITLES)} |")
    below = (
        "Accuracy in % on the test set of CIFAR-100-LT (ratio 100, ResNet-32), last epoch, mean ± "
        "standard deviation over seeds; papers often report their best epoch on the test set. ResLT, PaCo "
        "and DO have the schedules of their papers (200, 400 and 100 + 50 + 50 epochs). The rows above them "
        "have ResLT's; their published numbers are those of the repository BagofTricks in LDAM's schedule, "
        "which has as many epochs, but no Nesterov momentum and less weight decay. The short schedule has "
        "40 epochs (DO 30 + 15 + 15): it serves to compare methods on a CPU and is too short to reach the "
        "papers' numbers."
    )
    if hardware:
        trained = "; ".join(f"{', '.join(names)}: {where}" for where, names in hardware.items())
        below += f" Full schedules were trained on: {trained}."
    if files:
        below += f" Records: {', '.join(f'`{name}`' for name in dict.fromkeys(files))}."
    names = ", ".join(f"`{name}`" for name in dict.fromkeys(line.table for line in lines))
    below += (
        " To train a row yourself: `longtail reproduce TABLE --profile full`, where TABLE is one "
        f"of {names}."
    )
    return "\n".join([*table, "", below, *(["", earlier_note(marked)] if marked else [])])


def _where(evidence: Evidence) -> str:
    precision = evidence.line.get("hardware", {}).get("auto_precision", "precision not recorded")
    return f"{evidence.processor or 'not recorded'}, {precision}"


def _accuracy(found: Sequence[Evidence]) -> str:
    return percent_of_seeds([e.line["accuracy"] for e in found]) if found else "-"


def _cells(row: Row, found: Sequence[Evidence]) -> dict[str, str]:
    """Return the cells of the full schedule by the title of their column."""
    cells = dict.fromkeys(TITLES, "-")
    cells["paper"] = "-" if row.paper is None else f"{row.paper:g}"
    cells["ours, full schedule"] = _accuracy(found) if found else NOT_YET
    cells["seeds"] = seeds_of(found)
    if found and row.paper is not None:
        accuracy = 100 * statistics.mean(evidence.line["accuracy"] for evidence in found)
        cells["difference"] = f"{accuracy - row.paper:+.1f}"
    for name in GROUP_NAMES:
        if found and all(evidence.line[name] is not None for evidence in found):
            cells[name] = percent_of_seeds([evidence.line[name] for evidence in found])
    return cells
