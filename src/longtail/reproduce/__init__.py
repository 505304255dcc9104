"""Tables of the papers: rows that are recipes, trained and rendered from their records."""

from longtail.reproduce.records import Evidence, Records
from longtail.reproduce.render import (
    differences,
    measured_rows,
    render,
    schedule_of,
    seeds_of,
    signed,
)
from longtail.reproduce.tables import PROFILES, PaperTable, Row, read_table, table_names

__all__ = [
    "PROFILES",
    "Evidence",
    "PaperTable",
    "Records",
    "Row",
    "differences",
    "measured_rows",
    "read_table",
    "render",
    "schedule_of",
    "seeds_of",
    "signed",
    "table_names",
]
