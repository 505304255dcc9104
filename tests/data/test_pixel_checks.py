"""What `data inspect` and a training say of the pixels before anything is learnt from them."""

import numpy as np
import pytest
from PIL import Image

from longtail.core import DataError
from longtail.data.images.file_checks import check_images
from longtail.data.images.pixel_checks import pixel_findings
from longtail.data.inspection import inspect
from longtail.data.options import FolderData
from longtail.data.source_to_batch import open_data
from longtail.data.sources.folder import read_folder
from tests.data.test_pixels import COLOURS, png16, tiff, twelve_bits


@pytest.fixture
def folder(tmp_path):
    """Two classes of ten square images of noise each."""
    generator = np.random.default_rng(0)
    for name in ("ant", "bee"):
        (tmp_path / "set" / name).mkdir(parents=True)
        for number in range(10):
            noise = generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(noise).save(tmp_path / "set" / name / f"{number}.png")
    return tmp_path / "set"


def found(folder, **options):
    files = read_folder(folder)
    checked = check_images(files.files(), bit_depth=options.get("bit_depth"))
    return list(inspect(files.manifest, checked, files, **options).pixels)


def test_usual_images_get_no_note(folder):
    assert found(folder) == []


def test_each_kind_of_pixels_is_one_sentence_and_remembered(folder):
    ant = folder / "ant"
    Image.new("RGB", (16, 16), (3, 4, 5)).save(ant / "even.png")
    tiff(ant / "five.tif", np.dstack([COLOURS, COLOURS[..., :2]]), extra=[0, 0])
    alpha = np.zeros((24, 36), np.uint8)
    Image.fromarray(np.dstack([COLOURS, alpha])).save(ant / "flat.png")
    alpha[0, 0] = 255
    Image.fromarray(np.dstack([COLOURS, alpha])).save(ant / "clear.png")
    frames = [Image.fromarray(COLOURS), Image.fromarray(COLOURS[::-1, ::-1].copy())]
    frames[0].save(ant / "moving.gif", save_all=True, append_images=frames[1:])
    Image.fromarray(COLOURS).save(ant / "profile.png", icc_profile=b"of a printer" * 20)
    expected = [
        "1 image has a single colour: ant/even.png",
        "1 image has extra bands besides its colours, which are not used: ant/five.tif",
        "1 image is mostly transparent and will be mostly white: ant/clear.png",
        "1 image has the same transparency everywhere, which is not applied: ant/flat.png",
        "1 image has several frames or pages, of which only the first is used: ant/moving.gif",
        "1 image has a colour profile other than sRGB, which is not applied: ant/profile.png",
    ]
    assert found(folder) == expected
    assert found(folder) == expected  # the second time from the cache
    assert set(expected) <= set(open_data(FolderData(name="folder", path=folder)).notes)


def test_unused_depth_is_told_before_it_darkens_images(folder):
    fourteen = (COLOURS.astype(np.uint16) << 6) | 1
    for number in range(3):
        png16(folder / "ant" / f"deep{number}.png", fourteen, 2)
    (sentence,) = found(folder)
    assert sentence == (
        "The values of 3 images with 16 bits use only 14 of them, so the images are dark; if the rest "
        "is never used, set data.bit_depth=14."
    )
    assert found(folder, bit_depth=14) == []
    bright = png16(folder / "bee" / "bright.png", COLOURS.astype(np.uint16) * 257, 2)
    assert found(folder) == []  # the collection uses what it stores
    bright.unlink()
    for path, _ in twelve_bits(folder / "bee"):
        assert path.exists()
    with pytest.raises(DataError, match=r"bit_depth=12") as caught:
        open_data(FolderData(name="folder", path=folder))
    assert "6 of 29 images cannot be read" in str(caught.value)


def test_what_the_cut_centre_leaves_out_is_told(folder):
    for number in range(5):
        Image.fromarray(COLOURS[:12]).save(folder / "ant" / f"wide{number}.png")  # 3 : 1
    assert found(folder) == [
        "5 of 25 images are longer than 1.8 to 1; the centre crop shows 33 % of them (median). "
        "data.fit=pad and data.fit=squash show the whole image."
    ]
    assert found(folder, fit="pad") == []
    files = read_folder(folder)
    checked = check_images(files.files())
    (large,) = pixel_findings(files.manifest.paths, checked, size=224)
    assert "shows 26 % of them" in large  # a third of (224 / 256) squared
