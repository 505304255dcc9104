"""The run folder: what a training leaves and everything else reads."""

from __future__ import annotations

import errno
import glob
import os
import re
import shutil
import socket
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from longtail.core.errors import CheckpointError, ConfigError
from longtail.core.missing import no_run
from longtail.engine.checksums import (
    checksum,
    checksum_of_text,
    json_text,
    parse_json,
    read_bytes,
    sealed,
    with_plain_ends,
)
from longtail.engine.identity import Identity, read_identity
from longtail.engine.own_folder import require_own_folder, why_no_run

# what is there before `config.yaml` if a process is killed, and the jobs that were submitted
BEFORE_THE_RUN = (
    "run.json", "environment.json", "skipped-images.csv", "split.csv", "checkpoints", "submitted",
)  # fmt: skip
SECONDS_OF_A_DAY = 86_400  # no file takes that long to write


def require_writable(path: Path) -> None:
    """Refuse a file that cannot be written, before work that would be lost; nothing stays there.

    Raises:
        CheckpointError: In words, if its folder cannot be made or written, or the file is a folder.
    """
    try:
        _try_to_make(path)
    except OSError as error:
        raise _unwritten(path, error) from error


def _try_to_make(path: Path) -> None:
    nearest = _nearest_folder(path)
    # permissions alone do not tell: root may write to /proc, where nothing can be made
    Path(tempfile.mkdtemp(prefix=".longtail-", dir=nearest)).rmdir()


def _nearest_folder(path: Path) -> Path:
    """Return the nearest folder above `path` that exists.

    Raises:
        OSError: If `path` is a folder, or the nearest is none or may not be written.
    """
    nearest = next(parent for parent in path.absolute().parents if parent.exists())
    wrong = (
        errno.EISDIR if path.is_dir()
        else errno.ENOTDIR if not nearest.is_dir()
        else errno.EACCES if not os.access(nearest, os.W_OK | os.X_OK)
        else 0
    )  # fmt: skip
    if wrong:
        raise OSError(wrong, os.strerror(wrong))
    return nearest


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces `path` when the block succeeds, else vanishes; makes its folder.

    Raises:
        CheckpointError: In words, if the disk is full or the folder cannot be written.
    """
    try:
        _nearest_folder(path)
    except OSError as error:
        raise _unwritten(path, error) from error
    with _replacing(path, lambda temporary: temporary.unlink(missing_ok=True)) as temporary:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary


@contextmanager
def _replacing(path: Path, remove: Callable[[Path], None]) -> Iterator[Path]:
    """Yield the temporary name of `path`; what is written there replaces it, and what is left is removed."""
    temporary = temporary_of(path)
    try:
        yield temporary
        flush(temporary)
        temporary.replace(path)
    except OSError as error:
        raise _unwritten(path, error) from error
    finally:
        remove(temporary)


def temporary_of(path: Path) -> Path:
    """Return the name under which this process writes `path` before it is complete."""
    return path.with_name(f".{path.name}.{_host()}-{os.getpid()}.tmp")


def remove_leftovers(folder: Path) -> None:
    """Remove what processes that were killed had begun to write in `folder`; others are left alone."""
    for path in folder.glob(".*.tmp"):
        try:
            if not _abandoned(path):
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        except OSError:
            continue  # a folder that may only be read


def _abandoned(path: Path) -> bool:
    if time.time() - path.lstat().st_mtime > SECONDS_OF_A_DAY:
        return True
    found = re.fullmatch(r"\..+\.(?:(?P<host>[^.]+)-)?(?P<process>\d+)\.tmp", path.name)
    # Windows would end a process that is asked whether it is alive
    if found is None or sys.platform == "win32" or found["host"] not in (None, _host()):
        return False
    try:
        os.kill(int(found["process"]), 0)
    except (ProcessLookupError, OverflowError):
        return True
    except OSError:
        return False  # another user's
    return False


def _host() -> str:
    return re.sub(r"\W", "-", socket.gethostname())


@contextmanager
def writing_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes `path` when the block succeeds, else vanishes.

    What earlier processes left of it when they were killed is removed.

    Args:
        path: The folder; missing or empty.

    Raises:
        CheckpointError: In words, if the disk is full or the folder cannot be written.
    """
    if not path.exists():
        require_writable(path)
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        if _abandoned(leftover):
            shutil.rmtree(leftover, ignore_errors=True)
    with _replacing(path, partial(shutil.rmtree, ignore_errors=True)) as temporary:
        temporary.mkdir(parents=True)
        yield temporary


