"""What `longtail options` and `longtail methods NAME` say is what a configuration may hold."""

import re

import pytest

from longtail.core import ConfigError
from longtail.methods import METHODS
from longtail.recipes import recipe_names, resolve
from longtail.recipes.explain import explained, options_of_methods, options_of_runs
from longtail.recipes.options import valid_keys


def rows_of(rows):
    return {row.key: row for row in rows}


@pytest.mark.parametrize("name", METHODS)
def test_every_key_of_every_method_is_explained(name):
    own = rows_of(explained(METHODS[name].Config, "method."))
    for recipe in recipe_names():
        config = resolve(recipe) if not recipe.startswith("images/") else None
        if config is None or config.method_name != name:
            continue
        raw = config.model_dump(mode="json", by_alias=True)
        known = {*own, *rows_of(options_of_runs()), "method.name", "data.name"}
        # a part is chosen by its own key: loss=ldam for loss.name
        keys = {key for key in valid_keys(raw) if not key.endswith(".name")}
        assert keys <= known, recipe


def test_values_and_limits_are_those_of_the_configuration():
    found = rows_of(options_of_runs()) | rows_of(
        explained(METHODS["single-head"].Config, "method.")
    )
    assert found["training.schedule"].values == "step, cosine, constant"
    assert found["training.momentum"].values == "number >= 0 and < 1"
    assert found["training.early_stopping"].values == "whole number >= 1, null"
    assert found["training.nesterov"].default == "true"
    assert found["training.milestones"].default == "[0.8, 0.9]"
    assert found["model.weights"].values == "auto, embedded, path, null"
    assert found["method"].values == ", ".join(METHODS)
    assert found["from"].default == "null"
    assert found["method.loss"].values.split(", ")[0] == "cross-entropy"
    assert found["method.loss.max_margin"].meaning.startswith("(ldam) ")
    assert found["data.keep_together"].meaning.startswith("(folder, table) ")
    epochs = rows_of(explained(METHODS["decoupling"].Config))["classifier.epochs"]
    assert epochs.default == "10 or 5 or 20"
    assert epochs.meaning == "(crt, lws, los, h2t) epochs of stage 2"
    root = found["data.root"].meaning
    assert "(table) folder that relative paths refer to" in root
    assert root.startswith("(cifar10, cifar100) folder of the archive")
    assert {row.meaning.split(")")[0] for row in options_of_methods() if row.key == "method.train"} == {
        "(single-head", "(mislas", "(oltr", "(paco",
    }  # fmt: skip


def first_owner(text: str) -> str:
    """Return the first name of `(a, b) meaning`, or of `a, b`."""
    return re.split("[,)]", text.removeprefix("("))[0]


@pytest.mark.parametrize(
    "key",
    [
        row.key
        for row in [*options_of_runs(), *explained(METHODS["single-head"].Config, "method.")]
        if row.key.startswith(("training.", "model.", "method."))
        and row.default not in ("required", "see below", "")
    ],
)
def test_defaults_are_written_as_they_are_read(key):
    found = rows_of(options_of_runs()) | rows_of(
        explained(METHODS["single-head"].Config, "method.")
    )
    base = ["head=cosine", "class_weights=inverse", "mixing=mixup"]
    if key.startswith("method.loss"):
        loss = first_owner(found[key].meaning)
        base = [f"loss={loss}"] if key.count(".") == 2 else []
        base += ["head=cosine"] if loss in ("ldam", "gaussian-clouded") else []
    part = key.split(".")[1]
    if part in ("feature_loss", "sharpness", "head_start"):
        # what has this option; each of these is off unless it is chosen
        said = found[key].meaning
        kind = first_owner(said if said.startswith("(") else found[f"method.{part}"].values)
        base = [f"{part}={kind}", "optimizer=sam"] if key.count(".") == 2 else []
    if key in ("method.class_weights", "method.mixing"):
        base = ["head=cosine"]
    default = found[key].default.split(" or ")[0]  # of the first that has the option
    try:
        resolve("digits-lt/balanced-softmax", [*base, f"{key}={default}"])
    except ConfigError as error:
        pytest.fail(str(error))


def test_null_is_not_the_policy_that_is_called_none():
    augmentation = rows_of(options_of_runs())["data.augmentation"]
    assert (augmentation.default, augmentation.values) == ("null", "text, null")
    for value, kept in (("null", None), ("none", "none")):
        config = resolve("digits-lt/balanced-softmax", [f"data.augmentation={value}"])
        assert config.data.augmentation == kept


def test_an_option_of_several_methods_is_explained_once():
    rows = [row for row in options_of_methods() if row.key == "method.mixing.partners"]
    assert len(rows) == 1
    assert rows[0].meaning.startswith(
        "(single-head, mislas, gcl, cc-sam, experts, reslt) what images are mixed with"
    )
    # what differs in its default stays apart
    defaults = {
        row.default: row.meaning for row in options_of_methods() if row.key == "method.mixing"
    }
    assert defaults == {
        "null": "(single-head, experts, reslt) pair mixing of the training batch",
        "mixup": "(mislas, gcl, cc-sam) pair mixing of the training batch",
    }


def test_every_option_says_what_it_means():
    rows = [*options_of_runs(), *options_of_methods()]
    # who has an option stands before its meaning
    owners = {*METHODS, *(word for row in rows for word in row.values.split(", "))}
    said = {row.key: re.split(r"[,;:()]\s*", row.meaning) for row in rows}
    assert [key for key, words in said.items() if {*words} <= {*owners, ""}] == []


def test_keys_are_not_cut_off_in_a_narrow_terminal(longtail):
    for word in ("partners", "classifier.sampling"):
        status, said, _ = longtail("options", word)
        assert status == 0
        assert "…" not in said


def test_words_are_looked_for_in_keys_and_meanings(longtail):
    status, said, _ = longtail("options", "TOGETHER")
    assert status == 0
    assert "data.keep_together" in said
    status, said, _ = longtail("options")
    assert "training.clip_norm" in said
    assert "method.queue" not in said
    status, said, _ = longtail("options", "queue")
    assert "method.queue_start" in said
    status, said, _ = longtail("methods", "do")
    assert "[0.5, 0.8, 0.6]" in said
    status, _, said = longtail("options", "epoch_s")
    assert status == 2
    assert "Did you mean epochs" in said
