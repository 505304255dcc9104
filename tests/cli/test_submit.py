"""`--submit`: what Slurm is asked for (a stand-in of its commands notes it), and jobs that are killed."""

import importlib.util
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest

from longtail import api
from longtail.cli import submit
from longtail.cli.submitted_task import SubmittedTask
from longtail.core import distributed
from longtail.core.errors import ConfigError
from longtail.engine import checkpoint as ckpt
from longtail.engine.run_folder import RunFolder
from longtail.recipes import resolve
from longtail.runs import training
from tests.run_queue.test_budget import TABLE

TRAIN = ("train", "digits-lt/cross-entropy", "epochs=3", "batch_size=64", "--device", "cpu")
SLURM = ("--submit", "slurm", "--slurm", "time=30")


class Cluster:
    """Slurm's commands as scripts: sbatch keeps what it is given, sacct says what a test decides."""

    def __init__(self, folder, first):
        self.folder, self.first = folder, first
        folder.mkdir()
        (folder / "next").write_text(str(first))
        self.script("srun", "exit 0")
        self.script(
            "sbatch",
            f'id=$(cat {folder}/next); cp "$1" {folder}/$id.sh; echo $((id + 1)) > {folder}/next',
            'echo "Submitted batch job $id"',
        )
        self.states({})

    def script(self, name, *lines):
        file = self.folder / name
        file.write_text("\n".join(["#!/bin/sh", *lines, ""]))
        file.chmod(0o755)

    def states(self, states):
        lines = ["JobID|State|NodeList", *(f"{job}|{state}|n1" for job, state in states.items())]
        self.script("sacct", *(f"echo '{line}'" for line in lines))

    def jobs(self):
        """Return the options of every job that was submitted, in order."""
        files = sorted(self.folder.glob("[0-9]*.sh"), key=lambda file: int(file.stem))
        return [
            dict(
                line.removeprefix("#SBATCH --").partition("=")[::2]
                for line in file.read_text().splitlines()
                if line.startswith("#SBATCH")
            )
            for file in files
        ]


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    # submitit remembers for the life of a process which jobs have ended: every test has its own numbers
    number = 1000 * (1 + len(CLUSTERS))
    CLUSTERS.append(number)
    found = Cluster(tmp_path / "slurm", number)
    monkeypatch.setenv("PATH", f"{found.folder}:{os.environ['PATH']}")
    return found


CLUSTERS: list[int] = []


def test_seeds_are_one_array_with_the_options_of_sbatch(longtail, cluster):
    wishes = (
        "--slurm",
        "partition=gpu",
        "--slurm",
        "--cpus_per_task=4",
        "--slurm",
        "exclusive=true",
    )
    line = (*TRAIN, "--seeds", 3, "--out", "runs", *SLURM)
    status, out, err = longtail(*line, *wishes, "--parallel", 2)
    assert status == 0, err
    (job,) = cluster.jobs()
    wanted = {
        "array": "0-2%2",
        "time": "30",
        "partition": "gpu",
        "cpus-per-task": "4",
        "exclusive": "",
    }
    assert wanted.items() <= job.items()
    assert "dependency" not in job
    assert f"runs/seed-2: job {cluster.first}_2" in out
    assert "3 runs submitted; their output is in runs/submitted. To collect the results" in out
    assert f"repeat longtail {' '.join(map(str, line[:6]))}" in " ".join(out.split())
    assert "--resume" in out
    assert not Path("runs/seed-0").exists()  # the job makes it


def test_the_same_command_leaves_what_is_in_the_queue_and_submits_the_rest_again(longtail, cluster):
    line = (*TRAIN, "--seeds", 3, "--out", "runs", *SLURM)
    assert longtail(*line)[0] == 0
    first = cluster.first
    cluster.states({f"{first}_0": "RUNNING", f"{first}_1": "PENDING", f"{first}_2": "NODE_FAIL"})
    status, out, _ = longtail(*line)
    assert status == 0
    assert f"runs/seed-1: in the queue as job {first}_1" in out
    assert f"runs/seed-2: job {first + 1}" in out
    assert "array" not in cluster.jobs()[1]
    assert len(cluster.jobs()) == 2
    # both jobs of seed 2 are known as they were submitted last
    cluster.states({f"{first}_0": "RUNNING", f"{first}_1": "RUNNING", f"{first + 1}": "RUNNING"})
    assert f"runs/seed-2: in the queue as job {first + 1}" in longtail(*line)[1]
    assert len(cluster.jobs()) == 2


