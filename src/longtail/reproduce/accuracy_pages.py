"""Tables of accuracies and calibration, from the records."""

from __future__ import annotations

import json
import re
import statistics
from typing import Any

from longtail.evaluation.scores import percent_of_seeds
from longtail.recipes.systems import SYSTEMS
from longtail.report.drawing import Drawing
from longtail.report.measures import Measure, Measured, measures
from longtail.reproduce.records import Evidence
from longtail.reproduce.render import (
    MARK,
    earlier_note,
    evidence_of,
    measured_rows,
    render,
    seeds_of,
)
from longtail.reproduce.results import Results
from longtail.reproduce.speed_pages import relative_cost
from longtail.reproduce.tables import Row, read_table, table_names

COSTS = {  # method: row
    "tde": "normalised heads (TDE)",
    "bbn": "two branches (BBN)",
    "experts": "three narrow experts (SADE)",
    "ncl": "three networks (NCL)",
    "reslt": "reslt, batchnorm head",
}


def paper_table(results: Results, name: str) -> str:
    """Return a paper's table in both schedules."""
    table = read_table(name)
    full, short = (render(table, profile, results.records) for profile in ("full", "short"))
    again = short.split("\n\n", 2)[2]
    return f"{full}\n### Short schedule\n\n{again}"


def measured(results: Results) -> str:
    """Return what `longtail recipes` and `longtail methods` show, as JSON."""
    found: dict[str, dict[str, str]] = {}
    tables = [read_table(name) for name in table_names()]
    rows = [r for table in tables for r in table.rows if not r.overrides and not r.mixture]
    for profile in ("full", "short"):
        for row in rows:  # the first row of a recipe is the recipe as it ships
            runs, of_now = evidence_of(row, profile, results.records)
            lines = [run.line for run in runs]
            if lines:
                count = len({run.seed for run in runs})
                seeds = f"{count} seed{'s' * (count > 1)}"
                entry = {
                    "accuracy": percent_of_seeds([line["accuracy"] for line in lines]),
                    "few": percent_of_seeds([line["few"] for line in lines]),
                    "schedule": f"{lines[0]['epochs']} epochs, {seeds}{'' if of_now else ', earlier recipe'}",
                }
                found.setdefault(row.recipe, entry)
    networks = {line["row"]: line for line in results.lines("network-cost.jsonl")[-1]["lines"]}
    do = {line["measure"]: line["ratio"] for line in results.lines("do-cost.jsonl")[-1]["lines"]}
    costs = {
        "paco": {"training step": results.lines("paco-cost.jsonl")[-1]["step_ratio"]["median"]},
        **{
            method: {
                "training": networks[row]["training"]["ratio"],
                "prediction": networks[row]["inference"]["ratio"],
            }
            for method, row in COSTS.items()
            if row in networks
        },
        "do": {"prediction": do["averaging, against one network"]},
    }  # fmt: skip
    whole = {
        line["recipe"]: relative_cost(line, "training_seconds")
        for line in results.lines("method-cost.jsonl")
    }
    for method in SYSTEMS:  # of the others, the recipe of the same name, with all of its epochs
        if method not in costs and method in whole:
            costs[method] = {"published schedule": whole[method]}
    rounded = {m: {k: round(v, 1) for k, v in each.items()} for m, each in costs.items()}
    content = {"recipes": dict(sorted(found.items())), "costs": rounded}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def one_schedule(results: Results, name: str, profile: str = "short") -> str:
    """Return a paper's table in one schedule, without its title."""
    return render(read_table(name), profile, results.records).split("\n\n", 2)[2].rstrip()


def full_schedule(results: Results, name: str) -> str:
    """Return a paper's table in the full schedule, or that none of its rows has been trained with it."""
    table = read_table(name)
    if not measured_rows(table, "full", results.records):
        return "No row of this table has been trained with the full schedule yet."
    return one_schedule(results, name, "full")


