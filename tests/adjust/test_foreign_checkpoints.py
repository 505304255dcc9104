"""Checkpoints of strangers in the many layouts that they come in: read right, or refused in words."""

import argparse
import os

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from PIL import Image

from longtail.core.errors import ConfigError, DataError
from longtail.models.weights import load_network, read_content

NAMES = ("fox", "lynx", "owl")
RUN_BY = ("--architecture", "timm:test_resnet", "--set", "image_size=32", "--device", "cpu")


def adjusted(longtail, source, out, more):
    status, said, wrong = longtail(
        "adjust", source, "--by", "logit-adjust", *more, "--out", out, "--force"
    )
    return status, " ".join(said.split()), " ".join(wrong.split())


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return timm.create_model("test_resnet", num_classes=3)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for split, sizes in (("train", (6, 3, 2)), ("val", (2, 2, 2)), ("test", (2, 2, 2))):
        for name, size in zip(NAMES, sizes, strict=True):
            (root / split / name).mkdir(parents=True)
            for number in range(size):
                pixels = generator.integers(0, 255, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{number}.png")
    return root


def prefixed(prefix):
    return lambda w, _: {prefix + name: value for name, value in w.items()}


def in_two_parts(w, _):
    return {
        "state_dict_best": {
            "feat_model": {f"module.{n}": v for n, v in w.items() if not n.startswith("fc.")},
            "classifier": {f"module.{n}": v for n, v in w.items() if n.startswith("fc.")},
        }
    }


LAYOUTS = {
    "plain.pth": lambda w, _: w,
    "module.pth": prefixed("module."),
    "compiled.pt": prefixed("_orig_mod."),
    "ddp-compiled.bin": prefixed("module._orig_mod."),
    "inner-compiled.pth": lambda w, _: {n.replace("layer1.", "layer1._orig_mod."): v for n, v in w.items()},
    "lightning.ckpt": lambda w, _: {
        "state_dict": prefixed("model.")(w, _), "epoch": 3, "hyper_parameters": {"lr": 0.1},
    },
    "ldam.pth.tar": lambda w, _: {
        "state_dict": prefixed("module.")(w, _), "arch": "x", "best_acc1": torch.tensor(50.0),
        "optimizer": {"state": {0: {"momentum_buffer": torch.zeros(3)}}},
    },
    "net.pth": lambda w, _: {"net": w, "acc": 50.0},
    "parts.pth": in_two_parts,
    "numpy.pth": lambda w, _: {"state_dict": w, "best": np.float64(50.0), "n": np.int64(3)},
    "timm.pth": lambda w, ema: {
        "state_dict": w, "state_dict_ema": ema, "args": argparse.Namespace(lr=0.1), "metric": 0.5,
    },
    "deit.pth": lambda w, ema: {"model": w, "model_ema": ema, "epoch": 1},
    "half.pth": lambda w, _: {n: v.half() if v.is_floating_point() else v for n, v in w.items()},
    "named.pth": lambda w, _: {"state_dict": w, "class_to_idx": {"owl": 0, "fox": 1, "lynx": 2}},
    "m.safetensors": lambda w, _: w,
}  # fmt: skip


def leaves(content, place=()):
    """Return every value of a file by its keys."""
    if not isinstance(content, dict):
        return {place: content}
    return {
        k: v for key, inside in content.items() for k, v in leaves(inside, (*place, key)).items()
    }


def same(one, other):
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return one == other


@pytest.mark.parametrize("name", LAYOUTS)
def test_one_reader_for_every_layout(name, network, images, longtail, tmp_path):
    """`weights=` reads it, `adjust` corrects it and writes it back as it came."""
    plain = network.state_dict()
    average = {n: v * 0.9 if v.is_floating_point() else v for n, v in plain.items()}
    content = LAYOUTS[name](plain, average)
    path = tmp_path / name
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(content, path, {"format": "pt"})
    else:
        torch.save(content, path)
    taken = average if name in ("timm.pth", "deit.pth") else plain
    backbone = timm.create_model("test_resnet", num_classes=0)
    load_network(backbone, path)
    for key, value in backbone.state_dict().items():
        torch.testing.assert_close(value, taken[key], atol=1e-3, rtol=1e-3)

    out = f"out-{name}"
    status, said, wrong = adjusted(
        longtail, name, out=out, more=("--strength", "1", *RUN_BY, "--data", images)
    )
    assert status == 0, wrong
    assert ("moving average" in said) == (taken is average)
    before, after = leaves(read_content(path)), leaves(read_content(tmp_path / out))
    assert list(before) == list(after)
    changed = [place for place in before if not same(before[place], after[place])]
    assert all(place[-1].endswith("fc.bias") for place in changed)
    assert len(changed) == (2 if taken is average else 1)
    order = ("owl", "fox", "lynx") if name == "named.pth" else NAMES
    counts = {"fox": 6, "lynx": 3, "owl": 2}
    log_prior = torch.tensor([counts[c] / 11 for c in order]).log()
    for place in changed:
        old = before[place]
        assert after[place].dtype == old.dtype
        torch.testing.assert_close(
            after[place].float(), old.float() - log_prior, atol=2e-3, rtol=1e-3
        )


def quantised(w):
    return {**w, "fc.weight": torch.quantize_per_tensor(w["fc.weight"], 0.1, 0, torch.qint8)}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda w: dict(enumerate(w.values())),
            "no named tensors",
        ),
        (lambda w: {**w, "fc.weight": w["fc.weight"].to_sparse()}, "stored as torch.sparse_coo"),
        (quantised, "quantised"),
        (lambda w: {n: v.to("meta") for n, v in w.items()}, "without content (device meta)"),
        (lambda w: {**w, "fc.weight": w["fc.weight"] * torch.nan}, "not finite"),
        (lambda w: {**w, "fc.weight": w["fc.weight"].to(torch.complex64)}, "complex"),
        (lambda w: {**w, "extra.weight": torch.zeros(3)}, "unexpected extra.weight"),
        (lambda w: {**w, "fc.bias": torch.zeros(5)}, "fc.bias has shape [5] instead of [3]"),
        (lambda w: {"a": w, "b": w}, "2 times"),
        (lambda w: {}, "no named tensors"),
        (lambda w: {"state_dict": "weights.pth"}, "no named tensors"),
        (lambda w: [w], "does not contain a state_dict"),
        (
            lambda w: {"state_dict": w, "class_to_idx": {"fox": 0, "owl": 7, "lynx": 1}},
            "must number",
        ),
    ],
)
def test_checkpoints_that_are_refused(change, message, network, images, longtail, tmp_path):
    torch.save(change(network.state_dict()), tmp_path / "m.pth")
    status, _, wrong = adjusted(
        longtail, "m.pth", out="o.pth", more=("--strength", "1", *RUN_BY, "--data", images)
    )
    assert status == 2
    assert message in wrong
    assert "m.pth" in wrong
    assert not (tmp_path / "o.pth").exists()


