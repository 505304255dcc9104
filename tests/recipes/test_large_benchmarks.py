"""The recipes of the large benchmarks: files in the published layout, and two steps of every recipe."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from longtail import api
from longtail.core import ShotGroups
from longtail.core.errors import DataError
from longtail.data.benchmark_facts import verify_imagenet
from longtail.data.sources.imagenet import read_imagenet
from longtail.models import build_backbone
from longtail.recipes import recipe_names, resolve
from tests import small_benchmarks

SIZES = (7, 4, 2)  # training images of the classes


def write(root, folder, name, number):
    path = root / folder / name / f"{name}_{number}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path.relative_to(root).as_posix()


def published(root, layout):
    """Write images and lists as `layout` says: list file -> (folder, images per class)."""
    number = 0
    for file, (folder, sizes) in layout.items():
        lines = []
        for label, size in enumerate(sizes):
            for _ in range(size):
                number += 1
                lines.append(f"{write(root, folder, f'class{label}', number)} {label}\n")
        (root / file).write_text("".join(lines))


LAYOUTS = {
    "imagenet-lt": {
        "ImageNet_LT_train.txt": ("train", SIZES),
        "ImageNet_LT_val.txt": ("train", (1, 1, 1)),
        "ImageNet_LT_test.txt": ("val", (2, 2, 2)),
    },
    "places-lt": {
        "Places_LT_train.txt": ("data_256/a", SIZES),
        "Places_LT_val.txt": ("val_256", (1, 1, 1)),
        "Places_LT_test.txt": ("test_256", (2, 2, 2)),
    },
    "inaturalist2018": {
        "iNaturalist18_train.txt": ("train_val2018/Plantae", SIZES),
        "iNaturalist18_val.txt": ("train_val2018/Plantae", (1, 1, 1)),
    },
}
# a large transformer is too much for a test: see test_foundation
LARGE = [
    name
    for name in recipe_names()
    if name.partition("/")[0] in (*LAYOUTS, "imagenet") and "/foundation-" not in name
]
# DO looks at every image of a set to rank weights, so it gets sets of a few images, in files
DO = [name for name in LARGE if resolve(name, ["root=x"]).method_name == "do"]


@pytest.mark.parametrize(
    "recipe",
    [
        "imagenet-lt/cross-entropy",
        *(pytest.param(name, marks=pytest.mark.slow)
          for name in ("places-lt/cross-entropy", "inaturalist2018/cross-entropy", *DO)),
    ],
)  # fmt: skip
def test_an_epoch_on_files_in_the_published_layout(recipe, tmp_path, monkeypatch):
    benchmark = recipe.partition("/")[0]
    published(tmp_path, LAYOUTS[benchmark])
    small_benchmarks.thin_networks(monkeypatch)
    run = api.train(
        recipe,
        [f"root={tmp_path}", "image_size=72", "epochs=1", "batch_size=6", "pretrained=false",
         "workers=2", "precision=fp32", *(["retraining_steps=1"] if recipe in DO else [])],
        out=tmp_path / "run",
        device="cpu",
    )  # fmt: skip
    scores = json.loads(run.folder.scores("test").read_text())
    assert scores["num_classes"] == 3
    expected = {"imagenet-lt": "class0", "inaturalist2018": "Plantae/class0"}
    assert scores["per_class"][0]["name"] == expected.get(benchmark, "a/class0")
    assert [row["train_count"] for row in scores["per_class"]] == list(SIZES)


def whole_imagenet(root, classes=("n01440764", "n01443537"), val=("n01440764", "n01443537")):
    for number, name in enumerate(classes):
        for image in range(4 + number):
            write(root, "train", name, image)
    for name in val:
        write(root, "val", name, 99)
    (root / "test").mkdir()  # the official one: images without labels
    Image.new("RGB", (80, 80)).save(root / "test" / "ILSVRC2012_test_00000001.JPEG")


@pytest.mark.slow
def test_an_epoch_of_the_whole_imagenet_in_the_folders_of_torchvision(tmp_path, monkeypatch):
    whole_imagenet(tmp_path / "imagenet")
    small_benchmarks.thin_networks(monkeypatch)
    run = api.train(
        "imagenet/paco-resnet50",
        [f"root={tmp_path / 'imagenet'}", "image_size=72", "epochs=1", "batch_size=4", "queue=16",
         "workers=2"],
        out=tmp_path / "run",
        device="cpu",
    )  # fmt: skip
    scores = json.loads(run.folder.scores("test").read_text())
    assert [row["name"] for row in scores["per_class"]] == ["n01440764", "n01443537"]
    assert [row["train_count"] for row in scores["per_class"]] == [4, 5]
    assert [row["test_count"] for row in scores["per_class"]] == [1, 1]


def test_a_copy_of_imagenet_that_is_not_sorted_or_not_whole_is_refused(tmp_path):
    whole_imagenet(tmp_path / "other", val=("n01440764", "n01484850"))
    with pytest.raises(
        DataError, match=r"train has 2 classes and val 2; n01443537 is only in train"
    ):
        read_imagenet(tmp_path / "other")
    whole_imagenet(tmp_path / "loose", val=())
    with pytest.raises(DataError, match="there is no val"):
        read_imagenet(tmp_path / "loose")
    (tmp_path / "loose" / "val").mkdir()
    with pytest.raises(DataError, match="val contains no image"):
        read_imagenet(tmp_path / "loose")
    Image.new("RGB", (80, 80)).save(tmp_path / "loose" / "val" / "ILSVRC2012_val_00000001.JPEG")
    with pytest.raises(DataError, match=r"1 image outside class folders; .*val/n01440764/\*\.JPEG"):
        read_imagenet(tmp_path / "loose")


def test_a_copy_of_imagenet_is_held_to_its_published_sizes(tmp_path):
    whole_imagenet(tmp_path)
    found = {check.what: (check.found, check.expected) for check in verify_imagenet(tmp_path)}
    assert found == {
        "classes": ("2", "1000"),
        "train: images": ("9", "1281167"),
        "train: class sizes": ("4..5", "732..1300"),
        "val: images": ("2", "50000"),
        "val: class sizes": ("1..1", "50..50"),
    }


# --- the stand-in: real class counts, generated images, every recipe's own network, thin -----------------


@pytest.mark.parametrize("benchmark", small_benchmarks.FACTS)
def test_the_class_counts_of_a_small_benchmark(benchmark):
    total, most, least, sizes = small_benchmarks.FACTS[benchmark]
    for counts in (
        small_benchmarks.class_counts(benchmark),
        small_benchmarks.made_to(total, most, least, sizes),
    ):
        assert (counts.total, max(counts.values), min(counts.values)) == (total, most, least)
        assert tuple(ShotGroups.from_counts(counts).sizes().values()) == sizes


@pytest.fixture(scope="module")
def trained():
    """What two steps of a configuration left, so that recipes of other schedules need not repeat them."""
    return {}


@pytest.fixture(scope="module")
def counts_of():
    benchmarks = (*small_benchmarks.FACTS, "imagenet")
    return {benchmark: small_benchmarks.class_counts(benchmark) for benchmark in benchmarks}


@pytest.mark.slow
@pytest.mark.parametrize("recipe", sorted({*LARGE} - {*DO}))
def test_two_steps_of_every_stage(recipe, tmp_path, monkeypatch, trained, counts_of):
    config = small_benchmarks.configuration(recipe)
    counts = counts_of[config.data.name]
    key = small_benchmarks.told_apart_by(config)
    if key not in trained:
        method, lines = small_benchmarks.train(config, counts, tmp_path / "run", monkeypatch)
        with torch.inference_mode():
            logits = method.predict(torch.zeros(2, 3, small_benchmarks.SIDE, small_benchmarks.SIDE))
        trained[key] = (logits, [line["stage"] for line in lines])
    logits, stages = trained[key]
    assert logits.shape == (2, len(counts))
    assert logits.isfinite().all()
    assert stages


BACKBONES = sorted({resolve(name, ["root=x"]).model.backbone for name in LARGE})


@pytest.mark.parametrize("backbone", BACKBONES)
def test_backbones_have_the_depth_of_their_names(backbone):
    """A ResNet-50 has 53 convolutions, one of 152 layers 155."""
    network = build_backbone(backbone)
    depth = int(re.sub(r"\D", "", backbone.partition(".")[0].partition("_")[0]))
    assert sum(isinstance(module, torch.nn.Conv2d) for module in network.modules()) >= depth


def test_hyper_parameters_of_the_specification():
    plain = resolve("imagenet-lt/cross-entropy", ["root=x"])
    assert (plain.training.epochs, plain.training.batch_size) == (90, 512)
    assert (plain.training.learning_rate, plain.training.schedule) == (0.2, "cosine")
    assert (plain.model.backbone, plain.data.augmentation) == (
        "resnext50",
        "resized-crop-flip-jitter",
    )
    reslt = resolve("imagenet-lt/reslt", ["root=x"])
    assert (reslt.training.epochs, reslt.training.warmup, reslt.method.alpha) == (180, 5, 0.99)
    birds = resolve("inaturalist2018/reslt", ["root=x"])
    assert (birds.training.weight_decay, birds.method.alpha) == (1e-4, 0.85)
    # 1,542 of the 8,142 classes are the first group
    assert int(birds.method.cuts[0] * 8142) == 1542
