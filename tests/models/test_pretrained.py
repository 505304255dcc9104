"""Backbones that have learnt something already: weights of a file, sizes, heads on frozen features."""

import hashlib
import re
import shlex
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

import longtail as package
from longtail import api
from longtail.core import ConfigError
from longtail.core.stage import Stage
from longtail.data.source_to_batch import open_data
from longtail.engine import loop
from longtail.engine.checkpoint import finished, read_weights
from longtail.engine.optimisation import prepare_stage
from longtail.models import build_backbone
from longtail.recipes import resolve
from longtail.runs import repeated_scores as repeated
from longtail.runs import run_folders
from tests import tiny

SMALL = ["epochs=3", "batch_size=4", "precision=fp32", "learning_rate=0.1"]


def network(name="resnet10t", seed=0):
    """A network of timm with all its weights and statistics at random values."""
    torch.manual_seed(seed)
    made = timm.create_model(name, num_classes=9)
    for value in made.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.rand_like(value) + 0.1)
    return made.eval()


@pytest.fixture
def weights(tmp_path):
    torch.save(network().state_dict(), tmp_path / "published.pth")
    return tmp_path / "published.pth"


# --- weights of a file ---------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "module.", "backbone.network.", "module.encoder_q."])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "safetensors"])
def test_weights_are_found_under_the_names_of_training_scripts(prefix, wrapper, tmp_path):
    original = network()
    content = {prefix + name: value for name, value in original.state_dict().items()}
    content["queue"] = torch.zeros(3)
    path = tmp_path / ("w.safetensors" if wrapper == "safetensors" else "w.pth")
    if wrapper == "safetensors":
        save_file(content, path)
    else:
        torch.save(content if wrapper is None else {wrapper: content, "epoch": 3}, path)
    backbone = build_backbone("resnet10t", weights=path).eval()
    images = tiny.images(2, side=32)
    with torch.inference_mode():
        assert torch.equal(original.fc(backbone(images)), original(images))


def test_files_of_old_versions_lack_a_counter(tmp_path):
    kept = {n: v for n, v in network().state_dict().items() if "num_batches" not in n}
    torch.save(kept, tmp_path / "w.pth")
    build_backbone("resnet10t", weights=tmp_path / "w.pth")


def twice(state):
    return {f"{side}.{name}": value for side in ("query", "key") for name, value in state.items()}


@pytest.mark.parametrize(
    ("content", "backbone", "words"),
    [
        (lambda: network("mobilenetv3_small_050").state_dict(), "resnet32", "none is called conv1.weight"),
        # every tensor of the smaller network is in the larger one, with its shape
        (lambda: network("resnet26t").state_dict(), "resnet14t", "unexpected layer1.1.conv1.weight"),
        (lambda: network("resnet14t").state_dict(), "resnet26t", "missing layer1.1.conv1.weight"),
        (lambda: network().state_dict() | {"conv1.0.weight": torch.zeros(24, 1, 3, 3)}, "resnet10t",
         r"conv1.0.weight has shape \[24, 1, 3, 3\] instead of \[24, 3, 3, 3\]"),
        (lambda: twice(network().state_dict()), "resnet10t", "2 times, under 'query.', 'key.'"),
        (lambda: {"bias": torch.zeros(2)}, "resnet10t", "contains 1 tensor, and none"),
        (lambda: network(), "resnet10t", "pickled code is not loaded"),
        (lambda: [1, 2], "resnet10t", "does not contain a state_dict"),
    ],
)  # fmt: skip
def test_files_of_other_networks(content, backbone, words, longtail, image_folder, tmp_path):
    torch.save(content(), tmp_path / "w.pth")
    line = ["train", image_folder, "weights=w.pth", f"backbone={backbone}", "--out", "run"]
    status, _, said = longtail(*line)
    assert status == 2
    assert re.search(words, " ".join(said.split())), said
    assert not (tmp_path / "run").exists()


def test_what_does_not_go_together(longtail, image_folder, weights, tmp_path):
    for more, words in [
        (["pretrained=true", "backbone=resnet10t"], "leave out weights or pretrained"),
        ([], "backbone=NAME"),
        (["backbone=resnet32", "method=reslt", "experts=2"], "The experts are narrower"),
    ]:
        status, _, said = longtail("train", image_folder, f"weights={weights}", *more)
        assert status == 2
        assert words in " ".join(said.split())
    status, _, said = longtail("train", image_folder, "weights=gone.pth", "backbone=resnet10t")
    assert status == 2
    assert "gone.pth cannot be read" in said


