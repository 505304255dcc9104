"""What the values of image files mean: right, or refused in words; never a silent guess."""

import os
import socket
import struct
import threading
import time
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from longtail.data.images.cache import open_decoded
from longtail.data.images.decode import (
    FORMATS,
    BadImageError,
    ImageFile,
    read_crop,
    read_size,
    read_view,
)
from longtail.data.images.file_checks import Checked, check_images
from longtail.data.images.memory import DECODING, MemoryBudget
from longtail.data.images.pixel_checks import pixel_findings
from longtail.data.images.resize import (
    PADDING,
    describe_view,
    draw_part,
    shown_share,
    to_square,
    to_view,
)
from longtail.data.images.storage import FileImages
from longtail.data.options import FolderData
from longtail.data.source_to_batch import open_data

RED, BLUE = (220, 30, 30), (30, 30, 220)
COLOURS = np.zeros((24, 36, 3), np.uint8)
COLOURS[:, :18], COLOURS[:, 18:] = RED, BLUE


def tiff(path, pixels, *, photometric=2, extra=None, sample_format=1, bits=None, planar=1):
    """Write [H, W, bands] as an uncompressed TIFF with exactly these tags."""
    height, width, bands = pixels.shape
    ordered = pixels.transpose(2, 0, 1) if planar == 2 else pixels
    data = ordered.astype(pixels.dtype.newbyteorder("<")).tobytes()
    size = len(data) // bands if planar == 2 else len(data)
    pieces = bands if planar == 2 else 1
    tags = [
        (256, "I", [width]), (257, "I", [height]),
        (258, "H", [bits or pixels.dtype.itemsize * 8] * bands),
        (259, "H", [1]), (262, "H", [photometric]),
        (273, "I", [0] * pieces), (277, "H", [bands]), (278, "I", [height]),
        (279, "I", [size] * pieces), (284, "H", [planar]),
    ]  # fmt: skip
    if extra is not None:
        tags.append((338, "H", extra))
    if sample_format != 1:
        tags.append((339, "H", [sample_format] * bands))
    beyond = 8 + 2 + 12 * len(tags) + 4
    start = beyond + sum(struct.calcsize(f"<{len(v)}{k}") for _, k, v in tags
                         if struct.calcsize(f"<{len(v)}{k}") > 4)  # fmt: skip
    entries = blob = b""
    for tag, kind, values in tags:
        if tag == 273:
            values = [start + number * size for number in range(pieces)]
        packed = struct.pack(f"<{len(values)}{kind}", *values)
        entries += struct.pack("<HHI", tag, {"H": 3, "I": 4}[kind], len(values))
        if len(packed) > 4:
            entries += struct.pack("<I", beyond + len(blob))
            blob += packed
        else:
            entries += packed.ljust(4, b"\0")
    head = b"II*\0" + struct.pack("<IH", 8, len(tags))
    path.write_bytes(head + entries + bytes(4) + blob + data)
    return path


def png16(path, pixels, kind):
    """Write uint16 [H, W, bands] as a PNG of 16 bits; `kind` is PNG's colour type."""

    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    head = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    return path


def read(path, **options):
    """uint8 [H, W, 3] and the facts."""
    pixels, facts = ImageFile(path, **options).decode()
    return pixels.permute(1, 2, 0).numpy(), facts


def refusal(path, **options):
    with pytest.raises(BadImageError) as caught:
        ImageFile(path, **options).decode()
    return caught.value.reason


GREY = np.linspace(0, 4095, 24 * 36).reshape(24, 36, 1).astype(np.uint16)


def twelve_bits(folder):
    """Files of 16 bits per value that use 12, as cameras write them, with the right RGB."""
    deep = COLOURS.astype(np.uint16) * 16
    grey = np.repeat((GREY >> 4).astype(np.uint8), 3, axis=2)
    opaque = np.dstack([deep, np.full((24, 36), 4095, np.uint16)])
    return [
        (png16(folder / "grey.png", GREY, 0), grey),
        (png16(folder / "clear.png", np.dstack([GREY, GREY * 0 + 4095]), 4), grey),
        (tiff(folder / "grey.tif", GREY, photometric=1), grey),
        (png16(folder / "rgb.png", deep, 2), COLOURS),
        (tiff(folder / "rgb.tif", deep), COLOURS),
        (tiff(folder / "nir.tif", opaque, extra=[0]), COLOURS),
    ]


