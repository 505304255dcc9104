"""Every cell that the papers print has a recipe."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from longtail.recipes import recipe_names
from longtail.recipes.systems import system_named
from longtail.reproduce.tables import FOLDER

FILE = Path(__file__).parents[1] / "published" / "table-cells.yaml"
WRITTEN = yaml.safe_load(FILE.read_text())


@dataclass(frozen=True)
class Cell:
    """One printed number: its name, the words of its row, and where it counts."""

    name: str
    words: tuple[str, ...]
    benchmark: str
    value: float


def cells():
    for title, table in WRITTEN["tables"].items():
        for system, printed in table["systems"].items():
            columns = table.get("columns", [None])
            values = printed if "columns" in table else [printed]
            assert len(values) == len(columns), (title, system)
            for column, value in zip(columns, values, strict=True):
                if value != "-":
                    words = (system,) if column is None else (system, column)
                    name = f"{title}: {', '.join(words)}"
                    yield Cell(name, words, table["benchmark"], value)


CELLS = {cell.name: cell for cell in cells()}
ROWS = [
    row
    for file in sorted(FOLDER.glob("*.yaml"))
    for row in yaml.safe_load(file.read_text())["rows"]
]


def rows_of(cell):
    """Return the rows of our tables that are a cell's: its number, to the digit that is printed."""
    return [
        row
        for row in ROWS
        if row["recipe"].startswith(f"{cell.benchmark}/")
        and row["recipe"] in recipe_names()
        and abs((row.get("paper") or 0) - cell.value) < 0.051
        and all(word.lower() in row["name"].lower() for word in cell.words)
    ]


@pytest.mark.parametrize("name", CELLS)
def test_a_printed_cell_has_a_recipe(name):
    assert rows_of(CELLS[name]), f"no row of src/longtail/reproduce/tables is {CELLS[name]}"


# tables that compare variants of one system, and rows that name none
OF_ONE_SYSTEM = ("DO 6", "DO 8", "ResLT 9", "Decoupling 1", "Decoupling 5", "PaCo 2")
NO_SYSTEM = {"joint", "Baseline 1", "Baseline 2", "Baseline 3"}


def test_every_system_of_the_tables_is_in_the_list_of_methods(longtail):
    listed = [line.split("\t") for line in longtail("methods")[1].splitlines()]
    in_papers = {method: names.split(", ") for method, _, _, names, _ in listed}
    printed = {
        system
        for title, table in WRITTEN["tables"].items()
        if not title.startswith(OF_ONE_SYSTEM)
        for system in table["systems"]
    }
    assert len(printed) > 60
    for system in printed - NO_SYSTEM:
        words = system.replace(",", "").split()  # a system, perhaps with what is varied of it
        beginnings = (" ".join(words[:count]) for count in range(len(words), 0, -1))
        found = next(filter(None, map(system_named, beginnings)), None)
        assert found is not None, system
        assert found.name in in_papers[found.method], system
