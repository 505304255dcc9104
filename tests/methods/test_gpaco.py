"""GPaCo: PaCo whose network sees both views itself, against the released loss written out once more."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from longtail.core import Batch, Position
from longtail.methods.paco import PaCoOptions
from tests import tiny

AT = Position(0, 0, 0, 0, 3)
OWN = {"keys": "own", "projection": "deep", "queue": 8, "projection_width": 6, "alpha": 0.05}


def released(features, queue, labels, queue_labels, logits, log_prior, alpha=0.05, temperature=0.2):
    """All anchors at once: features and logits of both views, [2B, d] and [2B, C]."""
    rows, row_labels = torch.cat([features, queue]), torch.cat([labels, labels, queue_labels])
    both = torch.cat([labels, labels])
    centres = logits + log_prior
    samples = features @ rows.T / temperature
    own = torch.eye(len(both), len(rows), dtype=torch.bool)
    mask = ((both[:, None] == row_labels) & ~own).float() * alpha
    hot = F.one_hot(both, logits.shape[1]).float()
    exp = torch.cat([centres.exp(), samples.exp() * ~own], dim=1)
    log_p = torch.cat([centres, samples], dim=1) - exp.sum(dim=1, keepdim=True).log()
    weights = torch.cat([hot, mask], dim=1)
    return -((weights * log_p).sum(dim=1) / weights.sum(dim=1)).mean()


def test_the_loss_and_its_gradient_are_the_released_ones():
    method = tiny.build("paco", OWN)
    views = (tiny.images(6, 0), tiny.images(6, 1))
    labels = torch.tensor([0, 1, 2, 0, 4, 6])
    out = method.training_step([Batch(views, labels, torch.arange(6))], AT)
    features = [method.backbone(view) for view in views]
    unit = torch.cat([F.normalize(method.projection(f), dim=1) for f in features])
    logits = torch.cat([method.head(f) for f in features])
    expected = released(
        unit, method.queue.features, labels, method.queue.labels, logits, method.log_prior
    )
    torch.testing.assert_close(out.loss, expected)
    weight = method.projection[0].weight
    (found,) = torch.autograd.grad(out.loss, weight, retain_graph=True)
    (other,) = torch.autograd.grad(expected, weight)
    torch.testing.assert_close(found, other)
    assert not out.carry["keys"].requires_grad


def test_there_is_no_second_network_and_no_batch_norm_in_the_projection():
    method = tiny.build("paco", OWN)
    assert method.key is None
    assert not [name for name in method.state_dict() if name.startswith("key.")]
    kinds = [type(layer) for layer in method.projection]
    assert kinds == [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]
    assert method.stages()[0].update_norm == ()


def test_it_has_one_objective():
    with pytest.raises(ValueError, match="which has the objective paco"):
        PaCoOptions(keys="own", objective="multi-task")
