"""Decoupling's claims on CIFAR-100-LT: every classifier on every representation, from one command.

python benchmarks/accuracy/decoupling.py --seeds 2 --epochs 40 --out runs/decoupling

Trains the representations that --out does not hold yet, then every second stage on them; each run
appends a line to results/decoupling-40-epochs.jsonl. Then writes the norms of the classifier's rows,
their rank correlation with the class counts, and a figure of it. Can be stopped and started again.

Time: 3 hours of training on two cores, as recorded.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from scipy.stats import spearmanr

from longtail import api
from longtail.methods.decoupling import Decoupling

SAMPLERS = ("instance", "progressive", "class-balanced", "square-root")
# how a figure names them
SHOWN = {"joint": "before", "crt": "cRT", "lws": "LWS", "tau": "tau-normalisation"}
CACHED = ["stage2_bn=eval", "augment=false"]
# name -> recipe and overrides, on any representation
CLASSIFIERS = {
    "crt": ("crt", []),
    "lws": ("lws", []),
    "tau": ("tau-normalisation", []),
    "ncm": ("nearest-class-mean", []),
}
# the same, on the instance-balanced representation only
MORE = {
    "crt-eval": ("crt", ["stage2_bn=eval"]),
    "crt-cached": ("crt", CACHED),
    "lws-eval": ("lws", ["stage2_bn=eval"]),
    "lws-cached": ("lws", CACHED),
    "ncm-paper": ("nearest-class-mean", ["centred=false", "unit_means=true", "metric=cosine"]),
    "last-block": ("crt", ["classifier.train=last-block"]),
    "whole-slow": ("crt", ["classifier.train=all", "rate=0.1"]),
    "whole-slow-backbone": ("crt", ["classifier.train=all", "rate=0.1", "rate_of=backbone"]),
    "whole": ("crt", ["classifier.train=all"]),
}


def command(name: str, sampler: str, args: argparse.Namespace) -> list[str]:
    """Return the command line of one row."""
    folder = args.out / sampler / name
    line = ["longtail", "train"]
    if name == "joint":
        line += ["cifar100-lt/cross-entropy", f"sampling={sampler}"]
    else:
        recipe, overrides = {**CLASSIFIERS, **MORE}[name]
        line += [f"cifar100-lt/{recipe}", f"from={args.out / sampler / 'joint'}", *overrides]
        line += [f"representation.sampling={sampler}"]
    line += [f"epochs={args.epochs}", "--seeds", str(args.seeds), "--out", str(folder)]
    return [*line, "--record", str(args.record)]


def rows(samplers: list[str]) -> list[tuple[str, str]]:
    """Return (sampler, name) of every row, representations first."""
    found = [(sampler, "joint") for sampler in samplers]
    for sampler in samplers:
        found += [(sampler, name) for name in CLASSIFIERS]
        if sampler == "instance":
            found += [(sampler, name) for name in MORE]
    return found


def norms(folder: Path) -> dict[str, Any]:
    """Return the norms of the classifier's rows of one run, and how they follow the counts."""
    model = api.load(folder, device="cpu")
    head: Any = model.method.head
    weight = head.weight.detach()
    if isinstance(model.method, Decoupling) and hasattr(model.method, "scales"):
        weight = model.method.scales.detach()[:, None] * weight
    if isinstance(model.method, Decoupling) and hasattr(model.method, "tau"):
        weight = weight / weight.norm(dim=1, keepdim=True) ** model.method.tau
    length = weight.norm(dim=1)
    return {
        "checkpoint_sha256": model.metadata.weights_sha256,
        "spearman": float(spearmanr(length, model.metadata.class_counts).statistic),
        "class_counts": model.metadata.class_counts,
        "norms": [round(float(value), 5) for value in length],
    }


def figure(found: list[dict[str, Any]], path: Path) -> None:
    """Draw the norms of the first seed over the class counts (figure 2 of the paper)."""
    plt.rcParams["svg.hashsalt"] = "longtail"
    canvas, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for line in found:
        if line["seed"] == 0:
            pairs = sorted(zip(line["class_counts"], line["norms"], strict=True))
            mean = sum(line["norms"]) / len(line["norms"])
            axes.plot([n for n, _ in pairs], [value / mean for _, value in pairs], ".",
                      label=f"{SHOWN[line['classifier']]} ({line['spearman']:+.2f})")  # fmt: skip
    axes.set(xscale="log", xlabel="training images of the class",
             ylabel="norm of the class's weights / mean norm",
             title="Classifier weights by class, CIFAR-100-LT, ratio 100, seed 0")  # fmt: skip
    canvas.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8,
                  title="in brackets: rank correlation with the class count", title_fontsize=8)  # fmt: skip
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.savefig(path, metadata={"Date": None})


def main() -> None:
    """Run what is missing, then write norms and figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/decoupling"))
    parser.add_argument("--record", type=Path, default=Path("results/decoupling-40-epochs.jsonl"))
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=list(SAMPLERS))
    args = parser.parse_args()
    for sampler, name in rows(args.samplers):
        last = args.out / sampler / name / f"seed-{args.seeds - 1}" / "scores-test.json"
        if not last.exists():
            subprocess.run([sys.executable, "-m", *command(name, sampler, args)], check=True)
    found = []
    for name in ("joint", "crt", "lws", "tau"):
        for seed in range(args.seeds):
            line = norms(args.out / "instance" / name / f"seed-{seed}")
            found.append({"classifier": name, "seed": seed, **line})
    target = args.record.with_name("decoupling-norms.jsonl")
    target.write_text("".join(json.dumps(line) + "\n" for line in found), encoding="utf-8")
    figure(found, Path("docs/figures/decoupling-norms.svg"))


if __name__ == "__main__":
    main()
