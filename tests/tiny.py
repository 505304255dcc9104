"""A tiny task for tests of methods and of the engine: noise images, a small backbone."""

from pathlib import Path

import numpy as np
import torch

from longtail.core import ClassCounts, Manifest, Protocol, ShotGroups
from longtail.core.rng import derive_seed, numpy_generator
from longtail.data.data_set import DataSet
from longtail.data.images.storage import ArrayImages
from longtail.engine import RunFolder, Trainer, TrainingConfig
from longtail.engine.checkpoint import CheckpointMetadata
from longtail.engine.log import SilentLog
from longtail.engine.optimisation import seeded
from longtail.methods import METHODS, Setting
from longtail.models import Backbone
from longtail.models.experts import Experts
from longtail.models.resnet_cifar import CifarResNet

CPU = torch.device("cpu")
COUNTS = ClassCounts([9, 30, 4, 4, 17, 1, 12], tuple("abcdefg"))  # unsorted, tied, a singleton
OPTIONS = TrainingConfig(
    epochs=3, batch_size=16, learning_rate=0.05, precision="fp32", warmup=0, milestones=(2,)
)


def backbone() -> Backbone:
    network = CifarResNet(1)
    return Backbone(network, network.num_features)


def experts(count, *, narrow=True, own="groups") -> Experts:
    channels = (16, 24, 48) if narrow else (16, 32, 64)
    networks = [CifarResNet(1, channels=channels) for _ in range(count)]
    trunk = torch.nn.Sequential(networks[0].conv1, networks[0].bn1, networks[0].layer1)
    tails = [torch.nn.Sequential(n.layer2, n.layer3) for n in networks]
    if own == "block":
        trunk.append(networks[0].layer2)
        tails = [n.layer3[0] for n in networks]
    return Experts(trunk, tails, channels[-1])


def setting(counts=COUNTS, epochs=3) -> Setting:
    return Setting(
        counts, ShotGroups.from_counts(counts), epochs, backbone, experts,
        OPTIONS.batch_size, OPTIONS.learning_rate,
    )  # fmt: skip


def build(name, options=None, counts=COUNTS, epochs=3, seed=0):
    kind = METHODS[name]
    config = kind.Config.model_validate({"name": name} | (options or {}))
    with seeded(derive_seed(seed, "initialisation")):
        return kind(config, setting(counts, epochs))


def images(size, seed=0, side=8):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, 3, side, side, generator=generator)


def data(counts=COUNTS, side=8) -> DataSet:
    labels = np.repeat(np.arange(len(counts)), counts.values)
    generator = numpy_generator(0, "tiny")
    noise = generator.integers(0, 120, (len(labels), 3, side, side))
    # the class is visible: a bright pixel at a place of its own
    noise[np.arange(len(labels)), 0, labels % side, labels // side % side] = 255
    manifest = Manifest(
        "tiny", counts.names, np.arange(len(labels)) + 50, labels, np.zeros(len(labels))
    )
    pixels = torch.from_numpy(noise.astype(np.uint8))
    return DataSet(manifest, ArrayImages(pixels), (0.3,) * 3, (0.25,) * 3, default_view="crop")


def trainer(method, folder: Path, options=OPTIONS, *, name="single-head", device=CPU, **more):
    if getattr(getattr(method, "config", None), "sharpness", None) is not None:
        options = options.model_copy(update={"optimizer": "sam"})  # what it says is of SAM
    run = RunFolder(folder)
    run.checkpoints.mkdir(parents=True, exist_ok=True)
    metadata = CheckpointMetadata(
        method=name, classes=COUNTS.names, class_counts=COUNTS.values, corrections=(),
        mean=(0.3,) * 3, std=(0.25,) * 3, image_size=8, stage=0, epoch=0, epochs_done=0,
        finished=False,
    )  # fmt: skip
    parts = {
        "train_set": data(),
        "protocol": Protocol(has_val=False),
        "validate": None,
        "selection_set": None,
        "log": SilentLog(),
    } | more
    return Trainer(
        method, parts["train_set"], options, parts["protocol"], run, metadata, device, parts["log"],
        parts["validate"], parts["selection_set"],
    )  # fmt: skip


def train(method, folder: Path, options=OPTIONS, *, resume=False, name="single-head", **more):
    made = trainer(method, folder, options, name=name, **more)
    made.run(resume=resume)
    return made.folder


def weights(method):
    return {name: value.clone() for name, value in method.state_dict().items()}


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)
