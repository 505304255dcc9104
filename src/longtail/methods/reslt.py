"""ResLT: residual learning for long-tailed recognition (Cui et al., TPAMI 2022, arXiv 2101.10633).

Idea: Give every group of classes parameters of its own, nested: one branch learns from all pictures,
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

Loss (eq. 6):  L = (1 - alpha) CE(z, y) + alpha L_branch
    pooled        L_branch = sum_g sum_i m_g(y_i) CE(z_g,i, y_i) / sum_g sum_i m_g(y_i)
    subset-means  L_branch = sum_g [ mean of CE(z_g,i, y_i) over the pictures with m_g(y_i) = 1 ]

Where paper and released code disagree, and what we do:
    head        paper: 1x1 convolutions; CIFAR code: three BatchNorms, ImageNet code: one convolution
                D -> G D with BatchNorm and ReLU. Default `batchnorm`; `convolution` is an option.
    L_branch    paper: subset means, undefined for a batch without rare pictures (2.6 % of the batches
                on CIFAR-100-LT at ratio 100); code: pooled. Default pooled; a missing term is dropped.
    branch CE   code: -log(p + 1e-7), capped at 16.1 and without gradient beyond. Default as the code.
    pooling     ImageNet code: the head before pooling in training, after it in testing, which differ by
                the ReLU. `pool_first: published` does the same; BatchNorm heads always come first.
    groups      paper: by rank; code: other cuts for CIFAR-10. Ours are the run's many, medium and few
                shot classes, or `cuts`; never slices of sorted labels.
    experts     (RIDE's backbone, section 4.4): E experts, each with branches and classifier of its own;
                L is summed over the experts and z averaged. Not released for CIFAR.
    test time   ImageNet code divides W by |w|^gamma and drops b, which the paper does not say. `gamma`
                does so on request and is off by default.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from longtail.core.batch import Batch, Position, StepOutput
from longtail.core.counts import ClassCounts
from longtail.core.groups import ShotGroups
from longtail.core.panel import Panel, accuracy_by_group, class_accuracy
from longtail.core.stage import Sampling, Stage
from longtail.data.options import Options
from longtail.losses import cross_entropy
from longtail.losses.adjusted_softmax import at_least_float32
from longtail.methods.ingredients import (
    ByName,
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
        description="CIFAR-100-LT .995, .99, .72 and CIFAR-10-LT .998, .998, .96 at 100, 50, 10; "
        "ImageNet-LT .99, iNaturalist .85",
    )  # fmt: skip
    head: Literal["batchnorm", "convolution", "shared"] = Field(
        "batchnorm", description="of each branch; shared gives all branches one (variant e)"
    )
    cuts: tuple[float, ...] | None = Field(
        None,
        description="shares of the classes by rank where groups begin ([] for one group); "
        "the shot groups if not given",
    )
    masks: Literal["nested", "weak", "disjoint", "equal"] = Field(
        "nested", description="who learns what: ResLT, or variants a, b and c of the ablation"
    )
    branch_loss: Literal["pooled", "subset-means"] = Field(
        "pooled", description="released code, or paper"
    )
    capped: bool = Field(True, description="branch cross-entropy capped as in the released code")
    fusion: Literal["sum", "first"] = Field(
        "sum", description="what is trained as a whole and predicts; first is variant d"
    )
    combine: Literal["logits", "largest", "probabilities"] = Field(
        "logits", description="prediction: summed logits, or the two other naive fusions of table 1"
    )
    pool_first: Literal["published", "always", "never"] = Field(
        "published", description="pool before a convolution head; published: in testing only"
    )
    experts: int = Field(
        1, ge=1, le=8, description="tails on a shared trunk, each a ResLT; 2 or 3 in the paper"
    )
    gamma: float | None = Field(None, ge=0, description="test-time |w|^gamma; .7 on ImageNet-LT")
    mixing: Annotated[MixingOptions | None, ByName] = None

    @field_validator("cuts")
    @classmethod
    def _ascending(cls, value: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if value is not None and (
            sorted(set(value)) != list(value) or not all(0 < c < 1 for c in value)
        ):
            raise ValueError("must ascend between 0 and 1, for example [0.35, 0.7]")
        return value


class ResLT(Method):
    """See the head of this file."""

    Config = ResLTOptions
    summary = "nested residual branches for many, medium and few shot classes, summed"
    advice = "rare classes matter most and the network shall stay as small and as fast as it is"
    citation = "Cui et al., ResLT: Residual Learning for Long-tailed Recognition, TPAMI 2022"

    group_of: Tensor
    masks: Tensor

    def __init__(self, config: ResLTOptions, setting: Setting) -> None:
        super().__init__()
        self.config, self.epochs = config, setting.epochs
        group_of, self._remarks = assign_groups(setting.class_counts, setting.groups, config.cuts)
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
    def remarks(self) -> tuple[str, ...]:
        """Say so if an empty shot group changed the branches."""
        return self._remarks

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
        each = self._branch_cross_entropy(logits, labels) * mask  # [G, B]
        if self.config.branch_loss == "pooled":
            terms = each.sum(dim=1) / mask.sum()
        else:
            terms = each.sum(dim=1) / mask.sum(dim=1).clamp_min(1)
        whole = logits.sum(dim=0) if self.config.fusion == "sum" else logits[0]
        branch, alpha = terms.sum(), self.config.alpha
        loss = (1 - alpha) * cross_entropy(whole, labels) + alpha * branch
        return loss, (terms / branch.clamp_min(1e-12)).detach()

    def predict(self, images: Tensor) -> Tensor:
        """Return the mean of z over the experts."""
        fused = [expert.fused(maps) for expert, maps in self._parts(images)]
        return fused[0] if len(fused) == 1 else torch.stack(fused).mean(dim=0)

    def branch_logits(self, images: Tensor) -> Tensor:
        """Return z_g of pictures [B, 3, H, W], [G, B, C]: figure 6 evaluates them one by one."""
        apart = [expert.branch_logits(maps) for expert, maps in self._parts(images)]
        return torch.stack(apart).mean(dim=0)

    def panels(self, batches: FitBatches, lines: Sequence[Facts]) -> Sequence[Panel]:
        """Return the accuracy of each branch alone beside their sum, and the shares of the loss."""
        branches = len(self.masks)

        def answers(images: Tensor) -> Tensor:
            summed = self.predict(images).argmax(dim=1)
            return torch.cat([self.branch_logits(images).argmax(dim=2), summed[None]])

        accuracy = class_accuracy(((answers(x), y) for x, y in batches), len(self.group_of))
        names = [*(f"branch {g}" for g in range(branches)), "sum"]
        groups = {f"group {g}": self.group_of.cpu() == g for g in range(branches)}
        places, series = accuracy_by_group(accuracy, names, groups)
        alone = Panel(
            title="Branches alone and summed",
            text="Class-averaged accuracy of each branch and of their sum, by the groups that the "
            "branches were made for (figure 6 of the paper). The paper says that each branch is best "
            "among the branches on the group it was made for.",
            x="classes", y="accuracy", kind="bars", percent=True, places=places, series=series,
        )  # fmt: skip
        trained = [line for line in lines if "branch_0_share" in line]
        shares = Panel(
            title="Loss carried by each branch",
            text="Share of the branch loss that each branch carries, averaged over an epoch.",
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

    def _branch_cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return CE of every branch and picture, [G, B]."""
        log_p = at_least_float32(logits).log_softmax(dim=2)
        index = labels.expand(len(logits), -1)[:, :, None]
        log_p_label = log_p.gather(2, index)[:, :, 0]
        return -torch.log(log_p_label.exp() + CAP) if self.config.capped else -log_p_label


