"""The five classifiers of Decoupling, section 4, and two of later papers: each says its stage, its logits
and what it assumes.

    joint   z = W f(x) + b as it was trained with the representation
    crt     the same W, b, drawn anew and trained on class-balanced images
    lws     z = s * (W f(x) + b), only the scales s are trained on class-balanced images
    los     the same W, b, trained on with over-smoothed labels               (Sun et al., ICLR 2025)
    h2t     the same W, b, trained on with features that are fused from two images (Li et al., AAAI 2024)
    tau     z = W~ f(x), w~_j = w_j / ||w_j||^tau                                                 (eq. 3)
    ncm     z_j = nearness of f(x) to the mean feature of class j

A classifier keeps no tensors. They are parameters and buffers of the method, because their names there
(`scales`, `tau`, `means`, ...) are those in the files of every run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from longtail.adjust import (
    NearestClassMean,
    nearest_class_mean,
    scaled_learning_rate,
    tau_curve,
    tau_normalize,
)
from longtail.config import Options
from longtail.core.batch import Position
from longtail.core.figure import FigureData, measured_mean
from longtail.core.groups import GROUP_NAMES
from longtail.core.rng import numpy_generator
from longtail.core.stage import Sampling, Stage
from longtail.core.to_device import send
from longtail.losses import cross_entropy
from longtail.methods.decoupling.options import (
    FusedOptions,
    MeansOptions,
    OverSmoothedOptions,
    RetrainingOptions,
    ScalingOptions,
    Stage2Options,
    TauOptions,
)
from longtail.methods.ingredients import assumed
from longtail.methods.method import Facts

if TYPE_CHECKING:
    from longtail.methods.decoupling.method import Decoupling

CHOSEN_ON = ("not yet", "train", "val", "options")


class Classifier:
    """The joint classifier, left as it is; and what the others say otherwise.

    Args:
        options: Of the classifier.

    Attributes:
        correction: What it corrects, for the report; empty if nothing.
        gets_features: Whether its stage is given features that were computed once, instead of images.
    """

    correction: ClassVar[str] = ""
    gets_features: bool = False

    def __init__(self, options: Options) -> None:
        self.options = options

    def add_tensors(self, method: Decoupling) -> None:
        """Give the method the parameters and buffers of this classifier."""

    def stage(self, method: Decoupling) -> Stage | None:
        """Return the second stage, if there is one."""
        return None

    def logits(self, method: Decoupling, features: Tensor) -> Tensor:
        """Return the logits [B, C] of features [B, D]; those of the joint one before the second stage."""
        joint: Tensor = method.head(features)
        return joint

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of the second stage, a scalar, for logits [B, C] and labels [B]."""
        return cross_entropy(logits, labels)

    def fused(self, features: Sequence[Tensor], at: Position) -> Tensor:
        """Return what the second stage classifies, [B, D], of the features of each stream."""
        (own,) = features
        return own

    def fit(self, method: Decoupling, features: Tensor, labels: Tensor, split: str) -> Facts:
        """Compute the classifier from the features [N, D] and labels [N] of a whole split."""
        raise AssertionError("it is trained, not computed")

    def assumed_prior(self, method: Decoupling, at: Position) -> Tensor | None:
        """Return the class prior [C] that the second stage trained into the logits, None if unknown."""
        return None

    def notes(self, method: Decoupling) -> tuple[str, ...]:
        """Return sentences about what the second stage has chosen."""
        return ()

    def figures(self, lines: Sequence[Facts]) -> Sequence[FigureData]:
        """Return figures about the second stage from the lines of `metrics.jsonl`."""
        return ()


class _Trained(Classifier):
    """What cRT, LWS, LOS and H2T share: a second stage with a cosine and images of its own."""

    options: Stage2Options

    def __init__(self, options: Stage2Options) -> None:
        super().__init__(options)
        self.gets_features = options.features_stay

    def _stage(
        self,
        method: Decoupling,
        name: str,
        trainable: tuple[str, ...],
        *,
        reset: tuple[str, ...] = (),
        factor: float = 1.0,
        rates: tuple[tuple[str, float], ...] = (),
        weight_decay: float | None = None,
        beside: tuple[Sampling, ...] = (),
    ) -> Stage:
        options, peak = self.options, self.options.learning_rate
        if peak is None:
            peak = scaled_learning_rate(method.setting.batch_size)
        return Stage(
            name=name,
            epochs=options.epochs,
            samplings=(options.sampling.build(options.epochs), *beside),
            views=("default",) if options.augment else ("none",),
            features="backbone" if self.gets_features else None,
            trainable=trainable,
            reset=reset,
            update_norm=("backbone",) if options.stage2_bn == "train" else (),
            learning_rate=peak * factor,
            weight_decay=weight_decay,
            schedule="cosine",
            warmup=0,
            nesterov=False,
            rates=rates,
        )


