"""A paper's table as a figure."""

from __future__ import annotations

from longtail.core.errors import ConfigError
from longtail.report.dots import DotRow
from longtail.reproduce.records import Records
from longtail.reproduce.render import MARK, measured_rows, schedule_of
from longtail.reproduce.tables import PaperTable


def dots_of(table: PaperTable, profile: str, records: Records) -> tuple[str, list[DotRow]]:
    """Return title and rows of the figure of what is measured of a table.

    Raises:
        ConfigError: If no row has a record.
    """
    rows = [
        DotRow(row.name, row.schedule, accuracy)
        for row, accuracy in measured_rows(table, profile, records)
    ]
    if not rows:
        raise ConfigError(
            f"No row has a record of the {profile} profile in these results, so there is nothing to draw."
        )
    title = f"{table.title}\n{schedule_of(table, profile)}"
    if any(row.name.endswith(MARK) for row in rows):
        title += f"; {MARK} measured with an earlier recipe"
    return title, rows
