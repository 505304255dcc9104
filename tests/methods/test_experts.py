"""RIDE, SADE and BalPoE against the facts of the specification of the baselines (entries 29, 33 and 34)."""

import math

import pytest
import torch
import torch.nn.functional as F

from longtail import api
from longtail.core import Batch, ClassCounts, ConfigError, Position
from longtail.data.splits.long_tail import profile_counts
from longtail.ensembles.several_runs import ensemble
from longtail.losses import (
    InverseSoftmax,
    balanced_softmax,
    class_weights,
    cross_entropy,
    distillation,
    diversity,
    diversity_temperature,
    inverse_bias,
    ldam,
    ldam_margins,
    logit_adjusted,
)
from longtail.methods import METHODS
from longtail.models import build_backbone, build_experts
from longtail.models.options import ModelConfig
from longtail.models.router import would_help
from longtail.recipes import resolve
from tests import tiny
from tests.contract.test_method_contract import BALPOE, RIDE, ROUTER

TOY = ClassCounts([100, 10, 1])  # toy G
Z = torch.tensor([[2.0, 1.0, 0.0]] * 3, dtype=torch.float64)
Y = torch.arange(3)
CIFAR = ClassCounts(profile_counts("exponential", 100, 500, 100))


def batch(size=12):
    labels = torch.randint(7, (size,), generator=torch.Generator().manual_seed(3))
    return Batch((tiny.images(size, 3),), labels, torch.arange(size))


def at(epoch, epochs=10):
    return Position(0, 0, epoch, 0, epochs)


# --- losses ------------------------------------------------------------------------------------


def test_the_golden_values_of_the_third_expert():
    found = logit_adjusted(Z, Y, inverse_bias(TOY, 2.0), reduction="none")
    assert found.tolist() == pytest.approx([0.000368, 7.908123, 15.815879], abs=1e-6)
    module = InverseSoftmax(TOY, 2.0)(Z.float(), Y, None, "none")
    assert module.tolist() == pytest.approx(found.tolist(), abs=1e-5)
    # without reversal it is balanced softmax
    plain = logit_adjusted(Z, Y, inverse_bias(TOY, 0.0), reduction="none")
    assert torch.allclose(plain, balanced_softmax(Z, Y, TOY, reduction="none"))


