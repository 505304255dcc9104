"""BALMS: balanced meta-softmax (Ren et al., NeurIPS 2020, arXiv 2007.10740).

Idea: Balanced softmax corrects for the prior, but with images drawn evenly on top of it the correction is too
strong, and drawn as they are, rare classes are learnt slowly. So learn how often each class is drawn: try a
step on images drawn by the rates, see what it does to a balanced set, and move the rates accordingly.

Symbols:
    x, y     features and labels of the candidates, images as they are                 [B, D], [B]
    W, b     classifier; n_c images of class c                                         [C, D], [C]
    q_c      sigmoid(psi_c), the rate of class c: candidate j is drawn with q_yj       [C]
    s_i      1 in value; its gradient is that of a Gumbel-softmax over candidates      [B]
    l_i      CE(z + log n, y) of the i-th drawn image, z = W x + b                     [B]

Stages:
    1   W, b and the backbone, cross-entropy; images as they are
    2   W, b drawn anew, the backbone stays; each step
            draws B images from the candidates with replacement, by q
            W', b' = W, b - rate * gradient of mean_i s_i l_i                          the step that is tried
            psi follows Adam against the gradient of CE(W' x + b', y) on class-balanced images
            W, b follow the gradient of mean_i l_i
Prediction is z.

Where paper and released code disagree, and what we do:
- The paper draws classes by their rates. The code draws from all training images, each with the rate of its
  class, so that a class has a share of n_c q_c. We follow the code, with a batch of images as candidates.
- The gradient of l is written out: W' is linear in s, and no gradient of a gradient is needed. The trial step
  has the peak learning rate of the stage, without momentum and weight decay, which do not depend on psi.
- In the code, the balanced set is train on CIFAR and val on large data sets. Here it is always train, because
  nothing is trained on val.
- In the code, only drawn images pass the network, and the balanced ones in a batch of their own. Here, the
  candidates and the balanced images pass as one batch, so BatchNorm (`second_bn=train`) sees them together.
- The code needs PyTorch 1.4, where its scheduler, stepped before each epoch, begins with the rate of the
  second one and ends with zero. Here, both cosines begin at their peaks.
- Each process draws from, and tries, its own part of the batch; psi moves by the mean of the gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from longtail.config import Options
from longtail.core import distributed
from longtail.core.batch import Batch, Position, StepOutput
from longtail.core.counts import ClassCounts
from longtail.core.figure import FigureData
from longtail.core.precision import at_least_float32
from longtail.core.stage import Sampling, Stage
from longtail.losses import cross_entropy
from longtail.losses.softmax.adjusted_softmax import adjusted_cross_entropy
from longtail.methods.ingredients import assumed
from longtail.methods.method import Facts, FitBatches, Method, Setting
from longtail.models.heads import LinearHead

BETAS, EPSILON = (0.9, 0.999), 1e-8  # of Adam


class BALMSOptions(Options):
    """What can be chosen; defaults are those of CIFAR."""

    name: Literal["balms"] = "balms"
    second: int = Field(96, ge=1, description="epochs of the second stage: 2000 steps on CIFAR")
    second_rate: float = Field(
        0.1, gt=0, description="learning rate of the second stage, with a cosine to zero"
    )
    second_bn: Literal["train", "eval"] = Field(
        "train",
        description="train: the BatchNorm statistics of the frozen backbone follow the batches of the "
        "second stage (code)",
    )
    rare_first: float = Field(
        0.0,
        ge=0,
        description="exponent e of the initial rates, which are proportional to n_c^-e: 0 on CIFAR, "
        ".1 on ImageNet-LT, .3 on Places-LT",
    )
    meta_rate: float = Field(
        0.01, gt=0, description="learning rate of the rates: .001 on large data sets"
    )


class Rates(nn.Module):
    """psi, and Adam (Kingma and Ba, ICLR 2015) for it, whose state is kept with the weights.

    Args:
        counts: Images of the classes.
        exponent: See `first_rates`.
    """

    psi: Tensor
    moments: Tensor
    updates: Tensor

    def __init__(self, counts: ClassCounts, exponent: float) -> None:
        super().__init__()
        self.register_buffer("psi", first_rates(counts, exponent))  # [C]
        self.register_buffer("moments", torch.zeros(2, len(counts)))
        self.register_buffer("updates", torch.zeros(()))

    @torch.no_grad()
    def follow(self, gradient: Tensor, learning_rate: float) -> None:
        """Move psi by one step of Adam against its gradient [C]."""
        self.updates.add_(1)
        corrected = []
        for moment, beta, value in zip(
            self.moments, BETAS, (gradient, gradient.square()), strict=True
        ):
            moment.mul_(beta).add_(value, alpha=1 - beta)
            corrected.append(moment / (1 - beta**self.updates))
        first, second = corrected
        self.psi.sub_(learning_rate * first / (second.sqrt() + EPSILON))


class BALMS(Method):
    """See the head of this file."""

    Config = BALMSOptions
    summary = "balanced softmax on images whose rates by class are learned on a balanced set"
    advice = "you have a trained network and want to know how often each class should be drawn"
    citation = "Ren et al., Balanced Meta-Softmax for Long-Tailed Visual Recognition, NeurIPS 2020"
    several_processes = "draws from its own part"

    log_n: Tensor

    def __init__(self, config: BALMSOptions, setting: Setting) -> None:
        super().__init__()
        self.config, self.epochs, self.counts = config, setting.epochs, setting.class_counts
        self.backbone = setting.build_backbone()
        self.head = LinearHead(self.backbone.num_features, len(self.counts))
        self.register_buffer("log_n", self.counts.tensor(torch.float64).log().float())
        self.rates = Rates(self.counts, config.rare_first)

    def stages(self) -> Sequence[Stage]:
        """Representation, then classifier and rates."""
        config = self.config
        return [
            Stage(name="representation", epochs=self.epochs),
            Stage(
                name="classifier and rates",
                epochs=config.second,
                samplings=(Sampling(), Sampling(name="class-balanced", draws_per_class=1)),
                trainable=("head", "rates"),
                reset=("head",),
                update_norm=("backbone",) if config.second_bn == "train" else (),
                learning_rate=config.second_rate,
                schedule="cosine",
                warmup=0,
            ),
        ]

    def training_step(self, batches: Sequence[Batch], at: Position) -> StepOutput:
        """Return cross-entropy, or balanced softmax of the drawn images with the gradient for psi."""
        candidates = batches[0]
        if at.stage == 0:
            logits = self.head(self.backbone(candidates.images))
            return StepOutput(cross_entropy(logits, candidates.labels))
        sizes = [len(batch.labels) for batch in batches]
        both = self.backbone(torch.cat([batch.images for batch in batches])).detach()
        x, balanced = both.split(sizes)
        psi = self.rates.psi.clone().requires_grad_()
        chosen, s = draw(candidates.labels, psi)
        x, y = x[chosen], candidates.labels[chosen]
        logits = self.head(x)
        weights = self.head.weight.detach(), self.head.bias.detach()
        tried = tried_step(x, y, logits.detach() + self.log_n, s, weights, self.config.second_rate)
        # in float32 also under autocast: the gradient is that of a small step
        with torch.autocast(x.device.type, enabled=False):
            meta = cross_entropy(F.linear(at_least_float32(balanced), *tried), batches[1].labels)
        (gradient,) = torch.autograd.grad(meta, psi)
        return StepOutput(
            adjusted_cross_entropy(logits, y, bias=self.log_n).mean(),
            {"meta_loss": meta.detach()},
            carry={"gradient": gradient[None]},
        )

    def after_step(self, out: StepOutput, at: Position) -> None:
        """Move psi."""
        if at.stage > 0:
            gradient = distributed.mean(out.carry["gradient"].mean(dim=0))
            self.rates.follow(gradient, self.config.meta_rate)

    def predict(self, images: Tensor) -> Tensor:
        """Return z."""
        logits: Tensor = self.head(self.backbone(images))
        return logits

    def figures(self, batches: FitBatches, lines: Sequence[Facts]) -> Sequence[FigureData]:
        """Return how many of the drawn images are of each class."""
        if not bool(self.rates.updates > 0):
            return ()
        n, rates = self.counts.tensor(torch.float64), self.rates.psi.cpu().double().sigmoid()
        order = list(self.counts.ranking())
        drawn = {"drawn by the learned rates": n * rates, "in the training set": n}
        return (
            FigureData(
                title="Learned class rates",
                text="Share of each class in the images that trained the classifier, at the end of training, "
                "beside its share in the training set.",
                x="classes, most frequent first", y="share of images", percent=True,
                places=[float(place + 1) for place in range(len(order))],
                series={k: (v / v.sum())[order].tolist() for k, v in drawn.items()},
            ),
        )  # fmt: skip

    @classmethod
    def shares_first_stage(cls, own: Options, other: Options) -> bool:
        """Say that there is nothing to choose about the representation."""
        return isinstance(own, BALMSOptions) and isinstance(other, BALMSOptions)

    def corrections(self) -> tuple[str, ...]:
        """Name the loss and the sampler."""
        return ("balanced-softmax", "learned class rates")

    def assumed_prior(self, at: Position) -> Tensor | None:
        """Return the prior of the first stage; after the second, the mixture of rates is not known."""
        return assumed(self.counts, at) if at.stage == 0 else None


def first_rates(counts: ClassCounts, exponent: float) -> Tensor:
    """Return psi at first, [C]: q_c proportional to n_c^-exponent, and .5 in the middle of its range."""
    rare = counts.tensor(torch.float64) ** -exponent
    q = rare / (rare.min() + rare.max())
    return q.logit().float()


def draw(labels: Tensor, psi: Tensor) -> tuple[Tensor, Tensor]:
    """Draw as many images as there are candidates, with replacement, by the rates of their classes.

    Args:
        labels: Of the candidates, int64 [B].
        psi: Logits of the rates, [C].

    Returns:
        Places of the drawn images, int64 [B], and s, ones [B] with the gradient of a Gumbel-softmax.
    """
    size = len(labels)
    tiny = torch.finfo(torch.float32).tiny
    uniform = torch.rand((size, size), device=labels.device).clamp_min(tiny)
    gumbel = -(-uniform.log()).clamp_min(tiny).log()
    soft = (F.logsigmoid(psi)[labels] + gumbel).softmax(dim=1)  # [B, B]
    chosen = soft.argmax(dim=1)
    own = soft.gather(1, chosen[:, None]).squeeze(1)
    return chosen, 1 + (own - own.detach())


def tried_step(
    features: Tensor,
    labels: Tensor,
    logits: Tensor,
    s: Tensor,
    weights: tuple[Tensor, Tensor],
    rate: float,
) -> tuple[Tensor, Tensor]:
    """Return the weights of a linear classifier after a step against the gradient of mean_i s_i CE_i.

    Args:
        features: x, [B, D], without gradient.
        labels: int64 [B].
        logits: That the softmax is taken of, [B, C], without gradient.
        s: [B]; the result is linear in it.
        weights: W [C, D] and b [C], without gradient.
        rate: Of the step.
    """
    with torch.autocast(features.device.type, enabled=False):
        x, z = at_least_float32(features), at_least_float32(logits)
        slope = z.softmax(dim=1) - F.one_hot(labels, z.shape[1])  # of CE by z
        slope = s[:, None] * slope / len(labels)
        rows, bias = weights
        return rows - rate * slope.T @ x, bias - rate * slope.sum(dim=0)