def test_twelve_bits_in_sixteen_are_asked_for_and_then_right(tmp_path):
    for path, right in twelve_bits(tmp_path):
        reason = refusal(path)
        assert "nearly black" in reason, path
        assert "data.bit_depth=12" in reason, path
        np.testing.assert_array_equal(read(path, bit_depth=12)[0], right, err_msg=path.name)
        # who says that it is that dark gets the higher bytes
        np.testing.assert_array_equal(read(path, bit_depth=16)[0], right >> 4)
        assert refusal(path, bit_depth=8).endswith("more than data.bit_depth=8 allows")


def test_what_a_file_says_of_its_depth_is_followed(tmp_path):
    # BitsPerSample 12: packed, two values in three bytes
    first, second = GREY.reshape(-1, 2).astype(np.int64).T
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=1)
    raw = packed.astype(np.uint8).reshape(24, 54, 1)
    path = tiff(tmp_path / "packed.tif", raw, photometric=1, bits=12)
    content = path.read_bytes()
    path.write_bytes(content.replace(struct.pack("<HHII", 256, 4, 1, 54),
                                     struct.pack("<HHII", 256, 4, 1, 36)))  # fmt: skip
    np.testing.assert_array_equal(read(path)[0], np.repeat((GREY >> 4).astype(np.uint8), 3, 2))
    # maxval 4095 of PGM
    head = b"P5 36 24 4095\n"
    (tmp_path / "a.pgm").write_bytes(head + GREY.astype(">u2").tobytes())
    scaled = np.round(GREY.astype(float) / 4095 * 65535).astype(int) >> 8
    assert np.abs(read(tmp_path / "a.pgm")[0][..., :1].astype(int) - scaled).max() <= 1


def test_white_may_be_zero(tmp_path):
    deep = GREY * 16
    one = read(tiff(tmp_path / "black.tif", deep, photometric=1))[0]
    other = read(tiff(tmp_path / "white.tif", deep, photometric=0))[0]
    np.testing.assert_array_equal(other, 255 - one)


def test_values_without_a_known_range_are_refused(tmp_path):
    signed = GREY.astype(np.int16)
    for pixels, kind, words in [
        (signed, 2, "signed 16-bit pixels do not say which value is white"),
        (signed.astype(np.int32), 2, "signed 32-bit pixels do not say"),
        (GREY.astype(np.uint32), 1, "32-bit pixels do not say"),
        (signed - 1, 2, "pixels below 0"),
        ((GREY >> 4).astype(np.int8), 2, "signed 8-bit pixels"),
        (GREY.astype(np.float32), 3, "floating-point pixels have no known range"),
    ]:
        path = tiff(tmp_path / "a.tif", pixels, photometric=1, sample_format=kind)
        assert words in refusal(path)
    path = tiff(tmp_path / "a.tif", signed, photometric=1, sample_format=2)
    right = np.repeat((GREY >> 4).astype(np.uint8), 3, 2)
    np.testing.assert_array_equal(read(path, bit_depth=12)[0], right)


def test_sixteen_bit_bands_one_after_the_other_are_refused(tmp_path):
    path = tiff(tmp_path / "planar.tif", COLOURS.astype(np.uint16) * 257, planar=2)
    assert "one after the other" in refusal(path)
    path = tiff(tmp_path / "planar.tif", COLOURS, planar=2)
    np.testing.assert_array_equal(read(path)[0], COLOURS)


def test_transparency_that_is_the_same_everywhere_says_nothing(tmp_path):
    for opacity in (0, 128):
        Image.fromarray(np.dstack([COLOURS, np.full((24, 36), opacity, np.uint8)])).save(
            tmp_path / "a.png"
        )
        pixels, facts = read(tmp_path / "a.png")
        np.testing.assert_array_equal(pixels, COLOURS)
        assert facts.flat_alpha
        assert facts.transparent == pytest.approx(1 - opacity / 255)


