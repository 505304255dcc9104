"""Tables of images in the forms in which people have them: read as meant, or refused in words."""

import os
import unicodedata

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from longtail.core.errors import DataError
from longtail.data.options import TableData
from longtail.data.preparation import prepare, read_files
from longtail.data.sources.table import read_table
from longtail.data.sources.table_files import MOST_LETTERS, open_table
from longtail.data.splits.split_file import split_table

SIZES = {"fox": 4, "lynx": 3}
PATHS = [f"img/{name}/{n}.png" for name, size in SIZES.items() for n in range(size)]
ROWS = [[path, path.split("/")[1]] for path in PATHS]
SPLITS = ["train", "train", "VAL ", "Test", "train", "val", "test"]


@pytest.fixture
def root(tmp_path):
    """A folder with seven files below img/; whether they are images does not matter to a table."""
    for path in PATHS:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    return tmp_path


def text(rows, separator=",", end="\n"):
    return "".join(separator.join(row) + end for row in rows)


def table(root, rows, name="t.csv", encoding="utf-8", **form):
    (root / name).write_bytes(text(rows, **form).encode(encoding))
    return root / name


def sizes(found):
    return [len(found.manifest.rows(split)) for split in ("train", "val", "test")]


@pytest.mark.parametrize(
    "title", ["split", "Split", " split", "SPLIT ", "\u200bsplit", "\ufeffsplit"]
)
@pytest.mark.parametrize("path", ["path", "Path", " PATH", "\ufeffpath"])
def test_capitals_and_spaces_in_titles_do_not_matter(root, title, path):
    rows = [
        [path, "Label ", title],
        *([*row, split] for row, split in zip(ROWS, SPLITS, strict=True)),
    ]
    found = read_table(table(root, rows))
    assert sizes(found) == [3, 2, 2]
    assert found.manifest.classes == ("fox", "lynx")


@pytest.mark.parametrize(
    "title", ["spilt", "splits", "Splitt", "s_plit", "set", "subset", "usage", "Phase"]
)
def test_a_split_under_another_title_is_refused(root, title):
    rows = [["path", "label", title], *([*row, s] for row, s in zip(ROWS, SPLITS, strict=True))]
    with pytest.raises(DataError, match=r"has no column split, but .* contains test, train, val"):
        read_table(table(root, rows))


@pytest.mark.parametrize("title", ["is_test", "IsValid", "is validation", "is-train"])
def test_a_column_of_yes_and_no_is_perhaps_a_split(root, title):
    flags = [True, False] * 3 + [False]
    wanted = rf"has no column split, but '{title}' looks like one"
    rows = [["path", "label", title], *([*r, str(f)] for r, f in zip(ROWS, flags, strict=True))]
    with pytest.raises(DataError, match=wanted):
        read_table(table(root, rows))
    with pytest.raises(DataError, match=wanted):
        read_table(parquet(root, label=[label for _, label in ROWS], **{title: flags}))


def test_labels_that_are_perhaps_none_are_told(root):
    labels = ["fox", "fox", "lynx", "fox| lynx", "lynx|fox", "fox|bear", "nan"]
    rows = [["path", "label"], *([p, label] for p, label in zip(PATHS, labels, strict=True))]
    joined, missing = read_table(table(root, rows)).notes
    assert joined.startswith("2 images have labels made of the names of other classes (fox| lynx, ")
    assert missing.startswith("The class nan (1 image) looks like a cell without a label.")
    # a name with a comma is a name
    rows = [["path", "label"], *([p, "fox;red" if i % 2 else "fox"] for i, p in enumerate(PATHS))]
    assert read_table(table(root, rows)).notes == ()


@pytest.mark.parametrize("values", [["1", "2"] * 3 + ["1"], ["train"] * 7, [""] * 7])
def test_other_columns_are_nobodys_split(root, values):
    rows = [["path", "label", "fold"], *([*row, v] for row, v in zip(ROWS, values, strict=True))]
    assert sizes(read_table(table(root, rows))) == [7, 0, 0]


