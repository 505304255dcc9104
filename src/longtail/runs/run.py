"""A run folder, opened: what it was trained with, what it ended with, how it was scored."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from longtail.core.errors import CheckpointError, ConfigError, DataError, ProtocolError
from longtail.core.names import shown
from longtail.core.paths import expanded
from longtail.data import Progress, open_data
from longtail.data.data_set import DataSet
from longtail.data.splits.split_file import DIGEST, compare, read_split
from longtail.engine import checkpoint as ckpt
from longtail.engine.checkpoint import CheckpointMetadata
from longtail.engine.checksums import checksum_of_text, read_bytes, read_json
from longtail.engine.identity import OLD, Identity, images_differ, require_own
from longtail.engine.run_folder import RunFolder
from longtail.evaluation.scores import require_scores
from longtail.recipes import RunConfig, validate_stored
from longtail.recipes.plugins import require_plugins

# where things lie and how fast they are read; nothing that a training learns from
MOVABLE = frozenset({
    "data.path", "data.root", "data.lists", "data.cache", "data.download", "training.workers",
    "training.tracker",
})  # fmt: skip


@dataclass(frozen=True)
class Run:
    """A run folder that was trained.

    Attributes:
        folder: Where everything is.
        config: Fully resolved.
        identity: What the run was when it began; None for one that an earlier version began.
    """

    folder: RunFolder
    config: RunConfig = field(repr=False)
    identity: Identity | None = field(default=None, repr=False)

    @classmethod
    def open(cls, path: Path | str) -> Run:
        """Open a run folder, and compare the files that were written when the run began with their checksums.

        Raises:
            ConfigError: If it is none, or its configuration was edited.
            CheckpointError: If another file was changed.
        """
        folder = RunFolder(expanded(path))
        folder.require()
        identity = folder.identity()
        try:
            raw = yaml.safe_load(read_bytes(folder.config).decode("utf-8"))
        except (ValueError, RecursionError, yaml.YAMLError) as error:
            mark = getattr(error, "problem_mark", None)
            line = "" if mark is None else f" at line {mark.line + 1}"
            raise ConfigError(
                f"{folder.config} is damaged: it is no YAML{line}. Restore it from a copy of the run "
                "folder; without one, train again with another --out."
            ) from error
        require_plugins(_plugins(folder), folder.path)
        config = validate_stored(raw, str(folder.config))
        if identity is not None:
            _require_config(folder, config, identity)
            for file in (folder.environment, folder.split, folder.skipped):
                if file.exists():
                    identity.require_unchanged(file)
        return cls(folder, config, identity)

    @classmethod
    def of(cls, run: Run | Path | str) -> Run:
        """Return a run, opened if its folder is named; see `open`."""
        return run if isinstance(run, Run) else cls.open(run)

    @classmethod
    def all_of(cls, runs: Run | Path | str | Sequence[Run | Path | str]) -> list[Run]:
        """Return one run or several, opened where their folders are named; see `open`."""
        several = [runs] if isinstance(runs, Run | Path | str) else runs
        return [cls.of(run) for run in several]

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know about the folder."""
        return () if self.identity is not None else (OLD,)

    def checkpoint(self, stage: int | None = None) -> tuple[Path, CheckpointMetadata]:
        """Return a checkpoint of this run and its description.

        Args:
            stage: The end of this stage (from 0); the end of the run if not given.

        Raises:
            CheckpointError: If the run is not finished, or the checkpoint is damaged or of another run.
        """
        found = ckpt.finished(self.folder.checkpoints)
        if stage is not None:
            found = self.folder.checkpoints / ckpt.checkpoint_name(stage, 0, finished=True)
        metadata = ckpt.read_metadata(found)
        require_own(found, metadata.run, self.identity)
        return found, metadata

    def open_data(self, progress: Progress = lambda done, size: None) -> DataSet:
        """Open the run's images, split as they were when its training began.

        Args:
            progress: Called while files are checked.

        Raises:
            DataError: In words, if anything about the data is wrong.
            ProtocolError: If images that the run was trained on would be val or test.
        """
        self._require_place()
        workers = self.config.training.workers
        kept = self.kept_split()
        drawn = kept if self.identity is None or self.identity.drawn_split else None
        data = open_data(self.config.data, workers=workers, progress=progress, kept=drawn)
        if kept is not None and DIGEST in kept.columns:
            return replace(data, notes=(*data.notes, *compare(data, kept)))
        if kept is None and self.folder.config.exists():
            return replace(data, notes=(*data.notes, *self._compare(data)))
        return data

    def _require_place(self) -> None:
        path = getattr(self.config.data, "path", None)
        if path is None or not self.folder.config.exists():
            return
        try:
            there = expanded(path).exists()
        except OSError:  # whoever opens it says why
            there = True
        if not there:
            raise DataError(
                f"The images of {shown(str(self.folder.path))} were in {shown(str(path))}, which is not "
                "there any more. If they have moved, say where they are now: longtail train NEW-PLACE "
                f"--resume --out {shlex.quote(str(self.folder.path))}"
            )

    def kept_split(self) -> pd.DataFrame | None:
        """Return the images of this run with their splits; None where they are in one array.

        Raises:
            ProtocolError: If the file that says it is gone.
        """
        if not self.folder.config.exists():
            return None
        if self.folder.split.exists():
            return read_split(self.folder.split)
        if self.identity is not None and self.folder.split.name in self.identity.files:
            raise ProtocolError(
                f"{self.folder.split} is missing. Only this file says which images the run was trained on, "
                "so none can be scored as test. Restore it."
            )
        return None

    def _compare(self, data: DataSet) -> tuple[str, ...]:
        """Hold data without a table of its images against what the run knows of it."""
        newest = ckpt.newest(self.folder.checkpoints)
        trained_on = ckpt.read_metadata(newest).train_checksum if newest is not None else ""
        train = data.manifest.take(data.manifest.rows("train"))
        if trained_on and train.checksum() != trained_on:
            raise ProtocolError(
                f"The train split differs from the one that {self.folder.path} was trained on, so val or "
                "test may now contain images that it was trained on. Restore the data and the split."
            )
        if self.identity is None:
            return ()
        now = data.contents()
        if images_differ(self.identity.images, now, "train"):
            raise ProtocolError(
                f"The training images differ from those that {self.folder.path} was trained on. Restore them."
            )
        return tuple(
            f"The content of the images of {split} has changed since the run started."
            for split in now
            if images_differ(self.identity.images, now, split)
        )

    def scores(self, split: str) -> dict[str, Any]:
        """Return the scores on `split`.

        Raises:
            DataError: If the split was not evaluated yet, or the file holds something else.
            CheckpointError: If the file is damaged or of another run.
        """
        path = self.folder.scores(split)
        if not path.exists():
            raise DataError(f"{path} does not exist: run longtail evaluate {self.folder.path}.")
        try:
            content = read_json(path, needs_seal=self.identity is not None)
            require_scores(content, str(path))
            require_own(path, str(content.get("run", "")), self.identity)
        except (CheckpointError, DataError) as error:
            again = f"To write it again: longtail evaluate {self.folder.path} --split {split}."
            raise type(error)(f"{error} {again}") from error
        return content

    def environment(self) -> dict[str, Any]:
        """Return what the run was computed with, and the command.

        Raises:
            CheckpointError: If the file is missing, damaged or holds something else.
        """
        path = self.folder.environment
        content = read_json(path, needs_seal=self.identity is not None)
        if self.identity is not None:
            self.identity.require_unchanged(path)
        kinds = {"command": str, "started": str, "hardware": dict, "versions": dict}
        if not all(isinstance(content.get(key), kind) for key, kind in kinds.items()):
            raise CheckpointError(f"{path} does not say what the run was computed with.")
        return content

    def lines(self) -> list[dict[str, Any]]:
        """Return the epochs and fits of a finished run, as `metrics.jsonl` has them.

        Raises:
            CheckpointError: If they are not those that the run ended with.
        """
        metadata, path = self.checkpoint()[1], self.folder.metrics
        if metadata.metrics_sha256 and self.folder.metrics_checksum() != metadata.metrics_sha256:
            raise CheckpointError(f"{path} was changed after the run ended, or it is damaged.")
        lines = self.folder.read_metrics()
        numbers = ("epochs_done", "seconds", "loss", "learning_rate", "images_per_second")
        for number, line in enumerate(lines, start=1):
            missing = {"stage", "epochs_done", "seconds"} - set(line)
            wrong = [k for k in numbers if not isinstance(line.get(k, 0), int | float)]
            if missing or wrong:
                raise CheckpointError(
                    f"Line {number} of {path} does not describe an epoch of a training."
                )
        return lines

    def evaluated_splits(self) -> list[str]:
        """Return the splits that have scores, test first."""
        return [split for split in ("test", "val") if self.folder.scores(split).exists()]


