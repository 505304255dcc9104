"""Near-duplicates that a given split divides are among what a report says to do first."""

from longtail import api
from longtail.report.text import next_actions
from longtail.report.view import RunView
from tests.data.test_near_duplicates import make_folder


def test_the_report_says_what_to_do(tmp_path):
    make_folder(tmp_path / "set", ("train", "test"))
    short = ["backbone=resnet20", "epochs=1", "image_size=16", "batch_size=16"]
    api.train(str(tmp_path / "set"), short, out=tmp_path / "run", device="cpu")
    view = RunView.open(tmp_path / "run")
    assert len(view.inspection.near_duplicates) == 18
    first = next_actions(view)[0]
    assert first.startswith("Look at 12 pairs of near-duplicates that two splits divide, such as ")
    assert sum("LEAKAGE" in note for note in view.scores["notes"]) == 1
