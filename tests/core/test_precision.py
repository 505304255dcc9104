"""Every public loss and correction in half precision against float64, and at logits of +-100 exactly."""

import inspect
from decimal import Decimal, localcontext

import pytest
import torch

import longtail.adjust
import longtail.ensembles
import longtail.losses
from longtail import adjust, ensembles, losses
from longtail.core import ClassCounts
from longtail.core.groups import ShotGroups
from longtail.losses import LabelLoss, contrast

COUNTS = ClassCounts([20_000, 900, 130, 60, 7, 1])
C, B, E = len(COUNTS), 8, 3
GENERATOR = torch.Generator().manual_seed(5)
LABELS = torch.arange(B) % C


def drawn(*shape, size=6.0):
    return size * torch.randn(*shape, generator=GENERATOR, dtype=torch.float64)


LOGITS, EXPERTS = drawn(B, C), drawn(B, E, C)
COSINES = torch.tanh(drawn(B, C, size=0.6))
UNIT = torch.nn.functional.normalize(drawn(3 * B, 4), dim=1)
HEIGHTS = torch.nn.functional.normalize(drawn(B, 32), dim=1)
NOISE = torch.rand(B, C, generator=GENERATOR, dtype=torch.float64)
SPARED = torch.rand(B, C, generator=GENERATOR) < 0.4
PRIOR = COUNTS.prior(torch.float64)
OTHER = PRIOR.flip(0)
MARGINS = losses.ldam_margins(COUNTS, dtype=torch.float64)
WIDE = COUNTS.log_prior(torch.float64)
FEATURES, ROWS = drawn(40, 5), drawn(C, 5).bfloat16().double()
SEEN = torch.arange(40) % C


def pairs(unit):
    """Anchors, keys and a queue from the rows of one matrix."""
    return contrast(unit[:B], unit[B : 2 * B], unit[2 * B :], LABELS, LABELS, 0.1)


def scored(classifier, features):
    return classifier.scores(features)


