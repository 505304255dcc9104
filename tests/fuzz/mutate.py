"""Damage: what goes wrong with bytes, trees of values, tables and arrays, drawn by a seed.

Every function takes a `random.Random`, changes a copy of what it is given, and returns it.
"""

import copy
import csv
import io
import json
import random
import string
import warnings

import numpy as np

TOKENS = (
    b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\xc3\x28", b"\xed\xa0\x80", b"\r", b"\r\n", b"\n\n", b'"', b"'",
    b",", b";", b"\t", b":", b"---\n", b"{{", b"}}", b"[" * 5000, b"{a: " * 5000, b"&a [*a,*a]",
    b"!!python/name:os.system ", b"NaN", b"-Infinity", b"1e308", b"-1e308", b"1e999", b"-1", b"-0.0", b"0",
    b"9223372036854775808", b"18446744073709551616", b"4294967296", b"9" * 30, b"9" * 5000, b"null", b"true",
    b"a" * 100_000, b"=1+1", b"<script>alert(1)</script>", b"\x1b[31m", b"[red]", b"$\\frac{$", b"%s%n",
    b"../../../etc/passwd", "Käfer".encode("latin-1"), "Käfer".encode("utf-16"), "a\u0308".encode(),
    "\u202e\u200b".encode(), b"\x7f\x08\x07",
)  # fmt: skip
TEXTS = (
    "", " ", "\x00", "a\x00b", "\n", "\r", "\t", "a" * 100_000, "9" * 30, "9" * 5000, "nan", "NaN", "inf",
    "-inf", "1e308", "1e999", "-1", "0.0", "true", "null", "None", "~", "[]", "{}", "['fox']", "0x10",
    "1_000", "1,5", "=1+1", "+1", "@a", "<b>", "[red]", "[/]",
    "$", "$\\frac{$", "{", "%", "\\", "/", ".", "..",
    "../../x", "/dev/null", "-", "--out", "C:\\x", "a/b", "a\u0308", "ä", "\u202e", "\ud800", "\udcff",
    "\x1b[31m", "\x7f", "😀", "名",
)  # fmt: skip
NUMBERS = (
    0, 1, -1, 2, 255, 256, 2**31 - 1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**29, 10**400,
    0.0, -0.0, 0.1, 0.5, 1.5, -0.5, 5e-324, 1e-308, 1e308, -1e308, float("nan"), float("inf"), float("-inf"),
)  # fmt: skip
OTHERS = (
    None,
    True,
    False,
    [],
    {},
    [[]],
    [None],
    {"": ""},
    {"a": {"a": {}}},
    [0],
    ["a"],
    {"name": None},
)


def nasty_text(rng: random.Random) -> str:
    """Return a text that people or programs stumble over."""
    return rng.choice(TEXTS) if rng.random() < 0.8 else _noise(rng, rng.randint(1, 12))


def nasty_value(rng: random.Random):
    """Return a scalar or small tree of a wrong type, size or meaning."""
    kind = rng.random()
    if kind < 0.4:
        return rng.choice(NUMBERS)
    if kind < 0.7:
        return nasty_text(rng)
    if kind < 0.95:
        return copy.deepcopy(rng.choice(OTHERS))
    return _deep(rng.choice([3, 30, 300]), as_list=rng.random() < 0.5)


def mutate_bytes(rng: random.Random, data: bytes, others: tuple[bytes, ...] = ()) -> bytes:
    """Damage bytes one to four times: flipped bits, cuts, repeats, splices with `others`, tokens."""
    for _ in range(rng.randint(1, 4)):
        data = rng.choice(_BYTES)(rng, data, others)
    return data


def _span(rng: random.Random, data: bytes) -> tuple[int, int]:
    start = rng.randint(0, len(data))
    return start, min(len(data), start + int(2 ** rng.uniform(0, 10)))


