"""What a report knows about a run: the run folder, and its model and data where they still open."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from longtail import api
from longtail.core.counts import ClassCounts
from longtail.core.errors import DataError, LongtailError
from longtail.core.groups import GROUP_NAMES, ShotGroups
from longtail.core.panel import Panel, class_accuracy, measured_mean
from longtail.core.predictions import Predictions
from longtail.core.stage import Stage
from longtail.data.check import check_pictures
from longtail.data.config import CifarData, DigitsData, FolderData, TableData, read_files
from longtail.data.inspect import Inspection, inspect
from longtail.data.loader import evaluation_batches
from longtail.data.pictures import DataSet
from longtail.engine import checkpoint as ckpt
from longtail.evaluation import answer_split, confusion_matrix, read_predictions
from longtail.evaluation.bootstrap import group_masks, paired_intervals
from longtail.evaluation.metrics import softmax
from longtail.models.heads import LinearHead


@dataclass(frozen=True)
class RunView:
    """One scored run.

    Attributes:
        run: The run folder.
        split: The scored split that is shown.
        device: Where the model is run for the method's own figures.
    """

    run: api.Run
    split: str
    device: str | None = None

    @classmethod
    def open(cls, path: Path, split: str | None = None, device: str | None = None) -> RunView:
        """Open a run that was scored.

        Raises:
            LongtailError: If it is no run, is unfinished, or has no scores on the split.
        """
        run = api.Run.open(path)
        scored = run.evaluated_splits()
        if not scored or (split is not None and not run.folder.scores(split).exists()):
            raise DataError(
                f"{path} has no scores on {split or 'any split'}: run longtail evaluate {path}"
                + (f" --split {split}." if split else ".")
            )
        view = cls(run, split or scored[0], device)
        if view.predictions.checkpoint != view.scores["checkpoint_sha256"]:
            raise DataError(
                f"Scores and predictions of {path} are of different checkpoints: run longtail "
                f"evaluate {path} --split {view.split} again."
            )
        return view

    @cached_property
    def scores(self) -> dict[str, Any]:
        """Content of `scores-<split>.json`."""
        return self.run.scores(self.split)

    @cached_property
    def predictions(self) -> Predictions:
        """Logits of every picture of the split."""
        return read_predictions(self.run.folder.predictions(self.split))

    @cached_property
    def environment(self) -> dict[str, Any]:
        """Content of `environment.json`."""
        content: dict[str, Any] = json.loads(
            self.run.folder.environment.read_text(encoding="utf-8")
        )
        return content

    @cached_property
    def lines(self) -> list[dict[str, Any]]:
        """Lines of `metrics.jsonl`."""
        return self.run.folder.read_metrics()

    @cached_property
    def counts(self) -> ClassCounts:
        """Training pictures per class."""
        rows = self.scores["per_class"]
        return ClassCounts([row["train_count"] for row in rows], [row["name"] for row in rows])

    @cached_property
    def groups(self) -> ShotGroups:
        """Shot groups by the rule of the scores."""
        return ShotGroups.from_counts(self.counts, self.scores["groups"]["rule"])

    @cached_property
    def right(self) -> NDArray[np.bool_]:
        """Whether each picture was recognised, [N]."""
        return np.asarray(self.predictions.predicted() == self.predictions.labels)

    @cached_property
    def confidence(self) -> NDArray[np.float64]:
        """Probability of the answer, [N]."""
        return np.asarray(softmax(self.predictions.logits).max(axis=1))

    @cached_property
    def confusion(self) -> NDArray[np.int64]:
        """Pictures by (label, answer), [C, C]."""
        return confusion_matrix(
            self.predictions.labels, self.predictions.predicted(), len(self.counts)
        )

    @cached_property
    def intervals(self) -> dict[str, dict[str, Any]]:
        """Class-averaged accuracy with its interval, for all classes and each group."""
        found = paired_intervals(
            self.predictions.labels,
            self.right,
            self.right,
            group_masks(self.groups),
            together=self.together,
        )
        return {name: row["after"] for name, row in found.items()}

    @cached_property
    def together(self) -> NDArray[np.int64] | None:
        """Numbers that are equal for pictures that belong together, [N]; None if nothing is known of it."""
        config = self.run.config.data  # asked first, because opening the data takes a while
        named = isinstance(config, FolderData | TableData) and config.keep_together is not None
        if not named or self.data is None or not self.data.manifest.has(self.split):
            return None
        return self.data.split(self.split).together

    @cached_property
    def data(self) -> DataSet | None:
        """The run's data, or None if it cannot be opened any more, or not all that was scored is there."""
        try:
            data = self.run.open_data()
        except LongtailError:
            return None
        scored = data.manifest.ids[data.manifest.rows(self.split)]
        return data if len(scored) == 0 or np.array_equal(scored, self.predictions.ids) else None

    @cached_property
    def model(self) -> api.LoadedModel:
        """The trained model."""
        return api.load(self.run.folder.path, device=self.device)

    @cached_property
    def inspection(self) -> Inspection | None:
        """Return what is known of the data without training, or None if it does not open."""
        if self.data is None:
            return None
        config = self.run.config.data
        if isinstance(config, CifarData | DigitsData):
            return inspect(self.data.manifest)
        file_set = read_files(config)
        # files were checked when the data was opened, and what was found is remembered
        checked = check_pictures(file_set.files())
        by_path = dict(zip(file_set.manifest.paths, checked, strict=True))  # ids are those of then
        used = [by_path[path] for path in self.data.manifest.paths]
        found = inspect(self.data.manifest, used, file_set)  # with the run's own splits
        return replace(found, damaged=inspect(file_set.manifest, checked).damaged)

    @property
    def stages(self) -> Sequence[Stage]:
        """Stages of the method."""
        return self.model.method.stages()

    def row_norms(self) -> NDArray[np.float64] | None:
        """Return the norms of the rows of the classifier, [C], if there is one linear one."""
        found = [
            module
            for module in self.model.method.modules()
            if isinstance(module, nn.Linear) and module.out_features == len(self.counts)
        ]
        # a backbone may hold a layer with as many outputs by chance
        heads = [module for module in found if isinstance(module, LinearHead)] or found[-1:]
        if len(heads) != 1:
            return None
        return np.asarray(heads[0].weight.detach().norm(dim=1).cpu().numpy(), dtype=np.float64)

    def stage_panel(self) -> Panel | None:
        """Return the accuracy at the end of each stage, or None with one stage or without the data.

        Of a method with sub-models, that of the one that the stage trained.
        """
        if self.data is None or not self.data.manifest.has(self.split):
            return None
        folder, part = self.run.folder, self._part(self.data)
        labels, classes = torch.tensor(part.manifest.labels), len(self.counts)
        each: dict[str, torch.Tensor] = {}
        for number, stage in enumerate(self.stages):
            end = folder.checkpoints / ckpt.checkpoint_name(number, 0, finished=True)
            if stage.epochs == 0 or not end.exists():
                continue  # a fit that is no end only hands on; the first stage may be another run's
            model = api.load(folder.path, device=self.device, stage=number)
            answers = answer_split(model.method, part, device=model.device)[:, -1].argmax(dim=1)
            each[stage.name.replace(", ", ",\n")] = class_accuracy(
                [(answers[None], labels)], classes
            )[0]
        if not each or len(self.stages) == 1:
            return None
        predicted = torch.from_numpy(self.predictions.predicted())
        each["in the end"] = class_accuracy([(predicted[None], labels)], classes)[0]
        masks = {"all": torch.ones(classes, dtype=torch.bool)}
        masks |= {name: self.groups.mask(name) for name in GROUP_NAMES}
        return Panel(
            title="Accuracy at the end of each stage",
            text="Class-averaged accuracy of what each stage has trained, and of the finished method.",
            x="stage", y="accuracy", kind="bars", percent=True, places=list(each),
            series={
                name: [measured_mean(accuracy[mask]) for accuracy in each.values()]
                for name, mask in masks.items()
                if bool(mask.any())
            },
        )  # fmt: skip

    def _part(self, data: DataSet) -> DataSet:
        """Return the scored split as the model wants to see it."""
        return data.split(self.split).normalised_by(self.model.card.mean, self.model.card.std)

    def panels(self) -> Sequence[Panel]:
        """Return the method's own figures; those that need pictures only if the data opens."""
        method, device = self.model.method, self.model.device
        if self.data is None or not self.data.manifest.has(self.split):
            return ()
        part = self._part(self.data)
        labels = torch.tensor(part.manifest.labels)
        batches = evaluation_batches(part, device=device, everything=True)
        with torch.inference_mode():
            return method.panels(((x, labels[rows]) for x, rows in batches), self.lines)