# what is computed from: name -> (input in float64, what the loss or correction makes of it)
LOSSES = {
    "adjusted_cross_entropy": (LOGITS, lambda z: losses.adjusted_cross_entropy(
        z, LABELS, bias=WIDE, margin=MARGINS, label_smoothing=0.1, focal_gamma=2.0)),
    "cross_entropy": (LOGITS, lambda z: losses.cross_entropy(z, LABELS, reduction="none")),
    "balanced_softmax": (LOGITS, lambda z: losses.balanced_softmax(z, LABELS, COUNTS, reduction="none")),
    "logit_adjusted": (LOGITS, lambda z: losses.logit_adjusted(z, LABELS, WIDE, tau=2, reduction="none")),
    "focal": (LOGITS, lambda z: losses.focal(z, LABELS, gamma=2, reduction="none")),
    "sigmoid_focal": (LOGITS, lambda z: losses.sigmoid_focal(z, LABELS, gamma=2, reduction="none")),
    "ldam": (COSINES, lambda z: losses.ldam(z, LABELS, MARGINS, reduction="none")),
    "softmax_binary": (LOGITS, lambda z: losses.softmax_binary(z, LABELS)),
    "softmax_equalization": (LOGITS, lambda z: losses.softmax_equalization(z, LABELS, SPARED)),
    "gaussian_clouded": (LOGITS, lambda z: losses.gaussian_clouded(z, LABELS, NOISE, 15 * PRIOR, 2.0)),
    "compensated_cross_entropy": (LOGITS, lambda z: losses.compensated_cross_entropy(
        z, LABELS, losses.reversed_prior(COUNTS).log())),
    "lade_regulariser": (LOGITS, lambda z: losses.lade_regulariser(z, LABELS, WIDE, quadratic=0.1)),
    "diversity": (EXPERTS, lambda z: losses.diversity(z, losses.diversity_temperature(COUNTS, 0.02))),
    "distillation": (LOGITS, lambda z: losses.distillation(z, z.flip(0), 1.5)),
    "mutual_divergence": (EXPERTS, losses.mutual_divergence),
    "masked_logits": (EXPERTS, lambda z: losses.mutual_divergence(
        losses.masked_logits(z, losses.hard_categories(z[:, 0], LABELS, 3)[:, None]))),
    "hard_categories": (LOGITS, lambda z: losses.hard_categories(z, LABELS, 3).double()),
    "contrast": (UNIT, lambda x: pairs(x).similarity.masked_fill(~pairs(x).usable, 0)),
    "supervised_contrastive": (UNIT, lambda x: losses.supervised_contrastive(pairs(x))),
    "vector_scaling": (LOGITS, lambda z: losses.vector_scaling(
        z, LABELS, losses.class_temperatures(COUNTS, 0.2), WIDE, 0.75)),
    "lifted_structured": (FEATURES, lambda x: losses.lifted_structured(x, SEEN)),
    "range_loss": (FEATURES, lambda x: losses.range_loss(x, SEEN, margin=50.0)),
    "targeted_contrastive": (UNIT, lambda x: losses.targeted_contrastive(
        x[:B], UNIT[B : 2 * B], UNIT[2 * B :], LABELS[:, None] == LABELS, 0.1, UNIT[:C], LABELS, 0.2)),
    "concentration": (0.1 * FEATURES, lambda x: losses.concentration(x) / 100),
    "log_bessel": (LOGITS.abs(), lambda k: losses.log_bessel(k, 128)),
    "expected_similarity": (HEIGHTS, lambda h: losses.expected_similarity(h, 0.5 * HEIGHTS[:C], 0.5)),
    "balanced_contrastive": (UNIT, lambda x: losses.balanced_contrastive(
        x[: 2 * B], LABELS, x[2 * B : 2 * B + C], 0.1)),
    "knowledge_excavation": (
        EXPERTS, lambda z: torch.stack(losses.knowledge_excavation(z, LABELS))),
    "paco": (LOGITS, lambda z: losses.paco(z, pairs(UNIT), LABELS, log_prior=WIDE).loss),
}  # fmt: skip
# functions of class counts alone, which are computed in float64 whatever the logits are
OF_COUNTS = {
    "class_temperatures", "class_weights", "cloud_sizes",
     "diversity_temperature", "inverse_bias", "ldam_margins",
    "preference", "rare_positive_bias", "reversed_prior", "smoothing_by_class",
}  # fmt: skip
MODULES = {
    "CrossEntropy": losses.CrossEntropy(0.1), "Focal": losses.Focal(2.0), "LADE": losses.LADE(COUNTS),
    "SigmoidFocal": losses.SigmoidFocal(2.0), "LDAM": losses.LDAM(COUNTS),
    "LogitAdjusted": losses.LogitAdjusted(COUNTS, 2.0), "SoftmaxBinary": losses.SoftmaxBinary(),
    "InverseSoftmax": losses.InverseSoftmax(COUNTS), "GaussianClouded": losses.GaussianClouded(COUNTS),
    "LabelAwareSmoothing": losses.LabelAwareSmoothing(COUNTS),
    "SoftmaxEqualization": losses.SoftmaxEqualization(COUNTS),
    "VectorScaling": losses.VectorScaling(COUNTS, 0.2, 0.75),
}  # fmt: skip
GROUPS = ShotGroups.from_counts(COUNTS)
CORRECTIONS = {
    "logit_adjust": (LOGITS, lambda z: adjust.logit_adjust(z, COUNTS)),
    "shift_prior": (LOGITS, lambda z: adjust.shift_prior(z, PRIOR, OTHER)),
    "estimate_prior": (LOGITS, lambda z: adjust.estimate_prior(z, PRIOR)),
    "unbiased": (EXPERTS, lambda z: ensembles.unbiased(z, WIDE.expand(E, -1))),
    "weighted_sum": (EXPERTS, lambda z: ensembles.weighted_sum(z, torch.tensor([0.2, 0.3, 0.5]))),
    "instance_weights": (EXPERTS, lambda z: ensembles.instance_weights(z, z.flip(0))),
    "group_weights": (EXPERTS, lambda z: ensembles.group_weights(z, z.flip(0))),
    "learn_instance_weights": (EXPERTS, lambda z: ensembles.learn_instance_weights(z, z.flip(0))),
    "learn_group_weights": (EXPERTS, lambda z: ensembles.learn_group_weights(z, z.flip(0))),
    "nearest_class_mean": (FEATURES, lambda x: scored(adjust.nearest_class_mean(x, SEEN, C), x)),
    "tau_curve": (FEATURES, lambda x: torch.tensor(adjust.tau_curve(x, SEEN, ROWS.to(x.dtype)).accuracy)),
    "fit_temperature": (LOGITS, lambda z: torch.tensor(adjust.fit_temperature(z, LABELS))),
    "fit_stacking": (EXPERTS, lambda z: ensembles.fit_stacking(z, LABELS, GROUPS)(z)),
    "retrain_classifier": (FEATURES, lambda x: torch.cat(
        [part.flatten() for part in adjust.retrain_classifier(x, SEEN, SEEN_COUNTS, SHORT)])),
    "learn_scales": (drawn(40, C), lambda z: adjust.learn_scales(z, SEEN, SEEN_COUNTS, SHORT)),
}  # fmt: skip
SEEN_COUNTS = ClassCounts(torch.bincount(SEEN).tolist())
SHORT = adjust.Retraining(epochs=2, batch_size=8)
BOUND = {"fit_stacking": 0.05}  # where L-BFGS stops in float32 is not where it stops in float64
NO_LOGITS = {"deployment_shift", "distribution", "in_use", "scaled_learning_rate", "simplex_grid",
             "compare_mixtures"}  # fmt: skip


