"""The rows that are wanted with the full schedule, and the hours that the missing ones take."""

import json

import pytest

from longtail.reproduce.queue import WANTED, Wanted, queue_table
from longtail.reproduce.results import Results
from longtail.reproduce.tables import read_table


def line(table, row, seed, seconds, epochs, precision):
    """A training record of a row, with its full schedule."""
    found = next(each for each in read_table(table).rows if each.name == row)
    config = found.config("full").model_dump(mode="json")
    known = {
        "recipe": found.recipe,
        "config": config,
        "split": "test",
        "seed": seed,
        "accuracy": 0.4,
    }
    hardware = {"cpu": "some CPU", "auto_precision": precision}
    return known | {"training_seconds": seconds, "epochs": epochs, "hardware": hardware}


@pytest.fixture
def results(tmp_path):
    costs = [
        {"recipe": "cross-entropy", "epochs": {"joint": 200}, "training_seconds": 36_000},
        {"recipe": "paco", "epochs": {"contrast": 400}, "training_seconds": 90_000},
    ]
    trained = [
        line("overview-cifar100", "Cross-entropy", 0, 9_000, 200, "bf16"),
        line("do-table-5", "DO, as printed (instance-level test-time learning)", 0, 1, 220, "fp32"),
    ]
    for name, lines in (("method-cost", costs), ("reproduce-x", trained)):
        text = "".join(json.dumps(each) + "\n" for each in lines)
        (tmp_path / f"{name}.jsonl").write_text(text)
    return Results(tmp_path)


def test_missing_seeds_take_the_measured_cost_or_that_of_their_epochs(results):
    do = "DO, as printed (instance-level test-time learning)"
    wanted = (
        Wanted("decoupling-cifar100", ("Joint",), 1),
        Wanted("paco-table-6", ("PaCo, ratio 100",), 2),
        Wanted("do-table-5", (do, "Balanced softmax, 100 epochs"), 2),
    )
    lines = queue_table(results, wanted).splitlines()
    assert lines[2:7] == [
        "| decoupling-cifar100 | Joint | 1 of 1 | - | - |",
        # two seeds of 25 hours; bf16 takes a quarter, as for cross-entropy (2.5 of 10 hours)
        "| paco-table-6 | PaCo, ratio 100 | 0 of 2 | 12.5 | 50.0 |",
        # the other seed took 220 epochs, and cross-entropy 10 hours for 200
        f"| do-table-5 | {do} | 1 of 2 | 2.8 | 11.0 |",
        "| do-table-5 | Balanced softmax, 100 epochs | 0 of 2 | 2.5 | 10.0 |",
        "| all | | | 18 | 71 |",
    ]
    assert "times 0.25" in lines[-1]


def test_every_row_of_the_queue_exists():
    for each in WANTED:
        names = {row.name for row in read_table(each.table).rows}
        assert set(each.rows) <= names, each.table
