"""MiSLAS against the facts of the specification of the baselines (entry 22)."""

import pytest
import torch
import torch.nn.functional as F

from longtail.core import Batch, ClassCounts, Position
from longtail.data.splits.long_tail import profile_counts
from longtail.engine import checkpoint as ckpt
from longtail.losses import LabelAwareSmoothing, adjusted_cross_entropy, smoothing_by_class
from longtail.methods import METHODS
from longtail.recipes import resolve
from tests import tiny

TOY = ClassCounts([100, 10, 1])  # toy G
Z = torch.tensor([[2.0, 1.0, 0.0]] * 3, dtype=torch.float64)
Y = torch.arange(3)


def test_the_golden_values_of_label_aware_smoothing():
    smoothing = smoothing_by_class(TOY, 0.4, 0.1)
    assert smoothing.tolist() == pytest.approx([0.4, 0.142694, 0.1], abs=1e-6)
    found = LabelAwareSmoothing(TOY, 0.4, 0.1)(Z, Y, None, "none")
    assert found.tolist() == pytest.approx([0.807606, 1.407606, 2.307606], abs=1e-6)


def test_smoothing_of_cifar_and_of_equal_counts():
    counts = ClassCounts(profile_counts("exponential", 100, 500, 100))
    smoothing = smoothing_by_class(counts, 0.4, 0.1)
    assert (float(smoothing[0]), float(smoothing[-1])) == pytest.approx((0.4, 0.1))
    assert float(smoothing[50]) == pytest.approx(0.1408, abs=1e-4)
    assert smoothing_by_class(ClassCounts([7, 7]), 0.4, 0.1).tolist() == pytest.approx([0.4, 0.4])


def test_without_smoothing_it_is_cross_entropy():
    zeros = torch.zeros(3, dtype=torch.float64)
    plain = F.cross_entropy(Z, Y, reduction="none")
    torch.testing.assert_close(adjusted_cross_entropy(Z, Y, label_smoothing=zeros), plain)
    # one number for all classes is the framework's label smoothing
    found = adjusted_cross_entropy(Z, Y, label_smoothing=zeros + 0.2)
    expected = F.cross_entropy(Z, Y, reduction="none", label_smoothing=0.2)
    torch.testing.assert_close(found, expected)


def test_the_two_stages():
    method = tiny.build("mislas")
    first, second = method.stages()
    assert (first.samplings[0].name, first.trainable) == ("instance", ("backbone", "head"))
    assert (second.samplings[0].name, second.samplings[0].draws_per_class) == ("class-balanced", 4)
    assert (second.epochs, second.learning_rate, second.schedule) == (10, 0.1, "cosine")
    assert second.rates == (("head", 0.2),)
    labels = torch.randint(7, (12,), generator=torch.Generator().manual_seed(0))
    batch = Batch((tiny.images(12),), labels, torch.arange(12))
    with torch.no_grad():
        method.scales.copy_(torch.linspace(0.5, 1.5, 7))
        logits = method.scales * method.head(method.backbone(batch.images))
        eps = smoothing_by_class(tiny.COUNTS, 0.4, 0.1)[labels]
        log_p = logits.log_softmax(dim=1)
        own = -log_p.gather(1, labels[:, None])[:, 0]
        expected = ((1 - eps) * own - eps * log_p.mean(dim=1)).mean()
        # no mixup in the second stage
        found = method.training_step([batch], Position(0, 1, 0, 0, 10)).loss
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("shift", [True, False])
def test_only_statistics_of_the_representation_move_in_stage_two(shift, tmp_path):
    method = tiny.build("mislas", {"shift": shift, "second": 1})
    tiny.train(method, tmp_path, name="mislas")
    before, after = (
        ckpt.read_weights(tmp_path / "checkpoints" / f"stage-{number}-end") for number in (0, 1)
    )
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    backbone = {name for name in moved if name.startswith("backbone.")}
    assert {"head.weight", "head.bias", "scales"} <= moved
    assert all(name.endswith(("running_mean", "running_var", "tracked")) for name in backbone)
    assert bool(backbone) == shift


def test_the_second_stage_goes_on_from_another_run():
    kind = METHODS["mislas"]
    one = kind.Config()
    assert kind.shares_first_stage(one, kind.Config(smoothing=(0.3, 0.0)))
    assert not kind.shares_first_stage(one, kind.Config(mixing=None))


def test_recipes_have_the_published_options():
    recipe = resolve("cifar100-lt/mislas")
    training = recipe.training
    assert (training.weight_decay, training.decay_factor, training.nesterov) == (5e-4, 0.1, False)
    assert (recipe.method.mixing.alpha, recipe.method.smoothing) == (1.0, (0.4, 0.1))
    large = resolve("imagenet-lt/mislas", ["root=x"])
    assert (large.method.mixing.alpha, large.method.classifier_rate) == (0.2, 0.05)
    assert (large.training.epochs, large.training.batch_size) == (180, 256)
