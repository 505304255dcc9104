"""ProCo against scipy's Bessel functions, draws of the distribution, and loops over epochs."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from scipy.special import ive

from longtail.core import Batch, Position
from longtail.losses import balanced_softmax, concentration, expected_similarity, log_bessel
from longtail.losses.contrastive.von_mises_fisher import log_bessel_gain
from tests import tiny


def exact(k, width):
    """Return log I_nu(k) - nu log k by scipy, which scales I by exp(-k)."""
    nu = width / 2 - 1
    return np.log(ive(nu, k)) + k - nu * np.log(k)


@pytest.mark.parametrize(("width", "bound"), [(16, 2e-5), (32, 1e-6), (128, 2e-9), (1024, 1e-9)])
def test_the_bessel_function_is_scipys(width, bound):
    k = np.geomspace(width / 4, 1e4, 60)
    finite = np.isfinite(exact(k, width))
    assert finite.sum() > 20
    found = log_bessel(torch.from_numpy(k), width).numpy()
    np.testing.assert_allclose(found[finite], exact(k, width)[finite], rtol=1e-12, atol=bound)


def test_its_slope_is_a_ratio_of_bessel_functions():
    k = torch.linspace(20, 400, 40, dtype=torch.float64, requires_grad=True)
    log_bessel(k, 64).sum().backward()
    expected = ive(32, k.detach().numpy()) / ive(31, k.detach().numpy())
    np.testing.assert_allclose(k.grad.numpy(), expected, rtol=1e-7)


@pytest.mark.parametrize("width", [16, 128, 1024])
def test_a_gain_is_as_exact_in_float32(width):
    """Two functions of 1e5 differ by a few tenths; float32 would lose them in a plain difference."""
    k = torch.tensor([0.0, 1.0, 30.0, 1e3, 1e5], dtype=torch.float64)[:, None]
    gain = torch.tensor([-0.9, 0.0, 0.3, 20.0], dtype=torch.float64) * k + 4.0
    expected = log_bessel((k.square() + gain).sqrt(), width) - log_bessel(k, width)
    torch.testing.assert_close(log_bessel_gain(k, gain, width), expected, rtol=1e-6, atol=1e-9)
    found = log_bessel_gain(k.float(), gain.float(), width)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


def test_the_concentration_of_a_mean():
    # d R / (1 - R^2) of R = .9 and d = 20: 18 / .19; a class on one point is as concentrated as can be
    means = torch.zeros(3, 20)
    means[0, 0], means[1, 3] = 0.9, 1.0
    found = concentration(means)
    assert found.tolist() == pytest.approx([18 / 0.19, 1e5, 0.0], rel=1e-6)


def test_the_similarity_is_the_expected_one_of_draws():
    width, kappa, temperature = 16, 40.0, 0.5
    direction = np.eye(width)[0]
    draws = stats.vonmises_fisher(direction, kappa, seed=0).rvs(200_000)
    generator = torch.Generator().manual_seed(0)
    h = F.normalize(torch.randn(4, width, generator=generator, dtype=torch.float64), dim=1)
    expected = np.log(np.exp(draws @ h.numpy().T / temperature).mean(axis=0))
    # the mean whose estimate of the concentration is 40: d R / (1 - R^2)
    length = (-width + np.sqrt(width**2 + 4 * kappa**2)) / (2 * kappa)
    means = torch.from_numpy(length * direction[None])
    found = expected_similarity(h, means, temperature)[:, 0].numpy()
    np.testing.assert_allclose(found, expected, atol=0.02)


def step_of(method, seed, labels, at):
    views = tuple(tiny.images(len(labels), seed + v) for v in range(3))
    batch = Batch(views, torch.tensor(labels), torch.arange(len(labels)))
    out = method.training_step([batch], at)
    method.after_step(out, at)
    return out


def test_means_go_on_and_begin_anew_with_each_epoch():
    method = tiny.build("proco", {"projection_width": 16}).eval()
    start = method.means.clone()
    torch.testing.assert_close(start.norm(dim=1), torch.full((7,), 0.9))
    met = [step_of(method, 0, [0, 0, 3], Position(0, 0, 0, 0, 3)).carry["views"]]
    met.append(step_of(method, 5, [3, 4, 4], Position(0, 0, 0, 1, 3)).carry["views"])
    of_3 = torch.cat([met[0][2], met[1][0]])  # two views of two images
    torch.testing.assert_close(method.means[3], of_3.mean(dim=0))
    torch.testing.assert_close(method.means[0], met[0][:2].flatten(0, 1).mean(dim=0))
    assert torch.equal(method.means[6], start[6])  # not met: as it was drawn
    assert method.seen.tolist() == [4, 0, 0, 4, 4, 0, 0]
    of_first = method.next_means.clone()
    met.append(step_of(method, 9, [3, 1, 1], Position(0, 0, 1, 0, 3)).carry["views"])
    # the second epoch goes on from the first one's means
    torch.testing.assert_close(method.means[3], torch.cat([of_3, met[2][0]]).mean(dim=0))
    torch.testing.assert_close(method.means[4], of_first[4])
    torch.testing.assert_close(method.next_means[3], met[2][0].mean(dim=0))
    assert method.next_seen.tolist() == [0, 4, 0, 2, 0, 0, 0]


def test_the_loss_has_two_branches():
    method = tiny.build("proco", {"projection_width": 16, "weight": 0.5}).eval()
    views = tuple(tiny.images(5, seed) for seed in range(3))
    labels = torch.tensor([0, 1, 2, 4, 6])
    batch = Batch(views, labels, torch.arange(5))
    told = balanced_softmax(method.predict(views[0]), labels, tiny.COUNTS)
    both = []
    for view in views[1:]:
        h = F.normalize(method.projection(method.backbone(view)), dim=1)
        both.append(
            balanced_softmax(expected_similarity(h, method.means, 0.1), labels, tiny.COUNTS)
        )
    found = method.training_step([batch], Position(0, 0, 0, 0, 3)).loss
    torch.testing.assert_close(found, told + 0.5 * (both[0] + both[1]) / 2)