def test_the_run_says_which_weights_it_began_with(image_folder, weights, tmp_path):
    line = [*SMALL[1:], "epochs=1", "train=all", "enlarge_to=null"]
    line += ["backbone=resnet10t", f"weights={weights}"]
    run = api.train(str(image_folder), line, out=tmp_path / "run", device="cpu")
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert api.record(run, "test")["weights"] == {"file": str(weights), "sha256": digest}
    # a Python program called, not the command line
    assert api.record(run, "test")["command"] == shlex.join(["python", *sys.argv])
    assert run.config.model.normalisation() is not None  # pixels as the published weights expect
    weights.unlink()
    package.load(run.folder.path, device="cpu")  # what is trained needs no file


@pytest.mark.parametrize(
    ("program", "written"),
    [
        ("/usr/bin/longtail", "longtail"),
        ("C:/Scripts/longtail.exe", "longtail"),
        ("/env/site-packages/longtail/__main__.py", "longtail"),
        ("/env/site-packages/pytest/__main__.py", "python /env/site-packages/pytest/__main__.py"),
        ("mine.py", "python mine.py"),
    ],
)
def test_a_run_keeps_what_was_typed(program, written, monkeypatch):
    monkeypatch.setattr(sys, "argv", [program, "train", "my images"])
    assert run_folders._command() == f"{written} train 'my images'"


def test_a_run_begins_with_what_another_run_exported(image_folder, longtail, tmp_path):
    line = [*SMALL, "backbone=resnet20"]
    first = api.train(str(image_folder), line, out=tmp_path / "first", device="cpu")
    status, _, _ = longtail(
        "export", first.folder.path, "--format", "safetensors", "--out", "w.safetensors"
    )
    assert status == 0
    line = [*line, f"weights={tmp_path / 'w.safetensors'}", "train=head"]
    second = api.train(str(image_folder), line, out=tmp_path / "second", device="cpu")
    one, other = (read_weights(finished(run.folder.checkpoints)) for run in (first, second))
    backbone = [name for name in one if name.startswith("backbone.")]
    assert all(torch.equal(one[name], other[name]) for name in backbone)
    assert not torch.equal(one["head.weight"], other["head.weight"])


# --- sizes ---------------------------------------------------------------------------------------


def test_a_transformer_takes_images_of_another_size(tmp_path):
    published = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    torch.save(published.state_dict(), tmp_path / "w.pth")
    backbone = build_backbone("vit_tiny_patch16_224", weights=tmp_path / "w.pth", image_size=32)
    # timm's own way to load published weights for another size
    expected = timm.create_model(
        "vit_tiny_patch16_224", num_classes=0, img_size=32, pretrained=True,
        pretrained_cfg_overlay={"file": str(tmp_path / "w.pth"), "num_classes": 0},
    )  # fmt: skip
    assert backbone.training
    images = tiny.images(2, side=32)
    with torch.inference_mode():
        torch.testing.assert_close(backbone.eval()(images), expected.eval()(images))


def test_a_size_that_does_not_fit_is_told(longtail, image_folder):
    line = ["train", image_folder, "backbone=maxvit_nano_rw_256", "image_size=32", "--out", "run"]
    status, _, said = longtail(*line)
    assert status == 2
    assert "Set data.image_size=256" in " ".join(said.split())


def test_a_transformer_is_trained_loaded_and_exported(image_folder, longtail, tmp_path):
    line = [*SMALL, "backbone=vit_tiny_patch16_224", "epochs=1", "image_size=32"]
    run = api.train(str(image_folder), line, out=tmp_path / "run", device="cpu")
    assert package.load(run.folder.path).metadata.image_size == 32
    for form in ("safetensors", "timm"):  # each is loaded back and compared
        status, said, _ = longtail(
            "export", run.folder.path, "--format", form, "--out", f"{form}.safetensors"
        )
        assert status == 0, said


