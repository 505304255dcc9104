"""`longtail adjust`: runs, foreign checkpoints and tables, corrected without training them again."""

import io
import json
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import timm
import torch
import torchvision
from PIL import Image
from sklearn.metrics import balanced_accuracy_score

import longtail as longtail_package
from longtail import api
from longtail.adjust import Retraining, logit_adjust, tau_normalize
from longtail.adjust.tool import (
    CORRECTIONS,
    Classifier,
    Evidence,
    Outputs,
    Request,
    adjust,
    read_checkpoint,
    read_tables,
)
from longtail.adjust.tool.adjustment import tau_oracle
from longtail.adjust.tool.delivery import require_same_format, require_writable_into
from longtail.cli import main
from longtail.cli.prior import read_prior
from longtail.core import ClassCounts
from longtail.core.errors import ConfigError, DataError, ProtocolError
from longtail.data.source_to_batch import open_data
from longtail.evaluation.bootstrap import paired_intervals
from longtail.prediction import read_predictions
from longtail.recipes import resolve

NAMES = ("cat", "lynx", "wolverine")
COUNTS = ClassCounts([60, 12, 4], NAMES)


def call(monkeypatch, *line):
    monkeypatch.setattr(sys, "argv", ["longtail", "adjust", *map(str, line), "--force"])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code or 0


def outputs(sizes, seed, width=8, shift=0.0):
    """Features of a task whose classes lie in the directions of the first axes."""
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(3), sizes)
    features = generator.normal(size=(len(labels), width)) + 2.5 * np.eye(3, width)[labels] + shift
    return features.astype(np.float32), labels


def splits():
    sizes = {"train": COUNTS.values, "val": (15, 15, 15), "test": (40, 40, 40)}
    return {split: outputs(size, seed) for seed, (split, size) in enumerate(sizes.items())}


def biased_classifier():
    """A last layer that prefers frequent classes by the length of its rows and by its bias."""
    weight = np.eye(3, 8, dtype=np.float32) * np.array([[3.0], [1.5], [0.8]], dtype=np.float32)
    return weight, np.array([1.0, 0.0, -1.0], dtype=np.float32)


def evidence(*names, with_classifier=True, corrections=()):
    chosen = {
        split: Outputs(torch.from_numpy(labels), None, torch.from_numpy(features))
        for split, (features, labels) in splits().items()
        if split in (names or ("train", "val", "test"))
    }
    classifier = Classifier(*map(torch.from_numpy, biased_classifier()))
    return Evidence(COUNTS, chosen, classifier if with_classifier else None, corrections)


# --- what is computed -------------------------------------------------------------------------


def test_tau_is_the_best_of_the_grid_on_val():
    done = adjust(evidence(), "tau")
    features, labels = splits()["val"]
    weight = torch.from_numpy(biased_classifier()[0])
    slow = [
        balanced_accuracy_score(
            labels, (torch.from_numpy(features) @ tau_normalize(weight, step / 10).T).argmax(1)
        )
        for step in range(21)
    ]
    facts = done.corrected.facts
    assert [row["macro_accuracy"] for row in facts["curve"]] == pytest.approx(slow, abs=1e-6)
    assert facts["strength"] == pytest.approx(int(np.argmax(slow)) / 10)
    assert (done.measured_on, facts["chosen_on"]) == ("test", "val")
    few = done.scores["groups"]["few"]
    assert few["difference"]["interval"][0] > 0


def test_logit_adjustment_is_the_published_formula():
    done = adjust(evidence(), "logit-adjust", Request(strength=0.7))
    before = evidence().logits("test")
    torch.testing.assert_close(
        done.corrected.logits(evidence(), "test"), logit_adjust(before, COUNTS, 0.7)
    )


