"""Every recipe against what is published: the learning rate epoch by epoch, and what else a paper states.

`tests/published/*.yaml` are written from the papers and released codes, not from the recipes. An entry has

    recipes       names, * for any rest
    read          where each of the values was read
    epochs, batch, momentum, nesterov, weight_decay
    last_batch    keep or drop: whether the partial batch that ends an epoch is trained
    rates         learning rate from an epoch (from 1) on, until the next; a number, or a formula in e
    augmentation  policy of the images; or `views`, of a method that names its views
    backbone      as a recipe names it, or words where it is none of ours
    then          later stages that train, in their order, or the `stage` by name. Of each: epochs, rates,
                  and where they are not the first stage's, batch, momentum, nesterov, weight_decay,
                  augmentation or views; sampling and factors (of the rate, by part) where they are stated
    unstated      later stages that train and of which the source states none of these, each with the reason
    silent        which of these the source does not state: the recipe must call its own value assumed
    elsewhere     keys of `differs:` that speak of a further source, not of the one that was read

What a recipe has otherwise must be said in its `differs:`, and nothing there may be as published.
"""

import math
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml

from longtail.core import ClassCounts, ShotGroups
from longtail.engine.schedule import rate_in_stage
from longtail.methods import METHODS, Setting
from longtail.recipes import describe, read_layers, recipe_names, resolve
from tests import tiny

FOLDER = Path(__file__).parents[1] / "published"
COUNTS = ClassCounts(
    [500, 400, 300, 250, 200, 150, 110, 90, 70, 50, 40, 30, 22, 18, 14, 11, 9, 7, 6, 5]
)
# what a later stage has as the first one has it, where nothing else is written down
PER_STAGE = ("batch", "momentum", "nesterov", "weight_decay", "augmentation", "views")
# what says that a value is not the published one
SAID = {
    "epochs": "training.epochs", "batch": "training.batch_size", "last_batch": "training.batch_size",
    "momentum": "training.momentum", "nesterov": "training.nesterov",
    "weight_decay": "training.weight_decay", "rates": "training.schedule",
    "augmentation": "data.augmentation", "views": "method.views", "backbone": "model.backbone",
    "sampling": "method", "factors": "method",
}  # fmt: skip


def entries(kind):
    for file in sorted(FOLDER.glob("*.yaml")):
        yield from yaml.safe_load(file.read_text()).get(kind, [])


def named(entry):
    return [name for name in recipe_names() if any(fnmatch(name, p) for p in entry["recipes"])]


PAIRS = [(name, entry) for entry in entries("published") for name in named(entry)]
UNPUBLISHED = [(name, entry) for entry in entries("unpublished") for name in named(entry)]


def stages_of(config):
    """Return the stages that train, of the method itself on a small network."""
    kind = METHODS[config.method_name]
    setting = Setting(
        COUNTS, ShotGroups.from_counts(COUNTS), config.training.epochs, tiny.backbone, tiny.experts,
        config.training.batch_size, config.training.learning_rate,
    )  # fmt: skip
    return [stage for stage in kind(config.method, setting).stages() if stage.kind == "train"]


def trace(config, stage):
    """Return the learning rate of every epoch of a stage, as the engine computes it."""
    return [rate_in_stage(config.training, stage, epoch) for epoch in range(stage.epochs)]


def written(rates, epochs):
    """Return the learning rate of every epoch as it is written down."""
    found = []
    for epoch in range(1, epochs + 1):
        rate = rates[max(begin for begin in rates if begin <= epoch)]
        if isinstance(rate, str):
            rate = eval(rate, {"__builtins__": {}}, {"cos": math.cos, "pi": math.pi, "e": epoch})
        found.append(rate)
    return found


def same(ours, theirs):
    return len(ours) == len(theirs) and ours == pytest.approx(theirs, rel=1e-5, abs=1e-12)


def held(stages, entry):
    """Return every stage with what is written down of it: else what is of the first."""
    by_name = {stage.name: stage for stage in stages}
    later, unstated = entry.get("then", ()), entry.get("unstated", {})

    def inherited(there):
        other_views = {"augmentation", "views"} & there.keys()
        skipped = {"augmentation", "views"} if other_views else set()
        return {k: entry[k] for k in PER_STAGE if k in entry and k not in skipped} | there

    rest = [stage for stage in stages[1:] if stage.name not in unstated]
    assert set(unstated) <= by_name.keys(), "no such stage"
    if any("stage" in there for there in later):
        rest = [by_name[there["stage"]] for there in later]
        assert {s.name for s in rest} | set(unstated) == {s.name for s in stages[1:]}
    assert len(rest) == len(later), f"stages without a published value: {[s.name for s in rest]}"
    return [(stages[0], entry), *((s, inherited(t)) for s, t in zip(rest, later, strict=True))]


def unequal(config, entry):
    """Return the keys of an entry whose value a stage of the recipe does not have, with ours and theirs."""
    training, stages = config.training, stages_of(config)
    found = {}
    if "backbone" in entry and config.model.backbone != entry["backbone"]:
        found["backbone"] = config.model.backbone, entry["backbone"]
    for stage, there in held(stages, entry):
        policies = [config.data.augmentation if v == "default" else v for v in stage.views]
        own, decay = stage.nesterov, stage.weight_decay
        ours = {
            "epochs": stage.epochs, "batch": training.batch_size, "last_batch": "drop",
            "momentum": training.momentum, "nesterov": training.nesterov if own is None else own,
            "weight_decay": training.weight_decay if decay is None else decay,
            "views": policies, "augmentation": policies[0],
            "sampling": stage.samplings[0].name, "factors": dict(stage.rates),
        }  # fmt: skip
        found |= {k: (ours[k], there[k]) for k in ours if k in there and ours[k] != there[k]}
        rates = trace(config, stage), written(there["rates"], there.get("epochs", stage.epochs))
        if not same(*rates):
            found["rates"] = rates
    return found


