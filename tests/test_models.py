"""Backbones and heads."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from longtail.core import ConfigError
from longtail.models import CosineHead, LinearHead, build_backbone
from longtail.models.config import ModelConfig
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
    with pytest.raises(ConfigError, match=r"without a connection .*pretrained=false"):
        build_backbone("resnet50", pretrained=True)


def test_backbones_are_chosen_by_picture_size():
    assert ModelConfig().resolved(32).backbone == "resnet32"
    assert ModelConfig().resolved(224).backbone == "resnet50"
    assert ModelConfig(pretrained=True).resolved(32).backbone == "resnet50"
    assert ModelConfig(backbone="resnet44").resolved(224).backbone == "resnet44"


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


def test_linear_head_starts_where_it_is_told():
    head = LinearHead(8, 100, initial_bias=-4.595)
    assert (head.bias == torch.tensor(-4.595)).all()
    head.reset_parameters()
    assert (head.bias == torch.tensor(-4.595)).all()
    assert LinearHead(64, 10).weight.abs().max() <= 1 / 8
