"""What users call from Python, in one place; the work is done in the rooms below."""

from collections.abc import Sequence
from pathlib import Path

from longtail.adjust.tool import adjust_run
from longtail.engine.log import Log, SilentLog, default_log
from longtail.engine.terminal import Terminal
from longtail.ensembles.several_runs import ensemble
from longtail.prediction import PredictOptions
from longtail.recipes import RunConfig
from longtail.report.of_run import write_report
from longtail.run_queue.comparison import COMPARED, MethodComparison, compare_methods
from longtail.runs import (
    Features,
    LoadedModel,
    Run,
    build,
    default_folder,
    evaluate,
    features,
    load,
    predict,
    record,
    training,
    write_summary,
)

__all__ = [
    "Features",
    "LoadedModel",
    "MethodComparison",
    "PredictOptions",
    "Run",
    "adjust_run",
    "build",
    "compare",
    "compare_runs",
    "default_folder",
    "ensemble",
    "evaluate",
    "features",
    "load",
    "predict",
    "record",
    "train",
    "write_summary",
]


def train(
    source: str | RunConfig,
    overrides: Sequence[str] = (),
    *,
    out: Path | None = None,
    resume: bool = False,
    device: str | None = None,
    progress: bool = True,
    log: Log | None = None,
) -> Run:
    """Train one run and score it on its test split (on val if there is no test).

    Args:
        source: A recipe, YAML file, folder or table; or a configuration.
        overrides: `key=value`.
        out: Run folder; `runs/<recipe>-<date>` if not given.
        resume: Continue the run in `out`.
        device: `cpu`, `cuda`, `cuda:1`, `mps`; the best there is if not given.
        progress: Show it on standard error: a bar on a terminal, a line an epoch in a notebook or a file.
            Silent if false.
        log: Where to report instead.

    Raises:
        LongtailError: In words, whatever went wrong; a run can be resumed after it.
    """
    if log is None:
        log = default_log() if progress else SilentLog()
    return training.train(
        source, overrides, out=out, resume=resume, device=device, log=log, report=write_report
    )


def compare(
    source: str,
    overrides: Sequence[str] = (),
    *,
    methods: str | Sequence[str] = COMPARED,
    budget: str | None = None,
    equal: str = "images",
    seeds: int = 3,
    base: str | None = None,
    out: Path | None = None,
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
        source, overrides, methods=names, budget=budget, equal=equal, seeds=seeds, base=base, out=out,
        device=device, parallel=parallel, note=note, progress=progress,
    )  # fmt: skip


def compare_runs(
    runs: Sequence[Run], out: Path, *, split: str | None = None, device: str | None = None
) -> Path:
    """Write the page of `longtail report RUN RUN`; see `longtail.report.compare.compare`."""
    # what draws takes a second to import, which training need not wait for
    from longtail.report import compare as comparison

    return comparison.compare(runs, out, split=split, device=device)