def test_half_transparent_pixels_are_mixed_with_white(tmp_path):
    alpha = np.full((24, 36), 255, np.uint8)
    alpha[:, :18] = 51  # a fifth
    Image.fromarray(np.dstack([COLOURS, alpha])).save(tmp_path / "a.png")
    pixels, facts = read(tmp_path / "a.png")
    assert pixels[0, 0].tolist() == [248, 210, 210]  # 255 - (255 - colour) / 5
    assert pixels[0, -1].tolist() == list(BLUE)
    assert facts.transparent == pytest.approx(0.4)
    # a palette and a single transparent colour
    Image.fromarray(COLOURS).save(tmp_path / "b.png", transparency=RED)
    assert read(tmp_path / "b.png")[0][0, 0].tolist() == [255, 255, 255]
    Image.fromarray(COLOURS).quantize(2).save(tmp_path / "c.gif", transparency=0)
    pixels = read(tmp_path / "c.gif")[0]
    assert sorted({tuple(p) for p in pixels.reshape(-1, 3).tolist()})[-1] == (255, 255, 255)


@pytest.mark.parametrize(("extra", "bands"), [(None, 1), ([0], 1), ([0, 0], 2), ([2, 0], 1)])
def test_further_bands_are_told_and_change_no_colour(tmp_path, extra, bands):
    more = np.dstack([COLOURS] + [np.full((24, 36), 255, np.uint8)] * len(extra or [0]))
    pixels, facts = read(tiff(tmp_path / "a.tif", more, extra=extra))
    np.testing.assert_array_equal(pixels, COLOURS)
    assert facts.extra_bands == bands


def test_near_infrared_that_is_marked_as_transparency_is_refused(tmp_path):
    infrared = np.random.default_rng(0).integers(20, 200, (24, 36), dtype=np.uint8)
    bands = np.dstack([COLOURS, infrared])
    assert "near infrared" in refusal(tiff(tmp_path / "a.tif", bands, extra=[2]))
    pixels, facts = read(tiff(tmp_path / "b.tif", bands, extra=[0]))
    np.testing.assert_array_equal(pixels, COLOURS)
    assert facts.extra_bands == 1
    # a mask is transparency
    mask = np.dstack([COLOURS, np.where(np.arange(36) < 30, 255, 0).repeat(24).reshape(36, 24).T])
    pixels, _ = read(tiff(tmp_path / "c.tif", mask.astype(np.uint8), extra=[2]))
    assert pixels[0, -1].tolist() == [255, 255, 255]
    assert pixels[0, 0].tolist() == list(RED)


@pytest.mark.parametrize("suffix", ["gif", "tif", "webp", "png"])
def test_the_first_frame_counts_and_others_are_told(tmp_path, suffix):
    frames = [Image.fromarray(COLOURS), Image.fromarray(COLOURS[:, ::-1].copy())]
    options = {"lossless": True} if suffix == "webp" else {}
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:], **options)
    pixels, facts = read(tmp_path / f"a.{suffix}")
    assert facts.more_frames
    assert np.abs(pixels.astype(int) - COLOURS).max() <= 2
    frames[0].save(tmp_path / f"b.{suffix}", **options)
    assert not read(tmp_path / f"b.{suffix}")[1].more_frames


def test_colour_profiles_are_told_and_not_applied(tmp_path):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    # the same profile under another name
    other = srgb.replace("sRGB".encode("utf-16-be"), "wide".encode("utf-16-be"))
    for profile, told in ((srgb, False), (other.replace(b"sRGB", b"wide"), True)):
        Image.fromarray(COLOURS).save(tmp_path / "a.png", icc_profile=profile)
        pixels, facts = read(tmp_path / "a.png")
        np.testing.assert_array_equal(pixels, COLOURS)
        assert facts.profile is told


def test_no_decoder_that_starts_a_program_is_asked(tmp_path):
    assert not {"EPS", "WMF", "GBR", "SPIDER"} & set(FORMATS)
    Image.fromarray(COLOURS).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.jpg")
    assert refusal(tmp_path / "a.jpg") == "not an image in a known format"


