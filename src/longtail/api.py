"""Train, evaluate and load runs from Python; the command line calls these functions."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from longtail.core import distributed
from longtail.core.counts import ClassCounts
from longtail.core.errors import ConfigError
from longtail.core.groups import ShotGroups
from longtail.core.protocol import Protocol
from longtail.core.rng import derive_seed
from longtail.data.config import FolderData, Progress, TableData
from longtail.data.kept_split import split_table
from longtail.data.pictures import ArrayPictures, DataSet
from longtail.engine import checkpoint as ckpt
from longtail.engine.hardware import (
    describe_environment,
    find_device,
    remark_on_load,
    resolve_precision,
)
from longtail.engine.log import Log, SilentLog
from longtail.engine.loop import Trainer, Validate
from longtail.engine.optimisation import seeded
from longtail.engine.run_folder import RunFolder, writing
from longtail.engine.start import read_first_stage
from longtail.evaluation import (
    confusion_matrix,
    macro_accuracy,
    micro_accuracy,
    predict_split,
    score,
    write_predictions,
)
from longtail.evaluation.answer import Question, answer, find_pictures
from longtail.methods import METHODS, Method, Setting
from longtail.models.config import ModelConfig
from longtail.models.low_rank import describe_low_rank
from longtail.models.weights import checksum
from longtail.recipes import RunConfig, resolve
from longtail.runs import Run, record, write_summary

__all__ = [
    "LoadedModel",
    "Question",
    "Run",
    "default_folder",
    "evaluate",
    "load",
    "record",
    "train",
    "write_summary",
]


@dataclass(frozen=True)
class LoadedModel:
    """A trained method with what it needs to be used.

    Attributes:
        method: In eval mode, on the device.
        card: Class names, counts, normalisation, size, corrections.
        groups: Shot groups of the classes.
        device: Where it is.
    """

    method: Method
    card: ckpt.CheckpointCard
    groups: ShotGroups
    device: torch.device

    def predict(
        self,
        pictures: Path | str | Sequence[Path | str],
        question: Question | None = None,
        *,
        progress: Callable[[int], None] = lambda done: None,
    ) -> pd.DataFrame:
        """Answer pictures without labels.

        Args:
            pictures: Files or folders.
            question: How many classes, which prior, and the like.
            progress: Called with the number of pictures that are done.

        Returns:
            One row per picture: path, class_1, probability_1, ..., group of the first class, error.

        Raises:
            DataError: If a folder holds no picture, or the prior does not fit.
        """
        sources = [pictures] if isinstance(pictures, Path | str) else list(pictures)
        return answer(
            self.method, self.card, self.groups, find_pictures([Path(p) for p in sources]),
            question or Question(), device=self.device, progress=progress,
        )  # fmt: skip


def train(
    source: str | RunConfig,
    overrides: Sequence[str] = (),
    *,
    out: Path | None = None,
    resume: bool = False,
    device: str | None = None,
    log: Log | None = None,
    progress: Progress = lambda done, size: None,
) -> Run:
    """Train one run and score it on its test split (on val if there is no test).

    Args:
        source: A recipe, YAML file, folder or table; or a configuration.
        overrides: `key=value`.
        out: Run folder; `runs/<recipe>-<date>` if not given.
        resume: Continue the run in `out`.
        device: `cpu`, `cuda`, `cuda:1`, `mps`; the best there is if not given.
        log: Where to report; silent if not given.
        progress: Called while picture files are checked.

    Raises:
        LongtailError: In words, whatever went wrong; a run can be resumed after it.
    """
    config = source if isinstance(source, RunConfig) else resolve(source, overrides)
    place = find_device(device)
    distributed.start(place)
    log = (log or SilentLog()) if distributed.is_main() else SilentLog()
    folder = RunFolder(distributed.broadcast(out or default_folder(config)))
    if resume:
        config = _continued(config, folder)
    config, data = _open(Run(folder, config), progress)
    counts = data.manifest.class_counts()
    method = _build(config, config.model, counts, data.pictures.size).to(place)
    protocol = Protocol(data.manifest.has("val"), config.training.select)
    if config.training.channels_last:
        method = method.to(memory_format=torch.channels_last)
    data = replace(data, notes=(*data.notes, *method.remarks))
    _announce(data, config, method, log)
    for remark in (remark_on_load(place), "" if resume else _remark_on_weights(config, method)):
        if remark:
            log.note(f"note: {remark}")
    card = _card(config, data, method)
    trainer = Trainer(
        method,
        data.split("train"),
        config.training,
        protocol,
        folder,
        card,
        place,
        log,
        _scorer(data, "val", config, place) if protocol.has_val else None,
        data.split("val") if protocol.has_val else None,
        _scorer(data, "test", config, place) if config.training.watch_test else None,
    )
    trainer.check()
    facts = {}
    begun = resume and ckpt.newest(folder.checkpoints) is not None
    if config.start is not None and not begun:
        first = read_first_stage(Path(config.start).expanduser(), config.training.seed, card)
        trainer.start_from(first.weights, first.card.epochs_done, str(first.checkpoint))
        facts["started_from"] = {
            "checkpoint": str(first.checkpoint),
            "weights_sha256": first.card.weights_sha256,
        }
        log.note(f"first stage taken from {first.checkpoint}")
    if distributed.is_main() and not (resume and folder.config.exists()):
        _begin(folder, config, data, place, facts)
    distributed.barrier()
    with folder.held() if distributed.is_main() else nullcontext():
        trainer.run(resume=resume)
    run = Run(folder, config)
    split = "test" if data.manifest.has("test") else "val"
    if data.manifest.has(split):
        evaluate(run, split, data=data, device=device)
    else:
        log.note("There is neither a test nor a val split, so nothing was scored.")
    return run


def evaluate(
    run: Run, split: str = "test", *, data: DataSet | None = None, device: str | None = None
) -> dict[str, Any]:
    """Write predictions and scores of a finished run on one split.

    Args:
        run: A run folder.
        split: `train`, `val` or `test`.
        data: The run's data set, if it is open already.
        device: As for `train`.

    Returns:
        The content of `scores-<split>.json`.
    """
    distributed.start(find_device(device))
    model = load(run.folder.path, device=device)
    training = run.config.training
    if data is None:
        data = run.open_data()
    part = data.split(split).normalised_by(model.card.mean, model.card.std)
    part = replace(part, manifest=part.manifest.restricted_to(model.card.classes))
    predictions = predict_split(
        model.method,
        part,
        split,
        device=model.device,
        precision=resolve_precision(training.precision, model.device),
        checkpoint=model.card.weights_sha256,
        workers=training.workers,
    )
    protocol = Protocol(data.manifest.has("val"), training.select)
    scores = score(
        predictions,
        ClassCounts(model.card.class_counts, model.card.classes),
        rule=run.config.data.groups,
        selection=protocol.describe(model.card.selected_epoch),
        recipe=run.config.recipe,
        seed=training.seed,
        notes=tuple(dict.fromkeys((*data.notes, *model.method.remarks))),
        together=part.together,
    )
    if distributed.is_main():
        write_predictions(predictions, run.folder.predictions(split))
        run.folder.write_json(run.folder.scores(split), scores)
    distributed.barrier()
    return scores


def load(run: Path | str, *, device: str | None = None, stage: int | None = None) -> LoadedModel:
    """Load the model of a finished run: its last epoch, or its best one if val selected it.

    Args:
        run: A run folder.
        device: As for `train`.
        stage: Load the end of this stage (from 0) instead.

    Raises:
        LongtailError: If the folder holds no finished run or the checkpoint does not fit it.
    """
    opened = Run.open(Path(run))
    checkpoint = ckpt.finished(opened.folder.checkpoints)
    if stage is not None:
        checkpoint = opened.folder.checkpoints / ckpt.checkpoint_name(stage, 0, finished=True)
    card = ckpt.read_card(checkpoint)
    counts = ClassCounts(card.class_counts, card.classes)
    method = _build(opened.config, opened.config.model.untrained(), counts, card.image_size)
    ckpt.load_weights(method, ckpt.read_weights(checkpoint), str(checkpoint))
    place = find_device(device)
    groups = ShotGroups.from_counts(counts, opened.config.data.groups)
    return LoadedModel(method.to(place).eval(), card, groups, place)


def default_folder(config: RunConfig) -> Path:
    """Return `runs/<recipe>-<date and time>`, a name that is not taken."""
    stem = f"{config.recipe.replace('/', '-')}-{datetime.now():%Y-%m-%d-%H%M%S}"
    path, number = Path("runs") / stem, 2
    while path.exists():
        path, number = Path("runs") / f"{stem}-{number}", number + 1
    return path


def _build(config: RunConfig, model: ModelConfig, counts: ClassCounts, image_size: int) -> Method:
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


def _remark_on_weights(config: RunConfig, method: Method) -> str:
    """Say so if the backbone begins with random weights where trained ones are due."""
    if config.model.begins_trained or config.start is not None:
        return ""
    trained = [stage.trainable for stage in method.stages() if stage.kind == "train"]
    tops = tuple(f"{top}." for names in trained for top in names)
    backbone = [name for name, _ in method.named_parameters() if name.startswith("backbone.")]
    left = 0 if () in trained else sum(not name.startswith(tops) for name in backbone)
    if left:
        return (
            f"{left} of the {len(backbone)} tensors of the backbone keep their random weights. Give it "
            "trained ones: model.pretrained=true, or model.weights=FILE."
        )
    if isinstance(config.data, FolderData | TableData):
        return (
            "the network begins with random weights. With few pictures trained ones may do much better: "
            "pretrained=true (fetched from the Hugging Face hub) or weights=FILE."
        )
    return ""


def _open(run: Run, progress: Progress) -> tuple[RunConfig, DataSet]:
    """Open the data, and write down what was chosen for the user: backbone and picture size."""
    config, data = run.config, run.open_data(progress)
    size = data.pictures.size
    updates: dict[str, Any] = {"model": config.model.resolved(size)}
    if hasattr(config.data, "image_size"):
        updates["data"] = config.data.model_copy(update={"image_size": size})
    config = config.model_copy(update=updates)
    if (expected := config.model.normalisation()) is not None:
        data = data.normalised_by(*expected)
    return config, data


def _continued(config: RunConfig, folder: RunFolder) -> RunConfig:
    if not folder.config.exists():
        return config  # killed before the first file was written: begin
    stored = Run.open(folder.path).config
    old, new = stored.model_dump(mode="json"), config.model_dump(mode="json")
    chosen_later = {("model", "backbone"), ("data", "image_size")}
    differing = [
        f"{part}.{key}"
        for part in ("data", "model", "method", "training")
        for key in sorted({*old[part], *new[part]})
        if old[part].get(key) != new[part].get(key)
        and not ((part, key) in chosen_later and new[part].get(key) is None)
    ]
    if differing:
        raise ConfigError(
            f"{folder.path} was begun with other values of {', '.join(differing)}. Resume it "
            "without overrides, or begin a new run in another folder."
        )
    return stored


def _begin(
    folder: RunFolder,
    config: RunConfig,
    data: DataSet,
    device: torch.device,
    facts: dict[str, Any],
) -> None:
    folder.create()
    if (weights := config.model.weights) is not None:
        facts = {**facts, "weights": {"file": str(weights), "sha256": checksum(weights)}}
    folder.write_json(
        folder.environment,
        describe_environment(device)
        | {
            "command": _command(),
            "started": f"{datetime.now():%Y-%m-%dT%H:%M:%S}",
            "data_checksum": data.manifest.checksum(),
            "processes": distributed.world_size(),
            **facts,
        },
    )
    if data.skipped:
        with writing(folder.skipped) as file:
            pd.DataFrame(data.skipped, columns=["path", "reason"]).to_csv(file, index=False)
    if data.drawn_split:
        with writing(folder.split) as file:
            split_table(data.manifest).to_csv(file, index=False)
    folder.write_yaml(config.model_dump(mode="json"))  # last: it is what makes this a run


def _command() -> str:
    """Return what was typed: `longtail ...`, or the Python program that called `train`."""
    program, *arguments = sys.argv
    own = Path(program).name in ("longtail", "longtail.exe", "__main__.py")
    return shlex.join(["longtail", *arguments] if own else ["python", program, *arguments])


def _card(config: RunConfig, data: DataSet, method: Method) -> ckpt.CheckpointCard:
    counts = data.manifest.class_counts()
    return ckpt.CheckpointCard(
        method=config.method_name,
        classes=counts.names,
        class_counts=counts.values,
        corrections=method.corrections(),
        mean=data.mean,
        std=data.std,
        image_size=data.pictures.size,
        train_checksum=data.manifest.take(data.manifest.rows("train")).checksum(),
        stage=0,
        epoch=0,
        epochs_done=0,
        finished=False,
    )


def _scorer(data: DataSet, split: str, config: RunConfig, device: torch.device) -> Validate:
    part = data.split(split)
    precision = resolve_precision(config.training.precision, device)

    def scores_of(method: nn.Module) -> dict[str, float]:
        predictions = predict_split(
            method, part, split, device=device, precision=precision, workers=config.training.workers
        )
        confusion = confusion_matrix(
            predictions.labels, predictions.predicted(), len(predictions.classes)
        )
        macro = macro_accuracy(confusion)
        assert macro is not None, "the split is not empty"
        return {"accuracy": micro_accuracy(confusion), "macro_accuracy": macro}

    return scores_of


def _announce(data: DataSet, config: RunConfig, method: Method, log: Log) -> None:
    manifest, counts = data.manifest, data.manifest.class_counts()
    sizes = ", ".join(
        f"{split} {len(manifest.rows(split)):,}"
        for split in ("train", "val", "test")
        if manifest.has(split)
    )
    where = "in memory" if isinstance(data.pictures, ArrayPictures) else "from files"
    log.note(
        f"{manifest.name}: {len(counts)} classes, {sizes} pictures of {data.pictures.size} pixels "
        f"({where}), imbalance ratio {counts.imbalance_ratio:.1f}"
    )
    log.note(f"groups: {ShotGroups.from_counts(counts, config.data.groups).describe()}")
    added = describe_low_rank(method)
    with_what = f" with {added}" if added else ""
    log.note(f"model: {config.model.backbone}{with_what}, method: {config.method_name}")
    for note in data.notes:
        log.note(f"note: {note}")
