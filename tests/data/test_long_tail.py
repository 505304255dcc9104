"""Long-tailed cuts and held-out splits. Facts of Decoupling part 0."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longtail.core import ConfigError, DataError, Manifest
from longtail.data.benchmark_facts import RANKS_SHA256
from longtail.data.splits.hold_out import hold_out
from longtail.data.splits.long_tail import cut, profile_counts, published_ranks

CIFAR10_COUNTS = {
    100: [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50],
    50: [5000, 3237, 2096, 1357, 878, 568, 368, 238, 154, 100],
    10: [5000, 3871, 2997, 2320, 1796, 1391, 1077, 834, 645, 500],
}


@pytest.mark.parametrize("ratio", [100, 50, 10])
def test_cifar10_counts(ratio):
    assert profile_counts("exponential", 10, 5000, ratio).tolist() == CIFAR10_COUNTS[ratio]


@pytest.mark.parametrize(
    ("ratio", "total", "places"),
    [
        (100, 10847, {0: 500, 1: 477, 2: 455, 33: 107, 34: 102, 35: 98, 69: 20, 70: 19, 99: 5}),
        (50, 12608, {0: 500, 1: 480, 33: 135, 34: 130, 35: 125, 69: 32, 70: 31, 99: 10}),
        (10, 19573, {0: 500, 1: 488, 2: 477, 99: 50}),
    ],
)
def test_cifar100_counts(ratio, total, places):
    counts = profile_counts("exponential", 100, 500, ratio)
    assert counts.sum() == total
    assert {place: counts[place] for place in places} == places


@pytest.mark.parametrize(("num_classes", "ratio"), list(RANKS_SHA256))
def test_published_ranks_are_bit_exact(num_classes, ratio):
    full = 50000 // num_classes
    counts = profile_counts("exponential", num_classes, full, ratio)
    ranks = published_ranks(counts, np.full(num_classes, full))
    digest = hashlib.sha256(np.concatenate(ranks).astype("<i8").tobytes()).hexdigest()
    assert (
        digest
        == {
            (10, 100): "8a54f5b6fa9722952358bc99897aa969bc20f845d0b15034e5013337df1e4ec7",
            (10, 50): "7bb90363b243a944125b22035862d78afbc280cb2c0f509019ffc6960fd0f523",
            (10, 10): "2b3a8656bec514c6c87236694978bc8a90f04fa51b4ed2009d2f8f336a614242",
            (100, 100): "f123ec136d44ab1b224fe55bb8a73ab03432d25a81975af68f26fb6777d5aca8",
            (100, 50): "1bc82de2629e5cbd51d6ea8f1d70cf7986616bfecb4a8606a427fbcc1dd50c16",
            (100, 10): "5906ba7310b91b5ee5a4e0b172d27f9370929d8acacd8026f44e160daa1f4834",
        }[num_classes, ratio]
    )


def test_first_ranks_and_prefixes():
    def ranks(num_classes, ratio):
        full = 50000 // num_classes
        counts = profile_counts("exponential", num_classes, full, ratio)
        return published_ranks(counts, np.full(num_classes, full))

    ten, hundred = ranks(10, 100), ranks(100, 100)
    assert ten[0][:6].tolist() == [398, 3833, 4836, 4572, 636, 2545]
    assert ten[9][:6].tolist() == [2204, 3816, 2206, 2507, 1926, 4765]
    assert hundred[0][:6].tolist() == [90, 254, 283, 445, 461, 15]
    assert hundred[99].tolist() == [348, 153, 363, 361, 299]
    for small, middle, large in zip(hundred, ranks(100, 50), ranks(100, 10), strict=True):
        assert middle[: len(small)].tolist() == small.tolist()
        assert large[: len(middle)].tolist() == middle.tolist()


def test_step_and_pareto_profiles():
    assert profile_counts("step", 4, 500, 100).tolist() == [500, 500, 5, 5]
    assert profile_counts("step", 5, 50, 10).tolist() == [50, 50, 50, 5, 5]
    counts = profile_counts("pareto", 1000, 1280, 256)
    assert (counts[0], counts[-1]) == (1280, 5)
    # a Pareto law with power 6 in 1,000 classes of 5 to 1,280: ImageNet-LT has 115,846 images,
    # sampled and not taken at quantiles; the size must be of that order
    assert 0.5 < counts.sum() / 115_846 < 2


@given(
    st.sampled_from(["exponential", "step", "pareto"]),
    st.integers(2, 200),
    st.integers(1, 5000),
    st.floats(1, 5000),
)
def test_profiles_descend_between_their_bounds(profile, num_classes, largest, ratio):
    if largest / ratio < 1:
        return
    try:
        counts = profile_counts(profile, num_classes, largest, ratio)
    except ConfigError:
        assert largest / ratio == pytest.approx(1)  # truncation of 0.99999...
        return
    assert counts[0] == largest
    assert (np.diff(counts) <= 0).all()
    assert abs(counts[-1] - largest / ratio) <= 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("exponential", 10, 500, 0.01), "imb_factor 0.01 is the ratio 100"),
        (("exponential", 10, 50, 100), "would keep none"),
        (("exponential", 1, 50, 10), "two classes"),
    ],
)
def test_wrong_profiles_are_refused(arguments, words):
    with pytest.raises(ConfigError, match=words):
        profile_counts(*arguments)


def balanced(num_classes=5, size=40):
    labels = np.tile(np.arange(num_classes), size)
    splits = np.zeros(len(labels), dtype=np.int8)
    splits[-num_classes * 4 :] = 2
    names = tuple(f"c{number}" for number in range(num_classes))
    return Manifest("set", names, np.arange(len(labels)) + 100, labels, splits)


def test_cut_keeps_ids_and_the_test_split():
    full = balanced()
    small = cut(full, imbalance_ratio=9, largest=36)
    assert small.histogram("train").tolist() == [36, 20, 12, 6, 4]
    assert small.histogram("test").tolist() == [4] * 5
    assert set(small.ids) <= set(full.ids)
    known = dict(zip(full.ids, full.labels, strict=True))
    assert all(known[i] == label for i, label in zip(small.ids, small.labels, strict=True))


def test_a_cut_of_the_first_images():
    full = balanced()
    small = cut(full, imbalance_ratio=9, largest=36, kept="first")
    for label, size in enumerate([36, 20, 12, 6, 4]):
        rows = (full.labels == label) & (full.splits == 0)
        kept = small.ids[(small.labels == label) & (small.splits == 0)]
        assert kept.tolist() == full.ids[rows][:size].tolist()


def test_cut_in_another_class_order():
    small = cut(
        balanced(), imbalance_ratio=9, largest=36, class_order=("c4", "c3", "c2", "c1", "c0")
    )
    assert small.histogram("train").tolist() == [4, 6, 12, 20, 36]
    with pytest.raises(ConfigError, match="exactly once"):
        cut(balanced(), imbalance_ratio=9, class_order=("c4",))
    with pytest.raises(ConfigError, match="50 images of 'c0' are needed"):
        cut(balanced(), imbalance_ratio=10, largest=50)


@given(
    st.lists(st.integers(1, 30), min_size=2, max_size=8),
    st.integers(1, 6),
    st.integers(1, 4),
    st.integers(0, 5),
)
def test_held_out_images_leave_enough_in_train(sizes, per_class, keep, seed):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    names = tuple(map(str, range(len(sizes))))
    full = Manifest("set", names, np.arange(len(labels)), labels, np.zeros(len(labels)))
    made, report = hold_out(full, "val", seed=seed, per_class=per_class, keep_in_train=keep)
    train, val = made.histogram("train"), made.histogram("val")
    assert (train + val == sizes).all()
    assert (train >= np.minimum(sizes, keep)).all()
    assert (val <= per_class).all()
    assert set(report.not_evaluated) == {names[c] for c in np.flatnonzero(val == 0)}
    again, _ = hold_out(full, "val", seed=seed, per_class=per_class, keep_in_train=keep)
    assert again.checksum() == made.checksum()


def test_classes_that_cannot_be_evaluated_are_named():
    labels = np.array([0, 0, 0, 1])
    full = Manifest("set", ("common", "rare"), np.arange(4), labels, np.zeros(4))
    made, report = hold_out(full, "val", seed=0, share=0.5)
    assert report.not_evaluated == ("rare",)
    assert "rare" in report.describe("val")
    assert made.histogram("val").tolist() == [2, 0]
    with pytest.raises(DataError, match="already"):
        hold_out(made, "val", seed=0, share=0.5)
    with pytest.raises(DataError, match="either"):
        hold_out(full, "val", seed=0)
    with pytest.raises(DataError, match="share"):
        hold_out(full, "val", seed=0, share=1.5)
