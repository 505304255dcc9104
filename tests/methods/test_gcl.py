"""GCL against the facts of the specification of the baselines (entry 26)."""

import torch
import torch.nn.functional as F

from longtail.core import Batch, Position
from longtail.engine import checkpoint as ckpt
from longtail.methods import METHODS
from longtail.recipes import resolve
from tests import tiny

PLAIN = {"sigma": 0.0, "mixing": None}


def step(method, stage):
    labels = torch.randint(7, (12,), generator=torch.Generator().manual_seed(0))
    batch = Batch((tiny.images(12),), labels, torch.arange(12))
    cosines = method.head(method.backbone(batch.images))
    return cosines, labels, method.training_step([batch], Position(0, stage, 0, 0, 3)).loss


def test_without_clouds_the_first_stage_is_cross_entropy_of_cosines():
    cosines, labels, loss = step(tiny.build("gcl", PLAIN), stage=0)
    assert float(cosines.detach().abs().max()) <= 1 + 1e-6
    torch.testing.assert_close(loss, F.cross_entropy(30 * cosines, labels))


def test_the_second_stage_has_a_margin_and_looks_at_what_is_left_to_learn():
    method = tiny.build("gcl", PLAIN)
    cosines, labels, loss = step(method, stage=1)
    z = 20 * (cosines - 0.1 * F.one_hot(labels, 7))
    losses = F.cross_entropy(z, labels, reduction="none")
    left = 1 - z.softmax(dim=1).gather(1, labels[:, None])[:, 0]
    torch.testing.assert_close(loss, (left * losses).mean())
    # the factor is a constant: the gradient is that of cross-entropy, image by image
    (found,) = torch.autograd.grad(loss, method.head.weight, retain_graph=True)
    (expected,) = torch.autograd.grad((left.detach() * losses).mean(), method.head.weight)
    torch.testing.assert_close(found, expected)


def test_clouds_change_the_loss_and_no_prediction():
    one, other = (tiny.build("gcl", {"sigma": sigma, "mixing": None}) for sigma in (0.0, 0.5))
    assert not torch.equal(step(other, 0)[2], step(one, 0)[2])
    assert torch.equal(one.eval().predict(tiny.images(4)), other.eval().predict(tiny.images(4)))


def test_the_stages(tmp_path):
    method = tiny.build("gcl", {"second": 1})
    first, second = method.stages()
    assert (first.samplings[0].name, first.trainable) == ("instance", ("backbone", "head"))
    assert (second.samplings[0].name, second.trainable) == ("class-balanced", ("head",))
    assert second.samplings[0].form == "multinomial"  # independent draws, no cycle over the classes
    assert (second.learning_rate, second.schedule, second.update_norm) == (0.002, "cosine", ())
    tiny.train(method, tmp_path, name="gcl")
    before, after = (
        ckpt.read_weights(tmp_path / "checkpoints" / f"stage-{number}-end") for number in (0, 1)
    )
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"head.weight"}
    images = tiny.images(3)
    found = method.eval().predict(images)
    torch.testing.assert_close(found, 20 * method.head(method.backbone(images)))


def test_what_shares_a_first_stage():
    kind = METHODS["gcl"]
    own = kind.Config(second=5, second_margin=0.0)
    assert kind.shares_first_stage(own, kind.Config())
    assert not kind.shares_first_stage(own, kind.Config(sigma=0.1))
    assert not kind.shares_first_stage(own, METHODS["mislas"].Config())


def test_recipes_have_the_published_options():
    recipe = resolve("cifar100-lt/gcl")
    assert (recipe.training.batch_size, recipe.training.decay_factor) == (64, 0.1)
    assert (recipe.method.sigma, recipe.method.mixing.alpha) == (0.5, 1.0)
    assert (recipe.method.second, recipe.method.second_rate) == (30, 0.002)
    large = resolve("imagenet-lt/gcl", ["root=x"])
    assert (large.method.mixing.alpha, large.training.epochs) == (0.2, 200)
