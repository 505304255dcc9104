"""`longtail suggest` names unlabelled images that are worth a label: no copies, rare classes first."""

import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from longtail import api
from longtail.prediction.inputs import collect
from longtail.runs.suggesting import suggest

SIZES = {"ant": 30, "bee": 12, "cow": 4}
SHAPES = {"ant": (1, 0), "bee": (0, 1), "cow": (1, 1)}


def write_images(root, sizes, seed):
    """Waves in a direction of the class, with a phase and noise of each image."""
    generator = np.random.default_rng(seed)
    x, y = np.meshgrid(np.arange(24), np.arange(24))
    for name, size in sizes.items():
        (root / name).mkdir(parents=True)
        for number in range(size):
            a, b = SHAPES[name]
            wave = np.sin((a * x + b * y) * 0.6 + generator.uniform(0, 6))
            noise = generator.normal(size=(6, 6)).repeat(4, 0).repeat(4, 1)
            pixels = np.clip(128 + 50 * wave + 45 * noise, 0, 255)[..., None].repeat(3, 2)
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{seed}-{number:02d}.png")
    return root


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    images = write_images(folder / "images", SIZES, seed=0)
    options = ["epochs=5", "batch_size=8", "backbone=resnet20", "select=last"]
    api.train(str(images), options, out=folder / "run", progress=False, device="cpu")
    return folder


def test_suggestions_have_no_copies_and_a_page(longtail, trained, tmp_path):
    new = write_images(tmp_path / "new", {"ant": 8, "bee": 4, "cow": 3}, seed=1)
    split = pd.read_csv(trained / "run" / "split.csv")
    for part in ("train", "val", "test"):  # all are labelled
        known = split[split["split"] == part]["path"].iloc[0]
        shutil.copyfile(trained / "images" / known, new / f"known-{part}.png")
    shutil.copyfile(new / "cow" / "1-00.png", new / "again.png")
    (new / "bad.png").write_bytes(b"no image")
    run = trained / "run"
    status, out, err = longtail("suggest", run, new, "--budget", 99, "--out", "label/next.csv")
    assert status == 0, err
    table = pd.read_csv(tmp_path / "label" / "next.csv")
    assert "1 of 20 images cannot be read: " in err
    assert "like a labelled one" in err
    assert "like another unlabelled one" in err
    named = [path.rpartition("new/")[2] for path in table["path"]]
    assert not [name for name in named if name.startswith("known")]
    assert "bad.png" not in named
    assert len({"again.png", "cow/1-00.png"} & set(named)) == 1
    assert len(named) == len(set(named)) == 15
    assert "15 images of 19" in out
    # what is said of each is what predict says
    said = api.predict(run, table["path"].tolist(), device="cpu")
    assert said["class_1"].tolist() == table["class_1"].tolist()
    assert said["probability_1"].to_numpy() == pytest.approx(table["probability_1"], abs=1e-4)
    page = (tmp_path / "label" / "next.html").read_text()
    assert all(path in page.replace("<wbr>", "") for path in table["path"])
    assert page.count("data:image/jpeg") == 15


def test_the_budget_is_kept_and_the_first_adds_most(longtail, trained, tmp_path):
    new = write_images(tmp_path / "new", {"ant": 4, "bee": 4, "cow": 4}, seed=2)
    status, _, err = longtail("suggest", trained / "run", new, "--budget", 5)
    assert status == 0, err
    table = pd.read_csv(tmp_path / "suggestions.csv")
    assert table["rank"].tolist() == [1, 2, 3, 4, 5]
    assert (np.diff(table["gain"]) <= 0).all()
    assert table["few_shot_probability"].between(0, 1).all()


def test_both_passes_say_how_far_they_are(trained, tmp_path):
    new = write_images(tmp_path / "new", {"ant": 4}, seed=3)
    model, looked, read = api.load(trained / "run", device="cpu"), [], []
    suggest(
        api.Run.open(trained / "run"), model, collect(new), 2,
        progress=looked.append, reading=lambda done, size: read.append((done, size)),
    )  # fmt: skip
    assert (looked[-1], read[-1]) == (4, (46, 46))  # the run has 46 images


def test_what_cannot_be_suggested_from_is_explained(longtail, trained, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    for arguments, said in (
        (["bad.png"], "The image cannot be read"),
        (["absent-folder/"], "The image cannot be read"),
        (["bad.png", "--out", "x.txt"], "--out must end in .csv"),
    ):
        status, _, err = longtail("suggest", trained / "run", *arguments)
        assert status == 2
        assert said in err
    assert not (tmp_path / "suggestions.csv").exists()
