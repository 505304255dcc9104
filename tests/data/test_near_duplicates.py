"""Copies that were resized or saved again: found, kept in one split, and named where they are not."""

import io
import json
from dataclasses import replace
from types import SimpleNamespace

import imagehash
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.neighbors import NearestNeighbors

from longtail.core.manifest import Manifest
from longtail.data.images.file_checks import Checked
from longtail.data.images.perceptual_hash import as_unit_vectors, perceptual_hash
from longtail.data.near_duplicates import neighbours
from longtail.data.near_duplicates.found import (
    RELATIVE,
    NearDuplicates,
    describe_near,
    near_by_features,
    near_by_hash,
)
from longtail.data.near_duplicates.neighbours import histogram_of_distances, pairs_within
from longtail.data.near_duplicates.threshold import choose_threshold
from longtail.data.options import FolderData, TableData
from longtail.data.preparation import prepare
from longtail.data.source_to_batch import open_data
from longtail.report.collection import _what_it_means


def scene(number, side=64):
    """An image of smooth random forms, as photographs have them."""
    rng = np.random.default_rng([7, number])
    whole = np.zeros((side, side, 3))
    for forms, weight in ((4, 0.4), (8, 0.3), (16, 0.3)):
        part = Image.fromarray(rng.integers(0, 256, (forms, forms, 3), dtype=np.uint8))
        whole += weight * np.asarray(part.resize((side, side), Image.Resampling.BICUBIC))
    return Image.fromarray(whole.clip(0, 255).astype(np.uint8))


def hash_of(made):
    return perceptual_hash(torch.from_numpy(np.array(made.convert("RGB"))).permute(2, 0, 1))


def bits(text):
    return np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8))


def saved_again(made, quality):
    buffer = io.BytesIO()
    made.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


@pytest.mark.parametrize("side", [16, 48, 64, 131])
def test_the_hash_is_that_of_the_library_imagehash(side):
    for number in range(5):
        made = scene(number, side)
        assert np.array_equal(bits(hash_of(made)), imagehash.phash(made, 12).hash.ravel())


def test_a_large_image_has_nearly_the_hash_of_the_library():
    made = scene(1).resize((900, 700), Image.Resampling.BICUBIC)
    assert (bits(hash_of(made)) != imagehash.phash(made, 12).hash.ravel()).sum() <= 4


def test_copies_are_near_and_other_images_are_far():
    for number in range(20):
        made, other = scene(number), scene(number + 100)
        own = bits(hash_of(made))
        for copy in (made.resize((32, 32)), made.resize((150, 150)), saved_again(made, 50)):
            assert (bits(hash_of(copy)) != own).sum() <= 10
        assert (bits(hash_of(other)) != own).sum() > 30


def test_an_image_of_one_brightness_has_no_hash():
    assert hash_of(Image.new("RGB", (40, 30), (9, 200, 7))) == ""


def test_distances_of_hashes_are_bits():
    texts = [hash_of(scene(number)) for number in range(4)]
    unit = as_unit_vectors(texts)
    for i in range(4):
        for j in range(4):
            differing = (bits(texts[i]) != bits(texts[j])).sum()
            assert 72 * (1 - unit[i] @ unit[j]) == pytest.approx(differing, abs=1e-4)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 40), st.integers(0, 99), st.floats(0.05, 1.2))
def test_pairs_are_those_of_a_slow_search(size, seed, distance):
    rng = np.random.default_rng(seed)
    unit = rng.normal(size=(size, 3)).astype(np.float32)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    wanted = {
        (i, j)
        for i in range(size)
        for j in range(i + 1, size)
        if 1 - float(unit[i].astype(float) @ unit[j]) <= distance
    }
    assert {tuple(pair) for pair in pairs_within(unit, distance).tolist()} == wanted


def test_blocks_change_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    unit = rng.normal(size=(50, 8)).astype(np.float32)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    whole, counts = pairs_within(unit, 0.7), histogram_of_distances(unit, 0.1)
    monkeypatch.setattr(neighbours, "BLOCK", 7)
    assert np.array_equal(pairs_within(unit, 0.7), whole)
    assert np.array_equal(histogram_of_distances(unit, 0.1), counts)
    assert counts.sum() == 50 * 49 // 2


