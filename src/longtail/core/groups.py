"""Many-, medium- and few-shot classes: one object for methods, metrics and reports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from longtail.core.counts import ClassCounts

GroupRule = Literal["threshold", "index"]
GROUP_NAMES = ("many", "medium", "few")
MANY_ABOVE = 100
FEW_BELOW = 20
INDEX_SHARE = 0.35  # of the classes, for many and for medium: 35/35/30 of 100, 3/3/4 of 10

RULE_TEXT: dict[GroupRule, str] = {
    "threshold": "by training images: many > 100, medium 20..100, few < 20",
    "index": "by rank of the training count: the first 35 % of the classes, the next 35 %, the rest",
}


@dataclass(frozen=True)
class ShotGroups:
    """Which classes count as many, medium and few shot, and by which rule.

    Two rules are in use and must never be compared with each other:

    - `threshold`: more than 100 training images, 20 to 100, fewer than 20 (both borders are
      medium). Source: released code of Decoupling (Kang et al. 2020).
    - `index`: by rank of the count, the first 35 % of the classes, the next 35 %, the rest
      (35/35/30 of 100 classes, 3/3/4 of 10). Source: text of ResLT (Cui et al. 2022); its released code
      slices CIFAR-100 as 36/35/29.

    Attributes:
        rule: `threshold` or `index`.
        assignment: For each class 0 (many), 1 (medium) or 2 (few).
    """

    rule: GroupRule
    assignment: tuple[int, ...]

    @classmethod
    def from_counts(cls, counts: ClassCounts, rule: GroupRule = "threshold") -> ShotGroups:
        """Sort the classes of `counts` into groups by `rule`."""
        if rule == "threshold":
            return cls(
                rule,
                tuple(0 if n > MANY_ABOVE else 2 if n < FEW_BELOW else 1 for n in counts.values),
            )
        first = max(1, int(INDEX_SHARE * len(counts)))
        second = min(2 * first, len(counts) - 1)
        assignment = [0] * len(counts)
        for rank, label in enumerate(counts.ranking()):
            assignment[label] = 0 if rank < first else 1 if rank < second else 2
        return cls(rule, tuple(assignment))

    def mask(self, group: str) -> Tensor:
        """Return the classes of `group` (`many`, `medium` or `few`) as bool, shape [C]."""
        return torch.tensor(self.assignment) == GROUP_NAMES.index(group)

    def sizes(self) -> dict[str, int]:
        """Return the number of classes in each group."""
        return {name: self.assignment.count(code) for code, name in enumerate(GROUP_NAMES)}

    def name_of(self, label: int) -> str:
        """Return the group's name of class `label`."""
        return GROUP_NAMES[self.assignment[label]]

    def empty_groups(self) -> tuple[str, ...]:
        """Return the names of groups that hold no class; their accuracy is undefined, not zero."""
        return tuple(name for name, size in self.sizes().items() if size == 0)

    def describe(self) -> str:
        """Return one line for people: sizes, rule and any empty group."""
        sizes = ", ".join(f"{name} {size}" for name, size in self.sizes().items())
        text = f"{sizes} classes ({RULE_TEXT[self.rule]})"
        if empty := self.empty_groups():
            text += f"; no class is {' or '.join(empty)} shot by this rule"
        return text
