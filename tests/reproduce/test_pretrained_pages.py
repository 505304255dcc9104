"""The table of short fine-tunings shows each row at the best of its rates."""

import json

from longtail.reproduce.pretrained_pages import tuning_table
from longtail.reproduce.results import Results


def line(row, macro, split="val", minutes=10):
    return {
        "row": row, "seed": 0, "split": split, "macro_accuracy": macro, "many": 0.8, "medium": 0.6,
        "few": 0.4, "training_seconds": 60 * minutes, "most_memory_mb": 2345,
    }  # fmt: skip


def test_each_row_stands_once_at_its_best_rate(tmp_path):
    lines = [
        line("val all weights, from class means, 128, rate 0.03", 0.6118, minutes=18),
        line("val all weights, from class means, 128, rate 0.1", 0.4842, minutes=19),
        line("val biases, 96, rate 0.1", 0.5),
        line("val linear, rate 0.1", 0.55),  # a classifier alone
        line("val average of one and another", 0.66),
        line("all weights, from class means, 128", 0.6541, "test"),
    ]
    (tmp_path / "found.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert tuning_table(Results(tmp_path), "found.jsonl").splitlines()[2:] == [
        "| biases | 96 | **0.1** | 50.0 | 80.0 | 60.0 | 40.0 | 10 | 2,345 |",
        "| all weights, from class means | 128 | **0.03**, 0.1 | 61.2 | 80.0 | 60.0 | 40.0 | 18 | 2,345 |",
    ]
