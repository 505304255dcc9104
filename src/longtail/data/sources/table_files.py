"""Tables of images: CSV in any usual form, Parquet, and the JSON of COCO."""

from __future__ import annotations

import codecs
import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from longtail.core.errors import DataError
from longtail.core.missing import no_data
from longtail.core.names import clean_name, shown
from longtail.core.regular_files import kind_of
from longtail.core.words import counted
from longtail.data.sources.coco_json import SUFFIX, read_coco

MOST_BYTES = 2**29  # of a CSV file, or of one column of a Parquet file: ten million rows
MOST_ROWS = 20_000_000
MOST_LETTERS = 10_000  # of a cell
LISTED_FAULTS = 10
IN_UTF8 = "Save the table as UTF-8, for example: iconv -f latin1 -t utf-8 OLD.csv > NEW.csv"
SEPARATORS = ",;\t|"
BYTE_ORDER_MARKS = (  # longer ones first, because they begin like shorter ones
    (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
PACKED = {
    b"\x1f\x8b": "a gzip archive", b"PK\x03\x04": "a zip archive or an Excel file",
    b"\xd0\xcf\x11\xe0": "an old Excel file", b"BZh": "a bzip2 archive", b"\xfd7zXZ": "an xz archive",
    b"(\xb5/\xfd": "a zstd archive", b"PAR1": "a Parquet table (rename it to .parquet)",
}  # fmt: skip
# what people call the columns
SYNONYMS = {
    "path": ("file", "files", "filename", "file name", "filepath", "file path", "image", "image path", "img",
             "img path", "picture", "paths", "image id", "fname", "name"),
    "label": ("labels", "class", "classes", "class name", "category", "species", "target", "y", "tag"),
    "split": ("splits", "set", "subset", "partition", "fold", "phase"),
}  # fmt: skip


@dataclass(frozen=True, order=True)
class Fault:
    """A row that cannot be used.

    Attributes:
        number: As an editor shows it.
        what: Is wrong with it, without a stop.
        advice: What to do, the same for all rows with this fault.
    """

    number: int
    what: str
    advice: str = ""


def refused(path: Path, faults: Sequence[Fault]) -> DataError:
    """Return an error that names the first rows that cannot be used, and how many more there are."""
    faults = sorted(set(faults))
    advice = [fault.advice for fault in faults if fault.advice]
    if len(faults) == 1:
        return DataError(" ".join([f"{path}, row {faults[0].number}: {faults[0].what}.", *advice]))
    lines = [f"  row {fault.number}: {fault.what}" for fault in faults[:LISTED_FAULTS]]
    if len(faults) > LISTED_FAULTS:
        lines.append(f"  and {len(faults) - LISTED_FAULTS:,} more")
    head = f"{path} has {len(faults):,} faults:"
    return DataError("\n".join([head, *lines, *dict.fromkeys(advice)]))


@dataclass(frozen=True)
class Table:
    """A table whose cells are text.

    Attributes:
        path: The file.
        header: Names of the columns as they are written.
        numbers: Row of each record as an editor shows it (the header is row 1).
        faults: Rows that were left out, because they have other columns than the header.
    """

    path: Path
    header: tuple[str, ...]
    numbers: Sequence[int]
    _rows: Sequence[Sequence[str]] | None = None
    faults: tuple[Fault, ...] = ()

    def find(self, name: str) -> int | None:
        """Return the place of a column; capitals and spaces around it do not count. None if there is none.

        Raises:
            DataError: If several columns are called so.
        """
        exact = [place for place, title in enumerate(self.header) if title == name]
        found = exact or [n for n, title in enumerate(self.header) if plain(title) == plain(name)]
        if len(found) > 1:
            raise DataError(
                f"{self.path} has {len(found)} columns called {shown(name)}: "
                f"{', '.join(shown(self.header[place]) for place in found)}. Keep one of them."
            )
        return found[0] if found else None

    def column(self, place: int) -> list[str]:
        """Return the cells of a column, without space around them; empty where there is nothing.

        Raises:
            DataError: If they are no text, numbers or dates, or too many.
        """
        if self._rows is not None:
            return [row[place].strip() for row in self._rows]
        return _parquet_column(self.path, place, self.header[place])

    def words(self, place: int) -> set[str]:
        """Return the different cells of a column of text; nothing where it holds something else."""
        if self._rows is None and not _holds_words(self.path, place):
            return set()
        return set(self.column(place))

    def columns(self) -> str:
        """Name the columns, for people."""
        return shown(", ".join(map(shown, self.header)), 500)


def plain(title: str) -> str:
    """Return the title of a column without capitals, and without space or invisible letters around it."""
    return clean_name(title).lower()


def looks_like(title: str, name: str) -> bool:
    """Say whether the title of a column may be meant as `name`: a synonym, or a slip of the pen."""
    return re.sub(r"[\s_.-]+", " ", plain(title)) in SYNONYMS[name] or is_slip(title, name)


def is_slip(title: str, name: str) -> bool:
    """Say whether the title of a column is nearly `name`, but not it: `spilt`, `splits`, `s_plit`."""
    letters = re.sub(r"[\W_]+", "", plain(title))
    return plain(title) != name and SequenceMatcher(None, letters, name).ratio() >= 0.75


def open_table(path: Path, *, with_faults: bool = False) -> Table:
    """Open a CSV or Parquet file with a row of titles, or the JSON of COCO and iNaturalist.

    CSV may be separated by commas, semicolons, tabs or bars and be written in UTF-8, UTF-16 or UTF-32.

    Args:
        path: The file.
        with_faults: Whether rows of other columns than the header are left to the caller, in `faults`.

    Raises:
        DataError: If it is neither, or rows have other columns, in words.
    """
    try:
        if kind := kind_of(path):
            raise DataError(f"{shown(str(path))} is {kind}, not a table.")
        if path.suffix.lower() in (".parquet", ".pq"):
            return _open_parquet(path)
        if (size := path.stat().st_size) > MOST_BYTES:
            raise DataError(f"{path} has {size:,} bytes, more than the limit of {MOST_BYTES:,}.")
        if path.suffix.lower() == SUFFIX:
            header, rows = read_coco(path)
            return Table(path, header, range(1, len(rows) + 1), rows)
        table = _open_csv(path)
        if table.faults and not with_faults:
            raise refused(path, table.faults)
        return table
    except FileNotFoundError as error:
        raise DataError(no_data(path)) from error
    except OSError as error:
        reason = shown(error.strerror or str(error), 200)
        raise DataError(f"{path} cannot be read as a table ({reason}).") from error


def _open_csv(path: Path) -> Table:
    text = _text(path)
    hint = re.match(r"sep=(.)\r?\n", text)  # Excel's own line before the titles
    text = text[hint.end() :] if hint else text
    separator = hint[1] if hint else _separator(text)
    skipped = 1 if hint else 0
    rows: list[list[str]] = []
    numbers: list[int] = []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        for row in reader:
            if any(cell.strip() for cell in row):  # not a blank line
                rows.append(row)
                numbers.append(reader.line_num + skipped)
    except csv.Error as error:
        raise DataError(
            f"{path} cannot be read as a table (row {reader.line_num + skipped}: {error})."
        ) from error
    if not rows:
        raise DataError(f"{path} cannot be read as a table: it is empty.")
    header, *rows = rows
    while len(header) > 1 and not header[-1].strip():
        header.pop()
    width = len(header)
    titles = f"{counted(width, 'column', 'columns')} ({shown(', '.join(map(shown, header)), 200)})"
    advice = f"Put a cell that contains {separator!r} in quotes."
    faults, sound = [], []
    for number, row in zip(numbers[1:], rows, strict=True):
        if len(row) < width or any(cell.strip() for cell in row[width:]):
            cells = counted(len(row), "cell", "cells")
            faults.append(Fault(number, f"{cells}, but the first row has {titles}", advice))
        else:
            sound.append((number, row))
    if not faults:
        return Table(path, tuple(header), numbers[1:], rows)
    kept = [number for number, _ in sound], [row for _, row in sound]
    return Table(path, tuple(header), *kept, tuple(faults))


def _text(path: Path) -> str:
    content = path.read_bytes()
    if packed := next((name for start, name in PACKED.items() if content.startswith(start)), ""):
        raise DataError(f"{path} is {packed}, not a CSV table; unpack it, or save it as CSV.")
    encoding = next((name for mark, name in BYTE_ORDER_MARKS if content.startswith(mark)), "utf-8")
    try:
        # bytes that are no UTF-8 may still be the name of a file, which is seen later
        text = content.decode(encoding, "surrogateescape" if "8" in encoding else "strict")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} begins like {encoding.upper()} but is not valid {encoding.upper()} ({error})."
        ) from error
    if "\0" in text:
        raise DataError(
            f"{path} cannot be read as a table: it contains NUL characters. Save it as text in UTF-8."
        )
    return text


