"""What a trained DO shows in the report: tables 7 and 9 and figures 1b and 4 of the paper, and densities."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from longtail.adjust import instance_weights
from longtail.core.panel import Panel, accuracy_by_group, class_accuracy
from longtail.losses import cross_entropy
from longtail.models.allotment import Allotment
from longtail.models.importance import importance

PICTURES_PER_CLASS = 50  # of which the importance is measured


def sub_models_and_weights(
    answer: Callable[[Tensor], Tensor],
    predict: Callable[[Tensor], Tensor],
    batches: Iterable[tuple[Tensor, Tensor]],
    preferred: Tensor,
    mixture: str,
) -> Iterator[Panel]:
    """Show each sub-model alone, mixed, and chosen by an oracle; and the weights per picture.

    Args:
        answer: Maps pictures to logits of the sub-models, [B, T, C].
        predict: Maps pictures to the answer that the user gets, [B, C].
        batches: Pictures and labels.
        preferred: Classes that each stage prefers, bool [T, C].
        mixture: Name of what `predict` does.
    """
    count, classes = preferred.shape
    masks = preferred.cpu()
    weights = {objective: torch.zeros(count, count, dtype=torch.float64) for objective in _NAMES}
    seen = torch.zeros(count, dtype=torch.float64)

    def answered() -> Iterable[tuple[Tensor, Tensor]]:
        for images, labels in batches:
            logits = answer(images).float()
            p, mirrored = logits.softmax(dim=2), answer(images.flip(3)).float().softmax(dim=2)
            place = masks[:, labels.cpu()].double()  # [T, B]
            seen.add_(place.sum(dim=1))
            for objective, total in weights.items():
                found = instance_weights(p, mirrored, objective=objective).cpu().double()
                total.add_(place @ found)
            rows = [*logits.argmax(dim=2).T, predict(images).argmax(dim=1)]
            yield torch.stack(rows), labels

    accuracy = class_accuracy(answered(), classes)
    groups = {f"group {t + 1}": mask for t, mask in enumerate(masks)}
    places, series = accuracy_by_group(accuracy, [*_numbered(count), mixture], groups)
    best = [_largest([series[name][t + 1] for name in _numbered(count)]) for t in range(count)]
    sizes = masks.sum(dim=1).tolist()
    known = [(value, size) for value, size in zip(best, sizes, strict=True) if value is not None]
    overall = sum(value * size for value, size in known) / max(1, sum(size for _, size in known))
    series["oracle: best for each group"] = [overall if known else None, *best]
    yield Panel(
        title="Sub-models alone and mixed",
        text="Class-averaged accuracy by the groups that the stages prefer (table 7 of the paper). The "
        "oracle takes for each group the sub-model that is best on it, which needs the labels: a bound, "
        "no result.",
        x="classes", y="accuracy", kind="bars", percent=True, places=places, series=series,
    )  # fmt: skip
    if bool((seen > 0).all()):
        yield Panel(
            title="Test-time weights of the sub-models",
            text="Mean weight of each sub-model over the pictures of each true group, found without labels "
            "from a picture and its mirror image (table 9 of the paper). A diagonal means that pictures "
            "find the sub-model of their group; it does not mean that the answer is right.",
            x="true group and objective", y="mean weight", kind="bars",
            places=[f"{p},\n{_NAMES[o]}" for o in weights for p in places[1:]],
            series={
                name: [float(total[g, t] / seen[g]) for total in weights.values() for g in range(count)]
                for t, name in enumerate(_numbered(count))
            },
        )  # fmt: skip


def densities(allotment: Allotment) -> Panel:
    """Show the share of each layer's weights that belongs to each group."""
    shares = [
        torch.bincount(allotment.groups_of(name).flatten().long(), minlength=allotment.count + 1)
        / allotment.groups_of(name).numel()
        for name in allotment.names
    ]
    return Panel(
        title="Groups of weights by layer",
        text="Share of the weights of each convolution or linear layer, from the first to the last, that "
        "belongs to each group of classes.",
        x="layer", y="share of the weights", percent=True,
        places=list(range(1, len(shares) + 1)),
        series={
            f"group {t}": [float(share[t]) for share in shares]
            for t in range(1, allotment.count + 1)
        },
    )  # fmt: skip


