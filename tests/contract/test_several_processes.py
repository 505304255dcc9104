"""Two processes train as one does, for every method that says so; where one does not, its losses differ."""

import json
import os
import socket
import subprocess
import sys

import pytest
import torch

from longtail.methods import METHODS
from longtail.reproduce.processes_page import several_processes_table
from tests.contract.in_two_processes import losses_of
from tests.contract.test_method_contract import QUICK, TWO_STAGES, VARIANTS

# short, and with generated maps in the second of two epochs
SHORT = {name: {"second": 1} for name in TWO_STAGES} | {"do": QUICK, "rsg": {"start": 1}}
SHORT["lfme"] = {"teacher_epochs": 1}
DEFAULTS = {name: (name, SHORT.get(name, {})) for name in METHODS}
# what makes the difference in methods that differ by default, left out
EQUAL = {
    "mislas, nothing mixed": ("mislas", {"mixing": None, "second": 1}),
    "gcl, nothing drawn": ("gcl", {"mixing": None, "sigma": 0.0, "second": 1}),
    "paco, one contrast": ("paco", {"contrast": "joint"}),
    "reslt, subset means": VARIANTS["reslt convolution"],
    "ride, taught and routed": VARIANTS["ride, taught and routed"],
}


@pytest.fixture(scope="module")
def losses(tmp_path_factory):
    """Return the losses of one process and of two, by variant."""
    variants, folder = DEFAULTS | EQUAL, tmp_path_factory.mktemp("processes")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    meeting = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    given = folder / "variants.json"
    given.write_text(json.dumps(variants))
    command = [sys.executable, "-m", "tests.contract.in_two_processes", folder / "losses.json"]
    both = []
    for rank in ("0", "1"):
        with given.open() as file, (folder / f"errors-{rank}").open("w") as errors:
            environment = os.environ | meeting | {"RANK": rank}
            both.append(subprocess.Popen(command, stdin=file, stderr=errors, env=environment))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = losses_of(variants, folder)
        for rank, process in enumerate(both):
            assert process.wait(900) == 0, (folder / f"errors-{rank}").read_text()[-3000:]
    finally:
        torch.set_num_threads(threads)
        for process in both:
            process.kill()
            process.wait()
    return one, json.loads((folder / "losses.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("variant", [*DEFAULTS, *EQUAL])
def test_two_processes_equal_one_where_the_method_says_so(losses, variant):
    one, two = (found[variant] for found in losses)
    assert len(one) == len(two) >= 2
    equal = two == pytest.approx(one, rel=1e-6, abs=1e-5)
    reason = "" if variant in EQUAL else METHODS[variant].several_processes
    assert equal == (reason == ""), f"{one} {two}"


def test_the_table_names_every_method_once():
    lines = several_processes_table().splitlines()
    assert lines[2:] == [
        f"| {name} | no: each process {kind.several_processes} |"
        if kind.several_processes
        else f"| {name} | yes |"
        for name, kind in METHODS.items()
    ]