def test_geometric_counts_make_it_logit_adjustment_of_one_plus_tau():
    counts = ClassCounts([3**k for k in range(6)])
    z = torch.randn(40, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = torch.arange(40) % 6
    bias = 3 * counts.log_prior(torch.float64)
    expected = F.cross_entropy(z + bias, y, reduction="none")
    found = logit_adjusted(z, y, inverse_bias(counts, 2.0), reduction="none")
    torch.testing.assert_close(found, expected)
    # the counts of CIFAR-100-LT are whole numbers, so there it is only nearly so
    shift = InverseSoftmax(CIFAR, 2.0).bias - 3 * CIFAR.log_prior()
    assert 0.1 < float((shift - shift.mean()).abs().max()) < 0.25


def test_uniform_frequencies_make_the_three_losses_one():
    counts = ClassCounts([20] * 4)
    z, y = torch.randn(9, 4, generator=torch.Generator().manual_seed(1)), torch.arange(9) % 4
    one = cross_entropy(z, y)
    torch.testing.assert_close(balanced_softmax(z, y, counts), one)
    torch.testing.assert_close(InverseSoftmax(counts)(z, y), one)


def test_the_golden_divergence():
    first, second = torch.tensor([2.0, 1.0, 0.0]), torch.tensor([0.0, 1.0, 2.0])
    ones = torch.ones(3)
    # KL(softmax of the mean || softmax of either) = .308994, and there are two experts
    found = diversity(torch.stack([first, second])[None], ones)
    assert float(found) == pytest.approx(2 * 0.308994, abs=2e-6)
    assert float(diversity(torch.stack([first, first])[None], ones)) == pytest.approx(0, abs=1e-7)


def test_divergence_with_temperatures_is_that_of_the_definition():
    generator = torch.Generator().manual_seed(2)
    z = torch.randn(5, 3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    t = torch.tensor([1.0, 0.9, 0.8, 0.7], dtype=torch.float64)
    expected = z.new_zeros(())
    mean = z.mean(dim=1).detach()
    for e in range(3):
        log_q = F.log_softmax(z[:, e] / t, dim=1)
        expected = expected + F.kl_div(log_q, F.softmax(mean / t, dim=1), reduction="batchmean")
    found = diversity(z, t)
    torch.testing.assert_close(found, 0.85**2 * expected)
    # no gradient through the mean
    torch.testing.assert_close(
        torch.autograd.grad(found, z)[0], torch.autograd.grad(0.85**2 * expected, z)[0]
    )


def test_temperatures_of_cifar():
    temperature = diversity_temperature(CIFAR, 0.05)
    assert float(temperature[0]) == 1.0
    assert float(temperature[-1]) == pytest.approx(0.8067, abs=1e-4)
    assert bool((temperature.diff() <= 0).all())
    assert diversity_temperature(CIFAR, 0.0).tolist() == [1.0] * 100


# --- the method --------------------------------------------------------------------------------


def test_sade_is_the_sum_of_its_three_losses():
    method, given = tiny.build("experts"), batch()
    out = method.training_step([given], at(0))
    z = method.sub_model_logits(given.images)
    assert z.shape == (12, 3, 7)
    prior = tiny.COUNTS.prior(torch.float64)
    # the reverse by hand: counts 9 30 4 4 17 1 12 have ranks 4 1 5 6 2 7 3
    reverse = torch.tensor([9, 1, 12, 17, 4, 30, 4], dtype=torch.float64) / 77
    expected = (
        F.cross_entropy(z[:, 0], given.labels)
        + F.cross_entropy(z[:, 1] + prior.log(), given.labels)
        + F.cross_entropy(z[:, 2] + prior.log() - 2 * reverse.log(), given.labels)
    )
    torch.testing.assert_close(out.loss, expected.float())
    torch.testing.assert_close(sum(out.scalars.values()), out.loss)


@pytest.mark.parametrize("epoch", [7, 8])
def test_ride_is_the_sum_of_ldam_minus_the_divergence(epoch):
    options = RIDE | {"class_weights": {"start": 0.8}}
    method, given = tiny.build("experts", options), batch()
    out = method.training_step([given], at(epoch))
    z = method.sub_model_logits(given.images)
    late = epoch >= 8
    weights = class_weights(tiny.COUNTS, "effective-number") if late else None
    margins = ldam_margins(tiny.COUNTS)
    expected = sum(
        ldam(z[:, e] / 30, given.labels, margins, class_weights=weights) for e in range(3)
    )
    temperature = diversity_temperature(tiny.COUNTS, 0.05) if late else torch.ones(7)
    expected = expected - 0.45 * diversity(z, temperature)
    torch.testing.assert_close(out.loss, expected)


def test_one_expert_of_ride_is_ldam_drw():
    options = {"losses": ["ldam"], "class_weights": {}, "diversity": 0.45}
    method, given = tiny.build("experts", options), batch()
    z = method.sub_model_logits(given.images)[:, 0]
    weights = class_weights(tiny.COUNTS, "effective-number")
    expected = ldam(z / 30, given.labels, ldam_margins(tiny.COUNTS), class_weights=weights)
    torch.testing.assert_close(method.training_step([given], at(0)).loss, expected)


def test_balpoe_is_the_mean_of_its_losses_and_one_expert_balanced_softmax():
    options = {key: value for key, value in BALPOE.items() if key != "mixing"}
    method, given = tiny.build("experts", options), batch()
    z, prior = method.sub_model_logits(given.images), tiny.COUNTS.log_prior()
    each = [F.cross_entropy(z[:, e] + tau * prior, given.labels) for e, tau in enumerate((0, 1, 2))]
    torch.testing.assert_close(method.training_step([given], at(0)).loss, torch.stack(each).mean())
    alone = tiny.build("experts", {"losses": [{"name": "logit-adjusted", "tau": 1}]})
    expected = balanced_softmax(
        alone.sub_model_logits(given.images)[:, 0], given.labels, tiny.COUNTS
    )
    torch.testing.assert_close(alone.training_step([given], at(0)).loss, expected)


def test_the_mean_of_the_recipe_ranks_by_likelihood(monkeypatch):
    """Experts that have learnt their distributions exactly: their mean is log p(x | y), its theory says."""
    config = resolve("cifar100-lt/balpoe").method
    method = tiny.build("experts", config.model_dump())
    log_prior = tiny.COUNTS.log_prior(torch.float64)
    likelihood = torch.randn(50, 7, dtype=torch.float64)
    taus = torch.tensor([loss.tau for loss in config.losses], dtype=torch.float64)
    exact = likelihood[:, None] + (1 - taus)[:, None] * log_prior
    monkeypatch.setattr(method, "sub_model_logits", lambda _: exact)
    torch.testing.assert_close(method.predict(tiny.images(50)), likelihood)


def test_the_user_gets_the_mean_of_the_logits():
    method = tiny.build("experts").eval()
    images = tiny.images(4)
    torch.testing.assert_close(method.predict(images), method.sub_model_logits(images).mean(dim=1))
    assert method.corrections() == ("balanced-softmax", "inverse-softmax")
    assert tiny.build("experts", RIDE).corrections() == ("ldam", "effective-number class weights")


def test_the_figure_has_every_expert_by_group():
    method = tiny.build("experts").eval()
    (figure,) = method.figures([(tiny.images(21), torch.arange(21) % 7)], [])
    # no class of the tiny task is many-shot
    assert list(figure.places) == ["all", "medium", "few"]
    assert list(figure.series) == [
        "expert 1, cross-entropy", "expert 2, balanced-softmax", "expert 3, inverse-softmax", "mean",
    ]  # fmt: skip
    assert all(0 <= value <= 1 for values in figure.series.values() for value in values)


# --- RIDE's distillation and router --------------------------------------------------------------


def stage(number, epoch=0):
    return Position(0, number, epoch, 0, 10)


def test_the_golden_values_of_distillation():
    first, second = torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[0.0, 1.0, 2.0]])
    # probabilities .090031 .244728 .665241, so 2 (.665241 - .090031)
    assert distillation(first, second).item() == pytest.approx(1.150421, abs=1e-6)
    assert distillation(first, first).item() == pytest.approx(0, abs=1e-7)
    # at T = 2 the probabilities are .186324 .307196 .506480, and logits differ by half as much
    assert distillation(first, second, 2.0).item() == pytest.approx(0.506480 - 0.186324, abs=1e-5)


