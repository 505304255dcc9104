"""Taking a model into use: `longtail predict` and `longtail export`."""

import io
import json
import sys
import zipfile
from dataclasses import replace

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import safetensors
import timm
import torch
from PIL import Image

import longtail
from longtail import api
from longtail.cli import main
from longtail.core.errors import ConfigError, LongtailError
from longtail.data.preparation import read_files
from longtail.ensembles.several_runs import ensemble
from longtail.export import FORMATS, export_run
from longtail.export import export as exporting
from longtail.prediction import read_predictions

NAMES = ("ant", "bee", "cow")


def call(monkeypatch, *line, stdin=""):
    monkeypatch.setattr(sys, "argv", ["longtail", *map(str, line)])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code or 0


def images(root, sizes=(20, 8, 5), side=32):
    for label, size in enumerate(sizes):
        for number in range(size):
            generator = np.random.default_rng([label, number])
            pixels = generator.integers(0, 100, (side, side, 3))
            pixels[..., label] += 130
            path = root / NAMES[label] / f"{number:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return images(tmp_path_factory.mktemp("use") / "images")


@pytest.fixture(scope="module")
def runs(folder):
    """Runs of several methods and backbones on the folder."""
    made = {}
    for name, more in {
        "plain": ["loss=cross-entropy", "backbone=resnet20"],
        "timm": ["loss=cross-entropy", "backbone=resnet10t"],
        "balanced": ["backbone=resnet20"],
        "reslt": ["method=reslt", "backbone=resnet20"],
        "tau": ["method=decoupling", "classifier=tau", "backbone=resnet20"],
        "ncm": ["method=decoupling", "classifier=ncm", "backbone=resnet20"],
        "do": ["method=do", "backbone=resnet10t", "retraining_steps=1", "mixture=average"],
        "paco": ["method=paco", "backbone=resnet10t", "queue=16"],
    }.items():
        line = [*more, "epochs=2", "batch_size=8", "precision=fp32", "learning_rate=0.02"]
        made[name] = api.train(str(folder), line, out=folder.parent / name, device="cpu")
    return made


# --- predict -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_predictions_are_those_of_the_evaluation(runs, folder):
    run = runs["plain"]
    model = longtail.load(run.folder.path, device="cpu")
    predicted = model.predict(folder, longtail.PredictOptions(top=3))
    assert list(predicted.columns) == [
        "path", "class_1", "probability_1", "class_2", "probability_2", "class_3", "probability_3",
        "group", "error",
    ]  # fmt: skip
    assert len(predicted) == 33
    sums = predicted[["probability_1", "probability_2", "probability_3"]].sum(axis=1)
    np.testing.assert_allclose(sums, 1, atol=1e-4)
    assert predicted["error"].isna().all()
    # the same as in the stored predictions of the test split
    files = read_files(run.config.data).files()
    stored = read_predictions(run.folder.predictions("test"))
    named = dict(zip(predicted["path"], predicted["class_1"], strict=True))
    for number, label in zip(stored.ids, stored.predicted(), strict=True):
        assert named[str(files[number])] == stored.classes[label]
    groups = dict(zip(model.metadata.classes, map(model.groups.name_of, range(3)), strict=True))
    assert [groups[name] for name in predicted["class_1"]] == predicted["group"].tolist()


def test_published_weights_see_images_as_in_their_own_training(folder, tmp_path, monkeypatch):
    build = (
        timm.create_model
    )  # without a connection: the weights are fresh, the rest is as published

    def offline(name, **options):
        return build(name, **options | {"pretrained": False})

    monkeypatch.setattr("timm.create_model", offline)
    monkeypatch.setattr("longtail.models.backbones.unreachable", lambda name: False)
    line = ["pretrained=true", "backbone=test_resnet", "epochs=1", "batch_size=8", "precision=fp32"]
    run = api.train(str(folder), line, out=tmp_path / "run", device="cpu")
    model = longtail.load(run.folder.path, device="cpu")
    assert (
        model.metadata.mean == model.metadata.std == (0.5, 0.5, 0.5)
    )  # timm's table of that network
    stored = read_predictions(run.folder.predictions("test"))
    files = read_files(run.config.data).files()
    predicted = model.predict([files[number] for number in stored.ids])
    assert predicted["class_1"].tolist() == [stored.classes[label] for label in stored.predicted()]


