"""LFME: learning from multiple experts (Xiang et al., ECCV 2020, arXiv 2001.01536).

Idea: A group of classes of similar size is less imbalanced than the whole set, so a network that learns one
group alone knows it better. Let one teacher per group teach a student of all classes: each for as long as the
student is behind it, and with images that count fully only after those that their teacher finds easy.

Symbols:
    z, p    logits and probabilities of the student                       [B, C]
    t_g     logits of the teacher of group g, many, medium or few         [B, C], of which those of g count
    a_g     class-averaged accuracy of the student in group g, A_g of its teacher on g alone; on val
    c_i     probability that the teacher of image i's group gives to its label, the image as it is
    n_g     mean class size of group g

Stages:
    teachers    one a group, on its images alone: CE over its classes
    compare     A_g
    confidence  the least and the largest c_i of every class
    student     CE(v_i z, y) + sum_g w_g KL( softmax(t_g / 2) || softmax(v_i z / 2) ), class-balanced images

    w_g  = 1 while a_g < .3 A_g, then (A_g - a_g) / (.7 A_g), at least 0; a_g before each epoch
    v_i  = v_i(0) + (1 - v_i(0)) e / (E / 2) in epoch e = 1..E
    v_i(0) = from n_few / n_g to 1, as c_i is between the least and the largest of its class

Groups without a class have no teacher. Without a val split, accuracies are those on train.

Where paper and released code disagree, and what we do:
- The paper weights the loss of an image by v_i; the code multiplies its logits, also the distilled ones. We
  follow the code.
- The paper's v_i ends at 1; that of the code goes on to 2 - v_i(0). We follow the code.
- The code has no factor T^2 in the divergence.
- Its scales 12 / 53 and 12 / 230 are n_few / n_g of ImageNet-LT. If the teacher is equally confident in all
  images of a class, the code divides 0 by 0; here, v_i is 1.
- The code stores c_i; here it is computed again from a second view, the image as it is.
- Its teachers have batches of 128, 64 and 32 and draw without replacement; here, all have the batch of the
  student and draw with replacement.
- As in the code, the scheduler steps before the first epoch, so training begins with the rate of the second.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from longtail.config import Options
from longtail.core.batch import Batch, Position, StepOutput
from longtail.core.stage import Sampling, Stage
from longtail.losses import cross_entropy, distillation, masked_logits
from longtail.methods.method import Facts, FitBatches, Method, Setting
from longtail.models.heads import LinearHead


class LFMEOptions(Options):
    """What can be chosen; defaults are those of ImageNet-LT."""

    name: Literal["lfme"] = "lfme"
    teacher_epochs: int = Field(
        120, ge=1, description="epochs of each teacher, with a cosine to zero"
    )
    temperature: float = Field(2.0, gt=0, description="T of the distillation")
    weight: float = Field(1.0, ge=0, description="weight of the distillation")
    behind: float = Field(
        0.3,
        ge=0,
        lt=1,
        description="share of a teacher's accuracy below which it teaches with its full weight",
    )


class Teachers(nn.Module):
    """A network for each group; logits outside of its group are next to impossible.

    Attributes:
        own: Classes of each group, bool [G, C].
    """

    own: Tensor

    def __init__(self, networks: dict[str, nn.Module], own: Tensor) -> None:
        super().__init__()
        self.networks = nn.ModuleDict(networks)
        self.register_buffer("own", own)

    def forward(self, images: Tensor, group: str | None = None) -> Tensor:
        """Map images [B, 3, H, W] to the logits of every teacher, [G, B, C], or of one, [B, C]."""
        if group is not None:
            place = list(self.networks).index(group)
            return masked_logits(self.networks[group](images), self.own[place], "removed")
        each = [network(images) for network in self.networks.values()]
        return masked_logits(torch.stack(each), self.own[:, None], "removed")


class Pace(nn.Module):
    """What the student's pace depends on: accuracies by group, [G], and the confidence in each class, [C]."""

    reached: Tensor
    of_teacher: Tensor
    least: Tensor
    largest: Tensor
    floor: Tensor

    def __init__(self, groups: int, floor: Tensor) -> None:
        super().__init__()
        self.register_buffer("reached", torch.zeros(groups))
        self.register_buffer("of_teacher", torch.zeros(groups))
        self.register_buffer("least", torch.ones_like(floor))
        self.register_buffer("largest", torch.zeros_like(floor))
        self.register_buffer("floor", floor)

    def of_groups(self, behind: float) -> Tensor:
        """Return w_g, [G]; 0 for a teacher that is never right."""
        gap = 1 - self.reached / self.of_teacher.clamp_min(1e-12)
        early = self.reached < behind * self.of_teacher
        later = (gap / (1 - behind)).clamp_min(0)
        return torch.where(early, 1.0, later) * (self.of_teacher > 0)

    def of_images(self, confidence: Tensor, labels: Tensor, share: float) -> Tensor:
        """Return v_i, [B], at a share e / E of the stage, in (0, 1]."""
        least, largest, floor = (x[labels] for x in (self.least, self.largest, self.floor))
        place = (confidence - least) / (largest - least).clamp_min(1e-12)
        first = torch.where(largest > least, floor + (1 - floor) * place.clamp(0, 1), 1.0)
        return first + (1 - first) * 2 * share