def test_what_would_block_or_never_end_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "socket.jpg"))
    (tmp_path / "folder.jpg").mkdir()
    with (tmp_path / "sparse.jpg").open("wb") as stream:
        stream.truncate(2**31 + 1)
    names = {"pipe": "a pipe", "zero": "a device", "socket": "a socket", "folder": "a folder"}
    for name, kind in names.items():
        assert refusal(tmp_path / f"{name}.jpg") == f"it is {kind}, not a file"
    assert "limit of 2,147,483,648 bytes" in refusal(tmp_path / "sparse.jpg")
    found = check_images([tmp_path / f"{name}.jpg" for name in names])
    assert all(checked.reason for checked in found)
    listener.close()


def test_decoders_share_one_budget_and_wait():
    budget = MemoryBudget(100)
    most, running, order = 0, 0, []
    lock = threading.Lock()

    def work(size):
        nonlocal most, running
        with budget.reserve(size):
            with lock:
                running += size
                most = max(most, running)
                order.append(size)
            time.sleep(0.002)
            with lock:
                running -= size

    threads = [threading.Thread(target=work, args=(size,)) for size in [40, 40, 40, 30] * 5]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=10)
    assert len(order) == 20
    assert 40 <= most <= 100
    assert budget.used == 0
    # what is larger than all of it runs, alone
    with budget.reserve(1000):
        late = threading.Thread(target=work, args=(1,))
        late.start()
        time.sleep(0.01)
        assert order[-1] != 1
    late.join(timeout=10)
    assert order[-1] == 1


def test_a_failure_gives_the_memory_back(tmp_path):
    Image.fromarray(COLOURS).save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadImageError):
        read_view(tmp_path / "a.png", 8)
    assert DECODING.used == 0


def test_bombs_are_decoded_one_after_the_other(tmp_path, monkeypatch):
    """Each claims more than the budget, so no two are in memory at once; view, part and check alike."""
    monkeypatch.setattr(DECODING, "limit", 100_000)
    now = most = 0
    lock = threading.Lock()
    decode = ImageFile.decode

    def watched(self, **options):
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.005)
        try:
            return decode(self, **options)
        finally:
            with lock:
                now -= 1

    monkeypatch.setattr(ImageFile, "decode", watched)
    files = []
    for number in range(4):
        files.append(tmp_path / f"{number}.png")
        Image.new("RGB", (100, 100), (number, 0, 0)).save(files[-1])
    FileImages(tuple(files), 32).load(workers=4)
    assert all(not checked.reason for checked in check_images(files, workers=4))
    assert most == 1


@pytest.mark.parametrize(("width", "height"), [(4000, 1), (1, 4000), (9000, 20)])
def test_a_thin_image_takes_no_memory(width, height, tmp_path, monkeypatch):
    pixels = torch.from_numpy(
        np.random.default_rng(0).integers(0, 256, (3, height, width), dtype=np.uint8)
    )
    largest = 0
    original = torch.nn.functional.interpolate

    def watched(image, size, **options):
        nonlocal largest
        largest = max(largest, size[0] * size[1])
        return original(image, size, **options)

    monkeypatch.setattr("longtail.data.images.resize.F.interpolate", watched)
    for fit in ("crop", "pad", "squash"):
        assert to_view(pixels, 224, fit).shape == (3, 224, 224)
    assert largest < 3_000_000  # 262 million before


def test_a_long_image_is_cut_where_it_was(monkeypatch):
    """Cutting before resizing changes nothing but rounding."""
    smooth = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 60, 3), dtype=np.uint8))
    pixels = torch.from_numpy(np.array(smooth.resize((3000, 400), 3))).permute(2, 0, 1)
    cut = to_square(pixels, 64, margin=256 / 224)
    monkeypatch.setattr("longtail.data.images.resize.LONGEST", 10**9)
    whole = to_square(pixels, 64, margin=256 / 224)
    assert np.abs(cut.astype(int) - whole.astype(int)).max() <= 2


def wide():
    """[3, 20, 60]: red, green and blue thirds."""
    pixels = np.zeros((20, 60, 3), np.uint8)
    pixels[:, :20], pixels[:, 20:40], pixels[:, 40:] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    return pixels


