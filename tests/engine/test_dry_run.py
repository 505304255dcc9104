"""A method from outside the package is tried on one batch, and its mistakes are told in words."""

import pytest
import torch
from torch import nn

from longtail import ClassCounts
from longtail.core import Sampling, Stage, StepOutput
from longtail.core.errors import ConfigError
from longtail.engine.dry_run import try_once
from longtail.methods import Method

COUNTS = ClassCounts([5, 2, 1])


class Right(Method):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3 * 8 * 8, 3)
        self.norm = nn.BatchNorm1d(3)

    def stages(self):
        return [Stage(name="joint", epochs=1)]

    def training_step(self, batches, at):
        z = self.norm(self.head(batches[0].images.flatten(1)))
        return StepOutput(nn.functional.cross_entropy(z, batches[0].labels))

    def predict(self, images):
        return self.norm(self.head(images.flatten(1)))


def test_nothing_of_a_right_method_changes():
    method = Right()
    before = {name: value.clone() for name, value in method.state_dict().items()}
    stream = torch.get_rng_state()
    try_once(method, COUNTS, 8)
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())
    assert torch.equal(torch.get_rng_state(), stream)
    assert all(parameter.grad is None for parameter in method.parameters())


def wrong(**hooks):
    return type("Wrong", (Right,), hooks)()


@pytest.mark.parametrize(
    ("method", "said"),
    [
        (wrong(predict=Method.predict), "Wrong does not define predict"),
        (wrong(stages=lambda self: []), "must return a list of Stage"),
        (wrong(stages=lambda self: ["joint"]), "holds 'joint'"),
        (
            wrong(stages=lambda self: [Stage(name="a", epochs=1, samplings=(Sampling(name="odd"),))]),
            "no sampler 'odd'",
        ),
        (
            wrong(stages=lambda self: [Stage(name="a", epochs=1, trainable=("heads",))]),
            r"names heads, which is no part of it \(its parts: head, norm\)",
        ),
        (
            wrong(training_step=lambda self, batches, at: torch.zeros(())),
            r"must return StepOutput\(loss\), but returned a tensor of shape \[\]",
        ),
        (
            wrong(training_step=lambda self, batches, at: StepOutput(self.head.weight)),
            r"tensor of shape \[3, 192\]. Take the mean",
        ),
        (
            wrong(training_step=lambda self, batches, at: StepOutput(torch.zeros(()))),
            "does not depend on any parameter",
        ),
        (
            wrong(training_step=lambda self, batches, at: batches[1]),
            "training_step fails on a batch of 4 images, line .*: IndexError",
        ),
        (wrong(predict=lambda self, images: self.head(images.flatten(1))[:, :2]), r"\[4, 2\]"),
    ],
)  # fmt: skip
def test_mistakes_are_told_in_words(method, said):
    with pytest.raises(ConfigError, match=said):
        try_once(method, COUNTS, 8)
