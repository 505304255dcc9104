"""FSLwF: few-shot learning without forgetting (Gidaris and Komodakis, CVPR 2018, arXiv 1804.09458).

Idea: A class with few images gets its row of the classifier not from training, but from a generator: the
mean of its features, completed by the rows of classes that look alike. The generator is trained in episodes
in which some well-known classes play the part of new ones. The rows of the others stay as they are.

Symbols:
    x       features without the last ReLU, u = x / |x|                                           [B, d]
    w_c     rows of the classes that are trained, the base classes; s, b scale and bias           [C, d]
    k_c     keys of the base classes                                                              [C, d]
    Q       a linear layer, at first near the identity                                            [d, d]
    S_c     support: images of a new class
    z_c     s (cos(x, w_c) + b), with w'_c in place of w_c for new classes                        [B, C]

    a_ic  = softmax over base classes of g cos(Q u_i, k_c), without those that are new in the episode
    w'_n  = phi_avg * mean over S_n of u_i + phi_att * mean over S_n of sum_c a_ic w_c / |w_c|    eq. 7, 8

Stages:
    1   backbone, w, s, b on base classes, class-balanced: CE(z, y)
    2   episodes on features: generator, w, s, b. Base classes of which the support stream brings images are
        new; queries are of base classes, class-balanced. Queries of new classes count twice as much in all as
        the others: 2/3 mean CE(z, y) over those + 1/3 mean over these
    3   w' of the classes that are really new, from all of their training images
Prediction is z; before stage 3, with w of the new classes as they were drawn.

Where paper and released code disagree, and what we do:
- As in the code, keys and Q u have unit length, and the bias is inside the scale.
- As in the code, both stages draw classes evenly. There, an episode of a large set has 250 new classes of
  389, with six queries each, and half as many queries of the others. Here, the classes in a batch of support
  images are new, a query is drawn from all base classes, and the two sums are weighted as in the code.
- As in the code, stage 2 uses features of images without augmentation on large sets. Its configuration there
  asks for dropout of half of them, but the code never turns it on: a network that is not trained is in eval
  mode. Nothing is dropped here either (`dropout=0`).
- In the code, an epoch of stage 2 has 4000 episodes; here, as many as train has batches.
- The few-shot classes are new, at most half of all, starting with the rarest. The papers that print this
  method for long tails (Liu et al., CVPR 2019, and later ones) do not say which classes they took.
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
from longtail.core.groups import ShotGroups
from longtail.core.precision import unit_rows
from longtail.core.stage import Sampling, Stage
from longtail.losses.softmax.adjusted_softmax import adjusted_cross_entropy
from longtail.methods.method import Facts, FitBatches, Method, Setting
from longtail.models.last_relu import without_last_relu


class FSLwFOptions(Options):
    """What can be chosen; defaults are those of the released code for large sets."""

    name: Literal["fslwf"] = "fslwf"
    scale: float = Field(10.0, gt=0, description="initial scale s of the cosines, which is trained")
    attention_scale: float = Field(
        30.0, gt=0, description="initial scale g of the attention, which is trained"
    )
    shots: int = Field(5, ge=1, description="images of each new class in an episode")
    dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of features dropped in episodes, by each process for itself",
    )
    second: int = Field(6, ge=1, description="epochs of the second stage")
    second_rate: float = Field(0.01, gt=0, description="learning rate of the second stage")
    second_schedule: Literal["step", "cosine", "constant"] = Field(
        "step", description="schedule of that learning rate; step lowers it at second_milestones"
    )
    second_milestones: tuple[float, ...] = Field(
        (2 / 3,),
        description="where step lowers the learning rate, as fractions of the second stage",
    )


class CosineClassifier(nn.Module):
    """z = s (cos + b), with a trained s and one b for all classes.

    Args:
        width: d.
        num_classes: C.
        scale: s at first.
    """

    def __init__(self, width: int, num_classes: int, scale: float) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.randn(num_classes, width) * (2 / width) ** 0.5)  # w
        self.scale = nn.Parameter(torch.tensor(scale))  # s
        self.bias = nn.Parameter(torch.zeros(()))  # b

    def forward(self, features: Tensor, rows: Tensor | None = None) -> Tensor:
        """Map features [B, d] to logits [B, C], by other rows [C, d] than w if given."""
        # in float32 also under autocast, as in CosineHead
        with torch.autocast(features.device.type, enabled=False):
            unit = unit_rows(features)
            cosines = unit @ unit_rows(self.rows if rows is None else rows).to(unit.dtype).T
            z: Tensor = self.scale.to(unit.dtype) * (cosines + self.bias.to(unit.dtype))
            return z


class WeightGenerator(nn.Module):
    """Makes rows of new classes from features of their images and the rows of base classes.

    Args:
        width: d.
        num_classes: C.
        scale: g at first.
    """

    def __init__(self, width: int, num_classes: int, scale: float) -> None:
        super().__init__()
        self.query = nn.Linear(width, width)  # Q
        with torch.no_grad():
            self.query.weight.copy_(torch.eye(width) + 0.001 * torch.randn(width, width))
            self.query.bias.zero_()
        self.keys = nn.Parameter(torch.randn(num_classes, width) * (2 / width) ** 0.5)  # k
        self.scale = nn.Parameter(torch.tensor(scale))  # g
        self.average = nn.Parameter(torch.ones(width))  # phi_avg
        self.attended = nn.Parameter(torch.ones(width))  # phi_att

    def forward(self, features: Tensor, rows: Tensor, seen: Tensor) -> Tensor:
        """Return what each image makes of its class's row, [B, d]; w' is the mean over a class.

        Args:
            features: Of support images, [B, d].
            rows: w, [C, d].
            seen: Classes that are looked at, bool [C], one or more.
        """
        with torch.autocast(features.device.type, enabled=False):
            unit = unit_rows(features)
            asked = F.linear(unit, self.query.weight.to(unit), self.query.bias.to(unit))
            alike = unit_rows(asked) @ unit_rows(self.keys).to(unit.dtype).T  # [B, C]
            attention = (self.scale.to(unit) * alike).masked_fill(~seen, -torch.inf).softmax(dim=1)
            recalled = attention @ unit_rows(rows).to(unit.dtype)
            return self.average.to(unit) * unit + self.attended.to(unit) * recalled


class FSLwF(Method):
    """See the head of this file."""

    Config = FSLwFOptions
    summary = "classifier rows of few-shot classes made by a generator that is trained in episodes"
    advice = "you need a comparison with few-shot learning; later methods are more accurate"
    citation = (
        "Gidaris and Komodakis, Dynamic Few-Shot Visual Learning without Forgetting, CVPR 2018"
    )

    new: Tensor
    generated: Tensor
    used: Tensor

    def __init__(self, config: FSLwFOptions, setting: Setting) -> None:
        super().__init__()
        self.config, self.epochs = config, setting.epochs
        self.backbone = without_last_relu(setting.build_backbone())
        width, num_classes = self.backbone.num_features, len(setting.class_counts)
        self.head = CosineClassifier(width, num_classes, config.scale)
        self.generator = WeightGenerator(width, num_classes, config.attention_scale)
        self.register_buffer("new", new_classes(setting.class_counts, setting.groups))  # [C]
        self.register_buffer("generated", torch.zeros(num_classes, width))  # w'
        self.register_buffer("used", torch.zeros((), dtype=torch.bool))  # whether it predicts

    @property
    def notes(self) -> tuple[str, ...]:
        """Say how many classes count as new."""
        return (
            f"{int(self.new.sum())} of {len(self.new)} classes count as new: their rows are generated.",
        )

    def stages(self) -> Sequence[Stage]:
        """Base classes, episodes, and the rows of the new classes."""
        config = self.config
        even = Sampling(name="weights", weights=tuple((~self.new).float().tolist()))
        support = Sampling(name="class-balanced", draws_per_class=config.shots)
        return [
            Stage(
                name="base classes",
                epochs=self.epochs,
                samplings=(even,),
                trainable=("backbone", "head"),
            ),
            Stage(
                name="episodes",
                epochs=config.second,
                samplings=(even, support),
                views=("none",),
                features="backbone",
                trainable=("head", "generator"),
                learning_rate=config.second_rate,
                schedule=config.second_schedule,
                milestones=config.second_milestones,
                warmup=0,
            ),
            Stage(name="new classes", epochs=0, kind="fit"),
        ]

    # --- steps --------------------------------------------------------------------------------

    def training_step(self, batches: Sequence[Batch], at: Position) -> StepOutput:
        """Return cross-entropy over base classes, or that of an episode."""
        if at.stage == 0:
            (batch,) = batches
            logits = self.head(self.backbone(batch.images)).masked_fill(self.new, -torch.inf)
            losses = adjusted_cross_entropy(logits, batch.labels)
            return StepOutput(mean_over(losses, ~self.new[batch.labels]))
        queries, support = batches
        dropout = self.config.dropout
        asked = F.dropout(queries.images, dropout, training=self.training)
        shown = distributed.join(F.dropout(support.images, dropout, training=self.training))
        labels, ids = distributed.join(support.labels), distributed.join(support.ids)
        posing = posing_as_new(labels, self.new)  # [C]
        made = self.generator(shown, self.head.rows, ~(self.new | posing))
        rows = torch.where(posing[:, None], class_means(made, labels, len(posing)), self.head.rows)
        logits = self.head(asked, rows).masked_fill(self.new, -torch.inf)
        losses = adjusted_cross_entropy(logits, queries.labels)
        of_new, really_new = posing[queries.labels], self.new[queries.labels]
        shown_itself = (queries.ids[:, None] == ids).any(dim=1)
        novel = mean_over(losses, of_new & ~shown_itself)
        base = mean_over(losses, ~of_new & ~really_new)
        scalars = {"new_loss": novel.detach(), "base_loss": base.detach()}
        return StepOutput((2 * novel + base) / 3, scalars)

    @torch.no_grad()
    def fit(self, stage: Stage, batches: FitBatches, split: str) -> Facts:
        """Generate the rows of the new classes from all of their training images."""
        sums = torch.zeros_like(self.generated)
        images_of = torch.zeros_like(sums[:, 0])
        for images, labels in batches:
            made = self.generator(self.backbone(images), self.head.rows, ~self.new).to(sums)
            sums.index_add_(0, labels, made)
            images_of.index_add_(0, labels, torch.ones_like(labels, dtype=sums.dtype))
        self.generated.copy_(sums / images_of.clamp_min(1)[:, None])
        self.used.fill_(True)
        return {"generated_rows": int(self.new.sum())}

    # --- prediction ---------------------------------------------------------------------------

    def predict(self, images: Tensor) -> Tensor:
        """Return z."""
        asked = (self.new & self.used)[:, None]
        logits: Tensor = self.head(
            self.backbone(images), torch.where(asked, self.generated, self.head.rows)
        )
        return logits

    @classmethod
    def shares_first_stage(cls, own: Options, other: Options) -> bool:
        """Say whether both begin with the same scale."""
        if not (isinstance(own, FSLwFOptions) and isinstance(other, FSLwFOptions)):
            return False
        return own.scale == other.scale

    def corrections(self) -> tuple[str, ...]:
        """Name what is done for rare classes."""
        generated = ("generated rows of few-shot classes",) if bool(self.new.any()) else ()
        return ("class-balanced sampling", *generated)


def new_classes(counts: ClassCounts, groups: ShotGroups) -> Tensor:
    """Return which classes get generated rows, bool [C]: few-shot ones, at most half of all, rarest first."""
    rarest = torch.zeros(len(counts), dtype=torch.bool)
    rarest[list(counts.ranking()[(len(counts) + 1) // 2 :])] = True
    return rarest & groups.mask("few")


def posing_as_new(labels: Tensor, new: Tensor) -> Tensor:
    """Return the base classes that a support set shows, bool [C]; none if it shows all of them.

    Args:
        labels: Of the support images, int64 [B].
        new: Classes that are really new, bool [C].
    """
    shown = torch.zeros_like(new).index_fill(0, labels, True) & ~new
    return shown & (shown != ~new).any()


def class_means(rows: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Return the means over classes of rows [B, d] with labels int64 [B], [C, d]; 0 without any."""
    sums = rows.new_zeros(num_classes, rows.shape[1]).index_add(0, labels, rows)
    number = rows.new_zeros(num_classes).index_add(0, labels, torch.ones_like(rows[:, 0]))
    return sums / number.clamp_min(1)[:, None]


def mean_over(losses: Tensor, counted: Tensor) -> Tensor:
    """Return the mean of losses [B] where `counted`, bool [B], of the joint batch; 0 where nowhere."""
    least = 1 / distributed.world_size()  # the mean over processes of a joint count of one
    number = distributed.mean(counted.to(losses.dtype).sum()).clamp_min(least)
    return torch.where(counted, losses, 0.0).sum() / number
