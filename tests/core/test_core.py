"""Class counts, groups, manifests, protocol: the words of the domain."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longtail.core import (
    ClassCounts,
    DataError,
    Manifest,
    Predictions,
    Protocol,
    ProtocolError,
    ShotGroups,
    epochs_of,
)
from longtail.core.rng import derive_seed, hashed, numpy_generator
from longtail.core.words import some_of
from longtail.data.splits.long_tail import profile_counts

many_counts = st.lists(st.integers(1, 5000), min_size=2, max_size=40)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([5, 0, 3], ["'b'", "no training images", "merge"]),
        ([5, -1, 3], ["'b': -1", "whole numbers"]),
        ([5, 2.5, 3], ["'b': 2.5", "whole numbers"]),
        ([5, 3.0, 3], ["'b': 3.0", "whole numbers"]),
        ([5, float("nan"), 3], ["'b': nan"]),
        ([5, True, 3], ["'b': True"]),
        ([5, "7", 3], ["'b': 7"]),
    ],
)
def test_wrong_counts_are_refused_by_class_name(values, words):
    with pytest.raises(DataError) as caught:
        ClassCounts(values, names=("a", "b", "c"))
    for word in words:
        assert word in str(caught.value)
    assert "'a'" not in str(caught.value)


def test_many_empty_classes_are_listed_shortly():
    with pytest.raises(DataError, match=r"20 of 21 classes .* and 12 more"):
        ClassCounts([1] + [0] * 20)


@pytest.mark.parametrize("names", [("a",), ("a", "a")])
def test_names_must_fit(names):
    with pytest.raises(DataError):
        ClassCounts([1, 2], names=names)


def test_no_class_is_refused():
    with pytest.raises(DataError, match="at least one class"):
        ClassCounts([])


@pytest.mark.parametrize("form", [list, np.array, torch.tensor])
def test_counts_come_in_every_form(form):
    counts = ClassCounts(form([100, 10, 1]))
    assert counts.values == (100, 10, 1)
    assert counts.total == 111
    assert counts.imbalance_ratio == 100
    assert counts.tensor().dtype == torch.int64
    assert torch.allclose(counts.prior(torch.float64).log(), counts.log_prior(torch.float64))


def test_counts_by_class_must_be_in_the_order_of_the_classes():
    labels = ["lynx", "fox", "fox", "lynx", "fox"]
    by_frequency = dict(Counter(labels).most_common())
    assert ClassCounts(by_frequency, names=("fox", "lynx")).values == (3, 2)
    assert ClassCounts(pd.Series([0, 0, 1]).value_counts()).values == (2, 1)
    for wrong, names in (
        (by_frequency, ()),
        (by_frequency, ("lynx", "fox")),
        (pd.Series([0, 1, 1]).value_counts(), ()),  # class 1 comes first
        (Counter([1, 2, 2]), ()),  # as a sequence, this would be the numbers 1 and 2
    ):
        with pytest.raises(DataError, match="in the order of the class numbers"):
            ClassCounts(wrong, names)


@pytest.mark.parametrize("form", [list, np.uint8, torch.tensor])
def test_labels_are_counted(form):
    labels = form([2, 0, 2, 1])
    assert ClassCounts.from_labels(labels, ("a", "b", "c")).values == (1, 1, 2)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([0.0, 1.9], "float64"),
        ([0, 2], "there is 2"),
        ([0, -1], "there is -1"),
        ([[0], [1]], r"\[2, 1\]"),
        (["a", "b"], "integers"),
    ],
)
def test_what_is_no_class_number_is_not_counted(labels, words):
    with pytest.raises(DataError, match=words):
        ClassCounts.from_labels(np.array(labels), ("a", "b"))


@given(many_counts)
def test_prior_sums_to_one_and_counts_are_immutable(values):
    counts = ClassCounts(values)
    assert counts.prior(torch.float64).sum() == pytest.approx(1, abs=1e-12)
    assert counts.imbalance_ratio >= 1
    counts.tensor().zero_()
    assert counts.values == tuple(values)
    with pytest.raises(AttributeError):
        counts.values = ()


@given(many_counts, st.randoms(use_true_random=False))
def test_ranking_and_groups_do_not_depend_on_the_order_of_classes(values, random):
    names = [f"class {number}" for number in range(len(values))]
    order = list(range(len(values)))
    random.shuffle(order)
    plain = ClassCounts(values, names)
    mixed = ClassCounts([values[i] for i in order], [names[i] for i in order])
    assert [plain.names[i] for i in plain.ranking()] == [mixed.names[i] for i in mixed.ranking()]
    for rule in ("threshold", "index"):
        groups, others = (ShotGroups.from_counts(c, rule) for c in (plain, mixed))
        assert {n: groups.name_of(i) for i, n in enumerate(plain.names)} == {
            n: others.name_of(i) for i, n in enumerate(mixed.names)
        }
        masks = torch.stack([groups.mask(name) for name in ("many", "medium", "few")])
        assert (masks.sum(0) == 1).all()


def test_borders_are_medium():
    # Decoupling, testable fact 20
    groups = ShotGroups.from_counts(ClassCounts([101, 100, 20, 19]))
    assert [groups.name_of(label) for label in range(4)] == ["many", "medium", "medium", "few"]


@pytest.mark.parametrize(
    ("num_classes", "ratio", "rule", "sizes"),
    [
        (100, 100, "threshold", (35, 35, 30)),  # spec 0.3
        (100, 50, "threshold", (41, 41, 18)),
        (100, 10, "threshold", (69, 31, 0)),
        (100, 10, "index", (35, 35, 30)),
        (10, 100, "index", (3, 3, 4)),
        (10, 100, "threshold", (8, 2, 0)),
    ],
)
def test_groups_of_the_cifar_cuts(num_classes, ratio, rule, sizes):
    counts = ClassCounts(profile_counts("exponential", num_classes, 50000 // num_classes, ratio))
    groups = ShotGroups.from_counts(counts, rule)
    assert tuple(groups.sizes().values()) == sizes


def test_an_empty_group_is_said():
    groups = ShotGroups.from_counts(ClassCounts([300, 200, 150]))
    assert groups.empty_groups() == ("medium", "few")
    assert "no class is medium or few shot" in groups.describe()


def test_two_classes_have_groups_by_index():
    assert ShotGroups.from_counts(ClassCounts([9, 3]), "index").assignment == (0, 2)


def manifest(**changes):
    parts = {
        "name": "set",
        "classes": ("a", "b"),
        "ids": np.array([7, 8, 9]),
        "labels": np.array([0, 1, 1]),
        "splits": np.array([0, 0, 2]),
    }
    return Manifest(**(parts | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"ids": np.array([7, 7, 9])},
        {"labels": np.array([0, 1, 2])},
        {"labels": np.array([0, -1, 1])},
        {"labels": np.array([0, 1])},
        {"paths": ("x",)},
    ],
)
def test_a_contradictory_manifest_is_refused(changes):
    with pytest.raises(DataError):
        manifest(**changes)


def test_manifest_cannot_be_changed_and_knows_its_content():
    first = manifest()
    with pytest.raises(ValueError, match="read-only"):
        first.labels[0] = 1
    assert first.class_counts().values == (1, 1)
    assert first.has("test")
    assert not first.has("val")
    assert first.checksum() == manifest().checksum()
    assert first.checksum() != manifest(labels=np.array([1, 0, 1])).checksum()


@pytest.mark.parametrize(
    ("part", "size", "text"),
    [
        (1, 1, "The image is"),
        (0, 1, "0 of 1 image are"),
        (1, 20, "1 of 20 images is"),
        (1500, 2000, "1,500 of 2,000 images are"),
        (0, 20, "0 of 20 images are"),
    ],
)
def test_some_of_many_are_counted(part, size, text):
    assert some_of(part, size, "image", "images", "is", "are") == text


def test_a_split_has_one_of_three_names():
    with pytest.raises(DataError, match="A split is train, val or test, but got 'valid'"):
        manifest().rows("valid")


def test_classes_are_matched_by_name():
    other = manifest().restricted_to(("b", "c", "a"))
    assert other.labels.tolist() == [2, 0, 0]
    with pytest.raises(DataError, match=r"does not know: b\. Use"):
        manifest().restricted_to(("a", "c"))
    with pytest.raises(DataError, match=r"know: lynxes\. Was lynx renamed to lynxes\? Use"):
        manifest(classes=("a", "lynxes")).restricted_to(("a", "lynx"))


def test_protocol_refuses_test_for_choices():
    with pytest.raises(ProtocolError, match=r"validation_per_class"):
        Protocol(has_val=False, selection="best-validation")
    protocol = Protocol(has_val=True, selection="best-validation")
    for split in ("train", "test"):
        with pytest.raises(ProtocolError, match=split):
            protocol.may_select_on(split)
    with pytest.raises(ProtocolError):
        protocol.may_train_on("val")
    assert protocol.describe(5) == "best macro accuracy on val (epoch 5)"


def test_predictions_refuse_what_does_not_fit():
    ids, labels = np.arange(2), np.array([0, 1])
    with pytest.raises(DataError, match=r"\[2, 3\]"):
        Predictions("test", ids, labels, np.zeros((2, 2), np.float32), ("a", "b", "c"), "")
    with pytest.raises(DataError, match="twice"):
        Predictions("test", ids * 0, labels, np.zeros((2, 2), np.float32), ("a", "b"), "")


@pytest.mark.parametrize(
    ("duration", "epochs", "expected"),
    [(0.8, 200, 160), (0.8, 40, 32), (0.9, 40, 36), (0.025, 200, 5), (0.025, 40, 1), (5, 40, 5)],
)
def test_durations(duration, epochs, expected):
    assert epochs_of(duration, epochs) == expected


def test_random_numbers_are_functions_of_their_name():
    assert derive_seed(0, "a", 1) == derive_seed(0, "a", 1)
    seeds = {derive_seed(s, k, e) for s in range(3) for k in ("a", "b") for e in range(50)}
    assert len(seeds) == 300
    assert numpy_generator(0, "x").random() == numpy_generator(0, "x").random()


def test_hashed_numbers_are_uniform_and_independent_of_shape():
    numbers = hashed(0, np.arange(64)[:, None], np.arange(1024))
    assert numbers[5, 7] == hashed(0, np.array(5), np.array(7))
    assert len(np.unique(numbers)) == numbers.size
    top = np.bincount((numbers.ravel() >> np.uint64(60)).astype(int), minlength=16)
    expected = numbers.size / 16
    assert ((top - expected) ** 2 / expected).sum() < 37.7  # chi-square, 15 degrees, p = 0.001
