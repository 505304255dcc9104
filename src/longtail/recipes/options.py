"""The whole configuration of a run, with all mistakes shown at once."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import (
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from longtail.config import Options
from longtail.config.choice import not_one_of
from longtail.core.errors import ConfigError
from longtail.core.words import shortened
from longtail.data.options import DataConfig
from longtail.engine.options import TrainingConfig
from longtail.methods import METHODS
from longtail.models.options import ModelConfig
from longtail.recipes.fields import fields, read_override, settled
from longtail.recipes.synonyms import NOT_OF_A_RUN, SYNONYMS

WANTED: Mapping[str, str] = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "a text",
}
BOUNDS: Mapping[str, str] = {
    "ge": "at least",
    "gt": "greater than",
    "le": "at most",
    "lt": "less than",
}
# by method: what an option was before it had a name, whatever its default is now
ONCE: Mapping[str, Mapping[str, Any]] = {
    "weight-balancing": {"ahead": False, "second_bn": "eval"},
    "decoupling": {"representation": {"frozen_bn": "eval"}},
}
# by method: options that are gone, with the value at which they did nothing
GONE: Mapping[str, Mapping[str, Any]] = {"single-head": {"plain_loss": 0.0}}


class RunConfig(Options):
    """Data, model, method and training of one run; what a recipe says."""

    model_config = ConfigDict(serialize_by_alias=True, populate_by_name=True)

    recipe: str = Field("unnamed", description="name for people, tables and folders")
    description: str = Field("", description="one line: what it does and when to use it")
    data: DataConfig = Field(description="where the images come from")
    model: ModelConfig = ModelConfig()
    method: SerializeAsAny[Options] = Field(
        description="how the network learns; see `longtail methods`"
    )
    training: TrainingConfig = TrainingConfig()
    start: str | None = Field(
        None,
        alias="from",
        description="run (or folder of seeds) whose first stage is reused instead of trained",
    )

    @field_validator("method", mode="before")
    @classmethod
    def _find_method(cls, value: Any) -> Any:  # noqa: ANN401 - raw input of a recipe
        raw = {"name": value} if isinstance(value, str) else value
        if isinstance(raw, Options):
            return raw
        if not isinstance(raw, Mapping):
            raise ValueError(f"must be the name of a method or its options ({', '.join(METHODS)})")
        name = raw.get("name")
        if not isinstance(name, str) or name not in METHODS:
            raise ValueError(f"there is no method {not_one_of(str(name), METHODS)}")
        return METHODS[name].Config.model_validate(raw)

    @model_validator(mode="after")
    def _additions_are_trained(self) -> RunConfig:
        added = "low_rank" if self.model.low_rank is not None else "adapter"
        train = getattr(self.method, "train", None)
        if getattr(self.model, added) is not None and train in ("head", "nothing"):
            raise ValueError(
                f"model.{added} adds to the backbone what train={train} would never train; leave one of them "
                "out"
            )
        return self

    @model_validator(mode="after")
    def _sharpness_is_minimised(self) -> RunConfig:
        if getattr(self.method, "sharpness", None) is None:
            return self
        if self.training.optimizer != "sam":
            raise ValueError(
                "method.sharpness says what SAM flattens, so it needs training.optimizer=sam"
            )
        if self.training.compile:
            raise ValueError(
                "method.sharpness takes two gradients of one pass, which compiled parts do not keep; leave "
                "training.compile=true or method.sharpness out"
            )
        return self

    @property
    def method_name(self) -> str:
        """Name of the method in the table."""
        return str(getattr(self.method, "name", ""))

    def can_start_from(self, other: RunConfig) -> bool:
        """Say whether this run would train the same first stage as `other`, seeds aside."""
        aside = {"seed": 0, "tracker": "none"}
        return (
            (self.data, self.model, self.method_name)
            == (other.data, other.model, other.method_name)
            and self.training.model_copy(update=aside) == other.training.model_copy(update=aside)
            and METHODS[self.method_name].shares_first_stage(self.method, other.method)
        )


def validate(raw: Mapping[str, Any], source: str, mistakes: Sequence[str] = ()) -> RunConfig:
    """Check a raw configuration.

    Args:
        raw: As read from YAML with overrides applied.
        source: Where it comes from, for the message.
        mistakes: Found already, see `assign`; they are told with the others.

    Raises:
        ConfigError: Listing every mistake, each with its key and, for an unknown one, the nearest
            valid name.
    """
    lines = list(mistakes)
    try:
        config = RunConfig.model_validate(settled(RunConfig, raw))
    except ValidationError as error:
        valid = set(valid_keys(raw))
        lines += [_describe(detail, valid) for detail in error.errors()]
    lines = list(dict.fromkeys(lines))
    if not lines:
        return config
    count = "1 mistake" if len(lines) == 1 else f"{len(lines)} mistakes"
    raise ConfigError("\n  ".join([f"{count} in {source}:", *lines]))


def validate_stored(raw: Any, source: str) -> RunConfig:  # noqa: ANN401 - as read from a file
    """Check a resolved configuration that this or an earlier version wrote.

    Args:
        raw: As read; options that did not exist then get the value of what was done then.
        source: Where it comes from, for the message.

    Raises:
        ConfigError: If it is no configuration, or of a version whose options are no more.
    """
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{source} does not contain the configuration of a run.")
    return validate(_as_now(raw), source)


def read_stored(raw: Any) -> RunConfig | None:  # noqa: ANN401 - as read from a file
    """Return a stored configuration, or None where `validate_stored` would say what is wrong with it."""
    if not isinstance(raw, Mapping):
        return None
    try:
        return RunConfig.model_validate(settled(RunConfig, _as_now(raw)))
    except ValidationError:
        return None


def _as_now(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a stored configuration with what was done before some of its options existed."""
    method, data, training = (raw.get(part) for part in ("method", "data", "training"))
    if isinstance(method, Mapping):
        gone = GONE.get(str(method.get("name")), {})
        kept = {k: v for k, v in method.items() if k not in gone or gone[k] != v}
        raw = {**raw, "method": _under(ONCE.get(str(method.get("name")), {}), kept)}
    if isinstance(data, Mapping) and isinstance(training, Mapping) and _draws_a_split(data):
        raw = {
            **raw,
            "data": {"split_seed": training.get("seed", 0), **data},
        }  # it was the same once
    return raw


