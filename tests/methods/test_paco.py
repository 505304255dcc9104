"""PaCo: the testable facts of the specification, A4, by their numbers. Golden values in float64."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from longtail import api
from longtail.core import Batch, ClassCounts, Position, ShotGroups
from longtail.data.splits.long_tail import profile_counts
from longtail.engine import checkpoint as ckpt
from longtail.engine.optimisation import prepare_stage, training_mode
from longtail.engine.schedule import learning_rate
from longtail.losses import (
    balanced_softmax,
    contrast,
    cross_entropy,
    paco,
    supervised_contrastive,
)
from longtail.methods import METHODS, Setting
from longtail.methods.paco import Measured, PaCo, PaCoOptions
from longtail.models import build_backbone
from longtail.models.momentum import MomentumCopy
from longtail.models.queue import LabelledQueue
from longtail.recipes import resolve
from tests import tiny

DOUBLE = torch.float64
# example E0 of the specification
Q = torch.tensor([[1, 0], [0.6, 0.8]], dtype=DOUBLE)
K = torch.tensor([[0.8, 0.6], [0, 1]], dtype=DOUBLE)
QUEUE = torch.tensor([[-1, 0], [0.6, -0.8]], dtype=DOUBLE)
Y, QUEUE_Y = torch.tensor([0, 1]), torch.tensor([0, 2])
Z = torch.tensor([[1, 0, -1], [0.5, 0.5, 0]], dtype=DOUBLE)
COUNTS = ClassCounts([100, 10, 1])
PRIOR = COUNTS.log_prior(DOUBLE)


def pairs(temperature=0.5, queue=QUEUE, queue_labels=QUEUE_Y, q=Q):
    return contrast(q, K, queue, Y, queue_labels, temperature)


def loss(alpha, temperature=0.5, prior=PRIOR, z=Z, **more):
    return paco(z, pairs(temperature), Y, log_prior=prior, alpha=alpha, **more)


def near(value, expected, digits=6):
    assert float(value) == pytest.approx(expected, abs=0.6 * 10**-digits)


def test_1_with_the_prior():
    terms = loss(0.05)
    near(terms.loss.mean(), 3.269147)
    near(terms.loss[0], 1.929913)
    near(terms.loss[1], 4.608380)
    assert terms.positives.tolist() == [2, 1]


def test_2_without_the_prior():
    terms = loss(0.05, prior=None)
    near(terms.loss.mean(), 2.193905)
    near(terms.loss[0], 1.931348)
    near(terms.loss[1], 2.456463)


@pytest.mark.parametrize(
    ("temperature", "alpha", "with_prior", "without"),
    [
        (0.5, 0.02, 3.289532, 2.177843),
        (0.5, 1.0, 2.791321, 2.290550),
        (0.05, 0.05, 17.849240, 16.655640),
        (0.05, 0.02, 18.024103, 16.794055),
        (0.05, 1.0, 14.632453, 14.013324),
    ],
)
def test_3_and_4_other_weights_and_temperatures(temperature, alpha, with_prior, without):
    near(loss(alpha, temperature).loss.mean(), with_prior)
    near(loss(alpha, temperature, prior=None).loss.mean(), without)


def test_one_temperature_for_everything_as_printed():
    # equation 8 by its letters: all logits of an anchor divided by one number
    known = pairs(0.5)
    found = loss(0.2, centre_temperature=0.5).loss
    for anchor in range(len(Y)):
        centres = ((Z[anchor] + PRIOR) / 0.5).tolist()
        samples = known.similarity[anchor][known.usable[anchor]].tolist()
        total = sum(math.exp(value) for value in [*centres, *samples])
        own = known.similarity[anchor][known.positive[anchor] > 0].tolist()
        log_p = [centres[int(Y[anchor])] - math.log(total)]
        log_p += [0.2 * (value - math.log(total)) for value in own]
        near(found[anchor], -sum(log_p) / (1 + 0.2 * len(own)))


def test_5_without_positives_samples_stay_in_the_denominator():
    near(loss(0.0).loss.mean(), 3.302843)
    near(balanced_softmax(Z, Y, COUNTS), 1.220413)
    near(loss(0.0, sample_share=0.0).loss.mean(), 1.220413)


def test_6_positives_only():
    near(loss(1e6).loss.mean(), 2.097192)
    # the limit itself, where the centre has no weight
    near(loss(1.0, centre_weight=0.0).loss.mean(), 2.097192, digits=5)


def test_7_gradient_of_the_centres():
    z = Z.clone().requires_grad_()
    loss(0.05, z=z).loss.mean().backward()
    expected = [[-0.3743635, 0.0029497, 0.0001085], [0.0421745, -0.4719730, 0.0002558]]
    torch.testing.assert_close(z.grad, torch.tensor(expected, dtype=DOUBLE), atol=6e-8, rtol=0)


def test_7_the_gradient_of_an_anchor_sums_to_zero():
    z, s = Z.clone().requires_grad_(), pairs().similarity.clone().requires_grad_()
    given = pairs()
    made = type(given)(s, given.positive, given.usable)
    paco(z, made, Y, log_prior=PRIOR, alpha=0.05).loss.mean().backward()
    torch.testing.assert_close(z.grad.sum(1) + s.grad.sum(1), torch.zeros(2, dtype=DOUBLE))


def test_8_supervised_contrast_and_multi_task():
    each = supervised_contrastive(pairs())
    near(each[0], 2.7439, 4)
    near(each[1], 1.1705, 4)
    near(each.mean(), 1.9572, 4)
    near(cross_entropy(Z, Y), 0.6828, 4)
    near(cross_entropy(Z, Y) + 0.05 * each.mean(), 0.7807, 4)


def test_9_where_the_temperature_belongs():
    near(paco(Z / 0.5, pairs(), Y, log_prior=PRIOR, alpha=0.05).loss.mean(), 2.7274, 4)
    near(paco((Z + PRIOR) / 0.5, pairs(), Y, alpha=0.05).loss.mean(), 3.8887, 4)
    counts = COUNTS.tensor(DOUBLE).log()
    near(paco(Z, pairs(), Y, log_prior=counts, alpha=0.05).loss.mean(), 1.5769, 4)


def given(similarity, positive):
    s = torch.tensor([similarity], dtype=DOUBLE)
    kind = type(pairs())
    return kind(s, torch.tensor([positive], dtype=DOUBLE), torch.ones_like(s, dtype=torch.bool))


def test_10_a_constant_prior_is_no_no_op():
    z, y = torch.tensor([[2.0, 0, 1]], dtype=DOUBLE), torch.tensor([0])
    known = given([4.0, 3, -1, 0], [1.0, 1, 0, 0])
    terms = paco(z, known, y, alpha=0.05)
    near(terms.loss, 2.331369)
    near(paco(z - math.log(3), known, y, alpha=0.05).loss, 3.241322)
    near(cross_entropy(z, y), 0.407606)
    near(cross_entropy(z - math.log(3), y), 0.407606)
    inside = z.logsumexp(1) - torch.cat([z, known.similarity], dim=1).logsumexp(1)
    near(inside.exp(), 0.127438)


def test_11_an_anchor_is_not_its_own_sample_and_has_its_own_key():
    found = pairs()
    assert not found.usable[0, 0]
    assert not found.usable[1, 1]
    assert found.positive[0, 0] == 0
    assert found.similarity[0, 0] == -math.inf
    # classes that are nowhere in the queue
    absent = pairs(queue_labels=torch.tensor([2, 2]))
    assert absent.positive.sum(1).tolist() == [1, 1]
    s = found.similarity.clone().requires_grad_()
    made = type(found)(s, found.positive, found.usable)
    paco(Z, made, Y, log_prior=PRIOR, alpha=0.05).loss.sum().backward()
    assert s.grad[0, 0] == 0
    assert torch.isfinite(s.grad).all()


def test_12_the_order_of_the_queue_does_not_matter():
    flipped = paco(Z, pairs(queue=QUEUE.flip(0), queue_labels=QUEUE_Y.flip(0)), Y, log_prior=PRIOR)
    torch.testing.assert_close(flipped.loss, loss(0.05).loss)
    wrong = paco(Z, pairs(queue_labels=QUEUE_Y.flip(0)), Y, log_prior=PRIOR)
    assert not torch.allclose(wrong.loss, loss(0.05).loss)


def test_13_queries_are_samples_with_gradient_and_keys_are_constants():
    q, k, queue = (tensor.clone().requires_grad_() for tensor in (Q, K, QUEUE))
    paco(Z, contrast(q, k, queue, Y, QUEUE_Y, 0.5), Y, log_prior=PRIOR).loss[1].backward()
    assert q.grad[0].abs().sum() > 0  # q_0 as a sample of anchor 1
    method = tiny.build("paco", {"queue": 32})
    images = tiny.images(8)
    batch = Batch((images, images), torch.arange(8) % 7, torch.arange(8))
    method.train().training_step([batch], Position(0, 0, 0, 0, 3)).loss.backward()
    assert all(p.grad is None for p in method.key.parameters())
    assert not method.queue.features.requires_grad


def test_14_the_loss_is_the_sum_of_two_less_an_extra():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(5, 4, dtype=DOUBLE, generator=generator)
    s = torch.randn(5, 9, dtype=DOUBLE, generator=generator)
    positive = (torch.rand(5, 9, generator=generator) < 0.4).to(DOUBLE)
    y, alpha = torch.tensor([0, 1, 2, 3, 0]), 0.05
    known = type(pairs())(s, positive, torch.ones_like(s, dtype=torch.bool))
    terms = paco(z, known, y, alpha=alpha)
    unscaled = terms.loss * (1 + alpha * terms.positives)
    whole = torch.cat([z, s], dim=1).logsumexp(1)
    p_centres, p_samples = (z.logsumexp(1) - whole).exp(), (s.logsumexp(1) - whole).exp()
    torch.testing.assert_close(p_centres + p_samples, torch.ones(5, dtype=DOUBLE))
    supervised = F.cross_entropy(z, y, reduction="none")
    summed = -(positive * s.log_softmax(1)).sum(1)
    extra = p_centres.log() + alpha * terms.positives * p_samples.log()
    torch.testing.assert_close(unscaled, supervised + alpha * summed - extra, atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("positives", "alpha", "centre", "pair"),
    [
        (8, 0.05, 0.714286, 0.0357143),
        (47, 0.01, 0.680272, 0.00680272),
        (1, 0.02, 0.980392, 0.0196078),
    ],
)
def test_15_optimum_of_free_logits(positives, alpha, centre, pair):
    """Remark 2, by optimising the logits themselves."""
    others = 5
    z = torch.zeros(1, 3, dtype=DOUBLE, requires_grad=True)
    s = torch.zeros(1, positives + others, dtype=DOUBLE, requires_grad=True)
    positive = torch.tensor([[1.0] * positives + [0.0] * others], dtype=DOUBLE)
    usable = torch.ones_like(positive, dtype=torch.bool)
    optimizer = torch.optim.LBFGS(
        [z, s], max_iter=2000, tolerance_grad=1e-14, tolerance_change=0,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure():
        optimizer.zero_grad()
        known = type(pairs())(s, positive, usable)
        value = paco(z, known, torch.tensor([0]), alpha=alpha).loss.sum()
        value.backward()
        return value

    for _ in range(5):
        optimizer.step(closure)
    p = torch.cat([z, s], dim=1).detach().softmax(1)[0]
    near(p[0], centre, 5)
    near(p[3], pair, 5)
    # the rest of the mass vanishes
    assert float(p[1:3].sum() + p[3 + positives :].sum()) < 1e-6
    assert float(p[3 : 3 + positives].sum() + p[0]) == pytest.approx(1, abs=1e-6)


def test_15_remark_1_supervised_contrast_shares_equally():
    s = torch.zeros(1, 11, dtype=DOUBLE, requires_grad=True)
    positive = torch.tensor([[1.0] * 8 + [0.0] * 3], dtype=DOUBLE)
    optimizer = torch.optim.LBFGS([s], max_iter=2000, tolerance_grad=1e-14, tolerance_change=0,
                                  line_search_fn="strong_wolfe")  # fmt: skip

    def closure():
        optimizer.zero_grad()
        known = type(pairs())(s, positive, torch.ones_like(positive, dtype=torch.bool))
        value = supervised_contrastive(known).sum()
        value.backward()
        return value

    optimizer.step(closure)
    torch.testing.assert_close(
        s.detach().softmax(1)[0, :8], torch.full((8,), 1 / 8, dtype=DOUBLE), atol=1e-5, rtol=0
    )


def test_16_minimum_of_the_extra_loss():
    strength = 0.05 * 8.192
    p = torch.linspace(1e-4, 1 - 1e-4, 99_999, dtype=DOUBLE)
    extra = -p.log() - strength * (1 - p).log()
    near(p[extra.argmin()], 1 / (1 + strength), 4)
    near(p[extra.argmin()], 0.7094, 4)
    near(extra.min(), 0.8495, 4)
    for place, value in ((0.1, 2.3457), (0.3, 1.3501), (0.5, 0.9771), (0.9, 1.0485)):
        near(-math.log(place) - strength * math.log(1 - place), value, 4)


def test_16_numbers_of_the_remarks():
    counts = ClassCounts(profile_counts("exponential", 100, 500, 100))
    head, tail = (1024 * counts.prior(DOUBLE)[c] for c in (0, 99))
    near(head, 47.20, 2)
    near(tail, 0.472, 3)
    for alpha, pair, centre in ((0.01, (0.006793, 0.009953), (0.6793, 0.9953)),
                                (0.02, (0.010288, 0.019813), (0.5144, 0.9907))):  # fmt: skip
        for positives, p_pair, p_centre in zip((head, tail), pair, centre, strict=True):
            near(alpha / (1 + alpha * positives), p_pair, 5)
            near(1 / (1 + alpha * positives), p_centre, 4)


def test_17_the_key_network_follows():
    source = torch.nn.Linear(2, 2)
    torch.nn.init.ones_(source.weight)
    copy = MomentumCopy(source, 0.999)
    torch.nn.init.zeros_(copy.network.weight)
    copy.follow(source)
    torch.testing.assert_close(copy.network.weight, torch.full((2, 2), 0.001))
    assert not any(p.requires_grad for p in copy.parameters())


def steps(method, count, seed=0):
    """Take optimiser-free steps and return the batches."""
    stage = method.stages()[0]
    prepare_stage(method, stage, 0, 0)
    training_mode(method, stage)
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.1)
    given = []
    for step in range(count):
        views = (tiny.images(8, 2 * step + seed), tiny.images(8, 2 * step + 1 + seed))
        batch = Batch(views, (torch.arange(8) + step) % 7, torch.arange(8))
        at = Position(0, 0, 0, step, 3)
        before = {n: p.clone() for n, p in method.key.network.named_parameters()}
        queued = method.queue.features.clone()
        out = method.training_step([batch], at)
        assert torch.equal(method.queue.features, queued), "the loss sees the queue as it was"
        assert all(torch.equal(p, before[n]) for n, p in method.key.network.named_parameters())
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        method.after_step(out, at)
        given.append((batch, out))
    return given


def test_17_keys_move_by_following_only_and_keep_their_own_statistics():
    method = tiny.build("paco", {"queue": 32, "momentum": 0.9})
    query = torch.nn.Sequential(method.backbone, method.projection)
    for own, other in zip(method.key.network.parameters(), query.parameters(), strict=True):
        assert torch.equal(own, other)  # on the first step the two are equal
    before = [p.clone() for p in method.key.network.parameters()]
    steps(method, 1)
    for old, own, other in zip(
        before, method.key.network.parameters(), query.parameters(), strict=True
    ):
        torch.testing.assert_close(own, 0.9 * old + 0.1 * other)
    mean = "0.network.bn1.running_mean"
    assert not torch.equal(method.key.network.state_dict()[mean], query.state_dict()[mean])
    assert method.key.network.state_dict()["0.network.bn1.num_batches_tracked"] == 1


def test_18_the_queue():
    method = tiny.build("paco", {"queue": 32})
    rows = method.queue.features.norm(dim=1)
    # unit columns: rows are short
    assert float(rows.square().mean()) == pytest.approx(128 / 32, rel=1e-4)
    given = steps(method, 4)
    assert int(method.queue.place) == 0  # wrapped
    torch.testing.assert_close(method.queue.features.norm(dim=1), torch.ones(32))
    labels = torch.cat([batch.labels for batch, _ in given])
    assert torch.equal(method.queue.labels, labels)
    assert torch.equal(method.queue.features[8:16], given[1][1].carry["keys"])


def test_18_starts_of_the_queue():
    counts = ClassCounts([5, 3])
    published = LabelledQueue(1024, 32, counts, "published")
    assert float(published.features.norm(dim=1).mean()) == pytest.approx(
        (32 / 1024) ** 0.5, rel=0.05
    )
    assert set(published.labels.tolist()) == {0, 1}
    torch.testing.assert_close(
        LabelledQueue(64, 8, counts, "unit-rows").features.norm(dim=1), torch.ones(64)
    )
    empty = LabelledQueue(4, 2, counts, "empty")
    assert empty.labels.tolist() == [-1] * 4
    found = contrast(Q, K, empty.features.to(DOUBLE), Y, empty.labels, 0.5)
    assert not found.usable[:, 4:].any()
    assert torch.isfinite(paco(Z, found, Y, log_prior=PRIOR).loss).all()
    assert torch.isfinite(supervised_contrastive(found)).all()


def test_18_a_queue_wraps_in_the_middle_and_takes_the_last_of_too_many():
    queue = LabelledQueue(5, 1, ClassCounts([1]), "empty")
    for start in (0, 3, 6):
        queue.append(torch.arange(start, start + 3.0)[:, None], torch.zeros(3, dtype=torch.int64))
    assert queue.features.flatten().tolist() == [5, 6, 7, 8, 4]
    queue.append(torch.arange(20.0, 27)[:, None], torch.zeros(7, dtype=torch.int64))
    assert sorted(queue.features.flatten().tolist()) == [22, 23, 24, 25, 26]


def test_19_learning_rate():
    config = resolve("cifar100-lt/paco").training
    expected = {0: 0.005, 9: 0.05, 10: 0.055, 11: 0.05, 320: 0.05, 321: 0.005, 360: 0.005,
                361: 0.0005, 399: 0.0005}  # fmt: skip
    for epoch, rate in expected.items():
        assert learning_rate(config, epoch, 400) == pytest.approx(rate, rel=1e-9), epoch
    large = resolve("imagenet-lt/paco", ["root=x"]).training
    for epoch, rate in {0: 0.002, 9: 0.02, 10: 0.01999968, 205: 0.00995983, 399: 3.2e-7}.items():
        assert learning_rate(large, epoch, 400) == pytest.approx(
            rate, rel=3e-2 if epoch == 399 else 1e-6
        )


def test_20_prediction_is_the_linear_layer():
    method = tiny.build("paco", {"queue": 32}).eval()
    images = tiny.images(4)
    before = method.predict(images)
    assert torch.equal(before, method.head(method.backbone(images)))
    with torch.no_grad():
        for parameter in method.projection.parameters():
            parameter.add_(1)
        method.log_prior.add_(1)
    assert torch.equal(method.predict(images), before)
    shifted = paco(Z, pairs(), Y, log_prior=PRIOR + 1).loss
    assert not torch.allclose(shifted, loss(0.05).loss)


def build(backbone, counts, **options):
    setting = Setting(
        counts, ShotGroups.from_counts(counts), 1, lambda: build_backbone(backbone), tiny.experts
    )
    return PaCo(PaCoOptions(**options), setting)


def test_21_parameters():
    counts = ClassCounts(profile_counts("exponential", 100, 500, 100))
    method = build("resnet32", counts, projection_width=32, queue=1024)
    assert sum(p.numel() for p in method.projection.parameters()) == 6368
    assert sum(p.numel() for p in method.head.parameters()) == 6500


@pytest.mark.parametrize(("ratio", "expected"), [(100, 84), (50, 98), (10, 152)])
def test_22_steps_of_an_epoch(ratio, expected):
    assert sum(profile_counts("exponential", 100, 500, ratio)) // 128 == expected


# --- beyond the facts --------------------------------------------------------------------------


def test_half_precision_does_not_touch_the_loss():
    q, k, queue = Q.float(), K.float(), QUEUE.float()
    plain = paco(Z.float(), contrast(q, k, queue, Y, QUEUE_Y, 0.05), Y, log_prior=PRIOR)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = paco(Z.float(), contrast(q, k, queue, Y, QUEUE_Y, 0.05), Y, log_prior=PRIOR)
    assert torch.equal(plain.loss, under.loss)


def test_places_trains_norms_and_the_last_bottleneck():
    method = build("resnet50", COUNTS, train="last-bottleneck", queue=8)
    stage = method.stages()[0]
    prepare_stage(method, stage, 0, 0)
    free = {name for name, p in method.named_parameters() if p.requires_grad}
    convolutions = {n for n in free if method.get_parameter(n).ndim == 4}
    assert {n.rpartition(".conv")[0] for n in convolutions} == {"backbone.network.layer4.2"}
    assert "backbone.network.bn1.weight" in free
    assert {"head.weight", "projection.0.weight"} <= free
    training_mode(method, stage)
    assert method.backbone.network.bn1.training


def test_supcon_leaves_its_backbone_to_the_probe(tmp_path):
    method = tiny.build("paco", {"objective": "supcon", "queue": 32, "probe_epochs": 2})
    run = tiny.train(method, tmp_path, name="paco")
    first, second = (ckpt.read_weights(run.checkpoints / f"stage-{n}-end") for n in (0, 1))
    for name in first:
        assert torch.equal(first[name], second[name]) != name.startswith("head."), name
    # the classifier was not trained with the contrast
    fresh = tiny.build("paco", {"objective": "supcon", "queue": 32, "probe_epochs": 2})
    assert torch.equal(first["head.weight"], fresh.head.weight)
    assert {line["stage"] for line in run.read_metrics()} == {"contrast", "linear probe"}


def test_what_is_measured_for_the_report(tmp_path):
    method = tiny.build("paco", {"queue": 32})
    steps(method, 3)
    anchors, centres, positives, count, gradient = Measured(*method.measured)
    assert anchors.sum() == 24
    assert count.unique().tolist() == [3]
    assert ((centres >= 0) & (centres <= anchors)).all()
    assert (positives >= anchors).all()  # the own key at least
    assert (gradient > 0).all()
    figures = method.figures([], [])
    assert [figure.title for figure in figures] == [
        "Probability of the image's own class centre", "Positives in the contrast set",
        "Gradient of the classifier, by class",
    ]  # fmt: skip
    assert tiny.build("paco", {"queue": 32}).figures([], []) == ()


def test_a_folder_trains_on_a_timm_backbone(image_folder, tmp_path):
    line = ["method=paco", "backbone=convnext_atto", "image_size=32", "epochs=1", "batch_size=4",
            "queue=16"]  # fmt: skip
    run = api.train(str(image_folder), line, out=tmp_path / "run", device="cpu")
    assert run.scores("test")["num_classes"] == 3
    assert METHODS["paco"] is PaCo


JOINT = """
import torch, torch.distributed as dist
from longtail.core import distributed
from longtail.losses import contrast, paco
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
torch.manual_seed(0)
x, k, queue = (torch.nn.functional.normalize(torch.randn(n, 4), dim=1) for n in (8, 8, 6))
y, ql, z = torch.arange(8) % 3, torch.arange(6) % 3, torch.randn(8, 3)

def run(rows, join):
    weight = torch.eye(4, requires_grad=True)
    q, keys, labels = x[rows] @ weight, k[rows], y[rows]
    others = (distributed.join(q), distributed.join(keys), distributed.join(labels)) if join else None
    pairs = contrast(q, keys, queue, labels, ql, 0.5, others=others, first=rank * len(rows) if join else 0)
    loss = paco(z[rows], pairs, labels, alpha=0.5).loss.mean()
    loss.backward()
    return loss.detach(), weight.grad

everything, gradient = run(torch.arange(8), False)
part, own = run(torch.arange(8).chunk(world)[rank], True)
torch.testing.assert_close(distributed.mean(part), everything)
torch.testing.assert_close(distributed.mean(own), gradient)
local, _ = run(torch.arange(8).chunk(world)[rank], False)
assert not torch.allclose(distributed.mean(local), everything)
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_the_joint_contrast_of_two_processes_is_that_of_one(tmp_path):
    script = Path(tmp_path) / "joint.py"
    script.write_text(JOINT)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
