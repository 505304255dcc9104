"""From a model and a split to predictions, every picture exactly once for any number of processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import nn

from longtail.core import distributed
from longtail.core.errors import DataError
from longtail.core.predictions import Predictions
from longtail.data.loader import evaluation_batches
from longtail.data.pictures import DataSet
from longtail.engine.hardware import autocast
from longtail.engine.run_folder import writing
from longtail.methods.method import Method


def predict_split(
    method: nn.Module,
    data: DataSet,
    split: str,
    *,
    device: torch.device,
    precision: str = "fp32",
    checkpoint: str = "",
    workers: int = 4,
) -> Predictions:
    """Compute the logits of every picture of one split.

    Args:
        method: Anything with `predict(images) -> logits`; put into eval mode.
        data: Only this split, see `DataSet.split`.
        split: Its name.
        device: Where to compute.
        precision: `fp32` or `bf16`.
        checkpoint: SHA-256 of the weights.
        workers: Decoding threads.

    Returns:
        Predictions in the order of `data`; complete on every process.
    """
    method.eval()
    predict: Any = method.predict
    rows: list[np.ndarray[Any, np.dtype[np.int64]]] = []
    logits: list[np.ndarray[Any, np.dtype[np.float32]]] = []
    batches = evaluation_batches(data, device=device, workers=workers)
    with torch.inference_mode(), autocast(precision, device):
        for images, places in batches:
            rows.append(places)
            logits.append(predict(images).float().cpu().numpy())
    num_classes = len(data.manifest.classes)
    own = (
        np.concatenate(rows) if rows else np.empty(0, np.int64),
        np.concatenate(logits) if logits else np.empty((0, num_classes), np.float32),
    )
    shares = distributed.gather(own)
    places = np.concatenate([share[0] for share in shares])
    values = np.concatenate([share[1] for share in shares])
    order = np.argsort(places)
    if not np.array_equal(places[order], np.arange(len(data.manifest))):
        raise AssertionError("every picture must be predicted exactly once")
    manifest = data.manifest
    return Predictions(
        split, manifest.ids, manifest.labels, values[order], manifest.classes, checkpoint
    )


def answer_split(
    method: Method,
    data: DataSet,
    *,
    device: torch.device,
    precision: str = "fp32",
    view: str = "none",
    seed: int = 0,
    workers: int = 4,
) -> torch.Tensor:
    """Compute the logits of every sub-model to one view of every picture, float32 [N, T, C].

    Args:
        method: Put into eval mode.
        data: Only one split.
        device: Where to compute.
        precision: `fp32` or `bf16`.
        view: Augmentation policy.
        seed: Of its random numbers.
        workers: Decoding threads.
    """
    method.eval()
    batches = evaluation_batches(
        data, device=device, workers=workers, everything=True, view=view, seed=seed
    )
    with torch.inference_mode(), autocast(precision, device):
        found = [method.answers(images).float().cpu() for images, _ in batches]
    return torch.cat(found)  # outside, so that weights may be learnt on it


def write_predictions(predictions: Predictions, path: Path) -> None:
    """Write Parquet: id, label, prediction, logits; class names and checkpoint as metadata."""
    table = pa.table(
        {
            "id": predictions.ids,
            "label": predictions.labels,
            "prediction": predictions.predicted(),
            "logits": pa.FixedSizeListArray.from_arrays(
                predictions.logits.reshape(-1), predictions.logits.shape[1]
            ),
        }
    )
    described = {
        "split": predictions.split,
        "classes": list(predictions.classes),
        "checkpoint_sha256": predictions.checkpoint,
    }
    table = table.replace_schema_metadata({"longtail": json.dumps(described)})
    with writing(path) as file:
        pq.write_table(table, file)


def read_predictions(path: Path) -> Predictions:
    """Read what `write_predictions` wrote.

    Raises:
        DataError: If the file is missing, damaged or of another kind.
    """
    try:
        table = pq.read_table(path)
        described = json.loads(table.schema.metadata[b"longtail"])
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is no predictions file of longtail ({error}).") from error
    frame: pd.DataFrame = table.select(["id", "label"]).to_pandas()
    logits = table["logits"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return Predictions(
        described["split"],
        frame["id"].to_numpy(np.int64),
        frame["label"].to_numpy(np.int64),
        logits.astype(np.float32).reshape(len(frame), -1),
        tuple(described["classes"]),
        described["checkpoint_sha256"],
    )
