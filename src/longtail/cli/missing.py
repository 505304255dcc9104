"""Paths among the arguments that do not exist, told before the verb is imported: PyTorch takes seconds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from longtail.cli import sketches
from longtail.core.missing import is_there, no_data, no_images, no_model, no_run, no_source
from longtail.recipes.catalogue import catalogue

OF_ONE_RUN = ("evaluate", "predict", "calibrate", "suggest", "serve", "export", "push")
OF_RUNS = ("report", "ensemble")
OF_A_SOURCE = ("train", "compare", "features", "text-head", "labels")
OF_THE_HUB = "hf-hub:"


def missing_path(verb: str, rest: Sequence[str]) -> str:
    """Return the error for the first argument that must exist and does not; empty if there is none.

    Args:
        verb: That is called.
        rest: The words after it.
    """
    sketch = sketches.sketches()[verb]
    if rest and rest[0] in sketch.get("commands", {}):
        verb, sketch, rest = rest[0], sketch["commands"][rest[0]], rest[1:]
    known = sketch.get("options", {})
    given = sketches.arguments(known, rest)
    # of an option that is unknown, it is not known whether the next word is its value
    options = [word.partition("=")[0] for word in rest if word.startswith("-") and word != "-"]
    if not given or sketches.HELP in rest or any(option not in known for option in options):
        return ""
    if verb == "inspect" and is_there(given[0]) is False:
        return no_data(Path(given[0]))
    if verb == "adjust":
        return next((no_model(Path(each)) for each in given if is_there(each) is False), "")
    if verb in OF_A_SOURCE and _is_unknown(given[0]):
        return no_source(given[0], catalogue().recipes)
    runs = given if verb in OF_RUNS else given[:1] if verb in OF_ONE_RUN else []
    for run in runs:
        if is_there(run) is False and not run.startswith(OF_THE_HUB):
            return no_run(Path(run))
    others = _value("--data", rest) if verb == "evaluate" else ""
    if others and is_there(others) is False:
        return no_data(Path(others))
    images = given[1:] if verb == "predict" and is_there(given[0]) is not None else []
    if images and all(map(_is_no_image, images)):
        return no_images(images)
    return ""


def _value(option: str, rest: Sequence[str]) -> str:
    """Return what is given for an option; empty if nothing is."""
    for word, following in zip(rest, [*rest[1:], ""], strict=True):
        name, equals, value = word.partition("=")
        if name == option:
            return value if equals else following
    return ""


def _is_unknown(source: str) -> bool:
    """Say whether a source is neither there, nor a recipe, nor an override in the place of one."""
    shared = source.rpartition("/")[2].startswith("_")  # what recipes have in common is not listed
    return (
        is_there(source) is False
        and not shared
        and "=" not in source
        and (source not in catalogue().recipes)
    )


def _is_no_image(name: str) -> bool:
    return is_there(name) is False and not name.startswith(("http://", "https://"))
