"""BBN against the facts of the specification of the baselines (entry 12)."""

import copy

import pytest
import torch
import torch.nn.functional as F

from longtail.core import Batch, ClassCounts, Position
from longtail.data.sampling.samplers import class_probability
from longtail.data.splits.long_tail import profile_counts
from longtail.models import build_backbone, build_experts
from longtail.models.options import ModelConfig
from longtail.recipes import resolve
from tests import tiny


def batches():
    for n in range(2):
        labels = torch.randint(7, (6,), generator=torch.Generator().manual_seed(n))
        yield Batch((tiny.images(6, n),), labels, torch.arange(6))


def loss_at(method, epoch, epochs, given):
    return method.training_step(given, Position(0, 0, epoch, 0, epochs)).loss


@pytest.mark.parametrize(
    ("t", "share"), [(1, 1.0), (2, 0.999975), (100, 0.754975), (200, 0.009975)]
)
def test_the_loss_by_hand(t, share):
    method, (usual, rare) = tiny.build("bbn").eval(), tuple(batches())
    branch = method.backbone
    f_c = branch.conventional(branch.trunk(usual.images)).mean(dim=(2, 3))
    f_r = branch.rebalancing(branch.trunk(rare.images)).mean(dim=(2, 3))
    z = method.head(torch.cat([2 * share * f_c, 2 * (1 - share) * f_r], dim=1))
    expected = share * F.cross_entropy(z, usual.labels)
    expected += (1 - share) * F.cross_entropy(z, rare.labels)
    torch.testing.assert_close(loss_at(method, t - 1, 200, (usual, rare)), expected)


def test_the_first_epoch_sees_nothing_of_the_other_stream():
    method, (usual, rare) = tiny.build("bbn").eval(), tuple(batches())
    other = Batch((tiny.images(6, 9),), (rare.labels + 1) % 7, rare.ids)
    first = loss_at(method, 0, 200, (usual, rare))
    assert torch.equal(first, loss_at(method, 0, 200, (usual, other)))
    assert not torch.equal(
        loss_at(method, 1, 200, (usual, rare)), loss_at(method, 1, 200, (usual, other))
    )


def test_a_prediction_is_training_half_way_with_the_same_images():
    method, (usual, _) = tiny.build("bbn").eval(), tuple(batches())
    f_c, f_r = method.backbone(usual.images, usual.images)
    half = method.head(torch.cat([2 * 0.5 * f_c, 2 * 0.5 * f_r], dim=1))
    torch.testing.assert_close(method.predict(usual.images), half)


def test_the_second_stream_is_reversed():
    usual, rare = tiny.build("bbn").stages()[0].samplings
    assert (usual.name, rare.name) == ("instance", "reversed")
    counts = ClassCounts(profile_counts("exponential", 100, 500, 100))
    probability = class_probability(rare, counts)
    assert probability[-1] == pytest.approx(0.0438, abs=1e-4)
    assert probability[0] == pytest.approx(0.00044, abs=1e-5)


@pytest.mark.parametrize("name", ["resnet20", "resnet10"])
def test_only_the_last_block_is_doubled(name):
    plain = build_backbone(name)
    network = build_experts(name, 2, narrow=False, own="block").eval()
    one, other = network.tails
    assert network.num_features == plain.num_features

    def size(module):
        return sum(p.numel() for p in module.parameters())

    assert size(network) - size(plain.network) == size(one) == size(other)
    assert not torch.equal(next(one.parameters()), next(other.parameters()))
    # trunk and one tail are the plain network
    tail = copy.deepcopy(one)
    maps = tail(network.trunk(tiny.images(2, side=32)))
    assert maps.shape[:2] == (2, plain.num_features)


def test_published_weights_are_in_both_branches(tmp_path):
    plain = build_backbone("resnet20").eval()
    file = tmp_path / "weights.pth"
    torch.save(plain.network.state_dict(), file)
    model = ModelConfig(backbone="resnet20", weights=file)
    network = model.build_experts(2, narrow=False, own="block").eval()
    images = tiny.images(2, side=32)
    for maps in network(images):
        torch.testing.assert_close(maps.mean(dim=(2, 3)), plain(images))


def test_the_recipe_has_the_published_options():
    training = resolve("cifar100-lt/bbn").training
    assert (training.milestones, training.decay_factor, training.weight_decay) == (
        (0.6, 0.8), 0.01, 2e-4,
    )  # fmt: skip
    large = resolve("inaturalist2018/bbn", ["root=x"]).training
    assert (large.epochs, large.batch_size, large.learning_rate) == (180, 128, 0.05)
    assert large.milestones == (120, 160)