def _unwritten(path: Path, error: OSError) -> CheckpointError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    what_to_do = "Free some space or write" if full else "Write"
    return CheckpointError(
        f"{path} cannot be written ({error.strerror or error}). {what_to_do} to another place; files that "
        "were already complete are untouched."
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
        self.run = path / "run.json"
        self.environment = path / "environment.json"
        self.metrics = path / "metrics.jsonl"
        self.checkpoints = path / "checkpoints"
        self.skipped = path / "skipped-images.csv"
        self.split = path / "split.csv"
        self.calibration = path / "calibration.safetensors"

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"

    def predictions(self, split: str) -> Path:
        """Return the file of the predictions on `split`."""
        return self.path / f"predictions-{split}.parquet"

    def scores(self, split: str) -> Path:
        """Return the file of the scores on `split`."""
        return self.path / f"scores-{split}.json"

    def require_free(self) -> None:
        """Refuse a folder that a new run may not have.

        Raises:
            ConfigError: If it already contains a run, which is never overwritten, remains of one, or
                other files.
            CheckpointError: If it cannot be made or written.
        """
        if self.config.exists():
            raise ConfigError(
                f"{self.path} already contains a run. Continue it with --resume, or choose another "
                "folder with --out."
            )
        self._require_own_files()
        remains = [self.metrics] if self.metrics.exists() else sorted(self.checkpoints.glob("*"))
        if remains:
            raise ConfigError(
                f"{self.path} contains {remains[0].relative_to(self.path)} of a run, but no config.yaml. "
                "Restore config.yaml to continue the run, or choose another folder with --out."
            )
        require_own_folder(self.path, BEFORE_THE_RUN, "Runs")
        try:
            _try_to_make(self.config)
        except OSError as error:
            raise self._not_created(error) from error

    def create(self) -> None:
        """Make the folder.

        Raises:
            ConfigError: As `require_free`.
            CheckpointError: If it cannot be made.
        """
        self.require_free()
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._not_created(error) from error

    def _not_created(self, error: OSError) -> CheckpointError:
        return CheckpointError(
            f"The run folder {self.path} cannot be created ({error.strerror or error}). Choose another one "
            "with --out."
        )

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
        """Refuse a folder that holds no run, or whose files lie elsewhere; clean up after killed processes.

        Raises:
            ConfigError: If it has no configuration.
            CheckpointError: If one of its files or folders is a link, a pipe or a device.
        """
        if not self.config.exists():
            if not self.path.exists():
                raise ConfigError(no_run(self.path))
            if (self.path / "ensemble.json").exists():
                raise ConfigError(
                    f"{self.path} is an ensemble, which only predict and export can use; for anything else, "
                    "name its runs."
                )
            raise ConfigError(f"{self.path} is not a run folder: {why_no_run(self.path)}")
        self._require_own_files()
        remove_leftovers(self.path)

    def _require_own_files(self) -> None:
        folders = [self.checkpoints, *self.checkpoints.glob("*")]
        files = [self.config, self.run, self.environment, self.metrics, self.skipped, self.split]
        files += [self.calibration]
        files += [self.path / ".lock", *self.checkpoints.glob("*/*")]
        files += [*self.path.glob("predictions-*.parquet"), *self.path.glob("scores-*.json")]
        for wanted, paths in ((stat.S_ISDIR, folders), (stat.S_ISREG, files)):
            for path in paths:
                try:
                    fine = wanted(path.lstat().st_mode)
                except (FileNotFoundError, NotADirectoryError):
                    continue
                except OSError as error:
                    raise CheckpointError(
                        f"{path} cannot be read ({error.strerror or error})."
                    ) from error
                if not fine:
                    kind = "folder" if wanted is stat.S_ISDIR else "file"
                    raise CheckpointError(
                        f"{path} is not a regular {kind}. A run folder must contain its own files, not "
                        f"links: put the {kind} itself there."
                    )

    def identity(self) -> Identity | None:
        """Return what the run is, None if an earlier version began it."""
        return read_identity(self.run)

    def write_config(self, config: Mapping[str, Any], of: Identity | None) -> Identity | None:
        """Write down what the run is, then the configuration, which makes the folder a run.

        Args:
            config: Resolved.
            of: Describes the data; None if `run.json` stays as it is, or the run stems from one without it.

        Returns:
            What the run is, if `of` is given.
        """
        text = yaml.safe_dump(dict(config), sort_keys=False).encode()
        identity = None
        if of is not None:
            begun = [p for p in (self.environment, self.skipped, self.split) if p.exists()]
            files = {path.name: checksum_of_text(path, read_bytes(path)) for path in begun}
            files[self.config.name] = checksum_of_text(self.config, text)
            identity = of.model_copy(update={"config": dict(config), "files": files})
            self.write_json(self.run, identity.sealed())
        with writing(self.config) as file:
            file.write_bytes(text)
        return identity

    def write_json(self, path: Path, content: Mapping[str, Any]) -> None:
        """Write one JSON file of the run, with its checksum; numbers that are not finite become null."""
        with writing(path) as file:
            file.write_text(json_text(sealed(content), indent=1) + "\n", encoding="utf-8")

    def append_metrics(self, line: Mapping[str, Any]) -> None:
        """Add one epoch to `metrics.jsonl`, the only truth of what happened.

        Raises:
            CheckpointError: If it cannot be written.
        """
        try:
            with self.metrics.open("a", encoding="utf-8") as stream:
                stream.write(json_text(line) + "\n")
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise CheckpointError(
                f"{self.metrics} cannot be written ({error.strerror or error}); the last checkpoint is "
                "untouched. Free some space and continue with --resume."
            ) from error

    def read_metrics(self) -> list[dict[str, Any]]:
        """Return the complete lines of `metrics.jsonl`.

        Raises:
            CheckpointError: If one of them is no JSON object.
        """
        return [
            parse_json(line, f"Line {number} of {self.metrics}")
            for number, line in enumerate(self._metric_lines(), start=1)
        ]

    def metrics_checksum(self) -> str:
        """Return the SHA-256 of the complete lines of `metrics.jsonl`."""
        return checksum(b"".join(self._metric_lines()))

    def keep_metrics(self, count: int, expected: str = "") -> None:
        """Forget all but the first `count` epochs: they come again after a resume.

        Args:
            count: Of lines.
            expected: Checksum of these lines; not compared if empty.

        Raises:
            CheckpointError: If they are others.
        """
        kept = b"".join(self._metric_lines()[:count])
        if expected and checksum(kept) != expected:
            raise CheckpointError(
                f"{self.metrics} was changed after it was written, or it is damaged."
            )
        with writing(self.metrics) as file:
            file.write_bytes(kept)

    def _metric_lines(self) -> list[bytes]:
        if not self.metrics.exists():
            return []
        # a cut line is dropped
        return re.findall(rb"[^\n]*\n", with_plain_ends(read_bytes(self.metrics)))