def functions(module):
    names = {name for name in module.__all__ if inspect.isfunction(getattr(module, name))}
    modules = {
        name for name in module.__all__
        if inspect.isclass(kind := getattr(module, name)) and issubclass(kind, LabelLoss)
    }  # fmt: skip
    return names, modules - {"LabelLoss"}


def test_nothing_public_is_left_out():
    names, modules = functions(longtail.losses)
    assert names == set(LOSSES) | OF_COUNTS
    assert modules == set(MODULES)
    names = functions(longtail.adjust)[0] | functions(longtail.ensembles)[0]
    assert names == set(CORRECTIONS) | NO_LOGITS | {"tau_normalize"}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", [*LOSSES, *CORRECTIONS])
def test_half_precision_inputs_cost_no_more_than_their_own_rounding(name, dtype):
    values, computed = {**LOSSES, **CORRECTIONS}[name]
    rounded = values.to(dtype)
    exact = computed(rounded.double()).double()
    found = computed(rounded)
    assert found.dtype in (torch.float32, torch.float64), "computed in half precision"
    bound = BOUND.get(name, 2e-5)
    torch.testing.assert_close(found.double(), exact, rtol=bound, atol=bound)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", MODULES)
def test_modules_in_half_precision(name, dtype):
    rounded, module = LOGITS.to(dtype), MODULES[name]
    torch.manual_seed(0)
    exact = module(rounded.double(), LABELS)
    torch.manual_seed(0)
    torch.testing.assert_close(module(rounded, LABELS).double(), exact, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_classifier_rows_are_rounded_once(dtype):
    rounded = ROWS.to(dtype)
    exact = adjust.tau_normalize(rounded.double(), 0.7)
    found = adjust.tau_normalize(rounded, 0.7)
    assert found.dtype == dtype  # they take the place of a layer's weights
    torch.testing.assert_close(found, exact.to(dtype), rtol=0, atol=0)
    assert torch.equal(adjust.tau_normalize(rounded, 0), rounded)


def test_a_log_prior_is_not_rounded_to_half_precision():
    # log 20001, worked out by hand; 9.875 where the prior is cast to bf16
    counts, zeros = ClassCounts([1, 20_000]), torch.zeros(1, 2, dtype=torch.bfloat16)
    label = torch.zeros(1, dtype=torch.int64)
    assert float(losses.balanced_softmax(zeros, label, counts)) == pytest.approx(9.90354, abs=1e-5)
    difference = adjust.logit_adjust(zeros, counts)[0]
    assert float(difference[0] - difference[1]) == pytest.approx(9.903488, abs=1e-5)  # log 20000


def test_ldam_scales_cosines_in_float32():
    cosines = torch.tensor([[0.7109375, 0.70703125]], dtype=torch.bfloat16)
    loss = losses.ldam(cosines, torch.zeros(1, dtype=torch.int64), torch.zeros(2))
    assert float(loss) == pytest.approx(0.63627, abs=1e-5)  # log(1 + exp(-30 / 256))


# --- logits of +-100, exactly ----------------------------------------------------------------------

FAR = [[100.0, -100.0, 0.0], [-100.0, 100.0, 0.0], [-100.0, -100.0, 100.0], [20.0, 0.0, -100.0]]
FEW = ClassCounts([1000, 30, 2])


def softmax(z):
    total = sum(value.exp() for value in z)
    return [value.exp() / total for value in z]


def log_bias(tau=1, scale=1):
    return [Decimal(tau) * (Decimal(n) / FEW.total).ln() * scale for n in FEW.values]


def plain(z, y):
    return -softmax(z)[y].ln()


def cut(p):
    return max(p.ln(), Decimal(-100)) if p > 0 else Decimal(-100)


def sigmoid_form(z, y, gamma=2):
    total = Decimal(0)
    for c, value in enumerate(z):
        right = 1 / (1 + (-value if c == y else value).exp())
        wrong = 1 / (1 + (value if c == y else -value).exp())
        total -= wrong**gamma * right.ln()
    return total


def binary_form(z, y):
    p = softmax(z)
    # 1 - p as the sum of the others: 200 digits would do as well
    others = [sum(q for other, q in enumerate(p) if other != c) for c in range(len(p))]
    return -sum(cut(p[c]) if c == y else cut(others[c]) for c in range(len(p))) / len(p)


def shifted(z, by):
    return [value + Decimal(move) for value, move in zip(z, by, strict=True)]


def with_margin(z, y, margin):
    return [value - (Decimal(margin) if c == y else 0) for c, value in enumerate(z)]


def smoothed(z, y, share):
    log_p = [p.ln() for p in softmax(z)]
    return -(1 - share) * log_p[y] - share * sum(log_p) / len(z)


LDAM_MARGINS = [30 * m for m in losses.ldam_margins(FEW, dtype=torch.float64).tolist()]
SMOOTHING = losses.smoothing_by_class(FEW, 0.4, 0.1).double().tolist()
INVERSE = losses.inverse_bias(FEW, 2.0).tolist()
TEMPERATURES = losses.class_temperatures(FEW, 0.5).double().tolist()
FAR_CASES = {
    "cross_entropy": (losses.CrossEntropy(), plain),
    "smoothed": (losses.CrossEntropy(0.1), lambda z, y: smoothed(z, y, Decimal("0.1"))),
    "label_aware": (losses.LabelAwareSmoothing(FEW, 0.4, 0.1),
                    lambda z, y: smoothed(z, y, Decimal(SMOOTHING[y]))),
    "focal": (losses.Focal(2.0), lambda z, y: (1 - softmax(z)[y]) ** 2 * plain(z, y)),
    "sigmoid_focal": (losses.SigmoidFocal(2.0), sigmoid_form),
    "balanced": (losses.LogitAdjusted(FEW), lambda z, y: plain(shifted(z, log_bias()), y)),
    "adjusted": (losses.LogitAdjusted(FEW, 2.0), lambda z, y: plain(shifted(z, log_bias(2)), y)),
    "inverse": (losses.InverseSoftmax(FEW), lambda z, y: plain(shifted(z, INVERSE), y)),
    "vector_scaling": (losses.VectorScaling(FEW, 0.5, 1.0), lambda z, y: plain(shifted(
        [v / Decimal(t) for v, t in zip(z, TEMPERATURES, strict=True)], log_bias()), y)),
    "ldam": (losses.LDAM(FEW), lambda z, y: plain(with_margin(z, y, LDAM_MARGINS[y]), y)),
    "margin": (losses.GaussianClouded(FEW, sigma=0.0, margin=0.1),
               lambda z, y: plain(with_margin(z, y, 3), y)),
    "binary": (losses.SoftmaxBinary(), binary_form),
    "equalization": (losses.SoftmaxEqualization(FEW, spared=1.0, threshold=0.01),
                     lambda z, y: plain([v for c, v in enumerate(z) if c != 2 or y == 2], y)),
    "lade": (losses.LADE(FEW, alpha=0.0), lambda z, y: plain(shifted(z, log_bias()), y)),
}  # fmt: skip


@pytest.mark.parametrize("name", FAR_CASES)
def test_losses_at_logits_of_a_hundred_are_exact(name):
    module, oracle = FAR_CASES[name]
    for row in FAR:
        for label in range(3):
            z = torch.tensor([row], requires_grad=True)
            loss = module(z, torch.tensor([label]), reduction="none").sum()
            loss.backward()
            with localcontext() as context:
                context.prec = 250
                exact = float(oracle([Decimal(value) for value in row], label))
            # a margin or a bias of float32 is rounded where it meets a logit of 100
            assert loss.item() == pytest.approx(exact, rel=1e-5, abs=1e-7), (row, label)
            assert z.grad.isfinite().all()


def test_a_sure_mistake_costs_binary_cross_entropy_its_logit():
    z = torch.tensor([[20.0, 0.0]], requires_grad=True)
    loss = losses.softmax_binary(z, torch.tensor([1])).sum()
    loss.backward()
    assert loss.item() == pytest.approx(20.0, abs=1e-5)
    torch.testing.assert_close(z.grad, torch.tensor([[1.0, -1.0]]))
    # with one class there is nothing to learn
    alone = torch.tensor([[3.0]], requires_grad=True)
    losses.softmax_binary(alone, torch.tensor([0])).sum().backward()
    assert float(alone.grad) == 0
