"""Images of one's own without options: which recipe, which weights, and that nothing has to be fetched."""

import hashlib
import re
import shutil
import socket
import time

import numpy as np
import pytest
import torch
from PIL import Image

import longtail as package
from longtail import api
from longtail.core import ConfigError, DataError
from longtail.core.manifest import Manifest
from longtail.data.data_set import DataSet
from longtail.data.images.storage import ArrayImages
from longtail.engine.checkpoint import finished, read_weights
from longtail.engine.log import SilentLog
from longtail.engine.options import TrainingConfig
from longtail.engine.pace import Pace, duration, estimate
from longtail.frozen import frozen_features
from longtail.models import build_backbone, embedded, hub
from longtail.recipes import resolve
from longtail.recipes.settling import ON_A_GPU, UNLIKE_FROM, from_nothing, looks_grey, settle
from longtail.runs import Run, load
from tests import tiny

CPU, GPU = torch.device("cpu"), torch.device("cuda")
NAMES, SIZES = ("ant", "bee", "cow"), (40, 16, 8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Small images in three colours with noise."""
    root = tmp_path_factory.mktemp("own") / "images"
    for label, size in enumerate(SIZES):
        (root / NAMES[label]).mkdir(parents=True)
        for number in range(size):
            pixels = np.random.default_rng([label, number]).integers(0, 120, (32, 32, 3))
            pixels[..., label] += 110
            Image.fromarray(pixels.astype(np.uint8)).save(root / NAMES[label] / f"{number:02d}.png")
    return root


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    return api.train(str(folder), out=tmp_path_factory.mktemp("run") / "r", device="cpu")


@pytest.fixture
def offline(monkeypatch):
    """Refuse every connection, as a machine without a network does."""

    def refuse(*_given, **_named):
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


class Notes(SilentLog):
    def __init__(self):
        self.said = []

    def note(self, text):
        self.said.append(text)


# --- the embedded weights ------------------------------------------------------------------------


def test_embedded_weights_are_those_of_the_wheel_in_its_order():
    content = embedded.embedded_file().read_bytes()
    assert hashlib.sha256(content).hexdigest() == embedded.SHA256
    stored = torch.load(embedded.embedded_file(), weights_only=True)
    network = build_backbone("tf_efficientnet_lite0", weights="embedded").network
    own = network.state_dict()
    assert len(stored) == len(own) + 2  # the classifier
    assert all(torch.equal(a, b) for a, b in zip(own.values(), stored.values(), strict=False))
    # names that say the same thing in both files
    assert torch.equal(network.conv_stem.weight, stored["_conv_stem.weight"])


@pytest.mark.parametrize("damage", ["flipped", "cut"])
def test_a_damaged_file_of_embedded_weights_is_refused_by_its_hash(damage, tmp_path, monkeypatch):
    file = tmp_path / "w.pth"
    content = bytearray(embedded.embedded_file().read_bytes())
    content[9_000_000] ^= 1
    file.write_bytes(content if damage == "flipped" else content[:-1])
    monkeypatch.setattr(embedded, "embedded_file", lambda: file)
    with pytest.raises(
        DataError, match=r"damaged or was replaced: its SHA-256 is .* Install it again"
    ):
        build_backbone("tf_efficientnet_lite0", weights="embedded")


def test_missing_embedded_weights_are_said(monkeypatch):
    monkeypatch.setattr(embedded, "PACKAGE", "no_such_package_of_weights")
    with pytest.raises(DataError, match=r"embedded weights are missing.*weights=FILE"):
        embedded.embedded_file()


def test_embedded_weights_do_not_fit_another_network(folder):
    with pytest.raises(
        ConfigError, match="weights=embedded are the weights of tf_efficientnet_lite0"
    ):
        build_backbone("resnet10t", weights="embedded")
    with pytest.raises(
        ConfigError, match="weights=embedded are the weights of tf_efficientnet_lite0"
    ):
        resolve(str(folder), ["weights=embedded", "backbone=resnet50"])


# --- which recipe --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "weights", "train", "rate"),
    [
        ([], "auto", "head", 0.01),
        (["epochs=5"], "auto", "head", 0.01),
        (["weights=embedded"], "embedded", "head", 0.01),
        (["backbone=resnet50", "pretrained=true"], None, "head", 0.01),
        (["train=last-block"], "auto", "last-block", 0.01),
        (["backbone=resnet50", "pretrained=true", "train=all"], None, "all", 0.01),
        (["backbone=vit_tiny_patch16_224", "pretrained=true", "low_rank=4"], None, "all", 0.01),
        (["backbone=resnet32"], None, "all", 0.05),
        (["pretrained=false"], None, "all", 0.05),
        (["weights=null"], None, "all", 0.05),
    ],
)  # fmt: skip
def test_options_say_which_recipe(options, weights, train, rate, folder):
    config = resolve(str(folder), options)
    assert (config.model.weights, config.method.train) == (weights, train)
    assert config.training.learning_rate == rate
    assert config.method.augment == (train != "head")


@pytest.mark.parametrize(
    ("option", "start"), [("train=all", "class-means"), ("pretrained=false", None)]
)
def test_a_pretrained_backbone_is_tuned_from_class_means(option, start, folder):
    found = resolve(str(folder), [option]).method.head_start
    assert (found and found.name) == start


def test_another_method_begins_from_nothing(folder):
    config = resolve(str(folder), ["method=mislas"])
    assert not config.model.begins_trained
    assert config.method_name == "mislas"


def test_what_is_asked_for_overrules_what_is_left_to_the_data(folder):
    assert resolve(str(folder)).training.images_seen is not None
    assert resolve(str(folder), ["epochs=7"]).training.images_seen is None
    assert resolve(str(folder), ["select=last"]).training.early_stopping is None


@pytest.mark.parametrize(
    ("images", "epochs", "batch_size"),
    [(1000, 20, 32), (100, 100, 32), (20, 100, 20), (50_000, 1, 32), (3000, 7, 32)],
)
def test_epochs_are_chosen_by_the_images_that_are_seen(images, epochs, batch_size):
    fitted = TrainingConfig(epochs=100, images_seen=20_000, batch_size=32).fitted_to(images)
    assert (fitted.epochs, fitted.batch_size, fitted.images_seen) == (epochs, batch_size, None)


# --- which weights -------------------------------------------------------------------------------


def data_of(pixels):
    size = len(pixels)
    manifest = Manifest(
        "d", ("a", "b"), np.arange(size), np.arange(size) % 2, np.zeros(size, np.int8)
    )
    return DataSet(manifest, ArrayImages(pixels), (0.5,) * 3, (0.5,) * 3)


def grey(size):
    return torch.randint(0, 255, (size, 1, 8, 8), dtype=torch.uint8).expand(-1, 3, -1, -1)


def test_many_grey_images_get_a_network_from_nothing_and_it_is_said(folder):
    config = resolve(str(folder), ["loss=cross-entropy"])
    settled, reasons = settle(config, data_of(grey(UNLIKE_FROM)), CPU)
    nothing = resolve(str(folder), ["pretrained=false", "loss=cross-entropy"])
    assert settled.model.weights is None
    assert settled.method == nothing.method
    assert settled.training == nothing.training.fitted_to(UNLIKE_FROM)
    assert "random weights" in reasons[0]
    few, reasons = settle(config, data_of(grey(UNLIKE_FROM - 1)), CPU)
    assert few.model.weights == "embedded"
    colour = torch.randint(0, 255, (UNLIKE_FROM, 3, 8, 8), dtype=torch.uint8)
    assert settle(config, data_of(colour), CPU)[0].model.weights == "embedded"
    assert not looks_grey(data_of(colour))


def test_a_change_of_the_user_stays_in_a_network_from_nothing(folder):
    changed = from_nothing(resolve(str(folder), ["learning_rate=0.02", "epochs=3", "seed=4"]))
    training = changed.training
    assert (training.learning_rate, training.epochs, training.seed) == (0.02, 3, 4)
    assert training.batch_size == 64


def test_a_gpu_gets_weights_of_the_hub_where_they_are_at_hand(folder, monkeypatch):
    from longtail.recipes import settling

    monkeypatch.setattr(settling, "at_hand", lambda name: name == ON_A_GPU)
    config = resolve(str(folder))
    data = data_of(torch.randint(0, 255, (20, 3, 8, 8), dtype=torch.uint8))
    model, reasons = settle(config, data, GPU)
    assert (model.model.backbone, model.model.pretrained) == (ON_A_GPU, True)
    assert model.model.resolved(32).enlarge_to == 224
    assert ON_A_GPU in reasons[0]
    monkeypatch.setattr(settling, "at_hand", lambda name: False)
    model, reasons = settle(config, data, GPU)
    assert model.model.weights == "embedded"
    assert "the Hugging Face hub did not respond" in reasons[0]


def test_the_cache_is_used_without_a_network(offline, tmp_path, monkeypatch):
    import huggingface_hub

    found = tmp_path / "model.safetensors"
    asked = []

    def cached(repository, file):
        asked.append(repository)
        return str(found) if file == "model.safetensors" else None

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", cached)
    assert hub.at_hand(ON_A_GPU)
    assert asked == [f"timm/{ON_A_GPU}"]


@pytest.mark.parametrize("switched_off", [True, False])
def test_a_hub_that_does_not_respond_costs_no_more_than_its_seconds(switched_off, monkeypatch):
    import huggingface_hub

    def hangs(*_given, **_named):
        time.sleep(30)

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", hangs)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", switched_off)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *given: None)
    begin = time.monotonic()
    assert not hub.at_hand(ON_A_GPU, seconds=0.3)
    assert hub.unreachable(ON_A_GPU, seconds=0.3)
    assert time.monotonic() - begin < 25  # far below what it hangs for


# --- the whole path ------------------------------------------------------------------------------


def test_without_options_and_without_a_network(folder, offline, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    log = Notes()
    run = package.train(str(folder), ["epochs=3"], out=tmp_path / "r", device="cpu", log=log)
    said = "\n".join(log.said)
    assert "tf_efficientnet_lite0 with the weights that were installed with longtail" in said
    assert "weights=FILE" in said
    assert re.search(
        r"steps? of 32 images left, .* each: (at most .*|less than a second) to the end", said
    )
    weights = api.record(run, "test")["weights"]
    assert weights["sha256"] == embedded.SHA256
    trained = read_weights(finished(run.folder.checkpoints))
    plain = build_backbone("tf_efficientnet_lite0", weights="embedded").state_dict()
    assert all(torch.equal(trained[f"backbone.{name}"], value) for name, value in plain.items())


def test_colours_are_told_apart_and_val_selects(run):
    scores = run.scores("test")
    assert scores["macro_accuracy"] == 1.0
    assert scores["selection"].startswith("best macro accuracy on val (epoch ")
    # 45 of 64 images are in train: 28 + 11 + 6; 20,000 / 45 is more than 100 epochs
    assert run.config.training.epochs == 100
    assert run.folder.read_metrics()[-1]["epochs_done"] < 100  # nothing got better on val
    assert run.config.model.enlarge_to == 160


def test_a_run_without_options_resumes_exactly(run, folder, tmp_path):
    class Stop(SilentLog):
        def epoch(self, line):
            if line["epoch"] == 12:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        api.train(str(folder), out=tmp_path / "r", device="cpu", log=Stop())
    resumed = api.train(str(folder), out=tmp_path / "r", device="cpu", resume=True)
    one, other = (read_weights(finished(r.folder.checkpoints)) for r in (run, resumed))
    assert tiny.equal(one, other)
    assert resumed.config.training == run.config.training


@pytest.mark.slow
def test_it_is_reported_exported_and_used(run, longtail, folder, tmp_path, monkeypatch):
    where = shutil.copytree(run.folder.path, tmp_path / "used")
    for line in (
        ["report", where],
        ["predict", where, folder, "--out", tmp_path / "predictions.csv"],
        ["export", where, "--format", "safetensors", "--out", tmp_path / "w.safetensors"],
        ["adjust", where, "--by", "tau", "--force", "--out", tmp_path / "adjusted"],
    ):
        status, _, said = longtail(*line)
        assert status == 0, said
    assert (where / "report.html").exists()
    assert len((tmp_path / "predictions.csv").read_text().splitlines()) == 1 + sum(SIZES)


def test_the_server_reads_the_features_that_training_kept(run):
    pytest.importorskip("starlette")
    from longtail.serve.neighbours import FeaturesOf, TrainingImages

    model, notes = load(run.folder.path, device="cpu"), []
    data = Run.open(run.folder.path).open_data().split("train")
    data = data.normalised_by(model.metadata.mean, model.metadata.std)
    served = TrainingImages(model, data, note=notes.append)
    assert len(notes) == 1
    assert f"features of {len(data.manifest)} images read from" in notes[0]
    # they are what the method computes on its way from an image to its prediction
    own = frozen_features(FeaturesOf(model.method).eval(), data, device=model.device, keep=False)
    own = torch.nn.functional.normalize(own - own.mean(dim=0), dim=1)
    torch.testing.assert_close(served._unit, own)


# --- how long it takes ---------------------------------------------------------------------------


def test_the_time_to_the_end_is_said_once_and_loudly_where_it_is_long():
    said = []
    pace = Pace(said.append, "a GPU", 64, on_cpu=True)
    assert pace.describe(20.0, 600) == (
        "THIS WILL TAKE LONG on a CPU. 600 steps of 64 images left, 20 s each: about 3.3 hours to "
        "the end. Shorter: a GPU."
    )
    short = pace.describe(0.002, 5000)
    assert short == "5,000 steps of 64 images left, 2 ms each: about 10 s to the end."
    tiny = Pace(said.append, "", 32, may_stop=True).describe(0.0015, 627)  # 0.94 s
    assert tiny == "627 steps of 32 images left, 1.5 ms each: less than a second to the end."
    assert "LONG" not in Pace(said.append, "", 64, on_cpu=False).describe(20.0, 600)
    pace.begin(10)
    for _ in range(2):
        pace.epoch()
        for _ in range(5):
            pace.step()
        pace.tell()
    assert len(said) == 1
    assert "5 steps of 64 images left" in said[0]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.3, "less than a second"),
        (40, "40 s"),
        (720, "12 minutes"),
        (12_960, "3.6 hours"),
        (7_200, "2 hours"),
        (181_440, "2.1 days"),
    ],
)
def test_durations_are_in_words(seconds, text):
    assert duration(seconds) == text
    assert estimate(seconds) == (text if seconds < 1 else f"about {text}")
    assert estimate(seconds, "at most") == (text if seconds < 1 else f"at most {text}")
