"""ACE against the facts of the specification (entry 30), worked out by loops."""

import pytest
import torch
import torch.nn.functional as F

from longtail.core import Batch, ClassCounts, Position, ShotGroups
from longtail.methods.ace import expert_loss, nested_classes
from tests import tiny

WIDE = ClassCounts(
    [300, 200, 100, 50, 20, 10, 5], tuple("abcdefg")
)  # two many, three medium, two few
AT = Position(0, 0, 0, 0, 3)


def given(labels):
    labels = torch.tensor(labels)
    return Batch((tiny.images(len(labels)),), labels, torch.arange(len(labels)))


def test_the_classes_of_the_experts_are_nested_and_none_is_twice():
    found = nested_classes(ShotGroups.from_counts(WIDE)).int().tolist()
    assert found == [[1] * 7, [0, 0, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 1, 1]]
    for counts, sizes in (
        ([500, 300], [2]), ([500, 50], [2, 1]), ([500, 5], [2, 1]), ([50, 5], [2, 1]), ([5, 5], [2]),
    ):  # fmt: skip
        own = nested_classes(ShotGroups.from_counts(ClassCounts(counts)))
        assert own.sum(dim=1).tolist() == sizes, counts


def test_the_pace_at_ratio_100():
    counts = ClassCounts([int(500 * 100 ** (-c / 99)) for c in range(100)])
    method = tiny.build("ace", counts=counts)
    assert method.pace == pytest.approx((1, 0.1865, 0.0281), abs=5e-5)
    (stage,) = method.stages()
    assert dict(stage.rates)["heads.2"] == method.pace[2]
    assert dict(stage.rates)["backbone.tails.1"] == method.pace[1]
    assert not any(part.endswith(".0") for part, _ in stage.rates)


def test_the_loss_is_that_of_a_loop_over_images():
    z = torch.tensor([[2.0, 1, 0], [0, 3, 1], [1, 1, -2]])
    labels, own = torch.tensor([0, 1, 2]), torch.tensor([False, True, True])
    total = 0.0
    for row, y in ((z[1], 1), (z[2], 2)):  # the image of class 0 is not of this expert
        total += float(F.cross_entropy(row[None], torch.tensor([y]))) + 0.5 * float(row[0]) ** 2 / 3
    assert float(expert_loss(z, labels, own, 0.5)) == pytest.approx(total / 2)
    nothing = expert_loss(z, torch.zeros(3, dtype=torch.int64), own, 0.5)
    assert float(nothing) == 0


def test_a_frequent_image_teaches_the_first_expert_alone():
    method = tiny.build("ace", counts=WIDE)
    method.training_step([given([0, 1, 0])], AT).loss.backward()
    assert float(method.heads[0].weight.grad.norm()) > 0
    for head in method.heads[1:]:
        assert float(head.weight.grad.norm()) == 0


def test_the_trunk_learns_from_the_first_expert_alone():
    whole, first = tiny.build("ace", counts=WIDE), tiny.build("ace", counts=WIDE)
    batch = given([0, 3, 6, 5, 2])
    whole.training_step([batch], AT).loss.backward()
    maps = first.backbone(batch.images)[0]
    F.cross_entropy(first.heads[0](maps.mean(dim=(2, 3))), batch.labels).backward()
    for one, other in zip(
        whole.backbone.trunk.parameters(), first.backbone.trunk.parameters(), strict=True
    ):
        torch.testing.assert_close(one.grad, other.grad)
    assert float(next(whole.backbone.tails[2].parameters()).grad.norm()) > 0


def test_a_class_is_judged_by_those_who_know_it():
    method = tiny.build("ace", counts=WIDE).eval()
    images = tiny.images(3)
    maps = method.backbone(images)
    z = [head(m.mean(dim=(2, 3))) for head, m in zip(method.heads, maps, strict=True)]
    lengths = [float(head.weight.detach().norm()) for head in method.heads]
    scaled = [logits * lengths[0] / length for logits, length in zip(z, lengths, strict=True)]
    found = method.predict(images)
    torch.testing.assert_close(found[:, 0], scaled[0][:, 0])
    torch.testing.assert_close(found[:, 3], (scaled[0][:, 3] + scaled[1][:, 3]) / 2)
    torch.testing.assert_close(found[:, 6], sum(s[:, 6] for s in scaled) / 3)