def test_a_wide_image_is_cut_padded_or_squashed(tmp_path):
    Image.fromarray(wide()).save(tmp_path / "a.png")
    cut, padded, squashed = (
        read_view(tmp_path / "a.png", 60, fit=fit).transpose(1, 2, 0)
        for fit in ("crop", "pad", "squash")
    )
    assert {tuple(p) for p in cut[:, 5:-5].reshape(-1, 3).tolist()} == {(0, 255, 0)}
    np.testing.assert_array_equal(padded[20:40], wide())
    assert {tuple(p) for p in padded[[0, 19, 40, 59]].reshape(-1, 3).tolist()} == {PADDING}
    assert squashed.shape == (60, 60, 3)
    for place, colour in ((5, (255, 0, 0)), (30, (0, 255, 0)), (55, (0, 0, 255))):
        assert [tuple(squashed[row, place]) for row in (0, 59)] == [colour, colour]
    assert shown_share(60, 20, 60) == pytest.approx(1 / 3)
    assert shown_share(600, 200, 224) == pytest.approx((224 / 256) ** 2 / 3)
    assert shown_share(60, 20, 60, "pad") == 1
    assert len({describe_view(64, fit) for fit in ("crop", "pad", "squash")}) == 3


@pytest.mark.parametrize("shape", [(20, 60), (60, 20), (1, 90), (33, 33)])
@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
def test_random_parts_fit_as_the_test_view_does(tmp_path, fit, shape):
    height, width = shape
    Image.fromarray(np.full((height, width, 3), (10, 200, 50), np.uint8)).save(tmp_path / "a.png")
    for seed in range(40):
        generator = np.random.default_rng(seed)
        left, top, wide_, high = draw_part(width, height, generator, fit=fit)
        across = min(width, left + wide_) - max(0, left), min(height, top + high) - max(0, top)
        assert min(across) >= 1  # never padding alone
        if fit != "pad":
            assert min(left, top) >= 0
            assert left + wide_ <= width
            assert top + high <= height
        part = read_crop(
            tmp_path / "a.png", 16, np.random.default_rng(seed), area=(0.08, 1.0), fit=fit
        )
        colours = {tuple(p) for p in part.transpose(1, 2, 0).reshape(-1, 3).tolist()}
        assert (10, 200, 50) in colours
        assert colours <= {(10, 200, 50), PADDING}
        if fit != "pad":
            assert len(colours) == 1


def test_training_and_evaluation_share_the_fit(tmp_path):
    for name, colour in (("left", 0), ("right", 40)):
        (tmp_path / "set" / name).mkdir(parents=True)
        for number in range(10):
            noise = np.random.default_rng(number + 100 * colour)  # near-duplicates stay together
            pixels = noise.integers(0, 120, (20, 60, 3)).astype(np.uint8)
            pixels[:, colour : colour + 20] = 255
            Image.fromarray(pixels).save(tmp_path / "set" / name / f"{number}.png")
    config = FolderData(name="folder", path=tmp_path / "set", fit="squash", image_size=96)
    data = open_data(config)
    assert isinstance(data.images, FileImages)
    assert data.images.fit == data.split("test").images.fit == "squash"
    view = data.images.decode(0)
    assert view[:, :, 5].min() == 255  # the left third is seen
    assert view[:, :, 90].max() < 120
    cached = open_decoded(data.images, tmp_path / "cache")
    assert np.abs(cached.decode(0).astype(int) - view).max() <= 2
    assert cached.take(np.array([0])).fit == "squash"


def test_damage_of_a_cache_is_told(tmp_path):
    from longtail.core import DataError

    Image.fromarray(COLOURS).save(tmp_path / "a.png")
    files = FileImages((tmp_path / "a.png",), 96)
    open_decoded(files, tmp_path / "cache")
    (index,) = (tmp_path / "cache").glob("*.npy")
    whole = index.read_bytes()
    for content in (b"", whole[:40], whole[:-8] + struct.pack("<q", 10**9)):
        index.write_bytes(content)
        with pytest.raises(DataError, match="damaged; remove both"):
            open_decoded(files, tmp_path / "cache")


def test_a_jpeg_of_many_scans_is_refused(tmp_path):
    Image.fromarray(COLOURS).save(tmp_path / "a.jpg", progressive=True)
    content = (tmp_path / "a.jpg").read_bytes()
    scan = content.rindex(b"\xff\xda")
    (tmp_path / "a.jpg").write_bytes(content[:scan] + content[scan:-2] * 300 + b"\xff\xd9")
    assert refusal(tmp_path / "a.jpg") == "more than 200 scans"