def _under(once: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return `given` with what it lacks from `once`, part by part."""
    parts = {
        key: _under(value, given[key])
        for key, value in once.items()
        if isinstance(value, Mapping) and isinstance(given.get(key), Mapping)
    }
    return {**once, **given, **parts}


def _draws_a_split(data: Mapping[str, Any]) -> bool:
    return data.get("name") in ("folder", "table") or data.get("validation_per_class") is not None


def valid_keys(raw: Mapping[str, Any]) -> Iterator[str]:
    """Yield every dotted key that a configuration with these data and method names may have."""
    return (key for key, _ in fields(RunConfig, raw))


def assign(raw: dict[str, Any], overrides: Sequence[str]) -> list[str]:
    """Apply `key=value` overrides to a raw configuration, in place.

    A key may be shortened to its last parts where that is unambiguous: `epochs=40` means
    `training.epochs=40`, `loss=ldam` means `method.loss=ldam`. How a value is read, the type of its field
    says: see `longtail.recipes.fields.read_override`.

    Returns:
        What is wrong with those that could not be applied: malformed, unknown or ambiguous.
    """
    if isinstance(overrides, str | Mapping):
        given = "a text" if isinstance(overrides, str) else "a mapping"
        return [
            f'overrides are a list, for example ["epochs=40", "loss=ldam"], but this is {given}'
        ]
    problems = []
    pairs = []
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key:
            problems.append(f"{text!r} is not an override; write key=value, for example epochs=40")
        else:
            pairs.append((key.strip(), value))
    # short keys may choose a method or loss whose own keys the longer ones name
    for key, value in sorted(pairs, key=lambda pair: pair[0].count(".")):
        types = dict(fields(RunConfig, raw))
        try:
            full = _full_key(key, sorted(types))
        except ConfigError as error:
            problems.append(str(error))
            continue
        _put(raw, full.split("."), read_override(types[full], value))
    return problems


def _full_key(key: str, valid: Sequence[str]) -> str:
    if key in valid:
        return key
    found = [full for full in valid if full.endswith(f".{key}")]
    if found:
        depth = min(full.count(".") for full in found)
        nearest = [full for full in found if full.count(".") == depth]
        if len(nearest) == 1:
            return nearest[0]
        raise ConfigError(f"{key} is ambiguous: {', '.join(nearest)}")
    raise ConfigError(unknown_key(key, valid))


def unknown_key(key: str, valid: Sequence[str]) -> str:
    """Say that there is no such key, and which valid one is nearest."""
    parent, _, last = key.rpartition(".")
    if key in NOT_OF_A_RUN:
        return f"{key} is not a key: {NOT_OF_A_RUN[key]}"
    if last in SYNONYMS:
        meant = [full for full in valid if full.rpartition(".")[2] == SYNONYMS[last]]
        if meant:
            return (
                f"{key} is not a key; did you mean {min(meant, key=lambda full: full.count('.'))}?"
            )
    # `learningrate` and `learning-rate`
    joined = [full for full in valid if _letters(full.rpartition(".")[2]) == _letters(last)]
    if joined:
        return f"{key} is not a key; did you mean {min(joined, key=lambda full: full.count('.'))}?"
    beside = {full.rpartition(".")[2]: full for full in valid if full.rpartition(".")[0] == parent}
    deepest_first = sorted(valid, key=lambda full: -full.count("."))
    anywhere = {full.rpartition(".")[2]: full for full in deepest_first} | {x: x for x in valid}
    # the keys beside it come first; but of short keys, a slip (`leraning_rate`) before a faint likeness
    tries = [(beside, last, 0.5), (anywhere, key, 0.5), (anywhere, last, 0.5)]
    if not parent:
        tries = [(beside, last, 0.8), (anywhere, last, 0.8), *tries]
    for names, text, cutoff in tries:
        if near := difflib.get_close_matches(text, names, n=1, cutoff=cutoff):
            return f"{key} is not a key; did you mean {names[near[0]]}?"
    return f"{key} is not a key"


def _letters(word: str) -> str:
    return re.sub(r"[\W_]", "", word).lower()


def _put(raw: dict[str, Any], parts: Sequence[str], value: Any) -> None:  # noqa: ANN401 - YAML
    *parents, last = parts
    for part in parents:
        inner = raw.get(part)
        if isinstance(inner, str):
            inner = {"name": inner}  # `loss: ldam` stands for `loss: {name: ldam}`
        raw[part] = dict(inner) if isinstance(inner, Mapping) else {}
        raw = raw[part]
    raw[last] = value


def _wanted(detail: ErrorDetails) -> str:
    """Say what a value must be, where its type or its size is wrong; empty for other mistakes."""
    kind, _, slip = detail["type"].partition("_")
    if slip in ("type", "parsing", "from_float") and kind in WANTED:
        return WANTED[kind]
    bounds = detail.get("ctx", {})
    return next((f"{say} {bounds[b]:g}" for b, say in BOUNDS.items() if b in bounds), "")


def _describe(detail: ErrorDetails, valid: set[str]) -> str:
    place = [str(part) for part in detail["loc"]]
    parts = _kept(place, valid)
    listed = next((part + 1 for part in detail["loc"] if isinstance(part, int)), None)
    if detail["type"] == "extra_forbidden" and listed is not None:
        return f"{'.'.join(parts)}, number {listed}: {place[-1]} is not a key"
    if detail["type"] == "extra_forbidden":
        return unknown_key(".".join([*parts, place[-1]]), sorted(valid))
    key = ".".join(parts) or "the recipe"
    if detail["type"] == "missing":
        return f"{key} is missing"
    if detail["type"] == "union_tag_not_found":
        return f"{key} is missing its name"
    if detail["type"] == "union_tag_invalid":
        known = [tag.strip("' ") for tag in detail["ctx"]["expected_tags"].split(",")]
        return f"{key}: there is no {not_one_of(detail['ctx']['tag'], known)}"
    if detail["type"] == "no_choice":
        text = detail["msg"]
        return f"{key} {text}" if text.startswith(("is ", "must ")) else f"{key}: {text}"
    message = detail["msg"].removeprefix("Value error, ")
    given = detail.get("input")
    if wanted := _wanted(detail):
        return f"{key} must be {wanted}, but is {shortened(repr(given))}"
    shown = "" if isinstance(given, Mapping | Options) else f", but got {shortened(repr(given))}"
    return f"{key}: {message}{shown}"


def _kept(parts: Sequence[str], valid: set[str]) -> list[str]:
    """Drop what is no key: a discriminated union puts the chosen name into the place."""
    kept: list[str] = []
    for part in parts:
        if ".".join([*kept, part]) in valid:
            kept.append(part)
    return kept