def differing(one: RunConfig, other: RunConfig) -> list[str]:
    """Return the options, dotted, in which two configurations differ; names for people aside."""
    old, new = one.model_dump(mode="json"), other.model_dump(mode="json")
    return [
        f"{part}.{key}"
        for part in ("data", "model", "method", "training")
        for key in sorted({*old[part], *new[part]})
        if old[part].get(key) != new[part].get(key)
    ]


def _plugins(folder: RunFolder) -> Any:  # noqa: ANN401 - as read from a file
    """Return what a run says of its plug-ins; a file that cannot be read is reported by who needs it."""
    try:
        return read_json(folder.environment).get("plugins")
    except CheckpointError:
        return None


def _require_config(folder: RunFolder, config: RunConfig, identity: Identity) -> None:
    known = identity.files.get(folder.config.name)
    if checksum_of_text(folder.config, read_bytes(folder.config)) == known:
        return
    trained = validate_stored(identity.config, str(folder.run))
    edited = [key for key in differing(trained, config) if key not in MOVABLE]
    edited += ["from"] if trained.start != config.start else []
    if edited:
        raise ConfigError(
            f"{folder.config} was edited after the run started: {', '.join(edited)}. Restore the "
            f"values in {folder.run.name}, or start a new run; only the location of the data may "
            "change."
        )
