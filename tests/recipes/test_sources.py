"""Recipes that say what they do: who set a value, where it is from, whether it matters."""

import json
import re
import sys
from pathlib import Path

import pytest
import yaml

from longtail import recipes
from longtail.cli import main
from longtail.core import ConfigError
from longtail.recipes import (
    describe,
    in_effect,
    read_layers,
    recipe_names,
    resolve,
    without_effect,
)

SAYING = recipe_names()


def values_of(source, overrides=()):
    return {value.key: value for value in describe(source, overrides).values}


def leaves(content, prefix=""):
    for key, value in content.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def test_no_recipe_states_a_value_from_memory():
    folder = Path(recipes.__file__).parent
    for name in recipe_names():
        text = (folder / f"{name}.yaml").read_text()
        assert not re.search(r"from memory|(is|are) remembered", text), f"{name}: no source"


@pytest.fixture
def chain(tmp_path):
    """Write a recipe of two files; return the path of the upper one."""
    below, above = tmp_path / "below.yaml", tmp_path / "above.yaml"
    below.write_text(
        yaml.safe_dump(
            {
                "data": {"name": "digits"},
                "model": {"backbone": "resnet20"},
                "method": {"name": "single-head", "loss": "ldam", "head": "cosine"},
                "training": {"epochs": 8, "weight_decay": 1e-3},
                "source": {
                    "paper": "Somebody, 1999",
                    "all": "assumed",
                    "training": "their code",
                    "training.weight_decay": "section 4",
                },
            }
        )
    )
    above.write_text(
        yaml.safe_dump(
            {
                "extends": str(below),
                "description": "a recipe for this test",
                "training": {"epochs": 9},
                "source": {"training.epochs": "section 5", "inference": "section 6"},
                "differs": {"training": "batches of 64 there; here they do not fit"},
            }
        )
    )
    return above


def test_the_most_specific_source_of_the_nearest_file_counts(chain):
    values, below = values_of(str(chain)), str(chain.with_name("below.yaml"))
    said = {key: (value.set_by, value.source) for key, value in values.items()}
    assert said["training.epochs"] == (str(chain), "section 5")
    assert said["training.weight_decay"] == (below, "section 4")
    assert said["training.momentum"] == ("default", "their code")
    assert said["training.select"] == ("default", "section 6")
    assert said["method.loss.name"] == (below, "assumed")
    assert said["method.loss.max_margin"] == ("default", "assumed")
    assert said["training.seed"] == ("default", "")  # no paper's matter
    assert values["training.seed"].section == "run"
    assert values["training.nesterov"].differs.startswith("batches of 64")
    assert values["model.backbone"].differs == ""
    assert describe(str(chain)).paper == "Somebody, 1999"


def test_a_value_that_a_file_sets_has_no_source_from_below(chain):
    raw = yaml.safe_load(chain.read_text())
    del raw["source"]
    chain.write_text(yaml.safe_dump(raw))
    assert values_of(str(chain))["training.epochs"].source == ""


def test_an_override_is_said_to_be_one(chain):
    values = values_of(str(chain), ["epochs=3", "loss=balanced-softmax"])
    assert values["training.epochs"].set_by == values["method.loss.name"].set_by == "command line"
    assert values["training.epochs"].source == values["training.epochs"].differs == ""


def test_sources_reach_no_run(chain):
    plain = json.dumps(resolve(str(chain)).model_dump(mode="json"))
    assert "section" not in plain
    assert "there" not in plain


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ({"source": {"trainings": "x"}}, "source: trainings is not a key; did you mean training"),
        ({"source": {"method.tau": "x"}}, "source: method.tau is not a key"),
        ({"differs": {"epochs": "x"}}, "differs: epochs is not a key; did you mean training.epochs"),
        ({"source": {"training": 5}}, "source.training must be text"),
        ({"source": ["a"]}, "source must be text"),
        ({"differs": {"training": ""}}, "differs.training must be text"),
    ],
)  # fmt: skip
def test_wrong_sources_are_told(tmp_path, part, words):
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({"extends": "digits-lt/cross-entropy", **part}))
    with pytest.raises(ConfigError, match=words):
        resolve(str(file))


