"""SHIKE against the facts of the specification (entry 31), and its released loss written out once more."""

import pytest
import torch
import torch.nn.functional as F

from longtail.core import Batch, ConfigError, Position
from longtail.engine import checkpoint as ckpt
from longtail.losses import knowledge_excavation
from longtail.methods import METHODS
from longtail.models import Backbone
from longtail.models.backbones import residual_network
from longtail.models.depth_fusion import DepthFusion
from tests import tiny


def released(logits, labels):
    """Return 10 H + M without H's factor: both terms, by masks and means over elements."""
    own = F.one_hot(labels, logits.shape[2]).to(logits.dtype)
    mean = logits.mean(dim=1)
    off = -30 * own + mean * (1 - own)
    hardest = F.one_hot(off.argmax(dim=1), logits.shape[2]).to(logits.dtype)
    teacher = logits.max(dim=1).values * (1 - hardest) * (1 - own) + off * hardest
    mined = mutual = 0.0
    for e, z in enumerate(logits.unbind(dim=1)):
        student = (z * (1 - own) - 30 * own).softmax(dim=1)
        mined += F.kl_div(student.log(), teacher.softmax(dim=1), reduction="none").mean()
        for j, other in enumerate(logits.unbind(dim=1)):
            if j != e:
                kl = F.kl_div(z.log_softmax(dim=1), other.softmax(dim=1), reduction="none")
                mutual += kl.mean()
    return mined, mutual


@pytest.mark.parametrize("experts", [1, 2, 3])
def test_the_terms_and_their_gradients_are_the_released_ones(experts):
    generator = torch.Generator().manual_seed(experts)
    raw = torch.randn(6, experts, 5, generator=generator, dtype=torch.float64) * 3
    labels = torch.randint(5, (6,), generator=generator)
    one, other = raw.clone().requires_grad_(), raw.clone().requires_grad_()
    found, expected = knowledge_excavation(one, labels), released(other, labels)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, torch.as_tensor(theirs, dtype=torch.float64))
    (10 * found[0] + found[1]).backward()
    (10 * expected[0] + expected[1]).backward()
    torch.testing.assert_close(one.grad, other.grad)
    by_image = knowledge_excavation(raw, labels, "image")
    torch.testing.assert_close(torch.stack(by_image), 5 * torch.stack(found))


def test_the_hardest_class_of_the_specification():
    z = torch.tensor([[[3.0, 1, 2, 0], [2, 2.5, 0, 1], [1, 0, 1, 2]]], dtype=torch.float64)
    # means off the label 0: 3.5 / 3, 1, 1; class 1 is hardest, so the teacher is (0, 7/6, 2, 2)
    teacher = torch.tensor([0, 3.5 / 3, 2, 2], dtype=torch.float64).log_softmax(dim=0)
    student = z[0].clone()
    student[:, 0] = -30
    log_q = student.log_softmax(dim=1)
    expected = (teacher.exp() * (teacher - log_q)).sum()
    mined, _ = knowledge_excavation(z, torch.tensor([0]), "image")
    torch.testing.assert_close(mined, expected)
    assert float(log_q[:, 0].exp().max()) < 1e-12


def test_experts_that_agree_teach_each_other_nothing():
    z = torch.randn(4, 1, 6).expand(4, 3, 6)
    _, mutual = knowledge_excavation(z, torch.arange(4))
    torch.testing.assert_close(mutual, torch.zeros(()))


def test_maps_are_fused_as_released():
    """Of three experts on CIFAR: two strided convolutions from layer1, one from layer2, two from layer1."""
    fusion = DepthFusion([tiny.backbone() for _ in range(3)]).eval()
    x = tiny.images(2, side=32)
    low = fusion.groups[0](fusion.stem(x))
    high = fusion.groups[1](low)
    found = fusion(x)
    kinds = [[type(layer).__name__ for layer in chain] for chain in fusion.aligned]
    two = ["Conv2d", "BatchNorm2d", "ReLU", "Conv2d", "BatchNorm2d"]
    assert kinds == [two, two[:3], two]
    for e, start in enumerate((low, high, low)):
        fused = fusion.last[e](high) * fusion.aligned[e](start)
        assert fused.shape == (2, 64, 8, 8)
        torch.testing.assert_close(found[:, e], fused.mean(dim=(2, 3)))
    lasts = [next(group.parameters()) for group in fusion.last]
    assert not torch.equal(lasts[0], lasts[1])  # each begins by itself


def test_larger_residual_networks_are_fused_likewise():
    networks = [residual_network("resnet10") for _ in range(3)]
    fusion = DepthFusion([Backbone(n, n.num_features) for n in networks])
    assert [sum(isinstance(m, torch.nn.Conv2d) for m in c) for c in fusion.aligned] == [3, 2, 1]
    assert fusion.eval()(tiny.images(1, side=64)).shape == (1, 3, 512)


def test_other_networks_are_refused():
    plain = torch.nn.Sequential(torch.nn.Flatten())
    with pytest.raises(ConfigError, match="fuses groups of a residual network"):
        DepthFusion([Backbone(plain, 3)])


def test_the_second_stage_trains_its_classifiers_alone(tmp_path):
    method = tiny.build("shike", {"second": 2})
    first, second = method.stages()
    assert (first.trainable, second.trainable) == (("backbone", "heads"), ("retrained_heads",))
    assert second.samplings[0].name == "instance"
    images = tiny.images(12)
    batch = Batch((images,), torch.arange(12) % 7, torch.arange(12))
    method.eval()
    z = torch.stack([h(f) for h, f in zip(
        method.retrained_heads, method.backbone(images).unbind(dim=1), strict=True)], dim=1)  # fmt: skip
    n = torch.tensor(tiny.COUNTS.values).log()
    expected = sum(F.cross_entropy(each + n, batch.labels) for each in z.unbind(dim=1))
    found = method.training_step([batch], Position(0, 1, 0, 0, 2)).loss
    torch.testing.assert_close(found, expected)
    assert not torch.equal(method.sub_model_logits(images), z)  # not yet trained: not asked
    tiny.train(method, tmp_path, name="shike")
    before, after = (
        ckpt.read_weights(tmp_path / "checkpoints" / f"stage-{number}-end") for number in (0, 1)
    )
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    named = {name for name in moved if "running" not in name and "num_batches" not in name}
    assert named == {*(f"retrained_heads.{e}.weight" for e in range(3)), "retrained_heads.trained"}


def test_what_shares_a_first_stage():
    kind = METHODS["shike"]
    assert kind.shares_first_stage(kind.Config(second=5, second_rate=1), kind.Config())
    assert not kind.shares_first_stage(kind.Config(mining=1), kind.Config())
    assert not kind.shares_first_stage(kind.Config(), METHODS["ncl"].Config())
