"""Decoupling representation and classifier (Kang et al., ICLR 2020, arXiv 1910.09217).

Idea: Class imbalance hurts the classifier, not the representation. Train the network jointly with
ordinary sampling, then correct the classifier alone: train it again with class-balanced sampling,
learn one scale per class, shorten its long rows, or replace it by class means.

Symbols:
    x  images [B, 3, H, W]     f(x)  features [B, D]     W, b  classifier [C, D], [C]
    joint   z = W f(x) + b, trained with sampling p_j proportional to n_j^q or progressively balanced
    crt     the same W, b, drawn anew and trained on class-balanced images               (sec. 4)
    lws     z = s * (W f(x) + b), only s [C] is trained on class-balanced images (final version)
    los     the same W, b, trained on with over-smoothed labels            (Sun et al., ICLR 2025)
    h2t     the same W, b, trained on with features that are fused from two images (Li et al., AAAI 2024)
    tau     z = W~ f(x), w~_j = w_j / ||w_j||^tau; nothing is trained                       (eq. 3)
    ncm     z_j = nearness of f(x) to the mean feature of class j; nothing is trained
Every loss is cross-entropy; of LOS, with a label of 1 - s + s / C for the class and s / C for the others.

Where paper and published code disagree, and what we do:
- "Fixed" representation: the code leaves BatchNorm in train mode in stage 2, so that its running
  statistics follow class-balanced batches. stage2_bn=train does so (default), eval does not.
- The frozen layers of Places-LT's first stage: likewise (representation.frozen_bn).
- LWS is absent from the paper's first version; form and 5 epochs are the code's. The scale multiplies
  the bias too, and weight decay pulls it to 0, not to 1.
- NCM: the paper compares unit vectors, the code centred unit features with raw means by distance.
  The defaults of `ncm` are the code's; centred=false unit_means=true metric=cosine is the paper's.
- tau: the code prints a table and a person picks, on iNaturalist from test. Here it is the strength
  with the best class-averaged accuracy on val, or on train where there is no val. The bias is dropped.
- H2T: its code replaces channels of the last map before they are averaged, which comes to the same.
- LOS: its code keeps the epoch that was best on test, in both stages; here the last one.
- The released stage 2 begins from the epoch that was best on val: training.select=best-validation.
- Fine-tuning more than the classifier (table 1) was not released. Here the classifier is drawn anew in
  all four rows, `last-block` is the last group of layers, and the factor 0.1 is for everything.
Without augmentation and with stage2_bn=eval the features of stage 2 are constant: the backbone sees each
image once.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from longtail.config import Options
from longtail.core.batch import Batch, Position, StepOutput
from longtail.core.figure import FigureData
from longtail.core.stage import Stage
from longtail.losses import cross_entropy
from longtail.methods.decoupling.classifiers import CLASSIFIERS
from longtail.methods.decoupling.options import DecouplingOptions, JointOptions
from longtail.methods.ingredients import (
    assumed,
    mixed_batch,
    mixing_corrections,
    mixing_streams,
)
from longtail.methods.method import Facts, FitBatches, Method, Setting
from longtail.models.heads import LinearHead


class Decoupling(Method):
    """See the head of this file."""

    Config = DecouplingOptions
    summary = (
        "train jointly, then correct the classifier alone: cRT, LWS, LOS, H2T, tau or class means"
    )
    advice = (
        "you have a trained network, or want to compare several classifiers on the same features"
    )
    citation = "Kang et al., Decoupling Representation and Classifier, ICLR 2020"

    # of LWS, of tau-normalisation, of class means: `classifiers.py`
    scales: nn.Parameter
    tau: Tensor
    tau_chosen_on: Tensor
    means: Tensor
    centre: Tensor
    means_known: Tensor

    def __init__(self, config: DecouplingOptions, setting: Setting) -> None:
        super().__init__()
        self.config, self.setting = config, setting
        self.backbone = setting.build_backbone()
        self.head = LinearHead(self.backbone.num_features, len(setting.class_counts))
        self.classifier = CLASSIFIERS[config.classifier.name](config.classifier)
        self.classifier.add_tensors(self)

    # --- stages -------------------------------------------------------------------------------

    def stages(self) -> Sequence[Stage]:
        """Representation, then classifier."""
        second = self.classifier.stage(self)
        return [self._representation(), *([] if second is None else [second])]

    def _representation(self) -> Stage:
        first = self.config.representation
        whole = first.train == "all"
        trainable = ("backbone",) if whole else (f"backbone.{self.backbone.last_block}",)
        return Stage(
            name="representation",
            epochs=self.setting.epochs,
            samplings=(first.sampling.build(self.setting.epochs), *mixing_streams(first.mixing)),
            trainable=(*trainable, "head"),
            rates=() if first.backbone_rate == 1 else (("backbone", first.backbone_rate),),
            update_norm=("backbone",) if not whole and first.frozen_bn == "train" else (),
        )

    # --- steps --------------------------------------------------------------------------------

    def training_step(self, batches: Sequence[Batch], at: Position) -> StepOutput:
        """Return CE(z, y); z is the joint classifier's in the first stage, where images may be mixed."""
        batch = batches[0]
        if at.stage == 0:
            mixed = mixed_batch(self.config.representation.mixing, batches, at)
            logits = self.head(self.backbone(mixed.images if mixed else batch.images))

            def label_loss(labels: Tensor) -> Tensor:
                return cross_entropy(logits, labels)

            return StepOutput(mixed.loss(label_loss) if mixed else label_loss(batch.labels))
        given = self.classifier.gets_features
        features = [each.images if given else self.backbone(each.images) for each in batches]
        logits = self.classifier.logits(self, self.classifier.fused(features, at))
        return StepOutput(self.classifier.loss(logits, batch.labels))

    @torch.no_grad()
    def fit(self, stage: Stage, batches: FitBatches, split: str) -> Facts:
        """Compute the second stage from the features of one pass."""
        parts = [(self.backbone(images), labels) for images, labels in batches]
        features = torch.cat([part for part, _ in parts])  # [N, D]
        labels = torch.cat([part for _, part in parts])  # [N]
        return self.classifier.fit(self, features, labels, split)

    # --- prediction ---------------------------------------------------------------------------

    def predict(self, images: Tensor) -> Tensor:
        """Return the logits of the corrected classifier; before it is known, of the joint one."""
        return self.classifier.logits(self, self.backbone(images))

    def corrections(self) -> tuple[str, ...]:
        """Name the sampler of the representation and the corrected classifier."""
        sampling, correction = self.config.representation.sampling.name, self.classifier.correction
        named = [] if sampling == "instance" else [f"{sampling} sampling"]
        named += mixing_corrections(self.config.representation.mixing)
        return (*named, correction) if correction else tuple(named)

    def assumed_prior(self, at: Position) -> Tensor | None:
        """Return the sampler's prior of the classifier that was trained last.

        tau, class means and scales without offsets assume what is not known.
        """
        if at.stage > 0:
            return self.classifier.assumed_prior(self, at)
        first = self.config.representation
        sampling = first.sampling.build(self.setting.epochs)
        return assumed(self.setting.class_counts, at, sampling=sampling, mixing=first.mixing)

    @property
    def notes(self) -> tuple[str, ...]:
        """Say which tau was chosen, and on what."""
        return self.classifier.notes(self)

    def figures(self, batches: FitBatches, lines: Sequence[Facts]) -> Sequence[FigureData]:
        """Return accuracy over tau, on the split that chose it."""
        return self.classifier.figures(lines)

    @classmethod
    def shares_first_stage(cls, own: Options, other: Options) -> bool:
        """Say whether both learn the same representation, and `own` goes on from there."""
        return (
            isinstance(own, DecouplingOptions)
            and not isinstance(own.classifier, JointOptions)
            and isinstance(other, DecouplingOptions)
            and own.representation == other.representation
        )