def test_images_are_enlarged_before_the_backbone():
    backbone = build_backbone("resnet10t", enlarge_to=48).eval()
    images = tiny.images(2, side=16)
    larger = torch.nn.functional.interpolate(images, (48, 48), mode="bilinear")
    with torch.inference_mode():
        assert torch.equal(backbone(images), backbone.network(larger))
        assert backbone.feature_map(images).shape == (2, 512, 2, 2)
    # a transformer is built for the size that it gets
    transformer = build_backbone("vit_tiny_patch16_224", image_size=16, enlarge_to=64).eval()
    assert transformer(tiny.images(1, side=16)).shape == (1, 192)


def test_enlarging_is_part_of_the_model(image_folder, longtail, tmp_path):
    line = [*SMALL, "backbone=resnet10t", "epochs=1", "enlarge_to=32"]
    run = api.train(str(image_folder), line, out=tmp_path / "run", device="cpu")
    assert package.load(run.folder.path).metadata.image_size == 16
    status, said, _ = longtail("export", run.folder.path, "--format", "onnx", "--out", "m.onnx")
    assert status == 0, said  # it was loaded back and compared
    status, _, said = longtail(
        "export", run.folder.path, "--format", "timm", "--out", "m.safetensors"
    )
    assert status == 2
    assert "do not enlarge images" in said


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["enlarge_to=8", "backbone=resnet20"], "is less than the 16 pixels"),
        (["enlarge_to=32", "backbone=resnet20", "method=reslt", "experts=2"], "Experts use"),
    ],
)
def test_sizes_that_do_not_go_together(more, words, longtail, image_folder):
    status, _, said = longtail("train", image_folder, *more, "--out", "run")
    assert status == 2
    assert words in " ".join(said.split())


# --- heads on frozen features --------------------------------------------------------------------


def test_features_that_are_computed_once_train_the_same_head(tmp_path):
    # the same task without augmentation, the backbone run over the images of every step
    plain = tiny.build("single-head", {"train": "head", "sampling": "class-balanced"})
    stored = tiny.build(
        "single-head", {"train": "head", "augment": False, "sampling": "class-balanced"}
    )
    assert tiny.equal(tiny.weights(plain), tiny.weights(stored))
    before = tiny.weights(plain)
    still = tiny.data()
    tiny.train(plain, tmp_path / "plain", train_set=replace(still, default_view="none"))
    tiny.train(stored, tmp_path / "stored", train_set=still)
    one, other = tiny.weights(plain), tiny.weights(stored)
    for name in one:
        if name.startswith("backbone."):
            assert torch.equal(before[name], one[name])
            assert torch.equal(before[name], other[name])
        else:
            assert not torch.equal(before[name], one[name])
            torch.testing.assert_close(one[name], other[name], atol=1e-5, rtol=1e-4)


def test_every_image_passes_the_frozen_backbone_once(tmp_path, monkeypatch):
    monkeypatch.setenv("LONGTAIL_CACHE", "off")
    method = tiny.build("single-head", {"train": "head", "augment": False})
    seen = []
    method.backbone.register_forward_hook(lambda _, inputs, out: seen.append(len(inputs[0])))
    tiny.train(method, tmp_path)
    assert sum(seen) == tiny.COUNTS.total


def test_val_is_scored_after_every_epoch_on_features_that_are_computed_once(
    image_folder, tmp_path, monkeypatch
):
    line = [*SMALL, "backbone=resnet20", "train=head", "augment=false"]
    passes = []
    plain = repeated.features_of
    monkeypatch.setattr(
        repeated, "features_of", lambda *given, **named: passes.append(1) or plain(*given, **named)
    )
    for select in ("last", "best-validation"):
        more = [*line, f"select={select}"]
        run = api.train(str(image_folder), more, out=tmp_path / select, device="cpu")
        features, *lines = run.folder.read_metrics()
        assert features["features"] == run.open_data().manifest.class_counts().total
        assert all("val_macro_accuracy" in line for line in lines)
        # what is selected by is what the finished model scores on the images themselves
        scores = api.evaluate(run, "val")
        at = (scores["selection"].partition("(epoch ")[2] or f"{len(lines)})").rstrip(")")
        assert scores["macro_accuracy"] == lines[int(at) - 1]["val_macro_accuracy"]
    assert len(passes) == 2  # one of each run


