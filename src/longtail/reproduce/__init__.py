"""Tables of the papers: rows are recipes, rendered from records of their runs; nothing is trained."""

from longtail.reproduce.records import Evidence, Records
from longtail.reproduce.render import (
    MARK,
    differences,
    earlier_note,
    evidence_of,
    measured_rows,
    render,
    schedule_of,
    seeds_of,
    signed,
)
from longtail.reproduce.tables import PROFILES, PaperTable, Row, read_table, table_names

__all__ = [
    "MARK",
    "PROFILES",
    "Evidence",
    "PaperTable",
    "Records",
    "Row",
    "differences",
    "earlier_note",
    "evidence_of",
    "measured_rows",
    "read_table",
    "render",
    "schedule_of",
    "seeds_of",
    "signed",
    "table_names",
]
