"""FSLwF: rows and episodes by loops, the limits of the generator, what is new, and what stays as it is."""

import pytest
import timm
import torch
import torch.nn.functional as F

from longtail.core import Batch, ClassCounts, Position, ShotGroups
from longtail.engine.options import TrainingConfig
from longtail.engine.schedule import rate_in_stage
from longtail.methods.fslwf import WeightGenerator, new_classes, posing_as_new
from longtail.models.backbones import Backbone
from longtail.models.last_relu import without_last_relu
from tests import tiny

EPISODE = Position(0, 1, 0, 0, 3)
NEW = [2, 3, 5]  # four, four and one images


def unit(rows):
    return rows / rows.norm(dim=-1, keepdim=True)


def generator_of(width=4, classes=7, scale=3.0):
    made = WeightGenerator(width, classes, scale).double()
    for part in (made.average, made.attended):
        torch.nn.init.normal_(part)
    return made


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_new_are_few_shot_classes_at_most_half_of_all():
    groups = ShotGroups.from_counts(tiny.COUNTS)
    assert new_classes(tiny.COUNTS, groups).nonzero().squeeze(1).tolist() == NEW
    many = ClassCounts([500, 200, 50, 30, 3])
    assert new_classes(many, ShotGroups.from_counts(many)).tolist() == [False] * 4 + [True]
    pair = ClassCounts([1, 8])
    assert new_classes(pair, ShotGroups.from_counts(pair)).tolist() == [True, False]


def test_rows_are_those_of_loops():
    made, x, w = generator_of(), drawn(3, 4), drawn(7, 4, seed=1)
    seen = torch.tensor([1, 0, 1, 1, 0, 1, 1], dtype=torch.bool)
    found = made(x, w, seen)
    for i in range(3):
        u = unit(x[i])
        q = unit(made.query.weight @ u + made.query.bias)
        base = [c for c in range(7) if seen[c]]
        a = torch.stack([3 * q @ unit(made.keys[c]) for c in base]).softmax(dim=0)
        recalled = sum(a[m] * unit(w[c]) for m, c in enumerate(base))
        torch.testing.assert_close(found[i], made.average * u + made.attended * recalled)


def test_without_attention_a_row_is_the_mean_direction():
    made = generator_of()
    torch.nn.init.ones_(made.average), torch.nn.init.zeros_(made.attended)
    x, everything = drawn(3, 4), torch.ones(7, dtype=torch.bool)
    torch.testing.assert_close(made(x, drawn(7, 4), everything), unit(x))


def test_sharp_attention_takes_the_row_of_one_class():
    made = generator_of(scale=1e6)
    torch.nn.init.zeros_(made.average), torch.nn.init.ones_(made.attended)
    torch.nn.init.eye_(made.query.weight)
    x, w, everything = drawn(3, 4), drawn(7, 4, seed=1), torch.ones(7, dtype=torch.bool)
    nearest = (unit(x) @ unit(made.keys).T).argmax(dim=1)
    torch.testing.assert_close(made(x, w, everything), unit(w)[nearest])


@pytest.mark.parametrize(
    ("labels", "expected"),
    [([0, 0, 1], [0, 1]), ([5, 3], []), ([1, 3, 6], [1, 6]), ([0, 1, 4, 6], [])],
)
def test_classes_pose_as_new_if_others_remain(labels, expected):
    new = torch.zeros(7, dtype=torch.bool).index_fill(0, torch.tensor(NEW), True)
    posing = posing_as_new(torch.tensor(labels), new)
    assert posing.nonzero().squeeze(1).tolist() == expected


