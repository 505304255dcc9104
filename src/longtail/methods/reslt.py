"""ResLT: residual learning for long-tailed recognition (Cui et al., TPAMI 2022, arXiv 2101.10633).

Idea: Give every group of classes parameters of its own, nested: one branch learns from all images,
a second from medium- and few-shot classes, a third from few-shot classes only. The branches are summed
before the classifier, so the later ones add what the first one lacks for rare classes. A second loss
keeps the sum itself a good classifier.

Symbols:
    x        feature map of the backbone     [B, D, h, w]
    f_g      pooled output of branch g       [B, D], g = 0 (all) .. G-1 (rarest group)
    W, b     one classifier for all          [C, D], [C]
    z_g      f_g W^T + b                     [B, C]
    z        sum of z_g                      [B, C]; the bias counts G times
    m_g(y)   1 if branch g learns class y    [G, C], nested: group of y >= g
    alpha    weight of the branch loss (`beta` in the released code)

Loss (eq. 1 to 3):  L = (1 - alpha) CE(z, y) + alpha L_branch
    pooled        L_branch = sum_g sum_i m_g(y_i) CE(z_g,i, y_i) / sum_g sum_i m_g(y_i)
    subset-means  L_branch = sum_g [ mean of CE(z_g,i, y_i) over the images with m_g(y_i) = 1 ]

Where paper and released code disagree, and what we do:
    head        paper: 1x1 convolutions; CIFAR code: three BatchNorms; ImageNet code: one convolution
                D -> G D with BatchNorm and ReLU. The default is `batchnorm`; `convolution` is an option.
    L_branch    paper: subset means, undefined for a batch without rare images (2.6 % of the batches
                on CIFAR-100-LT at ratio 100); code: pooled. The default is pooled; a missing term is dropped.
    branch CE   code: -log(p + 1e-7), capped at 16.1, without gradient beyond. The default follows the
                code. Its ImageNet script also caps the fused loss (`fused_capped`); the others do not.
    alpha       paper: .995 on both CIFARs; code: .998 to .96 on CIFAR-10, .995 to .72 on CIFAR-100. On
                iNaturalist: paper .90, code .85.
    pooling     ImageNet code: in training, the head comes before pooling, in testing after it, which differ
                because of the ReLU; for ResNet-10, after it in both. `pool_first: published` and `always` do
                the same; BatchNorm heads always come first.
    groups      paper: of equal imbalance factor (`cuts: equal-imbalance`); code: 2/2/6 classes on CIFAR-10,
                175/605/220 on ImageNet-LT, two groups on iNaturalist. Ours are the many-, medium- and
                few-shot classes of the run, or `cuts`; never slices of sorted labels.
    pixels      paper: scaled to [0, 1] on CIFAR; code: normalised with mean and standard deviation, as here.
    warm-up     paper: five epochs on CIFAR; code: from one third on CIFAR, from zero on ImageNet-LT, none for
                ResNet-50 on iNaturalist.
    experts     (RIDE's backbone, section 4.3): E experts, each with its own branches and classifier;
                L is summed over the experts, and z is averaged. Not released for CIFAR.
    test time   ImageNet code divides W by |w|^gamma and drops b, which the paper does not mention. `gamma`
                does the same; it is off by default.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from longtail.adjust import tau_normalize
from longtail.config import ByName, Options
from longtail.core import distributed
from longtail.core.batch import Batch, Position, StepOutput
from longtail.core.counts import ClassCounts
from longtail.core.figure import FigureData, accuracy_by_group, class_accuracy
from longtail.core.groups import ShotGroups
from longtail.core.precision import at_least_float32
from longtail.core.stage import Sampling, Stage
from longtail.methods.ingredients import (
    MixingOptions,
    mixed_batch,
    mixing_corrections,
    mixing_streams,
)
from longtail.methods.method import Facts, FitBatches, Method, Setting
from longtail.models.experts import Experts
from longtail.models.heads import LinearHead

CAP = 1e-7  # of the released branch loss


class ResLTOptions(Options):
    """What can be chosen; defaults are those of the released CIFAR code."""

    name: Literal["reslt"] = "reslt"
    alpha: float = Field(
        0.995, ge=0, le=1,
        description="weight of the branch loss: .995, .99, .72 on CIFAR-100-LT and .998, .998, .96 on "
        "CIFAR-10-LT at ratio 100, 50, 10; .99 on ImageNet-LT, .85 on iNaturalist",
    )  # fmt: skip
    head: Literal["batchnorm", "convolution", "separate", "shared"] = Field(
        "batchnorm",
        description="head of a branch; separate: its own convolution (figure 7); shared: one head for all "
        "branches (variant e)",
    )
    cuts: tuple[float, ...] | Literal["equal-imbalance"] | None = Field(
        None,
        description="where groups begin, as fractions of the classes by rank ([] for one group); or three "
        "groups of equal imbalance ratio (paper); the shot groups if not given",
    )
    masks: Literal["nested", "weak", "disjoint", "equal"] = Field(
        "nested",
        description="which classes a branch learns: nested as in ResLT, or variants a, b and c of the "
        "ablation",
    )
    branch_loss: Literal["pooled", "subset-means"] = Field(
        "pooled",
        description="how the branch losses are averaged: pooled as in the released code, or as in the paper",
    )
    capped: bool = Field(
        True, description="whether the branch loss is capped, as in the released code"
    )
    fused_capped: bool = Field(
        False,
        description="whether the loss of the sum is capped too, as in the released ImageNet code",
    )
    fusion: Literal["sum", "first"] = Field(
        "sum",
        description="what the main loss trains and what predicts: the sum, or the first branch (variant d)",
    )
    combine: Literal["logits", "largest", "probabilities"] = Field(
        "logits",
        description="how branches are combined in prediction: summed logits, or one of the other two naive "
        "fusions of table 1",
    )
    pool_first: Literal["published", "always", "never"] = Field(
        "published",
        description="whether features are pooled before a convolution head; published: only in testing",
    )
    experts: int = Field(
        1,
        ge=1,
        le=8,
        description="number of experts on a shared trunk, each a ResLT; 2 or 3 in the paper",
    )
    gamma: float | None = Field(
        None, ge=0, description="exponent of |w| in testing; .7 on ImageNet-LT, off if not given"
    )
    mixing: Annotated[MixingOptions | None, ByName] = None

    @field_validator("cuts")
    @classmethod
    def _ascending(cls, value: tuple[float, ...] | str | None) -> tuple[float, ...] | str | None:
        if isinstance(value, tuple) and (
            sorted(set(value)) != list(value) or not all(0 < c < 1 for c in value)
        ):
            raise ValueError("must ascend between 0 and 1, for example [0.35, 0.7]")
        return value


class ResLT(Method):
    """See the head of this file."""

    Config = ResLTOptions
    summary = "nested residual branches for many-, medium- and few-shot classes, summed"
    advice = "rare classes matter most and the network must stay as small and fast as it is"
    citation = "Cui et al., ResLT: Residual Learning for Long-tailed Recognition, TPAMI 2022"

    group_of: Tensor
    masks: Tensor

    def __init__(self, config: ResLTOptions, setting: Setting) -> None:
        super().__init__()
        self.config, self.epochs = config, setting.epochs
        group_of, self._notes = assign_groups(setting.class_counts, setting.groups, config.cuts)
        branches = int(group_of.max()) + 1
        self.register_buffer("group_of", group_of)  # [C]
        self.register_buffer("masks", branch_masks(group_of, branches, config.masks))  # [G, C]
        self.backbone: Any = (
            setting.build_backbone()
            if config.experts == 1
            else setting.build_experts(config.experts)
        )
        width, num_classes = self.backbone.num_features, len(setting.class_counts)
        self.experts = nn.ModuleList(
            Expert(width, branches, num_classes, config) for _ in range(config.experts)
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """Say so if an empty shot group changed the branches."""
        return self._notes

    def stages(self) -> Sequence[Stage]:
        """Train everything in one stage."""
        samplings = (Sampling(), *mixing_streams(self.config.mixing))
        return [Stage(name="joint", epochs=self.epochs, samplings=samplings)]

    def training_step(self, batches: Sequence[Batch], at: Position) -> StepOutput:
        """Return L, with the share of the branch loss that every branch carries."""
        batch = batches[0]
        mixed = mixed_batch(self.config.mixing, batches, at)
        parts = self._parts(mixed.images if mixed else batch.images)
        logits = [expert.branch_logits(maps) for expert, maps in parts]  # [G, B, C] of each expert
        shares: dict[str, Tensor] = {}

        def label_loss(labels: Tensor) -> Tensor:
            losses, carried = zip(*(self.loss(z, labels) for z in logits), strict=True)
            for branch, share in enumerate(torch.stack(carried).mean(dim=0).unbind()):
                shares[f"branch_{branch}_share"] = share
            return torch.stack(losses).sum()

        loss = mixed.loss(label_loss) if mixed else label_loss(batch.labels)
        return StepOutput(loss, shares)

    def loss(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return L of logits [G, B, C], and each branch's share of L_branch, [G]."""
        mask = self.masks[:, labels]  # [G, B]
        each = label_losses(logits, labels, capped=self.config.capped) * mask  # [G, B]
        if self.config.branch_loss == "pooled":
            terms = each.sum(dim=1) / distributed.mean(mask.sum())
        else:
            images = distributed.mean(mask.sum(dim=1))  # below 1 where some processes have none
            terms = each.sum(dim=1) / images.where(images > 0, 1)
        whole = logits.sum(dim=0) if self.config.fusion == "sum" else logits[0]
        branch, alpha = terms.sum(), self.config.alpha
        fused = label_losses(whole[None], labels, capped=self.config.fused_capped).mean()
        loss = (1 - alpha) * fused + alpha * branch
        return loss, (terms / branch.clamp_min(1e-12)).detach()

    def predict(self, images: Tensor) -> Tensor:
        """Return the mean of z over the experts."""
        fused = [expert.fused(maps) for expert, maps in self._parts(images)]
        return fused[0] if len(fused) == 1 else torch.stack(fused).mean(dim=0)

    def branch_logits(self, images: Tensor) -> Tensor:
        """Return z_g of images [B, 3, H, W], [G, B, C], in use: figure 6 evaluates them one by one."""
        apart = [expert.branch_logits(maps, in_use=True) for expert, maps in self._parts(images)]
        return torch.stack(apart).mean(dim=0)

    def figures(self, batches: FitBatches, lines: Sequence[Facts]) -> Sequence[FigureData]:
        """Return the accuracy of each branch alone beside their sum, and the shares of the loss."""
        branches = len(self.masks)

        def predicted(images: Tensor) -> Tensor:
            summed = self.predict(images).argmax(dim=1)
            return torch.cat([self.branch_logits(images).argmax(dim=2), summed[None]])

        accuracy = class_accuracy(((predicted(x), y) for x, y in batches), len(self.group_of))
        names = [*(f"branch {g}" for g in range(branches)), "sum"]
        groups = {f"group {g}": self.group_of.cpu() == g for g in range(branches)}
        places, series = accuracy_by_group(accuracy, names, groups)
        alone = FigureData(
            title="Branches, alone and summed",
            text="Macro accuracy of each branch and of their sum, by the groups that the branches are made "
            "for (figure 6 of the paper). According to the paper, each branch is the best of the "
            "branches on its own group.",
            x="classes", y="accuracy", kind="bars", percent=True, places=places, series=series,
        )  # fmt: skip
        trained = [line for line in lines if "branch_0_share" in line]
        shares = FigureData(
            title="Share of the branch loss",
            text="Share of the branch loss that comes from each branch, averaged over an epoch.",
            x="epoch", y="share of the branch loss", percent=True,
            places=[line["epochs_done"] for line in trained],
            series={
                f"branch {g}": [line[f"branch_{g}_share"] for line in trained]
                for g in range(branches)
            },
        )  # fmt: skip
        return (alone, shares) if trained else (alone,)

    def corrections(self) -> tuple[str, ...]:
        """Name the branches."""
        return ("residual branches", *mixing_corrections(self.config.mixing))

    def _parts(self, images: Tensor) -> list[tuple[Expert, Tensor]]:
        """Return every expert with its feature map [B, D, h, w]."""
        several = isinstance(self.backbone, Experts)
        maps = self.backbone(images) if several else [self.backbone.feature_map(images)]
        experts = [module for module in self.experts if isinstance(module, Expert)]
        return list(zip(experts, maps, strict=True))