def test_no_gradient_reaches_the_teacher():
    z, t = torch.randn(2, 4, 5).requires_grad_().unbind()
    assert torch.autograd.grad(distillation(z, t).sum(), t, allow_unused=True) == (None,)


def test_another_expert_would_help_where_the_mean_is_wrong_and_a_later_one_right():
    right = torch.eye(2)[1]  # of label 1
    wrong = torch.eye(2)[0]
    cases = {
        (0, 0, 0): (0, 0),
        (0, 0, 1): (1, 1),
        (0, 1, 0): (1, 0),
        (1, 0, 1): (0, 1),
        (1, 1, 1): (0, 0),
    }
    means = torch.stack([torch.stack([right if r else wrong for r in case]) for case in cases])
    found = would_help(means, torch.ones(len(cases), dtype=torch.long))
    assert found.int().tolist() == [list(expected) for expected in cases.values()]


def test_the_teacher_learns_alone_and_then_teaches():
    method, given = tiny.build("experts", RIDE | {"distillation": {"experts": 4}}), batch()
    assert [s.name for s in method.stages()] == ["teacher", "joint"]
    teacher = method.teacher(given.images)
    assert teacher.shape == (12, 4, 7)
    weights, margins = class_weights(tiny.COUNTS, "effective-number"), ldam_margins(tiny.COUNTS)

    def ride(z):
        label = sum(
            ldam(z[:, e] / 30, given.labels, margins, class_weights=weights)
            for e in range(z.shape[1])
        )
        return label - 0.45 * diversity(z, diversity_temperature(tiny.COUNTS, 0.05))

    out = method.training_step([given], stage(0, 5))
    torch.testing.assert_close(out.loss, ride(teacher))
    out = method.training_step([given], stage(1, 5))
    z = method.sub_model_logits(given.images)
    apart = F.kl_div(
        F.log_softmax(z.mean(dim=1) / 1.5, dim=1),
        F.softmax(method.teacher(given.images).mean(dim=1) / 1.5, dim=1),
        reduction="batchmean",
    )
    # the released code adds both for every expert
    torch.testing.assert_close(out.loss, 3 * (ride(z) + 1.5**2 * apart))