@pytest.mark.parametrize("name", ["tau", "logit-adjust", "lws", "crt", "temperature", "prior"])
def test_the_folded_layer_gives_the_corrected_logits(name):
    known = evidence()
    request = Request(prior=torch.tensor([0.2, 0.3, 0.5])) if name == "prior" else Request()
    corrected = adjust(known, name, request).corrected
    folded = corrected.folded(known.classifier)
    torch.testing.assert_close(
        folded(known.features("test")), corrected.logits(known, "test"), atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("name", ["tau", "logit-adjust", "ncm", "lws", "crt"])
def test_rare_classes_gain(name):
    few = adjust(evidence(), name).scores["groups"]["few"]
    assert few["after"]["value"] > few["before"]["value"]


def test_a_temperature_changes_no_prediction_but_the_confidence():
    known = evidence()
    done = adjust(known, "temperature")
    after, before = done.corrected.logits(known, "test"), known.logits("test")
    assert torch.equal(after.argmax(1), before.argmax(1))
    # by construction, not by what was drawn
    assert done.scores["groups"]["all"]["difference"] == {"value": 0.0, "interval": [0.0, 0.0]}
    error = done.scores["calibration_error"]
    assert error["after"] != error["before"]
    balanced = adjust(known, "balanced-temperature").corrected.facts["strength"]
    # val has every class equally often, so both weightings are the same
    assert balanced == pytest.approx(done.corrected.facts["strength"], rel=1e-3)


@pytest.mark.parametrize("name", ["temperature", "balanced-temperature"])
def test_a_val_without_mistakes_shows_no_temperature(name):
    known = evidence()
    val = known.outputs("val")
    right = known.logits("val").argmax(1) == val.labels
    assert 0 < right.sum() < len(right)
    easy = replace(val, labels=val.labels[right], features=val.features[right])
    known = replace(known, splits={**known.splits, "val": easy})
    done = adjust(known, name)
    # the likelihood rises for ever as the temperature falls
    assert done.corrected.facts["strength"] < 0.2
    assert "no prediction on val is wrong" in done.harm
    assert adjust(known, name, Request(strength=0.9)).harm is None


def test_a_known_prior_and_an_estimated_one():
    given = adjust(evidence(), "prior", Request(prior=torch.full((3,), 1 / 3)))
    expected = logit_adjust(evidence().logits("test"), COUNTS) - np.log(3)
    torch.testing.assert_close(given.corrected.logits(evidence(), "test"), expected)
    assert not given.corrected.transductive
    estimated = adjust(evidence(), "prior")
    assert estimated.corrected.transductive
    assert any("Transductive" in text for text in estimated.warnings)
    # a model that training has balanced assumes every class alike
    balanced = evidence().told(("balanced-softmax",))
    alike = adjust(balanced, "prior", Request(prior=torch.full((3,), 1 / 3)))
    torch.testing.assert_close(
        alike.corrected.logits(balanced, "test"), balanced.logits("test"), atol=1e-5, rtol=1e-5
    )


def test_correcting_twice_is_warned_of():
    twice = adjust(evidence(corrections=("balanced-softmax",)), "tau")
    assert "already corrected for the imbalance (balanced-softmax)" in twice.warnings[0]
    assert adjust(evidence(), "tau").warnings == ()
    assert adjust(evidence(corrections=("ldam",)), "temperature").warnings == ()


@pytest.mark.parametrize(
    ("name", "strength"),
    [("temperature", 0.0), ("balanced-temperature", -1.0), ("tau", np.nan), ("tau", np.inf)],
)
def test_impossible_strengths_are_refused(name, strength):
    with pytest.raises(ConfigError, match="--strength"):
        adjust(evidence(), name, Request(strength))
    # nothing to correct: the strength found is 0
    fair = evidence()
    fair = Evidence(COUNTS, fair.splits, Classifier(torch.eye(3, 8) * 2, torch.zeros(3)))
    assert any("best strength on val is 0" in text for text in adjust(fair, "tau").warnings)


def test_the_oracle_says_that_it_is_one():
    found = tau_oracle(evidence())
    assert found["what"].startswith("ORACLE")
    assert found["macro_accuracy"] == max(row["macro_accuracy"] for row in found["curve"])


def test_strengths_are_never_chosen_on_test():
    for name in ("tau", "logit-adjust", "temperature"):
        with pytest.raises(ProtocolError, match="chosen on a validation split, and there is none"):
            adjust(evidence("train", "test"), name)
    done = adjust(evidence("test"), "tau", Request(strength=1.0))
    assert done.corrected.facts["chosen_on"] == "given"
    flattering = adjust(evidence("train", "val"), "tau")
    assert (flattering.measured_on, "look better than they are" in flattering.warnings[0]) == (
        "val",
        True,
    )


def test_features_without_a_classifier():
    without = evidence(with_classifier=False)
    with pytest.raises(DataError, match="choose ncm or crt"):
        adjust(without, "tau")
    done = adjust(without, "ncm")
    assert done.scores["groups"]["all"]["before"]["value"] is None
    assert done.scores["groups"]["all"]["after"]["value"] > 0.6


def test_classes_in_another_order_are_noticed():
    known = evidence()
    weight, bias = known.classifier.weight[[1, 2, 0]], known.classifier.bias[[1, 2, 0]]
    mixed = Evidence(COUNTS, known.splits, Classifier(weight, bias))
    warnings = adjust(mixed, "logit-adjust", Request(strength=0.0)).warnings
    assert any("a different order" in text and "lynx as cat" in text for text in warnings)


def test_intervals_of_a_paired_difference():
    labels = np.repeat(np.arange(2), 200)
    generator = np.random.default_rng(0)
    before = generator.random(400) < 0.5
    after = before | (generator.random(400) < 0.2)
    groups = {"all": np.array([True, True]), "none": np.array([False, False])}
    found = paired_intervals(labels, before, after, groups)
    difference = found["all"]["difference"]
    assert difference["value"] == pytest.approx(after.mean() - before.mean())
    # normal approximation of a mean of -1, 0, 1 outcomes, stratified by class
    gain = after.astype(float) - before
    error = np.sqrt(sum(gain[labels == c].var() / 200 for c in (0, 1))) / 2
    low, high = difference["interval"]
    assert low == pytest.approx(difference["value"] - 1.96 * error, abs=0.01)
    assert high == pytest.approx(difference["value"] + 1.96 * error, abs=0.01)
    # the images are the same, so the difference is known better than either accuracy
    wide = found["all"]["before"]["interval"]
    assert high - low < wide[1] - wide[0]
    assert found["none"]["before"] == {"value": None, "interval": None}


# --- tables -----------------------------------------------------------------------------------


def table(kind="logits"):
    weight, bias = biased_classifier()
    rows = []
    for split, (features, labels) in splits().items():
        values = features if kind == "features" else features @ weight.T + bias
        names = (
            [f"feature_{i}" for i in range(8)]
            if kind == "features"
            else [f"logit_{n}" for n in NAMES]
        )
        frame = pd.DataFrame(values, columns=names)
        frame.insert(0, "label", [NAMES[label] for label in labels])
        frame.insert(1, "split", split)
        frame["camera"] = range(len(frame))
        rows.append(frame)
    return pd.concat(rows, ignore_index=True)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_table_of_logits_comes_back_as_it_came(suffix, tmp_path, monkeypatch, capsys):
    source, target = tmp_path / f"model.{suffix}", tmp_path / f"fixed.{suffix}"
    frame = table()
    frame.to_csv(source, index=False) if suffix == "csv" else frame.to_parquet(source)
    assert call(monkeypatch, source, "--by", "logit-adjust", "--out", target) == 0
    shown = capsys.readouterr().out
    assert "strength" in shown
    assert "few (" in shown
    described = json.loads((tmp_path / "fixed-adjustment.json").read_text())
    tau = described["strength"]
    again = read_tables([target])
    old, new = read_tables([source]).evidence, again.evidence
    assert new.class_counts == COUNTS
    for split in ("train", "val", "test"):
        expected = logit_adjust(old.logits(split), COUNTS, tau)
        torch.testing.assert_close(new.logits(split), expected, atol=1e-4, rtol=1e-4)
        assert torch.equal(new.outputs(split).labels, old.outputs(split).labels)
    back = pd.read_csv(target) if suffix == "csv" else pd.read_parquet(target)
    assert back["camera"].tolist() == frame["camera"].tolist()
    # never overwritten
    assert call(monkeypatch, source, "--by", "logit-adjust", "--out", target) == 2


@pytest.mark.parametrize("kind", ["csv", "parquet", "npz", "two files"])
def test_tables_may_name_what_belongs_together(kind, tmp_path, longtail):
    frame = table()
    # bursts of three, which are cut off where a split ends; the last image stands alone
    rank = frame.groupby("split").cumcount() // 3
    frame["together"] = frame["split"] + rank.astype(str)
    frame.loc[frame.index[-1], "together"] = ""
    logits = frame[[f"logit_{name}" for name in NAMES]].to_numpy()
    if kind == "npz":
        text = {name: frame[name].to_numpy(str) for name in ("split", "together")}
        labels = frame["label"].to_numpy(str)
        np.savez(tmp_path / "m.npz", logits=logits, labels=labels, classes=np.array(NAMES), **text)
        sources = [tmp_path / "m.npz"]
    elif kind == "two files":
        sources = [tmp_path / "train.csv", tmp_path / "rest.csv"]
        inside = frame["split"] == "train"
        frame[inside].to_csv(sources[0], index=False)
        frame[~inside].to_csv(sources[1], index=False)
    else:
        sources = [tmp_path / f"m.{kind}"]
        frame.to_csv(sources[0], index=False) if kind == "csv" else frame.to_parquet(sources[0])
    outputs = read_tables(sources).evidence.outputs("test")
    test = frame[frame["split"] == "test"]
    names = [name or f"alone {row}" for row, name in enumerate(test["together"])]
    for name, number in zip(names, outputs.together, strict=True):
        assert [n == name for n in names] == (outputs.together == number).tolist()
    status, said, _ = longtail(
        "adjust", *sources, "--by", "logit-adjust", "--strength", "1", "--out", "o", "--force"
    )
    assert status == 0
    assert f"{len(set(names))} units of images that belong together" in " ".join(said.split())


def test_tables_that_part_what_belongs_together(tmp_path, longtail):
    frame = table()
    frame["together"] = [f"animal {row % 50}" for row in range(len(frame))]
    frame.to_csv(tmp_path / "m.csv", index=False)
    status, _, said = longtail("adjust", "m.csv", "--by", "tau")
    assert status == 2
    assert "`together` has animal 0 in several splits" in " ".join(said.split())
    inside = frame["split"] == "train"
    frame[inside].to_csv(tmp_path / "train.csv", index=False)
    frame[~inside].drop(columns="together").to_csv(tmp_path / "rest.csv", index=False)
    status, _, said = longtail("adjust", "train.csv", "rest.csv", "--by", "tau")
    assert status == 2
    assert "rest.csv lacks `together`" in " ".join(said.split())


def arrays_of(path):
    with np.load(path) as file:
        return dict(file)


def archive(path, **changes):
    weight, bias = biased_classifier()
    parts = splits()
    arrays = {
        "features": np.concatenate([f for f, _ in parts.values()]),
        "labels": np.concatenate([y for _, y in parts.values()]),
        "split": np.concatenate([[s] * len(y) for s, (_, y) in parts.items()]),
        "classes": np.array(NAMES), "weight": weight, "bias": bias,
    } | changes  # fmt: skip
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})
    return path