class Retrained(_Trained):
    """cRT: W and b are drawn anew and trained; in the other rows of table 1 more than them."""

    options: RetrainingOptions
    correction = "classifier retrained with class-balanced sampling"

    def stage(self, method: Decoupling) -> Stage:
        """Train the classifier, and what of the backbone table 1 names."""
        options = self.options
        backbone = {
            "classifier": (),
            "last-block": (f"backbone.{method.backbone.last_block}",),
            "all": ("backbone",),
        }[options.train]
        everything = options.rate_of == "everything"
        return self._stage(
            method,
            "classifier",
            ("head", *backbone),
            reset=("head",),
            factor=options.rate if everything else 1.0,
            rates=() if everything else (("backbone", options.rate),),
        )

    def assumed_prior(self, method: Decoupling, at: Position) -> Tensor | None:
        """Return the prior of the images that the classifier was trained on."""
        sampling = self.options.sampling.build(self.options.epochs)
        return assumed(method.setting.class_counts, at, sampling=sampling)


class Scaled(_Trained):
    """LWS: one trained scale per class, on logits that stay."""

    options: ScalingOptions
    correction = "learned class scales"

    def add_tensors(self, method: Decoupling) -> None:
        """Begin with scales of one: the logits of stage 1."""
        method.scales = nn.Parameter(torch.ones(len(method.setting.class_counts)))

    def stage(self, method: Decoupling) -> Stage:
        """Train the scales alone."""
        return self._stage(method, "scales", ("scales",))

    def logits(self, method: Decoupling, features: Tensor) -> Tensor:
        """Return s * (W f + b)."""
        return method.scales * super().logits(method, features)


