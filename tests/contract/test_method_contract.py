"""What every method in the table must hold, without its author writing a test.

A method may add configurations worth testing to VARIANTS, and must say in ALTERNATIVES how to
change each of its options.
"""

import inspect
import json

import pytest
import torch
from torch import nn

from longtail.core import Batch, ClassCounts, Position
from longtail.engine import checkpoint as ckpt
from longtail.methods import METHODS
from longtail.methods.method import Method
from longtail.recipes import valid_keys
from tests import tiny

LDAM = {"loss": "ldam", "head": "cosine"}
CLOUDED = {"loss": "gaussian-clouded", "head": "cosine"}
EQUAL = {"loss": {"name": "softmax-equalization", "threshold": 0.1}}
VARIANTS = {
    "balanced-softmax": ("single-head", {"loss": "balanced-softmax"}),
    "logit-adjusted": ("single-head", {"loss": {"name": "logit-adjusted", "tau": 1.5}}),
    "focal": ("single-head", {"loss": {"name": "focal", "gamma": 2.0}}),
    "lade": ("single-head", {"loss": "lade"}),
    "ldam": ("single-head", LDAM),
    "gaussian-clouded": ("single-head", CLOUDED),
    "softmax-equalization": ("single-head", EQUAL),
    "ldam-drw": ("single-head", LDAM | {"class_weights": {"start": 1}}),
    "class-balanced-focal": (
        "single-head",
        {"loss": "sigmoid-focal", "class_weights": {}, "reduction": "mean"},
    ),
    "balanced sampling": ("single-head", {"sampling": "class-balanced"}),
    "mixup": ("single-head", {"mixing": "mixup"}),
    "cutmix": ("single-head", {"mixing": "cutmix"}),
    "cmo": ("single-head", {"mixing": {"name": "cutmix", "partners": "class-balanced"}}),
    "last block alone": ("single-head", {"train": "last-block"}),
    "head alone": ("single-head", {"train": "head", "loss": "balanced-softmax"}),
    "head on features": ("single-head", {"train": "head", "augment": False}),
}
VARIANTS |= {
    "reslt convolution": ("reslt", {"head": "convolution", "branch_loss": "subset-means"}),
    "reslt experts": ("reslt", {"experts": 3}),
    "reslt mixup": ("reslt", {"mixing": "mixup", "alpha": 0.7}),
}
RIDE = {"losses": ["ldam", "ldam", "ldam"], "class_weights": {"start": 1}, "diversity": 0.45}
BALPOE = {
    "losses": [{"name": "logit-adjusted", "tau": tau} for tau in (0, 1, 2)],
    "total": "mean",
    "narrow": False,
    "mixing": {"name": "mixup", "alpha": 0.4},
}
VARIANTS |= {"ride": ("experts", RIDE), "balpoe": ("experts", BALPOE)}
VARIANTS |= {
    f"decoupling {name}": ("decoupling", {"classifier": options})
    for name, options in {
        "joint": "joint",
        "lws": "lws",
        "tau": "tau",
        "ncm": "ncm",
        "cached crt": {"name": "crt", "augment": False, "stage2_bn": "eval"},
        "cached lws": {"name": "lws", "augment": False, "stage2_bn": "eval"},
        "last block": {"name": "crt", "train": "last-block", "rate": 0.1},
        "everything": {"name": "crt", "train": "all", "rate": 0.1, "rate_of": "backbone"},
    }.items()
}
VARIANTS |= {
    "paco balanced": ("paco", {"rebalance": False, "queue": 32, "queue_start": "empty"}),
    "paco supcon": ("paco", {"objective": "supcon", "queue": 32, "probe_epochs": 2}),
    "paco multi-task": ("paco", {"objective": "multi-task", "queue": 32}),
    "paco last bottleneck": ("paco", {"train": "last-bottleneck", "queue": 32}),
}
NOISY = {"gaussian-clouded", "softmax-equalization", "gcl, defaults"}
QUICK = {"steps_per_tenth": 1}
VARIANTS |= {
    f"do {name}": ("do", QUICK | options)
    for name, options in {
        "instance": {"mixture": "instance", "classifier": "allotted", "restart": "zero"},
        "target": {
            "compensation": "target",
            "mixture": "average-logits",
            "importance_refresh": "once",
            "recalibrate": True,
        },
        "search": {"release": "search", "restart": "rewind", "mixture": "without-margins"},
        "four stages": {"sequence": "four", "scope": "layer", "importance": "fisher"},
        "frozen parts": {
            "norm": "frozen",
            "classifier": "frozen",
            "gradients": "picture",
            "importance_refresh": "tenth",
        },
        "without reuse": {
            "reuse": False,
            "restart": "keep",
            "importance_loss": "stage",
            "retraining": "uniform",
        },
        "separate": {"networks": "separate"},
    }.items()
}
# a release of the default length is four hundred steps, most of the time of these tests
VARIANTS |= {f"{name}, defaults": (name, QUICK if name == "do" else {}) for name in METHODS}