@pytest.mark.parametrize(("name", "entry"), PAIRS, ids=[name for name, _ in PAIRS])
def test_a_recipe_is_as_published_or_says_where_not(name, entry):
    config, described = resolve(name), describe(name)
    said, silent = described.differs, set(entry.get("silent", ()))
    assert {"epochs", "batch", "last_batch", "momentum", "nesterov", "weight_decay", "rates", "backbone",
            "read"} <= entry.keys() | silent  # fmt: skip
    assert not silent & entry.keys()
    assert ("augmentation" in entry) + ("views" in entry) + ("augmentation" in silent) == 1
    sources = {value.key: value.source for value in described.values}
    for key in silent - {"last_batch"}:
        assert "assumed" in sources[SAID[key]], f"no source states {key}: say that it is assumed"
    found = unequal(config, entry)
    for key, (ours, theirs) in found.items():
        assert SAID[key] in said, f"{key} is {ours}; published is {theirs}: say it in `differs:`"
    outdated = {SAID[key] for key in entry if key in SAID} - {SAID[key] for key in found}
    outdated -= set(entry.get("elsewhere", ()))
    assert not outdated & said.keys(), "as published, but `differs:` says otherwise"


@pytest.mark.parametrize(("name", "entry"), UNPUBLISHED, ids=[name for name, _ in UNPUBLISHED])
def test_a_recipe_that_nobody_published_says_so(name, entry):
    assert entry["why"]
    if entry.get("control"):
        return  # of ours, in a schedule whose parts are a paper's
    values = {value.key: value for value in describe(name).values}
    for key in (
        "training.epochs",
        "training.learning_rate",
        "training.weight_decay",
        "training.schedule",
    ):
        source = values[key].source
        assert source.startswith(("assumed", "ours")), f"{key}: {source}"


def test_every_recipe_is_written_down_once():
    names = [name for name, _ in PAIRS] + [name for name, _ in UNPUBLISHED]
    assert len(names) == len(set(names))
    assert set(recipe_names()) <= set(names), sorted(set(recipe_names()) - set(names))
    for kind in ("published", "unpublished"):
        for entry in entries(kind):
            for pattern in entry["recipes"]:
                assert any(fnmatch(name, pattern) for name in recipe_names()), (
                    f"no recipe {pattern}"
                )


def test_the_table_would_notice():
    """Change a recipe in each of the ways that an entry states."""
    entry = next(e for name, e in PAIRS if name == "cifar100-lt/gcl")
    assert set(unequal(resolve("cifar100-lt/gcl"), entry)) == {"last_batch"}
    for override, key in (
        ("nesterov=true", "nesterov"), ("warmup_start=0.3", "rates"), ("warmup=0.03", "rates"),
        ("milestones=[0.8, 0.905]", "rates"), ("learning_rate=0.11", "rates"), ("batch_size=128", "batch"),
        ("weight_decay=1e-4", "weight_decay"), ("augmentation=crop", "augmentation"),
        ("backbone=resnet20", "backbone"), ("second_rate=0.01", "rates"), ("epochs=199", "epochs"),
        ("momentum=0.8", "momentum"),
    ):  # fmt: skip
        assert key in unequal(resolve("cifar100-lt/gcl", [override]), entry), override


def test_the_table_would_notice_a_change_of_a_later_stage_alone():
    """Write down other values of the second stage, one at a time."""
    crt = next(e for name, e in PAIRS if name == "imagenet-lt/crt")
    mislas = next(e for name, e in PAIRS if name == "imagenet-lt/mislas")
    for name, entry, other in (
        ("imagenet-lt/crt", crt, {"nesterov": True}), ("imagenet-lt/crt", crt, {"batch": 256}),
        ("imagenet-lt/crt", crt, {"weight_decay": 0.0}), ("imagenet-lt/crt", crt, {"momentum": 0.0}),
        ("imagenet-lt/crt", crt, {"augmentation": "none"}), ("imagenet-lt/crt", crt, {"views": ["sim"]}),
        ("imagenet-lt/crt", crt, {"sampling": "instance"}), ("imagenet-lt/crt", crt, {"epochs": 9}),
        ("imagenet-lt/mislas", mislas, {"factors": {"head": 0.2}}),
    ):  # fmt: skip
        (later,) = entry["then"]
        changed = {**entry, "then": [{**later, **other}]}
        assert unequal(resolve(name), changed).keys() >= other.keys(), other
    with pytest.raises(AssertionError, match=r"stages without a published value: .*classifier"):
        unequal(resolve("imagenet-lt/crt"), {k: v for k, v in crt.items() if k != "then"})


def test_sources_of_what_is_published_name_no_assumption():
    """What the table has read somewhere is not called assumed as a whole."""
    for name, _ in PAIRS:
        for layer in read_layers(name):
            assert not layer.sources.source.get("all", "").startswith("assumed"), name
