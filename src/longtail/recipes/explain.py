"""What every option may be, for people."""

from __future__ import annotations

import inspect
import json
import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from longtail.config import Choice, Options
from longtail.methods import METHODS
from longtail.recipes.catalogue import Explained
from longtail.recipes.fields import variants_of
from longtail.recipes.options import RunConfig
from longtail.recipes.shipped import read_recipe, recipe_names

LIMITS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
NULL = "null"  # as YAML writes it: `none` is text, and the name of a policy
PLAIN = {
    int: "whole number", float: "number", str: "text", bool: "true or false", Path: "path",
}  # fmt: skip


def explained(config: type[Options], prefix: str = "") -> Iterator[Explained]:
    """Yield every option of a configuration, those of its parts (`loss.tau`) after each part."""
    for name, field in config.model_fields.items():
        if name == "name":
            continue
        key, variants = prefix + (field.alias or name), _variants(field.annotation)
        meaning = field.description or _of_class(variants)
        yield Explained(key, _written(field), _values(field), meaning)
        below: dict[str, list[tuple[type[Options], Explained]]] = {}
        for variant in variants:
            for row in explained(variant):
                below.setdefault(row.key, []).append((variant, row))
        for row_key, having in below.items():
            first = having[0][1]
            default = " or ".join(dict.fromkeys(row.default for _, row in having))
            meaning = _joined(having, len(variants))
            yield replace(first, key=f"{key}.{row_key}", default=default, meaning=meaning)


def _joined(having: Sequence[tuple[type[Options], Explained]], variants: int) -> str:
    """Say which variants have an option, and what it means in each."""
    meanings = {row.meaning for _, row in having}
    if len(having) == variants and len(meanings) == 1:
        return meanings.pop()
    owners: dict[str, list[str]] = {}
    for variant, row in having:
        owners.setdefault(row.meaning, []).append(_name(variant))
    return "; ".join(_owned(names, meaning) for meaning, names in owners.items())


def _owned(names: Sequence[str], meaning: str) -> str:
    """Put what has an option, in parentheses, before its meaning."""
    return f"({', '.join(names)}) {meaning}".rstrip()


def options_of_runs() -> Iterator[Explained]:
    """Yield every option of a run, those of the method excepted."""
    for row in explained(RunConfig):
        yield replace(row, values=", ".join(METHODS)) if row.key == "method" else row


def options_of_methods() -> Iterator[Explained]:
    """Yield the options of every method, as they are written in a recipe; what several share, once."""
    owners: dict[Explained, list[str]] = {}
    for name, method in METHODS.items():
        for row in explained(method.Config, "method."):
            owners.setdefault(row, []).append(name)
    for row, names in owners.items():
        yield replace(row, meaning=_owned(names, row.meaning))


def written_catalogue() -> str:
    """Return the content of `catalogue.json`, see `longtail.recipes.catalogue`."""
    content = {
        "recipes": {name: str(read_recipe(name).get("description", "")) for name in recipe_names()},
        "methods": {
            name: {
                "summary": method.summary,
                "advice": method.advice,
                "citation": method.citation,
                "options": [asdict(row) for row in explained(method.Config)],
            }
            for name, method in METHODS.items()
        },
        "options": [asdict(row) for row in options_of_runs()],
        "method_options": [asdict(row) for row in options_of_methods()],
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _variants(annotation: Any) -> list[type[Options]]:  # noqa: ANN401 - any annotation
    """Return the classes of options that a field may hold; those in a list have no keys of their own."""
    if typing.get_origin(annotation) is tuple:
        return []
    if isinstance(annotation, type) and issubclass(annotation, Options):
        return variants_of(annotation)
    return [found for part in typing.get_args(annotation) for found in _variants(part)]


def _of_class(variants: Sequence[type[Options]]) -> str:
    """Return what the docstring of the only class says that a field may hold."""
    if len(variants) != 1:
        return ""
    text = inspect.cleandoc(variants[0].__doc__ or "").partition("\n\n")[0]
    text = " ".join(text.split()).removesuffix(".")
    return text[:1].lower() + text[1:]


def _name(variant: type[Options]) -> str:
    return ", ".join(_words(variant.model_fields["name"].annotation))


def _default(field: FieldInfo) -> Any:  # noqa: ANN401 - any value
    return field.get_default(call_default_factory=True)


def _written(field: FieldInfo) -> str:
    default = _default(field)
    if default is PydanticUndefined:
        return "required"
    if isinstance(default, Options):
        return _named(default)
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple):
        return f"[{', '.join(map(_named, default))}]"
    return NULL if default is None else str(default)


def _named(value: Any) -> str:  # noqa: ANN401 - any value
    return str(getattr(value, "name", "see below") if isinstance(value, Options) else value)


def _values(field: FieldInfo) -> str:
    """Return the values of a field: names, or a type with its limits."""
    words = list(dict.fromkeys(_words(field.annotation)))
    limits = [
        f"{sign} {getattr(limit, kind):g}"
        for limit in field.metadata
        for kind, sign in LIMITS.items()
        if hasattr(limit, kind)
    ]
    optional = [word for word in words if word == NULL]
    rest = [word for word in words if word != NULL]
    if limits:
        rest = [f"{', '.join(rest)} {' and '.join(limits)}"]
    return ", ".join([*rest, *optional])


def _words(annotation: Any) -> Sequence[str]:  # noqa: ANN401 - any annotation
    if annotation is type(None):
        return [NULL]
    if annotation in PLAIN:
        return [PLAIN[annotation]]
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return [str(part) for part in parts]
    if origin is tuple:
        inner = ", ".join(dict.fromkeys(w for p in parts if p is not ... for w in _words(p)))
        return [f"[{inner}, ...]" if ... in parts else f"[{inner}]"]
    if origin in (typing.Union, types.UnionType, typing.Annotated):
        return [word for part in parts for word in _words(part)]
    if isinstance(annotation, type) and issubclass(annotation, Choice) and annotation.is_family():
        return list(annotation.kinds)
    if isinstance(annotation, type) and issubclass(annotation, Options):
        if "name" in annotation.model_fields:
            return _words(annotation.model_fields["name"].annotation)
        return ["options below"]
    return []
