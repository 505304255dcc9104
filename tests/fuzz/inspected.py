"""What `longtail data inspect` says of a collection, as the fuzz tests of folders and tables judge it."""

import re

SAID = re.compile(
    r": (\d+) classes, ([\d,]+)(?: of ([\d,]+))? images \((.*?)\)"
    r"(?:; the other (one|[\d,]+) cannot be read)?\n"
)


def wrong_count(out, most):
    """Say what is wrong with the printed counts of a collection of at most `most` images, or nothing."""
    found = SAID.search(out)
    if found is None:
        return "no count is printed"
    total, listed = _number(found[2]), _number(found[3] or found[2])
    parts = [_number(part.split()[1]) for part in found[4].split(", ")]
    if not 2 <= int(found[1]) <= total <= most or total != sum(parts):
        return f"{found[0]} of {most} images"
    if listed != total + _number(found[5] or "0"):
        return f"{found[0]} does not add up"
    return None


def _number(text):
    return 1 if text == "one" else int(text.replace(",", ""))
