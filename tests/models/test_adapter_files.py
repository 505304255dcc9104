"""Adapters alone: a few tensors beside the published weights, ours and peft's."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from longtail import api
from longtail.core import ConfigError, DataError
from longtail.models import build_backbone
from longtail.models.adapter_files import kept_checksum, load_adapter, peft_content
from tests import tiny
from tests.models.test_light import arguments, build, moved, weights  # noqa: F401 - a fixture

IMAGES = tiny.images(3, side=32)


@pytest.mark.parametrize("kind", ["adaptformer", "low rank"])
def test_there_and_back_through_the_command_line(weights, image_folder, tmp_path, longtail, kind):  # noqa: F811
    run = api.train(str(image_folder), arguments(weights, kind), out=tmp_path / "run", device="cpu")
    status, out, err = longtail("export", tmp_path / "run", "--format", "adapter")
    assert status == 0, err
    file = tmp_path / "run" / "export" / "adapter.safetensors"
    assert str(file) in out.replace("\n", "")
    whole = sum(f.stat().st_size for f in (weights).glob("test_vit*"))
    assert file.stat().st_size < 0.5 * whole
    with safe_open(file, framework="pt") as opened:
        names = list(opened.keys())
        assert opened.metadata()["backbone"] == "test_vit"
        assert json.loads(opened.metadata()["classes"]) == ["ant", "bee", "cow"]
    assert {"head.weight", "head.bias"} < set(names)

    # a new run begins with it: after no step at all the features are those of the first run
    own = api.load(run.folder.path, device="cpu").method.backbone
    how = {"low_rank": 2} if kind == "low rank" else {"kind": kind}
    fresh = build(weights, adapter_weights=file, **how)
    with torch.inference_mode():
        assert torch.equal(fresh(IMAGES), own(IMAGES))
    line = [*arguments(weights, kind), f"adapter_weights={file}", "epochs=1"]
    api.train(str(image_folder), line, out=tmp_path / "next", device="cpu")
    file.unlink()  # a trained run needs it no more
    api.load(tmp_path / "next", device="cpu")


def test_adapters_of_other_weights_are_refused(weights, tmp_path):  # noqa: F811
    backbone = build(weights, "bias")
    file = tmp_path / "a.safetensors"
    tensors = {f"backbone.{n}": p.detach().clone() for n, p in backbone.named_parameters()}
    save_file(tensors, file, metadata={"kept_sha256": kept_checksum(backbone), "backbone": "x"})
    load_adapter(build(weights, "bias"), file)
    with pytest.raises(ConfigError, match="was trained on other weights"):
        load_adapter(build_backbone("test_vit", image_size=32, adapter="bias"), file)
    with pytest.raises(ConfigError, match="was trained on other weights"):
        load_adapter(build(weights, "norm"), file)
    save_file(tensors, file)
    with pytest.raises(DataError, match="does not say which weights"):
        load_adapter(backbone, file)
    save_file(
        {"backbone.x": torch.ones(1)}, file, metadata={"kept_sha256": kept_checksum(backbone)}
    )
    with pytest.raises(ConfigError, match="which this backbone does not train"):
        load_adapter(backbone, file)


def write_peft(folder, config, tensors):
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def test_pefts_format_in_both_directions(weights, tmp_path):  # noqa: F811
    backbone = moved(build(weights, low_rank=2))
    config, tensors = peft_content(backbone.network)
    assert config["r"] == config["lora_alpha"] == 2
    assert len(config["target_modules"]) == 24
    assert tensors["base_model.model.blocks.0.attn.qkv.lora_A.weight"].shape == (2, 64)
    assert tensors["base_model.model.blocks.0.attn.qkv.lora_B.weight"].shape == (192, 2)
    fresh = build(weights, low_rank=2)
    load_adapter(fresh, write_peft(tmp_path / "own", config, tensors))
    with torch.inference_mode():
        assert torch.equal(fresh(IMAGES), backbone(IMAGES))

    # somebody's: alpha 8 at rank 2 multiplies B A by 4, in one layer alone
    name = "base_model.model.blocks.3.mlp.fc1"
    down, up = torch.randn(2, 64), torch.randn(192, 2)
    some = {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}
    theirs = {"peft_type": "LORA", "r": 2, "lora_alpha": 8, "target_modules": ["fc1"]}
    fresh = build(weights, low_rank=2)
    load_adapter(fresh, write_peft(tmp_path / "theirs", theirs, some))
    layer = fresh.network.blocks[3].mlp.fc1
    torch.testing.assert_close(layer.joined(), layer.weight + 4 * up @ down)
    assert not fresh.network.blocks[2].mlp.fc1.up.any()


@pytest.mark.parametrize("backbone", ["test_vit", "test_efficientnet"])
def test_the_library_peft_reads_ours_and_we_read_its(backbone, tmp_path):
    """The outputs are the same in both directions; `pip install peft` for this test."""
    peft = pytest.importorskip("peft")

    def made(seed):
        torch.manual_seed(seed)
        return build_backbone(backbone, image_size=32, low_rank=2).eval()

    own, other = moved(made(0)), made(0)
    config, tensors = peft_content(own.network)
    folder = write_peft(tmp_path / "ours", config, tensors)
    torch.manual_seed(0)
    plain = build_backbone(backbone, image_size=32).network.eval()
    theirs = peft.PeftModel.from_pretrained(plain, folder).eval()
    with torch.inference_mode():
        torch.testing.assert_close(theirs(IMAGES), own.network(IMAGES), atol=1e-5, rtol=1e-5)
        theirs.save_pretrained(tmp_path / "theirs")
        load_adapter(other, tmp_path / "theirs")
        assert torch.equal(other(IMAGES), own(IMAGES))


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"peft_type": "IA3"}, DataError, "type LORA"),
        ({"use_dora": True}, ConfigError, "use_dora=True has no counterpart"),
        ({"rank_pattern": {"fc1": 4}}, ConfigError, "ranks that differ"),
    ],
)
def test_what_has_no_counterpart_is_refused(weights, tmp_path, change, kind, words):  # noqa: F811
    backbone = build(weights, low_rank=2)
    config, tensors = peft_content(backbone.network)
    with pytest.raises(kind, match=words):
        load_adapter(backbone, write_peft(tmp_path / "a", config | change, tensors))


def test_ranks_must_be_equal(weights, tmp_path):  # noqa: F811
    config, tensors = peft_content(build(weights, low_rank=4).network)
    with pytest.raises(ConfigError, match="shape"):
        load_adapter(build(weights, low_rank=2), write_peft(tmp_path / "a", config, tensors))
    with pytest.raises(DataError, match="no such file"):
        load_adapter(build(weights, low_rank=2), tmp_path)


def test_runs_without_an_adapter_are_refused(image_folder, tmp_path, longtail):
    options = ["backbone=resnet20", "epochs=1", "batch_size=8"]
    api.train(str(image_folder), options, out=tmp_path / "run", device="cpu")
    for form in ("adapter", "peft"):
        status, _, err = longtail("export", tmp_path / "run", "--format", form)
        assert status == 2
        assert "trained no adapter" in err


def test_export_as_peft(weights, image_folder, tmp_path, longtail):  # noqa: F811
    api.train(str(image_folder), arguments(weights, "low rank"), out=tmp_path / "run", device="cpu")
    status, _, err = longtail("export", tmp_path / "run", "--format", "peft", "--out", "p")
    assert status == 0, err
    assert json.loads((tmp_path / "p" / "adapter_config.json").read_text())["r"] == 2
    assert len(load_file(tmp_path / "p" / "adapter_model.safetensors")) == 48
