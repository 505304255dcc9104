"""What several tests need."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image

from longtail.cli import main

os.environ.setdefault("MPLBACKEND", "agg")
# The networks of the tests are too small for more than one thread, here and in what tests start.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")
# a busy machine is no failure
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


@pytest.fixture(scope="session")
def benchmark_data() -> Path:
    """Folder with the real CIFAR-100, named by LONGTAIL_DATA."""
    folder = os.environ.get("LONGTAIL_DATA")
    if not folder or not (Path(folder) / "cifar-100-python").is_dir():
        pytest.skip("LONGTAIL_DATA does not name a folder with cifar-100-python")
    return Path(folder)


@pytest.fixture(scope="session")
def published_lists() -> Path:
    """Folder with the published list files, `splits` in the folder of the benchmark data."""
    folder = os.environ.get("LONGTAIL_DATA")
    if not folder or not (Path(folder) / "splits").is_dir():
        pytest.skip("LONGTAIL_DATA does not name a folder with the published lists in splits/")
    return Path(folder) / "splits"


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    # of the session, so that runs which many tests share keep their features there, too
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
        yield


@pytest.fixture(autouse=True)
def _busy_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    # what a command does by itself with free cores must not depend on who else computes
    monkeypatch.setattr("longtail.engine.threads.running", lambda: 10_000)


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """A folder with three classes of 12, 6 and 4 coloured noise images of 16 pixels."""
    root = tmp_path / "images"
    generator = np.random.default_rng(0)
    for (name, size), colour in zip(
        {"ant": 12, "bee": 6, "cow": 4}.items(), np.eye(3) * 155, strict=True
    ):
        (root / name).mkdir(parents=True)
        for number in range(size):
            pixels = generator.integers(0, 100, (16, 16, 3)) + colour
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{number:02d}.png")
    return root


@pytest.fixture
def longtail(monkeypatch, capsys, tmp_path):
    """Call the command line in `tmp_path`; return exit status, output and errors."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["longtail", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return caught.value.code or 0, printed.out, printed.err

    return call
