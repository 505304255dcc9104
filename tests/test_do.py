"""DO: testable facts of the specification, B4, by their numbers. Facts 14 to 20 are in test_mixture.py."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F

from longtail.core import ClassCounts, Position, Protocol, ShotGroups
from longtail.core.errors import CheckpointError, ConfigError
from longtail.core.stage import Sampling
from longtail.data.long_tail import profile_counts
from longtail.data.samplers import class_probability, group_preferred
from longtail.engine import RunFolder
from longtail.engine import checkpoint as ckpt
from longtail.losses import (
    balanced_softmax,
    compensated_cross_entropy,
    cross_entropy,
    preference,
    reversed_prior,
)
from longtail.methods import Setting
from longtail.methods.do import DO
from longtail.methods.do_figures import ImportanceMeter, release_curves
from longtail.methods.do_importance import mean_importance
from longtail.methods.do_options import DOOptions
from longtail.methods.do_stages import (
    begins_tenth,
    choose_level,
    release_schedule,
    share_to_release,
)
from longtail.models import Backbone, build_backbone
from longtail.models.allotment import Allotment, _pack, _unpack
from longtail.models.importance import importance
from tests import tiny
from tests.contract.test_method_contract import batch

COUNTS = ClassCounts([100, 10, 1])
DOUBLE = torch.float64
C100 = ClassCounts(profile_counts("exponential", 100, 500, 100))
QUICK = {"steps_per_tenth": 1}  # a release of the default length is hundreds of steps


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


@pytest.mark.parametrize(
    ("ratio", "reading", "expected"),
    [
        (100, "picture-weight", (0.6717, 0.3051, 0.0232)),
        (100, "group-mass", (0.29, 0.70, 0.01)),
        (100, "group-mass-uniform", (0.1615, 0.70, 0.1385)),
        (50, "picture-weight", (0.6747, 0.3090, 0.0163)),
        (50, "group-mass", (0.2929, 0.70, 0.0071)),
        (50, "group-mass-uniform", (0.2085, 0.70, 0.0915)),
    ],
)
def test_8_other_readings_of_stage_2(ratio, reading, expected):
    counts = ClassCounts(profile_counts("exponential", 100, 500, ratio))
    groups = ShotGroups.from_counts(counts)
    p = group_preferred(groups.mask("medium").numpy(), 0.7, counts, reading)
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


def test_9_where_tenths_begin():
    def begins(steps, final, per_tenth):
        return [step for step in range(steps) if begins_tenth(step, steps, final, per_tenth)]

    assert begins(50, 0.5, 10) == [0, 10, 20, 30, 40]
    assert begins(20, 0.5, 4) == [0, 4, 8, 12, 16]
    assert begins(10, 0.5, 4) == [0, 2, 4, 6, 8]  # two of eq. 4's steps in one
    # a tenth has 16.8 of the 84 steps: step s, from 0, is the first with s + 1 > 16.8 k
    assert begins(84, 0.5, 10) == [0, 16, 33, 50, 67]
    assert begins(3, 0.5, 10) == [0, 1, 2]


def test_10_ties_do_not_release_more():
    allotment = Allotment(torch.nn.Sequential(torch.nn.Linear(2, 2, bias=False)), 2)
    importance = {"0.weight": torch.tensor([[0.187025, 0.091134], [0.011689, 0.091134]])}
    allotment.prune(1, importance, 0.5)
    assert allotment.groups_of("0.weight").tolist() == [[1, 0], [0, 1]]
    assert allotment.sizes() == [2, 2, 0]


TOY = (
    torch.tensor([[1, 2], [2, 0], [0, 1], [1, 1]], dtype=DOUBLE),
    torch.tensor([0, 0, 1, 1]),
    {"w": torch.tensor([[1, -0.5], [0.25, 0.5]], dtype=DOUBLE)},
)


def toy_importance(mask=slice(None), scale=1.0, weight=1.0, **how):
    pictures, labels, weights = TOY

    def loss(z, y):
        return scale * F.cross_entropy(z, y, reduction="none")

    return importance(
        {"w": weight * weights["w"]}, lambda w, x: x @ w["w"].T, loss, pictures[mask], labels[mask],
        **how,
    )["w"]  # fmt: skip


@pytest.mark.parametrize(
    ("gradients", "mask", "expected"),
    [
        ("class", slice(0, 2), [[0.326127, 0.151049], [0.020383, 0.151049]]),
        ("class", slice(2, 4), [[0.047922, 0.031220], [0.002995, 0.031220]]),
        ("class", slice(None), [[0.187025, 0.091134], [0.011689, 0.091134]]),
        ("picture", slice(None), [[0.232250, 0.167550], [0.014516, 0.167550]]),
        ("batch", slice(None), [[0.031005, 0.011232], [0.001938, 0.011232]]),
    ],
)
def test_10_taylor_importance_of_the_toy(gradients, mask, expected):
    found = toy_importance(mask, gradients=gradients)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=DOUBLE), atol=6e-7, rtol=0)


def test_11_properties_of_the_importance():
    for criterion in ("taylor", "taylor-absolute", "fisher", "magnitude"):
        for gradients in ("batch", "class", "picture"):
            found = toy_importance(criterion=criterion, gradients=gradients)
            assert (found >= 0).all()
    # zero where the weight is zero, also for a weight with a gradient
    gate = torch.tensor([[1.0, 0], [1, 1]], dtype=DOUBLE)
    assert toy_importance(weight=gate)[0, 1] == 0
    assert toy_importance(weight=gate, criterion="fisher")[0, 1] > 0
    # a loss times c: c^2, so the ranking stays
    torch.testing.assert_close(toy_importance(scale=3.0), 9 * toy_importance())
    # the magnitude knows no data
    assert torch.equal(toy_importance(slice(0, 1), criterion="magnitude"), TOY[2]["w"].abs())
    # Fisher of a gate on the weight is Taylor picture by picture
    weights = TOY[2]["w"]
    torch.testing.assert_close(
        toy_importance(criterion="fisher", gradients="picture") * weights.square(),
        toy_importance(gradients="picture"),
    )
    assert not torch.equal(toy_importance(criterion="random"), toy_importance(criterion="random"))


def test_11_importance_of_a_group_over_all_pictures():
    pictures, labels, weights = TOY

    def measure(x, y):
        def loss(z, y):
            return F.cross_entropy(z, y, reduction="none")

        return importance(weights, lambda w, x: x @ w["w"].T, loss, x, y)["w"].flatten()

    batches = [(pictures[[0, 2]], labels[[0, 2]]), (pictures[[1]], labels[[1]])]
    found = mean_importance(measure, batches, torch.tensor([True, False]))
    # (w g)^2 of the two pictures of class 0, one by one: p - y times x
    logits = pictures[:2] @ weights["w"].T
    error = logits.softmax(1) - torch.tensor([[1, 0], [1, 0]])
    by_hand = (weights["w"] * error[:, :, None] * pictures[:2, None]).square().mean(0)
    torch.testing.assert_close(found.view(2, 2), by_hand)
    with pytest.raises(ConfigError, match="importance_classes=all"):
        mean_importance(measure, batches, torch.tensor([False, False]))


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


def test_22_stage_1_is_plain_training(tmp_path):
    do, plain = tiny.build("do"), tiny.build("single-head")
    with torch.no_grad():
        plain.backbone.load_state_dict(do.allotment.network[0].state_dict())
        plain.head.load_state_dict(do.allotment.network[1].state_dict())
    given = batch()
    at = Position(0, 0, 0, 0, 3)
    ours = do.train().training_step([given], at).loss
    assert torch.equal(ours, plain.train().training_step([given], at).loss)


def test_21_what_is_stored_per_stage():
    backbone = build_backbone("resnet32")
    norms = [m for m in backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    channels = sum(m.num_features for m in norms)
    assert channels == 1_136
    stored = sum(v.numel() for m in norms for v in m.state_dict().values() if v.is_floating_point())
    assert stored == 4_544


def test_all_sub_models_take_the_space_of_one_network(tmp_path):
    setting = Setting(
        C100, ShotGroups.from_counts(C100), 1, lambda: build_backbone("resnet32"), tiny.experts
    )
    method = DO(DOOptions(), setting)
    live = method.allotment
    for stage, share in ((1, 0.5), (2, 0.8), (3, None)):
        with torch.no_grad():
            for parameter in live.network.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        if share:
            flat = dict(live.network.named_parameters())
            live.prune(stage, {n: flat[n].detach().abs() for n in live.names}, share)
        live.settle(stage)
        if stage < 3:
            live.begin(stage + 1, {n: torch.randn_like(live.values_of(n)) for n in live.names})
    plain = torch.nn.Sequential(build_backbone("resnet32"), torch.nn.Linear(64, 100))
    for name, module in (("do", method), ("plain", plain)):
        safetensors.torch.save_file(module.state_dict(), tmp_path / name)
    ratio = (tmp_path / "do").stat().st_size / (tmp_path / "plain").stat().st_size
    assert 1 < ratio <= 1.15
    again = DO(DOOptions(), setting)
    ckpt.load_weights(again, safetensors.torch.load_file(tmp_path / "do"), "x")
    images = tiny.images(4, side=32)
    with torch.no_grad():
        assert torch.equal(again.eval().answers(images), method.eval().answers(images))
    assert again.allotment.sizes() == live.sizes()
    # half-trained weights are told apart from finished ones
    with pytest.raises(CheckpointError, match="missing"):
        ckpt.load_weights(again, plain.state_dict(), "x")


@pytest.mark.parametrize("count", [1, 2, 3, 4, 9])
def test_packed_groups_come_back(count):
    generator = torch.Generator().manual_seed(count)
    for size in (1, 3, 4, 5, 1000):
        groups = torch.randint(count + 1, (size,), generator=generator).to(torch.uint8)
        packed = _pack(groups, count)
        assert len(packed) <= (size + 3) // 4 if count < 4 else (size + 1) // 2
        assert torch.equal(_unpack(packed, count, size), groups)


def stages_of(**options):
    setting = Setting(C100, ShotGroups.from_counts(C100), 10, tiny.backbone, tiny.experts)
    method = DO(DOOptions(**options), setting)
    return method, method.stages()


def test_sequences_of_stages():
    groups = ShotGroups.from_counts(C100)
    many, medium, few = (groups.mask(name) for name in ("many", "medium", "few"))
    assert torch.equal(stages_of()[0].preferred, torch.stack([many, medium, few]))
    swapped, stages = stages_of(sequence="many-few-medium")
    assert torch.equal(swapped.preferred, torch.stack([many, few, medium]))
    assert [s.samplings[0].name for s in stages if s.kind == "train"] == [
        "instance", "instance", "reversed", "reversed", "weights",
    ]  # fmt: skip
    assert torch.equal(stages_of(sequence="many-few")[0].preferred, torch.stack([many, few]))
    four, stages = stages_of(sequence="four")
    upper = medium & (torch.tensor(C100.values) > 50)
    assert torch.equal(four.preferred, torch.stack([many, upper, medium & ~upper, few]))
    assert upper.sum() == 15  # classes of 51 to 100 pictures
    assert [stage.name for stage in stages].count("group 4") == 1
    with pytest.raises(ValueError, match="release needs 3 shares"):
        DOOptions(sequence="four", release=(0.5, 0.8))


def test_known_bias_is_the_margin():
    # spec B1.4: 4.61 nats from head to tail in stage 3, log(.7 / .3) in stage 2
    bias = stages_of()[0].known_bias()
    assert not bias[0].any()
    assert float(bias[1, 40] - bias[1, 0]) == pytest.approx(0.847, abs=0.001)
    assert float(bias[2, 99] - bias[2, 0]) == pytest.approx(4.61, abs=0.01)
    assert not stages_of(compensation="scalar")[0].known_bias().any()


def test_release_of_the_total():
    # spec B1.6: "retain (1 - gamma) of total": .5/.2/.3 at 80 %, .5/.4/.1 at 60 %
    for gamma, kept in ((0.8, 0.2), (0.6, 0.4)):
        options = DOOptions(release=(0.5, gamma), release_of="total")
        assert (1 - share_to_release(1, options)) * 0.5 == pytest.approx(kept)


@pytest.mark.parametrize(
    ("rule", "expected"), [("at-drop", 8), ("before-drop", 7), ("tolerance", 6)]
)
def test_rules_of_the_search(rule, expected):
    # accuracies that the trial measured, 0 to 90 % (do-prototype.md, gradual pruning of stage 1)
    curve = [0.314, 0.315, 0.319, 0.317, 0.318, 0.303, 0.300, 0.240, 0.160, 0.074]
    if rule == "at-drop":
        assert choose_level(curve, rule) == 9
        curve[9] = 0.15
    assert choose_level(curve[:9] if rule == "before-drop" else curve, rule) == expected


def test_the_search_keeps_what_it_scored(tmp_path):
    method = tiny.build("do", {"release": "search", "steps_per_tenth": 2})
    val = tiny.data()
    run = tiny.train(
        method, tmp_path, name="do", selection_set=val, protocol=Protocol(has_val=True)
    )
    lines = [line for line in run.read_metrics() if "release_curve" in line]
    assert [line["release_split"] for line in lines] == ["val", "val"]
    assert all(len(line["release_curve"]) == 10 for line in lines)
    sizes = [line["weights_by_group"] for line in run.read_metrics() if "weights_by_group" in line]
    total = sum(sizes[0])
    assert sizes[0][1] == total - round(lines[0]["release"] * total)
    # the searched curves need no space in the finished model
    end = ckpt.read_weights(ckpt.finished(run.checkpoints))
    assert not any(name.startswith("measured") for name in end)
    # without val, training pictures decide, and the page says so
    other = tiny.build("do", {"release": "search"} | QUICK)
    tiny.train(other, tmp_path / "b", name="do")
    end = ckpt.read_weights(ckpt.finished(RunFolder(tmp_path / "b").checkpoints))
    again = tiny.build("do", {"release": "search"} | QUICK)
    ckpt.load_weights(again, end, "x")  # what is scored is a loaded model
    assert any("searched on training pictures" in remark for remark in again.remarks)


def test_a_ranking_that_is_made_once_decides_the_whole_release(tmp_path):
    method = tiny.build("do", {"importance_refresh": "once", "steps_per_tenth": 3})
    run = tiny.train(method, tmp_path, name="do")
    names = [stage.name for stage in method.stages()]
    assert names[:4] == ["group 1", "group 1, measure", "group 1, release", "group 1, settle"]
    measured, settled = (ckpt.read_weights(run.checkpoints / f"stage-{n}-end") for n in (1, 3))
    ranking = measured["measured.importance"]
    assert ranking.max() > 0
    group = torch.cat([method.allotment.groups_of(n).flatten() for n in method.allotment.names])
    kept = ranking[group == 1]
    assert len(kept) == len(ranking) - round(0.5 * len(ranking))
    assert kept.min() >= ranking[group != 1].max()
    assert torch.equal(settled["measured.importance"], ranking)


def test_a_ranking_follows_with_every_step_or_tenth(tmp_path, monkeypatch):
    rankings = []
    prune = Allotment.prune

    def spy(self, stage, importance, *rest):
        rankings.append(torch.cat([value.flatten() for value in importance.values()]).clone())
        prune(self, stage, importance, *rest)

    monkeypatch.setattr(Allotment, "prune", spy)
    for refresh, expected in (("tenth", [4, 4, 4, 4, 4]), ("step", [1] * 20)):
        rankings.clear()
        options = {"importance_refresh": refresh, "steps_per_tenth": 4, "sequence": "many-few"}
        method = tiny.build("do", options)
        tiny.train(method, tmp_path / refresh, name="do")
        steps = method._steps_per_epoch() * method._release_epochs(0)
        assert steps == len(rankings) == 20
        alike = [torch.equal(*pair) for pair in itertools.pairwise(rankings)]
        lengths = [
            len(list(run)) for run in np.split(rankings, np.flatnonzero(~np.array(alike)) + 1)
        ]
        assert lengths == expected


def test_statistics_taken_anew_are_all_that_changes(tmp_path):
    method = tiny.build("do", {"recalibrate": True, "release": "search", "steps_per_tenth": 2})
    run = tiny.train(
        method, tmp_path, name="do", selection_set=tiny.data(), protocol=Protocol(has_val=True)
    )
    parts = ["release", "choose", "statistics", "settle"]
    names = [stage.name for stage in method.stages()]
    assert names[:5] == ["group 1", *(f"group 1, {part}" for part in parts)]
    assert names[-2:] == ["group 3", "group 3, settle"]
    chosen, anew, end = (ckpt.read_weights(run.checkpoints / f"stage-{n}-end") for n in (2, 3, 11))
    changed = {name for name in anew if not torch.equal(anew[name], chosen[name])}
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    assert changed == {name for name in anew if name.endswith(statistics) and ".network." in name}
    # what is settled, and answers for ever, are these
    mean = "allotment.network.0.network.bn1.running_mean"
    assert torch.equal(end["allotment.kept.0.0__network__bn1__running_mean"], anew[mean])


def test_statistics_are_taken_anew_where_there_are_any():
    with pytest.raises(ValueError, match="norm=frozen keeps the statistics"):
        DOOptions(recalibrate=True, norm="frozen")
    plain = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.LayerNorm(144)
    )
    setting = replace(tiny.setting(), build_backbone=lambda: Backbone(plain, 144))
    with pytest.raises(ConfigError, match="this network has none"):
        DO(DOOptions(recalibrate=True), setting)


def test_with_what_a_release_retrains(monkeypatch):
    monkeypatch.setattr(DO, "_release", lambda *_: None)  # the loss alone is asked for
    pictures = batch()
    expected = {"stage": (True, True), "without-margin": (True, False), "uniform": (False, False)}
    for retraining, (preferring, margin) in expected.items():
        method = tiny.build("do", {"retraining": retraining}).eval()
        stages = method.stages()
        names = [stage.name for stage in stages]
        first, second = (names.index(f"group {t}, release") for t in (1, 2))
        assert stages[first].samplings[0] == Sampling()  # stage 1 prefers nothing
        own = stages[names.index("group 2")].samplings[0]
        assert len(set(own.weights)) == 2
        alike = Sampling(name="weights", weights=(1.0,) * 7)
        assert stages[second].samplings[0] == (own if preferring else alike)
        at = Position(seed=0, stage=second, epoch=0, step=0, epochs=1)
        loss = method.training_step([pictures, pictures], at).loss
        logits = method.allotment(pictures.images, 2)
        if margin:
            logits = logits - method.known_bias()[1]
        torch.testing.assert_close(loss, cross_entropy(logits, pictures.labels))


def test_val_neither_shortens_nor_undoes_a_release(tmp_path):
    method = tiny.build("do", {"steps_per_tenth": 4})  # several epochs
    options = tiny.OPTIONS.model_copy(update={"select": "best-validation", "early_stopping": 1})
    run = tiny.train(
        method, tmp_path, options, name="do", selection_set=tiny.data(),
        protocol=Protocol(has_val=True, selection="best-validation"),
        validate=lambda model: {"macro_accuracy": 0.5},  # the first epoch of every stage is its best
    )  # fmt: skip
    sizes = [line["weights_by_group"] for line in run.read_metrics() if "weights_by_group" in line]
    total = sum(sizes[0])
    assert sizes[0][1] == total - round(0.5 * total)


def test_controls_do_what_their_names_say(tmp_path):
    images = tiny.images(4)
    alone = tiny.build("do", {"reuse": False} | QUICK)
    tiny.train(alone, tmp_path / "a", name="do")
    weights = alone.allotment.settled_weights(2)
    for name in alone.allotment.names:
        assert not weights[name][alone.allotment.groups_of(name) != 2].any()
    separate = tiny.build("do", {"networks": "separate"})
    tiny.train(separate, tmp_path / "b", name="do")
    answers = separate.eval().answers(images)
    for t, network in enumerate(separate.allotment.networks):
        torch.testing.assert_close(answers[:, t], network.eval()(images))
    shared = tiny.build("do", {"norm": "shared"} | QUICK)
    tiny.train(shared, tmp_path / "c", name="do")
    name = "0__network__bn1__running_mean"
    first, last = (getattr(shared.allotment.kept[t], name) for t in (0, 2))
    assert torch.equal(first, last)
    frozen = tiny.build("do", {"norm": "frozen"} | QUICK)
    run = tiny.train(frozen, tmp_path / "d", name="do")
    ends = [ckpt.read_weights(run.checkpoints / f"stage-{n}-end") for n in (1, 7)]
    key = "allotment.network.0.network.bn1.running_mean"
    assert torch.equal(ends[0][key], ends[1][key])


def test_margins_are_taken_off_before_mixing():
    method = tiny.build("do", {"mixture": "without-margins"}).eval()
    images = tiny.images(5)
    logits = method.answers(images)
    expected = (logits - method.known_bias()[: logits.shape[1]]).softmax(2).mean(1)
    torch.testing.assert_close(method.predict(images).exp(), expected)


def test_a_whole_training_freezes_and_mixes(tmp_path):
    method = tiny.build("do", {"steps_per_tenth": 3})
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


@pytest.mark.parametrize("networks", ["allotted", "separate"])
def test_stacking_is_fitted_on_val_and_kept_with_the_model(networks, tmp_path):
    options = {"mixture": "stacking", "networks": networks, "steps_per_tenth": 1}
    with pytest.raises(ConfigError, match="there is no val split"):
        tiny.train(tiny.build("do", options), tmp_path / "refused", name="do")
    assert not list((tmp_path / "refused" / "checkpoints").iterdir())
    method, val = tiny.build("do", options), tiny.data()
    run = tiny.train(
        method, tmp_path / "run", name="do", selection_set=val, protocol=Protocol(has_val=True)
    )
    (line,) = [line for line in run.read_metrics() if "stacking" in line]
    again = tiny.build("do", options)
    ckpt.load_weights(again, ckpt.read_weights(ckpt.finished(run.checkpoints)), "x")
    images = tiny.images(6)
    answers = again.eval().answers(images).float()
    masks = again.setting.groups
    expected = torch.empty(6, answers.shape[2])
    for name, told in line["stacking"].items():
        mask = masks.mask(name)
        weighted = torch.tensor(told["weights"])[None, :, None] * answers.log_softmax(2)
        expected[:, mask] = (weighted.sum(1) + told["offset"])[:, mask]
    torch.testing.assert_close(again.predict(images), expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(expected, answers.log_softmax(2).mean(1), atol=1e-3)


@pytest.mark.parametrize(
    "changed",
    [{"compensation": "vector-one"}, {"sequence": "many-few-medium"}, {"reverse": "index"}],
)
def test_a_run_that_takes_the_first_stage_of_another_keeps_its_own_options(changed, tmp_path):
    source = tiny.build("do", {"steps_per_tenth": 1}, seed=1)
    run = tiny.train(source, tmp_path, name="do")
    weights = ckpt.read_weights(run.checkpoints / "stage-0-end")
    method = tiny.build("do", changed)
    own = {name: getattr(method, name).clone() for name in ("preferred", "log_alpha")}
    assert any(not torch.equal(own[name], getattr(source, name)) for name in own)
    tiny.trainer(method, tmp_path / "b", name="do").start_from(weights, 3, "x")
    for name, value in own.items():
        assert torch.equal(getattr(method, name), value)
    name = "allotment.network.0.network.conv1.weight"
    assert torch.equal(method.state_dict()[name], weights[name])
    del weights[name]  # what the first stage trains must be there
    with pytest.raises(CheckpointError, match=f"missing {name}"):
        tiny.trainer(tiny.build("do", changed), tmp_path / "c", name="do").start_from(
            weights, 3, "x"
        )


@pytest.mark.parametrize(
    "changed",
    [
        {"sequence": "four"},
        {"sequence": "many-few"},
        {"classifier": "allotted"},
        {"restart": "rewind"},
    ],
)
def test_readings_go_on_from_one_first_stage_as_from_its_own(changed, tmp_path):
    changed = QUICK | changed
    assert DO.shares_first_stage(DOOptions(**changed), DOOptions())
    source = tiny.train(tiny.build("do", QUICK), tmp_path / "a", name="do")
    alone, after = tiny.build("do", changed), tiny.build("do", changed)
    tiny.train(alone, tmp_path / "b", name="do")
    trainer = tiny.trainer(after, tmp_path / "c", name="do")
    trainer.start_from(ckpt.read_weights(source.checkpoints / "stage-0-end"), 3, "x")
    trainer.run()
    one, two = alone.state_dict(), after.state_dict()
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_run_may_begin_with_a_single_parameter(tmp_path, monkeypatch):
    name, other = (f"allotment.network.{n}" for n in ("0.network.conv1.weight", "1.weight"))
    monkeypatch.setattr(DO, "begins_with", (name,))
    source = tiny.train(tiny.build("do", QUICK), tmp_path / "a", name="do")
    weights = ckpt.read_weights(source.checkpoints / "stage-0-end")
    method = tiny.build("do")
    own = method.state_dict()[other].clone()
    tiny.trainer(method, tmp_path / "b", name="do").start_from(weights, 3, "x")
    assert torch.equal(method.state_dict()[name], weights[name])
    assert torch.equal(method.state_dict()[other], own)
    assert not torch.equal(own, weights[other])


def test_another_first_stage_is_not_shared(tmp_path):
    cosine, whole = DOOptions(first_schedule="cosine"), DOOptions(networks="separate")
    assert not DO.shares_first_stage(cosine, DOOptions())
    assert not any(DO.shares_first_stage(*pair) for pair in ((whole, whole), (whole, cosine)))
    source = tiny.train(tiny.build("do", QUICK), tmp_path / "a", name="do")
    weights = ckpt.read_weights(source.checkpoints / "stage-0-end")
    separate = tiny.trainer(tiny.build("do", {"networks": "separate"}), tmp_path / "b", name="do")
    with pytest.raises(CheckpointError, match=r"missing allotment\.networks\.0"):
        separate.start_from(weights, 3, "x")


def test_the_mixture_of_one_picture_is_branded():
    assert any(
        "Instance-wise" in remark for remark in tiny.build("do", {"mixture": "instance"}).remarks
    )


def test_sub_models_are_shown_beside_the_mixture(tmp_path):
    method = tiny.build("do", QUICK)
    tiny.train(method, tmp_path, name="do")
    method.eval()
    data = tiny.data()
    images = (data.pictures.pixels.float() / 255 - 0.3) / 0.25
    labels = torch.tensor(data.manifest.labels)
    with torch.no_grad():
        panels = method.panels([(images[:40], labels[:40]), (images[40:], labels[40:])], [])
        right = method.predict(images).argmax(1) == labels
    each = [float(right[labels == c].double().mean()) for c in range(7)]
    panel, weights, density, importance_ = panels
    assert list(panel.series) == [
        "sub-model 1", "sub-model 2", "sub-model 3", "average", "oracle: best for each group",
    ]  # fmt: skip
    assert panel.series["average"][0] == pytest.approx(sum(each) / 7)
    oracle = panel.series["oracle: best for each group"]
    for t in range(1, 4):
        assert oracle[t] == max(panel.series[f"sub-model {n}"][t] for n in (1, 2, 3))
    # weights of a picture sum to one, the groups of a layer's weights to the layer
    for shown in (weights, density):
        for values in zip(*shown.series.values(), strict=True):
            assert sum(values) == pytest.approx(1, abs=1e-6)
    assert len(density.places) == len(method.allotment.names)
    assert all(value > 0 for values in importance_.series.values() for value in values)


def test_importance_by_group_is_that_of_the_sub_model(tmp_path):
    method = tiny.build("do", QUICK)
    run = tiny.train(method, tmp_path, name="do")
    (line,) = (line for line in run.read_metrics() if "importance" in line)
    assert len(line["importance"]) == 3
    images, labels = tiny.images(12), torch.arange(12) % 7
    meter = ImportanceMeter(method.eval().allotment, method.preferred)
    meter.add(images, labels)
    weights = method.allotment.settled_weights(2)
    mask = method.preferred[1][labels]
    live = {n: weights[n].detach().requires_grad_() for n in method.allotment.names}
    loss = F.cross_entropy(method.allotment.answer(weights | live, images[mask]), labels[mask])
    gradients = torch.autograd.grad(loss, list(live.values()))
    squares = [(w * g).square() for w, g in zip(live.values(), gradients, strict=True)]
    expected = torch.cat([square.flatten() for square in squares]).mean()
    assert meter.result()[1][1] == pytest.approx(float(expected.detach()), rel=1e-4)


def test_a_searched_curve_is_shown():
    lines = [{"stage": "group 1, settle", "release_split": "val", "release_curve": [0.4] * 10}]
    (panel,) = release_curves(lines)
    assert panel.series == {"group 1 (val)": [0.4] * 10}
    assert release_curves([{"loss": 1}]) == ()
