"""Equal images never stand on both sides of a split that is drawn; shares are of all images of a class."""

import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from longtail.core.manifest import Manifest
from longtail.data.images.equal_files import copies, describe_copies, with_copies
from longtail.data.images.file_checks import Checked, check_images
from longtail.data.inspection import inspect_prepared
from longtail.data.options import FolderData
from longtail.data.preparation import prepare
from longtail.data.source_to_batch import open_data
from longtail.data.splits.hold_out import hold_out
from tests.data.test_collections import image


def of(labels, splits=None):
    size = len(labels)
    splits = np.zeros(size) if splits is None else np.array(splits)
    names = tuple(f"class {n}" for n in range(max(labels) + 1))
    return Manifest(
        "set", names, np.arange(size), np.array(labels), splits, tuple(map(str, range(size)))
    )


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 12), st.integers(0, 9)), min_size=3, max_size=60
    ),
    st.booleans(),
)
def test_neither_copies_nor_units_are_parted(rows, named):
    """Each image: its class, what its file holds, and the animal on it."""
    labels, content, animals = map(list, zip(*rows, strict=True))
    labels = np.unique(labels, return_inverse=True)[1].tolist()
    together = np.array(animals) if named else None
    checked = [Checked("", 8, 8, f"file {row}", pixels=str(c)) for row, c in enumerate(content)]
    units = with_copies(together, copies(checked), len(rows))
    units = np.arange(len(rows)) if units is None else units
    # joined exactly where a chain of copies and animals leads from one to the other
    reach = np.equal.outer(content, content)
    reach |= np.equal.outer(animals, animals) if named else False
    for _ in rows:
        reach = reach | ((reach.astype(int) @ reach.astype(int)) > 0)
    assert np.array_equal(np.equal.outer(units, units), reach)
    made, _ = hold_out(of(labels), "test", seed=0, share=0.3, together=units)
    for value in set(content):
        assert len({made.splits[row] for row, c in enumerate(content) if c == value}) == 1


def test_copies_of_a_real_folder_stay_in_one_split(tmp_path):
    root = tmp_path / "set"
    for name in ("fox", "lynx"):
        for number in range(10):
            first = image(root / name / f"{number:02d}-0.png")
            for copy in range(1, 4):
                shutil.copy(first, root / name / f"{number:02d}-{copy}.png")
    config = FolderData(name="folder", path=root)
    data = open_data(config)
    splits = {}
    for path, split in zip(data.manifest.paths, data.manifest.splits.tolist(), strict=True):
        splits.setdefault(path.split("-")[0], set()).add(split)
    assert len(splits) == 20
    assert all(len(found) == 1 for found in splits.values())
    assert [len(data.manifest.rows(s)) for s in ("train", "val", "test")] == [56, 8, 16]
    said = "80 files are copies of 20 images (identical pixels); copies stay in one split."
    assert data.notes[0] == said
    assert "20 images occur more than once in one split" in " ".join(
        inspect_prepared(prepare(config)).warnings()
    )


def test_an_image_that_was_saved_again_without_loss_is_a_copy(tmp_path):
    root, saved = tmp_path / "set", [("bmp", {}), ("tiff", {}), ("webp", {"lossless": True})]
    for name in ("fox", "lynx"):
        for number in range(10):
            first = image(root / name / f"{number:02d}.png")
            for ending, how in saved:
                with Image.open(first) as opened:
                    opened.save(first.with_suffix(f".{ending}"), **how)
    # one value of one pixel makes another image
    with Image.open(root / "fox" / "00.png") as opened:
        pixels = np.array(opened)
    pixels[3, 4, 1] ^= 1
    Image.fromarray(pixels).save(root / "fox" / "10.png")
    prepared = prepare(FolderData(name="folder", path=root))
    manifest = prepared.file_set.manifest
    splits = {}
    for path, split in zip(manifest.paths, manifest.splits.tolist(), strict=True):
        splits.setdefault(path.split(".")[0], []).append(split)
    assert sorted(map(len, splits.values())) == [1] + [4] * 20
    assert all(len(set(found)) == 1 for found in splits.values())
    assert {split for found in splits.values() for split in found} == {0, 1, 2}
    assert prepared.notes[0] == (
        "80 files are copies of 20 images (identical pixels); copies stay in one split."
    )
    # what is remembered of the files says the same
    assert prepare(FolderData(name="folder", path=root)).notes == prepared.notes


