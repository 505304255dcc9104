"""Which records belong to a row: those whose resolved configuration is the row's, seeds aside."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longtail.core.errors import ConfigError
from longtail.recipes import RunConfig, validate_stored

# what may differ between a row and its record without being another experiment
ASIDE = {"seed": 0, "workers": 1, "checkpoint_every": 1, "watch_test": False}


@dataclass(frozen=True)
class Evidence:
    """A record that belongs to a row.

    Attributes:
        line: The record.
        file: Where it lies.
    """

    line: dict[str, Any]
    file: str

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return int(self.line["seed"])

    @property
    def processor(self) -> str:
        """Name of what trained it: the same seed is another run elsewhere."""
        hardware = self.line.get("hardware", {})
        return str(hardware.get("gpu") or hardware.get("cpu", ""))


class Records:
    """The training records of results files, by what was trained."""

    def __init__(self, files: Iterable[Path]) -> None:
        """Read the records.

        Args:
            files: Results files, JSON lines; lines that are no training are passed over.

        Raises:
            ConfigError: If one is no file of JSON lines.
        """
        self._found: dict[tuple[str, str], dict[tuple[int, str], Evidence]] = {}
        for file in files:
            for line in read_lines(file):
                if not {"config", "accuracy", "split"} <= line.keys():
                    continue
                try:
                    recorded = validate_stored(line["config"], str(file))
                except ConfigError:
                    continue  # of another version, whose options are no more
                evidence = Evidence(line, file.name)
                same = self._found.setdefault((_identity(recorded), line["split"]), {})
                same[evidence.seed, evidence.processor] = evidence

    def of(self, config: RunConfig, *, split: str = "test") -> list[Evidence]:
        """Return the newest record of every seed and processor that has the configuration `config`, by seed.

        Args:
            config: Of a row.
            split: On which it was scored.
        """
        found = self._found.get((_identity(config), split), {})
        return [found[run] for run in sorted(found)]


def read_lines(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a results file.

    Raises:
        ConfigError: If it is no file of JSON lines.
    """
    try:
        for text in file.read_text(encoding="utf-8").splitlines():
            if text:
                yield json.loads(text)
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise ConfigError(f"{file} is no results file of JSON lines ({error}).") from error


def _identity(config: RunConfig) -> str:
    """Return what makes an experiment: everything but names, places and the seed."""
    plain = config.model_copy(
        update={
            "recipe": "",
            "description": "",
            "start": None,
            "training": config.training.model_copy(update=ASIDE),
        }
    ).model_dump(mode="json")
    for place in ("root", "lists", "path", "download"):
        plain["data"].pop(place, None)
    return json.dumps(plain, sort_keys=True)
