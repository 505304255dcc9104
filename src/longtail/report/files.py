"""Figures and tables of a report as files of their own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

from longtail.core.names import visible
from longtail.core.table_cells import csv_text
from longtail.engine.run_folder import writing
from longtail.evaluation.scores import percent
from longtail.report.figures import STYLE
from longtail.report.page import Drawing
from longtail.report.saving import save_figure
from longtail.report.view import RunView

TEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}  # fmt: skip


def write_figures(drawings: Sequence[Drawing], folder: Path) -> tuple[list[Path], str]:
    """Write every figure as SVG and as PNG on white.

    Returns:
        The paths, and the letters of names that no installed font has.
    """
    written, missing = [], ""
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": "longtail", "savefig.dpi": 200}):
        for drawing in drawings:
            for form in ("svg", "png"):
                path = folder / f"{drawing.name}.{form}"
                metadata = {"Date": None} if form == "svg" else None
                with writing(path) as file:
                    missing += save_figure(
                        drawing.figure, file,
                        format=form, facecolor="white", transparent=False, metadata=metadata,
                    )  # fmt: skip
                written.append(path)
    return written, "".join(dict.fromkeys(missing))


def write_class_table(view: RunView, folder: Path) -> list[Path]:
    """Write name, group, counts and accuracy of every class as CSV and LaTeX."""
    header = ["class", "group", "training images", f"{view.split} images", "accuracy"]
    rows = [
        [row["name"], row["group"], row["train_count"], row["test_count"], percent(row["accuracy"])]
        for row in view.scores["per_class"]
    ]
    return _write("classes", header, rows, folder)


def write_comparison(rows: Sequence[dict[str, Any]], folder: Path) -> list[Path]:
    """Write value and interval of every arm and group as CSV and LaTeX."""
    groups = [g for g, entry in rows[0]["accuracy"].items() if entry["value"] is not None]
    header = ["run", "seeds"]
    for group in groups:
        header += [group, f"{group} low", f"{group} high", f"{group} difference"]
    cells: list[list[Any]] = []
    for row in rows:
        line: list[Any] = [row["name"], row["seeds"]]
        for group in groups:
            entry = row["accuracy"][group]
            line += [
                percent(value) for value in (entry["value"], *(entry["interval"] or (None, None)))
            ]
            line.append(percent(row["difference"][group]["value"]))
        cells.append(line)
    return _write("comparison", header, cells, folder)


def _write(name: str, header: list[str], rows: list[list[Any]], folder: Path) -> list[Path]:
    columns = "l" * 1 + "r" * (len(header) - 1)
    lines = [" & ".join(_tex(cell) for cell in row) + r" \\" for row in [header, *rows]]
    table = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", lines[0], r"\midrule", *lines[1:]]
    tex = "\n".join([*table, r"\bottomrule", r"\end{tabular}", ""])
    written = []
    for suffix, text in (("csv", csv_text([header, *rows])), ("tex", tex)):
        path = folder / f"{name}.{suffix}"
        with writing(path) as file:
            file.write_text(text, encoding="utf-8", newline="\n")
        written.append(path)
    return written


def _tex(cell: object) -> str:
    """Return a cell for LaTeX: every sign that means something there stands for itself, on one line."""
    text = visible(str(cell)).replace("\n", " ").replace("\t", " ")
    return "".join(TEX.get(sign, sign) for sign in text)
