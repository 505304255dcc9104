"""One file of logits or features with labels: CSV, Parquet or npz. Layouts are in `tables`."""

from __future__ import annotations

import difflib
import json
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray

from longtail.adjust.tool.notes import read_note
from longtail.adjust.tool.score_kinds import as_logits
from longtail.core.boundary import named, reading
from longtail.core.errors import DataError
from longtail.core.manifest import SPLITS
from longtail.core.names import shown
from longtail.core.prior import Prior, read_stated
from longtail.data.splits.keep_together import cells_as_text

KINDS = {"logits": "logit_", "features": "feature_"}
COLUMNS = ("label", "split", "together", "prediction", *KINDS)
ARRAYS = (
    "labels", "split", "together", "classes", "class_counts", "weight", "bias", "assumed_prior",
    "corrections", *KINDS,
)  # fmt: skip
SPLIT_WORDS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val",
    "dev": "val", "test": "test", "testing": "test",
}  # fmt: skip
ALIKE = 0.8  # of 1: names that are nearly one another
DIGITS = 18  # of whole numbers that int64 holds for certain
Array = NDArray[Any]
Named = TypeVar("Named")


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
        together: Name of what each image belongs to, text [N], where the file says it.
        split_said: Whether the file, or its name, says the split.
        given_as: What the logits were: `logits`, `probabilities` or `percent`, which were converted.
        assumed_prior: Class distribution that the logits assume, as on a model's metadata.
        corrections: What is known to have been done about the imbalance.
    """

    path: Path
    rest: pd.DataFrame | dict[str, Array]
    labels: Array
    split: Array
    values: dict[str, NDArray[np.float32]]
    classes: tuple[str, ...] | None
    metadata: dict[bytes, bytes]
    together: Array | None = None
    split_said: bool = True
    given_as: str = "logits"
    assumed_prior: Prior = None
    corrections: tuple[str, ...] = ()

    def same_rows(self, other: Part) -> bool:
        """Say whether another file holds the same images' scores: they would count twice."""
        return self.values.keys() == other.values.keys() and all(
            np.array_equal(values, other.values[kind]) for kind, values in self.values.items()
        )


def read_part(path: Path) -> Part:
    """Read one file.

    Raises:
        DataError: If it is missing, damaged or of another layout, in one sentence with its name.
    """
    with reading(path, "a table of logits or features"), np.errstate(all="ignore"):
        return _read_npz(path) if path.suffix.lower() == ".npz" else _read_frame(path)


def _read_npz(path: Path) -> Part:
    with np.load(path, allow_pickle=False) as file:
        stored: dict[str, Array] = {str(name): np.asarray(file[name]) for name in file.files}
    arrays = _canonical(stored, ARRAYS, path, "array")
    for name in ("labels", "split", "together", "classes", "corrections"):
        if name in arrays and arrays[name].dtype.kind == "S":
            arrays[name] = np.char.decode(arrays[name], "utf-8")
    given = {kind: arrays.pop(kind) for kind in KINDS if kind in arrays}
    if "labels" not in arrays or not given:
        raise DataError(
            f"{path} must contain an array labels [N] and logits [N, C] or features [N, D]; it "
            f"contains {named(arrays) or 'nothing'}."
        )
    labels = arrays["labels"]
    checked: dict[str, Array] = dict(given)
    checked |= {name: arrays[name] for name in ("split", "together") if name in arrays}
    for name, array in checked.items():
        if labels.ndim != 1 or array.shape[:1] != labels.shape:
            raise DataError(
                f"{path}: {name} has shape {list(array.shape)}, but there are labels of shape "
                f"{list(labels.shape)}."
            )
    classes = _names(arrays["classes"], path) if "classes" in arrays else None
    split = arrays.get("split")
    if split is not None and split.ndim != 1:
        raise DataError(
            f"{path}: split must be one text per row, but has shape {list(split.shape)}."
        )
    labels = _read_labels(labels, classes, path)
    together = arrays.get("together")
    splits, said = _splits(split, path, len(labels))
    values, given_as = _values(given, path)
    prior = arrays.get("assumed_prior")
    return Part(
        path, arrays, labels, splits, values, classes, {},
        None if together is None else np.char.strip(together.astype(str)), said, given_as,
        None if prior is None else _stated(prior.tolist(), path),
        tuple(str(name) for name in arrays.get("corrections", np.empty(0)).reshape(-1)),
    )  # fmt: skip


