"""Damaged images of every format and kind of pixel that is read: RGB, or one sentence."""

import io
import struct
import warnings
import zlib

import numpy as np
from PIL import Image

from longtail.data.images.decode import FORMATS, ImageFile, read_crop, read_size, read_view
from tests.data.test_pixels import png16, tiff
from tests.fuzz.harness import run_fuzz
from tests.fuzz.mutate import mutate_bytes

NOISE = np.random.default_rng(0).integers(0, 256, (20, 30, 4), dtype=np.uint8)
FRAMES = {"save_all": True}
EXIF = Image.Exif()
EXIF[0x0112], EXIF[0x010E] = 6, "x" * 50
# suffix, mode, how it is saved
SAVED = [
    ("jpg", "RGB", {"exif": EXIF}), ("jpg", "L", {}), ("jpg", "CMYK", {}),
    ("jpg", "RGB", {"progressive": True, "subsampling": 2, "icc_profile": b"x" * 200}),
    ("mpo", "RGB", FRAMES), ("jp2", "RGB", {}), ("jp2", "LA", {}),
    ("png", "RGBA", {"exif": EXIF}), ("png", "P", {"transparency": 3}), ("png", "1", {}),
    ("png", "LA", {}), ("png", "RGB", {"transparency": (1, 2, 3)}), ("png", "RGB", FRAMES),
    ("webp", "RGB", {"exif": EXIF}), ("webp", "RGBA", {"lossless": True}), ("webp", "RGB", FRAMES),
    ("bmp", "RGB", {}), ("bmp", "P", {}), ("bmp", "1", {}), ("dib", "RGB", {}),
    ("gif", "P", {"transparency": 1}), ("gif", "P", FRAMES),
    ("ppm", "RGB", {}), ("pgm", "L", {}), ("pbm", "1", {}),
    ("tif", "RGB", {"exif": EXIF}), ("tif", "RGBA", {}), ("tif", "P", {}), ("tif", "CMYK", {}),
    ("tif", "LAB", {}), ("tif", "RGB", FRAMES), ("tif", "F", {}), ("tif", "I", {}),
    *(("tif", "RGB", {"compression": name})
      for name in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits")),
    ("tif", "1", {"compression": "group4"}),
]  # fmt: skip
if "AVIF" in FORMATS:
    SAVED.append(("avif", "RGB", {}))


def originals(folder):
    """Return pairs of suffix and content."""
    found = []
    for suffix, mode, options in SAVED:
        buffer = io.BytesIO()
        kind = {"jpg": "JPEG", "tif": "TIFF", "jp2": "JPEG2000", "pgm": "PPM", "pbm": "PPM"}
        image = Image.fromarray(NOISE[..., :3]).convert(mode)
        second = Image.fromarray(NOISE[::-1, :, :3].copy()).convert(mode)
        more = {"append_images": [second]} if options is FRAMES else {}
        image.save(buffer, kind.get(suffix, suffix.upper()), **options, **more)
        found.append((suffix, buffer.getvalue()))
    deep = NOISE.astype(np.uint16) << 8
    for kind, bands in ((0, 1), (2, 3), (4, 2), (6, 4)):
        found.append(("png", png16(folder / "a", deep[..., :bands], kind).read_bytes()))
    for bands, options in (
        (1, {"photometric": 1}), (1, {"photometric": 0}), (3, {}), (4, {"extra": [0]}), (4, {}),
        (1, {"photometric": 1, "sample_format": 2}),
    ):  # fmt: skip
        found.append(("tif", tiff(folder / "a", deep[..., :bands], **options).read_bytes()))
    five = np.dstack([NOISE, NOISE[..., :1]])
    found.append(("tif", tiff(folder / "a", five, extra=[0, 0]).read_bytes()))
    (folder / "a").unlink()
    return found


def with_right_checksums(content):
    """Mend the checksums of a damaged PNG, so that its chunks are read and not only refused."""
    made, place = bytearray(content[:8]), 8
    while place + 12 <= len(content):
        (size,) = struct.unpack_from(">I", content, place)
        body = content[place + 4 : place + 8 + size]
        made += content[place : place + 4] + body + struct.pack(">I", zlib.crc32(body))
        place += 12 + size
    return bytes(made)


def huge(rng, content):
    """Claim an enormous width and height in the head of a PNG."""
    sides = [rng.choice([1, 3, 40_000, 2**16, 2**31 - 1]) for _ in range(2)]
    return content[:16] + struct.pack(">II", *sides) + content[24:]


def test_images(inputs, tmp_path):
    whole = originals(tmp_path)
    others = tuple(content for _, content in whole)

    def make(rng, folder):
        suffix, content = rng.choice(whole)
        if suffix == "png" and rng.random() < 0.2:
            content = huge(rng, content)
        damaged = mutate_bytes(rng, content, others)
        if suffix == "png" and rng.random() < 0.7:
            damaged = with_right_checksums(damaged)
        path = folder / f"image.{suffix}"
        path.write_bytes(damaged)
        return path, rng.choice(["crop", "pad", "squash"]), rng.choice([None, 12, 16])

    def act(given, _folder):
        path, fit, bit_depth = given
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\.")  # as on the command line
            read_size(path)
            file = ImageFile(path, bit_depth=bit_depth)
            with file.held():
                pixels, facts = file.decode()
            view = read_view(path, 16, fit=fit, bit_depth=bit_depth)
            part = read_crop(
                path, 16, np.random.default_rng(0), area=(0.1, 1.0), fit=fit, bit_depth=bit_depth
            )
        return file, pixels, facts, view, part

    def check(_given, made, _folder):
        file, pixels, facts, view, part = made
        if tuple(pixels.shape) != (3, file.height, file.width):
            return f"{tuple(pixels.shape)} pixels of {file.width} x {file.height}"
        if not 0 <= facts.transparent <= 1 or str(pixels.dtype) != "torch.uint8":
            return f"{facts}, {pixels.dtype}"
        return None if view.shape == part.shape == (3, 16, 16) else "no squares"

    run_fuzz("images", make, act, tmp_path, check=check, inputs=inputs).require()
