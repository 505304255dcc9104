"""ResLT: the testable facts of the specification, B.5, by their numbers."""

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from longtail.core import Batch, ClassCounts, Position, ShotGroups
from longtail.core.errors import ConfigError
from longtail.data.sources.benchmark_lists import list_entries
from longtail.data.splits.long_tail import profile_counts
from longtail.losses import cross_entropy
from longtail.methods import Setting
from longtail.methods.ingredients.mixup_cutmix import Mixed
from longtail.methods.reslt import Branches, ResLT, ResLTOptions, assign_groups, branch_masks
from longtail.models import build_backbone, build_experts
from longtail.models.options import ModelConfig
from tests import tiny

C100 = ClassCounts(profile_counts("exponential", 100, 500, 100))
C10 = ClassCounts(profile_counts("exponential", 10, 5000, 100))
SIX = ClassCounts([200, 150, 60, 50, 9, 5])  # two classes in each group


def build(counts=SIX, **options):
    setting = Setting(counts, ShotGroups.from_counts(counts), 3, tiny.backbone, tiny.experts)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ResLT(ResLTOptions(**options), setting)


def logits(branches=3, size=24, classes=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(branches, size, classes, dtype=torch.float64, generator=generator)


def labels(low=0, high=6, size=24):
    return torch.randint(low, high, (size,), generator=torch.Generator().manual_seed(1))


def test_1_masks_are_nested():
    mask = build().masks
    assert (mask[0] == 1).all()
    assert (mask[:-1] >= mask[1:]).all()
    assert mask.sum(0).tolist() == [1, 1, 2, 2, 3, 3]


def test_2_pooled_loss_is_a_convex_combination_of_branch_means():
    method, z, y = build(alpha=1.0, capped=False), logits(), labels()
    loss, shares = method.loss(z, y)
    mask = method.masks[:, y].bool()
    means = torch.stack([cross_entropy(z[g][mask[g]], y[mask[g]]) for g in range(3)])
    expected = (means * mask.sum(1)).sum() / mask.sum()
    torch.testing.assert_close(loss, expected)
    assert means.min() <= loss <= means.max()
    assert shares.sum() == pytest.approx(1)
    one = build(ClassCounts([300, 200]), alpha=1.0, capped=False, cuts=())
    z, y = logits(1, classes=2), labels(high=2)
    torch.testing.assert_close(one.loss(z, y)[0], cross_entropy(z[0], y))


def test_3_alpha_chooses_whose_gradient_counts():
    y = labels()
    for alpha, reference in ((1.0, "branch"), (0.0, "fusion")):
        z = logits().requires_grad_()
        build(alpha=alpha, capped=False).loss(z, y)[0].backward()
        other = logits().requires_grad_()
        if reference == "fusion":
            cross_entropy(other.sum(0), y).backward()
        else:
            mask = build().masks[:, y]
            each = torch.stack([cross_entropy(g, y, reduction="none") for g in other])
            ((each * mask).sum() / mask.sum()).backward()
        torch.testing.assert_close(z.grad, other.grad)


def test_4_a_batch_without_rare_images():
    y = labels(high=4)  # many and medium only
    for form in ("pooled", "subset-means"):
        z = logits().requires_grad_()
        method = build(alpha=1.0, branch_loss=form)
        loss, _ = method.loss(z, y)
        loss.backward()
        assert torch.isfinite(loss)
        assert (z.grad[2] == 0).all()
        z = logits().requires_grad_()
        build(alpha=0.0, branch_loss=form).loss(z, y)[0].backward()
        assert (z.grad[2] != 0).any()
    # what the guard is for: a mean over no image
    assert torch.isnan(torch.tensor([]).mean())


def test_5_a_batch_of_frequent_images_trains_the_first_branch():
    z, y = logits(), labels(high=2)
    loss, shares = build(alpha=1.0, capped=False).loss(z, y)
    torch.testing.assert_close(loss, cross_entropy(z[0], y))
    assert shares.tolist() == pytest.approx([1, 0, 0])


@pytest.mark.parametrize("head", ["batchnorm", "convolution", "shared"])
def test_6_fused_logits_are_one_product(head):
    method = build(head=head).eval()
    with torch.no_grad():
        method.experts[0].classifier.bias.copy_(torch.arange(6.0))
    x = tiny.images(4)
    apart = method.branch_logits(x)
    assert apart.shape == (3, 4, 6)
    torch.testing.assert_close(method.predict(x), apart.sum(0), atol=1e-5, rtol=1e-5)


def test_7_batchnorm_heads_share_their_statistics():
    method = build()
    method.train()
    for step in range(4):
        batch = Batch((tiny.images(16, step),), labels(size=16), torch.arange(16))
        out = method.training_step([batch], Position(0, 0, 0, step, 1))
        out.loss.backward()
        with torch.no_grad():
            for parameter in method.parameters():
                parameter.sub_(0.1 * parameter.grad)
                parameter.grad = None
    norms = method.experts[0].branches.norms
    for norm in norms[1:]:
        assert torch.equal(norm.running_mean, norms[0].running_mean)
        assert torch.equal(norm.running_var, norms[0].running_var)
        assert not torch.equal(norm.weight, norms[0].weight)
    with torch.no_grad():
        for norm in norms[1:]:
            norm.weight.copy_(norms[0].weight)
            norm.bias.copy_(norms[0].bias)
    method.eval()
    apart = method.branch_logits(tiny.images(5))
    assert torch.equal(apart[0], apart[1])
    assert torch.equal(method.predict(tiny.images(5)).argmax(1), apart[0].argmax(1))


def test_8_three_forms_of_the_convolution_are_one_function():
    width, x = (
        64,
        tiny.images(2)[:, :1].repeat(1, 64, 1, 1) * torch.linspace(0.5, 2, 64)[:, None, None],
    )
    wide = nn.Conv2d(width, 3 * width, 1, bias=False)
    apart = [nn.Conv2d(width, width, 1, bias=False) for _ in range(3)]
    grouped = nn.Conv2d(3 * width, 3 * width, 1, groups=3, bias=False)
    with torch.no_grad():
        for part, conv in zip(wide.weight.chunk(3), apart, strict=True):
            conv.weight.copy_(part)
        grouped.weight.copy_(wide.weight)
    expected = wide(x)
    torch.testing.assert_close(torch.cat([conv(x) for conv in apart], 1), expected)
    torch.testing.assert_close(grouped(x.repeat(1, 3, 1, 1)), expected)
    assert wide.weight.numel() == grouped.weight.numel() == 3 * width**2
    with pytest.raises(ValueError, match="divisible"):
        nn.Conv2d(64, 192, 1, groups=3)


@pytest.mark.parametrize(
    ("counts", "head", "total"),
    [(C10, "batchnorm", 464_538), (C100, "batchnorm", 470_388),
     (C10, "convolution", 476_826), (C100, "convolution", 482_676)],
)  # fmt: skip
def test_9_parameter_counts(counts, head, total):
    setting = Setting(
        counts,
        ShotGroups.from_counts(counts, "index"),
        1,
        lambda: build_backbone("resnet32"),
        tiny.experts,
    )
    method = ResLT(ResLTOptions(head=head), setting)
    assert sum(p.numel() for p in method.parameters()) == total


def test_10_overhead_of_the_convolution_head():
    # three experts of width 1,536, pooled first: one product of 3 d^2 each
    assert 3 * Branches(1536, 3, "convolution").transform[0].weight.numel() == 21_233_664


def test_11_pooling_first_is_never_larger():
    branches = Branches(8, 3, "convolution").eval()
    maps = torch.randn(4, 8, 5, 5, generator=torch.Generator().manual_seed(0))
    first, last = branches(maps.mean((2, 3), keepdim=True)), branches(maps)
    assert (first <= last + 1e-6).all()
    assert (first < last - 1e-3).any()
    flat = maps[:, :, :1, :1].expand(4, 8, 5, 5)
    torch.testing.assert_close(branches(flat.mean((2, 3), keepdim=True)), branches(flat))


def test_12_the_cap_of_the_branch_loss():
    z = torch.zeros(3, 1, 6, dtype=torch.float64)
    z[:, 0, 0] = 60.0
    loss, _ = build(alpha=1.0).loss(z.requires_grad_(), torch.tensor([5]))
    assert loss.item() == pytest.approx(16.1181, abs=1e-4)
    loss.backward()
    assert z.grad.abs().max() < 1e-12
    assert build(alpha=1.0, capped=False).loss(z, torch.tensor([5]))[0].item() == pytest.approx(60)


def test_13_one_head_for_all_is_class_weighting():
    method = build(head="shared", alpha=1.0, capped=False)
    features = method.experts[0].branches(method.backbone.feature_map(tiny.images(8)))
    assert features.data_ptr() == features[2].data_ptr()
    z, y = logits(1).expand(3, -1, -1), labels()
    group = method.group_of[y].double()
    each = cross_entropy(z[0], y, reduction="none")
    expected = (each * (group + 1)).sum() / (group + 1).sum()
    torch.testing.assert_close(method.loss(z, y)[0], expected)
    fusion = build(head="shared", alpha=0.0).loss(z, y)[0]
    torch.testing.assert_close(fusion, cross_entropy(3 * z[0], y))


def test_14_without_the_shortcut_only_the_first_branch_predicts():
    for fusion, moves in (("first", False), ("sum", True)):
        method = build(fusion=fusion).eval()
        before = method.predict(tiny.images(4))
        with torch.no_grad():
            for norm in method.experts[0].branches.norms[1:]:
                norm.bias.add_(torch.linspace(-2, 2, 64))
        assert torch.equal(method.predict(tiny.images(4)), before) is not moves


def test_15_naive_fusions():
    methods = {
        kind: build(masks="disjoint", combine=kind, alpha=1.0).eval()
        for kind in ("logits", "largest", "probabilities")
    }
    z = torch.tensor([[[9.0, 0, 0, 0, 0, 0]], [[0, 4.0, 0, 0, 0, 0]], [[0, 4.0, 0, 0, 0, 0]]])
    z[0, 0, 1] = -10.0
    decided = {}
    for kind, method in methods.items():
        # branch features that are the logits
        method.experts[0]._features = lambda maps, z=z: F.pad(z, (0, 64 - 6))
        with torch.no_grad():
            method.experts[0].classifier.weight.copy_(torch.eye(6, 64))
            method.experts[0].classifier.bias.zero_()
        if kind != "logits":
            decided[kind] = int(method.predict(tiny.images(1)).argmax())
    assert decided["largest"] == int(z.flatten().argmax()) % 6 == 0
    assert decided["probabilities"] == int(z.softmax(2).sum(0).argmax()) == 1
    assert int(z.sum(0).argmax()) == 0  # (2) and (3) differ: one branch is very confident


@pytest.mark.parametrize(
    ("counts", "cuts", "second", "third"),
    [(C100, None, 23.87, 3.60), (C10, (0.2, 0.4), 45.49, 15.85)],
)
def test_16_expected_images_of_a_batch(counts, cuts, second, third):
    group, _ = assign_groups(counts, ShotGroups.from_counts(counts), cuts)
    expected = 128 * branch_masks(group, 3, "nested").double() @ counts.prior(torch.float64)
    assert expected.tolist() == pytest.approx([128, second, third], abs=5e-3)
    if counts is C100:
        # drawn without replacement from 10,847; nearly (1 - p)^128
        assert (1 - third / 128) ** 128 == pytest.approx(2.6e-2, abs=1e-3)


@pytest.mark.parametrize(("counts", "steps"), [(C100, 84), (C10, 96)])
def test_18_steps_of_an_epoch(counts, steps):
    assert counts.total // 128 == steps


def test_19_test_time_gamma():
    x = tiny.images(4)
    plain, none, unit = (build(gamma=g).eval() for g in (None, 0.0, 1.0))
    with torch.no_grad():
        for method in (plain, none, unit):
            method.experts[0].classifier.bias.copy_(torch.arange(6.0))
            method.experts[0].classifier.weight.mul_(torch.linspace(0.5, 2, 6)[:, None])
    torch.testing.assert_close(plain.predict(x) - 3 * torch.arange(6.0), none.predict(x))
    scaled = none.predict(x) / unit.experts[0].classifier.weight.norm(dim=1)
    torch.testing.assert_close(unit.predict(x), scaled)
    # training never uses gamma
    batch = Batch((x,), torch.arange(4), torch.arange(4))
    losses = [m.train().training_step([batch], Position(0, 0, 0, 0, 1)).loss for m in (plain, unit)]
    assert torch.equal(*losses)


@pytest.mark.parametrize("combine", ["logits", "largest", "probabilities"])
def test_gamma_applies_whatever_the_branches_are_combined_by(combine):
    x, method = tiny.images(4), build(gamma=0.5, combine=combine).eval()
    classifier = method.experts[0].classifier
    with torch.no_grad():
        classifier.weight.mul_(torch.linspace(0.5, 3, 6)[:, None])
    plain = build(combine=combine).eval()
    plain.load_state_dict(method.state_dict())
    with torch.no_grad():
        rows = plain.experts[0].classifier
        rows.weight.div_(rows.weight.norm(dim=1, keepdim=True) ** 0.5)
        rows.bias.zero_()
    torch.testing.assert_close(method.predict(x), plain.predict(x))
    # figure 6 shows the branches as they predict
    torch.testing.assert_close(method.branch_logits(x), plain.branch_logits(x))


def test_the_fused_loss_of_imagenet_is_capped_too():
    z, y = logits(), torch.zeros(24, dtype=torch.int64)
    z[:, :, 0] = -40.0  # sure mistakes: the cap is -log 1e-7 = 16.118
    for options, loss in (({}, z.sum(0)), ({"fused_capped": True}, None)):
        expected = cross_entropy(loss, y) if loss is not None else torch.tensor(16.1181)
        found = build(alpha=0.0, **options).loss(z, y)[0]
        torch.testing.assert_close(found.double(), expected.double(), atol=1e-3, rtol=1e-5)


def test_three_separate_convolutions_are_the_same_function():
    torch.manual_seed(0)
    one, three, x = (
        Branches(8, 3, "convolution"),
        Branches(8, 3, "separate"),
        torch.randn(5, 8, 2, 2),
    )
    with torch.no_grad():
        for g, branch in enumerate(three.transforms):
            branch[0].weight.copy_(one.transform[0].weight[8 * g : 8 * g + 8])
    torch.testing.assert_close(one(x), three(x))
    # each is drawn for its own fan-out, 8 and not 24: wider by the square root of 3
    apart = Branches(256, 3, "separate").transforms[0][0].weight.detach().std()
    joint = Branches(256, 3, "convolution").transform[0].weight.detach().std()
    assert float(apart / joint) == pytest.approx(3**0.5, rel=0.02)


def test_groups_of_equal_imbalance_ratio():
    # the ratio of each third is the cube root of 500 / 5, so they begin below 107.7 and 23.2
    group, _ = assign_groups(C100, ShotGroups.from_counts(C100), "equal-imbalance")
    counts = torch.tensor(C100.values)
    assert [int(counts[group == g].min()) for g in range(3)] == [112, 24, 5]
    assert torch.bincount(group).tolist() == [33, 33, 34]
    alike, _ = assign_groups(ClassCounts([7] * 6), ShotGroups.from_counts(SIX), "equal-imbalance")
    assert alike.tolist() == [0] * 6


@pytest.mark.skipif("LONGTAIL_DATA" not in os.environ, reason="needs the published lists")
def test_groups_of_places_lt():
    file = Path(os.environ["LONGTAIL_DATA"]) / "splits" / "Places_LT_train.txt.gz"
    counts = ClassCounts(np.bincount([label for _, label in list_entries(file)]).tolist())
    group, _ = assign_groups(counts, ShotGroups.from_counts(counts), "equal-imbalance")
    assert torch.bincount(group).tolist() == [22, 191, 152]


def test_20_groups_follow_the_paper():
    group, notes = assign_groups(C100, ShotGroups.from_counts(C100), None)
    assert torch.bincount(group).tolist() == [35, 35, 30]
    assert notes == ()
    by_cuts, _ = assign_groups(C100, ShotGroups.from_counts(C100), (0.35, 0.7))
    assert torch.equal(group, by_cuts)
    code, _ = assign_groups(C10, ShotGroups.from_counts(C10), (0.2, 0.4))
    assert torch.bincount(code).tolist() == [2, 2, 6]
    for cuts, sizes in (
        ((0.5,), [50, 50]),
        ((0.25, 0.5, 0.75), [25] * 4),
        ((0.2, 0.4, 0.6, 0.8), [20] * 5),
    ):
        assert (
            torch.bincount(assign_groups(C100, ShotGroups.from_counts(C100), cuts)[0]).tolist()
            == sizes
        )


def test_21_mixup_takes_the_whole_loss_of_both_labels():
    method, z, y, other = build(), logits(), labels(), labels(2)
    loss = lambda known: method.loss(z, known)[0]  # noqa: E731
    one = Mixed(z, y, other, torch.tensor(1.0))
    torch.testing.assert_close(one.loss(loss), loss(y))
    mixed = Mixed(z, y, other, torch.tensor(0.3, dtype=torch.float64))
    swapped = Mixed(z, other, y, torch.tensor(0.7, dtype=torch.float64))
    torch.testing.assert_close(mixed.loss(loss), swapped.loss(loss))


def test_22_one_group_is_plain_training():
    method = build(ClassCounts([300] * 6), cuts=(), alpha=0.4, capped=False)
    assert len(method.masks) == 1
    z, y = logits(1), labels()
    torch.testing.assert_close(method.loss(z, y)[0], cross_entropy(z[0], y))


def test_24_imbalance_inside_the_groups():
    def ratios(counts, cuts):
        n = np.array(counts.values)
        group, _ = assign_groups(counts, ShotGroups.from_counts(counts), cuts)
        return [n[group.numpy() == g].min() / n[group.numpy() == g].max() for g in range(3)]

    assert ratios(C100, None) == pytest.approx([0.204, 0.204, 0.263], abs=5e-4)
    assert ratios(C10, (0.3, 0.6)) == pytest.approx([0.359, 0.359, 0.216], abs=5e-4)
    assert ratios(C10, (0.2, 0.4)) == pytest.approx([0.599, 0.600, 0.078], abs=6e-4)


def test_subset_means_by_definition():
    method, z, y = build(alpha=1.0, branch_loss="subset-means", capped=False), logits(), labels()
    group = method.group_of[y]
    expected = sum(cross_entropy(z[g][group >= g], y[group >= g]) for g in range(3))
    torch.testing.assert_close(method.loss(z, y)[0], expected)


def test_masks_of_the_ablation():
    group = torch.tensor([0, 1, 2])
    assert branch_masks(group, 3, "nested").tolist() == [[1, 1, 1], [0, 1, 1], [0, 0, 1]]
    assert branch_masks(group, 3, "weak").tolist() == [[1, 1, 1], [0, 1, 0], [0, 0, 1]]
    assert branch_masks(group, 3, "disjoint").tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert branch_masks(group, 3, "equal").tolist() == [[1, 1, 1]] * 3


def test_an_empty_group_falls_back_and_says_so():
    counts = ClassCounts([40, 30, 25, 22])
    method = build(counts)
    assert "no class is many or few shot" in method.notes[0]
    assert torch.bincount(method.group_of).tolist() == [1, 1, 2]


def test_any_backbone_of_timm():
    for name in ("convnext_atto", "mobilenetv3_small_050"):
        counts = ClassCounts([200, 50, 5])
        setting = Setting(
            counts,
            ShotGroups.from_counts(counts),
            1,
            lambda name=name: build_backbone(name),
            tiny.experts,
        )
        method = ResLT(ResLTOptions(), setting).eval()
        assert method.predict(torch.zeros(2, 3, 64, 64)).shape == (2, 3)


def test_released_loss_by_loops():
    method, z, y = build(), logits(), labels()
    total, weight = 0.0, 0
    for g in range(3):
        for i, label in enumerate(y.tolist()):
            if int(method.group_of[label]) >= g:
                p = F.softmax(z[g, i], dim=0)[label].item()
                total += -math.log(p + 1e-7)
                weight += 1
    fused = z.sum(0)
    fusion = -fused.log_softmax(1)[torch.arange(len(y)), y].mean().item()
    expected = 0.005 * fusion + 0.995 * total / weight
    assert method.loss(z, y)[0].item() == pytest.approx(expected, rel=1e-9)


def test_23_identical_experts_are_one_expert():
    one, three = build(), build(experts=3)
    expert = three.experts[0]
    for other in three.experts[1:]:
        other.load_state_dict(expert.state_dict())
    for tail in three.backbone.tails[1:]:
        tail.load_state_dict(three.backbone.tails[0].state_dict())
    three.eval(), one.eval()
    labels = torch.tensor([0, 1, 2, 3, 4, 5, 0, 1])
    images = tiny.images(8)
    batch = Batch((images,), labels, torch.arange(8))
    maps = three.backbone(images)[0]
    single, _ = three.loss(expert.branch_logits(maps), labels)
    at = Position(0, 0, 0, 0, 3)
    torch.testing.assert_close(three.training_step([batch], at).loss, 3 * single)
    torch.testing.assert_close(three.predict(images), expert.fused(maps))


def test_experts_of_the_field():
    # RIDE's ResNet-32: a trunk of 16 channels, tails of 24 and 48
    small = build_experts("resnet32", 3)
    maps = small(torch.zeros(2, 3, 32, 32))
    assert [m.shape for m in maps] == [(2, 48, 8, 8)] * 3
    assert small.num_features == 48
    # two groups of five blocks: ten 3x3 convolutions and ten BatchNorms each
    tail = (9 * 16 * 24 + 9 * 24 * 24 * 9 + 10 * 48) + (9 * 24 * 48 + 9 * 48 * 48 * 9 + 10 * 96)
    assert sum(p.numel() for p in small.tails[0].parameters()) == tail
    large = build_experts("resnext50", 2)
    assert large.num_features == 1536
    assert [m.shape for m in large(torch.zeros(1, 3, 64, 64))] == [(1, 1536, 2, 2)] * 2
    # fact 10: three heads D -> 3 D on pooled features cost 21,233,664 multiplications
    assert 3 * 1536 * 3 * 1536 == 21_233_664
    with pytest.raises(ConfigError, match="no experts of convnext_atto"):
        build_experts("convnext_atto", 2)
    with pytest.raises(ConfigError, match="pretrained=false"):
        ModelConfig(backbone="resnet50", pretrained=True).build_experts(2)


def test_experts_draw_different_weights():
    experts = build_experts("resnet20", 2)
    one, other = (dict(tail.named_parameters()) for tail in experts.tails)
    assert not torch.equal(one["0.0.conv1.weight"], other["0.0.conv1.weight"])