class OverSmoothed(_Trained):
    """LOS: W and b go on from stage 1, on images as they are, with labels spread over nearly all classes.

    A label of 1 - s + s / C for its class and s / C for the others: with s near 1 it is satisfied by logits
    that are small for all classes alike, the frequent ones among them.
    """

    options: OverSmoothedOptions
    correction = "classifier trained on over-smoothed labels"

    def stage(self, method: Decoupling) -> Stage:
        """Train the classifier."""
        return self._stage(method, "classifier", ("head",), weight_decay=self.options.weight_decay)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return cross-entropy with over-smoothed labels."""
        return cross_entropy(logits, labels, label_smoothing=self.options.label_smoothing)


class Fused(_Trained):
    """H2T: W and b go on from stage 1, on class-balanced images whose features are partly those of others.

    In each step some features, the same ones for the whole batch, are taken from a second batch, of images
    drawn as they are; the label stays. So rows of rare classes are trained on features that vary as those
    of frequent ones do.
    """

    options: FusedOptions
    correction = "classifier trained on class-balanced images with fused features"

    def stage(self, method: Decoupling) -> Stage:
        """Train the classifier."""
        return self._stage(
            method,
            "classifier",
            ("head",),
            weight_decay=self.options.weight_decay,
            beside=(Sampling(),),
        )

    def fused(self, features: Sequence[Tensor], at: Position) -> Tensor:
        """Return features of the balanced images, some of them replaced."""
        balanced, others = features
        width = balanced.shape[1]
        order = numpy_generator(at.seed, "fused features", at.stage, at.epoch, at.step)
        replaced = order.permutation(width) < int(self.options.fused * width)
        return torch.where(send(replaced, balanced.device), others, balanced)


class TauNormalised(Classifier):
    """tau-normalisation: rows of W divided by a power of their length; nothing is trained."""

    options: TauOptions
    correction = "tau-normalisation"

    def add_tensors(self, method: Decoupling) -> None:
        """Begin without a choice: 0 in `tau_chosen_on`, then a place in CHOSEN_ON."""
        method.register_buffer("tau", torch.zeros(()))
        method.register_buffer("tau_chosen_on", torch.zeros((), dtype=torch.uint8))

    def stage(self, method: Decoupling) -> Stage:
        """Choose tau."""
        return Stage(name="tau", epochs=0, kind="select")

    def logits(self, method: Decoupling, features: Tensor) -> Tensor:
        """Return W~ f, without b."""
        normalised = nn.functional.linear(features, tau_normalize(method.head.weight, method.tau))
        return torch.where(method.tau_chosen_on > 0, normalised, super().logits(method, features))

    def fit(self, method: Decoupling, features: Tensor, labels: Tensor, split: str) -> Facts:
        """Take the given tau, else the best one on this split."""
        fixed, curve = self.options.tau, tau_curve(features, labels, method.head.weight)
        method.tau.fill_(curve.best if fixed is None else fixed)
        method.tau_chosen_on.fill_(CHOSEN_ON.index("options" if fixed is not None else split))
        groups = {name: method.setting.groups.mask(name) for name in GROUP_NAMES}
        rows: list[dict[str, float | None]] = []
        for place, tau in enumerate(curve.taus):
            shot = {
                name: measured_mean(curve.per_class[place][mask]) for name, mask in groups.items()
            }
            rows.append({"tau": tau, "macro_accuracy": curve.accuracy[place], **shot})
        return {"tau": float(method.tau), "curve_on": split, "curve": rows}

    def notes(self, method: Decoupling) -> tuple[str, ...]:
        """Say which tau was chosen, and on what."""
        if not method.tau_chosen_on:
            return ()
        where = CHOSEN_ON[int(method.tau_chosen_on)]
        reason = "given" if where == "options" else f"best macro accuracy on {where}"
        return (f"tau = {float(method.tau):.1f} ({reason}).",)

    def figures(self, lines: Sequence[Facts]) -> Sequence[FigureData]:
        """Return accuracy over tau, on the split that chose it."""
        found = next((line for line in lines if "curve" in line), None)
        if found is None:
            return ()
        names = ("macro_accuracy", *GROUP_NAMES)
        figure = FigureData(
            title="Accuracy over tau",
            text=f"Macro accuracy on {found['curve_on']}; the model uses tau = {found['tau']:.1f}. As tau "
            "grows, the long rows of the classifier are shortened: many-shot accuracy falls and "
            "few-shot accuracy rises (figure 2 of the paper).",
            x="tau",
            y="accuracy",
            places=[row["tau"] for row in found["curve"]],
            series={
                name.replace("macro_accuracy", "all classes"): [row[name] for row in found["curve"]]
                for name in names
            },
            percent=True,
        )
        return (figure,)


class ClassMeans(Classifier):
    """Nearest class mean: features are compared with the mean of each class; nothing is trained."""

    options: MeansOptions
    correction = "class means"

    def add_tensors(self, method: Decoupling) -> None:
        """Make room for the means."""
        width = method.backbone.num_features
        method.register_buffer("means", torch.zeros(len(method.setting.class_counts), width))
        method.register_buffer("centre", torch.zeros(width))
        method.register_buffer("means_known", torch.zeros((), dtype=torch.bool))

    def stage(self, method: Decoupling) -> Stage:
        """Take the means."""
        return Stage(name="class means", epochs=0, kind="fit")

    def logits(self, method: Decoupling, features: Tensor) -> Tensor:
        """Return the nearness to each mean."""
        means = NearestClassMean(method.means, method.centre, self.options.metric)
        scores = means.scores(features)
        return torch.where(method.means_known, scores, super().logits(method, features))

    def fit(self, method: Decoupling, features: Tensor, labels: Tensor, split: str) -> Facts:
        """Take the mean feature of each class."""
        found = nearest_class_mean(
            features,
            labels,
            len(method.means),
            centred=self.options.centred,
            unit_means=self.options.unit_means,
            metric=self.options.metric,
        )
        method.means.copy_(found.means)
        method.centre.copy_(found.centre)
        method.means_known.fill_(True)
        return {"features": len(features)}


CLASSIFIERS: Mapping[str, type[Classifier]] = {
    "joint": Classifier,
    "crt": Retrained,
    "lws": Scaled,
    "los": OverSmoothed,
    "h2t": Fused,
    "tau": TauNormalised,
    "ncm": ClassMeans,
}
