"""What DO costs at prediction and on disk: mixtures against plain averaging, the solver, storage.

    python benchmarks/speed/do_cost.py

ResNet-32 with 100 classes and three sub-models of random weights; the time does not depend on their values.
Plain averaging looks at one image; instance-level test-time learning at the image and at one (`mirror`)
or two other views. The paper's own ratio is 268 / 95 = 2.8, of an epoch that also reads its images.
Ratios of medians of alternating repetitions. Appends a record to results/do-cost.jsonl.

Time: about two minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from longtail.core import ClassCounts, ShotGroups
from longtail.core.rng import numpy_generator
from longtail.data.augmentation import Draws, find_policy, normalise
from longtail.engine.hardware import describe_environment
from longtail.ensembles import instance_weights, weighted_sum
from longtail.methods import Setting
from longtail.methods.do import DO, DOOptions
from longtail.models.options import ModelConfig

CPU = torch.device("cpu")
COUNTS = ClassCounts([int(500 * 0.01 ** (c / 99)) for c in range(100)])
REPEATS, IMAGES, BATCH = 5, 2000, 200
STD = (0.25, 0.25, 0.25)


def settled() -> DO:
    """Return DO with three sub-models of random weights."""
    model = ModelConfig(backbone="resnet32")
    groups = ShotGroups.from_counts(COUNTS)
    method = DO(DOOptions(), Setting(COUNTS, groups, 1, model.build, model.build_experts))
    parts = method.allotment
    for stage, share in ((1, 0.5), (2, 0.8), (3, 0.0)):
        importance = {name: torch.rand(parts.owner_of(name).shape) for name in parts.names}
        parts.release(stage, importance, share)
        parts.train()
        with torch.no_grad():  # statistics of the normalisation: without them numbers vanish
            for _ in range(30):
                parts(torch.randn(BATCH, 3, 32, 32), stage)
        parts.settle(stage)
        if stage < 3:
            parts.begin(stage + 1, {n: 0.05 * torch.randn_like(v) for n, v in importance.items()})
    return method.eval().to(memory_format=torch.channels_last)


def timed(work: Callable[[], object]) -> float:
    """Return seconds of one call."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def ratio(ours: Callable[[], object], theirs: Callable[[], object]) -> dict[str, object]:
    """Alternate two pieces of work; return how many times longer the first takes."""
    ours(), theirs()
    pairs = [(timed(ours), timed(theirs)) for _ in range(REPEATS)]
    each = [a / b for a, b in pairs]
    one, other = (statistics.median(column) for column in zip(*pairs, strict=True))
    spread = [round(min(each), 2), round(max(each), 2)]
    return {
        "seconds": round(one, 3),
        "against": round(other, 3),
        "ratio": round(one / other, 2),
        "spread": spread,
    }


def storage(method: DO) -> dict[str, int]:
    """Return the bytes of the weights files of DO and of one plain network."""
    plain = nn.Sequential(ModelConfig(backbone="resnet32").build(), nn.Linear(64, 100))
    with tempfile.TemporaryDirectory() as folder:
        sizes = {}
        for name, module in (("do", method), ("plain", plain)):
            file = Path(folder) / name
            weights = {k: v.contiguous() for k, v in module.state_dict().items()}
            safetensors.torch.save_file(weights, file)
            sizes[name] = file.stat().st_size
    return sizes


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", type=Path, default=Path("results/do-cost.jsonl"))
    arguments = parser.parse_args()
    torch.manual_seed(0)
    method = settled()
    pixels = torch.randint(256, (IMAGES, 3, 32, 32), dtype=torch.uint8)
    sade = find_policy("sade")

    def sub_model_logits(images: Tensor) -> Tensor:
        plain = normalise(images, (0.5, 0.5, 0.5), STD)
        return method.sub_model_logits(plain.contiguous(memory_format=torch.channels_last))

    def averaged() -> None:
        for images in torch.split(pixels, BATCH):
            sub_model_logits(images).softmax(dim=2).mean(dim=1)

    def learned(views: str) -> None:
        for number, images in enumerate(torch.split(pixels, BATCH)):
            clean = sub_model_logits(images).softmax(dim=2)
            if views == "mirror":
                first, second = clean, sub_model_logits(images.flip(3)).softmax(dim=2)
            else:
                first, second = (
                    sub_model_logits(
                        sade(images.clone(), Draws(numpy_generator(number, n), len(images)))
                    ).softmax(dim=2)
                    for n in ("first", "second")
                )
            weighted_sum(clean, instance_weights(first, second))

    backbone, head = method.allotment.network

    def one_network() -> None:
        for images in torch.split(pixels, BATCH):
            plain = normalise(images, (0.5, 0.5, 0.5), STD)
            head(backbone(plain.contiguous(memory_format=torch.channels_last)))

    def masking() -> None:
        for _ in range(IMAGES // BATCH):
            for t in range(3):
                method.allotment.settled_weights(t + 1)

    first, second = (torch.randn(10_000, 3, 100).softmax(dim=2) for _ in range(2))
    with torch.inference_mode():
        found = {
            "averaging, against one network": ratio(averaged, one_network),
            "instance weights from the mirror image, against averaging": ratio(
                lambda: learned("mirror"), averaged
            ),
            "instance weights from two random views, against averaging": ratio(
                lambda: learned("sade"), averaged
            ),
            "masking the weights, against averaging": ratio(masking, averaged),
        }
        solver = statistics.median(
            timed(lambda: instance_weights(first, second)) for _ in range(REPEATS)
        )
        share = solver * IMAGES / 10_000 / timed(lambda: learned("sade"))
    sizes = storage(method)
    record = {
        "benchmark": "do-cost",
        "date": f"{datetime.now():%Y-%m-%dT%H:%M:%S}",
        "command": " ".join(["python", *sys.argv]),
        **describe_environment(CPU),
        "lines": [{"measure": name, **line} for name, line in found.items()],
        "solver_seconds_for_10000_images": round(solver, 3),
        "solver_share_of_test_time_learning": round(share, 4),
        "bytes": sizes,
        "storage_ratio": round(sizes["do"] / sizes["plain"], 3),
    }
    with arguments.record.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(record) + "\n")
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
