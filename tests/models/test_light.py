"""Light fine-tuning: what is trained, what stays, and that what can be plain is."""

import copy
import math

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from timm.models.beit import Beit
from torch import nn

import longtail as package
from longtail import api
from longtail.core import ConfigError
from longtail.engine.checkpoint import finished, read_weights
from longtail.models import build_backbone
from longtail.models.light import SIZES, describe_light, has_plain_form, keep_weights, lighten
from longtail.models.light_layers import ParallelAdapter, give_scales, with_scales_inside
from longtail.models.low_rank import (
    LowRankConvolution,
    ReadLowRankLinear,
    add_low_rank,
    constant_weights,
    plain_weights,
)
from tests import tiny

VIT, CONVOLUTIONS = "test_vit", "test_efficientnet"
KINDS = ("adaptformer", "vpt-shallow", "vpt-deep", "ssf", "bias", "norm")
PLAIN = ("ssf", "bias", "norm")
IMAGES = tiny.images(3, side=32)


def published(name=VIT):
    torch.manual_seed(7)
    network = timm.create_model(name, num_classes=9).eval()
    for module in network.modules():  # statistics that are no 0 and 1
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return network


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    for name in (VIT, CONVOLUTIONS):
        save_file(published(name).state_dict(), folder / f"{name}.safetensors")
    return folder


def build(weights, kind=None, name=VIT, **more):
    file = weights / f"{name}.safetensors"
    return build_backbone(name, weights=file, image_size=32, adapter=kind, **more).eval()


def moved(backbone):
    """Change everything that is trained, a little."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return backbone


# --- each kind against its equation -------------------------------------------------------------


@pytest.mark.parametrize("kind", ["adaptformer", "ssf", "bias", "norm"])
def test_the_network_begins_as_it_was(weights, kind):
    with torch.inference_mode():
        torch.testing.assert_close(build(weights, kind)(IMAGES), build(weights)(IMAGES))


@pytest.mark.parametrize("kind", KINDS)
def test_all_that_was_published_stays_but_what_the_kind_trains(weights, kind):
    original = build(weights).network.state_dict()
    backbone = build(weights, kind)
    kept = {name for name, _ in backbone.network.named_buffers()}
    trained = {name for name, _ in backbone.network.named_parameters()}
    names = {name.replace("mlp.mlp.", "mlp.").replace("mlp.norm.", "norm2.") for name in kept}
    if kind == "bias":
        assert trained == {name for name in original if name.endswith(".bias")}
    elif kind == "norm":
        assert trained == {name for name in original if "norm" in name}
    else:
        assert names == set(original)
    assert names <= set(original)
    assert set(constant_weights(backbone)) == {f"network.{name}" for name in kept}
    assert not torch.allclose(moved(backbone)(IMAGES), build(weights)(IMAGES), atol=1e-2)


def block_by_hand(block, x, mlp):
    """Return what a block of ViT gives without layer scale, its MLP a function of x'."""
    x = x + block.attn(block.norm1(x))
    return x + mlp(x)


def test_adaptformer_is_its_equation(weights):
    backbone = moved(build(weights, "adaptformer", adapter_size=5))
    plain = build(weights)
    block, original = backbone.network.blocks[2], plain.network.blocks[2]
    added = block.mlp
    assert isinstance(added, ParallelAdapter)
    tokens = torch.randn(2, 5, 64)

    def mlp(x):
        unit = F.layer_norm(x, (64,), added.adapter_norm.weight, added.adapter_norm.bias)
        low = torch.relu(unit @ added.down.weight.T + added.down.bias)
        assert low.shape[-1] == 5
        beside = added.scale * (low @ added.up.weight.T + added.up.bias)
        return original.mlp(original.norm2(x)) + beside

    torch.testing.assert_close(block(tokens), block_by_hand(original, tokens, mlp))
    # 6 blocks: norm 2 x 64, down 64 x 5 + 5, up 5 x 64 + 64, scale
    assert sum(p.numel() for p in backbone.parameters()) == 6 * (128 + 325 + 384 + 1)
    assert sum(p.numel() for p in build(weights, "adaptformer").parameters()) == 6 * (
        128 + 65 * 64 + 65 * 64 + 1
    )
    assert SIZES["adaptformer"] == 64


@pytest.mark.parametrize("deep", [False, True])
def test_prompts_are_more_tokens(weights, deep):
    kind = "vpt-deep" if deep else "vpt-shallow"
    backbone, plain = build(weights, kind, adapter_size=3), build(weights)
    prompts = list(backbone.parameters())
    assert [tuple(p.shape) for p in prompts] == [(3, 64)] * (6 if deep else 1)
    bound = math.sqrt(6 / (3 * 16**2 + 64))
    assert all(0.8 * bound < p.abs().max() <= bound for p in prompts)
    network = plain.network
    x = network.norm_pre(network._pos_embed(network.patch_embed(IMAGES)))
    length = x.shape[1]
    for number, block in enumerate(network.blocks):
        if deep or number == 0:
            x = torch.cat([x[:, :length], prompts[number].expand(3, -1, -1)], dim=1)
        x = block(x)
    expected = network.forward_head(network.norm(x[:, :length]))
    torch.testing.assert_close(backbone(IMAGES), expected)