def test_a_partly_damaged_jpeg_is_told(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.jpg")
    content = bytearray((tmp_path / "a.jpg").read_bytes())
    assert not read(tmp_path / "a.jpg")[1].in_part
    content[5000:5400] = b"\x55" * 400
    (tmp_path / "a.jpg").write_bytes(content)
    assert read(tmp_path / "a.jpg")[1].in_part


def test_files_of_odd_names_are_read(tmp_path):
    name = os.fsdecode(b"fuchs_gr\xfcn.png")
    Image.fromarray(COLOURS).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / name)
    np.testing.assert_array_equal(read(Path(tmp_path / name))[0], COLOURS)
    assert len(open_decoded(FileImages((tmp_path / name,), 96), tmp_path / "cache")) == 1


def test_a_damaged_head_asks_for_no_more_than_the_file_has(tmp_path):
    """A box of 4 GB in a file of some bytes: refused without the memory for it."""
    Image.fromarray(COLOURS).save(tmp_path / "a.jp2")
    content = bytearray((tmp_path / "a.jp2").read_bytes())
    place = content.index(b"jp2h") - 4
    content[place : place + 4] = b"\xff\xff\xff\xf0"
    (tmp_path / "a.jp2").write_bytes(content)
    tracemalloc.start()
    assert "damaged" in refusal(tmp_path / "a.jp2")
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_absurd_sides_are_refused(tmp_path):
    Image.new("1", (2**18 + 1, 2)).save(tmp_path / "a.png")
    assert refusal(tmp_path / "a.png") == "262145 x 2 pixels: no side may have more than 262144"


def test_a_long_lab_image_takes_no_longer_than_others(tmp_path, monkeypatch):
    calls = []
    convert = Image.Image.convert
    monkeypatch.setattr(
        Image.Image,
        "convert",
        lambda self, *a, **k: calls.append(self.mode) or convert(self, *a, **k),
    )
    tiff(tmp_path / "a.tif", np.zeros((2000, 3, 3), np.uint8), photometric=8)
    read(tmp_path / "a.tif")
    assert calls.count("LAB") == 1


def test_a_tag_behind_the_pixels_turns_a_png_and_decodes_nothing(tmp_path, monkeypatch):
    """Where exiftool writes it; Pillow would decode all pixels to look for it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(COLOURS).save(tmp_path / "early.png", exif=exif)
    content = (tmp_path / "early.png").read_bytes()
    begin = content.index(b"eXIf") - 4
    end = begin + 12 + struct.unpack(">I", content[begin : begin + 4])[0]
    last = content.index(b"IEND") - 4
    moved = content[:begin] + content[end:last] + content[begin:end] + content[last:]
    (tmp_path / "late.png").write_bytes(moved)
    Image.fromarray(COLOURS).save(tmp_path / "none.png")
    loaded = []
    load = Image.Image.load
    monkeypatch.setattr(Image.Image, "load", lambda self: loaded.append(1) or load(self))
    sizes = [read_size(tmp_path / f"{name}.png") for name in ("early", "late", "none")]
    assert sizes == [(24, 36), (24, 36), (36, 24)]
    files = [ImageFile(tmp_path / f"{name}.png") for name in ("early", "late", "none")]
    assert not loaded
    right = np.rot90(COLOURS, -1)
    for file in files[:2]:
        np.testing.assert_array_equal(file.pixels().permute(1, 2, 0), right)


def test_large_images_among_small_ones_are_told():
    """Most are 32 pixels wide, so that is what the network sees; 300 x 200 loses most of its detail."""
    checked = [Checked("", 32, 32, "a")] * 18 + [
        Checked("", 300, 200, "b"),
        Checked("", 90, 64, "c"),
    ]
    paths = [str(number) for number in range(20)]
    told = pixel_findings(paths, checked, size=32, chosen=True)
    assert told == (
        "2 of 20 images are larger (up to 300 x 200) and reduced to 32 pixels, the size of most images; "
        "data.image_size=224 keeps more of them.",
    )
    assert pixel_findings(paths, checked, size=32) == ()  # the user chose it
    assert pixel_findings(paths[:18], checked[:18], size=32, chosen=True) == ()
