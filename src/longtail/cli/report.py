"""`longtail report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from longtail.cli.show import say
from longtail.core.errors import ConfigError
from longtail.core.manifest import SPLITS
from longtail.engine.run_folder import writing


def report(
    runs: Annotated[
        list[Path], typer.Argument(help="Run folders, or folders of seeds or variants.")
    ],
    out: Annotated[Path | None, typer.Option(help="The page; report.html if not given.")] = None,
    split: Annotated[str | None, typer.Option(help="val or test; test if not given.")] = None,
    figures: Annotated[
        Path | None, typer.Option(help="Folder for the figures as SVG and PNG.")
    ] = None,
    tables: Annotated[
        Path | None, typer.Option(help="Folder for the tables as CSV and LaTeX.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 or mps.")] = None,
) -> None:
    """Write one self-contained page about a run, or a comparison of several.

    Of several runs the first is what the others are held against; runs that differ in the seed only
    are one row.

    Examples:

      longtail report runs/my-run

      longtail report runs/plain runs/crt runs/reslt --out comparison.html

      longtail report runs/all-classifiers --figures figures --tables tables
    """
    # what draws takes a second to import, which the other verbs need not wait for
    from longtail.report.compare import Comparison, comparison_drawings, expand, render_comparison
    from longtail.report.files import write_class_table, write_comparison, write_figures
    from longtail.report.page import drawings, render_run
    from longtail.report.view import RunView

    if split is not None and split not in SPLITS:
        raise ConfigError(f"--split must be one of {', '.join(SPLITS)}, but got {split!r}.")
    found = expand(runs)
    views = [RunView.open(path, split, device) for path in found]
    if len(views) == 1:
        page, shown = render_run(views[0]), drawings(views[0]) if figures else []
        target = out or found[0] / "report.html"
    else:
        comparison = Comparison.of(views)
        page, shown = render_comparison(comparison), comparison_drawings(comparison)
        target = out or (runs[0] if len(runs) == 1 else Path()) / "comparison.html"
    with writing(target) as file:
        file.write_text(page, encoding="utf-8")
    written = [target]
    if figures is not None:
        written += write_figures(shown, figures)
    if tables is not None:
        written += (
            write_class_table(views[0], tables)
            if len(views) == 1
            else write_comparison(comparison.rows, tables)
        )
    for path in written:
        say(f"written: {path}")
