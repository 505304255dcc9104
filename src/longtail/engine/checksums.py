"""Checksums with which the files of a run folder vouch for their content, and how such files are read."""

from __future__ import annotations

import hashlib
import json
import math
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from longtail.core.errors import CheckpointError

SEAL = "sha256"  # the entry of a JSON file that holds the checksum of all others


def read_bytes(path: Path) -> bytes:
    """Return the content of an ordinary file; links, pipes and devices are not followed.

    Raises:
        CheckpointError: In words, if it is missing, something else than a file, or cannot be read.
    """
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise CheckpointError(
                f"{path} is not a regular file (it is a link, a folder, a pipe or a device)."
            )
        return path.read_bytes()
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing.") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror or error}).") from error


def checksum(content: bytes) -> str:
    """Return the SHA-256 of bytes, in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def checksum_of(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of what a JSON object says, whatever its spaces and the order of its keys."""
    plain = json.loads(json.dumps(content))  # as it comes back from a file: lists, keys as text
    return checksum(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode())


def checksum_of_text(path: Path, content: bytes) -> str:
    """Return the SHA-256 of what a text file says, whatever its line ends; of JSON, whatever its layout.

    Args:
        path: Its name tells whether it is JSON.
        content: Of the file.

    Raises:
        CheckpointError: If it is named as JSON and is none.
    """
    if path.suffix == ".json":
        return checksum_of(parse_json(content, str(path)))
    return checksum(with_plain_ends(content))


def with_plain_ends(content: bytes) -> bytes:
    """Return text with the line ends of Unix: editors and version control change them."""
    return content.replace(b"\r\n", b"\n")


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return `content` with the checksum of all its entries as one more entry."""
    plain = {key: _finite(value) for key, value in content.items() if key != SEAL}
    return {**plain, SEAL: checksum_of(plain)}


def json_text(content: Any, *, indent: int | None = None) -> str:  # noqa: ANN401 - anything JSON has
    """Return JSON that every reader accepts: numbers that are not finite become null."""
    return json.dumps(_finite(content), indent=indent, allow_nan=False)


def read_json(path: Path, *, needs_seal: bool = False) -> dict[str, Any]:
    """Read a JSON object and compare its checksum, if it has one.

    Args:
        path: The file.
        needs_seal: Refuse a file without a checksum.

    Raises:
        CheckpointError: In words, if it cannot be read, is no JSON object, or says something else than when
            it was written.
    """
    content = parse_json(read_bytes(path), str(path))
    if SEAL not in content and not needs_seal:
        return content
    if content.get(SEAL) != sealed(content)[SEAL]:
        raise CheckpointError(f"{path} was changed after it was written, or it is damaged.")
    return content


def parse_json(text: bytes, source: str) -> dict[str, Any]:
    """Read a JSON object; numbers that are not finite are no JSON.

    Raises:
        CheckpointError: In words, naming `source`.
    """
    try:
        content = json.loads(text.decode("utf-8"), parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{source} cannot be read as JSON ({error}).") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{source} does not contain a JSON object.")
    return content


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not a valid JSON number")


def _finite(value: Any) -> Any:  # noqa: ANN401 - anything JSON has
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value
