"""The way from a source to a batch; every data set comes by it, and its stops are the rooms beside this file.

options.py       what a recipe asks for: a folder, a table, a benchmark, its cut and its splits
sources/         what images there are, and of which class: read_folder, read_table, read_cifar, ...
images/          each file is decoded once and checked; damaged ones are refused or left out
splits/          train, val and test are drawn, or taken as they were given; a long-tailed cut
  preparation.py    does these three for files, and keeps no pixels; the verb data stops here
data_set.py      open_data returns a DataSet: labels and splits, and pixels in memory, a cache or files
sampling/        a TrainingLoader takes its train split, draws rows epoch by epoch, and makes of them
augmentation/    a Batch: augmented on the device, normalised, float [B, 3, S, S] with labels [B]
"""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from longtail.core.paths import data_root
from longtail.data.data_set import DataSet
from longtail.data.images.cache import open_decoded
from longtail.data.images.storage import RESIDENT_SIDE, FileImages, Images
from longtail.data.options import ArrayData, CifarData, DataConfig, FileData
from longtail.data.preparation import Progress, prepare, with_note
from longtail.data.sources.cifar import read_cifar
from longtail.data.sources.digits import read_digits
from longtail.data.splits.hold_out import hold_out
from longtail.data.splits.long_tail import cut

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
INATURALIST_MEAN, INATURALIST_STD = (0.466, 0.471, 0.380), (0.195, 0.194, 0.192)


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
        workers: Threads that read images.
        progress: Called while files are checked.
        kept: The split of a run on a folder or table, see `splits.split_file`; drawn if not given.

    Raises:
        DataError: In words, if anything about the data is wrong.
    """
    if isinstance(config, ArrayData):
        data = _open_array(config)
        if config.validation_per_class is not None and kept is None:
            data = _hold_out_val(data, config.validation_per_class, config)
    else:
        data = _open_files(config, workers, progress, kept)
    if config.augmentation is not None:
        data = replace(data, default_view=config.augmentation)
    return data


def _open_array(config: ArrayData) -> DataSet:
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
        kept=tail.kept,
    )
    name = f"{data.manifest.name}-LT, {tail.profile}, ratio {tail.imbalance_ratio:g}"
    rows = smaller.ids  # ids are rows of the full set
    return replace(data.take(rows), manifest=replace(smaller, name=name))


def _hold_out_val(data: DataSet, per_class: int, config: DataConfig) -> DataSet:
    manifest, report = hold_out(
        data.manifest, "val",
        seed=config.split_seed, per_class=per_class, keep_in_train=config.keep_in_train,
    )  # fmt: skip
    return replace(data, manifest=manifest, notes=with_note(data.notes, report.describe("val")))


def _open_files(
    config: FileData,
    workers: int,
    progress: Progress,
    kept: pd.DataFrame | None,
) -> DataSet:
    found = prepare(config, workers=workers, progress=progress, kept=kept)
    file_set, notes, size = found.file_set, found.notes, len(found.listed.manifest)
    side = found.side
    files = FileImages(file_set.files(), side, config.fit, config.bit_depth)
    images: Images = files
    if files.fits_in_memory():
        images = files.load(workers)
    elif config.cache is not None:
        images = open_decoded(
            files, config.cache, workers=workers, progress=lambda done: progress(done, size)
        )
        note = "Images were decoded once at a reduced size; random crops are taken from that."
        notes = with_note(notes, note)
    small = side <= RESIDENT_SIDE
    inaturalist = config.name == "inaturalist2018"
    return DataSet(
        file_set.manifest,
        images,
        INATURALIST_MEAN if inaturalist else IMAGENET_MEAN,
        INATURALIST_STD if inaturalist else IMAGENET_STD,
        default_view="crop-flip" if small else "resized-crop-flip",
        notes=notes,
        skipped=found.skipped,
        drawn_split=found.drawn,
        together=found.together,
        digests=tuple(one.digest for one in found.checked if not one.reason),
        pixels=tuple(one.pixels for one in found.checked if not one.reason),
    )
