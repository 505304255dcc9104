"""Which recipe a training on somebody's own images starts from.

Three recipes, by what is asked for:

- `images/frozen-features`: a classifier on the features of a pretrained network; without options, or where
  weights are named.
- `images/fine-tuning`: a pretrained network that is trained further; where options ask for it, such as
  train=all or low_rank=8.
- `images/balanced-softmax`: a network from nothing; where a backbone is named without weights,
  pretrained=false is given, or another method than the single head. Without options, where the images are
  grey and many, see `longtail.recipes.settling`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from longtail.config.yaml_text import Plain
from longtail.recipes.options import assign

FROZEN, FINE_TUNING, FROM_NOTHING = (
    f"images/{name}" for name in ("frozen-features", "fine-tuning", "balanced-softmax")
)
OWN_IMAGES = (FROZEN, FINE_TUNING, FROM_NOTHING)
# options of a single head that train the backbone, or show it each image in many ways
TRAINS = ("method.train", "method.augment", "method.mixing", "method.backbone_rate", "model.low_rank",
          "model.adapter", "data.augmentation")  # fmt: skip


def recipe_for(raw: Mapping[str, Any], overrides: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Return the recipe that own images start from, and what is to be changed in its `model:` part.

    Args:
        raw: The recipe for frozen features with the data.
        overrides: Of the user; mistakes in them are for whoever applies them.
    """
    changed = copy.deepcopy(dict(raw))
    before = dict(leaves(copy.deepcopy(changed)))
    assign(changed, overrides)
    asked = {k: _value(v) for k, v in leaves(changed) if k not in before or before[k] != v}
    weights = asked.get("model.weights") is not None or asked.get("model.pretrained") is True
    single = asked.get("method.name", asked.get("method", "single-head")) == "single-head"
    refused = asked.get("model.pretrained") is False or asked.get("model.weights", "") is None
    nothing = refused or "model.width" in asked or not single
    if (nothing or "model.backbone" in asked) and not weights:
        return FROM_NOTHING, {}
    if not single:
        return FROM_NOTHING, {}
    recipe = FINE_TUNING if any(key in asked for key in TRAINS) else FROZEN
    return recipe, {"weights": None} if asked.get("model.pretrained") is True else {}


def leaves(raw: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted key and value of everything that a raw configuration says."""
    for key, value in raw.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _value(value: Any) -> Any:  # noqa: ANN401 - raw YAML
    return value.value if isinstance(value, Plain) else value
