"""1 to 8 processes predict every image once and draw what one process would."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longtail.core import ClassCounts, Sampling, distributed
from longtail.data.sampling.loader import evaluation_batches
from longtail.data.sampling.samplers import EpochSampler
from longtail.prediction.splits import predict_split
from tests import tiny

SAMPLERS = ("instance", "class-balanced", "square-root", "progressive", "reversed")
PROGRAM = """
import json, sys
import torch
from longtail.core import distributed
from tests.prediction.test_several_processes import SAMPLERS, drawn, predicted
torch.set_num_threads(1)
distributed.start(torch.device("cpu"))
parts = {name: distributed.gather(drawn(name).tolist()) for name in SAMPLERS}
found = predicted()
everywhere = distributed.gather([found.ids.tolist(), found.logits.tolist()])
if distributed.is_main():
    json.dump([parts, everywhere], open(sys.argv[1], "w"))
distributed.stop()
"""


def drawn(name):
    """Return what this process draws in the second of three epochs."""
    data = tiny.data()
    sampler = EpochSampler(
        data.manifest.labels, tiny.COUNTS, Sampling(name=name), batch_size=12, epochs=3, seed=0
    )
    return sampler.local_batches(1)


def predicted():
    return predict_split(tiny.build("single-head"), tiny.data(), "test", device=tiny.CPU)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 40), st.integers(1, 8), st.integers(1, 9))
def test_every_image_is_evaluated_on_one_process_once(size, world, batch_size):
    data = tiny.data(ClassCounts([size - 1, 1]))
    seen, images = [], {}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(distributed, "world_size", lambda: world)
        for rank in range(world):
            patched.setattr(distributed, "rank", lambda rank=rank: rank)
            for batch, rows in evaluation_batches(data, device=tiny.CPU, batch_size=batch_size):
                assert 0 < len(rows) == len(batch) <= batch_size
                seen += rows.tolist()
                images |= dict(zip(rows.tolist(), batch, strict=True))
    assert sorted(seen) == list(range(size))
    whole = torch.cat([batch for batch, _ in evaluation_batches(data, device=tiny.CPU)])
    assert torch.equal(torch.stack([images[row] for row in range(size)]), whole)


@pytest.mark.slow
def test_three_processes_evaluate_and_draw_as_one(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    meeting = {"WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "found.json")]
    processes = [
        subprocess.Popen(command, env=os.environ | meeting | {"RANK": str(rank)})
        for rank in range(3)
    ]
    try:
        assert [process.wait(300) for process in processes] == [0, 0, 0]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    parts, everywhere = json.loads((tmp_path / "found.json").read_text())
    one = predicted()
    assert len(one.ids) % 3 == 2
    for ids, logits in everywhere:
        assert ids == one.ids.tolist()
        np.testing.assert_allclose(logits, one.logits, atol=1e-5)
    for name in SAMPLERS:
        joined = np.stack(parts[name], axis=2).reshape(-1, 12)
        np.testing.assert_array_equal(joined, drawn(name))
