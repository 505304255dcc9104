"""Sentences of the report, made from the run's numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from longtail.core.groups import GROUP_NAMES
from longtail.core.names import shown
from longtail.core.words import counted
from longtail.data.inspection import Inspection
from longtail.evaluation.scores import LEAST_IMAGES, percent
from longtail.methods import METHODS
from longtail.report.classes import standings, worst_first
from longtail.report.view import RunView

FEW_TO_LEARN_FROM = 5  # training images
MOST_NAMED = 5  # classes in a sentence


def with_interval(entry: dict[str, Any], *, signed: bool = False) -> str:
    """Return `42.1 [41.2, 43.0]`, `42.1` without an interval, `-` if it is undefined."""
    if entry["value"] is None:
        return "-"
    sign = "+" if signed else ""
    if entry["interval"] is None:
        return f"{100 * entry['value']:{sign}.1f}"
    low, high = entry["interval"]
    return f"{100 * entry['value']:{sign}.1f} [{100 * low:{sign}.1f}, {100 * high:{sign}.1f}]"


def verdict(view: RunView) -> str:
    """Say in one sentence how many images the model recognises, over images and over classes."""
    scores = view.scores
    low, high = scores["accuracy_interval"]
    tested = scores["num_classes_evaluated"]
    of = "" if tested == scores["num_classes"] else f" of {scores['num_classes']:,}"
    macro_low, macro_high = view.intervals["all"]["interval"]
    return (
        f"The model classifies {percent(scores['accuracy'])} % of the {scores['num_images']:,} "
        f"{view.split} images correctly (95 % interval {percent(low)} to {percent(high)} %). The "
        f"mean accuracy over {tested:,}{of} classes is {percent(scores['macro_accuracy'])} % "
        f"({percent(macro_low)} to {percent(macro_high)} %)."
    )


def class_verdict(view: RunView) -> str:
    """Say in one or two sentences for how many classes the model works."""
    found = standings(view.class_intervals, view.tested)
    numbers = {kind: found.count(kind) for kind in ("recognised", "missed", "open", "untested")}
    total = counted(len(found), "class", "classes")
    parts = []
    if numbers["missed"]:
        is_ = "is" if numbers["missed"] == 1 else "are"
        parts.append(f"{numbers['missed']:,} {is_} missed (fewer than half)")
    if numbers["open"]:
        is_ = "is" if numbers["open"] == 1 else "are"
        parts.append(f"{numbers['open']:,} {is_} open: the {view.split} images are too few to tell")
    if numbers["untested"]:
        parts.append(f"{numbers['untested']:,} have no {view.split} images")
    recognised = numbers["recognised"]
    text = (
        f"{recognised:,} of {total} {'is' if recognised == 1 else 'are'} recognised (more than half of "
        "their images, with 95 % confidence)"
    )
    text += f"; {'; '.join(parts)}." if parts else "."
    rare = sum(n < FEW_TO_LEARN_FROM for n in view.counts.values)
    if rare:
        have = counted(rare, "class has", "classes have")
        text += f" {have} fewer than {FEW_TO_LEARN_FROM} training images."
    return text


def next_actions(view: RunView) -> list[str]:
    """Return what to do next, the most useful first; at least one sentence."""
    counts, names = np.array(view.counts.values), view.counts.names
    found = np.array(standings(view.class_intervals, view.tested))
    poor = np.flatnonzero((found != "recognised") & (view.groups.mask("many").numpy() == 0))
    actions = []
    if inspection := view.inspection:
        if inspection.in_two_splits:
            actions.append(
                "Remove the images that are in two splits from one of the two, and train again."
            )
        actions += _about_near_duplicates(inspection)
        if inspection.conflicting:
            named = [
                "; ".join(" = ".join(map(shown, paths)) for paths in inspection.conflicting[:3])
            ]
            unnamed = len(inspection.conflicting) - 3
            named += [f"and {unnamed:,} more"] if unnamed > 0 else []
            actions.append(
                "Decide which label is correct where files with identical pixels have different ones, and "
                f"delete the other file: {', '.join(named)}."
            )
    if len(poor):
        rarest = poor[np.lexsort((np.nan_to_num(view.class_accuracy[poor]), counts[poor]))]
        listed = [f"{shown(names[c], 60)} ({counts[c]:,})" for c in rarest[:MOST_NAMED].tolist()]
        rest = len(poor) - len(listed)
        more = f", and of {counted(rest, 'more class', 'more classes')}" if rest else ""
        actions.append(
            "Label more images of the rarest classes that are missed or open (number of training "
            f"images in brackets): {listing(listed)}{more}."
        )
    actions += _about_confusion(view)
    small = np.flatnonzero(view.tested < LEAST_IMAGES)
    if len(small):
        have = counted(len(small), "class has", "classes have")
        drawn = view.run.identity is not None and view.run.identity.drawn_split
        what = "images" if drawn else f"{view.split} images"
        share = " (a share of them becomes test)" if drawn and view.split == "test" else ""
        fewest = small[np.argsort(view.tested[small], kind="stable")][:MOST_NAMED].tolist()
        listed = [f"{shown(names[c], 60)} ({view.tested[c]:,})" for c in fewest]
        rest = len(small) - len(listed)
        more = f", and of {counted(rest, 'more class', 'more classes')}" if rest else ""
        actions.append(
            f"Add {what} of {listing(listed)}{more}{share}: {have} fewer than {LEAST_IMAGES} {view.split} "
            "images, which is too few to judge a class."
        )
    if not actions:
        actions.append(
            "Look through the mistakes below: the most confident ones are often wrong labels."
        )
    return actions


def _about_near_duplicates(inspection: Inspection) -> list[str]:
    """Name a pair that two splits divide: of copies, or else of images that look almost alike."""
    across = [pair for pair in inspection.near_duplicates if pair.splits[0] != pair.splits[1]]
    if not across:
        return []
    copies = [pair for pair in across if pair.surely_copies]
    found = copies or across
    pairs = counted(len(found), "pair", "pairs")
    one, other = map(shown, found[0].paths)
    if copies:
        return [
            f"Look at {pairs} of near-duplicates that two splits divide, such as {one} and {other}, take one "
            "image of each out, and train again."
        ]
    return [
        f"Check whether {pairs} of images that look almost alike and that two splits divide are copies, such "
        f"as {one} and {other}; if so, take one image of each out, and train again."
    ]


def _about_confusion(view: RunView) -> list[str]:
    """Name the two classes that are confused most, if that is a fifth of the images of one."""
    names = view.counts.names
    for label, predicted, images in view.pairs[:50].tolist():
        size = int(view.tested[label])
        if size >= LEAST_IMAGES and images >= 3 and images >= size / 5:
            return [
                (
                    f"Look at {shown(names[label], 60)} taken for {shown(names[predicted], 60)} ({images} of "
                    f"{size} images): are the labels correct, and can a person tell the two apart?"
                )
            ]
    return []


def worst_class(view: RunView) -> tuple[str, str, str]:
    """Return accuracy and interval of the worst class that can be judged, and which it is, ties counted."""
    judged = view.tested >= LEAST_IMAGES
    if not judged.any():
        return "not measurable", f"no class has {LEAST_IMAGES} images", ""
    order = worst_first(view.class_accuracy, view.tested, np.array(view.counts.values))
    lowest = view.class_accuracy[order[0]]
    ties = int((judged & (view.class_accuracy == lowest)).sum()) - 1
    low, high = view.class_intervals[order[0]]
    name = shown(view.counts.names[order[0]], 40) + (f" and {ties:,} more" if ties else "")
    size = view.tested[order[0]]
    return f"{percent(lowest)} %", f"[{percent(low)}, {percent(high)}]", f"{name}, {size:,} images"


def group_lines(view: RunView) -> list[dict[str, Any]]:
    """Return name, classes, accuracy and test images of every shot group that has a class."""
    lines = []
    for name in GROUP_NAMES:
        mask = view.groups.mask(name).numpy()
        if not mask.any():
            continue
        value, _, interval = with_interval(view.intervals[name]).partition(" ")
        lines.append(
            {
                "name": name,
                "classes": int(mask.sum()),
                "accuracy": value,
                "interval": interval,
                "images": int(view.tested[mask].sum()),
            }
        )
    return lines


def trained(view: RunView) -> str:
    """Say for how many epochs the run was trained, and whether it stopped before their end."""
    done = view.lines[-1]["epochs_done"] if view.lines else 0
    patience = view.run.config.training.early_stopping
    last = {line["stage"]: line["epoch"] for line in view.lines if "epoch" in line}
    early = any(last.get(stage.name, stage.epochs) < stage.epochs for stage in view.stages)
    text = counted(done, "epoch", "epochs")
    if patience is None or not early:
        return text
    most = sum(stage.epochs for stage in view.stages)
    unchanged = counted(patience, "epoch", "epochs")
    return f"{text} of {most:,}, stopped because val did not improve for {unchanged}"


def how_made(view: RunView) -> list[str]:
    """Say by which method, loss and backbone the model was trained, and whom to cite."""
    config = view.run.config
    method = METHODS[config.method_name]
    loss = getattr(getattr(view.model.method.config, "loss", None), "name", None)
    frozen = ", frozen" if any(stage.features for stage in view.stages) else ""
    parts = [f"Method: {config.method_name} ({method.summary})"]
    parts += [f"loss: {loss}"] if loss else []
    sentences = [f"{'; '.join(parts)}; backbone: {config.model.backbone}{frozen}."]
    return (
        sentences
        if method.citation.startswith("see")
        else [*sentences, f"Cite: {method.citation}."]
    )


def listing(parts: list[str]) -> str:
    """Return `a, b and c`."""
    if len(parts) <= 1:
        return "".join(parts)
    return f"{', '.join(parts[:-1])} and {parts[-1]}"
