"""Runs of any number of classes for the report: scores of made predictions, and noise for images."""

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from longtail.core import ClassCounts, Manifest
from longtail.core.predictions import Predictions
from longtail.data.data_set import DataSet
from longtail.data.images.storage import ArrayImages
from longtail.evaluation import score
from longtail.models import Backbone
from longtail.report.view import RunView
from longtail.runs.model import build

STRANGE = (
    "</script><b>fox</b>", 'a "quoted" owl', "it's & co", "lynx 🐈", "<!--", "a\u202eb", "\u2028",
    "<img src=x onerror=alert(1)>",
)  # fmt: skip


def names_of(classes):
    """Return class names, the first of them strange."""
    return tuple([*STRANGE, *(f"species {n:04d}" for n in range(classes))][:classes])


def synthetic_view(path, classes, per_class, *, side=32, largest=500, seed=0):
    """Open the run in `path`, and put made predictions of `classes` classes in the place of its own.

    Args:
        path: A scored run of one stage.
        classes: C.
        per_class: Test images of a class; the last class has one.
        side: Of the images, in pixels.
        largest: Training images of the first class; the last has 2.
        seed: Of all that is drawn.
    """
    generator = np.random.default_rng(seed)
    counts = np.rint(largest * (2 / largest) ** (np.arange(classes) / (classes - 1))).astype(int)
    size = np.full(classes, per_class)
    size[-1] = 1
    labels = np.repeat(np.arange(classes), size)
    # frequent classes are recognised more often, and what is not is taken for a frequent one
    sure = generator.random(len(labels)) < (0.15 + 0.75 * counts / largest)[labels] ** 0.5
    predicted = np.where(sure, labels, generator.integers(0, max(2, classes // 3), len(labels)))
    logits = generator.standard_normal((len(labels), classes), dtype=np.float32)
    logits *= 0.6
    logits[np.arange(len(labels)), labels] += 2
    top = logits.max(axis=1) + generator.gamma(2.0, 2.0, len(labels)).astype(np.float32)
    logits[np.arange(len(labels)), predicted] = top
    names = names_of(classes)
    view = RunView.open(path, device="cpu")
    found = Predictions(
        "test", np.arange(classes, classes + len(labels)), labels, logits, names,
        view.predictions.checkpoint,
    )  # fmt: skip
    scores = score(
        found, ClassCounts(counts.tolist(), names), rule="threshold", selection="last epoch",
        recipe=f"synthetic/{classes}-classes", seed=0,
    )  # fmt: skip
    # one training image of each class, then the test images
    all_labels = np.concatenate([np.arange(classes), labels])
    splits = np.repeat([0, 2], [classes, len(labels)])
    paths = tuple(
        f"{names[label].replace('/', '_')}/photo-{n:06d}.jpg" for n, label in enumerate(all_labels)
    )
    manifest = Manifest("made", names, np.arange(len(all_labels)), all_labels, splits, paths)
    images = ArrayImages(_noise(all_labels, side, generator))
    data = DataSet(manifest, images, (0.0,) * 3, (1.0,) * 3)
    view.__dict__.pop("right", None)  # it was looked at when the run was opened
    config, known = view.run.config, ClassCounts(counts.tolist(), names)
    method = build(config, config.model.untrained(), known, side).eval()
    model = replace(view.model, method=method)
    view.__dict__.update(predictions=found, scores=scores, data=data, model=model)
    return view


def let_it_see_one_quarter(view, row, column, side=32):
    """Put a network in the place of the view's own that knows a quarter of an image; 0, 0 is the upper left.

    Its logit of class c is -c times the brightness of the quarter.
    """
    window = torch.zeros(1, 1, side, side)
    half = side // 2
    window[:, :, half * row : half * (row + 1), half * column : half * (column + 1)] = 1

    class Window(nn.Module):
        def forward(self, images):
            return images.sum(dim=1, keepdim=True).clamp(min=0) * window

    method = view.model.method
    method.backbone = Backbone(nn.Sequential(Window(), nn.AdaptiveAvgPool2d(1), nn.Flatten()), 1)
    head = nn.Linear(1, len(view.counts))
    with torch.no_grad():
        head.weight.copy_(-torch.arange(len(view.counts))[:, None])
    method.head = head


def _noise(labels, side, generator):
    """Return a colour for each class with coarse noise, uint8 [N, 3, side, side]."""
    colours = generator.integers(30, 200, (labels.max() + 1, 3, 1, 1))
    coarse = generator.integers(-30, 55, (len(labels), 3, 8, 8))
    small = np.clip(colours[labels] + coarse, 0, 255).astype(np.uint8)
    return torch.from_numpy(small).repeat_interleave(side // 8, 2).repeat_interleave(side // 8, 3)