class LFME(Method):
    """See the head of this file."""

    Config = LFMEOptions
    summary = (
        "a teacher for each group of classes; a student learns from all of them at its own pace"
    )
    advice = (
        "the class groups differ widely in size, and you can afford to train four networks for one"
    )
    citation = (
        "Xiang et al., Learning From Multiple Experts: Self-paced Knowledge Distillation for Long-tailed "
        "Classification, ECCV 2020"
    )

    def __init__(self, config: LFMEOptions, setting: Setting) -> None:
        super().__init__()
        self.config, self.setting = config, setting
        counts, groups = setting.class_counts, setting.groups
        self.groups = [name for name, size in groups.sizes().items() if size]
        own = torch.stack([groups.mask(name) for name in self.groups])  # [G, C]
        n = counts.tensor(torch.float64)
        self.images = [int(n[mask].sum()) for mask in own]
        mean = torch.stack([n[mask].mean() for mask in own])
        floor = (own * (mean.min() / mean)[:, None]).sum(dim=0)
        self.backbone, self.head = self._network()
        teachers: dict[str, nn.Module] = {
            name: nn.Sequential(*self._network()) for name in self.groups
        }
        self.teachers = Teachers(teachers, own)
        self.pace = Pace(len(self.groups), floor.float())

    def _network(self) -> tuple[nn.Module, nn.Module]:
        backbone = self.setting.build_backbone()
        return backbone, LinearHead(backbone.num_features, len(self.setting.class_counts))

    # --- stages -------------------------------------------------------------------------------

    def stages(self) -> Sequence[Stage]:
        """Teachers, what they know, the student."""
        size = self.setting.batch_size
        teachers = [
            Stage(
                name=f"teacher of {name}",
                epochs=self.config.teacher_epochs,
                steps=max(1, images // size),
                samplings=(
                    Sampling(name="weights", form="multinomial", weights=self._drawn(name)),
                ),
                trainable=(f"teachers.networks.{name}",),
                schedule="cosine",
                warmup=0,
                ahead=1,
                whole=True,  # what predicts is not trained yet
            )
            for name, images in zip(self.groups, self.images, strict=True)
        ]
        return [
            *teachers,
            Stage(name="compare", epochs=0, kind="select"),
            Stage(name="confidence", epochs=0, kind="fit"),
            Stage(
                name="student",
                epochs=self.setting.epochs,
                samplings=(Sampling(name="class-balanced"),),
                views=("default", "none"),
                trainable=("backbone", "head"),
                update_norm=("pace",),
                survey="val",
                ahead=1,
            ),
        ]

    def _drawn(self, group: str) -> tuple[float, ...]:
        """Return class weights with which each image of a group is as likely as any other of it."""
        counts = self.setting.class_counts.tensor(torch.float64)
        return tuple((counts * self.setting.groups.mask(group)).tolist())

    # --- steps --------------------------------------------------------------------------------

    def training_step(self, batches: Sequence[Batch], at: Position) -> StepOutput:
        """Return a teacher's loss; of the student, that of labels and that of what it is taught."""
        (batch,) = batches
        if at.stage < len(self.groups):
            logits = self.teachers(batch.images, self.groups[at.stage])
            return StepOutput(cross_entropy(logits, batch.labels))
        images, clean = batch.views
        with torch.no_grad():
            taught, known = self.teachers(torch.cat([images, clean])).chunk(2, dim=1)  # [G, B, C]
            confidence = self._confidence(known, batch.labels)
        share = (at.epoch + 1) / at.epochs
        easy = self.pace.of_images(confidence, batch.labels, share)
        logits = easy[:, None] * self.predict(images).float()
        label_loss = cross_entropy(logits, batch.labels)
        weights = self.pace.of_groups(self.config.behind)
        lessons = torch.stack(
            [
                distillation(
                    masked_logits(logits, own, "removed"), t, self.config.temperature
                ).mean()
                for own, t in zip(self.teachers.own, taught, strict=True)
            ]
        )
        loss = label_loss + self.config.weight * (weights * lessons).sum()
        scalars = {"label_loss": label_loss.detach(), "image_weight": easy.mean()}
        scalars |= {f"weight_of_{name}": w for name, w in zip(self.groups, weights, strict=True)}
        return StepOutput(loss, scalars)

    def _confidence(self, known: Tensor, labels: Tensor) -> Tensor:
        """Return c_i, [B], of what each teacher says, [G, B, C]: others' labels are next to impossible."""
        probability = known.softmax(dim=2)
        rows = labels[None, :, None].expand(len(known), -1, 1)
        each = probability.gather(2, rows)[:, :, 0]  # [G, B]
        return (each * self.teachers.own[:, labels]).sum(dim=0)

    @torch.no_grad()
    def fit(self, stage: Stage, batches: FitBatches, split: str) -> Facts:
        """Measure the teachers, their confidence in every class, or before each epoch the student."""
        if stage.name == "confidence":
            self.pace.least.fill_(1.0)
            self.pace.largest.fill_(0.0)
            for images, labels in batches:
                confidence = self._confidence(self.teachers(images), labels)
                self.pace.least.scatter_reduce_(0, labels, confidence, "amin")
                self.pace.largest.scatter_reduce_(0, labels, confidence, "amax")
            return {}
        of_student = stage.name == "student"
        right = torch.zeros_like(self.pace.floor)
        seen = torch.zeros_like(right)
        for images, labels in batches:
            hits = self._hits(images, labels, of_student=of_student)
            right.index_add_(0, labels, hits.to(right.dtype))
            seen.index_add_(0, labels, torch.ones_like(hits, dtype=right.dtype))
        there = self.teachers.own & (seen > 0)  # [G, C]
        accuracy = (there * right / seen.clamp_min(1)).sum(dim=1) / there.sum(dim=1).clamp_min(1)
        (self.pace.reached if of_student else self.pace.of_teacher).copy_(accuracy)
        who = "student" if of_student else "teacher"
        return {f"{who}_{split}_{g}": float(a) for g, a in zip(self.groups, accuracy, strict=True)}

    def _hits(self, images: Tensor, labels: Tensor, *, of_student: bool) -> Tensor:
        """Return whether the student, or the teacher of an image's group, is right, bool [B]."""
        if of_student:
            return self.predict(images).argmax(dim=1) == labels
        right: Tensor = self.teachers(images).argmax(dim=2) == labels  # [G, B]
        return (right & self.teachers.own[:, labels]).any(dim=0)

    # --- prediction ---------------------------------------------------------------------------

    def predict(self, images: Tensor) -> Tensor:
        """Return z."""
        logits: Tensor = self.head(self.backbone(images))
        return logits

    @classmethod
    def shares_first_stage(cls, own: Options, other: Options) -> bool:
        """Say whether both begin with the same teacher."""
        if not (isinstance(own, LFMEOptions) and isinstance(other, LFMEOptions)):
            return False
        return own.teacher_epochs == other.teacher_epochs

    def corrections(self) -> tuple[str, ...]:
        """Name what corrects for the imbalance."""
        return ("class-balanced sampling", "teachers of groups")
