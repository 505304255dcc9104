"""A run folder does not lie: what was changed, mixed up or lost is told in words, or does no harm."""

import json
import os
import resource
import shutil
import stat
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
from PIL import Image

from longtail import api
from longtail.core.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    LongtailError,
    OutputError,
    ProtocolError,
    TrainingError,
)
from longtail.engine import checkpoint as ckpt
from longtail.engine.checksums import json_text, sealed
from longtail.engine.log import SilentLog
from longtail.engine.run_folder import RunFolder, remove_leftovers, temporary_of
from longtail.ensembles.several_runs import ensemble
from longtail.export import export_run
from longtail.prediction import read_predictions
from longtail.report.compare import Comparison
from longtail.report.view import RunView
from longtail.runs import record, scoring
from tests import tiny

SOURCE = "digits-lt/cross-entropy"
SHORT = ["epochs=2", "backbone=resnet20", "largest=40", "precision=fp32", "batch_size=32"]


class Interrupting(SilentLog):
    """Stops after the first epoch was saved."""

    def epoch(self, line):
        if line["epoch"] == 2:
            raise KeyboardInterrupt


def begun(out, *changes):
    with pytest.raises(KeyboardInterrupt):
        api.train(SOURCE, [*SHORT, *changes], out=out, device="cpu", log=Interrupting())
    return RunFolder(out)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return api.train(
        SOURCE, SHORT, out=tmp_path_factory.mktemp("finished") / "run", device="cpu"
    ).folder.path


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    return begun(tmp_path_factory.mktemp("interrupted") / "run").path


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


@pytest.fixture
def half(interrupted, tmp_path):
    return shutil.copytree(interrupted, tmp_path / "half")


def flip(file, place, bit=0):
    content = bytearray(file.read_bytes())
    content[place % len(content)] ^= 1 << bit
    file.write_bytes(content)


def resume(folder):
    return api.train(SOURCE, SHORT, out=folder, resume=True, device="cpu")


def weights(folder):
    return ckpt.read_weights(ckpt.finished(folder / "checkpoints"))


