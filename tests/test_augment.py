"""Augmentation on the device against slow references, and mixing against its definition."""

import numpy as np
import pytest
import torch
from scipy import stats

from longtail.core import ClassCounts, ConfigError, Sampling
from longtail.core.rng import numpy_generator, torch_generator
from longtail.data.augment import Draws, find_policy, normalise, random_crop, random_flip
from longtail.data.config import DigitsData, LongTail, open_data
from longtail.data.loader import TrainingLoader
from longtail.data.samplers import EpochSampler
from longtail.losses import CrossEntropy
from longtail.methods.mixing import cutmix, mixup


def draws(size, seed=0, rank=0, world=1):
    return Draws(torch_generator(seed, "test"), size, rank, world)


def pictures(size=64, side=32):
    return torch.from_numpy(
        np.random.default_rng(0).integers(0, 256, (size, 3, side, side), dtype=np.uint8)
    )


def test_crop_equals_padding_and_slicing():
    images = pictures()
    cropped = random_crop(images, draws(64))
    same = draws(64)
    top, left = same.integers(9), same.integers(9)
    padded = torch.nn.functional.pad(images, (4, 4, 4, 4))
    for i in range(64):
        expected = padded[i, :, top[i] : top[i] + 32, left[i] : left[i] + 32]
        assert torch.equal(cropped[i], expected)


def test_shifts_and_flips_are_uniform():
    images = torch.zeros(20000, 1, 8, 8)
    images[:, :, 4, 4] = 1
    cropped = random_crop(images, draws(20000))
    place = cropped.flatten(1).argmax(1)
    counts = np.bincount(place.numpy(), minlength=64).reshape(8, 8)[3:6, 3:6]
    assert counts.sum() == 20000
    assert stats.chisquare(counts.ravel()).pvalue > 1e-3
    ramp = torch.arange(8.0).expand(20000, 1, 1, 8)
    share = (random_flip(ramp, draws(20000))[:, 0, 0, 0] == 7).float().mean()
    assert share == pytest.approx(0.5, abs=0.02)


def test_a_flip_is_exact():
    images = pictures()
    flipped = draws(64).uniform() < 0.5
    result = random_flip(images, draws(64))
    for i in range(64):
        assert torch.equal(result[i], images[i].flip(-1) if flipped[i] else images[i])


def test_processes_augment_as_one_would():
    images = pictures()
    whole = find_policy("crop-flip")(images, draws(64))
    for rank in range(4):
        part = find_policy("crop-flip")(images[rank::4], draws(16, rank=rank, world=4))
        assert torch.equal(part, whole[rank::4])


def test_normalise_and_unknown_policy():
    images = pictures(2)
    expected = (images.double() / 255 - 0.5) / 0.25
    result = normalise(images, (0.5,) * 3, (0.25,) * 3)
    torch.testing.assert_close(result, expected.float(), rtol=1e-5, atol=1e-5)
    with pytest.raises(ConfigError, match="crop-flip"):
        find_policy("crap-flip")


def loader(views=("default",), stage=0):
    data = open_data(DigitsData(name="digits", long_tail=LongTail(imbalance_ratio=40, largest=120)))
    data = data.split("train")
    counts = data.manifest.class_counts()
    sampler = EpochSampler(
        data.manifest.labels, counts, Sampling(), batch_size=32, epochs=2, seed=0, stage=stage
    )
    device = torch.device("cpu")
    return TrainingLoader(data, sampler, views, device=device, seed=0, stage=stage), data


def test_batches_hold_the_pictures_that_they_name():
    made, data = loader(("none",))
    plain = normalise(data.pictures.pixels, data.mean, data.std)
    place = {int(i): row for row, i in enumerate(data.manifest.ids)}
    batches = list(made.epoch(0))
    assert len(batches) == made.steps == 10
    for step, batch in enumerate(batches):
        rows = [place[i] for i in batch.ids.tolist()]
        torch.testing.assert_close(batch.images, plain[rows])
        assert batch.labels.tolist() == data.manifest.labels[rows].tolist()
        assert made.ids_of(0, step) == batch.ids.tolist()


def test_views_differ_and_epochs_repeat():
    made, _ = loader(("crop", "crop"))
    first = next(iter(made.epoch(1)))
    assert not torch.equal(first.views[0], first.views[1])
    again = next(iter(loader(("crop", "crop"))[0].epoch(1)))
    for one, other in zip(first.views, again.views, strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(first.views[0], next(iter(made.epoch(0))).views[0])


def test_mixup_by_definition():
    images, labels = torch.randn(8, 3, 4, 4, generator=torch_generator(0, "x")), torch.arange(8)
    mixed = mixup(images, labels, 1.0, numpy_generator(0, "mix"))
    lam = float(mixed.share)
    for i in range(8):
        partner = int(mixed.partners[i])
        expected = lam * images[i] + (1 - lam) * images[partner]
        torch.testing.assert_close(mixed.images[i], expected)
    # for cross-entropy the two-label form equals soft labels
    z = torch.randn(8, 8, dtype=torch.float64, generator=torch_generator(0, "z"))
    soft = lam * torch.eye(8, dtype=torch.float64)[mixed.labels]
    soft += (1 - lam) * torch.eye(8, dtype=torch.float64)[mixed.partners]
    torch.testing.assert_close(
        mixed.loss(lambda y: CrossEntropy()(z, y)).double(),
        -(soft * z.log_softmax(1)).sum(1).mean(),
        rtol=1e-6,
        atol=1e-6,
    )


def test_cutmix_share_is_the_area_that_is_left():
    images = torch.arange(6.0)[:, None, None, None].expand(6, 3, 16, 16).clone()
    shares = []
    for number in range(200):
        mixed = cutmix(images, torch.arange(6), 1.0, numpy_generator(number, "cut"))
        share = float(mixed.share)
        shares.append(share)
        assert 0 <= share <= 1
        for i in range(6):
            if int(mixed.partners[i]) != i:
                pasted = (mixed.images[i, 0] == float(mixed.partners[i])).float().mean()
                assert pasted == pytest.approx(1 - share, abs=1e-6)
    # Beta(1, 1) before clipping: clipping can only make the share larger on average
    assert 0.5 < np.mean(shares) < 0.75


def test_mixing_shares_follow_beta():
    draws_ = [
        float(mixup(torch.zeros(2, 1, 1, 1), torch.arange(2), 0.4, numpy_generator(n, "b")).share)
        for n in range(800)
    ]
    assert stats.kstest(draws_, stats.beta(0.4, 0.4).cdf).pvalue > 1e-3


def test_counts_of_the_embedded_set():
    _, data = loader()
    assert (
        data.manifest.class_counts().values
        == ClassCounts([120, 79, 52, 35, 23, 15, 10, 6, 4, 3]).values
    )
