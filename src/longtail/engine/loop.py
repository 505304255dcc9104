"""The training loop: runs any method, knows none by name."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from longtail.core import distributed
from longtail.core.batch import Position
from longtail.core.errors import ConfigError, OutOfTimeError, ProtocolError
from longtail.core.prior import written
from longtail.core.protocol import Protocol
from longtail.core.rng import derive_seed
from longtail.core.stage import Stage, seen_as_published
from longtail.core.words import counted
from longtail.data.data_set import DataSet
from longtail.data.sampling.loader import Loader
from longtail.engine import checkpoint as ckpt
from longtail.engine import trial
from longtail.engine.averaging import Averaging
from longtail.engine.finite import require_finite_losses
from longtail.engine.log import Log
from longtail.engine.optimisation import (
    build_optimizer,
    prepare_stage,
    seeded,
    training_mode,
)
from longtail.engine.options import TrainingConfig
from longtail.engine.pace import Pace
from longtail.engine.progress import Progress
from longtail.engine.run_folder import RunFolder, remove_leftovers
from longtail.engine.schedule import rate_in_stage
from longtail.engine.step import StepFunction, check_compiler, uncompiled
from longtail.engine.streams import build_loaders, build_sampler, everything
from longtail.methods.method import Facts, Method

SECONDS_BETWEEN_CHECKPOINTS = 30  # of a stage on features
STEPS_BETWEEN_CHECKS = 100  # of the loss being finite; reading it makes the host wait
Validate = Callable[[nn.Module, str | None], dict[str, float]]  # and its part that never changes


@dataclass
class Trainer:
    """Trains one method and leaves a run folder.

    Attributes:
        method: On the device, freshly built.
        train_set: The train split; nothing else is visible to training.
        config: How to train.
        protocol: Which split selects.
        folder: Where checkpoints and metrics go.
        metadata: Description that every checkpoint gets.
        device: Where to compute.
        log: Where to report.
        validate: Scores of a model on val, or None without a validation split.
        selection_set: The val split, for stages that choose something; None without one.
        watch: Scores of a model on test, which are only written down, or None.
        pace: Says how long it will take.
        deadline: When to stop, by `time.monotonic`, at the last checkpoint before it; None trains to the end.
    """

    method: Method
    train_set: DataSet
    config: TrainingConfig
    protocol: Protocol
    folder: RunFolder
    metadata: ckpt.CheckpointMetadata
    device: torch.device
    log: Log
    validate: Validate | None = None
    selection_set: DataSet | None = None
    watch: Validate | None = None
    pace: Pace = field(default_factory=Pace)
    deadline: float | None = None
    _at: Progress = field(default_factory=Progress)
    _restored: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.validate is None and self.protocol.selection != "last":
            raise ProtocolError("Selection on val needs a function that scores the val split.")
        self._stages = tuple(self.method.stages())

    def check(self) -> None:
        """Refuse what cannot be trained before anything is written.

        Raises:
            ConfigError: If the batch does not fit the training set or the processes, or nothing can be
                compiled where that is asked for.
        """
        if self.config.compile:
            check_compiler(self.device)
        distributed.share(self.config.batch_size, "training.batch_size")
        for number, stage in enumerate(self._stages):
            for stream in range(len(stage.samplings)):
                build_sampler(self.train_set, self.config, number, stage, stream)

    def start_from(self, weights: Mapping[str, Tensor], epochs_done: int, source: str) -> None:
        """Take the first stage from another run instead of training it.

        Args:
            weights: Of that run at the end of its first stage. Only the parts that the method begins
                with are taken; constants of its own options stay its own.
            epochs_done: Epochs that the other run spent on it.
            source: Where they come from, for messages.

        Raises:
            ConfigError: If the method has one stage only.
            CheckpointError: If a weight is missing or has another shape.
        """
        if len(self._stages) == 1:
            raise ConfigError(
                "from= replaces the first stage of a method, and with these options there is no other stage."
            )
        own = self.method.state_dict()
        trained = {name.split(".")[0] for name in self._stages[0].trainable}
        parts = tuple(f"{name}." for name in self.method.begins_with or trained)
        first = {name for name in {*own, *weights} if not parts or f"{name}.".startswith(parts)}
        taken = {name: weights[name] for name in first if name in own and name in weights}
        kept = {name: own[name] for name in own if name not in first}
        ckpt.load_weights(self.method, {**taken, **kept}, source)
        self._at = Progress(stage=1, epochs_done=epochs_done)

    def run(self, *, resume: bool = False) -> None:
        """Train all stages, or what is left of them.

        Raises:
            TrainingError: At the first loss that is not finite.
            CheckpointError: If a checkpoint cannot be written or read.
        """
        self.check()
        if resume:
            self._restore()
        for number in range(self._at.stage, len(self._stages)):
            self._run_stage(number, self._stages[number])
        self.log.close()

    # --- one stage ----------------------------------------------------------------------------

    def _run_stage(self, number: int, stage: Stage) -> None:
        # prepare_stage re-initialises parts; after a resume the checkpoint's weights come on top
        weights = self._restored.pop("weights", None)
        prepare_stage(self.method, stage, self.config.seed, number)
        if weights is not None:
            ckpt.load_weights(self.method, weights, str(self.folder.checkpoints))
        if stage.kind == "train":
            self._train_stage(number, stage)
        else:
            self._fit(stage)
        at = self._at
        self._at = Progress(number + 1, 0, at.epochs_done, at.lines, selected=at.selected)
        if number + 1 < len(self._stages):
            self._require_time(0.0)  # how long the next stage takes is not known yet

    def _fit(self, stage: Stage) -> None:
        """Run a stage without steps, which may look at every image of a split once."""
        data, split = self._selecting() if stage.kind == "select" else (self.train_set, "train")
        self.log.note(f"stage {stage.name}: fitted on {split}")
        begin = time.perf_counter()
        seed = derive_seed(self.config.seed, "fit", self._at.stage)
        facts = self._show_everything(stage, data, split, seed)
        line = {
            "stage": stage.name,
            "epochs_done": self._at.epochs_done,
            "seconds": round(time.perf_counter() - begin, 3),
            **facts,
        }
        self._write_line(line)
        self._save(stage, {}, self.method, finished=True)

    def _show_everything(self, stage: Stage, data: DataSet, split: str, seed: int) -> Facts:
        """Hand every image of a split to the method, as it is, and return what it found out."""
        self.method.eval()
        kept = seen_as_published(self._stages, self._at.stage)
        parts = (self.method, stage, data, self.config, self.device, self.log.note)
        with seeded(seed), uncompiled(self.config):  # a stage may draw fresh weights
            return self.method.fit(stage, everything(*parts, kept=kept), split)

    def _selecting(self) -> tuple[DataSet, str]:
        """Return the images that may choose something, and of which split they are."""
        if self.selection_set is None:
            return self.train_set, "train"
        self.protocol.may_select_on("val")
        return self.selection_set, "val"

    def _survey(self, stage: Stage, epoch: int) -> Facts:
        """Show the method every training image before an epoch, class by class, or every image of val."""
        seed = derive_seed(self.config.seed, "survey", self._at.stage, epoch)
        if stage.survey == "val":
            return self._show_everything(stage, *self._selecting(), seed)
        by_class = np.argsort(self.train_set.manifest.labels, kind="stable")
        return self._show_everything(stage, self.train_set.take(by_class), "train", seed)

    def _write_line(self, line: dict[str, Any]) -> None:
        self._at.lines += 1
        if distributed.is_main():
            self.folder.append_metrics(line)

    def _train_stage(self, number: int, stage: Stage) -> None:
        optimizer = build_optimizer(self.method, stage, self.config)
        average = Averaging(self.method, stage, self.config, number)
        if "optimizer" in self._restored:
            optimizer.load_state_dict(self._restored.pop("optimizer"))
            average.restore(self._restored)
        self.protocol.may_train_on("train")
        loaders = self._loaders(number, stage)
        step = StepFunction(self.method, self.config, self.device)
        self._say_how_long(number, stage, loaders, step)
        self.log.stage(stage.name, stage.epochs, self._at.epoch, loaders[0].steps)
        begun, saved = self._at.epoch, time.monotonic()
        for epoch in range(begun, stage.epochs):
            rate = rate_in_stage(self.config, stage, epoch)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["factor"]
            line = {"stage": stage.name, "learning_rate": rate}
            if stage.survey:
                line |= self._survey(stage, epoch)
            line |= self._epoch(number, stage, epoch, loaders, step, optimizer, average)
            if epoch == begun and step.compile_seconds is not None:
                line["compile_seconds"] = round(step.compile_seconds, 1)
                self.log.note(f"compiled in {step.compile_seconds:.0f} s, including the first step")
            self._at.epoch, self._at.epochs_done = epoch + 1, self._at.epochs_done + 1
            average.after_epoch(epoch)
            last_epoch = epoch + 1 == stage.epochs
            if last_epoch or self.validate is not None or self.watch is not None:
                average.measure(epoch, loaders[0])
            predictor = average.predictor(epoch)
            improved = self._score(stage, line, predictor)
            if self.watch is not None:
                line |= self._scores(self.watch, predictor, "test", stage.features)
            finished = last_epoch or self._at.stopped
            self._write_line(line)
            self.log.epoch(line)
            if improved:
                self._save(stage, {}, predictor, name=ckpt.best_name(self._at.epochs_done))
            trained = self._take(stage, predictor) if finished else self._at.epoch
            # what a resumed stage computes again first, its features, takes longer than many of its epochs
            due = stage.features is None or time.monotonic() - saved > SECONDS_BETWEEN_CHECKPOINTS
            if finished or (due and (epoch + 1) % self.config.checkpoint_every == 0):
                state = {"optimizer": optimizer.state_dict()} | average.state()
                self._save(stage, state, self.method, finished=finished, trained=trained)
                last, saved = saved, time.monotonic()
                if not finished:
                    self._require_time(saved - last)
            if finished:
                if not last_epoch:
                    self.log.note(
                        f"stage {stage.name}: stopped after epoch {epoch + 1} of {stage.epochs}, because val "
                        f"did not improve for {counted(self._at.since_best, 'epoch', 'epochs')}"
                    )
                break

    def _say_how_long(
        self, number: int, stage: Stage, loaders: Sequence[Loader], step: StepFunction
    ) -> None:
        """Measure steps before the first one that counts, where there are many."""
        ahead = sum(later.epochs for later in self._stages[number:]) - self._at.epoch
        scored = {"val": self.validate, "test": self.watch}
        named = " and ".join(split for split, measure in scored.items() if measure is not None)
        self.pace.begin(ahead * loaders[0].steps, named)
        if self.pace.is_told or stage.survey or ahead * loaders[0].steps < trial.WORTH_IT:
            return
        at = Position(self.config.seed, number, self._at.epoch, 0, stage.epochs)
        parts = (self.method, stage, loaders, step, self.config, at)
        self.pace.foretell(trial.seconds_per_step(*parts))

    def _loaders(self, number: int, stage: Stage) -> list[Loader]:
        parts = (self.train_set, self.config, number, stage, self.method)
        if stage.features is None:
            return build_loaders(*parts, self.device, self.log.note)
        images = len(self.train_set.manifest)
        self.log.note(
            f"stage {stage.name}: features of {counted(images, 'image', 'images')}, computed once"
        )
        begin = time.perf_counter()
        kept = seen_as_published(self._stages, number)
        loaders = build_loaders(*parts, self.device, self.log.note, kept=kept)
        for measure in (self.validate, self.watch):  # each keeps the features of its split
            if measure is not None:
                measure(self.method, stage.features)
        seconds = round(time.perf_counter() - begin, 3)
        done = self._at.epochs_done
        if self._at.epoch == 0:  # a resumed stage has its line already
            self._write_line(
                {"stage": stage.name, "epochs_done": done, "seconds": seconds, "features": images}
            )
        return loaders

    # --- one epoch ----------------------------------------------------------------------------

    def _epoch(
        self,
        number: int,
        stage: Stage,
        epoch: int,
        loaders: Sequence[Loader],
        step_function: StepFunction,
        optimizer: torch.optim.Optimizer,
        average: Averaging,
    ) -> dict[str, Any]:
        training_mode(self.method, stage)
        seed, steps = self.config.seed, loaders[0].steps
        losses = torch.zeros(steps, device=self.device)
        scalars: dict[str, Tensor] = {}
        rate = max(float(group["lr"]) for group in optimizer.param_groups)
        begin = time.perf_counter()
        self.pace.epoch()
        streams = zip(*(loader.epoch(epoch) for loader in loaders), strict=True)
        # dropout inside a backbone draws from the global generator
        with seeded(derive_seed(seed, "step", number, epoch, distributed.rank())):
            for step, batches in enumerate(streams):
                at = Position(seed, number, epoch, step, stage.epochs)
                out = step_function(batches, at, optimizer)
                average.after_step()
                self.method.after_step(out, at)
                losses[step] = out.loss.detach()
                for name, value in out.scalars.items():
                    scalars[name] = scalars.get(name, 0) + value.detach() / steps
                done = step + 1
                speed = done * self.config.batch_size / (time.perf_counter() - begin)
                self.pace.step()
                self.log.step(step, lambda: float(losses[: step + 1].mean()), rate, speed)  # noqa: B023
                if done % STEPS_BETWEEN_CHECKS == 0 or done == steps:
                    require_finite_losses(losses[:done], loaders, self.folder, number, epoch)
        self.pace.tell()
        loss = float(distributed.mean(losses).mean())
        seconds = time.perf_counter() - begin
        return {
            "epoch": epoch + 1,
            "epochs_done": self._at.epochs_done + 1,
            "loss": loss,
            "seconds": round(seconds, 3),
            "images_per_second": round(steps * self.config.batch_size / seconds, 1),
            **{name: float(value) for name, value in scalars.items()},
        }

    # --- selection, checkpoints ---------------------------------------------------------------

    def _score(self, stage: Stage, line: dict[str, Any], predictor: nn.Module) -> bool:
        """Add val scores to the line; say whether this is the best epoch so far."""
        if self.validate is None:
            return False
        self.protocol.may_select_on("val")
        line |= self._scores(self.validate, predictor, "val", stage.features)
        if self.protocol.selection == "last" or stage.whole:
            return False
        if line["val_macro_accuracy"] > self._at.best:  # the earliest epoch wins ties
            self._at.best, self._at.since_best = line["val_macro_accuracy"], 0
            return True
        self._at.since_best += 1
        patience = self.config.early_stopping
        self._at.stopped = patience is not None and self._at.since_best >= patience
        return False

    def _scores(
        self, measure: Validate, predictor: nn.Module, split: str, features: str | None
    ) -> dict[str, float]:
        with uncompiled(self.config):
            found = measure(predictor, features)
        return {f"{split}_{name}": value for name, value in found.items()}

    def _take(self, stage: Stage, predictor: Method) -> int:
        """Give the method the weights that the stage ends with, and return how many epochs they saw."""
        if predictor is not self.method:
            self.method.load_state_dict(predictor.state_dict())
        if self.protocol.selection == "best-validation" and not stage.whole:
            best = ckpt.best(self.folder.checkpoints)
            ckpt.load_weights(self.method, ckpt.read_weights(best), str(best))
            metadata = ckpt.read_metadata(best)
            self._at.selected = metadata.epochs_done
            return metadata.epoch
        return self._at.epoch

    def _save(
        self,
        stage: Stage,
        state: dict[str, Any],
        predictor: nn.Module,
        *,
        finished: bool = False,
        name: str | None = None,
        trained: int | None = None,
    ) -> None:
        if not distributed.is_main():
            distributed.barrier()
            return
        at = self._at
        last = max(0, (at.epoch if trained is None else trained) - 1)
        ended = Position(self.config.seed, at.stage, last, 0, stage.epochs)
        metadata = self.metadata.model_copy(
            update={
                "assumed_prior": written(self.method.assumed_prior(ended)),
                "stage": at.stage,
                "epoch": at.epoch,
                "epochs_done": at.epochs_done,
                "selected_epoch": at.selected,
                "finished": finished and at.stage == len(self._stages) - 1,
                "metrics_sha256": self.folder.metrics_checksum(),
            }
        )
        name = name or ckpt.checkpoint_name(at.stage, at.epoch, finished=finished)
        state = state | at.as_state(end_of_stage=finished)
        ckpt.save_checkpoint(self.folder.checkpoints, name, metadata, predictor.state_dict(), state)
        ckpt.drop_old(self.folder.checkpoints)
        distributed.barrier()

    def _require_time(self, seconds: float) -> None:
        """Stop after a checkpoint if the next one, so many seconds away, would be too late."""
        if self.deadline is None:
            return
        if distributed.broadcast(time.monotonic() + seconds > self.deadline):
            self.log.close()
            raise OutOfTimeError(f"stopped in time, after epoch {self._at.epochs_done}")

    def _restore(self) -> None:
        found = ckpt.newest(self.folder.checkpoints)
        if found is None:
            self.folder.keep_metrics(0)
            return
        metadata, state = ckpt.read_metadata(found), ckpt.read_state(found)
        ckpt.check_continues(found, metadata, self.metadata)
        lines = int(state.pop("lines", metadata.epochs_done))
        if distributed.is_main():
            self.folder.keep_metrics(lines, metadata.metrics_sha256)
            remove_leftovers(self.folder.checkpoints)
        distributed.barrier()
        ended = bool(state.pop("end_of_stage"))
        self._at = Progress(
            metadata.stage + 1 if ended else metadata.stage,
            0 if ended else metadata.epoch,
            metadata.epochs_done,
            lines,
            -1.0 if ended else float(state.pop("best")),
            state.pop("selected", None),
            0 if ended else int(state.pop("since_best")),
        )
        weights = ckpt.read_weights(found)
        ckpt.load_weights(self.method, weights, str(found))
        if not ended:
            self._restored = {"weights": weights, **state}
        self.log.note(f"Continuing after epoch {metadata.epochs_done} ({found.name}).")
