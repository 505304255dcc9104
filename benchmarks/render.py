"""Render the tables of the README and the notes from the records under results/.

Numbers are never typed.

python benchmarks/render.py           # rewrite the pages
python benchmarks/render.py --check   # fail if it is not up to date
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from pathlib import Path
from typing import Any

from longtail.cli.reproduce import dots_of, slug
from longtail.evaluation.scores import percent_of_seeds
from longtail.recipes.measured import FILE as MEASURED
from longtail.report.dots import describe, write_dots
from longtail.reproduce import (
    Evidence,
    Records,
    differences,
    read_table,
    render,
    seeds_of,
    signed,
    table_names,
)

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "README.md", ROOT / "docs" / "notes-on-results.md")
COSTS = {  # method: row
    "tde": "normalised heads (TDE)",
    "bbn": "two branches (BBN)",
    "experts": "three narrow experts (SADE)",
    "ncl": "three networks (NCL)",
    "reslt": "reslt, batchnorm head",
}
FIGURE = ROOT / "docs" / "figures" / "overview.svg"
RECORDS = Records(sorted((ROOT / "results").glob("*.jsonl")))


def records(name: str) -> list[dict[str, Any]]:
    """Return the lines of one results file."""
    path = ROOT / "results" / name
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def overview() -> str:
    """Return the main table: every family of methods in the short schedule."""
    text = render(read_table("overview-cifar100"), "short", RECORDS)
    return text.split("\n\n", 2)[2].rstrip()


def paper_table(name: str) -> str:
    """Return a paper's table in both schedules."""
    table = read_table(name)
    full, short = (render(table, profile, RECORDS) for profile in ("full", "short"))
    again = short.split("\n\n", 2)[2]
    return f"{full}\n### Short schedule\n\n{again}"


