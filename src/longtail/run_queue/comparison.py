"""A comparison of methods with equal budgets: its question, its folder, its runs and what is recommended."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from longtail.core.errors import ConfigError
from longtail.core.paths import expanded
from longtail.core.words import counted, folder_name
from longtail.data import Progress
from longtail.data.sources.folder_contents import refuse_images_among_runs
from longtail.engine.checksums import read_bytes
from longtail.engine.run_folder import RunFolder, require_writable, writing
from longtail.engine.terminal import Terminal
from longtail.recipes.compared import named_methods
from longtail.run_queue.budget import Budget, seconds_of, what_is_left
from longtail.run_queue.jobs import Job, train_queue
from longtail.runs import Run, evaluate, load
from longtail.runs.comparing import FILE, Plan, plan_comparison, plan_text, read_plan
from longtail.runs.comparison_costs import Equal

if TYPE_CHECKING:
    from longtail.report.compare import Comparison
    from longtail.report.recommendation import Recommendation
    from longtail.report.view import RunView

COMPARED = "cross-entropy,balanced-softmax,cross-entropy-drw,ldam-drw"
Note = Callable[[str], None]


@dataclass(frozen=True)
class MethodComparison:
    """What a comparison of methods has found so far.

    Attributes:
        folder: Of the comparison; repeat it with the same folder to continue.
        runs: Method -> its runs, one for each seed that all methods have; the recommended method first.
        table: One row a method in the order of `runs`, accuracies as fractions: `val_macro_accuracy`, which
            chooses; on `split` the `macro_accuracy` with its 95 % interval (`low`, `high`), that of `many`,
            `medium` and `few`, and the `difference` from the recommended method. Empty without `runs`.
        recommendation: Which method, and what val does not tell apart; None without `runs`.
        sentences: What the page says at its top.
        page: The comparison as HTML; None without `runs`.
        left: What a budget left to train; empty without a budget.
    """

    folder: Path
    runs: Mapping[str, tuple[Run, ...]]
    table: pd.DataFrame
    recommendation: Recommendation | None = None
    sentences: tuple[str, ...] = ()
    page: Path | None = None
    left: str = ""


def compare(
    source: str | Path,
    overrides: Sequence[str] = (),
    *,
    methods: str | Sequence[str] = COMPARED,
    budget: str | None = None,
    equal: str = "images",
    seeds: int = 3,
    base: str | None = None,
    out: Path | str | None = None,
    device: str | None = None,
    parallel: int | None = None,
    progress: bool = True,
) -> MethodComparison:
    """Train several methods on your images with equal budgets and recommend one by val: `longtail compare`.

    All methods share data, network and training; methods with the same first stage train it once. What was
    interrupted, or left by a budget, continues when the call is repeated.

    Args:
        source: A folder or table of images, or a recipe.
        overrides: `key=value` for all methods.
        methods: Names of recipes, methods, or recipe files; a list, or separated by commas.
        budget: Stop after this time, for example `90s`, `150m` or `2h30m`.
        equal: `images`: all methods see as many images; `time`: all train as long.
        seeds: Runs of each method, at least 1.
        base: What all methods share: `frozen-features`, `fine-tuning` or `balanced-softmax` (a network from
            random weights); the first that all methods can use if not given.
        out: Folder of the comparison; `runs/compare-<name>` if not given.
        device: As for `train`.
        parallel: Runs at the same time; if not given, as many as the free cores, or the GPU, and the memory
            allow.
        progress: Show what is done on standard error. Silent if false.

    Raises:
        LongtailError: In words, whatever went wrong.
    """

    def note(text: str) -> None:
        if progress:
            Terminal(stderr=True).print(text)

    names = methods if isinstance(methods, str) else ",".join(methods)
    return compare_methods(
        str(source), overrides, methods=names, budget=budget, equal=equal, seeds=seeds, base=base,
        out=expanded(out) if out else None, device=device, parallel=parallel, note=note, progress=progress,
    )  # fmt: skip


def _unseen() -> AbstractContextManager[Progress]:
    return contextlib.nullcontext(lambda done, size: None)


def compare_methods(
    source: str,
    overrides: Sequence[str],
    *,
    methods: str,
    budget: str | None,
    equal: str,
    seeds: int,
    base: str | None,
    out: Path | None,
    device: str | None,
    parallel: int | None,
    note: Note,
    progress: bool,
    checking: Callable[[], AbstractContextManager[Progress]] = _unseen,
) -> MethodComparison:
    """Plan, train, score and compare, or continue what was begun; see `compare`.

    Args:
        source: As there, like all that is not below.
        overrides: `key=value` for all methods.
        methods: Separated by commas.
        budget: A time.
        equal: `images` or `time`.
        seeds: At least 1.
        base: A recipe for own images.
        out: Folder.
        device: Where to train.
        parallel: Runs at the same time.
        note: Told what was chosen and what begins.
        checking: Makes what is called while image files are checked.
        progress: Whether each training shows where it is.
    """
    if equal not in ("images", "time"):
        raise ConfigError(f"--equal must be images or time, not {equal!r}.")
    if seeds < 1:
        raise ConfigError(f"seeds must be at least 1, but got {seeds}.")
    _refuse_runs([source, *overrides])
    seconds = None if budget is None else seconds_of(budget)
    limit = None if seconds is None else Budget(time.monotonic() + seconds)
    chosen = named_methods(methods, source.rpartition("/")[0])
    question = {
        "data": str(Path(source).resolve()) if Path(source).exists() else source,
        "methods": [[each.name, dict(each.method), dict(each.training)] for each in chosen],
        "overrides": [*overrides],
        "seeds": seeds,
        "equal": equal,
        "base": base,
    }
    folder = out or _folder(source, question)
    require_writable(folder / "comparison.html")
    refuse_images_among_runs(folder)
    with checking() as shown:
        plan = _plan(folder, question, lambda: plan_comparison(
            source, chosen, overrides, seeds=seeds, seconds=seconds, equal=_equal(equal), base=base,
            device=device, note=note, progress=shown,
        ))  # fmt: skip
    said = [f"note: {reason}" for reason in plan.reasons]
    for line in said:
        note(line)
    epochs = ", ".join(f"{name} {number}" for name, number in plan.epochs.items())
    note(f"epochs of the first stage: {epochs}; {counted(seeds, 'seed', 'seeds')} each")
    places = {(name, n): folder / name / f"seed-{n}" for n in range(seeds) for name in plan.epochs}
    jobs = _jobs(plan, folder, places)
    for _ in train_queue(jobs, parallel, device, limit, note=note, progress=progress, said=said):
        pass
    whole = [n for n in range(seeds) if all(_ended(places[name, n]) for name in plan.epochs)]
    left = ""
    if limit is not None:
        unfinished = {place: job.config for place, job in jobs.items() if place in limit.left}
        left = what_is_left(unfinished, parallel or 1, "method")
    if not whole:
        return MethodComparison(folder, {}, pd.DataFrame(), left=left)
    found = {name: [places[name, n] for n in whole] for name in plan.epochs}
    return _concluded(found, folder, device, left)


def _refuse_runs(words: Sequence[str]) -> None:
    """Say how runs that are trained already are compared."""
    runs = [text for text in words if RunFolder(Path(text)).config.exists()]
    if runs:
        raise ConfigError(
            f"{runs[0]} is a run. To compare runs that are trained already: longtail report {' '.join(runs)}"
            f"{' OTHER-RUN' if len(runs) == 1 else ''}."
        )


def _folder(source: str, question: Mapping[str, Any]) -> Path:
    """Return the folder of this comparison: the one that was begun with the same question, or a new one."""
    stem = Path("runs") / f"compare-{folder_name(Path(source).resolve().stem)}"
    for number in itertools.count(1):
        folder = stem if number == 1 else stem.with_name(f"{stem.name}-{number}")
        if not (folder / FILE).exists():
            return folder
        with contextlib.suppress(ConfigError):
            read_plan(_text(folder), question, str(folder))
            return folder
    raise AssertionError("numbers do not end")


def _plan(folder: Path, question: Mapping[str, Any], make: Callable[[], Plan]) -> Plan:
    """Read the plan of a folder, or make and write one."""
    if (folder / FILE).exists():
        return read_plan(_text(folder), question, str(folder / FILE))
    plan = make()
    with writing(folder / FILE) as file:
        file.write_text(plan_text(plan, question), encoding="utf-8")
    return plan


def _text(folder: Path) -> str:
    return read_bytes(folder / FILE).decode("utf-8", errors="replace")


def _equal(text: str) -> Equal:
    return "time" if text == "time" else "images"


def _jobs(plan: Plan, folder: Path, places: Mapping[tuple[str, int], Path]) -> dict[Path, Job]:
    """Return what is not trained yet, seed by seed; a run that another one starts from comes first."""
    jobs = {}
    for (name, seed), place in places.items():
        if _ended(place):
            continue
        config, first = plan.config(name), plan.first.get(name)
        updates: dict[str, object] = {"training": config.training.model_copy(update={"seed": seed})}
        if first is not None:
            updates["start"] = str(folder / first)
        after = None if first is None else places[first, seed]
        jobs[place] = Job(f"{name}, seed {seed}", config.model_copy(update=updates), after)
    return jobs


def _ended(place: Path) -> bool:
    """Say whether a run was trained and scored."""
    return RunFolder(place).config.exists() and bool(Run.open(place).evaluated_splits())


def _concluded(
    found: Mapping[str, Sequence[Path]], folder: Path, device: str | None, left: str
) -> MethodComparison:
    """Score val, choose by it, and write the page."""
    # what draws takes a second to import
    from longtail.prediction.cost import prediction_cost
    from longtail.report.compare import Comparison, render_comparison
    from longtail.report.recommendation import recommend, tested
    from longtail.report.view import RunView

    views: dict[str, list[RunView]] = {}
    costs = {}
    for name, places in found.items():
        for place in places:
            run = Run.open(place)
            if not run.folder.scores("val").exists():
                evaluate(run, "val", device=device)
        views[name] = [RunView.open(place, "val", device) for place in places]
        model = load(places[0], device=device)
        costs[name] = prediction_cost(model.method, model.metadata.image_size, model.device)
    advice = recommend(views, costs)
    order = [advice.winner, *(name for name in found if name != advice.winner)]
    comparison = Comparison.of(
        [RunView.open(place, None, device) for name in order for place in found[name]]
    )
    sentences = [*advice.sentences]
    if comparison.arms[0].views[0].split != "val":
        sentences.insert(1, tested(comparison))
    page = folder / "comparison.html"
    with writing(page) as file:
        file.write_text(render_comparison(comparison, sentences), encoding="utf-8")
    runs = {name: tuple(Run.open(place) for place in found[name]) for name in order}
    table = _table(order, views, comparison)
    return MethodComparison(folder, runs, table, advice, tuple(sentences), page, left)


def _table(
    order: Sequence[str], views: Mapping[str, Sequence[RunView]], comparison: Comparison
) -> pd.DataFrame:
    """Return one row a method."""
    rows = []
    for name, row in zip(order, comparison.rows, strict=True):
        on_val = [view.scores["macro_accuracy"] for view in views[name]]
        accuracy, difference = row["accuracy"], row["difference"]["all"]
        low, high = accuracy["all"]["interval"] or (None, None)
        rows.append(
            {
                "method": name,
                "seeds": row["seeds"],
                "val_macro_accuracy": sum(on_val) / len(on_val),
                "split": comparison.arms[0].views[0].split,
                "macro_accuracy": accuracy["all"]["value"],
                "low": low,
                "high": high,
                **{group: accuracy[group]["value"] for group in ("many", "medium", "few")},
                "difference": difference["value"],
            }
        )
    return pd.DataFrame(rows)
