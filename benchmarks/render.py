"""Render the tables of the README from the records under results/; numbers are never typed.

python benchmarks/render.py           # rewrite the README
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
README = ROOT / "README.md"


def records(name: str) -> list[dict[str, Any]]:
    """Return the lines of one results file."""
    path = ROOT / "results" / name
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def accuracy_table(name: str) -> str:
    """Return mean and standard deviation over seeds for every recipe of a results file."""
    by_recipe: dict[str, list[dict[str, Any]]] = {}
    for line in records(name):
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
        f"{first['versions']['torch']}; every run is a line of `results/{name}`.",
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


TABLES = {
    "cifar100-lt-40-epochs": lambda: accuracy_table("cifar100-lt-40-epochs.jsonl"),
    "speed": lambda: speed_table("speed.jsonl"),
}


def rendered(text: str) -> str:
    """Return `text` with every marked table rendered anew."""
    for name, make in TABLES.items():
        pattern = rf"(<!-- table {name} -->\n).*?(<!-- end of table -->)"
        text, found = re.subn(
            pattern, lambda m, make=make: m[1] + make() + "\n" + m[2], text, flags=re.DOTALL
        )
        if found != 1:
            raise SystemExit(f"README.md must have the table {name} once, but has it {found} times")
    return text


def main() -> None:
    """Rewrite or check the README."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    text = README.read_text(encoding="utf-8")
    made = rendered(text)
    if parser.parse_args().check:
        sys.exit(0 if made == text else "README.md is not up to date: run benchmarks/render.py")
    README.write_text(made, encoding="utf-8")


if __name__ == "__main__":
    main()
