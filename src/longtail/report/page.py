"""One page about one run."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
import yaml
from matplotlib.figure import Figure

from longtail.core.groups import GROUP_NAMES, RULE_TEXT
from longtail.core.names import visible
from longtail.evaluation.bootstrap import drawn_again
from longtail.evaluation.scores import LEAST_IMAGES, percent
from longtail.report import figures, text
from longtail.report.acceptance import calibrated, draw_acceptance, masks_by_prediction
from longtail.report.group_colours import COLOURS, ON_DARK
from longtail.report.images import ShownImages, choose_images
from longtail.report.page_data import as_json, run_data
from longtail.report.regions import LEFT_OUT, regions
from longtail.report.view import RunView

# a percent sign after a number, or what is no text of the page
_PERCENT = re.compile(r"(?s)<(script|style|pre|code)\b.*?</\1>|(?<=\d) %")
DRAWN_BY_THE_PAGE = ("classes", "confusion")  # there from the data, to be searched and pointed at
IN_THE_OPEN = ("reliability", "acceptance")  # the rest is folded


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

    @cached_property
    def svg(self) -> str:
        """SVG for the page."""
        return figures.to_svg(self.figure, self.name, self.texts)


def drawings(view: RunView, *, for_files: bool = True) -> list[Drawing]:
    """Return the figures of a run, the general ones first, then the method's own.

    Args:
        view: A scored run.
        for_files: Also those that the page draws itself.
    """
    view.progress("drawing figures", 0, 1)
    with matplotlib.rc_context(figures.STYLE):
        found = [*_of_classes(view)] if for_files else []
        return [drawing for drawing in (*found, *_drawings(view)) if drawing is not None]


def _of_classes(view: RunView) -> Iterator[Drawing | None]:
    points, texts = figures.class_accuracy(view.scores["per_class"])
    yield Drawing(
        "classes", "Accuracy of every class",
        "One point per class, by its number of training images; lines are the means of the shot "
        "groups.",
        points, texts,
    )  # fmt: skip
    if len(view.counts) <= figures.MATRIX_CLASSES:
        yield _drawing(
            "confusion", "Confusion matrix",
            "Rows are labels, columns predictions; numbers from 5 % on are printed.",
            figures.confusion_matrix(view.confusion, view.counts.names),
        )  # fmt: skip
    else:
        yield _drawing(
            "confusion", "The most frequent confusions", "Label → prediction, and on how many images.",
            figures.confused_pairs(view.pairs, view.tested, view.counts.names),
        )  # fmt: skip


def _drawings(view: RunView) -> Iterator[Drawing | None]:
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
        "On the dotted line, confidence equals accuracy; below it, the model is overconfident. "
        f"Expected calibration error: {percent(error['overall'])} % overall, {each}.",
        figures.reliability(view.confidence, view.right, everything | masks),
    )  # fmt: skip
    yield _drawing(
        "acceptance", "Accepting only the most confident predictions",
        "From right to left, fewer predictions are accepted: those with the highest confidence. Groups are "
        "those of the predicted class; bands are Wilson's 95 % intervals. A line that stays low on the left "
        "means confident mistakes.",
        draw_acceptance(view.confidence, view.right, masks_by_prediction(view)),
    )  # fmt: skip
    yield _drawing(
        "learning", "Learning curves", "Dotted lines mark the beginning of a stage.",
        figures.learning_curves(view.lines),
    )  # fmt: skip
    norms = view.row_norms()
    if norms is not None:
        yield _drawing(
            "norms", "Norms of the classifier's rows",
            "A classifier that favours frequent classes has longer rows for them. The rows are shown "
            "as trained, without scales or tau that the method applies later.",
            figures.row_norms(norms, view.counts, view.groups),
        )  # fmt: skip
    yield _drawing(
        "sampling", "What training saw",
        "Probability that each class is sampled, by stage.",
        figures.sampling(view.stages, view.counts),
    )  # fmt: skip
    if (ends := view.stage_figure()) is not None:
        yield _drawing("stages", ends.title, ends.text, figures.draw(ends))
    if (weights := view.importance_figure) is not None:
        yield _drawing("importance", weights.title, weights.text, figures.draw(weights))
    for number, figure in enumerate(view.figures()):
        yield _drawing(f"method-{number}", figure.title, figure.text, figures.draw(figure))


def _drawing(name: str, title: str, text: str, figure: Figure | None) -> Drawing | None:
    return None if figure is None else Drawing(name, title, text, figure, {})


def render_run(view: RunView, drawn: Sequence[Drawing] | None = None) -> str:
    """Return the page as HTML that needs nothing else.

    Args:
        view: A scored run.
        drawn: Its figures, if they were drawn already.
    """
    scores, config = view.scores, view.run.config
    shown = drawings(view, for_files=False) if drawn is None else drawn
    page = [drawing for drawing in shown if drawing.name not in DRAWN_BY_THE_PAGE]
    images = choose_images(view, partial(view.progress, "making thumbnails"))
    pictured = [
        place for found in images.featured.values() for place in found if place in images.thumbnails
    ]
    looked_into = regions(view, pictured)
    content = run_data(view, images)
    left_out = view.inspection.left_out if view.inspection else ()
    found = view.inspection.warnings() if view.inspection else []
    warnings = [warning for warning in found if warning not in left_out]
    return render(
        "run.html.j2",
        title=f"{config.recipe}, seed {config.training.seed}",
        verdict=text.verdict(view),
        class_verdict=text.class_verdict(view),
        actions=text.next_actions(view),
        view=view,
        scores=scores,
        rule=RULE_TEXT[view.groups.rule],
        macro=text.with_interval(view.intervals["all"]),
        worst=text.worst_class(view),
        fewest=LEAST_IMAGES,
        drawn_again=drawn_again(view.predictions.labels, view.together),
        groups=text.group_lines(view),
        calibration=calibrated(view),
        open_drawings=[drawing for drawing in page if drawing.name in IN_THE_OPEN],
        folded_drawings=[drawing for drawing in page if drawing.name not in IN_THE_OPEN],
        mistakes=_mistakes(view, images, looked_into),
        looked_into=bool(looked_into),
        not_looked_into=LEFT_OUT if pictured and not looked_into else "",
        thumbnails=images.thumbnails,
        data=content,
        json=as_json(content),
        config=yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False),
        environment=json.dumps(view.environment, indent=1),
        made=text.how_made(view),
        warnings=warnings,
        notes=[note for note in [*left_out, *scores["notes"]] if note not in warnings],
        trained=text.trained(view),
        seconds=sum(line["seconds"] for line in view.lines),
        parameters=sum(p.numel() for p in view.model.method.parameters()),
    )  # fmt: skip


def _mistakes(
    view: RunView, images: ShownImages, looked_into: Mapping[int, str]
) -> dict[str, list[dict[str, Any]]]:
    """Return what the page shows of the most confident mistakes of each shot group."""
    names, predicted = view.counts.names, view.predictions.predicted()
    index = {place: number for number, place in enumerate(images.places.tolist())}
    return {
        group: [
            {
                "index": index[place],
                "where": images.where[index[place]],
                "thumbnail": images.thumbnails.get(place),
                "region": looked_into.get(place),
                "class": int(view.predictions.labels[place]),
                "label": names[view.predictions.labels[place]],
                "predicted": names[predicted[place]],
                "confidence": float(view.confidence[place]),
            }
            for place in places
        ]
        for group, places in images.featured.items()
    }


def environment() -> jinja2.Environment:
    """Return the templates; everything that comes from a run is escaped."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        finalize=_shown,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Any] = {"percent": percent}
    made.filters.update(filters)
    made.globals |= {"group_colours": COLOURS, "group_colours_on_dark": ON_DARK}
    return made


def render(template: str, **content: Any) -> str:  # noqa: ANN401 - what templates take
    """Return a page; a percent sign stays on the line of its number."""
    page = environment().get_template(template).render(**content)
    return _PERCENT.sub(lambda found: "\u00a0%" if found[0] == " %" else found[0], page)


def _shown(value: object) -> object:
    """Write out control characters in whatever a template inserts; markup of our own stays."""
    return visible(value) if type(value) is str else value