def test_the_same_bytes_in_another_shape_are_no_copy(tmp_path):
    pixels = np.arange(8 * 32 * 3, dtype=np.uint8).reshape(8, 32, 3)
    for file, shape in (("a.png", (8, 32, 3)), ("b.png", (32, 8, 3)), ("c.bmp", (8, 32, 3))):
        Image.fromarray(pixels.reshape(shape)).save(tmp_path / file)
    files = [tmp_path / file for file in ("a.png", "b.png", "c.bmp")]
    assert copies(check_images(files)) == [[0, 2]]


def test_inspect_and_train_count_the_same(tmp_path, longtail):
    root = tmp_path / "set"
    for name, size in (("fox", 40), ("lynx", 12), ("owl", 5)):
        for number in range(size):
            image(root / name / f"{number:02d}.png")
    for number in range(4):
        shutil.copy(root / "fox" / "00.png", root / "fox" / f"copy-{number}.png")
    status, inspected, _ = longtail("data", "inspect", root)
    assert status == 0
    line = ["backbone=resnet20", "epochs=1", "batch_size=8", "--out", tmp_path / "run"]
    status, *said = longtail("train", root, *line)
    assert status == 0, said
    inspected, trained = (" ".join(text.split()) for text in (inspected, " ".join(said)))
    # 61 images: a fifth of a class is test, a tenth val, of all its images
    sizes = [(44, 31), (12, 9), (5, 3)]
    train = sum(left for _, left in sizes)
    for text in (inspected, trained):
        assert f"train {train}," in text
        assert "groups: many 0, medium 1, few 2 classes (by training images: many > 100, " in text
    assert f"3 classes, 61 images (train {train}, val " in inspected
    assert "(largest over smallest class in train): 10.3" in inspected
    assert "imbalance ratio 10.3" in trained
    copied = "5 files are copies of 1 image (identical pixels); copies stay in one split."
    assert copied in trained


def test_copies_in_given_splits_are_said_first(tmp_path):
    root = tmp_path / "set"
    for split, size in (("train", 4), ("val", 2), ("test", 2)):
        for name in ("fox", "lynx"):
            for number in range(size):
                image(root / split / name / f"{number}.png")
    shutil.copy(root / "train" / "fox" / "0.png", root / "test" / "fox" / "copy.png")
    shutil.copy(root / "train" / "lynx" / "0.png", root / "val" / "fox" / "copy.png")
    notes = open_data(FolderData(name="folder", path=root)).notes
    assert notes[0] == (
        "LEAKAGE: 2 images are in more than one of train and val and test (identical pixels), so scores on "
        "2 images of val or test reward memorised images: test/fox/copy.png = train/fox/0.png; "
        "train/lynx/0.png = val/fox/copy.png."
    )
    assert notes[1].startswith(
        "1 image has different labels in files with identical pixels: train/lynx/0.png"
    )


def test_nothing_is_said_without_copies():
    assert with_copies(None, [], 3) is None
    assert with_copies(np.array([0, 0, 1]), [], 3).tolist() == [0, 0, 1]
    assert describe_copies(of([0, 1, 0]), []) == ()


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (100, (70, 10, 20)),
        (10, (7, 1, 2)),
        (50, (35, 5, 10)),
        (3, (1, 1, 1)),
        (2, (1, 0, 1)),
        (1, (1, 0, 0)),
    ],
)
def test_shares_are_of_all_images_of_a_class(tmp_path, size, expected):
    for name in ("fox", "lynx"):
        for number in range(size):
            image(tmp_path / name / f"{number:03d}.png")
    prepared = prepare(FolderData(name="folder", path=tmp_path))
    found = [prepared.file_set.manifest.histogram(s).tolist() for s in ("train", "val", "test")]
    assert found == [[part, part] for part in expected]


@pytest.mark.parametrize(
    ("test", "val", "words"),
    [(0.5, 0.5, "are 1 together, which leaves nothing for train"), (0.9, 0.3, "are 1.2 together")],
)
def test_shares_that_leave_nothing_are_refused(test, val, words):
    with pytest.raises(ValidationError, match=words):
        FolderData(name="folder", path="x", test_share=test, validation_share=val)
    FolderData(
        name="folder", path="x", test_share=test, validation_share=val, validation_per_class=2
    )
