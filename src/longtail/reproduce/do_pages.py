"""Tables of DO: its mixtures, and its rows from before it was rebuilt, from the records."""

from __future__ import annotations

import statistics
from typing import Any

from longtail.evaluation.scores import percent_of_seeds
from longtail.reproduce.records import Evidence
from longtail.reproduce.render import differences, seeds_of, signed
from longtail.reproduce.results import Results
from longtail.reproduce.tables import slug

# when SADE's weights began to be learnt as its released code does
SADE_AS_RELEASED = "2026-11-30T08:59:31"
SADE_EARLIER = (
    "† Measured with an earlier test-time procedure, and not measured again: the images came in the order of "
    "the split, with the same two views in every pass. Now, as in the released code, each pass has an order "
    "and views of its own, and a weight that falls too low ends the training after a pass, not within it."
)


def mixtures_table(
    results: Results, name: str, row: str, sees: tuple[str, ...] = (), views: str = "mirror"
) -> str:
    """Return the mixtures of a row on left-out images and on test; some or all of them."""
    chosen = [
        line
        for line in earlier_of_do(results, name)
        if line["row"] == row and line["views"] == views
    ]
    names = [(r["name"], r["sees"]) for r in chosen[0]["mixtures"] if not sees or r["sees"] in sees]
    seeds = len({line["seed"] for line in chosen})
    earlier = any(line["date"] < SADE_AS_RELEASED for line in chosen)
    rows = [
        "| mixture | sees | left out, all | test, all | many | medium | few |",
        "|---|---|---|---|---|---|---|",
    ]
    for mixture, seen in names:
        found: dict[str, list[dict[str, Any]]] = {"left out": [], "test": []}
        for line in chosen:
            found[line["images"]] += [r for r in line["mixtures"] if r["name"] == mixture]
        cells = [percent_of_seeds([r["accuracy"] for r in found["left out"]])]
        cells += [
            percent_of_seeds([r[key] for r in found["test"]])
            for key in ("accuracy", "many", "medium", "few")
        ]
        mark = " †" if mixture == "group, SADE" and earlier else ""
        rows.append(f"| {mixture}{mark} | {seen} | {' | '.join(cells)} |")
    rows += ["", f"Macro accuracy in %, {seeds} seed{'s' * (seeds > 1)}, last epoch."]
    rows += ["", SADE_EARLIER] if any("†" in row for row in rows) else []
    return "\n".join(rows)


def full_table(results: Results, name: str) -> str:
    """Return the mixtures of DO as printed in its full schedule, on test."""
    chosen = [line for line in results.lines(name) if line["recipe"] == "cifar100-lt/do"]
    rows = ["| mixture | sees | all | many | medium | few |", "|---|---|---|---|---|---|"]
    for of_one in zip(*(line["mixtures"] for line in chosen), strict=True):
        cells = [
            percent_of_seeds([mixture[key] for mixture in of_one])
            for key in ("accuracy", "many", "medium", "few")
        ]
        rows.append(f"| {of_one[0]['name']} | {of_one[0]['sees']} | {' | '.join(cells)} |")
    seeds, commits = len(chosen), ", ".join(line["commit"][:7] for line in chosen)
    told = f"Macro accuracy in % on test, {seeds} seed{'s' * (seeds > 1)}, last epoch, commit {commits}."
    return "\n".join([*rows, "", told])


def earlier_of_do(results: Results, name: str) -> list[dict[str, Any]]:
    """Return the lines of a results file without those of DO as it is now, whose figures are others."""
    return [line for line in results.lines(name) if "test_views" not in line["config"]["method"]]


def do_earlier(results: Results, split: str) -> dict[str, list[Evidence]]:
    """Return the records of DO from before it was rebuilt, by row."""
    key = split.replace(" ", "_")
    return {
        row["name"]: results.records.of_checkpoints(row[key], split=split)
        for row in results.earlier["rows"]
    }


def do_earlier_table(results: Results) -> str:
    """Return the rows of the earlier version as they were measured on test, with their commits."""
    found = do_earlier(results, "test")
    against = results.earlier["against"]
    titles = ["row", "all", f"against {against}, same seeds", "many", "medium", "few", "seeds"]
    table = [f"| {' | '.join(titles)} | commits |", "|---" * (len(titles) + 1) + "|"]
    for row, evidence in found.items():
        cells = [
            percent_of_seeds([e.line[key] for e in evidence])
            for key in ("accuracy", "many", "medium", "few")
        ]
        cells.insert(1, "-" if row == against else signed(differences(evidence, found[against])))
        commits = ", ".join(dict.fromkeys(e.line["commit"][:7] for e in evidence))
        table.append(f"| {row} | {' | '.join(cells)} | {seeds_of(evidence)} | {commits} |")
    return "\n".join(table)