def files_of(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


NEEDLESS = ("lock", "tensorboard")  # nothing is read from them


@pytest.mark.parametrize("seed", range(4))
def test_a_flipped_bit_in_any_file_is_noticed_by_a_resume_or_harmless(half, finished, seed):
    generator = np.random.default_rng(seed)
    right = weights(finished)
    for name in files_of(half):
        if any(part in name for part in NEEDLESS):
            continue
        copy = shutil.copytree(half, half.parent / f"copy-{seed}")
        size = (copy / name).stat().st_size
        flip(copy / name, int(generator.integers(size)), int(generator.integers(8)))
        try:
            resume(copy)
        except LongtailError:
            pass  # the message of each kind is tested below
        else:
            assert tiny.equal(weights(copy), right), name
        shutil.rmtree(copy)


def test_every_bit_of_the_state_counts(half):
    found = ckpt.newest(half / "checkpoints")
    generator = np.random.default_rng(0)
    whole = (found / ckpt.STATE).read_bytes()
    for _ in range(100):
        flip(found / ckpt.STATE, int(generator.integers(len(whole))), int(generator.integers(8)))
        with pytest.raises(CheckpointError, match=r"state.pt was changed after it was written"):
            ckpt.read_state(found)
        (found / ckpt.STATE).write_bytes(whole)


def test_a_checkpoint_of_another_seed_is_not_continued(half, tmp_path):
    other = begun(tmp_path / "other", "seed=1")
    name = ckpt.newest(half / "checkpoints").name
    shutil.rmtree(half / "checkpoints" / name)
    shutil.copytree(other.checkpoints / name, half / "checkpoints" / name)
    with pytest.raises(
        CheckpointError, match=rf"{name} belongs to another run: its configuration, seed, data"
    ):
        resume(half)


def test_an_edited_configuration_is_named_and_moved_data_is_not(run, half):
    for folder, act in ((half, resume), (run, lambda path: api.load(path, device="cpu"))):
        config = folder / "config.yaml"
        whole = config.read_text()
        config.write_text(whole.replace("learning_rate: 0.1", "learning_rate: 0.2"))
        with pytest.raises(
            ConfigError, match=r"config.yaml was edited .*: training.learning_rate\."
        ):
            act(folder)
        config.write_text("# a comment\n" + whole.replace("workers: 4", "workers: 2"))
        act(folder)


@pytest.mark.parametrize(
    ("damaged", "where"),
    [(b"data:\n  name: [digits\nmethod: {", r" at line \d"), (b"\xff\xfe\x00", "")],
)
def test_a_damaged_configuration_is_told_with_what_to_do(run, damaged, where):
    (run / "config.yaml").write_bytes(damaged)
    with pytest.raises(
        ConfigError, match=rf"config\.yaml is damaged: it is no YAML{where}\. Restore"
    ) as told:
        api.Run.open(run)
    assert "\n" not in str(told.value)


def test_another_layout_of_the_same_text_is_no_change(half, finished):
    for name in ("config.yaml", "metrics.jsonl"):
        file = half / name
        file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    (half / "config.yaml").write_bytes(b"\xef\xbb\xbf" + (half / "config.yaml").read_bytes())
    for name in ("run.json", "environment.json"):
        file = half / name
        file.write_text(json.dumps(json.loads(file.read_text())))
    resume(half)
    assert tiny.equal(weights(half), weights(finished))
    assert RunView.open(half).environment["command"]


def test_what_can_be_written_again_is_told_how(run):
    (run / "predictions-test.parquet").unlink()
    with pytest.raises(
        CheckpointError,
        match=r"parquet is missing\. To write it again: longtail evaluate .* --split test\.",
    ):
        RunView.open(run)
    (run / "scores-test.json").write_text("")
    with pytest.raises(CheckpointError) as refused:
        RunView.open(run)
    assert str(refused.value).count("To write it again: longtail evaluate") == 1
    api.evaluate(api.Run.open(run), device="cpu")
    RunView.open(run)
    (run / "run.json").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"run.json does not describe the run: .* Restore it"):
        RunView.open(run)


def test_the_manifest_cannot_be_missing_or_of_another_run(run, tmp_path):
    (run / "run.json").rename(tmp_path / "kept")
    with pytest.raises(CheckpointError, match=r"run.json, which is missing next to config.yaml"):
        api.load(run, device="cpu")
    (tmp_path / "kept").rename(run / "run.json")
    other = begun(tmp_path / "other", "seed=1")
    shutil.copy(other.environment, run / "environment.json")
    with pytest.raises(
        CheckpointError, match=r"environment.json was changed .*or it belongs to another run"
    ):
        api.load(run, device="cpu")
    shutil.copy(other.run, run / "run.json")
    with pytest.raises(ConfigError, match=r"training.seed"):
        api.load(run, device="cpu")


def test_scores_and_predictions_are_those_that_were_written(run, tmp_path):
    predictions, scores = run / "predictions-test.parquet", run / "scores-test.json"
    table = pq.read_table(predictions)
    whole, said = predictions.read_bytes(), scores.read_text()
    pq.write_table(table.slice(0, 10), predictions)  # 10 of 500 rows, as the case has it
    with pytest.raises(DataError, match=r"predictions-test.parquet was changed"):
        RunView.open(run)
    predictions.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="is not a predictions file"):
        RunView.open(run)
    predictions.write_bytes(whole)
    scores.write_text(said.replace('"accuracy": 0.', '"accuracy": 0.9'))
    for act in (RunView.open, lambda path: record(api.Run.open(path))):
        with pytest.raises(
            CheckpointError, match=r"scores-test.json was changed after it was written"
        ):
            act(run)
    # whole files of another run, on the same images
    other = api.train(SOURCE, [*SHORT, "seed=1"], out=tmp_path / "other", device="cpu").folder
    shutil.copy(other.scores("test"), scores)
    with pytest.raises(CheckpointError, match=r"scores-test.json belongs to another run"):
        RunView.open(run)
    scores.write_text(said)
    shutil.copy(other.predictions("test"), predictions)
    with pytest.raises(DataError, match="other predictions than those that were scored"):
        RunView.open(run)
    predictions.write_bytes(whole)
    RunView.open(run)


