"""A table of a paper is a small file: rows of recipe, overrides, and what the paper prints."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from longtail.core.errors import ConfigError
from longtail.data.options import Options
from longtail.recipes import RunConfig, resolve

FOLDER = Path(__file__).parent / "tables"
PROFILES = ("full", "short")
Profile = Literal["full", "short"]


class Row(Options):
    """One line of a table."""

    name: str = Field(description="as the paper calls it")
    recipe: str
    overrides: tuple[str, ...] = Field((), description="key=value on top of the recipe")
    paper: float | None = Field(None, ge=0, le=100, description="overall accuracy in %")
    source: str = Field("", description="where the number is printed, if not the table's source")
    start: str | None = Field(
        None, alias="from", description="name of the row whose first stage is taken"
    )
    schedule: str = Field(
        "", description="rows of one schedule stand together in the figure, under this name"
    )
    short: tuple[str, ...] = Field(
        ("training.epochs=40",), description="key=value of the short profile"
    )

    def config(self, profile: str) -> RunConfig:
        """Return the configuration of the row, without its start.

        Args:
            profile: `full`, the paper's schedule, or `short`, a fifth or less of it, of the same shape.
        """
        return resolve(self.recipe, [*(self.short if profile == "short" else ()), *self.overrides])


class PaperTable(Options):
    """A table of a paper, or a set of claims."""

    name: str = Field("", description="as it was asked for; set when it is read")
    title: str
    source: str = Field(description="paper, table, and how it selects its numbers")
    note: str = Field("", description="what a reader must know to compare")
    best_on_test: bool = Field(
        False,
        description="the paper takes its best epoch on test: the full profile shows ours beside the last",
    )
    against: str = Field(
        "", description="name of the row that the others are held against, seed by seed"
    )
    short_schedule: str = Field(
        "40 epochs in the shape of the full schedule", description="the short profile in words"
    )
    rows: tuple[Row, ...]

    @model_validator(mode="after")
    def _rows_are_named(self) -> PaperTable:
        names = [row.name for row in self.rows]
        if len(set(names)) != len(names):
            raise ValueError("two rows have the same name")
        if self.against and self.against not in names:
            raise ValueError(f"against: there is no row {self.against!r}")
        for place, row in enumerate(self.rows):
            if row.start is not None and row.start not in names[:place]:
                raise ValueError(
                    f"row {row.name!r} starts from {row.start!r}, which is no row above"
                )
        return self


def table_names() -> list[str]:
    """Return the names of the shipped tables, sorted."""
    return sorted(file.stem for file in FOLDER.glob("*.yaml"))


def read_table(name: str) -> PaperTable:
    """Read a shipped table, or a YAML file.

    Raises:
        ConfigError: If there is none, or it is wrong.
    """
    own = Path(name).expanduser()
    file = own if own.suffix in (".yaml", ".yml") else FOLDER / f"{name}.yaml"
    if not file.is_file():
        near = difflib.get_close_matches(name, table_names(), n=3, cutoff=0.4)
        hint = f" Did you mean {', '.join(near)}?" if near else ""
        raise ConfigError(f"There is no table {name!r}.{hint} Shipped: {', '.join(table_names())}.")
    try:
        raw = yaml.safe_load(file.read_text(encoding="utf-8"))
        return PaperTable.model_validate(raw).model_copy(update={"name": name})
    except ValidationError as error:
        lines = "; ".join(map(_told, error.errors()))
        raise ConfigError(f"{file} is no table: {lines}.") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{file} cannot be read as YAML ({error}).") from error


def _told(error: ErrorDetails) -> str:
    place, message = ".".join(map(str, error["loc"])), error["msg"].removeprefix("Value error, ")
    return f"{place}: {message}" if place else message
