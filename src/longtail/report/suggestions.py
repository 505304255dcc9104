"""The page of images that are worth labelling."""

from __future__ import annotations

from longtail.report.images import thumbnail
from longtail.report.page import render
from longtail.runs.suggesting import Suggestions

MOST_SHOWN = 400  # images of a page; the CSV holds all


def render_suggestions(title: str, found: Suggestions) -> str:
    """Return the page as HTML that needs nothing else.

    Args:
        title: Heading: which run, which images.
        found: The suggestions.
    """
    shown = found.images[:MOST_SHOWN]
    return render(
        "suggestions.html.j2",
        title=title,
        found=found,
        images=[(number, image, thumbnail(image.view)) for number, image in enumerate(shown, 1)],
        rest=len(found.images) - len(shown),
        small=bool(shown) and shown[0].view.shape[-1] <= 64,
    )  # fmt: skip
