"""Tables of any width: what names the rows, and numbers, are never cut or folded."""

import io

import pytest
from rich.table import Table

from longtail.engine.fitting_tables import fit, needed
from longtail.engine.terminal import Terminal

NAMES = ("cross-entropy", "tau-normalisation", "a class with a long name 🐈")
HEADINGS = (
    "micro\n1,797\nimages",
    "worst\nclass",
    "medium\n4 classes\n1,720 images",
    "what it says",
)
SENTENCE = "the share of the classes that are recognised at all"


def table():
    made = Table("", title="accuracy in %")
    for heading in HEADINGS:
        made.add_column(heading)
    for name in NAMES:
        made.add_row(name, "79.3", "100.0", "80.3 [72.1, 86.9]", SENTENCE)
    return made


def printed(width, *, terminal=True):
    out = Terminal()
    out.file, out._width, out._force_terminal = io.StringIO(), width, terminal
    out.print(table())
    assert out.width == width
    return out.file.getvalue()


@pytest.mark.parametrize("width", [200, 100, 80, 60, 40, 10])
def test_names_and_numbers_stay_whole(width):
    text = printed(width)
    for name in NAMES:
        (line,) = [line for line in text.splitlines() if name in line]
        assert "79.3" in line
        assert "100.0" in line
    for word in (*SENTENCE.split(), "[72.1,", "86.9]", "images", "classes"):
        assert word in text
    if width >= 80:
        assert max(map(len, text.splitlines())) <= width


def test_a_pipe_gets_a_line_for_each_row():
    lines = printed(20, terminal=False).splitlines()
    (line,) = [line for line in lines if NAMES[0] in line]
    assert SENTENCE in line


def test_the_width_that_a_table_needs():
    framed, narrow = fit(table(), None), fit(table(), 60)
    assert framed.box is not None
    assert narrow.box is None
    assert needed(framed) > 80 >= needed(narrow)
    assert fit(Table(), 10).columns == []
