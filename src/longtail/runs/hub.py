"""Models of the Hugging Face hub: a run folder without its training state, fetched once per commit.

Only configuration, JSON and safetensors are fetched, so nothing that is loaded is code or a pickle.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path

from longtail.core.errors import ConfigError, LongtailError
from longtail.core.paths import cache_folder
from longtail.core.words import shortened
from longtail.engine.checkpoint import METADATA, WEIGHTS
from longtail.engine.run_folder import writing_folder

PREFIX = "hf-hub:"
CONFIG = "config.yaml"
# what a model on the hub consists of, beside its card
FILES = (
    CONFIG, "run.json", "calibration.safetensors", "scores-*.json",
    f"checkpoints/*/{WEIGHTS}", f"checkpoints/*/{METADATA}",
)  # fmt: skip
NAME = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


def local(run: Path | str) -> Path:
    """Return the folder of a run: its own path, or that of a model fetched from the hub.

    Args:
        run: A folder, or `hf-hub:owner/name`, with `@revision` for a branch, tag or commit.

    Raises:
        LongtailError: In words, if the model cannot be fetched or is none of longtail.
    """
    text = run.as_posix() if isinstance(run, Path) else run
    if not text.startswith(PREFIX):
        return Path(run)
    name, _, revision = text.removeprefix(PREFIX).partition("@")
    require_name(name)
    snapshot = _fetched(name, revision or None)
    if not (snapshot / CONFIG).is_file():
        raise LongtailError(
            f"{name} on the Hugging Face hub is no model that longtail push wrote: it has no {CONFIG}."
        )
    cache = cache_folder() or Path(tempfile.mkdtemp())
    folder = cache / "hub" / name.replace("/", "--") / snapshot.name
    if not folder.exists():
        # a run folder contains its own files; the hub's cache contains links to them
        with writing_folder(folder) as target:
            for pattern in FILES:
                for file in snapshot.glob(pattern):
                    place = target / file.relative_to(snapshot)
                    place.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(file, place)
    return folder


def require_name(name: str) -> None:
    """Refuse what cannot be a repository of the hub.

    Raises:
        ConfigError: Saying what it must be.
    """
    if not NAME.fullmatch(name):
        raise ConfigError(f"A model on the Hugging Face hub is named owner/name, not {name!r}.")


def _fetched(name: str, revision: str | None) -> Path:
    """Return the folder of a repository's commit in the hub's cache."""
    from huggingface_hub import snapshot_download  # takes a second to import

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(FILES)))
    except Exception as error:
        raise LongtailError(f"{PREFIX}{name} cannot be fetched: {words(error)}") from error


def words(error: Exception) -> str:
    """Return what an error of the hub's library says, in one line that ends with a full stop."""
    text = shortened(" ".join(str(error).split()), 200) or type(error).__name__
    return text if text.endswith(".") else f"{text}."
