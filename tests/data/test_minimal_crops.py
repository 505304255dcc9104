"""LIFT+'s crops: parts of any size first, nearly whole images at the end."""

from dataclasses import replace

import torch

from longtail.core import Sampling
from longtail.data.augmentation import find_policy
from longtail.data.sampling.loader import TrainingLoader
from longtail.data.sampling.samplers import EpochSampler
from tests import tiny


def test_minimal_crops_grow_to_the_whole_image():
    policy = find_policy("minimal-crop")
    # 1 - sqrt(1 - t^2) at t = 0, .6, .8, 1 is 0, .2, .4, 1; of the way from .08 to 1
    expected = {0: 0.08, 3: 0.08 + 0.2 * 0.92, 4: 0.08 + 0.4 * 0.92, 5: 1.0}
    for epoch, smallest in expected.items():
        low, high = policy.at(epoch, 6).resized_crop
        assert high == 1.0
        assert abs(low - smallest) < 1e-12
    assert policy.at(0, 1).resized_crop == (0.08, 1.0)
    plain = find_policy("resized-crop-flip")
    assert plain.at(5, 6) is plain


def test_minimal_crops_are_drawn_for_each_epoch():
    data = replace(tiny.data(), default_view="minimal-crop")
    sampler = EpochSampler(
        data.manifest.labels,
        data.manifest.class_counts(),
        Sampling(),
        batch_size=77,
        epochs=3,
        seed=0,
    )
    loader = TrainingLoader(data, sampler, ("default",), device=torch.device("cpu"), seed=0)
    (last,) = loader.epoch(2)
    plain = TrainingLoader(data, sampler, ("none",), device=torch.device("cpu"), seed=0)
    (still,) = plain.epoch(2)
    assert torch.equal(last.images, still.images)  # at the end every part is the whole image
    (first,) = loader.epoch(0)
    assert not torch.equal(first.images, still.images)