def test_a_row_waits_for_the_run_whose_first_stage_it_takes(longtail, cluster):
    Path("t.yaml").write_text(TABLE)
    line = ("reproduce", "t.yaml", "--profile", "short", "--seeds", 2, "--device", "cpu", *SLURM)
    status, out, err = longtail(*line)
    assert status == 0, err
    first = cluster.first
    assert [job.get("array") for job in cluster.jobs()] == ["0-1%2", None, None]
    assert [job.get("dependency") for job in cluster.jobs()] == [
        None, f"afterok:{first}_0", f"afterok:{first}_1",
    ]  # fmt: skip
    # a job that waits for one that failed would stay in the queue for ever
    assert [job.get("kill-on-invalid-dep") for job in cluster.jobs()] == [None, "yes", "yes"]
    assert f"crt/seed-1: job {first + 2}, after job {first}_1" in out
    # the first run is finished, and its job has gone: nobody waits for it any more
    config = resolve("digits-lt/cross-entropy", ["batch_size=64", "epochs=4"])
    place = Path("runs/reproduce/t/short/plain/seed-0")
    training.train(config, out=place, device="cpu")
    cluster.states({f"{first}_1": "RUNNING", str(first + 2): "PENDING"})
    status, out, err = longtail(*line)
    assert status == 0, err
    assert len(Path("results/reproduce-t.jsonl").read_text().splitlines()) == 1
    assert len(cluster.jobs()) == 4
    assert "dependency" not in cluster.jobs()[3]
    assert f"crt/seed-0: job {first + 3}" in out


def test_variants_wait_for_the_stage_that_they_share(longtail, cluster):
    status, _, err = longtail(
        "train",
        "digits-lt/crt",
        "--each",
        "classifier=joint,crt",
        "--seeds",
        2,
        "--out",
        "runs",
        *SLURM,
    )
    assert status == 0, err
    assert [job.get("dependency") for job in cluster.jobs()] == [
        None, f"afterok:{cluster.first}_0", f"afterok:{cluster.first}_1",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ("--submit", "slurm"),
            "needs the longest time of a job in minutes, for example --slurm time",
        ),
        (("--submit", "slurm", "--slurm", "time=4h"), "time=4h: give the time in minutes"),
        (("--submit", "slurm", "--slurm", "time=0"), "time=0: give the time in minutes"),
        (
            (*SLURM, "--slurm", "gpu"),
            "--slurm needs KEY=VALUE, for example partition=gpu, not 'gpu'",
        ),
        (("--slurm", "time=3"), "--slurm needs --submit slurm"),
        ((*SLURM, "--processes", "2"), "use --slurm ntasks-per-node=N"),
        (SLURM, "There is no srun here"),
    ],
)
def test_mistakes_are_told_before_anything_begins(longtail, tmp_path, options, words):
    status, _, err = longtail(*TRAIN, "--out", "run", *options)
    assert (status, words in " ".join(err.split())) == (2, True), err
    assert not list(tmp_path.rglob("config.yaml"))


def test_a_budget_is_for_this_machine(longtail):
    status, _, err = longtail("reproduce", "do-table-1", "--budget", "1h", *SLURM)
    assert (status, "--budget is for runs of this machine" in err) == (2, True)


