"""The fields of a configuration: which keys there are, and how what was written is read for each."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from longtail.config import Choice, Options
from longtail.config.yaml_text import Plain, parse_yaml, values
from longtail.methods import METHODS

NULL = "null"  # what an optional field that takes any text is emptied with


def fields(model: type[Options], raw: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:  # noqa: ANN401
    """Yield the dotted key and the type of every field, for the method, loss, ... that `raw` names."""
    inside = raw if isinstance(raw, Mapping) else {}
    for attribute, field in model.model_fields.items():
        name = field.alias or attribute
        full = f"{prefix}{name}"
        yield full, field.annotation
        inner = inside.get(name)
        below = options_of(field.annotation, inner, None if field.is_required() else field.default)
        if below is not None:
            yield from fields(below, inner, f"{full}.")


def options_of(annotation: Any, raw: Any, default: Any = None) -> type[Options] | None:  # noqa: ANN401
    """Return the class of options that a field's raw value selects by its name, if it selects one."""
    candidates: list[type[Options]] = [kind for kind in _kinds(annotation) if _is_options(kind)]
    name = _name(raw)
    if candidates == [Options]:
        return METHODS[name].Config if name in METHODS else None
    candidates = [kind for one in candidates for kind in variants_of(one)]
    if len(candidates) <= 1:
        return candidates[0] if candidates else None
    if name is None and not (isinstance(raw, Mapping) and "name" in raw):
        name = getattr(default, "name", None)
    for candidate in candidates:
        if name in typing.get_args(candidate.model_fields["name"].annotation):
            return candidate
    return None


def variants_of(kind: type[Options]) -> list[type[Options]]:
    """Return the kinds of a family of options, each once; other options themselves."""
    if issubclass(kind, Choice) and kind.is_family():
        return list(dict.fromkeys(kind.kinds.values()))
    return [kind]


def read_override(annotation: Any, text: str) -> Any:  # noqa: ANN401 - by the field's type
    """Return the value of `key=text` for a field of this type.

    A field that takes any text or path gets it as it is; `null` empties it where it may be empty. Others are
    written as in a recipe.
    """
    kinds = list(_kinds(annotation))
    if str in kinds or Path in kinds:
        return None if text == NULL and type(None) in kinds else text
    try:
        read = parse_yaml(text) if text else ""
    except ValueError:
        return text
    return Plain(read.value, text.strip()) if isinstance(read, Plain) else read


def settled(annotation: Any, raw: Any, default: Any = None) -> Any:  # noqa: ANN401 - by the field's type
    """Return a raw value as a field of this type reads it: no `Plain` is left.

    Args:
        annotation: Type of the field.
        raw: As `longtail.config.yaml_text` reads it.
        default: Of the field, whose name counts where `raw` gives none.
    """
    if isinstance(raw, Plain):
        return _scalar(list(_kinds(annotation)), raw)
    if isinstance(raw, Mapping):
        model = options_of(annotation, raw, default)
        return values(raw) if model is None else _settled_fields(model, raw)
    if isinstance(raw, list):
        of_items = next((k for k in _kinds(annotation) if typing.get_origin(k) is tuple), None)
        parts = [part for part in typing.get_args(of_items) if part is not ...]
        if not parts:
            return values(raw)
        last = len(parts) - 1
        return [settled(parts[min(place, last)], item) for place, item in enumerate(raw)]
    return raw


def _settled_fields(model: type[Options], raw: Mapping[str, Any]) -> dict[str, Any]:
    by_name = {field.alias or name: field for name, field in model.model_fields.items()}
    return {
        key: settled(field.annotation, value, None if field.is_required() else field.default)
        if (field := by_name.get(key)) is not None
        else values(value)
        for key, value in raw.items()
    }


def _scalar(kinds: list[Any], plain: Plain) -> Any:  # noqa: ANN401 - by the field's type
    """Read a plain word: as nothing, text, name, number or truth value, whatever the field takes first."""
    value, text = plain.value, plain.text
    if value is None and type(None) in kinds:
        return None
    words = [word for kind in kinds for word in typing.get_args(kind) if isinstance(word, str)]
    if str in kinds or Path in kinds or text in words or any(map(_is_options, kinds)):
        return text
    if bool in kinds:
        return value if isinstance(value, bool) else text
    return _number(value, text) if int in kinds or float in kinds else value


def _number(value: Any, text: str) -> Any:  # noqa: ANN401 - a number if it is one
    """Read a number as people do: 010 is ten, 1:30 and true are none, and pydantic says so."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return value if text.lstrip("+-").lower() in (".inf", ".nan") else text


def _name(raw: Any) -> str | None:  # noqa: ANN401 - raw input
    if isinstance(raw, Mapping):
        raw = raw.get("name")
    if isinstance(raw, Plain):
        return raw.text
    return raw if isinstance(raw, str) else None


def _kinds(annotation: Any) -> Iterator[Any]:  # noqa: ANN401 - any type expression
    """Yield the types that a field may have, without unions and annotations around them."""
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        yield from _kinds(parts[0])
    elif origin in (typing.Union, types.UnionType):
        for part in parts:
            yield from _kinds(part)
    else:
        yield annotation


def _is_options(kind: Any) -> bool:  # noqa: ANN401 - any type
    return isinstance(kind, type) and typing.get_origin(kind) is None and issubclass(kind, Options)
