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

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "README.md", ROOT / "docs" / "notes-on-results.md")


def records(name: str) -> list[dict[str, Any]]:
    """Return the lines of one results file."""
    path = ROOT / "results" / name
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def accuracy_table(name: str, decoupled: str) -> str:
    """Return mean and standard deviation over seeds for every recipe of a results file.

    Args:
        name: The file.
        decoupled: File of Decoupling's rows; those that are a recipe as it ships are shown too.
    """
    by_recipe: dict[str, list[dict[str, Any]]] = {}
    shipped = re.compile(r"/instance/(crt|lws|tau|ncm) ")
    more = [line for line in records(decoupled) if shipped.search(line["command"])]
    for line in [*records(name), *more]:
        by_recipe.setdefault(line["recipe"], []).append(line)
    first = next(iter(by_recipe.values()))[0]
    groups = first["groups"]
    titles = [f"{group} ({groups[group]['classes']})" for group in ("many", "medium", "few")]
    rows = [
        f"| recipe | seeds | all | {' | '.join(titles)} |",
        "|---|---|---|---|---|---|",
    ]
    for recipe, lines in by_recipe.items():
        cells = [mean_and_deviation([100 * line[key] for line in lines])
                 for key in ("accuracy", "many", "medium", "few")]  # fmt: skip
        rows.append(f"| `{recipe}` | {len(lines)} | {' | '.join(cells)} |")
    hardware = first["hardware"]
    rows += [
        "",
        f"Accuracy in % on the balanced test set, {first['epochs']} epochs, {first['selection']}, mean "
        f"± standard deviation. Measured on {hardware['cpu']}, {hardware['cpu_cores']} cores, torch "
        f"{first['versions']['torch']}; every run is a line of `results/{name}` or `results/{decoupled}`. "
        "Decoupling's rows share the representations of two cross-entropy runs and add 5 or 10 epochs of "
        "their classifier, or none.",
    ]
    return "\n".join(rows)


def speed_table(name: str) -> str:
    """Return the newest record of the speed benchmark."""
    record = records(name)[-1]
    rows = ["| measure | against | ours | theirs | ratio | target |", "|---|---|---|---|---|---|"]
    for line in record["lines"]:
        low, high = line["spread"]
        target = "" if line["target"] is None else f"{line['target']:g}"
        rows.append(
            f"| {line['measure']} | {line['against']} | {line['ours']:,.0f} {line['unit']} | "
            f"{line['theirs']:,.0f} | {line['ratio']:.2f} ({low:.2f} to {high:.2f}) | {target} |"
        )
    hardware = record["hardware"]
    text = (
        f"Peak host memory of a CIFAR-100-LT run: {record['peak_memory_gb']:.2f} GB. Measured on "
        f"{hardware['cpu']}, {hardware['cpu_cores']} cores, torch {record['versions']['torch']}; "
        f"medians of alternating repetitions in one run, smallest and largest ratio of a pair. Not "
        f"measured: {record['not_measured']}."
    )
    if "accuracy_after_15_epochs" in record:
        parts = [
            f"{who} {mean_and_deviation([100 * run['all'] for run in runs])}"
            for who, runs in record["accuracy_after_15_epochs"].items()
        ]
        text += f" After 15 epochs, three seeds each, accuracy in %: {', '.join(parts)}."
    return "\n".join([*rows, "", text])


def mean_and_deviation(values: list[float]) -> str:
    """Return `12.3 ± 0.4`, or the value alone if there is one."""
    mean = statistics.mean(values)
    return f"{mean:.1f} ± {statistics.stdev(values):.1f}" if len(values) > 1 else f"{mean:.1f}"


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
        cells = [mean_and_deviation([100 * line[key] for line in lines])
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
    """Return the newest record of ResLT's cost."""
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


TABLES = {
    "cifar100-lt-40-epochs": lambda: accuracy_table(
        "cifar100-lt-40-epochs.jsonl", "decoupling-40-epochs.jsonl"
    ),
    "speed": lambda: speed_table("speed.jsonl"),
    "decoupling": lambda: decoupling_table("decoupling-40-epochs.jsonl"),
    "decoupling-norms": lambda: norms_table("decoupling-norms.jsonl"),
    "features": lambda: features_table("features.jsonl"),
    "reslt-cost": lambda: cost_table("reslt-cost.jsonl"),
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
    for page, text in pages.items():
        made = rendered(text)
        if check and made != text:
            sys.exit(f"{page.name} is not up to date: run benchmarks/render.py")
        if not check:
            page.write_text(made, encoding="utf-8")


if __name__ == "__main__":
    main()
