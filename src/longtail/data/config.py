"""The `data:` part of a recipe, and the door through which every data set comes."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field, field_validator

from longtail.core.errors import DataError
from longtail.core.groups import GroupRule
from longtail.core.manifest import Manifest
from longtail.core.words import counted
from longtail.data.augmentation import POLICIES
from longtail.data.check import (
    OnBadPicture,
    check_pictures,
    typical_side,
    without_bad_pictures,
)
from longtail.data.cifar import read_cifar
from longtail.data.decoded import open_decoded
from longtail.data.digits import read_digits
from longtail.data.files import FileSet, read_folder, read_lists, read_table
from longtail.data.kept_split import with_split
from longtail.data.long_tail import Profile, cut
from longtail.data.options import Options, Place
from longtail.data.pictures import RESIDENT_SIDE, DataSet, FilePictures, Pictures
from longtail.data.splits import hold_out
from longtail.data.together import (
    describe_together,
    require_whole,
    together_by_column,
    together_by_pattern,
)

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
INATURALIST_MEAN, INATURALIST_STD = (0.466, 0.471, 0.380), (0.195, 0.194, 0.192)
LARGE_SIDE = 224
Progress = Callable[[int, int], None]  # pictures checked, pictures in all


class LongTail(Options):
    """A long-tailed cut of the train split."""

    profile: Profile = "exponential"
    imbalance_ratio: float = Field(100, ge=1, description="largest over smallest training count")
    largest: int | None = Field(None, ge=1, description="pictures of the largest class")
    power: float = Field(6, gt=0, description="of the Pareto profile")


class _Common(Options):
    """What every data set may be asked."""

    groups: GroupRule = Field("threshold", description="rule of many, medium and few shot")
    augmentation: str | None = Field(
        None, description=f"policy of the training pictures: {', '.join(sorted(POLICIES))}"
    )
    validation_per_class: int | None = Field(
        None, ge=1, description="training pictures of each class to hold out as val"
    )
    keep_in_train: int = Field(1, ge=1, description="pictures of a class that always stay in train")
    split_seed: int = Field(
        0,
        ge=0,
        description="of splits that are drawn here; the seed of the training does not change them",
    )

    @field_validator("augmentation")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        if value is not None and value not in POLICIES:
            raise ValueError(f"must be one of {', '.join(sorted(POLICIES))}")
        return value


class CifarData(_Common):
    """CIFAR-10 or CIFAR-100, full or as a long-tailed cut."""

    name: Literal["cifar10", "cifar100"]
    root: Place | None = Field(None, description="folder of the archive; else $LONGTAIL_DATA")
    download: bool = Field(True, description="whether torchvision may fetch the archive")
    long_tail: LongTail | None = None


class DigitsData(_Common):
    """scikit-learn's digits; needs no download."""

    name: Literal["digits"]
    long_tail: LongTail | None = None


class _Files(_Common):
    image_size: int | None = Field(None, ge=8, description="side in pixels; chosen if not given")
    on_bad_picture: OnBadPicture = Field("error", description="error, or skip damaged files")
    cache: Place | None = Field(
        None, description="folder for pictures decoded once, about 260 kB each; for large ones"
    )


class _Collection(_Files):
    path: Place
    test_share: float = Field(0.2, gt=0, lt=1, description="of each class, if there is no split")
    validation_share: float = Field(0.1, gt=0, lt=1, description="likewise")
    keep_together: str | None = Field(
        None,
        description="pictures that stay in one split (a burst, an animal, a patient): column of a table, "
        "or for a folder a regular expression that finds their common name in the path",
    )


class FolderData(_Collection):
    """A folder of pictures, with or without split folders."""

    name: Literal["folder"]

    @field_validator("keep_together")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except re.error as error:
            raise ValueError(f"must be a regular expression: {error}") from None
        return value


class TableData(_Collection):
    """A CSV or Parquet table with path, label and optionally split."""

    name: Literal["table"]
    root: Place | None = Field(None, description="folder that relative paths start from")


class ListData(_Files):
    """ImageNet-LT, Places-LT or iNaturalist 2018 by their published lists."""

    name: Literal["imagenet-lt", "places-lt", "inaturalist2018"]
    root: Place | None = Field(None, description="folder of the pictures; else $LONGTAIL_DATA")
    lists: Place | None = Field(None, description="folder of the list files; else the root")


DataConfig = Annotated[
    CifarData | DigitsData | FolderData | TableData | ListData, Field(discriminator="name")
]

LIST_FILES = {
    "imagenet-lt": {s: f"ImageNet_LT_{s}.txt" for s in ("train", "val", "test")},
    "places-lt": {s: f"Places_LT_{s}.txt" for s in ("train", "val", "test")},
    # iNaturalist 2018 has no test labels: its published val list plays the role of test
    "inaturalist2018": {"train": "iNaturalist18_train.txt", "test": "iNaturalist18_val.txt"},
}


def data_root() -> Path:
    """Return the folder of benchmark data: `$LONGTAIL_DATA`, else `data` in the working folder."""
    return Path(os.environ.get("LONGTAIL_DATA") or "data").expanduser()


def open_data(
    config: DataConfig,
    *,
    workers: int = 4,
    progress: Progress = lambda done, size: None,
    kept: pd.DataFrame | None = None,
) -> DataSet:
    """Read a data set, cut its tail, hold out what the recipe asks for, leave out what is damaged.

    Args:
        config: The `data:` part of a recipe.
        workers: Threads that read pictures.
        progress: Called while files are checked.
        kept: The split of a run on a folder or table, see `longtail.data.kept_split`; drawn if not given.

    Raises:
        DataError: In words, if anything about the data is wrong.
    """
    if isinstance(config, CifarData | DigitsData):
        data = _open_array(config)
    else:
        data = _open_files(config, workers, progress, kept)
    if config.validation_per_class is not None and kept is None:
        data = _hold_out_val(data, config.validation_per_class, config)
    if config.augmentation is not None:
        data = replace(data, default_view=config.augmentation)
    return data