def test_what_is_missing_is_named(longtail, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    status, _, err = longtail(*TRAIN, "--out", "run", *SLURM)
    assert (status, "pip install 'longtail[slurm]'" in err) == (2, True)


def test_what_sbatch_says_is_passed_on(longtail, cluster):
    cluster.script("sbatch", "echo 'sbatch: error: invalid partition specified: gpux' >&2; exit 1")
    status, _, err = longtail(*TRAIN, "--out", "run", *SLURM, "--slurm", "partition=gpux")
    assert status == 2
    assert "The jobs cannot be submitted" in err
    assert "invalid partition specified: gpux" in err


def test_a_run_is_not_submitted_over_another(longtail, cluster):
    assert longtail(*TRAIN[:2], "epochs=1", "--device", "cpu", "--out", "run")[0] == 0
    status, _, err = longtail(*TRAIN, "--out", "run", *SLURM)
    assert (status, "run already contains a run. Continue it with --resume" in err) == (2, True)
    assert cluster.jobs() == []
    # of a finished run the results are shown, and nothing is submitted
    status, out, _ = longtail(*TRAIN[:2], "epochs=1", "--out", "run", "--resume", *SLURM)
    assert (status, "micro" in out, cluster.jobs()) == (0, True, [])


def test_the_copies_of_a_job_on_two_machines_find_each_other(monkeypatch, tmp_path):
    described = {"SUBMITIT_EXECUTOR": "slurm", "SLURM_JOB_ID": "7", "SLURM_NTASKS": "2",
                 "SLURM_PROCID": "1", "SLURM_LOCALID": "0", "SLURM_JOB_NUM_NODES": "2",
                 "SLURM_JOB_NODELIST": "gpu[07-08]"}  # fmt: skip
    written = ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    for name in written:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for name, value in described.items():
        monkeypatch.setenv(name, value)
    found = {}

    def start(device):
        found.update({name: os.environ[name] for name in written})
        raise ConfigError("so far")

    monkeypatch.setattr(distributed, "start", start)
    monkeypatch.setattr("sys.argv", ["kept"])
    with pytest.raises(SystemExit) as caught:
        SubmittedTask("{}", tmp_path, "cpu", None, ("longtail", "train"))()
    assert caught.value.code == 2
    assert 20_000 <= int(found.pop("MASTER_PORT")) <= 60_000
    assert found == {"MASTER_ADDR": "gpu07", "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0",
                     "LOCAL_WORLD_SIZE": "1"}  # fmt: skip


def tasks_of(folder):
    """Return the processes of submitit that train for `folder`."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = file.read_bytes()
        except OSError:
            continue
        if b"submitit.core._submit" in line and str(folder).encode() in line:
            found.append(int(file.parent.name))
    return found


def hit(folder, lines, sent):
    """Send a signal to the job when the run has written so many lines of metrics."""

    def wait():
        while len(RunFolder(folder).read_metrics()) < lines:
            time.sleep(0.02)
        for process in tasks_of(folder / "submitted"):
            os.kill(process, sent)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_a_job_that_is_killed_or_preempted_ends_with_the_scores_of_an_undisturbed_run(
    longtail, tmp_path, monkeypatch
):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    options = ["epochs=80", "batch_size=64"]
    line = ("train", "digits-lt/balanced-softmax", *options, "--device", "cpu", "--submit", "local")
    run = tmp_path / "run"
    killer = hit(run, 5, signal.SIGKILL)
    status, out, err = longtail(*line, "--out", run)
    killer.join()
    assert status == 2
    assert "The job did not end by itself; its output is in" in " ".join(err.split())
    assert not submit.is_finished(run)
    reached = len(RunFolder(run).read_metrics())
    killer = hit(run, reached + 5, signal.SIGUSR2)
    status, out, err = longtail(*line, "--out", run, "--resume")
    killer.join()
    assert status == 0, err
    assert f"{run}: done" in out.replace("\n", "")
    (log,) = [file for file in run.glob("submitted/*.out") if "Requeued" in file.read_text()]
    assert "preempted" in log.with_suffix(".err").read_text()
    undisturbed = training.train(line[1], options, out=tmp_path / "whole", device="cpu")
    assert api.Run.open(run).scores("test") == undisturbed.scores("test")
    sums = [
        ckpt.read_metadata(ckpt.finished(place / "checkpoints")).weights_sha256
        for place in (run, undisturbed.folder.path)
    ]
    assert sums[0] == sums[1]


@pytest.mark.slow
def test_what_goes_wrong_in_a_job_is_said_in_words(longtail, tmp_path, image_folder):
    shutil.rmtree(image_folder / "ant")
    for file in (image_folder / "bee").glob("*"):
        file.write_bytes(b"no image")
    status, _, err = longtail(
        "train", image_folder, "--submit", "local", "--device", "cpu", "--out", "run"
    )
    assert status == 2
    assert "run: 6 of 10 images cannot be read:" in err
    assert "bee" in err
