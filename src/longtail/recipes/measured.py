"""What was measured of the shipped recipes and methods, for the lists of the command line.

`measured.json` is rendered from the records under `results/` by `python -m longtail.reproduce`.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_suffix(".json")


@cache
def _measured() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return content


def measured_result(recipe: str) -> str:
    """Return accuracy overall and on few-shot classes with the schedule, or an empty text."""
    found = _measured()["recipes"].get(recipe)
    return f"{found['accuracy']} (few {found['few']}), {found['schedule']}" if found else ""


def measured_cost(method: str) -> str:
    """Return how many times plain training and prediction cost, or an empty text."""
    found = _measured()["costs"].get(method, {})
    return ", ".join(f"{what} {ratio:.1f}x" for what, ratio in found.items())
