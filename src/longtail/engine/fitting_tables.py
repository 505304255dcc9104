"""Tables that a terminal can hold: the first column names the rows and is never cut or folded."""

from __future__ import annotations

from rich.cells import cell_len
from rich.table import Column, Table

LONG_WORD = 16  # letters; a longer word of a column other than the first may be folded


def fit(table: Table, width: int | None) -> Table:
    """Give the columns of a table widths at which it fits, and return it.

    What is too wide loses its frame; then texts and headings are wrapped between words, the widest first. The
    first column and numbers stay whole, even if the table is wider than the terminal then.

    Args:
        table: Of text.
        width: Letters of a line; None for any number.
    """
    if not table.columns:
        return table
    texts = [[*_lines(column)] for column in table.columns]
    wanted = [max(map(cell_len, lines), default=1) or 1 for lines in texts]
    least = [max((_longest_word(line) for line in lines), default=1) or 1 for lines in texts]
    least[0] = wanted[0]
    if width is not None and sum(wanted) + 3 * len(wanted) + 1 > width:
        table.box, table.padding, table.pad_edge = None, (0, 2, 0, 0), False
        room = width - 2 * len(wanted)
        if sum(least) > room:
            table.padding, room = (0, 1, 0, 0), width - len(wanted)
        while sum(wanted) > room:
            slack = [size if size > low else 0 for size, low in zip(wanted, least, strict=True)]
            if not any(slack):
                break
            wanted[slack.index(max(slack))] -= 1
    for column, size in zip(table.columns, wanted, strict=True):
        column.width, column.overflow = size, "fold"
    table.columns[0].no_wrap = True
    return table


def needed(table: Table) -> int:
    """Return how many letters wide a table is that `fit` gave its columns."""
    around = 3 * len(table.columns) + 1 if table.box else 2 * len(table.columns)
    return sum(column.width or 0 for column in table.columns) + around


def _lines(column: Column) -> list[str]:
    return [line for cell in (column.header, *column.cells) for line in str(cell).split("\n")]


def _longest_word(line: str) -> int:
    return max((min(LONG_WORD, cell_len(word)) for word in line.split()), default=0)
