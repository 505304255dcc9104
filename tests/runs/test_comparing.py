"""How a budget is divided among methods."""

import pytest

from longtail.core.errors import ConfigError, DataError
from longtail.recipes.compared import named_methods
from longtail.runs import comparing
from longtail.runs.comparing import plan_comparison, plan_text, read_plan
from longtail.runs.comparison_costs import SPARE

SMALL = ["backbone=resnet20", "batch_size=8", "epochs=40"]


def plan(folder, methods, **options):
    return plan_comparison(str(folder), named_methods(methods), SMALL, device="cpu", **options)


@pytest.fixture
def _a_second_an_epoch(monkeypatch):
    monkeypatch.setattr(comparing, "seconds_per_epoch", lambda *_: 1 / SPARE)


def test_no_method_sees_more_images_than_another(image_folder):
    found = plan(image_folder, "ce,crt,lws,tau")
    # 40 epochs of all stages: cRT's second one has 10, and those that share its first stage get the same
    assert found.epochs == {"cross-entropy": 40, "crt": 30, "lws": 30, "tau-normalisation": 30}
    assert found.first == {"lws": "crt", "tau-normalisation": "crt"}
    assert found.config("crt").training.epochs == 30
    assert found.base == "images/balanced-softmax"


@pytest.mark.usefixtures("_a_second_an_epoch")
def test_a_budget_of_images_holds_for_all_runs_together(image_folder):
    # n epochs each: n of plain training, n of cRT, and the 5 of LWS's second stage, for 2 seeds: 2 (2 n + 5)
    found = plan(image_folder, "ce,crt,lws", seconds=100, seeds=2)
    assert found.epochs == {"cross-entropy": 22, "crt": 12, "lws": 12}


@pytest.mark.usefixtures("_a_second_an_epoch")
def test_a_budget_of_time_is_the_same_for_every_run(image_folder):
    found = plan(image_folder, "ce,crt", seconds=100, seeds=2, equal="time")
    assert found.epochs == {"cross-entropy": 25, "crt": 15}


@pytest.mark.usefixtures("_a_second_an_epoch")
def test_a_budget_that_is_too_small_says_what_is_needed(image_folder):
    # the least that cRT can take are 1 + 10 epochs: 11 s for each of two methods, and a tenth more
    with pytest.raises(
        ConfigError, match=r"20 s is not enough for crt: 2 methods with 1 seed need about 25 s"
    ):
        plan(image_folder, "ce,crt", seconds=20, seeds=1)
    with pytest.raises(ConfigError, match="--equal time divides a time"):
        plan(image_folder, "ce,crt", equal="time")


def test_no_more_is_measured_than_shows_that_a_budget_is_too_small(image_folder, monkeypatch):
    given = []

    def measured(config, _data, _device, most, _note):
        given.append(most * SPARE)
        return {"cross-entropy": 1.0, "balanced-softmax": 5.0}[config.recipe.split("/")[1]] / SPARE

    monkeypatch.setattr(comparing, "seconds_per_epoch", measured)
    # 11 epochs are the least that cRT can take: 11 s for cross-entropy leave 9 s for another method
    with pytest.raises(ConfigError, match="3 methods with 1 seed need about 2 minutes"):
        plan(image_folder, "ce,bsce,crt", seconds=20, seeds=1)  # 1.1 (11 + 55 + 33)
    assert given == [pytest.approx(20 / 11), pytest.approx(9 / 11)]


def test_what_makes_a_comparison_fit_its_budget_is_said(image_folder, monkeypatch):
    monkeypatch.setattr(comparing, "seconds_per_epoch", lambda *_: 1 / SPARE)

    def said(methods, seconds, seeds=2, **options):
        with pytest.raises(ConfigError) as refused:
            plan_comparison(
                str(image_folder), named_methods(methods), ["epochs=40"], seconds=seconds,
                seeds=seeds, device="cpu", **options,
            )  # fmt: skip
        return str(refused.value)

    # cRT trains the network, 11 epochs of 1 s for each of 3 methods; without it, nobody has to
    text = said("ce,bsce,crt", 40)
    assert "Allow more, or compare fewer methods or seeds. With --seeds 1 it is about 36 s." in text
    assert text.endswith(
        "Without crt, only classifiers on frozen features are trained, which is much faster."
    )
    assert "Without crt and --base, only" in said("ce,bsce,crt", 40, base="fine-tuning")
    text = said("ce,bsce", 1, seeds=1, base="fine-tuning")
    assert "--seeds" not in text
    assert "With --base frozen-features, only classifiers" in text
    # of two methods, none is left to compare the other with
    assert "frozen features" not in said("ce,crt", 20)
    assert "Smaller images (image_size=N" in said("ce,crt", 20)


def test_more_epochs_than_a_training_has_are_told(image_folder):
    with pytest.raises(ConfigError, match="crt takes at least 11 epochs"):
        plan_comparison(str(image_folder), named_methods("ce,crt"), [*SMALL[:2], "epochs=3"])


def test_val_is_needed(image_folder):
    for split in ("train", "test"):
        (image_folder / split).mkdir()
    for kind in ("ant", "bee", "cow"):
        (image_folder / "test" / kind).mkdir()
        next((image_folder / kind).iterdir()).rename(image_folder / "test" / kind / "one.png")
        (image_folder / kind).rename(image_folder / "train" / kind)
    with pytest.raises(DataError, match="has no val split, and methods are compared by val"):
        plan(image_folder, "ce,crt")


def test_a_method_that_cannot_be_cut_from_a_network_moves_all_to_another_base(image_folder):
    methods = named_methods("ce,ride")
    found = plan_comparison(str(image_folder), methods, ["batch_size=8"], device="cpu")
    assert found.base == "images/balanced-softmax"
    assert "because ride cannot be trained on images/fine-tuning" in found.reasons[0]
    with pytest.raises(ConfigError, match="ride cannot be trained on images/fine-tuning"):
        plan_comparison(str(image_folder), methods, [], base="fine-tuning", device="cpu")


def test_a_plan_is_read_again_and_holds_for_its_question_only(image_folder):
    found = plan(image_folder, "ce,crt")
    text = plan_text(found, {"seeds": 3, "methods": ["a", "b"]})
    assert read_plan(text, {"seeds": 3, "methods": ["a", "b"]}, "file") == found
    with pytest.raises(ConfigError, match="other values of seeds"):
        read_plan(text, {"seeds": 2, "methods": ["a", "b"]}, "file")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_plan("{}", {"seeds": 2}, "file")
