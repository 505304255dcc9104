"""Sphinx configuration; writes the pages that come from the code before the build."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS))

from method_pages import write_options, write_pages  # noqa: E402 - found through the path above
from reference_pages import write_api, write_commands  # noqa: E402

project = "longtail"
copyright = "the longtail authors"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "equations"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # notebooks hold their output, see notebook_run.py
html_theme = "furo"
html_title = "longtail"
html_math_renderer = "mathtext"
exclude_patterns = ["build", "good-to-know", "how-it-works"]
default_role = "code"  # docstrings write `name`
smartquotes_action = "qe"  # quotes and dots; --out is no dash
# a name that several rooms hand on is found in the first
# a cell may end in commands for the shell, which no lexer of Python reads
suppress_warnings = ["ref.python", "misc.highlighting_failure"]
autodoc_member_order = "bysource"
# scikit-learn's, whose docstring refers to its own pages
autodoc_default_options = {"exclude-members": "set_score_request, set_fit_request"}
python_maximum_signature_line_length = 90

if tags.has("tutorial"):  # noqa: F821 - Sphinx's, of `sphinx-build -t tutorial`
    import tutorial_run

    tutorial_run.main()
write_pages(DOCS / "methods", DOCS / "how-it-works", DOCS / "good-to-know")
write_options(DOCS / "options.md")
write_api(DOCS / "api")
write_commands(DOCS / "commands.md")


def setup(app: Sphinx) -> None:
    """Let docstrings write |x| for a length: it is no substitution."""

    def escaped(*of_docstring: Any) -> None:  # noqa: ANN401 - Sphinx hands in six
        lines = of_docstring[-1]
        lines[:] = [line.replace("|", "\\|") for line in lines]

    app.connect("autodoc-process-docstring", escaped)