SEARCH = {"release": "search", "search_rule": "before-drop", "steps_per_tenth": 3}
BY_PICTURE = {"mixture": "instance"}
SUPCON = {"objective": "supcon", "probe_epochs": 2}


MIXUP = {"mixing": "mixup"}
MIXING = {
    "mixing.name": (MIXUP, {"mixing": "cutmix"}),
    "mixing.alpha": (MIXUP, {"mixing": {"alpha": 0.2}}),
    "mixing.probability": (MIXUP, {"mixing": {"probability": 0.3}}),
    "mixing.partners": (MIXUP, {"mixing": {"partners": "class-balanced"}}),
    "mixing.start": (MIXUP, {"mixing": {"start": 2}}),
    "mixing.rest": (MIXUP, {"mixing": {"rest": 1}}),
}


BALANCED = {"sampling": "class-balanced"}
SAMPLING = {
    f"sampling.{option}": choices
    for option, choices in {
        "name": (BALANCED, {"sampling": {"name": "reversed"}}),
        "form": (BALANCED, {"sampling": {"name": "class-balanced", "form": "multinomial"}}),
        "draws_per_class": (
            BALANCED,
            {"sampling": {"name": "class-balanced", "draws_per_class": 2}},
        ),
        "beta": (
            {"sampling": "effective-number"},
            {"sampling": {"name": "effective-number", "beta": 0.5}},
        ),
        "start": (BALANCED, {"sampling": {"name": "class-balanced", "start": 2}}),
    }.items()
}


def crt(**options):
    return {"classifier": {"name": "crt"} | options}


