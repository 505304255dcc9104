"""Where the values of a recipe are from, and where a recipe keeps away from its source on purpose.

A recipe says so beside its values, most specific key first, and nothing of it reaches a run:

    source:
      paper: "Cui et al., TPAMI 2022, section 4.1"          # to cite; of no value by itself
      training: "ResLT-CIFAR of the released code"           # a section
      training.weight_decay: "the same; the paper is silent" # or a key
    differs:
      training.last_batch: "published: keep; here every epoch has whole batches"
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, ValidationError, field_validator

from longtail.config import Options
from longtail.core.errors import ConfigError
from longtail.recipes.options import unknown_key, valid_keys

KEYS = ("source", "differs")  # of a recipe's file
EVERYTHING = "all"
PAPER = "paper"
INFERENCE = "inference"
# what says how a trained network is chosen and predicts, by method; "" is for every method
AT_INFERENCE: Mapping[str, frozenset[str]] = {
    "": frozenset({"training.select", "training.ema"}),
    "tde": frozenset({"method.alpha"}),
    "reslt": frozenset({"method.gamma", "method.combine", "method.pool_first"}),
    "do": frozenset({"method.mixture", "method.test_views"}),
}
# what no paper states: how and where a run is computed, not what it is
OF_THE_RUN = frozenset(
    f"{part}.{key}"
    for part, keys in {
        "data": ("root", "lists", "path", "download", "cache", "on_bad_image"),
        "training": (
            "accumulate", "precision", "channels_last", "compile", "joint_norm", "watch_test",
            "checkpoint_every", "workers", "tracker", "seed",
        ),
    }.items()
    for key in keys
)  # fmt: skip
Words = Annotated[str, Field(min_length=1)]


class Sources(Options):
    """The `source:` and `differs:` of one file of a recipe."""

    source: Mapping[str, Words] = Field(
        default_factory=dict,
        description="where values come from: `paper` to cite, then a section, a dotted key, or `all`",
    )
    differs: Mapping[str, Words] = Field(
        default_factory=dict,
        description="keys whose values differ from the publication, with the difference and the reason",
    )

    @field_validator("source", mode="before")
    @classmethod
    def _of_everything(cls, value: Any) -> Any:  # noqa: ANN401 - raw input of a recipe
        return {EVERYTHING: value} if isinstance(value, str) else value

    def of(self, key: str, section: str) -> str:
        """Return where the value of a dotted key is from, or an empty text.

        Args:
            key: Of the resolved configuration.
            section: In which it is shown, see `section_of`.
        """
        parts = key.split(".")
        asked = [".".join(parts[:size]) for size in range(len(parts), 0, -1)]
        asked.insert(-1, section)  # of inference: before the part of the file it stands in
        return next((self.source[k] for k in [*asked, EVERYTHING] if k in self.source), "")

    def mistakes(self, raw: Mapping[str, Any]) -> list[str]:
        """Return what is wrong with the keys: each must be one that the recipe `raw` can have."""
        valid = sorted(set(valid_keys(raw)))
        words = {EVERYTHING, PAPER, INFERENCE}
        return [
            f"{part}: {unknown_key(key, valid)}"
            for part, keys, known in (
                (KEYS[0], self.source, words), (KEYS[1], self.differs, set()),
            )
            for key in keys
            if key not in known and key not in valid
        ]  # fmt: skip


def section_of(key: str, method: str) -> str:
    """Return the section in which a key is shown: data, model, method, training, inference or run."""
    if key in OF_THE_RUN:
        return "run"
    if key in AT_INFERENCE[""] or key in AT_INFERENCE.get(method, ()):
        return INFERENCE
    return key.partition(".")[0]


def read_sources(raw: Mapping[str, Any], file: str) -> Sources:
    """Check the `source:` and `differs:` of a file.

    Raises:
        ConfigError: If they are no mappings of keys to texts.
    """
    try:
        return Sources.model_validate(dict(raw))
    except ValidationError as error:
        places = {".".join(str(part) for part in detail["loc"]) for detail in error.errors()}
        raise ConfigError(
            f"{file}: {', '.join(sorted(places))} must be text: `source:` and `differs:` map keys "
            "(training, method.alpha, all) to where the value comes from, or why it differs."
        ) from None
