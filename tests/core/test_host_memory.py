"""Freed memory is kept for the next step, given back behind it, and left alone where the user has set it."""

import ctypes
import resource
import subprocess
import sys

import pytest
import torch

from longtail.core import host_memory
from longtail.core.host_memory import keeping_freed_memory

CPU = torch.device("cpu")

# in a process of its own, whose memory no other test has shaped
FAULTS = """
import resource, torch
from contextlib import nullcontext
from longtail.core.host_memory import keeping_freed_memory
def faults_of_a_step():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    parts = [torch.ones(64 << 18) for _ in range(4)]  # 4 blocks of 64 MB: 65,536 pages of 4 KB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
with {block}:
    # the heap grows for some steps, until each block finds its place
    print([faults_of_a_step() for _ in range(12)][-1])
pages = int(open("/proc/self/statm").read().split()[1])
print(pages * resource.getpagesize() >> 20)
"""


def in_its_own_process(block, **environment):
    done = subprocess.run(
        [sys.executable, "-c", FAULTS.format(block=block)],
        capture_output=True, text=True, check=True, env=environment,
    )  # fmt: skip
    faults, resident_mb = map(int, done.stdout.split())
    return faults, resident_mb


@pytest.mark.skipif(host_memory._glibc() is None, reason="needs glibc")
def test_a_step_reuses_the_pages_of_the_last_one():
    pages = 4 * (64 << 20) // resource.getpagesize()
    returned, bare_mb = in_its_own_process("nullcontext()")
    kept, resident_mb = in_its_own_process("keeping_freed_memory(torch.device('cpu'))")
    assert returned > 0.9 * pages
    assert kept < 0.01 * pages
    assert resident_mb < bare_mb + 64  # the 256 MB of a step were given back


@pytest.mark.skipif(host_memory._glibc() is None, reason="needs glibc")
def test_who_has_set_the_allocator_keeps_it():
    returned, _ = in_its_own_process(
        "keeping_freed_memory(torch.device('cpu'))", MALLOC_TRIM_THRESHOLD_="131072"
    )
    assert returned > 60_000


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, False),
        ({"MALLOC_ARENA_MAX": "2"}, True),
        ({"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=1"}, True),
        ({"GLIBC_TUNABLES": "glibc.cpu.x86_ibt=on"}, False),
        ({"LD_PRELOAD": "/usr/lib/libjemalloc.so.2"}, True),
        ({"LD_PRELOAD": "/usr/lib/libcuda-check.so"}, False),
    ],
)
def test_what_counts_as_set(environment, expected):
    assert host_memory._is_set(environment) == expected


class Libc:
    """Stands for a glibc that takes no threshold above 32 MB, as before version 2.35."""

    def __init__(self):
        self.calls = []

    def mallopt(self, parameter, value):
        self.calls.append((parameter, value))
        return int(parameter != host_memory.M_MMAP_THRESHOLD or value <= 32 << 20)

    def malloc_trim(self, pad):
        self.calls.append(("trim", pad))


def test_an_older_glibc_gets_the_highest_threshold_that_it_takes(monkeypatch):
    libc = Libc()
    monkeypatch.setattr(host_memory, "_glibc", lambda: libc)
    monkeypatch.setattr(host_memory, "_is_set", lambda environment: False)
    with keeping_freed_memory(torch.device("cuda")):
        assert not libc.calls  # a GPU has its own allocator
    with pytest.raises(KeyError), keeping_freed_memory(CPU):
        raise KeyError
    assert libc.calls == [(-1, -1), (-3, 1 << 30), (-3, 32 << 20), ("trim", 0)]


@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_other_systems_are_left_alone(monkeypatch, system):
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(ctypes, "CDLL", None)  # is not asked
    with keeping_freed_memory(CPU):
        pass