# method -> option -> (options to start from, options that differ in this one only)
ALTERNATIVES = {
    "single-head": {
        "loss": ({}, {"loss": "balanced-softmax"}),
        "loss.name": ({}, {"loss": "focal"}),
        "loss.label_smoothing": ({}, {"loss": {"label_smoothing": 0.2, "name": "cross-entropy"}}),
        "loss.gamma": ({"loss": "focal"}, {"loss": {"name": "focal", "gamma": 2.0}}),
        "loss.tau": ({"loss": "logit-adjusted"}, {"loss": {"name": "logit-adjusted", "tau": 2}}),
        "loss.reversal": (
            {"loss": "inverse-softmax"},
            {"loss": {"name": "inverse-softmax", "reversal": 1.0}},
        ),
        "loss.alpha": ({"loss": "lade"}, {"loss": {"name": "lade", "alpha": 1.0}}),
        "loss.quadratic": ({"loss": "lade"}, {"loss": {"name": "lade", "quadratic": 0.5}}),
        "loss.form": ({"loss": "lade"}, {"loss": {"name": "lade", "form": "paper"}}),
        "loss.spared": (EQUAL, {"loss": EQUAL["loss"] | {"spared": 0.2}}),
        "loss.threshold": (EQUAL, {"loss": EQUAL["loss"] | {"threshold": 0.2}}),
        "loss.sigma": (CLOUDED, CLOUDED | {"loss": {"name": "gaussian-clouded", "sigma": 0.1}}),
        "loss.max_margin": (LDAM, LDAM | {"loss": {"name": "ldam", "max_margin": 0.2}}),
        "head": ({}, {"head": "cosine"}),
        "head.name": ({}, {"head": {"name": "cosine"}}),
        "head.scale": ({"head": "cosine"}, {"head": {"name": "cosine", "scale": 10.0}}),
        "sampling": ({}, {"sampling": "class-balanced"}),
        **SAMPLING,
        "class_weights": ({}, {"class_weights": {}}),
        "class_weights.name": ({"class_weights": {}}, {"class_weights": {"name": "inverse"}}),
        "class_weights.beta": ({"class_weights": {}}, {"class_weights": {"beta": 0.9}}),
        "class_weights.start": ({"class_weights": {}}, {"class_weights": {"start": 2}}),
        "mixing": ({}, {"mixing": "mixup"}),
        **MIXING,
        "reduction": ({"class_weights": {}}, {"class_weights": {}, "reduction": "mean"}),
        "train": ({}, {"train": "last-block"}),
        "backbone_rate": ({}, {"backbone_rate": 0.1}),
        "augment": ({"train": "head"}, {"train": "head", "augment": False}),
    },
    "reslt": {
        "alpha": ({}, {"alpha": 0.5}),
        "head": ({}, {"head": "shared"}),
        "cuts": ({}, {"cuts": (0.5,)}),
        "masks": ({}, {"masks": "disjoint"}),
        "branch_loss": ({}, {"branch_loss": "subset-means"}),
        "capped": ({}, {"capped": False}),
        "fusion": ({}, {"fusion": "first"}),
        "combine": ({}, {"combine": "largest"}),
        "pool_first": ({"head": "convolution"}, {"head": "convolution", "pool_first": "always"}),
        "gamma": ({}, {"gamma": 0.7}),
        "experts": ({}, {"experts": 2}),
        "mixing": ({}, {"mixing": "mixup"}),
        **MIXING,
    },
    "mislas": {
        "mixing": ({}, {"mixing": None}),
        **MIXING,
        "smoothing": ({}, {"smoothing": (0.3, 0.0)}),
        "second": ({}, {"second": 2}),
        "second_rate": ({}, {"second_rate": 0.05}),
        "classifier_rate": ({}, {"classifier_rate": 0.05}),
        "shift": ({}, {"shift": False}),
    },
    "gcl": {
        "sigma": ({}, {"sigma": 0.1}),
        "mixing": ({}, {"mixing": None}),
        **MIXING,
        "scale": ({}, {"scale": 10.0}),
        "second": ({}, {"second": 2}),
        "second_rate": ({}, {"second_rate": 0.5}),
        "second_scale": ({}, {"second_scale": 25.0}),
        "second_margin": ({}, {"second_margin": 0.3}),
        "sampling": ({}, {"sampling": "instance"}),
        **SAMPLING,
    },
    "ncl": {
        "networks": ({}, {"networks": 2}),
        "head": ({}, {"head": "cosine"}),
        "head.name": ({}, {"head": {"name": "cosine"}}),
        "head.scale": ({"head": "cosine"}, {"head": {"name": "cosine", "scale": 10.0}}),
        "hard": ({}, {"hard": 0.6}),
        "others": ({}, {"others": "removed"}),
        "weight": ({}, {"weight": 0.0}),
    },
    "bbn": {},
    "tde": {
        "heads": ({}, {"heads": 4}),
        "scale": ({}, {"scale": 10.0}),
        "softening": ({}, {"softening": 0.5}),
        "momentum": ({}, {"momentum": 0.1}),
        "alpha": ({}, {"alpha": 0.5}),
    },
    "weight-balancing": {
        "second": ({}, {"second": 2}),
        "second_rate": ({}, {"second_rate": 0.5}),
        "second_decay": ({}, {"second_decay": 0.5}),
        "loss": ({}, {"loss": "cross-entropy"}),
        "beta": ({}, {"beta": 0.9}),
        "cap": ({}, {"cap": 0.5}),
    },
    "experts": {
        "losses": ({}, {"losses": ["balanced-softmax"] * 2}),
        "total": ({}, {"total": "mean"}),
        "narrow": ({}, {"narrow": False}),
        "head": ({}, {"head": "linear"}),
        "head.name": ({}, {"head": {"name": "linear"}}),
        "head.scale": ({}, {"head": {"name": "cosine", "scale": 10.0}}),
        "class_weights": ({}, {"class_weights": {}}),
        "class_weights.name": ({"class_weights": {}}, {"class_weights": {"name": "inverse"}}),
        "class_weights.beta": ({"class_weights": {}}, {"class_weights": {"beta": 0.9}}),
        "class_weights.start": ({"class_weights": {}}, {"class_weights": {"start": 2}}),
        "diversity": ({}, {"diversity": 0.45}),
        "tilt": (RIDE, RIDE | {"tilt": 0.5}),
        "mixing": ({}, {"mixing": "mixup"}),
        **MIXING,
        "backbone_rate": ({}, {"backbone_rate": 0.1}),
    },
    "do": {
        option: (QUICK | base, QUICK | changed)
        for option, (base, changed) in {
            "second": ({}, {"second": 1.0}),
            "second_rate": ({}, {"second_rate": 1.0}),
            "rho": ({}, {"rho": 0.9}),
            "release": ({}, {"release": (0.5, 0.6)}),
            "compensation": ({}, {"compensation": "target"}),
            "sampling": ({}, {"sampling": "uniform"}),
            "sequence": ({}, {"sequence": "many-few-medium"}),
            "first_schedule": ({}, {"first_schedule": "cosine"}),
            "second_schedule": ({}, {"second_schedule": "cosine"}),
            "rare_sampling": ({}, {"rare_sampling": "class-balanced"}),
            "reverse": ({}, {"reverse": "index"}),
            "release_of": ({}, {"release_of": "total"}),
            "steps_per_tenth": ({}, {"steps_per_tenth": 2}),
            "search_rule": (SEARCH, SEARCH | {"search_rule": "at-drop"}),
            "search_metric": (SEARCH, SEARCH | {"search_metric": "group"}),
            "importance": ({}, {"importance": "random"}),
            "gradients": ({}, {"gradients": "class"}),
            "importance_classes": ({}, {"importance_classes": "all"}),
            "importance_loss": ({}, {"importance_loss": "probability"}),
            "importance_refresh": ({}, {"importance_refresh": "once"}),
            "scope": ({}, {"scope": "layer"}),
            "restart": ({}, {"restart": "zero"}),
            "norm": ({}, {"norm": "frozen"}),
            "recalibrate": ({}, {"recalibrate": True}),
            "retraining": ({}, {"retraining": "uniform"}),
            "classifier": ({}, {"classifier": "allotted"}),
            "reuse": ({}, {"reuse": False}),
            "networks": ({}, {"networks": "separate"}),
            "mixture": ({}, {"mixture": "instance"}),
            "objective": (BY_PICTURE, BY_PICTURE | {"objective": "dot"}),
        }.items()
    },
    "paco": {
        "objective": ({"probe_epochs": 2}, SUPCON),
        "rebalance": ({}, {"rebalance": False}),
        "alpha": ({}, {"alpha": 0.5}),
        "temperature": ({}, {"temperature": 0.05}),
        "weight": ({"objective": "multi-task"}, {"objective": "multi-task", "weight": 1.0}),
        "projection_width": ({}, {"projection_width": 16}),
        "queue": ({}, {"queue": 64}),
        "queue_start": ({}, {"queue_start": "empty"}),
        "momentum": ({}, {"momentum": 0.5}),
        "views": ({}, {"views": ("default", "crop")}),
        "train": ({}, {"train": "last-bottleneck"}),
        "probe_epochs": (SUPCON, SUPCON | {"probe_epochs": 3}),
        "probe_rate": (SUPCON, SUPCON | {"probe_rate": 0.01}),
    }
    | SAMPLING
    | {"sampling": ({}, {"sampling": "class-balanced"})},
    "decoupling": {
        "representation": ({}, {"representation": {"sampling": "square-root"}}),
        "representation.train": ({}, {"representation": {"train": "last-block"}}),
        "representation.backbone_rate": ({}, {"representation": {"backbone_rate": 0.1}}),
        "classifier": ({}, {"classifier": "lws"}),
        "classifier.name": ({}, {"classifier": {"name": "ncm"}}),
        "classifier.epochs": ({}, crt(epochs=3)),
        "classifier.learning_rate": ({}, crt(learning_rate=1.0)),
        "classifier.stage2_bn": ({}, crt(stage2_bn="eval")),
        "classifier.augment": ({}, crt(augment=False)),
        "classifier.train": ({}, crt(train="all")),
        "classifier.rate": ({}, crt(rate=0.1)),
        "classifier.rate_of": (
            crt(train="all", rate=0.1),
            crt(train="all", rate=0.1, rate_of="backbone"),
        ),
        "classifier.tau": ({"classifier": "tau"}, {"classifier": {"name": "tau", "tau": 1.95}}),
        "classifier.centred": (
            {"classifier": "ncm"},
            {"classifier": {"name": "ncm", "centred": False}},
        ),
        "classifier.unit_means": (
            {"classifier": "ncm"},
            {"classifier": {"name": "ncm", "unit_means": True}},
        ),
        "classifier.metric": (
            {"classifier": "ncm"},
            {"classifier": {"name": "ncm", "metric": "cosine"}},
        ),
    }
    | {
        f"{place}.{option}": choices
        for place, around in {
            "representation.sampling": lambda s: {"representation": {"sampling": s}},
            "classifier.sampling": lambda s: crt(sampling=s),
        }.items()
        for option, choices in {
            "name": (around({"name": "instance"}), around({"name": "reversed"})),
            "form": (
                around({"name": "instance"}),
                around({"name": "instance", "form": "multinomial"}),
            ),
            "draws_per_class": (
                around({"name": "class-balanced"}),
                around({"name": "class-balanced", "draws_per_class": 2}),
            ),
            "beta": (
                around({"name": "effective-number"}),
                around({"name": "effective-number", "beta": 0.5}),
            ),
            "start": (
                around({"name": "class-balanced"}),
                around({"name": "class-balanced", "start": 2}),
            ),
        }.items()
    }
    | {
        "representation.sampling": ({}, {"representation": {"sampling": "reversed"}}),
        "classifier.sampling": ({}, crt(sampling="instance")),
    },
}
# options that change something with several processes only: see test_distributed
SEVERAL_PROCESSES = {"paco": {"contrast"}}
LOSSES = ("cross-entropy", "focal", "logit-adjusted", "inverse-softmax", "lade", "ldam")
LOSSES += ("softmax-equalization", "gaussian-clouded")
LOSS_OPTIONS = [{"loss": name} for name in LOSSES]

