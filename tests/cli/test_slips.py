"""Slips of a newcomer: each is answered with what to write instead, before anything takes long."""

from pathlib import Path

import pytest

from longtail.cli.verbs import on_ctrl_c, say_what_is_loaded
from longtail.core.errors import LongtailError
from longtail.data import open_data
from longtail.recipes import resolve
from longtail.runs import Run
from tests.cli.test_verbs import SHORT


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["train", "digits-lt/cross-entropy", "--epochs", "3"], "here epochs=3."),
        (["train", "digits-lt/cross-entropy", "--lr=0.1"], "here learning_rate=0.1."),
        (["train", "digits-lt/cross-entropy", "--batch-size", "8"], "here batch_size=8."),
        (["adjust", "nowhere", "--by", "tua"], "--by must be one of tau"),
        (["evaluate", "nowhere", "--split", "tets"], "one of train, val, test, but got 'tets'."),
        (["export", "nowhere", "--format=onxx"], "--format must be one of onnx"),
        (["ensemble", "a", "b", "--split", "x"], "--split must be one of train, val, test"),
        (["adjust", ".", "--by", "prior"], "--by prior needs --prior FILE"),
        (["adjust", ".", "--by", "tau", "--prior", "uniform"], "--prior belongs to"),
        (["train", "digits-lt/cross-entropy", "--resume"], "--out RUN."),
    ],
)
def test_slips_are_answered(longtail, words, told):
    status, out, err = longtail(*words)
    assert status == 2
    assert told in out + err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["calibrate", "run"], "interrupted; nothing was written"),
        (["train", "images"], "the run had not begun, so there is nothing to continue"),
        (["compare", "images"], "interrupted; the same command continues"),
        (["evaluate", "run"], "interrupted"),
        (["serve", "run"], "ended"),
        ([], "interrupted"),
    ],
)
def test_ctrl_c_names_a_way_on_only_where_there_is_one(words, told):
    assert on_ctrl_c(words).endswith(told)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["a/recipe", "epochs=9", "--out", "my runs/x"], "--resume --out 'my runs/x'"),
        (["a/recipe", "--on-bad-image=skip"], "--resume --out 'my runs/x'"),
        (["--resume", "--out", "my runs/x"], "--resume --out 'my runs/x'"),
        (["a/recipe", "--seeds", "2"], "--resume a/recipe --seeds 2 --out 'my runs/x'"),
        (["a/r", "--seeds=2", "--out=my runs/x"], "--resume a/r --seeds=2 '--out=my runs/x'"),
        (["a/r", "--device", "cpu", "--resume"], "--resume a/r --device cpu --out 'my runs/x'"),
    ],
)
def test_ctrl_c_says_how_to_continue_the_run_that_was_begun(tmp_path, monkeypatch, words, told):
    monkeypatch.chdir(tmp_path)
    folder = Path("my runs/x")
    (folder / "seed-0").mkdir(parents=True)
    assert on_ctrl_c(["train", *words], folder).endswith("nothing to continue")
    (folder / "seed-0" / "config.yaml").touch()
    expected = f"interrupted; continue the run with: longtail train {told}"
    assert on_ctrl_c(["train", *words], folder) == expected


def test_ctrl_c_repeats_the_number_of_processes(tmp_path, monkeypatch):
    (tmp_path / "config.yaml").touch()
    for whole, here, told in (("2", "2", " --processes 2"), ("1", "1", ""), ("8", "4", "")):
        monkeypatch.setenv("WORLD_SIZE", whole)  # as PyTorch's launcher does
        monkeypatch.setenv("LOCAL_WORLD_SIZE", here)
        said = on_ctrl_c(["train", "a/recipe", "--out", "x"], tmp_path)
        assert said.endswith(f"longtail train --resume --out {tmp_path}{told}")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["tran", "x"],
            "error: No such command 'tran'. Did you mean 'train'? longtail --help explains",
        ),
        (
            ["evaluate"],
            "error: Missing argument 'run'. longtail evaluate --help explains the command.",
        ),
        (
            ["data", "inspect", "--nothing", "m"],
            "longtail data inspect --help explains the command.",
        ),
        (["predict", ".", ".", "--top", "x"], "error: Invalid value for '--top': "),
        (["evaluate", "absent"], "error: "),
    ],
)
def test_every_error_has_the_same_form(longtail, words, told):
    status, _, err = longtail(*words)
    assert status == 2
    assert told in err
    assert err.startswith("error: ")
    assert "Error" not in err
    assert "Usage" not in err