class Expert(nn.Module):
    """G branches and one classifier on one feature map."""

    def __init__(self, width: int, branches: int, num_classes: int, config: ResLTOptions) -> None:
        super().__init__()
        self.config = config
        self.branches = Branches(width, branches, config.head)
        self.classifier = LinearHead(width, num_classes)

    def branch_logits(self, maps: Tensor) -> Tensor:
        """Return z_g, [G, B, C], of a feature map [B, D, h, w]."""
        logits: Tensor = self.classifier(self._features(maps))
        return logits

    def fused(self, maps: Tensor) -> Tensor:
        """Return z, [B, C], with one product: (sum of f_g) W^T + G b."""
        features = self._features(maps)
        if self.config.fusion == "first":
            features = features[:1]
        if self.config.gamma is not None:
            rows = self.classifier.weight
            scaled = rows / rows.norm(dim=1, keepdim=True) ** self.config.gamma
            return nn.functional.linear(features.sum(dim=0), scaled)
        if self.config.combine != "logits":
            apart: Tensor = self.classifier(features)  # [G, B, C]
            if self.config.combine == "largest":
                return apart.amax(dim=0)
            # log of a sum is monotone, so the arg-max is that of the summed probabilities
            return apart.log_softmax(dim=2).logsumexp(dim=0)
        weight, bias = self.classifier.weight, self.classifier.bias
        return nn.functional.linear(features.sum(dim=0), weight, len(features) * bias)

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
    `convolution`: one 1x1 convolution D -> G D, BatchNorm and ReLU (three grouped or separate
    convolutions are the same function). `shared`: one such branch, used G times.
    """

    def __init__(self, width: int, branches: int, head: str) -> None:
        super().__init__()
        self.count, self.kind = branches, head
        if head == "batchnorm":
            self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(branches))
            return
        made = branches if head == "convolution" else 1
        convolution = nn.Conv2d(width, made * width, 1, bias=False)
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
        self.transform = nn.Sequential(convolution, nn.BatchNorm2d(made * width), nn.ReLU())

    def forward(self, maps: Tensor) -> Tensor:
        """Map [B, D, h, w] to [G, B, D]."""
        if self.kind == "batchnorm":
            return torch.stack([norm(maps).mean(dim=(2, 3)) for norm in self.norms])
        pooled: Tensor = self.transform(maps).mean(dim=(2, 3))  # [B, G D], or [B, D] if shared
        stacked = torch.unflatten(pooled, 1, (-1, maps.shape[1])).transpose(0, 1)
        return stacked.expand(self.count, -1, -1)


def assign_groups(
    counts: ClassCounts, groups: ShotGroups, cuts: tuple[float, ...] | None
) -> tuple[Tensor, tuple[str, ...]]:
    """Return the group 0 (most frequent) .. G-1 of every class, int64 [C], and remarks for people.

    Args:
        counts: Training pictures per class.
        groups: The run's shot groups, used if no cuts are given. If one is empty, the classes are
            grouped by rank instead, and a remark says so.
        cuts: Shares of the classes by rank, most frequent first, where the next group begins.
    """
    if cuts is not None:
        begins = [int(cut * len(counts)) for cut in cuts]
        group = torch.zeros(len(counts), dtype=torch.int64)
        for rank, label in enumerate(counts.ranking()):
            group[label] = sum(rank >= begin for begin in begins)
    else:
        group = torch.tensor(groups.assignment)
    remarks: tuple[str, ...] = ()
    if cuts is None and (empty := groups.empty_groups()):
        group = torch.tensor(ShotGroups.from_counts(counts, "index").assignment)
        remarks = (
            f"ResLT: no class is {' or '.join(empty)} shot, so its branches go by rank of the "
            "training count.",
        )
    # groups that hold no class get no branch
    _, dense = torch.unique(group, return_inverse=True)
    return dense, remarks


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