@pytest.mark.slow
def test_any_batch_size_gives_the_same_predictions(runs, folder):
    model = longtail.load(runs["plain"].folder.path, device="cpu")
    whole = model.predict(folder, longtail.PredictOptions(batch_size=33))
    single = model.predict(folder, longtail.PredictOptions(batch_size=1, workers=1))
    assert whole["class_1"].equals(single["class_1"])
    np.testing.assert_allclose(whole["probability_1"], single["probability_1"], atol=2e-5)


def test_broken_images_are_rows_with_their_error(runs, folder, tmp_path, monkeypatch, capsys):
    good = folder / "ant" / "00.png"
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    (tmp_path / "empty.png").write_bytes(b"")
    line = ["predict", runs["plain"].folder.path, tmp_path / "broken.jpg", good, tmp_path / "gone.png",
            tmp_path / "empty.png", "--out", tmp_path / "predictions.csv"]  # fmt: skip
    assert call(monkeypatch, *line, "--batch-size", "2") == 0
    said = capsys.readouterr()
    assert "1 image predicted, written to" in said.out
    assert "note: 3 of 4 images cannot be read: " in said.err
    assert "gone.png: " in said.err
    predicted = pd.read_csv(tmp_path / "predictions.csv")
    assert predicted["error"].isna().tolist() == [False, True, False, False]
    assert predicted["class_1"].isna().tolist() == [True, False, True, True]
    assert "not an image" in predicted["error"][0]
    assert "does not exist" in predicted["error"][2]


def test_where_no_image_can_be_read_nothing_is_called_predicted(
    runs, tmp_path, monkeypatch, capsys
):
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.writestr("a.txt", "no image")
    out = tmp_path / "p.csv"
    line = ["predict", runs["plain"].folder.path, tmp_path / "gone.jpg", tmp_path / "images.zip"]
    assert call(monkeypatch, *line, "--out", out) == 1
    said = capsys.readouterr()
    assert said.out.split() == ["no", "image", "could", "be", "read;", "errors", "in", str(out)]
    assert "predicted" not in said.out + said.err
    assert "images.zip: a zip file, not an image; unpack it first" in said.err


def test_formats_and_standard_input(runs, folder, tmp_path, monkeypatch, capsys):
    run = runs["plain"].folder.path
    for suffix, read in (
        ("csv", pd.read_csv),
        ("CSV", pd.read_csv),
        ("parquet", pd.read_parquet),
        ("jsonl", lambda path: pd.read_json(path, lines=True)),
    ):
        out = tmp_path / f"a.{suffix}"
        assert call(monkeypatch, "predict", run, folder, "--out", out, "--top", "2") == 0
        table = read(out)
        assert len(table) == 33
        assert "class_3" not in table
    capsys.readouterr()
    paths = f"{folder / 'ant' / '00.png'}\n{folder / 'bee' / '01.png'}\n\n"
    assert call(monkeypatch, "predict", run, "-", stdin=paths) == 0
    said = capsys.readouterr()
    assert said.err == ""  # where no bar can be drawn, there is no trace of one
    assert pd.read_csv(io.StringIO(said.out))["path"].tolist() == paths.split()
    for line, message in (
        ([run, folder, "--out", tmp_path / "a.xlsx"], "must end in"),
        ([run, "-"], "No images were given"),
        ([tmp_path, folder], "is not a run folder"),
        ([run, tmp_path / "nothing"], None),
    ):
        (tmp_path / "nothing").mkdir(exist_ok=True)
        assert call(monkeypatch, "predict", *line) == 2
        said = capsys.readouterr().err
        assert message is None or message in said


def test_another_prior_and_the_mirror(runs, folder, tmp_path):
    model = longtail.load(runs["plain"].folder.path, device="cpu")
    plain = model.predict(folder, longtail.PredictOptions(top=3))
    # the training prior itself changes nothing
    counts = torch.tensor(model.metadata.class_counts, dtype=torch.float64)
    same = model.predict(folder, longtail.PredictOptions(top=3, prior=counts / counts.sum()))
    np.testing.assert_allclose(same["probability_1"], plain["probability_1"], atol=2e-5)
    only = model.predict(
        folder, longtail.PredictOptions(top=1, prior=torch.tensor([0.0, 0.0, 1.0]))
    )
    assert set(only["class_1"]) == {"cow"}
    # a corrected model takes classes as alike already
    balanced = longtail.load(runs["balanced"].folder.path, device="cpu")
    uniform = longtail.PredictOptions(prior=torch.full((3,), 1 / 3))
    pd.testing.assert_frame_equal(balanced.predict(folder), balanced.predict(folder, uniform))
    image = folder / "ant" / "00.png"
    with Image.open(image) as opened:
        opened.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "mirrored.png")
    mean = longtail.PredictOptions(mirror=True)
    one, other = (
        model.predict(p, mean)["probability_1"][0] for p in (image, tmp_path / "mirrored.png")
    )
    assert one == pytest.approx(other, abs=2e-5)
    with pytest.raises(LongtailError, match="2 entries for 3 classes"):
        model.predict(folder, longtail.PredictOptions(prior=torch.tensor([0.5, 0.5])))


