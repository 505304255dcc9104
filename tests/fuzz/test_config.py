"""Recipes and `key=value` from anywhere: they are refused in words, or a run begins and ends."""

import os

import numpy as np
import pytest
import yaml
from PIL import Image

from longtail.core.errors import LongtailError
from longtail.recipes import resolve, valid_keys
from tests.fuzz.harness import longtail, run_fuzz
from tests.fuzz.mutate import mutate_bytes, mutate_tree, nasty_text, nasty_value, repr_of

RECIPE = {
    "description": "a run of a second",
    "data": {"name": "folder", "path": "../images", "image_size": 8, "test_share": 0.3},
    "model": {"backbone": "resnet20"},
    "method": {"name": "single-head", "loss": {"name": "ldam"}, "head": {"name": "cosine"},
               "class_weights": {"name": "effective-number", "start": 0.5}, "mixing": "mixup"},
    "training": {"epochs": 2, "batch_size": 4, "workers": 1, "milestones": [0.5, 0.9]},
}  # fmt: skip
SMALL = {"epochs": 2, "batch_size": 16, "workers": 4, "seed": 2**70, "checkpoint_every": 2**70}


@pytest.fixture
def place(tmp_path):
    generator = np.random.default_rng(0)
    for name, size in {"ant": 8, "bee": 5, "cow": 4}.items():
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(size):
            pixels = generator.integers(0, 255, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{number}.png")
    return tmp_path


def dump(tree):
    try:
        return yaml.safe_dump(tree, allow_unicode=True).encode("utf-8", "surrogatepass")
    except (yaml.YAMLError, RecursionError):
        return repr(tree).encode("utf-8", "surrogatepass")


def make(rng, folder):
    tree, overrides = RECIPE, []
    kind = rng.random()
    if kind < 0.4:
        tree = mutate_tree(rng, tree)
    text = dump(tree)
    if 0.4 <= kind < 0.6:
        text = mutate_bytes(rng, text)
    (folder / "mine.yaml").write_bytes(text)
    if kind >= 0.6:
        keys = sorted(valid_keys(RECIPE))
        for _ in range(rng.choice([1, 1, 2])):
            key = rng.choice(keys) if rng.random() < 0.9 else nasty_text(rng)
            if rng.random() < 0.3:
                key = key.rpartition(".")[2]
            overrides.append(f"{key}={value(rng)}")
    return ["train", "mine.yaml", "--out", "run", *map(argument, overrides)]


def value(rng):
    if rng.random() < 0.5:
        return nasty_text(rng)
    thing = nasty_value(rng)
    return (
        repr_of(thing) if isinstance(thing, int | float) else dump(thing).decode(errors="replace")
    )


def argument(text):
    """Return what a shell can hand over of a text."""
    return os.fsdecode(text.encode("utf-8", "surrogateescape" if text.isascii() else "replace"))[
        :100_000
    ].replace("\0", "")


def small(arguments):
    """Say whether a training takes a second; what is no recipe at all does."""
    try:
        config = resolve(
            arguments[1], [change for change in arguments[4:] if not change.startswith("-")]
        )
    except LongtailError:
        return True
    training, model = config.training, config.model
    return (
        all(getattr(training, key) <= most for key, most in SMALL.items())
        and (model.backbone, model.width, model.low_rank) == ("resnet20", 1, None)
        and not (training.compile or model.pretrained or model.enlarge_to)
        and config.data.name in ("folder", "digits")
        and (getattr(config.data, "image_size", 8) or 8) <= 64
        and config.method_name == "single-head"
    )


def act(arguments, folder):
    if small(arguments):
        return longtail(*arguments)
    return None  # a valid recipe, only long


def check(arguments, outcome, folder):
    if outcome is None:
        return None
    if "--help" in outcome.out or "Usage:" in outcome.out:
        return None
    return None if "run folder: " in outcome.out else "no run folder is named"


def test_configurations(inputs, place, monkeypatch):
    (place / "mine.yaml").write_bytes(dump(RECIPE).replace(b"../images", b"images"))
    monkeypatch.chdir(place)
    undamaged = longtail("train", "mine.yaml", "--out", "run")
    assert undamaged.status == 0, undamaged.err
    run_fuzz("config", make, act, place, check=check, inputs=inputs).require()
