"""What every method in the table must hold, without its author writing a test.

A method may add configurations worth testing to VARIANTS, and must say in ALTERNATIVES how to
change each of its options.
"""

import inspect
import json

import pytest
import torch
from torch import nn
from torch.nn.utils import parameters_to_vector

from longtail.core import Batch, ClassCounts, Position
from longtail.engine import checkpoint as ckpt
from longtail.engine import trial
from longtail.methods import METHODS
from longtail.methods.method import Method
from longtail.recipes import valid_keys
from tests import tiny

LDAM = {"loss": "ldam", "head": "cosine"}
CLOUDED = {"loss": "gaussian-clouded", "head": "cosine"}
SCALED = {"loss": "vector-scaling"}
LATE = {"late_loss": {"start": 1}}
LIFTED = {"feature_loss": "lifted-structured", "sampling": "class-balanced"}
RANGE = {"feature_loss": "range", "sampling": "class-balanced"}
AIMED = {"queue": 32, "second": 2}
PROBE = {"head_start": {"name": "probe", "epochs": 1}}
EQUAL = {"loss": {"name": "softmax-equalization", "threshold": 0.1}}
POWER = {"class_weights": {"name": "power"}}
FLAT = {"sharpness": "focal-sam"}
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
    "vector-scaling": ("single-head", SCALED),
    "late loss": ("single-head", SCALED | LATE | {"class_weights": {"name": "power", "start": 1}}),
    "lifted structured": ("single-head", LIFTED),
    "range": ("single-head", RANGE),
    "imbsam": ("single-head", {"sharpness": "imbsam"}),
    "focal-sam": ("single-head", {"sharpness": "focal-sam", "mixing": "mixup"}),
    "last block alone": ("single-head", {"train": "last-block"}),
    "head alone": ("single-head", {"train": "head", "loss": "balanced-softmax"}),
    "head on features": ("single-head", {"train": "head", "augment": False}),
    "class means": ("single-head", {"head_start": "class-means", "head": "cosine"}),
    "probe": ("single-head", {"head_start": {"name": "probe", "epochs": 2}}),
    "class means alone": ("single-head", {"head_start": "class-means", "train": "nothing"}),
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
ROUTER = {"router": {"help_weight": 1.0, "epochs": 2, "learning_rate": 0.5}}
TAUGHT = {"distillation": {"experts": 2}}
VARIANTS |= {"ride": ("experts", RIDE), "balpoe": ("experts", BALPOE)}
VARIANTS |= {
    "ride, taught and routed": ("experts", RIDE | ROUTER | TAUGHT),
    "routed": ("experts", ROUTER),
}
VARIANTS |= {
    f"decoupling {name}": ("decoupling", {"classifier": options})
    for name, options in {
        "joint": "joint",
        "lws": "lws",
        "los": "los",
        "h2t": "h2t",
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
    "gpaco": ("paco", {"keys": "own", "projection": "deep", "queue": 32}),
    "paco last bottleneck": ("paco", {"train": "last-bottleneck", "queue": 32}),
}
VARIANTS |= {
    "rsg": ("rsg", {"loss": "cross-entropy", "class_weights": None, "start": 1}),
    "elf": ("elf", {"loss": "cross-entropy", "class_weights": None, "threshold": 0.2}),
    "oltr added": ("oltr", {"layer": "both", "layer_width": 24, "train": "added", "second": 2}),
    "crt and memory": (
        "oltr",
        {"attention": False, "layer": "none", "train": "added", "second": 2},
    ),
}
VARIANTS |= {"sure, first stage": ("sure", {"second": 0})}
VARIANTS |= {"kcl": ("tsc", {"targeted": 0, "queue": 32, "second": 2})}
NOISY = {"tsc, defaults", "kcl", "gaussian-clouded", "softmax-equalization", "gcl, defaults"}
QUICK = {"retraining_steps": 1, "test_views": "crop"}
VARIANTS |= {
    f"do {name}": ("do", QUICK | options)
    for name, options in {
        "per stage": {"partition": "per-stage"},
        "average": {"mixture": "average", "compensation": "target", "rare_sampling": "instance"},
        "search": {"release": "search", "retraining": "uniform"},
        "four stages": {"sequence": "four", "importance": "fisher"},
    }.items()
}
# a release and second stages of the default length are most of the time of these tests
TWO_STAGES = (
    "gcl",
    "mislas",
    "weight-balancing",
    "cc-sam",
    "shike",
    "tsc",
    "oltr",
    "fslwf",
    "balms",
    "sure",
)
SHORT_SECOND = {name: {"second": 3} for name in TWO_STAGES} | {"lfme": {"teacher_epochs": 2}}
SHORT = SHORT_SECOND | {"do": QUICK}
VARIANTS |= {f"{name}, defaults": (name, SHORT.get(name, {})) for name in METHODS}


SEARCH = {"release": "search", "search_rule": "before-variation", "retraining_steps": 3}
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


def routed(**options):
    return {"router": ROUTER["router"] | options}


def taught(**options):
    return {"distillation": TAUGHT["distillation"] | options}


def los(**options):
    return {"classifier": {"name": "los"} | options}


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
        "late_loss": ({}, LATE),
        "late_loss.adjustment": (LATE, {"late_loss": {"start": 1, "adjustment": 2.0}}),
        "late_loss.start": (LATE, {"late_loss": {"start": 2}}),
        "head": ({}, {"head": "cosine"}),
        "head.name": ({}, {"head": {"name": "cosine"}}),
        "head.scale": ({"head": "cosine"}, {"head": {"name": "cosine", "scale": 10.0}}),
        "head.initialisation": ({}, {"head": {"name": "linear", "initialisation": "kaiming"}}),
        "sampling": ({}, {"sampling": "class-balanced"}),
        **SAMPLING,
        "class_weights": ({}, {"class_weights": {}}),
        "class_weights.name": ({"class_weights": {}}, {"class_weights": {"name": "inverse"}}),
        "class_weights.beta": ({"class_weights": {}}, {"class_weights": {"beta": 0.9}}),
        "class_weights.exponent": (POWER, {"class_weights": {"name": "power", "exponent": 1}}),
        "class_weights.start": ({"class_weights": {}}, {"class_weights": {"start": 2}}),
        "mixing": ({}, {"mixing": "mixup"}),
        **MIXING,
        "reduction": ({"class_weights": {}}, {"class_weights": {}, "reduction": "mean"}),
        "feature_loss": ({"sampling": "class-balanced"}, LIFTED),
        "feature_loss.name": (LIFTED, RANGE),
        **{
            f"feature_loss.{option}": (base, base | {"feature_loss": {"name": name, option: value}})
            for name, base, changes in (
                ("lifted-structured", LIFTED, {"weight": 1.0, "margin": 5.0}),
                ("range", RANGE, {"largest": 1, "intra": 0.0, "inter": 0.0}),
            )
            for option, value in changes.items()
        },
        "sharpness": ({}, {"sharpness": "imbsam"}),
        "sharpness.name": ({"sharpness": "imbsam"}, {"sharpness": "focal-sam"}),
        "sharpness.below": ({"sharpness": "imbsam"}, {"sharpness": {"name": "imbsam", "below": 5}}),
        "sharpness.weight": (
            {"sharpness": "imbsam"},
            {"sharpness": {"name": "imbsam", "weight": 1}},
        ),
        "sharpness.gamma": (FLAT, {"sharpness": {"name": "focal-sam", "gamma": 0}}),
        "sharpness.strength": (FLAT, {"sharpness": {"name": "focal-sam", "strength": 0.1}}),
        "head_start": ({}, {"head_start": "class-means"}),
        "head_start.name": ({"head_start": "probe"}, {"head_start": "class-means"}),
        "head_start.epochs": (PROBE, {"head_start": {"name": "probe", "epochs": 3}}),
        "head_start.learning_rate": (
            PROBE,
            {"head_start": {"name": "probe", "epochs": 1, "learning_rate": 1.0}},
        ),
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
        "fused_capped": ({}, {"fused_capped": True}),
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
        "train": ({}, {"train": "last-bottleneck"}),
        "initialisation": ({}, {"initialisation": "kaiming"}),
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
        "head.initialisation": ({}, {"head": {"name": "linear", "initialisation": "kaiming"}}),
        "hard": ({}, {"hard": 0.6}),
        "others": ({}, {"others": "removed"}),
        "weight": ({}, {"weight": 0.0}),
    },
    "bbn": {},
    "proco": {
        "weight": ({}, {"weight": 2.0}),
        "temperature": ({}, {"temperature": 0.5}),
        "head": ({}, {"head": "cosine"}),
        "head.name": ({}, {"head": {"name": "cosine"}}),
        "head.scale": ({"head": "cosine"}, {"head": {"name": "cosine", "scale": 10.0}}),
        "head.initialisation": ({}, {"head": {"name": "linear", "initialisation": "kaiming"}}),
        "hidden": ({}, {"hidden": None}),
        "projection_width": ({}, {"projection_width": 16}),
        "views": ({}, {"views": ("default", "crop", "crop")}),
    },
    "bcl": {
        "weight": ({}, {"weight": 2.0}),
        "contrast": ({}, {"contrast": 2.0}),
        "temperature": ({}, {"temperature": 0.5}),
        "scale": ({}, {"scale": 10.0}),
        "hidden": ({}, {"hidden": 16}),
        "projection_width": ({}, {"projection_width": 16}),
        "views": ({}, {"views": ("default", "crop", "crop")}),
    },
    "lfme": {
        "teacher_epochs": ({}, {"teacher_epochs": 1}),
        "temperature": ({}, {"temperature": 1.0}),
        "weight": ({}, {"weight": 0.0}),
        # by then, the student of few-shot classes is on its way to a teacher
        "behind": ({"teacher_epochs": 6}, {"teacher_epochs": 6, "behind": 0.99}),
    },
    "mdcs": {
        "strengths": ({}, {"strengths": (0.0, 2.0)}),
        "weight": ({}, {"weight": 0.0}),
        "rise": ({}, {"rise": 1}),
        "head": ({}, {"head": "linear"}),
        "head.name": ({}, {"head": {"name": "linear"}}),
        "head.scale": ({}, {"head": {"name": "cosine", "scale": 10.0}}),
        "head.initialisation": (
            {"head": "linear"},
            {"head": {"name": "linear", "initialisation": "kaiming"}},
        ),
        "narrow": ({}, {"narrow": False}),
        "views": ({}, {"views": ("default", "crop")}),
    },
    "ace": {"weight": ({}, {"weight": 0.0})},
    "oltr": {
        "attention": ({}, {"attention": False}),
        "layer": ({}, {"layer": "none"}),
        "layer_width": ({"layer": "both"}, {"layer": "both", "layer_width": 24}),
        "backbone_rate": ({}, {"backbone_rate": 0.1}),
        "train": ({}, {"train": "added"}),
        "second": ({}, {"second": 2}),
        "second_rate": ({}, {"second_rate": 0.5}),
        "second_schedule": ({}, {"second_schedule": "constant"}),
        "second_backbone_rate": ({}, {"second_backbone_rate": 1.0}),
        "memory_rate": ({}, {"memory_rate": 1.0}),
        "weight": ({}, {"weight": 0.1}),
        "repulsion": ({}, {"repulsion": 1.0}),
        "margin": ({"weight": 1.0, "repulsion": 1.0}, {"margin": 0.0}),
        "scale": ({}, {"scale": 10.0}),
        "sampling": ({}, {"sampling": "instance"}),
        **SAMPLING,
    },
    "rsg": {
        "loss": ({}, {"loss": "cross-entropy"}),
        "max_margin": ({}, {"max_margin": 0.2}),
        "scale": ({}, {"scale": 10.0}),
        "class_weights": ({}, {"class_weights": None}),
        "class_weights.name": (
            {"class_weights": {}},
            {"class_weights": {"name": "inverse"}},
        ),
        "class_weights.beta": ({"class_weights": {}}, {"class_weights": {"beta": 0.9}}),
        "class_weights.exponent": (POWER, {"class_weights": {"name": "power", "exponent": 1}}),
        "class_weights.start": ({"class_weights": {}}, {"class_weights": {"start": 2}}),
        "sampling": ({}, {"sampling": "class-balanced"}),
        **SAMPLING,
        "start": ({}, {"start": 1}),
        "frequent": ({"start": 0}, {"start": 0, "frequent": 0.5}),
        "centres": ({}, {"centres": 3}),
        "hidden": ({}, {"hidden": 16}),
        "weight": ({}, {"weight": 1.0}),
        "transfer": ({"start": 0}, {"start": 0, "transfer": 1.0}),
    },
    "balms": {
        "second": ({}, {"second": 2}),
        "second_rate": ({}, {"second_rate": 0.3}),
        "second_bn": ({}, {"second_bn": "eval"}),
        "rare_first": ({}, {"rare_first": 1.0}),
        "meta_rate": ({}, {"meta_rate": 2.0}),
    },
    "fslwf": {
        "scale": ({}, {"scale": 4.0}),
        "attention_scale": ({}, {"attention_scale": 3.0}),
        "shots": ({}, {"shots": 2}),
        "dropout": ({}, {"dropout": 0.5}),
        "second": ({}, {"second": 2}),
        "second_rate": ({}, {"second_rate": 0.1}),
        "second_schedule": ({}, {"second_schedule": "cosine"}),
        "second_milestones": ({"second": 2}, {"second": 2, "second_milestones": ()}),
    },
    "elf": {
        "loss": ({}, {"loss": "cross-entropy"}),
        "max_margin": ({}, {"max_margin": 0.2}),
        "scale": ({}, {"scale": 10.0}),
        "class_weights": ({}, {"class_weights": None}),
        "class_weights.name": (
            {"class_weights": {}},
            {"class_weights": {"name": "inverse"}},
        ),
        "class_weights.beta": ({"class_weights": {}}, {"class_weights": {"beta": 0.9}}),
        "class_weights.exponent": (POWER, {"class_weights": {"name": "power", "exponent": 1}}),
        "class_weights.start": ({"class_weights": {}}, {"class_weights": {"start": 2}}),
        "threshold": ({}, {"threshold": 0.2}),
    },
    "glmc": {
        "beta": ({}, {"beta": 0.5}),
        "resampling": ({}, {"resampling": 0.5}),
        "reweighting": ({}, {"reweighting": 0.5}),
        "consistency": ({}, {"consistency": 0.0}),
        "initialisation": ({}, {"initialisation": "uniform"}),
        "projection_width": ({}, {"projection_width": 16}),
    },
    "sure": {
        "scale": ({}, {"scale": 4.0}),
        "alpha": ({}, {"alpha": 0.2}),
        "mixed": ({}, {"mixed": 0.5}),
        "second": ({}, {"second": 2}),
        "second_rate": ({}, {"second_rate": 0.1}),
        "temperature": ({}, {"temperature": 5.0}),
        "reweighted": ({}, {"reweighted": "ascent"}),
    },
    "shike": {
        "experts": ({}, {"experts": 2}),
        "scale": ({}, {"scale": 10.0}),
        "mining": ({}, {"mining": 0.0}),
        "mutual": ({}, {"mutual": 0.0}),
        "share": ({}, {"share": "image"}),
        "second": ({}, {"second": 2}),
        "second_rate": ({}, {"second_rate": 0.5}),
        "second_warmup": ({}, {"second_warmup": 0.0}),
        "second_warmup_start": ({}, {"second_warmup_start": 0.0}),
        "second_bn": ({}, {"second_bn": "eval"}),
    },
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
        "ahead": ({}, {"ahead": False}),
        "second_bn": ({}, {"second_bn": "eval"}),
        "cap": ({}, {"cap": 0.5}),
    },
    "cc-sam": {
        "mixing": ({}, {"mixing": None}),
        **MIXING,
        "share": ({}, {"share": 0.1}),
        "noise": ({}, {"noise": 0.1}),
        "backbone_rate": ({}, {"backbone_rate": 0.1}),
        "second": ({}, {"second": 2}),
        "second_rate": ({}, {"second_rate": 0.5}),
        "second_schedule": ({}, {"second_schedule": "cosine"}),
        "second_bn": ({}, {"second_bn": "eval"}),
        "limit": ({}, {"limit": 1.0}),
        "sampling": ({}, {"sampling": "instance"}),
        **SAMPLING,
    },
    "experts": {
        "losses": ({}, {"losses": ["balanced-softmax"] * 2}),
        "total": ({}, {"total": "mean"}),
        "narrow": ({}, {"narrow": False}),
        "head": ({}, {"head": "linear"}),
        "head.name": ({}, {"head": {"name": "linear"}}),
        "head.scale": ({}, {"head": {"name": "cosine", "scale": 10.0}}),
        "head.initialisation": (
            {"head": "linear"},
            {"head": {"name": "linear", "initialisation": "kaiming"}},
        ),
        "class_weights": ({}, {"class_weights": {}}),
        "class_weights.name": ({"class_weights": {}}, {"class_weights": {"name": "inverse"}}),
        "class_weights.beta": ({"class_weights": {}}, {"class_weights": {"beta": 0.9}}),
        "class_weights.exponent": (POWER, {"class_weights": {"name": "power", "exponent": 1}}),
        "class_weights.start": ({"class_weights": {}}, {"class_weights": {"start": 2}}),
        "diversity": ({}, {"diversity": 0.45}),
        "tilt": (RIDE, RIDE | {"tilt": 0.5}),
        "mixing": ({}, {"mixing": "mixup"}),
        **MIXING,
        "backbone_rate": ({}, {"backbone_rate": 0.1}),
        "distillation": ({}, TAUGHT),
        "distillation.experts": (TAUGHT, taught(experts=1)),
        "distillation.temperature": (TAUGHT, taught(temperature=4.0)),
        "distillation.weight": (TAUGHT, taught(weight=3.0)),
        "distillation.warmup": (TAUGHT, taught(warmup=2)),
        "distillation.bn": (TAUGHT, taught(bn="eval")),
        "router": ({}, routed(help_weight=0.01)),
        "router.top": (ROUTER, routed(top=2)),
        "router.help_weight": (ROUTER, routed(help_weight=0.01)),
        "router.epochs": (ROUTER, routed(epochs=1)),
        "router.learning_rate": (ROUTER, routed(learning_rate=0.001)),
        "router.weight_decay": (ROUTER, routed(weight_decay=0.5)),
    },
    "do": {
        option: (QUICK | base, QUICK | changed)
        for option, (base, changed) in {
            "sequence": ({}, {"sequence": "many-few-medium"}),
            "rho": ({}, {"rho": 0.9}),
            "rare_sampling": ({}, {"rare_sampling": "class-balanced"}),
            "compensation": ({}, {"compensation": "target"}),
            "later_epochs": ({}, {"later_epochs": 1.0}),
            "later_rate": ({}, {"later_rate": 1.0}),
            "partition": ({}, {"partition": "per-stage"}),
            "importance": ({}, {"importance": "random"}),
            "release": ({}, {"release": (0.5, 0.6)}),
            "search_rule": (SEARCH, SEARCH | {"search_rule": "tolerance"}),
            "retraining_steps": ({}, {"retraining_steps": 2}),
            "retraining": ({}, {"retraining": "uniform"}),
            "mixture": ({}, {"mixture": "average"}),
        }.items()
    },
    "paco": {
        "objective": ({"probe_epochs": 2}, SUPCON),
        "rebalance": ({}, {"rebalance": False}),
        "alpha": ({}, {"alpha": 0.5}),
        "temperature": ({}, {"temperature": 0.05}),
        "centre_temperature": ({}, {"centre_temperature": 0.2}),
        "weight": ({"objective": "multi-task"}, {"objective": "multi-task", "weight": 1.0}),
        "keys": ({}, {"keys": "own"}),
        "projection": ({}, {"projection": "deep"}),
        "projection_width": ({}, {"projection_width": 16}),
        "initialisation": ({}, {"initialisation": "kaiming"}),
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
    "tsc": {
        option: (AIMED, AIMED | {option: value})
        for option, value in {
            "positives": 1,
            "targeted": 0.0,
            "target_weight": 2.0,
            "temperature": 0.5,
            "projection_width": 16,
            "queue": 16,
            "momentum": 0.5,
            "views": ("default", "none"),
            "second": 3,
            "second_rate": 0.1,
            "second_bn": "eval",
            "sampling": "instance",
        }.items()
    }
    | {option: (AIMED | base, AIMED | changed) for option, (base, changed) in SAMPLING.items()},
    "decoupling": {
        "representation": ({}, {"representation": {"sampling": "square-root"}}),
        "classifier.fused": ({"classifier": "h2t"}, {"classifier": {"name": "h2t", "fused": 0.75}}),
        "representation.mixing": ({}, {"representation": {"mixing": "mixup"}}),
        "representation.train": ({}, {"representation": {"train": "last-block"}}),
        "representation.backbone_rate": ({}, {"representation": {"backbone_rate": 0.1}}),
        "representation.frozen_bn": (
            {"representation": {"train": "last-block"}},
            {"representation": {"train": "last-block", "frozen_bn": "eval"}},
        ),
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
        "classifier.label_smoothing": ({"classifier": "los"}, los(label_smoothing=0.5)),
        "classifier.weight_decay": ({"classifier": "los"}, los(weight_decay=0.5)),
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
    }
    | {
        f"representation.{option}": ({"representation": base}, {"representation": changed})
        for option, (base, changed) in MIXING.items()
    },
}
for method, short in SHORT_SECOND.items():
    ALTERNATIVES[method] = {
        option: (short | base, short | changed)
        for option, (base, changed) in ALTERNATIVES[method].items()
    }