# --- export ------------------------------------------------------------------------------------


QUICKLY = {("plain", "onnx")}
FORMS = [
    pytest.param(name, form, marks=[] if quick else pytest.mark.slow)
    for name in ("plain", "reslt", "tau", "ncm", "paco", "do")
    for form in ("onnx", "torch-export", "safetensors")
    for quick in [form == "safetensors" or (name, form) in QUICKLY]
]


@pytest.mark.parametrize(("name", "form"), FORMS)
def test_every_method_exports(name, form, runs, tmp_path):
    suffix = FORMATS[form][0]
    told = []
    done = export_run(
        runs[name].folder.path, form, tmp_path / f"m{suffix}", progress=lambda *at: told.append(at)
    )
    assert done.difference <= 1e-4
    last = {what: (at, size) for what, at, size in told}  # in the order of the work
    files = done.prepared.files
    assert list(last.items())[-3:] == [
        (f"writing {form}", (1, 1)), ("comparing logits", (1, 1)), ("comparing image files", (files, files)),
    ]  # fmt: skip
    assert done.path.stat().st_size > 10_000
    card = done.card.read_text()
    scores = runs[name].scores("test")
    assert f"{100 * scores['macro_accuracy']:.1f}" in card
    assert "ant, bee, cow" in card
    assert "shorter side resized to 32 (bilinear, antialiased), centre crop of 32 x 32" in card