@pytest.mark.parametrize(
    ("titles", "words"),
    [
        ("file,label", r"lacks path. It has: file, label. 'file' looks like path: rename it"),
        (
            "filename,labels",
            r"lacks path and label.* 'filename' looks like path; 'labels' looks like label",
        ),
        ("image_path,class", r"'image_path' looks like path; 'class' looks like label"),
        ("pth,lable", r"'pth' looks like path; 'lable' looks like label"),
        ("img/fox/0.png,fox", "The first row must contain the column names path and label"),
        ("path,label,label", "has 2 columns called label"),
        ("path,Path,label", None),
    ],
)
def test_titles_that_are_nearly_right_are_refused_in_words(root, titles, words):
    width = titles.count(",") + 1
    rows = [titles.split(","), *([*row, "x"][:width] for row in ROWS)]
    if words is None:  # the exact title counts where another one differs by capitals
        assert (
            len(read_table(table(root, [rows[0], *([r[0], "x", r[1]] for r in ROWS)])).manifest)
            == 7
        )
        return
    with pytest.raises(DataError, match=words):
        read_table(table(root, rows))


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_every_usual_dialect_is_read(root, separator, end, encoding):
    rows = [["path", "label", "note"], *([*row, "größer"] for row in ROWS)]
    found = read_table(table(root, rows, separator=separator, end=end, encoding=encoding))
    assert found.manifest.histogram("train").tolist() == [4, 3]


def test_odd_csv_that_is_still_meant_well(root):
    plain = [["path", "label"], *ROWS]
    for number, content in enumerate((
        "sep=;\n" + text(plain, ";"),
        text([[*row, ""] for row in plain]),  # a separator at the end of every row
        text(plain).replace("\nimg/lynx/0", "\n\n \n,\nimg/lynx/0"),  # blank rows
        text([[f'"{cell}"' for cell in row] for row in plain]),
    )):  # fmt: skip
        (root / f"{number}.csv").write_text(content)
        assert len(read_table(root / f"{number}.csv").manifest) == 7
    quoted = [["path", "label"], *([p, '"owl, ""big"""' if c == "lynx" else c] for p, c in ROWS)]
    assert read_table(table(root, quoted)).manifest.classes == ("fox", 'owl, "big"')


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (text([["path", "label"], *([*row, "train"] for row in ROWS)]), "row 2: 3 cells, but the"),
        (text([["path", "label"], ROWS[0], ["img/fox/1.png"]]), "row 3: 1 cell, but the first row has 2"),
        (text([["path", "label"], ROWS[0], ["", "fox"]]), "row 3: path and label must not be empty"),
        ("path,label,split\nimg/fox/0.png,fox,\n", "row 2: split must be one of .* but the cell is empty"),
        ("path,label,split\n\n\nimg/fox/0.png,fox,dev\n", "row 4: split must be one of .* but is 'dev'"),
        ("path,label\nimg/fox/0.png,\"['fox']\"\n", r"row 2: \['fox'\] is a list, not a class"),
        ('path,label\nimg/fox/0.png,"fox\n', "cannot be read as a table"),
        ("path,label\na\0b,fox\n", "it contains NUL characters"),
        ("\n \n", "it is empty"),
        ("path,label\n", "has no rows"),
    ],
)  # fmt: skip
def test_what_a_table_cannot_mean(root, content, words):
    (root / "t.csv").write_text(content)
    with pytest.raises(DataError, match=words):
        read_table(root / "t.csv")


def test_all_faults_of_a_table_are_told_at_once(root):
    rows = [["path", "label", "split"], *([*row, "train"] for row in ROWS)]  # rows 1 to 8
    rows += [["img/fox/0.png", "fox"], ["", "fox", "train"], ["img/fox/1.png", "fox", "dev"]]
    with pytest.raises(DataError) as told:
        read_table(table(root, [*rows, ["gone.png", "lynx", "val"]]))
    assert str(told.value) == (
        f"{root / 't.csv'} has 4 faults:\n"
        "  row 9: 2 cells, but the first row has 3 columns (path, label, split)\n"
        "  row 10: path and label must not be empty\n"
        "  row 11: split must be one of train, val, test, but is 'dev'\n"
        "  row 12: there is no file gone.png\n"
        "Put a cell that contains ',' in quotes."
    )
    wrong = [["img/fox/0.png", "fox", "dev"]] * 14
    strange = [["img/fox/1.png", "yak", "val"]]
    with pytest.raises(DataError) as told:
        read_table(table(root, [*rows[:8], *strange, *wrong]))
    lines = str(told.value).splitlines()
    assert lines[0].endswith("has 15 faults:")
    assert lines[1] == "  row 9: the class yak occurs in val but not in train"
    assert lines[10:] == [
        "  row 18: split must be one of train, val, test, but is 'dev'",
        "  and 5 more",
    ]


def test_unknown_classes_and_missing_files_are_named_with_their_rows(root):
    rows = [["path", "label", "split"], *([*row, "train"] for row in ROWS)]
    (root / "img" / "yak").mkdir()
    for n in range(5):
        (root / f"img/yak/{n}.png").touch()
    yaks = [[f"img/yak/{n}.png", "yak", "val"] for n in range(5)]
    with pytest.raises(
        DataError, match=r"occur in val but not in train.*: yak \(rows 9, 10, 11 and 2 more\)\. Add"
    ):
        read_table(table(root, [*rows, *yaks]))
    missing = [[f"gone{n:02}.png", "fox", "train"] for n in range(12)]
    table(root, [*rows, *missing])
    with pytest.raises(DataError, match="None of the 19 images can be read:") as told:
        prepare(TableData(name="table", path=root / "t.csv"))
    lines = str(told.value).splitlines()
    assert lines[1] == f"  {root / 'gone00.png'} (row 9): the file does not exist"
    assert lines[11] == "  and 9 more"


