"""Corrections after training. Facts of Decoupling A.4 by their numbers, and the golden values."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from longtail.adjust import (
    estimate_prior,
    fit_temperature,
    logit_adjust,
    nearest_class_mean,
    shift_prior,
    tau_normalize,
)
from longtail.core import ClassCounts, DataError

COUNTS = ClassCounts([100, 10, 1])


def random(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def test_8_tau_and_norms():
    weight = random(7, 5) * torch.linspace(0.2, 4, 7, dtype=torch.float64)[:, None]
    norms = weight.norm(dim=1)
    assert torch.equal(tau_normalize(weight, 0), weight)
    for tau in (0.3, 0.7, 1.0, 1.5, 2.0):
        torch.testing.assert_close(tau_normalize(weight, tau).norm(dim=1), norms ** (1 - tau))
    torch.testing.assert_close(tau_normalize(weight, 2).norm(dim=1), 1 / norms)
    order = tau_normalize(weight, 1.3).norm(dim=1).argsort()
    assert torch.equal(order, norms.argsort().flip(0))
    assert torch.isfinite(tau_normalize(torch.zeros(2, 3), 1.0)).all()


def test_9_rescaled_rows_do_not_matter_at_tau_one():
    weight, features = random(7, 5), random(20, 5, seed=1)
    scaled = weight * torch.linspace(0.1, 9, 7, dtype=torch.float64)[:, None]
    one, other = (features @ tau_normalize(w, 1).T for w in (weight, scaled))
    assert torch.equal(one.argmax(1), other.argmax(1))


def test_14_weight_scaling_with_norms_is_tau_normalisation():
    weight, features = random(7, 5), random(20, 5, seed=1)
    scale = weight.norm(dim=1) ** -0.7
    torch.testing.assert_close(
        scale * (features @ weight.T), features @ tau_normalize(weight, 0.7).T
    )


def clustered(num_classes=6, each=30, width=8):
    centres = 3 * random(num_classes, width)
    labels = torch.arange(num_classes).repeat_interleave(each)
    return centres[labels] + random(len(labels), width, seed=2), labels


def test_16_distance_and_cosine_agree_for_unit_means_only():
    features, labels = clustered()
    euclidean, cosine = (
        nearest_class_mean(features, labels, 6, centred=False, unit_means=True, metric=m)
        for m in ("euclidean", "cosine")
    )
    probe = random(400, 8, seed=3)
    assert torch.equal(euclidean.scores(probe).argmax(1), cosine.scores(probe).argmax(1))
    raw = [nearest_class_mean(features, labels, 6, metric=m) for m in ("euclidean", "cosine")]
    assert not torch.equal(*(model.scores(probe).argmax(1) for model in raw))


def test_17_what_class_means_do_not_depend_on():
    features, labels = clustered()
    probe = random(50, 8, seed=3)
    for centred in (True, False):
        base = nearest_class_mean(features, labels, 6, centred=centred).scores(probe)
        scaled = nearest_class_mean(4 * features, labels, 6, centred=centred).scores(4 * probe)
        torch.testing.assert_close(base, scaled)
        if centred:
            moved = nearest_class_mean(features + 5, labels, 6).scores(probe + 5)
            torch.testing.assert_close(base, moved)


def test_18_one_image_a_class_finds_itself():
    features = random(9, 8)
    model = nearest_class_mean(features, torch.arange(9), 9)
    assert torch.equal(model.scores(features).argmax(1), torch.arange(9))
    torch.testing.assert_close(model.scores(features).diag(), torch.zeros(9, dtype=torch.float64))


def test_class_means_by_loops():
    features, labels = clustered()
    model = nearest_class_mean(features, labels, 6)
    centre = sum(features) / len(features)
    probe = random(3, 8, seed=4)
    for c in range(6):
        rows = [
            (x - centre) / (x - centre).norm()
            for x, y in zip(features, labels, strict=True)
            if y == c
        ]
        mean = sum(rows) / len(rows)
        for i, x in enumerate(probe):
            unit = (x - centre) / (x - centre).norm()
            assert model.scores(probe)[i, c].item() == pytest.approx(
                -((unit - mean) ** 2).sum().item()
            )
    with pytest.raises(DataError, match="the first is 6"):
        nearest_class_mean(features, labels, 7)


def test_logit_adjustment_golden_values():
    z = torch.tensor([[2.0, 1.0, 0.0]], dtype=torch.float64)
    adjusted = logit_adjust(z, COUNTS)
    assert adjusted[0].tolist() == pytest.approx([2.10436, 3.40695, 4.70953], abs=1e-5)
    assert torch.equal(logit_adjust(z, COUNTS, tau=0), z)
    flat = logit_adjust(z, ClassCounts([5, 5, 5]))
    torch.testing.assert_close(flat.softmax(1), z.softmax(1))
    with pytest.raises(DataError, match="logits have 2 classes, the prior has 3"):
        logit_adjust(z[:, :2], COUNTS)


def bayes(prior, size, seed=0):
    """Draw labels from `prior` and exact log joint densities of two-dimensional Gaussians."""
    generator = np.random.default_rng(seed)
    labels = generator.choice(3, size, p=prior)
    means = np.array([[0, 0], [2, 0], [0, 2]])
    points = means[labels] + generator.normal(size=(size, 2))
    density = -0.5 * ((points[:, None] - means) ** 2).sum(2)
    return torch.from_numpy(labels), torch.from_numpy(density)


def test_prior_shift_is_bayes_rule():
    trained = torch.tensor([0.8, 0.15, 0.05], dtype=torch.float64)
    deployed = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    _, density = bayes(deployed.numpy(), 50)
    shifted = shift_prior(density + trained.log(), trained, deployed)
    torch.testing.assert_close(shifted.softmax(1), (density + deployed.log()).softmax(1))
    with pytest.raises(DataError, match="deployed prior must"):
        shift_prior(density, trained, 2 * deployed)
    without = shift_prior(density, trained, torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64))
    assert (without.softmax(1)[:, 2] == 0).all()
    for unseen in (without, density):  # 0 / 0 would be NaN, and anything / 0 infinite
        with pytest.raises(DataError, match="trained prior must be above 0"):
            shift_prior(unseen, torch.tensor([0.5, 0.5, 0.0]), torch.tensor([0.5, 0.5, 0.0]))


def test_the_prior_of_unlabelled_images_is_found():
    trained = torch.tensor([0.8, 0.15, 0.05], dtype=torch.float64)
    truth = np.array([0.2, 0.3, 0.5])
    labels, density = bayes(truth, 20_000, seed=1)
    logits = density + trained.log()
    found = estimate_prior(logits, trained)
    share = np.bincount(labels, minlength=3) / len(labels)
    assert found.tolist() == pytest.approx(share.tolist(), abs=0.02)
    assert found.sum().item() == pytest.approx(1)
    before = (logits.argmax(1) == labels).double().mean()
    after = (shift_prior(logits, trained, found).argmax(1) == labels).double().mean()
    assert after > before + 0.1


def test_temperature_is_recovered():
    labels, density = bayes([0.4, 0.3, 0.3], 20_000)
    honest = density + torch.tensor([0.4, 0.3, 0.3], dtype=torch.float64).log()
    for factor in (0.5, 1.0, 3.0):
        assert fit_temperature(factor * honest, labels) == pytest.approx(factor, rel=0.03)
    grid = np.exp(np.linspace(-1, 1, 201))
    boastful, rare = 2 * honest[:300], labels[:300]
    weight = 1 / torch.bincount(rare).double()
    losses = [F.cross_entropy(boastful / t, rare, weight=weight).item() for t in grid]
    best = grid[int(np.argmin(losses))]
    assert fit_temperature(boastful, rare, balanced=True) == pytest.approx(best, rel=0.011)


@pytest.mark.parametrize(("rows", "words"), [(0, "there is none"), (3, "a logit is NaN")])
def test_a_temperature_of_nothing_is_refused(rows, words):
    # the search would end at some temperature, because all are equally good
    logits = torch.tensor([[1.0, 0.0], [0.0, torch.nan], [0.0, 1.0]])[:rows]
    with pytest.raises(DataError, match=words):
        fit_temperature(logits, torch.tensor([0, 1, 1])[:rows])


def test_class_means_do_not_lose_digits_under_autocast():
    # differences of distances vanish in the eight bits of bf16
    features, labels = clustered()
    classifier = nearest_class_mean(features.float() + 20, labels, 6)
    given = features.float() + 20
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = classifier.scores(given)
    torch.testing.assert_close(found, classifier.scores(given))
