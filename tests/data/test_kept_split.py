"""The split of a run on a folder or table: one for all seeds, and for ever."""

import json

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from longtail import api
from longtail.cli import main
from longtail.core.errors import CheckpointError, ConfigError, DataError, ProtocolError
from longtail.core.manifest import SPLITS, Manifest
from longtail.data.sources.file_set import FileSet
from longtail.data.sources.folder import read_folder
from longtail.data.splits.hold_out import hold_out
from longtail.data.splits.split_file import read_split, split_table, with_split
from longtail.engine.log import SilentLog
from longtail.ensembles.several_runs import ensemble
from longtail.prediction import read_predictions
from longtail.report.compare import Comparison
from longtail.report.view import RunView

LINE = ["epochs=1", "batch_size=16", "backbone=resnet20", "precision=fp32"]


def add(root, name, numbers):
    for number in numbers:
        path = root / name / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng([*name.encode(), number]).integers(0, 255, (16, 16, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "images"
    for name, size in (("ant", 40), ("bird", 20), ("cow", 6)):
        add(root, name, range(0, 2 * size, 2))
    return root


def of_split(run, split):
    table = read_split(run.folder.split)
    return set(table["path"][table["split"] == split])


def test_seeds_share_a_split_and_can_be_compared_and_joined(folder, tmp_path):
    runs = [
        api.train(str(folder), [*LINE, f"seed={seed}"], out=tmp_path / f"{seed}", device="cpu")
        for seed in (0, 1)
    ]
    ids = [read_predictions(run.folder.predictions("test")).ids for run in runs]
    np.testing.assert_array_equal(*ids)
    assert of_split(runs[0], "test") == of_split(runs[1], "test")
    views = [RunView.open(run.folder.path, device="cpu") for run in runs]
    assert len(Comparison.of(views).arms) == 1
    assert ensemble(runs, device="cpu")["seeds"] == [0, 1]


def test_runs_on_another_split_make_no_ensemble_and_give_no_first_stage(folder, tmp_path):
    one = api.train(str(folder), LINE, out=tmp_path / "one", device="cpu")
    other = api.train(
        str(folder), [*LINE, "split_seed=1"], out=tmp_path / "other", device="cpu"
    )  # fmt: skip
    assert of_split(one, "test") & of_split(other, "train")  # this is what must not be scored
    with pytest.raises(ConfigError, match="scored on images that they were trained on"):
        ensemble([one, other], device="cpu")
    again = [*LINE, "method=decoupling", "classifier=ncm"]
    first = api.train(str(folder), again, out=tmp_path / "first", device="cpu")
    start = f"from={first.folder.path}"
    api.train(str(folder), [*again, start], out=tmp_path / "fine", device="cpu")
    with pytest.raises(ConfigError, match="trained on other images"):
        api.train(str(folder), [*again, start, "split_seed=1"], out=tmp_path / "x", device="cpu")


def test_a_collection_that_grows_does_not_move_images_between_splits(folder, tmp_path):
    run = api.train(str(folder), LINE, out=tmp_path / "run", device="cpu")
    train, test = of_split(run, "train"), of_split(run, "test")
    before = run.open_data().manifest
    lost = sorted(test)[0]
    (folder / lost).unlink()
    for name in ("ant", "bird", "dog"):  # between those that are there, and a class that is new
        add(folder, name, range(1, 30, 2))
    drawn, _ = hold_out(read_folder(folder).manifest, "test", seed=0, share=0.2)
    now = {drawn.paths[row] for row in drawn.rows("test")}
    assert now & train, "drawn anew, test would hold images that were trained on"
    # the page shows images only while all that was scored is there
    assert RunView.open(run.folder.path, device="cpu").data is None
    scores = api.evaluate(run, "test", device="cpu")
    assert scores["num_images"] == len(test) - 1
    notes = " ".join(scores["notes"])
    assert "does not know (added later, or damaged at the time) were left out: 45, for" in notes
    assert f"Images of the run are missing: 1, for example {lost}." in notes
    data = run.open_data()
    assert data.manifest.classes == before.classes
    files = dict(zip(data.manifest.ids.tolist(), data.manifest.paths, strict=True))
    scored = read_predictions(run.folder.predictions("test")).ids.tolist()
    assert {files[number] for number in scored} == test - {lost}
    inspection = RunView.open(run.folder.path, device="cpu").inspection
    assert inspection.sizes["test"] == len(test) - 1
    # what is not lost has its number, label and split
    kept = {p: (i, n, s) for i, p, n, s in zip(
        before.ids.tolist(), before.paths, before.labels.tolist(), before.splits.tolist(), strict=True
    )}  # fmt: skip
    for row, path in enumerate(data.manifest.paths):
        m = data.manifest
        assert kept[path] == (m.ids[row], m.labels[row], m.splits[row])


class Interrupting(SilentLog):
    def epoch(self, line):
        if line["epoch"] == 2:  # the first one is on disk
            raise KeyboardInterrupt


def test_a_run_continues_on_its_images_or_not_at_all(folder, tmp_path):
    line = [*LINE, "epochs=3"]
    whole = api.train(str(folder), line, out=tmp_path / "whole", device="cpu")
    for name in ("cut", "lost"):
        with pytest.raises(KeyboardInterrupt):
            api.train(str(folder), line, out=tmp_path / name, device="cpu", log=Interrupting())
    add(folder, "ant", range(1, 30, 2))
    run = api.train(str(folder), line, out=tmp_path / "cut", resume=True, device="cpu")
    hashes = [r.scores("test")["checkpoint_sha256"] for r in (whole, run)]
    assert hashes[0] == hashes[1]  # as if nothing had been added
    (folder / sorted(of_split(run, "train"))[0]).unlink()
    with pytest.raises(CheckpointError, match="images of train have changed"):
        api.train(str(folder), line, out=tmp_path / "lost", resume=True, device="cpu")


def file_set(paths, labels, classes=("a", "b", "c")):
    splits = np.zeros(len(paths), dtype=np.int8)
    manifest = Manifest("t", classes, np.arange(len(paths)), np.array(labels), splits, tuple(paths))
    return FileSet(manifest, root="somewhere")


def test_a_renamed_class_is_named_old_and_new(folder, tmp_path, longtail):
    api.train(str(folder), LINE, out=tmp_path / "run", device="cpu")
    (folder / "cow").rename(folder / "cows")
    status, _, err = longtail("evaluate", tmp_path / "run")
    assert status == 2
    assert "none of the images that the run had of cow; new there: cows. Was cow renamed to" in err
    assert "renamed to cows? If folders were renamed or moved, restore their old names." in err
    # the same images, labelled with the new name in another folder
    add(tmp_path / "other", "cows", range(1, 9, 2))
    add(tmp_path / "other", "ant", range(1, 9, 2))
    status, out, err = longtail("evaluate", tmp_path / "run", "--data", tmp_path / "other")
    assert status == 0, err
    assert "left out: cows (4; is it cow?)." in out
    (tmp_path / "other" / "ant").rename(tmp_path / "ant")
    status, _, err = longtail("evaluate", tmp_path / "run", "--data", tmp_path / "other")
    assert status == 2
    assert (
        "(class unknown to the model: 4 images). Was cow renamed to cows? The model knows:" in err
    )


@given(
    st.lists(st.tuples(st.integers(0, 2), st.booleans(), st.booleans()), min_size=12, max_size=40)
)
def test_every_image_keeps_its_split_whatever_comes_and_goes(drawn):
    """Each image: its class, whether the run knows it, whether it is still there."""
    names = [f"{label}/{place:02d}" for place, (label, _, _) in enumerate(drawn)]
    known = [place for place, (_, known, _) in enumerate(drawn) if known]
    then = file_set([names[p] for p in known], [drawn[p][0] for p in known])
    try:
        split, _ = hold_out(then.manifest, "test", seed=3, share=0.3)
        split.class_counts()
    except DataError:
        return  # a class without images
    table = split_table(split)
    there = [place for place, (_, _, there) in enumerate(drawn) if there]
    now = file_set([names[p] for p in there], [drawn[p][0] for p in there])
    both = [names[p] for p in there if drawn[p][1]]
    if {name[0] for name in both} != {"0", "1", "2"}:
        with pytest.raises(DataError, match="none of the images that the run had of "):
            with_split(now, table)
        return
    found = with_split(now, table)
    assert list(found.manifest.paths) == both
    assert found.manifest.classes == split.classes
    was = {path: row for row, path in enumerate(split.paths)}
    for row, path in enumerate(found.manifest.paths):
        for part in ("ids", "labels", "splits"):
            assert getattr(found.manifest, part)[row] == getattr(split, part)[was[path]]
    assert len(found.notes) == (len(both) < len(there)) + (len(both) < len(known))


def test_a_table_may_relabel_or_repeat_an_image():
    then = file_set(["x", "y", "x", "z", "w"], [1, 1, 0, 2, 0])  # x as b, then as a
    split = then.manifest.with_splits(np.array([0, 0, 2, 0, 2]))
    table = split_table(split)
    assert table["label"].tolist() == ["a", "a", "b", "b", "c"]
    assert table["id"].tolist() == [2, 4, 0, 1, 3]
    assert with_split(then, table).manifest.checksum() == split.checksum()
    # y has been given to c, and an image that is new has come first
    found = with_split(file_set(["n", "x", "y", "x", "z", "w"], [0, 1, 2, 0, 2, 0]), table)
    assert found.manifest.paths == ("x", "y", "x", "z", "w")
    # rows of one path are told apart by their order
    assert [SPLITS[s] for s in found.manifest.splits] == ["train", "train", "test", "train", "test"]
    assert found.manifest.labels.tolist() == [1, 2, 0, 2, 0]
    assert found.notes == ("Images that the run does not know (added later, or damaged at the time) were "
                           "left out: 1, for example n.",)  # fmt: skip
    with pytest.raises(DataError, match=r"classes that the model does not know: d\. Use"):
        with_split(file_set(["x", "y", "x", "z"], [0, 3, 1, 2], ("a", "b", "c", "d")), table)


def test_a_repaired_run_keeps_the_split_too(folder, tmp_path, monkeypatch, capsys):
    run = api.train(str(folder), LINE, out=tmp_path / "run", device="cpu")
    add(folder, "ant", range(1, 30, 2))
    line = [
        "adjust",
        tmp_path / "run",
        "--by",
        "logit-adjust",
        "--out",
        tmp_path / "adjusted",
        "--force",
    ]
    monkeypatch.setattr("sys.argv", ["longtail", *map(str, line)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    capsys.readouterr()
    adjusted = api.Run.open(tmp_path / "adjusted")
    assert adjusted.folder.split.read_bytes() == run.folder.split.read_bytes()
    before, after = run.scores("test"), api.evaluate(adjusted, "test", device="cpu")
    assert after["num_images"] == before["num_images"]


def test_runs_of_before_keep_the_split_that_their_seed_drew(folder, tmp_path):
    run = api.train(str(folder), [*LINE, "seed=5"], out=tmp_path / "run", device="cpu")
    stored = yaml.safe_load(run.folder.config.read_text())
    assert stored["data"].pop("split_seed") == 0
    run.folder.run.unlink()
    run.folder.config.write_text(json.dumps(stored))
    assert api.Run.open(run.folder.path).config.data.split_seed == 5
    stored["data"] = {"name": "cifar100"}
    run.folder.config.write_text(json.dumps(stored))
    assert api.Run.open(run.folder.path).config.data.split_seed == 0  # nothing is drawn


def test_a_split_that_is_the_users_may_grow(folder, tmp_path):
    rows = [(path, label, "test" if number < 3 else "train")
            for label in ("ant", "bird", "cow")
            for number, path in enumerate(sorted(str(p) for p in (folder / label).iterdir()))]  # fmt: skip
    pd.DataFrame(rows, columns=["path", "label", "split"]).to_csv(tmp_path / "t.csv", index=False)
    run = api.train(str(tmp_path / "t.csv"), LINE, out=tmp_path / "run", device="cpu")
    data = run.open_data()
    assert not data.drawn_split
    assert not run.identity.drawn_split
    # images that nobody has trained on may come to test
    add(folder, "ant", [901])
    rows.append((str(folder / "ant" / "901.png"), "ant", "test"))
    pd.DataFrame(rows, columns=["path", "label", "split"]).to_csv(tmp_path / "t.csv", index=False)
    assert api.evaluate(run, "test", device="cpu")["num_images"] == 10
    # others may not
    rows[5] = (*rows[5][:2], "test")
    pd.DataFrame(rows, columns=["path", "label", "split"]).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(
        ProtocolError, match=r"trained on 1 of the 11 images of test, for example .*/010.png"
    ):
        api.evaluate(run, "test", device="cpu")


def test_a_damaged_file_is_told_in_words(folder, tmp_path):
    run = api.train(str(folder), LINE, out=tmp_path / "run", device="cpu")
    # the file is a table of images that can be trained on
    data = [f"data.root={folder}", *LINE]
    again = api.train(str(run.folder.split), data, out=tmp_path / "again", device="cpu")
    assert again.scores("test")["num_images"] == run.scores("test")["num_images"]
    for text in ("", "a,b\n1,2\n", "id,path,label,split\n0,x,a,elsewhere\n"):
        run.folder.split.write_text(text)
        with pytest.raises(DataError, match="split"):
            run.open_data()


def test_the_report_still_names_what_was_damaged(folder, tmp_path):
    (folder / "ant" / "broken.png").write_bytes(b"no image")
    line = [*LINE, "on_bad_image=skip"]
    run = api.train(str(folder), line, out=tmp_path / "run", device="cpu")
    assert "ant/broken.png" not in of_split(run, "train") | of_split(run, "test")
    inspection = RunView.open(run.folder.path, device="cpu").inspection
    assert [path for path, _ in inspection.damaged] == ["ant/broken.png"]
