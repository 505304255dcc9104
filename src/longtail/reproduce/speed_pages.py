"""Tables of what was measured of speed, memory and cost, from the records."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

from longtail.evaluation.scores import percent_of_seeds
from longtail.report.drawing import Drawing
from longtail.report.measures import Measure, Measured, measures
from longtail.reproduce.results import Results


def speed_table(results: Results, name: str) -> str:
    """Return the newest record of the speed benchmark on each machine."""
    newest = {}
    for line in results.lines(name):
        if line["benchmark"] == "speed":
            newest[machine_of(line)] = line
    parts = []
    for machine, record in sorted(newest.items()):
        parts += [*ratio_rows(record), ""]
        precision = f" ({record['precision']})" if "precision" in record else ""
        parts.append(
            f"Peak host memory of a CIFAR-100-LT run: {record['peak_memory_gb']:.2f} GB. Measured on "
            f"{machine}{precision}, torch {record['versions']['torch']}: medians of alternating "
            "repetitions in one run, with the smallest and largest ratio of a pair. Not measured: "
            f"{record['not_measured']}."
        )
        parts.append("")
    return "\n".join([*parts, loops_sentence(results, name)]).rstrip()


def loops_sentence(results: Results, name: str) -> str:
    """Return what both loops reach after the same short schedule."""
    runs = [line for line in results.lines(name) if line["benchmark"] == "accuracy of both loops"]
    if not runs:
        return ""
    parts = [
        f"{who} {percent_of_seeds([run[who]['all'] for run in runs])}"
        for who in ("longtail", "plain loop")
    ]
    return f"Accuracy in % after 15 epochs of either loop, {len(runs)} seeds: {', '.join(parts)}."


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


def compiled_table(results: Results, name: str) -> str:
    """Return every record of the compiled step alone."""
    parts = []
    for record in results.lines(name):
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


def images_table(results: Results, name: str) -> str:
    """Return the newest record of the data path of large images."""
    record = results.lines(name)[-1]
    text = (
        f"{record['files']:,} JPEG files of 500 x 375 pixels; the cache took {record['cache_seconds']:.0f} "
        f"seconds and {record['cache_bytes'] / 1e9:.1f} GB. "
        f"Measured on {machine_of(record)}, torch {record['versions']['torch']}."
    )
    return "\n".join([*ratio_rows(record), "", text])


def do_cost_table(results: Results, name: str) -> str:
    """Return the newest record of DO's cost."""
    record = results.lines(name)[-1]
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
        f"The solver takes {record['solver_seconds_for_10000_images']:.3f} seconds for 10,000 images.",
    ]
    return "\n".join(rows)


def features_table(results: Results, name: str) -> str:
    """Return the newest record of corrections on features."""
    record = results.lines(name)[-1]
    table = [
        "| correction | seconds | limit | peak memory | published procedure | ratio |",
        "|---|---|---|---|---|---|",
    ]
    for line in record["lines"]:
        table.append(
            f"| {line['correction']} | {line['seconds']:.1f} | {line['target_seconds']} | "
            f"{line['peak_memory_gb']:.1f} GB | {line['published_images']:,} images, "
            f"{line['published_seconds'] / 3600:.1f} hours | {line['ratio']:,.0f} |"
        )
    hardware = record["hardware"]
    table += [
        "",
        (
            f"ResNeXt-50 processes {record['backbone_images_per_second']:.0f} images of 224 pixels per "
            f"second in a forward pass on this machine ({hardware['cpu']}, {hardware['cpu_cores']} "
            f"cores, torch {record['versions']['torch']})."
        ),
    ]
    return "\n".join(table)


def cost_table(results: Results, name: str) -> str:
    """Return the newest record of what branches and experts cost."""
    table = [
        "| | parameters | FLOPs an image | inference, ratio | training, ratio |",
        "|---|---|---|---|---|",
    ]
    for line in results.lines(name)[-1]["lines"]:
        cells = [
            f"{line[kind]['ratio']:.2f} ({line[kind]['spread'][0]:.2f} to {line[kind]['spread'][1]:.2f})"
            for kind in ("inference", "training")
        ]
        table.append(
            f"| {line['row']} | {line['parameters']:,} | {line['inference_flops'] / 1e6:.1f} M | "
            f"{cells[0]} | {cells[1]} |"
        )
    return "\n".join(table)


def cost_figure(results: Results, name: str) -> Drawing:
    """Return what branches and experts cost, from the newest record, as a figure."""
    record = results.lines(name)[-1]
    title = f"ResNet-32, batch of 128: cost of branches and experts\n{machine_of(record)}"
    rows = {
        line["row"]: {
            said: Measured(line[kind]["ratio"], *line[kind]["spread"])
            for kind, said in (("training", "training step"), ("inference", "prediction"))
        }
        for line in record["lines"]
    }
    return measures(Measure(title, "time relative to cross-entropy (ratio)", ".2f"), rows)


def low_rank_table(results: Results, name: str) -> str:
    """Return what low-rank additions save, from the newest record."""
    record = results.lines(name)[-1]
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


def method_cost_table(results: Results, name: str) -> str:
    """Return what the whole training of each method costs against cross-entropy, the dearest last."""
    records = results.lines(name)
    rows = [
        f"| `cifar100-lt/{line['recipe']}` | {' + '.join(map(str, line['epochs'].values()))} | "
        f"{relative_cost(line, 'training_seconds'):.1f} | {relative_cost(line, 'prediction_seconds'):.1f} | "
        f"{line['weights'] / 1e6:.2f} M |"
        for line in sorted(records, key=lambda line: relative_cost(line, "training_seconds"))
    ]
    return "\n".join(
        [
            "| recipe | epochs by stage | training, ratio | prediction, ratio | weights |",
            "|---|---|---|---|---|",
            *rows,
            "",
            f"CPU seconds on one thread, fp32; {machine_of(records[-1])}, torch "
            f"{records[-1]['versions']['torch']}.",
        ]
    )


def relative_cost(line: Mapping[str, Any], kind: str) -> float:
    """Return a cost of a recipe relative to cross-entropy, which was measured before and after it."""
    return float(line[kind] / fmean(line["reference"][kind]))


def kept_memory_table(results: Results, name: str) -> str:
    """Return what keeping freed memory saves and takes, from the newest record."""
    record = results.lines(name)[-1]
    rows = []
    for line in record["lines"]:
        kept, returned = line["kept"], line["returned"]
        faster = returned["seconds"] / kept["seconds"]
        rows.append(
            f"| {line['row']} | {kept['seconds']:.2f} s | {returned['seconds']:.2f} s | "
            f"{faster:.2f} ({line['spread'][0]:.2f} to {line['spread'][1]:.2f}) | "
            f"{returned['faults']:,.0f} | {kept['most_memory_mb'] / returned['most_memory_mb']:.2f} |"
        )
    return "\n".join(
        [
            "| step | kept | returned | times faster | new pages a step, returned | peak memory, ratio |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
            f"CPU seconds of a step on one thread: medians of {record['pairs']} processes each way; in "
            f"brackets the smallest and largest ratio of a pair. Measured on {machine_of(record)}, torch "
            f"{record['versions']['torch']}.",
        ]
    )
