"""The class distribution that scores assume: what training leaves, and how it is moved, exactly."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from longtail.adjust import deployment_shift, distribution
from longtail.adjust.tool import CORRECTIONS, Evidence, Outputs, Request
from longtail.core import ClassCounts
from longtail.core.batch import Position
from longtail.core.errors import ConfigError
from longtail.core.prior import UNKNOWN, read_stated, stated_prior, written
from longtail.engine.checkpoint import newest, read_metadata
from longtail.ensembles import SubModelLogits, compare_mixtures
from longtail.methods.ingredients import (
    BalancedSoftmaxOptions,
    ClassWeightOptions,
    CrossEntropyOptions,
    InverseSoftmaxOptions,
    LogitAdjustedOptions,
    SamplingOptions,
    assumed,
)
from tests import tiny

TEN_TO_ONE = ClassCounts([100, 10], ("frequent", "rare"))
END = Position(0, 0, 2, 0, 3)  # the last of three epochs
ENDS = {"decoupling": 1, "tde": 1, "mislas": 1, "gcl": 1, "weight-balancing": 2}  # last stages


def log_ratio(shift):
    """Return what a shift adds to the rare class over what it adds to the frequent one."""
    return float(shift[1] - shift[0])


# --- what training leaves -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 0.0),  # it assumes the training counts already
        ({"loss": "balanced-softmax"}, -np.log(10)),
        ({"sampling": "class-balanced"}, -np.log(10)),
        ({"sampling": "progressive"}, -np.log(10)),  # at its end
        ({"class_weights": "inverse"}, -np.log(10)),
        ({"sampling": "reversed"}, -4.60517),
        ({"sampling": "square-root"}, -1.151293),
        ({"loss": {"name": "logit-adjusted", "tau": 0.5}}, -1.151293),
        ({"class_weights": "square-root"}, -1.151293),
        ({"loss": {"name": "inverse-softmax", "reversal": 2.0}}, -3 * np.log(10)),
        ({"loss": "balanced-softmax", "sampling": "class-balanced"}, -2 * np.log(10)),
        # the last epoch is before or after the switch
        ({"sampling": {"name": "reversed", "start": 2}}, -4.60517),
        ({"sampling": {"name": "reversed", "start": 3}}, 0.0),
        ({"class_weights": {"name": "inverse", "start": 0.9}}, 0.0),
        ({"class_weights": {"name": "inverse", "start": 0.5}}, -np.log(10)),
    ],
)
def test_moving_scores_to_the_training_counts(options, expected):
    prior = tiny.build("single-head", options, counts=TEN_TO_ONE).assumed_prior(END)
    shift = deployment_shift(prior, TEN_TO_ONE.prior(torch.float64))
    assert log_ratio(shift) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("single-head", {"loss": "ldam", "head": "cosine"}),
        ("single-head", {"loss": "focal"}),
        ("single-head", {"loss": {"name": "cross-entropy", "label_smoothing": 0.1}}),
        ("single-head", {"mixing": {"partners": "class-balanced"}}),
        ("experts", {"losses": ["ldam", "ldam"], "diversity": 0.45}),
        ("decoupling", {"classifier": "tau"}),
        ("decoupling", {"classifier": "lws"}),
        ("decoupling", {"classifier": "ncm"}),
        ("paco", {"queue": 8}),
        ("tde", {"alpha": 1.5}),
        ("bbn", {}),
        ("mislas", {}),
        ("ncl", {}),
        ("reslt", {}),
        ("do", {}),
    ],
)
def test_what_is_not_known_is_not_guessed(method, options):
    at = Position(0, ENDS.get(method, 0), 2, 0, 3)
    assert tiny.build(method, options).assumed_prior(at) is None


def test_classifiers_of_several_stages():
    counts = tiny.COUNTS
    training = counts.prior(torch.float64)
    for classifier, stage, expected in (
        ("joint", 0, training),
        ("crt", 0, training),
        ("crt", 1, torch.full_like(training, 1 / 7)),
    ):
        method = tiny.build("decoupling", {"classifier": classifier})
        found = method.assumed_prior(Position(0, stage, 2, 0, 3))
        torch.testing.assert_close(found, expected)
    assert tiny.build("tde", {"alpha": 0}).assumed_prior(Position(0, 1, 0, 0, 0)) is not None
    multi = tiny.build("paco", {"objective": "multi-task", "queue": 8})
    torch.testing.assert_close(multi.assumed_prior(END), training)


def test_the_mean_of_experts_assumes_the_geometric_mean():
    method = tiny.build("experts", {"narrow": False}, counts=TEN_TO_ONE)  # SADE
    # log pi, uniform, and 2 log R(pi): -2.303, 0 and 4.605 in the rare class
    prior = method.assumed_prior(END)
    assert log_ratio(prior.log()) == pytest.approx((-1 + 0 + 2) * np.log(10) / 3)


LOSSES = [
    CrossEntropyOptions(),
    BalancedSoftmaxOptions(),
    LogitAdjustedOptions(tau=0.5),
    LogitAdjustedOptions(tau=-0.3),
    InverseSoftmaxOptions(reversal=1.0),
]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
@pytest.mark.parametrize("sampler", ["instance", "square-root", "reversed"])
@pytest.mark.parametrize("weights", [None, "square-root"])
def test_the_minimum_of_the_loss_assumes_what_is_said(loss, sampler, weights):
    """Minimise the expected loss over a table of logits, and compare with Bayes' rule for the prior."""
    counts = ClassCounts([60, 25, 5])
    generator = torch.Generator().manual_seed(1)
    density = torch.rand(4, 3, generator=generator, dtype=torch.float64) + 0.1
    density /= density.sum(dim=0)  # p(x | y) of four kinds of images
    exponent = {"instance": 1.0, "square-root": 0.5, "reversed": -1.0}[sampler]
    drawn = counts.tensor(torch.float64) ** exponent
    joint = density * drawn / drawn.sum()  # p(x, y) as sampled
    weighting = None if weights is None else ClassWeightOptions(name=weights)
    if weighting is not None:
        joint = joint * weighting.build(counts).double()
    table = torch.zeros(4, 3, dtype=torch.float64, requires_grad=True)
    module = loss.build(counts, 1.0)
    optimizer = torch.optim.LBFGS(
        [table], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-15,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def expected_loss():
        optimizer.zero_grad()
        each = torch.stack(
            [module.per_image(table, torch.full((4,), label)) for label in range(3)], 1
        )
        value = (each * joint).sum()
        value.backward()
        return value

    optimizer.step(expected_loss)
    sampling = SamplingOptions(name=sampler).build(3)
    prior = assumed(counts, END, losses=(loss,), sampling=sampling, weighting=weighting)
    bayes = density * prior
    found = table.detach().softmax(dim=1)
    torch.testing.assert_close(found, bayes / bayes.sum(dim=1, keepdim=True), atol=1e-5, rtol=1e-4)


def test_the_right_shift_is_worth_fourteen_points():
    """Two normal densities 1.48 apart, a reversed sampler, and use at 10 : 1."""
    distance = 1.48

    def accuracy(threshold):  # the rare class has the larger mean
        return (10 * norm.cdf(threshold) + norm.sf(threshold - distance)) / 11

    prior = tiny.build("single-head", {"sampling": "reversed"}, counts=TEN_TO_ONE).assumed_prior(
        END
    )
    for assumes, expected in ((prior, 0.918), (torch.full((2,), 0.5), 0.770)):
        shift = deployment_shift(assumes, TEN_TO_ONE.prior(torch.float64))
        # log p(x | rare) - log p(x | frequent) = distance (x - distance / 2), and log 10 of the sampler
        threshold = distance / 2 - (np.log(10) + log_ratio(shift)) / distance
        assert accuracy(threshold) == pytest.approx(expected, abs=5e-4)


def test_checkpoints_say_what_their_own_epoch_assumes(tmp_path):
    method = tiny.build("single-head", {"sampling": "progressive"})
    folder = tiny.train(method, tmp_path)
    last = read_metadata(newest(folder.checkpoints))
    assert last.assumed_prior == pytest.approx([1 / 7] * 7)
    n = np.array(tiny.COUNTS.values)
    middle = read_metadata(folder.checkpoints / "stage-0-epoch-0002")
    assert middle.assumed_prior == pytest.approx((n / n.sum() + 1 / 7) / 2)
    unknown = tiny.train(tiny.build("reslt"), tmp_path / "reslt", name="reslt")
    assert read_metadata(newest(unknown.checkpoints)).assumed_prior == UNKNOWN


# --- algebra ------------------------------------------------------------------------------------

COUNT_LISTS = st.lists(st.integers(1, 5000), min_size=2, max_size=7)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("logit-adjust"), st.floats(-2, 2)),
        st.tuples(st.just("prior"), st.integers(0, 10**6)),
        st.tuples(st.just("temperature"), st.just(1.0)),
    ),
    min_size=1,
    max_size=5,
)