def test_an_episode_is_that_of_loops():
    method = tiny.build("fslwf").train()  # nothing is dropped in train mode, as released
    x, support = torch.randn(6, 64), torch.randn(5, 64)
    labels, shown = [1, 0, 6, 4, 1, 0], [1, 1, 3, 6, 3]
    queries = Batch((x,), torch.tensor(labels), torch.tensor([10, 11, 12, 13, 14, 15]))
    given = Batch((support,), torch.tensor(shown), torch.tensor([10, 21, 22, 23, 24]))
    rows = method.head.rows.detach().clone()
    seen = torch.tensor([c in (0, 4) for c in range(7)])  # neither posing nor new
    made = method.generator(support, rows, seen)
    rows[1], rows[6] = made[:2].mean(dim=0), made[3]
    known = [0, 1, 4, 6]
    z = 10 * F.cosine_similarity(x[:, None], rows[known], dim=2)
    losses = [F.cross_entropy(z[i], torch.tensor(known.index(y))) for i, y in enumerate(labels)]
    novel = (losses[2] + losses[4]) / 2  # query 0 is a support image itself
    base = (losses[1] + losses[3] + losses[5]) / 3
    out = method.training_step([queries, given], EPISODE)
    torch.testing.assert_close(out.loss, 2 / 3 * novel + 1 / 3 * base)


def test_new_classes_are_left_out_of_the_first_stage():
    method = tiny.build("fslwf").eval()
    images, labels = tiny.images(5), torch.tensor([0, 5, 1, 6, 3])
    z = method.predict(images)
    known = [0, 1, 4, 6]
    told = [
        F.cross_entropy(z[i, known], torch.tensor(known.index(int(labels[i])))) for i in (0, 2, 3)
    ]
    batch = Batch((images,), labels, torch.arange(5))
    loss = method.training_step([batch], Position(0, 0, 0, 0, 3)).loss
    torch.testing.assert_close(loss, sum(told) / 3)


def test_generated_rows_leave_the_logits_of_base_classes_as_they_are():
    method = tiny.build("fslwf").eval()
    images = tiny.images(4, 3)
    before = method.predict(images)
    shown = [
        (tiny.images(6), torch.tensor([2, 0, 2, 5, 3, 1])),
        (tiny.images(1, 2), torch.tensor([2])),
    ]
    method.fit(method.stages()[2], shown, "train")
    after = method.predict(images)
    base = [0, 1, 4, 6]
    torch.testing.assert_close(after[:, base], before[:, base])
    with torch.no_grad():
        x = method.backbone(torch.cat([tiny.images(6)[[0, 2]], tiny.images(1, 2)]))
        seen = torch.tensor([c in base for c in range(7)])
        row = method.generator(x, method.head.rows, seen).mean(dim=0)
        own = 10 * F.cosine_similarity(method.backbone(images), row[None])
    torch.testing.assert_close(after[:, 2], own)


def test_base_classes_are_drawn_evenly_and_new_ones_never():
    even = tiny.build("fslwf").stages()[0].samplings[0]
    assert even.weights == tuple(float(c not in NEW) for c in range(7))


@pytest.mark.parametrize("name", ["cifar", "resnet18", "resnet50"])
def test_features_of_both_signs(name):
    if name == "cifar":
        plain, width, side = tiny.backbone(), 64, 8
    else:
        network = timm.create_model(name, num_classes=0, zero_init_last=False)
        plain, width, side = Backbone(network, network.num_features), None, 32
    plain.eval()
    assert bool((plain(tiny.images(4, side=side)) >= 0).all())
    found = without_last_relu(plain)(tiny.images(4, side=side))
    assert bool((found < 0).any())
    assert width is None or found.shape == (4, width)


def test_networks_without_groups_stay_as_they_are():
    plain = Backbone(torch.nn.Linear(2, 2), 2)
    assert without_last_relu(plain) is plain
    assert isinstance(plain.network, torch.nn.Linear)


def test_episodes_have_the_rates_of_the_released_configuration():
    """LUT_lr is [(4, .01), (6, .001)] of six epochs, whatever lowers the rate of the first stage."""
    episodes = tiny.build("fslwf", {"second": 6}).stages()[1]
    training = TrainingConfig(epochs=100, schedule="step", milestones=(0.3, 0.6, 0.9))
    rates = [rate_in_stage(training, episodes, epoch) for epoch in range(6)]
    assert rates == pytest.approx([0.01] * 4 + [0.001] * 2)
