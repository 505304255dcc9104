"""Which method is recommended, and how sure that is."""

from types import SimpleNamespace

import numpy as np
import pytest

from longtail.prediction.cost import PredictionCost
from longtail.report import recommendation
from longtail.report.recommendation import best_first, recommend

NONE = [-0.02, 0.03]  # holds 0


def made(monkeypatch, rows, seeds=3):
    """Recommend among made rows: name -> accuracy on val and interval of the difference from the best."""
    best = max(rows, key=lambda name: rows[name][0])
    order = [best, *sorted((n for n in rows if n != best), key=lambda n: -rows[n][0])]
    entries = [
        {
            "accuracy": {"all": {"value": rows[n][0], "interval": [0.1, 0.9]}},
            "difference": {"all": {"value": rows[n][0] - rows[best][0], "interval": rows[n][1]}},
        }
        for n in order
    ]
    comparison = SimpleNamespace(rows=entries, labels=np.zeros(60))
    monkeypatch.setattr(recommendation.Comparison, "of", lambda views: comparison)
    views = {n: [SimpleNamespace(scores={"macro_accuracy": rows[n][0]})] * seeds for n in rows}
    costs = {n: PredictionCost(2_500_000, rows[n][2], 0.004) for n in rows}
    return recommend(views, costs)


def test_the_best_on_val_is_recommended_with_what_is_not_told_apart_from_it(monkeypatch):
    found = made(monkeypatch, {
        "ce": (0.5, [-0.3, -0.1], 120), "crt": (0.7, NONE, 300), "bs": (0.69, NONE, 100),
    })  # fmt: skip
    assert (found.winner, found.alike, found.worse) == ("crt", ("bs",), ("ce",))
    text = " ".join(found.sentences)
    assert found.sentences[0].startswith(
        "Recommended: crt. It has the highest macro accuracy on val, 70.0 [10.0, 90.0] % (60 images, 3 "
        "seeds)."
    )
    assert "No clear difference between crt and bs (-1.0 [-2.0, +3.0])" in text
    assert "ce (-20.0 [-30.0, -10.0]) is worse than crt." in text
    assert "bs is the cheaper choice: crt needs 3.0 times as many operations" in text
    assert (
        "takes 300 multiply-adds (3.0 times those of bs, the cheapest) of 2.5 million parameters"
        in text
    )
    assert "4 ms for one image" in text


def test_one_seed_calls_nothing_worse(monkeypatch):
    found = made(monkeypatch, {"ce": (0.5, [-0.3, -0.1], 100), "crt": (0.7, NONE, 100)}, seeds=1)
    assert found.worse == ()
    text = " ".join(found.sentences)
    assert "With fewer than 3 seeds (--seeds), nothing is called better or worse." in text
    assert "worse than" not in text
    assert "no other method is cheaper" in text


def test_two_seeds_have_no_interval_and_promise_none(monkeypatch):
    found = made(monkeypatch, {"ce": (0.5, None, 100), "crt": (0.7, None, 100)}, seeds=2)
    text = " ".join(found.sentences)
    assert "Difference from crt, in points on val: ce (-20.0)." in text


def test_methods_are_ordered_by_their_mean_over_seeds():
    views = {
        name: [SimpleNamespace(scores={"macro_accuracy": value}) for value in values]
        for name, values in {"a": (0.9, 0.1), "b": (0.6, 0.6), "c": (0.2, 0.2)}.items()
    }
    assert best_first(views) == ["b", "a", "c"]


@pytest.mark.parametrize(
    ("number", "text"), [(463_699, "463,699"), (3_400_000, "3.4 million"), (2.5e9, "2.50 billion")]
)
def test_numbers_for_people(number, text):
    assert recommendation._millions(int(number)) == text
