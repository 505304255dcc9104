"""Image files of every kind: read properly, or named with their path."""

import shutil
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image, ImageOps

from longtail import api
from longtail.core import DataError
from longtail.data.benchmark_facts import verify_lists
from longtail.data.images.decode import (
    MOST_PIXELS,
    BadImageError,
    ImageFile,
    read_crop,
    read_size,
    read_view,
)
from longtail.data.images.file_checks import check_images
from longtail.data.images.resize import draw_box, random_resized_crop, to_square
from longtail.data.images.storage import ArrayImages, FileImages
from longtail.data.inspection import inspect
from longtail.data.options import FolderData, TableData
from longtail.data.sampling.loader import evaluation_batches
from longtail.data.source_to_batch import open_data
from longtail.data.sources.benchmark_lists import class_names_of, list_entries, read_lists
from longtail.data.sources.file_set import without_bad_images
from longtail.data.sources.folder import read_folder
from longtail.data.sources.folder_contents import Reason
from longtail.data.sources.table import read_table
from longtail.report.distribution import draw_distribution
from tests import tiny


def ramp(mode="RGB", size=(40, 30)):
    grey = np.linspace(0, 255, size[0] * size[1]).reshape(size[::-1]).astype(np.uint8)
    return Image.fromarray(np.stack([grey, grey, grey], axis=2)).convert(mode)


def pixels_of(image):
    """uint8 [3, H, W]"""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def upright_pixels(file):
    """uint8 [H, W, 3]"""
    return ImageFile(file).pixels().permute(1, 2, 0).numpy()


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("RGB", "png"), ("L", "png"), ("P", "png"), ("P", "gif"), ("CMYK", "jpg"), ("L", "jpg"),
     ("RGBA", "png"), ("LA", "png"), ("1", "png"), ("RGB", "webp"), ("CMYK", "tif")],
)  # fmt: skip
def test_every_mode_becomes_rgb(tmp_path, mode, suffix):
    file = tmp_path / f"image.{suffix}"
    ramp(mode).save(file)
    pixels = upright_pixels(file)
    assert pixels.shape == (30, 40, 3)
    difference = np.abs(pixels.astype(float) - np.asarray(ramp(mode).convert("RGB"), float))
    assert difference.max() <= (40 if suffix in ("jpg", "webp") else 0)
    # a black or negative reading of a ramp from black to white would not keep its order
    assert pixels[-1].mean() > pixels[0].mean() + 150


def test_sixteen_bit_grey_keeps_its_range(tmp_path):
    file = tmp_path / "deep.png"
    values = np.linspace(0, 65535, 1200).reshape(30, 40).astype(np.uint16)
    Image.fromarray(values).save(file)
    pixels = upright_pixels(file)
    np.testing.assert_array_equal(pixels[..., 0], (values >> 8).astype(np.uint8))


