"""One page a method: the head of its file, its options, its recipes, and what is good to know."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from longtail.methods import METHODS
from longtail.recipes import recipe_names, resolve
from longtail.recipes.explain import Explained, explained, options_of_runs


def write_pages(folder: Path, notes: Path) -> None:
    """Write `<folder>/<method>.md` for every method; `<notes>/<method>.md` is taken into it."""
    folder.mkdir(exist_ok=True)
    recipes: dict[str, list[tuple[str, str]]] = {name: [] for name in METHODS}
    for recipe in recipe_names():
        if recipe.startswith("pictures/"):
            continue  # it has no data of its own
        config = resolve(recipe)
        recipes[config.method_name].append((recipe, config.description))
    for name, method in METHODS.items():
        head = inspect.getdoc(sys.modules[method.__module__]) or ""
        title, _, rest = head.partition("\n")
        lines = [f"# {name}", "", f"{method.summary}.", "", f"Citation: {method.citation}.", ""]
        note = notes / f"{name}.md"
        if note.exists():
            lines += ["## Good to know", "", note.read_text(encoding="utf-8").strip(), ""]
        lines += ["## From the head of its file", "", title, "", "```text", rest.strip(), "```", ""]
        rows = list(explained(method.Config))
        lines += ["## Options", "", *(_options(rows) if rows else ["There are none."])]
        lines += ["", "## Recipes", ""]
        lines += [f"- `{recipe}`: {text}" for recipe, text in recipes[name]]
        (folder / f"{name}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_options(file: Path) -> None:
    """Write a page with every option of data, model and training."""
    lines = [
        "# Every option",
        "",
        "As `key=value` on the command line, where the last parts of a key will do if they are unambiguous",
        "(`epochs=40`); or in a recipe. `longtail options WORD` finds them.",
        "",
    ]
    file.write_text("\n".join([*lines, *_options(options_of_runs())]) + "\n", encoding="utf-8")


def _options(rows: Iterable[Explained]) -> Iterator[str]:
    yield "| option | default | values | |"
    yield "|---|---|---|---|"
    for row in rows:
        values, meaning = (text.replace("|", "&#124;") for text in (row.values, row.meaning))
        yield f"| `{row.key}` | `{row.default or '-'}` | {values} | {meaning} |"