def test_an_index_finds_what_the_exact_search_finds(monkeypatch):
    pytest.importorskip("usearch")
    rng = np.random.default_rng(1)
    unit = rng.normal(size=(400, 32)).astype(np.float32)
    unit[200:] = unit[:200] + 0.05 * rng.normal(size=(200, 32))
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    exact = pairs_within(unit, 0.02)
    assert len(exact) == 200
    monkeypatch.setattr(neighbours, "EXACT_UP_TO", 100)
    assert len({map(tuple, exact.tolist())} ^ {map(tuple, pairs_within(unit, 0.02).tolist())}) <= 2
    found = {tuple(pair) for pair in pairs_within(unit, 0.02).tolist()}
    assert len(found & {tuple(pair) for pair in exact.tolist()}) >= 196


def test_the_threshold_follows_the_distribution():
    """Of a normal curve with mean 36 and deviation 4, chance is known exactly."""
    steps = np.arange(73)
    curve = np.exp(-((steps - 36) ** 2) / 32)
    pairs = 50_000_000
    histogram = np.round(8_000_000 * curve / curve.sum()).astype(np.int64)
    chosen = choose_threshold(histogram, pairs, most=40, if_few=5)
    below = np.cumsum(curve / curve.sum() * pairs)
    assert below[chosen.distance] <= 0.1 < below[chosen.distance + 1]
    assert chosen.by_chance == pytest.approx(below[chosen.distance], rel=0.05)
    # copies, up to a thousand pairs, do not move it
    histogram[0:4] += 250
    assert choose_threshold(histogram, pairs, most=40, if_few=5).distance == chosen.distance
    # images that are all alike leave no room for one
    alike = np.exp(-((steps - 6) ** 2) / 8)
    histogram = np.round(8_000_000 * alike / alike.sum()).astype(np.int64)
    assert choose_threshold(histogram, pairs, most=12, if_few=5).distance == -1


def test_few_images_take_the_usual_threshold():
    assert choose_threshold(np.array([0, 3, 900]), 903, most=12, if_few=5).distance == 5


def test_groups_are_chains_of_pairs():
    found = NearDuplicates(
        np.array([[0, 4], [7, 9], [4, 5]]), np.zeros(3), 24.0, 0.01, "bits", 10
    )  # fmt: skip
    assert [sorted(group) for group in found.groups()] == [[0, 4, 5], [7, 9]]


def test_images_of_equal_pixels_and_damaged_ones_are_no_near_duplicates():
    one = hash_of(scene(0))
    checked = [
        Checked("", 8, 8, "a", pixels="x", hash=one),
        Checked("", 8, 8, "b", pixels="x", hash=one),
        Checked("empty", 0, 0, ""),
        Checked("", 8, 8, "d", pixels="y", hash=one),
        Checked("", 8, 8, "e", pixels="z", hash=""),
    ]
    found = near_by_hash(checked)
    assert found.pairs.tolist() == [[0, 3]]
    assert found.distances.tolist() == [0.0]


def make_folder(root, splits=("",)):
    """30 images of two classes and three copies of the first images of each, the last split's the copies."""
    for label, name in enumerate(("fox", "lynx")):
        for number in range(30):
            made = scene(1000 * label + number)
            place = root / splits[0] / name
            place.mkdir(parents=True, exist_ok=True)
            made.save(place / f"{number:02d}.png")
            if number < 3:
                place = root / splits[-1] / name
                place.mkdir(parents=True, exist_ok=True)
                made.resize((40, 40)).save(place / f"{number:02d}-small.png")
                made.save(place / f"{number:02d}-again.jpg", quality=60)


