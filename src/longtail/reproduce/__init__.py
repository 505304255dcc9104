"""Tables of the papers: rows that are recipes, trained and rendered from their records."""

from longtail.reproduce.records import Evidence, Records
from longtail.reproduce.render import difference_of_seeds, measured_rows, render, schedule_of
from longtail.reproduce.tables import PROFILES, PaperTable, Row, read_table, table_names

__all__ = [
    "PROFILES",
    "Evidence",
    "PaperTable",
    "Records",
    "Row",
    "difference_of_seeds",
    "measured_rows",
    "read_table",
    "render",
    "schedule_of",
    "table_names",
]
