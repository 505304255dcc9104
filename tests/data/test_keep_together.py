"""Images that belong together (a burst, an animal, a patient) stay in one split."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longtail import api
from longtail.core.errors import ConfigError, DataError
from longtail.core.manifest import Manifest
from longtail.data import open_data
from longtail.data.sources.table import read_table
from longtail.data.splits.hold_out import hold_out
from longtail.data.splits.keep_together import together_by_column
from longtail.evaluation.bootstrap import drawn_again, paired_intervals
from longtail.report.compare import Comparison, render_comparison
from longtail.report.page import render_run
from longtail.report.view import RunView

LINE = ["epochs=1", "batch_size=8", "backbone=resnet20", "image_size=16"]


def manifest_of(labels, names):
    return Manifest("set", names, np.arange(len(labels)), labels, np.zeros(len(labels)))


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9)), min_size=2, max_size=120),
    st.sampled_from([{"share": 0.2}, {"share": 0.5}, {"per_class": 3}]),
    st.integers(1, 3),
    st.integers(0, 5),
)
def test_no_unit_is_parted_and_train_keeps_its_images(images, size, keep, seed):
    labels, units = np.array(images).T
    labels = np.unique(labels, return_inverse=True)[1]
    names = tuple(f"class {n}" for n in range(labels.max() + 1))
    full = manifest_of(labels, names)
    made, report = hold_out(full, "test", seed=seed, keep_in_train=keep, together=units, **size)
    for unit in np.unique(units):
        assert len(np.unique(made.splits[units == unit])) == 1
    train, test = made.histogram("train"), made.histogram("test")
    assert (train >= np.minimum(full.histogram("train"), keep)).all()
    assert report.not_evaluated == tuple(names[c] for c in np.flatnonzero(test == 0))
    # neither the order of the classes nor the numbers of the units mean anything
    turned = manifest_of(labels.max() - labels, names[::-1])
    again, _ = hold_out(
        turned, "test", seed=seed, keep_in_train=keep, together=units * 7 + 3, **size
    )
    assert np.array_equal(again.splits, made.splits)


@given(st.integers(0, 20))
def test_classes_give_about_what_is_asked_for(seed):
    labels = np.repeat([0, 1], [200, 40])
    units = np.arange(240) // 4  # bursts of four
    made, _ = hold_out(
        manifest_of(labels, ("a", "b")), "test", seed=seed, share=0.2, together=units
    )
    assert made.histogram("test").tolist() == [40, 8]


def test_a_class_gives_its_smallest_unit_rather_than_none():
    # ant: two animals of 6 and 4 images; bee: one of 9 and one of 1; cow: one animal
    labels = np.repeat([0, 1, 2], [10, 10, 5])
    units = np.repeat([0, 1, 2, 3, 4], [6, 4, 9, 1, 5])
    for seed in range(5):
        made, report = hold_out(
            manifest_of(labels, ("ant", "bee", "cow")), "test", seed=seed, share=0.1, together=units
        )
        assert made.histogram("test").tolist() == [4, 1, 0]
        assert report.not_evaluated == ("cow",)
    assert "independent" in report.describe("test")


def test_a_unit_of_several_classes_moves_as_a_whole():
    # each patient has healthy and ill images; the rare class chooses first
    labels = np.tile([0, 0, 0, 1], 10)
    units = np.repeat(np.arange(10), 4)
    made, _ = hold_out(
        manifest_of(labels, ("healthy", "ill")), "test", seed=0, share=0.2, together=units
    )
    assert made.histogram("test").tolist() == [6, 2]


def splits_by(run, name_of):
    table = pd.read_csv(run.folder.split)
    return table.groupby(table["path"].map(name_of))["split"].agg(set)


@pytest.fixture
def bursts(image_folder):
    """The folder of coloured noise, two images a burst: ant/00-a.png, ant/00-b.png, ..."""
    for number, path in enumerate(sorted(image_folder.rglob("*.png"))):
        path.rename(path.with_name(f"burst{number // 2:02d}-{'ab'[number % 2]}.png"))
    return image_folder


def test_a_folder_by_a_pattern(bursts, tmp_path):
    line = [*LINE, "keep_together=(burst[0-9]+)"]
    run = api.train(str(bursts), line, out=tmp_path / "run", device="cpu")
    splits = splits_by(run, lambda path: path.split("/")[1][:7])
    assert len(splits) == 11
    assert splits.map(len).max() == 1
    assert set().union(*splits) == {"train", "val", "test"}
    notes = " ".join(open_data(run.config.data).notes)
    assert "11 units of 22 images; the largest has 2, and 0 have only one" in notes


def test_a_table_by_a_column(bursts, tmp_path):
    paths = sorted(path.relative_to(bursts).as_posix() for path in bursts.rglob("*.png"))
    table = pd.DataFrame({"path": paths, "label": [path.split("/")[0] for path in paths]})
    table["animal"] = [path.split("/")[1][:7] for path in paths]
    table.to_csv(bursts / "t.csv", index=False)
    line = [*LINE, "keep_together=animal", "validation_per_class=2"]
    run = api.train(str(bursts / "t.csv"), line, out=tmp_path / "run", device="cpu")
    animal = dict(zip(table["path"], table["animal"], strict=True))
    splits = splits_by(run, animal.get)
    assert splits.map(len).max() == 1
    assert set().union(*splits) == {"train", "val", "test"}

    # a split that the table brings is refused if it parts an animal, and kept if it does not
    table["split"] = ["train", "test"] * 11
    table.to_csv(bursts / "t.csv", index=False)
    with pytest.raises(DataError, match=r"divides 11 of the units, for example ant/burst00-"):
        api.train(str(bursts / "t.csv"), [*LINE, "keep_together=animal"], out=tmp_path / "no")
    table["split"] = np.where(
        table["animal"].isin(["burst00", "burst06", "burst09"]), "test", "train"
    )
    table.to_csv(bursts / "t.csv", index=False)
    run = api.train(
        str(bursts / "t.csv"), [*LINE, "keep_together=animal"], out=tmp_path / "own", device="cpu"
    )
    assert run.open_data().manifest.histogram("test").tolist() == [2, 2, 2]


@pytest.mark.parametrize(
    ("source", "key", "words"),
    [
        ("", "(", "must be a regular expression"),
        ("", "burst_", "matches nothing in any path, for example 'ant/burst00-a.png'"),
        ("t.csv", "animal", "not a column of .* It has: path, label, empty"),
        ("t.csv", "empty", "every cell of the column empty is empty"),
    ],
)
def test_what_cannot_be_kept_together_is_told_in_words(bursts, tmp_path, source, key, words):
    (bursts / "t.csv").write_text("path,label,empty\n" + "".join(
        f"{path.relative_to(bursts)},{path.parent.name},\n" for path in bursts.rglob("*.png")
    ))  # fmt: skip
    with pytest.raises((ConfigError, DataError), match=words):
        api.train(str(bursts / source), [*LINE, f"keep_together={key}"], out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "column",
    [
        pd.Series(["a", "a", None, " b"]),
        pd.Series([1, 1, None, 2], dtype="Int64"),
        pd.Series([1.0, 1.0, np.nan, 2.0]),
        pd.Series(["a", "a", None, "b"], dtype="category"),
    ],
    ids=["text", "integers", "numbers", "categories"],
)
def test_columns_of_any_type_name_units(column, tmp_path):
    frame = pd.DataFrame(
        {"path": [f"{n}.png" for n in range(4)], "label": ["x", "y"] * 2, "animal": column}
    )
    frame.to_parquet(tmp_path / "t.parquet")
    for path in frame["path"]:
        (tmp_path / path).touch()
    manifest = read_table(tmp_path / "t.parquet").manifest
    found = together_by_column(manifest, tmp_path / "t.parquet", "animal")
    assert [[a == b for a in found] for b in found] == [
        [True, True, False, False],
        [True, True, False, False],
        [False, False, True, False],
        [False, False, False, True],
    ]


GROUPS = {"all": np.ones(2, dtype=bool), "second": np.array([False, True])}


@pytest.mark.slow
@given(
    st.lists(st.tuples(st.integers(0, 1), st.booleans(), st.booleans()), min_size=1, max_size=40),
    st.integers(2, 4),
)
def test_an_image_that_is_repeated_in_its_unit_makes_no_interval_narrower(images, times):
    labels, before, after = (np.array(column) for column in zip(*images, strict=True))
    labels = np.append(labels, [0, 1])  # both classes have images
    before, after = (np.append(right, [True, False]) for right in (before, after))
    once = paired_intervals(labels, before, after, GROUPS)
    repeated = [np.repeat(x, times) for x in (labels, before, after)]
    units = np.repeat(np.arange(len(labels)), times)
    assert paired_intervals(*repeated, GROUPS, together=units) == once
    # what the units are called means nothing, nor does the order of the images
    order = np.random.default_rng(0).permutation(len(units))
    mixed = [x[order] for x in repeated]
    assert paired_intervals(*mixed, GROUPS, together=units[order] + 7) == once


def test_intervals_of_units_of_different_sizes():
    # 300 units of 1 to 9 images in each class, which are right or wrong as a whole
    generator = np.random.default_rng(1)
    sizes = generator.integers(1, 10, 600)
    units = np.repeat(np.arange(600), sizes)
    labels = np.repeat(np.repeat([0, 1], 300), sizes)
    right = np.repeat(generator.random(600) < 0.6, sizes)
    of_units = paired_intervals(labels, right, right, GROUPS, together=units)["all"]["after"]
    alone = paired_intervals(labels, right, right, GROUPS)["all"]["after"]
    shares = [right[labels == c].mean() for c in (0, 1)]
    assert of_units["value"] == alone["value"] == pytest.approx(np.mean(shares))
    # the linearised variance of a ratio of sums over independent units (hits over images)
    variance = 0.0
    for label, share in enumerate(shares):
        own = np.unique(units[labels == label])
        residuals = np.array([(right[units == u] - share).sum() for u in own])
        variance += (residuals**2).sum() / (labels == label).sum() ** 2
    error = np.sqrt(variance) / 2
    low, high = of_units["interval"]
    assert low == pytest.approx(of_units["value"] - 1.96 * error, abs=0.008)
    assert high == pytest.approx(of_units["value"] + 1.96 * error, abs=0.008)
    assert high - low > 2 * (alone["interval"][1] - alone["interval"][0])


def test_a_unit_of_two_classes_is_drawn_in_each():
    labels, units = np.array([0, 0, 1, 1, 1]), np.array([5, 6, 5, 5, 6])
    right = np.array([True, True, True, True, False])
    found = paired_intervals(labels, right, right, GROUPS, together=units)
    assert found["all"]["after"]["value"] == pytest.approx((1 + 2 / 3) / 2)
    # class 1 draws twice from a unit of two hits and one of a miss: 1, 2/3 or 0
    assert found["second"]["after"]["interval"] == [0.0, 1.0]
    assert drawn_again(labels, units).startswith("2 units of images that belong together")
    assert drawn_again(labels, np.array([5, 6, 5, 5, 5])).endswith(
        "(1 class has only one unit, which says little)"
    )
    assert drawn_again(labels, None) == "images resampled within each class"
    assert drawn_again(labels[1:], None).endswith("(1 class has only one image, which says little)")


def test_report_comparison_and_repair_say_what_their_intervals_draw(bursts, tmp_path, longtail):
    line = [*LINE, "keep_together=(burst[0-9]+)", "loss=cross-entropy", "test_share=0.5"]
    run = api.train(str(bursts), line, out=tmp_path / "run", device="cpu")
    view = RunView.open(run.folder.path, device="cpu")
    units = [path.split("/")[1][:7] for path in view.data.split("test").manifest.paths]
    assert len(set(units)) < len(units)
    for one, number in zip(units, view.together, strict=True):
        assert [u == one for u in units] == (view.together == number).tolist()
    words = f"{len(set(units))} units of images that belong together"
    assert words in render_run(view)
    other = api.train(str(bursts), [*line, "seed=1"], out=tmp_path / "other", device="cpu")
    comparison = Comparison.of([view, RunView.open(other.folder.path, device="cpu")])
    assert words in render_comparison(comparison)
    everything = {"all": np.ones(1, dtype=bool)}
    one_class = np.zeros_like(view.predictions.labels)
    of_all = paired_intervals(
        one_class, view.right, view.right, everything, together=view.together
    )["all"]["after"]
    assert of_all["value"] == pytest.approx(view.scores["accuracy"])
    assert of_all["interval"] == view.scores["accuracy_interval"]
    status, out, _ = longtail("adjust", "run", "--by", "logit-adjust", "--strength", "1", "--force")
    assert status == 0
    assert words in " ".join(out.split())
    note = json.loads((tmp_path / "run-logit-adjust" / "adjustment.json").read_text())
    assert note["scores"]["intervals"].startswith(words)
