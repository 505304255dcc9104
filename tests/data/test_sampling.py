"""Samplers: probabilities, forms of drawing, positions, processes. Facts of Decoupling A.4."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from longtail.core import ClassCounts, ConfigError, Sampling
from longtail.data.sampling.samplers import EpochSampler, class_probability, group_preferred
from longtail.data.splits.long_tail import profile_counts

CIFAR_LT = ClassCounts(profile_counts("exponential", 100, 500, 100))
NAMES = ("instance", "class-balanced", "square-root", "progressive", "reversed", "effective-number")


def sampler(counts=CIFAR_LT, batch_size=128, epochs=10, seed=0, shuffled=True, **options):
    labels = np.repeat(np.arange(len(counts)), counts.values)
    if shuffled:
        labels = np.random.default_rng(1).permutation(labels)
    made = EpochSampler(
        labels, counts, Sampling(**options), batch_size=batch_size, epochs=epochs, seed=seed
    )
    return made, labels


@pytest.mark.parametrize(
    ("name", "q"), [("instance", 1), ("square-root", 0.5), ("class-balanced", 0)]
)
def test_probability_is_a_power_of_the_count(name, q):
    n = np.array(CIFAR_LT.values, dtype=float)
    p = class_probability(Sampling(name=name), CIFAR_LT)
    np.testing.assert_allclose(p, n**q / (n**q).sum(), rtol=1e-12)
    assert p.sum() == pytest.approx(1, abs=1e-12)


def test_square_root_equals_the_released_weights_per_image():
    # fact 2: images weighted by n^(-1/2), summed per class
    n = np.array(CIFAR_LT.values, dtype=float)
    per_image = n * n**-0.5
    p = class_probability(Sampling(name="square-root"), CIFAR_LT)
    np.testing.assert_allclose(p, per_image / per_image.sum(), atol=1e-12)


def test_progressive_goes_from_instance_to_balanced():
    # fact 3, with the released code's t / (T - 1)
    epochs = 90
    rows = [class_probability(Sampling(name="progressive"), CIFAR_LT, e, epochs) for e in range(90)]
    np.testing.assert_allclose(rows[0], CIFAR_LT.prior().numpy(), atol=1e-7)
    np.testing.assert_allclose(rows[-1], 0.01, atol=1e-15)
    np.testing.assert_allclose(np.diff(rows, n=2, axis=0), 0, atol=1e-15)
    np.testing.assert_allclose(np.sum(rows, axis=1), 1, atol=1e-12)


def test_reversed_and_effective_number():
    n = np.array([100, 10, 1])
    p = class_probability(Sampling(name="reversed"), ClassCounts(n))
    np.testing.assert_allclose(p, np.array([1, 10, 100]) / 111)
    # the LDAM code's resampling is almost class-balanced: .0102 at the head, .0099 at the tail
    p = class_probability(Sampling(name="effective-number"), CIFAR_LT)
    assert (p[0], p[-1]) == (pytest.approx(0.0102, abs=1e-4), pytest.approx(0.0099, abs=1e-4))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "weights", "weights": (1, 2)}, "for each of the 3 classes"),
        ({"name": "weights", "weights": (1, -2, 4)}, "none below 0"),
        ({"name": "weights", "weights": (0, 0, 0)}, "not all of them 0"),
        ({"name": "effective-number", "beta": 1.0}, r"beta must be in \[0, 1\)"),
    ],
)
def test_what_gives_no_probability_is_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        class_probability(Sampling(**options), ClassCounts([100, 10, 1]))


def test_deferred_sampling_is_instance_balanced_before_the_switch():
    deferred = Sampling(name="effective-number", switch_epoch=160)
    np.testing.assert_allclose(
        class_probability(deferred, CIFAR_LT, 159), CIFAR_LT.prior().numpy(), atol=1e-7
    )
    assert class_probability(deferred, CIFAR_LT, 160)[0] < 0.011


def test_group_preferred_is_a_ratio_of_classes():
    preferred = np.array([False, True, True, False])
    np.testing.assert_allclose(group_preferred(preferred, 0.7), [0.15, 0.35, 0.35, 0.15])
    np.testing.assert_allclose(group_preferred(preferred, 0.5), [0.25] * 4)
    with pytest.raises(ConfigError, match=r"rho must be in \(0, 1\)"):
        group_preferred(preferred, 1.0)


def test_an_epoch_of_so_many_steps():
    labels = np.repeat([0, 1, 2], [5, 3, 2])
    counts = ClassCounts([5, 3, 2])
    for steps in (1, 2, 9):  # two steps of four are an epoch; nine are three passes and a half
        drawn = EpochSampler(
            labels, counts, Sampling(), batch_size=4, epochs=2, seed=0, steps=steps
        ).batches(0)
        assert drawn.shape == (steps, 4)
        order = drawn.flatten()
        for begin in range(0, len(order) - 9, 10):  # every pass shows every image once
            assert sorted(order[begin : begin + 10].tolist()) == list(range(10))
    plain = EpochSampler(labels, counts, Sampling(), batch_size=4, epochs=2, seed=0).batches(0)
    one = EpochSampler(labels, counts, Sampling(), batch_size=4, epochs=2, seed=0, steps=2)
    assert np.array_equal(plain, one.batches(0))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", ["published", "multinomial"])
def test_epoch_length_is_floor_n_by_b(name, form):
    # fact 6; C100 at ratio 100: 84 steps of 128, 21 of 512
    assert sampler(name=name, form=form)[0].batches(0).shape == (84, 128)
    assert sampler(name=name, form=form, batch_size=512)[0].batches(3).shape == (21, 512)


def test_a_batch_larger_than_the_set_is_refused_in_words():
    with pytest.raises(ConfigError, match=r"batch_size .* \(10847\), but got 20000"):
        sampler(batch_size=20000)


@pytest.mark.parametrize("name", NAMES)
def test_drawn_classes_follow_the_probability(name):
    made, labels = sampler(name=name, form="multinomial", epochs=3)
    for epoch in range(3):
        p = class_probability(Sampling(name=name), CIFAR_LT, epoch, 3)
        drawn = np.bincount(labels[made.batches(epoch).ravel()], minlength=100)
        assert stats.chisquare(drawn, p * drawn.sum()).pvalue > 1e-4


def test_instance_balanced_shows_every_image_at_most_once():
    made, _ = sampler()
    first, second = made.batches(0).ravel(), made.batches(1).ravel()
    assert len(np.unique(first)) == 84 * 128
    assert not np.array_equal(first, second)


def test_class_balanced_cycle_as_released():
    # facts 4, 7 and 23: blocks of four equal labels, every class once per 400 draws, going on over
    # the epochs; the order inside a batch is permuted, the batch's content is not
    made, labels = sampler(name="class-balanced")
    stream = np.concatenate([made._epoch(epoch) for epoch in range(3)])
    drawn = labels[stream]
    assert (drawn[: len(drawn) // 4 * 4].reshape(-1, 4) == drawn[::4][:, None]).all()
    for cycle in range(len(drawn) // 400):
        assert sorted(drawn[400 * cycle : 400 * (cycle + 1) : 4]) == list(range(100))
    for step in range(84):
        inside = made._epoch(1).reshape(84, 128)[step]
        assert sorted(made.batches(1)[step]) == sorted(inside)
        assert not np.array_equal(made.batches(1)[step], inside)


def test_class_balanced_cycle_shows_every_image_of_a_class_in_turn():
    # fact 5: over n draws from a wrap each image once; five images within two blocks
    made, labels = sampler(name="class-balanced")
    stream = np.concatenate([made._epoch(epoch) for epoch in range(4)])
    for label in (0, 50, 99):
        size = CIFAR_LT.values[label]
        own = stream[labels[stream] == label]
        for cycle in range(len(own) // size):
            assert len(set(own[size * cycle : size * (cycle + 1)])) == size
        if size == 5:
            assert len(set(own[:8])) == 5
            assert own[:5].tolist() != own[5:10].tolist()


def test_progressive_cycles_outlive_epochs_and_a_resume():
    made, labels = sampler(name="progressive", epochs=5)
    stream = np.concatenate([made._epoch(epoch) for epoch in range(5)])
    for label in (0, 60, 99):
        size = CIFAR_LT.values[label]
        own = stream[labels[stream] == label]
        for cycle in range(len(own) // size):
            assert len(set(own[size * cycle : size * (cycle + 1)])) == size
    fresh, _ = sampler(name="progressive", epochs=5)
    np.testing.assert_array_equal(fresh.batches(4), made.batches(4))
    np.testing.assert_array_equal(
        made.batches(2), sampler(name="progressive", epochs=5)[0].batches(2)
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", ["published", "multinomial"])
def test_any_number_of_processes_gives_one_global_order(name, form):
    made, _ = sampler(name=name, form=form, batch_size=840)  # what 1 to 8 all divide
    joint = made.batches(2)
    for world in range(1, 9):
        parts = [made.batches(2, rank, world) for rank in range(world)]
        rebuilt = np.stack(parts, axis=2).reshape(joint.shape)
        np.testing.assert_array_equal(rebuilt, joint)


@pytest.mark.parametrize("name", NAMES)
def test_seed_and_epoch_and_stage_matter(name):
    base, labels = sampler(name=name)
    assert not np.array_equal(base.batches(0), sampler(name=name, seed=1)[0].batches(0))
    assert not np.array_equal(base.batches(0), base.batches(1))
    other = EpochSampler(
        labels, CIFAR_LT, Sampling(name=name), batch_size=128, epochs=10, seed=0, stage=1
    )
    assert not np.array_equal(base.batches(0), other.batches(0))


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(1, 30), min_size=2, max_size=9),
    st.sampled_from(NAMES),
    st.sampled_from(["published", "multinomial"]),
    st.integers(0, 3),
)
def test_every_draw_is_an_image_of_the_set(values, name, form, epoch):
    counts = ClassCounts(values)
    made, labels = sampler(counts, batch_size=1, name=name, form=form)
    drawn = made.batches(epoch)
    assert drawn.shape == (counts.total, 1)
    assert 0 <= drawn.min() <= drawn.max() < len(labels)


@pytest.mark.parametrize("name", NAMES)
def test_inaturalist_size(name):
    # 437,513 images of 8,142 classes, the rarest with 2
    share = np.exp(-np.arange(8142) / 1500)
    extra = np.random.default_rng(0).multinomial(437_513 - 2 * 8142, share / share.sum())
    made, labels = sampler(ClassCounts(2 + extra), batch_size=512, name=name)
    drawn = labels[made.batches(5).ravel()]
    assert len(drawn) == 437_513 // 512 * 512
    p = class_probability(Sampling(name=name), ClassCounts(2 + extra), 5, 10)
    head = np.argsort(-extra)[:100]
    assert np.isin(drawn, head).mean() == pytest.approx(p[head].sum(), rel=0.05)


@pytest.mark.slow
def test_more_images_than_torch_can_draw_from():
    # torch.multinomial refuses more than 2^24 categories; classes are drawn first here
    size = 2**24 + 1000
    labels = np.zeros(size, dtype=np.int64)
    labels[-1000:] = 1
    made = EpochSampler(
        labels,
        ClassCounts([size - 1000, 1000]),
        Sampling(name="square-root"),
        batch_size=2**20,
        epochs=1,
        seed=0,
    )
    drawn = labels[made.batches(0).ravel()]
    share = 1000**0.5 / ((size - 1000) ** 0.5 + 1000**0.5)
    assert drawn.mean() == pytest.approx(share, rel=0.02)
