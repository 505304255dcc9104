"""Tables of the papers: rows that are recipes, trained and rendered from their records."""

from longtail.reproduce.records import Evidence, find_evidence
from longtail.reproduce.render import render
from longtail.reproduce.tables import PROFILES, PaperTable, Row, read_table, table_names

__all__ = [
    "PROFILES",
    "Evidence",
    "PaperTable",
    "Row",
    "find_evidence",
    "read_table",
    "render",
    "table_names",
]
