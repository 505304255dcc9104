"""LoRA: what is added is trained, what was there stays."""

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import longtail as package
from longtail import api
from longtail.core import ConfigError
from longtail.engine.checkpoint import finished, read_weights
from longtail.models import build_backbone
from longtail.models.low_rank import (
    LowRank,
    LowRankLinear,
    ReadLowRankLinear,
    add_low_rank,
    constant_weights,
    describe_low_rank,
    plain_weights,
)
from tests import tiny

VIT = "test_vit"
SHORT = [
    "epochs=2",
    "batch_size=4",
    "precision=fp32",
    "learning_rate=0.05",
    f"backbone={VIT}",
    "enlarge_to=null",
]


def published():
    torch.manual_seed(7)
    return timm.create_model(VIT, num_classes=9).eval()


@pytest.fixture
def weights(tmp_path):
    save_file(published().state_dict(), tmp_path / "w.safetensors")
    return tmp_path / "w.safetensors"


@pytest.fixture
def train(image_folder, weights, tmp_path):
    """Train with additions of rank 2."""

    def run(*options):
        line = [*SHORT, f"weights={weights}", "low_rank=2", "data.image_size=32", *options]
        return api.train(str(image_folder), line, out=tmp_path / "run", device="cpu")

    return run


# --- the layer -----------------------------------------------------------------------------------


