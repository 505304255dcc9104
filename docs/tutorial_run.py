"""Runs what docs/own-data.md shows, writes the real output under each command, and takes its screenshots.

Then runs the README's commands on the same images, for its screenshot, and stops if they print anything else.

    LONGTAIL_DATA=... sphinx-build -t tutorial docs docs/build     (or: python docs/tutorial_run.py)

Needs CIFAR-100 in LONGTAIL_DATA, Chromium and the test extra; takes about four minutes of CPU time. A build
without the tag shows the committed output and screenshots.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

from screenshots import Shot, take_all

DOCS = Path(__file__).parent
FIGURES = DOCS / "figures" / "tutorial"
BLOCK = re.compile(r"```(bash|python)\n(.*?)```\n(\n```text\n(.*?)```\n)?", re.DOTALL)
# what a terminal shows as a moving bar, and times that depend on the machine
PROGRESS = re.compile(r"^\S+ epoch \d+|\d images, [\d.,]+ a second|^$")
WIDTH = "100"

SHOTS = [
    Shot("report", "runs/first/report.html", height=900),
    Shot("labels", "labels/labels.html", element="section-1"),
    Shot("copies", "inspection/near-duplicates.html", element="section-4"),
    Shot("mistakes", "runs/first/report.html", element="mistakes", click="#show-regions"),
    Shot("suggestions", "suggestions.html", height=900),
    Shot("class", "runs/first/report.html", element="table", click="#classes-table tbody tr"),
    Shot("map", "runs/first/report.html", element="map"),
    Shot("comparison", "comparison.html", height=900),
    Shot("phone", "runs/first/report.html", width=390, height=844),
]


def play(page: Path, folder: Path, data: Path) -> str:
    """Run every command and example of a page, and return the page with what they print.

    Args:
        page: Markdown; a block of `bash` or `python` with a block of `text` after it gets its output there.
        folder: Where the commands run; starts empty.
        data: Holds `cifar-100-python`.
    """
    (folder / "cifar").mkdir()
    (folder / "cifar" / "cifar-100-python").symlink_to((data / "cifar-100-python").resolve())
    names: dict[str, object] = {"__name__": "__main__"}  # of all examples together

    def run(match: re.Match[str]) -> str:
        kind, source, shown = match[1], match[2], match[3]
        lines = _python(source, names) if kind == "python" else _commands(source)
        cache = str(folder / "cache" / "longtail")
        lines = [line.replace(cache, "~/.cache/longtail") for line in lines]
        if shown is None:
            return match[0]
        return f"```{kind}\n{source}```\n\n```text\n" + "\n".join(_shortened(lines)) + "\n```\n"

    # copies of CIFAR-100 hold the same images in files that are written otherwise than the download
    intact = patch("torchvision.datasets.cifar.check_integrity", return_value=True)
    with _inside(folder), intact:
        return BLOCK.sub(run, page.read_text(encoding="utf-8"))


def check(readme: Path, folder: Path) -> list[str]:
    """Return the lines that a README shows under its commands, and that they do not print.

    Args:
        readme: Markdown, as `play` takes it; `...` stands for lines that are left out. The demo is not run.
        folder: Has the images; the commands run there.
    """
    blocks = BLOCK.finditer(readme.read_text(encoding="utf-8"))
    missing = []
    with _inside(folder):
        for source, shown in ((block[2], block[4]) for block in blocks if block[4]):
            printed = {line.rstrip() for line in _commands(source)} | {"...", ""}
            missing += [line for line in shown.splitlines() if line.rstrip() not in printed]
    return missing


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    environment = _environment(COLUMNS=WIDTH, XDG_CACHE_HOME=str(folder / "cache"))
    with contextlib.chdir(folder), environment:
        yield


def _python(source: str, names: dict[str, object]) -> list[str]:
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(source, "own-data.md", "exec"), names)
    return said.getvalue().splitlines()


def _commands(source: str) -> list[str]:
    lines = []
    for command in source.splitlines():
        words = shlex.split(command)
        if words[0] == "longtail":
            lines += _longtail(words)
        elif words[0] != "pip":
            done = subprocess.run(command, shell=True, check=True, capture_output=True, text=True)
            lines += done.stdout.splitlines()
    return lines


def _longtail(words: list[str]) -> list[str]:
    """Run a command in this process, which spares the import of torch each time."""
    from longtail.cli import main

    said = io.StringIO()
    before, sys.argv = sys.argv, words
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            main()
    except SystemExit as ended:
        if ended.code:
            raise RuntimeError(f"{shlex.join(words)} failed:\n{said.getvalue()}") from ended
    finally:
        sys.argv = before
    return said.getvalue().splitlines()


def _shortened(lines: list[str]) -> Iterator[str]:
    """Yield lines, with one of dots for each stretch of progress."""
    dots = False
    for line in lines:
        if PROGRESS.search(line):
            if line and not dots:
                yield "..."
            dots = dots or bool(line)
            continue
        dots = False
        yield line.rstrip()


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def main() -> None:
    """Write the output into the page, and the screenshots beside it."""
    data = os.environ.get("LONGTAIL_DATA")
    if not data or not Path(data, "cifar-100-python").is_dir():
        sys.exit("The tutorial runs on CIFAR-100: name its folder in LONGTAIL_DATA.")
    page = DOCS / "own-data.md"
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        text = play(page, folder, Path(data).resolve())
        take_all(SHOTS, folder, FIGURES)
        shutil.copy(folder / "inspection" / "distribution.png", FIGURES / "distribution.png")
        for made in ("inspection", "runs"):
            shutil.rmtree(folder / made)
        missing = check(DOCS.parent / "README.md", folder)
        take_all([Shot("report", "runs/first/report.html", height=900)], folder, FIGURES.parent)
    page.write_text(text, encoding="utf-8")
    if missing:
        sys.exit("\n".join(["The README shows lines that its commands do not print:", *missing]))


if __name__ == "__main__":
    main()
