"""The headline table: full schedules beside the papers' numbers, and what is not trained yet."""

import json

from longtail.reproduce.headline import LINES, headline
from longtail.reproduce.records import Records
from longtail.reproduce.tables import read_table


def record(table, row, profile, seed, accuracy, few):
    """One line of a results file, as a run of that row would leave it."""
    rows = {each.name: each for each in read_table(table).rows}
    config = rows[row].config(profile).model_dump(mode="json")
    scores = {"accuracy": accuracy, "many": 0.7, "medium": 0.4, "few": few, "best_on_test": None}
    return json.dumps({"config": config, "split": "test", "seed": seed, **scores})


def records_of(folder, *lines):
    """Write a results file."""
    (folder / "some.jsonl").write_text("\n".join(lines))
    return Records([folder / "some.jsonl"])


def cells(text, name):
    line = next(line for line in text.splitlines() if line.startswith(f"| {name} "))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_rows_without_a_record_are_said_to_be_untrained(tmp_path):
    text = headline(records_of(tmp_path))
    assert [cells(text, line.name)[2] for line in LINES] == ["not yet trained"] * 9
    assert cells(text, "ResLT") == [
        "ResLT", "45.34", "not yet trained", "-", "-", "-", "-", "0", "-",
    ]  # fmt: skip
    assert cells(text, "DO as printed")[1:3] == ["53.8", "not yet trained"]
    assert cells(text, "NCM")[1] == "-"


def test_a_row_with_records_shows_both_schedules_and_the_difference(tmp_path):
    text = headline(
        records_of(
            tmp_path,
            record("reslt-table-5", "ResLT, ratio 100", "full", 0, 0.44, 0.30),
            record("reslt-table-5", "ResLT, ratio 100", "full", 1, 0.46, 0.34),
            record("overview-cifar100", "ResLT", "short", 0, 0.41, 0.28),
        )
    )
    # means of .44 and .46, of .30 and .34; deviations .01 * sqrt 2 and .02 * sqrt 2
    assert cells(text, "ResLT") == [
        "ResLT", "45.34", "45.0 ± 1.4", "-0.3", "70.0 ± 0.0", "40.0 ± 0.0", "32.0 ± 2.8", "2", "41.0",
    ]  # fmt: skip
    assert cells(text, "PaCo")[2] == "not yet trained"
    assert "Records: `some.jsonl`" in text


def test_processors_and_precision_of_the_full_schedules_are_named(tmp_path):
    trained = [
        ("decoupling-cifar100", "Joint", {"cpu": "A"}),
        ("decoupling-cifar100", "cRT", {"cpu": "A"}),
        ("reslt-table-5", "ResLT, ratio 100", {"cpu": "B", "auto_precision": "bf16"}),
    ]
    lines = [
        json.dumps(json.loads(record(table, row, "full", 0, 0.4, 0.1)) | {"hardware": hardware})
        for table, row, hardware in trained
    ]
    text = headline(records_of(tmp_path, *lines))
    said = "Cross-entropy, cRT: A, precision not recorded; ResLT: B, bf16."
    assert f"Full schedules were trained on: {said}" in text
    assert "were trained on" not in headline(records_of(tmp_path))


def test_a_short_record_of_an_earlier_recipe_is_marked(tmp_path):
    rows = {row.name: row for row in read_table("overview-cifar100").rows}
    earlier = rows["PaCo"].earlier_config("short").model_dump(mode="json")
    line = {"config": earlier, "split": "test", "seed": 0, "accuracy": 0.33}
    text = headline(records_of(tmp_path, json.dumps(line)))
    assert cells(text, "PaCo")[2:] == [
        "not yet trained", "-", "-", "-", "-", "0", "33.0 †",
    ]  # fmt: skip
    assert "† Measured with an earlier recipe (PaCo, short schedule: method.init" in text
