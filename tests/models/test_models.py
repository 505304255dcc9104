"""Backbones and heads."""

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F

from longtail.core import ConfigError
from longtail.models import CosineHead, LinearHead, build_backbone
from longtail.models.experts import build_experts
from longtail.models.options import ModelConfig
from longtail.models.published import own_name
from longtail.models.resnet_cifar import BasicBlock


def parameters(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("width", "ten", "hundred"),
    [(1, 464_154, 470_004), (2, 1_849_898, 1_861_508), (3, 4_157_242, 4_174_612)],
)
def test_resnet32_has_the_published_size(width, ten, hundred):
    # specification of ResLT, B.1.2; a fully connected layer with bias on top
    backbone = build_backbone("resnet32", width=width)
    for num_classes, total in ((10, ten), (100, hundred)):
        head = LinearHead(backbone.num_features, num_classes)
        assert parameters(backbone) + parameters(head) == total
    if width == 1:
        assert parameters(backbone) == 463_504


@pytest.mark.parametrize(
    ("name", "layers"), [("resnet20", 19), ("resnet32", 31), ("resnet44", 43), ("resnet56", 55)]
)
def test_depth_of_cifar_resnets(name, layers):
    backbone = build_backbone(name)
    assert sum(isinstance(m, torch.nn.Conv2d) for m in backbone.modules()) == layers
    with torch.inference_mode():
        features = backbone.eval()(torch.zeros(2, 3, 32, 32))
    assert features.shape == (2, 64)
    assert (features >= 0).all()


def test_shortcut_of_option_a():
    block = BasicBlock(16, 32, 2).eval()
    with torch.inference_mode():
        block.bn2.weight.zero_()
        block.bn2.bias.zero_()
        x = torch.rand(1, 16, 8, 8, generator=torch.Generator().manual_seed(0))
        out = block(x)
    assert torch.equal(out[:, 8:24], x[:, :, ::2, ::2])
    assert out[:, :8].abs().sum() + out[:, 24:].abs().sum() == 0


@pytest.mark.parametrize(
    ("name", "features", "size"),
    [
        # torchvision's published parameter counts less their last layer (2048 * 1000 + 1000)
        ("resnet50", 2048, 25_557_032 - 2_049_000),
        ("resnet101", 2048, 44_549_160 - 2_049_000),
        ("resnet152", 2048, 60_192_808 - 2_049_000),
        # blocks 3, 24, 36, 3 as in PaCo, counted layer by layer
        ("resnet200", 2048, 64_673_832 - 2_049_000),
        ("resnext50", 2048, 25_028_904 - 2_049_000),
        ("resnext101", 2048, None),
        ("resnext152", 2048, None),
        ("resnet10", 512, None),
    ],
)
def test_imagenet_resnets(name, features, size):
    backbone = build_backbone(name)
    assert backbone.num_features == features
    if size is not None:
        assert parameters(backbone) == size
    # no zero-gamma: every residual branch is alive at the start
    assert all(
        (m.weight == 1).all() for m in backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)
    )


def test_resnext_is_32x4d_with_stride_on_the_3x3():
    network = build_backbone("resnext50").network
    first = network.layer2[0]
    assert (first.conv2.groups, first.conv2.stride, first.conv1.stride) == (32, (2, 2), (1, 1))
    assert first.conv2.in_channels == 32 * 8  # 32 groups of 4, doubled in the second layer


def test_any_timm_model():
    backbone = build_backbone("mobilenetv3_small_050")
    with torch.inference_mode():
        features = backbone.eval()(torch.zeros(1, 3, 64, 64))
    assert features.shape == (1, backbone.num_features)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": "resnet33"}, r"no backbone 'resnet33'. Did you mean .*resnet32"),
        # built in and of timm: named once
        ({"name": "resnet5000"}, r"mean resnet50, (?!resnet50,)"),
        ({"name": "resnet32", "pretrained": True}, "no published weights"),
        ({"name": "resnet10", "pretrained": True}, "no published weights"),
        ({"name": "resnet50", "width": 2}, "width applies to"),
    ],
)
def test_wrong_backbones(arguments, words):
    with pytest.raises(ConfigError, match=words):
        build_backbone(**arguments)


def test_missing_pretrained_weights_are_explained(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))

    def offline(*arguments, **options):
        raise OSError("offline")

    monkeypatch.setattr("timm.create_model", offline)
    for unreachable in (True, False):
        monkeypatch.setattr("longtail.models.backbones.unreachable", lambda name, u=unreachable: u)
        with pytest.raises(ConfigError, match=r"[Ww]ithout a connection.*pretrained=false"):
            build_backbone("resnet50", pretrained=True)


