"""Options of which a name chooses the kind: `loss: ldam`, or `loss: {name: ldam, max_margin: 0.3}`."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, GetCoreSchemaHandler, SerializationInfo
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from longtail.config.options import Options


class Choice(Options):
    """Base of a family of options, for example of all losses.

    A direct subclass is a family, and a field of that type takes any of its kinds. A class below the
    family that has a name is a kind, wherever it is defined: what a plug-in adds is known at once.
    """

    kinds: ClassVar[dict[str, type[Options]]] = {}

    @classmethod
    def is_family(cls) -> bool:
        """Say whether this class is a family and not one of its kinds."""
        return cls.__mro__[2] is Options

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:  # noqa: ANN401 - pydantic's own
        """Begin a family, or add a kind to its family."""
        if cls.is_family():
            cls.kinds = {}
            return
        for name in typing.get_args(cls.model_fields["name"].annotation):
            known = cls.kinds.get(name)
            if known is not None and known.__module__ != cls.__module__:
                raise TypeError(f"there is a {name!r} already, in {known.__module__}")
            cls.kinds[name] = cls

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: type[BaseModel], handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Let a field of the family's type be read and written as the kind that its name chooses."""
        if not cls.is_family():
            return handler(source)
        return core_schema.no_info_plain_validator_function(
            cls._choose,
            serialization=core_schema.plain_serializer_function_ser_schema(_dumped, info_arg=True),
        )

    @classmethod
    def _choose(cls, value: Any) -> Options:  # noqa: ANN401 - raw input of a recipe
        if isinstance(value, cls):
            return value
        raw = {"name": value} if isinstance(value, str) else value
        if not isinstance(raw, Mapping):
            raise PydanticCustomError("no_choice", "must be a name or options with a name")
        if "name" not in raw:
            raise PydanticCustomError("no_choice", "is missing its name")
        name = raw["name"]
        if not isinstance(name, str) or name not in cls.kinds:
            raise PydanticCustomError(
                "no_choice", "there is no {what}", {"what": not_one_of(str(name), cls.kinds)}
            )
        return cls.kinds[name].model_validate(raw)


def not_one_of(name: str, known: Iterable[str]) -> str:
    """Say what is not known, which known name is nearest, and what all of them are."""
    names = list(known)
    near = difflib.get_close_matches(name.lower(), names, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"{name!r}{hint} (known: {', '.join(names)})"


def _dumped(value: Options, info: SerializationInfo) -> dict[str, Any]:
    return value.model_dump(mode=info.mode, by_alias=info.by_alias)
