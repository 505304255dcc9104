"""GLMC: global and local mixture consistency cumulative learning (Du et al., CVPR 2023, arXiv 2305.08661).

Idea: Mix the same pairs of images twice, globally (mixup) and locally (cutmix), and let the network see the
same in both: that makes features robust without labels. A second classifier learns from labels that weigh
more, the rarer their class, and its share of the loss grows from epoch to epoch.

Symbols:
    x, x'        an image drawn as it is, and its partner: one of a class drawn with probability ~ n^(1 - k)
    lam          share of x in a pair, from Beta(a, a), one of a step
    g, l         lam x + (1 - lam) x' of one view of each; x with a box of x' in it, of the other view
    z, r         W f + b and W_r f + b_r, logits of the two classifiers on one backbone       [B, C]
    h, u         P f + p and Q h + q, projection and its prediction                           [B, d]
    w_c          weight of a label of class c, ~ n_c^-v, mean 1 over the classes              [C]
    alpha        1 - (t / T)^2 in epoch t = 0..T-1

Loss (one stage), each term a mean over the batch and a sum over g and l, with pairs of labels y, y':
    alpha   (lam CE(z, y) + (1 - lam) CE(z, y'))                                              conventional
  + (1 - alpha) (lam w_y CE(r, y) + (1 - lam) w_y' CE(r, y'))                                 rebalanced
  - gamma (cos(u_g, h_l) + cos(u_l, h_g)), h without gradient                                 consistency
Prediction is r.

Where paper and released code disagree, and what we do:
- The "ResNet-32" of the code is four times as wide (model.width=4), with 7.4 million weights instead of .5.
  The recipes have the same width.
- The first published numbers (55.9 at ratio 100) used a subset drawn with replacement, the "updated" ones
  (58.0) a subset without repeated images. Like all recipes, ours has no repeated images.
- Its commands set a=.5, but its code draws from Beta(1, 1). Here, `beta` is 1.
- As in the code, the labels of a CutMix pair have the shares that were drawn, not those of the clipped box.
  The code rounds the sides of the box up; we round them down.
- On CIFAR, the code draws P and Q from Kaiming's normal, too, as it does the classifiers. Here, P and Q have
  the framework's default everywhere, as in its code for large sets.
- As in the code, the mixup and the CutMix images pass the network separately, so BatchNorm sees each alone.
- The paper also has rows with MaxNorm, in which the classifier is trained again as in weight balancing, and a
  row "GLMC + BS" without code. Neither is included.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from longtail.config import Options
from longtail.core.batch import Batch, Position, StepOutput
from longtail.core.precision import unit_rows
from longtail.core.rng import numpy_generator
from longtail.core.stage import Sampling, Stage
from longtail.losses import cross_entropy
from longtail.methods.ingredients import Mixed, assumed, drawn_box, with_box
from longtail.methods.method import Method, Setting
from longtail.models.heads import Initialisation, LinearHead


class GLMCOptions(Options):
    """What can be chosen; defaults are those of CIFAR-100-LT at ratio 100."""

    name: Literal["glmc"] = "glmc"
    beta: float = Field(1.0, gt=0, description="a: the mixing ratio lambda follows Beta(a, a)")
    resampling: float = Field(
        0.0,
        ge=0,
        le=2,
        description="k: the classes of the partners are drawn with n^(1 - k); 0 is the class "
        "distribution, 1 class-balanced",
    )
    reweighting: float = Field(
        1.2, ge=0, le=2, description="v: the second classifier weights labels by n^-v"
    )
    consistency: float = Field(
        4.0, ge=0, description="gamma, weight of the cosines: 10 on large data sets"
    )
    projection_width: int = Field(
        128, ge=2, description="width d of the projection: 256 on large data sets"
    )
    initialisation: Initialisation = Field(
        "kaiming", description="initialisation of both classifiers; uniform on large data sets"
    )


class GLMC(Method):
    """See the head of this file."""

    Config = GLMCOptions
    summary = "consistent features for mixup and CutMix of the same pairs; a reweighted classifier takes over"
    advice = "you want a single stage and can pay for two views of two streams of images"
    citation = (
        "Du et al., Global and Local Mixture Consistency Cumulative Learning for Long-Tailed Visual "
        "Recognitions, CVPR 2023"
    )

    weights: Tensor

    def __init__(self, config: GLMCOptions, setting: Setting) -> None:
        super().__init__()
        self.config, self.epochs, self.counts = config, setting.epochs, setting.class_counts
        self.backbone = setting.build_backbone()
        width, num_classes = self.backbone.num_features, len(self.counts)
        self.head = LinearHead(width, num_classes, initialisation=config.initialisation)
        self.rebalanced_head = LinearHead(width, num_classes, initialisation=config.initialisation)
        self.projection = nn.Linear(width, config.projection_width)
        self.prediction = nn.Linear(config.projection_width, config.projection_width)
        weights = self.counts.tensor(torch.float64) ** -config.reweighting
        self.register_buffer("weights", (weights / weights.mean()).float())

    def stages(self) -> Sequence[Stage]:
        """Train everything on two streams of images, two views of each."""
        counts = self.counts.tensor(torch.float64)
        drawn = tuple((counts ** (1 - self.config.resampling)).tolist())
        partners = Sampling(name="weights", form="multinomial", weights=drawn)
        return [
            Stage(
                name="joint",
                epochs=self.epochs,
                samplings=(Sampling(), partners),
                views=("default", "default"),
            )
        ]

    def training_step(self, batches: Sequence[Batch], at: Position) -> StepOutput:
        """Return the three terms of the loss."""
        batch, others = batches
        generator = numpy_generator(at.seed, "mixing", at.stage, at.epoch, at.step)
        lam = float(generator.beta(self.config.beta, self.config.beta))
        whole = lam * batch.views[0] + (1 - lam) * others.views[0]
        box = drawn_box(batch.views[1], 1 - lam, generator)
        boxed, _ = with_box(batch.views[1], others.views[1], box)
        share = torch.tensor(lam)
        passes = [
            self._pass(Mixed(images, batch.labels, others.labels, share))
            for images in (whole, boxed)
        ]
        usual, rare, (h_g, h_l), (u_g, u_l) = zip(*passes, strict=True)
        alike = (u_g * h_l.detach()).sum(dim=1).mean() + (u_l * h_g.detach()).sum(dim=1).mean()
        alpha = 1 - (at.epoch / at.epochs) ** 2
        conventional, rebalanced = torch.stack(usual).sum(), torch.stack(rare).sum()
        loss = alpha * conventional + (1 - alpha) * rebalanced - self.config.consistency * alike
        scalars = {
            "conventional_loss": conventional.detach(),
            "rebalanced_loss": rebalanced.detach(),
            "cosine": alike.detach() / 2,
        }
        return StepOutput(loss, scalars)

    def _pass(self, mixed: Mixed) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the two losses of the labels, scalars, and unit h and u, [B, d]."""
        features = self.backbone(mixed.images)
        z, r = self.head(features), self.rebalanced_head(features)
        h = self.projection(features)
        u = self.prediction(h)
        usual = mixed.loss(lambda labels: cross_entropy(z, labels))
        rare = mixed.loss(
            lambda labels: cross_entropy(r, labels, class_weights=self.weights, reduction="mean")
        )
        return usual, rare, unit_rows(h), unit_rows(u)

    def predict(self, images: Tensor) -> Tensor:
        """Return r."""
        logits: Tensor = self.rebalanced_head(self.backbone(images))
        return logits

    def corrections(self) -> tuple[str, ...]:
        """Name what weighs labels and draws partners."""
        named = []
        if self.config.reweighting:
            named.append(f"labels weighted by n^-{self.config.reweighting:g}")
        if self.config.resampling:
            named.append(f"partners drawn by n^{1 - self.config.resampling:g}")
        return tuple(named)

    def assumed_prior(self, at: Position) -> Tensor | None:
        """Return the prior as the labels of the second classifier weigh it; unknown where partners differ."""
        if self.config.resampling:
            return None
        shares = assumed(self.counts, at)
        assert shares is not None, "cross-entropy of images as they are"
        weighted = shares * self.weights.cpu().double()
        return weighted / weighted.sum()
