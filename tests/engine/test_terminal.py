"""What a terminal, a file and a cell of a notebook get."""

import os
import pty

from longtail.cli.show import phases
from longtail.engine import log
from longtail.engine.terminal import NOTEBOOK, Terminal, can_redraw


def test_a_cell_of_a_notebook_gets_lines_though_its_commands_run_on_a_terminal(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # as IPython's terminals claim
    owner, end = pty.openpty()
    with os.fdopen(end, "w") as stream:
        monkeypatch.setattr("sys.stderr", stream)
        monkeypatch.delenv(NOTEBOOK, raising=False)
        assert can_redraw(stream)
        assert isinstance(log.default_log(), log.TerminalLog)
        assert Terminal(stderr=True).is_terminal
        monkeypatch.setenv(NOTEBOOK, "1")
        assert not can_redraw(stream)
        assert isinstance(log.default_log(), log.PlainLog)
        assert not Terminal(stderr=True).is_terminal
        Terminal(stderr=True).print("done", style="red")
        monkeypatch.undo()
    assert os.read(owner, 100) == b"done\r\n"
    os.close(owner)


def test_a_file_cannot_be_redrawn(tmp_path):
    with (tmp_path / "out.txt").open("w") as stream:
        assert not can_redraw(stream)


def test_what_takes_long_is_shown_on_a_terminal_only(monkeypatch, capsys):
    with phases() as told:
        told("writing onnx", 0, 0)
    assert capsys.readouterr() == ("", "")
    owner, end = pty.openpty()
    with os.fdopen(end, "w") as stream:
        monkeypatch.setattr("sys.stderr", stream)
        monkeypatch.delenv(NOTEBOOK, raising=False)
        with phases() as told:
            told("writing onnx", 0, 0)
            told("comparing image files", 3, 8)
        monkeypatch.undo()
    shown = os.read(owner, 10_000).decode()
    assert "writing onnx" in shown
    assert "comparing image files" in shown
    assert "0:00:00" in shown  # and since when
    os.close(owner)
