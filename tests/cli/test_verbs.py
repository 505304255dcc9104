"""The command line as a user meets it: what works, and what is explained in words."""

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

import longtail as package
from longtail import api
from longtail.adjust.tool import CORRECTIONS
from longtail.cli.lines import completing
from longtail.cli.lists import complete_method
from longtail.cli.verbs import ELSEWHERE, SUMMARIES
from longtail.engine.run_folder import RunFolder
from longtail.export import FORMATS
from longtail.prediction import read_predictions
from longtail.recipes.catalogue import catalogue
from longtail.report.text import trained
from longtail.report.view import RunView
from longtail.runs import training

SHORT = ("digits-lt/balanced-softmax", "epochs=2")


@pytest.fixture(scope="module")
def short_run(tmp_path_factory):
    """A run of SHORT, trained once; to be copied and not to be changed."""
    folder = tmp_path_factory.mktemp("short") / "run"
    api.train(SHORT[0], [SHORT[1]], out=folder, device="cpu", progress=False)
    return folder


@pytest.fixture
def run(short_run, tmp_path):
    """The run of SHORT in a folder of this test."""
    return Path(shutil.copytree(short_run, tmp_path / "run"))


def test_train_leaves_a_whole_run_folder(longtail, tmp_path):
    status, out, err = longtail("train", *SHORT, "--out", "run", "--record", "results/r.jsonl")
    assert status == 0
    assert "many" in out
    assert "1 class" in out  # of the many-shot group
    assert "joint epoch 1 of 2: loss" in err
    assert " left in this stage" in err
    assert "joint epoch 2 of 2: loss" in err
    files = {path.name for path in (tmp_path / "run").iterdir()}
    assert files >= {"config.yaml", "environment.json", "metrics.jsonl", "checkpoints",
                     "predictions-test.parquet", "scores-test.json"}  # fmt: skip
    scores = json.loads((tmp_path / "run" / "scores-test.json").read_text())
    assert (scores["num_images"], scores["selection"], scores["seed"]) == (500, "last epoch", 0)
    predictions = read_predictions(tmp_path / "run" / "predictions-test.parquet")
    accuracy = (predictions.predicted() == predictions.labels).mean()
    assert scores["accuracy"] == pytest.approx(accuracy)
    assert scores["checkpoint_sha256"] == predictions.checkpoint
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["command"].startswith("longtail train digits-lt/balanced-softmax epochs=2")
    record = json.loads((tmp_path / "results" / "r.jsonl").read_text())
    assert record["accuracy"] == pytest.approx(accuracy, abs=1e-4)
    assert {"recipe", "seed", "command", "commit", "hardware", "versions", "training_seconds",
            "groups", "config", "images_per_second"} <= set(record)  # fmt: skip
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["training"]["epochs"] == 2


def test_evaluate_again_and_on_train(longtail, run, tmp_path):
    first = (tmp_path / "run" / "scores-test.json").read_text()
    (tmp_path / "run" / "scores-test.json").unlink()
    assert longtail("evaluate", "run")[0] == 0
    assert (tmp_path / "run" / "scores-test.json").read_text() == first
    status, out, _ = longtail("evaluate", "run", "--split", "train")
    assert status == 0
    assert "train split" in out
    assert longtail("evaluate", "run", "--split", "val")[0] == 2
    assert longtail("evaluate", "run", "--split", "dev")[0] == 2


def test_seeds_are_summarised_and_resumed(longtail, tmp_path):
    status, out, _ = longtail("train", *SHORT, "--seeds", 2, "--out", "run")
    assert status == 0
    assert "2 seeds" in out
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    values = summary["accuracy"]["values"]
    assert len(values) == 2
    assert summary["accuracy"]["mean"] == pytest.approx(np.mean(values))
    assert summary["accuracy"]["std"] == pytest.approx(np.std(values, ddof=1))
    assert summary["accuracy"]["interval"] is None  # two seeds make none
    (tmp_path / "run" / "summary.json").unlink()
    assert longtail("train", *SHORT, "--seeds", 2, "--out", "run", "--resume")[0] == 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == summary