class Expert(nn.Module):
    """G branches and one classifier on one feature map."""

    def __init__(self, width: int, branches: int, num_classes: int, config: ResLTOptions) -> None:
        super().__init__()
        self.config = config
        self.branches = Branches(width, branches, config.head)
        self.classifier = LinearHead(width, num_classes)

    def branch_logits(self, maps: Tensor, *, in_use: bool = False) -> Tensor:
        """Return z_g, [G, B, C], of a feature map [B, D, h, w].

        Args:
            maps: See above.
            in_use: As predictions have them, with the rows that `gamma` shortens.
        """
        features = self._features(maps)
        weight, bias = self._rows(in_use=in_use)
        return nn.functional.linear(features, weight, bias)

    def fused(self, maps: Tensor) -> Tensor:
        """Return what the branches predict together, [B, C]."""
        features = self._features(maps)
        if self.config.fusion == "first":
            features = features[:1]
        weight, bias = self._rows(in_use=True)
        if self.config.combine == "logits":
            # the sum of z_g with one product: (sum of f_g) W^T + G b
            groups = bias.new_full((), len(features))  # torch 2.11 exports no number times a bias
            return nn.functional.linear(features.sum(dim=0), weight, groups * bias)
        apart = nn.functional.linear(features, weight, bias)  # [G, B, C]
        if self.config.combine == "largest":
            return apart.amax(dim=0)
        # log of a sum is monotone, so the arg-max is that of the summed probabilities
        return apart.log_softmax(dim=2).logsumexp(dim=0)

    def _rows(self, *, in_use: bool) -> tuple[Tensor, Tensor]:
        """Return W and b; in use, with `gamma`, W normalised and no b."""
        weight, bias = self.classifier.weight, self.classifier.bias
        if not in_use or self.config.gamma is None:
            return weight, bias
        return tau_normalize(weight, self.config.gamma), torch.zeros_like(bias)

    def _features(self, maps: Tensor) -> Tensor:
        """Return f_g, [G, B, D]."""
        if self.config.head != "batchnorm":
            wanted = self.config.pool_first
            if wanted == "always" or (wanted == "published" and not self.training):
                maps = maps.mean(dim=(2, 3), keepdim=True)
        features: Tensor = self.branches(maps)
        return features


