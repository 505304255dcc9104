"""The model of a run, rebuilt from its configuration and its checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from longtail.core.counts import ClassCounts
from longtail.core.errors import CheckpointError, ConfigError
from longtail.core.groups import ShotGroups
from longtail.core.host_memory import keeping_freed_memory
from longtail.core.names import some, visible
from longtail.core.prior import written
from longtail.core.rng import derive_seed
from longtail.core.words import counted
from longtail.engine import checkpoint as ckpt
from longtail.engine.checksums import checksum
from longtail.engine.hardware import find_device
from longtail.engine.optimisation import seeded
from longtail.ensembles.combination import Combination
from longtail.ensembles.combined_model import PLAIN, Combined, Member
from longtail.methods import METHODS, Method, Setting
from longtail.models.options import ModelConfig
from longtail.prediction.calibration import Calibration
from longtail.prediction.images import PredictOptions, predict_images
from longtail.prediction.inputs import ImageInputs, ImageSource, collect
from longtail.recipes import RunConfig
from longtail.runs.ensemble_folder import is_ensemble, member_folders, read_combination
from longtail.runs.hub import local
from longtail.runs.run import Run


@dataclass(frozen=True, repr=False)
class LoadedModel:
    """A trained method with what it needs to be used.

    Attributes:
        method: In eval mode, on the device.
        metadata: Class names, counts, normalisation, size, corrections.
        groups: Shot groups of the classes.
        device: Where it is.
        calibration_file: Where a calibration of these weights would lie.
        backbone: Name of the network; of an ensemble, of all its networks.
    """

    method: Method
    metadata: ckpt.CheckpointMetadata
    groups: ShotGroups
    device: torch.device
    calibration_file: Path | None = None
    backbone: str = ""

    def __repr__(self) -> str:
        classes = self.metadata.classes
        size = self.metadata.image_size
        return (
            f"<LoadedModel: method {self.metadata.method}, backbone {visible(self.backbone)}, "
            f"{counted(len(classes), 'class', 'classes')} ({some(classes)}), "
            f"images of {size} x {size} pixels, on {self.device}>"
        )

    @cached_property
    def calibration(self) -> Calibration | None:
        """What `longtail calibrate` found out about the model, if it was asked.

        Raises:
            CheckpointError: If the file is damaged or belongs to other weights.
        """
        file = self.calibration_file
        if file is None or not file.exists():
            return None
        return Calibration.read(file, self.metadata.weights_sha256)

    def predict(
        self,
        images: ImageSource | Sequence[ImageSource] | ImageInputs,
        options: PredictOptions | None = None,
        *,
        progress: Callable[[int], None] = lambda done: None,
        note: Callable[[str], None] = lambda text: None,
    ) -> pd.DataFrame:
        """Predict the classes of images without labels.

        Args:
            images: One or several files, folders, lists of files, images of Pillow, uint8 arrays [H, W, 3].
                Give the file where there is one: a large JPEG file is decoded at a reduced scale, as in
                training, but an opened image has all its pixels, so its probabilities may differ slightly.
            options: How many classes, which prior, and the like.
            progress: Called with the number of images that are done.
            note: Called with sentences on what was left out, and on what the pixels show.

        Returns:
            One row per image: path (or `image 0`), class_1, probability_1, ..., group of class_1, error; of a
            calibrated model also accepted_as, prediction_set, typical and unusual. The table "Columns of the
            predictions" in docs/own-data-in-detail.md explains each.

        Raises:
            DataError: If a folder holds no image, an array is no image, or the prior does not fit.
            OutputError: If the model predicts numbers that are not finite.
        """
        inputs = images if isinstance(images, ImageInputs) else collect(images)
        with keeping_freed_memory(self.device):
            return predict_images(
                self.method, self.metadata, self.groups, inputs,
                options or PredictOptions(), device=self.device, calibration=self.calibration,
                progress=progress, note=note,
            )  # fmt: skip


def load(run: Path | str, *, device: str | None = None, stage: int | None = None) -> LoadedModel:
    """Load the model of a finished run: its last epoch, or its best one if val selected it; or an ensemble.

    Args:
        run: A run folder, the folder of an ensemble, or `hf-hub:owner/name` (`@revision`), a model that was
            pushed with `longtail push`.
        device: As for `train`.
        stage: Load the end of this stage (from 0) instead.

    Raises:
        LongtailError: If the folder holds no finished run or the checkpoint does not fit it.
    """
    folder = local(run)
    if is_ensemble(folder):
        if stage is not None:
            raise ConfigError(f"{run} is an ensemble, which has no stages; load one of its runs.")
        return _load_ensemble(folder, device)
    opened = Run.open(folder)
    checkpoint, metadata = opened.checkpoint(stage)
    weights = ckpt.read_weights(checkpoint)
    if wrong := ckpt.describe_not_finite(weights):
        raise CheckpointError(
            f"{checkpoint} contains {wrong}, so the model is useless. Train it again, with a lower "
            "training.learning_rate or training.clip_norm=1."
        )
    counts = ClassCounts(metadata.class_counts, metadata.classes)
    method = build(opened.config, opened.config.model.untrained(), counts, metadata.image_size)
    ckpt.load_weights(method, weights, str(checkpoint))
    place = find_device(device)
    groups = ShotGroups.from_counts(counts, opened.config.data.groups)
    calibration = opened.folder.calibration if stage is None else None
    backbone = str(opened.config.model.backbone)
    return LoadedModel(method.to(place).eval(), metadata, groups, place, calibration, backbone)


def _load_ensemble(path: Path, device: str | None) -> LoadedModel:
    """Load the members of an ensemble as one model, which takes images in 0..1."""
    models = [load(folder, device=device) for folder in member_folders(path)]
    first = models[0]
    each = [model.metadata for model in models]
    members = [
        Member(model.method, model.metadata.classes, model.metadata.mean, model.metadata.std)
        for model in models
    ]
    combination = read_combination(path)
    method = Combined(members, combination, first.metadata.classes).to(first.device).eval()
    mean, std = PLAIN
    metadata = first.metadata.model_copy(
        update={
            "method": "ensemble",
            "corrections": tuple(dict.fromkeys(name for one in each for name in one.corrections)),
            "assumed_prior": written(_assumed(combination, each)),
            "mean": mean,
            "std": std,
            "selected_epoch": None,
            "run": "",
            "weights_sha256": checksum("".join(one.weights_sha256 for one in each).encode()),
        }
    )
    backbones = ", ".join(dict.fromkeys(model.backbone for model in models))
    return LoadedModel(method, metadata, first.groups, first.device, backbone=backbones)


def _assumed(
    combination: Combination, each: Sequence[ckpt.CheckpointMetadata]
) -> torch.Tensor | None:
    """Return the class distribution that an ensemble assumes: its members', if it is the same for all."""
    known = [one.prior() for one in each]
    first = known[0]
    if first is None or not combination.keeps_prior:
        return None
    for one, prior in zip(each, known, strict=True):
        if prior is None or one.classes != each[0].classes or not torch.allclose(prior, first):
            return None
    return first


def build(config: RunConfig, model: ModelConfig, counts: ClassCounts, image_size: int) -> Method:
    """Return the untrained method of a configuration, with a network for images of `image_size` pixels."""
    groups = ShotGroups.from_counts(counts, config.data.groups)
    training = config.training
    setting = Setting(
        counts,
        groups,
        training.epochs,
        lambda: model.build(image_size),
        model.build_experts,
        training.batch_size,
        training.learning_rate,
    )
    with seeded(derive_seed(training.seed, "initialisation")):
        kind: Any = METHODS[config.method_name]
        method: Method = kind(config.method, setting)
    return method


def predict(
    run: Path | str,
    images: ImageSource | Sequence[ImageSource],
    options: PredictOptions | None = None,
    *,
    device: str | None = None,
) -> pd.DataFrame:
    """Predict the classes of images without labels with the model of a finished run.

    Load the model once with `load` and use its `predict` where there are several calls.

    Args:
        run: A run folder.
        images: As for `LoadedModel.predict`, which says what is returned and raised.
        options: How many classes, which prior, and the like.
        device: As for `train`.
    """
    return load(run, device=device).predict(images, options)
