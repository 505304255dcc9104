"""Recipes: data + method + backbone + training, as YAML."""

from longtail.recipes.config import RunConfig, valid_keys, validate_stored
from longtail.recipes.shipped import read_recipe, recipe_names, resolve

__all__ = ["RunConfig", "read_recipe", "recipe_names", "resolve", "valid_keys", "validate_stored"]
