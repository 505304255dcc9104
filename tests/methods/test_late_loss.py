"""Another loss and class weights in the last epochs: ADRW and TLA (Wang et al., NeurIPS 2023)."""

import pytest
import torch
import torch.nn.functional as F

from longtail.core import Batch, Position
from longtail.recipes import resolve
from tests import tiny

COUNTS = torch.tensor(tiny.COUNTS.values, dtype=torch.float64)
PRIOR = COUNTS / COUNTS.sum()


def made():
    options = resolve("cifar100-lt/adrw-tla").method.model_dump()
    return tiny.build("single-head", options, epochs=10)


def at(epoch):
    return Position(0, 0, epoch, 0, 10)


def batch():
    labels = torch.tensor([0, 1, 1, 2, 4, 5, 6])
    return Batch((tiny.images(len(labels)),), labels, torch.arange(len(labels)))


@pytest.mark.parametrize("epoch", [7, 8])
def test_the_loss_by_hand(epoch):
    method, given = made().eval(), batch()
    z = method.predict(given.images).double()
    if epoch < 8:  # temperatures, no weights
        scaled = z / (COUNTS.max() / COUNTS) ** 0.05 + PRIOR.log()
        expected = F.cross_entropy(scaled, given.labels)
    else:  # weights pi^-.25, divided by their sum over the batch
        expected = F.cross_entropy(z + 0.75 * PRIOR.log(), given.labels, weight=PRIOR**-0.25)
    loss = method.training_step([given], at(epoch)).loss
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)


def test_weights_and_offset_together_leave_equal_classes():
    method = made()
    # n^-.25 and n^.75 in the softmax: what is fitted is as if all classes were as frequent
    torch.testing.assert_close(method.assumed_prior(at(9)), torch.full_like(PRIOR, 1 / 7))
    assert method.assumed_prior(at(7)) is None  # of temperatures it is not known
    assert method.corrections() == ("vector-scaling", "logit-adjusted", "power class weights")