@pytest.mark.parametrize("by", ["tau", "crt", "lws", "logit-adjust"])
def test_an_archive_of_features_gets_a_new_classifier(by, tmp_path, monkeypatch):
    source, target = archive(tmp_path / "model.npz"), tmp_path / "out.npz"
    assert call(monkeypatch, source, "--by", by, "--out", target) == 0
    before, after = arrays_of(source), arrays_of(target)
    assert np.array_equal(before["features"], after["features"])
    assert not np.array_equal(before["weight"], after["weight"]) or by == "logit-adjust"
    known = read_tables([source]).evidence
    strength = json.loads((tmp_path / "out-adjustment.json").read_text()).get("strength")
    how = Retraining(epochs=5 if by == "lws" else 10)
    request = Request(strength=strength, retraining=how)
    expected = adjust(known, by, request).corrected.logits(known, "test")
    found = read_tables([target]).evidence.logits("test")
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_class_means_of_an_archive(tmp_path, monkeypatch):
    source = archive(tmp_path / "model.npz", weight=None, bias=None)
    assert call(monkeypatch, source, "--by", "ncm", "--out", tmp_path / "o.npz") == 0
    written = arrays_of(tmp_path / "o.npz")
    assert written["means"].shape == (3, 8)
    known = read_tables([source]).evidence
    expected = adjust(known, "ncm").corrected.logits(known, "test").numpy()
    rows = written["split"] == "test"
    np.testing.assert_allclose(written["logits"][rows], expected, rtol=1e-4, atol=1e-4)


