"""CIFAR archives: the real one, damaged ones, and a malicious one."""

import contextlib
import os
import pickle

import numpy as np
import pytest

from longtail.core import DataError
from longtail.data.benchmark_facts import verify_cifar
from longtail.data.options import CifarData, LongTail
from longtail.data.source_to_batch import open_data
from longtail.data.sources.cifar import read_cifar, read_pickle


def write_small(root, protocol=2, keys=str):
    """Write a CIFAR-100 folder with 30 training and 10 test images of 100 classes' names."""
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for name, size in (("train", 30), ("test", 10)):
        content = {
            keys("data"): generator.integers(0, 256, (size, 3072), dtype=np.uint8),
            keys("fine_labels"): [number % 5 for number in range(size)],
        }
        (folder / name).write_bytes(pickle.dumps(content, protocol=protocol))
    names = {keys("fine_label_names"): [f"class {c}" for c in range(5)]}
    (folder / "meta").write_bytes(pickle.dumps(names, protocol=protocol))
    return root


@pytest.mark.parametrize("protocol", [2, 4])
def test_archives_written_by_python_3_are_read_too(tmp_path, protocol):
    data = read_cifar("cifar100", write_small(tmp_path, protocol), download=False)
    assert len(data.manifest) == 40
    with (tmp_path / "cifar-100-python" / "train").open("rb") as stream:
        original = pickle.load(stream)["data"]
    np.testing.assert_array_equal(data.images.pixels[:30].reshape(30, -1), original)


def test_cifar10_in_five_files(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    generator = np.random.default_rng(0)
    names = [f"data_batch_{part}" for part in range(1, 6)] + ["test_batch"]
    for number, name in enumerate(names):
        pixels = generator.integers(0, 256, (4, 3072), dtype=np.uint8)
        content = {"data": pixels, "labels": [number, 9 - number, 0, 1]}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    meta = {"label_names": [f"thing {c}" for c in range(10)]}
    (folder / "batches.meta").write_bytes(pickle.dumps(meta, protocol=2))
    data = read_cifar("cifar10", tmp_path, download=False)
    assert data.manifest.labels[:8].tolist() == [0, 9, 0, 1, 1, 8, 0, 1]  # files in order
    assert [len(data.manifest.rows(s)) for s in ("train", "test")] == [20, 4]
    assert data.manifest.classes[3] == "thing 3"


class Malicious:
    def __reduce__(self):
        return os.system, ("touch /tmp/longtail-was-here",)


@pytest.mark.parametrize(
    "content",
    [
        Malicious(),
        {"data": Malicious()},
        {"data": np.array([object()], dtype=object)},
        {"data": np.array([1.5])},
        print,
    ],
)
def test_a_malicious_pickle_is_refused_and_not_run(tmp_path, content):
    marker = "/tmp/longtail-was-here"
    if os.path.exists(marker):  # noqa: PTH110 - the path of the attack
        os.remove(marker)  # noqa: PTH107
    write_small(tmp_path)
    (tmp_path / "cifar-100-python" / "train").write_bytes(pickle.dumps(content))
    with pytest.raises(DataError, match=r"train is not a CIFAR file.*Nothing in it was executed"):
        read_cifar("cifar100", tmp_path, download=False)
    assert not os.path.exists(marker)  # noqa: PTH110


def test_every_truncation_and_flipped_byte_is_refused_or_read_in_words(tmp_path):
    write_small(tmp_path)
    file = tmp_path / "cifar-100-python" / "meta"
    whole = file.read_bytes()
    generator = np.random.default_rng(0)
    for cut in generator.integers(0, len(whole) - 1, 60):
        file.write_bytes(whole[:cut])
        with pytest.raises(DataError):
            read_pickle(file)
    for place in generator.integers(0, len(whole), 200):
        broken = bytearray(whole)
        broken[place] ^= 1 << int(generator.integers(8))
        file.write_bytes(bytes(broken))
        with contextlib.suppress(DataError):  # any other exception fails the test
            read_pickle(file)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("train", {"fine_labels": [1]}, "not a uint8 array"),
        (
            "train",
            {"data": np.zeros((3, 3072), np.uint8), "fine_labels": [1]},
            "3 images, 1 labels",
        ),
        ("train", [1, 2], "contains a list"),
        ("meta", {}, "no 'fine_label_names'"),
    ],
)
def test_wrong_content_is_named(tmp_path, name, content, words):
    write_small(tmp_path)
    (tmp_path / "cifar-100-python" / name).write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(DataError, match=words):
        read_cifar("cifar100", tmp_path, download=False)


def test_a_missing_archive_says_what_belongs_where(tmp_path):
    with pytest.raises(DataError, match=r"cifar-100-python/train exists.*data\.root=DIR"):
        read_cifar("cifar100", tmp_path, download=False)


def test_a_failed_download_says_what_to_do(tmp_path, monkeypatch):
    from torchvision import datasets

    def offline(*arguments, **options):
        raise OSError("no network")

    monkeypatch.setattr(datasets.CIFAR10, "download", offline)
    with pytest.raises(DataError, match=r"cannot be downloaded \(no network\).*LONGTAIL_DATA"):
        read_cifar("cifar10", tmp_path)


def test_the_real_cifar100(benchmark_data):
    data = read_cifar("cifar100", benchmark_data, download=False)
    assert data.manifest.histogram("train").tolist() == [500] * 100
    assert data.manifest.histogram("test").tolist() == [100] * 100
    train = data.split("train").images.pixels.float() / 255
    # channel means of CIFAR-100's training images
    assert train.mean((0, 2, 3)).tolist() == pytest.approx([0.50708, 0.48655, 0.44092], abs=1e-5)


def test_the_real_long_tailed_cut(benchmark_data):
    config = CifarData(
        name="cifar100", root=benchmark_data, long_tail=LongTail(imbalance_ratio=100)
    )
    data = open_data(config)
    full = read_cifar("cifar100", benchmark_data)
    assert data.manifest.class_counts().total == 10847
    # the image with rank 90 of class 0 comes first, as in the published cut
    rows = full.manifest.rows("train")
    first = rows[full.manifest.labels[rows] == 0][90]
    assert data.manifest.ids[0] == first
    assert (data.images.pixels[0] == full.images.pixels[int(first)]).all()
    labels = dict(zip(full.manifest.ids.tolist(), full.manifest.labels.tolist(), strict=True))
    assert [labels[i] for i in data.manifest.ids.tolist()] == data.manifest.labels.tolist()


def test_verify_finds_the_real_archive_good(benchmark_data):
    checks = verify_cifar("cifar100", benchmark_data)
    assert all(check.passed is not False for check in checks)
    assert sum(check.what.startswith("ranks") for check in checks) == 3


def test_verify_finds_a_small_archive_wrong(tmp_path):
    with pytest.raises(DataError):
        verify_cifar("cifar100", tmp_path)