def release_curves(lines: Sequence[Mapping[str, Any]]) -> Sequence[Panel]:
    """Show the accuracy over the share of released weights, where gamma was searched."""
    curves = {
        f"{line['stage'].split(',')[0]} ({line['release_split']})": line["release_curve"]
        for line in lines
        if "release_curve" in line
    }
    if not curves:
        return ()
    return [
        Panel(
            title="Accuracy over the share of released weights",
            text="Class-averaged accuracy while weights are released step by step (figure 4 of the paper).",
            x="% of the stage's weights released", y="accuracy", percent=True,
            places=list(range(0, 100, 10)), series=curves,
        )
    ]  # fmt: skip


class ImportanceMeter:
    """Measures the mean Taylor importance of all allotted weights, by sub-model and group of pictures.

    From batches of the pictures of one group, in eval mode, 50 pictures of a class at most.

    Args:
        allotment: With all groups settled.
        preferred: Classes of each group, bool [T, C].
    """

    def __init__(self, allotment: Allotment, preferred: Tensor) -> None:
        count, classes = preferred.shape
        self._allotment, self._preferred = allotment, preferred
        self._total = [[0.0] * count for _ in range(count)]
        self._used, self._seen = [0] * count, [0] * classes
        with torch.inference_mode(mode=False), torch.no_grad():
            self._parts = [
                {name: weight.clone() for name, weight in allotment.settled_weights(t + 1).items()}
                for t in range(count)
            ]

    @torch.inference_mode(mode=False)
    def add(self, images: Tensor, labels: Tensor) -> None:
        """Measure one batch."""
        x, y = images.clone(), labels.to(images.device).clone()
        chosen = _first(y.cpu(), self._seen).to(x.device)
        for g, mask in enumerate(self._preferred[:, y] & chosen):
            if not bool(mask.any()):
                continue
            self._used[g] += 1
            for t, weights in enumerate(self._parts):
                self._total[t][g] += _mean_over_weights(self._allotment, weights, x[mask], y[mask])

    def result(self) -> list[list[float | None]]:
        """Return the means, [T][T]: by sub-model, by group; None without pictures."""
        return [
            [v / n if n else None for v, n in zip(row, self._used, strict=True)]
            for row in self._total
        ]


def importance_panel(rows: Mapping[str, Sequence[Sequence[float | None]]]) -> Panel:
    """Show the importance on several sets of pictures.

    Args:
        rows: Name of the pictures -> `ImportanceMeter.result`.
    """
    count = len(next(iter(rows.values())))
    return Panel(
        title="Mean importance of the weights",
        text="Mean of (w dL/dw)^2 over all weights, for the pictures of each group (figure 1b of the paper, "
        "which expects many > medium > few for a network that was trained plainly). Large values also mean "
        "that pictures are answered badly: their loss has large gradients.",
        x="pictures", y="mean importance", kind="bars",
        places=[f"{name},\ngroup {g + 1}" for name in rows for g in range(count)],
        series={
            name: [found[t][g] for found in rows.values() for g in range(count)]
            for t, name in enumerate(_numbered(count))
        },
    )  # fmt: skip


_NAMES: dict[Any, str] = {"cosine": "cosine", "dot": "dot"}


def _numbered(count: int) -> list[str]:
    return [f"sub-model {t + 1}" for t in range(count)]


def _largest(values: Sequence[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _first(labels: Tensor, seen: list[int]) -> Tensor:
    """Mark the pictures that are among the first of their class, and count them in `seen`."""
    marks = []
    for label in labels.tolist():
        seen[label] += 1
        marks.append(seen[label] <= PICTURES_PER_CLASS)
    return torch.tensor(marks)


def _mean_over_weights(
    allotment: Allotment, weights: Mapping[str, Tensor], images: Tensor, labels: Tensor
) -> float:
    ranked = {name: weights[name] for name in allotment.names}
    found = importance(
        ranked, lambda given, x: allotment.answer({**weights, **given}, x),
        lambda z, y: cross_entropy(z, y, reduction="none"), images, labels,
    )  # fmt: skip
    size = sum(value.numel() for value in found.values())
    return sum(float(value.sum()) for value in found.values()) / size