def test_the_epochs_are_those_that_were_written(run):
    metrics = run / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace('"loss": ', '"loss": 1'))
    for act in (lambda: RunView.open(run).lines, lambda: record(api.Run.open(run))):
        with pytest.raises(CheckpointError, match=r"metrics.jsonl was changed after the run ended"):
            act()


def test_three_parts_are_all_that_a_model_needs(run, images, tmp_path):
    for part in run.iterdir():
        if part.name not in ("config.yaml", "run.json", "checkpoints"):
            part.unlink()
    predicted = api.load(run, device="cpu").predict(images / "ant")
    assert predicted["error"].isna().all()
    assert export_run(run, "safetensors").path.is_file()


def test_a_run_of_before_is_opened_with_a_note(run):
    make_old(run)
    opened = api.Run.open(run)
    assert opened.notes == (
        "This run was started before run folders had checksums, so it cannot be checked whether its "
        "files are unchanged.",
    )
    scores = api.evaluate(opened, device="cpu")
    assert opened.notes[0] in scores["notes"]
    assert record(opened)["epochs"] == 2
    assert RunView.open(run).lines


def make_old(folder):
    """Take away what earlier versions did not write."""
    (folder / "run.json").unlink()
    for file in [
        folder / "environment.json",
        *folder.glob("scores-*"),
        *folder.rglob("checkpoint.json"),
    ]:
        content = json.loads(file.read_text())
        for key in (
            "sha256",
            "run",
            "state_sha256",
            "metrics_sha256",
            "images_sha256",
            "predictions_sha256",
        ):
            content.pop(key, None)
        file.write_text(json.dumps(content))


# --- which images ------------------------------------------------------------------------------


@pytest.fixture
def images(tmp_path):
    root = tmp_path / "images"
    for name, size in (("ant", 40), ("bird", 20), ("cow", 15)):
        for number in range(size):
            write_image(root / name / f"{2 * number:03d}.png", [ord(name[0]), number])
    return root


def write_image(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (16, 16, 3))
    Image.fromarray(pixels.astype(np.uint8)).save(path)


OWN = ["epochs=1", "batch_size=16", "backbone=resnet20", "precision=fp32"]


def test_images_that_were_trained_on_are_never_scored_as_test(images, tmp_path):
    run = api.train(str(images), OWN, out=tmp_path / "run", device="cpu")
    for number in range(20):  # the case: without split.csv, another split would be drawn
        write_image(images / "ant" / f"{2 * number + 1:03d}.png", [9, number])
    split = run.folder.split
    table = split.read_text()
    split.unlink()
    acts = (lambda: api.evaluate(api.Run.open(run.folder.path), device="cpu"),
            lambda: RunView.open(run.folder.path).data)  # fmt: skip
    for act in acts:
        with pytest.raises(ProtocolError, match=r"split.csv is missing.*Restore it"):
            act()
    split.write_text(table.replace(",train,", ",test,", 3))
    for act in acts:
        with pytest.raises(CheckpointError, match=r"split.csv was changed after the run started"):
            act()
    split.write_text(table)
    scored = api.evaluate(run, device="cpu")["num_images"]
    assert scored == table.count(",test,")
    # a run of before has the checksum of its training images in the metadata of its checkpoints
    make_old(run.folder.path)
    split.unlink()
    for act in acts:
        with pytest.raises(
            ProtocolError, match=r"The train split differs from the one that .* was trained on"
        ):
            act()


def test_a_copy_of_a_training_image_is_no_test_image(images, tmp_path):
    run = api.train(str(images), OWN, out=tmp_path / "run", device="cpu")
    table = pd.read_csv(run.folder.split)
    train, test = (table["path"][table["split"] == split].iloc[0] for split in ("train", "test"))
    shutil.copy(images / train, images / test)
    with pytest.raises(ProtocolError, match=rf"trained on 1 of the \d+ images of test.* {test}"):
        api.evaluate(run, device="cpu")


