"""`longtail features`: what it writes, and that trainings read it."""

import numpy as np
import timm
import torch
from PIL import Image

from longtail.models import build_backbone


def test_features_are_written_once_and_read_by_every_training(longtail, image_folder, tmp_path):
    status, out, err = longtail("features", image_folder, "--out", "features.npz")
    assert status == 0, err
    assert "22 images, 1,280 features each, by tf_efficientnet_lite0" in " ".join(out.split())
    table = np.load(tmp_path / "features.npz")
    assert table["classes"].tolist() == ["ant", "bee", "cow"]
    assert np.bincount(table["labels"]).tolist() == [12, 6, 4]
    train = table["labels"][table["split"] == "train"]
    assert table["class_counts"].tolist() == np.bincount(train).tolist()

    backbone = build_backbone("tf_efficientnet_lite0", weights="embedded", enlarge_to=160).eval()
    files = [np.asarray(Image.open(file)) for file in sorted(image_folder.rglob("*.png"))]
    known = timm.get_pretrained_cfg("tf_efficientnet_lite0")
    pixels = torch.from_numpy((np.stack(files) / 255 - known.mean) / known.std).float()
    with torch.inference_mode():
        expected = backbone(pixels.permute(0, 3, 1, 2)).numpy()
    np.testing.assert_allclose(table["features"], expected, rtol=1e-4, atol=1e-4)

    for seed in (0, 1):
        options = ("epochs=1", "batch_size=8", f"seed={seed}", "--out", f"run-{seed}")
        status, out, err = longtail("train", image_folder, *options)
        assert status == 0, err
        assert "read from" in " ".join((out + err).split())


def test_what_has_no_features_is_refused(longtail, image_folder):
    status, _, err = longtail("features", image_folder, "backbone=resnet20")
    assert status == 2
    assert "pretrained=true, weights=FILE or weights=embedded" in " ".join(err.split())
    status, _, err = longtail("features", image_folder, "--out", "features.csv")
    assert status == 2
    assert ".npz" in err
