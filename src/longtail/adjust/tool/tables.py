"""Tables of logits or features with labels, from any framework: CSV, Parquet or npz.

    .npz            arrays `logits` [N, C] or `features` [N, D], `labels` [N]; if known `split` [N],
                    `together` [N], `classes` [C], `class_counts` [C], `weight` [C, D] and `bias` [C]
    .csv, .parquet  columns `label`, `split` and `together` (optional) and `logit_<class>` or
                    `feature_<number>`; a Parquet file may hold one list column `logits` or `features`
                    instead, as the prediction files of run folders do

Names of arrays and columns are read in any case and without spaces around; what is nearly one of them is
refused. Labels are class names or numbers 0..C-1; numbers that could be either are refused. Splits are called
train, val and test (or training, validation, valid, dev, testing). Without a split the file name tells it
(`x-val.csv`, `model_train.csv`, `modelTest.csv`), and otherwise all rows are test rows. Rows of logits that
sum to 1 or 100 are probabilities or percent, and their logarithms are taken. `together` names the animal,
burst or patient of an image; intervals draw such units as a whole, and an empty name stands alone. Several
files, one a split, are read as one table.
"""

from __future__ import annotations

import json
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

from longtail.adjust.tool.adjustment import Adjustment
from longtail.adjust.tool.evidence import Classifier, Evidence, Outputs
from longtail.adjust.tool.table_files import KINDS, Part, described_by, read_part
from longtail.core.boundary import named
from longtail.core.counts import ClassCounts
from longtail.core.errors import DataError
from longtail.core.manifest import SPLITS
from longtail.core.prior import written
from longtail.data.splits.keep_together import numbered

SUFFIXES = (".csv", ".parquet", ".pq", ".npz")
Array = NDArray[Any]


