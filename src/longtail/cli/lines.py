"""Lines and lists for people, without PyTorch."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence

from rich.table import Table

from longtail.core.names import visible
from longtail.engine.terminal import Terminal


def console() -> Terminal:
    """Return standard output."""
    return Terminal()


def completing(names: Iterable[str]) -> Callable[[str], list[str]]:
    """Return what completes a value that is one of `names`."""
    known = tuple(names)
    return lambda incomplete: [name for name in known if name.startswith(incomplete)]


def say(text: str) -> None:
    """Print text as it is."""
    console().print(text)


def print_rows(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a list: a table on a terminal, else a line for each row with tabs between its cells.

    The first column holds names, which are of no use if they are cut off.
    """
    out = console()
    if not out.is_terminal:
        for row in rows:
            line = visible("\t".join(" ".join(cell.split()) for cell in row).rstrip("\t"))
            # neither rich, which makes spaces of tabs, nor echo, which writes UTF-8 where ASCII is asked for
            sys.stdout.write(f"{line}\n")
        return
    table = Table(*titles)
    for row in rows:
        table.add_row(*row)
    out.print(table)


def hint(text: str) -> None:
    """Print what may be done next, on a terminal only: elsewhere it would be a line of the list."""
    if console().is_terminal:
        say(text)
