"""The run folder: what a training leaves and everything else reads."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from longtail.core.errors import CheckpointError, ConfigError


def require_writable(path: Path) -> None:
    """Refuse a file that cannot be written, before work that would be lost; nothing is made.

    Raises:
        CheckpointError: In words, if its folder cannot be made or written, or the file is a folder.
    """
    try:
        nearest = next(parent for parent in path.absolute().parents if parent.exists())
        wrong = (
            errno.EISDIR if path.is_dir()
            else errno.ENOTDIR if not nearest.is_dir()
            else errno.EACCES if not os.access(nearest, os.W_OK | os.X_OK)
            else 0
        )  # fmt: skip
        if wrong:
            raise OSError(wrong, os.strerror(wrong))
    except OSError as error:
        raise _unwritten(path, error) from error


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces `path` when the block succeeds, else vanishes; makes its folder.

    Raises:
        CheckpointError: In words, if the disk is full or the folder cannot be written.
    """
    require_writable(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        flush(temporary)
        temporary.replace(path)
    except OSError as error:
        raise _unwritten(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def _unwritten(path: Path, error: OSError) -> CheckpointError:
    return CheckpointError(
        f"{path} cannot be written ({error.strerror or error}). Free some space or write "
        "somewhere else; files that were complete before are untouched."
    )


def flush(path: Path) -> None:
    """Wait until the bytes of a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class RunFolder:
    """Layout of one run.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.environment = path / "environment.json"
        self.metrics = path / "metrics.jsonl"
        self.checkpoints = path / "checkpoints"
        self.skipped = path / "skipped-pictures.csv"
        self.split = path / "split.csv"

    def predictions(self, split: str) -> Path:
        """Return the file of the predictions on `split`."""
        return self.path / f"predictions-{split}.parquet"

    def scores(self, split: str) -> Path:
        """Return the file of the scores on `split`."""
        return self.path / f"scores-{split}.json"

    def create(self) -> None:
        """Make the folder.

        Raises:
            ConfigError: If it holds a run already, which is never overwritten.
            CheckpointError: If it cannot be made.
        """
        if self.config.exists():
            raise ConfigError(
                f"{self.path} holds a run already. Continue it with --resume, or choose another "
                "folder with --out."
            )
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(
                f"The run folder {self.path} cannot be made ({error.strerror or error}). Choose "
                "another with --out."
            ) from error

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes from training this run; the system lets go when a process dies.

        Raises:
            CheckpointError: If another process has it, or the folder cannot be written.
        """
        lock = FileLock(self.path / ".lock", timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise CheckpointError(
                f"{self.path} is being trained by another process. Wait until it ends, or stop it first."
            ) from error
        except OSError as error:
            raise CheckpointError(
                f"The run folder {self.path} cannot be written ({error.strerror or error})."
            ) from error
        except NotImplementedError:
            pass  # a file system without locks
        try:
            yield
        finally:
            lock.release()

    def require(self) -> None:
        """Refuse a folder that holds no run."""
        if not self.config.exists():
            raise ConfigError(f"{self.path} is no run folder: it has no config.yaml.")

    def write_yaml(self, content: Mapping[str, Any]) -> None:
        """Write the resolved configuration."""
        with writing(self.config) as file:
            file.write_text(yaml.safe_dump(dict(content), sort_keys=False), encoding="utf-8")

    def write_json(self, path: Path, content: Mapping[str, Any]) -> None:
        """Write one JSON file of the run."""
        with writing(path) as file:
            file.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")

    def append_metrics(self, line: Mapping[str, Any]) -> None:
        """Add one epoch to `metrics.jsonl`, the only truth of what happened.

        Raises:
            CheckpointError: If it cannot be written.
        """
        try:
            with self.metrics.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(line) + "\n")
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise CheckpointError(
                f"{self.metrics} cannot be written ({error.strerror or error}); the last "
                "checkpoint is untouched. Free some space and go on with --resume."
            ) from error

    def read_metrics(self) -> list[dict[str, Any]]:
        """Return the complete lines of `metrics.jsonl`."""
        if not self.metrics.exists():
            return []
        lines = self.metrics.read_text(encoding="utf-8").split("\n")[:-1]  # a cut line is dropped
        return [json.loads(line) for line in lines if line]

    def keep_metrics(self, count: int) -> None:
        """Forget all but the first `count` epochs: they come again after a resume."""
        lines = self.read_metrics()[:count]
        with writing(self.metrics) as file:
            file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