def test_a_run_on_features_resumes_exactly(image_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", -1)  # one after each epoch
    line = [*SMALL, "backbone=resnet20", "train=head", "augment=false"]
    whole = api.train(str(image_folder), line, out=tmp_path / "whole", device="cpu")
    broken = api.train(str(image_folder), line, out=tmp_path / "broken", device="cpu")
    for name in ("stage-0-epoch-0002", "stage-0-end"):
        shutil.rmtree(broken.folder.checkpoints / name)
    api.train(str(image_folder), line, out=tmp_path / "broken", resume=True, device="cpu")
    one, other = (read_weights(finished(run.folder.checkpoints)) for run in (whole, broken))
    assert tiny.equal(one, other)


def test_the_head_finds_the_optimum_of_balanced_softmax(tmp_path):
    """On features, balanced softmax is a convex problem; its gradient ends near zero."""
    options = {"train": "head", "augment": False, "loss": "balanced-softmax"}
    method = tiny.build("single-head", options, epochs=600)
    training = tiny.OPTIONS.model_copy(
        update={
            "epochs": 1000,
            "batch_size": 77,
            "checkpoint_every": 1000,
            "learning_rate": 1.0,
            "schedule": "cosine",
        }
    )  # fmt: skip
    data = tiny.data()
    tiny.train(method, tmp_path, training, train_set=data)
    pixels = data.images.pixels.float() / 255
    with torch.no_grad():
        features = method.eval().backbone((pixels - 0.3) / 0.25)
    labels = torch.from_numpy(np.array(data.manifest.labels))
    logits = method.head(features) + tiny.COUNTS.log_prior()
    loss = torch.nn.functional.cross_entropy(logits, labels)
    decay = sum(p.square().sum() for p in method.head.parameters()) * training.weight_decay / 2
    gradients = torch.autograd.grad(loss + decay, list(method.head.parameters()))
    assert max(float(g.abs().max()) for g in gradients) < 1e-3


def test_only_the_last_block_is_trained(tmp_path):
    method = tiny.build("single-head", {"train": "last-block", "backbone_rate": 0.1})
    before = tiny.weights(method)
    made = tiny.trainer(method, tmp_path)
    made.run()
    after = tiny.weights(method)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name.split(".")[0] for name in moved} == {"head", "backbone"}
    inside = {name for name in moved if name.startswith("backbone.")}
    assert inside
    assert all(name.startswith("backbone.network.layer3") for name in inside)


def test_a_frozen_random_backbone_is_noted(image_folder, weights, longtail):
    line = ["train", image_folder, *SMALL, "backbone=resnet10t", "epochs=1", "--device", "cpu"]
    _, _, said = longtail(*line, "train=head")
    assert "keep random weights" in " ".join(said.split())
    _, _, said = longtail(*line, "train=head", f"weights={weights}")
    assert "random weights" not in said
    _, _, said = longtail(*line)
    assert "starts from random weights" in " ".join(said.split())


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["augment=false"], "needs train=head"),
        (["train=last-block", "augment=false"], "needs train=head"),
        (["train=head", "augment=false", "mixing=mixup"], "mixing mixes images"),
        (["train=head", "backbone_rate=0.1"], "has no effect"),
    ],
)
def test_options_that_contradict_each_other(more, words):
    with pytest.raises(ConfigError, match=words):
        resolve("digits-lt/balanced-softmax", more)


def test_stages_cannot_train_what_they_compute_once():
    method = tiny.build("single-head")
    with pytest.raises(ConfigError, match="although its features are computed only once"):
        prepare_stage(method, Stage(name="s", epochs=1, views=("none",), features="backbone"), 0, 0)
    with pytest.raises(ConfigError, match="features of stage 's' contains trunk"):
        prepare_stage(method, Stage(name="s", epochs=1, views=("none",), features="trunk"), 0, 0)
    with pytest.raises(ConfigError, match="only view must be 'none'"):
        Stage(name="s", epochs=1, features="backbone")


def test_the_data_are_those_of_the_folder(image_folder, weights):
    """Images of a file's weights are normalised as timm's table of that network says."""
    config = resolve(str(image_folder), ["backbone=tf_efficientnet_lite0", f"weights={weights}"])
    assert config.model.normalisation() == ((0.5,) * 3, (0.5,) * 3)
    assert open_data(config.data).mean != (0.5,) * 3
