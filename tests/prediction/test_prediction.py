"""Predictions for images without labels: every image given is a row, or is named as left out."""

import io
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from PIL import Image

import longtail
from longtail import api
from longtail.core import ConfigError, DataError, OutputError
from longtail.core.names import printable, visible
from longtail.core.table_cells import csv_text, plain_cell, safe_cell
from longtail.data.images.decode import image_pixels
from longtail.export import export_run
from longtail.prediction import read_predictions, write_predictions
from longtail.prediction.images import JUDGED, PredictOptions
from longtail.prediction.inputs import collect, decode_view
from longtail.report.view import RunView

NAMES = ("=cmd()", "fox [red]$", "owl [bold] :fox:")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on noise, of classes whose names are hostile, with squashed images."""
    root = tmp_path_factory.mktemp("run")
    generator = np.random.default_rng(0)
    for label, name in enumerate(NAMES):
        (root / "set" / name).mkdir(parents=True)
        for number in range(10):
            pixels = generator.integers(0, 90, (16, 48, 3)) + 150 * np.eye(3)[label]
            Image.fromarray(pixels.astype(np.uint8)).save(root / "set" / name / f"{number}.png")
    options = ["epochs=1", "batch_size=8", "backbone=resnet20", "data.fit=squash"]
    return api.train(str(root / "set"), options, out=root / "run", device="cpu").folder.path


@pytest.fixture
def images(run, tmp_path):
    """Eleven files of images of which one is damaged, and three others."""
    folder = tmp_path / "new"
    folder.mkdir()
    for number in range(8):
        shutil.copy(run.parent / "set" / NAMES[0] / f"{number}.png", folder / f"p{number}.png")
    Image.open(folder / "p0.png").save(folder / "y.jfif", format="JPEG")
    Image.open(folder / "p0.png").save(folder / "UPPER.PNG")
    (folder / "bad.png").write_bytes((folder / "p1.png").read_bytes()[:60])
    (folder / "notes.md").write_text("no image")
    (folder / "list.txt").write_text("p0.png\n\ngone.png\n", encoding="utf-8")
    (folder / "list.csv").write_text("place,path\nx,p1.png\ny,p2.png\n", encoding="utf-8")
    return folder


def test_the_documents_explain_every_column(run, images):
    page = Path(__file__).parents[2] / "docs" / "own-data-in-detail.md"
    table = page.read_text(encoding="utf-8").partition("### Columns of the predictions")[2]
    rows = re.findall(r"^\| (`.*?) \|", table.partition("\n\nWith")[0], re.MULTILINE)
    documented = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    found = list(api.predict(run, images / "p0.png", PredictOptions(top=2), device="cpu"))
    classes = ["class_1", "class_2", "probability_1", "probability_2"]
    assert documented == ["path", *classes, "group", *JUDGED, "error"]
    assert set(found) == set(documented) - set(JUDGED)


def test_a_model_says_what_it_is(run):
    model = longtail.load(run, device="cpu")
    assert repr(model) == (
        "<LoadedModel: method single-head, backbone resnet20, "
        "3 classes (=cmd(), fox [red]$, owl [bold] :fox:), images of 16 x 16 pixels, on cpu>"
    )


def test_a_jpeg_file_is_decoded_at_a_reduced_scale_and_an_opened_image_is_not(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    for name, same in (("a.jpg", False), ("a.png", True)):
        Image.fromarray(pixels).save(tmp_path / name)
        views = [
            decode_view(item, 32, "crop", None).view
            for item in (tmp_path / name, Image.open(tmp_path / name))
        ]
        assert np.array_equal(*views) == same


def test_every_file_of_a_folder_is_a_row_or_is_named(longtail, run, images, tmp_path):
    out = tmp_path / "predictions.csv"
    status, said, told = longtail("predict", run, images, "--out", out)
    assert status == 0
    predicted = pd.read_csv(out)
    assert len(predicted) == 11
    assert predicted.error.notna().sum() == 1
    assert set(predicted.path) == {
        str(p) for p in images.iterdir() if p.suffix not in (".md", ".txt", ".csv")
    }
    assert "note: Files whose extension is not an image format were left out: 3" in told
    assert all(name in told for name in ("list.csv", "list.txt", "notes.md"))
    assert "10 images predicted" in said
    assert "1 of 11 images cannot be read" in told
    # a file that is named is an image, whatever its name
    shutil.copy(images / "p0.png", images / "IMG_0001")
    assert len(api.load(run, device="cpu").predict(images / "IMG_0001")) == 1


@pytest.mark.parametrize("suffix", ["txt", "csv", "parquet"])
def test_a_table_or_list_of_files_is_predicted(longtail, run, images, tmp_path, suffix):
    if suffix == "parquet":
        pd.DataFrame({"path": ["p1.png", "p2.png"]}).to_parquet(images / "list.parquet")
    status, said, _ = longtail("predict", run, images / f"list.{suffix}", "--top", "1")
    assert status == 0
    lines = said.splitlines()
    assert len(lines) == 3
    expected = ("p0.png", "gone.png") if suffix == "txt" else ("p1.png", "p2.png")
    assert lines[1].startswith(str(images / expected[0]))
    assert lines[2].startswith(str(images / expected[1]))
    assert ("does not exist" in said) is (suffix == "txt")


def test_lists_that_name_nothing_are_refused_in_words(longtail, run, images):
    (images / "wrong.csv").write_text("file\na.png\n")
    (images / "empty.txt").write_text("\n")
    os.mkfifo(images / "pipe.csv")
    for name, words in [
        ("wrong.csv", "needs a column path; it has: file"),
        ("empty.txt", "lists no images"),
        ("pipe.csv", "is a pipe"),
        ("gone.csv", "gone.csv does not exist."),
    ]:
        status, _, told = longtail("predict", run, images / name)
        assert status == 2, name
        assert words in told, name


def test_predictions_go_back_in_as_a_list(longtail, run, images, tmp_path, monkeypatch):
    """Also where a name had to be guarded from a spreadsheet."""
    shutil.copy(images / "p0.png", tmp_path / "=1+1.png")
    monkeypatch.chdir(tmp_path)
    longtail("predict", run, "=1+1.png", "--out", "one.csv")
    text = (tmp_path / "one.csv").read_text()
    assert "\n'=1+1.png," in text
    assert "'=cmd()" in text
    assert longtail("predict", run, "one.csv", "--out", "two.csv")[0] == 0
    assert (tmp_path / "two.csv").read_text() == text
    longtail("predict", run, "=1+1.png", "--out", "one.parquet")
    frame = pd.read_parquet(tmp_path / "one.parquet")
    assert frame.path[0] == "=1+1.png"
    assert "=cmd()" in frame.filter(like="class_").iloc[0].tolist()


def test_images_in_memory_are_predicted_as_their_files(run, images):
    model = api.load(run, device="cpu")
    files = [images / f"p{number}.png" for number in range(3)]
    expected = model.predict(files).drop(columns="path")
    opened = [Image.open(file) for file in files]
    arrays = [np.asarray(Image.open(file)) for file in files]
    mixed = [files[0], opened[1], arrays[2]]
    names = [str(file) for file in files]
    paths = names, np.array(names), pd.Series(names).to_numpy(object)
    made = [Image.open(file).convert("RGB") for file in files]  # no longer of a file
    for given in (opened, made, arrays, np.stack(arrays), mixed, *paths):
        predicted = model.predict(given)
        pd.testing.assert_frame_equal(predicted.drop(columns="path"), expected)
    assert model.predict(mixed).path.tolist() == [str(files[0]), "image 1", "image 2"]
    pd.testing.assert_frame_equal(model.predict(arrays[0]).drop(columns="path"), expected.iloc[:1])
    grey = np.asarray(Image.open(files[0]).convert("L"))
    same = model.predict([grey, grey[..., None], np.repeat(grey[..., None], 3, 2)])
    assert same.drop(columns="path").drop_duplicates().shape[0] == 1
    # turned by a camera
    exif = Image.Exif()
    exif[0x0112] = 6
    opened[0].rotate(90, expand=True).save(images / "turned.png", exif=exif)
    turned = model.predict([Image.open(images / "turned.png"), images / "turned.png"])
    assert turned.drop(columns="path").drop_duplicates().shape[0] == 1
    assert turned.class_1[0] == expected.class_1[0]


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK", "YCbCr", "HSV", "LAB"])
def test_images_made_in_memory_have_the_colours_that_pillow_gives_them(mode):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    made = Image.fromarray(pixels).convert(mode)
    seen, _ = image_pixels(made, None)
    np.testing.assert_array_equal(seen.permute(1, 2, 0), np.asarray(made.convert("RGB")))
    deep = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    np.testing.assert_array_equal(image_pixels(deep, None)[0][1], pixels[..., 0])


def test_what_a_prediction_cannot_do_is_refused(run, images):
    model = api.load(run, device="cpu")
    for name in ("top", "batch_size", "workers"):
        with pytest.raises(ConfigError, match=f"{name} must be at least 1, but got 0"):
            PredictOptions(**{name: 0})
    size = len(model.metadata.classes)
    for wrong in ([1.0, -0.5] + [0.0] * (size - 2), [0.0] * size, [np.nan] * size):
        with pytest.raises(DataError, match="deployed prior must hold a share of at least 0"):
            model.predict(images / "p0.png", PredictOptions(prior=torch.tensor(wrong)))
    shares = np.arange(1.0, size + 1)
    one, other = (
        model.predict(images / "p0.png", PredictOptions(prior=prior))
        for prior in (torch.tensor(shares), shares)
    )
    pd.testing.assert_frame_equal(one, other)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (np.zeros((4, 4, 3)), "float64 does not say which value is white"),
        (np.zeros((3, 8, 9), np.uint8), "colours first"),
        (np.zeros((8, 9, 4), np.uint8), "is not an image"),
        (np.zeros((0, 9, 3), np.uint8), "is not an image"),
        ([torch.zeros(3, 8, 8)], "not Tensor"),
        (pd.DataFrame({"path": ["a.png"]}), "column of a data frame that holds the paths"),
    ],
)
def test_arrays_that_are_no_images_are_refused(given, words):
    with pytest.raises(DataError, match=words):
        collect(given)


def test_names_from_a_pipe_are_bytes(longtail, run, images, monkeypatch):
    """As `find` writes them: one a line or with zero bytes, in UTF-8 or not."""
    odd = images / os.fsdecode(b"gr\xfcn\n2.png")
    shutil.copy(images / "p0.png", odd)
    lines = b"\n".join([bytes(images / "p1.png"), b"", bytes(images / "p2.png")]) + b"\r\n"
    for content, rows in ((lines, 2), (bytes(odd) + b"\0" + bytes(images / "p1.png") + b"\0", 2)):
        stdin = io.TextIOWrapper(io.BytesIO(content), "ascii")
        monkeypatch.setattr(sys, "stdin", stdin)
        status, said, told = longtail("predict", run, "-", "--top", "1")
        assert status == 0, told
        frame = pd.read_csv(io.StringIO(said))
        assert len(frame) == rows
        assert frame.error.isna().all()


def test_what_would_block_is_named_or_a_row_with_its_error(longtail, run, images):
    os.mkfifo(images / "z.jpg")
    (images / "zero.png").symlink_to("/dev/zero")
    status, said, told = longtail("predict", run, images, "--top", "1")
    assert status == 0
    assert "Pipes, sockets and devices were left out: 2" in told
    status, said, _ = longtail("predict", run, images / "z.jpg", images / "zero.png", "--top", "1")
    assert status == 1  # not one could be read
    assert 'z.jpg,,,,"it is a pipe, not a file"' in said
    assert 'zero.png,,,,"it is a device, not a file"' in said


def test_what_the_pixels_show_is_said(longtail, run, images):
    frames = [Image.open(images / "p0.png"), Image.open(images / "p1.png")]
    frames[0].save(images / "moving.gif", save_all=True, append_images=frames[1:])
    _, _, told = longtail("predict", run, images / "moving.gif")
    assert "1 image has several frames or pages, of which only the first is used" in told


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_a_console_of_another_encoding_gets_escapes(run, images, encoding, monkeypatch, tmp_path):
    from longtail.cli import main

    shutil.copy(images / "p0.png", images / "狐.png")
    shutil.copy(images / "p0.png", images / os.fsdecode(b"gr\xfcn.png"))
    for arguments in (
        ["predict", run, images], ["predict", run, images, "--out", tmp_path / "a.csv"],
        ["predict", run, images, "--out", tmp_path / "a.parquet"],
        ["predict", run, images, "--out", tmp_path / "a.jsonl"],
        ["evaluate", run], ["data", "inspect", run.parent / "set"], ["recipes"], ["methods"],
        ["options"], ["report", run, "--out", tmp_path / "a.html", "--tables", tmp_path / "t"],
        ["data", "inspect", images],
    ):  # fmt: skip
        out, err = (io.TextIOWrapper(io.BytesIO(), encoding) for _ in range(2))
        monkeypatch.setattr(sys, "argv", ["longtail", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        with pytest.raises(SystemExit) as ended:
            main()
        out.flush()
        err.flush()
        said = out.buffer.getvalue().decode(encoding)
        told = err.buffer.getvalue().decode(encoding)
        # the folder of images without classes is the user's mistake
        assert (ended.value.code or 0) == (2 if arguments[1:3] == ["inspect", images] else 0), told
        assert "Traceback" not in told
        if arguments == ["predict", run, images]:
            assert r"\u72d0.png" in said
            assert f"cannot be written in {encoding}" in told
    assert any(path.endswith("狐.png") for path in pd.read_csv(tmp_path / "a.csv").path)
    for frame in (
        pd.read_parquet(tmp_path / "a.parquet"), pd.read_json(tmp_path / "a.jsonl", lines=True)
    ):  # fmt: skip
        assert any(path.endswith(r"gr\xfcn.png") for path in frame.path)


def test_names_on_the_terminal_are_text(longtail, run):
    """No markup is read, no name is shortened by it, and no escape sequence reaches the terminal."""
    status, said, told = longtail("data", "inspect", run.parent / "set")
    assert status == 0
    assert "fox [red]$" in said
    assert "owl [bold] :fox:" in said
    assert "\x1b" not in said + told
    status, said, told = longtail("predict", run, "no\x1b[2Jsuch.csv")
    assert status == 2
    assert "\x1b" not in said + told


def test_control_characters_are_written_out():
    assert visible("a\x1b[2Jb\x07\x9b\u202e\r") == r"a\x1b[2Jb\x07\x9b\u202e\x0d"
    assert visible("two\nlines\tHélène 狐 😀") == "two\nlines\tHélène 狐 😀"
    name = os.fsdecode(b"gr\xfcn")
    assert visible(name) == printable(name) == r"gr\xfcn"
    assert printable("狐\x1b") == "狐\x1b"


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=1+1", "'=1+1"), ("+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"), ("@SUM(A1)", "'@SUM(A1)"),
        ("-x.png", "'-x.png"), ("\t=1", "'\t=1"), ("\r=1", "'\r=1"), ("-1", "-1"), ("+1.5e3", "+1.5e3"),
        ("'=1", "''=1"), ("'quoted'", "'quoted'"), ("fox", "fox"), ("", ""), ("-", "-"),
        ("'-", "'-"), ("\uff1d1", "'\uff1d1"),
    ],
)  # fmt: skip
def test_cells_that_a_spreadsheet_would_run_begin_with_an_apostrophe(text, cell):
    assert safe_cell(text) == cell
    assert plain_cell(cell) == text


def test_csv_is_read_back_whole(tmp_path):
    rows = [["a", "b"], ["one\rtwo", 'say "x"'], ["=x,\n", None], [0.5, float("nan")], ["-", 3]]
    (tmp_path / "a.csv").write_text(csv_text(rows), encoding="utf-8", newline="")
    frame = pd.read_csv(tmp_path / "a.csv", dtype=str, keep_default_na=False)
    read = [[plain_cell(cell) for cell in row] for row in frame.itertuples(index=False)]
    assert read == [["one\rtwo", 'say "x"'], ["=x,\n", ""], ["0.5", ""], ["-", "3"]]


def test_predictions_that_are_not_finite_are_an_error(longtail, run, images, tmp_path):
    broken = api.load(run, device="cpu")
    with torch.no_grad():
        for parameter in broken.method.parameters():
            parameter.fill_(float("nan"))
    with pytest.raises(
        OutputError, match=r"outputs values that are not finite .* for 1 of 1 images"
    ):
        broken.predict(images / "p0.png")
    assert OutputError("").exit_status == 1
    predictions = read_predictions(api.Run.open(run).folder.predictions("test"))
    predictions.logits[0, 0] = float("nan")
    write_predictions(predictions, tmp_path / "a.parquet")
    with pytest.raises(OutputError, match="not finite"):
        read_predictions(tmp_path / "a.parquet")


@pytest.mark.parametrize("verb", ["predict", "evaluate", "export"])
def test_no_verb_ends_well_with_weights_that_are_not_finite(
    longtail, run, images, tmp_path, verb, monkeypatch
):
    load = api.load

    def poisoned_load(*arguments, **options):
        model = load(*arguments, **options)
        with torch.no_grad():
            for parameter in model.method.parameters():
                parameter.fill_(float("nan"))
        return model

    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    for room in ("cli.predict", "runs.scoring", "export.export"):
        monkeypatch.setattr(f"longtail.{room}.load", poisoned_load)
    more = {
        "predict": [images, "--out", tmp_path / "a.csv"],
        "evaluate": [],
        "export": ["--format", "safetensors", "--out", tmp_path / "a.safetensors"],
    }[verb]
    before = sorted(p.name for p in copy.rglob("*"))
    status, _, told = longtail(verb, copy, *more)
    assert status == 1, told
    assert "not finite" in told
    assert before == sorted(p.name for p in copy.rglob("*"))
    assert not list(tmp_path.glob("a.*"))


def test_the_export_says_how_images_are_fitted(run, tmp_path):
    done = export_run(run, "safetensors", tmp_path / "a.safetensors")
    with safetensors.safe_open(done.path, "pt") as opened:
        facts = opened.metadata()
    assert facts["fit"] == "squash"
    assert "without keeping its shape" in facts["preprocessing"]
    assert "without keeping its shape" in done.card.read_text()
    assert RunView.open(run).inspection.pixels == ()


def test_an_address_is_no_file_and_quotes_around_a_path_are_none_of_it(run, images):
    with pytest.raises(DataError, match="download the image"):
        collect("https://example.org/a.jpg")
    (images / "quoted.txt").write_text('\ufeff"p0.png"\r\n', encoding="utf-8")
    assert collect(images / "quoted.txt").items == (images / "p0.png",)