def test_code_in_a_pickle_never_runs(network, tmp_path):
    torch.save(
        {"state_dict": network.state_dict(), "x": Trap(tmp_path / "ran")}, tmp_path / "m.pth"
    )
    with pytest.raises(DataError, match="pickled code is not loaded"):
        read_content(tmp_path / "m.pth")
    assert not (tmp_path / "ran").exists()
    torch.save(network, tmp_path / "whole.pth")
    with pytest.raises(DataError, match=r"timm\.models\.resnet\.ResNet"):
        read_content(tmp_path / "whole.pth")
    whole_file = tmp_path / "plain.pth"
    torch.save(network.state_dict(), whole_file)
    for size in (0, 1, 100, 5000, whole_file.stat().st_size - 10):
        (tmp_path / "cut.pth").write_bytes(whole_file.read_bytes()[:size])
        with pytest.raises(DataError, match=r"cut\.pth"):
            read_content(tmp_path / "cut.pth")


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def test_weights_take_what_fits_or_say_what_does_not(network, tmp_path):
    backbone = timm.create_model("test_resnet", num_classes=0)
    torch.save({**network.state_dict(), "conv1.weight": torch.zeros(2)}, tmp_path / "m.pth")
    with pytest.raises(ConfigError, match=r"m\.pth belongs to another network"):
        load_network(backbone, tmp_path / "m.pth")


def test_files_of_one_kind_that_are_named_as_another(network, images, longtail, tmp_path):
    safetensors.torch.save_file(network.state_dict(), tmp_path / "m.pth")
    (tmp_path / "text.pth").write_text("git-lfs pointer")
    torch.save(network.state_dict(), tmp_path / "m.safetensors")
    more = ("--strength", "1", *RUN_BY, "--data", images)
    status, _, wrong = adjusted(longtail, "m.pth", "o.pth", more)
    assert status == 0, wrong
    assert read_content(tmp_path / "o.pth").keys() == network.state_dict().keys()
    for name in ("text.pth", "m.safetensors"):
        status, _, wrong = adjusted(longtail, name, f"o-{name}", more)
        assert status == 2
        assert name in wrong
        assert "https://" not in wrong