def test_transparent_pixels_are_white(tmp_path):
    file = tmp_path / "clear.png"
    image = Image.new("RGBA", (8, 8), (200, 0, 0, 0))
    image.putpixel((3, 2), (200, 0, 0, 255))
    image.save(file)
    expected = np.full((8, 8, 3), 255)
    expected[2, 3] = (200, 0, 0)
    np.testing.assert_array_equal(upright_pixels(file), expected)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_stand_upright(tmp_path, orientation, suffix):
    file = tmp_path / f"turned.{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo((40, 30)).save(file, exif=exif)
    with Image.open(file) as stored:
        expected = np.asarray(ImageOps.exif_transpose(stored))
    np.testing.assert_array_equal(upright_pixels(file), expected)
    size = (40, 30) if orientation < 5 else (30, 40)
    assert expected.shape == (size[1], size[0], 3)
    assert read_size(file) == size
    assert (ImageFile(file).width, ImageFile(file).height) == size


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("written", [{}, {"progressive": True}, {"subsampling": 0}])
@pytest.mark.parametrize("reduce", [1, 2, 3, 4, 9])
def test_a_jpeg_has_pillows_pixels(tmp_path, mode, written, reduce):
    file = tmp_path / "photo.jpg"
    photo((333, 250)).convert(mode).save(file, **written)
    with Image.open(file) as stored:
        if reduce > 1:
            stored.draft("RGB", (333 // reduce, 250 // reduce))
        expected = np.asarray(stored.convert("RGB"))
    decoded = ImageFile(file).pixels(reduce=reduce)
    np.testing.assert_array_equal(decoded.permute(1, 2, 0), expected)


def damage(root):
    """Write ten damaged files into `root`; return their names."""
    good = root / "good.png"
    ramp().save(good)
    whole = good.read_bytes()
    ramp().save(root / "good.jpg")
    jpeg = (root / "good.jpg").read_bytes()
    bad = {
        "empty.png": b"",
        "truncated.png": whole[: len(whole) // 2],
        "truncated.jpg": jpeg[: len(jpeg) // 2],
        "text.jpg": b"this is no image",
        "html.png": b"<html><body>404 not found</body></html>",
        "header.png": whole[:24],
        "zeros.jpg": bytes(2000),
        "flipped.png": whole[:60] + bytes(b ^ 0x5A for b in whole[60:]),
        "half.bmp": b"BM" + bytes(60),
    }
    for name, content in bad.items():
        (root / name).write_bytes(content)
    Image.fromarray(np.full((9, 9), np.float32(0.5))).save(root / "float.tif")
    return [*bad, "float.tif"]


def test_damaged_files_are_named_with_a_reason(tmp_path):
    for name in damage(tmp_path):
        with pytest.raises(BadImageError) as caught:
            ImageFile(tmp_path / name).pixels()
        assert str(tmp_path / name) in str(caught.value)
        assert len(caught.value.reason) > 8, name
    with pytest.raises(BadImageError, match="does not exist"):
        ImageFile(tmp_path / "absent.png")
    (tmp_path / "folder.jpg").mkdir()
    with pytest.raises(BadImageError, match="it is a folder, not a file"):
        ImageFile(tmp_path / "folder.jpg")


def test_a_huge_image_is_named_and_not_decoded(tmp_path):
    file = tmp_path / "huge.png"
    side = int(MOST_PIXELS**0.5) + 10
    Image.new("1", (side, side)).save(file)
    with pytest.raises(BadImageError, match=r"pixels (are )?more than the limit|more pixels"):
        ImageFile(file)


def test_squares_and_crops():
    image = pixels_of(ramp(size=(80, 40)))
    square = to_square(image, 32)
    assert square.shape == (3, 32, 32)
    assert square.dtype == np.uint8
    np.testing.assert_array_equal(
        to_square(pixels_of(ramp(size=(32, 32))), 32),
        np.asarray(ramp(size=(32, 32))).transpose(2, 0, 1),
    )
    one, other = (random_resized_crop(image, 24, np.random.default_rng(s)) for s in (0, 1))
    assert one.shape == (3, 24, 24)
    assert not np.array_equal(one, other)
    # no crop of a line has an allowed aspect: the centre is taken
    thin = pixels_of(ramp(size=(400, 2)))
    line = random_resized_crop(thin, 8, np.random.default_rng(0), area=(0.9, 1.0))
    assert line.shape == (3, 8, 8)


def photo(size=(500, 375), seed=0):
    """Something smooth with texture, as a camera makes it."""
    generator = np.random.default_rng(seed)
    small = Image.fromarray(generator.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    smooth = np.asarray(small.resize(size, Image.Resampling.BICUBIC)).astype(np.int16)
    noisy = smooth + generator.normal(0, 6, (*size[::-1], 1)).astype(np.int16)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def test_resizing_is_pillows(tmp_path):
    photo().save(tmp_path / "a.png")
    square = read_view(tmp_path / "a.png", 224)
    resized = photo().resize((341, 256), Image.Resampling.BILINEAR).crop((58, 16, 282, 240))
    expected = np.asarray(resized).transpose(2, 0, 1)
    assert np.abs(square.astype(int) - expected.astype(int)).max() <= 1


def test_a_part_is_chosen_before_decoding(tmp_path):
    image = photo((1600, 1200), seed=1)
    image.save(tmp_path / "large.jpg", quality=95)
    image.save(tmp_path / "large.png")
    for seed in range(6):
        one, other = (
            read_crop(tmp_path / name, 64, np.random.default_rng(seed), area=(0.2, 1.0))
            for name in ("large.jpg", "large.png")
        )
        # the JPEG was decoded at a smaller size; the part is the same up to its resolution
        assert np.abs(one.astype(int) - other.astype(int)).mean() < 4
    left, top, wide, high = draw_box(1600, 1200, np.random.default_rng(0), area=(0.2, 1.0))
    whole = pixels_of(image)[:, top : top + high, left : left + wide]
    same = read_crop(tmp_path / "large.png", 64, np.random.default_rng(0), area=(0.2, 1.0))
    reference = Image.fromarray(whole.permute(1, 2, 0).numpy()).resize(
        (64, 64), Image.Resampling.BILINEAR
    )
    difference = np.asarray(reference).transpose(2, 0, 1).astype(int) - same
    assert np.abs(difference).max() <= 1


def test_damaged_files_are_named_however_they_are_read(tmp_path):
    for name in damage(tmp_path):
        crop = partial(read_crop, size=8, area=(0.2, 1.0), generator=np.random.default_rng(0))
        for read in (partial(read_view, size=8), crop):
            with pytest.raises(BadImageError) as caught:
                read(tmp_path / name)
            assert str(tmp_path / name) in str(caught.value)


def test_a_folder_of_classes(image_folder):
    (image_folder / "ant" / "notes.txt").write_text("no image")
    (image_folder / "ant" / ".hidden.png").write_bytes(b"")
    found = read_folder(image_folder)
    assert found.manifest.classes == ("ant", "bee", "cow")
    assert found.manifest.histogram("train").tolist() == [12, 6, 4]
    assert [(left.path.name, left.reason) for left in found.left_out] == [
        (".hidden.png", Reason.HIDDEN),
        ("notes.txt", Reason.UNKNOWN),
    ]


def test_a_class_may_be_called_train(image_folder):
    (image_folder / "cow").rename(image_folder / "Train")
    found = read_folder(image_folder)
    assert found.manifest.classes == ("Train", "ant", "bee")
    assert found.manifest.histogram("train").tolist() == [4, 12, 6]
    # alone it can only be meant as a split
    for name in ("ant", "bee"):
        shutil.rmtree(image_folder / name)
    with pytest.raises(DataError, match="contains no images"):
        read_folder(image_folder)


def test_images_in_no_class_are_told(image_folder, tmp_path):
    assert read_folder(image_folder).describe() == ()
    root = tmp_path / "set"
    for place in ("train", "test", "unlabelled/2024"):
        shutil.copytree(image_folder, root / place)
    shutil.copy(root / "train/ant/00.png", root / "train/loose.png")
    shutil.copytree(root / "train/ant", root / "train/ant/.checkpoints")  # copies of an editor
    found = read_folder(root)
    assert len(found.manifest) == 44
    assert found.manifest.classes == ("ant", "bee", "cow")
    said, hidden = found.describe()
    assert said == (
        "Images outside the class folders were left out: 23: for example train/loose.png, "
        "unlabelled/2024/ant/00.png, unlabelled/2024/ant/01.png."
    )
    assert hidden == "Hidden files and folders were left out: 1: train/ant/.checkpoints."
    assert said in inspect(found.manifest, (), found).warnings()
    assert said in open_data(FolderData(name="folder", path=root)).notes


def test_class_folders_may_be_links(image_folder, tmp_path):
    root = tmp_path / "links"
    root.mkdir()
    for name in ("ant", "bee"):
        (root / name).symlink_to(image_folder / name)
    found = read_folder(root)
    assert found.manifest.histogram("train").tolist() == [12, 6]
    # a link to nothing is a damaged file, not an absent one
    (root / "bee").unlink()
    (root / "bee").mkdir()
    (root / "bee" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    gone = [c.reason for c in check_images(read_folder(root).files()) if c.reason]
    assert gone == ["the file does not exist"]


def test_a_folder_with_splits(image_folder, tmp_path):
    root = tmp_path / "split"
    for split in ("train", "valid", "test"):
        shutil.copytree(image_folder, root / split)
    found = read_folder(root).manifest
    assert [len(found.rows(s)) for s in ("train", "val", "test")] == [22, 22, 22]
    shutil.copytree(image_folder / "ant", root / "valid" / "dog")
    with pytest.raises(DataError, match=r"occur in val but not in train.*dog"):
        read_folder(root)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda root: None, "is not a folder"),
        (lambda root: root.mkdir(), r"contains no images. Expected .*CLASS/image.jpg"),
        (lambda root: (root / "only").mkdir(parents=True), "contains no images"),
        (lambda root: (root / "test" / "a").mkdir(parents=True), "no train folder"),
        (
            lambda root: [(root / n / "a").mkdir(parents=True) for n in ("train", "val", "valid")],
            "two folders for the same split",
        ),
    ],
)
def test_wrong_folders(tmp_path, make, words):
    root = tmp_path / "root"
    make(root)
    with pytest.raises(DataError, match=words):
        read_folder(root)


def test_one_class_only(image_folder):
    shutil.rmtree(image_folder / "bee")
    shutil.rmtree(image_folder / "cow")
    with pytest.raises(DataError, match=r"only one class \('ant'\)"):
        read_folder(image_folder)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_tables(image_folder, suffix):
    files = sorted(image_folder.rglob("*.png"))
    frame = pd.DataFrame(
        {
            "path": [file.relative_to(image_folder).as_posix() for file in files],
            "label": [file.parent.name for file in files],
            "split": ["test" if file.stem == "00" else "train" for file in files],
        }
    )
    table = image_folder / f"table.{suffix}"
    frame.to_csv(table, index=False) if suffix == "csv" else frame.to_parquet(table)
    found = read_table(table)
    assert found.manifest.histogram("test").tolist() == [1, 1, 1]
    data = open_data(TableData(name="table", path=table))
    assert isinstance(data.images, ArrayImages)
    assert data.images.size == 16


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("file,label\na.png,x\n", "lacks path. It has: file, label"),
        ("path,label\na.png,\n", "row 2: path and label must not be empty"),
        ("path,label,split\na.png,x,dev\n", "row 2: split must be one of"),
        ("path,label\n", "has no rows"),
        ("path,label\na.png,x\na.png,y\n", r"lists 1 image twice: rows 2 and 3 \(a.png\)"),
        ("", "cannot be read as a table"),
        ("path,label\na.png,x\nb.png,y\n", "none of 2 files were found below .*data.root=DIR"),
    ],
)
def test_wrong_tables(tmp_path, text, words):
    table = tmp_path / "table.csv"
    table.write_text(text)
    with pytest.raises(DataError, match=words):
        read_table(table)


def test_paths_of_another_system_are_told_apart_from_odd_names(image_folder):
    table = image_folder / "table.csv"
    table.write_text("path,label\nant\\00.png,ant\nbee\\00.png,bee\n")
    with pytest.raises(DataError, match=r"written as on Windows, for example ant\\00.png. Use /"):
        read_table(table)
    (image_folder / "ant" / "00.png").rename(image_folder / "ant\\00.png")  # a name like any other
    (image_folder / "bee" / "00.png").rename(image_folder / "bee\\00.png")
    assert read_table(table).manifest.classes == ("ant", "bee")


def test_labels_that_look_like_numbers_stay_names(image_folder):
    table = image_folder / "table.csv"
    table.write_text("path,label\nant/00.png,10\nant/01.png,2\nant/02.png,010\nant/03.png,NA\n")
    assert read_table(table).manifest.classes == ("010", "10", "2", "NA")


def test_bad_images_stop_or_are_skipped(image_folder):
    for name in damage(image_folder):
        target = image_folder / "ant" / name
        (image_folder / name).rename(target)
    with pytest.raises(DataError) as caught:
        open_data(FolderData(name="folder", path=image_folder))
    message = str(caught.value)
    assert message.startswith("10 of 32 images cannot be read")
    assert "truncated.jpg" in message
    assert "--on-bad-image skip" in message
    data = open_data(FolderData(name="folder", path=image_folder, on_bad_image="skip"))
    assert len(data.skipped) == 10
    assert len(data.manifest) == 22
    (note,) = [text for text in data.notes if "cannot be read" in text]
    assert note == data.describe_skipped()
    first = "; ".join(f"{path}: {reason}" for path, reason in data.skipped[:3])
    assert note == (
        f"10 of 32 images cannot be read: {first}; and 7 more. Such files are left out. Repair or "
        "replace them."
    )


def test_a_class_of_damaged_images_is_named(image_folder):
    for file in (image_folder / "cow").iterdir():
        file.write_bytes(b"")
    file_set = read_folder(image_folder)
    with pytest.raises(DataError, match=r"no training images: 'cow'"):
        without_bad_images(file_set, check_images(file_set.files()), "skip")


def test_checking_remembers_good_files(image_folder, monkeypatch):
    files = read_folder(image_folder).files()
    first = check_images(files)
    monkeypatch.setattr("longtail.data.images.file_checks.ImageFile", lambda *a, **k: 1 / 0)
    assert check_images(files) == first  # nothing was opened again
    files[0].write_bytes(b"changed")
    with pytest.raises(ZeroDivisionError):
        check_images(files)


def test_checking_works_without_a_writable_cache(image_folder, monkeypatch, tmp_path):
    blocker = tmp_path / "blocker"
    blocker.write_text("a file, not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocker))
    assert len(check_images(read_folder(image_folder).files())) == 22


def test_inspection_finds_leaks_repeats_conflicts_and_gaps(image_folder, tmp_path):
    root = tmp_path / "set"
    shutil.copytree(image_folder, root / "train")
    (root / "val" / "ant").mkdir(parents=True)
    (root / "val" / "bee").mkdir(parents=True)
    shutil.copy(root / "train/ant/00.png", root / "val/ant/other-name.png")
    ramp().save(root / "val/bee/new.png")
    shutil.copy(root / "train/ant/01.png", root / "train/ant/again.png")
    shutil.copy(root / "train/ant/02.png", root / "train/bee/wrong.png")
    (root / "train/cow/empty.png").write_bytes(b"")
    found_set = read_folder(root)
    found = inspect(found_set.manifest, check_images(found_set.files()))
    assert found.in_two_splits == (("train/ant/00.png", "val/ant/other-name.png"),)
    assert found.repeated == (("train/ant/01.png", "train/ant/again.png"),)
    assert found.conflicting == (("train/ant/02.png", "train/bee/wrong.png"),)
    assert found.missing == {"val": ("cow",)}
    assert [path for path, _ in found.damaged] == ["train/cow/empty.png"]
    assert len(found.warnings()) == 5
    assert found.imbalance_ratio == 13 / 4
    image = tmp_path / "distribution.png"
    draw_distribution(found.manifest.class_counts(), image)
    with Image.open(image) as drawn:
        assert min(drawn.size) > 400


def test_large_images_stay_in_files(tmp_path):
    root = tmp_path / "large"
    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
        for number in range(12):
            photo((120, 90), seed=number + 12 * (name == "b")).save(root / name / f"{number}.jpg")
    data = open_data(FolderData(name="folder", path=root))
    assert isinstance(data.images, FileImages)
    assert data.images.size == 224
    assert data.default_view == "resized-crop-flip"
    assert data.images.decode(0).shape == (3, 224, 224)
    assert [len(data.manifest.rows(s)) for s in ("train", "val", "test")] == [18, 2, 4]


def photos(root, sides=((500, 375), (300, 420), (100, 90))):
    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
        for number in range(6):
            photo(sides[number % 3], seed=number).save(root / name / f"{number}.jpg")
    return root


def test_decoded_images_are_those_of_the_files(tmp_path, monkeypatch):
    root, cache = photos(tmp_path / "p"), tmp_path / "cache"
    config = FolderData(name="folder", path=root, image_size=224)
    plain = open_data(config).images
    mapped = open_data(config.model_copy(update={"cache": cache}))
    assert any("decoded once" in note for note in mapped.notes)
    assert sorted(file.suffix for file in cache.iterdir()) == [".npy", ".uint8"]
    for row in range(len(plain)):
        np.testing.assert_array_equal(mapped.images.decode(row), plain.decode(row))
        # an image that is not larger than the cache's is cut alike as well
        one, other = (
            p.decode_crop(row, np.random.default_rng(row), (0.2, 1.0))
            for p in (mapped.images, plain)
        )
        small = "2.jpg" in plain.paths[row].name or "5.jpg" in plain.paths[row].name
        assert one.shape == (3, 224, 224)
        assert np.array_equal(one, other) or not small
        assert np.abs(one.astype(int) - other.astype(int)).mean() < 8
    # the second time nothing is decoded, and the file cannot be changed through the map
    monkeypatch.setattr("longtail.data.images.cache.read_fitted", lambda *a, **k: 1 / 0)
    again = open_data(config.model_copy(update={"cache": cache})).images
    before = next(cache.glob("*.uint8")).read_bytes()
    again.decode(0)[:] = 0
    again.pixels[:9] = 0
    assert next(cache.glob("*.uint8")).read_bytes() == before
    # another file: decoded again
    photo(seed=99).save(root / "a" / "0.jpg")
    with pytest.raises(ZeroDivisionError):
        open_data(config.model_copy(update={"cache": cache}))


def test_a_cache_that_cannot_be_used_is_explained(tmp_path, monkeypatch):
    root, cache = photos(tmp_path / "p"), tmp_path / "cache"
    config = FolderData(name="folder", path=root, image_size=224, cache=cache)

    def full(*given):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.posix_fallocate", full, raising=False)
        with pytest.raises(DataError, match="No space left"):
            open_data(config)
    assert not list(cache.iterdir()), "nothing half-written stays"
    open_data(config)
    with next(cache.glob("*.uint8")).open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(DataError, match="is damaged"):
        open_data(config)
    with pytest.raises(DataError, match="cannot be written"):
        open_data(config.model_copy(update={"cache": root / "a" / "0.jpg"}))


def test_training_reads_from_the_cache(tmp_path):
    root = photos(tmp_path / "p")
    line = ["backbone=resnet20", "image_size=96", f"data.cache={tmp_path / 'cache'}", "epochs=1",
            "batch_size=4"]  # fmt: skip
    run = api.train(str(root), line, out=tmp_path / "run", device="cpu")
    assert "test" in run.evaluated_splits()
    assert list((tmp_path / "cache").glob("*.uint8"))


def test_published_lists_with_any_prefix(tmp_path):
    root = tmp_path / "places"
    lines = []
    for label, name in enumerate(("airfield", "attic")):
        (root / name).mkdir(parents=True)
        for number in range(2):
            ramp(size=(8, 8)).save(root / name / f"{number}.png")
            lines.append(f"somebody/elses/disk/{name}/{number}.png {label}\n")
    (tmp_path / "train.txt").write_text("".join(lines))
    found = read_lists("places-lt", root, {"train": tmp_path / "train.txt"})
    assert all(file.is_file() for file in found.files())
    (tmp_path / "wrong.txt").write_text("nowhere/x.png 0\n")
    with pytest.raises(DataError, match=r"nowhere/x.png, is not below .*data.root=DIR"):
        read_lists("places-lt", root, {"train": tmp_path / "wrong.txt"})
    (tmp_path / "wrong.txt").write_text("x.png zero\n")
    with pytest.raises(DataError, match="line 1: expected `path label`"):
        list_entries(tmp_path / "wrong.txt")


def test_classes_of_lists_are_named_by_their_folders(published_lists):
    entries = [(f, y, "train") for f, y in list_entries(published_lists / "Places_LT_train.txt.gz")]
    names = class_names_of(entries)
    assert len(names) == 365
    assert names[0] == "airfield"
    birds = [(f, y, "test") for f, y in list_entries(published_lists / "iNaturalist18_val.txt.gz")]
    assert class_names_of(birds)[7291] == "Plantae/7291"
    assert class_names_of([("a/x/1.jpg", 0, "train"), ("a/x/2.jpg", 1, "train")]) == ("0", "1")


def test_verify_the_published_lists(published_lists):
    checks = verify_lists("places-lt", published_lists)
    assert all(check.passed is not False for check in checks)
    (groups,) = [check for check in checks if check.what.endswith("groups")]
    assert "many 131, medium 163, few 71" in groups.found  # Decoupling, fact 20
    missing = verify_lists("imagenet-lt", published_lists)
    assert [check.what for check in missing if check.passed is False] == ["train list"]


@pytest.mark.parametrize(("side", "largest"), [(480, 1), (224, 4), (64, 50), (8, 77)])
def test_evaluation_batches_are_smaller_where_images_are_larger(side, largest):
    data = tiny.data(side=side)
    sizes = [len(rows) for _, rows in evaluation_batches(data, device=torch.device("cpu"))]
    assert max(sizes) == largest
    assert sum(sizes) == len(data.manifest) == 77