def some_prior(size, seed):
    shares = np.random.default_rng(seed).dirichlet(np.ones(size)) + 1e-6
    return torch.from_numpy(shares / shares.sum())


@settings(max_examples=60)
@given(counts=COUNT_LISTS, exponent=st.floats(-1.5, 1.5), steps=STEPS, seed=st.integers(0, 10**6))
def test_chains_of_corrections_compose(counts, exponent, steps, seed):
    counts = ClassCounts(counts)
    size = len(counts)
    density = torch.from_numpy(np.random.default_rng(seed).normal(size=(5, size)))
    begin = distribution(exponent * counts.log_prior(torch.float64))
    labels = torch.zeros(5, dtype=torch.int64)
    logits, stated = density + begin.log(), written(begin)
    for name, value in steps:
        evidence = Evidence(
            counts, {"val": Outputs(labels, logits), "test": Outputs(labels, logits)}, None, ("?",),
            stated,
        )  # fmt: skip
        request = Request(value) if name != "prior" else Request(prior=some_prior(size, value))
        done = CORRECTIONS[name](evidence, request)
        logits, stated = done.logits(evidence, "test"), written(done.assumed)
    # whatever came before, the scores are right for the prior in use
    target = some_prior(size, seed)
    shifted = logits + deployment_shift(stated_prior(stated, counts, ("?",)), target)
    right = (density + target.log()).softmax(1)
    torch.testing.assert_close(shifted.softmax(1), right, atol=1e-5, rtol=1e-4)


