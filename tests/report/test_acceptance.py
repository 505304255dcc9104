"""The page says when not to believe a run: accuracy by coverage, and what its calibration promises."""

import numpy as np
import pytest

from longtail import api
from longtail.evaluation.metrics import wilson_interval
from longtail.report.acceptance import draw_acceptance
from longtail.report.page import render_run
from longtail.report.view import RunView
from longtail.runs import Run
from longtail.runs.calibrating import Wish, calibrate


def test_the_line_is_the_accuracy_of_the_surest():
    confidence = np.linspace(0.2, 0.99, 40)
    right = confidence > 0.6
    few = np.arange(40) < 5
    figure = draw_acceptance(confidence, right, {"all": confidence > 0, "few": few})
    (line,) = figure.axes[0].lines  # five images are too few for a line
    share, accuracy = line.get_xdata(), line.get_ydata()
    assert share[0] == pytest.approx(100 * 10 / 40)
    assert (accuracy[0], share[-1]) == (100, 100)
    assert accuracy[-1] == pytest.approx(100 * right.mean())
    band = figure.axes[0].collections[0].get_paths()[0].vertices
    low, high = wilson_interval(int(right.sum()), 40)
    at_the_end = band[np.isclose(band[:, 0], 100), 1]
    assert at_the_end.min() == pytest.approx(100 * low)
    assert at_the_end.max() == pytest.approx(100 * high)
    assert draw_acceptance(confidence[:5], right[:5], {"all": few[:5]}) is None


def test_the_page_shows_the_calibration_or_how_to_get_one(tmp_path):
    run = api.train(
        "digits-lt/cross-entropy", ["epochs=2", "validation_per_class=8"], out=tmp_path / "run",
        device="cpu", progress=False,
    )  # fmt: skip
    page = render_run(RunView.open(run.folder.path, device="cpu"))
    assert f"longtail calibrate {run.folder.path}" in page
    assert "Accepting only the most confident predictions" in page
    seen = []
    calibrate(
        Run.open(run.folder.path), Wish(precision=0.5), device="cpu",
        progress=lambda done, size: seen.append((done, size)),
    )  # fmt: skip
    sizes = [len(run.open_data().manifest.rows(split)) for split in ("train", "val", "test")]
    assert [size for done, size in seen if done == size][-3:] == sizes
    page = render_run(RunView.open(run.folder.path, device="cpu"))
    assert "longtail calibrate" not in page
    assert "50\u00a0% of the accepted predictions" in page
    assert "Measured on test" in page
