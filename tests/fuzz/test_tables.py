"""Damaged tables of images, CSV and Parquet: a sane result, or one sentence."""

import io
import re

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tests.fuzz.harness import longtail, run_fuzz
from tests.fuzz.inspected import wrong_count
from tests.fuzz.mutate import csv_bytes, mutate_bytes, mutate_table

SIZES = {"fox": 7, "lynx": 5, "Käfer": 4}


def images(root):
    """Write 16 different images below `root`; return rows of path, label, split and animal."""
    rows = []
    for name, size in SIZES.items():
        (root / name).mkdir(parents=True)
        for number in range(size):
            pixels = np.random.default_rng([len(rows)]).integers(0, 255, (8, 8, 3), dtype=np.uint8)
            path = f"{name}/{number}.png"
            Image.fromarray(pixels).save(root / path)
            split = ("train", "train", "val", "test")[number % 4]
            rows.append([path, name, split, f"animal {len(rows) // 2}"])
    return rows


def parquet_bytes(rng, rows):
    """Write a table as Parquet with whatever types its cells have, lists and bytes among them."""
    rows = rows or [[]]
    width = max(map(len, rows))
    names = [str(cell) for cell in rows[0]] + [f"more {n}" for n in range(width)]
    arrays = []
    for place in range(width):
        cells = [row[place] if place < len(row) else None for row in rows[1:]]
        kind = rng.choice(["as it is", "as it is", "text", "category", "list", "bytes", "float"])
        if kind == "list":
            cells = [[cell] for cell in map(str, cells)]
        elif kind == "bytes":
            cells = [str(cell).encode("utf-8", "surrogatepass") for cell in cells]
        elif kind == "float":
            cells = [float(number % 3) for number, _ in enumerate(cells)]
        elif kind in ("text", "category"):
            cells = [str(cell).encode("utf-8", "replace").decode() for cell in cells]
        try:
            array = pa.array(cells)
        except (pa.ArrowException, OverflowError, UnicodeEncodeError):
            array = pa.array([ascii(cell) for cell in cells])
        arrays.append(array.dictionary_encode() if kind == "category" else array)
    names = [name.encode("utf-8", "replace").decode() for name in names[:width]]
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_arrays(arrays, names=names), sink)
    return sink.getvalue()


def test_tables(inputs, tmp_path):
    rows = images(tmp_path / "images")
    titles = ["path", "label", "split", "animal"]

    def make(rng, folder):
        width = rng.choice([2, 3, 4])
        whole = [titles[:width], *(row[:width] for row in rows)]
        table = mutate_table(rng, whole) if rng.random() < 0.8 else whole
        suffix, write = rng.choice(
            [("csv", csv_bytes), ("csv", csv_bytes), ("parquet", parquet_bytes)]
        )
        content = write(rng, table)
        if rng.random() < 0.3:
            content = mutate_bytes(rng, content)
        (folder / f"list.{suffix}").write_bytes(content)
        return f"list.{suffix}", len(table)

    def act(given, folder):
        return longtail("data", "inspect", given[0], "--root", tmp_path / "images")

    def check(given, ended, folder):
        if wrong := wrong_count(ended.out, len(rows)):
            return wrong
        if given[0] == "list.csv" and "have no split" in ended.out:
            content = (folder / "list.csv").read_bytes()
            for encoding in ("utf-16", "utf-8-sig"):
                try:
                    head = content.decode(encoding, "strict").splitlines()[0].lower()
                    break
                except UnicodeError:
                    head = ""
            if re.search(r"\bsplit\b", head) and re.search(rb"\b(val|test)\b", content):
                return "the split of the table was not taken"
        return None

    report = run_fuzz("tables", make, act, tmp_path, check=check, inputs=inputs)
    report.require()
    assert report.accepted > report.done // 50
    assert report.refused > report.done // 4


def test_the_untouched_table_is_read(tmp_path):
    rows = images(tmp_path / "images")
    table = pd.DataFrame(rows, columns=["path", "label", "split", "animal"])
    table.to_csv(tmp_path / "images" / "list.csv", index=False)
    ended = longtail("data", "inspect", tmp_path / "images" / "list.csv")
    assert ended.status == 0
    assert "list: 3 classes, 16 images (train 9, val 4, test 3)" in ended.out
