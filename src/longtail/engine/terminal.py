"""The terminal: what is printed is what was meant, whatever names hold and whatever the terminal can show."""

from __future__ import annotations

import os
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from longtail.core.names import visible
from longtail.engine.fitting_tables import fit, needed

NOTEBOOK = "JPY_PARENT_PID"  # set by Jupyter for kernels, and so for what a cell starts


def can_redraw(stream: TextIO) -> bool:
    """Say whether a stream is a terminal that lines can be drawn in again.

    A cell of a notebook runs `!longtail ...` on a pseudo-terminal, but shows the codes that move its cursor.
    """
    return stream.isatty() and NOTEBOOK not in os.environ


class Terminal(Console):
    """A console that takes text as text: no markup, no emoji codes, control characters written out.

    Everything printed by this package goes through it, because nearly all of it may hold the names of a
    user's classes and files.

    Args:
        stderr: Whether to print to standard error.
        soft_wrap: Whether long lines are left to the terminal.
    """

    def __init__(self, *, stderr: bool = False, soft_wrap: bool = True) -> None:
        super().__init__(
            stderr=stderr, soft_wrap=soft_wrap, markup=False, emoji=False, highlight=False,
            force_terminal=False if NOTEBOOK in os.environ else None,
        )  # fmt: skip

    def print(self, *objects: Any, **options: Any) -> None:  # noqa: ANN401 - rich's own
        """Print; tables get the widths at which they fit, and in a file or pipe as much as they want."""
        tables = [shown for shown in objects if isinstance(shown, Table)]
        for table in tables:
            fit(table, self.width if self.is_terminal else None)
        before, self._width = self._width, max([self.width, *map(needed, tables)])
        try:
            super().print(*objects, **options)
        finally:
            self._width = before

    def render_str(self, text: str, **options: Any) -> Text:  # noqa: ANN401 - rich's own
        """Return text as it is shown; rich calls it for all that is printed, cells and titles too."""
        return super().render_str(visible(text), **options)
