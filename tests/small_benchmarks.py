"""Stand-ins of the large benchmarks: real class counts, generated images, thin networks.

The class counts are those of the published train list where it is at hand ($LONGTAIL_DATA/splits), and
otherwise made to the facts that are known of it: images, classes, largest and smallest class, groups.
Networks are the recipe's own (depth, blocks, cardinality, stem, experts, whatever a tag names) with
a quarter of the channels, and images have 32 pixels.
"""

import json
import os
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from longtail import api
from longtail.core import ClassCounts, Manifest, Protocol
from longtail.core.rng import numpy_generator
from longtail.data.data_set import DataSet
from longtail.data.sampling.samplers import EpochSampler
from longtail.data.sources.benchmark_lists import list_entries
from longtail.engine import RunFolder, Trainer, streams
from longtail.engine.checkpoint import CheckpointMetadata
from longtail.engine.log import SilentLog
from longtail.methods import tsc
from longtail.models import backbones, experts
from longtail.recipes import resolve

SIDE, STEPS, BATCH = 32, 2, 4
LISTS = {"imagenet-lt": "ImageNet_LT", "places-lt": "Places_LT", "inaturalist2018": "iNaturalist18"}
# images, largest and smallest class, many, medium and few shot classes
FACTS = {
    "imagenet-lt": (115_846, 1280, 5, (385, 479, 136)),
    "places-lt": (62_500, 4980, 5, (131, 163, 71)),
    "inaturalist2018": (437_513, 1000, 2, (842, 4076, 3224)),
}


def class_counts(benchmark):
    if benchmark == "imagenet":  # whole: 1,281,167 images, 895 classes of 1,300 and one of 732
        return ClassCounts([1300] * 895 + [1125] * 39 + [1124] * 65 + [732])
    folder = os.environ.get("LONGTAIL_DATA")
    for suffix in (".txt", ".txt.gz") if folder else ():
        file = Path(folder) / "splits" / f"{LISTS[benchmark]}_train{suffix}"
        if file.exists():
            return ClassCounts(np.bincount([label for _, label in list_entries(file)]).tolist())
    return made_to(*FACTS[benchmark])


def made_to(total, most, least, sizes):
    """Counts with these facts; class numbers are not in the order of their sizes."""
    many, medium, few = sizes
    rest = [*np.geomspace(100, 20, medium).astype(int), *np.geomspace(19, least, few).astype(int)]
    wanted, place = total - sum(rest), np.linspace(1, 0, many)
    # the steeper the curve of the many-shot classes, the fewer images: as steep as leaves a few to add
    head = next(
        curve
        for power in np.linspace(0.05, 30, 3000)
        if (curve := (101 + (most - 101) * place**power).astype(int)).sum() <= wanted
    )
    left = wanted - int(head.sum())
    head[1 : 1 + left % (many - 1)] += 1
    head[1:] += left // (many - 1)
    counts = np.array([*head, *rest])
    return ClassCounts(numpy_generator(0, "stand-in").permutation(counts).tolist())


@dataclass(frozen=True)
class Generated:
    """Images that are made when they are asked for."""

    rows: np.ndarray
    size: int = SIDE

    def __len__(self):
        return len(self.rows)

    def take(self, rows):
        return replace(self, rows=self.rows[rows])

    def decode(self, row):
        generator = np.random.default_rng(int(self.rows[row]))
        return generator.integers(0, 256, (3, self.size, self.size), dtype=np.uint8)

    def decode_crop(self, row, generator, area):
        return self.decode(row)


def data_set(benchmark, counts, split, each=None):
    """The train split with its real counts, or `each` images of every class."""
    sizes = counts.values if each is None else [each] * len(counts)
    labels = np.repeat(np.arange(len(counts)), sizes)
    code = ("train", "val", "test").index(split)
    manifest = Manifest(
        benchmark, counts.names, np.arange(len(labels)), labels, np.full(len(labels), code)
    )
    return DataSet(manifest, Generated(np.arange(len(labels))), (0.5,) * 3, (0.25,) * 3)


class FewSteps(EpochSampler):
    """The sampler of a stage, for the first steps of its epoch."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.steps = STEPS


def thin_networks(patch):
    """Build ResNets with a quarter of their channels and one block where they have several."""
    whole = backbones.residual_network
    shallow = {
        name: replace(design, layers=(1, 1, 1, 1))
        for name, design in backbones.IMAGENET_RESNETS.items()
    }
    patch.setattr(backbones, "IMAGENET_RESNETS", shallow)

    def quarter(name, channels=(64, 128, 256, 512)):
        return whole(name, tuple(width // 4 for width in channels))

    patch.setattr(backbones, "residual_network", quarter)
    patch.setattr(experts, "residual_network", quarter)


@contextmanager
def thin(monkeypatch):
    """Build thin networks, train few steps, fit on an image of each class."""
    every = streams.evaluation_batches

    def first_of_each_class(data, **options):
        _, rows = np.unique(data.manifest.labels, return_index=True)
        for images, places in every(data.take(rows), **options):
            yield images, torch.from_numpy(rows)[places]

    with monkeypatch.context() as patch:
        thin_networks(patch)
        patch.setattr("longtail.engine.streams.EpochSampler", FewSteps)
        patch.setattr(streams, "evaluation_batches", first_of_each_class)
        # 10,000 steps for 8,142 targets take hours on a CPU
        patch.setattr(tsc, "spread", partial(tsc.spread, steps=2))
        yield


def configuration(recipe):
    overrides = [
        "root=x",
        "pretrained=false",
        f"batch_size={BATCH}",
        "precision=fp32",
        "workers=1",
        "learning_rate=0.001",
    ]  # as published is for a hundred times the batch
    return resolve(recipe, overrides)


def told_apart_by(config):
    """What two steps can tell apart: everything but how long and how fast a recipe trains."""
    plain = config.model_dump(mode="json")
    for key in ("epochs", "learning_rate", "weight_decay", "schedule", "warmup", "warmup_start",
                "milestones", "decay_factor", "nesterov"):  # fmt: skip
        del plain["training"][key]
    del plain["recipe"], plain["description"]
    return json.dumps(plain, sort_keys=True)


def train(config, counts, folder, monkeypatch):
    """Train two steps of every stage and return the method, ready to predict."""
    with thin(monkeypatch):
        method = api.build(config, config.model.resolved(SIDE), counts, SIDE)
        stages = [replace(stage, epochs=min(stage.epochs, 1)) for stage in method.stages()]
        monkeypatch.setattr(method, "stages", lambda: stages)
        val = config.data.name not in ("inaturalist2018", "imagenet")
        train_set = data_set(config.data.name, counts, "train")
        if config.data.augmentation:
            train_set = replace(train_set, default_view=config.data.augmentation)
        run = RunFolder(folder)
        run.checkpoints.mkdir(parents=True)
        metadata = CheckpointMetadata(
            method=config.method_name, classes=counts.names, class_counts=counts.values,
            corrections=(), mean=(0.5,) * 3, std=(0.25,) * 3, image_size=SIDE, stage=0, epoch=0,
            epochs_done=0, finished=False,
        )  # fmt: skip
        trainer = Trainer(
            method, train_set, config.training, Protocol(has_val=False), run, metadata,
            torch.device("cpu"), SilentLog(),
            selection_set=data_set(config.data.name, counts, "val", each=1) if val else None,
        )  # fmt: skip
        trainer.check()
        trainer.run()
        return method.eval(), run.read_metrics()
