"""DO: testable facts of the specification, B4, by their numbers.

Of fact 10 the ties are here; the rest of it and fact 11 need importance per class, which is not built yet.
Facts 20 and 21 belong to analyses that are not built yet either.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from longtail.adjust import group_weights, instance_weights, mix, simplex_grid
from longtail.core import ClassCounts, Position, ShotGroups
from longtail.core.stage import Sampling
from longtail.data.long_tail import profile_counts
from longtail.data.samplers import class_probability
from longtail.engine import checkpoint as ckpt
from longtail.losses import (
    balanced_softmax,
    compensated_cross_entropy,
    cross_entropy,
    preference,
    reversed_prior,
)
from longtail.methods import Setting
from longtail.methods.do import DO, DOOptions, release_schedule
from longtail.models import build_backbone
from longtail.models.allotment import Allotment
from tests import tiny
from tests.contract.test_method_contract import batch

COUNTS = ClassCounts([100, 10, 1])
DOUBLE = torch.float64
C100 = ClassCounts(profile_counts("exponential", 100, 500, 100))


def network(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.BatchNorm2d(8), torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 5),
    )  # fmt: skip


def test_1_every_weight_has_one_group_and_sizes_are_exact():
    setting = Setting(
        C100, ShotGroups.from_counts(C100), 1, lambda: build_backbone("resnet32"), tiny.experts
    )
    method = DO(DOOptions(classifier="allotted"), setting)
    allotment = method.allotment
    assert sum(allotment.groups_of(name).numel() for name in allotment.names) == 467_632
    generator = torch.Generator().manual_seed(0)
    for stage, share in ((1, 0.5), (2, 0.8)):
        importance = {
            name: torch.rand(allotment.groups_of(name).shape, generator=generator)
            for name in allotment.names
        }
        allotment.prune(stage, importance, share)
        allotment.settle(stage)
        allotment.begin(stage + 1, None)
    allotment.settle(3)
    free, *sizes = allotment.sizes()
    assert free == 0
    assert sizes == [233_816, 46_763, 187_053]  # 50, 10 and 40 %
    assert sum(sizes) == 467_632


def staged(seed=0):
    """An allotment with three settled stages and what every sub-model said when it was settled."""
    allotment = Allotment(network(seed), 3)
    images, said = tiny.images(6), []
    for stage, share in ((1, 0.5), (2, 0.8), (3, None)):
        optimizer = torch.optim.SGD(
            allotment.network.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1
        )
        for step in range(3):
            allotment.train()
            loss = F.cross_entropy(allotment(images, stage), torch.arange(6) % 5)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if share is not None and step == 1:
                live = dict(allotment.network.named_parameters())
                allotment.prune(stage, {n: live[n].detach().abs() for n in allotment.names}, share)
        allotment.eval()
        with torch.no_grad():
            trained = allotment(images, stage)
        allotment.settle(stage)
        with torch.no_grad():
            said.append(allotment.sub_model(images, stage))
        # the function that was trained is the one that is kept
        assert torch.equal(trained, said[-1])
        if stage < 3:
            allotment.begin(stage + 1, dict(network(9).named_parameters()))
    return allotment, images, said


def test_2_and_3_settled_sub_models_never_change():
    allotment, images, said = staged()
    with torch.no_grad():
        for stage in (1, 2, 3):
            assert torch.equal(allotment.sub_model(images, stage), said[stage - 1])
        # whatever later groups hold does not matter to earlier sub-models
        for name in allotment.names:
            values, group = allotment.values_of(name), allotment.groups_of(name)
            values[group == 3] = 1e6
        assert torch.equal(allotment.sub_model(images, 2), said[1])
        assert not torch.equal(allotment.sub_model(images, 3), said[2])


def test_3_the_naive_mask_drifts():
    # why settled weights are a buffer: decay and momentum move a weight whose gradient is zero
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(3):
        weight.grad = torch.zeros(1)
        optimizer.step()
    assert float(weight.detach()) == pytest.approx(0.9444, abs=5e-5)


def test_4_readings_that_are_cross_entropy():
    z = torch.randn(9, 3, dtype=DOUBLE, generator=torch.Generator().manual_seed(0)).requires_grad_()
    y = torch.arange(9) % 3
    plain = cross_entropy(z, y)
    (expected,) = torch.autograd.grad(plain, z, retain_graph=True)
    middle = torch.tensor([False, True, False])
    for log_alpha, reading in (
        (reversed_prior(COUNTS).log(), "scalar"),
        (torch.full((3,), 0.3, dtype=DOUBLE).log(), "vector"),
        (preference(middle, 0.5).log(), "vector"),
    ):
        loss = compensated_cross_entropy(z, y, log_alpha, reading).mean()
        torch.testing.assert_close(loss, plain)
        (gradient,) = torch.autograd.grad(loss, z, retain_graph=True)
        torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize(
    ("label", "ce", "v3", "v2", "one", "g3", "g2", "g_const"),
    [
        (0, 0.40761, 0.03743, 0.20482, 0.46699, 0.00452, 0.09589, 0.33831),
        (1, 1.40761, 3.34002, 2.59112, 1.24385, 0.24532, 1.24385, 1.24385),
        (2, 2.40761, 6.64260, 2.20482, 2.46699, 2.31310, 1.10574, 2.20672),
    ],
)
def test_5_worked_table(label, ce, v3, v2, one, g3, g2, g_const):
    z, y = torch.tensor([[2.0, 1, 0]], dtype=DOUBLE), torch.tensor([label])
    middle = torch.tensor([False, True, False])
    rare, half = reversed_prior(COUNTS).log(), preference(middle, 0.8).log()
    only = preference(middle, 0.8, others=1.0).log()
    for expected, log_alpha, reading in (
        (ce, rare, "scalar"), (v3, rare, "vector"), (v2, half, "vector"), (one, only, "vector-one"),
        (g3, rare, "target"), (g2, half, "target"),
        (g_const, torch.full((3,), 0.8, dtype=DOUBLE).log(), "target"),
    ):  # fmt: skip
        found = compensated_cross_entropy(z, y, log_alpha, reading)
        assert float(found) == pytest.approx(expected, abs=6e-6), reading


def test_5_on_an_exponential_profile_stage_3_is_balanced_softmax():
    z = torch.randn(50, 100, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))
    y = torch.arange(50)
    ours = compensated_cross_entropy(z, y, reversed_prior(C100).log()).mean()
    assert float(ours) == pytest.approx(float(balanced_softmax(z, y, C100)), abs=0.05)


def test_6_scale_of_the_compensation():
    z, y = torch.randn(4, 3, dtype=DOUBLE), torch.tensor([0, 1, 2, 1])
    a = reversed_prior(COUNTS).log()
    for reading, same in (("vector", True), ("target", False)):
        one, other = (compensated_cross_entropy(z, y, b, reading) for b in (a, a + 3))
        assert torch.allclose(one, other) is same


def test_7_reverse_by_rank():
    counts = ClassCounts([1, 100, 10])
    expected = torch.tensor([0.90090, 0.00901, 0.09009], dtype=DOUBLE)
    torch.testing.assert_close(reversed_prior(counts), expected, atol=5e-6, rtol=0)
    once = (reversed_prior(counts) * 111).round().long()
    torch.testing.assert_close(reversed_prior(ClassCounts(once.tolist())), counts.prior(DOUBLE))


@pytest.mark.parametrize(
    ("ratio", "stage_2", "stage_3"),
    [(100, (0.2386, 0.5568, 0.2045), (0.0378, 0.1944, 0.7677)),
     (50, (0.2651, 0.6185, 0.1164), (0.0778, 0.3982, 0.5240))],
)  # fmt: skip
def test_8_group_frequencies(ratio, stage_2, stage_3):
    counts = ClassCounts(profile_counts("exponential", 100, 500, ratio))
    groups = ShotGroups.from_counts(counts)
    setting = Setting(counts, groups, 10, tiny.backbone, tiny.experts)
    stages = DO(DOOptions(), setting).stages()
    named = {stage.name: stage.samplings[0] for stage in stages}
    assert named["group 1"] == Sampling()
    for name, expected in (("group 2", stage_2), ("group 3", stage_3)):
        p = class_probability(named[name], counts)
        for group, share in zip(("many", "medium", "few"), expected, strict=True):
            assert p[groups.mask(group).numpy()].sum() == pytest.approx(share, abs=6e-5)


def test_9_schedule():
    expected = [2.71, 4.88, 6.57, 7.84, 8.75, 9.36, 9.73, 9.92, 9.99, 10]
    found = [100 * release_schedule(step, 10, 0.1) for step in range(10)]
    assert found == pytest.approx(expected, abs=6e-3)
    whole = [100 * release_schedule(step, 50, 0.5) for step in range(50)]
    assert whole[40:] == pytest.approx([40 + value for value in expected], abs=6e-3)
    assert whole == sorted(whole)
    for steps in (1, 3, 7, 84, 1000):
        assert release_schedule(steps - 1, steps, 0.8) == pytest.approx(0.8, abs=1e-12)


def test_10_ties_do_not_release_more():
    allotment = Allotment(torch.nn.Sequential(torch.nn.Linear(2, 2, bias=False)), 2)
    importance = {"0.weight": torch.tensor([[0.187025, 0.091134], [0.011689, 0.091134]])}
    allotment.prune(1, importance, 0.5)
    assert allotment.groups_of("0.weight").tolist() == [[1, 0], [0, 1]]
    assert allotment.sizes() == [2, 2, 0]


def test_12_released_weights_stay_released_and_are_zero():
    allotment = Allotment(network(), 2)
    base, before = allotment.sizes()[1], None
    for step in range(30):
        generator = torch.Generator().manual_seed(step)
        noise = {
            n: torch.rand(allotment.groups_of(n).shape, generator=generator)
            for n in allotment.names
        }
        allotment.prune(1, noise, release_schedule(step, 30, 0.6))
        kept = torch.cat([allotment.groups_of(name).flatten() for name in allotment.names])
        if before is not None:
            assert not ((before == 0) & (kept == 1)).any()
        before = kept
    assert int((before == 1).sum()) == base - round(0.6 * base)
    for name, weight in allotment.live_weights(1).items():
        assert not weight[allotment.groups_of(name) == 0].any()


def test_13_values_of_released_weights():
    for kind, same_function in (("zero", True), ("fresh", False), ("keep", False)):
        allotment = Allotment(network(), 2)
        images = tiny.images(4)
        live = dict(allotment.network.named_parameters())
        before = {n: live[n].detach().clone() for n in allotment.names}
        allotment.prune(1, {n: live[n].detach().abs() for n in allotment.names}, 0.5)
        allotment.settle(1)
        values = {
            "zero": {n: torch.zeros_like(live[n]) for n in allotment.names},
            "fresh": dict(network(3).named_parameters()),
            "keep": None,
        }[kind]
        allotment.begin(2, values)
        allotment.eval()
        with torch.no_grad():
            same = torch.equal(allotment(images, 2), allotment.sub_model(images, 1))
        assert same is same_function
        if kind == "keep":
            for name, weight in allotment.live_weights(2).items():
                assert torch.equal(weight, before[name])


P1 = torch.tensor([[0.9, 0.05, 0.05], [0.4, 0.3, 0.3], [0.1, 0.8, 0.1]], dtype=DOUBLE)[None]
P2 = torch.tensor([[0.85, 0.1, 0.05], [0.35, 0.35, 0.3], [0.1, 0.1, 0.8]], dtype=DOUBLE)[None]


def test_14_example_a():
    dot = instance_weights(P1, P2, objective="dot", step=0.01)
    assert dot.tolist() == [[1, 0, 0]]
    cosine = instance_weights(P1, P2, objective="cosine", step=0.01)
    torch.testing.assert_close(cosine, torch.tensor([[0.97, 0, 0.03]], dtype=DOUBLE))

    def value(weights):
        return float(F.cosine_similarity(mix(P1, weights), mix(P2, weights)))

    assert value(cosine) == pytest.approx(0.998895, abs=6e-7)
    for corner, expected in zip(torch.eye(3, dtype=DOUBLE), (0.9981, 0.9926, 0.2576), strict=True):
        assert value(corner) == pytest.approx(expected, abs=6e-5)
    assert value(torch.full((3,), 1 / 3, dtype=DOUBLE)) == pytest.approx(0.873803, abs=6e-7)


def test_15_the_form_is_the_direct_computation():
    generator = torch.Generator().manual_seed(0)
    first, second = (
        torch.rand(20, 3, 7, dtype=DOUBLE, generator=generator).softmax(2) for _ in "ab"
    )
    grid = simplex_grid(3, 0.05)
    direct = torch.stack(
        [F.cosine_similarity(mix(first, w), mix(second, w)) for w in grid], dim=1
    )  # [N, G]
    chosen = instance_weights(first, second)
    torch.testing.assert_close(
        F.cosine_similarity(mix(first, chosen), mix(second, chosen)), direct.max(dim=1).values
    )
    whole = group_weights(first, second)
    assert torch.equal(whole, grid[direct.mean(dim=0).argmax()])


@pytest.mark.parametrize(
    ("a", "b", "c", "best", "value"),
    [
        (0.5, 0.5, 0.6, 0.5, 0.55),
        (0.5, 0.4, 0.6, 2 / 3, 0.53333),
        (0.8, 0.5, 0.4, 1, 0.8),
        (0.6, 0.2, 0.5, 1, 0.6),
    ],
)
def test_16_two_sub_models(a, b, c, best, value):
    # answers whose inner products are the matrix [[a, c], [c, b]]
    first = torch.eye(2, dtype=DOUBLE)[None]
    second = torch.tensor([[[a, c], [c, b]]], dtype=DOUBLE)
    found = instance_weights(first, second, objective="dot", step=0.001)
    assert float(found[0, 0]) == pytest.approx(best, abs=1e-3)
    form = (mix(first, found) * mix(second, found)).sum()
    assert float(form) == pytest.approx(value, abs=1e-5)


def test_17_identical_views_say_nothing_to_the_cosine():
    assert instance_weights(P1, P1).tolist() == [simplex_grid(3)[0].tolist()]
    nearest = simplex_grid(3)[0]
    assert (nearest - 1 / 3).abs().max() < 0.04
    assert instance_weights(P1, P1, objective="dot").tolist() == [[1, 0, 0]]


def test_18_a_flat_sub_model_wins_the_cosine():
    flat1, flat2 = [0.34, 0.33, 0.33], [0.33, 0.34, 0.33]
    first = torch.tensor([[flat1, [0.9, 0.05, 0.05], [0.05, 0.9, 0.05]]], dtype=DOUBLE)
    second = torch.tensor([[flat2, [0.05, 0.05, 0.9], [0.9, 0.05, 0.05]]], dtype=DOUBLE)
    assert float(instance_weights(first, second, step=0.01)[0, 0]) > 0.9


def test_19_permuting_sub_models_permutes_weights_and_equal_ones_do_not_matter():
    order = [2, 0, 1]
    one = instance_weights(P1, P2, step=0.01)
    torch.testing.assert_close(
        instance_weights(P1[:, order], P2[:, order], step=0.01), one[:, order]
    )
    same = P1[:, :1].expand(-1, 3, -1)
    for weights in simplex_grid(3, 0.25):
        torch.testing.assert_close(mix(same, weights), P1[:, 0])


def test_23_sizes_of_grids():
    assert len(simplex_grid(3, 0.05)) == 231
    assert len(simplex_grid(3, 0.01)) == 5151
    assert len(simplex_grid(4, 0.05)) == 1771
    torch.testing.assert_close(simplex_grid(4).sum(1), torch.ones(1771, dtype=DOUBLE))


def test_22_stage_1_is_plain_training(tmp_path):
    do, plain = tiny.build("do"), tiny.build("single-head")
    with torch.no_grad():
        plain.backbone.load_state_dict(do.allotment.network[0].state_dict())
        plain.head.load_state_dict(do.allotment.network[1].state_dict())
    given = batch()
    at = Position(0, 0, 0, 0, 3)
    ours = do.train().training_step([given], at).loss
    assert torch.equal(ours, plain.train().training_step([given], at).loss)


def test_a_whole_training_freezes_and_mixes(tmp_path):
    method = tiny.build("do")
    run = tiny.train(method, tmp_path, name="do")
    lines = run.read_metrics()
    sizes = [line["weights_by_group"] for line in lines if "weights_by_group" in line]
    total = sum(sizes[0])
    assert sizes[-1][0] == 0
    assert sizes[-1][1] == total - round(0.5 * total)
    free = total - sizes[-1][1]
    assert sizes[-1][2] == free - round(0.8 * free)
    # weights of a group are bit-identical from their stage on
    ends = [ckpt.read_weights(run.checkpoints / f"stage-{n}-end") for n in (2, 5, 7)]
    for name in (n for n in ends[0] if n.startswith("allotment.settled.")):
        group = ends[2][name.replace("settled", "group")]
        for t, end in enumerate(ends[:2], start=1):
            assert torch.equal(end[name][group == t], ends[2][name][group == t])
    images = tiny.images(4)
    answers = method.eval().answers(images).softmax(2)
    assert answers.shape == (4, 3, 7)
    torch.testing.assert_close(method.predict(images).exp(), answers.mean(1))
    np.testing.assert_allclose(method.predict(images).exp().sum(1).detach(), 1, rtol=1e-5)


def test_empty_groups_fall_back_and_say_so():
    assert "no class is many shot" in tiny.build("do").remarks[0]
    two = tiny.build("do", counts=ClassCounts([40, 30]))
    assert two.count == 2
    assert [stage.name for stage in two.stages()] == [
        "group 1", "group 1, release", "group 1, settle", "group 2", "group 2, settle",
    ]  # fmt: skip


def test_the_mixture_of_one_picture_is_branded():
    assert any(
        "Instance-wise" in remark for remark in tiny.build("do", {"mixture": "instance"}).remarks
    )


def test_sub_models_are_shown_beside_the_mixture(tmp_path):
    method = tiny.build("do")
    tiny.train(method, tmp_path, name="do")
    method.eval()
    data = tiny.data()
    images = (data.pictures.pixels.float() / 255 - 0.3) / 0.25
    labels = torch.tensor(data.manifest.labels)
    with torch.no_grad():
        (panel,) = method.panels([(images[:40], labels[:40]), (images[40:], labels[40:])], [])
        right = method.predict(images).argmax(1) == labels
    each = [float(right[labels == c].double().mean()) for c in range(7)]
    assert list(panel.series) == ["sub-model 1", "sub-model 2", "sub-model 3", "average"]
    assert panel.series["average"][0] == pytest.approx(sum(each) / 7)
