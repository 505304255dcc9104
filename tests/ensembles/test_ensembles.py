"""Mixtures of sub-models: facts 14 to 20 and 23 of DO's specification (B4), and what compares them."""

import pytest
import torch
import torch.nn.functional as F

from longtail.core import ClassCounts, ShotGroups
from longtail.ensembles import (
    Descent,
    Stacking,
    SubModelLogits,
    compare_mixtures,
    fit_stacking,
    group_weights,
    instance_weights,
    learn_group_weights,
    learn_instance_weights,
    simplex_grid,
    unbiased,
    weighted_sum,
)
from longtail.ensembles.weights import _shuffled

DOUBLE = torch.float64
P1 = torch.tensor([[0.9, 0.05, 0.05], [0.4, 0.3, 0.3], [0.1, 0.8, 0.1]], dtype=DOUBLE)[None]
P2 = torch.tensor([[0.85, 0.1, 0.05], [0.35, 0.35, 0.3], [0.1, 0.1, 0.8]], dtype=DOUBLE)[None]


def test_14_example_a():
    dot = instance_weights(P1, P2, objective="dot", step=0.01)
    assert dot.tolist() == [[1, 0, 0]]
    cosine = instance_weights(P1, P2, objective="cosine", step=0.01)
    torch.testing.assert_close(cosine, torch.tensor([[0.97, 0, 0.03]], dtype=DOUBLE))

    def value(weights):
        return float(F.cosine_similarity(weighted_sum(P1, weights), weighted_sum(P2, weights)))

    assert value(cosine) == pytest.approx(0.998895, abs=6e-7)
    for corner, expected in zip(torch.eye(3, dtype=DOUBLE), (0.9981, 0.9926, 0.2576), strict=True):
        assert value(corner) == pytest.approx(expected, abs=6e-5)
    assert value(torch.full((3,), 1 / 3, dtype=DOUBLE)) == pytest.approx(0.873803, abs=6e-7)


def test_15_the_form_is_the_direct_computation():
    generator = torch.Generator().manual_seed(0)
    first, second = (
        torch.rand(20, 3, 7, dtype=DOUBLE, generator=generator).softmax(2) for _ in "ab"
    )
    grid = simplex_grid(3, 0.05)
    direct = torch.stack(
        [F.cosine_similarity(weighted_sum(first, w), weighted_sum(second, w)) for w in grid], dim=1
    )  # [N, G]
    chosen = instance_weights(first, second)
    torch.testing.assert_close(
        F.cosine_similarity(weighted_sum(first, chosen), weighted_sum(second, chosen)),
        direct.max(dim=1).values,
    )
    whole = group_weights(first, second)
    assert torch.equal(whole, grid[direct.mean(dim=0).argmax()])


@pytest.mark.parametrize(
    ("a", "b", "c", "best", "value"),
    [
        (0.5, 0.5, 0.6, 0.5, 0.55),
        (0.5, 0.4, 0.6, 2 / 3, 0.53333),
        (0.8, 0.5, 0.4, 1, 0.8),
        (0.6, 0.2, 0.5, 1, 0.6),
    ],
)
def test_16_two_sub_models(a, b, c, best, value):
    # logits whose inner products are the matrix [[a, c], [c, b]]
    first = torch.eye(2, dtype=DOUBLE)[None]
    second = torch.tensor([[[a, c], [c, b]]], dtype=DOUBLE)
    found = instance_weights(first, second, objective="dot", step=0.001)
    assert float(found[0, 0]) == pytest.approx(best, abs=1e-3)
    form = (weighted_sum(first, found) * weighted_sum(second, found)).sum()
    assert float(form) == pytest.approx(value, abs=1e-5)


def test_17_identical_views_say_nothing_to_the_cosine():
    assert instance_weights(P1, P1).tolist() == [simplex_grid(3)[0].tolist()]
    nearest = simplex_grid(3)[0]
    assert (nearest - 1 / 3).abs().max() < 0.04
    assert instance_weights(P1, P1, objective="dot").tolist() == [[1, 0, 0]]


