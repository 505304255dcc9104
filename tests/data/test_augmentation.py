"""Augmentation on the device against slow references, and mixing against its definition."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy import stats
from torchvision.transforms import v2 as transforms
from torchvision.transforms.v2 import functional as library

from longtail.core import ClassCounts, ConfigError, Sampling
from longtail.core.rng import numpy_generator, torch_generator
from longtail.data.augmentation import (
    POLICIES,
    Draws,
    colour,
    find_policy,
    geometry,
    normalise,
    operations,
)
from longtail.data.augmentation.autoaugment import (
    CIFAR10_POLICY,
    IMAGENET_POLICY,
    autoaugment,
    autoaugment_strength,
    randaugment,
)
from longtail.data.options import DigitsData, LongTail
from longtail.data.sampling.loader import TrainingLoader
from longtail.data.sampling.samplers import EpochSampler
from longtail.data.source_to_batch import open_data
from longtail.losses import CrossEntropy
from longtail.methods.ingredients.mixup_cutmix import cutmix, mixup


def draws(size, seed=0, rank=0, world=1):
    return Draws(numpy_generator(seed, "test"), size, rank, world)


def smooth_images(size=64, side=32):
    """Smooth images with flat, black and white ones among them."""
    noise = np.random.default_rng(0).integers(0, 256, (size, 3, side, side), dtype=np.uint8)
    images = library.gaussian_blur(torch.from_numpy(noise), [5, 5], [1.2, 1.2])
    images[0], images[1], images[2] = 100, 0, 255
    images[3] = torch.from_numpy(noise[3])
    return images


def each(images, function, *strengths):
    return torch.stack(
        [function(images[i], *(float(s[i]) for s in strengths)) for i in range(len(images))]
    )


def uniform(low, high, size=64, seed=3):
    return np.random.default_rng(seed).uniform(low, high, size)


def turned(image, *, shear=(0.0, 0.0), translate=(0, 0), centre=None):
    return library.affine(
        image, 0.0, list(translate), 1.0, list(shear), fill=[128.0], center=centre
    )


def degrees(tangent):
    return math.degrees(math.atan(tangent))


FACTOR, TANGENT, SHIFT = uniform(0, 2), uniform(-0.3, 0.3), uniform(-14, 14)
OPERATIONS = {
    "brightness": (colour.brightness, FACTOR, library.adjust_brightness, 0),
    "contrast": (colour.contrast, FACTOR, library.adjust_contrast, 1),
    "saturation": (colour.saturation, FACTOR, library.adjust_saturation, 1),
    "sharpness": (colour.sharpness, FACTOR, library.adjust_sharpness, 1),
    "hue": (colour.hue, uniform(-0.5, 0.5), library.adjust_hue, 1),
    "posterize": (
        colour.posterize, np.arange(64) % 9.0, lambda x, b: library.posterize(x, int(b)), 0,
    ),
    "solarize": (colour.solarize, uniform(0, 255), library.solarize, 0),
    "autocontrast": (colour.autocontrast, FACTOR, lambda x, _: library.autocontrast(x), 0),
    "equalize": (colour.equalize, FACTOR, lambda x, _: library.equalize(x), 0),
    "invert": (colour.invert, FACTOR, lambda x, _: library.invert(x), 0),
    "grey": (
        lambda x, _: colour.grey(x), FACTOR, lambda x, _: library.rgb_to_grayscale(x, 3), 0,
    ),
    "blur": (
        lambda x, s: colour.gaussian_blur(x, s, 13), uniform(0.1, 2),
        lambda x, s: library.gaussian_blur(x, [13, 13], [s, s]), 1,
    ),
    "shear_x": (
        partial(geometry.shear_x, fill=128), TANGENT,
        lambda x, m: turned(x, shear=(degrees(m), 0.0), centre=[0, 0]), 0,
    ),
    "shear_y": (
        partial(geometry.shear_y, fill=128), TANGENT,
        lambda x, m: turned(x, shear=(0.0, degrees(m)), centre=[0, 0]), 0,
    ),
    "translate_x": (
        partial(geometry.translate_x, fill=128), SHIFT,
        lambda x, p: turned(x, translate=(int(p), 0)), 0,
    ),
    "translate_y": (
        partial(geometry.translate_y, fill=128), SHIFT,
        lambda x, p: turned(x, translate=(0, int(p))), 0,
    ),
    "rotate": (
        partial(geometry.rotate, fill=128), uniform(-30, 30),
        lambda x, a: library.rotate(x, a, fill=[128.0]), 0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_equal_torchvision_for_the_same_parameters(name):
    operation, strength, reference, levels = OPERATIONS[name]
    images = smooth_images()
    before = images.clone()
    difference = (operation(images, strength).int() - each(images, reference, strength).int()).abs()
    # a pixel half-way between two sources may be rounded either way by the two
    share = (difference > levels).float().mean()
    assert share == 0 if name not in ("shear_x", "shear_y", "rotate") else share < 1e-4
    assert torch.equal(images, before)  # operations make new images


@pytest.mark.parametrize("size", [32, 20])
def test_resized_crops_equal_torchvision(size):
    images, chance = smooth_images(), np.random.default_rng(1)
    boxes = np.stack([chance.integers(0, 10, 64), chance.integers(0, 10, 64),
                      chance.integers(5, 22, 64), chance.integers(5, 22, 64)], axis=1)  # fmt: skip
    made = geometry.resized_crop(images, boxes, size)
    expected = torch.stack(
        [library.resized_crop(images[i], *boxes[i].tolist(), [size, size]) for i in range(64)]
    )
    assert (made.int() - expected.int()).abs().max() <= 1


@pytest.mark.parametrize("mode", ["constant", "reflect"])
def test_crop_equals_padding_and_slicing(mode):
    images = smooth_images()
    cropped = operations.random_crop(images, draws(64), mode=mode)
    same = draws(64)
    top, left = same.integers(9), same.integers(9)
    padded = library.pad(images, [4, 4, 4, 4], padding_mode=mode)
    for i in range(64):
        expected = padded[i, :, top[i] : top[i] + 32, left[i] : left[i] + 32]
        assert torch.equal(cropped[i], expected)


def test_solarize_add_and_cutout_by_hand():
    images = smooth_images()
    amount = uniform(0, 110).round()
    added = colour.solarize_add(images, amount)
    for i in range(64):
        low = images[i] < 128
        assert torch.equal(added[i][~low], images[i][~low])
        expected = (images[i][low].int() + int(amount[i])).clamp(max=255)
        assert torch.equal(added[i][low].int(), expected)
    same = draws(64)
    centre = same.integers(32), same.integers(32)
    cut = operations.cutout(images, draws(64))
    for i in range(64):
        expected = images[i].clone()
        top, left = (max(0, int(c[i]) - 8) for c in centre)
        expected[:, top : int(centre[0][i]) + 8, left : int(centre[1][i]) + 8] = 0
        assert torch.equal(cut[i], expected)


def test_shifts_and_flips_are_uniform():
    images = torch.zeros(20000, 1, 8, 8, dtype=torch.uint8)
    images[:, :, 4, 4] = 1
    cropped = operations.random_crop(images, draws(20000))
    place = cropped.flatten(1).argmax(1)
    counts = np.bincount(place.numpy(), minlength=64).reshape(8, 8)[3:6, 3:6]
    assert counts.sum() == 20000
    assert stats.chisquare(counts.ravel()).pvalue > 1e-3
    ramp = torch.arange(8, dtype=torch.uint8).expand(20000, 1, 1, 8).contiguous()
    share = (operations.random_flip(ramp, draws(20000))[:, 0, 0, 0] == 7).float().mean()
    assert share == pytest.approx(0.5, abs=0.02)


def test_a_flip_is_exact():
    images = smooth_images()
    flipped = draws(64).chance(0.5)
    result = operations.random_flip(images.clone(), draws(64))
    for i in range(64):
        assert torch.equal(result[i], images[i].flip(-1) if flipped[i] else images[i])


@pytest.mark.parametrize("name", POLICIES)
def test_processes_augment_as_one_would(name):
    images = smooth_images()
    whole = find_policy(name)(images.clone(), draws(64))
    assert whole.shape == images.shape
    assert whole.dtype == torch.uint8
    for rank in range(4):
        part = find_policy(name)(images[rank::4].contiguous(), draws(16, rank=rank, world=4))
        # sums over a smaller batch may round a level differently
        assert (part.int() - whole[rank::4].int()).abs().max() <= 1


def test_the_mirror_is_the_same_for_every_image():
    images = smooth_images()
    assert torch.equal(find_policy("mirror")(images.clone(), draws(64)), images.flip(3))


@pytest.mark.parametrize("name", [name for name in POLICIES if name not in ("none", "mirror")])
def test_every_policy_changes_images_differently(name):
    same = smooth_images()[5:6].repeat(64, 1, 1, 1)
    made = find_policy(name)(same.clone(), draws(64))
    assert len(torch.unique(made.flatten(1), dim=0)) > 30


def test_views_without_blur_jitter_four_images_of_five_and_grey_one_of_five():
    """As `augmentation_sim` of the codes of BCL and ProCo; the crop, from .08 of the area on, is left out."""
    policy = find_policy("sim-without-blur")
    assert policy.resized_crop == (0.08, 1.0)
    one = torch.full((1, 3, 8, 8), 60, dtype=torch.uint8)
    one[:, 0, :, ::2] = 200  # red stripes of one pixel, symmetric to a flip but for a shift
    made = policy(one.repeat(20000, 1, 1, 1), draws(20000), is_cut=True)
    stripes = made[:, :, 0, :2]  # [B, 3, 2]
    assert torch.equal(made, stripes.repeat(1, 1, 4)[:, :, None].expand_as(made)), "blurred"
    grey = (stripes == stripes[:, :1]).all(dim=2).all(dim=1).float().mean()
    alike = (stripes.sort(dim=2).values == torch.tensor([[60, 200], [60, 60], [60, 60]])).all(
        dim=(1, 2)
    )
    assert grey == pytest.approx(0.2, abs=0.01)
    assert alike.float().mean() == pytest.approx(0.2 * 0.8, abs=0.01)


def counting(monkeypatch, module, **functions):
    """Count the images that reach each operation."""
    seen = dict.fromkeys(functions, 0)
    for name in functions:
        original = getattr(module, name)

        def wrapped(images, *arguments, _name=name, _original=original, **options):
            seen[_name] += len(images)
            return _original(images, *arguments, **options)

        monkeypatch.setattr(module, name, wrapped)
    return seen


def test_autoaugment_draws_what_the_policy_says(monkeypatch):
    names = ["saturation", "contrast", "brightness", "sharpness", "posterize", "solarize",
             "autocontrast", "equalize", "invert"]  # fmt: skip
    places = ["shear_x", "shear_y", "translate_x", "translate_y", "rotate"]
    seen = counting(monkeypatch, colour, **dict.fromkeys(names, 0))
    placed = counting(monkeypatch, geometry, **dict.fromkeys(places, 0))
    size, rounds = 500, 40
    images = smooth_images(8, 8).repeat(63, 1, 1, 1)[:size]
    for number in range(rounds):
        autoaugment(images.clone(), draws(size, seed=number))
    paper = {"Color": "saturation", "Contrast": "contrast", "Brightness": "brightness",
             "Sharpness": "sharpness", "Posterize": "posterize", "Solarize": "solarize",
             "AutoContrast": "autocontrast", "Equalize": "equalize", "Invert": "invert",
             "ShearX": "shear_x", "ShearY": "shear_y", "TranslateX": "translate_x",
             "TranslateY": "translate_y", "Rotate": "rotate"}  # fmt: skip
    expected = dict.fromkeys(paper.values(), 0.0)
    for sub_policy in CIFAR10_POLICY:
        for name, probability, _ in sub_policy:
            expected[paper[name]] += probability * size * rounds / 25
    for name, count in (seen | placed).items():
        spread = 5 * (expected[name] + 1) ** 0.5
        assert abs(count - expected[name]) < spread, (name, count, expected[name])
    drawn = np.array([(seen | placed)[name] for name in expected if expected[name]])
    wanted = np.array([value for value in expected.values() if value])
    assert stats.chisquare(drawn, wanted * drawn.sum() / wanted.sum()).pvalue > 1e-4


def test_policies_are_the_published_tables():
    for ours, name in ((CIFAR10_POLICY, "CIFAR10"), (IMAGENET_POLICY, "IMAGENET")):
        theirs = transforms.AutoAugment(transforms.AutoAugmentPolicy[name])._policies
        assert ours == tuple(
            tuple((op, p, 0 if m is None else m) for op, p, m in pair) for pair in theirs
        )


def test_magnitudes_of_autoaugment():
    sign = np.array([1.0, -1.0])
    assert autoaugment_strength("ShearX", 9, sign, 32).tolist() == pytest.approx([0.3, -0.3])
    assert autoaugment_strength("TranslateY", 9, sign, 331).tolist() == pytest.approx([150, -150])
    assert autoaugment_strength("Rotate", 9, sign, 32).tolist() == [30, 30]
    assert autoaugment_strength("Color", 9, sign, 32).tolist() == pytest.approx([1.9, 0.1])
    assert autoaugment_strength("Posterize", 7, sign, 32).tolist() == [5, 5]
    assert autoaugment_strength("Solarize", 0, sign, 32).tolist() == [256, 256]


def test_randaugment_draws_operations_uniformly(monkeypatch):
    names = ["saturation", "contrast", "brightness", "sharpness", "posterize", "solarize",
             "solarize_add", "autocontrast", "equalize", "invert"]  # fmt: skip
    places = ["shear_x", "shear_y", "translate_x", "translate_y", "rotate"]
    seen = counting(monkeypatch, colour, **dict.fromkeys(names, 0))
    placed = counting(monkeypatch, geometry, **dict.fromkeys(places, 0))
    images = smooth_images(8, 8).repeat(125, 1, 1, 1)
    for number in range(15):
        randaugment(images.clone(), draws(1000, seed=number))
    counts = np.array([*seen.values(), *placed.values()])
    assert counts.sum() == pytest.approx(15 * 1000 * 2 * 0.5, rel=0.03)  # two slots, half happen
    assert stats.chisquare(counts).pvalue > 1e-4


def test_resized_crops_cover_the_area_that_they_should():
    seen = []

    def remember(images, boxes, size):
        seen.append(boxes)
        return images

    original = geometry.resized_crop
    try:
        geometry.resized_crop = remember
        operations.random_resized_crop(
            torch.zeros(4000, 3, 224, 224, dtype=torch.uint8)[:1].expand(4000, 3, 224, 224),
            draws(4000),
            area=(0.2, 1.0),
        )
    finally:
        geometry.resized_crop = original
    boxes = seen[0]
    share = boxes[:, 2] * boxes[:, 3] / 224**2
    assert 0.19 < share.min() < 0.25
    assert share.max() <= 1
    aspect = boxes[:, 3] / boxes[:, 2]
    assert 0.74 < aspect.min() < aspect.max() < 1.35
    assert (boxes[:, :2] + boxes[:, 2:]).max() <= 224


def test_normalise_and_unknown_policy():
    images = smooth_images(4)
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


def test_batches_hold_the_images_that_they_name():
    made, data = loader(("none",))
    plain = normalise(data.images.pixels, data.mean, data.std)
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


@pytest.mark.parametrize("mix", [mixup, cutmix])
def test_partners_of_another_stream_are_mixed_in_as_they_come(mix):
    images, labels = torch.zeros(5, 3, 8, 8), torch.arange(5)
    others = torch.arange(1.0, 6.0)[:, None, None, None].expand(5, 3, 8, 8), torch.arange(5) + 10
    mixed = mix(images, labels, 1.0, numpy_generator(3, "cmo"), others)
    assert torch.equal(mixed.labels, labels)
    assert torch.equal(mixed.partners, others[1])
    # the share of the partner is what it contributed, whether blended or pasted
    share = mixed.images.mean(dim=(1, 2, 3)) / torch.arange(1.0, 6.0)
    assert 0 < float(mixed.share) < 1
    torch.testing.assert_close(share, (1 - mixed.share.float()).expand(5))
    assert not images.any()


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
