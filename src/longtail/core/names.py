"""Names as people read them: what looks alike is found, what cannot be shown is written out."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable, Sequence

# what moves the cursor, changes the terminal, turns the direction of writing or is no character at all
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
MOST_PAIRS = 100_000  # of names that are compared with each other, in less than a second
_NO_TEXT = re.compile("[\ud800-\udfff]")
_INVISIBLE = dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff\u00ad"))


def printable(name: str) -> str:
    r"""Return a file name as text that can be written anywhere.

    Names that are not UTF-8 hold lone surrogates in Python, which no file and no terminal takes; their bytes
    are written out (`gr\xfcn.png`).
    """
    return name if name.isascii() else _NO_TEXT.sub(_written_out, name)


def visible(text: str) -> str:
    r"""Return text with control characters written out: `\x1b` for an escape, `\u202e` for a turned line.

    Whatever holds names of files and classes goes to terminals and pages through this function. Line breaks
    and tabs stay, unlike in `shown`, which is for one name.
    """
    return _UNSEEN.sub(_written_out, text)


def _written_out(found: re.Match[str]) -> str:
    code = ord(found[0])
    if 0xDC80 <= code <= 0xDCFF:  # how Python holds a byte that is no UTF-8
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def shown(name: str, most: int = 120) -> str:
    r"""Return a name for a message: on one line, of at most `most` letters, none of which a terminal obeys.

    Line ends, escape sequences and marks that turn the direction of writing are written out (`\x1b[31m`).
    """
    text = "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii")
        for letter in printable(name[: 2 * most])
    )
    return text if len(text) <= most else f"{text[: most - 23]}...{text[-20:]}"


def from_printable(name: str) -> str:
    r"""Return the file name that `printable` wrote as `gr\xfcn.png`."""
    written = name.encode("utf-8", "surrogateescape")
    raw = re.sub(rb"\\x([89a-f][0-9a-f])", lambda found: bytes([int(found[1], 16)]), written)
    return raw.decode("utf-8", "surrogateescape")


def clean_name(name: str) -> str:
    """Return a class name in composed letters (NFC), without invisible letters and space around it."""
    return unicodedata.normalize("NFC", printable(name).translate(_INVISIBLE)).strip()


def normal_name(name: str) -> str:
    """Return a key that is equal however a program writes a name: `1` and `1.0`, NFC and NFD."""
    return re.sub(r"^(-?\d+)\.0+$", r"\1", clean_name(name))


def same_to_people(name: str) -> str:
    """Return a key that is equal for names that differ only in capitals, kinds of space, or a final `.0`."""
    return normal_name(re.sub(r"[\s_]+", " ", clean_name(name))).lower()


def alike(names: Iterable[str]) -> list[list[str]]:
    """Return the groups of two or more different names that are the same to people, sorted."""
    groups: dict[str, list[str]] = {}
    for name in sorted(set(names)):
        groups.setdefault(same_to_people(name), []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def perhaps_renamed(gone: Iterable[str], new: Iterable[str]) -> dict[str, str]:
    """Return new name -> the one of `gone` that it resembles: `lynxes` -> `lynx`, but no other number.

    Nothing where both are many: each pair takes microseconds, and that many were hardly renamed one by one.
    """
    left, added = {same_to_people(name): name for name in gone}, list(new)
    found: dict[str, str] = {}
    if len(left) * len(added) > MOST_PAIRS:
        return found
    for name in added:
        key = same_to_people(name)
        near = difflib.get_close_matches(key, left, n=1, cutoff=0.75)
        if near and _numbers(near[0]) == _numbers(key):
            found[name] = left.pop(near[0])
    return found


def ask_whether_renamed(gone: Iterable[str], new: Iterable[str]) -> str:
    """Return ` Was lynx renamed to lynxes?`, or nothing; see `perhaps_renamed`."""
    pairs = perhaps_renamed(gone, new).items()
    named = some([f"{shown(old, 60)} renamed to {shown(now, 60)}" for now, old in pairs], most=3)
    return f" Was {named}?" if named else ""


def _numbers(name: str) -> list[str]:
    return re.findall(r"\d+", name)


def some(names: Sequence[str], most: int = 8) -> str:
    """Return the first names of a list as they are shown, and how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(shown(name, 60) for name in names[:most]) + more