def test_changed_content_is_named_or_refused(images, tmp_path):
    run = api.train(str(images), OWN, out=tmp_path / "run", device="cpu")
    with pytest.raises(KeyboardInterrupt):
        api.train(
            str(images), [*OWN, "epochs=2"], out=tmp_path / "half", device="cpu", log=Interrupting()
        )
    table = pd.read_csv(run.folder.split)
    train, test = (table["path"][table["split"] == split].iloc[0] for split in ("train", "test"))
    write_image(images / test, [7, 7])
    old, again = RunView.open(run.folder.path), api.evaluate(run, device="cpu")
    assert (
        f"of test whose content has changed since the run started: 1, for example {test}."
        in " ".join(again["notes"])
    )
    assert old.data is None  # the page would show other images than those that were scored
    other = api.train(str(images), [*OWN, "seed=1"], out=tmp_path / "other", device="cpu")
    Comparison.of([RunView.open(r.folder.path) for r in (run, other)])  # both on the image of now
    with pytest.raises(
        ConfigError, match="Only runs that were trained on the same images can be combined"
    ):
        ensemble([run, other], device="cpu")
    with pytest.raises(DataError, match="not scored on the same"):
        Comparison.of([old, RunView.open(other.folder.path)])
    write_image(images / train, [7, 8])
    with pytest.raises(
        CheckpointError, match=r"The images of train have changed since the run started"
    ):
        api.train(str(images), [*OWN, "epochs=2"], out=tmp_path / "half", resume=True, device="cpu")


def test_arrays_are_compared_too(run, monkeypatch):
    from longtail.data import source_to_batch

    honest = source_to_batch.read_digits

    def changed():
        data = honest()
        data.images.pixels[data.manifest.rows("train")] ^= 1
        return data

    monkeypatch.setattr(source_to_batch, "read_digits", changed)
    with pytest.raises(ProtocolError, match="The training images differ from those"):
        api.evaluate(api.Run.open(run), device="cpu")


# --- files -------------------------------------------------------------------------------------


def test_what_killed_processes_left_is_removed(run):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    host = temporary_of(run / "x").name.split(".")[-2].rpartition("-")[0]
    dead = [f".environment.json.{process.pid}.tmp", f".scores-test.json.{host}-{process.pid}.tmp"]
    alive = [f".config.yaml.{host}-{os.getpid()}.tmp", f".config.yaml.elsewhere-{process.pid}.tmp"]
    for name in (*dead, *alive):
        (run / name).touch()
    (run / "checkpoints" / f".stage-0-end.{host}-{process.pid}.tmp").mkdir()
    api.Run.open(run)
    left = {path.name for path in run.iterdir()}
    assert left.isdisjoint(dead)
    assert left >= set(alive)
    os.utime(run / alive[1], (0, 0))  # nothing takes a day to write, wherever it runs
    resume(run)
    assert not (run / alive[1]).exists()
    remove_leftovers(run / "checkpoints")
    assert [path for path in (run / "checkpoints").iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_the_mode_of_every_file_is_the_users_own(tmp_path, mask):
    before = os.umask(mask)
    try:
        folder = begun(tmp_path / "run").path
    finally:
        os.umask(before)
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    assert len(files) > 5
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o666 & ~mask}


@pytest.mark.parametrize("name", ["metrics.jsonl", "checkpoints", "config.yaml", "checkpoints/stage-0-end",
                                  "checkpoints/stage-0-end/weights.safetensors", "scores-test.json"
                                  ""])  # fmt: skip
