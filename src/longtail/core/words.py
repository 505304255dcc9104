"""Words for people."""

from __future__ import annotations

import re
import unicodedata


def counted(number: int, one: str, several: str) -> str:
    """Return `1 image was` or `1,200 images were`."""
    return f"{number:,} {one if number == 1 else several}"


def some_of(part: int, size: int, one: str, several: str, does: str, do: str) -> str:
    """Return `1 of 20 images is`, `3 of 20 images are`, or `The image is` where there is one in all.

    Args:
        part: How many.
        size: Of how many.
        one: Name of one of them.
        several: Name of several.
        does: Verb of one.
        do: Verb of several.
    """
    if part == size == 1:
        return f"The {one} {does}"
    return f"{part:,} of {counted(size, one, several)} {does if part == 1 else do}"


def shortened(text: str, most: int = 80) -> str:
    """Return a text of at most `most` characters, its middle left out."""
    if len(text) <= most:
        return text
    end = (most - 5) // 3
    return f"{text[: most - 5 - end]} ... {text[-end:]}"


def folder_name(text: str, otherwise: str = "run") -> str:
    """Return a text as the name of one folder: no separators, no leading dot, not too long for a disk.

    Args:
        text: Whatever a user or a file calls it.
        otherwise: The name where nothing of the text can stay.
    """
    name = re.sub(r"[^\w.,=+\[\]-]+", "-", unicodedata.normalize("NFC", text))
    return name[:60].strip("-. ") or otherwise