def test_a_folder_of_ones_own(longtail, image_folder, tmp_path):
    (image_folder / "ant" / "broken.png").write_bytes(b"not an image")
    status, _, err = longtail("train", image_folder, "epochs=1", "batch_size=8", "--out", "run")
    assert status == 2
    assert "broken.png: not an image" in err
    assert "--on-bad-image skip" in err
    assert not (tmp_path / "run").exists()
    status, out, err = longtail(
        "train", image_folder, "epochs=1", "batch_size=8", "backbone=resnet20", "--out", "run",
        "--on-bad-image", "skip",
    )  # fmt: skip
    assert status == 0, err
    assert re.search(r"1 of \d+ images cannot be read: ant/broken.png: not an image", err)
    assert (out + err).count("Such files are left out. Repair or replace them.") == 1  # not again
    skipped = pd.read_csv(tmp_path / "run" / "skipped-images.csv")
    assert skipped["path"].tolist() == ["ant/broken.png"]
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["data"]["image_size"] == 16
    assert (tmp_path / "run" / "scores-test.json").exists()
    # the command that was suggested repeats what was asked for
    again = f"longtail train {image_folder} epochs=1 batch_size=8 backbone=resnet20 seed=1 "
    assert f"{again}--on-bad-image skip --out run-seed-1" in out


def test_early_stopping_on_ones_own_images(longtail, image_folder, tmp_path, monkeypatch):
    status, _, _ = longtail(
        "train", image_folder.name, "epochs=4", "batch_size=8", "backbone=resnet20",
        "select=best-validation", "early_stopping=1", "--out", "run",
    )  # fmt: skip
    assert status == 0
    scores = json.loads((tmp_path / "run" / "scores-test.json").read_text())
    assert scores["selection"].startswith("best macro accuracy on val (epoch ")
    done = len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    stopped = f"{done} epochs of 4, stopped because val did not improve for 1 epoch"
    assert (trained(RunView.open(tmp_path / "run")) == stopped) == (done < 4)
    # images that were named from one working folder are found from another
    monkeypatch.chdir(image_folder)
    status, _, err = longtail("evaluate", tmp_path / "run", "--split", "val")
    assert status == 0, err


def test_a_model_is_loaded_by_class_names(longtail, image_folder, tmp_path):
    longtail("train", image_folder, "epochs=1", "batch_size=8", "backbone=resnet20", "--out", "run")
    model = api.load(tmp_path / "run")
    assert model.metadata.classes == ("ant", "bee", "cow")
    assert model.metadata.corrections == ("balanced-softmax",)
    # a class that is there no more is told by name
    shutil.move(image_folder / "cow", image_folder / "dog")
    status, _, err = longtail("evaluate", "run")
    assert status == 2
    assert "none of the images that the run had of cow" in err


def test_lists(longtail):
    status, out, _ = longtail("recipes")
    assert status == 0
    assert "cifar100-lt/ldam-drw" in out
    status, out, _ = longtail("methods")
    assert status == 0
    assert "single-head" in out
    assert "training step 1.4x" in out, "costs come from the records"
    status, out, _ = longtail("methods", "do")
    assert status == 0
    assert "preference for" in out
    assert longtail("methods", "none")[0] == 2
    status, out, _ = longtail("recipes", "cifar100-lt/balanced")
    assert "45.8" in out
    assert "imagenet" not in out
    assert longtail("recipes", "nothing-like-this")[0] == 2
    assert longtail("--version")[1].strip() == f"longtail {package.__version__}"
    status, out, _ = longtail("--help")
    assert status == 0
    assert all(text in " ".join(out.split()) for text in SUMMARIES.values())  # none is cut
    for verb in ("train", "evaluate", "recipes", "methods", "demo", "data"):
        assert longtail(verb, "--help")[0] == 0


def test_methods_are_found_in_any_case(longtail):
    assert longtail("methods", "DO") == longtail("methods", "do")
    assert complete_method("D") == ["decoupling", "do"]


def test_a_folder_of_nearly_that_name_is_named(longtail, tmp_path):
    (tmp_path / "my-images").mkdir()
    status, _, err = longtail("train", "my-image")
    assert status == 2
    assert "Did you mean my-images/?" in err
    status, _, err = longtail("train", tmp_path / "my_images")
    assert status == 2
    assert f"Did you mean {tmp_path}/my-images/?" in "".join(err.splitlines())


