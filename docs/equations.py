"""Draws equations as SVG while the site is built, so that a page needs no network to show them."""

from __future__ import annotations

import io
import re
from html import escape
from typing import Any

import matplotlib
from matplotlib.font_manager import FontProperties
from matplotlib.mathtext import math_to_image
from sphinx.application import Sphinx

SIZE = 12  # points; everything is then given in em
INK = "#010203"  # stands for the colour of the text, which the page decides


def drawn(latex: str, *, block: bool) -> str:
    """Return an equation as inline SVG whose size and colour follow the text.

    Args:
        latex: In the part of LaTeX that matplotlib knows.
        block: On a line of its own, a little larger.

    Raises:
        ValueError: If matplotlib cannot read it.
    """
    flat = " ".join(latex.split())
    file = io.BytesIO()
    font = FontProperties(size=SIZE, math_fontfamily="cm")
    with matplotlib.rc_context({"svg.hashsalt": "longtail", "svg.fonttype": "path"}):
        depth = math_to_image(f"${flat}$", file, prop=font, format="svg", color=INK)
    text = file.getvalue().decode()
    width, height = (
        float(found) for found in re.findall(r'(?:width|height)="([\d.]+)pt"', text)[:2]
    )
    box = re.search(r'viewBox="[^"]+"', text)
    assert box is not None, "matplotlib writes a view box"
    body = re.sub(r"<style.*?</style>", "", text[text.index("<defs>") : text.rindex("</svg>")])
    body = body.replace(INK, "currentColor").replace("fill: #ffffff", "fill: none")
    scale = (1.25 if block else 1.0) / SIZE
    style = f"width:{width * scale:.2f}em;height:{height * scale:.2f}em;max-width:100%;"
    style += "" if block else f"vertical-align:{-depth * scale:.2f}em;"
    return f'<svg role="img" aria-label="{escape(flat)}" {box[0]} style="{style}">{body}</svg>'


def _inline(translator: Any, node: Any) -> None:  # noqa: ANN401 - Sphinx hands in its own
    from docutils.nodes import SkipNode

    translator.body.append(drawn(node.astext(), block=False))
    raise SkipNode


def _block(translator: Any, node: Any) -> None:  # noqa: ANN401 - Sphinx hands in its own
    from docutils.nodes import SkipNode

    svg = drawn(node.astext(), block=True)
    translator.body.append(f'<div class="math" style="overflow-x:auto;margin:1em 2em">{svg}</div>')
    raise SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer with Sphinx."""
    app.add_html_math_renderer("mathtext", (_inline, None), (_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
