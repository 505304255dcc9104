"""Files of a folder, table or list before their pixels are kept: found, checked and split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from longtail.core.manifest import Manifest
from longtail.core.paths import data_root
from longtail.data.images.equal_files import (
    copies,
    describe_copies,
    with_copies,
    with_several_labels,
)
from longtail.data.images.file_checks import Checked, check_images, typical_side
from longtail.data.images.pixel_checks import pixel_findings
from longtail.data.images.resize import chosen_size
from longtail.data.images.unreadable import LEFT_OUT, describe_unreadable
from longtail.data.near_duplicates.found import NearDuplicates, describe_near, near_by_hash
from longtail.data.near_duplicates.neighbours import can_search
from longtail.data.options import DataConfig, FileData, FolderData, ImageNetData, TableData
from longtail.data.sources.benchmark_lists import find_lists, read_lists
from longtail.data.sources.file_set import FileSet, OnSimilarNames, without_bad_images
from longtail.data.sources.folder import read_folder
from longtail.data.sources.imagenet import read_imagenet
from longtail.data.sources.table import read_table
from longtail.data.splits.hold_out import hold_out
from longtail.data.splits.keep_together import (
    describe_together,
    require_whole,
    together_by_column,
    together_by_pattern,
)
from longtail.data.splits.split_file import with_split

Progress = Callable[[int, int], None]  # images checked, images in all
# what takes long, how much is done, of how much; 0: not known
Phases = Callable[[str, int, int], None]


def read_files(config: FileData, *, kept: bool = False) -> FileSet:
    """List the files of a data set without opening them.

    Args:
        config: The `data:` part of a recipe.
        kept: Whether a run keeps its split of it, and so what it was trained on is not refused any more.
    """
    if isinstance(config, FolderData | TableData):
        known = kept and config.on_similar_names == "error"
        similar: OnSimilarNames = "keep" if known else config.on_similar_names
        if isinstance(config, FolderData):
            return read_folder(config.path, similar_names=similar, kept=kept)
        return read_table(config.path, root=config.root, similar_names=similar, kept=kept)
    root = config.root or data_root()
    if isinstance(config, ImageNetData):
        return read_imagenet(root)
    return read_lists(config.name, root, find_lists(config.name, config.lists or root))


@dataclass(frozen=True)
class Prepared:
    """Files that were listed, checked and split; no pixels are kept yet.

    Attributes:
        config: What was asked for.
        file_set: The readable files, with their final splits.
        listed: All files, before damaged ones were left out.
        checked: What is known of each of `listed`.
        skipped: Damaged files that were left out, as (path, reason).
        side: Of the square that the network sees, in pixels.
        together: int64 [N], what the user said belongs together; None if nothing.
        notes: What a user should know of it, the worst first.
        drawn: Whether the split was drawn here.
        near: Near-duplicates among the readable images; None for a benchmark, whose split is published, for a
            split that a run has kept, and where there are too many images.
    """

    config: FileData
    file_set: FileSet
    listed: FileSet
    checked: Sequence[Checked]
    skipped: tuple[tuple[str, str], ...]
    side: int
    together: NDArray[np.int64] | None
    notes: tuple[str, ...]
    drawn: bool
    near: NearDuplicates | None = None

    def with_several_labels(self) -> bool:
        """Say whether an image occurs with different labels in files with identical pixels."""
        groups = copies([found for found in self.checked if not found.reason])
        return bool(with_several_labels(self.file_set.manifest, groups))


NOT_SEARCHED = (
    "Near-duplicates were not searched for among {:,} images, which takes too long without an index: pip "
    "install 'longtail[neighbours]'."
)


def prepare(
    config: FileData,
    *,
    workers: int = 4,
    progress: Progress = lambda done, size: None,
    kept: pd.DataFrame | None = None,
) -> Prepared:
    """List the files of a data set, check them, leave out what is damaged and draw the split.

    What is trained on and what is inspected comes from here, so that both count the same.

    Args:
        config: The `data:` part of a recipe.
        workers: Threads that read images.
        progress: Called while files are checked.
        kept: The split of a run, see `longtail.data.splits.split_file`; drawn if not given and not there.

    Raises:
        DataError: In words, if anything about the data is wrong.
    """
    listed = read_files(config, kept=kept is not None)
    if kept is not None:
        listed = with_split(listed, kept)
    # what is wrong with it is told before the images are read
    together = _together(listed.manifest, config)
    if together is not None and kept is None:
        require_whole(listed.manifest, together)
    size = len(listed.manifest)
    checked = check_images(
        listed.files(), workers=workers, bit_depth=config.bit_depth,
        progress=lambda done: progress(done, size),
    )  # fmt: skip
    file_set, skipped = without_bad_images(
        listed, checked, config.on_bad_image, of_run=kept is not None
    )
    side = config.image_size or chosen_size(typical_side(checked))
    notes = file_set.describe()
    if skipped:
        notes = (*notes, describe_unreadable(skipped, size, LEFT_OUT))
    notes += tuple(
        pixel_findings(
            listed.manifest.paths,
            checked,
            size=side,
            fit=config.fit,
            bit_depth=config.bit_depth,
            chosen=config.image_size is None,
        )
    )
    manifest = file_set.manifest
    if together is not None:
        together = together[np.isin(listed.manifest.ids, manifest.ids)]
        notes = with_note(notes, describe_together(together))
    good = [found for found in checked if not found.reason]
    groups = copies(good)
    own = isinstance(config, FolderData | TableData)  # and no benchmark, whose split is published
    drawn = kept is None and own and not (manifest.has("val") or manifest.has("test"))
    searched = own and kept is None  # a run has kept its split, and was told when it began
    near = near_by_hash(good) if searched and can_search(len(good)) else None
    if searched and near is None:
        notes = with_note(notes, NOT_SEARCHED.format(len(good)))
    units = with_copies(together, [*groups, *(near.groups() if near else ())], len(manifest))
    if drawn and isinstance(config, FolderData | TableData):
        manifest, notes = _split(manifest, config, units, notes)
    if config.validation_per_class is not None and kept is None:
        manifest, report = hold_out(
            manifest, "val",
            seed=config.split_seed, per_class=config.validation_per_class,
            keep_in_train=config.keep_in_train, together=units,
        )  # fmt: skip
        notes = with_note(notes, report.describe("val"))
        drawn = own
    likeness = describe_near(manifest, near, drawn=drawn) if near else ()
    notes = (*describe_copies(manifest, groups), *likeness, *notes)
    file_set = replace(file_set, manifest=manifest)
    return Prepared(config, file_set, listed, checked, skipped, side, together, notes, drawn, near)


def _split(
    manifest: Manifest,
    config: FolderData | TableData,
    together: NDArray[np.int64] | None,
    notes: tuple[str, ...],
) -> tuple[Manifest, tuple[str, ...]]:
    parts = {"test": config.test_share}
    if config.validation_per_class is None:
        parts["val"] = config.validation_share
    sizes = manifest.histogram("train")
    for split, share in parts.items():
        manifest, report = hold_out(
            manifest, split,
            seed=config.split_seed, share=share, keep_in_train=config.keep_in_train,
            together=together, share_of=sizes,
        )  # fmt: skip
        notes = with_note(notes, report.describe(split))
    return manifest, notes


def _together(manifest: Manifest, config: DataConfig) -> NDArray[np.int64] | None:
    """Return what belongs together, if it was named."""
    if not isinstance(config, FolderData | TableData) or config.keep_together is None:
        return None
    if isinstance(config, FolderData):
        return together_by_pattern(manifest, config.keep_together)
    return together_by_column(manifest, config.path, config.keep_together)


def with_note(notes: tuple[str, ...], note: str) -> tuple[str, ...]:
    """Return the notes and one more, if it says something."""
    return (*notes, note) if note else notes
