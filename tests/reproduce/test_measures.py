"""The figures of one number per row, and what pages show of a schedule that is not trained yet."""

import json

import matplotlib
import pytest

from longtail.recipes import resolve
from longtail.report.figures import STYLE
from longtail.report.measures import Measure, Measured, draw_measures, measures
from longtail.reproduce.accuracy_pages import calibration_figure, full_schedule
from longtail.reproduce.results import Results
from longtail.reproduce.speed_pages import cost_figure

MEASURE = Measure("title", "time in s", ".1f")
ROWS = {
    "a": {"one": Measured(2.0, 1.5, 4.0), "two": Measured(3.0, 3.0, 3.0)},
    "b & c": {"two": Measured(5.0, 4.0, 6.0)},
}


def test_every_number_has_its_mark_and_whisker_on_the_line_of_its_row():
    with matplotlib.rc_context(STYLE):
        figure = draw_measures(MEASURE, ROWS)
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b & c"]
    assert axes.get_xlabel() == "time in s"
    drawn = {
        container.get_label(): [
            (float(x), round(float(y))) for x, y in zip(*container.lines[0].get_data(), strict=True)
        ]
        for container in axes.containers
    }
    assert drawn == {"one": [(2.0, 0)], "two": [(3.0, 0), (5.0, 1)]}
    heights = {float(container.lines[0].get_ydata()[0]) for container in axes.containers}
    assert len(heights) == 2  # marks of the same row do not cover each other
    whiskers = [
        tuple(float(x) for x in segment[:, 0])
        for container in axes.containers
        for segment in container.lines[2][0].get_segments()
    ]
    assert whiskers == [(1.5, 4.0), (3.0, 3.0), (4.0, 6.0)]


def test_an_image_says_its_numbers_and_is_stale_when_they_change(tmp_path):
    drawing = measures(MEASURE, ROWS)
    assert drawing.description == "time in s. a: one 2.0, two 3.0; b & c: two 5.0."
    drawing.write(tmp_path / "figures" / "t.svg")
    text = (tmp_path / "figures" / "t.svg").read_text()
    assert drawing.stands_in(text)
    assert not measures(MEASURE, {"a": ROWS["a"]}).stands_in(text)
    assert "fill: #ffffff" in text  # legible on a dark page, too


def test_the_cost_figure_shows_the_newest_record(tmp_path):
    def record(ratio):
        cost = {"ratio": ratio, "spread": [ratio - 0.5, ratio + 0.5]}
        lines = [{"row": "three networks", "training": cost, "inference": cost | {"ratio": 3.25}}]
        hardware = {"cpu": "AMD EPYC", "cpu_cores": 2, "threads": 2}
        return json.dumps({"lines": lines, "hardware": hardware})

    (tmp_path / "cost.jsonl").write_text(f"{record(2.0)}\n{record(2.5)}\n")
    assert "three networks: training step 2.50, prediction 3.25." in (
        cost_figure(Results(tmp_path), "cost.jsonl").description
    )


@pytest.fixture
def records(tmp_path, monkeypatch):
    """A table of two rows; the first has a short run of two seeds and a full one, the second nothing."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.yaml").write_text(
        "title: t\nsource: s\nrows:\n"
        "  - {name: plain, recipe: cifar100-lt/cross-entropy}\n"
        "  - {name: balanced, recipe: cifar100-lt/balanced-softmax}\n"
    )
    return tmp_path


def line(error, seed, *overrides):
    config = resolve("cifar100-lt/cross-entropy", overrides).model_dump(mode="json")
    return json.dumps(
        {
            "recipe": "cifar100-lt/cross-entropy", "seed": seed, "config": config, "split": "test",
            "calibration_error": error, "accuracy": 0.4, "many": 0.6, "medium": 0.4, "few": 0.2,
            "hardware": {"device": "cpu", "cpu": "x"}, "checkpoint_sha256": "0", "date": "2026-01-01",
        }
    )  # fmt: skip


def test_calibration_is_drawn_in_both_schedules_where_both_are_measured(records):
    short = "training.epochs=40"
    lines = [line(0.25, 0, short), line(0.75, 1, short), line(0.875, 0)]
    (records / "reproduce-t.jsonl").write_text("\n".join(lines))
    drawing = calibration_figure(Results(records), "t.yaml")
    assert drawing.description.endswith(". plain: full schedule 87.5, short schedule 50.0.")


def test_a_table_without_a_full_run_says_so_until_there_is_one(records):
    file = records / "reproduce-t.jsonl"
    file.write_text(line(0.25, 0, "training.epochs=40"))
    none = "No row of this table has been trained with the full schedule yet."
    assert full_schedule(Results(records), "t.yaml") == none
    file.write_text(line(0.25, 0))
    assert "| plain | - | 40.0 |" in full_schedule(Results(records), "t.yaml")
