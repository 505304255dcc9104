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
from longtail.data.images.equal_files import equal_rows, with_several_labels
from longtail.data.near_duplicates.found import COPIES, NearDuplicates
from longtail.evaluation.label_quality import LabelQuality
from longtail.evaluation.scores import percent
from longtail.report.images import thumbnails
from longtail.report.page import render

SHOWN = 48  # images of a shot group
EXAMPLES = 24  # pairs of a section
ACROSS = (
    "One image is in another split than the other. If they are copies, this is leakage: the model is tested "
    "on images that it was trained on."
)
OF_TWO_LABELS = "Compare the labels. If the images show different things, both may be right."
# whether the hash has found them -> what to do if they are not alike
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
        labels: Their labels, path by path, where these differ.
    """

    rows: tuple[int, ...]
    name: str
    finding: str
    more: str
    paths: tuple[str, ...]
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Section:
    """Images of one kind, with a sentence on them."""

    title: str
    text: str
    entries: Sequence[Entry]


def labels_page(data: DataSet, quality: LabelQuality, groups: ShotGroups) -> str:
    """Return the page of the labels that are probably wrong, by shot group, each in the order of the ranking.

    Images with two labels come first, then the group of the most suspicious label. Labels that are not called
    suspicious, but whose class is not the most probable one, come last.

    Args:
        data: The images.
        quality: Of their labels, row by row.
        groups: Shot groups of the classes.
    """
    labels = data.manifest.labels
    ranking = quality.ranking()
    twice = with_several_labels(data.manifest, equal_rows(data.pixels))
    told = np.isin(np.arange(len(labels)), [row for rows in twice for row in rows])
    ranking = ranking[~told[ranking]]
    sections = _several_labels(data, twice)
    found: list[tuple[int, Section]] = []
    for group in GROUP_NAMES:
        inside = groups.mask(group).numpy()[labels[ranking]]
        places = np.flatnonzero(inside & quality.suspicious[ranking])
        if not len(places):
            continue
        total = counted(int(inside.sum()), "label is", "labels are")
        text = f"{len(places):,} of {total} suspicious{_first(len(places))}, the most probably wrong first."
        title = f"Labelled as a {group}-shot class"
        entries = _label_entries(data, quality, ranking[places])
        found.append((int(places[0]), Section(title, text, entries)))
    sections += [section for _, section in sorted(found, key=lambda pair: pair[0])]
    less = ranking[(quality.margin[ranking] < 0) & ~quality.suspicious[ranking]]
    if len(less):
        text = (
            f"Another class is more probable, but less clearly: {len(less):,} "
            f"{'label' if len(less) == 1 else 'labels'}{_first(len(less))}."
        )
        sections.append(Section("Less clear", text, _label_entries(data, quality, less)))
    of = (
        f"of {'the other ' if twice else ''}{counted(int((~told).sum()), 'label is', 'labels are')}"
    )
    lead = [
        f"{int((quality.suspicious & ~told).sum()):,} {of} suspicious; labels.csv holds all in one ranking.",
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


def _several_labels(data: DataSet, twice: Sequence[Sequence[int]]) -> list[Section]:
    """Return the section of the images with several labels, if there are any."""
    if not twice:
        return []
    names, labels = data.manifest.classes, data.manifest.labels
    entries = [
        Entry(
            (rows[0],), "one image", "different labels", "",
            tuple(where(data, row) for row in rows), tuple(names[labels[row]] for row in rows),
        )
        for rows in twice[:SHOWN]
    ]  # fmt: skip
    many = counted(len(twice), "image is", "images are")
    text = (
        f"{many} in several files with identical pixels, in different classes{_first(len(twice))}. "
        "At most one of the labels is right: keep one file of each, and delete the others."
    )
    return [Section("The same image with different labels", text, entries)]


def near_page(data: DataSet, found: Sequence[NearDuplicates]) -> str:
    """Return the page of near-duplicates: those across splits, those with different labels, all others.

    Images that occur with different labels in files with identical pixels come first.

    Args:
        data: The images.
        found: By hash, and by features if these were computed.
    """
    twice = with_several_labels(data.manifest, equal_rows(data.pixels))
    sections, lead = _several_labels(data, twice), []
    for near in found:
        pairs = counted(len(near.pairs), "pair", "pairs")
        lead.append(
            f"{pairs} by {near.means} among {near.compared:,} images: {near.describe_threshold()}."
            f"{_what_it_means(near) if len(near.pairs) else ''}"
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


def _what_it_means(near: NearDuplicates) -> str:
    if not near.by_hash:
        return " Some of these are copies, others only look alike: judge for yourself."
    sure = int(near.surely_copies.sum())
    copies = f" Images that were resized or saved again usually differ in at most {COPIES} bits"
    if sure == len(near.pairs):
        return f"{copies}, and so do all of these: nearly all will be copies."
    also = (
        f"as {sure:,} of these {'do' if sure > 1 else 'does'}" if sure else "and none of these does"
    )
    return f" They look almost alike: check whether they are copies.{copies}, {also}."


def _kinds(data: DataSet, near: NearDuplicates) -> list[tuple[str, str, NDArray[np.int64]]]:
    """Return title, sentence and pairs of each section."""
    across, labels = near.across_splits(data.manifest), near.across_labels(data.manifest)
    others = np.setdiff1d(np.arange(len(near.pairs)), np.union1d(across, labels))
    kinds = [
        ("Across splits", ACROSS, across),
        ("Different labels", OF_TWO_LABELS, labels),
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
    pair = near.pairs[number].tolist()
    manifest, distance = data.manifest, near.distances[number]
    labels = tuple(manifest.classes[manifest.labels[row]] for row in pair)
    splits = [SPLITS[manifest.splits[row]] for row in pair]
    differ = labels[0] != labels[1]
    return Entry(
        tuple(pair), "different labels" if differ else labels[0],
        " and ".join(splits) if splits[0] != splits[1] else "",
        f"{distance:.0f} bits" if near.by_hash else f"{distance:.2f}",
        tuple(where(data, row) for row in pair), labels if differ else (),
    )  # fmt: skip


def _render(title: str, lead: Sequence[str], sections: Sequence[Section], data: DataSet) -> str:
    rows = dict.fromkeys(r for section in sections for entry in section.entries for r in entry.rows)
    return render(
        "collection.html.j2",
        title=title, lead=lead, sections=sections, small=data.images.size <= SMALL,
        thumbnails=thumbnails(data, list(rows), lambda done, size: None),
    )  # fmt: skip


def ranking_rows(data: DataSet, quality: LabelQuality) -> list[tuple[object, ...]]:
    """Return the table of all labels with a header: images with two labels, suspicious labels, the others.

    The suspicious labels and the others come in the order of the ranking.
    """
    names, labels = data.manifest.classes, data.manifest.labels
    header = (
        "path",
        "label",
        "suspicious",
        "more_likely",
        "probability",
        "probability_of_label",
        "split",
        "same_image_as",
    )
    same: dict[int, str] = {}
    for group in with_several_labels(data.manifest, equal_rows(data.pixels)):
        for row in group:
            others = [other for other in group if labels[other] != labels[row]]
            same[row] = where(data, others[0])
    ranking: NDArray[np.int64] = quality.ranking()
    rest = [row for row in ranking.tolist() if row not in same]
    suspicious = quality.suspicious
    rest.sort(key=lambda row: not suspicious[row])
    known = set(ranking.tolist())
    return [
        header,
        *(
            (
                where(data, row), names[labels[row]],
                "yes" if suspicious[row] or row in same else "no",
                *(
                    (
                        names[quality.other[row]], f"{quality.other_probability[row]:.4f}",
                        f"{quality.own[row]:.4f}",
                    ) if row in known else ("", "", "")
                ),
                SPLITS[data.manifest.splits[row]], same.get(row, ""),
            )
            for row in [*same, *rest]
        ),
    ]  # fmt: skip