def test_one_layer_by_hand():
    layer = nn.Linear(2, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        layer.bias.copy_(torch.tensor([0.5, -0.5]))
    added = LowRankLinear(layer, rank=1)
    with torch.no_grad():
        added.down.copy_(torch.tensor([[2.0, -1.0]]))
        added.up.copy_(torch.tensor([[3.0], [1.0]]))
    # x = (1, 3): W x + b = (7.5, 14.5); A x = -1; B A x = (-3, -1)
    assert torch.equal(added(torch.tensor([1.0, 3.0])), torch.tensor([4.5, 13.5]))
    # B A = [[6, -3], [2, -1]]
    assert torch.equal(added.joined(), torch.tensor([[7.0, -1.0], [5.0, 3.0]]))


def test_drawing_anew_leaves_the_weights():
    layer = nn.Linear(6, 5)
    before, added = layer.weight.detach().clone(), LowRankLinear(layer, rank=3)
    nn.init.ones_(added.up)
    first = added.down.detach().clone()
    added.reset_parameters()
    assert torch.equal(added.weight, before)
    assert not torch.equal(added.down, first)
    assert not added.up.any()
    assert [name for name, _ in added.named_parameters()] == ["down", "up"]


# --- a network -----------------------------------------------------------------------------------


def test_the_network_begins_as_it_was(weights):
    images = tiny.images(3, side=32)
    plain = build_backbone(VIT, weights=weights, image_size=32).eval()
    added = build_backbone(VIT, weights=weights, image_size=32, low_rank=4).eval()
    with torch.inference_mode():
        assert torch.equal(plain(images), added(images))
        assert torch.equal(plain.feature_map(images), added.feature_map(images))
    assert {name.rpartition(".")[2] for name, _ in added.named_parameters()} == {"down", "up"}
    # 6 blocks of width 64: qkv 64 -> 192, proj 64 -> 64, fc1 64 -> 192, fc2 192 -> 64
    assert describe_low_rank(added) == (
        f"additions of rank 4 to 24 linear layers ({6 * 4 * (256 + 128 + 256 + 256):,} weights)"
    )
    assert not describe_low_rank(plain)
    # weight and bias of each; sent to other processes once and not at every step
    assert set(constant_weights(added)) < set(added.state_dict())
    assert len(constant_weights(added)) == 48
    assert constant_weights(plain) == []


def test_plain_weights_predict_the_same(weights):
    images = tiny.images(3, side=32)
    added = build_backbone(VIT, weights=weights, image_size=32, low_rank=4).eval()
    for name, parameter in added.named_parameters():
        if name.endswith("up"):
            nn.init.normal_(parameter, std=0.1)
    plain = build_backbone(VIT, image_size=32).eval()
    plain.load_state_dict(plain_weights(added))
    with torch.inference_mode():
        torch.testing.assert_close(plain(images), added(images), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(build_backbone(VIT, weights=weights, image_size=32).eval()(images),
                                  added(images), atol=1e-2)  # fmt: skip


class Careless(nn.Module):
    """Reads the weights of one layer, has one that is too small, and never calls a third."""

    def __init__(self):
        super().__init__()
        self.called, self.read, self.small = nn.Linear(12, 12), nn.Linear(12, 12), nn.Linear(12, 2)
        self.unused = nn.Linear(12, 12)

    def forward(self, images):
        read = nn.functional.linear(images.flatten(1), self.read.weight, self.read.bias)
        return self.small(self.called(read))


def test_layers_that_are_not_used_or_too_small_get_nothing():
    network = Careless().train()
    add_low_rank(network, 3, torch.zeros(1, 3, 2, 2))
    added = {n: type(m) for n, m in network.named_modules() if isinstance(m, LowRank)}
    assert added == {"called": LowRankLinear, "read": ReadLowRankLinear}
    assert {n.partition(".")[0] for n, _ in network.named_parameters()} == {"called", "read"}
    assert network.training
    network(torch.zeros(2, 3, 2, 2)).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize(
    "name",
    ["vit_tiny_patch16_224", "convnext_atto", "eva02_tiny_patch14_224"],
)
def test_every_addition_has_a_gradient(name):
    backbone = build_backbone(name, image_size=56, low_rank=2)
    backbone(torch.rand(1, 3, 56, 56)).sum().backward()
    assert len(list(backbone.parameters())) > 40
    assert all(parameter.grad is not None for parameter in backbone.parameters())


@pytest.mark.parametrize(
    ("name", "rank", "words"),
    [
        ("resnet20", 2, "uses no linear layer or 1x1 convolution"),
        (VIT, 64, "model.low_rank must be below 64"),
    ],
)
def test_networks_that_cannot_be_added_to(name, rank, words):
    with pytest.raises(ConfigError, match=words):
        build_backbone(name, image_size=32, low_rank=rank)


# --- a training ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method",
    [
        ["loss=logit-adjusted"],
        ["method=decoupling", "classifier=crt"],
        ["method=paco"],
        ["method=ncl", "networks=2"],
        ["method=reslt"],
        ["ema=0.9"],
    ],
    ids=" ".join,
)
def test_what_was_there_stays_and_what_was_added_learns(method, train, weights):
    run = train(*method)
    original = build_backbone(VIT, weights=weights, image_size=32).network.state_dict()
    trained = read_weights(finished(run.folder.checkpoints))
    learnt = kept = 0
    for name, value in trained.items():
        place = name.rpartition("network.")[2]
        if "backbone.network." not in name and "networks." not in name:
            continue
        if place in original:
            assert torch.equal(value, original[place]), name
            kept += 1
        learnt += place.endswith(".up") and bool(value.any())
    assert kept >= len(original)
    assert learnt >= 24


def test_the_trained_model_is_used_as_any_other(train, longtail, image_folder, tmp_path):
    run = train()
    model = package.load(run.folder.path, device="cpu")
    assert len(model.predict(str(image_folder))) > 0
    for form in ("safetensors", "timm"):
        line = ["export", run.folder.path, "--format", form, "--out", f"{form}.safetensors"]
        status, _, said = longtail(*line)
        assert status == 0, said
    # the file for timm is a plain network
    assert load_file(tmp_path / "timm.safetensors").keys() == published().state_dict().keys()


def test_the_log_says_what_is_trained(longtail, image_folder, weights):
    status, _, said = longtail(
        "train", image_folder, *SHORT, f"weights={weights}", "low_rank=2", "data.image_size=32",
        "epochs=1",
    )  # fmt: skip
    assert status == 0
    assert f"model: {VIT} with additions of rank 2 to 24 linear layers" in said


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["low_rank=2", "weights=null"], "needs pretrained=true or weights=FILE"),
        (["low_rank=0"], "must be at least 1"),
        (["low_rank=2", "train=head"], "train=head would never train"),
        (["low_rank=2", "method=do"], "leave model.low_rank and model.adapter out"),
        (["low_rank=2", "method=experts", "narrow=false", "backbone=resnet50"], "leave model.low_rank out"),
    ],
)  # fmt: skip
def test_what_does_not_go_together(options, words, longtail, image_folder, weights, tmp_path):
    line = [*SHORT, f"weights={weights}", "data.image_size=32", *options]
    status, _, said = longtail("train", image_folder, *line, "--out", "run")
    assert status == 2
    assert words in " ".join(said.split()), said
    assert not (tmp_path / "run").exists()