def test_prediction_files_of_a_run_are_tables(tmp_path, monkeypatch, capsys):
    options = ["epochs=2", "batch_size=16", "validation_per_class=2", "keep_in_train=1"]
    run = api.train("digits-lt/reslt", options, out=tmp_path / "run", device="cpu")
    for split in ("val", "train"):
        api.evaluate(run, split, device="cpu")
    # ResLT sums branches, so no single layer can carry a correction; its predictions can
    assert call(monkeypatch, run.folder.path, "--by", "tau") == 2
    assert "does not end in a linear layer" in capsys.readouterr().err
    files = [run.folder.predictions(split) for split in ("train", "val", "test")]
    assert call(monkeypatch, *files, "--by", "logit-adjust", "--out", tmp_path / "new") == 0
    new = read_predictions(tmp_path / "new" / "predictions-test.parquet")
    old = read_predictions(files[2])
    tau = json.loads((tmp_path / "new" / "adjustment.json").read_text())["strength"]
    metadata = api.load(run.folder.path, device="cpu").metadata
    counts = ClassCounts(metadata.class_counts, metadata.classes)
    expected = logit_adjust(torch.tensor(old.logits), counts, tau).numpy()
    np.testing.assert_allclose(new.logits, expected, rtol=1e-4, atol=1e-4)
    assert new.classes == old.classes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.array([0, 1, 3] * 80 + [0])}, "labels must be 0..2"),
        ({"features": np.full((241, 8), np.nan, np.float32)}, "not finite"),
        ({"features": np.zeros((5, 8), np.float32)}, "but there are"),
        ({"split": np.array(["holdout"] * 241)}, "split must be one of"),
        ({"weight": np.zeros((4, 8), np.float32)}, "weight must be [C, D]"),
        ({"labels": None}, "must contain an array labels"),
        ({"labels": np.array(["dog"] * 241)}, "dog are not classes"),
    ],
)
def test_wrong_archives_are_explained(change, message, tmp_path, monkeypatch, capsys):
    source = archive(tmp_path / "model.npz", **change)
    assert call(monkeypatch, source, "--by", "tau", "--out", tmp_path / "o.npz") == 2
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said
    assert not (tmp_path / "o.npz").exists()


