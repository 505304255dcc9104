"""The tables of the README and the notes, of `results/tables` and of the lists of the command line.

    python -m longtail.reproduce           # rewrite the pages from the records
    python -m longtail.reproduce --check   # fail if one is not up to date

Numbers are never typed: each table stands between two marks in its page.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from longtail.core.errors import ConfigError
from longtail.recipes.catalogue import DESCRIBED
from longtail.recipes.catalogue import FILE as CATALOGUE
from longtail.recipes.described import written_descriptions
from longtail.recipes.explain import written_catalogue
from longtail.recipes.measured import FILE as MEASURED
from longtail.report.dots import dots
from longtail.report.drawing import Drawing
from longtail.reproduce.accuracy_pages import (
    calibration_figure,
    calibration_table,
    decoupling_table,
    full_schedule,
    gamma_table,
    measured,
    norms_table,
    one_schedule,
    paper_table,
)  # fmt: skip
from longtail.reproduce.do_pages import (
    do_earlier_table,
    figure_table,
    full_table,
    left_out_table,
    mixtures_table,
    release_readings_table,
    release_table,
    signatures_table,
)  # fmt: skip
from longtail.reproduce.figure import dots_of
from longtail.reproduce.headline import headline
from longtail.reproduce.pretrained_pages import pretrained_dots, pretrained_table, tuning_table
from longtail.reproduce.processes_page import several_processes_table
from longtail.reproduce.queue import queue_table
from longtail.reproduce.results import Results
from longtail.reproduce.speed_pages import (
    compiled_table,
    cost_figure,
    cost_table,
    do_cost_table,
    features_table,
    images_table,
    kept_memory_table,
    low_rank_table,
    method_cost_table,
    speed_table,
)  # fmt: skip
from longtail.reproduce.tables import read_table, table_names

Drawn = Callable[[Results], Drawing]
# with the rows whose calibration is shown
CALIBRATED = ("overview-cifar100", "baselines-cifar100", "experts-cifar100")

TABLES: dict[str, Callable[[Results], str]] = {
    "headline": lambda results: headline(results.records),
    "queue": queue_table,
    "overview": lambda results: one_schedule(results, "overview-cifar100"),
    "overview-full": lambda results: full_schedule(results, "overview-cifar100"),
    "speed": lambda results: speed_table(results, "speed.jsonl"),
    "compiled": lambda results: compiled_table(results, "speed.jsonl"),
    "decoupling": lambda results: decoupling_table(results, "decoupling-40-epochs.jsonl"),
    "decoupling-full": lambda results: full_schedule(results, "decoupling-cifar100"),
    "decoupling-norms": lambda results: norms_table(results, "decoupling-norms.jsonl"),
    "features": lambda results: features_table(results, "features.jsonl"),
    "pretrained": lambda results: pretrained_table(results, "pretrained.jsonl", "test"),
    "foundation": lambda results: pretrained_table(results, "foundation.jsonl", "test", "seconds"),
    "foundation-tuning": lambda results: tuning_table(results, "foundation.jsonl"),
    "pretrained-rates": lambda results: pretrained_table(results, "pretrained.jsonl", "val"),
    "several-processes": lambda _: several_processes_table(),
    "low-rank": lambda results: low_rank_table(results, "low-rank.jsonl"),
    "network-cost": lambda results: cost_table(results, "network-cost.jsonl"),
    "kept-memory": lambda results: kept_memory_table(results, "kept-memory.jsonl"),
    "method-cost": lambda results: method_cost_table(results, "method-cost.jsonl"),
    "images": lambda results: images_table(results, "images.jsonl"),
    "do-cost": lambda results: do_cost_table(results, "do-cost.jsonl"),
    "baselines": lambda results: one_schedule(results, "baselines-cifar100"),
    "paco-ablation": lambda results: one_schedule(results, "paco-ablation"),
    "paco-full": lambda results: full_schedule(results, "paco-ablation"),
    "experts": lambda results: one_schedule(results, "experts-cifar100"),
    "experts-full": lambda results: full_schedule(results, "experts-cifar100"),
    "calibration": lambda results: calibration_table(results, CALIBRATED, "short"),
    "calibration-full": lambda results: calibration_table(results, CALIBRATED, "full"),
    "experts-mixtures": lambda results: mixtures_table(
        results, "experts-mixtures.jsonl", "sade", views="sade"
    ),
    "reslt-table-9": lambda results: one_schedule(results, "reslt-table-9"),
    "reslt-full": lambda results: full_schedule(results, "reslt-disagreements"),
    "reslt-disagreements": lambda results: one_schedule(results, "reslt-disagreements"),
    "reslt-gamma": lambda results: gamma_table(results, "reslt-gamma.jsonl"),
    "reslt-pooling": lambda results: gamma_table(results, "reslt-pooling.jsonl"),
    "do-ablations": do_earlier_table,
    "do-full": lambda results: full_table(results, "reproduce-do-table-5.jsonl"),
    "do-mixtures": lambda results: mixtures_table(results, "do-mixtures.jsonl", "do"),
    "do-held-out": lambda results: mixtures_table(
        results,
        "do-mixtures.jsonl",
        "five-images-a-class-held-out",
        ("label-free", "views", "held-out", "oracle"),
    ),
    "do-release": release_table,
    "do-release-readings": lambda results: release_readings_table(results, "do-release.jsonl"),
    "do-left-out": left_out_table,
    "do-stages": lambda results: figure_table(
        results, "method-figures.jsonl", "Accuracy at the end of each stage", "do", 100, ".1f"
    ),
    "do-signatures": lambda results: signatures_table(
        results, "method-figures.jsonl", "do-signatures.jsonl"
    ),
    "do-weights": lambda results: figure_table(
        results, "method-figures.jsonl", "Test-time weights of the sub-models", "do", 1, ".2f"
    ),
    "do-importance": lambda results: figure_table(
        results, "method-figures.jsonl", "Mean importance of the weights", "do", 1e6, ".2f"
    ),
}


def _dots(table: str, profile: str) -> Drawn:
    return lambda results: dots(*dots_of(read_table(table), profile, results.records))


# below docs/figures
FIGURES: dict[str, Drawn] = {
    "full-schedule": _dots("overview-cifar100", "full"),
    "do": _dots("do-table-5", "full"),
    "overview": _dots("overview-cifar100", "short"),
    "baselines": _dots("baselines-cifar100", "short"),
    "reslt": _dots("reslt-disagreements", "short"),
    "paco": _dots("paco-ablation", "short"),
    "experts": _dots("experts-cifar100", "short"),
    "calibration": lambda results: calibration_figure(results, "overview-cifar100"),
    "network-cost": lambda results: cost_figure(results, "network-cost.jsonl"),
    "pretrained": lambda results: dots(*pretrained_dots(results, "pretrained.jsonl")),
    "foundation": lambda results: dots(*pretrained_dots(results, "foundation.jsonl")),
}


def rendered(text: str, results: Results) -> str:
    """Return `text` with every marked table rendered anew.

    Raises:
        ConfigError: If a mark names a table that does not exist.
    """

    def render(found: re.Match[str]) -> str:
        if found[2] not in TABLES:
            raise ConfigError(f"There is no table {found[2]}; choose from {', '.join(TABLES)}.")
        return f"{found[1]}{TABLES[found[2]](results)}\n{found[3]}"

    pattern = r"(<!-- table (\S+) -->\n).*?(<!-- end of table -->)"
    return re.sub(pattern, render, text, flags=re.DOTALL)


def write_pages(root: Path, *, check: bool) -> list[Path]:
    """Rewrite the pages of a repository, or only look.

    Args:
        root: Holds `README.md`, `docs` and `results`.
        check: Write nothing.

    Returns:
        The pages that were not up to date.

    Raises:
        ConfigError: If a page names a table that does not exist, or no page shows one.
    """
    results = Results(root / "results")
    pages = [root / "README.md", *sorted((root / "docs").glob("*.md"))]
    pages += sorted((root / "docs" / "results").glob("*.md"))
    texts = {page: page.read_text(encoding="utf-8") for page in pages}
    shown = set(re.findall(r"<!-- table (\S+) -->", "".join(texts.values())))
    if missing := [name for name in TABLES if name not in shown]:
        raise ConfigError(f"No page shows {', '.join(missing)}.")
    made = {page: rendered(text, results) for page, text in texts.items() if "<!-- table" in text}
    made |= {results.folder / "tables" / f"{n}.md": paper_table(results, n) for n in table_names()}
    made[MEASURED] = measured(results)
    made[CATALOGUE] = written_catalogue()
    made[DESCRIBED] = written_descriptions()
    stale = [
        page
        for page, text in made.items()
        if not page.exists() or page.read_text(encoding="utf-8") != text
    ]
    figures = {
        root / "docs" / "figures" / f"{name}.svg": draw(results) for name, draw in FIGURES.items()
    }
    stale += [
        figure
        for figure, drawing in figures.items()
        if not figure.exists() or not drawing.stands_in(figure.read_text(encoding="utf-8"))
    ]
    if not check:
        for page, text in made.items():
            page.parent.mkdir(exist_ok=True)
            page.write_text(text, encoding="utf-8")
        for figure, drawing in figures.items():
            drawing.write(figure)
    return stale
