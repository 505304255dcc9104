"""The recipes of the large benchmarks, two steps each on generated pictures in the published layout."""

import json

import numpy as np
import pytest
from PIL import Image

from longtail import api
from longtail.recipes import recipe_names, resolve

SIZES = (7, 4, 2)  # training pictures of the classes


def write(root, folder, name, number):
    path = root / folder / name / f"{name}_{number}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path.relative_to(root).as_posix()


def published(root, layout):
    """Write pictures and lists as `layout` says: list file -> (folder, pictures per class)."""
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
LARGE = [name for name in recipe_names() if name.partition("/")[0] in LAYOUTS]


@pytest.mark.parametrize("recipe", LARGE)
def test_two_steps_on_generated_pictures(recipe, tmp_path):
    benchmark = recipe.partition("/")[0]
    published(tmp_path, LAYOUTS[benchmark])
    # releasing weights takes 130 steps of DO however small the data set is
    shorter = ["steps_per_tenth=1"] if recipe.endswith("/do") else []
    run = api.train(
        recipe,
        [f"root={tmp_path}", "image_size=72", "epochs=1", "batch_size=6", "backbone=resnet10",
         "pretrained=false", "workers=2", *shorter],
        out=tmp_path / "run",
        device="cpu",
    )  # fmt: skip
    scores = json.loads(run.folder.scores("test").read_text())
    assert scores["num_classes"] == 3
    expected = {"imagenet-lt": "class0", "inaturalist2018": "Plantae/class0"}
    assert scores["per_class"][0]["name"] == expected.get(benchmark, "a/class0")
    assert [row["train_count"] for row in scores["per_class"]] == list(SIZES)


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
