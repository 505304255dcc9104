"""LIFT's two numbers on CIFAR-100-LT at ratio 100 (Shi et al., ICML 2024), on a machine with one GPU.

    LONGTAIL_DATA=DATA python benchmarks/accuracy/lift.py [--seeds 1] [--out DIR] [--record FILE]

81.7 % with CLIP's ViT-B/16 and five crops at test time, 89.1 % with the ViT-B/16 that is called ImageNet-21k.
Needs CIFAR-100 in DATA, the weights of both networks in the Hugging Face cache or a connection, and open_clip
(pip install 'longtail[text]') for the texts that the head of CLIP begins with.

Time: not measured, but counted. A run sees 108,470 training images of 224 pixels and 10,000 test images, with
crops 50,000: about ten minutes for both on a GPU that trains a ViT-B/16 with 500 images a second. Differences
from the published code stand in `differs:` of the two recipes.

Appends a line per row and seed to results/lift.jsonl.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from longtail import api
from longtail.engine.log import PlainLog
from longtail.runs import append_record

# row -> recipe, crops at test time, published accuracy in %
ROWS = {
    "CLIP ViT-B/16": ("cifar100-lt/foundation-clip-vit-b16", "five-crop", 81.7),
    "ImageNet-21k ViT-B/16": ("cifar100-lt/foundation-in21k-vit-b16", None, 89.1),
}


def texts(recipe: str, file: Path) -> Path:
    """Write the vectors of the class names, once."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        line = [sys.executable, "-m", "longtail", "text-head", recipe, "--out", str(file)]
        subprocess.run(line, check=True)
    return file


def main() -> None:
    """Train both rows and say how far they are from what is published."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--out", type=Path, default=Path("runs/lift"))
    parser.add_argument("--record", type=Path, default=Path("results/lift.jsonl"))
    arguments = parser.parse_args()
    for row in arguments.rows:
        recipe, crops, published = ROWS[row]
        options = []
        if "clip" in recipe:
            options = [f"head_start.file={texts(recipe, arguments.out / 'text.safetensors')}"]
        for seed in range(arguments.seeds):
            folder = arguments.out / recipe.rpartition("/")[2] / f"seed-{seed}"
            run = api.train(recipe, [*options, f"seed={seed}"], out=folder, log=PlainLog())
            scores = run.scores("test") if crops is None else api.evaluate(run, crops=crops)
            ours = 100 * scores["accuracy"]
            print(
                f"{row}: {ours:.1f} %, published {published} %, difference {ours - published:+.1f}"
            )
            facts = {"benchmark": "lift", "row": row, "crops": crops, "accuracy_with_crops": ours}
            append_record(arguments.record, facts | api.record(run, "test"))


if __name__ == "__main__":
    main()