def test_other_encodings_are_told_from_names_that_are_not_utf8(root):
    rows = [["path", "label"], *([path, "Füchs" if name == "fox" else name] for path, name in ROWS)]
    with pytest.raises(DataError, match=r"(?s)row 2: the label F\\xfcchs is not UTF-8\n.*iconv"):
        read_table(table(root, rows, encoding="latin-1"))
    with pytest.raises(DataError, match=r"row 2: the path img/f\\xfcchs.png is not UTF-8"):
        read_table(
            table(root, [["path", "label"], ["img/füchs.png", "fox"], *ROWS], encoding="latin-1")
        )
    # the very bytes of a file
    (root / os.fsdecode(b"img/f\xfcchs.png")).touch()
    found = read_table(
        table(root, [["path", "label"], ["img/füchs.png", "fox"], *ROWS], encoding="latin-1")
    )
    assert "img/f\\xfcchs.png" in found.manifest.paths
    assert all(file.is_file() for file in found.files())
    # a split that was kept names it so, and can be trained on itself
    split_table(found.manifest).to_csv(root / "split.csv", index=False)
    again = read_table(root / "split.csv")
    assert again.files() == found.files()


def test_a_file_that_is_named_twice_is_refused(root):
    (root / "link.png").symlink_to("img/fox/3.png")
    (root / "other").symlink_to("img")
    for odd, one in (("./img/fox/0.png", 2), ("img//fox/1.png", 3), ("img/fox/../fox/2.png", 4),
                     ("link.png", 5), ("other/lynx/0.png", 6), (str(root / PATHS[5]), 7),
                     ("img/lynx/2.png", 8)):  # fmt: skip
        rows = [["path", "label"], *ROWS, [odd, "fox"]]
        with pytest.raises(DataError, match=rf"lists 1 image twice: rows {one} and 9 \("):
            read_table(table(root, rows))
    # a run that keeps its split of it was trained so
    config = TableData(name="table", path=root / "t.csv")
    assert len(read_files(config, kept=True).manifest) == 8


def test_files_that_are_elsewhere_are_looked_for(root, monkeypatch):
    rows = [["path", "label"], *ROWS]
    (root / "lists").mkdir()
    path = table(root / "lists", rows)
    with pytest.raises(
        DataError,
        match=rf"none of 7 files were found below .*They are below {root}: set data.root=",
    ):
        read_table(path)
    assert len(read_table(path, root=root).manifest) == 7
    with pytest.raises(DataError, match="They exist without home/me/: remove it from the paths"):
        read_table(table(root, [["path", "label"], *([f"home/me/{p}", c] for p, c in ROWS)]))
    with pytest.raises(DataError, match=r"Set the folder that the paths refer to: data.root=DIR"):
        read_table(table(root, [["path", "label"], *([f"x{p}", c] for p, c in ROWS)]))
    with pytest.raises(DataError, match="Images are read only from files: download them first"):
        read_table(table(root, [["path", "label"], ["https://x.org/1.png", "fox"]]))
    with pytest.raises(DataError, match=r"They exist with an extension: write img/fox/0.png"):
        read_table(
            table(root, [["path", "label"], *([p.removesuffix(".png"), c] for p, c in ROWS)])
        )
    capitals = [["path", "label"], *([f"{p[:-4]}.PNG", c] for p, c in ROWS)]
    if not (root / capitals[1][0]).exists():  # some disks do not tell capitals apart
        with pytest.raises(DataError, match=r"exist in other capitals: write img/fox/0\.png\.$"):
            read_table(table(root, capitals))
    # some that are missing are damaged files, as in a folder
    (root / PATHS[0]).unlink()
    assert len(read_table(path, root=root).manifest) == 7


def test_a_path_in_other_letters_finds_its_file(root):
    composed, decomposed = (unicodedata.normalize(form, "img/Käfer.png") for form in ("NFC", "NFD"))
    (root / decomposed).touch()  # as macOS writes it
    found = read_table(table(root, [["path", "label"], [composed, "fox"], *ROWS]))
    assert decomposed in found.manifest.paths
    assert all(file.is_file() for file in found.files())


