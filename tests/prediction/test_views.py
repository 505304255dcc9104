"""Parts of a test image whose logits are averaged."""

import json

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as tv

from longtail import api
from longtail.prediction.views import TIMES, MeanOfCrops, crop_views
from tests import tiny


@pytest.mark.parametrize("crops", ["five-crop", "ten-crop"])
def test_they_are_torchvisions(crops):
    images = tiny.images(2, side=56)
    parts = crop_views(images, crops)
    assert len(parts) == TIMES[crops]
    large = tv.resize(images, [62, 62], antialias=False)  # 56 + 6
    cut = tv.five_crop if crops == "five-crop" else tv.ten_crop
    for part, expected in zip(parts, cut(large, [56, 56]), strict=True):
        torch.testing.assert_close(part, expected, atol=1e-5, rtol=1e-5)


def test_small_images_are_resized_once():
    parts = crop_views(tiny.images(2, side=32), "five-crop", side=224)
    assert {tuple(part.shape) for part in parts} == {(2, 3, 224, 224)}
    large = tv.resize(tiny.images(2, side=32), [248, 248], antialias=False)
    torch.testing.assert_close(parts[4], large[:, :, 12:236, 12:236])


def test_the_prediction_is_the_mean_of_the_logits():
    method = tiny.build("single-head").eval()
    images = tiny.images(3)
    logits = [method.predict(part) for part in crop_views(images, "ten-crop")]
    found = MeanOfCrops(method, "ten-crop").eval().predict(images)
    np.testing.assert_allclose(
        found.detach(), np.mean([one.detach().numpy() for one in logits], axis=0), rtol=1e-5
    )


def test_evaluate_and_predict_with_crops(longtail, image_folder, tmp_path):
    options = ["backbone=resnet20", "epochs=1", "batch_size=8"]
    run = api.train(str(image_folder), options, out=tmp_path / "run", device="cpu")
    before = run.folder.scores("test").read_text()
    status, out, err = longtail("evaluate", tmp_path / "run", "--crops", "five-crop")
    assert status == 0, err
    assert "mean of 5 parts" in " ".join(out.split())
    scores = json.loads((tmp_path / "run" / "scores-test-five-crop.json").read_text())
    assert scores["split"] == "test"
    assert run.folder.scores("test").read_text() == before
    assert run.evaluated_splits() == ["test"]
    for more in ([], ["--crops", "ten-crop"]):
        status, out, err = longtail("predict", tmp_path / "run", image_folder, *more)
        assert status == 0, err
    status, _, err = longtail("predict", tmp_path / "run", image_folder, "--crops", "six-crop")
    assert status == 2
