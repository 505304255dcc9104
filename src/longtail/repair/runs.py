"""Run folders of ours, to be repaired."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from longtail import api
from longtail.adjust import NearestClassMean
from longtail.core.counts import ClassCounts
from longtail.engine import checkpoint as ckpt
from longtail.engine.run_folder import RunFolder, writing
from longtail.methods.decoupling import DecouplingOptions, MeansOptions
from longtail.repair.corrections import CHANGES_THE_PRIOR, Corrected
from longtail.repair.evidence import Evidence
from longtail.repair.last_layer import LinearModel, collect, last_linear


@dataclass(frozen=True)
class RunModel:
    """A run folder that is to be repaired."""

    run: api.Run
    model: LinearModel

    @property
    def evidence(self) -> Evidence:
        """What is known."""
        return self.model.evidence

    def write(self, corrected: Corrected, target: Path, name: str) -> list[Path]:
        """Write a run folder that `longtail.load` and `longtail evaluate` read as any other."""
        source = ckpt.finished(self.run.folder.checkpoints)
        weights, card = ckpt.read_weights(source), ckpt.read_card(source)
        config = self.run.config.model_copy(update={"recipe": f"{self.run.config.recipe} + {name}"})
        if corrected.means is not None:
            # class means are a classifier of the method decoupling, on the same backbone
            options = DecouplingOptions(classifier=MeansOptions())
            config = config.model_copy(update={"method": options, "start": None})
            card = card.model_copy(update={"method": options.name})
            weights = _with_means(weights, corrected.means)
        else:
            for key, value in self.model.corrected_layer(corrected).items():
                weights[key.removeprefix("method.")] = value
        if name in CHANGES_THE_PRIOR:
            card = card.model_copy(update={"corrections": (*card.corrections, name)})
        folder = RunFolder(target)
        folder.create()
        ckpt.save_checkpoint(folder.checkpoints, source.name, card, weights, {})
        own = self.run.folder
        for file in filter(Path.exists, (own.environment, own.metrics, own.split)):
            with writing(folder.path / file.name) as copy:
                copy.write_bytes(file.read_bytes())
        folder.write_yaml(config.model_dump(mode="json"))
        return [target]


def read_run(path: Path, *, device: str | None = None) -> RunModel:
    """Run a trained model of ours over its own data.

    Raises:
        LongtailError: If the run is not finished, or its network has no linear last layer.
    """
    run = api.Run.open(path)
    loaded = api.load(path, device=device)
    data = run.open_data().normalised_by(loaded.card.mean, loaded.card.std)
    counts = ClassCounts(loaded.card.class_counts, loaded.card.classes)
    network = _Predictor(loaded.method).eval()
    layer = last_linear(network, data, loaded.device)
    evidence = collect(network, layer, data, counts, loaded.device, run.config.training.workers)
    return RunModel(
        run, LinearModel(network, layer, evidence.with_corrections(loaded.card.corrections))
    )


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