def test_values_are_completed():
    assert completing(FORMATS)("t") == ["torch-export", "timm"]
    assert completing(CORRECTIONS)("tau") == ["tau"]


def test_lists_cut_no_word_off_at_80_columns(longtail, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("FORCE_COLOR", "1")  # as on a terminal
    for verb in ("recipes", "methods", "options"):
        out = longtail(verb)[1]
        assert "…" not in out
        # every name stands whole on one line
        shown = catalogue()
        names = [row.key for row in shown.options] if verb == "options" else getattr(shown, verb)
        assert [name for name in names if f"{name} " not in out] == []
    out = longtail("recipes", "cifar100-lt/do")[1]
    assert "searched" in out  # was cropped to "searche"


def test_a_table_without_records_says_where_it_looked(longtail):
    _, out, _ = longtail("reproduce", "do-table-5", "--show")
    assert "note: results contains no records" in out


WITHOUT_TORCH = """
import pathlib, sys
for slow in ("torch", "numpy", "pandas", "rich"):
    sys.modules[slow] = None  # importing it fails
from longtail.__main__ import main
sys.argv = sys.argv[1:]
try:
    main()
finally:
    status = pathlib.Path("/proc/self/status")  # of Linux; getrusage would count what this was forked from
    peak = status.read_text().partition("VmHWM:")[2].split()[0] if status.exists() else 0
    print(peak)
"""


@pytest.mark.parametrize(
    ("words", "completed", "expected", "status"),
    [
        (["--help"], None, "reproduce", 0),
        (["--version"], None, f"longtail {package.__version__}", 0),
        (["trian"], None, "Did you mean 'train'?", 2),
        ([], "longtail rep", "reproduce", 0),
        ([], "longtail --ver", "--version", 0),
    ],
)
def test_what_needs_no_verb_needs_no_torch(words, completed, expected, status):
    environment = {name: v for name, v in os.environ.items() if not name.startswith("COMP")}
    if completed is not None:
        environment |= {"_LONGTAIL_COMPLETE": "complete_bash", "COMP_WORDS": completed,
                        "COMP_CWORD": "1"}  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, "longtail", *words],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    assert expected in done.stdout + done.stderr
    kilobytes = int(done.stdout.split()[-1])
    assert kilobytes < 60_000


def test_help_says_of_each_verb_what_the_verb_says():
    """The table that help is made of, against the files that it must not import."""
    for verb, summary in SUMMARIES.items():
        file = importlib.import_module(f"longtail.cli.{ELSEWHERE.get(verb, verb)}")
        app = getattr(file, "app", None)
        said = getattr(file, verb.replace("-", "_")).__doc__ if app is None else app.info.help
        assert said.splitlines()[0] == summary, verb


