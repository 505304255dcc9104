"""Several runs side by side, on the same images, with intervals of their differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from numpy.typing import NDArray

from longtail.core.errors import DataError
from longtail.core.groups import RULE_TEXT
from longtail.core.paths import expanded
from longtail.core.words import counted
from longtail.data.options import FolderData, TableData
from longtail.engine.run_folder import writing
from longtail.evaluation.bootstrap import drawn_again, group_masks, paired_intervals
from longtail.evaluation.metrics import LEAST_SEEDS
from longtail.evaluation.scores import judged
from longtail.report import differences, figures
from longtail.report.class_comparison import class_comparison
from longtail.report.page import Drawing, render
from longtail.report.page_data import as_json
from longtail.report.text import listing, with_interval
from longtail.report.view import RunView
from longtail.runs import Run


@dataclass(frozen=True)
class Arm:
    """Runs that differ in the seed only.

    Attributes:
        name: For tables.
        views: One per seed.
        config: Options, dotted, without the seed.
    """

    name: str
    views: Sequence[RunView]
    config: Mapping[str, Any]

    @cached_property
    def right(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Whether each seed recognised each image, [S, N], in the order of the image ids."""
        return np.stack([v.right[np.argsort(v.predictions.ids)] for v in self.views])

    def budget(self) -> dict[str, Any]:
        """Return what the arm cost: epochs, images seen, parameters, seconds per run.

        The features of a frozen network are not in these seconds: the first run computes them, the others
        read them from a file, so they would make equal runs look unequal. `features` is the longest that a
        run took for them.
        """
        lines = [view.lines for view in self.views]
        trained = [line for line in lines[0] if "loss" in line]
        batch = self.views[0].run.config.training.batch_size
        seen = len(trained) * (self.views[0].counts.total // batch) * batch
        return {
            "seeds": len(self.views),
            "epochs": lines[0][-1]["epochs_done"] if lines[0] else 0,
            "images": seen,
            "parameters": sum(p.numel() for p in self.views[0].model.method.parameters()),
            "seconds": float(np.mean([_seconds(one, features=False) for one in lines])),
            "features": max(_seconds(one, features=True) for one in lines),
            "shared": self.views[0].run.config.start is not None,
        }


def _seconds(lines: Sequence[Mapping[str, Any]], *, features: bool) -> float:
    return float(sum(line["seconds"] for line in lines if ("features" in line) == features))


@dataclass(frozen=True)
class Comparison:
    """Arms on one split; the first is what the others are held against."""

    arms: Sequence[Arm]

    @classmethod
    def of(cls, views: Sequence[RunView]) -> Comparison:
        """Group runs into arms.

        Raises:
            DataError: If the runs were not scored on the same images and classes.
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
            contents = {v.scores.get("images_sha256") for v in (first, view)} - {None, ""}
            if not same or len(contents) > 1:
                raise DataError(
                    f"{first.run.folder.path} and {view.run.folder.path} were not scored on the same images, "
                    "classes and groups, so they cannot be compared."
                )
        configs = [differences.flat(view.run.config) for view in views]
        names = differences.names([view.run.config.recipe for view in views], configs)
        arms: dict[str, Arm] = {}
        for name, config, view in zip(names, configs, views, strict=True):
            found = arms.get(name, Arm(name, (), config))
            arms[name] = Arm(name, (*found.views, view), config)
        return cls(list(arms.values()))

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """True classes, [N], in the order of the image ids."""
        shown = self.arms[0].views[0].predictions
        return shown.labels[np.argsort(shown.ids)]

    @cached_property
    def together(self) -> NDArray[np.int64] | None:
        """Numbers that are equal for images that belong together, [N], if one of the runs knows them."""
        for view in (view for arm in self.arms for view in arm.views):
            if view.together is not None:
                return view.together[np.argsort(view.predictions.ids)]
        return None

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """Return accuracies, differences to the first arm, and budget of every arm.

        An arm of two seeds has no intervals: two values do not show how far a third may be.
        """
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
                    "accuracy": {group: _of_seeds(found[group]["after"], arm) for group in masks},
                    "difference": {
                        group: _of_seeds(found[group]["difference"], first, arm) for group in masks
                    },
                    "least_seeds": min(len(a.views) for a in (first, arm)),
                    **arm.budget(),
                }
            )
        return rows

    @cached_property
    def differences(self) -> dict[str, list[str]]:
        """Every option in which the arms differ, with its value in each."""
        configs = [arm.config for arm in self.arms]
        return {
            key: [differences.written(config.get(key)) for config in configs]
            for key in differences.differing(configs)
        }

    @cached_property
    def confounders(self) -> dict[str, list[str]]:
        """Differences besides the method that may be what makes the accuracies differ."""
        return differences.confounders([arm.config for arm in self.arms])

    def verdict(self) -> str:
        """Say which arms are better or worse than the first, where seeds and intervals say so."""
        first = self.rows[0]["name"]
        if len(self.rows) == 1:
            seeds = counted(self.rows[0]["seeds"], "seed", "seeds")
            each = listing([f"{100 * v.scores['macro_accuracy']:.1f}" for v in self.arms[0].views])
            return (
                f"One configuration, {first}, with {seeds} (macro accuracy {each} %): there is nothing to "
                "compare it with."
            )
        found: dict[tuple[bool, int], list[str]] = {}
        for row in self.rows[1:]:
            difference = row["difference"]["all"]
            name = f"{row['name']} ({with_interval(difference, signed=True)} points)"
            if difference["interval"] is None:
                name = f"{row['name']} ({100 * difference['value']:+.1f} points, no interval)"
            sure = row["least_seeds"] >= LEAST_SEEDS
            found.setdefault((sure, judged(difference, LEAST_SEEDS)), []).append(name)
        parts = []
        for sure, what in ((True, "better"), (True, "worse"), (False, "above"), (False, "below")):
            if listed := found.get((sure, 1 if what in ("better", "above") else -1)):
                is_ = f"{listing(listed)} {_be(listed)} {what}"
                averaged = f"{is_} {'than ' * sure}{first} in macro accuracy"
                parts.append(averaged if sure else f"in these runs, {averaged}")
        if unclear := found.get((True, 0), []) + found.get((False, 0), []):
            parts.append(f"no clear difference between {first} and {listing(unclear)}")
        text = "; ".join(parts) + "."
        return text[0].upper() + text[1:] if text.startswith(("in ", "no ")) else text


def _of_seeds(entry: dict[str, Any], *arms: Arm) -> dict[str, Any]:
    """Take away an interval that stands on two seeds."""
    two = any(len(arm.views) == LEAST_SEEDS - 1 for arm in arms)
    return {**entry, "interval": None} if two else entry


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


def render_comparison(comparison: Comparison, advice: Sequence[str] = ()) -> str:
    """Return the page of a comparison as HTML that needs nothing else, with advice at its top if given."""
    view = comparison.arms[0].views[0]
    rows = comparison.rows
    content = class_comparison(comparison)
    return render(
        "comparison.html.j2",
        title=f"{_runs(comparison)} on {_data_name(view)}, {view.split} split",
        comparison=comparison,
        advice=advice,
        rows=rows,
        split=view.split,
        data=content,
        json=as_json(content),
        groups=[g for g, e in rows[0]["accuracy"].items() if e["value"] is not None],
        judged=judged,
        drawn_again=drawn_again(comparison.labels, comparison.together),
        with_interval=with_interval,
        rule=RULE_TEXT[view.groups.rule],
        images=len(view.predictions.ids),
        drawings=comparison_drawings(comparison),
        few_seeds=any(row["seeds"] < LEAST_SEEDS for row in rows),
        paths=[(arm.name, [str(v.run.folder.path) for v in arm.views]) for arm in comparison.arms],
    )  # fmt: skip


def compare(
    runs: Run | Path | str | Sequence[Run | Path | str],
    out: Path | str,
    *,
    split: str | None = None,
    device: str | None = None,
) -> Path:
    """Write one self-contained page that holds runs against the first of them, and return its path.

    Args:
        runs: Scored runs on the same images, or their folders. Runs that differ only in the seed share a row.
        out: The page, HTML.
        split: `val` or `test`; test if not given, or val where there is no test.
        device: As for `train`.

    Raises:
        DataError: If a run is not scored, or was scored on other images.
    """
    out = expanded(out)
    views = [RunView.open(run.folder.path, split, device) for run in Run.all_of(runs)]
    page = render_comparison(Comparison.of(views))
    with writing(out) as file:
        file.write_text(page, encoding="utf-8")
    return out


def comparison_drawings(comparison: Comparison) -> list[Drawing]:
    """Return the figures of a comparison."""
    with matplotlib.rc_context(figures.STYLE):
        figure = figures.compared([(row["name"], row["accuracy"]) for row in comparison.rows])
    missing = any(row["accuracy"]["all"]["interval"] is None for row in comparison.rows)
    told = "Macro accuracy with 95 % intervals" + " where there are three seeds or one" * missing
    return [Drawing("groups", "Accuracy by group", f"{told}.", figure, {})]


def _runs(comparison: Comparison) -> str:
    return counted(sum(len(arm.views) for arm in comparison.arms), "run", "runs")


def _data_name(view: RunView) -> str:
    """Return what people call the data: the folder or table, or the benchmark."""
    data = view.run.config.data
    return data.path.name if isinstance(data, FolderData | TableData) else data.name


def _be(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"