def test_backbones_are_chosen_by_image_size():
    assert ModelConfig().resolved(32).backbone == "resnet32"
    assert ModelConfig().resolved(224).backbone == "resnet50"
    assert ModelConfig(pretrained=True).resolved(32).backbone == "resnet50.tv_in1k"
    assert ModelConfig(backbone="resnet44").resolved(224).backbone == "resnet44"


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("resnet50", "resnet50.tv_in1k"),
        ("resnet152", "resnet152.tv_in1k"),
        ("resnext50", "resnext50_32x4d.tv_in1k"),
        ("resnext50_32x4d", "resnext50_32x4d.tv_in1k"),
        # timm's defaults of these three saw Instagram, ImageNet-21k, ImageNet-12k
        ("resnext101", "resnext101_32x4d.gluon_in1k"),
        ("vit_small_patch16_224", "vit_small_patch16_224.augreg_in1k"),
        ("convnext_tiny", "convnext_tiny.fb_in1k"),
        ("efficientnet_b0", "efficientnet_b0.ra_in1k"),
        # there is nothing else of it
        ("vit_small_patch14_dinov2", "vit_small_patch14_dinov2.lvd142m"),
        # who names a tag gets it
        ("resnext101_32x4d.fb_swsl_ig1b_ft_in1k", "resnext101_32x4d.fb_swsl_ig1b_ft_in1k"),
    ],
)
def test_which_weights_a_name_means(name, full):
    config = ModelConfig(backbone=name, pretrained=True)
    assert config.resolved(224).backbone == full
    assert config.resolved(224).resolved(224).backbone == full
    assert config.means(full)
    assert ModelConfig(backbone=name).resolved(224).backbone == name
    assert timm.get_pretrained_cfg(full).tag == full.partition(".")[2]


def test_a_tag_does_not_change_the_network():
    for name in ("resnet50.tv_in1k", "resnext50_32x4d.tv2_in1k"):
        own = build_backbone(own_name(name)).state_dict()
        tagged = build_backbone(name, image_size=32).state_dict()
        assert {n: v.shape for n, v in own.items()} == {n: v.shape for n, v in tagged.items()}
        # no zero at the end of a block, as in the papers
        assert tagged["network.layer4.0.bn3.weight"].min() == 1
    experts = build_experts("resnet50.tv_in1k", 2, narrow=False)
    assert experts.num_features == 2048


def test_cosine_head():
    head = CosineHead(8, 5, scale=30)
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    logits = head(x)
    expected = 30 * F.cosine_similarity(x[:, None], head.weight[None], dim=2)
    torch.testing.assert_close(logits, expected)
    with torch.no_grad():
        head.weight.mul_(torch.rand(5, 1, generator=torch.Generator().manual_seed(1)) + 0.5)
    torch.testing.assert_close(head(7 * x), logits)
    assert np.allclose(CosineHead(8, 5).weight.norm(dim=1).detach(), 1, atol=1e-6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(head(x), logits)


def test_published_weights_bring_their_normalisation():
    # timm's table: vision transformers of augreg were trained with 0.5, the resnets with ImageNet's
    transformer = ModelConfig(backbone="vit_tiny_patch16_224", pretrained=True)
    assert transformer.normalisation() == ((0.5,) * 3, (0.5,) * 3)
    resnet = ModelConfig(backbone="resnext50", pretrained=True).normalisation()
    assert resnet == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert ModelConfig(backbone="vit_tiny_patch16_224").normalisation() is None
    assert ModelConfig(backbone="resnet32", pretrained=True).normalisation() is None


def test_how_a_linear_head_is_drawn():
    torch.manual_seed(0)
    # by hand, for 64 features: 1 / sqrt(3 * 64) = .0722 and sqrt(2 / 64) = .1768
    for kind, deviation in (("uniform", 0.0722), ("kaiming", 0.1768)):
        head = LinearHead(64, 1000, initialisation=kind)
        assert float(head.weight.detach().std()) == pytest.approx(deviation, rel=0.01)
        first = head.weight.detach().clone()
        head.reset_parameters()
        assert float(head.weight.detach().std()) == pytest.approx(deviation, rel=0.01)
        assert not torch.equal(first, head.weight)
        assert float(head.bias.detach().abs().max()) <= 1 / 8


def test_linear_head_starts_where_it_is_told():
    head = LinearHead(8, 100, initial_bias=-4.595)
    assert (head.bias == torch.tensor(-4.595)).all()
    head.reset_parameters()
    assert (head.bias == torch.tensor(-4.595)).all()
    assert LinearHead(64, 10).weight.abs().max() <= 1 / 8


@pytest.mark.parametrize(("initial_bias", "expected"), [(None, 0.0), (-4.5, -4.5)])
def test_a_linear_head_may_begin_with_rows_and_keeps_the_bias_that_it_was_given(
    initial_bias, expected
):
    head = LinearHead(3, 2, initial_bias=initial_bias)
    rows = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    head.begin_with(rows)
    assert torch.equal(head.weight, rows)
    assert torch.equal(head.bias, torch.full((2,), expected))