def test_copies_of_a_folder_stay_in_one_split_and_are_named(tmp_path):
    make_folder(tmp_path / "set")
    for seed in range(3):
        config = FolderData(name="folder", path=tmp_path / "set", split_seed=seed)
        data = open_data(config)
        splits = {}
        for path, split in zip(data.manifest.paths, data.manifest.splits.tolist(), strict=True):
            splits.setdefault(path.split(".")[0].split("-")[0], []).append(split)
        assert sorted(map(len, splits.values())) == [1] * 54 + [3] * 6
        assert all(len(set(found)) == 1 for found in splits.values())
    assert data.notes[0].startswith(
        "18 images form 6 groups of near-duplicates (perceptual hashes differ in at most 24 of 144 bits"
    )
    assert "each group stays in one split" in data.notes[0]


def test_copies_across_a_given_split_are_leakage_and_named_first(tmp_path, longtail):
    make_folder(tmp_path / "set", ("train", "test"))
    prepared = prepare(FolderData(name="folder", path=tmp_path / "set"))
    assert prepared.notes[0].startswith(
        "LEAKAGE: 12 pairs of near-duplicates (resized or saved again) are divided between train and test, "
        "which concerns 12 images of val or test: "
    )
    assert "stays in one split" not in " ".join(prepared.notes)
    done = longtail("data", "inspect", tmp_path / "set", "--out", tmp_path / "out")
    first = next(line for line in done[1].splitlines() if line.startswith("warning:"))
    assert first.startswith("warning: LEAKAGE: 12 pairs")
    findings = json.loads((tmp_path / "out" / "findings.json").read_text())
    across = [pair for pair in findings["near_duplicates"] if len(set(pair["splits"])) == 2]
    assert len(across) == 12
    for pair in across:
        stems = {path.split("/")[-1][:2] for path in pair["paths"]}
        assert len(stems) == 1
        assert len(set(pair["labels"])) == 1


def test_what_only_features_find_is_kept_together_by_a_table(tmp_path, longtail, monkeypatch):
    """60 images and crops of six of them, which no hash of the whole finds."""
    for label, name in enumerate(("fox", "lynx")):
        place = tmp_path / "set" / name
        place.mkdir(parents=True)
        for number in range(30):
            made = scene(1000 * label + number)
            made.save(place / f"{number:02d}.png")
            if number < 3:
                made.crop((24, 24, 60, 60)).resize((64, 64)).save(place / f"{number:02d}-crop.png")

    def features(_config, *, data, **_):
        rng = np.random.default_rng(0)
        of_scene = {path: rng.normal(size=32) for path in sorted(data.manifest.paths)}
        return SimpleNamespace(
            values=np.array(
                [
                    of_scene[p.replace("-crop", "")] + 0.05 * rng.normal(size=32)
                    for p in data.manifest.paths
                ],
                np.float32,
            )
        )

    monkeypatch.setattr("longtail.cli.data.features", features)
    status, told, errors = longtail("data", "inspect", "set", "--features", "--out", "seen")
    assert status == 0, errors
    line = "longtail train seen/together.csv data.root=set data.keep_together=together"
    assert line in " ".join(told.split())
    table = pd.read_csv(tmp_path / "seen" / "together.csv").dropna()
    assert len(table) >= 12
    of_path = dict(zip(table.path, table.together, strict=True))
    for name in ("fox", "lynx"):
        for number in range(3):
            one, other = f"{name}/{number:02d}.png", f"{name}/{number:02d}-crop.png"
            assert of_path[one] == of_path[other]
    parted = 0
    for seed in range(4):
        for config in (
            FolderData(name="folder", path=tmp_path / "set", split_seed=seed),
            TableData(
                name="table", path=tmp_path / "seen" / "together.csv", root=tmp_path / "set",
                keep_together="together", split_seed=seed,
            ),
        ):  # fmt: skip
            manifest = prepare(config).file_set.manifest
            split = dict(zip(manifest.paths, manifest.splits.tolist(), strict=True))
            apart = sum(split[p] != split[p.replace("-crop", "")] for p in split)
            parted += apart
            assert apart == 0 or config.name == "folder"
    assert parted > 0, "a split that knows hashes only parts some"


