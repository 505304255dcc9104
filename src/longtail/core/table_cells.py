"""Tables as CSV that spreadsheets show and never run."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from longtail.core.names import printable

# what a spreadsheet takes for a formula, behind any apostrophes that are there already; a lone sign is none
_FORMULA = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20].", re.DOTALL)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def safe_cell(text: str) -> str:
    """Put an apostrophe before text that a spreadsheet would run (`=1+1`, `@SUM(A1)`); numbers stay.

    `plain_cell` takes it off again: `plain_cell(safe_cell(text)) == text` for every text.
    """
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def plain_cell(text: str) -> str:
    """Undo `safe_cell`."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def csv_text(rows: Iterable[Sequence[object]], *, safe: bool = True) -> str:
    r"""Return rows as CSV: comma, `\n`, and quotes around cells that hold a comma, quote or line break.

    None and NaN are empty cells. The csv module leaves a lone `\r` unquoted, which other readers take for the
    end of a row.

    Args:
        rows: Of cells.
        safe: Whether text goes through `safe_cell`: for people's spreadsheets, not for files of a run folder.
    """
    return "".join(",".join(_cell(cell, safe=safe) for cell in row) + "\n" for row in rows)


def _cell(cell: object, *, safe: bool) -> str:
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return ""
    text = str(cell)
    if isinstance(cell, str):
        text = printable(safe_cell(cell) if safe else cell)
    return '"' + text.replace('"', '""') + '"' if any(c in text for c in ',"\r\n') else text
