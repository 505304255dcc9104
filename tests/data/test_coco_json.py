"""Lists in the JSON of COCO and iNaturalist."""

import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from longtail.core.errors import DataError
from longtail.data.sources.table import read_table
from longtail.recipes import resolve

CATEGORIES = [{"id": 7, "name": "lynx", "supercategory": "cat"}, {"id": 2, "name": "fox"}]


@pytest.fixture
def root(tmp_path):
    for number in range(5):
        pixels = np.full((16, 16, 3), 50 * number, np.uint8)
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
    return tmp_path


def content(**changes):
    """Three foxes and two lynxes; iNaturalist's other keys are there, too."""
    images = [
        {"id": 10 + n, "file_name": f"photos/{n}.png", "width": 16, "license": 1} for n in range(5)
    ]
    labels = [2, 7, 2, 7, 2]
    annotations = [
        {"id": n, "image_id": 10 + n, "category_id": label, "bbox": [0, 0, 4, 4]}
        for n, label in enumerate(labels)
    ]
    return {
        "info": {},
        "images": images,
        "annotations": annotations,
        "categories": CATEGORIES,
    } | changes


def write(root, found, name="list.json"):
    (root / name).write_text(found if isinstance(found, str) else json.dumps(found))
    return root / name


def test_images_get_the_names_of_their_categories(root):
    found = read_table(write(root, content()))
    manifest = found.manifest
    assert manifest.classes == ("fox", "lynx")
    by_file = {
        path: manifest.classes[label]
        for path, label in zip(manifest.paths, manifest.labels, strict=True)
    }
    assert by_file == {
        f"photos/{n}.png": name for n, name in enumerate(["fox", "lynx", "fox", "lynx", "fox"])
    }
    assert all(file.is_file() for file in found.files())


def test_several_boxes_of_one_class_are_one_label(root):
    found = content()
    found["annotations"].append({"id": 9, "image_id": 10, "category_id": 2})
    assert read_table(write(root, found)).manifest.class_counts().values == (3, 2)


def test_a_split_of_the_images_is_kept(root):
    found = content()
    for number, image in enumerate(found["images"]):
        image["split"] = "test" if number > 2 else "train"
    manifest = read_table(write(root, found)).manifest
    assert Counter(manifest.splits.tolist()) == {0: 3, 2: 2}


def test_it_is_a_source_of_a_training(root):
    config = resolve(str(write(root, content())), [])
    assert config.data.name == "table"
    assert config.data.path == root / "list.json"


def replaced(key, place, **changes):
    found = content()
    found[key][place] = found[key][place] | changes
    return found


def without(key, place, name):
    found = content()
    found[key] = [dict(entry) for entry in found[key]]
    del found[key][place][name]
    return found


def with_two_labels():
    found = content()
    found["annotations"].append({"image_id": 11, "category_id": 2})
    found["annotations"].append({"image_id": 13, "category_id": 2})
    return found


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ("{", r"list\.json is not JSON \("),
        ("[" * 100_000, r"list\.json is not JSON \("),
        (
            "[]",
            r"not in the format of COCO: it has no list called images and annotations and categories",
        ),
        (content(annotations={}), r"it has no list called annotations\."),
        (with_two_labels(), r"2 images have several labels \(photos/1\.png, photos/3\.png\)"),
        (
            content(annotations=content()["annotations"][:2]),
            r"3 images have no annotation \(photos/2\.png, ",
        ),
        (
            replaced("annotations", 3, image_id=99),
            r"annotation 4 has the image_id 99, which the file does not",
        ),
        (replaced("annotations", 0, category_id=5), r"annotation 1 has the category_id 5, which"),
        (replaced("images", 1, id=10), r"the image id 10 occurs more than once"),
        (replaced("images", 1, file_name="photos/0.png"), r"lists 1 image twice"),
        (without("images", 2, "file_name"), r"entry 3 of images lacks id and file_name"),
        (
            without("annotations", 1, "category_id"),
            r"entry 2 of annotations lacks image_id and category_id",
        ),
        (without("categories", 1, "name"), r"entry 2 of categories lacks id and name"),
        (
            content(categories=[{"id": 7, "name": "a"}, {"id": 2, "name": "a"}]),
            r"category name 'a' occurs more",
        ),
        (content(images=[], annotations=[]), r"has no rows"),
        (replaced("images", 1, split="dev"), r"split must be one of train, val, test"),
    ],
)
def test_what_a_list_cannot_mean(root, found, words):
    with pytest.raises(DataError, match=words):
        read_table(write(root, found))
