"""`longtail.compare`: the command's comparison, from Python."""

from pathlib import Path

import numpy as np
import pytest

from longtail import api
from longtail.core.errors import ConfigError

SMALL = ["backbone=resnet20", "batch_size=8", "epochs=11"]


@pytest.mark.slow
def test_python_compares_as_the_command_does(longtail, image_folder, capsys):
    found = api.compare(
        str(image_folder), SMALL, methods=["CE", "crt"], seeds=1, out=Path("out"), device="cpu",
        progress=False,
    )  # fmt: skip
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "")
    assert set(found.runs) == {"cross-entropy", "crt"}
    winner = next(iter(found.runs))
    assert found.recommendation.winner == winner
    assert found.page == Path("out/comparison.html")
    assert found.left == ""
    # the same question: the command trains nothing and says the same
    page = found.page.read_text()
    status, out, err = longtail(
        "compare", image_folder, *SMALL, "--methods", "CE,crt", "--seeds", 1, "--out", "out",
        "--device", "cpu",
    )  # fmt: skip
    assert status == 0, err
    timed = found.sentences[-1]  # what a prediction takes is measured anew
    assert [s for s in found.sentences if s != timed] == [
        line for line in out.splitlines() if line in found.sentences and line != timed
    ]
    assert (
        found.page.read_text().split("ms for one image")[1:] == page.split("ms for one image")[1:]
    )
    for name, runs in found.runs.items():
        (row,) = found.table[found.table.method == name].to_dict("records")
        assert row["split"] == "test"
        assert row["macro_accuracy"] == pytest.approx(runs[0].scores("test")["macro_accuracy"])
        assert row["val_macro_accuracy"] == runs[0].scores("val")["macro_accuracy"]
        assert row["low"] <= row["macro_accuracy"] <= row["high"]
    differences = found.table.macro_accuracy - found.table.macro_accuracy[0]
    np.testing.assert_allclose(found.table.difference, differences, atol=1e-9)


def test_what_does_not_fit_a_budget_is_left(image_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("longtail.runs.comparing.seconds_per_epoch", lambda *given: 0.0)
    monkeypatch.setattr(
        "longtail.run_queue.budget.Budget.admits", lambda self, place, *more: self.left.add(place)
    )
    found = api.compare(
        str(image_folder), SMALL, methods="CE,crt", seeds=1, budget="10m", out=tmp_path / "out",
        progress=False,
    )  # fmt: skip
    assert (found.runs, found.page, found.recommendation) == ({}, None, None)
    assert "Repeat the same command to continue" in found.left


def test_wrong_words_are_refused_as_by_the_command(image_folder, tmp_path):
    for more, said in (
        ({"methods": ["crt", "balanced-sofmax"]}, "Did you mean balanced-softmax"),
        ({"equal": "epochs"}, "must be images or time"),
        ({"seeds": 0}, "seeds must be at least 1"),
    ):
        with pytest.raises(ConfigError, match=said):
            api.compare(str(image_folder), out=tmp_path / "out", **more)
        assert not (tmp_path / "out").exists()