@dataclass(frozen=True)
class Tables:
    """Tables that were read, with what they say together.

    Attributes:
        parts: The files.
        evidence: Joined and checked.
    """

    parts: tuple[Part, ...]
    evidence: Evidence

    @property
    def several(self) -> bool:
        """Whether they are several files, which are written into a folder."""
        return len(self.parts) > 1

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for the user about what was converted."""
        converted = [part for part in self.parts if part.given_as != "logits"]
        return tuple(
            f"{part.path} contains {part.given_as}; their logarithms were used as logits."
            for part in converted
        )

    def write(self, done: Adjustment, target: Path) -> dict[str, Path]:
        """Write the corrected tables in the format they came in, and return their paths by name.

        Args:
            done: What to apply.
            target: File for one table; folder for several, which keep their names.
        """
        written_to = {}
        for part in self.parts:
            path = target / part.path.name if self.several else target
            one = replace(self.evidence, splits={"all": _outputs(part, self.evidence)})
            logits = done.corrected.logits(one, "all").float().numpy()
            _write_part(part, logits, done, self.evidence, path)
            written_to[part.path.name] = path
        return written_to


def read_tables(paths: Sequence[Path], class_counts: ClassCounts | None = None) -> Tables:
    """Read tables and join them.

    Args:
        paths: Files.
        class_counts: Training images per class; counted in the rows of split train, or read from
            the npz, if not given.

    Raises:
        DataError: If a file is missing, damaged, of another layout, or contradicts another.
    """
    parts = tuple(read_part(path) for path in paths)
    _refuse_contradictions(parts)
    orders = {part.classes for part in parts if part.classes is not None}
    if len(orders) > 1:
        raise DataError("The tables have different classes, or list them in a different order.")
    counts = _class_counts(parts, next(iter(orders), None), class_counts)
    first = parts[0]
    evidence = Evidence(counts, {}, _classifier(parts), first.corrections, first.assumed_prior)
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


def _refuse_contradictions(parts: Sequence[Part]) -> None:
    """Refuse tables of which one knows what another one would have to know, too."""
    for number, part in enumerate(parts):
        for other in parts[:number]:
            if part.path.name == other.path.name:
                raise DataError(
                    f"{part.path} and {other.path} have the same name, so only one of them could be written. "
                    "Rename one."
                )
            if part.same_rows(other):
                raise DataError(f"{part.path} contains the same rows as {other.path}.")
    told = [part for part in parts if part.split_said]
    if told and len(told) < len(parts):
        silent = next(part.path for part in parts if not part.split_said)
        raise DataError(
            f"{silent} does not say which split its rows belong to, but {told[0].path} does. Add a "
            "column split, or end the file name in -train, -val or -test."
        )
    for name, what in (
        ("given_as", "a different kind of scores (logits, probabilities or percentages)"),
        ("assumed_prior", "scores that assume a different class distribution"),
        ("corrections", "scores that were corrected in a different way"),
    ):
        odd = next((p for p in parts if getattr(p, name) != getattr(parts[0], name)), None)
        if odd is not None:
            raise DataError(f"{odd.path} contains {what} than {parts[0].path}.")


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
            f"`together` has {parted} in several splits. Images that belong together must be in the "
            "same split; otherwise the scores are measured on near-copies of images that were used "
            "for training or selection."
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
                f"{text[0].path} has class names as labels, but does not say which logit belongs to which "
                "class. Name the columns logit_<class>, or add an array classes to the npz."
            )
        if text:
            classes = tuple(sorted({str(name) for part in parts for name in part.labels}))
        else:
            size = max(widths, default=0) or _known_size(parts) or _highest(parts) + 1
            classes = tuple(str(number) for number in range(size))
    if given is not None:
        if set(given.names) != set(classes):
            missing = named(sorted(set(classes) ^ set(given.names)))
            raise DataError(f"Class counts and table have different classes: {missing}.")
        place = {name: number for number, name in enumerate(given.names)}
        return ClassCounts([given.values[place[name]] for name in classes], classes)
    for part in parts:
        if isinstance(part.rest, dict) and "class_counts" in part.rest:
            counts = part.rest["class_counts"]
            if counts.ndim != 1:
                raise DataError(
                    f"{part.path}: class_counts has shape {list(counts.shape)}, not [C]."
                )
            try:
                return ClassCounts(counts, classes)
            except DataError as error:
                raise DataError(f"{part.path}: {error}") from error
    train = [_numbers(part, classes)[part.split == "train"] for part in parts]
    if not sum(map(len, train)):
        raise DataError(
            "The number of training images of each class is unknown. Add the training rows (split "
            "train), an array class_counts in the npz, or --class-counts FILE."
        )
    return ClassCounts.from_labels(np.concatenate(train), classes)


def _known_size(parts: Sequence[Part]) -> int:
    """Return the number of classes that an npz implies by other arrays; 0 if none does."""
    for part in parts:
        for name in ("class_counts", "weight"):
            if isinstance(part.rest, dict) and name in part.rest and part.rest[name].ndim:
                return len(part.rest[name])
    return 0


def _highest(parts: Sequence[Part]) -> int:
    """Return the largest label. Every class needs a training row, so there are no more than rows.

    Raises:
        DataError: If there is one: a large number among the labels would ask for all memory.
    """
    rows = sum(len(part.labels) for part in parts)
    worst = max(parts, key=lambda part: int(part.labels.max(initial=0)))
    highest = int(worst.labels.max(initial=0))
    if highest >= rows:
        raise DataError(
            f"{worst.path}: labels are class numbers from 0 to C-1, and every class needs a training "
            f"row, but there are {rows:,} rows and row {int(worst.labels.argmax())} (counted from 0) "
            f"has label {highest}. Use class names, or fix the label."
        )
    return highest


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
            f"{part.path}: the labels {named(unknown)} are not classes of the model; its classes are "
            f"{named(classes)}."
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
        raise DataError("Of the tables of a split, one contains logits and another features.")
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
            weight = part.rest["weight"]
            bias = part.rest.get("bias", np.zeros(weight.shape[:1]))
            if weight.ndim != 2 or bias.shape != weight.shape[:1]:
                raise DataError(
                    f"{part.path}: weight must be [C, D] and bias [C], but they have shapes "
                    f"{list(weight.shape)} and {list(bias.shape)}."
                )
            if weight.dtype.kind not in "fiu" or bias.dtype.kind not in "fiu":
                raise DataError(f"{part.path}: weight and bias must be numbers.")
            width = (
                part.values["features"].shape[1] if "features" in part.values else weight.shape[1]
            )
            if width != weight.shape[1]:
                raise DataError(
                    f"{part.path}: weight is for {weight.shape[1]} features, but there are {width}."
                )
            with np.errstate(all="ignore"):  # what float32 cannot hold is refused as not finite
                return Classifier(
                    torch.from_numpy(weight.astype(np.float32)),
                    torch.from_numpy(bias.astype(np.float32)),
                )
    return None


def _write_part(
    part: Part, logits: Array, done: Adjustment, evidence: Evidence, file: Path
) -> None:
    corrected, assumed = done.corrected, written(done.corrected.assumed)
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
        arrays |= {"assumed_prior": np.array(assumed), "corrections": np.array(done.corrections)}
        with file.open("wb") as stream:
            np.savez(stream, allow_pickle=False, **arrays)
        return
    frame = part.rest.copy()
    if "prediction" in frame:
        frame["prediction"] = logits.argmax(axis=1)
    names = evidence.class_counts.names
    if part.path.suffix.lower() == ".csv":
        values = pd.DataFrame(logits, columns=[f"logit_{name}" for name in names])
        pd.concat([frame, values], axis=1).to_csv(file, index=False)
        return
    table = pa.Table.from_pandas(frame, preserve_index=False)
    column = pa.FixedSizeListArray.from_arrays(logits.reshape(-1), logits.shape[1])
    metadata = {**(table.schema.metadata or {}), **part.metadata}
    described = described_by(part.metadata) | {
        "classes": list(names), "adjusted": True, "assumed_prior": assumed,
        "corrections": list(done.corrections),
    }  # fmt: skip
    described.pop("content_sha256", None)  # of the logits as they were
    metadata[b"longtail"] = json.dumps(described).encode()
    pq.write_table(table.append_column("logits", column).replace_schema_metadata(metadata), file)
