"""What the pixels of a collection show before anything is trained on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from longtail.core.words import counted, some_of
from longtail.data.images.colour_modes import PLAIN
from longtail.data.images.file_checks import Checked
from longtail.data.images.resize import LARGE_SIDE, Fit, chosen_size, shown_share

LONG = 1.8  # longer side over shorter side: above what cameras and screens make (16 : 9)
FROM = 0.05  # share of such images from which it is said
MUCH = 2  # times the side that the network sees: less is hardly lost
NAMED = 3  # files that a sentence names


def pixel_findings(
    paths: Sequence[str],
    checked: Sequence[Checked],
    *,
    size: int,
    fit: Fit = "crop",
    bit_depth: int | None = None,
    chosen: bool = False,
) -> tuple[str, ...]:
    """Return one sentence per kind of finding, for people; nothing where all is usual.

    Args:
        paths: Of the images, for naming them.
        checked: What `check_images` said of each; those that cannot be read are left out.
        size: Side of the square that the network sees.
        fit: How images become squares.
        bit_depth: As the user said it.
        chosen: Whether the images decided the size, and not the user.
    """
    readable = [c for c in checked if not c.reason]
    rows = [
        (path, c)
        for path, c in zip(paths, checked, strict=True)
        if not c.reason and (c.even or c.facts is not PLAIN)  # few, of many
    ]

    def some(is_so: Callable[[Checked], bool], one: str, several: str) -> str:
        found = [path for path, c in rows if is_so(c)]
        if not found:
            return ""
        more = ", ..." if len(found) > NAMED else ""
        return f"{counted(len(found), one, several)}: {', '.join(found[:NAMED])}{more}"

    sentences = [
        some(lambda c: c.even, "image has a single colour", "images have a single colour"),
        some(
            lambda c: c.facts.in_part,
            "image is partly damaged, and parts of it may be grey or wrong",
            "images are partly damaged, and parts of them may be grey or wrong",
        ),
        _unused_depth([c for _, c in rows], bit_depth),
        some(
            lambda c: c.facts.extra_bands > 0,
            "image has extra bands besides its colours, which are not used",
            "images have extra bands besides their colours, which are not used",
        ),
        some(
            lambda c: c.facts.transparent > 0.5 and not c.facts.flat_alpha,
            "image is mostly transparent and will be mostly white",
            "images are mostly transparent and will be mostly white",
        ),
        some(
            lambda c: c.facts.flat_alpha,
            "image has the same transparency everywhere, which is not applied",
            "images have the same transparency everywhere, which is not applied",
        ),
        some(
            lambda c: c.facts.more_frames,
            "image has several frames or pages, of which only the first is used",
            "images have several frames or pages, of which only the first is used",
        ),
        some(
            lambda c: c.facts.profile,
            "image has a colour profile other than sRGB, which is not applied",
            "images have a colour profile other than sRGB, which is not applied",
        ),
        _long(readable, size, fit),
        _reduced(readable, size) if chosen else "",
    ]
    return tuple(sentence for sentence in sentences if sentence)


def _unused_depth(checked: Sequence[Checked], bit_depth: int | None) -> str:
    deep = [c.facts for c in checked if c.facts.bits > 8 and c.facts.highest]
    if not deep or bit_depth is not None:
        return ""
    bits, used = max(f.bits for f in deep), max(f.highest for f in deep).bit_length()
    if used >= bits:
        return ""
    return (
        f"The values of {counted(len(deep), 'image', 'images')} with {bits} bits use only {used} "
        f"of them, so the images are dark; if the rest is never used, set data.bit_depth={used}."
    )


def _long(checked: Sequence[Checked], size: int, fit: Fit) -> str:
    long = [c for c in checked if max(c.width, c.height) > LONG * min(c.width, c.height)]
    if fit != "crop" or not long or len(long) < FROM * len(checked):
        return ""
    share = float(np.median([shown_share(c.width, c.height, size) for c in long]))
    shown = f"{100 * share:.0f} %" if share >= 0.01 else "less than 1 %"
    return (
        f"{some_of(len(long), len(checked), 'image', 'images', 'is', 'are')} longer than {LONG:g} "
        f"to 1; the centre crop shows {shown} of them (median). data.fit=pad and data.fit=squash "
        "show the whole image."
    )


def _reduced(checked: Sequence[Checked], size: int) -> str:
    """Name images that lose detail because most images are small."""
    large = [c for c in checked if min(c.width, c.height) >= MUCH * size]
    if size >= LARGE_SIDE or not large or len(large) < FROM * len(checked):
        return ""
    widest = max(large, key=lambda c: (min(c.width, c.height), c.width))
    larger = chosen_size(int(np.median([min(c.width, c.height) for c in large])))
    return (
        f"{some_of(len(large), len(checked), 'image', 'images', 'is', 'are')} larger (up to {widest.width} x "
        f"{widest.height}) and reduced to {size} pixels, the size of most images; data.image_size={larger} "
        "keeps more of them."
    )
