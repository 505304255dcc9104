"""`longtail compare`."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from longtail.cli.budget import BUDGET, Budget, seconds_of, what_is_left
from longtail.cli.lines import say
from longtail.cli.parallel import PARALLEL
from longtail.cli.queue import Job, train_queue
from longtail.cli.recipes import complete_recipe
from longtail.cli.show import checking
from longtail.core.errors import ConfigError
from longtail.core.words import counted, folder_name
from longtail.data.sources.file_set import OnBadImage
from longtail.engine.checksums import read_bytes
from longtail.engine.run_folder import RunFolder, require_writable, writing
from longtail.recipes.compared import named_methods
from longtail.runs import Run, evaluate, load
from longtail.runs.comparing import FILE, Equal, Plan, plan_comparison, plan_text, read_plan

if TYPE_CHECKING:
    from longtail.report.view import RunView

DEFAULT = "cross-entropy,balanced-softmax,cross-entropy-drw,ldam-drw"


Source = Annotated[
    str,
    typer.Argument(
        help="Folder or table of your images, or a recipe.", autocompletion=complete_recipe
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="key=value for all methods, for example backbone=resnet32."),
]
Methods = Annotated[
    str,
    typer.Option(
        help="Names of recipes (see longtail recipes cifar100-lt), methods, or your own recipe files, "
        "separated by commas."
    ),
]
Base = Annotated[
    str | None,
    typer.Option(
        help="What all methods share: frozen-features, fine-tuning or balanced-softmax (a network from "
        "random weights); by default, the first that all methods can use."
    ),
]


def compare(
    source: Source,
    overrides: Overrides = None,
    methods: Methods = DEFAULT,
    budget: Annotated[str | None, typer.Option(help=BUDGET)] = None,
    equal: Annotated[
        str,
        typer.Option(help="images: all methods see as many images; time: all train as long."),
    ] = "images",
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds per method.")] = 3,
    base: Base = None,
    *,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the comparison (default: runs/compare-NAME).")
    ] = None,
    on_bad_image: Annotated[
        OnBadImage | None, typer.Option(help="What to do with damaged files: error or skip.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 or mps.")] = None,
    parallel: Annotated[int | None, typer.Option(min=1, help=PARALLEL)] = None,
) -> None:
    """Train several methods on your images with equal budgets, and recommend one by val.

    All methods share data, network and training; methods with the same first stage train it once. An
    interrupted comparison continues when the command is repeated. To compare runs that are trained already,
    see longtail report RUN RUN.

    Examples:

      longtail compare my-images --budget 30m

      longtail compare my-images --methods balanced-softmax,crt,tau,balpoe --budget 2h

      longtail compare my-images --methods ldam-drw,paco,mine.yaml backbone=resnet32 --equal time --budget 8h
    """
    if equal not in ("images", "time"):
        raise ConfigError(f"--equal must be images or time, not {equal!r}.")
    changes = [*(overrides or ())]
    _refuse_runs([source, *changes])
    changes += [] if on_bad_image is None else [f"data.on_bad_image={on_bad_image}"]
    seconds = None if budget is None else seconds_of(budget)
    limit = None if seconds is None else Budget(time.monotonic() + seconds)
    chosen = named_methods(methods, source.rpartition("/")[0])
    question = {
        "data": str(Path(source).resolve()) if Path(source).exists() else source,
        "methods": [[each.name, dict(each.method), dict(each.training)] for each in chosen],
        "overrides": changes,
        "seeds": seeds,
        "equal": equal,
        "base": base,
    }
    folder = out or _folder(source, question)
    require_writable(folder / "comparison.html")
    with checking() as progress:
        plan = _plan(folder, question, lambda: plan_comparison(
            source, chosen, changes, seeds=seeds, seconds=seconds, equal=_equal(equal), base=base,
            device=device, note=say, progress=progress,
        ))  # fmt: skip
    for reason in plan.reasons:
        say(f"note: {reason}")
    epochs = ", ".join(f"{name} {number}" for name, number in plan.epochs.items())
    say(f"epochs of the first stage: {epochs}; {counted(seeds, 'seed', 'seeds')} each")
    _train_and_report(plan, folder, seeds, device, parallel, limit)


def _train_and_report(
    plan: Plan,
    folder: Path,
    seeds: int,
    device: str | None,
    parallel: int | None,
    limit: Budget | None,
) -> None:
    """Train what is not trained yet, and write the page about the seeds that all methods have."""
    places = {(name, n): folder / name / f"seed-{n}" for n in range(seeds) for name in plan.epochs}
    jobs = _jobs(plan, folder, places)
    for _ in train_queue(jobs, parallel, device, limit):
        pass
    whole = [n for n in range(seeds) if all(_ended(places[name, n]) for name in plan.epochs)]
    if whole:
        found = {name: [places[name, n] for n in whole] for name in plan.epochs}
        _report(found, folder / "comparison.html", device)
    if limit is not None:
        left = {place: job.config for place, job in jobs.items() if place in limit.left}
        say(what_is_left(left, parallel or 1))


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


def _report(found: Mapping[str, Sequence[Path]], page: Path, device: str | None) -> None:
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
    with writing(page) as file:
        file.write_text(render_comparison(comparison, sentences), encoding="utf-8")
    for sentence in sentences:
        say(sentence)
    say(f"written: {page}")
    say(f"to use the model: longtail predict {found[advice.winner][0]} IMAGES")
