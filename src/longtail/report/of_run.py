"""The page about a run, written into its folder."""

from __future__ import annotations

from pathlib import Path

from longtail.engine.run_folder import writing
from longtail.runs import Run


def write_report(run: Run | Path | str) -> Path:
    """Write the page about a scored run, as `longtail report` does, and return its path.

    Args:
        run: A scored run, or its folder.

    Raises:
        LongtailError: If it was not scored, or the folder cannot be written.
    """
    # what draws takes a second to import, which only runs with a tracker wait for
    from longtail.report.page import render_run
    from longtail.report.view import RunView

    folder = Run.of(run).folder.path
    view = RunView.open(folder)
    path = folder / page_name("report", view.split)
    with writing(path) as file:
        file.write_text(render_run(view), encoding="utf-8")
    return path


def page_name(what: str, split: str) -> str:
    """Name a page so that one of val does not replace that of test."""
    return f"{what}.html" if split == "test" else f"{what}-{split}.html"
