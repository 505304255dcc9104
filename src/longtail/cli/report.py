"""`longtail report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from longtail.cli.lines import say
from longtail.cli.show import phases, print_notes
from longtail.core.errors import ConfigError
from longtail.core.manifest import SPLITS
from longtail.engine.run_folder import require_writable, writing
from longtail.report.of_run import page_name

Out = Annotated[
    Path | None,
    typer.Option(help="The page; by default report.html, or report-val.html for val."),
]


def report(
    runs: Annotated[
        list[Path], typer.Argument(help="Run folders, or folders with several seeds or variants.")
    ],
    out: Out = None,
    split: Annotated[str | None, typer.Option(help="val or test (default: test).")] = None,
    figures: Annotated[
        Path | None, typer.Option(help="Folder for the figures as SVG and PNG.")
    ] = None,
    tables: Annotated[
        Path | None, typer.Option(help="Folder for the tables as CSV and LaTeX.")
    ] = None,
    importance: Annotated[
        str | None,
        typer.Option(
            help="train, val or test: draw the importance of the weights for the classes of each group, "
            "from gradients on every image of that split (slow)."
        ),
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 or mps.")] = None,
) -> None:
    """Write a self-contained page about a run, or a comparison of several runs.

    With several runs, the first is the reference for the others; runs that differ only in the seed
    become one row.

    Examples:

      longtail report runs/my-run

      longtail report runs/plain runs/crt runs/reslt --out comparison.html

      longtail report runs/all-classifiers --figures figures --tables tables
    """
    # what draws takes a second to import, which the other verbs need not wait for
    from longtail.report.compare import Comparison, comparison_drawings, expand, render_comparison
    from longtail.report.files import write_class_table, write_comparison, write_figures
    from longtail.report.page import drawings, render_run
    from longtail.report.saving import describe_missing
    from longtail.report.view import RunView

    _require_split("--split", split)
    _require_split("--importance", importance)
    found = expand(runs)
    if importance is not None and len(found) > 1:
        raise ConfigError(
            f"--importance needs a single run, but got {len(found)}; write one report per run."
        )
    with phases() as progress:
        views = [RunView.open(path, split, device, importance, progress) for path in found]
        what = "report" if len(views) == 1 else "comparison"
        folder = found[0] if len(views) == 1 else runs[0] if len(runs) == 1 else Path()
        target = out or folder / page_name(what, views[0].split)
        # before work that would be lost
        for place in (target, *(each / "file" for each in (figures, tables) if each is not None)):
            require_writable(place)
        if len(views) == 1:
            shown = drawings(views[0], for_files=figures is not None)
            page = render_run(views[0], shown)
        else:
            comparison = Comparison.of(views)
            page, shown = render_comparison(comparison), comparison_drawings(comparison)
    with writing(target) as file:
        file.write_text(page, encoding="utf-8")
    written, missing = [target], ""
    if figures is not None:
        more, missing = write_figures(shown, figures)
        written += more
    if tables is not None:
        written += (
            write_class_table(views[0], tables)
            if len(views) == 1
            else write_comparison(comparison.rows, tables)
        )
    print_notes(found)
    for path in written:
        say(f"written: {path}")
    if missing:
        say(f"note: {describe_missing(missing)}")


def _require_split(option: str, value: str | None) -> None:
    if value is not None and value not in SPLITS:
        raise ConfigError(f"{option} must be one of {', '.join(SPLITS)}, but got {value!r}.")
