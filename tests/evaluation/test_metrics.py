"""Metrics against scikit-learn and against definitions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as oracle

from longtail.core import ClassCounts, DataError, Predictions
from longtail.data.splits.long_tail import profile_counts
from longtail.evaluation import (
    bootstrap,
    calibration_error,
    confusion_matrix,
    headlines,
    image_counts,
    judged,
    macro_accuracy,
    mean_interval,
    micro_accuracy,
    per_class_accuracy,
    score,
    summarise,
    wilson_interval,
    worst_class,
)
from longtail.evaluation.bootstrap import paired_intervals
from longtail.evaluation.scores import percent
from longtail.prediction import read_predictions, write_predictions

predicted_and_labels = st.integers(2, 6).flatmap(
    lambda c: st.tuples(
        st.just(c),
        st.lists(st.tuples(st.integers(0, c - 1), st.integers(0, c - 1)), min_size=1, max_size=60),
    )
)


@settings(max_examples=80, deadline=None)
@given(predicted_and_labels)
def test_confusion_and_accuracies_equal_scikit_learn(problem):
    num_classes, pairs = problem
    labels, predicted = np.array(pairs).T
    confusion = confusion_matrix(labels, predicted, num_classes)
    np.testing.assert_array_equal(
        confusion, oracle.confusion_matrix(labels, predicted, labels=range(num_classes))
    )
    assert micro_accuracy(confusion) == pytest.approx(oracle.accuracy_score(labels, predicted))
    present = np.unique(labels)
    recalls = oracle.recall_score(labels, predicted, labels=present, average=None, zero_division=0)
    np.testing.assert_allclose(per_class_accuracy(confusion)[present], recalls)
    assert macro_accuracy(confusion) == pytest.approx(recalls.mean())
    absent = np.setdiff1d(np.arange(num_classes), present)
    assert np.isnan(per_class_accuracy(confusion)[absent]).all()
    nothing = np.zeros(num_classes, dtype=bool)
    assert macro_accuracy(confusion, nothing) is None


@pytest.mark.parametrize("width", [np.uint8, np.int16, np.int64, np.float64])
def test_confusion_of_labels_in_narrow_integers(width):
    # 20 * 100 + 30 does not fit into 8 bits, 199 * 200 not into 16
    labels, predicted = np.array([20, 199, 199, 3]), np.array([30, 199, 0, 3])
    confusion = confusion_matrix(labels.astype(width), predicted.astype(width), 200)
    pairs = [*zip(*np.nonzero(confusion), strict=True)]
    assert pairs == [(3, 3), (20, 30), (199, 0), (199, 199)]


@pytest.mark.parametrize(
    ("labels", "predicted", "words"),
    [
        ([0, 0], [0, 3], "Every prediction .* in 0 ... 2, but there is 3"),
        ([0, -100], [0, 1], "Every label .* there is -100"),
        ([0, 0.5], [0, 1], r"Every label .* there is 0\.5"),
        ([0, np.nan], [0, 1], "Every label .* there is nan"),
        ([1], [0, 1], "There are 1 labels but 2 predictions"),
    ],
)
def test_what_is_no_class_is_not_counted_as_another(labels, predicted, words):
    with pytest.raises(DataError, match=words):
        confusion_matrix(np.array(labels), np.array(predicted), 3)


def test_all_is_the_weighted_mean_of_the_groups_on_a_balanced_set():
    # Decoupling u0.5
    counts = ClassCounts(profile_counts("exponential", 100, 500, 100))
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(100), 20)
    logits = generator.normal(size=(2000, 100)).astype(np.float32)
    logits[np.arange(2000), labels] += 2
    names = counts.names
    scores = score(
        Predictions("test", np.arange(2000), labels, logits, names, "abc"),
        counts,
        rule="threshold",
        selection="last epoch",
        recipe="r",
        seed=0,
    )
    groups = scores["groups"]
    parts = [groups[n] for n in ("many", "medium", "few")]
    weighted = sum(p["classes"] * p["accuracy"] for p in parts) / 100
    assert scores["accuracy"] == pytest.approx(weighted)
    assert scores["accuracy"] == pytest.approx(scores["macro_accuracy"])
    low, high = scores["accuracy_interval"]
    assert low < scores["accuracy"] < high
    worst = min(row["accuracy"] for row in scores["per_class"])
    assert scores["worst_class_accuracy"] == worst
    assert {"split", "num_images", "num_classes", "accuracy", "macro_accuracy", "groups",
            "worst_class_accuracy", "calibration_error", "per_class", "selection", "recipe", "seed",
            "checkpoint_sha256"} <= set(scores)  # fmt: skip
    assert scores["groups_by_other_rule"]["rule"] == "index"
    found = scores["intervals"]
    assert found["all"]["classes"] == 100
    assert found["all"]["images"] == scores["num_images"] == 2000
    for name in ("many", "medium", "few"):
        low, high = found[name]["interval"]
        assert low < found[name]["value"] < high
        assert found[name]["value"] == pytest.approx(groups[name]["accuracy"])
        assert found[name]["classes"] == groups[name]["classes"]
        assert found[name]["images"] == 20 * groups[name]["classes"]
    assert scores["drawn_again"] == "images resampled within each class"


def test_an_empty_group_is_none():
    predictions = Predictions(
        "test", np.arange(2), np.array([0, 1]), np.eye(3, dtype=np.float32)[:2], ("a", "b", "c"), ""
    )
    scores = score(
        predictions,
        ClassCounts([300, 200, 150], ("a", "b", "c")),
        rule="threshold",
        selection="last epoch",
        recipe="r",
        seed=0,
    )
    assert scores["groups"]["few"] == {"classes": 0, "accuracy": None}
    assert scores["intervals"]["few"] == {
        "value": None,
        "interval": None,
        "classes": 0,
        "images": 0,
    }
    assert scores["intervals"]["many"]["classes"] == 2  # of three: one has no image
    assert scores["calibration_error"]["few"] is None
    assert scores["per_class"][2]["accuracy"] is None
    assert scores["num_classes_evaluated"] == 2
    assert "1 class has no images among those scored: c." in scores["notes"]
    summary = summarise([scores, scores])
    assert summary["few"]["mean"] is None
    assert summary["accuracy"]["std"] == 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(0.01, 1), st.booleans()), min_size=1, max_size=50))
def test_calibration_error_equals_its_definition(pairs):
    confidence, correct = (np.array(column) for column in zip(*pairs, strict=True))
    expected = 0.0
    for b in range(15):
        # the product 15 * confidence decides on which side of a border a float lies
        inside = np.ceil(confidence * 15) == b + 1
        if inside.any():
            gap = abs(correct[inside].mean() - confidence[inside].mean())
            expected += inside.mean() * gap
    assert calibration_error(confidence, correct) == pytest.approx(expected, abs=1e-12)


def test_calibration_of_a_perfect_and_a_boasting_model():
    assert calibration_error(np.ones(4), np.ones(4, bool)) == 0
    assert calibration_error(np.ones(4), np.zeros(4, bool)) == 1
    assert calibration_error(np.empty(0), np.empty(0, bool)) is None


def test_intervals():
    # Wilson's interval of 8 in 10, from the formula worked out by hand: .4902 to .9433
    assert wilson_interval(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson_interval(0, 10)[0] == 0
    assert wilson_interval(10, 10)[1] == 1
    # t with 2 degrees of freedom is 4.3027; values 1, 2, 3 have mean 2 and deviation 1
    assert mean_interval(np.array([1.0, 2.0, 3.0])) == pytest.approx(
        (2 - 4.3027 / 3**0.5, 2 + 4.3027 / 3**0.5), abs=1e-3
    )
    assert mean_interval(np.array([1.0])) is None


def test_few_or_equal_seeds_make_no_interval():
    # two seeds may agree by chance, and three that agree do not say that a fourth would
    assert mean_interval(np.array([0.0, 0.0])) is None
    assert mean_interval(np.array([0.4, 0.5])) is None
    assert mean_interval(np.array([0.4, 0.4, 0.4])) is None
    above = {"value": 0.1, "interval": [0.01, 0.2]}
    assert [judged(above, seeds) for seeds in (1, 2, 3, 9)] == [0, 0, 1, 1]
    assert judged({"value": -0.1, "interval": [-0.2, -0.01]}, 3) == -1
    assert judged({"value": 0.1, "interval": [-0.01, 0.2]}, 3) == 0
    assert judged({"value": None, "interval": None}, 3) == 0


def test_the_worst_class_needs_five_images():
    rows = [  # 0 of 1, 0 of 4, 3 of 6, 5 of 5, none
        {"name": name, "group": group, "test_count": count, "accuracy": accuracy}
        for name, group, count, accuracy in (
            ("one", "few", 1, 0.0), ("four", "few", 4, 0.0), ("six", "medium", 6, 0.5),
            ("five", "many", 5, 1.0), ("none", "few", 0, None),
        )
    ]  # fmt: skip
    worst = worst_class(rows)
    assert worst is not None
    assert worst["name"] == "six"
    assert worst_class([rows[0], rows[1], rows[4]]) is None
    images = image_counts({"per_class": rows})
    assert images == {"all": 16, "many": 5, "medium": 6, "few": 5}


def test_scores_say_when_no_class_can_be_called_the_worst():
    labels = np.repeat([0, 1], [4, 5])
    logits = np.eye(2, dtype=np.float32)[[1, 1, 1, 1, 1, 1, 1, 0, 0]]  # 0 of 4 right, 3 of 5
    parts = {"rule": "threshold", "selection": "last epoch", "recipe": "r", "seed": 0}
    counts = ClassCounts([30, 20], ("a", "b"))
    whole = score(
        Predictions("test", np.arange(9), labels, logits, ("a", "b"), ""), counts, **parts
    )
    assert (whole["worst_class"], whole["worst_class_accuracy"]) == ("b", pytest.approx(0.6))
    cut = slice(0, 8)
    short = score(
        Predictions("test", np.arange(8), labels[cut], logits[cut], ("a", "b"), ""), counts, **parts
    )
    assert short["worst_class"] is None
    assert headlines(short)["worst_class_accuracy"] is None
    assert any("worst class is not measurable" in note for note in short["notes"])


def test_predictions_survive_the_file(tmp_path):
    logits = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    made = Predictions(
        "val", np.array([9, 2, 5, 7]), np.array([0, 1, 2, 0]), logits, ("a", "b", "ü"), "f00"
    )
    write_predictions(made, tmp_path / "p.parquet")
    back = read_predictions(tmp_path / "p.parquet")
    np.testing.assert_array_equal(back.logits, logits)
    np.testing.assert_array_equal(back.ids, made.ids)
    assert (back.split, back.classes, back.checkpoint) == ("val", ("a", "b", "ü"), "f00")
    (tmp_path / "no.parquet").write_bytes(b"no")
    with pytest.raises(DataError, match="not a predictions file"):
        read_predictions(tmp_path / "no.parquet")


# --- intervals of classes that are always or never right -------------------------------------------

EVERY = {"all": np.ones(3, dtype=bool), "last": np.array([False, False, True])}


def test_classes_that_are_always_right_are_not_sure():
    labels = np.repeat([0, 1, 2], [8, 5, 2])
    right, wrong = np.ones(15, dtype=bool), np.zeros(15, dtype=bool)
    found = paired_intervals(labels, right, right, EVERY)
    # Wilson's lower limit of n hits in n is n / (n + z^2): 0.6756, 0.5655, 0.3424
    assert found["last"]["after"]["interval"] == pytest.approx([0.3424, 1], abs=1e-4)
    # a third of the root of 0.3244^2 + 0.4345^2 + 0.6576^2 below 1
    assert found["all"]["after"]["interval"] == pytest.approx([0.7159, 1], abs=1e-4)
    never = paired_intervals(labels, wrong, wrong, EVERY)["all"]["after"]["interval"]
    assert never == pytest.approx([0, 1 - 0.7159], abs=1e-4)
    # no image tells two such models apart: z^2 / (n + z^2) on both sides, joined in the same way
    same = found["all"]["difference"]["interval"]
    assert same == pytest.approx([-0.2841, 0.2841], abs=1e-4)
    # and where one is right on every image and the other on none: as sure as of one of them
    apart = paired_intervals(labels, wrong, right, EVERY)["all"]["difference"]["interval"]
    assert apart == pytest.approx([0.7159, 1], abs=1e-4)
    # units count, not the images in them
    units = np.repeat(np.arange(3), [8, 5, 2])
    of_units = paired_intervals(labels, right, right, EVERY, together=units)["last"]["after"]
    assert of_units["interval"] == pytest.approx([1 / (1 + 1.96**2), 1], abs=1e-4)


def test_classes_whose_images_differ_are_as_they_are_drawn():
    labels = np.repeat([0, 1, 2], 20)
    right = np.tile([True, True, False, True], 15)
    interval = paired_intervals(labels, right, right, EVERY)["last"]["after"]["interval"]
    # 20 images, 15 right: quantiles of a binomial, in twentieths
    assert interval == pytest.approx(stats.binom.ppf([0.025, 0.975], 20, 0.75) / 20, abs=0.051)
    assert {round(20 * limit, 3) % 1 for limit in interval} == {0}


@pytest.mark.slow
@pytest.mark.parametrize("draws_alone", [False, True])
def test_intervals_of_few_images_hold_the_truth(draws_alone, monkeypatch):
    if draws_alone:
        nothing = lambda rates, first, of_class, level: np.zeros((2, len(first)))  # noqa: E731
        monkeypatch.setattr(bootstrap, "_unseen", nothing)
    generator, labels, truth = np.random.default_rng(0), np.repeat([0, 1, 2], 5), 0.95
    held = 0
    for _ in range(200):
        right = generator.random(15) < truth
        low, high = paired_intervals(labels, right, right, EVERY)["all"]["after"]["interval"]
        held += low <= truth <= high
    assert held < 120 if draws_alone else held >= 190


# --- differences of two models that few images tell apart ----------------------------------------


def test_models_that_no_image_tells_apart_may_differ():
    labels = np.repeat([0, 1, 2], [8, 5, 2])
    right = np.arange(15) % 2 == 0  # classes with hits and misses
    found = paired_intervals(labels, right, right, EVERY)
    assert found["last"]["difference"]["value"] == 0
    # Tango's limits without a discordant pair: z^2 / (n + z^2), 0.6576 for two images
    assert found["last"]["difference"]["interval"] == pytest.approx([-0.6576, 0.6576], abs=1e-4)
    assert found["all"]["difference"]["interval"] == pytest.approx([-0.2841, 0.2841], abs=1e-4)
    # a class where images differ is as it is drawn
    other = right.copy()
    other[:8] = ~right[:8]
    first = {"first": np.array([True, False, False])}
    drawn = paired_intervals(labels, right, other, first)["first"]["difference"]["interval"]
    assert drawn == pytest.approx([-0.75, 0.75], abs=0.26)


@pytest.mark.slow
@pytest.mark.parametrize("draws_alone", [False, True])
def test_intervals_of_small_differences_hold_the_truth(draws_alone, monkeypatch):
    """The second model is right on three of a hundred images more, and wrong on none more."""
    if draws_alone:
        keep = lambda rates, either, *_: either  # noqa: E731
        monkeypatch.setattr(bootstrap, "_unseen_difference", keep)
    generator, labels, truth = np.random.default_rng(0), np.repeat([0, 1, 2], 10), 0.03
    held = 0
    for _ in range(200):
        better, before = generator.random(30) < truth, generator.random(30) < 0.6
        before &= ~better
        found = paired_intervals(labels, before, before | better, EVERY)["all"]["difference"]
        held += found["interval"][0] <= truth <= found["interval"][1]
    assert held < 140 if draws_alone else held >= 190


@given(st.integers(1, 10_000), st.integers(-3, 3))
def test_a_percentage_does_not_depend_on_the_order_of_a_sum(images, steps):
    """Of 10,000 images; a mean of class accuracies ends a few roundings beside the fraction."""
    fraction = images / 10_000
    beside = fraction + steps * np.spacing(fraction)
    assert percent(beside) == percent(fraction)
    assert abs(float(percent(fraction)) - 100 * fraction) <= 0.05 + 1e-9
