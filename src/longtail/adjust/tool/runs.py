"""Run folders of ours, to be corrected."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from longtail.adjust import NearestClassMean
from longtail.adjust.tool.adjustment import Adjustment
from longtail.adjust.tool.evidence import Evidence
from longtail.adjust.tool.last_layer import LinearModel, collect, last_linear
from longtail.core.counts import ClassCounts
from longtail.core.prior import written
from longtail.core.stage import constant_part
from longtail.data.preparation import Progress
from longtail.engine import checkpoint as ckpt
from longtail.engine.run_folder import RunFolder, writing
from longtail.methods.decoupling import DecouplingOptions, MeansOptions
from longtail.runs import Run, evaluate, load


@dataclass(frozen=True)
class RunModel:
    """A run folder that is to be corrected."""

    run: Run
    model: LinearModel
    device: str | None = None

    @property
    def evidence(self) -> Evidence:
        """What is known."""
        return self.model.evidence

    def write(self, done: Adjustment, target: Path) -> None:
        """Write a run folder that `longtail.load` reads as any other, and score it on the same splits."""
        corrected, name = done.corrected, done.name
        source, metadata = self.run.checkpoint()
        weights = ckpt.read_weights(source)
        config = self.run.config.model_copy(update={"recipe": f"{self.run.config.recipe} + {name}"})
        if corrected.means is not None:
            # class means are a classifier of the method decoupling, on the same backbone
            options = DecouplingOptions(classifier=MeansOptions())
            config = config.model_copy(update={"method": options, "start": None})
            metadata = metadata.model_copy(update={"method": options.name})
            weights = _with_means(weights, corrected.means)
        else:
            for key, value in self.model.corrected_layer(corrected).items():
                weights[key.removeprefix("method.")] = value
        metadata = metadata.model_copy(
            update={"corrections": done.corrections, "assumed_prior": written(corrected.assumed)}
        )
        folder = RunFolder(target)
        folder.create()
        own, identity = self.run.folder, self.run.identity
        for file in filter(Path.exists, (own.environment, own.metrics, own.split, own.skipped)):
            with writing(folder.path / file.name) as copy:
                copy.write_bytes(file.read_bytes())
        content = config.model_dump(mode="json")
        if identity is not None:
            run = identity.model_copy(update={"config": content}).run
            metadata = metadata.model_copy(update={"run": run})
        ckpt.save_checkpoint(folder.checkpoints, source.name, metadata, weights, {})
        folder.write_config(content, identity)
        for split in self.run.evaluated_splits():
            evaluate(Run.open(target), split, device=self.device)


def read_run(
    path: Path,
    *,
    device: str | None = None,
    progress: Progress = lambda done, size: None,
) -> RunModel:
    """Run a trained model of ours over its own data.

    Args:
        path: Of the run.
        device: As for `train`.
        progress: Called while files are checked, and while the network looks at each split.

    Raises:
        LongtailError: If the run is not finished, or its network has no linear last layer.
    """
    run = Run.open(path)
    loaded = load(path, device=device)
    data = run.open_data(progress).normalised_by(loaded.metadata.mean, loaded.metadata.std)
    counts = ClassCounts(loaded.metadata.class_counts, loaded.metadata.classes)
    network = _Predictor(loaded.method).eval()
    layer = last_linear(network, data, loaded.device)
    workers = run.config.training.workers
    part = constant_part(loaded.method.stages())
    # the head of such a method gets what the frozen part gives, and nothing else
    frozen = loaded.method.get_submodule(part) if part and layer == "method.head" else None
    evidence = collect(network, layer, data, counts, loaded.device, workers, frozen, progress)
    metadata = loaded.metadata
    evidence = replace(
        evidence, corrections=metadata.corrections, assumed_prior=metadata.assumed_prior
    )
    return RunModel(run, LinearModel(network, layer, evidence), device)


def _with_means(weights: Mapping[str, Tensor], means: NearestClassMean) -> dict[str, Tensor]:
    kept = {k: v for k, v in weights.items() if k.split(".")[0] in ("backbone", "head")}
    known = torch.ones((), dtype=torch.bool)
    return {**kept, "means": means.means, "centre": means.centre, "means_known": known}


class _Predictor(nn.Module):
    """Calls `predict` as a forward pass."""

    def __init__(self, method: nn.Module) -> None:
        super().__init__()
        self.method = method

    def forward(self, images: Tensor) -> Tensor:
        predict: Any = self.method.predict
        logits: Tensor = predict(images)
        return logits
