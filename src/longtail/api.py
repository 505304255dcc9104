"""What users call from Python, in one place; the work is done in the rooms below."""

from collections.abc import Sequence
from pathlib import Path

from longtail.adjust.tool import adjust_run
from longtail.engine.log import Log, SilentLog, default_log
from longtail.ensembles.several_runs import ensemble
from longtail.prediction import PredictOptions
from longtail.recipes import RunConfig
from longtail.report.of_run import write_report
from longtail.run_queue.comparison import MethodComparison, compare
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
    "write_report",
    "write_summary",
]


def train(
    source: str | Path | RunConfig,
    overrides: Sequence[str] = (),
    *,
    out: Path | str | None = None,
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
        progress: Show it on standard error: a bar on a terminal, lines of epochs in a notebook or a file.
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


def compare_runs(
    runs: Run | Path | str | Sequence[Run | Path | str],
    out: Path | str,
    *,
    split: str | None = None,
    device: str | None = None,
) -> Path:
    """Write the page of `longtail report RUN RUN`; see `longtail.report.compare.compare`."""
    # what draws takes a second to import, which training need not wait for
    from longtail.report import compare as comparison

    return comparison.compare(runs, out, split=split, device=device)
