"""Folders of the library `datasets` are read like folders of images."""

import io
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from PIL import Image

from longtail.core.errors import DataError
from longtail.core.paths import cache_folder
from longtail.data.options import FolderData
from longtail.data.preparation import prepare
from longtail.data.source_to_batch import open_data
from longtail.data.sources.folder import read_folder
from longtail.data.sources.hugging_face import is_hugging_face
from longtail.recipes import resolve

datasets = pytest.importorskip("datasets")
NAMES = ["fox", "Käfer", "owl"]
pytestmark = pytest.mark.filterwarnings("ignore")  # of the library


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.setenv("LONGTAIL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()


def png(value):
    stream = io.BytesIO()
    pixels = np.random.default_rng(value).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, "png")
    return stream.getvalue()


def part(labels, first=0, **more):
    rows = {
        "image": [{"bytes": png(first + n), "path": f"{n}.png"} for n in range(len(labels))],
        "label": labels,
    }
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)}
    return datasets.Dataset.from_dict(rows | more, datasets.Features(features))


def test_splits_classes_and_pixels(tmp_path):
    train, test = part([0, 0, 1, 2]), part([2, 1], first=10)
    datasets.DatasetDict(train=train, test=test).save_to_disk(str(tmp_path / "set"))
    data = open_data(FolderData(name="folder", path=tmp_path / "set", image_size=9))
    assert data.manifest.classes == ("Käfer", "fox", "owl")
    assert data.manifest.histogram("train").tolist() == [1, 2, 1]
    assert data.manifest.histogram("test").tolist() == [1, 0, 1]
    assert data.manifest.paths[0] == "test/00000000.png"
    row = data.manifest.paths.index("train/00000002.png")
    wanted = np.array(Image.open(io.BytesIO(png(2)))).transpose(2, 0, 1)
    np.testing.assert_array_equal(data.images.pixels[row].numpy(), wanted)


def test_a_set_in_the_cache_of_the_hub_has_its_name(tmp_path):
    repository = tmp_path / "hub" / "datasets--me--beetles"
    snapshot = repository / "snapshots" / ("0" * 40)
    (snapshot / "data").mkdir(parents=True)
    (repository / "blobs").mkdir()
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    part([0, 1, 2]).to_parquet(str(repository / "blobs" / "abc"))
    (snapshot / "data" / "train-00000-of-00001.parquet").symlink_to(repository / "blobs" / "abc")
    cached = huggingface_hub.snapshot_download(
        "me/beetles", repo_type="dataset", cache_dir=tmp_path / "hub", local_files_only=True
    )
    found = read_folder(Path(cached))
    assert found.manifest.name == "beetles"
    assert found.manifest.histogram("train").tolist() == [1, 1, 1]
    assert resolve(cached).recipe == "beetles"


def test_two_splits_of_one_kind_are_refused(tmp_path):
    both = datasets.DatasetDict(train=part([0, 1]), val=part([0, 1], 5), validation=part([1, 0], 9))
    both.save_to_disk(str(tmp_path / "set"))
    with pytest.raises(DataError, match="'val' and 'validation' are both val; join them"):
        read_folder(tmp_path / "set")


def test_parquet_files_of_a_hub_set(tmp_path):
    (tmp_path / "set" / "data").mkdir(parents=True)
    part([0, 1]).to_parquet(str(tmp_path / "set/data/train-00000-of-00002.parquet"))
    part([1, 2], first=5).to_parquet(str(tmp_path / "set/data/train-00001-of-00002.parquet"))
    part([0], first=9).to_parquet(str(tmp_path / "set/data/validation-00000-of-00001.parquet"))
    found = read_folder(tmp_path / "set")
    assert found.manifest.classes == ("Käfer", "fox", "owl")
    assert found.manifest.histogram("train").tolist() == [2, 1, 1]
    assert found.manifest.histogram("val").tolist() == [0, 1, 0]
    last = found.files()[found.manifest.paths.index("train/00000003.png")]
    assert last.read_bytes() == png(6)


def test_a_table_beside_classes_changes_nothing(tmp_path):
    for name in NAMES[:2]:
        (tmp_path / "set" / name).mkdir(parents=True)
        (tmp_path / "set" / name / "a.png").write_bytes(png(0))
    part([0, 1]).to_parquet(str(tmp_path / "set/all.parquet"))
    assert not is_hugging_face(tmp_path / "set")
    assert read_folder(tmp_path / "set").manifest.paths == ("Käfer/a.png", "fox/a.png")
    (tmp_path / "table").mkdir()
    part([0, 1]).remove_columns("image").to_parquet(str(tmp_path / "table/all.parquet"))
    assert not is_hugging_face(tmp_path / "table")


def test_a_changed_set_is_written_out_anew_and_an_unchanged_one_is_not(tmp_path):
    part([0, 1]).save_to_disk(str(tmp_path / "set"))
    first = read_folder(tmp_path / "set")
    file = first.files()[0]
    file.write_bytes(b"kept")
    assert read_folder(tmp_path / "set").files()[0].read_bytes() == b"kept"
    part([0, 1, 2]).save_to_disk(str(tmp_path / "set"))
    again = read_folder(tmp_path / "set")
    assert len(again.manifest) == 3
    assert again.files()[0].read_bytes() == png(0)


def test_damaged_images_are_named_and_left_out(tmp_path):
    rows = part([0, 0, 1, 1]).to_dict()
    rows["image"][1]["bytes"], rows["image"][3] = b"no image", None
    broken = datasets.Dataset.from_dict(rows, part([0]).features)
    broken.save_to_disk(str(tmp_path / "set"))
    config = FolderData(name="folder", path=tmp_path / "set", image_size=9)
    with pytest.raises(DataError, match=r"2 of 4 images cannot be read") as told:
        prepare(config)
    assert "00000001.png" in str(told.value)
    left = prepare(config.model_copy(update={"on_bad_image": "skip"}))
    assert [path for path, _ in left.skipped] == ["train/00000001.png", "train/00000003.jpg"]


def test_what_cannot_be_read_is_told(tmp_path, monkeypatch):
    part([0, -1]).save_to_disk(str(tmp_path / "bare"))
    with pytest.raises(DataError, match="image 1 of train has no label"):
        read_folder(tmp_path / "bare")
    part([0, 1]).rename_column("image", "a").rename_column("label", "b").save_to_disk(
        str(tmp_path / "renamed")
    )
    assert len(read_folder(tmp_path / "renamed").manifest) == 2  # the only ones of their kinds
    part([0, 1]).remove_columns("label").save_to_disk(str(tmp_path / "unlabelled"))
    with pytest.raises(DataError, match=r"has no column of labels: image\. Rename one to label"):
        read_folder(tmp_path / "unlabelled")
    datasets.DatasetDict(extra=part([0, 1])).save_to_disk(str(tmp_path / "split"))
    with pytest.raises(DataError, match="split 'extra'; splits must be called train, val or test"):
        read_folder(tmp_path / "split")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged/state.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read by the library datasets"):
        read_folder(tmp_path / "damaged")
    monkeypatch.setenv("LONGTAIL_CACHE", "off")
    assert cache_folder() is None
    with pytest.raises(DataError, match="LONGTAIL_CACHE is off"):
        read_folder(tmp_path / "bare")


def test_without_the_library_one_sentence_says_what_to_install(tmp_path, monkeypatch):
    part([0, 1]).save_to_disk(str(tmp_path / "set"))
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(DataError, match=r"pip install 'longtail\[datasets\]'"):
        read_folder(tmp_path / "set")
