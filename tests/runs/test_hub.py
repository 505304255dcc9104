"""The Hugging Face hub: `longtail push` and `hf-hub:owner/name`, with a local directory as the hub."""

import fnmatch
import inspect
import shutil

import huggingface_hub
import numpy as np
import pytest
import torch

import longtail
from longtail.core.errors import ConfigError, LongtailError
from longtail.export import hub as pushing
from longtail.runs import training
from longtail.runs.hub import local
from tests.runs.test_predict_and_export import call


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub") / "run"
    return training.train(
        "digits-lt/cross-entropy", ["epochs=1", "workers=1"], out=folder, device="cpu"
    )


class Directory:
    """A hub in a directory: repositories by name, each with its newest commit; calls have real signatures."""

    def __init__(self, root, monkeypatch):
        self.root, self.commits = root, 0
        self.real = huggingface_hub.HfApi, huggingface_hub.snapshot_download
        monkeypatch.setattr(huggingface_hub, "HfApi", lambda library_name: self)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", self.snapshot_download)

    def create_repo(self, *args, **options):
        bound = inspect.signature(self.real[0].create_repo).bind(None, *args, **options).arguments
        (self.root / bound["repo_id"]).mkdir(parents=True, exist_ok=True)
        return f"https://hub/{bound['repo_id']}"

    def upload_folder(self, **options):
        inspect.signature(self.real[0].upload_folder).bind(None, **options)
        repo = self.root / options["repo_id"]
        for file in [path for path in repo.rglob("*") if path.is_file()]:
            name = file.relative_to(repo).as_posix()
            if any(fnmatch.fnmatch(name, pattern) for pattern in options["delete_patterns"]):
                file.unlink()
        shutil.copytree(options["folder_path"], repo, dirs_exist_ok=True)
        self.commits += 1

    def snapshot_download(self, *args, **options):
        bound = inspect.signature(self.real[1]).bind(*args, **options).arguments
        repo = self.root / bound["repo_id"]
        if not repo.exists():
            raise huggingface_hub.errors.EntryNotFoundError(f"{bound['repo_id']}:\nnot\nfound")
        commit = self.root / "snapshots" / f"commit-{self.commits}"
        for file in [path for path in repo.rglob("*") if path.is_file()]:
            name = file.relative_to(repo).as_posix()
            if any(fnmatch.fnmatch(name, pattern) for pattern in bound["allow_patterns"]):
                (commit / name).parent.mkdir(parents=True, exist_ok=True)
                if not (commit / name).exists():
                    (commit / name).symlink_to(file)  # as in the hub's cache
        commit.mkdir(parents=True, exist_ok=True)
        return str(commit)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Directory(tmp_path / "hub", monkeypatch)


def test_a_pushed_model_is_loaded_and_predicts_what_the_run_predicts(run, hub, tmp_path):
    assert pushing.push_run(run.folder.path, "me/digits") == "https://hub/me/digits"
    pushed = {
        p.relative_to(hub.root / "me/digits").as_posix()
        for p in hub.root.rglob("me/digits/**/*")
        if p.is_file()
    }
    assert pushed == {
        "README.md", "config.yaml", "run.json", "scores-test.json",
        "checkpoints/stage-0-end/weights.safetensors", "checkpoints/stage-0-end/checkpoint.json",
    }  # fmt: skip
    loaded, own = (
        longtail.load("hf-hub:me/digits", device="cpu"),
        longtail.load(run.folder.path, device="cpu"),
    )
    for (name, one), (_, other) in zip(
        loaded.method.state_dict().items(), own.method.state_dict().items(), strict=True
    ):
        assert torch.equal(one, other), name
    image = np.random.default_rng(0).integers(0, 255, (8, 8, 3)).astype(np.uint8)
    assert loaded.predict(image).equals(own.predict(image))


def test_the_card_states_prior_protocol_and_scores(run, hub):
    pushing.push_run(run.folder.path, "me/digits")
    card = (hub.root / "me/digits/README.md").read_text()
    scores = run.scores("test")
    assert card.startswith("---\nlibrary_name: longtail\n")
    assert "Class distribution that the scores assume: that of training." in card
    assert "500 images, last epoch." in card
    for value in (
        scores["macro_accuracy"],
        *(scores["groups"][g]["accuracy"] for g in ("many", "few")),
    ):
        assert f"| {100 * value:.1f} |" in card
    assert 'longtail.load("hf-hub:me/digits")' in card


def test_a_second_push_leaves_nothing_of_the_first(run, hub, tmp_path):
    old = hub.root / "me/digits/checkpoints/stage-7-end/weights.safetensors"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"of an earlier model")
    pushing.push_run(run.folder.path, "me/digits")
    assert not old.exists()
    assert longtail.load("hf-hub:me/digits", device="cpu").metadata.epochs_done == 1


def test_code_and_pickles_of_a_stranger_are_not_even_fetched(run, hub):
    pushing.push_run(run.folder.path, "me/digits")
    repo = hub.root / "me/digits"
    for name in (
        "environment.json",
        "method.py",
        "checkpoints/stage-0-end/state.pt",
        "weights.bin",
    ):
        (repo / name).write_text("harm")
    fetched = {
        p.relative_to(local("hf-hub:me/digits")).as_posix()
        for p in local("hf-hub:me/digits").rglob("*")
    }
    assert (
        not {"environment.json", "method.py", "weights.bin", "checkpoints/stage-0-end/state.pt"}
        & fetched
    )
    assert "checkpoints/stage-0-end/weights.safetensors" in fetched


def test_from_the_command_line(run, hub, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, "push", run.folder.path, "me/digits") == 0
    assert "longtail predict hf-hub:me/digits IMAGES" in capsys.readouterr().out
    from PIL import Image

    Image.new("RGB", (8, 8), (9, 9, 9)).save("a.png")
    assert call(monkeypatch, "predict", "hf-hub:me/digits", "a.png", "--top", "1") == 0
    assert capsys.readouterr().out.startswith("path,class_1,probability_1")


def test_mistakes_are_told_in_words(run, hub, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"named owner/name, not 'digits'"):
        pushing.push_run(run.folder.path, "digits")
    with pytest.raises(ConfigError, match=r"named owner/name, not '../x/y'"):
        longtail.load("hf-hub:../x/y")
    with pytest.raises(
        LongtailError, match=r"^hf-hub:me/none cannot be fetched: me/none: not found\.$"
    ):
        longtail.load("hf-hub:me/none")
    (hub.root / "me/other").mkdir(parents=True)
    with pytest.raises(
        LongtailError, match=r"me/other on the Hugging Face hub is no model that longtail"
    ):
        longtail.load("hf-hub:me/other")
    monkeypatch.setattr(hub, "upload_folder", lambda **options: 1 / 0)
    with pytest.raises(
        LongtailError, match=r"cannot be pushed to me/x: division by zero\. Log in with"
    ):
        pushing.push_run(run.folder.path, "me/x")
