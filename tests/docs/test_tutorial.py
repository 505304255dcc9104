"""The tutorial and the notebooks run as printed, and print what is printed."""

import re
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "own-data.md"
sys.path.insert(0, str(DOCS))

import tutorial_run  # noqa: E402 - found through the path above

NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))


def without_numbers(text):
    """Return the lines of a page without numbers, signs, bars, widths of tables, and dots for progress.

    Whether a pass over images is long enough to tell of its progress depends on the machine.
    """
    text = text.replace("less than a second to the end", "at most 0 s to the end")
    text = text.replace("less than a second", "0 s")
    told = (line for line in text.splitlines() if line != "...")
    lines = (re.sub(r"[-+]?[\d.,]*\d|#+", "0", line) for line in told)
    return [re.sub(r"[\s─━═┏┳┓┡╇┩└┴┘]+", " ", line).strip() for line in lines]


@pytest.mark.slow
def test_the_tutorial_prints_what_it_shows(tmp_path, monkeypatch, benchmark_data):
    # what a command says of free cores is of the machine that wrote the page
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    played = tutorial_run.play(PAGE, tmp_path, benchmark_data)
    assert without_numbers(played) == without_numbers(PAGE.read_text(encoding="utf-8"))
    assert (tmp_path / "comparison.html").exists()


def test_its_screenshots_are_there():
    named = set(re.findall(r"figures/tutorial/([a-z]+)\.png", PAGE.read_text(encoding="utf-8")))
    assert named == {shot.name for shot in tutorial_run.SHOTS} | {"distribution"}
    assert {file.stem for file in tutorial_run.FIGURES.glob("*.png")} == named


def test_output_goes_below_its_command_and_progress_becomes_dots(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text(
        "a\n```bash\necho hello\n```\n\n```text\nold\n```\nb\n```bash\nmkdir new\n```\n"
    )
    folder = tmp_path / "folder"
    folder.mkdir()
    played = tutorial_run.play(page, folder, tmp_path)
    assert played == page.read_text().replace("old", "hello")
    assert (folder / "new").is_dir()
    lines = ["stage", "head epoch 1 of 2: loss 1", "", "head epoch 2 of 2: loss 1", "end  "]
    assert list(tutorial_run._shortened(lines)) == ["stage", "...", "end"]


def test_a_line_that_a_readme_shows_and_no_command_prints_is_found(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("```bash\nprintf 'a\\nb\\nc\\n'\n```\n\n```text\na\n...\nd\n```\n")
    folder = tmp_path / "folder"
    folder.mkdir()
    assert tutorial_run.check(readme, folder) == ["d"]


def test_a_command_that_fails_is_told(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```bash\nlongtail evaluate nowhere\n```\n")
    (tmp_path / "folder").mkdir()
    with pytest.raises(
        RuntimeError, match="longtail evaluate nowhere failed:\nerror: nowhere is not a run"
    ):
        tutorial_run.play(page, tmp_path / "folder", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_prints_what_it_shows(path):
    nbformat = pytest.importorskip("nbformat")
    import notebook_run

    shown = nbformat.read(path, as_version=4)
    ran = notebook_run.executed(path)
    for before, now, cell in zip(
        notebook_run.printed(shown), notebook_run.printed(ran), shown.cells, strict=True
    ):
        assert now == before, cell.source
