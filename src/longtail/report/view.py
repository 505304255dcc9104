"""What a report knows about a run: the run folder, and its model and data where they still open."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from longtail.core.counts import ClassCounts
from longtail.core.errors import CheckpointError, DataError, LongtailError, ProtocolError
from longtail.core.figure import FigureData, class_accuracy, measured_mean
from longtail.core.groups import GROUP_NAMES, ShotGroups
from longtail.core.predictions import Predictions
from longtail.core.stage import Stage
from longtail.data.data_set import DataSet
from longtail.data.images.file_checks import check_images
from longtail.data.inspection import Inspection, inspect, near_pairs
from longtail.data.near_duplicates.found import describe_near, near_by_hash
from longtail.data.near_duplicates.neighbours import can_search
from longtail.data.options import ArrayData, FolderData, TableData
from longtail.data.preparation import Phases, read_files
from longtail.data.sampling.loader import evaluation_batches
from longtail.engine import checkpoint as ckpt
from longtail.evaluation import confusion_matrix
from longtail.evaluation.bootstrap import group_masks, paired_intervals
from longtail.evaluation.metrics import softmax
from longtail.models.backbones import enlarged_side
from longtail.models.heads import LinearHead
from longtail.prediction import predict_sub_models, read_predictions
from longtail.prediction.importance import importance_by_class
from longtail.report.classes import class_intervals, confused_pairs
from longtail.runs import LoadedModel, Run, load

Batch = tuple[torch.Tensor, NDArray[np.int64]]


@dataclass(frozen=True)
class RunView:
    """One scored run.

    Attributes:
        run: The run folder.
        split: The scored split that is shown.
        device: Where the model is run for the method's own figures.
        importance: Split whose images say how important the weights are for each shot group; not computed
            if not given.
        progress: Called with what takes long, how much of it is done, and how much there is.
    """

    run: Run
    split: str
    device: str | None = None
    importance: str | None = None
    progress: Phases = field(default=lambda what, done, size: None, compare=False)

    @classmethod
    def open(
        cls,
        path: Path,
        split: str | None = None,
        device: str | None = None,
        importance: str | None = None,
        progress: Phases = lambda what, done, size: None,
    ) -> RunView:
        """Open a run that was scored.

        Raises:
            LongtailError: If it is no run, is unfinished, or has no scores on the split.
        """
        run = Run.open(path)
        scored = run.evaluated_splits()
        if not scored or (split is not None and not run.folder.scores(split).exists()):
            ckpt.finished(run.folder.checkpoints)  # an interrupted run is to be finished first
            raise DataError(
                f"{path} has no scores on {split or 'any split'}: run longtail evaluate {path}"
                + (f" --split {split}." if split else ".")
            )
        view = cls(run, split or scored[0], device, importance, progress)
        found, scores = view.predictions, view.scores
        names = tuple(row["name"] for row in scores["per_class"])
        one = (found.checkpoint, found.split, found.classes, len(found.ids))
        other = (scores["checkpoint_sha256"], view.split, names, scores["num_images"])
        right = float(view.right.mean()) if len(found.ids) else scores["accuracy"]
        if one != other or not np.isclose(right, scores["accuracy"], atol=1e-9):
            raise DataError(
                f"Scores and predictions of {path} come from different checkpoints or images: run longtail "
                f"evaluate {path} --split {view.split} again."
            )
        return view

    @cached_property
    def scores(self) -> dict[str, Any]:
        """Content of `scores-<split>.json`."""
        return self.run.scores(self.split)

    @cached_property
    def predictions(self) -> Predictions:
        """Logits of every image of the split."""
        file = self.run.folder.predictions(self.split)
        expected = self.scores.get("predictions_sha256", "")
        try:
            return read_predictions(file, expected)
        except (CheckpointError, DataError) as error:
            again = f"longtail evaluate {self.run.folder.path} --split {self.split}"
            raise type(error)(f"{error} To write it again: {again}.") from error

    @cached_property
    def environment(self) -> dict[str, Any]:
        """Content of `environment.json`."""
        return self.run.environment()

    @cached_property
    def lines(self) -> list[dict[str, Any]]:
        """Lines of `metrics.jsonl`."""
        return self.run.lines()

    @cached_property
    def counts(self) -> ClassCounts:
        """Training images per class."""
        rows = self.scores["per_class"]
        return ClassCounts([row["train_count"] for row in rows], [row["name"] for row in rows])

    @cached_property
    def groups(self) -> ShotGroups:
        """Shot groups by the rule of the scores."""
        return ShotGroups.from_counts(self.counts, self.scores["groups"]["rule"])

    @cached_property
    def right(self) -> NDArray[np.bool_]:
        """Whether each image was recognised, [N]."""
        return np.asarray(self.predictions.predicted() == self.predictions.labels)

    @cached_property
    def confidence(self) -> NDArray[np.float64]:
        """Probability of the predicted class, [N]."""
        return np.asarray(softmax(self.predictions.logits).max(axis=1))

    @cached_property
    def tested(self) -> NDArray[np.int64]:
        """Images of each class in the split, [C]."""
        return np.bincount(self.predictions.labels, minlength=len(self.counts))

    @cached_property
    def class_accuracy(self) -> NDArray[np.float64]:
        """Accuracy of each class, as in the scores, [C]; NaN without an image."""
        found = [row["accuracy"] for row in self.scores["per_class"]]
        return np.array([np.nan if value is None else value for value in found])

    @cached_property
    def class_intervals(self) -> NDArray[np.float64]:
        """Wilson's 95 % interval of the accuracy of each class, [C, 2]; NaN without an image."""
        labels, classes = self.predictions.labels, len(self.counts)
        return class_intervals(labels, self.right, classes, self.together)

    @cached_property
    def pairs(self) -> NDArray[np.int64]:
        """(label, predicted class, images) of all confusions, the most frequent first, [P, 3]."""
        predicted = self.predictions.predicted()
        return confused_pairs(self.predictions.labels, predicted, len(self.counts))

    @cached_property
    def part(self) -> DataSet | None:
        """The images of the split in the order of the predictions, or None if they do not open."""
        if self.data is None or not self.data.manifest.has(self.split):
            return None
        return self.data.split(self.split)

    @cached_property
    def confusion(self) -> NDArray[np.int64]:
        """Images by (label, prediction), [C, C]."""
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
        """Numbers that are equal for images that belong together, [N]; None if nothing is known of it."""
        config = self.run.config.data  # asked first, because opening the data takes a while
        named = isinstance(config, FolderData | TableData) and config.keep_together is not None
        if not named or self.data is None or not self.data.manifest.has(self.split):
            return None
        return self.data.split(self.split).together

    @cached_property
    def data(self) -> DataSet | None:
        """The run's data, or None if it cannot be opened any more, or is not what was scored.

        Raises:
            ProtocolError: If images that the run was trained on would be scored.
        """
        return self._opened[0]

    @property
    def data_problem(self) -> str:
        """Why there is no data."""
        return self._opened[1]

    @cached_property
    def _opened(self) -> tuple[DataSet | None, str]:
        try:
            data = self.run.open_data(partial(self.progress, "reading images"))
        except ProtocolError:
            raise
        except LongtailError as error:
            return None, str(error)
        if not data.manifest.has(self.split):
            return data, ""
        part = data.split(self.split)
        same = self.scores.get("images_sha256") in (None, part.content())
        if same and np.array_equal(part.manifest.ids, self.predictions.ids):
            return data, ""
        return None, f"The images of {self.split} are not those that were scored."

    @cached_property
    def model(self) -> LoadedModel:
        """The trained model."""
        return load(self.run.folder.path, device=self.device)

    @cached_property
    def inspection(self) -> Inspection | None:
        """Return what is known of the data without training, or None if it does not open."""
        if self.data is None:
            return None
        config = self.run.config.data
        if isinstance(config, ArrayData):
            return inspect(self.data.manifest)
        file_set = read_files(config, kept=self.run.kept_split() is not None)
        # files were checked when the data was opened, and what was found is remembered
        checked = check_images(file_set.files(), bit_depth=config.bit_depth)
        by_path = dict(zip(file_set.manifest.paths, checked, strict=True))  # ids are those of then
        used = [by_path[path] for path in self.data.manifest.paths]
        found = inspect(
            self.data.manifest, used, file_set,  # with the run's own splits
            size=config.image_size, fit=config.fit, bit_depth=config.bit_depth,
        )  # fmt: skip
        damaged = inspect(file_set.manifest, checked).damaged
        if not isinstance(config, FolderData | TableData) or not can_search(len(used)):
            return replace(found, damaged=damaged)
        near, manifest = near_by_hash(used), self.data.manifest
        drawn = self.run.identity is not None and self.run.identity.drawn_split
        return replace(
            found, damaged=damaged, near=describe_near(manifest, near, drawn=drawn),
            near_duplicates=near_pairs(manifest, near),
        )  # fmt: skip

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

    def stage_figure(self) -> FigureData | None:
        """Return the accuracy at the end of each stage, or None with one stage or without the data.

        Of a method with sub-models, that of the one that the stage trained.
        """
        if len(self.stages) == 1 or self.data is None or not self.data.manifest.has(self.split):
            return None
        folder, part = self.run.folder, self.for_model(self.data)
        labels, classes = torch.tensor(part.manifest.labels), len(self.counts)
        each: dict[str, torch.Tensor] = {}
        for number, stage in enumerate(self.stages):
            end = folder.checkpoints / ckpt.checkpoint_name(number, 0, finished=True)
            if stage.epochs == 0 or not end.exists():
                continue  # a fit that is no end only hands on; the first stage may be another run's
            self.progress(
                "predicting with the model at the end of each stage", number, len(self.stages)
            )
            model = load(folder.path, device=self.device, stage=number)
            predicted = predict_sub_models(model.method, part, device=model.device)[:, -1].argmax(
                dim=1
            )
            each[stage.name.replace(", ", ",\n")] = class_accuracy(
                [(predicted[None], labels)], classes
            )[0]
        if not each:
            return None
        predicted = torch.from_numpy(self.predictions.predicted())
        each["in the end"] = class_accuracy([(predicted[None], labels)], classes)[0]
        masks = {"all": torch.ones(classes, dtype=torch.bool)}
        masks |= {name: self.groups.mask(name) for name in GROUP_NAMES}
        return FigureData(
            title="Accuracy at the end of each stage",
            text="Macro accuracy of the model after each stage, and of the finished method.",
            x="stage", y="accuracy", kind="bars", percent=True, places=list(each),
            series={
                name: [measured_mean(accuracy[mask]) for accuracy in each.values()]
                for name, mask in masks.items()
                if bool(mask.any())
            },
        )  # fmt: skip

    @cached_property
    def importance_figure(self) -> FigureData | None:
        """The importance of the weights for each shot group, or None if it was not asked for.

        Raises:
            DataError: If the data cannot be opened any more, or has no such split.
        """
        split, data = self.importance, self.data
        if split is None:
            return None
        if data is None or not data.manifest.has(split):
            found = "does not open any more" if data is None else f"has no {split} split"
            raise DataError(
                f"--importance {split} needs the images of {self.run.folder.path}, whose data {found}."
            )
        part = self.for_model(data, split)
        each = importance_by_class(self.model.method, part, self.model.device)
        masks = {name: self.groups.mask(name) for name in GROUP_NAMES}
        shown = {name: mask for name, mask in masks.items() if bool(mask.any())}
        return FigureData(
            title="Importance of the weights for each shot group",
            text="Mean of (w g)² over the weights of convolutions and linear layers, in millionths, "
            "averaged over the classes of a group; g is the gradient of the mean loss of one class on "
            f"{split}. Misclassified images also have large gradients.",
            x="shot group", y="importance, millionths", kind="bars", places=list(shown),
            series={
                name: [
                    None if (mean := measured_mean(values[mask])) is None else 1e6 * mean
                    for mask in shown.values()
                ]
                for name, values in each.items()
            },
        )  # fmt: skip

    def for_model(self, data: DataSet, split: str | None = None) -> DataSet:
        """Return the scored split, or another one, as the model wants to see it."""
        metadata = self.model.metadata
        return data.split(split or self.split).normalised_by(metadata.mean, metadata.std)

    def figures(self) -> Sequence[FigureData]:
        """Return the method's own figures; those that need images only if the data opens."""
        method, device = self.model.method, self.model.device
        if self.data is None or not self.data.manifest.has(self.split):
            return ()
        part = self.for_model(self.data)
        labels = torch.tensor(part.manifest.labels)
        side = enlarged_side(method)
        batches = evaluation_batches(part, device=device, everything=True, side=side)
        seen = self._counted(batches, "predicting for the method's own figures", len(labels))
        with torch.inference_mode():
            return method.figures(((x, labels[rows]) for x, rows in seen), self.lines)

    def _counted(self, batches: Iterable[Batch], what: str, size: int) -> Iterator[Batch]:
        """Hand on batches and tell how many images were asked for."""
        done = 0
        for images, rows in batches:
            done += len(rows)
            self.progress(what, done, size)
            yield images, rows
