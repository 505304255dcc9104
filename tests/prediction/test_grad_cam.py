"""Where in an image a network sees the class that it predicts."""

import pytest
import timm
import torch
from torch import nn

from longtail.models import Backbone
from longtail.models.backbones import build_backbone
from longtail.prediction.grad_cam import grad_cam
from tests import tiny

PREDICTED, LABELS = torch.tensor([1, 2, 0]), torch.tensor([0, 0, 3])


def of_convolutions(**options):
    return tiny.build("single-head", options).eval()


@pytest.mark.parametrize("quarter", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_a_network_that_sees_one_quarter_is_seen_through(quarter):
    """Class 1 is the brightness of the quarter, and nothing else of the image has an influence."""
    method = of_convolutions()
    see = nn.Conv2d(3, 2, 1, bias=False)
    nn.init.constant_(see.weight, 1.0)
    window = torch.zeros(1, 1, 8, 8)
    row, column = quarter
    window[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = 1

    class Window(nn.Module):
        def forward(self, maps):
            return maps * window

    method.backbone = Backbone(
        nn.Sequential(see, nn.ReLU(inplace=True), Window(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        2,
    )
    method.head = nn.Linear(2, 7)
    nn.init.zeros_(method.head.weight)
    nn.init.ones_(method.head.weight[1])
    images = tiny.images(3).abs()
    images[0, :, 4 * row + 1, 4 * column + 2] = 9  # the brightest place
    found = grad_cam(method, images, torch.ones(3, dtype=torch.int64), torch.zeros(3).long())
    assert found.shape == (3, 8, 8)
    assert found[0].argmax() == 8 * (4 * row + 1) + 4 * column + 2
    brightness = images.sum(1) * window[0]  # all positive: the map is the brightness
    torch.testing.assert_close(found, brightness / brightness.amax((1, 2), keepdim=True))
    # seen from the other side, nothing speaks for class 0
    assert (grad_cam(method, images, LABELS * 0, LABELS * 0 + 1) == 0).all()


def test_of_average_pooling_and_a_linear_head_it_is_the_class_activation_map():
    method, images = of_convolutions(), tiny.images(3, side=32)
    found = grad_cam(method, images, PREDICTED, LABELS)
    with torch.no_grad():
        maps = method.backbone.feature_map(images)  # [3, 64, 8, 8]
        rows = method.head.weight[PREDICTED] - method.head.weight[LABELS]
        expected = torch.einsum("bd,bdhw->bhw", rows, maps).clamp(min=0)
    assert found.shape == (3, 8, 8)
    torch.testing.assert_close(found, expected / expected.amax((1, 2), keepdim=True))
    assert not any(p.grad is not None for p in method.parameters())


@pytest.mark.parametrize("place", [0, 6, 15])
def test_a_transformer_shows_the_patch_that_the_class_is_in(place):
    """Attention and the rest of the blocks add nothing, so each token stays what its patch is."""
    vit = timm.create_model(
        "vit_tiny_patch16_224", img_size=64, embed_dim=8, num_heads=2, depth=2, num_classes=0,
        class_token=False, global_pool="avg",
    )  # fmt: skip
    for block in vit.blocks:
        nn.init.zeros_(block.attn.proj.weight)
        nn.init.zeros_(block.mlp.fc2.weight)
    nn.init.zeros_(vit.pos_embed)
    vit.norm = vit.fc_norm = nn.Identity()
    method = of_convolutions()
    method.backbone, method.head = Backbone(vit, 8), nn.Linear(8, 7)
    with torch.no_grad():
        vit.patch_embed.proj.weight.fill_(0.01)
        method.head.weight.zero_()[2] = 1
    images = torch.zeros(1, 3, 64, 64)
    row, column = divmod(place, 4)
    images[:, :, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16] = 1
    found = grad_cam(method.eval(), images, torch.tensor([2]), torch.tensor([0]))
    assert found.shape == (1, 4, 4)
    assert found.flatten().argmax() == place
    assert found.flatten()[place] == 1
    assert found.sum() < 1.5


def side_of(name, side, **options):
    method = of_convolutions()
    method.backbone = build_backbone(name, **options)
    method.head = nn.Linear(method.backbone.num_features, 7)
    found = grad_cam(method.eval(), tiny.images(3, side=side), PREDICTED, LABELS)
    return None if found is None else found.shape[1]


@pytest.mark.parametrize(
    ("name", "side", "expected"),
    [
        ("resnet10t", 64, 2),  # 1/32
        ("tf_efficientnet_lite0", 96, 3),
        ("mobilenetv3_small_050", 96, 3),  # layers follow its pooling
        ("convnext_atto", 96, 3),
        ("vit_tiny_patch16_224", 64, 4),
        ("swin_tiny_patch4_window7_224", 224, 7),  # channels last
        ("cait_xxs24_224", 224, None),  # its last layers look at a token without a place
    ],
)
def test_networks_of_timm(name, side, expected):
    assert side_of(name, side, image_size=side) == expected


def test_a_frozen_network_is_looked_into_too():
    method, images = of_convolutions(), tiny.images(3, side=32)
    before = grad_cam(method, images, PREDICTED, LABELS)
    for weight in method.parameters():
        weight.requires_grad_(False)
    with torch.no_grad():
        torch.testing.assert_close(grad_cam(method, images, PREDICTED, LABELS), before)


@pytest.mark.parametrize("name", ["experts", "bbn", "shike"])
def test_several_networks_are_left_out(name):
    method = tiny.build(name).eval()
    assert grad_cam(method, tiny.images(3, side=32), PREDICTED, LABELS) is None
