"""`--submit`: each run as a job of a Slurm cluster, through submitit, which calls it again when preempted.

The command returns when the jobs are in the queue. The same command once more takes up what has ended: it
reads finished runs, leaves those in the queue alone, and submits the others again.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from longtail.cli.lines import say
from longtail.core.errors import ConfigError, LongtailError
from longtail.core.words import counted
from longtail.engine import checkpoint as ckpt
from longtail.engine.run_folder import RunFolder, writing
from longtail.engine.threads import choose_threads
from longtail.recipes import RunConfig
from longtail.runs import Run

if TYPE_CHECKING:
    from submitit import AutoExecutor, Job

    from longtail.cli.submitted_task import SubmittedTask

Cluster = Literal["slurm", "local"]
SUBMIT = (
    "Submit every run as a job: slurm, or local to try the same on this machine. Repeat the command to "
    "collect the results."
)
SLURM = "KEY=VALUE, an option of sbatch: time=240 (minutes, required), partition=gpu; repeatable."
NEEDS = "--submit needs submitit: pip install 'longtail[slurm]'"
FOLDER = "submitted"
QUEUE = "queue.json"
# submitit's own are 3 and five minutes; every continuation begins at the last checkpoint
MOST_CONTINUATIONS = 100
LOCAL_MINUTES = 30 * 24 * 60
SECONDS_BETWEEN_LOOKS = 0.5


@dataclass(frozen=True)
class Submission:
    """Where runs are submitted to.

    Attributes:
        cluster: `slurm` or `local`.
        folder: Of the jobs' files: their output, and which of them are in the queue.
        wishes: `KEY=VALUE` of `--slurm`.
        device: As for `longtail.train`.
        together: Most jobs that run at the same time; by default all on Slurm, and one here.
    """

    cluster: Cluster
    folder: Path
    wishes: Sequence[str]
    device: str | None
    together: int | None

    @classmethod
    def asked(
        cls,
        cluster: Cluster | None,
        wishes: Sequence[str] | None,
        folder: Path,
        device: str | None,
        together: int | None,
    ) -> Submission | None:
        """Return what the options ask for, None without `--submit`.

        Raises:
            ConfigError: In words, before anything begins, if nothing can be submitted like that.
        """
        if cluster is None:
            if wishes:
                raise ConfigError("--slurm needs --submit slurm. Add it, or leave --slurm out.")
            return None
        if importlib.util.find_spec("submitit") is None:
            raise ConfigError(NEEDS)
        submission = cls(cluster, folder, wishes or (), device, together)
        submission._sbatch_options()
        return submission

    def train(
        self,
        configs: Mapping[Path, RunConfig],
        after: Mapping[Path, Path],
        *,
        again: str = "this command",
    ) -> Iterator[Run]:
        """Submit what is neither finished nor in the queue, and yield the runs that are finished.

        Args:
            configs: Run folder -> what is trained into it.
            after: Run folder -> the one that must have ended before.
            again: The command that takes up what has ended.

        Raises:
            LongtailError: If a job cannot be submitted; here, at the end, which runs did not end well.
        """
        waiting = self._in_queue(configs)
        finished = [place for place in configs if place not in waiting and is_finished(place)]
        for place, job in waiting.items():
            say(f"{place}: in the queue as job {job}")
        yield from map(Run.open, finished)
        left = {
            place: config
            for place, config in configs.items()
            if place not in waiting and place not in finished
        }
        if self.cluster == "local":
            yield from self._train_here(left, after)
        elif left:
            self._submit(left, after, waiting)
            say(
                f"{counted(len(left), 'run', 'runs')} submitted; their output is in {self.folder}. To "
                f"collect the results, or to submit again what failed, repeat {again}."
            )

    def _submit(
        self,
        configs: Mapping[Path, RunConfig],
        after: Mapping[Path, Path],
        queue: dict[Path, str],
    ) -> None:
        """Submit arrays: one of all that wait for nothing, and one for each run that others wait for."""
        left = dict(configs)
        while left:
            arrays = defaultdict[str | None, list[Path]](list)
            for place in left:
                if after.get(place) not in left:
                    arrays[queue.get(after.get(place, place))].append(place)
            for first, places in arrays.items():
                executor = self._executor(first)
                try:
                    jobs = executor.submit_array([self._task(p, left.pop(p), None) for p in places])
                except (RuntimeError, OSError, subprocess.SubprocessError) as error:
                    raise LongtailError(f"The jobs cannot be submitted: {error}") from error
                for place, job in zip(places, jobs, strict=True):
                    queue[place] = job.job_id
                    say(f"{place}: job {job.job_id}" + (f", after job {first}" if first else ""))
                self._remember(queue)

    def _train_here(
        self, configs: Mapping[Path, RunConfig], after: Mapping[Path, Path]
    ) -> Iterator[Run]:
        """Let submitit start the processes on this machine, and wait for them."""
        together = self.together or 1
        threads = choose_threads(min(together, len(configs)) or 1).number
        left, failed = dict(configs), list[str]()
        running: dict[Path, Job[None]] = {}
        try:
            while left or running:
                unfinished = {*left, *running}
                for place in [p for p in left if after.get(p) not in unfinished]:
                    if len(running) < together:
                        task = self._task(place, left.pop(place), threads)
                        running[place] = self._executor().submit(task)
                time.sleep(SECONDS_BETWEEN_LOOKS)
                for place in [p for p, job in running.items() if job.done()]:
                    job = running.pop(place)
                    if is_finished(place):
                        say(f"{place}: done")
                        yield Run.open(place)
                    else:
                        failed.append(f"{place}: {_why(job)}")
                        say(failed[-1])
        finally:
            for job in running.values():
                job.cancel()
        if failed:
            raise LongtailError("; ".join(failed))

    def _task(self, place: Path, config: RunConfig, threads: int | None) -> SubmittedTask:
        from longtail.cli.submitted_task import SubmittedTask

        return SubmittedTask(config.model_dump_json(), place, self.device, threads, tuple(sys.argv))

    def _executor(self, after: str | None = None) -> AutoExecutor:
        """Return submitit's executor with the wishes, for jobs that begin after another one has ended."""
        import submitit

        sbatch = self._sbatch_options()
        minutes = sbatch.pop("time", LOCAL_MINUTES)
        if after is not None:
            sbatch |= {"dependency": f"afterok:{after}", "kill-on-invalid-dep": "yes"}
        continuations = {f"{self.cluster}_max_num_timeout": MOST_CONTINUATIONS}
        try:
            executor = submitit.AutoExecutor(self.folder, self.cluster, **continuations)
        except RuntimeError as error:  # there is no srun
            raise ConfigError(
                "There is no srun here, so nothing can be submitted to Slurm. Call this on a machine of the "
                "cluster."
            ) from error
        executor.update_parameters(
            name="longtail",
            timeout_min=minutes,
            slurm_additional_parameters=sbatch,
            slurm_array_parallelism=self.together,
            gpus_per_node=torch.cuda.device_count() if self.cluster == "local" else None,
        )
        return executor

    def _sbatch_options(self) -> dict[str, Any]:
        """Return what `--slurm` says, in the words of sbatch; minutes are a number."""
        options: dict[str, Any] = {}
        for wish in self.wishes:
            key, equals, value = wish.partition("=")
            key = key.lstrip("-").replace("_", "-")
            if not key or not equals or not value:
                raise ConfigError(
                    f"--slurm needs KEY=VALUE, for example partition=gpu, not {wish!r}."
                )
            options[key] = True if value == "true" else value
        if "time" in options:
            minutes = str(options["time"])
            if not minutes.isdecimal() or int(minutes) < 1:
                raise ConfigError(
                    f"--slurm time={minutes}: give the time in minutes, for example time=240."
                )
            options["time"] = int(minutes)
        elif self.cluster == "slurm":
            raise ConfigError(
                "--submit slurm needs the longest time of a job in minutes, for example --slurm time=240. A "
                "run that needs longer continues in another job."
            )
        return options

    def _in_queue(self, places: Collection[Path]) -> dict[Path, str]:
        """Return the jobs of an earlier command that wait or run, as Slurm's accounting says."""
        file = self.folder / QUEUE
        if self.cluster != "slurm" or not file.exists():
            return {}
        import submitit

        known = json.loads(file.read_text(encoding="utf-8"))
        jobs = {
            place: submitit.SlurmJob[None](self.folder, known[str(place)])
            for place in places
            if str(place) in known
        }
        return {
            place: job.job_id
            for place, job in jobs.items()
            if not job.done() and job.state != "UNKNOWN"
        }

    def _remember(self, queue: Mapping[Path, str]) -> None:
        with writing(self.folder / QUEUE) as file:
            file.write_text(
                json.dumps({str(place): job for place, job in queue.items()}, indent=1) + "\n",
                encoding="utf-8",
            )


def is_finished(place: Path) -> bool:
    """Say whether a run is trained and scored."""
    newest = ckpt.newest(RunFolder(place).checkpoints)
    return (
        newest is not None
        and ckpt.read_metadata(newest).finished
        and bool(Run.open(place).evaluated_splits())
    )


def _why(job: Job[None]) -> str:
    """Return the message that a job ended with, and else where its output is."""
    _, found, told = f"\n{job.stderr()}".rpartition("\nerror: ")
    if found:
        return told.strip()
    return (
        f"The job did not end by itself; its output is in {job.paths.stderr}. Finished epochs are kept: "
        "repeat the command to continue (`longtail train` needs --resume)."
    )
