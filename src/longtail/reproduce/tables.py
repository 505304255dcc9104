"""A table of a paper is a small file: rows of recipe, overrides, and what the paper prints."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from longtail.config import Options
from longtail.core.errors import ConfigError
from longtail.core.paths import expanded
from longtail.core.words import folder_name
from longtail.recipes import RunConfig, resolve

FOLDER = Path(__file__).parent / "tables"
PROFILES = ("full", "short")
Profile = Literal["full", "short"]


class Earlier(Options):
    """What a recipe was when a row was measured, shown until the row is measured anew."""

    commit: str = Field(pattern="^[0-9a-f]{7,40}$", description="last commit with that recipe")
    overrides: tuple[str, ...] = Field(
        (), description="key=value overrides that turn the present recipe into the earlier one"
    )
    checkpoints: tuple[str, ...] = Field(
        (), description="or, if its options no longer exist, the first digits of its runs' sha256"
    )

    @model_validator(mode="after")
    def _says_what_it_was(self) -> Earlier:
        if bool(self.overrides) == bool(self.checkpoints):
            raise ValueError("earlier: give either overrides or checkpoints")
        return self


class Row(Options):
    """One line of a table."""

    name: str = Field(description="the paper's name for it")
    recipe: str
    overrides: tuple[str, ...] = Field((), description="key=value overrides of the recipe")
    paper: float | None = Field(None, ge=0, le=100, description="overall accuracy in %")
    source: str = Field("", description="where the number is printed, if not in the table's source")
    start: str | None = Field(
        None, alias="from", description="name of the row whose first stage is reused"
    )
    mixture: str = Field(
        "",
        description="mixture of the sub-models of its runs that is scored instead of their prediction",
    )
    schedule: str = Field(
        "", description="rows with the same text are grouped in the figure, under this name"
    )
    short: tuple[str, ...] = Field(
        ("training.epochs=40",), description="key=value overrides of the short profile"
    )
    earlier: Earlier | None = Field(
        None, description="the recipe of older records, if it has changed since"
    )

    def config(self, profile: str) -> RunConfig:
        """Return the configuration of the row, without its start.

        Args:
            profile: `full`, the paper's schedule, or `short`, a fifth or less of it, of the same shape.
        """
        if profile != "short":
            return resolve(self.recipe, self.overrides)
        # a row that is longer than its recipe is as short as the others
        same_length = [text for text in self.overrides if not text.startswith("training.epochs=")]
        return resolve(self.recipe, [*self.short, *same_length])

    def earlier_config(self, profile: str) -> RunConfig | None:
        """Return the configuration of the row when its recipe was another one; see `config`."""
        if self.earlier is None or not self.earlier.overrides:
            return None
        short = self.short if profile == "short" else ()
        return resolve(self.recipe, [*short, *self.overrides, *self.earlier.overrides])


class PaperTable(Options):
    """A table of a paper, or a set of claims."""

    name: str = Field("", description="as it was asked for; set when it is read")
    title: str
    source: str = Field(description="paper, table, and how it selects its numbers")
    note: str = Field("", description="what a reader must know in order to compare")
    best_on_test: bool = Field(
        False,
        description="whether the paper reports its best epoch on test; the full profile then shows ours next "
        "to the last epoch",
    )
    against: str = Field(
        "", description="name of the row that the others are compared with, seed by seed"
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
                    f"row {row.name!r} starts from {row.start!r}, which is not a row above it"
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
    own = expanded(name)
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
        raise ConfigError(f"{file} is not a table: {lines}.") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{file} cannot be read as YAML ({error}).") from error


def read_row(table: str, name: str) -> Row:
    """Read the row `name` of a table, which must have it."""
    return next(row for row in read_table(table).rows if row.name == name)


def _told(error: ErrorDetails) -> str:
    place, message = ".".join(map(str, error["loc"])), error["msg"].removeprefix("Value error, ")
    return f"{place}: {message}" if place else message


def slug(name: str) -> str:
    """Return the folder of a table's or row's runs."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:60] or folder_name(name)
