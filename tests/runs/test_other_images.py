"""A run is scored on images of somebody else, by the names of the classes, and for another class prior."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from longtail import api
from longtail.core import ClassCounts, Predictions
from longtail.core.errors import ConfigError
from longtail.evaluation import score
from longtail.prediction import read_predictions
from longtail.runs.scores_on_other_images import Deployment, moved

COLOURS = {"ant": (200, 50, 50), "bee": (50, 200, 50), "cow": (50, 50, 200), "yak": (200, 200, 50)}


def write_images(root, sizes, seed):
    generator = np.random.default_rng(seed)
    for name, size in sizes.items():
        (root / name).mkdir(parents=True)
        for number in range(size):
            pixels = generator.integers(0, 256, (16, 16, 3)) / 2 + np.array(COLOURS[name]) / 2
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    images = write_images(folder / "images", {"ant": 12, "bee": 6, "cow": 4}, seed=0)
    options = ["epochs=2", "batch_size=8", "backbone=resnet20"]
    api.train(str(images), options, out=folder / "run", progress=False, device="cpu")
    return folder


@pytest.fixture
def run(trained, tmp_path):
    shutil.copytree(trained / "run", tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def other(trained, tmp_path):
    """Two of the three classes and one more, a damaged file, and an image that was trained on."""
    root = write_images(tmp_path / "other", {"yak": 3, "cow": 5, "ant": 4}, seed=1)
    split = pd.read_csv(trained / "run" / "split.csv")
    known = split.query("split == 'train' and label == 'ant'")["path"].iloc[0]
    shutil.copyfile(trained / "images" / known, root / "ant" / "copy.png")
    (root / "cow" / "bad.png").write_bytes(b"no image")
    return root


def test_that_most_images_are_left_out_is_said_before_the_accuracies(longtail, run, tmp_path):
    write_images(tmp_path / "few", {"yak": 1, "cow": 1}, seed=2)
    _, out, _ = longtail("evaluate", run, "--data", "few")
    assert "1 image of 1 class that the model does not know was left out: yak (1)." in out
    shutil.rmtree(tmp_path / "few")
    write_images(tmp_path / "few", {"yak": 3, "cow": 1}, seed=2)
    status, out, err = longtail("evaluate", run, "--data", "few")
    assert status == 0, err
    assert out.startswith("warning: only 1 image is scored; 3 of 4 were left out, see the notes\n")
    assert "The worst class is not measurable: no class has 5 images." in out
    assert out.count("worst class") == 1  # and not below the table, too


def test_other_images_are_scored_by_name_and_what_is_left_out_is_named(longtail, run, other):
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    status, out, err = longtail("evaluate", run, "--data", other)
    assert status == 0, err
    assert "3 images of 1 class that the model does not know were left out: yak (3)." in out
    assert "1 image left out (trained or selected on): ant/copy.png." in out
    assert "cow/bad.png" in out
    assert "1 of 14 images cannot be read: cow/bad.png: not an image" in out
    assert out.count("no image") == 1
    assert "1 class has no images among those scored: bee." in out
    assert "warning: only" not in out  # 9 of 14 images are scored
    scores = json.loads((run / "elsewhere" / "other" / "scores.json").read_text())
    # an independent way to the same predictions
    files = [other / "ant" / f"{n}.png" for n in range(4)] + [
        other / "cow" / f"{n}.png" for n in range(5)
    ]
    said = api.predict(run, files, device="cpu")["class_1"]
    right = said == [path.parent.name for path in files]
    assert (scores["num_images"], scores["left_out"]) == (9, 5)
    assert scores["accuracy"] == pytest.approx(right.mean())
    assert scores["macro_accuracy"] == pytest.approx((right[:4].mean() + right[4:].mean()) / 2)
    assert [row["test_count"] for row in scores["per_class"]] == [4, 0, 5]
    stored = read_predictions(run / "elsewhere" / "other" / "predictions.parquet")
    assert stored.classes == ("ant", "bee", "cow")
    left = pd.read_csv(run / "elsewhere" / "other" / "left-out.csv")
    assert sorted(left["path"]) == [
        "ant/copy.png",
        "cow/bad.png",
        "yak/0.png",
        "yak/1.png",
        "yak/2.png",
    ]
    # what the run says of itself stays
    assert {name: (run / name).read_bytes() for name in before} == before
    # again is the same; other images of the same name are not put in its place
    assert longtail("evaluate", run, "--data", other)[0] == 0
    elsewhere = other.parent / "more" / "other"
    shutil.copytree(other, elsewhere)
    status, _, err = longtail("evaluate", run, "--data", elsewhere)
    assert status == 2
    assert "choose another folder with --out" in err
    assert longtail("evaluate", run, "--data", elsewhere, "--out", "mine")[0] == 0


def test_a_table_of_one_class_in_a_test_split_is_enough(longtail, run, other, tmp_path):
    rows = [(f"other/cow/{n}.png", "cow", "test" if n < 3 else "train") for n in range(5)]
    table = tmp_path / "field.csv"
    pd.DataFrame(rows, columns=["path", "label", "split"]).to_csv(table, index=False)
    status, out, err = longtail("evaluate", run, "--data", table, "--json")
    assert status == 0, err
    scores = json.loads(out)
    assert scores["num_images"] == 3
    assert (scores["intervals"]["few"]["classes"], scores["intervals"]["few"]["images"]) == (1, 3)
    assert any("Only the test split is scored" in note for note in scores["notes"])
    assert longtail("evaluate", run, "--data", table, "--split", "val")[0] == 2


def test_what_cannot_be_scored_is_explained(longtail, run, tmp_path):
    strangers = write_images(tmp_path / "strangers", {"yak": 2}, seed=2)
    (strangers / "yak").rename(strangers / "Ant")
    status, _, err = longtail("evaluate", run, "--data", strangers)
    assert status == 2
    assert "(class unknown to the model: 2 images)" in err
    assert "ant, bee, cow" in err
    assert not (run / "elsewhere").exists()
    for wrong in (["--root", "x"], ["--out", "x"], ["--assumed", "uniform"], ["--data", "absent"]):
        assert longtail("evaluate", run, *wrong)[0] == 2
    (tmp_path / "held").mkdir()
    (tmp_path / "held" / "thesis.tex").write_text("mine")
    status, _, err = longtail("evaluate", run, "--prior", "uniform", "--out", "held")
    assert status == 2
    assert "contains other files" in err


def test_a_stated_prior_moves_the_predictions_and_leaves_the_scores_of_the_run(
    longtail, run, tmp_path
):
    own = (run / "scores-test.json").read_bytes()
    (tmp_path / "field.csv").write_text("class,share\ncow,6\nant,3\nbee,1\n")
    status, out, err = longtail("evaluate", run, "--prior", "field.csv")
    assert status == 0, err
    assert "weighted by the prior" in out
    assert (run / "scores-test.json").read_bytes() == own
    plain = read_predictions(run / "predictions-test.parquet")
    found = read_predictions(run / "elsewhere" / "test-prior-field.csv" / "predictions.parquet")
    # balanced softmax assumes all classes alike
    expected = plain.logits + np.log(np.array([0.3, 0.1, 0.6]) * 3)
    assert found.logits == pytest.approx(expected, abs=1e-5)
    assert found.assumed_prior == pytest.approx([0.3, 0.1, 0.6])


def made(logits, labels):
    logits = np.asarray(logits, dtype=np.float32)
    labels = np.asarray(labels)
    return Predictions("made", np.arange(len(labels)), labels, logits, ("a", "b", "c"), "")


def test_accuracies_are_weighted_by_the_shares_of_classes_that_have_images():
    # accuracies: a 1/2, b 1, c has no image
    predictions = made(np.eye(3)[[0, 1, 1, 1, 1]], [0, 0, 1, 1, 1])
    found = score(
        predictions, ClassCounts([200, 50, 3], ("a", "b", "c")), rule="threshold",
        selection="last epoch", recipe="r", seed=0, prior=np.array([0.6, 0.2, 0.2]),
    )["intervals"]  # fmt: skip
    assert found["prior"]["value"] == pytest.approx((0.6 * 0.5 + 0.2 * 1) / 0.8)
    low, high = found["prior"]["interval"]
    assert 0 <= low < found["prior"]["value"] < high <= 1
    assert found["all"]["value"] == pytest.approx(0.75)
    assert (found["many"]["value"], found["medium"]["value"], found["few"]["value"]) == (
        0.5,
        1,
        None,
    )
    sizes = {name: (entry["classes"], entry["images"]) for name, entry in found.items()}
    assert sizes == {
        "all": (2, 5),
        "many": (1, 2),
        "medium": (1, 3),
        "few": (0, 0),
        "prior": (2, 5),
    }


def test_an_unknown_prior_is_estimated_as_by_hand():
    generator = np.random.default_rng(0)
    labels = generator.choice(3, 400, p=[0.7, 0.2, 0.1])
    logits = 2 * np.eye(3)[labels] + generator.normal(size=(400, 3))
    assumed = np.array([0.5, 0.3, 0.2])
    found, prior = moved(made(logits, labels), torch.tensor(assumed), Deployment("estimate"))
    p = np.exp(logits.astype(np.float32)) / np.exp(logits.astype(np.float32)).sum(1, keepdims=True)
    pi = assumed
    for _ in range(2000):
        shifted = p * pi / assumed
        pi = (shifted / shifted.sum(1, keepdims=True)).mean(0)
    assert prior.numpy() == pytest.approx(pi, abs=1e-5)
    assert found.logits == pytest.approx(logits + np.log(pi / assumed), abs=1e-4)
    with pytest.raises(ConfigError, match="--assumed"):
        moved(made(logits, labels), None, Deployment("estimate"))
