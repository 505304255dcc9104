"""One page about one run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
import yaml
from matplotlib.figure import Figure

from longtail.core.groups import GROUP_NAMES, RULE_TEXT
from longtail.evaluation.bootstrap import drawn_again
from longtail.evaluation.scores import percent
from longtail.methods import METHODS
from longtail.report import figures
from longtail.report.pictures import worst_mistakes
from longtail.report.text import verdict, with_interval
from longtail.report.view import RunView


@dataclass(frozen=True)
class Drawing:
    """One figure of a page.

    Attributes:
        name: Distinct, for files and links.
        title: Heading.
        text: What is shown and how to read it.
        figure: Drawn.
        texts: id -> text for the pointer.
    """

    name: str
    title: str
    text: str
    figure: Figure
    texts: dict[str, str]

    @property
    def svg(self) -> str:
        """SVG for the page."""
        return figures.to_svg(self.figure, self.name, self.texts)


def drawings(view: RunView) -> list[Drawing]:
    """Return all figures of a run, the general ones first, then the method's own."""
    with matplotlib.rc_context(figures.STYLE):
        return [drawing for drawing in _drawings(view) if drawing is not None]


def _drawings(view: RunView) -> Iterator[Drawing | None]:
    points, texts = figures.class_accuracy(view.scores["per_class"])
    yield Drawing(
        "classes", "Accuracy of every class",
        "One point a class, over its training pictures; lines are the means of the shot groups.",
        points, texts,
    )  # fmt: skip
    yield _drawing(
        "confusion", "Classes that are confused most",
        "Rows are labels, columns answers; numbers from 5 % on are printed.",
        figures.confused(view.confusion, view.counts.names),
    )  # fmt: skip
    labels = view.predictions.labels
    masks = {
        name: view.groups.mask(name).numpy()[labels]
        for name in GROUP_NAMES
        if view.groups.mask(name).numpy()[labels].any()
    }
    everything = {"all": labels >= 0}
    error = view.scores["calibration_error"]
    each = ", ".join(f"{name} {percent(error[name])} %" for name in masks)
    yield _drawing(
        "reliability", "Can the confidence be believed?",
        "On the dotted line the confidence is the accuracy; below it the model is too sure. Expected "
        f"calibration error: {percent(error['overall'])} % overall, {each}.",
        figures.reliability(view.confidence, view.right, everything | masks),
    )  # fmt: skip
    yield _drawing(
        "learning", "Learning curves", "Dotted lines are where a stage begins.",
        figures.learning_curves(view.lines),
    )  # fmt: skip
    norms = view.row_norms()
    if norms is not None:
        yield _drawing(
            "norms", "Norms of the classifier's rows",
            "A classifier that prefers frequent classes has longer rows for them. Rows are shown as trained, "
            "before scales or tau that the method applies.",
            figures.row_norms(norms, view.counts, view.groups),
        )  # fmt: skip
    yield _drawing(
        "sampling", "What training saw",
        "Probability of each class to be drawn, by stage.",
        figures.sampling(view.stages, view.counts),
    )  # fmt: skip
    if (ends := view.stage_panel()) is not None:
        yield _drawing("stages", ends.title, ends.text, figures.panel(ends))
    for number, panel in enumerate(view.panels()):
        yield _drawing(f"method-{number}", panel.title, panel.text, figures.panel(panel))


def _drawing(name: str, title: str, text: str, figure: Figure | None) -> Drawing | None:
    return None if figure is None else Drawing(name, title, text, figure, {})


def render_run(view: RunView) -> str:
    """Return the page as HTML that needs nothing else."""
    scores, config = view.scores, view.run.config
    method = METHODS[config.method_name]
    groups = [
        {
            "name": name,
            "classes": scores["groups"][name]["classes"],
            "accuracy": with_interval(view.intervals[name]),
            "calibration": percent(scores["calibration_error"][name]),
        }
        for name in GROUP_NAMES
    ]
    return environment().get_template("run.html.j2").render(
        title=f"{config.recipe}, seed {config.training.seed}",
        verdict=verdict(view),
        view=view,
        scores=scores,
        rule=RULE_TEXT[view.groups.rule],
        macro=with_interval(view.intervals["all"]),
        drawn_again=drawn_again(view.predictions.labels, view.together),
        groups=groups,
        drawings=drawings(view),
        mistakes=worst_mistakes(view),
        notes=scores["notes"],
        config=yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False),
        environment=json.dumps(view.environment, indent=1),
        method=method,
        epochs=view.lines[-1]["epochs_done"] if view.lines else 0,
        seconds=sum(line["seconds"] for line in view.lines),
        parameters=sum(p.numel() for p in view.model.method.parameters()),
    )  # fmt: skip


def environment() -> jinja2.Environment:
    """Return the templates; everything that comes from a run is escaped."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Any] = {"percent": percent}
    made.filters.update(filters)
    return made
