"""Two gloo processes against one with the joint batch, through the command line."""

import json
import subprocess
import sys

import numpy as np
import pytest
import timm
from PIL import Image
from safetensors.torch import save_file

from longtail import api
from longtail.prediction import read_predictions

# no batch statistics, plain SGD: what two processes can reproduce exactly
OPTIONS = [
    "backbone=convnext_atto", "image_size=32", "epochs=2", "batch_size=8", "momentum=0",
    "nesterov=false", "precision=fp32", "learning_rate=0.05",
]  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "set"
    generator = np.random.default_rng(0)
    for label, size in enumerate((31, 14, 8)):
        (root / f"class {label}").mkdir(parents=True)
        for number in range(size):
            pixels = generator.integers(0, 90, (32, 32, 3)) + 50 * label
            Image.fromarray(pixels.astype(np.uint8)).save(root / f"class {label}" / f"{number}.png")
    return root


def left_by(out):
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return lines, read_predictions(out / "predictions-test.parquet")


def run(folder, out, *more):
    """Train in this process; one process more would only be one more to start."""
    api.train(str(folder), [*OPTIONS, *more], out=out)
    return left_by(out)


def run_in_two(folder, out, *more):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m"]
    command = [*launcher, "longtail", "train", str(folder), *OPTIONS, *more, "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return *left_by(out), done


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        ["loss=balanced-softmax"],
        ["loss=cross-entropy", "class_weights.name=inverse"],
        ["train=head", "augment=false", "select=best-validation"],
        ["low_rank=2", "backbone=test_vit"],
        ["optimizer=sam", "rho=0.05"],  # a larger rho multiplies what rounds differently
        ["optimizer=sam", "rho=0.05", "sharpness=focal-sam", "accumulate=2"],
    ],
    ids=["loss", "weights", "features", "low rank", "sam", "focal-sam"],
)
def test_two_processes_equal_one(folder, tmp_path, more):
    if "low_rank=2" in more:
        save_file(timm.create_model("test_vit").state_dict(), tmp_path / "w.safetensors")
        more = [*more, f"weights={tmp_path / 'w.safetensors'}"]
    one, predicted_one = run(folder, tmp_path / "one", *more)
    two, predicted_two, done = run_in_two(folder, tmp_path / "two", *more)
    if "train=head" in more:  # each process runs the backbone over all images
        assert one[0]["features"] == two[0]["features"]
    one, two = ([line for line in lines if "epoch" in line] for lines in (one, two))
    assert len(one) > 1
    assert [a["loss"] for a in one] == pytest.approx([b["loss"] for b in two], abs=1e-5)
    for key in ("val_accuracy", "val_macro_accuracy"):
        assert [a[key] for a in one] == pytest.approx([b[key] for b in two])
    # every test image once, though eleven are not divisible by two
    assert len(predicted_two.ids) % 2 == 1
    np.testing.assert_array_equal(predicted_one.ids, predicted_two.ids)
    np.testing.assert_array_equal(predicted_one.labels, predicted_two.labels)
    np.testing.assert_allclose(predicted_one.logits, predicted_two.logits, atol=2e-4)
    environment = json.loads((tmp_path / "two" / "environment.json").read_text())
    assert environment["processes"] == 2
    assert done.stdout.count("run folder:") == 1  # only one process talks


@pytest.mark.slow
def test_batch_norm_of_two_processes_equals_one_where_its_statistics_are_joined(folder, tmp_path):
    # two steps: the first loss shows the statistics, the second their gradients; more would add up rounding
    more = ["backbone=resnet20", "loss=cross-entropy", "epochs=1", "batch_size=16"]
    one, _ = run(folder, tmp_path / "one", *more)
    two, _, _ = run_in_two(folder, tmp_path / "two", *more, "joint_norm=true")
    own, _, _ = run_in_two(folder, tmp_path / "own", *more)
    assert two[0]["loss"] == pytest.approx(one[0]["loss"], abs=1e-5)
    assert abs(own[0]["loss"] - one[0]["loss"]) > 1e-3