def _read_frame(path: Path) -> Part:
    metadata: dict[bytes, bytes] = {}
    if path.suffix.lower() == ".csv":
        frame = _read_csv(path)
    else:
        table = pq.read_table(path)
        metadata = dict(table.schema.metadata or {})
        frame = table.to_pandas()
    frame.columns = pd.Index([str(name) for name in frame.columns])
    if twice := sorted(set(frame.columns[frame.columns.duplicated()])):
        raise DataError(f"{path} has two columns called {named(twice)}.")
    frame = pd.DataFrame(_canonical({str(n): frame[n] for n in frame}, COLUMNS, path, "column"))
    if "label" not in frame:
        raise DataError(f"{path} has no column label; it has {named(frame.columns, 8)}.")
    if not len(frame):
        raise DataError(f"{path} has columns but no rows.")
    _refuse_hidden_splits(frame, path)
    given, dropped, classes = _numbers_of(frame, path)
    described = _described(metadata, path)
    # prediction files of run folders hold numbers
    labels = _read_labels(frame["label"].to_numpy(), None if described else classes, path)
    if "classes" in described:
        classes = _names(np.array(described["classes"], dtype=object), path)
    split = frame["split"].to_numpy() if "split" in frame else described.get("split")
    splits, said = _splits(split, path, len(frame))
    together = np.array(cells_as_text(frame["together"])) if "together" in frame else None
    values, given_as = _values(given, path)
    prior, corrections = described.get("assumed_prior"), described.get("corrections", ())
    if not described:
        prior, corrections = read_note(path)
    return Part(
        path, frame.drop(columns=dropped), labels, splits, values, classes, metadata, together, said,
        given_as, _stated(prior, path), tuple(map(str, corrections)),
    )  # fmt: skip


def _read_csv(path: Path) -> pd.DataFrame:
    """Read everything but logits and features as text: a class may be called 010 or NA."""
    header = pd.read_csv(path, nrows=0, dtype=str, index_col=False)
    if len(header.columns) == 1 and (other := re.search("[;\t|]", str(header.columns[0]))):
        raise DataError(
            f"{path}: its columns are separated by {other[0]!r}. Save it with commas between columns "
            "and decimal points in numbers."
        )
    numbers = tuple(KINDS.values())
    text: dict[Any, Any] = {
        name: str for name in header.columns if not str(name).strip().lower().startswith(numbers)
    }
    with warnings.catch_warnings():
        # rows that are longer than the header would lose cells, or shift all columns
        warnings.simplefilter("error", pd.errors.ParserWarning)
        try:
            return pd.read_csv(path, dtype=text, keep_default_na=False, index_col=False)
        except pd.errors.ParserWarning as error:
            raise DataError(f"{path}: some rows have more cells than the header.") from error


def _numbers_of(
    frame: pd.DataFrame, path: Path
) -> tuple[dict[str, Array], list[str], tuple[str, ...] | None]:
    """Return logits or features [N, width], the columns that held them, and the classes they name."""
    values: dict[str, Array] = {}
    dropped: list[str] = []
    classes = None
    for kind, prefix in KINDS.items():
        columns = [name for name in map(str, frame) if name.lower().startswith(prefix)]
        try:
            if kind in frame:
                values[kind] = np.stack(frame[kind].to_list())
                dropped.append(kind)
            elif columns:
                values[kind] = np.stack([frame[name].to_numpy(np.float64) for name in columns], 1)
                dropped += columns
                if kind == "logits":
                    classes = tuple(name[len(prefix) :].strip() for name in columns)
        except (TypeError, ValueError) as error:
            raise DataError(f"{path}: the {kind} are not a table of numbers ({error}).") from error
    if not values:
        raise DataError(f"{path} has neither columns logit_<class> nor feature_<number>.")
    if classes is not None and len(set(classes)) < len(classes):
        raise DataError(f"{path} has two logit columns for the same class: {named(classes)}.")
    return values, dropped, classes


def _values(given: Mapping[str, Array], path: Path) -> tuple[dict[str, NDArray[np.float32]], str]:
    """Check and convert logits and features to float32 [N, width]."""
    values, given_as = {}, "logits"
    for kind, array in given.items():
        if array.ndim != 2 or not array.shape[1]:
            raise DataError(
                f"{path}: {kind} must have one row per image, [N, width], but have shape {list(array.shape)}."
            )
        if array.dtype.kind not in "fiu":
            raise DataError(f"{path}: the {kind} are not numbers, but {array.dtype}.")
        if kind == "logits":
            array, given_as = as_logits(array.astype(np.float64), path)
        values[kind] = array.astype(np.float32)
        broken = np.flatnonzero(~np.isfinite(values[kind]).all(axis=1))
        if len(broken):
            raise DataError(
                f"{path}: the {kind} of row {broken[0]} (counted from 0) are not finite, or too large for "
                f"float32 ({len(broken)} such rows)."
            )
    return values, given_as


def _canonical(
    found: Mapping[str, Named], known: tuple[str, ...], path: Path, what: str
) -> dict[str, Named]:
    """Return the content with known names in their own spelling; refuse what is nearly one of them."""
    result: dict[str, Named] = {}
    for name, value in found.items():
        bare = name.strip().lower()
        own = bare if bare in known else name
        if own in result:
            raise DataError(
                f"{path} has two {what}s called {shown(str(own))}, apart from case and spaces."
            )
        result[own] = value
    for name in result:
        bare = name.strip().lower()
        if bare in known or bare.startswith(tuple(KINDS.values())):
            continue
        near = difflib.get_close_matches(bare, [n for n in known if n not in result], 1, ALIKE)
        if near:
            raise DataError(
                f"{path}: the {what} {shown(str(name))!r} is almost `{near[0]}`. Rename it to {near[0]} if "
                "that is what it is, or to something else if not."
            )
    return result