def test_wrong_tables_are_explained(tmp_path, monkeypatch, capsys):
    cases = {
        "a.csv": ("x,y\n1,2\n", "no column label"),
        "b.csv": ("label,x\n1,2\n", "neither columns logit_"),
        "c.csv": ("label,logit_0,logit_1\n0,a,b\n", "not a table of numbers"),
        "d.npz": ("not a zip", "cannot be read as a table"),
        "e.parquet": ("no", "cannot be read as a table"),
        "f.csv": (
            "label,logit_0,logit_1\n0,1.0,2.0\n1,1.0,2.0\n",
            "training images of each class",
        ),
        "g.txt": ("", "not a run folder, a checkpoint"),
    }
    for name, (text, message) in cases.items():
        (tmp_path / name).write_text(text)
        assert call(monkeypatch, tmp_path / name, "--by", "tau") == 2
        assert message in capsys.readouterr().err
    assert call(monkeypatch, tmp_path / "a.csv", "--by", "no") == 2
    assert call(monkeypatch, tmp_path / "missing.csv", "--by", "tau") == 2


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("010,0.5\nNA,0.25\n", None),
        ("010,0.5\nNA,much\n", "must be a CSV with the columns class and share"),
        ("010,0.5\nNA,\n", "numbers of at least 0"),
        ("010,0.5\nNA,0.2\n010,0.1\n", "twice: 010"),
        ("NA,0.5\n", "lacks classes of the model: 010"),
        ("10,0.5\nNA,0.5\n", "does not have: 10"),
    ],
)
def test_priors_are_read_by_name(rows, message, tmp_path):
    (tmp_path / "prior.csv").write_text("class,share\n" + rows)
    if message is None:
        read = read_prior(str(tmp_path / "prior.csv"), ("NA", "010"))
        assert read.tolist() == pytest.approx([1 / 3, 2 / 3], abs=1e-15)
        return
    with pytest.raises(DataError, match=message):
        read_prior(str(tmp_path / "prior.csv"), ("NA", "010"))


