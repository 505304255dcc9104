"""The training loop: runs any method, knows none by name."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from longtail.core import distributed
from longtail.core.batch import Position
from longtail.core.errors import ConfigError, ProtocolError, TrainingError
from longtail.core.protocol import Protocol
from longtail.core.rng import derive_seed
from longtail.core.stage import Stage
from longtail.core.words import counted
from longtail.data.loader import Loader, evaluation_batches
from longtail.data.pictures import DataSet
from longtail.engine import checkpoint as ckpt
from longtail.engine.config import TrainingConfig
from longtail.engine.log import Log
from longtail.engine.optimisation import build_optimizer, prepare_stage, seeded, training_mode
from longtail.engine.run_folder import RunFolder
from longtail.engine.schedule import learning_rate
from longtail.engine.step import StepFunction, check_compiler, uncompiled
from longtail.engine.streams import build_loaders, build_sampler
from longtail.methods.method import Method

STEPS_BETWEEN_CHECKS = 100  # of the loss being finite; reading it makes the host wait
Validate = Callable[[nn.Module], dict[str, float]]


@dataclass
class _Progress:
    """What a resumed run must know besides weights and optimiser."""

    stage: int = 0
    epoch: int = 0
    epochs_done: int = 0
    lines: int = 0
    best: float = -1.0
    selected: int | None = None
    since_best: int = 0
    stopped: bool = False


@dataclass
class Trainer:
    """Trains one method and leaves a run folder.

    Attributes:
        method: On the device, freshly built.
        train_set: The train split; nothing else is visible to training.
        config: How to train.
        protocol: Which split selects.
        folder: Where checkpoints and metrics go.
        card: Description that every checkpoint gets.
        device: Where to compute.
        log: Where to report.
        validate: Scores of a model on val, or None without a validation split.
        selection_set: The val split, for stages that choose something; None without one.
        watch: Scores of a model on test, which are only written down, or None.
    """

    method: Method
    train_set: DataSet
    config: TrainingConfig
    protocol: Protocol
    folder: RunFolder
    card: ckpt.CheckpointCard
    device: torch.device
    log: Log
    validate: Validate | None = None
    selection_set: DataSet | None = None
    watch: Validate | None = None
    _at: _Progress = field(default_factory=_Progress)
    _restored: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.validate is None and self.protocol.selection != "last":
            raise ProtocolError("Selection on val needs a function that scores the val split.")
        self._stages = tuple(self.method.stages())

    def check(self) -> None:
        """Refuse what cannot be trained before anything is written.

        Raises:
            ConfigError: If the batch does not fit the training set or the processes, a stage needs a
                val split and there is none, or nothing can be compiled where that is asked for.
        """
        if self.config.compile:
            check_compiler(self.device)
        distributed.share(self.config.batch_size, "training.batch_size")
        for number, stage in enumerate(self._stages):
            if stage.kind == "held-out" and self.selection_set is None:
                raise ConfigError(
                    f"Stage {stage.name!r} is fitted on held-out pictures, and there is no val split. "
                    "Hold a part of train out with data.validation_per_class=5, or change the options "
                    "of the method."
                )
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
                "from= skips the first stage of a method, and with these options there is no other."
            )
        own = self.method.state_dict()
        trained = {name.split(".")[0] for name in self._stages[0].trainable}
        parts = tuple(f"{name}." for name in self.method.begins_with or trained)
        first = {name for name in {*own, *weights} if not parts or f"{name}.".startswith(parts)}
        taken = {name: weights[name] for name in first if name in own and name in weights}
        kept = {name: own[name] for name in own if name not in first}
        ckpt.load_weights(self.method, {**taken, **kept}, source)
        self._at = _Progress(stage=1, epochs_done=epochs_done)

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
        self._at = _Progress(number + 1, 0, at.epochs_done, at.lines, selected=at.selected)

    def _fit(self, stage: Stage) -> None:
        """Run a stage without steps, which may look at every picture of a split once."""
        data, split = self.train_set, "train"
        if stage.kind in ("select", "held-out") and self.selection_set is not None:
            self.protocol.may_select_on("val")
            data, split = self.selection_set, "val"
        self.log.note(f"stage {stage.name}: fitted on {split}")
        begin = time.perf_counter()
        self.method.eval()
        batches = evaluation_batches(
            data,
            device=self.device,
            workers=self.config.workers,
            everything=True,  # class means of a share of the pictures would differ by process
        )
        labels = torch.from_numpy(data.manifest.labels.copy())
        seed = derive_seed(self.config.seed, "fit", self._at.stage)
        with seeded(seed), uncompiled(self.config):  # a stage may draw fresh weights
            facts = self.method.fit(
                stage, ((x, labels[rows].to(self.device)) for x, rows in batches), split
            )
        line = {
            "stage": stage.name,
            "epochs_done": self._at.epochs_done,
            "seconds": round(time.perf_counter() - begin, 3),
            **facts,
        }
        self._write_line(line)
        self._save(stage, {}, self.method, finished=True)

    def _write_line(self, line: dict[str, Any]) -> None:
        self._at.lines += 1
        if distributed.is_main():
            self.folder.append_metrics(line)

    def _train_stage(self, number: int, stage: Stage) -> None:
        optimizer = build_optimizer(self.method, stage, self.config)
        ema = self._moving_average()
        if "optimizer" in self._restored:
            optimizer.load_state_dict(self._restored.pop("optimizer"))
            if ema is not None:
                ema.load_state_dict(self._restored.pop("ema"))
        self.protocol.may_train_on("train")
        loaders = self._loaders(number, stage)
        self.log.stage(stage.name, stage.epochs, self._at.epoch, loaders[0].steps)
        step = StepFunction(self.method, self.config, self.device)
        begun = self._at.epoch
        for epoch in range(begun, stage.epochs):
            rate = learning_rate(
                self.config,
                epoch,
                stage.epochs,
                peak=stage.learning_rate,
                schedule=stage.schedule,
                warmup=stage.warmup,
            )
            for group in optimizer.param_groups:
                group["lr"] = rate * group["factor"]
            line = {"stage": stage.name, "learning_rate": rate}
            line |= self._epoch(number, stage, epoch, loaders, step, optimizer, ema)
            if epoch == begun and step.compile_seconds is not None:
                line["compile_seconds"] = round(step.compile_seconds, 1)
                self.log.note(f"compiled in {step.compile_seconds:.0f} s, with the first step")
            self._at.epoch, self._at.epochs_done = epoch + 1, self._at.epochs_done + 1
            predictor: nn.Module = ema.module if ema is not None else self.method
            improved = self._score(stage, line, predictor, last=epoch + 1 == stage.epochs)
            if self.watch is not None:
                line |= self._scores(self.watch, predictor, "test")
            finished = epoch + 1 == stage.epochs or self._at.stopped
            self._write_line(line)
            self.log.epoch(line)
            if improved:
                self._save(stage, {}, predictor, name=ckpt.best_name(self._at.epochs_done))
            if finished:
                self._take(stage, ema)
            if finished or (epoch + 1) % self.config.checkpoint_every == 0:
                state = {"optimizer": optimizer.state_dict()}
                if ema is not None:
                    state["ema"] = ema.state_dict()
                self._save(stage, state, self.method, finished=finished)
            if finished:
                break

    def _loaders(self, number: int, stage: Stage) -> list[Loader]:
        parts = (
            self.train_set,
            self.config,
            number,
            stage,
            self.method,
            self.device,
            self.log.note,
        )
        if stage.features is None:
            return build_loaders(*parts)
        pictures = len(self.train_set.manifest)
        self.log.note(
            f"stage {stage.name}: features of {counted(pictures, 'picture', 'pictures')}, computed once"
        )
        begin = time.perf_counter()
        loaders = build_loaders(*parts)
        seconds = round(time.perf_counter() - begin, 3)
        done = self._at.epochs_done
        if self._at.epoch == 0:  # a resumed stage has its line already
            self._write_line(
                {"stage": stage.name, "epochs_done": done, "seconds": seconds, "features": pictures}
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
        ema: AveragedModel | None,
    ) -> dict[str, Any]:
        training_mode(self.method, stage)
        seed, steps = self.config.seed, loaders[0].steps
        losses = torch.zeros(steps, device=self.device)
        scalars: dict[str, Tensor] = {}
        rate = max(float(group["lr"]) for group in optimizer.param_groups)
        begin = time.perf_counter()
        streams = zip(*(loader.epoch(epoch) for loader in loaders), strict=True)
        # dropout inside a backbone draws from the global generator
        with seeded(derive_seed(seed, "step", number, epoch, distributed.rank())):
            for step, batches in enumerate(streams):
                at = Position(seed, number, epoch, step, stage.epochs)
                out = step_function(batches, at, optimizer)
                if ema is not None:
                    ema.update_parameters(self.method)
                self.method.after_step(out, at)
                losses[step] = out.loss.detach()
                for name, value in out.scalars.items():
                    scalars[name] = scalars.get(name, 0) + value.detach() / steps
                done = step + 1
                speed = done * self.config.batch_size / (time.perf_counter() - begin)
                self.log.step(step, lambda: float(losses[: step + 1].mean()), rate, speed)  # noqa: B023
                if done % STEPS_BETWEEN_CHECKS == 0 or done == steps:
                    self._require_finite(losses[:done], loaders, number, epoch)
        loss = float(distributed.mean(losses).mean())
        seconds = time.perf_counter() - begin
        return {
            "epoch": epoch + 1,
            "epochs_done": self._at.epochs_done + 1,
            "loss": loss,
            "seconds": round(seconds, 3),
            "pictures_per_second": round(steps * self.config.batch_size / seconds, 1),
            **{name: float(value) for name, value in scalars.items()},
        }

    def _require_finite(
        self, losses: Tensor, loaders: Sequence[Loader], number: int, epoch: int
    ) -> None:
        finite = torch.isfinite(distributed.mean(losses)).tolist()
        if all(finite):
            return
        step = finite.index(False)
        ids = sorted({i for loader in loaders for i in loader.ids_of(epoch, step)})
        if distributed.is_main():
            self.folder.write_json(
                self.folder.path / "non-finite-batch.json",
                {"stage": number, "epoch": epoch + 1, "step": step + 1, "picture_ids": ids},
            )
        raise TrainingError(
            f"The loss is not finite at step {step + 1} of epoch {epoch + 1} (pictures "
            f"{', '.join(map(str, ids[:8]))}, ...; all are in non-finite-batch.json). The last "
            "checkpoint is from before. Try a lower training.learning_rate, "
            "training.clip_norm=1 or training.precision=fp32, then --resume."
        )

    # --- selection, checkpoints ---------------------------------------------------------------

    def _score(
        self, stage: Stage, line: dict[str, Any], predictor: nn.Module, *, last: bool
    ) -> bool:
        """Add val scores to the line; say whether this is the best epoch so far."""
        if self.validate is None:
            return False
        if stage.features is not None and self.protocol.selection == "last" and not last:
            return False  # a pass over val costs more than many epochs on features
        self.protocol.may_select_on("val")
        line |= self._scores(self.validate, predictor, "val")
        if self.protocol.selection == "last" or stage.whole:
            return False
        if line["val_macro_accuracy"] > self._at.best:  # the earliest epoch wins ties
            self._at.best, self._at.since_best = line["val_macro_accuracy"], 0
            return True
        self._at.since_best += 1
        patience = self.config.early_stopping
        self._at.stopped = patience is not None and self._at.since_best >= patience
        return False

    def _scores(self, measure: Validate, predictor: nn.Module, split: str) -> dict[str, float]:
        with uncompiled(self.config):
            return {f"{split}_{name}": value for name, value in measure(predictor).items()}

    def _take(self, stage: Stage, ema: AveragedModel | None) -> None:
        """Give the method the weights that the stage ends with: those that the next stage sees."""
        if ema is not None:
            self.method.load_state_dict(ema.module.state_dict())
        if self.protocol.selection == "best-validation" and not stage.whole:
            best = ckpt.best(self.folder.checkpoints)
            self._at.selected = ckpt.read_card(best).epochs_done
            ckpt.load_weights(self.method, ckpt.read_weights(best), str(best))

    def _save(
        self,
        stage: Stage,
        state: dict[str, Any],
        predictor: nn.Module,
        *,
        finished: bool = False,
        name: str | None = None,
    ) -> None:
        if not distributed.is_main():
            distributed.barrier()
            return
        at = self._at
        card = self.card.model_copy(
            update={
                "stage": at.stage,
                "epoch": at.epoch,
                "epochs_done": at.epochs_done,
                "selected_epoch": at.selected,
                "finished": finished and at.stage == len(self._stages) - 1,
            }
        )
        name = name or ckpt.checkpoint_name(at.stage, at.epoch, finished=finished)
        progress = {
            "best": at.best,
            "lines": at.lines,
            "selected": at.selected,
            "since_best": at.since_best,
            "stopped": at.stopped,
            "end_of_stage": finished,
        }
        ckpt.save_checkpoint(
            self.folder.checkpoints, name, card, predictor.state_dict(), state | progress
        )
        ckpt.drop_old(self.folder.checkpoints)
        distributed.barrier()

    def _restore(self) -> None:
        found = ckpt.newest(self.folder.checkpoints)
        if found is None:
            self.folder.keep_metrics(0)
            return
        card, state = ckpt.read_card(found), ckpt.read_state(found)
        ckpt.check_continues(found, card, self.card)
        lines = int(state.pop("lines", card.epochs_done))
        if distributed.is_main():
            self.folder.keep_metrics(lines)
        distributed.barrier()
        ended = bool(state.pop("end_of_stage"))
        self._at = _Progress(
            card.stage + 1 if ended else card.stage,
            0 if ended else card.epoch,
            card.epochs_done,
            lines,
            -1.0 if ended else float(state.pop("best")),
            state.pop("selected", None),
            0 if ended else int(state.pop("since_best")),
        )
        weights = ckpt.read_weights(found)
        ckpt.load_weights(self.method, weights, str(found))
        if not ended:
            self._restored = {"weights": weights, **state}
        self.log.note(f"Continuing after epoch {card.epochs_done} ({found.name}).")

    def _moving_average(self) -> AveragedModel | None:
        if self.config.ema is None:
            return None
        return AveragedModel(
            self.method,
            multi_avg_fn=get_ema_multi_avg_fn(self.config.ema),  # type: ignore[no-untyped-call]
        )
