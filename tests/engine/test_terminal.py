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


def test_what_takes_long_is_shown_on_a_terminal(monkeypatch, capsys):
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


def test_how_far_it_is_is_said_in_a_log_of_what_takes_long(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr("longtail.cli.show.time.perf_counter", lambda: now[0])
    with phases() as told:
        for now[0], done in ((0.0, 0), (1.0, 50), (3.0, 100), (4.0, 150)):
            told("comparing image files", done, 1000)
    said = "comparing image files: 100 of 1,000 images, 33 a second, about 27 s left\n"
    assert capsys.readouterr() == ("", said)


def lines_of(epochs, capsys, *, first=0, seconds=1.0, monkeypatch):
    """Return the numbers of the epochs that a training outside a terminal prints."""
    now = [0.0]
    monkeypatch.setattr(log.time, "monotonic", lambda: now[0])
    plain = log.PlainLog()
    plain.stage("joint", epochs, first, 9)
    for epoch in range(first + 1, epochs + 1):
        now[0] += seconds
        plain.epoch(
            {
                "stage": "joint",
                "epoch": epoch,
                "loss": 1.0,
                "learning_rate": 0.1,
                "images_per_second": 9,
            }
        )
    said = capsys.readouterr().err.splitlines()
    return said[0], [int(line.split(" of ")[0].rpartition(" ")[2]) for line in said[1:]]


def test_a_long_stage_prints_about_fifty_epochs_outside_a_terminal(capsys, monkeypatch):
    said, told = lines_of(400, capsys, monkeypatch=monkeypatch)
    assert said == "stage joint: epochs 1 to 400, 9 steps each; every 8 epochs a line"
    assert told == [1, *range(8, 401, 8)]
    said, told = lines_of(50, capsys, monkeypatch=monkeypatch)
    assert said == "stage joint: epochs 1 to 50, 9 steps each"
    assert told == [*range(1, 51)]
    log.PlainLog().stage("joint", 2, 0, 1)
    assert capsys.readouterr().err == "stage joint: epochs 1 to 2, 1 step each\n"
    _, told = lines_of(399, capsys, first=300, monkeypatch=monkeypatch)
    assert told == [301, *range(302, 399, 2), 399]
    # epochs that take long are told as they end
    _, told = lines_of(90, capsys, seconds=700, monkeypatch=monkeypatch)
    assert told == [*range(1, 91)]
