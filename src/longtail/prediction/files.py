"""Files of predictions: written with a checksum of what they say, and read."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from longtail.core.errors import DataError
from longtail.core.predictions import Predictions
from longtail.core.prior import read_stated
from longtail.engine.checksums import read_bytes
from longtail.engine.run_folder import writing
from longtail.prediction.finite import require_finite


def content_checksum(predictions: Predictions) -> str:
    """Return the SHA-256 of all that a file of predictions says."""
    described = [predictions.split, list(predictions.classes), predictions.checkpoint]
    digest = hashlib.sha256(json.dumps(described).encode())
    arrays = (predictions.ids, predictions.labels, predictions.predicted(), predictions.logits)
    for array in arrays:
        digest.update(np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()


def write_predictions(predictions: Predictions, path: Path) -> None:
    """Write Parquet: id, label, prediction, logits; class names, checkpoint and checksum as metadata.

    Raises:
        CheckpointError: If it cannot be written.
    """
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
        "content_sha256": content_checksum(predictions),
        "corrections": list(predictions.corrections),
        "assumed_prior": predictions.assumed_prior,
    }
    table = table.replace_schema_metadata({"longtail": json.dumps(described)})
    with writing(path) as file:
        pq.write_table(table, file)


def read_predictions(path: Path, expected: str = "") -> Predictions:
    """Read what `write_predictions` wrote.

    Args:
        path: The file.
        expected: Checksum that the scores name; not compared if empty.

    Raises:
        DataError: If the file is missing, damaged, of another kind, or says something else than when it was
            written.
    """
    content = read_bytes(path)
    try:
        table = pq.read_table(pa.BufferReader(content))
        described = json.loads(table.schema.metadata[b"longtail"])
        frame: pd.DataFrame = table.select(["id", "label", "prediction"]).to_pandas()
        logits = table["logits"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        found = Predictions(
            str(described["split"]),
            frame["id"].to_numpy(np.int64),
            frame["label"].to_numpy(np.int64),
            logits.astype(np.float32).reshape(len(frame), -1),
            tuple(described["classes"]),
            str(described["checkpoint_sha256"]),
            tuple(map(str, described.get("corrections", ()))),
            read_stated(described.get("assumed_prior")),
        )
        known = described.get("content_sha256", "")
        same = np.array_equal(frame["prediction"], found.predicted())
        fine = same and len(found.classes) == found.logits.shape[1]
        fine = fine and bool(np.isin(found.labels, np.arange(len(found.classes))).all())
    except Exception as error:  # the reader of a foreign format fails in many ways
        raise DataError(f"{path} is not a predictions file of longtail ({error}).") from error
    checksum = content_checksum(found)
    if not fine or (known and known != checksum):
        raise DataError(f"{path} was changed after it was written, or it is damaged.")
    if expected and checksum != expected:
        raise DataError(f"{path} contains other predictions than those that were scored.")
    require_finite(found.logits, f"The model whose predictions {path} holds")
    return found
