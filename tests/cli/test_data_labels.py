"""`longtail data labels`: wrong labels come first, the table holds all, the page shows images."""

import shutil

import numpy as np
import pandas as pd
from PIL import Image

from tests.data.test_near_duplicates import scene


def make_folder(root):
    """Three classes of different colours, 24, 12 and 8 images; two lie in a wrong folder."""
    colours = {"fern": (30, 160, 40), "moss": (190, 40, 30), "reed": (40, 60, 200)}
    for number, (name, colour) in enumerate(colours.items()):
        for image in range((24, 12, 8)[number]):
            pixels = np.asarray(scene(100 * number + image, 32)) // 4 + np.array(colour) * 3 // 4
            wrong = {"fern": 3, "moss": 5}.get(name) == image
            place = root / ("reed" if wrong else name)
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(place / f"{name}-{image:02d}.png")


def test_labels(tmp_path, longtail):
    make_folder(tmp_path / "set")
    status, told, errors = longtail("data", "labels", "set", "image_size=32", "enlarge_to=32")
    assert status == 0, errors
    table = pd.read_csv(tmp_path / "labels" / "labels.csv")
    assert len(table) == 44
    wrong = table[table.path.isin(["reed/fern-03.png", "reed/moss-05.png"])]
    assert len(wrong) == 2
    assert wrong.index.max() < 6
    assert wrong.more_likely.tolist() == [p.split("/")[1].split("-")[0] for p in wrong.path]
    assert table.path[0] in told
    assert (table.probability - table.probability_of_label)[0] > 0
    page = (tmp_path / "labels" / "labels.html").read_text().replace("<wbr>", "")
    assert "reed/moss-05.png" in page
    assert "data:image/jpeg;base64," in page


def test_images_with_two_labels_come_first(tmp_path, longtail):
    make_folder(tmp_path / "set")
    shutil.copy(tmp_path / "set" / "fern" / "fern-07.png", tmp_path / "set" / "reed" / "again.png")
    status, told, errors = longtail("data", "labels", "set", "image_size=32", "enlarge_to=32")
    assert status == 0, errors
    lines = [line for line in told.splitlines() if "features of 45" not in line]
    assert lines[0] == (
        "1 image has different labels in files with identical pixels: fern/fern-07.png = reed/again.png."
    )
    assert "of the other 43 labels are suspicious" in lines[1]
    table = pd.read_csv(tmp_path / "labels" / "labels.csv")
    assert len(table) == 45
    assert table.path[:2].tolist() == ["fern/fern-07.png", "reed/again.png"]
    assert table.same_image_as[:2].tolist() == ["reed/again.png", "fern/fern-07.png"]
    assert table.same_image_as[2:].isna().all()
    assert (table.suspicious == "yes").is_monotonic_decreasing
    page = (tmp_path / "labels" / "labels.html").read_text().replace("<wbr>", "")
    assert page.index("The same image with different labels") < page.index("Labelled as a")


def test_a_folder_that_is_none_is_one_sentence(tmp_path, longtail):
    status, _, errors = longtail("data", "labels", tmp_path / "nowhere")
    assert status == 2
    assert errors.count("error:") == 1