class Branches(nn.Module):
    """G transforms of one feature map, pooled.

    `batchnorm`: G BatchNorms without ReLU. They see one input, so they differ in gain and shift only.
    `convolution`: one 1x1 convolution D -> G D, BatchNorm and ReLU. `separate`: G convolutions D -> D, each
    with its own; the same functions, but drawn wider by the square root of G. `shared`: one such branch, used
    G times.
    """

    def __init__(self, width: int, branches: int, head: str) -> None:
        super().__init__()
        self.count, self.kind = branches, head
        if head == "batchnorm":
            self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(branches))
            return
        if head == "separate":
            self.transforms = nn.ModuleList(_transform(width, width) for _ in range(branches))
        else:
            made = branches if head == "convolution" else 1
            self.transform = _transform(width, made * width)

    def forward(self, maps: Tensor) -> Tensor:
        """Map [B, D, h, w] to [G, B, D]."""
        if self.kind == "batchnorm":
            return torch.stack([norm(maps).mean(dim=(2, 3)) for norm in self.norms])
        if self.kind == "separate":
            return torch.stack([branch(maps).mean(dim=(2, 3)) for branch in self.transforms])
        pooled: Tensor = self.transform(maps).mean(dim=(2, 3))  # [B, G D], or [B, D] if shared
        stacked = torch.unflatten(pooled, 1, (-1, maps.shape[1])).transpose(0, 1)
        return stacked.expand(self.count, -1, -1)


