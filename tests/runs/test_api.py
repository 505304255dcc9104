"""What is called from Python does what the verbs of the same name do."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

import longtail
from longtail.core.errors import ConfigError
from longtail.prediction import predict_split, read_predictions

SHORT = ["epochs=2", "validation_per_class=3", "keep_in_train=1", "precision=fp32"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return [
        longtail.train(
            "digits-lt/cross-entropy", [*SHORT, f"seed={seed}"], out=root / f"{seed}", device="cpu"
        )
        for seed in (0, 1)
    ]


def test_predict_loads_the_model_of_a_run(runs, image_folder):
    folder = runs[0].folder.path
    found = longtail.predict(folder, image_folder, longtail.PredictOptions(top=2), device="cpu")
    model = longtail.load(folder, device="cpu")
    expected = model.predict(image_folder, longtail.PredictOptions(top=2))
    assert len(found) == 22
    pd.testing.assert_frame_equal(found, expected)


def test_an_image_that_does_not_exist_is_told_with_the_names_that_are_near(
    runs, image_folder, monkeypatch
):
    monkeypatch.chdir(image_folder.parent)
    (row,) = longtail.predict(runs[0].folder.path, "imgaes", device="cpu").itertuples()
    assert row.error == "imgaes does not exist. Did you mean images/?"
    both = longtail.predict(runs[0].folder.path, ["imgaes", "imges"], device="cpu")
    assert set(both.error) == {"the file does not exist"}


def test_a_run_is_adjusted_into_a_run(runs, tmp_path):
    request = longtail.adjust.tool.Request(strength=0.5)
    done = longtail.adjust_run(runs[0], "tau", tmp_path / "tau", request, force=True, device="cpu")
    adjusted = longtail.Run.open(tmp_path / "tau")
    assert longtail.load(tmp_path / "tau", device="cpu").metadata.corrections == ("tau",)
    after = done.scores["groups"]["all"]["after"]["value"]
    assert adjusted.scores("test")["macro_accuracy"] == pytest.approx(after, abs=1e-6)
    note = json.loads((tmp_path / "tau" / "adjustment.json").read_text())
    assert note["sources"] == [str(runs[0].folder.path)]
    with pytest.raises(ConfigError, match="already exists"):
        longtail.adjust_run(runs[0], "tau", tmp_path / "tau", request, force=True, device="cpu")


def test_two_runs_are_an_ensemble(runs):
    found = longtail.ensemble(runs, device="cpu")
    rows = {row["name"]: row for row in found["mixtures"]}
    for place, run in enumerate(runs, start=1):
        alone = rows[f"sub-model {place}"]["accuracy"]
        assert alone == pytest.approx(run.scores("test")["macro_accuracy"], abs=1e-6)
    assert rows["stacking"]["sees"] == "held-out"


def test_runs_are_compared_on_one_page(runs, tmp_path):
    page = longtail.compare_runs(runs, tmp_path / "page.html", device="cpu")
    text = page.read_text(encoding="utf-8")
    assert all(str(run.folder.path) in text for run in runs)
    # seeds of one recipe are one row, with their mean
    mean = sum(run.scores("test")["macro_accuracy"] for run in runs) / 2
    assert f"{100 * mean:.1f}" in text


def test_scores_are_computed_in_fp32_whatever_the_training_used(tmp_path):
    options = ["epochs=1", "precision=bf16"]
    run = longtail.train("digits-lt/balanced-softmax", options, out=tmp_path / "run", device="cpu")
    model = longtail.load(run.folder.path, device="cpu")
    part = run.open_data().split("test").normalised_by(model.metadata.mean, model.metadata.std)
    anew = predict_split(model.method, part, "test", device=torch.device("cpu"))
    written = read_predictions(run.folder.predictions("test"))
    np.testing.assert_array_equal(written.logits, anew.logits)


def test_whatever_takes_a_run_or_a_folder_takes_its_path_as_text(runs, tmp_path):
    names = [str(run.folder.path) for run in runs]
    assert longtail.evaluate(names[0], "val") == longtail.evaluate(runs[0], "val")
    page = longtail.compare_runs(names, str(tmp_path / "page.html"), device="cpu")
    assert page.read_bytes() == longtail.compare_runs(runs, page, device="cpu").read_bytes()
    assert longtail.write_report(names[0]) == runs[0].folder.path / "report.html"
    both = longtail.ensemble(names, out=str(tmp_path / "both"), combination="average of logits")
    assert both["written"]["folder"] == str(tmp_path / "both")
    done = longtail.adjust_run(names[0], "tau", str(tmp_path / "tau"), force=True)
    assert done is not None
    assert longtail.Run.open(str(tmp_path / "tau")).scores("test")
    with pytest.raises(ConfigError, match="no sub-models"):
        longtail.ensemble(names[0])


def test_a_source_may_be_a_path_and_a_run_folder_a_text(image_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    small = ["epochs=1", "backbone=resnet20", "pretrained=false", "batch_size=4"]
    run = longtail.train(image_folder, small, out="~/run", device="cpu", progress=False)
    assert run.folder.path == tmp_path / "run"
    assert repr(run) == f"Run(folder=RunFolder({str(tmp_path / 'run')!r}))"


@pytest.mark.parametrize("overrides", ["epochs=3", {"epochs": 3}])
def test_overrides_that_are_no_list_are_one_mistake(overrides):
    with pytest.raises(ConfigError, match=r"^1 mistake .*\n  overrides are a list, for example"):
        longtail.train("digits-lt/cross-entropy", overrides)
