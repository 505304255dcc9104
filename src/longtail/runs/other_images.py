"""Labelled images elsewhere: read in the classes of a model, without those that it was trained on."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from longtail.core.errors import ConfigError, DataError, LongtailError
from longtail.core.manifest import SPLITS, Manifest
from longtail.core.names import (
    ask_whether_renamed,
    normal_name,
    perhaps_renamed,
    same_to_people,
    shown,
    some,
)
from longtail.core.paths import expanded
from longtail.core.words import counted
from longtail.data import Progress
from longtail.data.data_set import DataSet
from longtail.data.images.file_checks import check_images
from longtail.data.images.storage import ArrayImages, FileImages
from longtail.data.images.unreadable import LEFT_OUT, describe_unreadable
from longtail.data.sources.file_set import FileSet
from longtail.data.sources.folder import read_folder
from longtail.data.sources.folder_contents import refuse_one_file
from longtail.data.sources.table import read_table
from longtail.data.splits.split_file import DIGEST
from longtail.engine.checkpoint import CheckpointMetadata
from longtail.runs.run import Run

KNOWN = "trained or selected on"  # why an image is not scored
NAMED = 8  # classes or files that a sentence names


@dataclass(frozen=True)
class Elsewhere:
    """Labelled images that a run was not trained on.

    Attributes:
        data: In the classes of the model.
        left_out: Path, label and reason of each image that is not scored.
        notes: What a user should know of the images.
        split: Which part of the source it is; empty for all of it.
    """

    data: DataSet
    left_out: tuple[tuple[str, str, str], ...] = ()
    notes: tuple[str, ...] = ()
    split: str = ""


def open_own(run: Run, metadata: CheckpointMetadata, split: str, progress: Progress) -> Elsewhere:
    """Return a split of the run's own images, for another class distribution.

    Raises:
        DataError: If the run has no such split.
    """
    data = run.open_data(progress)
    part = data.split(split).normalised_by(metadata.mean, metadata.std)
    part = replace(part, manifest=part.manifest.restricted_to(metadata.classes))
    return Elsewhere(part, notes=data.notes, split=split)


def open_elsewhere(
    run: Run,
    metadata: CheckpointMetadata,
    source: Path,
    *,
    root: Path | None = None,
    split: str | None = None,
    progress: Progress = lambda done, size: None,
) -> Elsewhere:
    """Read a labelled folder or table in the classes of a model.

    Left out, counted and named are images of classes that the model does not know, images that the run was
    trained or selected on, and files that cannot be read.

    Args:
        run: To compare its images with those.
        metadata: Of the model.
        source: Folder or table.
        root: Folder that relative paths of a table start from.
        split: Which split of it; if not given, test where there is one, and all images otherwise.
        progress: Called while files are checked.

    Raises:
        DataError: If the source cannot be read, or no image of it can be scored.
    """
    listed = _listed(expanded(source), root)
    notes = list(listed.describe())
    listed, part = _part(listed, split, notes)
    files, size = listed.files(), len(listed.manifest)
    checked = check_images(
        files, bit_depth=metadata.bit_depth, progress=lambda done: progress(done, size)
    )
    place = _places(listed.manifest.classes, metadata.classes)
    seen, comparable = _seen(run)
    if not comparable:
        notes.append(
            "The run's own images could not be compared with these, so some of these may have been "
            "used in training."
        )
    why = [
        found.reason
        or ("class unknown to the model" if place[label] < 0 else "")
        or (KNOWN if {found.digest, found.pixels} & seen else "")
        for label, found in zip(listed.manifest.labels.tolist(), checked, strict=True)
    ]
    left = _left_out(listed.manifest, why)
    unknown = {
        name for name, known in zip(listed.manifest.classes, place, strict=True) if known < 0
    }
    there = {known for known in place if known >= 0}
    gone = [name for known, name in enumerate(metadata.classes) if known not in there]
    people = {same_to_people(name): name for name in metadata.classes}
    same = {name: people.get(same_to_people(name), "") for name in unknown}
    meant = perhaps_renamed(gone, sorted(unknown)) | {n: own for n, own in same.items() if own}
    notes += _described(left, size, unknown, meant)
    rows = np.flatnonzero(np.array([not reason for reason in why]))
    if not len(rows):
        reasons = Counter(reason for *_, reason in left)
        told = "; ".join(
            f"{reason}: {counted(count, 'image', 'images')}" for reason, count in reasons.items()
        )
        raise DataError(
            f"None of the images in {shown(str(source))} can be scored ({told})."
            f"{ask_whether_renamed(gone, sorted(unknown))} The model knows: {some(metadata.classes)}."
        )
    manifest = listed.manifest.take(rows).restricted_to(metadata.classes)
    images = FileImages(files.take(rows), metadata.image_size, metadata.fit, metadata.bit_depth)
    (a, b, c), (d, e, f) = metadata.mean, metadata.std
    digests = tuple(checked[row].digest for row in rows.tolist())
    data = DataSet(manifest, images, (a, b, c), (d, e, f), digests=digests)
    return Elsewhere(data, tuple(left), tuple(notes), part)


def _places(names: Sequence[str], classes: Sequence[str]) -> list[int]:
    """Return where each name is among the classes of the model, -1 if it is none of them."""
    place = {normal_name(name): number for number, name in enumerate(classes)}
    place |= {name: number for number, name in enumerate(classes)}
    return [place.get(name, place.get(normal_name(name), -1)) for name in names]


def _left_out(manifest: Manifest, why: Sequence[str]) -> list[tuple[str, str, str]]:
    """Return path, label and reason of every image that has a reason."""
    labels = [manifest.classes[label] for label in manifest.labels.tolist()]
    rows = zip(manifest.paths, labels, why, strict=True)
    return [row for row in rows if row[2]]


def _listed(source: Path, root: Path | None) -> FileSet:
    refuse_one_file(source)
    if source.is_dir():
        if root is not None:
            raise ConfigError(f"--root works only with a table, but {source} is a folder.")
        return read_folder(source, for_training=False)
    return read_table(source, root=root, for_training=False)


def _part(listed: FileSet, split: str | None, notes: list[str]) -> tuple[FileSet, str]:
    """Return the images of one split, and its name."""
    manifest = listed.manifest
    there = [name for name in SPLITS if manifest.has(name)]
    if split is not None and split not in there:
        raise DataError(f"{manifest.name} has no {split} split; it has {' and '.join(there)}.")
    wanted = split or ("test" if "test" in there else None)
    if wanted is None or there == [wanted]:
        if len(there) > 1:
            notes.append(
                f"The images of {' and '.join(there)} are scored together; to score one of them, use --split."
            )
        return listed, split or ""
    if split is None:
        others = " and ".join(name for name in there if name != wanted)
        notes.append(f"Only the {wanted} split is scored; to score others, use --split {others}.")
    return replace(listed, manifest=manifest.take(manifest.rows(wanted))), wanted


def _seen(run: Run) -> tuple[set[str], bool]:
    """Return checksums of the content of what the run was trained or selected on, and if they are known."""
    kept = run.kept_split()
    if kept is not None:
        if DIGEST not in kept.columns:
            return set(), False
        return set(kept[kept["split"] != "test"][DIGEST]), True
    try:
        data = run.open_data()
    except LongtailError:
        return set(), False
    if not isinstance(data.images, ArrayImages):
        return set(), False
    rows = np.flatnonzero(data.manifest.splits != SPLITS.index("test"))
    pixels = data.images.pixels[torch.from_numpy(rows)]
    head = str(tuple(pixels.shape[1:])).encode()  # as `Checked.pixels`
    return {
        hashlib.sha256(head + image.tobytes()).hexdigest()
        for image in pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    }, True


def _described(
    left: Sequence[tuple[str, str, str]], size: int, unknown: set[str], meant: Mapping[str, str]
) -> list[str]:
    """Say what is left out of `size` images: classes with their images, files, images of the training.

    Args:
        left: Path, label and reason of each image.
        size: Images in all.
        unknown: Classes that the model does not know.
        meant: Those of them that the model may know under another name.
    """
    notes = []
    sizes = Counter(label for _, label, _ in left if label in unknown)
    if sizes:
        named = [
            f"{shown(name, 60)} ({count:,}{_meant(meant.get(name))})"
            for name, count in sizes.most_common(NAMED)
        ]
        more = f" and {len(sizes) - NAMED:,} more" if len(sizes) > NAMED else ""
        of_them = sum(sizes.values())
        notes.append(
            f"{counted(of_them, 'image', 'images')} of {counted(len(sizes), 'class', 'classes')} that the "
            f"model does not know {'was' if of_them == 1 else 'were'} left out: {', '.join(named)}{more}."
        )
    others = [(path, why) for path, label, why in left if label not in unknown]
    if bad := [(path, why) for path, why in others if why != KNOWN]:
        notes.append(describe_unreadable(bad, size, LEFT_OUT))
    if known := [path for path, why in others if why == KNOWN]:
        notes.append(f"{counted(len(known), 'image', 'images')} left out ({KNOWN}): {some(known)}.")
    return notes


def _meant(name: str | None) -> str:
    return "" if name is None else f"; is it {shown(name, 60)}?"