def test_the_router_learns_where_a_later_expert_helps():
    method, given = tiny.build("experts", RIDE | {"router": {"top": 5}}), batch(40)
    assert [s.name for s in method.stages()] == ["joint", "router"]
    router = method.router
    loss, total, features = 0.0, 0.0, method.backbone(given.images)
    right = []
    z = method.sub_model_logits(given.images)
    for e in range(3):
        total = total + z[:, e]
        right.append(total.argmax(dim=1) == given.labels)
    for e in range(2):
        mean = z[:, : e + 1].mean(dim=1)
        f = features[e].mean(dim=(2, 3))
        seen = F.relu(router.hidden[e](f / f.norm(dim=1, keepdim=True)))
        wanted = router.last(torch.cat([mean.sort(dim=1, descending=True).values[:, :5], seen], 1))
        helped = ~right[e] & torch.stack(right[e + 1 :]).any(dim=0)
        loss = loss + F.binary_cross_entropy_with_logits(
            wanted[:, 0], helped.float(), pos_weight=torch.tensor(100.0)
        )
    out = method.training_step([given], stage(1))
    torch.testing.assert_close(out.loss, loss / 2)
    out.loss.backward()
    assert router.last.weight.grad is not None


def routed():
    method = tiny.build("experts", ROUTER).eval()
    method.router.trained.fill_(True)
    return method


def test_the_router_says_how_many_experts_are_averaged():
    images, method = tiny.images(64), routed()
    z = method.sub_model_logits(images)
    with torch.no_grad():
        for bias, experts in ((-1e4, 1), (1e4, 3)):
            method.router.last.bias.fill_(bias)
            torch.testing.assert_close(method.predict(images), z[:, :experts].mean(dim=1))
        method.router.trained.fill_(False)  # before its stage nothing is left out
        method.router.last.bias.fill_(-1e4)
        torch.testing.assert_close(method.predict(images), z.mean(dim=1))