CLASSIFIER_OPTIONS = [{"classifier": name} for name in ("crt", "lws", "tau", "ncm", "joint")]

every_variant = pytest.mark.parametrize("variant", VARIANTS)
every_method = pytest.mark.parametrize("name", METHODS)


def make(variant, **more):
    name, options = VARIANTS[variant]
    return tiny.build(name, options, **more)


def batch(size=16, num_classes=7, seed=0):
    labels = torch.randint(num_classes, (size,), generator=torch.Generator().manual_seed(seed))
    return Batch((tiny.images(size, seed),), labels, torch.arange(size))


def position(epoch=0, step=0, stage=0):
    return Position(0, stage, epoch, step, 3)


def first_step(method, given=None, epoch=2):
    stage = method.stages()[0]
    streams = [given or batch() for _ in stage.samplings]
    streams = [Batch(s.views * len(stage.views), s.labels, s.ids) for s in streams]
    method.train()
    if stage.features is not None:
        part = method.get_submodule(stage.features)
        streams = [Batch((part(s.images).detach(),), s.labels, s.ids) for s in streams]
    return method.training_step(streams, position(epoch))


@every_variant
def test_relabelling_the_classes_relabels_everything(variant, monkeypatch):
    order = [3, 0, 6, 5, 1, 4, 2]  # new label -> old label
    place = torch.argsort(torch.tensor(order))
    names, values = tiny.COUNTS.names, tiny.COUNTS.values
    mixed = ClassCounts([values[i] for i in order], [names[i] for i in order])
    one, other = make(variant), make(variant, counts=mixed)
    moved = {}
    for name, value in one.state_dict().items():
        # seven is the number of classes and no other size of the tiny network
        for axis in (axis for axis, size in enumerate(value.shape) if size == 7):
            value = value.index_select(axis, torch.tensor(order))
        # labels that a method keeps are numbers of classes; below 0 there is none
        if name.endswith("labels"):
            value = torch.where(value >= 0, place[value.clamp_min(0)], value)
        moved[name] = value
    for name, buffer in other.named_buffers():
        if name in moved:  # some are stored in another form
            # what was computed from the counts must be relabelled already
            torch.testing.assert_close(buffer, moved[name], msg=name)
    other.load_state_dict(moved)
    given = batch()
    relabelled = Batch(given.views, place[given.labels], given.ids)
    if variant in NOISY:  # draws of one class are those of another after relabelling
        monkeypatch.setattr(torch, "randn", lambda shape, **_: torch.full(shape, 0.9))
        monkeypatch.setattr(torch, "rand", lambda shape, **_: torch.zeros(shape))
    a, b = first_step(one, given).loss, first_step(other, relabelled).loss
    monkeypatch.undo()
    torch.testing.assert_close(a, b)
    pictures = tiny.images(4, 9)
    one.eval(), other.eval()
    torch.testing.assert_close(one.predict(pictures)[:, order], other.predict(pictures))


