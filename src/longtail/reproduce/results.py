"""A results folder: the records that every table is rendered from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from longtail.reproduce.records import Records


@dataclass(frozen=True)
class Results:
    """The records of one folder.

    Attributes:
        folder: Holds JSON lines files.
    """

    folder: Path

    def lines(self, name: str) -> list[dict[str, Any]]:
        """Return the lines of one results file."""
        text = (self.folder / name).read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines() if line]

    @cached_property
    def records(self) -> Records:
        """All training records, by what was trained."""
        return Records(sorted(self.folder.glob("*.jsonl")))

    @cached_property
    def earlier(self) -> Any:  # noqa: ANN401 - plain YAML
        """Which records are of DO from before it was rebuilt, see `do-earlier.yaml`."""
        return yaml.safe_load((self.folder / "do-earlier.yaml").read_text(encoding="utf-8"))
