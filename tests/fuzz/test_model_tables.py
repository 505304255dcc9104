"""Damaged tables of logits and features, CSV, Parquet and npz: a corrected table, or one sentence."""

import io
import json
import math

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from longtail.adjust.tool.tables import read_tables
from tests.fuzz.harness import longtail, run_fuzz
from tests.fuzz.mutate import csv_bytes, mutate_array, mutate_bytes, mutate_table, mutate_tree

NAMES = ("fox", "lynx", "owl")
SIZES = {"train": (12, 6, 3), "val": (3, 3, 3), "test": (4, 4, 4)}
WAYS = (
    ["logit-adjust", "--strength", "0.7"], ["logit-adjust"], ["temperature"], ["ncm"],
    ["prior", "--prior", "uniform"], ["crt", "--epochs", "1"], ["tau"],
)  # fmt: skip


def good():
    """Return labels [N], splits [N] and logits [N, 3]."""
    labels = np.concatenate([np.repeat(np.arange(3), size) for size in SIZES.values()])
    splits = np.concatenate([[split] * sum(size) for split, size in SIZES.items()])
    noise = np.random.default_rng(0).normal(size=(len(labels), 3))
    return labels, splits, (3 * np.eye(3)[labels] + noise).astype(np.float32)


LABELS, SPLITS, LOGITS = good()
SHARES = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)


def rows_of(values, prefix="logit_"):
    head = ["label", "split", "camera", *(f"{prefix}{name}" for name in NAMES)]
    body = zip(LABELS, SPLITS, values, strict=True)
    return [head, *([NAMES[y], str(s), "north", *map(float, v)] for y, s, v in body)]


def parquet_bytes(rng):
    frame = pd.DataFrame({"label": LABELS, "split": SPLITS, "logits": list(LOGITS)})
    described = {"classes": list(NAMES), "assumed_prior": [0.5, 0.3, 0.2], "corrections": []}
    if rng.random() < 0.7:
        described = mutate_tree(rng, described)
    try:
        text = json.dumps(described).encode("utf-8", "surrogatepass")
    except (TypeError, ValueError):
        text = b"{"
    if rng.random() < 0.3:
        text = mutate_bytes(rng, text)
    sink = io.BytesIO()
    table = pa.Table.from_pandas(frame)
    pq.write_table(table.replace_schema_metadata({b"longtail": text}), sink)
    return sink.getvalue()


def archive_bytes(rng):
    arrays = {
        "labels": LABELS, "split": SPLITS, "classes": np.array(NAMES), "class_counts": np.array([12, 6, 3]),
        "assumed_prior": np.array([0.5, 0.3, 0.2]), "corrections": np.array(["ldam"]), "logits": LOGITS,
    }  # fmt: skip
    if rng.random() < 0.5:
        arrays |= {"features": arrays.pop("logits"), "weight": np.eye(3), "bias": np.zeros(3)}
    for name in rng.sample(list(arrays), rng.randint(0, 2)):
        arrays[name] = mutate_array(rng, arrays[name])
    if rng.random() < 0.3:
        arrays.pop(rng.choice(list(arrays)))
    if rng.random() < 0.1:
        name = rng.choice(list(arrays))
        arrays[rng.choice([name.upper(), f" {name}", f"{name}s", "x", ""])] = arrays.pop(name)
    sink = io.BytesIO()
    np.savez(sink, **arrays)
    return sink.getvalue()


def make(rng, folder):
    kind = rng.choice(["csv", "csv", "parquet", "npz", "npz"])
    if kind == "csv":
        values, prefix = rng.choice(
            [(LOGITS, "logit_"), (SHARES, "logit_"), (100 * SHARES, "logit_"), (LOGITS, "feature_")]
        )
        content = csv_bytes(rng, mutate_table(rng, rows_of(values, prefix)))
    else:
        content = parquet_bytes(rng) if kind == "parquet" else archive_bytes(rng)
    if rng.random() < 0.25:
        content = mutate_bytes(rng, content)
    name = rng.choice(["m", "m", "m-val", "model_train", "aTestB", "train-test-x"])
    if rng.random() < 0.05:
        kind = rng.choice(["csv", "parquet", "npz"])  # another format than the name says
    (folder / f"{name}.{kind}").write_bytes(content)
    return [
        "adjust",
        f"{name}.{kind}",
        "--by",
        *rng.choice(WAYS),
        *rng.choice([[], ["--force"]]),
        "--out",
        f"out.{kind}",
    ]


def check(arguments, outcome, folder):
    out = folder / arguments[-1]
    if not out.exists():
        return "status 0, but nothing was written"
    described = json.loads((folder / "out-adjustment.json").read_text(), parse_constant=_refuse)
    scores = described["scores"]["groups"]["all"]
    if not 0 <= scores["after"]["value"] <= 1:
        return f"an accuracy of {scores['after']['value']}"
    prior = described["assumed_prior"]
    if prior != "unknown" and not math.isclose(sum(prior), 1, abs_tol=1e-6):
        return f"an assumed prior that sums to {sum(prior)}"
    if "ncm" in arguments and out.suffix == ".npz":
        return None  # class means: their scores are no softmax
    again = read_tables([out]).evidence
    for split, outputs in again.splits.items():
        if not bool(again.logits(split).isfinite().all()) or len(outputs) == 0:
            return f"logits of {split} that are not numbers"
    return None


def _refuse(name):
    raise AssertionError(f"{name} in JSON")


def test_model_tables(inputs, tmp_path):
    def act(arguments, _):
        return longtail(*arguments)

    run_fuzz("model tables", make, act, tmp_path, check=check, inputs=inputs).require()
