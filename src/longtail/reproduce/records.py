"""Which records belong to a row: those whose resolved configuration is the row's, seeds aside."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longtail.core.errors import ConfigError
from longtail.core.groups import GROUP_NAMES
from longtail.engine.schedule import learning_rate
from longtail.recipes import RunConfig, in_effect, read_stored

# what may differ between a row and its record without being another experiment
ASIDE = {"seed": 0, "workers": 1, "checkpoint_every": 1, "watch_test": False, "tracker": "none"}
# a schedule is the learning rates it gives, however it is written down
SAID_BY_RATES = (
    "schedule", "warmup", "warmup_start", "warmup_end", "milestones", "decay_factor",
)  # fmt: skip


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

    def mixed(self, mixture: str) -> Evidence | None:
        """Return the record with the scores of one mixture of the sub-models, None if it has none."""
        for row in self.line.get("mixtures", ()):
            if row["name"] == mixture:
                scores = {name: row[name] for name in ("accuracy", *GROUP_NAMES)}
                scores |= {"macro_accuracy": row["accuracy"], "best_on_test": None}
                return Evidence(self.line | scores, self.file)
        return None

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
        self._by_checkpoint: dict[tuple[str, str], Evidence] = {}
        for file in files:
            for line in read_lines(file):
                if not {"config", "accuracy", "split"} <= line.keys():
                    continue
                evidence = Evidence(line, file.name)
                self._by_checkpoint[str(line.get("checkpoint_sha256")), line["split"]] = evidence
                recorded = read_stored(line["config"])
                if recorded is None:
                    continue  # of another version, whose options are no more
                same = self._found.setdefault((_identity(recorded), line["split"]), {})
                same[evidence.seed, evidence.processor] = evidence

    def of_checkpoints(self, checkpoints: Iterable[str], *, split: str = "test") -> list[Evidence]:
        """Return the records of some runs, whatever they were.

        Args:
            checkpoints: First digits of their sha256.
            split: On which they were scored.

        Raises:
            ConfigError: If one has no record.
        """
        found = []
        for begin in checkpoints:
            evidence = self.of_checkpoint(begin, split=split)
            if evidence is None:
                raise ConfigError(f"There is no record of the checkpoint {begin}... on {split}.")
            found.append(evidence)
        return found

    def of_checkpoint(self, begin: str, *, split: str = "test") -> Evidence | None:
        """Return the record of the run whose checkpoint's sha256 begins with `begin`, if there is one."""
        for (checkpoint, scored), evidence in self._by_checkpoint.items():
            if checkpoint.startswith(begin) and scored == split:
                return evidence
        return None

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
        raise ConfigError(f"{file} is not a results file of JSON lines ({error}).") from error


def _identity(config: RunConfig) -> str:
    """Return what makes an experiment: everything but names, places, the seed and what changes nothing.

    Schedules that give every epoch the same learning rate are one: milestones at epochs 159 and 160 of 200
    are both at 32 of 40.
    """
    same = config.model_copy(
        update={
            "recipe": "",
            "description": "",
            "start": None,
            "training": config.training.model_copy(update=ASIDE),
        }
    )
    plain = in_effect(same)
    training, epochs = plain["training"], config.training.epochs
    training["rates"] = [
        float(f"{learning_rate(config.training, epoch, epochs):.9g}") for epoch in range(epochs)
    ]
    for key in SAID_BY_RATES:
        training.pop(key, None)
    for place in ("root", "lists", "path", "download"):
        plain["data"].pop(place, None)
    return json.dumps(plain, sort_keys=True)