@every_variant
def test_save_and_load_gives_the_same_logits(variant, tmp_path):
    method = make(variant)
    run = tiny.train(method, tmp_path)
    again = make(variant, seed=1)
    ckpt.load_weights(again, ckpt.read_weights(ckpt.newest(run.checkpoints)), "x")
    pictures = tiny.images(5)
    assert torch.equal(method.eval().predict(pictures), again.eval().predict(pictures))


@every_variant
def test_no_tensor_outside_parameters_and_buffers(variant, tmp_path):
    method = make(variant)
    tiny.train(method, tmp_path)
    for name, module in method.named_modules():
        hidden = [
            key
            for key, value in vars(module).items()
            if not key.startswith("_") and holds_tensor(value)
        ]
        assert not hidden, f"{name or 'method'} keeps tensors in {hidden}"


def holds_tensor(value):
    if isinstance(value, nn.Module):
        return False
    if isinstance(value, dict):
        return any(map(holds_tensor, value.values()))
    if isinstance(value, list | tuple | set):
        return any(map(holds_tensor, value))
    return isinstance(value, torch.Tensor)


@every_variant
def test_one_seed_twice_is_equal_and_resume_equals_no_break(variant, tmp_path):
    whole, again = make(variant), make(variant)
    tiny.train(whole, tmp_path / "a")
    tiny.train(again, tmp_path / "b")
    assert tiny.equal(tiny.weights(whole), tiny.weights(again))
    # take the end away, as if the run had been killed in its last epoch
    run = tiny.RunFolder(tmp_path / "b")
    last = ckpt.newest(run.checkpoints)
    last.rename(tmp_path / "gone")
    resumed = make(variant)
    tiny.train(resumed, tmp_path / "b", resume=True)
    assert tiny.equal(tiny.weights(whole), tiny.weights(resumed))
    key = ("stage", "epoch", "loss", "learning_rate")
    lines = [
        [{k: line.get(k) for k in key} for line in tiny.RunFolder(tmp_path / n).read_metrics()]
        for n in "ab"
    ]
    assert lines[0] == lines[1]