def test_links_out_of_a_run_folder_are_refused(run, tmp_path, name):
    (run / name).rename(tmp_path / "elsewhere")
    (run / name).symlink_to(tmp_path / "elsewhere")
    for act in (resume, lambda path: api.load(path, device="cpu"), RunView.open):
        with pytest.raises(CheckpointError, match=f"{name} is not a regular (file|folder)"):
            act(run)
    if not (tmp_path / "elsewhere").is_dir():
        (run / name).unlink()
        os.mkfifo(run / name)  # would hang who reads it
        with pytest.raises(CheckpointError, match="is not a regular file"):
            api.load(run, device="cpu")


def test_parts_of_a_run_without_a_configuration_are_not_written_to(half):
    (half / "config.yaml").unlink()
    before = (half / "metrics.jsonl").read_bytes()
    for again in (True, False):
        with pytest.raises(
            ConfigError, match=r"contains metrics.jsonl of a run, but no config.yaml"
        ):
            api.train(SOURCE, SHORT, out=half, resume=again, device="cpu")
    assert (half / "metrics.jsonl").read_bytes() == before


def test_weights_that_are_not_finite_are_neither_written_nor_used(run, tmp_path):
    found = ckpt.finished(run / "checkpoints")
    values, metadata = ckpt.read_weights(found), ckpt.read_metadata(found)
    values["head.weight"][0, 0] = torch.nan
    with pytest.raises(
        TrainingError,
        match=r"was not written: 1 tensor of the weights not finite, for example head",
    ):
        ckpt.save_checkpoint(tmp_path / "c", "stage-0-end", metadata, values, {})
    assert not (tmp_path / "c").exists()
    # as an earlier version would have written them
    content = safetensors.torch.save(values)
    (found / ckpt.WEIGHTS).write_bytes(content)
    described = metadata.model_copy(update={"weights_sha256": ckpt.checksum(content)})
    (found / ckpt.METADATA).write_text(json_text(sealed(described.model_dump(mode="json"))))
    with pytest.raises(CheckpointError, match="so the model is useless"):
        api.evaluate(api.Run.open(run), device="cpu")


def test_logits_that_are_not_finite_are_not_scored(run, monkeypatch):
    before = (run / "scores-test.json").read_bytes()
    opened = api.Run.open(run)
    honest = scoring.load

    def overflowing(*arguments, **more):
        model = honest(*arguments, **more)
        model.method.head.weight.data.fill_(3e38)
        return model

    monkeypatch.setattr(scoring, "load", overflowing)
    with pytest.raises(
        OutputError, match=r"outputs values that are not finite .* for \d+ of 500 images"
    ):
        api.evaluate(opened, device="cpu")
    assert (run / "scores-test.json").read_bytes() == before
    read_predictions(run / "predictions-test.parquet")


# --- a full disk --------------------------------------------------------------------------------


@contextmanager
def files_may_grow_to(size):
    """Let writing fail beyond `size` bytes, as a full disk does; SIGXFSZ is ignored by Python."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["torch-export", "safetensors", "onnx"])
def test_an_export_to_a_full_disk_is_one_sentence(run, form):
    with (
        files_may_grow_to(50_000),
        pytest.raises(
            CheckpointError, match=r"cannot be written \(File too large\)\. Free some space"
        ),
    ):
        export_run(run, form)
    assert list((run / "export").iterdir()) == []
    assert export_run(run, form).path.stat().st_size > 50_000


def test_an_evaluation_on_a_full_disk_leaves_what_was_there(run):
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    with files_may_grow_to(1000), pytest.raises(CheckpointError, match=r"cannot be written"):
        api.evaluate(api.Run.open(run), device="cpu")
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()} == before


@pytest.mark.slow
def test_every_verb_tells_that_a_folder_is_of_before(run, images, longtail):
    verbs = (("evaluate", run), ("predict", run, images / "ant"), ("export", run, "--format", "safetensors"),
             ("report", run))  # fmt: skip
    for verb in verbs:
        _, out, err = longtail(*verb)
        assert "before run folders had checksums" not in out + err
    make_old(run)
    shutil.rmtree(run / "export")
    for verb in verbs:
        status, out, err = longtail(*verb)
        assert status == 0
        assert "was started before run folders had checksums" in (
            out if verb[0] == "evaluate" else err
        )
