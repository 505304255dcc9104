"""YAML as people write it: every plain word keeps its text, and nothing grows or vanishes unseen.

YAML 1.1 takes `on` for true, `2021-01-01` for a date, `010` for 8 and `1:30` for 90. What a value is meant to
be only its field knows; so a value without quotes is read as `Plain`, with its text.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from longtail.core.errors import ConfigError

MOST_BYTES = 2_000_000
MOST_VALUES = 50_000  # with what aliases repeat
DEEPEST = 50
_TAG = "tag:yaml.org,2002:"
_SCALARS = {f"{_TAG}{name}" for name in ("str", "int", "float", "bool", "null", "timestamp")}


@dataclass(frozen=True)
class Plain:
    """A value that stands without quotes and is no text to YAML.

    Attributes:
        value: What YAML takes it for: a number, a truth value, a date, nothing.
        text: What was written.
    """

    value: Any
    text: str


def read_yaml(file: Path) -> Any:  # noqa: ANN401 - whatever it holds
    """Read a YAML file; see `parse_yaml`.

    Raises:
        ConfigError: If it cannot be read, is too large, or is no YAML.
    """
    try:
        if file.stat().st_size > MOST_BYTES:
            raise ValueError(f"it is larger than {MOST_BYTES:,} bytes")
        return parse_yaml(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file} cannot be read ({error.strerror or error}).") from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{file} cannot be read as YAML (it is not UTF-8 at byte {error.start})."
        ) from error
    except ValueError as error:
        raise ConfigError(f"{file} cannot be read as YAML ({error}).") from error


def parse_yaml(text: str) -> Any:  # noqa: ANN401 - whatever it holds
    """Return mappings with keys of text, lists, texts, and `Plain` for every other value.

    Raises:
        ValueError: In words, if it is no YAML, names a key twice, has a tag of a program's own, or is larger
            (aliases can repeat themselves without end) or deeper than a person would write.
    """
    loader = yaml.SafeLoader("")
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        return None if node is None else _Builder(loader).build(node, 0)
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        what = ", ".join(part for part in (error.context, error.problem) if part)
        raise ValueError(f"{line}{what}") from error
    except yaml.YAMLError as error:
        raise ValueError(str(error).splitlines()[0]) from error
    except RecursionError as error:
        raise ValueError(f"it is nested more than {DEEPEST} levels deep") from error
    finally:
        loader.dispose()


def values(tree: Any) -> Any:  # noqa: ANN401 - as read
    """Return a tree with what YAML takes each plain word for."""
    if isinstance(tree, Plain):
        return tree.value
    if isinstance(tree, Mapping):
        return {key: values(value) for key, value in tree.items()}
    return [values(value) for value in tree] if isinstance(tree, list) else tree


class _Builder:
    """Builds values from YAML's nodes and counts them."""

    def __init__(self, loader: yaml.SafeLoader) -> None:
        self._loader = loader
        self._built = 0

    def build(self, node: yaml.Node, depth: int) -> Any:  # noqa: ANN401 - whatever it holds
        self._built += 1
        if self._built > MOST_VALUES:
            raise ValueError(f"it holds more than {MOST_VALUES:,} values")
        if depth > DEEPEST:
            raise ValueError(f"it is nested more than {DEEPEST} levels deep")
        if isinstance(node, yaml.MappingNode):
            self._require_tag(node, "map")
            return dict(self._pairs(node, depth + 1))
        if isinstance(node, yaml.SequenceNode):
            self._require_tag(node, "seq")
            return [self.build(item, depth + 1) for item in node.value]
        assert isinstance(node, yaml.ScalarNode), "YAML has no fourth kind"
        return self._scalar(node)

    def _pairs(self, node: yaml.MappingNode, depth: int) -> Iterator[tuple[str, Any]]:
        seen: set[Hashable] = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise ValueError(f"line {key.start_mark.line + 1}: a key must be a word")
            if key.tag == f"{_TAG}merge":
                for part in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    if not isinstance(part, yaml.MappingNode):
                        raise ValueError(f"line {key.start_mark.line + 1}: << needs a mapping")
                    # own keys come on top, wherever they stand
                    own = {k.value for k, _ in node.value}
                    yield from (p for p in self._pairs(part, depth) if p[0] not in own)
                continue
            if key.value in seen:
                raise ValueError(
                    f"line {key.start_mark.line + 1}: the key {key.value!r} occurs twice"
                )
            seen.add(key.value)
            yield key.value, self.build(value, depth)

    def _scalar(self, node: yaml.ScalarNode) -> Any:  # noqa: ANN401 - whatever it holds
        text: str = node.value
        if node.tag not in _SCALARS:
            if node.style is None and text == "=":
                return text  # a relic of YAML 1.1
            self._require_tag(node, "str")
        try:
            value = self._loader.construct_object(node)
        except (ValueError, OverflowError):  # the 45th of a month, a number of 5,000 digits
            return text
        return value if isinstance(value, str) else Plain(value, text)

    @staticmethod
    def _require_tag(node: yaml.Node, name: str) -> None:
        if node.tag != f"{_TAG}{name}":
            raise ValueError(
                f"line {node.start_mark.line + 1}: the tag {node.tag} is not supported"
            )
