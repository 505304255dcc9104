"""Damaged checkpoints of strangers: weights that are numbers, or one sentence; code in them never runs."""

import io
import os
import warnings

import safetensors.torch
import timm
import torch

from longtail.models.weights import find_copies, load_network, read_content, replaced, usable
from tests.fuzz.harness import run_fuzz
from tests.fuzz.mutate import mutate_bytes, mutate_tree, nasty_text, nasty_value

RAN = "code-has-run"


def good():
    torch.manual_seed(0)
    return timm.create_model("test_resnet", num_classes=3).state_dict()


GOOD = good()


class Trap:
    """Makes a folder when it is unpickled."""

    def __reduce__(self):
        return (os.mkdir, (RAN,))


def odd_tensor(rng, value):
    """Return a tensor of a kind that networks do not hold, or of other numbers or shape."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # quantisation is deprecated, and files with it are not
        return rng.choice(
            [
                lambda: value.to("meta"), lambda: value.double().to_sparse(), lambda: value * torch.nan,
                lambda: value.float() * 1e38 * 1e38, lambda: value.half(), lambda: value.bfloat16(),
                lambda: value.to(torch.complex64), lambda: value.to(torch.int8), lambda: value > 0,
                lambda: value.reshape(-1), lambda: value[..., :0] if value.ndim else value[None],
                lambda: value[None], lambda: torch.nn.Parameter(value.float()),
                lambda: value.float().to(torch.float8_e4m3fn),
                lambda: torch.quantize_per_tensor(value.float(), 0.1, 0, torch.qint8),
            ]
        )()  # fmt: skip


def layout(rng, weights):
    prefix = rng.choice(["", "", "module.", "_orig_mod.", "module._orig_mod.", "model.", "a.b."])
    named = {
        prefix + name if isinstance(name, str) else name: value for name, value in weights.items()
    }
    average = {name: value.clone() for name, value in named.items()}
    half = len(named) // 2
    one, other = dict(list(named.items())[:half]), dict(list(named.items())[half:])
    return rng.choice(
        [
            named, {"state_dict": named, "epoch": 3}, {"net": named, "acc": 50.0},
            {"model": named, "model_ema": average}, {"state_dict": named, "state_dict_ema": average},
            {"best": {"features": one, "classifier": other}}, {"a": named, "b": average}, [named],
            {"state_dict": named, "optimizer": {"state": {0: named}}}, {"deep": {"er": {"still": named}}},
            {"state_dict": named, "class_to_idx": mutate_tree(rng, {"fox": 0, "lynx": 1, "owl": 2})},
        ]
    )  # fmt: skip


def make(rng, folder):
    weights = dict(GOOD)
    for name in rng.sample(list(weights), rng.choice([0, 0, 1, 2])):
        weights[name] = odd_tensor(rng, weights[name])
    for name in rng.sample(list(weights), rng.choice([0, 0, 0, 1])):
        value = weights.pop(name)
        weights[rng.choice([3, None, nasty_text(rng), f"{name}.x", ("a",)])] = value
    content = layout(rng, weights)
    if isinstance(content, dict) and rng.random() < 0.2:
        content[rng.choice(["args", "state_dict", "model", 5])] = nasty_value(rng)
    if rng.random() < 0.1:
        content = {"weights": content, "more": Trap()}
    stream = io.BytesIO()
    suffix = ".pth"
    try:
        if rng.random() < 0.25:
            suffix = ".safetensors"
            stream.write(safetensors.torch.save(dict(GOOD)))
        else:
            zipped = rng.random() < 0.7
            torch.save(content, stream, _use_new_zipfile_serialization=zipped)
    except Exception:  # what cannot be written cannot be met
        stream = io.BytesIO(b"PK\x03\x04")
    written = stream.getvalue()
    if rng.random() < 0.5:
        written = mutate_bytes(rng, written)
    if rng.random() < 0.05:
        suffix = rng.choice([".pth", ".safetensors"])
    path = folder / f"m{suffix}"
    path.write_bytes(written)
    return path


def act(path, folder):
    """Take the weights, as `weights=` does, and write them back, as `adjust` does."""
    backbone = timm.create_model("test_resnet", num_classes=0)
    load_network(backbone, path)
    content = read_content(path)
    copies = find_copies(content, GOOD, path)
    tensors = [usable(copy.tensors(content), path) for copy in copies]
    places = [copy.places["fc.bias"] for copy in copies]
    back = replaced(content, {place: torch.ones(3) for place in places})
    torch.save(back, io.BytesIO())
    return backbone, tensors


def check(path, result, folder):
    backbone, tensors = result
    if (folder / RAN).exists():
        return "code in a pickle has run"
    values = [*backbone.state_dict().values(), *(v for copy in tensors for v in copy.values())]
    if not all(bool(torch.isfinite(value).all()) for value in values if value.is_floating_point()):
        return "weights that are not finite"
    with torch.no_grad():
        features = backbone.eval()(torch.zeros(1, 3, 32, 32))
    return None if bool(torch.isfinite(features).all()) else "features that are not finite"


def test_checkpoints(inputs, tmp_path):
    run_fuzz("checkpoints", make, act, tmp_path, check=check, inputs=inputs).require()
    assert not list(tmp_path.rglob(RAN)), "code in a pickle has run"
