"""ELF: who leaves where, by loops; its loss; its limits: deep supervision, and LDAM-DRW at one exit."""

import pytest
import torch
import torch.nn.functional as F

from longtail.core import Batch, Position
from longtail.methods.elf import reached
from longtail.models.residual_groups import SideExits
from tests import tiny

LABELS = torch.tensor([1, 0, 6, 4, 1, 2])
BEFORE, AFTER = Position(0, 0, 0, 0, 10), Position(0, 0, 8, 0, 10)
MARGINS = 0.5 * torch.tensor(tiny.COUNTS.values).pow(-0.25)  # the rarest class has one image


def weights():
    effective = [(1 - 0.9999) / (1 - 0.9999**n) for n in tiny.COUNTS.values]
    return torch.tensor([7 * e / sum(effective) for e in effective])


def step(method, at):
    batch = Batch((tiny.images(6),), LABELS, torch.arange(6))
    return method.training_step([batch], at)


def ldam_of(logits, reduction="none"):
    return F.cross_entropy(
        logits - 30 * F.one_hot(LABELS, 7) * MARGINS, LABELS, reduction=reduction
    )


@pytest.mark.parametrize(
    ("leaves", "expected"),
    [
        ([0, 0, 0], [1, 1, 1]),
        ([0, 0, 1], [1, 1, 1]),
        ([1, 0, 0], [1, 0, 0]),
        ([0, 1, 1], [1, 1, 0]),
        ([1, 1, 1], [1, 0, 0]),
    ],
)
def test_an_image_gets_to_the_first_exit_where_it_may_leave(leaves, expected):
    assert reached(torch.tensor([leaves], dtype=torch.bool)).tolist() == [expected]


def test_the_side_exits_are_those_of_the_network():
    plain = tiny.backbone().eval()
    exits = SideExits(plain, "It leaves after groups")
    assert exits.widths == (16, 32, 64)
    pooled = exits(tiny.images(2))
    assert [p.shape for p in pooled] == [(2, 16), (2, 32), (2, 64)]
    torch.testing.assert_close(pooled[-1], plain(tiny.images(2)))


@pytest.mark.parametrize("at", [BEFORE, AFTER])
def test_the_loss_is_that_of_loops(at):
    method = tiny.build("elf", {"threshold": 0.17}).eval()  # about 1 of 7: some leave, some stay
    logits = method.exit_logits(tiny.images(6)).detach() / 30  # keeps some images unsure
    method.exit_logits = lambda images: logits
    w = weights() if at is AFTER else torch.ones(7)
    expected, passed = 0.0, []
    for i, y in enumerate(LABELS.tolist()):
        for k in range(3):
            z = logits[i, k]
            expected += w[y] * F.cross_entropy(
                z - 30 * MARGINS[y] * F.one_hot(LABELS[i], 7), LABELS[i]
            )
            if int(z.argmax()) == y and float(z.softmax(dim=0).max()) > 0.17:
                break
        passed.append(k)
    assert 0 < passed.count(2) < 6, "the case shows both"
    out = step(method, at)
    torch.testing.assert_close(out.loss, expected / w[LABELS].sum())
    assert float(out.scalars["reach_exit_3"]) == pytest.approx(passed.count(2) / 6)


def test_beyond_the_threshold_it_is_deep_supervision():
    method = tiny.build("elf", {"threshold": 1.0}).eval()
    each = [ldam_of(z, "mean") for z in method.exit_logits(tiny.images(6)).unbind(dim=1)]
    torch.testing.assert_close(step(method, BEFORE).loss, sum(each))
    torch.testing.assert_close(
        method.predict(tiny.images(6)), method.exit_logits(tiny.images(6))[:, -1]
    )


def test_images_count_as_the_first_exit_alone_where_all_leave():
    """Then the loss is that of LDAM-DRW at that exit."""
    method = tiny.build("elf", {"threshold": 0.0}).eval()
    first = torch.full((6, 7), -4.0).scatter(1, LABELS[:, None], 4.0)
    method.exit_logits = lambda images: torch.stack([first, -first, -first], dim=1)
    w = weights()[LABELS]
    torch.testing.assert_close(step(method, AFTER).loss, (w * ldam_of(first)).sum() / w.sum())


def test_prediction_is_that_of_the_first_sure_exit():
    method = tiny.build("elf", {"threshold": 0.9}).eval()
    sure, unsure = torch.eye(7)[LABELS] * 20, torch.eye(7)[LABELS]
    made = torch.stack(
        [
            torch.where(
                torch.tensor([[1], [0], [0], [1], [0], [0]], dtype=torch.bool), sure, unsure
            ),
            torch.where(
                torch.tensor([[0], [1], [0], [1], [0], [0]], dtype=torch.bool), -sure, unsure
            ),
            unsure + 1,
        ],
        dim=1,
    )  # -sure is sure of nothing: six classes share it
    made[1, 1] = sure[2]
    method.exit_logits = lambda images: made
    assert method.exits(made).tolist() == [0, 1, 2, 0, 2, 2]
    rows = torch.arange(6)
    assert torch.equal(method.predict(tiny.images(6)), made[rows, method.exits(made)])


def test_the_figure_counts_where_images_leave():
    method = tiny.build("elf", {"threshold": 0.9}).eval()
    sure = 20 * torch.eye(7)[:3]
    made = torch.stack([torch.stack([sure[0], sure[0], sure[0]]), torch.zeros(3, 7)])
    method.exit_logits = lambda images: made
    (figure,) = method.figures([(tiny.images(2), torch.tensor([1, 5]))], [])
    assert figure.series["all"] == [0.5, 0.0, 0.5]
    assert figure.series["medium"] == [1.0, 0.0, 0.0]  # class 1 has 30 images
    assert figure.series["few"] == [0.0, 0.0, 1.0]