def parquet(root, **columns):
    pq.write_table(pa.table({"path": PATHS, **columns}), root / "t.parquet")
    return root / "t.parquet"


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (pa.array([0, 0, 0, 0, 1, 1, 1]), ("0", "1")),
        (pa.array([0.0, 0, 0, 0, 1, 1, 1]), ("0", "1")),
        (pa.array([True] * 4 + [False] * 3), ("False", "True")),
        (pa.array([b"fox"] * 4 + [b"owl"] * 3), ("fox", "owl")),
        (pa.array(["fox"] * 4 + ["owl"] * 3).dictionary_encode(), ("fox", "owl")),
        (pa.array(["fox"] * 4 + ["owl"] * 3, pa.large_string()), ("fox", "owl")),
        (pa.array([0.5] * 4 + [1.0] * 3), ("0.5", "1")),
    ],
)  # fmt: skip
def test_labels_of_any_type_are_names(root, labels, classes):
    assert read_table(parquet(root, label=labels)).manifest.classes == classes


def test_whole_numbers_that_became_fractions_in_csv_are_whole_numbers(root):
    rows = [["path", "label"], *([path, "0.0" if name == "fox" else "1.0"] for path, name in ROWS)]
    found = read_table(table(root, rows))
    assert found.manifest.classes == ("0", "1")
    # and a model that was trained under the old names knows them
    assert found.manifest.restricted_to(("0.0", "1.0")).histogram("train").tolist() == [4, 3]


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"label": [["fox"]] * 4 + [["owl"]] * 3}, "the column label contains list.* values"),
        ({"label": [{"a": 1}] * 7}, "the column label contains struct"),
        ({"label": ["fox"] * 6 + [None]}, "row 8: path and label must not be empty"),
        ({"label": ["fox"] * 4 + ["owl"] * 3, "split": ["train"] * 6 + [None]}, "row 8: .* cell is empty"),
        ({"label": ["fox"] * 6 + ["x" * (MOST_LETTERS + 1)]}, "a cell of the column label has 10,001 bytes"),
        ({"label": ["fox"] * 6 + ["x" * 300]}, "cannot be a class name: it has more than 200"),
    ],
)  # fmt: skip
def test_parquet_that_is_no_table_of_images(root, columns, words):
    with pytest.raises(DataError, match=words):
        read_table(parquet(root, **columns))


def test_a_column_of_images_is_not_read(root, monkeypatch):
    monkeypatch.setattr("longtail.data.sources.table_files.MOST_BYTES", 2000)
    image = pa.array([{"bytes": bytes([n]) * 1000, "path": None} for n in range(7)])
    found = read_table(parquet(root, image=image, label=[name for _, name in ROWS]))
    assert len(found.manifest) == 7


def test_what_is_no_file_is_never_opened(root):
    os.mkfifo(root / "pipe.csv")
    (root / "zero.parquet").symlink_to("/dev/zero")
    (root / "folder.csv").mkdir()
    for name, kind in (
        ("pipe.csv", "a pipe"),
        ("zero.parquet", "a device"),
        ("folder.csv", "a folder"),
    ):
        with pytest.raises(DataError, match=f"is {kind}, not a table"):
            open_table(root / name)
    with (root / "huge.csv").open("wb") as stream:
        stream.truncate(2**29 + 1)
    with pytest.raises(DataError, match="more than the limit of 536,870,912"):
        open_table(root / "huge.csv")
    with pytest.raises(DataError, match="There is no folder or table"):
        open_table(root / "absent.csv")


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        (b"\x1f\x8b\x08", "a gzip archive"),
        (b"PK\x03\x04", "an Excel file"),
        (b"PAR1", "a Parquet table"),
    ],
)
def test_other_files_that_are_called_csv_are_named(root, start, kind):
    (root / "t.csv").write_bytes(start + b"rest")
    with pytest.raises(DataError, match=f"{kind}.*, not a CSV table"):
        open_table(root / "t.csv")


def test_inspect_takes_the_root_and_counts_as_train_does(longtail, tmp_path):
    for number, path in enumerate(PATHS * 1):
        (tmp_path / "data" / path).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "data" / path)
    pd.DataFrame(ROWS, columns=["path", "label"]).to_csv(tmp_path / "t.csv", index=False)
    status, out, _ = longtail("data", "inspect", "t.csv", "--root", "data")
    assert status == 0
    assert "t: 2 classes, 7 images (train 3, val 2, test 2)" in out
    assert out.count("groups:") == 1
    line = ["epochs=1", "batch_size=3", "backbone=resnet20", "image_size=8", "data.root=data"]
    status, _, err = longtail("train", "t.csv", *line, "--out", "run", "--device", "cpu")
    assert status == 0, err
    assert "train 3, val 2, test 2 images" in err
    assert longtail("data", "inspect", "data", "--root", "data")[0] == 2
