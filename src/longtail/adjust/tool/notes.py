"""`adjustment.json`: how a model was corrected, beside or inside of what was written.

A CSV and most checkpoints have no room for what their scores assume. The note has, and says by a hash which
file it means, so that a second correction knows of the first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from longtail.core.prior import UNKNOWN
from longtail.models.weights import checksum

NOTE = "adjustment.json"


def note_of(target: Path, *, inside: bool) -> Path:
    """Return where the note of a corrected file or folder is."""
    return target / NOTE if inside else target.with_name(f"{target.stem}-{NOTE}")


def write_note(note: Path, described: Mapping[str, Any], files: Mapping[str, Path]) -> None:
    """Write a note.

    Args:
        note: The file.
        described: As JSON; without infinities.
        files: What was written, by the name that it will have.
    """
    content = {**described, "files": {name: checksum(path) for name, path in files.items()}}
    note.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read_note(path: Path) -> tuple[object, Sequence[object]]:
    """Return what a note says of a file: its assumed prior and its corrections; nothing if there is none.

    The prior of a file that was changed after the note was written is unknown.
    """
    for note in (note_of(path, inside=False), path.parent / NOTE):
        try:
            content = json.loads(note.read_text(encoding="utf-8"))
            prior, corrections = content["assumed_prior"], tuple(content["corrections"])
            # a file that was edited since may assume anything
            same = content["files"][path.name] == checksum(path)
            return prior if same else UNKNOWN, corrections
        except (OSError, ValueError, KeyError, TypeError):
            continue  # no note, or one of something else
    return None, ()