def _flip(rng, data, others):
    if not data:
        return data
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 8])):
        changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _truncate(rng, data, others):
    return data[: rng.choice([0, 1, rng.randint(0, len(data)), max(0, len(data) - 1)])]


def _cut(rng, data, others):
    start, end = _span(rng, data)
    return data[:start] + data[end:]


def _repeat(rng, data, others):
    start, end = _span(rng, data)
    return data[:end] + data[start:end] * rng.choice([1, 2, 50]) + data[end:]


def _zero(rng, data, others):
    start, end = _span(rng, data)
    return data[:start] + bytes([rng.choice([0, 255])]) * (end - start) + data[end:]


def _splice(rng, data, others):
    other = rng.choice(others or (data,))
    return data[: rng.randint(0, len(data))] + other[rng.randint(0, len(other)) :]


def _insert(rng, data, others):
    start, end = _span(rng, data)
    return data[:start] + rng.choice(TOKENS) + data[rng.choice([start, end]) :]


def _digits(rng, data, others):
    """Replace one run of digits by another number."""
    places = [place for place, byte in enumerate(data) if byte in b"0123456789"]
    if not places:
        return _insert(rng, data, others)
    start = end = rng.choice(places)
    while end < len(data) and data[end] in b"0123456789":
        end += 1
    return data[:start] + repr_of(rng.choice(NUMBERS)).encode() + data[end:]


_BYTES = (_flip, _flip, _truncate, _cut, _repeat, _zero, _splice, _insert, _insert, _digits)