def test_images_that_stop_are_not_computed_further_and_a_graph_says_the_same():
    images, method, sizes = tiny.images(64), routed(), []
    with torch.no_grad():  # half of the images go on, and a part of them once more
        wanted = method._wanted(*method._means(images))
        method.router.last.bias -= wanted[:, 0].median()
        wanted = wanted - wanted[:, 0].median()
        go_on = [64, int((wanted[:, 0] > 0).sum()), int((wanted > 0).all(dim=1).sum())]
    for tail in method.backbone.tails:
        tail.register_forward_hook(lambda _m, given, _o: sizes.append(len(given[0])))
    predicted = method.predict(images)
    assert sizes == [n for n in go_on if n]
    assert 0 < sizes[1] < 64
    means = method.sub_model_logits(images).cumsum(dim=1) / torch.arange(1, 4)[:, None]
    number = (wanted > 0).cumprod(dim=1).sum(dim=1)
    torch.testing.assert_close(predicted, means[torch.arange(64), number])

    class Predictor(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.method = method

        def forward(self, images):
            return self.method.predict(images)

    program = torch.export.export(Predictor(), (images,))
    torch.testing.assert_close(program.module()(images), predicted)


def test_a_router_needs_somebody_to_ask():
    with pytest.raises(ValueError, match="at least two experts"):
        tiny.build("experts", ROUTER | {"losses": ["ldam"]})


def test_runs_share_the_teacher_or_the_experts_of_their_first_stage():
    kind = METHODS["experts"]

    def options(**more):
        return kind.Config.model_validate(RIDE | more)

    router, taught = {"router": {}}, {"distillation": {}}
    assert kind.shares_first_stage(options(**router), options())
    assert kind.shares_first_stage(options(**taught), options(distillation={"weight": 2.0}))
    assert kind.shares_first_stage(options(**taught, **router), options(**taught))
    assert not kind.shares_first_stage(options(**taught), options(**router))
    assert not kind.shares_first_stage(options(**taught), options(distillation={"experts": 4}))
    assert not kind.shares_first_stage(options(**router), options(tilt=0.1))
    assert not kind.shares_first_stage(options(), options())


# --- the network -------------------------------------------------------------------------------


def test_experts_of_full_width_have_the_widths_of_the_network():
    small = build_experts("resnet20", 2, narrow=False)
    plain = dict(build_backbone("resnet20").network.named_parameters())
    assert small.num_features == 64
    own = dict(small.tails[1].named_parameters())
    assert {n.replace("layer2.", "0.").replace("layer3.", "1."): p.shape for n, p in plain.items()
            if n.startswith(("layer2", "layer3"))} == {n: p.shape for n, p in own.items()}  # fmt: skip
    assert not torch.equal(own["0.0.conv1.weight"], small.tails[0][0][0].conv1.weight)
    assert build_experts("resnext50", 2, narrow=False).num_features == 2048


@pytest.mark.parametrize("name", ["resnet20", "resnet10"])
def test_every_expert_begins_with_the_weights_of_a_file(name, tmp_path):
    network = build_backbone(name).network
    file = tmp_path / "trained.pth"
    torch.save(network.state_dict(), file)
    model = ModelConfig(backbone=name, weights=file)
    experts = model.build_experts(2, narrow=False).eval()
    images = torch.randn(2, 3, 32, 32)
    expected = network.eval().forward_features(images)
    for maps in experts(images):
        torch.testing.assert_close(maps, expected)
    # the copies are apart: they are trained with other losses
    assert experts.tails[0][0][0].conv1.weight is not experts.tails[1][0][0].conv1.weight
    with pytest.raises(ConfigError, match=r"narrow=false"):
        model.build_experts(2)


# --- as a user ---------------------------------------------------------------------------------


def test_recipes_have_the_published_options():
    sade = resolve("cifar100-lt/sade")
    assert (sade.training.weight_decay, sade.training.nesterov) == (5e-4, True)
    assert (sade.training.decay_factor, sade.training.milestones) == (0.1, (0.8, 0.9))
    assert (sade.data.augmentation, sade.method.losses[2].reversal) == ("crop-flip-rotate", 2.0)
    ride = resolve("cifar100-lt/ride")
    assert (ride.training.decay_factor, ride.method.diversity, ride.method.tilt) == (
        0.01,
        0.45,
        0.05,
    )
    assert (ride.method.class_weights.start, ride.method.narrow) == (0.8, True)
    taus = [loss.tau for loss in resolve("inaturalist2018/balpoe", ["root=x"]).method.losses]
    assert taus == [-1, 1, 3]
    assert resolve("cifar10-lt/sade").method.narrow is False


def test_a_run_is_mixed_by_what_its_experts_say(tmp_path):
    run = api.train("digits-lt/sade", ["epochs=2"], out=tmp_path / "run", device="cpu")
    line = run.folder.read_metrics()[-1]
    apart = [line[f"expert_{e}_loss"] for e in (1, 2, 3)]
    assert math.isclose(sum(apart), line["loss"], rel_tol=1e-5)
    found = ensemble([run], views="sade", device="cpu")
    rows = {row["name"]: row for row in found["mixtures"]}
    assert rows["group, SADE"]["sees"] == "transductive"
    macro = run.scores("test")["macro_accuracy"]
    assert rows["average of logits"]["accuracy"] == pytest.approx(macro, abs=1e-6)