def test_shells_complete_recipes_methods_and_tables():
    for line, expected in (
        ("longtail train cifar100-lt/pa", "cifar100-lt/paco"),
        ("longtail methods d", "decoupling"),
        ("longtail reproduce resl", "reslt-table-5"),
    ):
        words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - 1)}
        done = subprocess.run(
            [Path(sys.executable).parent / "longtail"],
            env=os.environ | words | {"_LONGTAIL_COMPLETE": "complete_bash"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert expected in done.stdout.split(), (line, done.stderr)


@pytest.mark.slow
def test_a_missing_compiler_is_told_before_a_run_begins(tmp_path):
    nowhere = {"CXX": str(tmp_path / "no-compiler"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    wish = ["digits-lt/cross-entropy", "epochs=1", "compile=true", "--out", tmp_path / "run"]
    done = subprocess.run(
        [Path(sys.executable).parent / "longtail", "train", *wish],
        env=os.environ | nowhere, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "compile=false" in done.stderr
    assert "no-compiler" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_large_images_are_trained_from_files(longtail, tmp_path):
    generator = np.random.default_rng(0)
    for label in range(2):
        (tmp_path / "large" / str(label)).mkdir(parents=True)
        for number in range(14):
            pixels = generator.integers(0, 120, (90, 110, 3)) + 100 * label
            image = Image.fromarray(pixels.astype(np.uint8))
            image.save(tmp_path / "large" / str(label) / f"{number}.jpg")
    command = ("train", "large", "epochs=2", "batch_size=8", "backbone=resnet20", "image_size=72")
    status, _, err = longtail(*command, "--out", "a")
    assert status == 0, err
    assert "of 72 pixels (from files)" in err
    assert longtail(*command, "training.workers=1", "--out", "b")[0] == 0
    # the crops are functions of the position, not of the thread that decodes
    one, other = (read_predictions(tmp_path / n / "predictions-test.parquet") for n in "ab")
    np.testing.assert_array_equal(one.logits, other.logits)


def test_inspect_says_that_nothing_can_be_scored(longtail, tmp_path):
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        (tmp_path / "set" / str(number)).mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / "set" / str(number) / "only.png")
    status, out, _ = longtail("data", "inspect", "set")
    assert status == 0
    assert "no class has enough images to put one into test, so no accuracy can be measured" in out


def test_inspect(longtail, image_folder, tmp_path):
    shutil.copy(image_folder / "ant" / "00.png", image_folder / "bee" / "twin.png")
    status, out, _ = longtail("data", "inspect", image_folder, "--out", "found")
    assert status == 0
    assert "3 classes, 23 images (train 15, val 3, test 5)" in out
    assert "this is the one that longtail train would draw" in out
    assert "warning: 1 image has different labels in files with identical pixels" in out
    assert "3 classes have fewer than 5 test images, too few to judge a class: " in out
    assert (tmp_path / "found" / "distribution.png").read_bytes().startswith(b"\x89PNG")
    counts = pd.read_csv(tmp_path / "found" / "counts.csv", index_col="class")
    assert counts.sum().to_dict() == {"train": 15, "val": 3, "test": 5}
    counts = counts["train"]
    assert list(counts.index) == ["ant", "bee", "cow"]
    assert counts.sum() == 15  # as said above: what a training would see
    ratio = counts.max() / counts.min()
    assert f"imbalance ratio (largest over smallest class in train): {ratio:.1f}" in out
    assert json.loads((tmp_path / "found" / "findings.json").read_text())["conflicting"]
    # images that cannot be read explain the difference to what train and the folder name
    (image_folder / "ant" / "bad.png").write_bytes(b"x")
    assert (
        "3 classes, 23 of 24 images (train 15, val 3, test 5); the other one cannot be read"
        in longtail("data", "inspect", image_folder)[1]
    )


def test_verify(longtail, benchmark_data, published_lists):
    status, out, _ = longtail("data", "verify", "cifar100", "--root", benchmark_data)
    assert status == 0
    assert "FAIL" not in out
    status, out, err = longtail("data", "verify", "imagenet-lt", "--root", published_lists)
    assert status == 2
    assert "FAIL" in out
    assert "is not the published imagenet-lt" in err


@pytest.mark.slow
def test_the_real_benchmark_trains(longtail, benchmark_data, tmp_path):
    # one epoch of a small network on the cut at ratio 100: the published path, end to end
    status, out, err = longtail(
        "train", "cifar100-lt/cross-entropy", "epochs=1", "backbone=resnet20",
        f"data.root={benchmark_data}", "--out", "run",
    )  # fmt: skip
    assert status == 0, err
    assert "train 10,847, test 10,000 images" in err
    assert "many" in out
    assert "35 classes" in out
    scores = json.loads((tmp_path / "run" / "scores-test.json").read_text())
    assert scores["num_images"] == 10000
    assert scores["accuracy"] > 0.02
    (line,) = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line)["loss"] < 4.6


MISTAKES = [
    (["train", "cifar100-lt/cros-entropy"], ["Did you mean", "cifar100-lt/cross-entropy"]),
    (["train"], ["Name a recipe"]),
    (["train", "--resume", "--out", "absent"], ["absent is not a run folder"]),
    (["train", "digits-lt/mixup", "epochz=3"], ["epochz is not a key; did you mean training.epochs?"]),
    (["train", "digits-lt/mixup", "epochs=three"], ["must be a whole number", "'three'"]),
    (["train", "digits-lt/mixup", "--device", "tpu"], ["Device 'tpu' cannot be used"]),
    (["train", "digits-lt/mixup", "--seeds", "0"], ["Invalid value for '--seeds'"]),
    (["train", "digits-lt/mixup", "--on-bad-image", "ignore"], ["--on-bad-image must be one of error, skip"]),
    (["train", "digits-lt/mixup", "--on-bad-image", "skip"], ["data.on_bad_image is not a key"]),
    (["train", "digits-lt/mixup", "batch_size=4000"], ["at most the number of training images"]),
    (["train", "digits-lt/mixup", "backbone=resnet33"], ["no backbone 'resnet33'"]),
    (["train", "digits-lt/mixup", "select=best-validation"], ["need a validation split"]),
    (["train", "cifar100-lt/mixup", "root=nowhere", "download=false"], ["cifar-100-python/train exists"]),
    (["train", "images/balanced-softmax"], ["data is missing"]),
    (["train", "cifar100-lt/mixup", "root=nowhere", "download=false", "--record", "new/r.jsonl"], ["exists"]),
    (["adjust", "absent", "--by", "tau", "--out", "new/run"], ["no run folder, table or checkpoint absent"]),
    (["train", "digits-lt/mixup", "--out", "/proc/nowhere"], ["run folder /proc/nowhere cannot be created"]),
    (["evaluate", "absent"], ["is not a run folder"]),
    (["data", "inspect", "absent"], ["absent"]),
    (["data", "inspect", "empty"], ["contains no images"]),
    (["data", "verify", "mnist"], ["no benchmark 'mnist'"]),
    (["data", "verify", "cifar100", "--root", "empty"], ["data.root=DIR"]),
    (["nonsense"], ["No such command"]),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "words"), MISTAKES)
def test_mistakes_are_explained_in_words(longtail, tmp_path, arguments, words):
    (tmp_path / "empty").mkdir()
    status, _, err = longtail(*arguments)
    assert status == 2
    for word in words:
        assert word in " ".join(err.split())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty"]  # nothing half-written


def test_a_run_is_never_overwritten(longtail, run, monkeypatch):
    def never(*_, **__):
        raise AssertionError("it is refused before the images are read")

    with monkeypatch.context() as patched:
        patched.setattr("longtail.runs.training._open", never)
        status, _, err = longtail("train", *SHORT, "--out", "run")
    assert status == 2
    assert "already contains a run" in err
    status, _, err = longtail("train", SHORT[0], "epochs=3", "--out", "run", "--resume")
    assert status == 2
    assert "started with other values of training.epochs" in err


# what writes where the user says; FILE is a file, so nothing can lie in it
UNWRITABLE = [
    ["train", SHORT[0], "--record", "FILE/r.jsonl"],
    ["train", SHORT[0], "--record", "run"],
    ["predict", "run", "image.png", "--out", "FILE/predictions.csv"],
    ["export", "run", "--format", "torch-export", "--out", "FILE/model.pt2"],
    ["adjust", "run", "--by", "tau", "--out", "FILE/tau"],
    ["ensemble", "run", "run", "--record", "FILE/r.jsonl"],
    ["report", "run", "--out", "FILE/page.html"],
    ["report", "run", "--figures", "FILE"],
    ["report", "run", "--tables", "FILE/tables"],
    ["data", "inspect", "images", "--out", "FILE"],
    ["reproduce", "reslt-table-5", "--results", "FILE"],
    ["reproduce", "reslt-table-5", "--page", "FILE/page.md"],
    ["reproduce", "reslt-table-5", "--figure", "FILE/table.svg"],
]


def test_a_place_that_cannot_be_written_is_told_in_words(longtail, run, image_folder, tmp_path):
    image_folder.rename(tmp_path / "images")
    shutil.copy(next((tmp_path / "images").rglob("*.png")), tmp_path / "image.png")
    (tmp_path / "FILE").write_text("kept")
    for arguments in UNWRITABLE:
        status, _, err = longtail(*arguments)
        assert (status, "cannot be written" in err) == (2, True), (arguments, err)
    status, _, err = longtail("demo", "--out", "FILE")
    assert (status, "is not an empty folder" in err) == (2, True), err
    assert (tmp_path / "FILE").read_text() == "kept"


def test_an_unfinished_run_is_not_scored(longtail, run):
    shutil.rmtree(run / "checkpoints" / "stage-0-end")
    status, _, err = longtail("evaluate", "run")
    assert status == 2
    assert "was interrupted; finish it first: longtail train --resume --out run" in err
    assert longtail("train", "--resume", "--out", "run")[0] == 0
    assert longtail("evaluate", "run")[0] == 0


def test_a_checkpoint_of_another_model_is_refused(longtail, run):
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("resnet20", "resnet32"))
    status, _, err = longtail("evaluate", "run")
    assert status == 2
    assert "config.yaml was edited after the run started: model.backbone." in err
    (run / "run.json").unlink()  # as in the folder of an earlier version
    metadata = next(run.glob("checkpoints/stage-0-end/checkpoint.json"))
    content = json.loads(metadata.read_text())
    metadata.write_text(
        json.dumps({k: v for k, v in content.items() if k not in ("run", "sha256")})
    )
    status, _, err = longtail("evaluate", "run")
    assert status == 2
    assert "belongs to another model" in err


def test_a_run_in_training_is_not_trained_by_another(longtail, run):
    with RunFolder(run).held():
        status, _, err = longtail("train", "--resume", "--out", "run")
    assert status == 2
    assert "run is being trained by another process" in err
    assert "Traceback" not in err


def test_ctrl_c_leaves_a_run_that_can_be_resumed(longtail, tmp_path, monkeypatch):
    from longtail.engine.log import PlainLog

    honest = PlainLog.epoch

    def interrupt(self, line):
        honest(self, line)
        if line["epoch"] == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(PlainLog, "epoch", interrupt)
    status, _, err = longtail("train", SHORT[0], "epochs=3", "--out", "run")
    assert status == 130
    assert "--resume" in err
    monkeypatch.setattr(PlainLog, "epoch", honest)
    assert longtail("train", "--resume", "--out", "run")[0] == 0
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 3


DEMO = ["cross-entropy", "crt", "tau-normalisation", "balanced-softmax", "reslt", "paco", "do"]


@pytest.mark.slow
def test_the_demo(longtail, tmp_path, monkeypatch):
    # as it ships but for the number of epochs
    whole = training.train
    monkeypatch.setattr(
        training, "train", lambda recipe, more, **rest: whole(recipe, [*more, "epochs=6"], **rest)
    )
    status, out, err = longtail("demo", "--out", "demo")
    assert status == 0
    # outside a terminal: a line before and after each method, on standard error like those of train
    lines = err.splitlines()
    assert lines[::2] == [f"[{n}/7] training {name}" for n, name in enumerate(DEMO, 1)]
    score = json.loads((tmp_path / "demo" / "do" / "scores-test.json").read_text())
    assert f"[7/7] do: macro accuracy {100 * score['macro_accuracy']:.1f} %, " in lines[-1]
    assert len(lines) == 14
    assert "cross-entropy" in out
    assert "balanced-softmax" in out
    assert "longtail train MY-IMAGES" in out
    said = " ".join(out.split())
    assert "In this run" in said
    assert "One seed does not show which method is better" in said
    assert "Better than" not in said
    assert (tmp_path / "demo" / "cross-entropy" / "scores-test.json").exists()


def test_headings_are_whole_on_a_narrow_terminal(longtail, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("FORCE_COLOR", "1")  # a terminal; a pipe gets tables in their natural width
    status, out, _ = longtail("train", *SHORT, "--out", "run")
    out = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out)
    assert status == 0
    assert "digits-lt/balanced-softmax" in out
    table = out[out.index("accuracy in %") :]
    for word in ("micro", "macro", "worst", "class", "many", "medium", "few"):
        assert word in table
    assert "…" not in table
    assert max(map(len, table[: table.index("run folder")].splitlines())) <= 80


def test_training_from_python_shows_progress_unless_it_is_told_not_to(tmp_path, capsys):
    package.train("digits-lt/cross-entropy", ["epochs=1"], out=tmp_path / "a", device="cpu")
    shown = capsys.readouterr()
    assert "epoch 1 of 1: loss" in shown.err
    package.train(
        "digits-lt/cross-entropy", ["epochs=1"], out=tmp_path / "b", device="cpu", progress=False
    )
    assert capsys.readouterr() == ("", "")
