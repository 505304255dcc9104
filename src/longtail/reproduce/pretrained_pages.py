"""Tables of what is trained on pretrained backbones, from the records."""

from __future__ import annotations

from typing import Any

from longtail.core.groups import GROUP_NAMES
from longtail.evaluation.scores import percent, percent_of_seeds
from longtail.report.dots import DotRow
from longtail.reproduce.results import Results

AVERAGE = "average of "
KINDS = ("head on frozen features", "fine-tuned for ten epochs", "average of the logits of several")


def pretrained_table(results: Results, name: str, split: str, unit: str = "minutes") -> str:
    """Return what is trained on a pretrained backbone: the newest record of every row and seed.

    Args:
        results: Holds the records.
        name: Of the file with the records.
        split: Of the accuracies.
        unit: Of the time, `minutes` or `seconds`.
    """
    rows = _rows(results, name, split)
    table = [
        f"| what is trained | seeds | all | many | medium | few | {unit} |",
        "|---|---|---|---|---|---|---|",
    ]
    for row, lines in rows.items():
        cells = [percent_of_seeds([line[key] for line in lines])
                 for key in ("macro_accuracy", "many", "medium", "few")]  # fmt: skip
        longest = max(line["training_seconds"] for line in lines) / (60 if unit == "minutes" else 1)
        table.append(f"| {row} | {len(lines)} | {' | '.join(cells)} | {longest:.0f} |")
    return "\n".join(table)


def pretrained_dots(results: Results, name: str) -> tuple[str, list[DotRow]]:
    """Return title and rows of the figure of what reached what on test.

    Args:
        results: Holds the records.
        name: Of the file with the records; a row that ends with its pixels is a fine-tuning.
    """
    title = "CIFAR-100-LT, ratio 100: EfficientNet-Lite, pretrained on ImageNet\nlast epoch"
    return title, [
        DotRow(
            row.removeprefix(AVERAGE).replace(" and ", ", ").replace("frozen ", ""),
            _kind(row),
            {"all": [line["macro_accuracy"] for line in lines]}
            | {group: [line[group] for line in lines] for group in GROUP_NAMES},
        )
        for row, lines in _rows(results, name, "test").items()
    ]


def tuning_table(results: Results, name: str) -> str:
    """Return what short fine-tunings reach on held-out images: each row at the best of its rates.

    Args:
        results: Holds the records.
        name: Of the file with the records; rows are called `val PART, [START,] PIXELS, rate RATE`.
    """
    lines = [line for line in results.lines(name) if line["split"] == "val"]
    tried: dict[tuple[str, int], dict[str, dict[str, Any]]] = {}
    for line in lines:
        *part, rate = line["row"].removeprefix("val ").split(", ")
        if part and part[-1].isdigit():  # neither a classifier alone nor an average has pixels
            tried.setdefault((", ".join(part[:-1]), int(part[-1])), {})[rate] = line
    table = [
        "| what is trained | pixels | rates | all | many | medium | few | minutes | memory, MB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for (part, pixels), by_rate in sorted(tried.items(), key=lambda item: (item[0][1], item[0][0])):
        best = max(by_rate, key=lambda rate: by_rate[rate]["macro_accuracy"])
        line = by_rate[best]
        rates = ", ".join(
            f"**{rate[5:]}**" if rate == best else rate[5:] for rate in sorted(by_rate, key=_rate)
        )
        cells = [percent(line[key]) for key in ("macro_accuracy", "many", "medium", "few")]
        cells += [f"{line['training_seconds'] / 60:.0f}", f"{line['most_memory_mb']:,}"]
        table.append(f"| {part} | {pixels} | {rates} | {' | '.join(cells)} |")
    return "\n".join(table)


def _rate(text: str) -> float:
    return float(text.removeprefix("rate "))


def _rows(results: Results, name: str, split: str) -> dict[str, list[dict[str, Any]]]:
    """Return the newest record of every row and seed on a split, by row."""
    lines = [line for line in results.lines(name) if line["split"] == split]
    newest = {(line["row"], line["seed"]): line for line in lines}
    rows: dict[str, list[dict[str, Any]]] = {}
    for (row, _), line in newest.items():
        rows.setdefault(row, []).append(line)
    # stable within a kind
    return dict(sorted(rows.items(), key=lambda item: KINDS.index(_kind(item[0]))))


def _kind(row: str) -> str:
    if row.startswith(AVERAGE):
        return KINDS[2]
    return KINDS[row.split(", ")[-1].isdigit()]
