"""Several runs side by side, on the same pictures, with intervals of their differences."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from numpy.typing import NDArray

from longtail.core.errors import DataError
from longtail.core.groups import RULE_TEXT
from longtail.evaluation.bootstrap import drawn_again, group_masks, paired_intervals
from longtail.report import figures
from longtail.report.page import Drawing, environment
from longtail.report.text import listing, with_interval
from longtail.report.view import RunView

NOT_A_DIFFERENCE = ("training.seed", "from", "training.workers")


@dataclass(frozen=True)
class Arm:
    """Runs that differ in the seed only.

    Attributes:
        name: For tables.
        views: One per seed.
    """

    name: str
    views: Sequence[RunView]

    @cached_property
    def right(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Whether each seed recognised each picture, [S, N], in the order of the picture ids."""
        return np.stack([v.right[np.argsort(v.predictions.ids)] for v in self.views])

    def budget(self) -> dict[str, Any]:
        """Return what the arm cost: epochs, pictures seen, parameters, seconds per run."""
        lines = [view.lines for view in self.views]
        trained = [line for line in lines[0] if "loss" in line]
        batch = self.views[0].run.config.training.batch_size
        seen = len(trained) * (self.views[0].counts.total // batch) * batch
        return {
            "seeds": len(self.views),
            "epochs": lines[0][-1]["epochs_done"] if lines[0] else 0,
            "pictures": seen,
            "parameters": sum(p.numel() for p in self.views[0].model.method.parameters()),
            "seconds": float(np.mean([sum(line["seconds"] for line in one) for one in lines])),
            "shared": self.views[0].run.config.start is not None,
        }


@dataclass(frozen=True)
class Comparison:
    """Arms on one split; the first is what the others are held against."""

    arms: Sequence[Arm]

    @classmethod
    def of(cls, views: Sequence[RunView]) -> Comparison:
        """Group runs into arms.

        Raises:
            DataError: If the runs were not scored on the same pictures and classes.
        """
        first = views[0]
        reference = np.argsort(first.predictions.ids)
        for view in views[1:]:
            order = np.argsort(view.predictions.ids)
            same = (
                view.split == first.split
                and view.predictions.classes == first.predictions.classes
                and view.groups == first.groups
                and np.array_equal(view.predictions.ids[order], first.predictions.ids[reference])
                and np.array_equal(
                    view.predictions.labels[order], first.predictions.labels[reference]
                )
            )
            if not same:
                raise DataError(
                    f"{first.run.folder.path} and {view.run.folder.path} were not scored on the same "
                    "pictures, classes and groups, so they cannot be compared."
                )
        arms: dict[str, list[RunView]] = {}
        for name, view in zip(_names(views), views, strict=True):
            arms.setdefault(name, []).append(view)
        return cls([Arm(name, found) for name, found in arms.items()])

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """True classes, [N], in the order of the picture ids."""
        shown = self.arms[0].views[0].predictions
        return shown.labels[np.argsort(shown.ids)]

    @cached_property
    def together(self) -> NDArray[np.int64] | None:
        """Numbers that are equal for pictures that belong together, [N], if one of the runs knows them."""
        for view in (view for arm in self.arms for view in arm.views):
            if view.together is not None:
                return view.together[np.argsort(view.predictions.ids)]
        return None

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """Return accuracies, differences to the first arm, and budget of every arm."""
        first = self.arms[0]
        view = first.views[0]
        labels = self.labels
        masks = group_masks(view.groups)
        rows = []
        for arm in self.arms:
            found = paired_intervals(labels, first.right, arm.right, masks, together=self.together)
            rows.append(
                {
                    "name": arm.name,
                    "accuracy": {group: found[group]["after"] for group in masks},
                    "difference": {group: found[group]["difference"] for group in masks},
                    **arm.budget(),
                }
            )
        return rows

    def verdict(self) -> str:
        """Say which arms are better or worse than the first, where the intervals say so."""
        first = self.rows[0]["name"]
        better = [row["name"] for row in self.rows[1:] if judged(row["difference"]["all"]) > 0]
        worse = [row["name"] for row in self.rows[1:] if judged(row["difference"]["all"]) < 0]
        open_ = [row["name"] for row in self.rows[1:] if judged(row["difference"]["all"]) == 0]
        parts = []
        if better:
            parts.append(
                f"{listing(better)} {_be(better)} better than {first} averaged over classes"
            )
        if worse:
            parts.append(f"{listing(worse)} {_be(worse)} worse")
        if open_:
            parts.append(f"for {listing(open_)} the interval of the difference holds 0")
        return "; ".join(parts) + "."


def judged(difference: Mapping[str, Any]) -> int:
    """Return 1 if a difference is above 0 with its whole interval, -1 if below, else 0."""
    if difference["interval"] is None:
        return 0
    low, high = difference["interval"]
    return int(low > 0) - int(high < 0)


def expand(paths: Sequence[Path]) -> list[Path]:
    """Return the run folders in `paths`; folders of seeds or of variants stand for all in them."""
    found: list[Path] = []
    for path in paths:
        if (path / "config.yaml").exists() or not path.is_dir():
            found.append(path)
            continue
        inside = sorted(p.parent for d in ("*", "*/*") for p in path.glob(f"{d}/config.yaml"))
        found += inside or [path]
    return list(dict.fromkeys(found))


def render_comparison(comparison: Comparison) -> str:
    """Return the page of a comparison as HTML that needs nothing else."""
    view = comparison.arms[0].views[0]
    rows = comparison.rows
    return environment().get_template("comparison.html.j2").render(
        title=f"{len(rows)} runs on {view.run.config.data.name}, {view.split} split",
        comparison=comparison,
        rows=rows,
        groups=[g for g, e in rows[0]["accuracy"].items() if e["value"] is not None],
        judged=judged,
        drawn_again=drawn_again(comparison.labels, comparison.together),
        with_interval=with_interval,
        rule=RULE_TEXT[view.groups.rule],
        pictures=len(view.predictions.ids),
        drawings=comparison_drawings(comparison),
        one_seed=any(row["seeds"] == 1 for row in rows),
        paths=[(arm.name, [str(v.run.folder.path) for v in arm.views]) for arm in comparison.arms],
    )  # fmt: skip


def comparison_drawings(comparison: Comparison) -> list[Drawing]:
    """Return the figures of a comparison."""
    with matplotlib.rc_context(figures.STYLE):
        figure = figures.compared([(row["name"], row["accuracy"]) for row in comparison.rows])
    return [Drawing(
        "groups", "Accuracy by group", "Class-averaged, with 95 % intervals.", figure, {}
    )]  # fmt: skip


def _names(views: Sequence[RunView]) -> list[str]:
    """Name runs by recipe, and by what else differs among runs of one recipe."""
    flat = [dict(_flat(view.run.config.model_dump(mode="json"))) for view in views]
    folders = {str(own["recipe"]).rpartition("/")[0] for own in flat}
    shared = f"{folders.pop()}/" if len(folders) == 1 else ""
    names = []
    for own in flat:
        others = [other for other in flat if other["recipe"] == own["recipe"]]
        keys = dict.fromkeys(key for other in others for key in other)
        differing = [
            key
            for key in keys
            if key not in NOT_A_DIFFERENCE and len({repr(other.get(key)) for other in others}) > 1
        ]
        # a changed name implies the options that come with it
        named = [key for key in differing if key.endswith(".name")] or differing
        shown = ", ".join(f"{_short(key)}={json.dumps(own.get(key))}" for key in named)
        recipe = str(own["recipe"]).removeprefix(shared)
        names.append(f"{recipe} ({shown})".replace('"', "") if shown else recipe)
    return names


def _short(key: str) -> str:
    parts = key.split(".")
    return parts[-2] if parts[-1] == "name" else parts[-1]


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            yield from _flat(inner, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", inner


def _be(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"
