"""Pages about images before a training: labels that are probably wrong, and near-duplicates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from longtail.core.groups import GROUP_NAMES, ShotGroups
from longtail.core.manifest import SPLITS
from longtail.core.words import counted
from longtail.data.data_set import DataSet
from longtail.data.near_duplicates.found import NearDuplicates
from longtail.evaluation.label_quality import LabelQuality
from longtail.evaluation.scores import percent
from longtail.report.images import thumbnails
from longtail.report.page import render

SHOWN = 48  # images of a shot group
EXAMPLES = 24  # pairs of a section
# whether the hash has found them -> what to think of them
WHAT_IT_MEANS = {
    True: "Nearly all of these are copies.",
    False: "Some of these are copies, others only look alike: judge for yourself.",
}
OF_TWO_LABELS = {
    True: "At least one label is wrong, or the classes cannot be told apart.",
    False: "Compare the labels. If the images show different things, both may be right.",
}
IF_NOT_ALIKE = {
    True: "If these are no copies, ignore them: a drawn split keeps them together, and none is removed.",
    False: "If these do not show the same thing, ignore them: none is removed, and they are kept in one "
    "split only if you train on together.csv with data.keep_together=together.",
}
SMALL = 64  # pixels: such images are shown enlarged, with visible pixels


@dataclass(frozen=True)
class Entry:
    """One image or pair on a page.

    Attributes:
        rows: Of the images in the data set.
        name: What is to be read first.
        finding: What is wrong.
        more: Numbers.
        paths: Where the images lie.
    """

    rows: tuple[int, ...]
    name: str
    finding: str
    more: str
    paths: tuple[str, ...]


@dataclass(frozen=True)
class Section:
    """Images of one kind, with a sentence on them."""

    title: str
    text: str
    entries: Sequence[Entry]


def labels_page(data: DataSet, quality: LabelQuality, groups: ShotGroups) -> str:
    """Return the page of the labels that are probably wrong, by shot group, the group with most first.

    Labels that are not called suspicious, but whose class is not the most probable one, come last.

    Args:
        data: The images.
        quality: Of their labels, row by row.
        groups: Shot groups of the classes.
    """
    labels = data.manifest.labels
    ranking = quality.ranking()
    found: list[tuple[int, Section]] = []
    for group in GROUP_NAMES:
        inside = groups.mask(group).numpy()[labels[ranking]]
        rows = ranking[inside & quality.suspicious[ranking]]
        if not len(rows):
            continue
        total = counted(int(inside.sum()), "label is", "labels are")
        text = f"{len(rows):,} of {total} suspicious{_first(len(rows))}, the most probably wrong first."
        title = f"Labelled as a {group}-shot class"
        found.append((len(rows), Section(title, text, _label_entries(data, quality, rows))))
    sections = [section for _, section in sorted(found, key=lambda pair: -pair[0])]
    less = ranking[(quality.margin[ranking] < 0) & ~quality.suspicious[ranking]]
    if len(less):
        text = (
            f"Another class is more probable, but less clearly: {len(less):,} "
            f"{'label' if len(less) == 1 else 'labels'}{_first(len(less))}."
        )
        sections.append(Section("Less clear", text, _label_entries(data, quality, less)))
    lead = [
        f"{int(quality.suspicious.sum()):,} of {counted(len(labels), 'label is', 'labels are')} suspicious.",
        "For these, a classifier on frozen features that never saw the image itself finds another class at "
        "least ten times as probable, and as probable as it usually is for images of that class. The "
        "classifier can be wrong: look at each image. Where classes are hard to tell apart, many of these "
        "labels are right.",
    ]
    return _render(f"Labels of {data.manifest.name}", lead, sections, data)


def _first(number: int) -> str:
    return f"; the first {SHOWN:,} are shown" if number > SHOWN else ""


def _label_entries(data: DataSet, quality: LabelQuality, rows: NDArray[np.int64]) -> list[Entry]:
    names, labels = data.manifest.classes, data.manifest.labels
    return [
        Entry(
            (row,), names[labels[row]], f"more likely {names[quality.other[row]]}",
            f"{percent(quality.other_probability[row])} % against "
            f"{percent(quality.own[row])} %",
            (where(data, row),),
        )
        for row in rows[:SHOWN].tolist()
    ]  # fmt: skip


def near_page(data: DataSet, found: Sequence[NearDuplicates]) -> str:
    """Return the page of near-duplicates: those across splits, those with different labels, all others.

    Args:
        data: The images.
        found: By hash, and by features if these were computed.
    """
    sections, lead = [], []
    for near in found:
        lead.append(
            f"{counted(len(near.pairs), 'pair', 'pairs')} by {near.means} among {near.compared:,} images: "
            f"{near.describe_threshold()}. {WHAT_IT_MEANS[near.by_hash] if len(near.pairs) else ''}"
        )
        for title, text, numbers in _kinds(data, near):
            entries = [_pair(data, near, number) for number in numbers[:EXAMPLES].tolist()]
            if entries:
                many = counted(len(numbers), "pair", "pairs")
                shown = "" if len(numbers) == len(entries) else f", {len(entries)} of them shown"
                sections.append(
                    Section(f"{title}, by {near.means}", f"{many}{shown}. {text}", entries)
                )
    return _render(f"Near-duplicates in {data.manifest.name}", lead, sections, data)


def _kinds(data: DataSet, near: NearDuplicates) -> list[tuple[str, str, NDArray[np.int64]]]:
    """Return title, sentence and pairs of each section."""
    across, labels = near.across_splits(data.manifest), near.across_labels(data.manifest)
    others = np.setdiff1d(np.arange(len(near.pairs)), np.union1d(across, labels))
    kinds = [
        ("Across splits", "One image is in another split than the other: leakage.", across),
        ("Different labels", OF_TWO_LABELS[near.by_hash], labels),
        ("The others", f"The most alike first. {IF_NOT_ALIKE[near.by_hash]}", others),
    ]
    if len(others) > EXAMPLES:
        farthest = others[EXAMPLES:][::-1]
        kinds[2:] = [
            ("Nearest to the threshold", IF_NOT_ALIKE[near.by_hash], farthest),
            ("Most alike", "The nearest pairs.", others[:EXAMPLES]),
        ]
    return kinds


def where(data: DataSet, row: int) -> str:
    """Return the path of an image, or its number in a set that lives in one array."""
    manifest = data.manifest
    return manifest.paths[row] if manifest.paths else f"image {manifest.ids[row]}"


def _pair(data: DataSet, near: NearDuplicates, number: int) -> Entry:
    one, other = near.pairs[number].tolist()
    manifest = data.manifest
    labels = [manifest.classes[manifest.labels[row]] for row in (one, other)]
    splits = [SPLITS[manifest.splits[row]] for row in (one, other)]
    different = [" and ".join(pair) for pair in (splits, labels) if pair[0] != pair[1]]
    distance = near.distances[number]
    return Entry(
        (one, other), labels[0], ", ".join(different),
        f"{distance:.0f} bits" if near.by_hash else f"{distance:.2f}",
        (where(data, one), where(data, other)),
    )  # fmt: skip


def _render(title: str, lead: Sequence[str], sections: Sequence[Section], data: DataSet) -> str:
    rows = dict.fromkeys(r for section in sections for entry in section.entries for r in entry.rows)
    return render(
        "collection.html.j2",
        title=title, lead=lead, sections=sections, small=data.images.size <= SMALL,
        thumbnails=thumbnails(data, list(rows), lambda done, size: None),
    )  # fmt: skip


def ranking_rows(data: DataSet, quality: LabelQuality) -> list[tuple[object, ...]]:
    """Return the table of all labels, the most probably wrong first, with a header."""
    names, labels = data.manifest.classes, data.manifest.labels
    header = (
        "path",
        "label",
        "suspicious",
        "more_likely",
        "probability",
        "probability_of_label",
        "split",
    )
    rows: NDArray[np.int64] = quality.ranking()
    return [
        header,
        *(
            (
                where(data, row), names[labels[row]], "yes" if quality.suspicious[row] else "no",
                names[quality.other[row]], f"{quality.other_probability[row]:.4f}",
                f"{quality.own[row]:.4f}", SPLITS[data.manifest.splits[row]],
            )
            for row in rows.tolist()
        ),
    ]  # fmt: skip
