"""What the classifier begins with: class means, a probe, vectors of the names; and zero-shot."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from longtail import api
from longtail.core import ConfigError
from longtail.engine import checkpoint as ckpt
from longtail.methods.ingredients.head_start import class_means
from longtail.models.class_vectors import write_class_vectors
from tests import tiny

LABELS = torch.from_numpy(tiny.data().manifest.labels.copy())


def features_of(method):
    """Return the features of the training images, computed apart from the engine, float64 [N, D]."""
    data = tiny.data()
    images = (data.images.pixels.float() / 255 - 0.3) / 0.25
    with torch.inference_mode():
        return method.eval().backbone(images).double()


def means_of(features):
    return torch.stack([features[label == LABELS].mean(0) for label in range(7)])


def test_a_linear_head_is_nearest_class_mean_by_dot_product(tmp_path):
    method = tiny.build("single-head", {"head_start": "class-means", "train": "nothing"})
    tiny.train(method, tmp_path)
    features = features_of(method)
    products = features @ means_of(features).T
    logits = method.predict((tiny.data().images.pixels.float() / 255 - 0.3) / 0.25)
    assert torch.equal(logits.argmax(1), products.argmax(1))
    # one factor for all: the mean length of the class means
    length = means_of(features).norm(dim=1).mean()
    torch.testing.assert_close(logits.double(), products / length, rtol=1e-5, atol=1e-5)
    assert not method.head.bias.any()


def test_a_cosine_head_takes_the_directions_of_the_means(tmp_path):
    options = {"head_start": "class-means", "train": "nothing", "head": "cosine"}
    method = tiny.build("single-head", options)
    run = tiny.train(method, tmp_path)
    expected = F.normalize(means_of(features_of(method)), dim=1)
    torch.testing.assert_close(method.head.weight.double(), expected, rtol=1e-5, atol=1e-6)
    (line,) = run.read_metrics()
    assert line["stage"] == "class-means"
    assert line["epochs_done"] == 0


def test_the_backbone_and_the_random_numbers_after_it_are_as_without(tmp_path):
    plain = tiny.build("single-head", {"train": "head", "augment": False})
    started = tiny.build(
        "single-head", {"train": "head", "augment": False, "head_start": "class-means"}
    )
    before = tiny.weights(started.backbone)
    tiny.train(plain, tmp_path / "a")
    tiny.train(started, tmp_path / "b")
    assert tiny.equal(before, tiny.weights(started.backbone))
    assert not torch.equal(plain.head.weight, started.head.weight)


def test_a_probe_trains_the_head_alone_and_then_everything(tmp_path):
    method = tiny.build("single-head", {"head_start": {"name": "probe", "epochs": 2}})
    first = tiny.weights(method)
    run = tiny.train(method, tmp_path)
    probed = ckpt.read_weights(run.checkpoints / "stage-0-end")
    moved = {name for name in first if not torch.equal(first[name], probed[name])}
    assert moved == {"head.weight", "head.bias"}
    lines = run.read_metrics()
    assert [line["stage"] for line in lines] == ["probe"] * 3 + ["joint"] * 3
    assert lines[0]["features"] == 77


@pytest.fixture
def vectors(tmp_path):
    """Vectors of the width of the tiny backbone, in another order than the classes."""
    rows = torch.randn(7, 64, generator=torch.Generator().manual_seed(1))
    names = list("gcabdfe")
    write_class_vectors(tmp_path / "text.npz", [*names, "unknown"], torch.cat([rows, rows[:1]]))
    return tmp_path / "text.npz", dict(zip(names, rows, strict=True))


def test_zero_shot_ranks_by_the_vectors_of_the_names(vectors, tmp_path):
    file, rows = vectors
    start = {"name": "vectors", "file": str(file)}
    method = tiny.build(
        "single-head",
        {"head_start": start, "train": "nothing", "head": {"name": "cosine", "scale": 100.0}},
    )
    before = tiny.weights(method.backbone)
    run = tiny.train(method, tmp_path / "run")
    assert tiny.equal(before, tiny.weights(method.backbone))
    images = tiny.images(9)
    features = method.eval().backbone(images)
    for label, name in enumerate("abcdefg"):
        cosine = F.cosine_similarity(features, rows[name][None])
        torch.testing.assert_close(method.predict(images)[:, label], 100 * cosine)
    assert method.corrections() == ()
    assert method.assumed_prior(None) is None
    (line,) = run.read_metrics()
    assert line["unused_vectors"] == 1
    assert len(line["vectors_sha256"]) == 64


def test_a_file_that_does_not_fit_is_refused(tmp_path):
    write_class_vectors(tmp_path / "t.npz", list("abcdefg"), torch.ones(7, 12))
    start = {"name": "vectors", "file": str(tmp_path / "t.npz")}
    method = tiny.build("single-head", {"head_start": start, "train": "nothing"})
    with pytest.raises(ConfigError, match=r"vectors of 12 numbers, .* have 64"):
        tiny.train(method, tmp_path / "run")
    method = tiny.build("single-head", {"head_start": "vectors", "train": "nothing"})
    with pytest.raises(ConfigError, match=r"head_start\.file=FILE"):
        tiny.train(method, tmp_path / "again")


def test_a_run_without_training_is_scored_and_says_so(image_folder, tmp_path):
    line = ["head_start=class-means", "train=nothing", "weights=embedded", "enlarge_to=32"]
    run = api.train(str(image_folder), line, out=tmp_path / "run", device="cpu")
    scores = run.scores("test")
    assert scores["selection"] == "nothing was trained"
    assert [line["stage"] for line in run.lines()] == ["class-means"]
    assert 0 <= scores["macro_accuracy"] <= 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"train": "nothing"}, "needs a head that is computed"),
        ({"train": "nothing", "head_start": "probe"}, "needs a head that is computed"),
        ({"train": "nothing", "head_start": "class-means", "mixing": "mixup"}, "without effect"),
        ({"train": "nothing", "head_start": "class-means", "backbone_rate": 0.1}, "train=nothing"),
    ],
)
def test_options_that_contradict_each_other(options, said):
    with pytest.raises(ValueError, match=said):
        tiny.build("single-head", options)


def test_class_means_are_summed_in_float64():
    generator = torch.Generator().manual_seed(0)
    features = 1000 + torch.rand(500, 3, generator=generator)
    labels = torch.randint(2, (500,), generator=generator)
    batches = zip(features.split(64), labels.split(64), strict=True)
    found = class_means(batches, 2)
    expected = np.stack([features[labels == c].double().numpy().mean(0) for c in range(2)])
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-13)
