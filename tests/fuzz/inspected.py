"""What `longtail data inspect` says of a collection, as the fuzz tests of folders and tables judge it."""

import re

SAID = re.compile(r": (\d+) classes, ([\d,]+) images \((.*)\)\n")


def wrong_count(out, most):
    """Say what is wrong with the printed counts of a collection of at most `most` images, or nothing."""
    found = SAID.search(out)
    if found is None:
        return "no count is printed"
    total = int(found[2].replace(",", ""))
    parts = [int(part.split()[1]) for part in found[3].split(", ")]
    if not 2 <= int(found[1]) <= total <= most or total != sum(parts):
        return f"{found[0]} of {most} images"
    return None
