"""TSC and KCL against the facts of the specification (entry 25), and loops over queries."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment

from longtail.core import Batch, Position
from longtail.engine import checkpoint as ckpt
from longtail.losses import targeted_contrastive
from longtail.losses.contrastive.targeted import drawn_positives
from longtail.methods import METHODS
from longtail.models.simplex import simplex, spread
from longtail.recipes import resolve
from tests import tiny

GENERATOR = torch.Generator().manual_seed(0)


def unit(*shape):
    return F.normalize(torch.randn(*shape, generator=GENERATOR, dtype=torch.float64), dim=1)


QUERIES, KEYS, QUEUE, TARGETS = unit(5, 4), unit(5, 4), unit(12, 4), unit(3, 4)
LABELS = torch.tensor([0, 1, 2, 0, 1])
QUEUE_LABELS = torch.tensor([0, 0, 0, 0, 1, 1, 2, -1, -1, -1, 0, 1])


@pytest.mark.parametrize(("count", "width"), [(2, 1), (7, 6), (100, 128), (5, 9)])
def test_targets_with_room_are_the_corners_of_a_simplex(count, width):
    found = simplex(count, width).double()
    cosines = found @ found.T
    expected = torch.full_like(cosines, -1 / (count - 1)).fill_diagonal_(1)
    torch.testing.assert_close(cosines, expected, atol=1e-6, rtol=0)


def test_targets_without_room_are_spread():
    torch.manual_seed(0)
    start = F.normalize(torch.randn(8, 3), dim=1)
    torch.manual_seed(0)
    found = spread(8, 3, tiny.CPU, steps=2000)

    def crowd(rows):
        return float((rows @ rows.T / 0.07).logsumexp(dim=1).mean())

    assert crowd(found) < crowd(start)
    # eight points on a sphere can be 74.8 degrees apart (Tammes); a random start is not nearly
    largest = (found @ found.T).fill_diagonal_(-1).max()
    assert float(largest) < math.cos(math.radians(60))


def test_positives_are_drawn_without_replacement_and_evenly():
    torch.manual_seed(0)
    drawn = torch.zeros(5, 12)
    for _ in range(400):
        once = drawn_positives(LABELS, QUEUE_LABELS, 2)
        assert not (once & (LABELS[:, None] != QUEUE_LABELS)).any()
        assert once.sum(dim=1).tolist() == [2, 2, 1, 2, 2]  # one key only of class 2
        drawn += once
    of_class_0 = drawn[0, QUEUE_LABELS == 0] / 400
    torch.testing.assert_close(of_class_0, torch.full((5,), 0.4), atol=0.1, rtol=0)
    everything = drawn_positives(LABELS, QUEUE_LABELS, 99)
    assert torch.equal(everything, LABELS[:, None] == QUEUE_LABELS)


def by_loops(positives, weight=None):
    losses = []
    for i in range(5):
        rows = [KEYS[i], *QUEUE, *(TARGETS if weight is not None else [])]
        e = [math.exp(float(QUERIES[i] @ row) / 0.07) for row in rows]
        log_p = [math.log(value / sum(e)) for value in e]
        told = log_p[0] + sum(log_p[1 + j] for j in range(12) if positives[i, j])
        count = 1 + int(positives[i].sum())
        if weight is not None:
            told, count = told + weight * log_p[13 + int(LABELS[i])], count + 1
        losses.append(-told / count)
    return losses


def test_the_losses_are_those_of_loops():
    torch.manual_seed(0)
    positives = drawn_positives(LABELS, QUEUE_LABELS, 2)
    given = (QUERIES, KEYS, QUEUE, positives, 0.07)
    kcl = targeted_contrastive(*given)
    assert kcl.tolist() == pytest.approx(by_loops(positives))
    tsc = targeted_contrastive(*given, TARGETS, LABELS, 0.2)
    assert tsc.tolist() == pytest.approx(by_loops(positives, 0.2))


def test_classes_get_the_targets_that_are_nearest_all_in_all():
    method = tiny.build("tsc", {"queue": 32, "projection_width": 8})
    stage = method.stages()[1]
    before = method.aims.directions.clone()
    method.fit(stage, (), "train")
    targets = method.aims.targets.clone()
    cosines = targets @ targets.T
    torch.testing.assert_close(
        cosines, torch.full((7, 7), -1 / 6).fill_diagonal_(1), atol=1e-5, rtol=0
    )
    # no permutation is nearer than the one that was taken
    nearness = (before @ targets.T).double().numpy()
    rows, columns = linear_sum_assignment(-nearness)
    assert np.trace(nearness) == pytest.approx(nearness[rows, columns].sum())
    # move the classes to where the next ones are: targets move along
    method.aims.directions.copy_(targets.roll(1, dims=0))
    method.aims.assign()
    torch.testing.assert_close(method.aims.targets, targets.roll(1, dims=0))


def test_running_means_move_a_tenth_where_a_class_is_met():
    method = tiny.build("tsc", {"queue": 32, "projection_width": 8})
    before = method.aims.directions.clone()
    queries = F.normalize(torch.randn(3, 8), dim=1)
    method.aims.follow(queries, torch.tensor([2, 2, 4]))
    two = F.normalize((queries[0] + queries[1]) / 2, dim=0)
    torch.testing.assert_close(
        method.aims.directions[2], F.normalize(0.9 * before[2] + 0.1 * two, dim=0)
    )
    torch.testing.assert_close(
        method.aims.directions[4], F.normalize(0.9 * before[4] + 0.1 * queries[2], dim=0)
    )
    rest = [0, 1, 3, 5, 6]
    assert torch.equal(method.aims.directions[rest], before[rest])


def test_the_stages(tmp_path):
    method = tiny.build("tsc", {"queue": 32, "second": 1}, epochs=4)
    names = [stage.name for stage in method.stages()]
    assert names == ["contrast", "targets", "targeted contrast", "classifier"]
    assert [stage.epochs for stage in method.stages()] == [2, 0, 2, 1]
    kcl = tiny.build("tsc", {"queue": 32, "targeted": 0}, epochs=4).stages()
    assert [(stage.name, stage.epochs) for stage in kcl] == [("contrast", 4), ("classifier", 40)]
    last = method.stages()[-1]
    assert (last.schedule, last.weight_decay, last.samplings[0].name) == (
        "step",
        0.0,
        "class-balanced",
    )
    tiny.train(method, tmp_path, name="tsc")
    before, after = (
        ckpt.read_weights(tmp_path / "checkpoints" / f"stage-{number}-end") for number in (2, 3)
    )
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert {"head.weight", "head.bias"} <= moved
    assert all(name.startswith(("head", "backbone")) for name in moved)
    assert (after["queue.labels"] >= 0).all()  # filled with keys by now


def test_the_targeted_stage_alone_looks_at_targets():
    method = tiny.build("tsc", {"queue": 32})
    images = tiny.images(6)
    batch = Batch((images, images), torch.arange(6), torch.arange(6))
    method.fit(method.stages()[1], (), "train")
    plain = method.training_step([batch], Position(0, 0, 0, 0, 3)).loss
    aimed = method.training_step([batch], Position(0, 2, 0, 0, 3)).loss
    assert not torch.equal(plain, aimed)


def test_what_shares_a_first_stage():
    kind = METHODS["tsc"]
    assert kind.shares_first_stage(kind.Config(second=5, target_weight=1), kind.Config())
    assert not kind.shares_first_stage(kind.Config(positives=3), kind.Config())
    assert not kind.shares_first_stage(kind.Config(), METHODS["paco"].Config())


@pytest.mark.parametrize(("name", "contrasts"), [("kcl", [1000]), ("tsc", [500, 500])])
def test_both_recipes_have_the_epochs_of_the_supplement(name, contrasts):
    """1,000 on CIFAR for KCL as for TSC, of which TSC's first half is KCL."""
    config = resolve(f"cifar100-lt/{name}")
    setting = tiny.setting(epochs=config.training.epochs)
    stages = METHODS["tsc"](config.method, setting).stages()
    assert [stage.epochs for stage in stages if "contrast" in stage.name] == contrasts
