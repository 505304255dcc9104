"""Words for people."""

from __future__ import annotations


def counted(number: int, one: str, several: str) -> str:
    """Return `1 picture was` or `1,200 pictures were`."""
    return f"{number:,} {one if number == 1 else several}"
