"""What a command writes goes only into folders of its own: never among images or other files."""

import shutil
from pathlib import Path

import pytest
import yaml

from longtail.core.errors import CheckpointError, ConfigError
from longtail.data.sources.folder_contents import refuse_images_among_runs
from longtail.engine.own_folder import require_own_folder
from longtail.engine.run_folder import require_writable
from tests.cli.test_verbs import SHORT


def content(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob("*"))


@pytest.mark.parametrize(
    "words",
    [
        ["train", *SHORT],
        ["train", *SHORT, "--resume"],
        ["train", *SHORT, "--seeds", "2"],
        ["train", *SHORT, "--each", "batch_size=100,200"],
        ["compare", "digits-lt/cross-entropy", "--seeds", "1"],
        ["reproduce", "decoupling-table-1"],
        ["data", "inspect", "{images}"],
        ["data", "labels", "{images}"],
    ],
)
def test_nothing_is_written_among_images(longtail, image_folder, monkeypatch, words):
    def never(*_, **__):
        raise AssertionError("it is refused before the images are read")

    monkeypatch.setattr("longtail.runs.training._open", never)
    monkeypatch.setattr("longtail.cli.data.prepare", never)
    before = content(image_folder)
    words = [word.format(images=image_folder) for word in words]
    status, _, err = longtail(*words, "--out", str(image_folder))
    assert status == 2
    assert "contains" in err
    assert "choose another with --out" in err or "another folder with --out" in err
    assert content(image_folder) == before


def test_an_inspection_is_written_again_into_its_own_folder(longtail, image_folder):
    for _ in range(2):
        assert longtail("data", "inspect", str(image_folder), "--out", "inspection")[0] == 0


def test_logs_hidden_files_and_other_runs_may_lie_there(tmp_path):
    for name in ("slurm-7.out", ".DS_Store", "counts.csv"):
        (tmp_path / name).touch()
    require_own_folder(tmp_path, ["counts.csv"], "Findings")
    require_own_folder(tmp_path / "new", [], "Runs")
    with pytest.raises(ConfigError, match=r"other files or folders: counts.csv. Runs are written"):
        require_own_folder(tmp_path, [], "Runs")
    (tmp_path / "method" / "seed-0").mkdir(parents=True)
    (tmp_path / "method" / "seed-0" / "config.yaml").touch()
    (tmp_path / "figure.png").touch()
    refuse_images_among_runs(tmp_path)
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "1.png").touch()
    with pytest.raises(ConfigError, match=r"contains images, for example cat/1.png"):
        refuse_images_among_runs(tmp_path)


def test_a_run_that_left_out_damaged_files_continues_where_the_images_have_moved(
    longtail, image_folder, tmp_path
):
    (image_folder / "ant" / "broken.jpg").write_text("no image")
    changes = ["epochs=1", "backbone=resnet20", "pretrained=false", "batch_size=4"]
    status, _, err = longtail(
        "train", image_folder, *changes, "--on-bad-image", "skip", "--out", "run", "--device", "cpu"
    )
    assert status == 0, err
    shutil.move(image_folder, tmp_path / "moved")
    status, _, err = longtail("evaluate", "run", "--split", "val")
    assert status == 2
    assert "which is not there any more" in err
    assert "longtail train NEW-PLACE --resume --out run" in err
    for words in ([], changes):
        status, out, err = longtail("train", "moved", *words, "--resume", "--out", "run")
        assert (status, "other values" in err) == (0, False)
        assert "already finished; nothing is left to train" in out + err
    status, out, err = longtail("train", "moved", "epochs=2", "--resume", "--out", "run")
    assert (status, "already finished" in out + err) == (2, False)
    assert "training.epochs" in err
    data = yaml.safe_load((tmp_path / "run/config.yaml").read_text())["data"]
    assert (data["on_bad_image"], Path(data["path"]).name) == ("skip", "moved")
    status, _, err = longtail("evaluate", "run", "--split", "val")  # looks in the new place
    assert status == 0, err
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    status, out, err = longtail("train", "--resume", "--out", "run")
    assert status != 0
    assert "is finished, but its weights are missing from run/checkpoints. Restore" in err
    assert "already finished" not in out + err


@pytest.mark.skipif(
    not Path("/proc/self").exists(), reason="needs a folder where nothing can be made"
)
def test_what_cannot_be_written_is_refused_before_the_images_are_read(longtail, monkeypatch):
    def never(*_, **__):
        raise AssertionError("it is refused before the images are read")

    monkeypatch.setattr("longtail.runs.training._open", never)
    for more in ([], ["--seeds", "2"]):
        status, _, err = longtail("train", *SHORT, *more, "--out", "/proc/runs")
        assert status != 0
        assert "cannot be created" in err
    with pytest.raises(CheckpointError, match=r"cannot be written \(.*\). Write to another place"):
        require_writable(Path("/proc/x.html"))
