"""Tables of logits or features with labels, from any framework: CSV, Parquet or npz.

    .npz            arrays `logits` [N, C] or `features` [N, D], `labels` [N]; if known `split` [N],
                    `together` [N], `classes` [C], `class_counts` [C], `weight` [C, D] and `bias` [C]
    .csv, .parquet  columns `label`, `split` and `together` (optional) and `logit_<class>` or
                    `feature_<number>`; a Parquet file may hold one list column `logits` or `features`
                    instead, as the prediction files of run folders do

Labels are class names or numbers 0..C-1; numbers that could be either are refused. Without a split the
file name tells it (`x-val.csv`), and otherwise all rows are test rows. `together` names the animal, burst or
patient of a picture; intervals draw such units as a whole, and an empty name stands alone. Several files, one
a split, are read as one table.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from longtail.core.counts import ClassCounts
from longtail.core.errors import DataError
from longtail.core.manifest import SPLITS
from longtail.data.together import cells_as_text, numbered
from longtail.engine.run_folder import writing
from longtail.repair.corrections import Corrected
from longtail.repair.evidence import Classifier, Evidence, Outputs

SUFFIXES = (".csv", ".parquet", ".pq", ".npz")
KINDS = {"logits": "logit_", "features": "feature_"}
Array = NDArray[Any]


@dataclass(frozen=True)
class Part:
    """One file.

    Attributes:
        path: Where it was read from.
        rest: Everything but the numbers: a frame, or the other arrays of an npz.
        labels: Class numbers or names, [N].
        split: Split of every row, text [N].
        values: `logits` or `features`, float32 [N, width].
        classes: Names in the order of the logits, where the file says them.
        metadata: Of a Parquet file.
        together: Name of what each picture belongs to, text [N], where the file says it.
    """

    path: Path
    rest: pd.DataFrame | dict[str, Array]
    labels: Array
    split: Array
    values: dict[str, NDArray[np.float32]]
    classes: tuple[str, ...] | None
    metadata: dict[bytes, bytes]
    together: Array | None = None


@dataclass(frozen=True)
class Tables:
    """Tables that were read, with what they say together.

    Attributes:
        parts: The files.
        evidence: Joined and checked.
    """

    parts: tuple[Part, ...]
    evidence: Evidence

    def write(self, corrected: Corrected, target: Path) -> list[Path]:
        """Write the corrected tables in the format they came in, and return their paths.

        Args:
            corrected: What to apply.
            target: File for one table; folder for several, which keep their names.
        """
        several = len(self.parts) > 1
        written = []
        for part in self.parts:
            path = target / part.path.name if several else target
            one = Evidence(
                self.evidence.class_counts, {"all": _outputs(part, self.evidence)},
                self.evidence.classifier, self.evidence.corrections,
            )  # fmt: skip
            logits = corrected.logits(one, "all").float().numpy()
            with writing(path) as file:
                _write_part(part, logits, corrected, self.evidence, file)
            written.append(path)
        return written


def read_tables(paths: Sequence[Path], class_counts: ClassCounts | None = None) -> Tables:
    """Read tables and join them.

    Args:
        paths: Files.
        class_counts: Training pictures per class; counted in the rows of split train, or read from
            the npz, if not given.

    Raises:
        DataError: If a file is missing, damaged, of another layout, or contradicts another.
    """
    parts = tuple(_read_npz(p) if p.suffix == ".npz" else _read_frame(p) for p in paths)
    named = {part.classes for part in parts if part.classes is not None}
    if len(named) > 1:
        raise DataError("The tables name different classes, or name them in another order.")
    counts = _class_counts(parts, next(iter(named), None), class_counts)
    evidence = Evidence(counts, {}, _classifier(parts))
    units = _units(parts)
    outputs: dict[str, Outputs] = {}
    for split in SPLITS:
        pieces = []
        for part, numbers in zip(parts, units, strict=True):
            rows = part.split == split
            if rows.any():
                values = {kind: array[rows] for kind, array in part.values.items()}
                kept = replace(part, labels=part.labels[rows], values=values)
                unit = None if numbers is None else numbers[rows]
                pieces.append(replace(_outputs(kept, evidence), together=unit))
        if pieces:
            outputs[split] = _joined(pieces)
    return Tables(parts, replace(evidence, splits=outputs))


def _read_npz(path: Path) -> Part:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: np.asarray(file[name]) for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read as npz ({error}).") from error
    values = {
        kind: np.asarray(arrays.pop(kind), dtype=np.float32) for kind in KINDS if kind in arrays
    }
    if "labels" not in arrays or not values:
        raise DataError(
            f"{path} must hold an array labels [N] and logits [N, C] or features [N, D]; it holds "
            f"{', '.join(arrays) or 'nothing'}."
        )
    labels = arrays["labels"]
    known = {name: arrays[name] for name in ("split", "together") if name in arrays}
    for name, array in {**values, **known}.items():
        if labels.ndim != 1 or array.shape[:1] != labels.shape:
            raise DataError(
                f"{path}: {name} has shape {list(array.shape)}, but there are labels of shape "
                f"{list(labels.shape)}."
            )
    classes = tuple(str(name) for name in arrays["classes"]) if "classes" in arrays else None
    split = arrays.get("split")
    labels = _read_labels(labels, classes, path)
    together = arrays.get("together")
    return Part(
        path, arrays, labels, _splits(split, path, len(labels)), values, classes, {},
        None if together is None else np.char.strip(together.astype(str)),
    )  # fmt: skip


def _read_frame(path: Path) -> Part:
    metadata: dict[bytes, bytes] = {}
    try:
        if path.suffix == ".csv":
            # a class may be called 010 or NA
            frame = pd.read_csv(path, dtype={"label": str}, keep_default_na=False)
        else:
            table = pq.read_table(path)
            metadata = dict(table.schema.metadata or {})
            frame = table.to_pandas()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read as a table ({error}).") from error
    if "label" not in frame:
        raise DataError(f"{path} has no column label; it has {', '.join(map(str, frame))[:200]}.")
    values, dropped, classes = {}, [], None
    for kind, prefix in KINDS.items():
        columns = [str(name) for name in frame if str(name).startswith(prefix)]
        try:
            if kind in frame:
                values[kind] = np.stack(frame[kind].to_list()).astype(np.float32)
                dropped.append(kind)
            elif columns:
                values[kind] = frame[columns].to_numpy(np.float32, copy=True)
                dropped += columns
                if kind == "logits":
                    classes = tuple(str(name).removeprefix(prefix) for name in columns)
        except (TypeError, ValueError) as error:
            raise DataError(f"{path}: the {kind} are no table of numbers ({error}).") from error
    if not values:
        raise DataError(f"{path} has neither columns logit_<class> nor feature_<number>.")
    described = _described(metadata)
    # prediction files of run folders hold numbers
    labels = _read_labels(frame["label"].to_numpy(), None if described else classes, path)
    classes = tuple(described["classes"]) if "classes" in described else classes
    split = frame["split"].to_numpy() if "split" in frame else described.get("split")
    rest = frame.drop(columns=dropped)
    together = np.array(cells_as_text(frame["together"])) if "together" in frame else None
    return Part(
        path, rest, labels, _splits(split, path, len(frame)), values, classes, metadata,
        together,
    )  # fmt: skip


def _read_labels(labels: Array, classes: tuple[str, ...] | None, path: Path) -> Array:
    """Return labels as numbers, int64, or as names; classes may be called by numbers."""
    text = labels.astype(str)
    values = sorted(set(text.tolist()))
    if not all(re.fullmatch(r"-?(0|[1-9][0-9]*)", value) for value in values):
        return text
    numbers = text.astype(np.int64)
    if classes is None or not set(values) <= set(classes):
        return numbers
    if numbers.min(initial=0) < 0 or numbers.max(initial=0) >= len(classes):
        return text
    if all(classes[int(value)] == value for value in values):
        return numbers
    raise DataError(
        f"{path}: the labels {', '.join(values[:5])} may be names of classes or their numbers from 0, "
        f"and the classes are called {', '.join(classes[:5])}. Give names that are no numbers."
    )


def _described(metadata: dict[bytes, bytes]) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(metadata.get(b"longtail", b"{}"))
    return content


def _splits(given: Any, path: Path, size: int) -> Array:  # noqa: ANN401 - array, text or nothing
    if given is None:
        ending = path.stem.rpartition("-")[2]
        given = ending if ending in SPLITS else "test"
    split = np.broadcast_to(np.asarray(given, dtype=str), (size,))
    if unknown := sorted(set(split.tolist()) - set(SPLITS)):
        raise DataError(
            f"{path}: split must be one of {', '.join(SPLITS)}, but is also {', '.join(unknown[:5])}."
        )
    return split


def _units(parts: Sequence[Part]) -> list[NDArray[np.int64] | None]:
    """Return what belongs together as numbers that are the same in all parts, each [N]."""
    named = [part.together for part in parts if part.together is not None]
    if not named:
        return [None] * len(parts)
    if len(named) < len(parts):
        without = next(part.path for part in parts if part.together is None)
        raise DataError(f"{without} lacks `together`, which another table has.")
    names = np.concatenate(named)
    numbers, splits = numbered(names.tolist()), np.concatenate([part.split for part in parts])
    pairs = np.unique(np.stack([numbers, np.searchsorted(np.sort(SPLITS), splits)]), axis=1)
    unit, times = np.unique(pairs[0], return_counts=True)
    if (times > 1).any():
        parted = names[numbers == unit[times > 1][0]][0]
        raise DataError(
            f"`together` names {parted} in several splits. What belongs together must be in one split, or "
            "scores are of pictures that are nearly those that were learnt or chosen on."
        )
    return list(np.split(numbers, np.cumsum([len(part.labels) for part in parts])[:-1]))


def _class_counts(
    parts: Sequence[Part], classes: tuple[str, ...] | None, given: ClassCounts | None
) -> ClassCounts:
    if given is not None and classes is None:
        classes = given.names
    widths = {part.values["logits"].shape[1] for part in parts if "logits" in part.values}
    if classes is None:
        text = [p for p in parts if p.labels.dtype.kind not in "iu"]
        if text and widths:
            raise DataError(
                f"{text[0].path} has class names as labels, but does not say which logit belongs to "
                "which class. Name the columns logit_<class>, or add an array classes to the npz."
            )
        if text:
            classes = tuple(sorted({str(name) for part in parts for name in part.labels}))
        else:
            highest = max(int(part.labels.max(initial=0)) for part in parts) + 1
            classes = tuple(str(number) for number in range(max(widths, default=highest)))
    if given is not None:
        if set(given.names) != set(classes):
            missing = sorted(set(classes) ^ set(given.names))[:5]
            raise DataError(f"Class counts and table name different classes: {', '.join(missing)}.")
        place = {name: number for number, name in enumerate(given.names)}
        return ClassCounts([given.values[place[name]] for name in classes], classes)
    for part in parts:
        if isinstance(part.rest, dict) and "class_counts" in part.rest:
            return ClassCounts(part.rest["class_counts"], classes)
    train = [_numbers(part, classes)[part.split == "train"] for part in parts]
    if not sum(map(len, train)):
        raise DataError(
            "The number of training pictures of each class is not known. Add the training rows "
            "(split train), an array class_counts to the npz, or --class-counts FILE."
        )
    return ClassCounts.from_labels(np.concatenate(train), classes)


def _numbers(part: Part, classes: tuple[str, ...]) -> NDArray[np.int64]:
    """Return labels as class numbers."""
    if part.labels.dtype.kind in "iu":
        numbers = part.labels.astype(np.int64)
        wrong = np.flatnonzero((numbers < 0) | (numbers >= len(classes)))
        if len(wrong):
            raise DataError(
                f"{part.path}: labels must be 0..{len(classes) - 1} or class names, but row "
                f"{wrong[0]} has {numbers[wrong[0]]} ({len(wrong)} such rows)."
            )
        return numbers
    place = {name: number for number, name in enumerate(classes)}
    if unknown := sorted({str(name) for name in part.labels} - set(place)):
        raise DataError(
            f"{part.path}: the labels {', '.join(unknown[:5])} are no class of the model; its "
            f"classes are {', '.join(classes[:5])}{', ...' if len(classes) > 5 else ''}."
        )
    return np.array([place[str(name)] for name in part.labels], dtype=np.int64)


def _outputs(part: Part, evidence: Evidence) -> Outputs:
    labels = torch.from_numpy(_numbers(part, evidence.class_counts.names))
    tensors = {kind: torch.from_numpy(array) for kind, array in part.values.items()}
    return Outputs(labels, tensors.get("logits"), tensors.get("features"))


def _joined(pieces: Sequence[Outputs]) -> Outputs:
    if len(pieces) == 1:
        return pieces[0]
    kinds = {(piece.logits is None, piece.features is None) for piece in pieces}
    if len(kinds) > 1:
        raise DataError("One table of a split holds logits and another features.")
    joined: dict[str, torch.Tensor] = {}
    for kind in KINDS:
        tensors = [getattr(piece, kind) for piece in pieces]
        if tensors[0] is not None:
            joined[kind] = torch.cat(tensors)
    labels = torch.cat([piece.labels for piece in pieces])
    units = [piece.together for piece in pieces if piece.together is not None]
    together = np.concatenate(units) if units else None
    return Outputs(labels, joined.get("logits"), joined.get("features"), together)


def _classifier(parts: Sequence[Part]) -> Classifier | None:
    for part in parts:
        if isinstance(part.rest, dict) and "weight" in part.rest:
            weight = torch.from_numpy(part.rest["weight"].astype(np.float32))
            bias = part.rest.get("bias", np.zeros(len(weight)))
            return Classifier(weight, torch.from_numpy(np.asarray(bias, dtype=np.float32)))
    return None


def _write_part(
    part: Part, logits: Array, corrected: Corrected, evidence: Evidence, file: Path
) -> None:
    if isinstance(part.rest, dict):
        arrays = {**part.rest, **part.values}
        if "logits" in arrays or evidence.classifier is None:
            arrays["logits"] = logits
        old = evidence.classifier or corrected.classifier
        folded = corrected.folded(old) if old is not None else None
        if folded is not None:
            arrays |= {"weight": folded.weight.numpy(), "bias": folded.bias.numpy()}
        if corrected.means is not None:
            arrays |= {
                "means": corrected.means.means.numpy(),
                "centre": corrected.means.centre.numpy(),
            }
        with file.open("wb") as stream:
            np.savez(stream, allow_pickle=False, **arrays)
        return
    frame = part.rest.copy()
    if "prediction" in frame:
        frame["prediction"] = logits.argmax(axis=1)
    names = evidence.class_counts.names
    if part.path.suffix == ".csv":
        values = pd.DataFrame(logits, columns=[f"logit_{name}" for name in names])
        pd.concat([frame, values], axis=1).to_csv(file, index=False)
        return
    table = pa.Table.from_pandas(frame, preserve_index=False)
    column = pa.FixedSizeListArray.from_arrays(logits.reshape(-1), logits.shape[1])
    metadata = {**(table.schema.metadata or {}), **part.metadata}
    described = _described(part.metadata) | {"classes": list(names), "adjusted": True}
    metadata[b"longtail"] = json.dumps(described).encode()
    pq.write_table(table.append_column("logits", column).replace_schema_metadata(metadata), file)