def measured() -> str:
    """Return what `longtail recipes` and `longtail methods` show, as JSON."""
    found: dict[str, dict[str, str]] = {}
    rows = [row for name in table_names() for row in read_table(name).rows if not row.overrides]
    for profile in ("full", "short"):
        for row in rows:  # the first row of a recipe is the recipe as it ships
            runs = RECORDS.of(row.config(profile))
            lines = [run.line for run in runs]
            if lines:
                count = len({run.seed for run in runs})
                seeds = f"{count} seed{'s' * (count > 1)}"
                entry = {
                    "accuracy": percent_of_seeds([line["accuracy"] for line in lines]),
                    "few": percent_of_seeds([line["few"] for line in lines]),
                    "schedule": f"{lines[0]['epochs']} epochs, {seeds}",
                }
                found.setdefault(row.recipe, entry)
    networks = {line["row"]: line for line in records("network-cost.jsonl")[-1]["lines"]}
    do = {line["measure"]: line["ratio"] for line in records("do-cost.jsonl")[-1]["lines"]}
    costs = {
        "paco": {"training step": records("paco-cost.jsonl")[-1]["step_ratio"]["median"]},
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
    rounded = {m: {k: round(v, 2) for k, v in each.items()} for m, each in costs.items()}
    content = {"recipes": dict(sorted(found.items())), "costs": rounded}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def speed_table(name: str) -> str:
    """Return the newest record of the speed benchmark on each machine."""
    newest = {}
    for line in records(name):
        if line["benchmark"] == "speed":
            newest[machine_of(line)] = line
    parts = []
    for machine, record in sorted(newest.items()):
        parts += [*ratio_rows(record), ""]
        precision = f" ({record['precision']})" if "precision" in record else ""
        parts.append(
            f"Peak host memory of a CIFAR-100-LT run: {record['peak_memory_gb']:.2f} GB. Measured on "
            f"{machine}{precision}, torch "
            f"{record['versions']['torch']}; medians of alternating repetitions in one run, smallest "
            f"and largest ratio of a pair. Not measured: {record['not_measured']}."
        )
        parts.append("")
    return "\n".join([*parts, loops_sentence(name)]).rstrip()


def loops_sentence(name: str) -> str:
    """Return what both loops reach after the same short schedule."""
    runs = [line for line in records(name) if line["benchmark"] == "accuracy of both loops"]
    if not runs:
        return ""
    parts = [
        f"{who} {percent_of_seeds([run[who]['all'] for run in runs])}"
        for who in ("longtail", "plain loop")
    ]
    return f"Accuracy in % after 15 epochs of either, {len(runs)} seeds: {', '.join(parts)}."


def ratio_rows(record: dict[str, Any]) -> list[str]:
    """Return the lines of a benchmark of ratios as a Markdown table."""
    rows = ["| measure | against | ours | theirs | ratio | target |", "|---|---|---|---|---|---|"]
    for line in record["lines"]:
        low, high = line["spread"]
        target = "" if line["target"] is None else f"{line['target']:g}"
        rows.append(
            f"| {line['measure']} | {line['against']} | {line['ours']:,.0f} {line['unit']} | "
            f"{line['theirs']:,.0f} | {line['ratio']:.2f} ({low:.2f} to {high:.2f}) | {target} |"
        )
    return rows


def compiled_table(name: str) -> str:
    """Return every record of the compiled step alone."""
    parts = []
    for record in records(name):
        if record["benchmark"] == "compiled step":
            machine = f"{machine_of(record)} ({record['precision']})"
            version = record["versions"]["torch"]
            parts += [*ratio_rows(record), "", f"Measured on {machine}, torch {version}."]
    return "\n".join(parts)


def machine_of(record: dict[str, Any]) -> str:
    """Return what a record was measured on."""
    hardware = record["hardware"]
    machine = f"{hardware['cpu']}, {hardware['cpu_cores']} cores"
    if hardware["threads"] < hardware["cpu_cores"]:
        machine += f", {hardware['threads']} of them used"
    return str(hardware.get("gpu", machine))


def pictures_table(name: str) -> str:
    """Return the newest record of the data path of large pictures."""
    record = records(name)[-1]
    text = (
        f"{record['files']:,} JPEG files of 500 x 375 pixels; the cache took {record['cache_seconds']:.0f} "
        f"seconds and {record['cache_bytes'] / 1e9:.1f} GB. "
        f"Measured on {machine_of(record)}, torch {record['versions']['torch']}."
    )
    return "\n".join([*ratio_rows(record), "", text])


def do_cost_table(name: str) -> str:
    """Return the newest record of DO's cost."""
    record = records(name)[-1]
    rows = ["| measure | ratio | target |", "|---|---|---|"]
    targets = {"instance weights from two random views, against averaging": "at most 3.1"}
    for line in record["lines"]:
        low, high = line["spread"]
        target = targets.get(line["measure"], "")
        rows.append(
            f"| {line['measure']} | {line['ratio']:.2f} ({low:.2f} to {high:.2f}) | {target} |"
        )
    share = 100 * record["solver_share_of_test_time_learning"]
    rows += [
        f"| solver, share of test-time learning | {share:.2f} % | under 3 % |",
        f"| storage of all sub-models, against one network | {record['storage_ratio']:.2f} | at most 1.15 |",
        "",
        f"The solver takes {record['solver_seconds_for_10000_pictures']:.3f} seconds for 10,000 pictures.",
    ]
    return "\n".join(rows)


def mixtures_table(name: str, row: str, sees: tuple[str, ...] = (), views: str = "mirror") -> str:
    """Return the mixtures of a row on left-out pictures and on test; some or all of them."""
    chosen = [line for line in records(name) if line["row"] == row and line["views"] == views]
    names = [(r["name"], r["sees"]) for r in chosen[0]["mixtures"] if not sees or r["sees"] in sees]
    seeds = len({line["seed"] for line in chosen})
    rows = [
        "| mixture | sees | left out, all | test, all | many | medium | few |",
        "|---|---|---|---|---|---|---|",
    ]
    for mixture, seen in names:
        found: dict[str, list[dict[str, Any]]] = {"left out": [], "test": []}
        for line in chosen:
            found[line["pictures"]] += [r for r in line["mixtures"] if r["name"] == mixture]
        cells = [percent_of_seeds([r["accuracy"] for r in found["left out"]])]
        cells += [
            percent_of_seeds([r[key] for r in found["test"]])
            for key in ("accuracy", "many", "medium", "few")
        ]
        rows.append(f"| {mixture} | {seen} | {' | '.join(cells)} |")
    rows += ["", f"Class-averaged accuracy in %, {seeds} seed{'s' * (seeds > 1)}, last epoch."]
    return "\n".join(rows)


def left_out_table(name: str) -> str:
    """Return the rows of a table that were scored on left-out pictures, best first, seed against seed."""
    table = read_table(name)
    found = {r.name: RECORDS.of(r.config("short"), split="left out") for r in table.rows}
    scored: list[tuple[float, str]] = []
    for row, evidence in found.items():
        shared = differences(evidence, found[table.against], "macro_accuracy")
        if not shared:
            continue
        cells = [
            percent_of_seeds([e.line[key] for e in evidence])
            for key in ("macro_accuracy", "many", "medium", "few")
        ]
        cells.insert(1, "-" if row == table.against else signed(shared))
        scored.append(
            (statistics.mean(shared), f"| {row} | {' | '.join(cells)} | {seeds_of(evidence)} |")
        )
    head = [
        f"| row | all | against {table.against}, same seeds | many | medium | few | seeds |",
        "|---" * 7 + "|",
    ]
    return "\n".join([*head, *(text for _, text in sorted(scored, reverse=True))])


def release_table(table: str) -> str:
    """Return the accuracy over the share of released weights, for each criterion that was searched."""
    rows = ["| criterion, stage | " + " | ".join(f"{10 * i} %" for i in range(10)) + " |"]
    rows.append("|---" * 11 + "|")
    for row in read_table(table).rows:
        for evidence in RECORDS.of(row.config("short")):
            for line in evidence.line["found"]:
                if "release_curve" in line:
                    name = evidence.line["config"]["method"]["importance"]
                    cells = [f"{100 * value:.1f}" for value in line["release_curve"]]
                    cells[round(10 * line["release"])] += " *"
                    rows.append(f"| {name}, {line['stage'].split(',')[0]} | {' | '.join(cells)} |")
    return "\n".join(rows)


def release_readings_table(name: str) -> str:
    """Return what is left of a network after its first release, by share and reading."""
    found: dict[tuple[float, str], list[dict[str, Any]]] = {}
    for line in records(name):
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


def panel_table(name: str, title: str, row: str, unit: float, form: str) -> str:
    """Return one panel of a run's report, mean over seeds, as a table of places by series."""
    panels = [
        panel
        for line in records(name)
        for panel in line["panels"]
        if line["row"] == row and panel["title"] == title
    ]
    series = list(panels[0]["series"])
    rows = [f"| {panels[0]['x']} | {' | '.join(series)} |", "|---" * (len(series) + 1) + "|"]
    for place, label in enumerate(panels[0]["places"]):
        cells = [
            format(statistics.mean(unit * panel["series"][s][place] for panel in panels), form)
            for s in series
        ]
        rows.append(f"| {str(label).replace(chr(10), ' ')} | {' | '.join(cells)} |")
    return "\n".join(rows)


def signatures_table(*names: str) -> str:
    """Return what tables 7 and 9 of DO's paper show, by row: stages 2 and 3, and weights on the diagonal."""
    found: dict[str, list[dict[str, Any]]] = {}
    for line in (line for name in names for line in records(name)):
        panels = {panel["title"]: panel for panel in line["panels"]}
        found.setdefault(line["row"], []).append(panels)
    header = ["row", "stage 2", "after its release", "stage 3", "own sub-model's weight", "seeds"]
    table = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    for row in (row for row in read_table("do-ablations").rows if slug(row.name) in found):
        runs = found[slug(row.name)]
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
        table.append(f"| {row.name} | {' | '.join(cells)} | {len(runs)} |")
    return "\n".join(table)


def _place(panel: dict[str, Any], place: str) -> list[float]:
    """Return the shot groups' accuracy at one place of a panel, many first."""
    at = panel["places"].index(place)
    return [panel["series"][name][at] for name in ("many", "medium", "few")]


def _diagonal(panel: dict[str, Any], objective: str) -> list[float]:
    """Return the mean weight of sub-model t over the pictures of group t."""
    return [
        values[panel["places"].index(f"group {t},\n{objective}")]
        for t, values in enumerate(panel["series"].values(), start=1)
    ]


def short_table(name: str) -> str:
    """Return a paper's table in the short schedule."""
    return render(read_table(name), "short", RECORDS).split("\n\n", 2)[2].rstrip()


def calibration_table(names: tuple[str, ...]) -> str:
    """Return the rows of some tables in the short schedule by their calibration error, the lowest first."""
    found: dict[str, list[Evidence]] = {}
    for row in (row for name in names for row in read_table(name).rows):
        runs = RECORDS.of(row.config("short"))
        if runs and runs not in found.values():
            found[row.name] = runs
    errors = {name: [run.line["calibration_error"] for run in runs] for name, runs in found.items()}
    table = ["| row | calibration error | accuracy | seeds |", "|---|---|---|---|"]
    for name in sorted(found, key=lambda name: statistics.mean(errors[name])):
        runs = found[name]
        accuracy = percent_of_seeds([run.line["accuracy"] for run in runs])
        table.append(
            f"| {name} | {percent_of_seeds(errors[name])} | {accuracy} | {seeds_of(runs)} |"
        )
    return "\n".join(table)


def decoupling_table(name: str) -> str:
    """Return every classifier on every representation, mean and deviation over seeds."""
    rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for line in records(name):
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


def norms_table(name: str) -> str:
    """Return the rank correlation of the classifier's norms with the class counts."""
    table = ["| classifier | rank correlation, seed by seed |", "|---|---|"]
    by_classifier: dict[str, list[float]] = {}
    for line in records(name):
        by_classifier.setdefault(line["classifier"], []).append(line["spearman"])
    for classifier, values in by_classifier.items():
        table.append(f"| {classifier} | {', '.join(f'{value:.2f}' for value in values)} |")
    return "\n".join(table)


def features_table(name: str) -> str:
    """Return the newest record of corrections on features."""
    record = records(name)[-1]
    table = [
        "| correction | seconds | limit | peak memory | published procedure | ratio |",
        "|---|---|---|---|---|---|",
    ]
    for line in record["lines"]:
        table.append(
            f"| {line['correction']} | {line['seconds']:.1f} | {line['target_seconds']} | "
            f"{line['peak_memory_gb']:.1f} GB | {line['published_pictures']:,} pictures, "
            f"{line['published_seconds'] / 3600:.1f} hours | {line['ratio']:,.0f} |"
        )
    hardware = record["hardware"]
    table += [
        "",
        f"ResNeXt-50 passes {record['backbone_pictures_per_second']:.0f} pictures of 224 pixels a second "
        f"forward here ({hardware['cpu']}, {hardware['cpu_cores']} cores, torch "
        f"{record['versions']['torch']}).",
    ]
    return "\n".join(table)


def cost_table(name: str) -> str:
    """Return the newest record of what branches and experts cost."""
    table = [
        "| | parameters | FLOPs a picture | inference, ratio | training, ratio |",
        "|---|---|---|---|---|",
    ]
    for line in records(name)[-1]["lines"]:
        cells = [
            f"{line[kind]['ratio']:.2f} ({line[kind]['spread'][0]:.2f} to {line[kind]['spread'][1]:.2f})"
            for kind in ("inference", "training")
        ]
        table.append(
            f"| {line['row']} | {line['parameters']:,} | {line['inference_flops'] / 1e6:.1f} M | "
            f"{cells[0]} | {cells[1]} |"
        )
    return "\n".join(table)


def gamma_table(name: str) -> str:
    """Return what choices at test time do to trained networks: the newest record of every seed."""
    newest = {(line["pictures"], line["seed"]): line["accuracy"] for line in records(name)}
    by_pictures: dict[str, list[dict[str, Any]]] = {"left out": [], "test": []}
    for (pictures, _), accuracy in newest.items():
        by_pictures[pictures].append(accuracy)
    table = [
        "| answer | left out, all | test, all | many | medium | few |",
        "|---|---|---|---|---|---|",
    ]
    for answer in by_pictures["test"][0]:
        cells = [percent_of_seeds([found[answer]["all"] for found in by_pictures["left out"]])]
        for group in ("all", "many", "medium", "few"):
            cells.append(percent_of_seeds([found[answer][group] for found in by_pictures["test"]]))
        table.append(f"| {answer} | {' | '.join(cells)} |")
    return "\n".join(table)


def pretrained_table(name: str, split: str) -> str:
    """Return what is trained on a pretrained backbone: the newest record of every row and seed."""
    lines = [line for line in records(name) if line["split"] == split]
    newest = {(line["row"], line["seed"]): line for line in lines}
    rows: dict[str, list[dict[str, Any]]] = {}
    for (row, _), line in newest.items():
        rows.setdefault(row, []).append(line)
    table = [
        "| what is trained | seeds | all | many | medium | few | minutes |",
        "|---|---|---|---|---|---|---|",
    ]
    for row, lines in rows.items():
        cells = [percent_of_seeds([line[key] for line in lines])
                 for key in ("macro_accuracy", "many", "medium", "few")]  # fmt: skip
        minutes = max(line["training_seconds"] for line in lines) / 60
        table.append(f"| {row} | {len(lines)} | {' | '.join(cells)} | {minutes:.0f} |")
    return "\n".join(table)


def low_rank_table(name: str) -> str:
    """Return what low-rank additions save, from the newest record."""
    record = records(name)[-1]
    rows = [
        f"| {line['row']} | {line['trained_weights']:,} | {line['megabytes_besides']:.1f} MB | "
        f"{line['step_ratio']:.2f} ({line['spread'][0]:.2f} to {line['spread'][1]:.2f}) |"
        for line in record["lines"]
    ]
    return "\n".join(
        [
            "| what is trained | weights | gradients and optimiser | time of a step, ratio |",
            "|---|---|---|---|",
            *rows,
            "",
            f"{record['backbone']}, 224 pixels, batch of 8, AdamW; {machine_of(record)}, torch "
            f"{record['versions']['torch']}.",
        ]
    )


TABLES = {
    "overview": overview,
    "speed": lambda: speed_table("speed.jsonl"),
    "compiled": lambda: compiled_table("speed.jsonl"),
    "decoupling": lambda: decoupling_table("decoupling-40-epochs.jsonl"),
    "decoupling-norms": lambda: norms_table("decoupling-norms.jsonl"),
    "features": lambda: features_table("features.jsonl"),
    "pretrained": lambda: pretrained_table("pretrained.jsonl", "test"),
    "pretrained-rates": lambda: pretrained_table("pretrained.jsonl", "val"),
    "low-rank": lambda: low_rank_table("low-rank.jsonl"),
    "network-cost": lambda: cost_table("network-cost.jsonl"),
    "pictures": lambda: pictures_table("pictures.jsonl"),
    "do-cost": lambda: do_cost_table("do-cost.jsonl"),
    "baselines": lambda: short_table("baselines-cifar100"),
    "paco-ablation": lambda: short_table("paco-ablation"),
    "experts": lambda: short_table("experts-cifar100"),
    "calibration": lambda: calibration_table(
        ("overview-cifar100", "baselines-cifar100", "experts-cifar100")
    ),
    "experts-mixtures": lambda: mixtures_table("experts-mixtures.jsonl", "sade", views="sade"),
    "reslt-table-9": lambda: short_table("reslt-table-9"),
    "reslt-disagreements": lambda: short_table("reslt-disagreements"),
    "reslt-gamma": lambda: gamma_table("reslt-gamma.jsonl"),
    "reslt-pooling": lambda: gamma_table("reslt-pooling.jsonl"),
    "do-ablations": lambda: short_table("do-ablations"),
    "do-mixtures": lambda: mixtures_table("do-mixtures.jsonl", "do"),
    "do-held-out": lambda: mixtures_table(
        "do-mixtures.jsonl",
        "five-pictures-a-class-held-out",
        ("label-free", "views", "held-out", "oracle"),
    ),
    "do-release": lambda: release_table("do-ablations"),
    "do-release-readings": lambda: release_readings_table("do-release.jsonl"),
    "do-left-out": lambda: left_out_table("do-ablations"),
    "do-stages": lambda: panel_table(
        "panels.jsonl", "Accuracy at the end of each stage", "do", 100, ".1f"
    ),
    "do-signatures": lambda: signatures_table("panels.jsonl", "do-signatures.jsonl"),
    "do-weights": lambda: panel_table(
        "panels.jsonl", "Test-time weights of the sub-models", "do", 1, ".2f"
    ),
    "do-importance": lambda: panel_table(
        "panels.jsonl", "Mean importance of the weights", "do", 1e6, ".2f"
    ),
}


def rendered(text: str) -> str:
    """Return `text` with every marked table rendered anew."""

    def render(found: re.Match[str]) -> str:
        if found[2] not in TABLES:
            raise SystemExit(f"There is no table {found[2]}; there are {', '.join(TABLES)}.")
        return f"{found[1]}{TABLES[found[2]]()}\n{found[3]}"

    pattern = r"(<!-- table (\S+) -->\n).*?(<!-- end of table -->)"
    return re.sub(pattern, render, text, flags=re.DOTALL)


def main() -> None:
    """Rewrite or check the pages."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    pages = {page: page.read_text(encoding="utf-8") for page in PAGES}
    shown = re.findall(r"<!-- table (\S+) -->", "".join(pages.values()))
    if sorted(shown) != sorted(TABLES):
        raise SystemExit(f"Every table must be shown once; shown are {', '.join(shown)}.")
    made = {page: rendered(text) for page, text in pages.items()}
    made |= {ROOT / "results" / "tables" / f"{n}.md": paper_table(n) for n in table_names()}
    made[MEASURED] = measured()
    for page, text in made.items():
        if not check:
            page.parent.mkdir(exist_ok=True)
            page.write_text(text, encoding="utf-8")
        elif not page.exists() or page.read_text(encoding="utf-8") != text:
            sys.exit(f"{page.name} is not up to date: run benchmarks/render.py")
    title, rows = dots_of(read_table("overview-cifar100"), "short", RECORDS)
    if not check:
        write_dots(title, rows, FIGURE)
    elif not FIGURE.exists() or describe(rows) not in FIGURE.read_text(encoding="utf-8"):
        sys.exit(f"{FIGURE.name} is not up to date: run benchmarks/render.py")


if __name__ == "__main__":
    main()