def test_18_a_flat_sub_model_wins_the_cosine():
    flat1, flat2 = [0.34, 0.33, 0.33], [0.33, 0.34, 0.33]
    first = torch.tensor([[flat1, [0.9, 0.05, 0.05], [0.05, 0.9, 0.05]]], dtype=DOUBLE)
    second = torch.tensor([[flat2, [0.05, 0.05, 0.9], [0.9, 0.05, 0.05]]], dtype=DOUBLE)
    assert float(instance_weights(first, second, step=0.01)[0, 0]) > 0.9


def test_19_permuting_sub_models_permutes_weights_and_equal_ones_do_not_matter():
    order = [2, 0, 1]
    one = instance_weights(P1, P2, step=0.01)
    torch.testing.assert_close(
        instance_weights(P1[:, order], P2[:, order], step=0.01), one[:, order]
    )
    same = P1[:, :1].expand(-1, 3, -1)
    for weights in simplex_grid(3, 0.25):
        torch.testing.assert_close(weighted_sum(same, weights), P1[:, 0])


def test_23_sizes_of_grids():
    assert len(simplex_grid(3, 0.05)) == 231
    assert len(simplex_grid(3, 0.01)) == 5151
    assert len(simplex_grid(4, 0.05)) == 1771
    torch.testing.assert_close(simplex_grid(4).sum(1), torch.ones(1771, dtype=DOUBLE))


def test_14_descent_of_example_a():
    for steps, expected in ((5, (0.383, 0.370, 0.247)), (50, (0.548, 0.403, 0.049))):
        found = learn_instance_weights(P1, P2, steps=steps)[0]
        assert found.tolist() == pytest.approx(expected, abs=6e-4)
    # images do not depend on each other
    many = learn_instance_weights(P1.repeat(7, 1, 1), P2.repeat(7, 1, 1), steps=5)
    torch.testing.assert_close(many[3], learn_instance_weights(P1, P2, steps=5)[0])
    # identical views: nothing to learn from
    assert learn_instance_weights(P1, P1, steps=9)[0].tolist() == pytest.approx([1 / 3] * 3)


def some_logits(size=400, classes=10, seed=0):
    """Three sub-models, each surer of its own third of the classes."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(size) % classes
    truth = F.one_hot(labels, classes).float()
    own = torch.zeros(3, classes)
    for t, part in enumerate(torch.arange(classes).chunk(3)):
        own[t, part] = 1.5
    views = [
        2 * truth[:, None] + own + torch.randn(size, 3, classes, generator=generator)
        for _ in range(3)
    ]
    return SubModelLogits(*views, labels, bias=own, views="sade")


COUNTS = ClassCounts([500, 300, 200, 90, 60, 40, 30, 12, 8, 5])


def test_mixed_softmax_is_the_direct_search():
    logits = some_logits(30)
    grid = simplex_grid(3, 0.1).float()
    for objective in ("cosine", "dot"):
        found = instance_weights(
            logits.first, logits.second, objective=objective, softmax=True, step=0.1
        )
        a, b = (
            torch.einsum("gt,ntc->ngc", grid, x).softmax(2) for x in (logits.first, logits.second)
        )
        value = F.cosine_similarity(a, b, dim=2) if objective == "cosine" else (a * b).sum(2)
        torch.testing.assert_close(found, grid[value.argmax(1)])


def released_weights(views, rate=0.1, weight_decay=5e-4):
    """Learn weights as SADE's released code does, image orders apart; views are those of each pass."""
    raw = torch.full((3,), 1 / 3, requires_grad=True)
    optimizer = torch.optim.SGD([raw], rate, momentum=0.9, nesterov=True, weight_decay=weight_decay)
    for passed, (first, second) in enumerate(views):
        for chosen in _shuffled(len(first), passed):
            w = raw.softmax(dim=0)
            a, b = (sum(w[e] * x[chosen, e] for e in range(3)) for x in (first, second))
            cosine = F.cosine_similarity(a.softmax(dim=1), b.softmax(dim=1), dim=1)
            optimizer.zero_grad()
            (-cosine.mean()).backward()
            optimizer.step()
        if min(round(float(w), 2) for w in raw.detach().softmax(dim=0)) < 0.05:
            break
    return raw.softmax(dim=0).detach()


