"""What is trained with the full schedule, what is not yet, and how long the rest takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from longtail.reproduce.records import Evidence
from longtail.reproduce.render import evidence_of
from longtail.reproduce.results import Results
from longtail.reproduce.tables import Row, read_row, read_table

COSTS = "method-cost.jsonl"
PREFIX = "cifar100-lt/"
# whose cost per epoch stands for that of recipes without a measured cost
REFERENCE = "cross-entropy"
TITLES = ("table", "row", "seeds trained", "hours left, bf16", "hours left, fp32")


@dataclass(frozen=True)
class Wanted:
    """Rows of a table that are to be trained with the full schedule.

    Attributes:
        table: Name of the table.
        rows: Their names there.
        seeds: How many are wanted.
    """

    table: str
    rows: tuple[str, ...]
    seeds: int


# most valuable first: the four systems and their controls, then what users choose between
WANTED = (
    Wanted("decoupling-cifar100", ("Joint",), 2),
    Wanted("baselines-cifar100", ("Balanced softmax",), 2),
    Wanted("reslt-table-5", ("ResLT, ratio 100", "ResLT strong, ratio 100"), 2),
    Wanted(
        "do-table-5",
        (
            "DO, as printed (instance-level test-time learning)", "Cross-entropy, stage 1 of DO",
            "Balanced softmax, 100 epochs", "Balanced softmax, 200 epochs",
            "Balanced softmax, 200 epochs, DO's sum of rates",
        ),
        2,
    ),
    Wanted(
        "do-stage-1",
        (
            "AutoAugment and Cutout", "200 epochs, batch 128, rate .1",
            "200 epochs, batch 128, rate .1, AutoAugment and Cutout", "400 epochs, batch 128, rate .1",
            "400 epochs, batch 128, rate .1, AutoAugment and Cutout",
        ),
        1,
    ),
    Wanted("paco-table-6", ("PaCo, ratio 100", "Balanced softmax, ratio 100"), 2),
    Wanted("paco-ablation", ("Cross-entropy",), 2),
    Wanted(
        "baselines-cifar100",
        (
            "LDAM-DRW", "CE-DRW", "MiSLAS", "LADE", "GCL", "BBN", "CMO, balanced softmax", "TDE", "WB",
        ),
        1,
    ),
    Wanted("experts-cifar100", ("RIDE, three experts", "SADE", "BalPoE", "NCL, three networks"), 1),
    Wanted("reslt-table-5", ("ResLT three experts, ratio 100",), 1),
)  # fmt: skip


def queue_table(results: Results, wanted: Sequence[Wanted] = WANTED) -> str:
    """Return the rows that are wanted with the full schedule, and the hours that the missing ones take.

    Args:
        results: The records.
        wanted: Which rows, in the order in which they are worth training.
    """
    costs = {line["recipe"]: line for line in results.lines(COSTS)}
    # the same training, recorded in bf16 and measured in fp32
    (known, recorded) = next(
        (costs[row.recipe.removeprefix(PREFIX)], evidence.line)
        for row in read_table("overview-cifar100").rows
        for evidence in _trained(row, results)
        if evidence.line["hardware"].get("auto_precision") == "bf16" and _measured(row, costs)
    )
    faster = recorded["training_seconds"] / known["training_seconds"]
    lines, total = [], 0.0
    for each in wanted:
        for name in each.rows:
            row = read_row(each.table, name)
            seeds = {evidence.seed for evidence in _trained(row, results)} & set(range(each.seeds))
            left = (each.seeds - len(seeds)) * _fp32_hours(row, results, costs)
            total += left
            hours = [f"{left * faster:.1f}", f"{left:.1f}"] if left else ["-", "-"]
            trained = f"{len(seeds)} of {each.seeds}"
            lines.append(f"| {each.table} | {name} | {trained} | {' | '.join(hours)} |")
    return "\n".join(
        [
            f"| {' | '.join(TITLES)} |",
            "|---" * len(TITLES) + "|",
            *lines,
            f"| all | | | {total * faster:.0f} | {total:.0f} |",
            "",
            f"Hours on one CPU thread, estimated. fp32: the cost of the whole training in `{COSTS}`, or, "
            "where it has not been measured, that of cross-entropy for as many epochs. bf16: the same times "
            f"{faster:.2f}, as for `{recorded['recipe']}`, whose recorded training took "
            f"{recorded['training_seconds'] / 3600:.1f} hours in bf16 ({recorded['hardware']['cpu']}).",
        ]
    )


def _trained(row: Row, results: Results) -> list[Evidence]:
    found, of_now = evidence_of(row, "full", results.records)
    return found if of_now else []


def _measured(row: Row, costs: dict[str, Any]) -> bool:
    """Say whether the cost of what a row trains is known: that of its recipe, without overrides."""
    return row.recipe.removeprefix(PREFIX) in costs and not row.overrides


def _fp32_hours(row: Row, results: Results, costs: dict[str, Any]) -> float:
    """Return how long one seed of a row trains on one thread."""
    if _measured(row, costs):
        return float(costs[row.recipe.removeprefix(PREFIX)]["training_seconds"]) / 3600
    reference = costs[REFERENCE]
    # a record counts the epochs of all stages
    trained = [evidence.line["epochs"] for evidence in _trained(row, results)]
    epochs: int = trained[0] if trained else row.config("full").training.epochs
    share = epochs / sum(reference["epochs"].values())
    return float(reference["training_seconds"]) * float(share) / 3600