@pytest.mark.parametrize(
    ("classes", "labels", "numbers"),
    [
        (("1", "2", "3"), ("1", "2", "3", "3"), [0, 1, 2, 2]),  # names: 3 is no number of a class
        (("10", "20", "30"), ("0", "2", "1", "0"), [0, 2, 1, 0]),  # numbers: 0 is no name
        (("0", "1", "2"), ("0", "2", "1", "0"), [0, 2, 1, 0]),  # both alike
        (("NA", "010", "10"), ("NA", "10", "010", "NA"), [0, 2, 1, 0]),
    ],
)
def test_classes_may_be_called_by_numbers(classes, labels, numbers, tmp_path):
    logits = 2 * np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]
    frame = pd.DataFrame(logits, columns=[f"logit_{name}" for name in classes])
    frame.insert(0, "label", labels)
    frame.to_csv(tmp_path / "m.csv", index=False)
    frame.to_parquet(tmp_path / "m.parquet")
    np.savez(tmp_path / "m.npz", logits=logits, labels=np.array(labels), classes=np.array(classes))
    counts = ClassCounts([5, 3, 2], classes)
    for suffix in ("csv", "parquet", "npz"):
        read = read_tables([tmp_path / f"m.{suffix}"], counts).evidence
        assert read.class_counts.names == classes
        assert read.outputs("test").labels.tolist() == numbers


def test_numbers_that_may_be_names_are_refused(tmp_path, monkeypatch, capsys):
    content = "label,split,logit_2,logit_0,logit_1\n2,train,1,0,0\n0,train,0,1,0\n1,train,0,0,1\n"
    (tmp_path / "m.csv").write_text(content)
    assert call(monkeypatch, tmp_path / "m.csv", "--by", "crt") == 2
    assert "could be class names or class numbers" in capsys.readouterr().err


def test_counts_and_priors_from_files(tmp_path, monkeypatch, capsys):
    frame = table()
    frame[frame["split"] != "train"].to_csv(tmp_path / "m.csv", index=False)
    (tmp_path / "counts.csv").write_text("class,count\nwolverine,4\ncat,60\nlynx,12\n")
    (tmp_path / "prior.csv").write_text("class,share\nlynx,0.5\ncat,0.25\nwolverine,0.25\n")
    line = [tmp_path / "m.csv", "--class-counts", tmp_path / "counts.csv", "--by", "prior"]
    assert (
        call(monkeypatch, *line, "--prior", tmp_path / "prior.csv", "--out", tmp_path / "o.csv")
        == 0
    )
    described = json.loads((tmp_path / "o-adjustment.json").read_text())
    assert described["deployed_prior"] == [0.25, 0.5, 0.25]
    for prior, message in (
        ("class,share\nlynx,1\n", "lacks classes of the model: cat, wolverine"),
        ("class,share\nlynx,-1\ncat,1\nwolverine,1\n", "at least 0"),
        ("x\n", "columns class and share"),
    ):
        (tmp_path / "prior.csv").write_text(prior)
        assert call(monkeypatch, *line, "--prior", tmp_path / "prior.csv") == 2
        assert message in capsys.readouterr().err
    assert call(monkeypatch, *line) == 2
    assert "needs --prior" in capsys.readouterr().err


# --- runs and checkpoints ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    options = [
        "epochs=4",
        "batch_size=16",
        "validation_per_class=3",
        "keep_in_train=1",
        "precision=fp32",
    ]
    out = tmp_path_factory.mktemp("runs") / "plain"
    return api.train("digits-lt/cross-entropy", options, out=out, device="cpu")


@pytest.mark.parametrize("by", ["tau", "logit-adjust", "crt", "ncm"])
def test_a_repaired_run_is_a_run(by, run, tmp_path, monkeypatch):
    target = tmp_path / "adjusted"
    assert call(monkeypatch, run.folder.path, "--by", by, "--out", target, "--device", "cpu") == 0
    model = longtail_package.load(target, device="cpu")
    assert model.metadata.corrections == (by,)
    described = json.loads((target / "adjustment.json").read_text())
    scores = api.Run.open(target).scores("test")
    after = described["scores"]["groups"]["all"]["after"]["value"]
    assert scores["macro_accuracy"] == pytest.approx(after, abs=1e-6)
    assert scores["recipe"] == f"digits-lt/cross-entropy + {by}"
    # once more: it knows that it was corrected
    if by == "tau":
        again = tmp_path / "twice"
        assert call(monkeypatch, target, "--by", "tau", "--out", again, "--device", "cpu") == 0
        warned = json.loads((again / "adjustment.json").read_text())["warnings"]
        assert "already corrected for the imbalance (tau)" in warned[0]


