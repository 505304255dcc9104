"""From what a decoder gives to RGB with 8 bits, by what the file says of itself.

A file that leaves open what its values mean is refused in words: a guess for each image alone would change
colours from one image to the next.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

DARK_BITS = 12  # 16-bit values that use no more would be nearly black
HALF = 0.5  # share of half transparent pixels from which a fourth band of a TIFF is no transparency
ROWS = 256  # converted at once, so that no second copy of a large image is made
BITS_PER_SAMPLE, PHOTOMETRIC, SAMPLES, EXTRA_SAMPLES, SAMPLE_FORMAT = 258, 262, 277, 338, 339
WHITE_IS_ZERO, UNSIGNED, SIGNED, ALPHAS = 0, 1, 2, (1, 2)  # values of these tags of TIFF
COLOURS = {
    0: 1,
    1: 1,
    2: 3,
    3: 1,
    5: 4,
    6: 3,
    8: 3,
}  # bands that a photometric interpretation names
# 16 bits of several bands: the decoder keeps the higher byte; read with the bytes swapped, the lower one
SWAPPED = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}


class PixelError(ValueError):
    """A whole file whose values could mean several things, or nothing that is known; says what to do."""


@dataclass(frozen=True)
class Facts:
    """What a file holds besides the image that is used.

    Attributes:
        bits: Stored per value.
        highest: Highest value, where more than 8 bits are stored and it was looked at; else 0.
        extra_bands: Bands that are no colour and no transparency; they are not used.
        more_frames: Whether there are more frames or pages than the first, which is used.
        transparent: Mean transparency, in [0, 1].
        flat_alpha: Whether transparency is the same everywhere, so that it is not applied.
        profile: Whether a colour profile other than sRGB is attached, which is not applied.
        in_part: Whether the decoder met damage and went on, so that a part may be grey or wrong.
    """

    bits: int = 8
    highest: int = 0
    extra_bands: int = 0
    more_frames: bool = False
    transparent: float = 0.0
    flat_alpha: bool = False
    profile: bool = False
    in_part: bool = False


PLAIN = Facts()


def to_rgb(
    image: Image.Image, bit_depth: int | None, content: bytes = b""
) -> tuple[NDArray[np.uint8], Facts]:
    """Convert an opened image to RGB as it is stored (not turned upright), uint8 [H, W, 3].

    Args:
        image: Opened, not loaded yet.
        bit_depth: Bits that values of more than 8 bits really use; None where the file says it.
        content: Of its file, from which the lower halves of 16-bit colours are read.

    Returns:
        The pixels, and what else the file holds.

    Raises:
        PixelError: If the file does not say what its values mean, or has values beyond `bit_depth`.
        Exception: Whatever the decoder raises on a damaged file.
    """
    tags = _tags(image)
    facts: dict[str, Any] = {
        "bits": _stored_bits(image, tags),
        "more_frames": has_more_frames(image),
        "profile": has_other_profile(image),
    }
    extra = _extra_bands(tags)
    facts["extra_bands"] = len(extra)
    if _raw_mode(image).split(";")[0] in ("R", "G", "B") and facts["bits"] > 8:
        raise PixelError("16-bit bands that are stored one after the other are not supported")
    if image.mode.startswith("I"):
        grey, facts["highest"] = _deep_grey(image, tags, facts["bits"], bit_depth)
        return np.repeat(grey[..., None], 3, axis=2), Facts(**facts)
    if image.mode == "F":
        raise PixelError("floating-point pixels have no known range; save it as 8 or 16 bit")
    if tags.get(SAMPLE_FORMAT, (UNSIGNED,))[0] == SIGNED:
        raise PixelError("signed 8-bit pixels have no known range; save them as unsigned")
    if facts["bits"] > 8:
        image, facts["highest"] = _deep_colours(image, facts["bits"], bit_depth, content)
    elif image.mode == "LAB":
        image = image.convert("RGB")  # as a whole: every call makes a transform of its own
    else:
        image.load()
    if SAMPLES in tags and image.mode == "RGBA" and EXTRA_SAMPLES not in tags:
        facts["extra_bands"] = 1  # four bands, and nothing says that the fourth is transparency
        return _rows(image), Facts(**facts)
    if not image.has_transparency_data:
        return _rows(image), Facts(**facts)
    found = _over_white(image, of_tiff=bool(tags))
    facts["transparent"], facts["flat_alpha"] = found[1:]
    return found[0], Facts(**facts)


def array_to_rgb(array: NDArray[Any], bit_depth: int | None) -> tuple[NDArray[np.uint8], Facts]:
    """Convert uint8 or uint16 [H, W], [H, W, 1] or [H, W, 3] to uint8 [H, W, 3].

    Raises:
        PixelError: As of `to_rgb`.
    """
    facts = PLAIN
    if array.dtype == np.uint16:
        highest = int(array.max())
        white = _white(highest, 16, bit_depth, signed=False)
        array, facts = array >> (white - 8), Facts(bits=16, highest=highest)
    deep = array[..., None] if array.ndim == 2 else array
    return np.array(np.broadcast_to(deep, (*deep.shape[:2], 3)), dtype=np.uint8), facts


def has_more_frames(image: Image.Image) -> bool:
    """Say whether the file holds more frames or pages; the second image of a stereo pair is none."""
    return image.format != "MPO" and bool(getattr(image, "is_animated", False))


def has_other_profile(image: Image.Image) -> bool:
    """Say whether a colour profile other than sRGB is attached."""
    profile = image.info.get("icc_profile") or b""
    names = (b"sRGB", "sRGB".encode("utf-16-be"))
    return bool(profile) and image.mode != "LAB" and not any(name in profile for name in names)


def _tags(image: Image.Image) -> dict[int, tuple[Any, ...]]:
    """Return the tags of a TIFF as tuples; nothing of other formats."""
    if image.format != "TIFF":
        return {}
    tags: Any = image.tag_v2  # type: ignore[attr-defined]
    values = {key: tags[key] for key in (SAMPLES, PHOTOMETRIC) if key in tags}
    values |= {
        key: tags[key] for key in (BITS_PER_SAMPLE, EXTRA_SAMPLES, SAMPLE_FORMAT) if key in tags
    }
    return {key: value if isinstance(value, tuple) else (value,) for key, value in values.items()}


def _extra_bands(tags: dict[int, tuple[Any, ...]]) -> tuple[Any, ...]:
    """Return the extra samples of a TIFF that are no transparency."""
    extra = tags.get(EXTRA_SAMPLES, ())
    return extra[1:] if extra[:1] and extra[0] in (*ALPHAS, 999) else extra


def _raw_mode(image: Image.Image) -> str:
    """Return how the decoder is told to read the pixels, for example `RGB;16B`; empty if unknown."""
    tiles: Any = getattr(image, "tile", None)  # an image that was made in memory has none
    if not tiles:
        return ""
    arguments = tiles[0][3]
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def _stored_bits(image: Image.Image, tags: dict[int, tuple[Any, ...]]) -> int:
    if BITS_PER_SAMPLE in tags:
        return int(tags[BITS_PER_SAMPLE][0])
    if image.mode.startswith("I") or ";16" in _raw_mode(image):
        return 16  # PNG, PPM (which the decoder spreads over 16 bits) and JPEG 2000 (likewise)
    return 8


def _white(highest: int, bits: int, bit_depth: int | None, *, signed: bool) -> int:
    """Return the bits whose largest value is white.

    Raises:
        PixelError: If that is unknown, or a value is larger.
    """
    if bit_depth is not None and bits >= bit_depth:
        if highest >= 1 << bit_depth:
            raise PixelError(
                f"it contains the value {highest:,}, which is more than data.bit_depth={bit_depth} allows"
            )
        return bit_depth
    if signed or bits > 16:
        kind = f"{'signed ' if signed else ''}{bits}-bit pixels"
        raise PixelError(f"{kind} do not say which value is white; set data.bit_depth")
    if bits == 16 and 0 < highest < 1 << DARK_BITS:
        raise PixelError(
            f"its 16-bit values reach only {highest:,}, which is nearly black; set the number of bits "
            f"in use with data.bit_depth={max(8, highest.bit_length())} (data.bit_depth=16 if the "
            "image really is that dark)"
        )
    return bits


def _deep_grey(
    image: Image.Image, tags: dict[int, tuple[Any, ...]], bits: int, bit_depth: int | None
) -> tuple[NDArray[np.uint8], int]:
    """Return grey values of more than 8 bits as uint8 [H, W], and the highest."""
    values = np.asarray(image)
    lowest, highest = int(values.min()), int(values.max())
    if lowest < 0:
        raise PixelError(f"pixels below 0 (down to {lowest:,}) have no known meaning")
    signed = tags.get(SAMPLE_FORMAT, (UNSIGNED,))[0] == SIGNED
    white = _white(highest, bits, bit_depth, signed=signed)
    grey = (values >> (white - 8)).astype(np.uint8)
    if tags.get(PHOTOMETRIC) == (WHITE_IS_ZERO,):
        grey = 255 - grey  # which the decoder does for up to 8 bits only
    if isinstance(clear := image.info.get("transparency"), int):
        grey[values == clear] = 255
    return grey, highest


def _deep_colours(
    image: Image.Image, bits: int, bit_depth: int | None, content: bytes
) -> tuple[Image.Image, int]:
    """Load colours of 16 bits as 8, and return the highest value, to 8 bits where that is enough."""
    tiles = list(image.tile)  # type: ignore[attr-defined]
    image.load()
    colours = [
        pair[1]
        for band, pair in zip(image.getbands(), _extrema(image), strict=True)
        if band not in "Aa"
    ]
    if bits != 16 or bit_depth in (None, 16):
        highest = max(colours) << 8 | 0xFF if max(colours) else 0
        _white(highest, bits, bit_depth, signed=False)
        return image, highest
    if not content:
        raise PixelError(
            "the lower bits of 16-bit colours can be read only from files; give the path"
        )
    with Image.open(BytesIO(content)) as again:
        again.tile = [_swapped(tile) for tile in tiles]
        again.load()
        lower = np.asarray(again)
    if _kind(tiles[0]) == "LA":
        lower = lower[
            ..., [1, 1, 1, 3]
        ]  # of four bytes, higher and lower of grey and of transparency
    values = np.asarray(image).astype(np.uint16) << 8 | lower
    of_colours = values[..., :3] if image.mode in ("RGB", "RGBA") else values
    highest = int(of_colours.max())
    shift = _white(highest, bits, bit_depth, signed=False) - 8
    shifted = (values >> shift).clip(max=255).astype(np.uint8)
    return Image.fromarray(shifted, image.mode), highest


def _swapped(tile: Any) -> Any:  # noqa: ANN401 - a named tuple of Pillow, or a plain one
    """Return the tile, to be read with the bytes of a value swapped; grey with transparency as four bytes."""
    name, extents, offset, arguments = tile
    raw = arguments[0] if isinstance(arguments, tuple) else arguments
    kind, _, order = raw.partition(";16")
    if kind == "LA" and name == "zip":
        swapped = "RGBA"
    elif kind in ("RGB", "RGBX", "RGBA", "CMYK") and order in SWAPPED:
        swapped = f"{kind};16{SWAPPED[order]}"
    else:
        raise PixelError(f"16-bit pixels of the kind {raw} can be read only at their full depth")
    told = (swapped, *arguments[1:]) if isinstance(arguments, tuple) else swapped
    return type(tile)(name, extents, offset, told) if hasattr(tile, "_fields") else (
        name, extents, offset, told
    )  # fmt: skip


def _kind(tile: Any) -> str:  # noqa: ANN401 - as above
    arguments = tile[3]
    raw = arguments[0] if isinstance(arguments, tuple) else arguments
    return str(raw).partition(";")[0]


def _extrema(image: Image.Image) -> tuple[tuple[int, int], ...]:
    found: Any = image.getextrema()
    return found if isinstance(found[0], tuple) else (found,)


def _rows(image: Image.Image) -> NDArray[np.uint8]:
    """Convert block by block, uint8 [H, W, 3]; of RGBA the colours, as they are."""
    made = np.empty((image.height, image.width, 3), dtype=np.uint8)
    for first, block in _blocks(image):
        colours = block if block.mode == "RGBA" else block.convert("RGB")
        made[first : first + block.height] = np.asarray(colours)[..., :3]
    return made


def _blocks(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    if image.height <= ROWS:
        yield 0, image
        return
    for first in range(0, image.height, ROWS):
        below = min(first + ROWS, image.height)
        yield first, image.crop((0, first, image.width, below))


def _over_white(image: Image.Image, *, of_tiff: bool) -> tuple[NDArray[np.uint8], float, bool]:
    """Lay a transparent image on white; return its pixels, mean transparency, and whether that is flat.

    Transparency that is the same everywhere says nothing about the image, and would leave a white or pale
    square: the colours are used as they are.
    """
    whole = image if image.mode == "RGBA" else image.convert("RGBA")
    shares = np.array(whole.getchannel("A").histogram(), dtype=np.float64)
    shares /= shares.sum()
    transparent = float(1 - shares @ np.arange(256) / 255)
    if shares.max() == 1:
        return _rows(whole), transparent, transparent > 0
    if of_tiff and shares[1:255].sum() > HALF:
        raise PixelError(
            "its last band is marked as transparency, but most of it is neither clear nor opaque, so "
            "it may be an extra channel (near infrared); save the file without it"
        )
    made = np.empty((whole.height, whole.width, 3), dtype=np.uint8)
    for first, block in _blocks(whole):
        white = Image.new("RGBA", block.size, "white")
        laid = np.asarray(Image.alpha_composite(white, block))
        made[first : first + block.height] = laid[..., :3]
    return made, transparent, False