@every_variant
def test_another_seed_is_another_run(variant, tmp_path):
    one, other = make(variant), make(variant)
    tiny.train(one, tmp_path / "a")
    tiny.train(other, tmp_path / "b", tiny.OPTIONS.model_copy(update={"seed": 5}))
    assert not tiny.equal(tiny.weights(one), tiny.weights(other))


@every_variant
@pytest.mark.parametrize("num_classes", [2, 1000, 8142])
def test_any_number_of_classes(variant, num_classes):
    counts = ClassCounts([1 + 7 * c % 300 for c in range(num_classes)])
    method = make(variant, counts=counts)
    out = first_step(method, batch(num_classes=num_classes))
    assert torch.isfinite(out.loss)
    assert method.eval().predict(tiny.images(2)).shape == (2, num_classes)


@every_variant
def test_a_batch_of_one_class_only(variant):
    given = batch()
    for label in (1, 5):  # the most frequent and the class with one picture
        only = Batch(given.views, torch.full_like(given.labels, label), given.ids)
        out = first_step(make(variant), only)
        assert torch.isfinite(out.loss)
        out.loss.backward()


@every_variant
def test_bf16_is_finite(variant):
    method = make(variant)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = first_step(method)
    assert out.loss.dtype == torch.float32
    out.loss.backward()
    for name, parameter in method.named_parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all(), name


