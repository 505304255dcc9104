"""From a table and its records to Markdown: paper, ours, difference."""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Sequence

from longtail.core.groups import GROUP_NAMES
from longtail.evaluation.scores import percent_of_seeds
from longtail.reproduce.records import Evidence, Records
from longtail.reproduce.tables import Earlier, PaperTable, Row

BEST = "ours, best epoch on test"
OURS = {"full": "ours, full schedule", "short": "ours, short schedule"}
OTHER = {"full": "short", "short": "full"}
MARK = "†"


def render(table: PaperTable, profile: str, records: Records) -> str:
    """Return a table as Markdown; a row without a record is printed as not measured.

    Only the full profile is set against the paper's numbers: it has a column of differences and, where
    the paper takes its best epoch on test, one that says what ours would be. Where a row has a record of
    the other profile, that has a column, too.

    Args:
        table: What to show.
        profile: `full` or `short`.
        records: That may hold some of its rows.
    """
    full = profile == "full"
    against = [*(["difference"] * full), *([BEST] * (full and table.best_on_test))]
    first = next((row for row in table.rows if row.name == table.against), None)
    held_against = evidence_of(first, profile, records)[0] if first else []
    beside = f"against {table.against}, same seeds"
    if first:
        against.append(beside)
    other, marked, sources = _other_cells(table, profile, records)
    ours = OURS[profile] if other else "ours"
    before = [OURS["full"], "difference"] if other and not full else []
    after = [OURS["short"]] if other and full else []
    titles = ["row", "paper", *before, ours, *against, *GROUP_NAMES, "seeds", *after]
    lines = [f"## {table.title}", "", f"Paper: {table.source}.", ""]
    lines += [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    seeds, repeated = 0, False
    for row in table.rows:
        found, of_now = evidence_of(row, profile, records)
        sources += [evidence.file for evidence in found]
        seeds = max([seeds, *(evidence.seed + 1 for evidence in found)])
        repeated |= len(found) > len({evidence.seed for evidence in found})
        cells = _cells(row, found, ours) | other.get(row.name, {})
        if not of_now:
            marked.append(row)
            cells[ours if other else "row"] += f" {MARK}"
        cells[beside] = "-" if row is first else signed(differences(found, held_against))
        lines.append(f"| {' | '.join(cells[title] for title in titles)} |")
    below = "Accuracy in % on the test set, last epoch, mean ± standard deviation over seeds; "
    below += f"{schedule_of(table, profile)}."
    if other:
        below += _said_of_other(table, profile)
    elif not full:
        below += " The paper's numbers are from its full schedule, so no difference is shown."
    if full and table.best_on_test:
        below += (
            f" The paper's numbers are from its best epoch on test. The column `{BEST}` shows ours for "
            "comparison; it is not an estimate of accuracy. The difference uses the last epoch."
        )
    if repeated:
        below += (
            " A seed that was trained on two kinds of processor counts as two runs, because the "
            "results differ."
        )
    if first:
        below += f" `{beside}` is the mean difference in points over the seeds that both rows have"
        below += f"{', on the same processor where both are' * repeated}."
    if sources:
        below += f" Records: {', '.join(f'`{name}`' for name in dict.fromkeys(sources))}."
    below += f" To train all rows yourself: `{command_of(table, profile, seeds or 3)}`."
    lines += ["", below]
    if marked:
        lines += ["", earlier_note(marked)]
    if elsewhere := [f"{row.name} ({row.source})" for row in table.rows if row.source]:
        lines += ["", f"Numbers that the paper takes from elsewhere: {'; '.join(elsewhere)}."]
    if table.note:
        lines += ["", table.note]
    return "\n".join(lines) + "\n"


def evidence_of(row: Row, profile: str, records: Records) -> tuple[list[Evidence], bool]:
    """Return the records of a row, and whether they are of its recipe as it is now.

    Where there are none, those of the recipe that the row says it had earlier are returned. A row about a
    mixture of sub-models gets the records with its scores.
    """
    found = records.of(row.config(profile))
    if row.mixture:
        return [each for e in found if (each := e.mixed(row.mixture)) is not None], True
    then = None if found else row.earlier_config(profile)
    older = records.of(then) if then is not None else []
    if not found and not older and row.earlier is not None and profile == "short":
        # a folder of one's own lacks the records of our earlier runs
        named = map(records.of_checkpoint, row.earlier.checkpoints)
        older = [evidence for evidence in named if evidence is not None]
    return (older, False) if older else (found, True)


def earlier_note(rows: Sequence[Row]) -> str:
    """Return what the mark of rows says that were measured with an earlier recipe."""
    alike: dict[Earlier, list[str]] = {}
    for row in rows:
        if row.earlier is not None:
            alike.setdefault(row.earlier, []).append(row.name)
    said = "; ".join(
        f"{', '.join(names)}: {' '.join(then.overrides) or 'other options'}, as at commit {then.commit}"
        for then, names in alike.items()
    )
    return f"{MARK} Measured with an earlier recipe ({said})."


def command_of(table: PaperTable, profile: str, seeds: int) -> str:
    """Return the command that trains every row of a table into folders of its own, and renders it."""
    words = ["longtail", "reproduce", table.name, "--profile", profile, "--seeds", str(seeds)]
    return shlex.join([*words, "--out", "retrained", "--results", "retrained"])


def schedule_of(table: PaperTable, profile: str) -> str:
    """Return what a profile trains, in words."""
    return "the recipe's schedule" if profile == "full" else table.short_schedule


def measured_rows(
    table: PaperTable, profile: str, records: Records
) -> list[tuple[Row, dict[str, list[float]]]]:
    """Return every row that has a record, with the accuracy of each seed in [0, 1], over all and by group.

    Args:
        table: Whose rows.
        profile: `full` or `short`.
        records: That may hold some of its rows.
    """
    measured = []
    for row in table.rows:
        found, of_now = evidence_of(row, profile, records)
        lines = [evidence.line for evidence in found]
        if lines:
            row = row if of_now else row.model_copy(update={"name": f"{row.name} {MARK}"})
            accuracy = {"all": [line["accuracy"] for line in lines]}
            for name in GROUP_NAMES:
                accuracy[name] = [line[name] for line in lines if line[name] is not None]
            measured.append((row, accuracy))
    return measured


def differences(
    found: Sequence[Evidence], other: Sequence[Evidence], key: str = "accuracy"
) -> list[float]:
    """Return the difference to another row for every run whose seed both have.

    Runs are compared one by one, so that a row of one seed is not held against a mean of several; and where
    the other row has a seed on several processors, with its run on the same one.

    Args:
        found: Records of a row.
        other: Records of what it is held against.
        key: The score to compare, a fraction.
    """
    anywhere = {e.seed: e.line[key] for e in other}
    there = {(e.seed, e.processor): e.line[key] for e in other}
    return [
        e.line[key] - there.get((e.seed, e.processor), anywhere[e.seed])
        for e in found
        if e.seed in anywhere
    ]


def seeds_of(found: Sequence[Evidence]) -> str:
    """Return the number of seeds, and of runs where a seed has several."""
    seeds = len({evidence.seed for evidence in found})
    return str(seeds) if seeds == len(found) else f"{seeds} ({len(found)} runs)"


def signed(values: Sequence[float]) -> str:
    """Return the mean of differences in points with its sign and deviation, `-` without any."""
    if not values:
        return "-"
    return ("+" if statistics.mean(values) >= 0 else "") + percent_of_seeds(values)


def _other_cells(
    table: PaperTable, profile: str, records: Records
) -> tuple[dict[str, dict[str, str]], list[Row], list[str]]:
    """Return what each row shows of the other profile, the rows whose recipe was another one, and the files.

    All are empty if no row has a record of it.
    """
    other = OTHER[profile]
    shown = (OURS[other], *(["difference"] * (other == "full")))
    cells: dict[str, dict[str, str]] = {}
    marked: list[Row] = []
    files: list[str] = []
    for row in table.rows:
        found, of_now = evidence_of(row, other, records)
        files += [evidence.file for evidence in found]
        of_row = _cells(row, found, OURS[other])
        cells[row.name] = {title: of_row[title] if found else "-" for title in shown}
        if not of_now:
            cells[row.name][OURS[other]] += f" {MARK}"
            marked.append(row)
    return (cells, marked, files) if files else ({}, [], [])


def _said_of_other(table: PaperTable, profile: str) -> str:
    """Return what a reader must know of the column of the other profile."""
    if profile == "full":
        return f" `{OURS['short']}`: {table.short_schedule}; all other columns are of the full one."
    return (
        f" `{OURS['full']}` and the difference are of the full schedule (`--profile full`; `-`: not "
        "trained yet); groups and seeds are of the short one."
    )


def _cells(row: Row, found: Sequence[Evidence], ours: str) -> dict[str, str]:
    """Return every cell of a row by the title of its column; `ours` is that of the accuracy."""
    lines = [evidence.line for evidence in found]
    cells = dict.fromkeys(("difference", BEST, *GROUP_NAMES), "-")
    cells |= {"row": row.name, "paper": "-" if row.paper is None else f"{row.paper:g}"}
    cells |= {ours: "not measured", "seeds": seeds_of(found)}
    if not found:
        return cells
    accuracy = [line["accuracy"] for line in lines]
    cells[ours] = percent_of_seeds(accuracy)
    if row.paper is not None:
        cells["difference"] = f"{100 * statistics.mean(accuracy) - row.paper:+.1f}"
    if all(line.get("best_on_test") for line in lines):
        cells[BEST] = percent_of_seeds([line["best_on_test"]["accuracy"] for line in lines])
    for name in GROUP_NAMES:
        if all(line[name] is not None for line in lines):
            cells[name] = percent_of_seeds([line[name] for line in lines])
    return cells