def test_ctrl_c_names_the_folder_that_was_chosen(longtail, monkeypatch):
    def begin(config, place, *_):
        place.mkdir(parents=True)
        (place / "config.yaml").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr("longtail.cli.train._train", begin)
    status, _, err = longtail("train", *SHORT)
    assert status == 130
    assert "longtail train --resume --out runs/digits-lt" in err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["train", "images.zip"], "images.zip is an archive: unpack it first"),
        (["data", "inspect", "images.zip"], "images.zip is an archive: unpack it first"),
        (["data", "inspect", "imags"], "imags. Did you mean "),
        (["report", "runs/frist"], "it does not exist. Did you mean runs/first/?"),
        (["predict", "runs/first", "imgaes"], "imgaes does not exist. Did you mean images/?"),
        (["predict", "runs/first", "a", "b"], "None of these 2 paths exists; the first is a."),
        (["predict", "runs/frist", "images"], "Did you mean runs/first/?"),
        (["data", "labels", "imgaes"], "'imgaes'. Did you mean images/?"),
        (["compare", "tabel.csv"], "no folder or table tabel.csv. Did you mean table.csv?"),
        (["train", "recpie.yaml"], "no recipe file recpie.yaml. Did you mean recipe.yaml?"),
        (["adjust", "runs/frist"], "checkpoint runs/frist. Did you mean runs/first/?"),
        (["adjust", "tabel.csv", "--by=tau"], "tabel.csv. Did you mean table.csv?"),
        (["evaluate", "runs/first", "--data", "imgaes"], "imgaes. Did you mean images/?"),
        (["evaluate", "runs/first", "--data=tabel.csv"], "tabel.csv. Did you mean table.csv?"),
        (["evaluate", "images"], "images is not a run folder: it contains images."),
        (["evaluate", "runs"], "it contains several; name one, for example runs/first."),
        (["data", "inspect", "runs/first"], "is a run folder, not a folder of images"),
        (["train", "images/ant"], "images/ant, without class folders. Did you mean /"),
    ],
)
def test_what_was_named_is_told_from_what_was_meant(longtail, image_folder, words, told):
    for name in ("images.zip", "table.csv", "recipe.yaml"):
        (image_folder.parent / name).touch()
    (image_folder.parent / "runs" / "first" / "checkpoints").mkdir(parents=True)
    (image_folder.parent / "runs" / "first" / "config.yaml").touch()
    status, _, err = longtail(*words)
    assert status == 2
    assert told in " ".join(err.split())


def test_what_is_missing_is_told_whoever_asks(longtail, image_folder):
    """The command line looks before PyTorch is imported; what it finds is what the library says."""
    (image_folder.parent / "runs" / "first").mkdir(parents=True)
    (image_folder.parent / "table.csv").touch()
    table = str(image_folder.parent / "tabel.csv")
    for words, ask in (
        (["train", "imags"], lambda: resolve("imags")),
        (["train", "resnet/reslt"], lambda: resolve("resnet/reslt")),
        (["train", "rceipe.yaml"], lambda: resolve("rceipe.yaml")),
        (["train", table], lambda: open_data(resolve(table).data)),
        (["evaluate", "runs/frist"], lambda: Run.open("runs/frist")),
    ):
        with pytest.raises(LongtailError) as refused:
            ask()
        assert longtail(*words)[2].strip() == f"error: {refused.value}"


def test_help_and_unknown_options_come_before_a_missing_path(longtail):
    assert longtail("train", "nowhere", "--help")[0] == 0
    assert "-o" in longtail("evaluate", "-o", "nowhere", "runs/first")[2]


def test_what_is_loaded_is_told_on_a_terminal_before_pytorch_is_imported(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    say_what_is_loaded("serve", ["--port", "8123", "runs/first"])
    say_what_is_loaded("ensemble", ["a", "b", "--out", "c"])
    say_what_is_loaded("methods", ["do"])
    assert capsys.readouterr().err == "loading runs/first ...\nloading a, b ...\n"


def test_help_is_a_verb_too(longtail):
    assert "longtail demo" in longtail("help")[1]
    assert "Try" not in longtail("help", "train")[2]


def test_resume_names_the_newest_run(longtail, tmp_path):
    longtail("train", *SHORT, "--out", "runs/mine")
    err = longtail("train", "digits-lt/cross-entropy", "--resume")[2]
    assert "runs/mine" in err
    # nothing but lines on what is no terminal
    assert not longtail("report", "runs/mine")[2].startswith("\n")


def test_a_folder_is_found_by_the_beginning_of_its_name(longtail, tmp_path):
    (tmp_path / "My Photos (2024)").mkdir()
    assert "Did you mean My Photos (2024)/?" in longtail("train", "my photos")[2]
