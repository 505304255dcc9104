"""Names below a folder become the files they name, as a Path or as text."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longtail.data.images.below import FilesBelow

PARTS = st.sampled_from(["a", "b.png", ".", "..", "", "c d", "\\xfc", "ä", "C:", ".hidden"])


@given(st.lists(PARTS, min_size=1, max_size=4).map("/".join))
def test_the_text_of_a_file_is_that_of_its_path(name):
    files = FilesBelow(Path("some/folder"), (name,))
    assert list(files.texts()) == [str(files[0].absolute())]


def test_written_out_bytes_are_found(tmp_path):
    raw = os.fsencode(tmp_path) + b"/gr\xfcn.png"
    try:
        Path(os.fsdecode(raw)).touch()
    except OSError:
        pytest.skip("names must be UTF-8 here")
    files = FilesBelow(tmp_path, ("gr\\xfcn.png",))
    assert [os.fsencode(text) for text in files.texts()] == [raw] == [os.fsencode(files[0])]


def test_some_of_the_files():
    files = FilesBelow(Path("r"), ("a", "b", "c"))
    assert files[1:] == files.take(np.array([1, 2])) == FilesBelow(Path("r"), ("b", "c"))
    assert list(files) == [Path("r/a"), Path("r/b"), Path("r/c")]
    assert Path("r/b") in files