def _separator(text: str) -> str:
    """Return what separates the titles; a comma unless another one makes more sense of them."""
    first = next((line for line in text.splitlines() if line.strip()), "")

    def sense(separator: str) -> int:
        titles = {plain(title.strip('"')) for title in first.split(separator)}
        return len(titles & set(SYNONYMS)) * 100 + len(titles)

    return max(SEPARATORS, key=sense)


def _open_parquet(path: Path) -> Table:
    try:
        with pq.ParquetFile(path) as file:
            rows, names = file.metadata.num_rows, tuple(file.schema_arrow.names)
    except PermissionError:
        raise
    except Exception as error:  # pyarrow raises many kinds of errors on files that are no tables
        raise _no_parquet(path, error) from error
    if not 0 <= rows <= MOST_ROWS:
        raise DataError(f"{path} has {rows:,} rows, more than the limit of {MOST_ROWS:,}.")
    return Table(path, tuple(_sound(name) for name in names), range(2, rows + 2))


def _sound(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def _no_parquet(path: Path, error: Exception) -> DataError:
    first = str(error).strip().splitlines()[0] if str(error).strip() else ""
    return DataError(
        f"{path} cannot be read as a Parquet table ({type(error).__name__}: {shown(first, 200)})."
    )


def _parquet_column(path: Path, place: int, name: str) -> list[str]:
    """Read one column alone, so that images stored beside it stay on the disk."""
    cells: list[str] = []
    try:
        with pq.ParquetFile(path) as file:
            field = file.schema_arrow.field(place)
            if not _is_plain(field.type):
                raise DataError(
                    f"{path}: the column {shown(name)} contains {field.type} values, but one text or number "
                    "per image is expected."
                )
            groups = [file.metadata.row_group(n) for n in range(file.metadata.num_row_groups)]
            # columns of structures count several times there
            leaves = [
                n for n in range(len(file.schema)) if file.schema.column(n).path == field.name
            ]
            stored = sum(g.column(n).total_uncompressed_size for g in groups for n in leaves)
        if stored > MOST_BYTES:
            raise DataError(
                f"{path}: the column {shown(name)} has {stored:,} bytes, more than the limit "
                f"of {MOST_BYTES:,}."
            )
        # repeated cells stay references, so that a small file cannot become a large text unseen
        with pq.ParquetFile(path, read_dictionary=[field.name]) as file:
            for batch in file.iter_batches(batch_size=4096, columns=[field.name]):
                cells += _as_text(batch.column(0), path, name)
    except DataError:
        raise
    except Exception as error:  # see above; OSError stands for damaged pages too
        raise _no_parquet(path, error) from error
    return cells


def _holds_words(path: Path, place: int) -> bool:
    with pq.ParquetFile(path) as file:
        kind = file.schema_arrow.field(place).type
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind)
    )


def _is_plain(kind: pa.DataType) -> bool:
    """Say whether a cell of this type is one word, number or date."""
    if pa.types.is_dictionary(kind):
        return _is_plain(kind.value_type)
    nested = pa.types.is_nested(kind) or isinstance(kind, pa.BaseExtensionType)
    return not (nested or pa.types.is_duration(kind) or pa.types.is_interval(kind))


def _as_text(values: pa.Array, path: Path, name: str) -> list[str]:
    known = values.dictionary if isinstance(values, pa.DictionaryArray) else values
    if any(
        is_of(known.type) for is_of in (pa.types.is_large_string, pa.types.is_string, _is_binary)
    ):
        longest = pc.max(pc.binary_length(known)).as_py() or 0
        if longest > MOST_LETTERS:
            raise DataError(
                f"{path}: a cell of the column {shown(name)} has {longest:,} bytes, more than the limit of "
                f"{MOST_LETTERS:,}."
            )
    return [_cell(value) for value in values.to_pylist()]


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _cell(value: object) -> str:
    """Return a cell as text; whole numbers without the `.0` that a missing cell elsewhere gives them."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "surrogateescape")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()
