"""NCL against the facts of the specification of the baselines (entry 32)."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from longtail.core import Batch, ClassCounts, Position
from longtail.losses import hard_categories, masked_logits, mutual_divergence
from longtail.recipes import resolve
from tests import tiny

Z1, Z2 = torch.tensor([2.0, 1.0, 0.0]), torch.tensor([0.0, 1.0, 2.0])
START = Position(0, 0, 0, 0, 3)


def test_the_golden_value_of_the_divergence():
    # KL(p2 || p1) = 1.150421, and the other direction is alike by symmetry of these logits
    both = torch.stack([Z1, Z2])[None].double()
    assert float(mutual_divergence(both)) == pytest.approx(2 * 1.150421, abs=1e-6)
    three = torch.stack([Z1, Z2, Z1])[None].double()  # four pairs that differ, two that do not
    assert float(mutual_divergence(three)) == pytest.approx(4 * 1.150421 / 2, abs=1e-6)
    assert float(mutual_divergence(both.repeat(5, 1, 1))) == pytest.approx(2 * 1.150421, abs=1e-6)


@given(st.integers(1, 5), st.integers(0, 2**31))
def test_equal_experts_have_nothing_to_learn_from_each_other(experts, seed):
    z = 10 * torch.randn(4, 1, 6, generator=torch.Generator().manual_seed(seed))
    assert float(mutual_divergence(z.expand(4, experts, 6))) == pytest.approx(0, abs=1e-5)
    other = 10 * torch.randn(4, 2, 6, generator=torch.Generator().manual_seed(seed + 1))
    assert float(mutual_divergence(other)) > 0


def test_the_divergence_is_that_of_every_ordered_pair():
    z = torch.randn(7, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    p = z.log_softmax(dim=2)
    pairs = [(i, j) for i in range(3) for j in range(3) if i != j]
    expected = sum(
        F.kl_div(p[:, i], p[:, j], reduction="batchmean", log_target=True) for i, j in pairs
    )
    torch.testing.assert_close(mutual_divergence(z), expected / 2)


@given(st.integers(2, 9), st.data(), st.integers(0, 2**31))
def test_hard_categories_hold_the_label_and_the_largest(classes, data, seed):
    count = data.draw(st.integers(1, classes))
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(6, classes, generator=generator)
    labels = torch.randint(classes, (6,), generator=generator)
    mask = hard_categories(z, labels, count)
    assert (mask.sum(dim=1) == count).all()
    assert mask.gather(1, labels[:, None]).all()
    for row, kept, label in zip(z, mask, labels, strict=True):
        others = [c for c in row.argsort(descending=True).tolist() if c != int(label)]
        assert set(others[: count - 1]) | {int(label)} == set(kept.nonzero().ravel().tolist())


def test_masked_logits_keep_some_probability_in_the_code_and_none_in_the_text():
    z = torch.tensor([[5.0, 3.0, 1.0, -1.0, -2.0]])
    mask = hard_categories(z, torch.tensor([0]), 2)
    p = masked_logits(z, mask).softmax(dim=1)[0]
    assert p[2:].tolist() == pytest.approx([0.0058] * 3, abs=5e-5)
    p = masked_logits(z, mask, "removed").softmax(dim=1)[0]
    assert p[2:].tolist() == [0, 0, 0]
    torch.testing.assert_close(p[:2], z[0, :2].softmax(dim=0))


@pytest.mark.parametrize("others", ["zero", "removed"])
@pytest.mark.parametrize("weight", [0.0, 0.6])
def test_the_loss_by_hand(others, weight):
    method = tiny.build("ncl", {"others": others, "weight": weight, "hard": 0.5})
    labels = torch.randint(7, (10,), generator=torch.Generator().manual_seed(0))
    batch = Batch((tiny.images(10),), labels, torch.arange(10))
    z = torch.stack([network(batch.images) for network in method.together.networks])
    adjusted = z + torch.tensor(tiny.COUNTS.values).log()  # [E, B, C]
    first = z[0].scatter(1, labels[:, None], 999.0)
    kept = first.argsort(dim=1, descending=True)[:, :3]  # floor of 0.5 * 7
    mask = torch.zeros(10, 7).scatter(1, kept, 1).bool()
    hard = adjusted.masked_fill(~mask, 0.0 if others == "zero" else -1e4)
    expected = 0
    for a in (adjusted, hard):
        expected += sum(F.cross_entropy(each, labels) for each in a)
        for i in range(3):
            for j in range(3):
                p, q = a[j].log_softmax(1), a[i].log_softmax(1)
                if i != j:
                    expected += weight / 2 * (p.exp() * (p - q)).sum(1).mean()
    torch.testing.assert_close(method.training_step([batch], START).loss, expected)


def test_with_all_classes_hard_everything_counts_twice():
    labels = torch.arange(7)
    batch = Batch((tiny.images(7),), labels, labels)
    whole = tiny.build("ncl", {"hard": 1.0}).training_step([batch], START)
    assert whole.scalars["label_loss"] > 0
    method = tiny.build("ncl", {"hard": 1.0})
    adjusted = method.sub_model_logits(batch.images) + method.log_n
    plain = sum(F.cross_entropy(z, labels) for z in adjusted.unbind(dim=1))
    torch.testing.assert_close(whole.scalars["label_loss"], 2 * plain.detach())
    torch.testing.assert_close(
        whole.scalars["divergence"], 2 * mutual_divergence(adjusted).detach()
    )


@pytest.mark.parametrize(
    ("classes", "hard"), [(100, 30), (1000, 300), (8142, 2442), (3, 2), (2, 2)]
)
def test_the_published_numbers_of_hard_categories(classes, hard):
    counts = ClassCounts([classes - c for c in range(classes)])
    assert tiny.build("ncl", counts=counts).hard == hard


def test_one_network_is_balanced_softmax_and_the_prediction_is_the_mean():
    method = tiny.build("ncl").eval()
    images = tiny.images(4)
    logits = method.sub_model_logits(images)
    assert logits.shape == (4, 3, 7)
    torch.testing.assert_close(method.predict(images), logits.mean(dim=1))
    assert not torch.equal(logits[:, 0], logits[:, 1])  # different beginnings
    one = tiny.build("ncl", {"networks": 1, "hard": 1.0})
    labels = torch.arange(4)
    found = one.training_step([Batch((images,), labels, labels)], START)
    z = one.sub_model_logits(images)[:, 0] + one.log_n
    torch.testing.assert_close(found.loss, 2 * F.cross_entropy(z, labels))


def test_recipes_have_the_published_options():
    recipe = resolve("cifar100-lt/ncl")
    training = recipe.training
    assert (training.epochs, training.batch_size, training.decay_factor) == (400, 64, 0.1)
    assert (training.weight_decay, training.milestones) == (2e-4, (0.7975, 0.8975))
    assert (recipe.method.weight, recipe.method.hard, recipe.method.networks) == (0.6, 0.3, 3)
    assert recipe.data.augmentation == "autoaugment-cutout"
    large = resolve("inaturalist2018/ncl", ["root=x"])
    assert (large.method.head.scale, large.training.batch_size) == (32, 512)
