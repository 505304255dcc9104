"""Distances, ancestors and what to label next, on numbers that can be worked out by hand."""

import numpy as np
import pytest
from scipy import stats
from sklearn.neighbors import NearestNeighbors

from longtail.core.errors import DataError
from longtail.uncertainty import (
    Hierarchy,
    NearestFeatures,
    expected_gain,
    p_values,
    rank_for_labelling,
)
from longtail.uncertainty.ancestors import read_parents
from longtail.uncertainty.distance import spread, unit

TREE = read_parents(
    [("oak", "trees"), ("pine", "trees"), ("rose", "flowers"), ("trees", "plants"), ("flowers", "plants"),
     ("car", "things"), ("plants", "")]
)  # fmt: skip
KINDS = Hierarchy(("oak", "car", "rose", "pine"), TREE)


def test_distances_are_those_of_scikit_learn():
    generator = np.random.default_rng(0)
    train, new = (generator.normal(size=(n, 8)).astype(np.float32) for n in (40, 25))
    found = NearestFeatures(unit(train)).distances(new)
    at_length_one = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (train, new)]
    expected, _ = NearestNeighbors(n_neighbors=1).fit(at_length_one[0]).kneighbors(at_length_one[1])
    assert found == pytest.approx(expected[:, 0], abs=1e-3)


def test_where_there_is_no_room_for_all_the_rare_classes_stay_whole():
    labels = np.repeat(np.arange(3), [50, 4, 1])
    rows = spread(labels, 12, np.random.default_rng(0))
    assert np.bincount(labels[rows]).tolist() == [7, 4, 1]
    assert len(set(rows.tolist())) == 12
    assert spread(labels, 99, np.random.default_rng(0)).tolist() == list(range(55))


def test_p_values_count_those_as_far_and_are_uniform_for_known_images():
    assert p_values(np.array([0.0, 2.0, 9.0]), np.array([1.0, 2.0, 3.0])).tolist() == [
        1.0,
        0.75,
        0.25,
    ]
    generator = np.random.default_rng(1)
    flagged = sum(
        int((p_values(generator.normal(size=20), generator.normal(size=99)) <= 0.05).sum())
        for _ in range(500)
    )
    assert flagged <= stats.binom.ppf(0.9999, 10_000, 0.05) + 50


def test_ancestors_by_level_and_their_probability():
    assert KINDS.levels == (("flowers", "things", "trees"), ("plants",))
    assert KINDS.chain("oak") == ("trees", "plants")
    p = np.array([[0.3, 0.3, 0.2, 0.2], [0.1, 0.6, 0.2, 0.1]])
    best, sure = KINDS.predicted(p, 0)
    assert [KINDS.levels[0][place] for place in best] == ["trees", "things"]
    assert sure == pytest.approx([0.5, 0.6])
    assert KINDS.predicted(p, 1)[1] == pytest.approx([0.7, 0.4])
    assert KINDS.right(best, np.array([3, 2]), 0).tolist() == [True, False]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([("a", "x")], "has no parent for: b"),
        ([("a", "x"), ("b", "y"), ("x", "y"), ("y", "x")], "contains a cycle"),
        ([("a", "x"), ("b", "x")], "no ancestor that contains some"),
        ([("a", "b"), ("b", "x")], "cannot be the parent of others: b"),
        ([("a", "x"), ("a", "y"), ("b", "y")], "two parents: x and y"),
    ],
)
def test_what_is_no_hierarchy_is_refused(rows, said):
    with pytest.raises(DataError, match=said):
        Hierarchy(("a", "b"), read_parents(rows))


def test_a_label_gains_by_how_rare_its_class_may_be():
    p = np.array([[1, 0, 0], [0, 0.5, 0.5], [0.2, 0, 0.8]])
    assert expected_gain(p, np.array([99, 1, 3])) == pytest.approx([0.01, 0.375, 0.202])


def test_images_are_taken_that_stand_for_most_of_what_may_be_rare():
    # three of one kind, two of another, one alone; only the first kind and the one alone may be rare
    kinds = np.eye(3, dtype=np.float32)[[0, 0, 0, 1, 1, 2]]
    p = np.array([[0, 1], [0, 1], [0, 1], [1, 0], [1, 0], [0, 1]], float)
    found = rank_for_labelling(p, np.array([99, 1]), 3, kinds, np.random.default_rng(0))
    assert found.rows.tolist() == [0, 5, 3]
    # g: 1/2 and 1/100; centred, kinds lie at more than a right angle, so nothing serves two of them
    g = np.array([0.5, 0.5, 0.5, 0.01, 0.01, 0.5])
    assert found.gains == pytest.approx([1.5 / g.sum(), 0.5 / g.sum(), 0.02 / g.sum()], abs=1e-6)


def test_the_value_of_what_is_taken_is_that_of_the_plain_greedy_way():
    generator = np.random.default_rng(3)
    features = generator.normal(size=(60, 5)).astype(np.float32)
    p = generator.dirichlet(np.ones(4), 60)
    counts = np.array([50, 9, 3, 1])
    found = rank_for_labelling(p, counts, 12, features, generator)
    centred = features - features.mean(axis=0)
    directions = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    near = np.maximum(0, directions @ directions.T)
    g = (p / (counts + 1)).sum(axis=1)
    g /= g.sum()
    taken = []
    for _ in range(12):
        value = [
            (near[[*taken, row]].max(axis=0) * g).sum() if row not in taken else -1
            for row in range(60)
        ]
        taken.append(int(np.argmax(value)))
    assert found.rows.tolist() == taken
    assert found.gains.sum() == pytest.approx(max(value), abs=1e-5)


def test_what_looks_alike_is_suggested_once_and_what_is_left_out_never():
    kinds = np.eye(4, dtype=np.float32)[[0, 0, 1, 2, 3]]
    alike, left_out = np.array([7, 8, 8, 9, 10]), np.array([False, False, False, True, False])
    found = rank_for_labelling(
        np.full((5, 2), 0.5), np.array([3, 3]), 9, kinds, np.random.default_rng(0),
        alike=alike, left_out=left_out,
    )  # fmt: skip
    assert set(found.rows.tolist()) in ({0, 1, 4}, {0, 2, 4})