@every_variant
def test_frozen_parts_do_not_move(variant, tmp_path):
    method = make(variant)
    tiny.train(method, tmp_path)
    stages = method.stages()
    for number, stage in enumerate(stages[1:], start=1):
        before = ckpt.read_weights(tmp_path / "checkpoints" / f"stage-{number - 1}-end")
        after = ckpt.read_weights(tmp_path / "checkpoints" / f"stage-{number}-end")
        moving = (*stage.trainable, *stage.update_norm, *stage.reset)
        for name in before:
            if stage.trainable and not any(name.startswith(part) for part in moving):
                assert torch.equal(before[name], after[name]), f"{stage.name} moved {name}"
    first = make(variant).state_dict()
    if not stages[0].trainable:
        moved = [n for n, p in method.named_parameters() if not torch.equal(p, first[n])]
        assert set(moved) == {n for n, _ in method.named_parameters()}


@every_method
def test_every_option_has_an_alternative(name):
    covered = set(ALTERNATIVES.get(name, ())) | SEVERAL_PROCESSES.get(name, set())
    for options in [{}, *LOSS_OPTIONS, *CLASSIFIER_OPTIONS]:
        raw = {"method": {"name": name, "class_weights": {}, "mixing": {}} | options}
        keys = {key.removeprefix("method.") for key in valid_keys(raw) if key.startswith("method.")}
        assert keys - {"name"} <= covered


@pytest.mark.parametrize(
    ("name", "option"), [(name, option) for name, table in ALTERNATIVES.items() for option in table]
)
def test_every_option_changes_something(name, option, answers):
    base, changed = ALTERNATIVES[name][option]
    assert not torch.equal(answers(name, base), answers(name, changed))


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Train a method with options once, and return what it answers for some pictures."""
    known = {}

    def train(name, options):
        key = (name, json.dumps(options, sort_keys=True))
        if key not in known:
            method = tiny.build(name, options)
            tiny.train(method, tmp_path_factory.mktemp("answers"))
            known[key] = method.eval().predict(tiny.images(6))
        return known[key]

    return train


@every_method
def test_predict_needs_pictures_only(name):
    method = tiny.build(name).eval()
    assert list(inspect.signature(method.predict).parameters) == ["images"]
    one, all_ = tiny.images(6)[:1], tiny.images(6)
    # the answer for a picture does not depend on the others of its batch
    torch.testing.assert_close(method.predict(all_)[:1], method.predict(one), atol=1e-5, rtol=1e-4)


@every_variant
def test_exportable(variant):
    class Predictor(nn.Module):
        def __init__(self, method):
            super().__init__()
            self.method = method

        def forward(self, pictures):
            return self.method.predict(pictures)

    method = make(variant).eval()
    pictures = tiny.images(3)
    program = torch.export.export(
        Predictor(method), (pictures,), dynamic_shapes=({0: torch.export.Dim("batch")},)
    )
    torch.testing.assert_close(program.module()(tiny.images(5)), method.predict(tiny.images(5)))


@every_method
def test_a_method_describes_itself(name):
    kind = METHODS[name]
    assert issubclass(kind, Method)
    assert len(kind.__mro__) - len(Method.__mro__) == 1, "at most one level of inheritance"
    assert kind.summary
    assert kind.citation
    assert kind.Config.model_fields["name"].default == name
    assert all(isinstance(c, str) for c in tiny.build(name).corrections())


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # torch's compiler asks
@pytest.mark.parametrize("variant", [*(f"{name}, defaults" for name in METHODS), "reslt experts"])
def test_what_the_compiler_sees_is_the_whole_network(variant):
    method, plain, compiled = make(variant), [], []
    convolutions = [module for module in method.modules() if isinstance(module, nn.Conv2d)]
    hooks = [c.register_forward_hook(lambda *_: plain.append(1)) for c in convolutions]
    first_step(method)
    for hook in hooks:
        hook.remove()

    def backend(graph, _example):
        here = sum("conv2d" in str(node.target) for node in graph.graph.nodes)

        def run(*given):
            compiled.append(here)
            return graph(*given)

        return run

    torch.compiler.reset()
    for part in method.children():
        part.compile(backend=backend)
    first_step(method)
    assert sum(compiled) == len(plain) > 0


def test_corrections_are_named():
    assert make("balanced-softmax").corrections() == ("balanced-softmax",)
    assert make("ldam-drw").corrections() == ("ldam", "effective-number class weights")
    assert make("balanced sampling").corrections() == ("class-balanced sampling",)
    assert make("single-head, defaults").corrections() == ()
