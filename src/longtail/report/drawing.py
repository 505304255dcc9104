"""A figure of a page of ours: white in light and dark pages, with its numbers inside as text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from textwrap import wrap
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from longtail.engine.run_folder import writing
from longtail.report.figures import STYLE
from longtail.report.saving import save_figure

TITLE_WIDTH = 84  # characters


@dataclass(frozen=True)
class Drawing:
    """A figure that is not drawn yet.

    Attributes:
        description: What it shows, in words and numbers; every image carries it as its description.
        draw: Draws it; called inside `matplotlib.rc_context(STYLE)`.
    """

    description: str
    draw: Callable[[], Figure]

    def stands_in(self, svg: str) -> bool:
        """Say whether an image shows these numbers."""
        return escape(self.description, quote=False) in svg

    def write(self, file: Path) -> None:
        """Write the image with its description inside.

        Args:
            file: `.svg` or `.png`; its folder is made.
        """
        metadata: dict[str, Any] = {"Description": self.description}
        if file.suffix == ".svg":
            metadata["Date"] = None
        with (
            matplotlib.rc_context({**STYLE, "svg.hashsalt": "longtail", "savefig.dpi": 200}),
            writing(file) as part,
        ):
            figure = self.draw()
            figure.patch.set_alpha(1)  # figures of the report are transparent
            save_figure(
                figure,
                part,
                format=file.suffix[1:],
                facecolor="white",
                transparent=False,
                metadata=metadata,
            )


def add_title(figure: Figure, title: str) -> None:
    """Put a title above a figure; long lines are broken."""
    lines = [line for part in title.splitlines() for line in wrap(part, TITLE_WIDTH)]
    figure.suptitle("\n".join(lines), fontsize=10.5)