# options that change something with several processes only: see test_distributed
IN_A_FILE = {"single-head": {"head_start.file"}}  # see test_head_start
SEVERAL_PROCESSES = {"paco": {"contrast"}}
# options of views that evaluation draws: see test_do
EVALUATION = {"do": {"test_views"}}
LOSSES = ("cross-entropy", "focal", "logit-adjusted", "inverse-softmax", "lade", "ldam")
LOSSES += ("vector-scaling", "softmax-equalization", "gaussian-clouded")
LOSS_OPTIONS = [{"loss": name} for name in LOSSES]

START_OPTIONS = [{"head_start": name} for name in ("class-means", "probe", "vectors")]
CLASSIFIER_OPTIONS = [
    {"classifier": name} for name in ("crt", "lws", "los", "h2t", "tau", "ncm", "joint")
]

every_variant = pytest.mark.parametrize("variant", VARIANTS)
# for what trains once more or exports: of each method its defaults quickly, its other variants slowly
every_variant_in_time = pytest.mark.parametrize(
    "variant",
    [
        pytest.param(name, marks=[] if name.endswith(", defaults") else pytest.mark.slow)
        for name in VARIANTS
    ],
)
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
    images = tiny.images(4, 9)
    one.eval(), other.eval()
    torch.testing.assert_close(one.predict(images)[:, order], other.predict(images))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Train a variant once, and return it with its run folder; neither is to be changed."""
    known = {}

    def train(variant):
        if variant not in known:
            method = make(variant)
            known[variant] = method, tiny.train(method, tmp_path_factory.mktemp("trained"))
        return known[variant]

    return train


@every_variant
def test_save_and_load_gives_the_same_logits(variant, trained):
    method, run = trained(variant)
    again = make(variant, seed=1)
    ckpt.load_weights(again, ckpt.read_weights(ckpt.newest(run.checkpoints)), "x")
    images = tiny.images(5)
    assert torch.equal(method.eval().predict(images), again.eval().predict(images))


@every_variant
def test_no_tensor_outside_parameters_and_buffers(variant, trained):
    method, _ = trained(variant)
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


@every_variant_in_time
def test_one_seed_twice_is_equal_and_resume_equals_no_break(
    variant, trained, tmp_path, monkeypatch
):
    (whole, first), again = trained(variant), make(variant)
    # steps that are measured before a training begins change nothing of it
    monkeypatch.setattr(trial, "WORTH_IT", 0)
    monkeypatch.setattr(trial, "LEAST", 1)
    run = tiny.train(again, tmp_path / "run")
    assert tiny.equal(tiny.weights(whole), tiny.weights(again))
    # take the end away, as if the run had been killed in its last epoch
    ckpt.newest(run.checkpoints).rename(tmp_path / "gone")
    resumed = make(variant)
    tiny.train(resumed, run.path, resume=True)
    assert tiny.equal(tiny.weights(whole), tiny.weights(resumed))
    key = ("stage", "epoch", "loss", "learning_rate")
    lines = [
        [{k: line.get(k) for k in key} for line in folder.read_metrics()] for folder in (first, run)
    ]
    assert lines[0] == lines[1]


@every_variant_in_time
def test_another_seed_is_another_run(variant, trained, tmp_path):
    if variant == "class means alone":
        pytest.skip("nothing is drawn after the network was built")
    (one, _), other = trained(variant), make(variant)
    tiny.train(other, tmp_path, tiny.OPTIONS.model_copy(update={"seed": 5}))
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
    for label in (1, 5):  # the most frequent and the class with one image
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
def test_frozen_parts_do_not_move(variant, trained):
    method, run = trained(variant)
    stages = method.stages()
    for number, stage in enumerate(stages[1:], start=1):
        before = ckpt.read_weights(run.checkpoints / f"stage-{number - 1}-end")
        after = ckpt.read_weights(run.checkpoints / f"stage-{number}-end")
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
    covered |= EVALUATION.get(name, set()) | IN_A_FILE.get(name, set())
    for options in [
        {},
        FLAT,
        {"sharpness": "imbsam"},
        LIFTED,
        RANGE,
        *LOSS_OPTIONS,
        *CLASSIFIER_OPTIONS,
        *START_OPTIONS,
    ]:
        raw = {"method": {"name": name, "class_weights": {}, "mixing": {}} | options}
        keys = {key.removeprefix("method.") for key in valid_keys(raw) if key.startswith("method.")}
        assert keys - {"name"} <= covered


SEVERAL_STAGES = {
    "lfme",
    "do",
    "decoupling",
    "paco",
    "rsg",
    "oltr",
    "fslwf",
    "balms",
    "tsc",
    "cc-sam",
    "gcl",
}


@pytest.mark.parametrize(
    ("name", "option"),
    [
        pytest.param(name, option, marks=pytest.mark.slow if name in SEVERAL_STAGES else ())
        for name, table in ALTERNATIVES.items()
        for option in table
    ],
)
def test_every_option_changes_something(name, option, predicted):
    base, changed = ALTERNATIVES[name][option]
    assert not torch.equal(predicted(name, base), predicted(name, changed))


@pytest.fixture(scope="module")
def predicted(tmp_path_factory):
    """Train a method with options once, and return its logits for some images."""
    known = {}

    def train(name, options):
        key = (name, json.dumps(options, sort_keys=True))
        if key not in known:
            method = tiny.build(name, options)
            tiny.train(method, tmp_path_factory.mktemp("predicted"))
            known[key] = method.eval().predict(tiny.images(6))
            if options.get("router"):  # it says yes or no: its weights tell more
                known[key] = parameters_to_vector(method.router.parameters())
        return known[key]

    return train


@every_method
def test_predict_needs_images_only(name):
    method = tiny.build(name).eval()
    assert list(inspect.signature(method.predict).parameters) == ["images"]
    one, all_ = tiny.images(6)[:1], tiny.images(6)
    # the prediction for an image does not depend on the others of its batch
    torch.testing.assert_close(method.predict(all_)[:1], method.predict(one), atol=1e-5, rtol=1e-4)


@every_variant_in_time
def test_exportable(variant):
    class Predictor(nn.Module):
        def __init__(self, method):
            super().__init__()
            self.method = method

        def forward(self, images):
            return self.method.predict(images)

    method = make(variant).eval()
    images = tiny.images(3)
    program = torch.export.export(
        Predictor(method), (images,), dynamic_shapes=({0: torch.export.Dim("batch")},)
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
