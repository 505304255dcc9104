"""Recipes: data, method, backbone and training, as YAML; no option is declared here but those of a run.

Names are imported when they are first asked for: `recipes.catalogue` and `recipes.measured` need no PyTorch.
"""

from typing import TYPE_CHECKING

from longtail.core.lazy import names_from

if TYPE_CHECKING:
    from longtail.recipes.catalogue import Described, Value
    from longtail.recipes.described import describe
    from longtail.recipes.effects import in_effect, without_effect
    from longtail.recipes.options import RunConfig, read_stored, valid_keys, validate_stored
    from longtail.recipes.shipped import read_layers, read_recipe, recipe_names, resolve

__all__ = [
    "Described",
    "RunConfig",
    "Value",
    "describe",
    "in_effect",
    "read_layers",
    "read_recipe",
    "read_stored",
    "recipe_names",
    "resolve",
    "valid_keys",
    "validate_stored",
    "without_effect",
]

__getattr__, __dir__ = names_from(
    __name__,
    {
        "catalogue": "Described Value",
        "described": "describe",
        "effects": "in_effect without_effect",
        "options": "RunConfig read_stored valid_keys validate_stored",
        "shipped": "read_layers read_recipe recipe_names resolve",
    },
)