@settings(max_examples=40)
@given(counts=COUNT_LISTS, exponents=st.lists(st.floats(-1, 1), min_size=2, max_size=4))
def test_ensembles_of_runs_with_other_priors_compose(counts, exponents):
    counts = ClassCounts(counts)
    generator = np.random.default_rng(len(exponents))
    density = torch.from_numpy(generator.normal(size=(6, len(counts))))
    priors = [distribution(e * counts.log_prior(torch.float64)) for e in exponents]
    clean = torch.stack([density + prior.log() for prior in priors], dim=1)
    labels = density.argmax(dim=1)  # what uniform classes would predict
    logits = SubModelLogits(clean, clean, clean, labels, torch.stack([p.log() for p in priors]))
    rows = {row["name"]: row for row in compare_mixtures(logits, counts)}
    assert rows["average without known bias"]["accuracy"] == 1.0
    # the mean of logits assumes the geometric mean
    joint = distribution(torch.stack([p.log() for p in priors]).mean(dim=0))
    uniform = torch.full_like(joint, 1 / len(counts))
    shifted = clean.mean(dim=1) + deployment_shift(joint, uniform)
    torch.testing.assert_close(shifted.softmax(1), density.softmax(1))


def test_unknown_priors_are_asked_for():
    counts = ClassCounts([60, 12, 4])
    labels = torch.arange(3)
    evidence = Evidence(counts, {"test": Outputs(labels, torch.eye(3))}, None, ("ldam",))
    with pytest.raises(ConfigError, match=r"unknown.*\(ldam\).*--assumed"):
        CORRECTIONS["prior"](evidence, Request(prior=torch.full((3,), 1 / 3)))
    told = evidence.told(assumed=torch.full((3,), 1 / 3, dtype=torch.float64))
    same = CORRECTIONS["prior"](told, Request(prior=torch.full((3,), 1 / 3)))
    torch.testing.assert_close(same.offset, torch.zeros(3))
    # names of which the prior follows
    for name, exponent in (
        ("balanced-softmax", 0), ("Square_root sampling", 0.5), ("reversed-sampling", -1),
    ):  # fmt: skip
        plain = Evidence(counts, evidence.splits).told((name,)).known_prior()
        expected = counts.tensor(torch.float64) ** exponent
        torch.testing.assert_close(plain, expected / expected.sum())
    assert evidence.told(("balanced-softmax",)).prior() is None  # beside another correction


@pytest.mark.parametrize("value", ["no", [0.5, 0.6], [1.5, -0.5], [float("nan"), 1], [], 3])
def test_damaged_priors_are_refused(value):
    with pytest.raises(ValueError, match="assumed prior"):
        read_stated(value)


def test_strengths_beyond_all_numbers_leave_no_numbers():
    log_prior = ClassCounts([10**6, 1]).log_prior(torch.float64)
    assert distribution(100 * log_prior) is None
    assert distribution(20 * log_prior).min() == pytest.approx(1e-120, rel=1e-3)
