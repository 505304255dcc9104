"""Runs the notebooks of docs/notebooks and keeps their output in them.

    python docs/notebook_run.py [docs/notebooks/own-images.ipynb ...]

Needs the test extra; takes about a minute of CPU time. A build of the docs shows the committed output.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parent / "notebooks"


def executed(path: Path) -> Any:  # noqa: ANN401 - nbformat has no types
    """Return a notebook with the output of a new run of all its cells.

    Raises:
        nbclient.exceptions.CellExecutionError: If a cell fails.
    """
    notebook = nbformat.read(path, as_version=4)
    before = dict(os.environ)
    # `longtail` is the one of this environment
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{before.get('PATH', '')}"
    os.environ["COLUMNS"] = "100"
    try:
        NotebookClient(notebook, timeout=600, record_timing=False, coalesce_streams=True).execute()
    finally:
        os.environ.clear()
        os.environ.update(before)
    # of the machine, and different every time
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python", "pygments_lexer": "ipython3"},  # knows magics
    }
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
        if cell.cell_type == "code":  # warnings and bars of progress
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        for output in cell.get("outputs", ()):
            if "text" in output:
                output.text = re.sub(r"\x1b\[[\d;]*m", "", output.text)
    return notebook


def printed(notebook: Any) -> list[list[str]]:  # noqa: ANN401
    """Return the lines that each cell of a notebook printed or showed, without their numbers and signs."""
    return [
        [
            re.sub(r"[-+]?[\d.,]*\d|[\s─━═]+", " ", line).strip()
            for output in cell.get("outputs", [])
            for line in str(
                output.get("text") or output.get("data", {}).get("text/plain", "")
            ).splitlines()
        ]
        for cell in notebook.cells
    ]


if __name__ == "__main__":
    for name in sys.argv[1:] or sorted(NOTEBOOKS.glob("*.ipynb")):
        nbformat.write(executed(Path(name)), Path(name))
