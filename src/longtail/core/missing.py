"""What is said of a path that does not exist; it needs no PyTorch, so that a slip is told at once."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from pathlib import Path

from longtail.core.names import shown
from longtail.core.similar_paths import did_you_mean, similar_paths

TABLES = (".csv", ".parquet", ".pq", ".json")
RECIPES = (".yaml", ".yml")


def is_there(text: str) -> bool | None:
    """Say whether anything lies at a path, even a link that leads nowhere; None for what cannot be one."""
    try:
        Path(text).expanduser().lstat()
    except FileNotFoundError:
        return False
    except (OSError, ValueError, RuntimeError):  # too long; a zero; the home of nobody
        return None
    return True


def no_run(path: Path) -> str:
    """Return the error for a run folder."""
    return f"{path} is not a run folder: it does not exist.{did_you_mean(path)}"


def no_data(path: Path) -> str:
    """Return the error for a folder or table of images."""
    return f"There is no folder or table {shown(str(path))}.{did_you_mean(path, TABLES)}"


def no_model(path: Path) -> str:
    """Return the error for what is to be corrected: a run folder, a table or a checkpoint."""
    return (
        f"There is no run folder, table or checkpoint {shown(str(path))}.{did_you_mean(path, None)}"
    )


def no_source(source: str, recipes: Collection[str]) -> str:
    """Return the error for what is to be trained on.

    Args:
        source: A path or the name of a recipe.
        recipes: Names of all that ship.
    """
    path = Path(source)
    if path.suffix.lower() in TABLES:
        return no_data(path)
    if path.suffix in RECIPES:
        return f"There is no recipe file {source}.{did_you_mean(path, RECIPES)}"
    near = similar_paths(path, (*TABLES, *RECIPES)) or _near_recipes(source, recipes)
    hint = f" Did you mean {', '.join(near)}?" if near else ""
    return f"There is no recipe, folder or table {source!r}.{hint} `longtail recipes` lists all recipes."


def no_images(names: Sequence[str]) -> str:
    """Return the error for images to predict of which none exists."""
    first, near = shown(names[0]), did_you_mean(Path(names[0]), None)
    if len(names) == 1:
        return f"{first} does not exist.{near}"
    return f"None of these {len(names):,} paths exists; the first is {first}.{near}"


def _near_recipes(wanted: str, names: Collection[str]) -> list[str]:
    """Return up to three recipes of a similar name, with or without the benchmark before it."""
    if "/" in wanted:
        return difflib.get_close_matches(wanted, names, n=3)
    ends = difflib.get_close_matches(
        wanted, list(dict.fromkeys(name.rpartition("/")[2] for name in names)), n=3
    )
    return [name for end in ends for name in names if name.endswith(f"/{end}")][:3]