def test_group_weights_of_sade_are_those_of_its_procedure():
    logits = some_logits(3000)
    found = learn_group_weights(logits.first, logits.second)
    assert float(found.sum()) == pytest.approx(1)
    # its free numbers begin with 1/3 and decay, here with 0: the same weights, which do not mind a shift
    same = released_weights([(logits.first, logits.second)] * 5)
    torch.testing.assert_close(found, same, atol=1e-4, rtol=0)
    order = [2, 0, 1]
    permuted = learn_group_weights(logits.first[:, order], logits.second[:, order])
    torch.testing.assert_close(permuted, found[order])


def test_every_pass_of_sade_draws_its_views_and_its_order_anew():
    views = [(some_logits(300).first, some_logits(300, seed=p).second) for p in range(1, 6)]
    asked = []

    def redraw(number):
        asked.append(number)
        return views[number]

    descent = Descent(rate=0.02, weight_decay=1e-3, redraw=redraw)
    found = learn_group_weights(*views[0], descent=descent)
    assert asked == [1, 2, 3, 4]
    torch.testing.assert_close(found, released_weights(views, 0.02, 1e-3), atol=1e-4, rtol=0)
    orders = [torch.cat(list(_shuffled(300, number))) for number in range(2)]
    assert not torch.equal(*orders)
    assert all(torch.equal(o.sort().values, torch.arange(300)) for o in orders)
    assert [len(c) for c in _shuffled(300, 0)] == [128, 128, 44]


def test_sade_stops_after_the_pass_in_which_a_weight_vanished():
    logits = some_logits(3000)
    asked = []

    def redraw(number):
        asked.append(number)
        return logits.first, logits.second

    # an expert that never agrees with itself
    second = logits.second.clone()
    second[:, 2] = -10 * logits.first[:, 2]
    found = learn_group_weights(logits.first, second, descent=Descent(rate=2.0, redraw=redraw))
    assert float(found.min()) < 0.045
    assert asked == []


def test_19_labels_do_not_matter_to_weights_and_20_oracles_are_bounds():
    logits = some_logits()
    rows = {row["name"]: row for row in compare_mixtures(logits, COUNTS)}
    groups = ("many", "medium", "few")
    best, anyone = (rows[name] for name in rows if name.startswith("oracle"))
    for name in groups:
        alone = [rows[f"sub-model {t}"][name] for t in (1, 2, 3)]
        assert best[name] == max(alone)
        assert anyone[name] >= best[name]
    assert anyone["accuracy"] >= best["accuracy"]
    shuffled = SubModelLogits(
        logits.clean, logits.first, logits.second, logits.labels.roll(1), logits.bias, "sade"
    )
    for row, other in zip(
        compare_mixtures(logits, COUNTS), compare_mixtures(shuffled, COUNTS), strict=True
    ):
        if "weights" not in row:
            continue
        mean, same = (
            torch.tensor([r["weights"][name] for name in groups]).double() for r in (row, other)
        )
        share = torch.tensor([3, 4, 3]).double() / 10  # of the classes
        torch.testing.assert_close(share @ mean, share @ same, atol=1e-4, rtol=0)
    assert {row["sees"] for row in rows.values()} == {
        "label-free", "views", "instance-wise", "transductive", "oracle",
    }  # fmt: skip


def test_accuracies_are_averages_over_classes():
    logits = some_logits(90)
    row = next(r for r in compare_mixtures(logits, COUNTS) if r["name"] == "average")
    right = logits.clean.softmax(2).mean(1).argmax(1) == logits.labels
    each = torch.stack([right[logits.labels == c].double().mean() for c in range(10)])
    assert row["accuracy"] == pytest.approx(float(each.mean()))
    assert row["many"] == pytest.approx(float(each[:3].mean()))


