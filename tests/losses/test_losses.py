"""Losses against the golden values of the specification and against slow oracles."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from longtail.core import ClassCounts, DataError
from longtail.data.splits.long_tail import profile_counts
from longtail.losses import (
    LADE,
    LDAM,
    CrossEntropy,
    Focal,
    GaussianClouded,
    InverseSoftmax,
    LogitAdjusted,
    SigmoidFocal,
    SoftmaxBinary,
    SoftmaxEqualization,
    VectorScaling,
    balanced_softmax,
    class_weights,
    cloud_sizes,
    cross_entropy,
    focal,
    gaussian_clouded,
    lade_regulariser,
    ldam,
    ldam_margins,
    logit_adjusted,
    rare_positive_bias,
    sigmoid_focal,
    softmax_binary,
    softmax_equalization,
)

# Toy G and toy H of the specification of the baselines, section 2.0
COUNTS = ClassCounts([100, 10, 1])
Z = torch.tensor([[2.0, 1.0, 0.0]] * 3, dtype=torch.float64)
COSINES = torch.tensor([[0.6, 0.3, -0.2]] * 3, dtype=torch.float64)
Y = torch.arange(3)
LOG_PRIOR = COUNTS.log_prior(torch.float64)
W = class_weights(COUNTS, "effective-number", beta=0.9999, dtype=torch.float64)


def losses(function, *arguments, **options):
    return function(*arguments, **options, reduction="none").tolist()


GOLDEN = [
    (lambda: losses(cross_entropy, Z, Y), [0.407606, 1.407606, 2.407606]),
    (lambda: losses(focal, Z, Y, gamma=1), [0.136450, 1.063125, 2.190848]),
    (lambda: losses(focal, Z, Y, gamma=2), [0.045678, 0.802948, 1.993605]),
    (lambda: losses(sigmoid_focal, Z, Y, gamma=0), [2.133337, 3.133337, 4.133337]),
    (lambda: losses(sigmoid_focal, Z, Y, gamma=1), [1.321775, 2.304215, 3.180037]),
    (lambda: losses(sigmoid_focal, Z, Y, gamma=2), [0.876959, 1.846023, 2.525233]),
    (lambda: losses(focal, Z, Y, gamma=1, class_weights=W), [0.003706, 0.287436, 5.920706]),
    (lambda: losses(balanced_softmax, Z, Y, COUNTS), [0.037432, 3.340017, 6.642602]),
    (lambda: losses(logit_adjusted, Z, Y, LOG_PRIOR, tau=1), [0.037432, 3.340017, 6.642602]),
    (lambda: losses(logit_adjusted, Z, Y, LOG_PRIOR, tau=0.5), [0.122100, 2.273393, 4.424685]),
    (lambda: losses(logit_adjusted, Z, Y, LOG_PRIOR, tau=2), [0.003686, 5.608856, 11.214026]),
    (lambda: losses(logit_adjusted, Z, Y, LOG_PRIOR, tau=3), [0.000368, 7.908123, 15.815879]),
    (lambda: losses(ldam, COSINES, Y, torch.zeros(3)), [0.000123, 9.000123, 24.000123]),
    (
        lambda: losses(ldam, COSINES, Y, ldam_margins(COUNTS, 0.5, torch.float64)),
        [0.014071, 17.435120, 39.000123],
    ),
    (lambda: ldam_margins(COUNTS, 0.5, torch.float64).tolist(), [0.158114, 0.281171, 0.5]),
    (lambda: W.tolist(), [0.0272, 0.2704, 2.7025]),
    (
        lambda: class_weights(COUNTS, "effective-number", beta=0.9, dtype=torch.float64).tolist(),
        [0.2393, 0.3674, 2.3932],
    ),
]


@pytest.mark.parametrize("case", range(len(GOLDEN)))
def test_golden_values(case):
    computed, expected = GOLDEN[case]
    digits = 4 if max(expected) < 3 and case >= len(GOLDEN) - 2 else 6
    assert computed() == pytest.approx(expected, abs=0.6 * 10**-digits)


def test_post_hoc_argmax_flips_in_toy_g():
    corrected = Z[0] - LOG_PRIOR
    assert corrected.tolist() == pytest.approx([2.10436, 3.40695, 4.70953], abs=1e-5)
    assert Z[0].argmax() == 0
    assert corrected.argmax() == 2


@pytest.mark.parametrize(
    ("ratio", "head", "tail"),
    [(100, 0.0449, 4.3783), (50, 0.0789, 3.8494), (10, 0.2582, 2.5247)],
)
def test_effective_number_weights_of_cifar100(ratio, head, tail):
    counts = ClassCounts(profile_counts("exponential", 100, 500, ratio))
    weights = class_weights(counts, "effective-number", dtype=torch.float64)
    assert weights[0] == pytest.approx(head, abs=5e-5)
    assert weights[-1] == pytest.approx(tail, abs=5e-5)
    assert weights.sum() == pytest.approx(100)
    if ratio == 100:
        assert weights[-1] / weights[0] == pytest.approx(97.6, abs=0.05)


@pytest.mark.parametrize(
    ("ratio", "place", "margin"),
    [(100, 0, 0.1581), (100, 50, 0.2841), (50, 0, 0.1880), (10, 0, 0.2812)],
)
def test_ldam_margins_of_cifar100(ratio, place, margin):
    counts = ClassCounts(profile_counts("exponential", 100, 500, ratio))
    margins = ldam_margins(counts, dtype=torch.float64)
    assert margins[place] == pytest.approx(margin, abs=5e-5)
    assert margins.max() == 0.5
    assert margins.argmax() == int(np.argmin(counts.values))


def test_limits_of_the_weights():
    inverse = class_weights(COUNTS, "inverse", dtype=torch.float64)
    for beta, expected in ((0.0, torch.ones(3)), (1.0, inverse), (1 - 1e-12, inverse)):
        weights = class_weights(COUNTS, "effective-number", beta=beta, dtype=torch.float64)
        torch.testing.assert_close(weights, expected.double(), rtol=1e-6, atol=1e-6)
    roots = class_weights(COUNTS, "square-root", dtype=torch.float64)
    assert (roots[2] / roots[0]).item() == pytest.approx(10)
    powers = class_weights(COUNTS, "power", exponent=0.25, dtype=torch.float64)
    assert (powers[2] / powers[0]).item() == pytest.approx(100**0.25)
    torch.testing.assert_close(
        class_weights(COUNTS, "power", exponent=1.0, dtype=torch.float64), inverse
    )
    with pytest.raises(ValueError, match="beta"):
        class_weights(COUNTS, "effective-number", beta=1.5)


# --- slow oracles, one loop per equation ------------------------------------------------------


def softmax_of(row):
    top = max(row)
    powers = [math.exp(value - top) for value in row]
    return [power / sum(powers) for power in powers]


def oracle_cross_entropy(row, label, smoothing):
    p = softmax_of(row)
    target = [(1 - smoothing) * (c == label) + smoothing / len(row) for c in range(len(row))]
    return -sum(t * math.log(q) for t, q in zip(target, p, strict=True))


def oracle_focal(row, label, gamma):
    p = softmax_of(row)[label]
    return -((1 - p) ** gamma) * math.log(p)


def oracle_sigmoid_focal(row, label, gamma):
    total = 0.0
    for c, value in enumerate(row):
        p = 1 / (1 + math.exp(-value))
        pt = p if c == label else 1 - p
        total += -((1 - pt) ** gamma) * math.log(pt)
    return total


def oracle_logit_adjusted(row, label, counts, tau):
    shifted = [z + tau * math.log(n / sum(counts)) for z, n in zip(row, counts, strict=True)]
    return oracle_cross_entropy(shifted, label, 0.0)


def oracle_ldam(row, label, counts, max_margin, scale):
    delta = max_margin * (min(counts) / counts[label]) ** 0.25
    shifted = [scale * (u - delta * (c == label)) for c, u in enumerate(row)]
    return oracle_cross_entropy(shifted, label, 0.0)


problems = st.integers(2, 7).flatmap(
    lambda c: st.tuples(
        st.lists(st.lists(st.floats(-6, 6), min_size=c, max_size=c), min_size=1, max_size=5),
        st.lists(st.integers(1, 2000), min_size=c, max_size=c),
        st.randoms(use_true_random=False),
    )
)


@settings(max_examples=60, deadline=None)
@given(problems, st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.5]))
def test_losses_equal_their_equations(problem, strength):
    rows, counts, random = problem
    labels = [random.randrange(len(counts)) for _ in rows]
    z, y = torch.tensor(rows, dtype=torch.float64), torch.tensor(labels)
    known = ClassCounts(counts)
    margins = ldam_margins(known, 0.5, torch.float64)
    pairs = [
        (
            losses(cross_entropy, z, y, label_smoothing=strength / 4),
            lambda row, label: oracle_cross_entropy(row, label, strength / 4),
        ),
        (losses(focal, z, y, gamma=strength), lambda r, t: oracle_focal(r, t, strength)),
        (
            losses(sigmoid_focal, z, y, gamma=strength),
            lambda r, t: oracle_sigmoid_focal(r, t, strength),
        ),
        (
            losses(logit_adjusted, z, y, known.log_prior(torch.float64), tau=strength),
            lambda r, t: oracle_logit_adjusted(r, t, counts, strength),
        ),
        (
            losses(ldam, z / 6, y, margins, scale=30.0),
            lambda r, t: oracle_ldam([v / 6 for v in r], t, counts, 0.5, 30.0),
        ),
    ]
    for computed, oracle in pairs:
        expected = [oracle(row, label) for row, label in zip(rows, labels, strict=True)]
        assert computed == pytest.approx(expected, rel=1e-9, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(problems)
def test_relations_between_losses(problem):
    rows, counts, random = problem
    z = torch.tensor(rows, dtype=torch.float64)
    y = torch.tensor([random.randrange(len(counts)) for _ in rows])
    known = ClassCounts(counts)
    close = lambda a, b: torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)  # noqa: E731
    ce = cross_entropy(z, y)
    close(logit_adjusted(z, y, known.log_prior(torch.float64), tau=0), ce)
    close(
        balanced_softmax(z, y, known),
        logit_adjusted(z, y, known.log_prior(torch.float64), tau=1),
    )
    close(balanced_softmax(z, y, ClassCounts([7] * len(counts))), ce)
    close(focal(z, y, gamma=0), ce)
    assert focal(z, y, gamma=1.5) <= ce + 1e-12
    close(cross_entropy(z + 3.7, y), ce)
    bce = torch.nn.functional.binary_cross_entropy_with_logits(
        z, torch.nn.functional.one_hot(y, len(counts)).double(), reduction="sum"
    )
    close(sigmoid_focal(z, y, gamma=0), bce / len(y))
    # margins depend on ratios of counts only
    many = ClassCounts([3 * n for n in counts])
    close(ldam_margins(known, dtype=torch.float64), ldam_margins(many, dtype=torch.float64))
    # relabelling the classes relabels everything
    order = torch.randperm(len(counts), generator=torch.Generator().manual_seed(0))
    place = torch.argsort(order)
    mixed = ClassCounts([counts[i] for i in order])
    close(balanced_softmax(z[:, order], place[y], mixed), balanced_softmax(z, y, known))


def test_zero_logits_and_gradients():
    z = torch.zeros(4, 100, dtype=torch.float64, requires_grad=True)
    loss = cross_entropy(z, torch.arange(4))
    assert loss.item() == pytest.approx(math.log(100))
    loss.backward()
    torch.testing.assert_close(z.grad.sum(1), torch.zeros(4, dtype=torch.float64))
    focal_at_certainty = focal(
        torch.tensor([[80.0, 0.0]], requires_grad=True), torch.tensor([0]), gamma=0.5
    )
    focal_at_certainty.backward()
    assert torch.isfinite(focal_at_certainty)


def test_the_first_loss_of_the_sigmoid_form():
    # spec 5(d): 69.3 at zero bias, 5.60 with the bias of a rare positive, at 100 classes
    y = torch.arange(8)
    assert sigmoid_focal(torch.zeros(8, 100), y, gamma=0).item() == pytest.approx(69.3, abs=0.05)
    z = torch.full((8, 100), rare_positive_bias(100))
    assert sigmoid_focal(z, y, gamma=0).item() == pytest.approx(5.60, abs=0.005)


def test_reductions_are_named():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(6, 3, dtype=torch.float64, generator=generator)
    y = torch.tensor([0, 0, 0, 0, 1, 2])
    each = cross_entropy(z, y, class_weights=W, reduction="none")
    weighted = cross_entropy(z, y, class_weights=W)
    torch.testing.assert_close(weighted, torch.nn.functional.cross_entropy(z, y, weight=W))
    torch.testing.assert_close(weighted, each.sum() / W[y].sum())
    torch.testing.assert_close(cross_entropy(z, y, class_weights=W, reduction="mean"), each.mean())
    # a batch with every class once: both agree, because the weights average to one
    once, labels = z[[0, 4, 5]], y[[0, 4, 5]]
    torch.testing.assert_close(
        cross_entropy(once, labels, class_weights=W),
        cross_entropy(once, labels, class_weights=W, reduction="mean"),
    )


@pytest.mark.parametrize(
    "module",
    [CrossEntropy(0.1), Focal(2.0), SigmoidFocal(1.0), LogitAdjusted(COUNTS, 1.5), LDAM(COUNTS)],
)
def test_modules_are_finite_in_half_precision_and_keep_gradients(module):
    z = (30 * torch.tensor([[1.0, -1.0, 0.5], [-1.0, 1.0, 0.9]])).bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = module(z, torch.tensor([1, 2]), torch.tensor([0.1, 1.0, 1.9]))
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    loss.backward()
    assert torch.isfinite(z.grad).all()


@pytest.mark.parametrize(
    "module",
    [
        CrossEntropy(0.1),
        Focal(2.0),
        SigmoidFocal(1.0),
        SoftmaxBinary(),
        LogitAdjusted(COUNTS),
        LDAM(COUNTS),
    ],
)
def test_shapes_that_do_not_fit_are_refused(module):
    # gather would take the first rows and leave the others out: two views of each image, one label
    with pytest.raises(DataError, match=r"logits have shape \[6, 3\] and the labels \[3\]"):
        module(torch.zeros(6, 3), Y)
    with pytest.raises(DataError, match=r"the labels \[3, 1\]"):
        module(torch.zeros(3, 3), Y[:, None])


@pytest.mark.parametrize("width", [1, 2, 4])
@pytest.mark.parametrize("kind", [LogitAdjusted, LDAM, LADE, VectorScaling, InverseSoftmax])
def test_a_loss_of_other_classes_than_the_logits_is_refused(kind, width):
    # one logit would be broadcast to all three classes, and a margin of a fourth class never be used
    labels = torch.zeros(2, dtype=torch.int64)
    with pytest.raises((DataError, RuntimeError), match=rf"\b{width}\b"):
        kind(COUNTS)(torch.zeros(2, width), labels)


def test_one_logit_is_not_broadcast_to_all_classes():
    labels, one, each = torch.zeros(2, dtype=torch.int64), torch.zeros(2, 1), torch.zeros(2, 3)
    with pytest.raises(DataError, match="knows 3 classes, but the logits are of 1"):
        gaussian_clouded(one, labels, each, torch.ones(3))
    with pytest.raises(DataError, match="knows 3 classes, but the logits are of 1"):
        softmax_equalization(one, labels, each.bool())


def test_module_forms_equal_functions():
    y = torch.tensor([0, 1, 2])
    z, u = Z.float(), COSINES.float()
    weights = torch.tensor([0.5, 1.0, 1.5])
    for module, function in [
        (
            LogitAdjusted(COUNTS, 2.0),
            lambda r: logit_adjusted(
                z, y, COUNTS.log_prior(), tau=2.0, class_weights=weights, reduction=r
            ),
        ),
        (Focal(2.0), lambda r: focal(z, y, gamma=2.0, class_weights=weights, reduction=r)),
        (
            SigmoidFocal(2.0),
            lambda r: sigmoid_focal(z, y, gamma=2.0, class_weights=weights, reduction=r),
        ),
        (
            CrossEntropy(0.2),
            lambda r: cross_entropy(z, y, label_smoothing=0.2, class_weights=weights, reduction=r),
        ),
    ]:
        for reduction in ("none", "mean", "weighted-mean"):
            torch.testing.assert_close(module(z, y, weights, reduction), function(reduction))
    torch.testing.assert_close(
        LDAM(COUNTS, 0.5, 30.0)(30 * u, y), ldam(u, y, ldam_margins(COUNTS), scale=30.0)
    )


# --- LADE (entry 21 of the baselines) ---------------------------------------------------------------

LADE_Z = torch.tensor([[2, 1, 0], [0, 1, 1], [1, -1, 2], [0.5, 0.5, 0.5]], dtype=torch.float64)
LADE_Y = torch.tensor([0, 0, 1, 2])


@pytest.mark.parametrize(("form", "golden"), [("code", -0.392788), ("paper", 2.940036)])
def test_the_golden_values_of_lade(form, golden):
    found = lade_regulariser(LADE_Z, LADE_Y, LOG_PRIOR, quadratic=0.1, form=form)
    assert float(found) == pytest.approx(golden, abs=1e-6)
    loss = LADE(COUNTS, alpha=0.3, quadratic=0.1, form=form)(LADE_Z, LADE_Y)
    assert float(loss) == pytest.approx(2.337765 + 0.3 * golden, abs=1e-5)
    without = LADE(COUNTS, alpha=0.0, form=form)(LADE_Z, LADE_Y)
    assert float(without) == pytest.approx(
        float(balanced_softmax(LADE_Z, LADE_Y, COUNTS)), abs=1e-5
    )


def test_both_forms_of_lade_agree_on_uniform_classes():
    log_prior = ClassCounts([8] * 3).log_prior(torch.float64)
    found = [
        lade_regulariser(LADE_Z, LADE_Y, log_prior, quadratic=0.5, form=form)
        for form in ("code", "paper")
    ]
    torch.testing.assert_close(*found)


def test_a_constant_in_a_column_moves_the_quadratic_term_of_lade_only():
    moved = LADE_Z + torch.tensor([0.0, 3.0, 0.0])
    before, after = (lade_regulariser(z, LADE_Y, LOG_PRIOR, quadratic=0.0) for z in (LADE_Z, moved))
    torch.testing.assert_close(before, after)
    # a class without an image keeps its T: there the constant stays
    absent = torch.zeros(4, dtype=torch.int64)
    gone = [lade_regulariser(z, absent, LOG_PRIOR, quadratic=0.0) for z in (LADE_Z, moved)]
    torch.testing.assert_close(gone[1] - gone[0], 3 * LOG_PRIOR.exp()[1])


# --- softmax equalization (entry 18) ----------------------------------------------------------------


def test_the_golden_values_of_softmax_equalization():
    loss = SoftmaxEqualization(COUNTS, spared=1.0, threshold=0.05)
    assert loss.rare.tolist() == [False, False, True]
    assert loss(Z, Y, None, "none").tolist() == pytest.approx(
        [0.313262, 1.313262, 2.407606], abs=1e-6
    )


@pytest.mark.parametrize("never", [{"spared": 0.0}, {"threshold": 0.0}])
def test_nothing_spared_is_cross_entropy(never):
    found = SoftmaxEqualization(COUNTS, **never)(Z, Y, None, "none")
    torch.testing.assert_close(found, F.cross_entropy(Z, Y, reduction="none"))


@pytest.mark.parametrize(("ratio", "rare"), [(100, 52), (50, 47), (10, 29)])
def test_rare_classes_of_cifar(ratio, rare):
    counts = ClassCounts(profile_counts("exponential", 100, 500, ratio))
    assert int(SoftmaxEqualization(counts).rare.sum()) == rare


def test_a_spared_class_is_not_pushed():
    z = torch.randn(64, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    z.requires_grad_()
    labels = torch.arange(64) % 2  # never the rare class
    spared = torch.zeros(64, 3, dtype=torch.bool)
    spared[::2, 2] = True
    spared[:, 0] = labels == 0  # an image's own class always counts
    found = softmax_equalization(z, labels, spared)
    assert (found <= F.cross_entropy(z, labels, reduction="none") + 1e-12).all()
    found.sum().backward()
    assert (z.grad[::2, 2] == 0).all()
    assert (z.grad[1::2, 2] > 0).all()
    assert (z.grad.gather(1, labels[:, None]) < 0).all()


# --- Gaussian clouded logits (entry 26) -------------------------------------------------------------


def test_the_golden_values_of_gaussian_clouded_logits():
    delta = cloud_sizes(COUNTS)
    assert delta.tolist() == pytest.approx([0, 0.5, 1])
    found = gaussian_clouded(30 * COSINES, Y, torch.full((3, 3), 0.5), 30 * 0.5 * delta)
    assert found.tolist() == pytest.approx([0.000003, 12.750003, 31.500003], abs=1e-6)
    assert cloud_sizes(ClassCounts([7, 7])).tolist() == [0, 0]


def test_clouds_hit_every_column_but_that_of_the_most_frequent_class():
    loss = GaussianClouded(COUNTS)
    flat = torch.zeros(20_000, 3)
    torch.manual_seed(0)
    noise = (torch.randn(20_000, 3) / 3).abs().clamp_max(1)
    shift = noise * loss.spread
    assert not shift[:, 0].any()
    # 30 * 0.5 * E|eps| = 3.99, worked out from the half-normal distribution
    assert float(shift[:, 2].mean()) == pytest.approx(15 * (2 / math.pi) ** 0.5 / 3, rel=0.02)
    torch.manual_seed(0)
    labels = torch.zeros(20_000, dtype=torch.int64)
    expected = F.cross_entropy(flat - shift, labels)
    torch.testing.assert_close(loss(flat, labels), expected)


def test_without_cloud_and_margin_it_is_cross_entropy():
    plain = F.cross_entropy(30 * COSINES, Y, reduction="none")
    found = GaussianClouded(COUNTS, sigma=0.0)(30 * COSINES, Y, None, "none")
    torch.testing.assert_close(found, plain)
    # a margin that is alike for all classes, at the label only: LDAM with equal margins
    found = GaussianClouded(COUNTS, sigma=0.0, margin=0.1)(30 * COSINES, Y, None, "none")
    torch.testing.assert_close(found, ldam(COSINES, Y, torch.full((3,), 0.1), reduction="none"))


# --- binary cross-entropy on softmax's outputs ------------------------------------------------------


def test_softmax_binary_is_what_it_says():
    z = torch.randn(9, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    labels = torch.arange(9) % 5
    hot = F.one_hot(labels, 5).double()
    expected = F.binary_cross_entropy(z.softmax(1), hot, reduction="none").mean(dim=1)
    torch.testing.assert_close(softmax_binary(z, labels), expected)
    weights = torch.linspace(0.5, 1.5, 5, dtype=torch.float64)
    torch.testing.assert_close(
        SoftmaxBinary()(z, labels, weights), (expected * weights[labels]).mean()
    )


def test_softmax_binary_is_finite_where_one_class_takes_all():
    z = torch.tensor([[200.0, -200.0]], requires_grad=True)
    for label in (0, 1):
        loss = softmax_binary(z, torch.tensor([label])).sum()
        assert torch.isfinite(loss)
        assert torch.isfinite(torch.autograd.grad(loss, z)[0]).all()