def _refuse_hidden_splits(frame: pd.DataFrame, path: Path) -> None:
    """Refuse a table whose splits stand in a column of another name: all rows would be test rows."""
    if "split" in frame:
        return
    for name in frame.columns:
        column = frame[name]
        if name in COLUMNS or column.dtype.kind in "fiub":
            continue
        words = {str(value).strip().lower() for value in column.unique()[:20].tolist()}
        if len(words) > 1 and words <= set(SPLIT_WORDS):
            raise DataError(
                f"{path}: the column {shown(str(name))!r} contains names of splits. Rename it to split, so "
                "that training rows are not scored as test rows."
            )


def _names(array: Array, path: Path) -> tuple[str, ...]:
    if array.ndim != 1 or not len(array):
        raise DataError(
            f"{path}: classes must be a list of names, but has shape {list(array.shape)}."
        )
    return tuple(str(name) for name in array.tolist())


def _read_labels(labels: Array, classes: tuple[str, ...] | None, path: Path) -> Array:
    """Return labels as numbers, int64, or as names; classes may be called by numbers."""
    if labels.dtype.kind == "f":
        if not np.isfinite(labels).all() or (labels != np.floor(labels)).any():
            raise DataError(f"{path}: labels must be class names or whole numbers from 0.")
        if np.abs(labels).max(initial=0) >= 10**DIGITS:
            raise DataError(f"{path}: the label {labels.max():g} is not a valid class number.")
        labels = labels.astype(np.int64)
    if labels.dtype.kind == "O":
        odd = next((x for x in labels.tolist() if not isinstance(x, str | int | float)), None)
        if odd is not None or any(isinstance(x, float) and x != x for x in labels.tolist()):
            raise DataError(
                f"{path}: labels must be one class name or number per row, but one is {shown(str(odd))!r}."
            )
    text = np.char.strip(labels.astype(str))
    values = sorted(set(text.tolist()))
    if all(re.fullmatch(r"[0-9]+\.0*", value) for value in values):
        return _read_labels(text.astype(np.float64), classes, path)
    whole = re.compile(rf"-?(0|[1-9][0-9]{{0,{DIGITS - 1}}})")
    if not all(whole.fullmatch(value) for value in values):
        return text
    numbers = text.astype(np.int64)
    if classes is None or not set(values) <= set(classes):
        return numbers
    if numbers.min(initial=0) < 0 or numbers.max(initial=0) >= len(classes):
        return text
    if all(classes[int(value)] == value for value in values):
        return numbers
    raise DataError(
        f"{path}: the labels {named(values)} could be class names or class numbers from 0, and the "
        f"classes are called {named(classes)}. Use class names that are not numbers."
    )


def described_by(metadata: Mapping[bytes, bytes]) -> dict[str, Any]:
    """Return what the Parquet file of a run folder, or one that was adjusted, says of itself."""
    content: dict[str, Any] = json.loads(metadata.get(b"longtail", b"{}"))
    return content


def _described(metadata: Mapping[bytes, bytes], path: Path) -> dict[str, Any]:
    described: object = described_by(metadata)
    lists: Callable[[object], bool] = lambda value: isinstance(value, list)  # noqa: E731
    if isinstance(described, dict) and all(
        lists(described[name]) for name in ("classes", "corrections") if name in described
    ):
        return described
    raise DataError(f"{path}: the description that longtail puts into Parquet files is damaged.")


def _stated(value: object, path: Path) -> Prior:
    try:
        return read_stated(value)
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: {error}.") from error


def _splits(given: Any, path: Path, size: int) -> tuple[Array, bool]:  # noqa: ANN401 - array, text or nothing
    """Return the split of every row, and whether anything says it."""
    said = given is not None
    if given is None:
        given = split_of_name(path)
        said = given is not None
    if given is None:
        given = "test"
    cells = np.broadcast_to(np.asarray(given, dtype=object), (size,)).tolist()
    words = [str(cell).strip().lower() for cell in cells]
    if unknown := sorted(set(words) - set(SPLIT_WORDS)):
        empty = " (a row has an empty cell)" if set(unknown) & {"", "nan", "none"} else ""
        raise DataError(
            f"{path}: split must be one of {', '.join(SPLITS)}, but is also {named(unknown)}{empty}."
        )
    return np.array([SPLIT_WORDS[word] for word in words], dtype=str), said


def split_of_name(path: Path) -> str | None:
    """Return the split that a file name tells, as `x-val.csv`, `model_train.csv` or `modelTest.csv`.

    Raises:
        DataError: If it tells two and ends in neither.
    """
    words = [word.lower() for word in _words(path.stem)]
    told = [SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS]
    if not told or len(set(told)) == 1:
        return told[0] if told else None
    if words[-1] in SPLIT_WORDS:
        return told[-1]
    raise DataError(
        f"{path}: the file name mentions several splits ({', '.join(told)}). Add a column split, "
        "or end the name in -train, -val or -test."
    )


def _words(stem: str) -> Iterable[str]:
    """Return the words of a file name: parted by anything that is no letter, and by capitals."""
    return re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", stem)