def calibration_table(results: Results, names: tuple[str, ...], profile: str) -> str:
    """Return the rows of some tables by their calibration error, the lowest first."""
    found: dict[str, list[Evidence]] = {}
    marked: list[Row] = []
    for row in (row for name in names for row in read_table(name).rows):
        runs, of_now = evidence_of(row, profile, results.records)
        if runs and runs not in found.values():
            found[row.name if of_now else f"{row.name} {MARK}"] = runs
            marked += [] if of_now else [row]
    errors = {name: [run.line["calibration_error"] for run in runs] for name, runs in found.items()}
    table = ["| row | calibration error | accuracy | seeds |", "|---|---|---|---|"]
    for name in sorted(found, key=lambda name: statistics.mean(errors[name])):
        runs = found[name]
        accuracy = percent_of_seeds([run.line["accuracy"] for run in runs])
        table.append(
            f"| {name} | {percent_of_seeds(errors[name])} | {accuracy} | {seeds_of(runs)} |"
        )
    return "\n".join([*table, *(["", earlier_note(marked)] if marked else [])])


def calibration_figure(results: Results, name: str) -> Drawing:
    """Return the calibration error of a table's rows in both schedules, the lowest of the short one first."""
    found: dict[str, dict[str, Measured]] = {}
    for row in read_table(name).rows:
        of_now = True
        series = {}
        for profile in ("full", "short"):
            runs, current = evidence_of(row, profile, results.records)
            of_now &= current
            errors = [100 * run.line["calibration_error"] for run in runs]
            if errors:
                spread = statistics.stdev(errors) if len(errors) > 1 else 0.0
                mean = statistics.mean(errors)
                series[f"{profile} schedule"] = Measured(mean, mean - spread, mean + spread)
        if series:
            found[row.name if of_now else f"{row.name} {MARK}"] = series
    order = sorted(found, key=lambda row: next(reversed(found[row].values())).value)
    title = "CIFAR-100-LT, ratio 100, ResNet-32: calibration after the last epoch"
    if any(row.endswith(MARK) for row in found):
        title += f"\n{MARK} short schedule measured with an earlier recipe"
    measure = Measure(title, "expected calibration error in %, on the test set", ".1f")
    return measures(measure, {row: found[row] for row in order})


def decoupling_table(results: Results, name: str) -> str:
    """Return every classifier on every representation, mean and deviation over seeds."""
    rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for line in results.lines(name):
        folder = re.search(r"--out (\S+)", line["command"])
        assert folder is not None, "every command names its folder"
        parts = folder[1].split("/")
        # stage 1 was trained into runs/<sampler>, everything else into .../<sampler>/<row>
        sampler, row = (parts[-1], "joint") if len(parts) == 2 else (parts[-2], parts[-1])
        rows.setdefault((sampler, row), []).append(line)
    table = [
        "| representation | classifier | seeds | all | many | medium | few |",
        "|---|---|---|---|---|---|---|",
    ]
    for (sampler, row), lines in rows.items():
        cells = [percent_of_seeds([line[key] for line in lines])
                 for key in ("accuracy", "many", "medium", "few")]  # fmt: skip
        table.append(f"| {sampler} | {row} | {len(lines)} | {' | '.join(cells)} |")
    return "\n".join(table)


def norms_table(results: Results, name: str) -> str:
    """Return the rank correlation of the classifier's norms with the class counts."""
    table = ["| classifier | rank correlation, seed by seed |", "|---|---|"]
    by_classifier: dict[str, list[float]] = {}
    for line in results.lines(name):
        by_classifier.setdefault(line["classifier"], []).append(line["spearman"])
    for classifier, values in by_classifier.items():
        table.append(f"| {classifier} | {', '.join(f'{value:.2f}' for value in values)} |")
    return "\n".join(table)


def gamma_table(results: Results, name: str) -> str:
    """Return what choices at test time do to trained networks: the newest record of every seed."""
    newest = {(line["images"], line["seed"]): line["accuracy"] for line in results.lines(name)}
    by_images: dict[str, list[dict[str, Any]]] = {"left out": [], "test": []}
    for (images, _), accuracy in newest.items():
        by_images[images].append(accuracy)
    table = [
        "| prediction | left out, all | test, all | many | medium | few |",
        "|---|---|---|---|---|---|",
    ]
    for choice in by_images["test"][0]:
        cells = [percent_of_seeds([found[choice]["all"] for found in by_images["left out"]])]
        for group in ("all", "many", "medium", "few"):
            cells.append(percent_of_seeds([found[choice][group] for found in by_images["test"]]))
        table.append(f"| {choice} | {' | '.join(cells)} |")
    return "\n".join(table)
