"""RSG: centres, pairs and generated maps by loops, what gets a gradient, and when."""

import pytest
import torch
import torch.nn.functional as F

from longtail.core import Batch, ConfigError, Position
from longtail.methods.rsg import Generator, partners
from longtail.models.backbones import Backbone
from longtail.models.residual_groups import DividedBackbone
from tests import tiny

LABELS = torch.tensor([1, 0, 6, 4, 1, 2])  # class 1 has the most images
BEFORE, AFTER = Position(0, 0, 0, 0, 10), Position(0, 0, 8, 0, 10)


def drawn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def generator_of(channels=3):
    made = Generator(tiny.COUNTS, 0.2, channels, 4, 5).double()
    torch.nn.init.normal_(made.centres)
    return made


def test_frequent_classes_are_the_first_fifth():
    assert generator_of().is_frequent.tolist() == [c == 1 for c in range(7)]  # int(.2 * 7) of 7


def test_the_spread_around_centres_is_that_of_loops():
    made, maps = generator_of(), drawn(6, 3, 2, 2)
    expected = 0.0
    for i, y in enumerate(LABELS.tolist()):
        pooled = maps[i].mean(dim=(1, 2))
        told = [pooled @ made.directions[y, :, k] + made.biases[y, k] for k in range(4)]
        shares = torch.stack(told).softmax(dim=0)
        for k in range(4):
            for row in range(2):
                for column in range(2):
                    apart = maps[i, :, row, column] - made.centres[y, k]
                    expected += shares[k] * (apart @ apart) / 6
    torch.testing.assert_close(made.spread(maps, LABELS), expected)


def test_pairs_are_the_halves_of_a_batch():
    made, maps = generator_of(), drawn(7, 3, 2, 2)
    labels = torch.tensor([0, 1, 2, 0, 5, 2, 3])
    both = torch.cat([maps[:3], maps[3:6]], dim=1)
    pooled = made.pair["maps"](both).mean(dim=(2, 3))
    expected = F.cross_entropy(made.pair["told"](pooled), torch.tensor([1, 0, 1]))
    torch.testing.assert_close(made.same_class(maps, labels), expected)
    assert float(made.same_class(maps[:1], labels[:1])) == 0


@pytest.mark.parametrize(
    ("frequent", "expected"),
    [
        ([1, 0, 0, 1, 0], ([0, 3, 0, 3, 0], [1, 2, 4, 1, 2], 2)),  # floor(3 / 2) 2
        ([1, 1, 1, 0, 1], ([0, 1, 2, 4, 0], [3, 3, 3, 3, 3], 4)),
        (
            [0, 0, 1, 0, 1, 0, 0],
            ([2, 4, 2, 4, 2, 4, 2], [0, 1, 3, 5, 6, 0, 1], 4),
        ),  # floor(5 / 2) 2
        ([1, 0], ([0, 0], [1, 1], 1)),
        ([1, 1, 1], ([0, 1, 2], [0, 1, 2], 0)),
        ([0, 0], ([0, 1], [0, 1], 0)),
    ],
)
def test_both_kinds_of_images_take_turns(frequent, expected):
    first, rare, counted = partners(torch.tensor(frequent, dtype=torch.bool))
    number = int(counted.sum())
    assert counted.tolist() == [1.0] * number + [0.0] * (len(frequent) - number)
    assert (first.tolist(), rare.tolist(), number) == expected


def nearest(made, image, label):
    pooled = image.mean(dim=(1, 2))
    told = pooled @ made.directions[label] + made.biases[label]
    return made.centres[label, int(told.argmax())][:, None, None]


def test_generated_maps_and_their_loss_are_those_of_loops():
    made, maps = generator_of(), drawn(6, 3, 2, 2)
    frequent, rare = [0, 4, 0, 4, 0, 4], [1, 2, 3, 5, 1, 2]
    number = 4  # two frequent images go through four rare ones twice
    transfer, found = made.generated(maps, LABELS)
    assert found.labels.tolist() == LABELS[rare].tolist()
    expected = 0.0
    for m in range(6):
        one, other = frequent[m], rare[m]
        delta = (maps[one] - nearest(made, maps[one], 1)).detach()
        turned = made.turn(delta[None])[0]
        torch.testing.assert_close(found.maps[m], maps[other] + turned)
        if m >= number:
            continue
        own = maps[other] - nearest(made, maps[other], int(LABELS[other]))
        pooled = made.pair["maps"](torch.cat([maps[one], turned])[None]).mean(dim=(2, 3))
        expected += F.cross_entropy(made.pair["told"](pooled), torch.tensor([0])) / number
        cut = zip(turned.reshape(4, 3), delta.reshape(4, 3), own.reshape(4, 3), strict=True)
        for t, d, o in cut:
            expected += abs(t.norm() - d.norm()) / number
            expected += (t / t.norm() * o / o.norm() - 1).abs().sum() / number
    torch.testing.assert_close(transfer, expected)