def _open_array(config: CifarData | DigitsData) -> DataSet:
    if isinstance(config, CifarData):
        root = config.root or data_root()
        data = read_cifar(config.name, root, download=config.download)
    else:
        data = read_digits()
    if config.long_tail is None:
        return data
    tail = config.long_tail
    smaller = cut(
        data.manifest,
        profile=tail.profile,
        imbalance_ratio=tail.imbalance_ratio,
        largest=tail.largest,
        power=tail.power,
    )
    name = f"{data.manifest.name}-LT, {tail.profile}, ratio {tail.imbalance_ratio:g}"
    rows = smaller.ids  # ids are rows of the full set
    return replace(data.take(rows), manifest=replace(smaller, name=name))


def _hold_out_val(data: DataSet, per_class: int, config: DataConfig) -> DataSet:
    manifest, report = hold_out(
        data.manifest, "val",
        seed=config.split_seed, per_class=per_class, keep_in_train=config.keep_in_train,
        together=data.together,
    )  # fmt: skip
    drawn = isinstance(config, FolderData | TableData)
    notes = _with(data.notes, report.describe("val"))
    return replace(data, manifest=manifest, notes=notes, drawn_split=drawn)


def read_files(config: FolderData | TableData | ListData) -> FileSet:
    """List the files of a data set without opening them."""
    if isinstance(config, FolderData):
        return read_folder(config.path)
    if isinstance(config, TableData):
        return read_table(config.path, root=config.root)
    root = config.root or data_root()
    folder = config.lists or root
    lists = {}
    for split, file in LIST_FILES[config.name].items():
        lists[split] = next((p for p in (folder / file, folder / f"{file}.gz") if p.exists()), None)
        if lists[split] is None:
            raise DataError(
                f"{config.name} needs the published list {file} in {folder}; name its folder with "
                "data.lists=DIR and the folder of the pictures with data.root=DIR."
            )
    return read_lists(config.name, root, {s: p for s, p in lists.items() if p is not None})


def _open_files(
    config: FolderData | TableData | ListData,
    workers: int,
    progress: Progress,
    kept: pd.DataFrame | None,
) -> DataSet:
    file_set = read_files(config)
    if kept is not None:
        file_set = with_split(file_set, kept)
    # what is wrong with it is told before the pictures are read
    listed, together = file_set.manifest, _together(file_set.manifest, config)
    if together is not None and kept is None:
        require_whole(listed, together)
    size = len(file_set.manifest)
    checked = check_pictures(
        file_set.files(), workers=workers, progress=lambda done: progress(done, size)
    )
    file_set, skipped = without_bad_pictures(file_set, checked, config.on_bad_picture)
    side = config.image_size or _image_size(typical_side(checked))
    notes = _with(file_set.notes, file_set.describe_outside())
    if skipped:
        left_out = counted(len(skipped), "damaged picture was", "damaged pictures were")
        note = f"{left_out} left out (skipped-pictures.csv)."
        notes = _with(notes, note)
    manifest = file_set.manifest
    if together is not None:
        together = together[np.isin(listed.ids, manifest.ids)]
        notes = _with(notes, describe_together(together))
    whole = kept is None and not (manifest.has("val") or manifest.has("test"))
    drawn = False
    if whole and not isinstance(config, ListData):
        manifest, notes = _split(manifest, config, together, notes)
        drawn = True
    files = FilePictures(file_set.files(), side)
    pictures: Pictures = files
    if files.fits_in_memory():
        pictures = files.load(workers)
    elif config.cache is not None:
        pictures = open_decoded(
            files, config.cache, workers=workers, progress=lambda done: progress(done, size)
        )
        note = "Pictures were decoded once at a smaller size; random parts are cut from that."
        notes = _with(notes, note)
    small = side <= RESIDENT_SIDE
    inaturalist = config.name == "inaturalist2018"
    return DataSet(
        manifest,
        pictures,
        INATURALIST_MEAN if inaturalist else IMAGENET_MEAN,
        INATURALIST_STD if inaturalist else IMAGENET_STD,
        default_view="crop-flip" if small else "resized-crop-flip",
        notes=notes,
        skipped=skipped,
        drawn_split=drawn,
        together=together,
    )


def _split(
    manifest: Manifest,
    config: FolderData | TableData,
    together: NDArray[np.int64] | None,
    notes: tuple[str, ...],
) -> tuple[Manifest, tuple[str, ...]]:
    parts = {"test": config.test_share}
    if config.validation_per_class is None:
        parts["val"] = config.validation_share
    for split, share in parts.items():
        manifest, report = hold_out(
            manifest, split,
            seed=config.split_seed, share=share, keep_in_train=config.keep_in_train,
            together=together,
        )  # fmt: skip
        notes = _with(notes, report.describe(split))
    return manifest, notes


def _together(manifest: Manifest, config: DataConfig) -> NDArray[np.int64] | None:
    """Return what belongs together, if it was named."""
    if not isinstance(config, FolderData | TableData) or config.keep_together is None:
        return None
    if isinstance(config, FolderData):
        return together_by_pattern(manifest, config.keep_together)
    return together_by_column(manifest, config.path, config.keep_together)


def _image_size(side: int) -> int:
    """Choose the network's input for pictures whose typical shorter side is `side`."""
    if side > RESIDENT_SIDE:
        return LARGE_SIDE
    return max(8, -(-side // 8) * 8)


def _with(notes: tuple[str, ...], note: str) -> tuple[str, ...]:
    return (*notes, note) if note else notes