def test_a_known_bias_is_taken_away():
    logits = some_logits()
    plain = unbiased(logits.clean, logits.bias)
    torch.testing.assert_close(plain, (logits.clean - logits.bias).softmax(2))
    rows = {row["name"]: row for row in compare_mixtures(logits, COUNTS)}
    assert rows["average without known bias"]["accuracy"] > rows["average"]["accuracy"] - 0.02


def test_stacking_finds_the_useful_sub_model():
    logits, held_out = some_logits(seed=1), some_logits(seed=2)
    for given in (logits, held_out):
        given.clean[:, 0] += 3 * F.one_hot(given.labels, 10)  # the first one knows
        given.clean[:, 1:] = torch.randn_like(given.clean[:, 1:]) * 5
    groups = ShotGroups.from_counts(COUNTS)
    fitted = fit_stacking(held_out.clean, held_out.labels, groups)
    stacked = fitted(logits.clean).argmax(1) == logits.labels
    average = logits.clean.softmax(2).mean(1).argmax(1) == logits.labels
    assert float(stacked.double().mean()) > float(average.double().mean()) + 0.2
    rows = compare_mixtures(logits, COUNTS, held_out=held_out)
    row = next(r for r in rows if r["name"] == "stacking")
    assert row["accuracy"] == pytest.approx(float(stacked.double().mean()), abs=1e-6)


def test_stacking_begins_with_the_average_and_tells_its_weights_by_group():
    logits = torch.randn(20, 3, 10, generator=torch.Generator().manual_seed(0))
    expected = logits.log_softmax(2).mean(1)
    torch.testing.assert_close(Stacking.average(3, 10)(logits), expected)
    groups = ShotGroups.from_counts(ClassCounts([500] * 4 + [5] * 6))  # no medium-shot class
    # sub-model 1 knows the frequent classes, sub-model 3 the rare ones, and 3 predicts too many of them
    labels = torch.arange(10).repeat(60)
    truth = 4 * F.one_hot(labels, 10).float()
    logits = torch.randn(600, 3, 10, generator=torch.Generator().manual_seed(1))
    logits[:, 0, :4] += truth[:, :4]
    logits[:, 2, 4:] += truth[:, 4:]
    fitted = fit_stacking(logits, labels, groups)
    told = fitted.by_group(groups)
    assert set(told) == {"many", "few"}
    assert told["many"]["weights"][0] > 2 * max(told["many"]["weights"][1:])
    assert told["few"]["weights"][2] > 2 * max(told["few"]["weights"][:2])
    torch.testing.assert_close(fitted.weights[:, 7], torch.tensor(told["few"]["weights"]))
    hits = [
        (s(logits).argmax(1) == labels).float().mean() for s in (fitted, Stacking.average(3, 10))
    ]
    assert hits[0] > hits[1]


def test_stacking_counts_every_class_alike():
    groups = ShotGroups.from_counts(COUNTS)
    held_out = some_logits(seed=2)
    rare = held_out.labels == 9
    again = torch.cat([torch.arange(len(rare)), rare.nonzero()[:, 0].repeat(3)])
    plain = fit_stacking(held_out.clean, held_out.labels, groups)
    repeated = fit_stacking(held_out.clean[again], held_out.labels[again], groups)
    torch.testing.assert_close(plain.weights, repeated.weights, atol=1e-3, rtol=1e-2)


def test_one_sub_model_leaves_nothing_to_weigh():
    logits = some_logits(40)
    alone = SubModelLogits(
        *(a[:, :1] for a in (logits.clean, logits.first, logits.second)), logits.labels
    )
    names = [row["name"] for row in compare_mixtures(alone, COUNTS)]
    assert [name.split(":")[0] for name in names] == ["sub-model 1", "oracle", "oracle"]