def test_near_duplicates_with_two_labels_are_named():
    manifest = Manifest(
        "set", ("fox", "lynx"), np.arange(4), np.array([0, 1, 0, 0]), np.zeros(4),
        ("a.png", "b.png", "c.png", "d.png"),
    )  # fmt: skip
    found = NearDuplicates(np.array([[0, 1], [2, 3]]), np.array([2.0, 4]), 24.0, 0.01, "bits", 4)
    said = describe_near(manifest, found, drawn=True)
    assert said[0] == "1 pair of near-duplicates has different labels: a.png ~ b.png."
    found = replace(found, unit=RELATIVE, threshold=0.39)
    said = describe_near(manifest, found, drawn=False)
    assert said[0] == "1 pair of images that look almost alike has different labels: a.png ~ b.png."
    assert not any("near-duplicates" in sentence for sentence in said)


def test_only_what_is_as_near_as_copies_is_called_leakage():
    """Copies differ in at most 10 bits; cans on one table in 22."""
    manifest = Manifest(
        "set", ("can",), np.arange(4), np.zeros(4, np.int64), np.array([0, 2, 0, 1]),
        ("a.png", "b.png", "c.png", "d.png"),
    )  # fmt: skip
    found = NearDuplicates(np.array([[0, 1], [2, 3]]), np.array([10.0, 22]), 24.0, 0.01, "bits", 4)
    assert describe_near(manifest, found, drawn=False) == (
        "LEAKAGE: 1 pair of near-duplicates (resized or saved again) is divided between train and test, "
        "which concerns 1 image of val or test: a.png ~ b.png.",
        "1 pair of images that look almost alike is divided between train and val, which concerns 1 image of "
        "val or test; check whether they are copies: c.png ~ d.png.",
        "4 images form 2 groups of images that look almost alike (perceptual hashes differ in at most 24 of "
        "144 bits); check whether they are copies: a.png ~ b.png; c.png ~ d.png.",
    )
    said = describe_near(manifest, replace(found, unit=RELATIVE, threshold=0.39), drawn=False)
    assert not any("LEAKAGE" in sentence for sentence in said)


def test_a_contradiction_of_identical_files_is_told_once():
    """Image 0 is there as a bottle and as a can; 2 looks like it and is a can."""
    manifest = Manifest(
        "set", ("bottle", "can"), np.arange(4), np.array([0, 1, 1, 0]), np.zeros(4),
        ("a.png", "b.png", "c.png", "d.png"),
    )  # fmt: skip
    pairs = np.array([[0, 2], [2, 3]])
    found = NearDuplicates(pairs, np.array([22.0, 22]), 24.0, 0.01, "bits", 3, [[0, 1]])
    assert found.across_labels(manifest).tolist() == [1]


def test_identical_files_are_no_pair_of_features():
    features = crowd()
    found = near_by_features(features)
    again = near_by_features(features, [[0, 400], [1, 2]])
    assert [0, 400] in found.pairs.tolist()
    assert again.pairs.tolist() == [pair for pair in found.pairs.tolist() if pair != [0, 400]]


def crowd(seed=0):
    """300 unrelated directions, 100 of one dense class, copies of five, and a series of six."""
    rng = np.random.default_rng(seed)
    one = rng.normal(size=(1, 32))
    dense = 3 * one + 0.3 * rng.normal(size=(100, 32))
    loose = rng.normal(size=(300, 32))
    copies = loose[:5] + 0.08 * rng.normal(size=(5, 32))
    series = loose[10] + 0.1 * rng.normal(size=(5, 32))
    return np.concatenate([loose, dense, copies, series]).astype(np.float32)


def test_features_find_copies_and_series_but_no_dense_class():
    found = near_by_features(crowd())
    groups = sorted(map(sorted, found.groups()), key=len)
    assert groups[-1] == [10, 405, 406, 407, 408, 409]
    assert [group for group in groups if len(group) == 2][:5] == [[i, 400 + i] for i in range(5)]
    assert len(groups) <= 7  # at most one by chance
    assert 0 < found.threshold <= 0.5
    assert (np.diff(found.distances) >= 0).all()


def test_features_of_few_images_are_not_compared():
    assert near_by_features(np.eye(6, dtype=np.float32)).threshold == -1