@pytest.mark.parametrize(
    ("recipe", "overrides", "idle", "busy"),
    [
        ("cifar100-lt/cross-entropy", [], ["method.reduction", "method.head.scale"],
         ["training.milestones", "training.warmup_start", "data.augmentation"]),
        ("cifar100-lt/cross-entropy", ["schedule=cosine"],
         ["training.milestones", "training.decay_factor"], ["training.schedule"]),
        ("cifar100-lt/cross-entropy", ["warmup=0"],
         ["training.warmup_start", "training.warmup_end"], ["training.milestones"]),
        ("cifar100-lt/cross-entropy", ["optimizer=adamw"],
         ["training.nesterov", "training.momentum"], ["training.weight_decay"]),
        ("cifar100-lt/cross-entropy", ["validation_per_class=2"], [],
         ["data.keep_in_train", "data.split_seed"]),
        ("cifar100-lt/cross-entropy-drw", [], [], ["method.reduction", "method.class_weights.beta"]),
        ("cifar100-lt/cross-entropy-drs", [], ["method.sampling.draws_per_class"],
         ["method.sampling.beta", "method.sampling.start"]),
        ("cifar100-lt/paco", [], ["data.augmentation", "method.weight", "method.probe_epochs"],
         ["method.alpha", "method.rebalance"]),
        ("cifar100-lt/supcon", [], ["method.alpha", "method.weight", "method.rebalance"],
         ["method.probe_epochs"]),
        ("cifar100-lt/sade", [], ["method.tilt"], ["method.head.scale"]),
        ("cifar100-lt/ride", [], [], ["method.tilt"]),
        ("cifar100-lt/reslt", [], ["method.pool_first"], ["method.alpha"]),
        ("imagenet-lt/reslt", [], ["training.milestones"], ["method.pool_first"]),
    ],
)  # fmt: skip
def test_what_changes_nothing_is_known(recipe, overrides, idle, busy):
    found = without_effect(resolve(recipe, overrides))
    assert set(idle) <= found.keys()
    assert not set(busy) & found.keys()


def test_what_changes_nothing_makes_no_other_experiment():
    cosine = ["schedule=cosine", "warmup=0"]
    one = in_effect(resolve("cifar100-lt/cross-entropy", cosine))
    assert "milestones" not in one["training"]
    other = [*cosine, "milestones=[0.1]", "warmup_start=0.9", "split_seed=4", "head.scale=5"]
    assert in_effect(resolve("cifar100-lt/cross-entropy", other)) == one
    assert in_effect(resolve("cifar100-lt/cross-entropy", [*cosine, "momentum=0.8"])) != one


def test_a_part_without_effect_goes_with_all_its_keys():
    trained = in_effect(resolve("cifar100-lt/foundation-small", []))
    assert "draws_per_class" not in trained["method"]["sampling"]
    alone = in_effect(
        resolve("cifar100-lt/foundation-small", ["train=nothing", "head_start=class-means"])
    )
    assert {"loss", "sampling"} <= set(trained["method"]) - set(alone["method"])


def call(monkeypatch, capsys, *line):
    monkeypatch.setattr(sys, "argv", ["longtail", "recipes", *map(str, line)])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code or 0, capsys.readouterr()


def test_the_command_shows_all_of_one_recipe(chain, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    status, out = call(monkeypatch, capsys, chain, "schedule=cosine")
    assert status == 0
    assert "Source: Somebody, 1999" in out.out
    assert "no effect: no stage uses steps" in out.out
    assert "] section 5" in out.out
    assert "differs from its source: training: batches of 64 there" in out.out
    assert "command line" in out.out
    status, out = call(monkeypatch, capsys, chain, "--json")
    values = {value["key"]: value for value in json.loads(out.out)["values"]}
    assert values["training.epochs"]["value"] == 9
    assert values["training.epochs"]["source"] == "section 5"
    status, out = call(monkeypatch, capsys, "reslt", "--json")
    assert "cifar100-lt/reslt" in [row["recipe"] for row in json.loads(out.out)]
    status, out = call(monkeypatch, capsys, "cifar100-lt/resltt")
    assert status == 2
    assert "Did you mean cifar100-lt/reslt" in " ".join(out.err.split())


@pytest.mark.parametrize("name", SAYING)
def test_a_recipe_shows_its_own_schedule(name):
    """Extend one recipe at most; below may lie the file that a benchmark shares: data and backbone."""
    layers = read_layers(name)
    shared = [layer for layer in layers if layer.name.rpartition("/")[2].startswith("_")]
    assert len(layers) - len(shared) <= 2, [layer.name for layer in layers]
    assert shared == layers[len(layers) - len(shared) :]
    assert len(shared) <= 1
    for layer in shared:
        assert set(layer.content) <= {"recipe", "data", "model"}


@pytest.mark.parametrize("name", SAYING)
def test_every_value_has_a_source(name):
    given = (v for v in describe(name).values if v.section != "run" and v.set_by != "command line")
    silent = [value.key for value in given if not value.source]
    assert not silent, f"say in `source:` of {name} where these are from: {', '.join(silent)}"


@pytest.mark.parametrize("name", SAYING)
def test_no_file_writes_down_what_changes_nothing(name):
    idle = {value.key for value in describe(name).values if value.no_effect}
    assert not idle & set(leaves(dict(read_layers(name)[0].content)))
