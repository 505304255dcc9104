"""Base of all configuration classes: unknown keys are errors, values never change."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, field_validator

from longtail.core.paths import expanded

LARGEST = 1e30  # of numbers that float32 computes with; products of two options still fit


def _place(path: Path) -> Path:
    if "\0" in str(path):
        raise ValueError("a path must not contain a zero byte")
    return expanded(path).absolute()


# absolute, so that a run finds its files from any working folder
Place = Annotated[Path, AfterValidator(_place)]


def _by_name(value: Any) -> Any:  # noqa: ANN401 - raw input of a recipe
    """Let `loss: ldam` stand for `loss: {name: ldam}`."""
    return {"name": value} if isinstance(value, str) else value


ByName = BeforeValidator(_by_name)


class Options(BaseModel):
    """Configuration with types and limits, read from YAML and `key=value`."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False
    )

    @field_validator("*")
    @classmethod
    def _can_be_computed_with(cls, value: Any) -> Any:  # noqa: ANN401 - of any option
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float) and abs(number) > LARGEST:
                raise ValueError(f"values must not exceed {LARGEST:g}")
            if isinstance(number, int) and abs(number) >= 2**63:
                raise ValueError("values must not exceed 2^63 - 1")
        return value

    def dotted(self) -> dict[str, Any]:
        """Return every option, dotted, with its value as JSON has it."""
        return dict(_dotted(self.model_dump(mode="json")))


def _dotted(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            yield from _dotted(inner, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", inner
