"""What a trained DO shows in the report: tables 7 and 9, figures 1b and 4 of the paper, and densities."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from longtail.core.figure import FigureData, accuracy_by_group, class_accuracy
from longtail.ensembles import instance_weights
from longtail.models.allotment import Allotment, layer_weights
from longtail.models.importance import Network


def sub_models_and_weights(
    logits_of: Callable[[Tensor], Tensor],
    predict: Callable[[Tensor], Tensor],
    batches: Iterable[tuple[Tensor, Tensor]],
    preferred: Tensor,
    mixture: str,
) -> Iterator[FigureData]:
    """Show each sub-model alone, weighted, and chosen by an oracle; and lambda by image.

    Args:
        logits_of: Maps images to logits of the sub-models, [B, T, C].
        predict: Maps images to the logits that the user gets, [B, C].
        batches: Images and labels.
        preferred: Classes that each stage prefers, bool [T, C].
        mixture: Name of what `predict` does.
    """
    count, classes = preferred.shape
    masks = preferred.cpu()
    total = torch.zeros(count, count, dtype=torch.float64)  # of lambda, by true group
    seen = torch.zeros(count, dtype=torch.float64)

    def predicted() -> Iterable[tuple[Tensor, Tensor]]:
        for images, labels in batches:
            logits = logits_of(images).float()
            p, mirrored = logits.softmax(dim=2), logits_of(images.flip(3)).float().softmax(dim=2)
            place = masks[:, labels.cpu()].double()  # [T, B]
            seen.add_(place.sum(dim=1))
            total.add_(place @ instance_weights(p, mirrored).cpu().double())
            rows = [*logits.argmax(dim=2).T, predict(images).argmax(dim=1)]
            yield torch.stack(rows), labels

    accuracy = class_accuracy(predicted(), classes)
    groups = {f"Y_{t}": mask for t, mask in enumerate(masks, start=1)}
    places, series = accuracy_by_group(accuracy, [*_numbered(count), mixture], groups)
    best = [_largest([series[name][t] for name in _numbered(count)]) for t in range(1, count + 1)]
    sizes = masks.sum(dim=1).tolist()
    known = [(value, size) for value, size in zip(best, sizes, strict=True) if value is not None]
    overall = sum(value * size for value, size in known) / max(1, sum(size for _, size in known))
    series["oracle: best for each group"] = [overall if known else None, *best]
    yield FigureData(
        title="Sub-models, alone and mixed",
        text="Macro accuracy by the groups Y_t that the stages prefer (table 7 of the paper). The "
        "oracle uses the best sub-model for each group. It needs the labels, so it is an upper "
        "bound, not a result.",
        x="classes", y="accuracy", kind="bars", percent=True, places=places, series=series,
    )  # fmt: skip
    if bool((seen > 0).all()):
        yield FigureData(
            title="Test-time weights of the sub-models",
            text="Mean lambda of each sub-model over the images of each true group, computed without "
            "labels from an image and its mirror image (table 9 of the paper). A diagonal means that "
            "images find the sub-model of their group, but not that the prediction is right.",
            x="true group", y="mean weight", kind="bars", places=places[1:],
            series={
                name: [float(total[g, t] / seen[g]) for g in range(count)]
                for t, name in enumerate(_numbered(count))
            },
        )  # fmt: skip


def densities(allotment: Allotment) -> FigureData:
    """Show the share of each parameter's entries that each stage owns."""
    shares = [
        torch.bincount(allotment.owner_of(name).flatten().long(), minlength=allotment.count + 1)
        / allotment.owner_of(name).numel()
        for name in allotment.names
    ]
    return FigureData(
        title="Weights of each stage, by layer",
        text="Share of each divided parameter, from the first layer to the last, that each stage owns.",
        x="parameter", y="share of its weights", percent=True,
        places=list(range(1, len(shares) + 1)),
        series={
            f"stage {t}": [float(share[t]) for share in shares]
            for t in range(1, allotment.count + 1)
        },
    )  # fmt: skip


def release_curves(lines: Sequence[Mapping[str, Any]]) -> Sequence[FigureData]:
    """Show the accuracy over the share of released weights, where gamma was searched."""
    curves = {
        f"stage {line['t']} ({line['release_split']})": line["release_curve"]
        for line in lines
        if "release_curve" in line
    }
    if not curves:
        return ()
    return [
        FigureData(
            title="Accuracy against the share of released weights",
            text="Macro accuracy as weights are released step by step (figure 4 of the paper).",
            x="% of the stage's weights released", y="accuracy", percent=True,
            places=list(range(0, 100, 10)), series=curves,
        )
    ]  # fmt: skip


def _numbered(count: int) -> list[str]:
    return [f"sub-model {t}" for t in range(1, count + 1)]


def _largest(values: Sequence[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def settled_network(parts: Allotment, t: int) -> Network:
    """Return sub-model t (from 1) with the weights of convolutions and linear layers that it consists of."""
    settled = parts.settled_weights(t)
    ranked = {name: settled[name] for name in layer_weights(parts.network)}
    return Network(f"sub-model {t}", ranked, lambda w, x: parts.logits_with({**settled, **w}, x))