def test_nearest_is_that_of_scikit_learn():
    values = crowd(1)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    rows, distances = neighbours.nearest(values, 4)
    theirs, index = NearestNeighbors(n_neighbors=5, metric="cosine").fit(values).kneighbors(values)
    assert np.allclose(distances, theirs[:, 1:], atol=1e-5)
    assert (rows == index[:, 1:]).mean() > 0.99  # but for ties


def test_nearest_by_the_index_is_nearly_exact(monkeypatch):
    pytest.importorskip("usearch")
    values = crowd(2)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    exact, _ = neighbours.nearest(values, 4)
    monkeypatch.setattr(neighbours, "EXACT_UP_TO", 100)
    rows, distances = neighbours.nearest(values, 4)
    assert rows.shape == distances.shape == (410, 4)
    assert not (rows == np.arange(410)[:, None]).any()
    assert (rows == exact).mean() > 0.95


def test_the_page_shows_pairs(tmp_path, longtail):
    make_folder(tmp_path / "set", ("train", "test"))
    done = longtail("data", "inspect", tmp_path / "set", "--out", tmp_path / "out")
    assert done[0] == 0
    page = (tmp_path / "out" / "near-duplicates.html").read_text().replace("<wbr>", "")
    # 18 pairs, 12 of them across the splits, and none twice
    assert "Across splits, by perceptual hash" in page
    assert (
        "12 pairs. One image is in another split than the other. If they are copies, this is leakage"
        in page
    )
    assert "6 pairs. The most alike first. If these are no copies" in page
    assert page.count("<figure>") == 18
    assert "at most 10 bits, and so do all of these: nearly all will be copies" in page
    assert page.count("data:image/jpeg;base64,") >= 24
    assert "test/fox/00-small.png" in page


@pytest.mark.parametrize(
    ("sure", "said"),
    [
        (0, "usually differ in at most 10 bits, and none of these does."),
        (1, "usually differ in at most 10 bits, as 1 of these does."),
        (3, "usually differ in at most 10 bits, as 3 of these do."),
        (
            5,
            "usually differ in at most 10 bits, and so do all of these: nearly all will be copies.",
        ),
    ],
)
def test_the_page_says_how_many_pairs_are_as_near_as_copies(sure, said):
    near = SimpleNamespace(by_hash=True, surely_copies=np.arange(5) < sure, pairs=[()] * 5)
    assert _what_it_means(near).endswith(said)


def test_letters_that_no_font_has_are_named_with_what_holds_them(tmp_path, longtail):
    for number, name in enumerate(("fox", "\U00012000")):  # cuneiform
        (tmp_path / "set" / name).mkdir(parents=True)
        for image in range(6):
            scene(100 * number + image).save(tmp_path / "set" / name / f"{image}.png")
    status, out, _ = longtail("data", "inspect", tmp_path / "set", "--out", tmp_path / "out")
    assert status == 0
    assert "note: distribution.png shows boxes for characters that no installed font has" in out
    assert "; counts.csv contains them." in out
    assert "\U00012000" in (tmp_path / "out" / "counts.csv").read_text(encoding="utf-8")


def test_the_page_shows_images_with_two_labels_first(tmp_path, longtail):
    for number, name in enumerate(("fox", "lynx")):
        (tmp_path / "set" / name).mkdir(parents=True)
        for image in range(6):
            scene(100 * number + image).save(tmp_path / "set" / name / f"{image}.png")
    scene(0).save(tmp_path / "set" / "lynx" / "again.png")
    done = longtail("data", "inspect", tmp_path / "set", "--out", tmp_path / "out")
    said = (
        "1 image has different labels in files with identical pixels: fox/0.png = lynx/again.png."
    )
    assert done[1].count("fox/0.png") == 1
    assert f"warning: {said}" in done[1]
    assert "near-duplicates.html shows the images with different labels" in done[1]
    page = (tmp_path / "out" / "near-duplicates.html").read_text().replace("<wbr>", "")
    assert page.count("<figure>") == 1
    assert "The same image with different labels" in page
    assert "fox/0.png</code> labelled fox" in page
    assert "lynx/again.png</code> labelled lynx" in page
