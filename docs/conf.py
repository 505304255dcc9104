"""Sphinx configuration; writes one page a method from the method's file before the build."""

from __future__ import annotations

import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS))

from method_pages import write_options, write_pages  # noqa: E402 - found through the path above

project = "longtail"
copyright = "the longtail authors"
extensions = ["myst_parser"]
html_theme = "furo"
html_title = "longtail"
exclude_patterns = ["build", "good-to-know"]
myst_heading_anchors = 3

write_pages(DOCS / "methods", DOCS / "good-to-know")
write_options(DOCS / "options.md")
