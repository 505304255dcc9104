"""Figures as files: names are text, whatever letters and signs they hold."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import IO, Any

from matplotlib.figure import Figure

# a name with dollar signs is no formula
PLAIN_TEXT: dict[Any, Any] = {"text.parse_math": False}
_MISSING = re.compile(r"Glyph (\d+) ")


def save_figure(figure: Figure, file: Path | IO[str], **options: Any) -> str:  # noqa: ANN401 - matplotlib's
    """Save a figure.

    Args:
        figure: Drawn.
        file: Path or stream.
        options: Of matplotlib's `savefig`.

    Returns:
        The letters that no installed font has. A PNG shows boxes for them; an SVG holds text, for which the
        browser chooses the font.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        figure.savefig(file, **options)
    missing = ""
    for warning in caught:
        if found := _MISSING.match(str(warning.message)):
            missing += chr(int(found[1]))
        else:
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )
    return "".join(dict.fromkeys(missing))


def describe_missing(
    letters: str,
    figures: str = "PNG figures show",
    others: str = "the SVG figures and the page contain",
) -> str:
    """Say which letters of names a PNG lacks, and where they are; empty if none."""
    if not letters:
        return ""
    return (
        f"{figures} boxes for characters that no installed font has ({letters[:20]}); {others} them. "
        "Install a font that has them, for example Noto Sans CJK."
    )