@pytest.mark.slow
def test_onnx_predicts_alone(runs, folder, tmp_path):
    """What a user does with the file: no longtail, pixels divided by 255."""
    done = export_run(runs["plain"].folder.path, "onnx", tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(str(done.path), providers=["CPUExecutionProvider"])
    facts = session.get_modelmeta().custom_metadata_map
    classes, size = json.loads(facts["classes"]), int(facts["image_size"])
    files = sorted(folder.rglob("*.png"))[::4]
    pixels = np.stack(
        [np.asarray(Image.open(f).convert("RGB").resize((size, size))) for f in files]
    )
    (logits,) = session.run(None, {"images": pixels.transpose(0, 3, 1, 2).astype(np.float32) / 255})
    predicted = longtail.load(runs["plain"].folder.path, device="cpu").predict(files)
    assert [classes[i] for i in logits.argmax(1)] == predicted["class_1"].tolist()


@pytest.mark.slow
def test_onnx_of_sub_models_is_what_test_time_learning_needs(runs, folder, tmp_path):
    done = export_run(runs["do"].folder.path, "onnx", tmp_path / "s.onnx", sub_models=True)
    session = onnxruntime.InferenceSession(str(done.path), providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).random((5, 3, 32, 32), dtype=np.float32)
    (predicted,) = session.run(None, {"images": images})
    model = longtail.load(runs["do"].folder.path, device="cpu")
    assert predicted.shape == (5, model.method.count, 3)
    mean, std = (torch.tensor(v)[:, None, None] for v in (model.metadata.mean, model.metadata.std))
    with torch.no_grad():
        mixed = model.method.predict((torch.from_numpy(images) - mean) / std).exp()
    average = torch.from_numpy(predicted).softmax(2).mean(1)
    torch.testing.assert_close(average, mixed, atol=1e-5, rtol=1e-4)


# --- mix ---------------------------------------------------------------------------------------


def test_mixtures_of_a_run_and_of_several(runs, folder, tmp_path, monkeypatch, capsys):
    do, plain = runs["do"].folder.path, runs["plain"].folder.path
    assert (
        call(
            monkeypatch,
            "ensemble",
            do,
            "--all",
            "--record",
            tmp_path / "r.jsonl",
            "--device",
            "cpu",
        )
        == 0
    )
    shown = capsys.readouterr().out
    assert "recommended: " in shown
    assert "instance, cosine" in shown
    assert "oracle" in shown
    (line,) = (json.loads(text) for text in (tmp_path / "r.jsonl").read_text().splitlines())
    rows = {row["name"]: row for row in line["mixtures"]}
    # the default mixture is what the run was scored with
    assert rows["average"]["accuracy"] == pytest.approx(runs["do"].scores("test")["macro_accuracy"])
    assert line["checkpoints_sha256"] == [runs["do"].scores("test")["checkpoint_sha256"]]
    with pytest.raises(ConfigError, match="name each run once"):
        ensemble([runs["plain"], runs["plain"]], device="cpu")
    found = ensemble([runs["plain"], runs["reslt"]], views="sade", device="cpu")
    rows = {row["name"]: row for row in found["mixtures"]}
    assert rows["sub-model 1"]["accuracy"] == pytest.approx(
        runs["plain"].scores("test")["macro_accuracy"]
    )
    assert "average without known bias" not in rows
    for line, message in (
        ([plain], "has no sub-models"),
        ([do, "--split", "x"], "must be one of"),
        ([do, "--views", "x"], "no augmentation policy"),
        ([do, tmp_path], "is not a run folder"),
    ):
        assert call(monkeypatch, "ensemble", *line) == 2, line
        assert message in capsys.readouterr().err
    other = runs["plain"].config.data.model_copy(update={"image_size": 16})
    changed = replace(runs["plain"], config=runs["plain"].config.model_copy(update={"data": other}))
    with pytest.raises(LongtailError, match="Only runs that were trained on the same images"):
        ensemble([runs["do"], changed], device="cpu")


def test_timm_loads_its_weights(runs, tmp_path):
    done = export_run(runs["timm"].folder.path, "timm", tmp_path / "m.safetensors")
    network = timm.create_model("resnet10t", num_classes=3, checkpoint_path=str(done.path)).eval()
    model = longtail.load(runs["timm"].folder.path, device="cpu")
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(network(images), model.method.predict(images))
    with safetensors.safe_open(done.path, framework="pt") as file:
        assert json.loads(file.metadata()["classes"]) == list(NAMES)
        assert file.metadata()["architecture"] == "resnet10t"


def test_a_missing_package_is_told_before_the_model_is_loaded(tmp_path, monkeypatch):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        with monkeypatch.context() as without:
            without.setitem(sys.modules, name, None)  # importing it fails
            with pytest.raises(ConfigError, match=rf"needs the package {name}: pip install"):
                export_run(tmp_path, "onnx", tmp_path / "m.onnx")
    with pytest.raises(LongtailError, match="not a run folder"):  # the others need none
        export_run(tmp_path, "safetensors", tmp_path / "m.safetensors")


@pytest.mark.slow
def test_what_cannot_be_exported(runs, tmp_path, monkeypatch, capsys):
    run = runs["plain"].folder.path
    for line, message in (
        ([run, "--format", "xml"], "must be one of onnx"),
        ([run, "--format", "timm"], "timm has no network resnet20"),
        ([run, "--out", tmp_path / "m.bin"], "ends in .safetensors"),
        ([tmp_path], "is not a run folder"),
        ([run, "--sub-models", "--format", "onnx"], "this method is a single model"),
        ([run, "--sub-models", "--format", "safetensors"], "works only with onnx and torch-export"),
    ):
        assert call(monkeypatch, "export", *line) == 2
        assert message in capsys.readouterr().err
    assert call(monkeypatch, "export", run, "--format", "safetensors") == 0
    assert call(monkeypatch, "export", run, "--format", "safetensors") == 2
    assert "already exists" in capsys.readouterr().err
    # a file that predicts otherwise is not kept
    for difference in (0.5, float("nan")):
        monkeypatch.setattr(exporting, "compare", lambda *parts, d=difference: d)
        with pytest.raises(LongtailError, match="differ from the run's by"):
            export_run(run, "onnx", tmp_path / "wrong.onnx")
    assert not list(tmp_path.glob("*wrong*"))
    # logits of tens of thousands are rounded by more than a ten-thousandth
    monkeypatch.setattr(exporting, "compare", lambda *parts: 0.008)
    predict = exporting.Predictor.forward
    monkeypatch.setattr(exporting.Predictor, "forward", lambda self, x: 1e6 * predict(self, x))
    assert export_run(run, "torch-export", tmp_path / "large.pt2").difference == 0.008
