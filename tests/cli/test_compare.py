"""`longtail compare`: several methods on one's own images."""

import json

import pytest

from longtail.data import open_data
from longtail.recipes import resolve

SMALL = ("backbone=resnet20", "batch_size=8", "epochs=11", "--seeds", 1)
METHODS = ("--methods", "CE,crt,tau", "--out", "out")


@pytest.fixture
def compared(longtail, image_folder):
    """Call a small comparison, with more words."""
    return lambda *more: longtail("compare", image_folder, *SMALL, *METHODS, *more)


@pytest.mark.slow
def test_methods_are_trained_compared_and_recommended(compared, longtail, tmp_path, monkeypatch):
    status, out, err = compared()
    assert status == 0, err
    # a second stage of 10 epochs leaves one of 11 for the first
    assert "cross-entropy 11, crt 1, tau-normalisation 1; 1 seed each" in out
    assert "Recommended: " in out
    assert "On test, which chose nothing, " in out
    assert "multiply-adds" in out
    folder = tmp_path / "out"
    assert "first stage taken from out/crt/seed-0" in err
    page = (folder / "comparison.html").read_text()
    assert "3 runs on images, test split" in page
    assert page.index('id="advice"') < page.index('id="verdict"')
    for name in ("cross-entropy", "crt", "tau-normalisation"):
        config = json.loads((folder / name / "seed-0" / "scores-val.json").read_text())
        assert config["recipe"] == f"images/{name}"
    # a repeated command trains nothing
    monkeypatch.setattr("longtail.runs.training.train", None)
    again = compared()
    assert again[0] == 0
    assert [
        line for line in again[1].splitlines() if line.startswith(("Recommended", "On test"))
    ] == [line for line in out.splitlines() if line.startswith(("Recommended", "On test"))]
    # runs are compared by report
    status, _, err = longtail("compare", "out/crt/seed-0")
    assert status == 2
    assert "longtail report out/crt/seed-0 OTHER-RUN" in err
    status, _, err = longtail("compare", tmp_path / "images", *SMALL, "--out", "out")
    assert status == 2
    assert "other values of methods" in err


def test_another_question_gets_another_folder(longtail, image_folder, tmp_path, monkeypatch):
    begun = []
    monkeypatch.setattr(
        "longtail.run_queue.comparison.train_queue",
        lambda jobs, *more, **kept: begun.append(jobs) or (),
    )
    for methods in ("ce,crt", "ce,lws", "CE, crt"):
        status, _, err = longtail("compare", image_folder, *SMALL, "--methods", methods)
        assert status == 0, err
    folders = [next(iter(jobs)).parts[1] for jobs in begun]
    assert folders == ["compare-images", "compare-images-2", "compare-images"]


def test_files_that_cannot_be_read_are_not_told_again_by_the_runs(
    compared, image_folder, monkeypatch
):
    (image_folder / "ant" / "broken.jpg").write_text("no image")
    said = []
    monkeypatch.setattr(
        "longtail.run_queue.comparison.train_queue",
        lambda *given, **kept: said.extend(kept["said"]) or (),
    )
    skip = "data.on_bad_image=skip"
    status, out, err = compared(skip)
    assert status == 0, err
    (told,) = [
        note
        for note in open_data(resolve(str(image_folder), [skip]).data).notes
        if "broken.jpg" in note
    ]
    assert (out + err).count(told) == 1
    assert f"note: {told}" in said  # a run would say this


def test_what_a_budget_does_not_hold_is_left_and_continued(compared, tmp_path, monkeypatch):
    monkeypatch.setattr("longtail.runs.comparing.seconds_per_epoch", lambda *given: 0.0)
    monkeypatch.setattr(
        "longtail.run_queue.budget.Budget.admits", lambda self, place, *more: self.left.add(place)
    )
    status, out, err = compared("--budget", "10m")
    assert status == 0, err
    assert "Repeat the same command to continue" in out
    assert not (tmp_path / "out" / "comparison.html").exists()


def test_wrong_words_leave_nothing_behind(longtail, image_folder, tmp_path):
    for words, said in (
        (["--methods", "crt,balanced-sofmax"], "Did you mean balanced-softmax"),
        (["--equal", "epochs"], "--equal must be images or time"),
        (["--equal", "time"], "--equal time divides a time"),
        (["--budget", "2"], "--budget needs a time with a unit"),
        (["--base", "vit"], "--base must be one of"),
        (["--epochs", "3"], "epochs=3"),
        (["loss=ldam"], "write them into a recipe file"),
    ):
        status, _, err = longtail("compare", image_folder, *words, "--out", "out")
        assert status == 2, words
        assert said in " ".join(err.split()), (words, err)
        assert not (tmp_path / "out").exists(), words
    assert longtail("compare", "imagex")[0] == 2