def _transform(width: int, made: int) -> nn.Sequential:
    convolution = nn.Conv2d(width, made, 1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(convolution, nn.BatchNorm2d(made), nn.ReLU())


def label_losses(logits: Tensor, labels: Tensor, *, capped: bool) -> Tensor:
    """Return the cross-entropy of every branch and image, [G, B], of logits [G, B, C].

    Args:
        logits: See above.
        labels: int64 [B].
        capped: -log(p + 1e-7) in place of -log p.
    """
    log_p = at_least_float32(logits).log_softmax(dim=2)
    index = labels.expand(len(logits), -1)[:, :, None]
    log_p_label = log_p.gather(2, index)[:, :, 0]
    return -torch.log(log_p_label.exp() + CAP) if capped else -log_p_label


def assign_groups(
    counts: ClassCounts,
    groups: ShotGroups,
    cuts: tuple[float, ...] | Literal["equal-imbalance"] | None,
) -> tuple[Tensor, tuple[str, ...]]:
    """Return the group 0 (most frequent) .. G-1 of every class, int64 [C], and notes for people.

    Args:
        counts: Training images per class.
        groups: The run's shot groups, used if no cuts are given. If one is empty, the classes are
            grouped by rank instead, and a note says so.
        cuts: Shares of the classes by rank, most frequent first, where the next group begins; or three
            groups in which the largest class may be as many times the smallest one.
    """
    if cuts == "equal-imbalance":
        group = equal_imbalance(counts, 3)
    elif cuts is not None:
        begins = [int(cut * len(counts)) for cut in cuts]
        group = torch.zeros(len(counts), dtype=torch.int64)
        for rank, label in enumerate(counts.ranking()):
            group[label] = sum(rank >= begin for begin in begins)
    else:
        group = torch.tensor(groups.assignment)
    notes: tuple[str, ...] = ()
    if cuts is None and (empty := groups.empty_groups()):
        group = torch.tensor(ShotGroups.from_counts(counts, "index").assignment)
        notes = (
            (
                f"ResLT: no class is {' or '.join(empty)} shot, so its branches group the classes by rank "
                "of the training count."
            ),
        )
    # groups that hold no class get no branch
    _, dense = torch.unique(group, return_inverse=True)
    return dense, notes


def equal_imbalance(counts: ClassCounts, number: int) -> Tensor:
    """Return the group of every class, int64 [C], 0 with the most frequent ones.

    The range from the largest to the smallest count is cut into `number` parts of one ratio.
    """
    log_n = counts.tensor(torch.float64).log()
    part = (log_n.max() - log_n.min()) / number
    if not part:
        return torch.zeros(len(counts), dtype=torch.int64)
    return ((log_n.max() - log_n) / part).floor().long().clamp_max(number - 1)


def branch_masks(group_of: Tensor, branches: int, kind: str) -> Tensor:
    """Return m_g(y), float32 [G, C]: which branch learns from which class.

    `nested`: group >= g. `weak` (a): all, then single groups. `disjoint` (b): single groups.
    `equal` (c): every branch learns everything.
    """
    number = torch.arange(branches)[:, None]
    if kind == "nested":
        mask = group_of >= number
    elif kind == "equal":
        mask = torch.ones(branches, len(group_of), dtype=torch.bool)
    else:
        mask = group_of == number
        if kind == "weak":
            mask[0] = True
    return mask.float()
