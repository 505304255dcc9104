"""`longtail methods` and `longtail recipes`."""

from rich.table import Table

from longtail.cli.show import console
from longtail.methods import METHODS
from longtail.recipes import read_recipe, recipe_names


def methods() -> None:
    """List the methods and what each is for."""
    table = Table("method", "what it is", "options")
    for name, method in METHODS.items():
        options = [key for key in method.Config.model_fields if key != "name"]
        table.add_row(name, method.summary, ", ".join(options))
    console().print(table)


def recipes() -> None:
    """List the shipped recipes and what each does."""
    table = Table("recipe", "what it does")
    for name in recipe_names():
        table.add_row(name, str(read_recipe(name).get("description", "")))
    console().print(table)
    console().print("train one: longtail train RECIPE [key=value ...]", markup=False)
