"""Features that are computed once: what is read is what was computed, and nothing is computed twice."""

import multiprocessing
import os

import numpy as np
import pytest
import torch
from torch import nn

from longtail.core.paths import cache_folder
from longtail.frozen import FeatureStore, frozen_features
from longtail.frozen.keys import about, key_of
from longtail.models.weights import weights_checksum
from tests import tiny

CPU = torch.device("cpu")


class Counting(nn.Module):
    """The channel means of an image, times a weight; counts the images that it sees."""

    def __init__(self, factor=2.0):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))
        self.seen = 0

    def forward(self, images):
        self.seen += len(images)
        return self.factor * images.mean((2, 3))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LONGTAIL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def by_hand(data, factor=2.0):
    pixels = data.images.pixels.numpy().astype(np.float64) / 255
    return factor * ((pixels - 0.3) / 0.25).mean((2, 3))


def test_they_are_computed_once_and_read_in_any_order():
    data, backbone = tiny.data(), Counting()
    found = frozen_features(backbone, data, device=CPU)
    np.testing.assert_allclose(found.numpy(), by_hand(data), rtol=1e-5, atol=1e-6)
    assert backbone.seen == len(data.manifest)
    rows = np.random.default_rng(0).permutation(len(data.manifest))[:40]
    again = Counting()
    assert torch.equal(frozen_features(again, data.take(rows), device=CPU), found[rows])
    assert again.seen == 0


def test_new_images_alone_are_computed_and_equal_images_once():
    data = tiny.data()
    data.images.pixels[30:32] = data.images.pixels[25]
    few, more = data.take(np.arange(20)), data.take(np.arange(32))
    frozen_features(Counting(), few, device=CPU)
    backbone = Counting()
    found = frozen_features(backbone, more, device=CPU)
    assert backbone.seen == 10
    np.testing.assert_allclose(found.numpy(), by_hand(more), rtol=1e-5, atol=1e-6)


def test_other_weights_preparation_and_sizes_have_features_of_their_own():
    data = tiny.data()
    frozen_features(Counting(), data, device=CPU)
    for backbone, other in (
        (Counting(3.0), data),
        (Counting(), data.normalised_by((0.2,) * 3, (0.25,) * 3)),
        (Counting(), tiny.data(side=9)),
    ):
        frozen_features(backbone, other, device=CPU)
        assert backbone.seen == len(data.manifest)
    assert key_of(about(Counting(), data, CPU)) == key_of(about(Counting(), data, CPU))


def test_the_checksum_of_weights_sees_names_shapes_and_values():
    one, other = nn.Linear(2, 3), nn.Linear(2, 3)
    other.load_state_dict(one.state_dict())
    assert weights_checksum(one) == weights_checksum(other)
    with torch.no_grad():
        other.bias[0] = torch.nextafter(other.bias[0], torch.tensor(9.0))
    assert weights_checksum(one) != weights_checksum(other)


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-5], lambda b: b[:-1] + bytes([b[-1] ^ 1]), lambda b: b""]
)
def test_a_damaged_file_is_computed_again(cache, damage):
    data, backbone = tiny.data(), Counting()
    found = frozen_features(backbone, data, device=CPU)
    (file,) = cache.rglob("*.npy")
    file.write_bytes(damage(file.read_bytes()))
    again = Counting()
    assert torch.equal(frozen_features(again, data, device=CPU), found)
    assert again.seen == len(data.manifest)


def test_the_cache_can_be_off_or_out_of_reach(cache, monkeypatch, tmp_path):
    data, notes = tiny.data(), []
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    for place in ("off", str(blocked)):
        monkeypatch.setenv("LONGTAIL_CACHE", place)
        backbone = Counting()
        found = frozen_features(backbone, data, device=CPU, note=notes.append)
        np.testing.assert_allclose(found.numpy(), by_hand(data), rtol=1e-5, atol=1e-6)
        assert backbone.seen == len(data.manifest)
    assert cache_folder() == blocked
    assert not cache.exists()
    assert len(notes) == 1
    assert "cannot be kept" in notes[0]
    assert "LONGTAIL_CACHE" in notes[0]


def test_without_room_on_the_disk_nothing_is_kept(monkeypatch):
    data, notes = tiny.data(), []
    monkeypatch.setattr("shutil.disk_usage", lambda path: Disk)
    found = frozen_features(Counting(), data, device=CPU, note=notes.append)
    np.testing.assert_allclose(found.numpy(), by_hand(data), rtol=1e-5, atol=1e-6)
    assert "1 GiB would be left" in notes[0]
    assert not list(cache_folder().rglob("*.npy"))


class Disk:
    free = 2**30


def test_an_interrupted_pass_keeps_what_it_has(monkeypatch):
    monkeypatch.setattr("longtail.frozen.features.SECONDS_BETWEEN_FILES", 0.0)
    monkeypatch.setattr("longtail.data.sampling.loader.LARGEST_BATCH", 16)

    class Interrupted(Counting):
        def forward(self, images):
            if self.seen >= 48:
                raise KeyboardInterrupt
            return super().forward(images)

    data = tiny.data()
    with pytest.raises(KeyboardInterrupt):
        frozen_features(Interrupted(), data, device=CPU)
    assert len(data.manifest) == 77
    facts = about(Interrupted(), data, CPU)
    assert sum(len(np.load(f)) for f in cache_folder().rglob("*.npy")) == 48
    assert facts["images"] == "ArrayImages"


def _in_a_process(cache, results):
    os.environ["LONGTAIL_CACHE"] = cache
    torch.set_num_threads(1)
    backbone = Counting()
    frozen_features(backbone, tiny.data(), device=CPU)
    results.put(backbone.seen)


def test_two_processes_compute_once(cache):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    both = [context.Process(target=_in_a_process, args=(str(cache), results)) for _ in range(2)]
    for one in both:
        one.start()
    seen = sorted(results.get(timeout=60) for _ in both)
    for one in both:
        one.join()
    assert seen == [0, 77]


def test_a_store_says_what_it_lacks(tmp_path):
    store = FeatureStore(tmp_path / "store", {})
    names = [bytes([number]) * 32 for number in range(4)]
    assert store.read(names)[0] is None
    store.add(names[:2], np.array([[1, 2], [3, 4]], np.float32))
    store.add(names[3:], np.array([[7, 8]], np.float32))
    values, unknown = store.read(names)
    assert unknown.tolist() == [2]
    assert values.tolist() == [[1, 2], [3, 4], [0, 0], [7, 8]]