@pytest.mark.parametrize("layer", [nn.Linear(3, 4), nn.Conv2d(3, 4, 2), nn.LayerNorm(3)])
def test_scale_and_shift_by_hand(layer):
    given = torch.randn(2, 3, 5, 5) if isinstance(layer, nn.Conv2d) else torch.randn(2, 3)
    before, channels = layer(given).detach(), len(layer.weight)
    own = copy.deepcopy(layer)
    give_scales(own, channels)
    assert torch.equal(own(given), before)
    with torch.no_grad():
        own.ssf_scale.copy_(torch.arange(channels) - 1.5)
        own.ssf_shift.copy_(torch.arange(channels) * 10.0)
    shape = (-1, 1, 1) if isinstance(layer, nn.Conv2d) else (-1,)
    scale, shift = own.ssf_scale.reshape(shape), own.ssf_shift.reshape(shape)
    torch.testing.assert_close(own(given), before * scale + shift)
    with torch.no_grad():
        for name, value in with_scales_inside(own).items():
            getattr(layer, name).copy_(value)
    torch.testing.assert_close(layer(given), own(given))
    assert type(own).__name__ == type(layer).__name__


@pytest.mark.parametrize("name", [VIT, CONVOLUTIONS, "convnext_atto"])
@pytest.mark.parametrize("kind", [*PLAIN, "low rank"])
def test_the_plain_network_predicts_the_same(name, kind):
    torch.manual_seed(1)
    size = {"image_size": 32}
    how = {"low_rank": 2} if kind == "low rank" else {"adapter": kind}
    backbone = moved(build_backbone(name, **size, **how).eval())
    plain = build_backbone(name, **size).eval()
    plain.network.load_state_dict(plain_weights(backbone.network))
    with torch.inference_mode():
        torch.testing.assert_close(plain(IMAGES), backbone(IMAGES), rtol=1e-4, atol=1e-4)


def small_beit():
    torch.manual_seed(2)
    return Beit(
        img_size=32, patch_size=16, embed_dim=24, depth=2, num_heads=2, num_classes=0
    ).eval()


def test_layers_whose_weights_are_read_get_additions_too():
    network = small_beit()
    add_low_rank(network, 2, IMAGES)
    read = [n for n, m in network.named_modules() if isinstance(m, ReadLowRankLinear)]
    assert read == ["blocks.0.attn.qkv", "blocks.1.attn.qkv"]
    with torch.inference_mode():
        assert torch.equal(network(IMAGES), small_beit()(IMAGES))
    moved(network)(IMAGES).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    plain = small_beit()
    plain.load_state_dict(plain_weights(network))
    with torch.inference_mode():
        torch.testing.assert_close(plain(IMAGES), network(IMAGES), rtol=1e-4, atol=1e-4)
        assert not torch.allclose(plain(IMAGES), small_beit()(IMAGES), atol=1e-2)


def test_adaptformer_and_ssf_in_a_beit():
    for kind in ("adaptformer", "ssf"):
        network = small_beit()
        lighten(network, kind, IMAGES)
        with torch.inference_mode():
            torch.testing.assert_close(network(IMAGES), small_beit()(IMAGES))


@pytest.mark.parametrize("name", ["eva02_tiny_patch14_224"])
def test_an_eva_gets_additions_too(name):
    side = 56
    backbone = build_backbone(name, image_size=side, low_rank=2).eval()
    assert any(
        n.endswith("qkv.down") or n.endswith("q_proj.down") for n, _ in backbone.named_parameters()
    )
    plain = build_backbone(name, image_size=side).eval()
    plain.network.load_state_dict(plain_weights(moved(backbone).network))
    images = tiny.images(2, side=side)
    with torch.inference_mode():
        torch.testing.assert_close(plain(images), backbone(images), rtol=1e-3, atol=1e-3)


def test_a_pointwise_convolution_is_a_linear_layer_of_each_pixel():
    layer = nn.Conv2d(4, 6, 1, stride=2)
    added = LowRankConvolution(layer, rank=2)
    nn.init.normal_(added.up)
    maps = torch.randn(2, 4, 5, 5)
    weight = layer.weight[:, :, 0, 0] + added.up @ added.down
    expected = (
        torch.einsum("oi,bihw->bohw", weight, maps[:, :, ::2, ::2]) + layer.bias[:, None, None]
    )
    torch.testing.assert_close(added(maps), expected)


