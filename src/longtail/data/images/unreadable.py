"""The wording for image files that cannot be read, whichever command meets them; no file is opened here."""

from __future__ import annotations

from collections.abc import Sequence

from longtail.core.names import shown
from longtail.core.words import some_of

NAMED = 3  # files that a sentence names
LISTED = 10  # files that an error lists
REFUSED = (
    "Repair or remove such files, or leave them out with data.on_bad_image=skip (longtail train and compare "
    "also take --on-bad-image skip)."
)
REPLACE = "Repair or replace such files."
LEFT_OUT = "Such files are left out. Repair or replace them."
LISTED_WITH_ERROR = f"The column error has the reason of each. {REPLACE}"
REFUSED_IN_RUN = "Restore such files from a copy, or remove them."


def describe_unreadable(
    bad: Sequence[tuple[str, str]], size: int, action: str, *, as_list: bool = False
) -> str:
    """Say how many of `size` images cannot be read, which and why, and what to do.

    Args:
        bad: Path and reason of each.
        size: Images in all, with those.
        action: What becomes of them and what to do, as `LEFT_OUT`.
        as_list: Whether each file gets a line of its own, for an error in a terminal.
    """
    most = LISTED if as_list else NAMED
    named = [f"{shown(path, 300)}: {reason}" for path, reason in bad[:most]]
    if len(bad) > most:
        named.append(f"and {len(bad) - most:,} more")
    head = f"{some_of(len(bad), size, 'image', 'images', 'cannot', 'cannot')} be read:"
    if len(bad) == size > 1:
        head = f"None of the {size:,} images can be read:"
    if as_list:
        return "\n".join([head, *(f"  {line}" for line in named), action])
    return f"{head} {'; '.join(named)}. {action}"