def test_a_run_that_was_moved_to_a_prior_is_not_moved_again(run, tmp_path, longtail):
    names = longtail_package.load(run.folder.path, device="cpu").metadata.classes
    shares = np.random.default_rng(0).dirichlet(np.ones(len(names)))
    rows = "".join(f"{n},{float(s)!r}\n" for n, s in zip(names, shares, strict=True))
    (tmp_path / "b.csv").write_text(f"class,share\n{rows}")
    line = ("--by", "prior", "--prior", "b.csv", "--out", "moved", "--device", "cpu")
    assert longtail("adjust", run.folder.path, *line, "--force")[0] == 0
    # and moved back to what training assumed, in two steps of which the second halves the adjustment
    line = ("--by", "logit-adjust", "--strength", "0.5", "--out", "half", "--device", "cpu")
    assert longtail("adjust", "moved", *line, "--force")[0] == 0
    Image.fromarray(np.full((8, 8, 3), 90, np.uint8)).save(tmp_path / "x.png")
    question = ("x.png", "--top", len(names), "--device", "cpu")

    def predicted(model, *more):
        status, said, wrong = longtail("predict", model, *question, *more)
        assert status == 0, wrong
        row = pd.read_csv(io.StringIO(said)).iloc[0]
        ranks = range(1, len(names) + 1)
        return {str(row[f"class_{k}"]): row[f"probability_{k}"] for k in ranks}

    once = predicted(run.folder.path, "--prior", "b.csv")
    for again in (
        predicted("moved"), predicted("moved", "--prior", "b.csv"), predicted("half", "--prior", "b.csv"),
    ):  # fmt: skip
        assert again == pytest.approx(once, abs=2e-5)
    metadata = longtail_package.load(tmp_path / "moved", device="cpu").metadata
    assert metadata.assumed_prior == pytest.approx(shares, rel=1e-9)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of images with train, val and test, as foreign checkpoints are used with."""
    root = tmp_path_factory.mktemp("images")
    for split, sizes in (("train", (9, 4, 2)), ("val", (3, 3, 3)), ("test", (4, 4, 4))):
        for label, size in enumerate(sizes):
            for number in range(size):
                generator = np.random.default_rng([label, number, len(split)])
                pixels = generator.integers(0, 90, (32, 32, 3))
                pixels[..., label] += 120
                path = root / split / NAMES[label] / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.astype(np.uint8)).save(path)
    return root


def make(architecture):
    torch.manual_seed(0)
    if architecture == "torchvision:resnet18":
        return torchvision.models.resnet18(num_classes=3)
    return timm.create_model("resnet10t", num_classes=3)


@pytest.mark.parametrize("form", ["pth", "nested", "parallel", "safetensors"])
@pytest.mark.parametrize("architecture", ["torchvision:resnet18", "timm:resnet10t"])
def test_a_foreign_checkpoint_comes_back_in_its_format(
    architecture, form, folder, tmp_path, monkeypatch
):
    network = make(architecture)
    weights = network.state_dict()
    source = tmp_path / ("model.safetensors" if form == "safetensors" else "model.pth")
    if form == "safetensors":
        safetensors.torch.save_file(weights, source)
    elif form == "nested":
        torch.save({"epoch": 3, "state_dict": weights}, source)
    else:
        prefix = "module." if form == "parallel" else ""
        torch.save({prefix + key: value for key, value in weights.items()}, source)
    target = tmp_path / f"fixed{source.suffix}"
    line = [
        source,
        "--architecture",
        architecture,
        "--data",
        folder,
        "--by",
        "tau",
        "--device",
        "cpu",
    ]
    assert call(monkeypatch, *line, "--strength", "1", "--out", target) == 0
    if form == "safetensors":
        written = safetensors.torch.load_file(target)
    else:
        content = torch.load(target, weights_only=True)
        assert form != "nested" or content["epoch"] == 3
        written = content["state_dict"] if form == "nested" else content
    written = {key.removeprefix("module."): value for key, value in written.items()}
    torch.testing.assert_close(written["fc.weight"], tau_normalize(weights["fc.weight"], 1.0))
    assert not written["fc.bias"].any()
    assert all(torch.equal(written[k], v) for k, v in weights.items() if not k.startswith("fc."))
    if architecture.startswith("timm") and form in ("pth", "safetensors"):
        timm.create_model("resnet10t", num_classes=3, checkpoint_path=str(target))


def test_another_order_of_the_outputs(folder, tmp_path, monkeypatch):
    network = make("timm:resnet10t")
    torch.save(network.state_dict(), tmp_path / "m.pth")
    (tmp_path / "classes.txt").write_text("wolverine\ncat\nlynx\n")
    line = [
        tmp_path / "m.pth",
        "--architecture",
        "timm:resnet10t",
        "--data",
        folder,
        "--device",
        "cpu",
    ]
    line += ["--by", "logit-adjust", "--strength", "1"]
    named = [*line, "--classes", tmp_path / "classes.txt", "--out", tmp_path / "n.pth"]
    assert call(monkeypatch, *named) == 0
    bias = torch.load(tmp_path / "n.pth", weights_only=True)["fc.bias"]
    expected = network.fc.bias - torch.tensor([2 / 15, 9 / 15, 4 / 15]).log()
    torch.testing.assert_close(bias, expected)


def plain_with_softmax(num_classes):
    return torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, num_classes), torch.nn.Softmax(dim=1)
    )


@pytest.mark.parametrize(
    ("make_weights", "architecture", "message"),
    [
        (lambda: make("timm:resnet10t").state_dict(), "timm:resnet18", "belongs to another network"),
        (lambda: make("timm:resnet10t").state_dict(), "timm:no-such-net", "cannot be built"),
        (lambda: make("timm:resnet10t").state_dict(), "resnet10t", "must be timm:NAME"),
        (lambda: make("timm:resnet10t"), "timm:resnet10t", "contains more than tensors"),
        (lambda: [1, 2], "timm:resnet10t", "does not contain a state_dict"),
        (lambda: plain_with_softmax(3).state_dict(), f"{__name__}:plain_with_softmax",
         "does not end in a linear layer"),
    ],
)  # fmt: skip
def test_checkpoints_that_cannot_be_used(
    make_weights, architecture, message, folder, tmp_path, monkeypatch, capsys
):
    torch.save(make_weights(), tmp_path / "m.pth")
    line = [tmp_path / "m.pth", "--architecture", architecture, "--data", folder, "--by", "tau"]
    assert call(monkeypatch, *line, "--device", "cpu", "--set", "image_size=32") == 2
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said
    assert call(monkeypatch, tmp_path / "m.pth", "--by", "tau") == 2
    assert "needs --architecture" in capsys.readouterr().err


def test_images_without_a_split_may_have_been_trained_on(folder, tmp_path, monkeypatch, capsys):
    torch.save(make("timm:resnet10t").state_dict(), tmp_path / "m.pth")
    line = [
        tmp_path / "m.pth",
        "--architecture",
        "timm:resnet10t",
        "--by",
        "tau",
        "--device",
        "cpu",
    ]
    assert call(monkeypatch, *line, "--data", folder / "train") == 2
    assert "ones that the model was trained on" in capsys.readouterr().err


def test_normalisation_of_the_pixels_is_the_users(folder):
    network = make("torchvision:resnet18").eval()
    path = folder.parent / "plain.pth"
    torch.save(network.state_dict(), path)
    zeros, ones = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    known = read_checkpoint(
        path, "torchvision:resnet18", resolve(str(folder)), mean=zeros, std=ones, device="cpu"
    ).evidence
    data = open_data(resolve(str(folder)).data).split("test")
    with torch.inference_mode():
        expected = network(data.images.pixels.float() / 255)
    torch.testing.assert_close(known.logits("test"), expected, atol=1e-4, rtol=1e-4)


def test_auto_leaves_out_what_a_checkpoint_cannot_hold(folder):
    """Class means are written as an .npz, which is for who asks for them by name."""
    network = make("torchvision:resnet18").eval()
    path = folder.parent / "plain.pth"
    torch.save(network.state_dict(), path)
    model = read_checkpoint(path, "torchvision:resnet18", resolve(str(folder)), device="cpu")
    corrected = CORRECTIONS["ncm"](model.evidence, Request())
    require_writable_into(model, corrected)
    with pytest.raises(ConfigError, match=r"--by ncm writes them as an \.npz"):
        require_same_format(model, corrected)
    require_same_format(model, CORRECTIONS["tau"](model.evidence, Request(strength=1.0)))


def test_unknown_names():
    with pytest.raises(ConfigError, match="--by must be one of tau"):
        adjust(evidence(), "magic")