def test_batch_normalisation_keeps_its_statistics_in_every_mode(weights):
    backbone = build(weights, "norm", CONVOLUTIONS)
    before = {n: b.clone() for n, b in backbone.named_buffers()}
    with torch.no_grad():
        expected = backbone(IMAGES)
        backbone.train()
        for module in backbone.modules():
            module.training = True
        torch.testing.assert_close(backbone(IMAGES), expected)
    assert all(torch.equal(before[n], b) for n, b in backbone.named_buffers())
    assert {n.rpartition(".")[2] for n, _ in backbone.named_parameters()} == {"weight", "bias"}
    twin = copy.deepcopy(backbone)  # as a moving average of the weights is made
    assert torch.equal(twin(IMAGES), backbone(IMAGES))


def test_what_has_no_plain_form(weights):
    for kind in KINDS:
        backbone = build(weights, kind)
        assert has_plain_form(backbone) == (kind in PLAIN)
        assert describe_light(backbone).startswith(kind)
        if kind not in PLAIN:
            with pytest.raises(ConfigError, match="no plain network"):
                plain_weights(backbone.network)


@pytest.mark.parametrize(
    ("kind", "words"),
    [("adaptformer", "DINOv3, EVA, BEiT"), ("vpt-deep", "low_rank, ssf, bias and norm")],
)
def test_networks_of_another_form_are_refused(kind, words):
    with pytest.raises(ConfigError, match=words):
        lighten(build_backbone(CONVOLUTIONS, image_size=32), kind, IMAGES)


def test_a_network_without_biases_has_none_to_train():
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 4, bias=False))
    with pytest.raises(ConfigError, match="no parameters of that kind"):
        lighten(network, "bias", IMAGES)
    keep_weights(network)
    assert not list(network.parameters())
    with pytest.raises(ConfigError, match="uses no linear layer"):
        add_low_rank(nn.Flatten(), 2, IMAGES)


# --- a training -----------------------------------------------------------------------------------

SHORT = ["epochs=2", "batch_size=4", "precision=fp32", "learning_rate=0.05", "enlarge_to=null"]


def arguments(weights, kind, name=VIT):
    file = weights / f"{name}.safetensors"
    how = ["low_rank=2"] if kind == "low rank" else [f"adapter={kind}"]
    return [*SHORT, f"backbone={name}", f"weights={file}", *how, "data.image_size=32"]


CASES = [*((VIT, kind) for kind in KINDS), (CONVOLUTIONS, "norm"), (CONVOLUTIONS, "low rank")]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_frozen_weights_never_move_and_resume_is_bit_equal(
    weights, image_folder, tmp_path, name, kind
):
    line = arguments(weights, kind, name)
    run = api.train(str(image_folder), line, out=tmp_path / "a", device="cpu")
    trained = read_weights(finished(run.folder.checkpoints))
    fresh = build(weights, None if kind == "low rank" else kind, name,
                  low_rank=2 if kind == "low rank" else None)  # fmt: skip
    for key, value in fresh.named_buffers():
        assert torch.equal(trained[f"backbone.{key}"], value), key
    changed = [
        k for k, v in fresh.named_parameters() if not torch.equal(trained[f"backbone.{k}"], v)
    ]
    assert len(changed) > 0.5 * len(list(fresh.named_parameters()))

    again = api.train(str(image_folder), line, out=tmp_path / "b", device="cpu")
    last = finished(again.folder.checkpoints)
    last.rename(tmp_path / "gone")  # as if it had been killed in its last epoch
    again = api.train(str(image_folder), line, out=tmp_path / "b", device="cpu", resume=True)
    resumed = read_weights(finished(again.folder.checkpoints))
    assert all(torch.equal(trained[key], resumed[key]) for key in trained)

    model = package.load(tmp_path / "a", device="cpu")  # without the file of the weights
    assert len(model.predict(str(image_folder))) > 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ssf", "vpt-deep"])
def test_exports(weights, image_folder, tmp_path, longtail, kind):
    api.train(str(image_folder), arguments(weights, kind), out=tmp_path / "run", device="cpu")
    for form in ("safetensors", "timm", "onnx"):
        suffix = "onnx" if form == "onnx" else "safetensors"
        line = ["export", tmp_path / "run", "--format", form, "--out", f"{form}.{suffix}"]
        status, _, said = longtail(*line)
        if form == "timm" and kind not in PLAIN:
            assert status == 2
            assert "no plain network" in said
        else:
            assert status == 0, said


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["adapter=bias"], "needs pretrained=true or weights=FILE"),
        (["adapter=bias", "low_rank=2", "weights=embedded"], "leave one out"),
        (["adapter=bias", "adapter_size=2", "weights=embedded"], "adapter_size is of adaptformer"),
        (["adapter=norm", "train=head", "weights=embedded"], "train=head would never train"),
        (["adapter=adaptformer", "weights=embedded", "data.image_size=32"], "of the form of ViT"),
    ],
)  # fmt: skip
def test_what_does_not_go_together(options, words, longtail, image_folder):
    given = options if "weights=embedded" in options else [*options, "backbone=test_vit"]
    status, _, said = longtail("train", image_folder, "batch_size=4", *given)
    assert status == 2
    assert words in " ".join(said.split()), said