def left_out_table(results: Results) -> str:
    """Return the rows of the earlier version on left-out images, best first, seed against seed."""
    found = do_earlier(results, "left out")
    against = results.earlier["against"]
    scored: list[tuple[float, str]] = []
    for row, evidence in found.items():
        shared = differences(evidence, found[against], "macro_accuracy")
        if not shared:
            continue
        cells = [
            percent_of_seeds([e.line[key] for e in evidence])
            for key in ("macro_accuracy", "many", "medium", "few")
        ]
        cells.insert(1, "-" if row == against else signed(shared))
        scored.append(
            (statistics.mean(shared), f"| {row} | {' | '.join(cells)} | {seeds_of(evidence)} |")
        )
    head = [
        f"| row | all | against {against}, same seeds | many | medium | few | seeds |",
        "|---" * 7 + "|",
    ]
    return "\n".join([*head, *(text for _, text in sorted(scored, reverse=True))])


def release_table(results: Results) -> str:
    """Return the accuracy over the share of released weights, for each criterion that was searched."""
    rows = ["| criterion, stage | " + " | ".join(f"{10 * i} %" for i in range(10)) + " |"]
    rows.append("|---" * 11 + "|")
    for runs in do_earlier(results, "test").values():
        for evidence in runs:
            for line in evidence.line["found"]:
                if "release_curve" in line:
                    name = evidence.line["config"]["method"]["importance"]
                    cells = [f"{100 * value:.1f}" for value in line["release_curve"]]
                    cells[round(10 * line["release"])] += " *"
                    rows.append(f"| {name}, {line['stage'].split(',')[0]} | {' | '.join(cells)} |")
    return "\n".join(rows)


def release_readings_table(results: Results, name: str) -> str:
    """Return what is left of a network after its first release, by share and reading."""
    found: dict[tuple[float, str], list[dict[str, Any]]] = {}
    for line in results.lines(name):
        found.setdefault((line["share"], line["reading"]), []).append(line)
    table = [
        "| released | reading | all | many | medium | few | all, new statistics | seeds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (share, reading), lines in found.items():
        cells = [
            percent_of_seeds([line["accuracy"][key] for line in lines])
            for key in ("all", "many", "medium", "few")
        ]
        cells.append(percent_of_seeds([line["with_new_statistics"]["all"] for line in lines]))
        table.append(f"| {share:.0%} | {reading} | {' | '.join(cells)} | {len(lines)} |")
    return "\n".join(table)


def figure_table(results: Results, name: str, title: str, row: str, unit: float, form: str) -> str:
    """Return one figure of a run's report, mean over seeds, as a table of places by series."""
    figures = [
        figure
        for line in earlier_of_do(results, name)
        for figure in line["figures"]
        if line["row"] == row and figure["title"] == title
    ]
    series = list(figures[0]["series"])
    rows = [f"| {figures[0]['x']} | {' | '.join(series)} |", "|---" * (len(series) + 1) + "|"]
    for place, label in enumerate(figures[0]["places"]):
        cells = [
            format(statistics.mean(unit * figure["series"][s][place] for figure in figures), form)
            for s in series
        ]
        rows.append(f"| {str(label).replace(chr(10), ' ')} | {' | '.join(cells)} |")
    return "\n".join(rows)


def signatures_table(results: Results, *names: str) -> str:
    """Return what tables 7 and 9 of DO's paper show, by row: stages 2 and 3, and weights on the diagonal."""
    found: dict[str, list[dict[str, Any]]] = {}
    for line in (line for name in names for line in earlier_of_do(results, name)):
        figures = {figure["title"]: figure for figure in line["figures"]}
        found.setdefault(line["row"], []).append(figures)
    header = ["row", "stage 2", "after its release", "stage 3", "own sub-model's weight", "seeds"]
    table = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    for row in (row["name"] for row in results.earlier["rows"] if slug(row["name"]) in found):
        runs = found[slug(row)]
        cells = [
            " / ".join(f"{100 * statistics.mean(values):.1f}" for values in zip(*each, strict=True))
            for each in (
                [_place(run["Accuracy at the end of each stage"], place) for run in runs]
                for place in ("group 2", "group 2,\nrelease", "group 3")
            )
        ]
        diagonal = [_diagonal(run["Test-time weights of the sub-models"], "cosine") for run in runs]
        weights = (statistics.mean(values) for values in zip(*diagonal, strict=True))
        cells.append(" / ".join(f"{weight:.2f}" for weight in weights))
        table.append(f"| {row} | {' | '.join(cells)} | {len(runs)} |")
    return "\n".join(table)


def _place(figure: dict[str, Any], place: str) -> list[float]:
    """Return the shot groups' accuracy at one place of a figure, many first."""
    at = figure["places"].index(place)
    return [figure["series"][name][at] for name in ("many", "medium", "few")]


def _diagonal(figure: dict[str, Any], objective: str) -> list[float]:
    """Return the mean weight of sub-model t over the images of group t."""
    return [
        values[figure["places"].index(f"group {t},\n{objective}")]
        for t, values in enumerate(figure["series"].values(), start=1)
    ]
