"""LFME against the facts of the specification of the baselines (entry 17) and its released code."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from longtail.core import Batch, ClassCounts, Position, Protocol
from longtail.engine import TrainingConfig
from longtail.methods.lfme import Pace
from longtail.recipes import resolve
from tests import tiny

MEDIUM, FEW = [1], [0, 2, 3, 4, 5, 6]  # of 9 30 4 4 17 1 12 images
SHORT = {"teacher_epochs": 2}
# teachers of medium and of few, compare, confidence, student
STUDENT = 4


def batch(labels, size=8):
    y = torch.tensor((labels * size)[:size])
    views = (tiny.images(size, 3), tiny.images(size, 4))
    return Batch(views, y, torch.arange(size))


def at(epoch, stage=STUDENT, epochs=10):
    return Position(0, stage, epoch, 0, epochs)


def test_the_golden_weights_of_a_teacher():
    pace = Pace(4, torch.ones(7))
    pace.of_teacher.fill_(0.6)
    pace.reached.copy_(torch.tensor([0.1, 0.3, 0.5, 0.6]))
    found = pace.of_groups(0.3).tolist()
    assert found == pytest.approx([1.0, 0.714286, 0.238095, 0.0], abs=1e-6)
    pace.reached.fill_(0.9)  # better than its teacher
    assert pace.of_groups(0.3).tolist() == [0] * 4
    pace.of_teacher.zero_()
    assert pace.of_groups(0.3).tolist() == [0] * 4


def test_weights_of_images_are_those_of_the_released_code():
    c = np.array([0.2, 0.5, 0.9, 0.3, 0.3])
    labels = np.array([0, 0, 0, 1, 1])
    pace = Pace(1, torch.tensor([12 / 53, 1.0]))
    pace.least.copy_(torch.tensor([0.2, 0.3]))
    pace.largest.copy_(torch.tensor([0.9, 0.3]))
    floor = 12 / 53
    scaled = (c[:3] - 0.2) / (0.9 - 0.2) * (1 - floor) + floor
    first = np.array([*scaled, 1.0, 1.0])  # where all are alike, the code divides 0 by 0
    for epoch in (1, 45, 90):
        expected = (1 - first) / 45 * epoch + first
        found = pace.of_images(
            torch.tensor(c, dtype=torch.float32), torch.tensor(labels), epoch / 90
        )
        assert found.tolist() == pytest.approx(expected, abs=1e-6)
    # 1 at half of the stage, and beyond it later on
    assert float(pace.of_images(torch.tensor([0.2]), torch.tensor([0]), 0.5)) == pytest.approx(1)


def test_floors_are_shares_of_the_mean_class_size():
    method = tiny.build("lfme")
    few = np.mean([9, 4, 4, 17, 1, 12])
    assert method.pace.floor[FEW].tolist() == [1.0] * 6
    assert float(method.pace.floor[1]) == pytest.approx(few / 30)


def test_a_teacher_knows_its_group_alone():
    method = tiny.build("lfme").eval()
    given = batch(FEW)
    out = method.training_step([given], at(0, stage=1))
    z = method.teachers.networks["few"](given.images)[:, FEW]
    expected = F.cross_entropy(z, torch.tensor([FEW.index(int(y)) for y in given.labels]))
    torch.testing.assert_close(out.loss, expected)
    assert method.teachers(given.images, "few").softmax(dim=1)[:, 1].max().item() == 0


def test_teachers_see_images_of_their_group_alone_and_as_many_as_it_has():
    medium, few, *_, student = tiny.build("lfme").stages()
    assert medium.samplings[0].weights == (0, 30, 0, 0, 0, 0, 0)
    assert few.samplings[0].weights == (9, 0, 4, 4, 17, 1, 12)
    assert (medium.steps, few.steps) == (1, 2)  # of 30 and 47 images in batches of 16
    assert student.samplings[0].name == "class-balanced"


def test_the_student_learns_labels_at_its_pace_and_from_teachers():
    method, given = tiny.build("lfme").eval(), batch([1, 0, 2, 4])
    pace = method.pace
    pace.of_teacher.copy_(torch.tensor([0.8, 0.6]))
    pace.reached.copy_(torch.tensor([0.1, 0.3]))
    pace.least.fill_(0.0)
    pace.largest.fill_(1.0)
    images, clean = given.views
    z = method.predict(images)
    groups = {"medium": MEDIUM, "few": FEW}
    c = torch.zeros(8)
    for name, own in groups.items():
        p = F.softmax(method.teachers.networks[name](clean)[:, own], dim=1)
        for i, y in enumerate(given.labels.tolist()):
            if y in own:
                c[i] = p[i, own.index(y)]
    first = pace.floor[given.labels] + (1 - pace.floor[given.labels]) * c
    v = first + (1 - first) / 5 * 3  # third epoch of ten
    expected = F.cross_entropy(v[:, None] * z, given.labels)
    for (name, own), w in zip(groups.items(), (1.0, (0.6 - 0.3) / (0.7 * 0.6)), strict=True):
        t = method.teachers.networks[name](images)[:, own]
        student = F.log_softmax((v[:, None] * z)[:, own] / 2, dim=1)
        # the released code: a mean over all numbers, times the classes of the group
        apart = F.kl_div(student, F.softmax(t / 2, dim=1), reduction="none")
        expected = expected + w * len(own) * apart.mean()
    torch.testing.assert_close(method.training_step([given], at(2)).loss, expected)


def test_accuracies_and_confidences_are_measured():
    method = tiny.build("lfme").eval()
    compare, confidence, student = method.stages()[2:]
    given = [(tiny.images(6, s), torch.tensor([0, 1, 2, 1, 3, 0])) for s in range(3)]
    x, y = torch.cat([g[0] for g in given]), torch.cat([g[1] for g in given])
    facts = method.fit(compare, given, "val")
    by_class = {}
    for own, name in ((MEDIUM, "medium"), (FEW, "few")):
        z = method.teachers.networks[name](x)[:, own].argmax(dim=1)
        guess = torch.tensor(own)[z]
        by_class[name] = np.mean(
            [(guess[y == c] == c).float().mean() for c in own if c in (0, 1, 2, 3)]
        )
    assert facts == pytest.approx({f"teacher_val_{n}": a for n, a in by_class.items()})
    guess = method.predict(x).argmax(dim=1)
    expected = [
        np.mean([(guess[y == c] == c).float().mean() for c in cs]) for cs in ([1], [0, 2, 3])
    ]
    assert list(method.fit(student, given, "val").values()) == pytest.approx(expected)
    assert method.pace.reached.tolist() == pytest.approx(expected)
    method.fit(confidence, given, "train")
    p = F.softmax(method.teachers.networks["few"](x)[:, FEW], dim=1)[y == 3, FEW.index(3)]
    assert float(method.pace.least[3]) == pytest.approx(p.min().item())
    assert float(method.pace.largest[3]) == pytest.approx(p.max().item())
    assert (float(method.pace.least[6]), float(method.pace.largest[6])) == (
        1,
        0,
    )  # never seen: v = 1


def test_the_student_is_measured_before_every_epoch_on_val_where_there_is_one(tmp_path):
    with_val = {
        "protocol": Protocol(has_val=True),
        "validate": lambda _m, _f: {"macro_accuracy": 0.5},
        "selection_set": tiny.data(),
    }
    for folder, more in (("val", with_val), ("train", {})):
        method = tiny.build("lfme", SHORT)
        run = tiny.train(method, tmp_path / folder, **more)
        lines = [line for line in run.read_metrics() if line["stage"] == "student"]
        assert len(lines) == 3
        for line in lines:
            assert {f"student_{folder}_medium", f"student_{folder}_few"} <= line.keys()
        (compared,) = [line for line in run.read_metrics() if line["stage"] == "compare"]
        assert f"teacher_{folder}_few" in compared
        last = [lines[-1][f"student_{folder}_{g}"] for g in ("medium", "few")]
        assert method.pace.reached.tolist() == pytest.approx(last)


def test_classes_of_one_group_have_one_teacher():
    method = tiny.build("lfme", counts=ClassCounts([5, 6]))
    assert method.groups == ["few"]
    assert method.pace.floor.tolist() == [1, 1]


def test_recipes_have_the_published_options():
    config = resolve("imagenet-lt/lfme-resnet10", ["root=x"])
    training: TrainingConfig = config.training
    assert (training.epochs, training.batch_size, training.learning_rate) == (90, 256, 0.1)
    assert [round(m * 90) for m in training.milestones] == [50, 80]
    assert (config.method.teacher_epochs, config.model.backbone) == (120, "resnet10")
    assert math.isclose(config.method.behind, 0.3)
