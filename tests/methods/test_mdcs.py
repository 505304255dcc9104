"""MDCS against its released code."""

import pytest
import torch
import torch.nn.functional as F

from longtail.core import Batch, Position
from longtail.core.stage import epochs_of
from longtail.recipes import resolve
from tests import tiny


def batch(size=12):
    labels = torch.randint(7, (size,), generator=torch.Generator().manual_seed(3))
    return Batch((tiny.images(size, 3), tiny.images(size, 4)), labels, torch.arange(size))


def released(logits, labels, epoch):
    """Return the loss as the released code computes it; `epoch` counts from 1."""
    n = torch.tensor(tiny.COUNTS.values, dtype=torch.float32)
    half, loss, kl = len(labels), 0.0, 0.0
    for e, power in enumerate((-0.5, 1, 2.5)):
        a = logits[:, e] + torch.log(torch.pow(n, power) + 1e-9)
        teacher, student = a[:half], a[half:]
        sure = F.softmax(teacher, dim=1).max(dim=1).indices == labels
        if sure.any():
            kl = kl + F.kl_div(
                F.log_softmax(student, dim=1)[sure],
                F.softmax(teacher, dim=1).detach()[sure],
                reduction="batchmean",
            )
        loss = loss + F.cross_entropy(a, torch.cat([labels, labels]))
    return loss + 0.6 * kl * min(epoch / 20, 1.0)


@pytest.mark.parametrize("epoch", [1, 7, 20, 300])
def test_the_loss_is_that_of_the_released_code(epoch):
    method, given = tiny.build("mdcs"), batch()
    logits = method.sub_model_logits(torch.cat(given.views))
    expected = released(logits, given.labels, epoch)
    out = method.training_step([given], Position(0, 0, epoch - 1, 0, 400))
    assert float(out.scalars["consistency"]) > 0
    torch.testing.assert_close(out.loss, expected, atol=1e-4, rtol=1e-5)


def test_only_images_that_an_expert_knows_are_taught_and_only_to_the_strong_view():
    method, given = tiny.build("mdcs", {"strengths": [1.0]}), batch()
    method.eval()  # so that views do not meet in BatchNorm
    weak = method.sub_model_logits(given.views[0])[:, 0] + method.shifts[0]
    known = weak.argmax(dim=1)
    never = Batch(given.views, (known + 1) % 7, given.ids)
    at = Position(0, 0, 100, 0, 400)
    assert float(method.training_step([never], at).scalars["consistency"]) == 0
    views = [v.clone().requires_grad_() for v in given.views]
    always = Batch(tuple(views), known, given.ids)
    plain = tiny.build("mdcs", {"strengths": [1.0], "weight": 0.0}).eval()
    difference = method.training_step([always], at).loss - plain.training_step([always], at).loss
    on_weak, on_strong = torch.autograd.grad(difference, views)
    torch.testing.assert_close(on_weak, torch.zeros_like(on_weak), atol=1e-6, rtol=0)
    assert float(on_strong.abs().max()) > 1e-4


def test_the_user_gets_the_mean_of_the_logits():
    method, images = tiny.build("mdcs").eval(), tiny.images(4)
    torch.testing.assert_close(method.predict(images), method.sub_model_logits(images).mean(dim=1))
    (figure,) = method.figures([(tiny.images(21), torch.arange(21) % 7)], [])
    assert next(iter(figure.series)) == "expert 1, lambda -0.5"


def test_the_recipe_has_the_published_options():
    config = resolve("cifar100-lt/mdcs")
    assert config.method.strengths == (-0.5, 1.0, 2.5)
    assert (config.method.weight, config.method.narrow) == (0.6, True)
    rise = [epochs_of(config.method.rise, epochs) for epochs in (400, 40)]
    assert rise == [20, 2]  # the same share of a shorter training
    assert (config.training.epochs, config.training.batch_size) == (400, 64)
