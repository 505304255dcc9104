"""Decoupling representation and classifier (Kang et al., ICLR 2020, arXiv 1910.09217).

Idea: Class imbalance hurts the classifier, not the representation. Train the network jointly with
ordinary sampling, then correct the classifier alone: train it again with class-balanced sampling,
learn one scale per class, shorten its long rows, or replace it by class means.

Symbols:
    x  pictures [B, 3, H, W]     f(x)  features [B, D]     W, b  classifier [C, D], [C]
    joint   z = W f(x) + b, trained with sampling p_j proportional to n_j^q or progressively balanced
    crt     the same W, b, drawn anew and trained on class-balanced pictures               (sec. 4)
    lws     z = s * (W f(x) + b), only s [C] is trained on class-balanced pictures (final version)
    tau     z = W~ f(x), w~_j = w_j / ||w_j||^tau; nothing is trained                       (eq. 9)
    ncm     z_j = nearness of f(x) to the mean feature of class j; nothing is trained
Every loss is cross-entropy.

Where paper and published code disagree, and what happens here:
- "Fixed" representation: the code leaves BatchNorm in train mode in stage 2, so that its running
  statistics follow class-balanced batches. stage2_bn=train does so (default), eval does not.
- LWS is absent from the paper's first version; form and 5 epochs are the code's. The scale multiplies
  the bias too, and weight decay pulls it to 0, not to 1.
- NCM: the paper compares unit vectors, the code centred unit features with raw means by distance.
  The defaults of `ncm` are the code's; centred=false unit_means=true metric=cosine is the paper's.
- tau: the code prints a table and a person picks, on iNaturalist from test. Here it is the strength
  with the best class-averaged accuracy on val, or on train where there is no val. The bias is dropped.
- The released stage 2 begins from the epoch that was best on val: training.select=best-validation.
- Fine-tuning more than the classifier (table 1) was not released. Here the classifier is drawn anew in
  all four rows, `last-block` is the last group of layers, and the factor 0.1 is for everything.
Without augmentation and with stage2_bn=eval the features of stage 2 are constant: the backbone sees each
picture once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from longtail.adjust import (
    NearestClassMean,
    nearest_class_mean,
    scaled_learning_rate,
    tau_curve,
    tau_normalize,
)
from longtail.core.batch import Batch, Position, StepOutput
from longtail.core.groups import GROUP_NAMES
from longtail.core.panel import Panel, measured_mean
from longtail.core.stage import Stage
from longtail.data.options import Options
from longtail.losses import cross_entropy
from longtail.methods.ingredients import ByName, SamplingOptions
from longtail.methods.method import Facts, FitBatches, Method, Setting
from longtail.models.heads import LinearHead

BALANCED = SamplingOptions(name="class-balanced")


class RepresentationOptions(Options):
    """Stage 1: the network with its first classifier."""

    sampling: Annotated[SamplingOptions, ByName] = SamplingOptions()
    train: Literal["all", "last-block"] = Field(
        "all", description="last-block: the rest stays as pretrained (Places-LT)"
    )
    backbone_rate: float = Field(
        1.0, gt=0, description="factor of the backbone's learning rate (Places-LT 0.1)"
    )


class JointOptions(Options):
    """No second stage."""

    name: Literal["joint"] = "joint"


class Stage2Options(Options):
    """What cRT and LWS share."""

    epochs: int = Field(10, ge=1)
    learning_rate: float | None = Field(
        None, gt=0, description="0.2 B / 512 if not given, with a cosine to zero"
    )
    sampling: Annotated[SamplingOptions, ByName] = BALANCED
    stage2_bn: Literal["train", "eval"] = Field(
        "train", description="whether the frozen BatchNorm statistics follow the batches (code)"
    )
    augment: bool = Field(True, description="false with stage2_bn=eval: features are computed once")

    @property
    def features_stay(self) -> bool:
        """Whether a picture has the same features in every epoch."""
        return self.stage2_bn == "eval" and not self.augment


class RetrainingOptions(Stage2Options):
    """cRT, and the rows of table 1 that train more than the classifier."""

    name: Literal["crt"] = "crt"
    train: Literal["classifier", "last-block", "all"] = Field(
        "classifier", description="C, LB+C and B+C of table 1"
    )
    rate: float = Field(1.0, gt=0, description="factor of the learning rate, 0.1 in table 1")
    rate_of: Literal["everything", "backbone"] = "everything"

    @model_validator(mode="after")
    def _cached_features_stay(self) -> RetrainingOptions:
        if self.train != "classifier" and not self.augment:
            raise ValueError("augment=false caches features, so only the classifier can be trained")
        return self


class ScalingOptions(Stage2Options):
    """LWS."""

    name: Literal["lws"] = "lws"
    epochs: int = Field(5, ge=1)


class TauOptions(Options):
    """tau-normalisation."""

    name: Literal["tau"] = "tau"
    tau: float | None = Field(
        None, ge=0, le=2, description="chosen on val, or on train without val, if not given"
    )


class MeansOptions(Options):
    """Nearest class mean."""

    name: Literal["ncm"] = "ncm"
    centred: bool = Field(True, description="subtract the mean of all training features")
    unit_means: bool = Field(False, description="scale the class means to unit length")
    metric: Literal["euclidean", "cosine"] = "euclidean"


ClassifierOptions = Annotated[
    Annotated[
        JointOptions | RetrainingOptions | ScalingOptions | TauOptions | MeansOptions,
        Field(discriminator="name"),
    ],
    ByName,
]


class DecouplingOptions(Options):
    """What can be chosen."""

    name: Literal["decoupling"] = "decoupling"
    representation: RepresentationOptions = RepresentationOptions()
    classifier: ClassifierOptions = RetrainingOptions()


class Decoupling(Method):
    """See the head of this file."""

    Config = DecouplingOptions
    summary = "train jointly, then correct the classifier alone: cRT, LWS, tau or class means"
    advice = (
        "a trained network exists, or several classifiers shall be compared on the same features"
    )
    citation = "Kang et al., Decoupling Representation and Classifier, ICLR 2020"

    tau: Tensor
    tau_chosen_on: Tensor
    means: Tensor
    centre: Tensor
    means_known: Tensor

    def __init__(self, config: DecouplingOptions, setting: Setting) -> None:
        super().__init__()
        self.config, self.setting = config, setting
        self.backbone = setting.build_backbone()
        num_classes, width = len(setting.class_counts), self.backbone.num_features
        self.head = LinearHead(width, num_classes)
        kind = config.classifier
        if isinstance(kind, ScalingOptions):
            self.scales = nn.Parameter(torch.ones(num_classes))
        elif isinstance(kind, TauOptions):
            self.register_buffer("tau", torch.zeros(()))
            # 0 before the choice, then the place in CHOSEN_ON
            self.register_buffer("tau_chosen_on", torch.zeros((), dtype=torch.uint8))
        elif isinstance(kind, MeansOptions):
            self.register_buffer("means", torch.zeros(num_classes, width))
            self.register_buffer("centre", torch.zeros(width))
            self.register_buffer("means_known", torch.zeros((), dtype=torch.bool))

    # --- stages -------------------------------------------------------------------------------

    def stages(self) -> Sequence[Stage]:
        """Representation, then classifier."""
        first, second = self.config.representation, self.config.classifier
        whole = first.train == "all"
        trainable = ("backbone",) if whole else (f"backbone.{self.backbone.last_block}",)
        representation = Stage(
            name="representation",
            epochs=self.setting.epochs,
            samplings=(first.sampling.build(self.setting.epochs),),
            trainable=(*trainable, "head"),
            rates=() if first.backbone_rate == 1 else (("backbone", first.backbone_rate),),
        )
        if isinstance(second, JointOptions):
            return [representation]
        if isinstance(second, TauOptions):
            return [representation, Stage(name="tau", epochs=0, kind="select")]
        if isinstance(second, MeansOptions):
            return [representation, Stage(name="class means", epochs=0, kind="fit")]
        name = "scales" if isinstance(second, ScalingOptions) else "classifier"
        return [representation, self._second_stage(name, second)]

    def _second_stage(self, name: str, second: RetrainingOptions | ScalingOptions) -> Stage:
        trainable: tuple[str, ...] = ("scales",)
        reset: tuple[str, ...] = ()
        rates: tuple[tuple[str, float], ...] = ()
        if isinstance(second, RetrainingOptions):
            trainable, reset = ("head",), ("head",)
            if second.train == "last-block":
                trainable += (f"backbone.{self.backbone.last_block}",)
            elif second.train == "all":
                trainable += ("backbone",)
            if second.rate_of == "backbone":
                rates = (("backbone", second.rate),)
        return Stage(
            name=name,
            epochs=second.epochs,
            samplings=(second.sampling.build(second.epochs),),
            views=("default",) if second.augment else ("none",),
            features="backbone" if second.features_stay else None,
            trainable=trainable,
            reset=reset,
            update_norm=("backbone",) if second.stage2_bn == "train" else (),
            learning_rate=self._learning_rate(second),
            schedule="cosine",
            warmup=0,
            nesterov=False,
            rates=rates,
        )

    def _learning_rate(self, second: RetrainingOptions | ScalingOptions) -> float:
        given = second.learning_rate
        rate = scaled_learning_rate(self.setting.batch_size) if given is None else given
        if isinstance(second, RetrainingOptions) and second.rate_of == "everything":
            rate *= second.rate
        return rate

    # --- steps --------------------------------------------------------------------------------

    def training_step(self, batches: Sequence[Batch], at: Position) -> StepOutput:
        """Return CE(z, y); z is scaled in the second stage of LWS."""
        (batch,) = batches
        second = self.config.classifier
        computed = at.stage > 0 and isinstance(second, Stage2Options) and second.features_stay
        logits = self.head(batch.images if computed else self.backbone(batch.images))
        if at.stage > 0 and isinstance(second, ScalingOptions):
            logits = self.scales * logits
        return StepOutput(cross_entropy(logits, batch.labels))

    @torch.no_grad()
    def fit(self, stage: Stage, batches: FitBatches, split: str) -> Facts:
        """Compute the second stage from the features of one pass."""
        parts = [(self.backbone(images), labels) for images, labels in batches]
        features = torch.cat([part for part, _ in parts])  # [N, D]
        labels = torch.cat([part for _, part in parts])  # [N]
        second = self.config.classifier
        if isinstance(second, TauOptions):
            return self._choose_tau(second.tau, features, labels, split)
        assert isinstance(second, MeansOptions), "the others are trained"
        return self._take_means(second, features, labels)

    def _choose_tau(
        self, fixed: float | None, features: Tensor, labels: Tensor, split: str
    ) -> Facts:
        curve = tau_curve(features, labels, self.head.weight)
        self.tau.fill_(curve.best if fixed is None else fixed)
        self.tau_chosen_on.fill_(CHOSEN_ON.index("options" if fixed is not None else split))
        groups = {name: self.setting.groups.mask(name) for name in GROUP_NAMES}
        rows: list[dict[str, float | None]] = []
        for place, tau in enumerate(curve.taus):
            shot = {
                name: measured_mean(curve.per_class[place][mask]) for name, mask in groups.items()
            }
            rows.append({"tau": tau, "macro_accuracy": curve.accuracy[place], **shot})
        return {"tau": float(self.tau), "curve_on": split, "curve": rows}

    def _take_means(self, second: MeansOptions, features: Tensor, labels: Tensor) -> Facts:
        classifier = nearest_class_mean(
            features,
            labels,
            len(self.means),
            centred=second.centred,
            unit_means=second.unit_means,
            metric=second.metric,
        )
        self.means.copy_(classifier.means)
        self.centre.copy_(classifier.centre)
        self.means_known.fill_(True)
        return {"features": len(features)}

    # --- prediction ---------------------------------------------------------------------------

    def predict(self, images: Tensor) -> Tensor:
        """Return the logits of the corrected classifier; before it is known, of the joint one."""
        features = self.backbone(images)
        joint: Tensor = self.head(features)
        second = self.config.classifier
        if isinstance(second, ScalingOptions):
            return self.scales * joint
        if isinstance(second, TauOptions):
            normalised = nn.functional.linear(features, tau_normalize(self.head.weight, self.tau))
            return torch.where(self.tau_chosen_on > 0, normalised, joint)
        if isinstance(second, MeansOptions):
            scores = NearestClassMean(self.means, self.centre, second.metric).scores(features)
            return torch.where(self.means_known, scores, joint)
        return joint

    def corrections(self) -> tuple[str, ...]:
        """Name the sampler of the representation and the corrected classifier."""
        sampling, second = self.config.representation.sampling.name, self.config.classifier
        named = [] if sampling == "instance" else [f"{sampling} sampling"]
        if not isinstance(second, JointOptions):
            named.append(CORRECTION[second.name])
        return tuple(named)

    @property
    def remarks(self) -> tuple[str, ...]:
        """Say which tau was chosen, and on what."""
        if not isinstance(self.config.classifier, TauOptions) or not self.tau_chosen_on:
            return ()
        where = CHOSEN_ON[int(self.tau_chosen_on)]
        reason = "given" if where == "options" else f"best class-averaged accuracy on {where}"
        return (f"tau = {float(self.tau):.1f} ({reason}).",)

    def panels(self, batches: FitBatches, lines: Sequence[Facts]) -> Sequence[Panel]:
        """Return accuracy over tau, on the split that chose it."""
        found = next((line for line in lines if "curve" in line), None)
        if found is None:
            return ()
        names = ("macro_accuracy", *GROUP_NAMES)
        panel = Panel(
            title="Accuracy over tau",
            text=f"Class-averaged accuracy on {found['curve_on']}; tau = {found['tau']:.1f} was used. "
            "As tau grows, long rows of the classifier lose their head start: many-shot classes fall "
            "and few-shot classes rise (figure 2 of the paper).",
            x="tau",
            y="accuracy",
            places=[row["tau"] for row in found["curve"]],
            series={
                name.replace("macro_accuracy", "all classes"): [row[name] for row in found["curve"]]
                for name in names
            },
            percent=True,
        )
        return (panel,)

    @classmethod
    def shares_first_stage(cls, own: Options, other: Options) -> bool:
        """Say whether both learn the same representation, and `own` goes on from there."""
        return (
            isinstance(own, DecouplingOptions)
            and not isinstance(own.classifier, JointOptions)
            and isinstance(other, DecouplingOptions)
            and own.representation == other.representation
        )


CHOSEN_ON = ("not yet", "train", "val", "options")
CORRECTION = {
    "crt": "classifier trained again class-balanced",
    "lws": "learned class scales",
    "tau": "tau-normalisation",
    "ncm": "class means",
}