def test_nothing_is_generated_from_one_kind_alone():
    made, maps = generator_of(), drawn(3, 3, 2, 2)
    transfer, found = made.generated(maps, torch.tensor([0, 2, 3]))
    assert float(transfer.detach()) == float(found.counted.sum()) == 0
    assert torch.equal(found.maps, maps)


def step(method, at, labels=LABELS):
    batch = Batch((tiny.images(len(labels)),), labels, torch.arange(len(labels)))
    return method.training_step([batch], at)


def test_before_the_start_it_is_ldam_with_two_more_terms():
    method = tiny.build("rsg").eval()
    maps = method.backbone.below(tiny.images(6)).detach()
    spread = method.generator.spread(maps, LABELS)
    same = method.generator.same_class(maps, LABELS)
    margins = 0.5 * torch.tensor(tiny.COUNTS.values).pow(-0.25)  # the rarest has one image
    logits = method.predict(tiny.images(6)) - 30 * F.one_hot(LABELS, 7) * margins
    told = F.cross_entropy(logits, LABELS)
    torch.testing.assert_close(step(method, BEFORE).loss, told + 0.1 * (spread + same))


def test_generated_images_count_as_images_of_their_class():
    method = tiny.build("rsg", {"weight": 0.0, "transfer": 0.0}).eval()
    maps = method.backbone.below(tiny.images(6))
    _, made = method.generator.generated(maps.detach(), LABELS)
    logits = method.head(method.backbone(torch.cat([maps, made.maps[:4]]), part="last"))
    every = torch.cat([LABELS, made.labels[:4]])
    margins = 0.5 * torch.tensor(tiny.COUNTS.values).pow(-0.25)  # the rarest has one image
    logits = logits - 30 * F.one_hot(every, 7) * margins
    effective = [(1 - 0.9999) / (1 - 0.9999**n) for n in tiny.COUNTS.values]
    weights = torch.tensor([7 * e / sum(effective) for e in effective])
    expected = F.cross_entropy(logits, every, weight=weights)
    torch.testing.assert_close(step(method, AFTER).loss, expected)
    alone = torch.tensor([0, 2, 3])  # no frequent image
    expected = F.cross_entropy(
        method.predict(tiny.images(3)) - 30 * F.one_hot(alone, 7) * margins, alone, weight=weights
    )
    torch.testing.assert_close(step(method, AFTER, alone).loss, expected)


def gradients(method, at):
    method.zero_grad()
    step(method, at).loss.backward()
    named = method.generator.named_parameters()
    return {name.split(".")[0] for name, p in named if p.grad is not None and p.grad.any()}


def test_pairs_are_learnt_before_and_the_convolution_after_the_start():
    method = tiny.build("rsg")
    torch.nn.init.normal_(method.generator.centres)
    assert gradients(method, BEFORE) == {"directions", "biases", "centres", "pair"}
    assert gradients(method, AFTER) == {"directions", "biases", "centres", "turn"}


def test_the_layers_below_learn_from_images_alone():
    """What is generated from them has no gradient for them."""
    method = tiny.build("rsg").eval()
    maps = method.backbone.below(tiny.images(6))
    spread, transfer, made = method.generator(maps.detach(), LABELS, generates=True)
    (spread + transfer + made.maps.sum()).backward()
    assert all(p.grad is None for p in method.backbone.parameters())


def test_a_divided_network_is_the_network():
    plain = tiny.backbone().eval()
    divided = DividedBackbone(plain, "It divides groups")
    torch.testing.assert_close(divided(tiny.images(2)), plain(tiny.images(2)))


def test_other_networks_are_told():
    with pytest.raises(ConfigError, match="RSG generates maps between groups of a residual"):
        DividedBackbone(Backbone(torch.nn.Linear(2, 2), 2), "RSG generates maps between groups")