def mutate_tree(rng: random.Random, tree):
    """Damage a tree of mappings, lists and scalars (JSON, YAML) one to three times."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.randint(1, 3)):
        places = list(_places(tree))
        if not places:
            return nasty_value(rng)
        holder, key = rng.choice(places)
        _damage(rng, holder, key)
    return tree


def _places(tree):
    """Yield every (holder, key) of a tree."""
    pairs = (
        tree.items()
        if isinstance(tree, dict)
        else enumerate(tree)
        if isinstance(tree, list)
        else ()
    )
    for key, value in list(pairs):
        yield tree, key
        yield from _places(value)


def _damage(rng: random.Random, holder, key) -> None:
    value, kind = holder[key], rng.random()
    if kind < 0.6:
        holder[key] = nasty_value(rng)
    elif kind < 0.7:
        del holder[key]
    elif kind < 0.8:
        holder[key] = rng.choice([[value], {"a": value}, [value] * 3, str(value)])
    elif isinstance(holder, dict):
        name = rng.choice(
            [nasty_text(rng), str(key).upper(), f" {key}", rng.choice([0, None, True, 1.5])]
        )
        holder[name] = value
        if kind < 0.9:
            holder.pop(key, None)
    else:
        holder.insert(key, nasty_value(rng))


def mutate_table(rng: random.Random, rows: list[list]) -> list[list]:
    """Damage a table one to four times; row 0 is the header. Cells may end as anything but a list."""
    rows = [list(row) for row in rows]
    for _ in range(rng.randint(1, 4)):
        if not rows or not any(rows):
            return [[nasty_text(rng)]]
        row = rng.choice([0, rng.randrange(len(rows))])
        column = rng.randrange(max(1, len(rows[row])))
        rng.choice(_TABLES)(rng, rows, row, column)
    return rows


def _cell(rng, rows, row, column):
    if rows[row]:
        rows[row][column] = rng.choice([nasty_text(rng), rng.choice(NUMBERS), None, True])


def _column(rng, rows, row, column):
    value = rng.choice([nasty_text(rng), rng.choice(NUMBERS)])
    for cells in rows[1:]:
        cells[column : column + 1] = [value]


def _drop_column(rng, rows, row, column):
    for cells in rows:
        del cells[column : column + 1]


def _double_column(rng, rows, row, column):
    for cells in rows:
        cells[column:column] = cells[column : column + 1]


def _shorter(rng, rows, row, column):
    del rows[row][column:]


def _longer(rng, rows, row, column):
    rows[row] += [nasty_text(rng)] * rng.choice([1, 1, 100])


def _drop_row(rng, rows, row, column):
    del rows[row]


def _double_row(rng, rows, row, column):
    rows[row:row] = [list(rows[row])] * rng.choice([1, 20])


def _header_only(rng, rows, row, column):
    del rows[1:]


def _header_near(rng, rows, row, column):
    if rows[0]:
        name = str(rows[0][column % len(rows[0])])
        rows[0][column % len(rows[0])] = rng.choice(
            [name.upper(), name.title(), f" {name}", f"{name} ", f"{name}s"]
        )


_TABLES = (_cell, _cell, _cell, _cell, _column, _drop_column, _double_column, _shorter, _longer, _drop_row,
           _double_row, _header_only, _header_near)  # fmt: skip


def mutate_array(rng: random.Random, array: np.ndarray) -> np.ndarray:
    """Damage an array one to two times: values, shape, type, order."""
    for _ in range(rng.randint(1, 2)):
        array = rng.choice(_ARRAYS)(rng, np.array(array))
    return array


def _value(rng, array):
    if array.size and array.dtype.kind in "fiu":
        number = rng.choice([n for n in NUMBERS if abs(n) < 2**62 or isinstance(n, float)])
        with np.errstate(all="ignore"):
            places = [rng.randrange(array.size) for _ in range(rng.choice([1, 1, array.size]))]
            array.reshape(-1)[places] = np.array(number).astype(array.dtype)
    return array


def _shape(rng, array):
    return rng.choice(
        [array[:0], array[:1], array[:-1], array[None], array[..., None], array.reshape(-1), array.T,
         array[..., :0], array[..., :1], np.repeat(array, 2, -1) if array.ndim else array[None]]
        if array.ndim
        else [array[None], array]
    )  # fmt: skip


def _type(rng, array):
    kinds = [
        "float16",
        "float64",
        "int8",
        "int64",
        "uint64",
        "bool",
        "complex64",
        "S4",
        "U4",
        "object",
        ">f4",
    ]
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", np.exceptions.ComplexWarning)
        try:
            return array.astype(rng.choice(kinds))
        except (TypeError, ValueError, OverflowError):
            return array


_ARRAYS = (_value, _value, _shape, _type)


# --- writing ----------------------------------------------------------------------------------


def csv_bytes(rng: random.Random, rows: list[list]) -> bytes:
    """Write a table as CSV, mostly as everybody does, sometimes in another dialect or encoding."""
    odd = rng.random() < 0.2
    text = io.StringIO()
    writer = csv.writer(
        text,
        delimiter=rng.choice(",;\t|") if odd else ",",
        quoting=rng.choice([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]) if odd else csv.QUOTE_MINIMAL,
        lineterminator=rng.choice(["\r\n", "\r", "\n"]) if odd else "\n",
    )
    writer.writerows([["" if cell is None else repr_of(cell) for cell in row] for row in rows])
    encoding = rng.choice(["utf-8", "utf-8-sig", "utf-16", "latin-1"]) if odd else "utf-8"
    return text.getvalue().encode(
        encoding, errors="replace" if encoding == "latin-1" else "surrogatepass"
    )


def json_bytes(tree) -> bytes:
    """Write a tree as JSON, NaN and infinity as Python and JavaScript write them."""
    return json.dumps(tree, skipkeys=True).encode()


def repr_of(value) -> str:
    """Return a number or text as a file or a shell would hold it."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**100:
        return "1" + "0" * 400
    return str(value)


def _deep(depth: int, *, as_list: bool):
    tree = 1
    for _ in range(depth):
        tree = [tree] if as_list else {"a": tree}
    return tree


def _noise(rng: random.Random, size: int) -> str:
    letters = string.printable + "äß€漢\u0000\u001b"
    return "".join(rng.choice(letters) for _ in range(size))
