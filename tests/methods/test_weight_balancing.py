"""Weight balancing against the facts of the specification of the baselines (entry 28)."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from longtail.core import Batch, Position
from longtail.engine import checkpoint as ckpt
from longtail.losses import class_weights
from longtail.methods import METHODS
from longtail.methods.weight_balancing import capped_rows, longest_allowed
from longtail.recipes import resolve
from longtail.recipes.options import validate_stored
from tests import tiny

ROWS = torch.tensor([[3.0, 4.0], [0.6, 0.8], [0.0, 2.0]])


def test_the_golden_values_of_the_cap():
    cap = longest_allowed(ROWS, 0.1)
    assert float(cap) == pytest.approx(1.4)
    expected = torch.tensor([[0.84, 1.12], [0.6, 0.8], [0.0, 1.4]])
    torch.testing.assert_close(capped_rows(ROWS, cap), expected)


@given(st.integers(0, 2**31), st.floats(0, 1))
def test_capping_twice_is_capping_once_and_short_rows_stay(seed, share):
    rows = torch.randn(9, 4, generator=torch.Generator().manual_seed(seed))
    cap = longest_allowed(rows, share)
    once = capped_rows(rows, cap)
    torch.testing.assert_close(capped_rows(once, cap), once)
    short = rows.norm(dim=1) <= cap
    assert torch.equal(once[short], rows[short])
    assert (once.norm(dim=1) <= cap * (1 + 1e-6)).all()


def test_the_stages_and_their_losses():
    method = tiny.build("weight-balancing")
    first, cap, second = method.stages()
    assert (first.trainable, first.weight_decay) == (("backbone", "head"), None)
    assert cap.kind == "fit"
    assert (second.trainable, second.weight_decay, second.schedule) == (("head",), 0.1, "cosine")
    assert (second.epochs, second.learning_rate) == (10, 0.01)
    # as released: the frozen backbone's statistics follow the batches, and the schedule is an epoch ahead
    assert second.update_norm == ("backbone",)
    assert tiny.build("weight-balancing", {"second_bn": "eval"}).stages()[2].update_norm == ()
    labels = torch.arange(12) % 7
    batch = Batch((tiny.images(12),), labels, torch.arange(12))
    logits = method.predict(batch.images)
    plain = method.training_step([batch], Position(0, 0, 0, 0, 3)).loss
    torch.testing.assert_close(plain, F.cross_entropy(logits, labels))
    weights = class_weights(tiny.COUNTS, "effective-number", beta=0.9999)
    hot = F.one_hot(labels, 7).float()
    each = F.binary_cross_entropy(logits.softmax(1), hot, reduction="none").mean(1)
    found = method.training_step([batch], Position(0, 2, 0, 0, 3)).loss
    torch.testing.assert_close(found, (weights[labels] * each).mean())
    text = tiny.build("weight-balancing", {"loss": "cross-entropy"})
    found = text.training_step([batch], Position(0, 2, 0, 0, 3)).loss
    torch.testing.assert_close(found, F.cross_entropy(text.predict(batch.images), labels, weights))


def test_rows_stay_below_the_cap_of_the_first_stage(tmp_path):
    method = tiny.build("weight-balancing", {"second_rate": 1.0, "second_decay": 0.0, "second": 3})
    tiny.train(method, tmp_path, name="weight-balancing")
    first = ckpt.read_weights(tmp_path / "checkpoints" / "stage-0-end")
    cap = longest_allowed(first["head.weight"], 0.1)
    torch.testing.assert_close(method.longest, cap)
    lengths = method.head.weight.norm(dim=1)
    assert (lengths <= cap * (1 + 1e-6)).all()
    assert (lengths > cap * 0.99).any()  # the cap was felt
    line = next(x for x in tiny.RunFolder(tmp_path).read_metrics() if x["stage"] == "cap")
    assert line["longest_row"] == pytest.approx(float(cap))


@pytest.mark.parametrize("ahead", [True, False])
def test_the_rates_of_the_released_loop(tmp_path, ahead):
    method = tiny.build("weight-balancing", {"second": 4, "ahead": ahead})
    tiny.train(method, tmp_path, name="weight-balancing")
    lines = tiny.RunFolder(tmp_path).read_metrics()
    found = [line["learning_rate"] for line in lines if line["stage"] == "classifier"]
    # 0.01 / 2 (1 + cos(pi e / 4)), e from 1 to 4: the code steps its schedule before an epoch
    whole = [0.01, 0.0085355, 0.005, 0.0014645, 0.0]
    assert found == pytest.approx(whole[1:] if ahead else whole[:4], abs=1e-6)


def test_a_run_of_before_has_no_schedule_ahead():
    stored = resolve("cifar100-lt/weight-balancing").model_dump(mode="json")
    for key in ("ahead", "second_bn"):
        del stored["method"][key]
    method = validate_stored(stored, "config").method
    assert (method.ahead, method.second_bn) == (False, "eval")


def test_second_stages_share_a_first_one():
    kind = METHODS["weight-balancing"]
    assert kind.shares_first_stage(kind.Config(), kind.Config(loss="cross-entropy"))
    assert not kind.shares_first_stage(kind.Config(), METHODS["mislas"].Config())


def test_the_recipe_has_the_published_options():
    training = resolve("cifar100-lt/weight-balancing").training
    assert (training.weight_decay, training.learning_rate, training.epochs) == (5e-3, 0.01, 320)
    assert (training.batch_size, training.schedule, training.decay_norm_and_bias) == (
        64, "cosine", True,
    )  # fmt: skip
