"""One page a method: the head of its file, its options, its recipes, and what is good to know."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

from pydantic_core import PydanticUndefined

from longtail.data.options import Options
from longtail.methods import METHODS
from longtail.recipes import recipe_names, resolve
from longtail.recipes.config import valid_keys


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
        lines += ["## Options", "", "| option | default | |", "|---|---|---|"]
        lines += list(_options(method.Config, f"{name}"))
        lines += ["", "## Recipes", ""]
        lines += [f"- `{recipe}`: {text}" for recipe, text in recipes[name]]
        (folder / f"{name}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _options(config: type[Options], name: str) -> Iterator[str]:
    known = {key.removeprefix("method.") for key in valid_keys({"method": name})}
    for key, field in config.model_fields.items():
        if key == "name":
            continue
        default = "" if field.default is PydanticUndefined else field.default
        shown = (
            f"{getattr(default, 'name', 'see the recipes')}"
            if isinstance(default, Options)
            else default
        )
        below = sorted(k for k in known if k.startswith(f"{key}."))
        text = field.description or (f"keys: {', '.join(below)}" if below else "")
        yield f"| `{key}` | `{shown}` | {text.replace('|', '&#124;')} |"
