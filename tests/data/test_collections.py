"""Folders of images as people have them: nothing is left out in silence, nothing is counted twice."""

import errno
import os
import shutil
import tempfile
import unicodedata

import numpy as np
import pytest
from PIL import Image

from longtail.core.errors import DataError
from longtail.core.names import printable, same_to_people, shown
from longtail.data.images.below import located
from longtail.data.images.decode import IMAGE_SUFFIXES
from longtail.data.images.file_checks import check_images
from longtail.data.inspection import inspect_prepared
from longtail.data.options import FolderData
from longtail.data.preparation import prepare
from longtail.data.source_to_batch import open_data
from longtail.data.sources.folder import read_folder
from longtail.data.sources.folder_contents import Reason, describe_left_out, list_images

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "Käfer") for form in ("NFC", "NFD"))


def image(path, seed=None):
    """Write an image of 8 pixels that no other seed gives."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = list(os.fsencode(path)) if seed is None else seed
    pixels = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, "PNG")
    return path


def collection(root, **sizes):
    for name, size in sizes.items():
        for number in range(size):
            image(root / name / f"{number:02d}.png")
    return root


def counts(root):
    manifest = read_folder(root).manifest
    return dict(zip(manifest.classes, manifest.histogram("train").tolist(), strict=True))


def left(root):
    found = read_folder(root)
    return {(e.path.relative_to(root).as_posix(), e.reason) for e in found.left_out}


@pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES))
def test_every_ending_of_a_format_that_is_read_is_listed(tmp_path, suffix):
    root = collection(tmp_path, fox=1, owl=1)
    (root / "owl" / "00.png").rename(root / "owl" / f"00{suffix.upper()}")
    assert counts(root) == {"fox": 1, "owl": 1}


def test_endings_that_are_not_read_are_counted_and_named(tmp_path):
    root = collection(tmp_path, fox=2, owl=2)
    for name in ("1.heic", "2.HEIC", "1.tga"):
        (root / "owl" / name).touch()
    for name in ("notes.txt", "noending", "a.csv"):
        (root / "fox" / name).touch()
    formats, unknown = read_folder(root).describe()
    assert formats == (
        "Images in unsupported formats (convert them to JPEG or PNG) were left out: 3 (2 .heic, "
        "1 .tga): owl/1.heic, owl/1.tga, owl/2.HEIC."
    )
    assert "were left out: 3 (" in unknown
    assert all(part in unknown for part in ("1 .txt", "1 .csv", "1 no ending", "fox/a.csv"))
    # what is said before a training is what inspection says
    config = FolderData(name="folder", path=root)
    found = inspect_prepared(prepare(config)).warnings()
    assert {formats, unknown} <= set(found)
    assert {formats, unknown} <= set(open_data(config).notes)


def test_folders_of_other_programs_are_no_classes(tmp_path):
    root = collection(tmp_path, fox=3, owl=2)
    for place in ("@eaDir/a.png", "fox/@eaDir/00.png/SYNOPHOTO_THUMB_XL.png", "__MACOSX/fox/._00.png",
                  "lost+found/x.png", "$RECYCLE.BIN/x.png", ".ipynb_checkpoints/00.png",
                  "owl/.thumbnails/00.png", "owl/Thumbs.db", "fox/.00.png.swp"):  # fmt: skip
        image(root / place)
    assert counts(root) == {"fox": 3, "owl": 2}
    assert left(root) == {
        *((name, Reason.SYSTEM) for name in
          ("@eaDir", "fox/@eaDir", "__MACOSX", "lost+found", "$RECYCLE.BIN", "owl/Thumbs.db")),
        *((name, Reason.HIDDEN) for name in
          (".ipynb_checkpoints", "owl/.thumbnails", "fox/.00.png.swp")),
    }  # fmt: skip


def test_a_class_folder_without_an_image_is_named(tmp_path):
    root = collection(tmp_path, fox=2, owl=2)
    (root / "empty").mkdir()
    assert left(root) == {("empty", Reason.EMPTY)}
    assert "Class folders without images were left out: 1: empty." in read_folder(root).describe()


def test_links_are_followed_and_each_file_counts_once(tmp_path):
    root, archive = collection(tmp_path / "pics", fox=2, owl=1), tmp_path / "archive"
    collection(archive, old=3, older=2)
    (root / "owl" / "2021").symlink_to(archive / "old")
    (root / "owl" / "again").symlink_to(archive / "old")
    (root / "owl" / "loop").symlink_to(root / "owl")
    (root / "owl" / "self").symlink_to("self")
    (root / "fox" / "one.png").symlink_to(archive / "older" / "00.png")
    (root / "fox" / "copy.png").symlink_to(root / "fox" / "00.png")
    (archive / "old" / "back").symlink_to(archive / "old")
    assert counts(root) == {"fox": 3, "owl": 1 + 3}
    again = {path for path, reason in left(root) if reason == Reason.AGAIN}
    assert {"owl/again", "owl/loop", "fox/copy.png"} <= again
    assert ("owl/self", Reason.BROKEN) in left(root)


def test_a_farm_of_links_ends(tmp_path):
    root = collection(tmp_path / "pics", fox=1, owl=1)
    folders = [root / "fox" / f"{n}" for n in range(12)]
    for folder in folders:
        folder.mkdir()
    for folder in folders:
        for other in folders:
            (folder / f"to-{other.name}").symlink_to(other)  # 12! ways through it
    assert counts(root) == {"fox": 1, "owl": 1}


def test_a_file_in_two_classes_by_a_link_is_refused(tmp_path):
    root = collection(tmp_path, fox=2, owl=2)
    (root / "owl" / "link.png").symlink_to(root / "fox" / "00.png")
    with pytest.raises(
        DataError, match=r"fox/00.png and .*owl/link.png are the same file, through a link"
    ):
        read_folder(root)
    assert len(read_folder(root, kept=True).manifest) == 5  # a run was trained so
    for split in ("train", "test"):
        shutil.copytree(root / "fox", root / split / "fox")
        shutil.copytree(root / "fox", root / split / "cow")
        image(root / split / "cow" / "new.png")
    (root / "test" / "fox" / "00.png").unlink()
    (root / "test" / "fox" / "00.png").symlink_to(root / "train" / "fox" / "00.png")
    with pytest.raises(DataError, match="are the same file, through a link"):
        read_folder(root)


def test_pipes_and_devices_are_never_opened(tmp_path):
    root = collection(tmp_path, fox=2, owl=2)
    os.mkfifo(root / "owl" / "z.jpg")
    (root / "owl" / "zero.png").symlink_to("/dev/zero")
    assert {("owl/z.jpg", Reason.SPECIAL), ("owl/zero.png", Reason.SPECIAL)} == left(root)
    reasons = [c.reason for c in check_images([root / "owl" / "z.jpg", root / "owl" / "zero.png"])]
    assert all("pipe" in reason or "device" in reason for reason in reasons)


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path, monkeypatch):
    root = collection(tmp_path, fox=2, owl=2)
    closed, scandir = {str(root / "owl")}, os.scandir

    def guarded(path):
        if str(path) in closed:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr("os.scandir", guarded)
    with pytest.raises(
        DataError, match=r"cannot be read: .*owl \(Permission denied\). Change their permissions"
    ):
        read_folder(root)
    closed.add(str(root))
    with pytest.raises(DataError, match="Permission denied"):
        read_folder(root)
    # one that would not be read anyway is none
    closed.clear()
    closed.add(str(root / "lost+found"))
    (root / "lost+found").mkdir()
    assert counts(root) == {"fox": 2, "owl": 2}


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can be another"
)
def test_another_users_folder_is_an_error(tmp_path):
    root = collection(tmp_path, fox=2, owl=2)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.is_relative_to(tempfile.gettempdir()) and folder.stat().st_mode & 0o005 != 0o005:
            folder.chmod(0o755)  # the other user gets as far as the collection
    (root / "owl").chmod(0o700)
    os.seteuid(65534)
    try:
        with pytest.raises(DataError, match=r"owl \(Permission denied\)"):
            read_folder(root)
    finally:
        os.seteuid(0)


@pytest.mark.parametrize(
    ("train", "test"),
    [("seg_train", "seg_test"), ("train-images", "test-images"), ("Train2017", "val2017"),
     ("my training set", "my test set")],
)  # fmt: skip
def test_names_that_mean_splits(tmp_path, train, test):
    root = tmp_path / "set"
    for name, size in ((train, 4), (test, 2)):
        collection(root / name, fox=size, owl=size)
    found = read_folder(root)
    assert found.manifest.classes == ("fox", "owl")
    assert found.manifest.histogram("train").tolist() == [4, 4]
    assert len(found.manifest) == 12
    assert any(f"{train} as train" in note for note in found.notes)


def test_names_that_may_mean_splits_are_refused(tmp_path):
    root = tmp_path / "set"
    for name in ("seg_train", "seg_test"):
        collection(root / name / name, fox=1, owl=1)  # as archives unpack
    with pytest.raises(DataError, match="named like splits, but seg_test has no class folder"):
        read_folder(root)
    flat = collection(tmp_path / "flat" / "train_images", fox=1, owl=1).parent
    image(flat / "test_images" / "0.png")  # without labels
    with pytest.raises(DataError, match="named like splits, but test_images has no class folder"):
        read_folder(flat)
    # classes that only sound like it
    assert counts(collection(tmp_path / "c", train_station=2, test_tube=1)) == {
        "test_tube": 1,
        "train_station": 2,
    }


def test_composed_and_decomposed_names_are_one_class(tmp_path):
    root = tmp_path / "set"
    for split, name in (("train", COMPOSED), ("test", DECOMPOSED)):
        collection(root / split, **{name: 3, "fox": 2})
    found = read_folder(root)
    assert found.manifest.classes == (COMPOSED, "fox")
    assert found.manifest.histogram("test").tolist() == [3, 2]
    assert f"count as one class: {COMPOSED}." in " ".join(found.notes)
    # a model that was trained with the other form knows the class
    other = found.manifest.restricted_to(("fox", DECOMPOSED))
    assert other.histogram("test").tolist() == [2, 3]


def test_names_that_differ_in_capitals_are_refused_or_merged_if_asked(tmp_path):
    root = collection(tmp_path, Lynx=1, lynx=3, fox=2)
    with pytest.raises(DataError, match=r"'Lynx' \(1\) and 'lynx' \(3\).*on_similar_names=merge"):
        read_folder(root)
    merged = read_folder(root, similar_names="merge")
    assert merged.manifest.classes == ("fox", "lynx")
    assert merged.manifest.histogram("train").tolist() == [2, 4]
    assert read_folder(root, similar_names="keep").manifest.classes == ("Lynx", "fox", "lynx")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [("red fox", "red_fox", True), ("red  fox", "Red fox", True), ("1", "1.0", True),
     ("fox", "fox\u200b", True), ("a", "b", False), ("Masse", "Maße", False), ("10", "010", False),
     ("-1", "1", False), ("x²", "x2", False)],
)  # fmt: skip
def test_what_is_the_same_to_people(one, other, same):
    assert (same_to_people(one) == same_to_people(other)) is same


def test_names_that_cannot_be_seen_are_refused(tmp_path):
    root = collection(tmp_path, **{"fox\x1b[31m": 1, "owl": 1})
    with pytest.raises(DataError, match=r"'fox\\x1b\[31m' cannot be a class name"):
        read_folder(root)


def test_names_that_are_not_utf8(tmp_path):
    root = collection(tmp_path / "set", fox=2, owl=2)
    raw = os.fsencode(root / "fox") + b"/gr\xfcn.png"
    (root / "fox" / "00.png").rename(os.fsdecode(raw))
    found = read_folder(root)
    assert found.manifest.paths[1] == "fox/gr\\xfcn.png"
    assert os.fsencode(found.files()[1]) == raw
    assert not [c.reason for c in check_images(found.files()) if c.reason]
    assert check_images(found.files()) == check_images(found.files())  # remembered
    found.manifest.checksum()
    assert located(root, "fox/gr\\xfcn.png").is_file()
    # a name that holds these letters is itself
    image(root / "fox" / "a\\xfc.png")
    assert located(root, "fox/a\\xfc.png") == root / "fox" / "a\\xfc.png"


def test_names_in_messages():
    assert printable("gr\udcfcn") == "gr\\xfcn"
    assert shown("a\nb\x1b[31m\u202e") == "a\\nb\\x1b[31m\\u202e"
    assert len(shown("a" * 1000)) == 120
    assert describe_left_out([]) == ()


def test_without_a_home_directory(tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(
        "os.path.expanduser", lambda path: path
    )  # as without HOME and an entry of the user
    root = collection(tmp_path, fox=2, owl=2)
    assert len(check_images(read_folder(root).files())) == 4
    with pytest.raises(ValueError, match="home directory is unknown; write the full path"):
        FolderData(name="folder", path="~/images")


def test_listing_a_folder_of_new_images(tmp_path):
    root = collection(tmp_path, new=3)
    image(root / "new" / "y.jfif")
    (root / "new" / "list.txt").touch()
    found = list_images(root)
    assert [path.name for path in found.images] == ["00.png", "01.png", "02.png", "y.jfif"]
    assert [path.name for path in found.folders] == ["new"]
    assert [(e.path.name, e.reason) for e in found.left_out] == [("list.txt", Reason.UNKNOWN)]


def test_an_empty_class_folder_of_one_split_is_named(tmp_path):
    for split in ("train", "val"):
        collection(tmp_path / split, fox=2, owl=2)
    for name in ("fox", "owl"):
        (tmp_path / "test" / name).mkdir(parents=True)
    assert left(tmp_path) == {("test/fox", Reason.EMPTY), ("test/owl", Reason.EMPTY)}


def test_classes_that_may_lie_one_folder_deeper_are_told(tmp_path):
    for place in ("fold1", "fold2"):
        collection(tmp_path / "folds" / place, fox=2, owl=2)
    (note,) = read_folder(tmp_path / "folds").notes
    assert note.startswith(
        "The classes are fold1, fold2, and each contains the same folders (fox, owl)"
    )
    image(tmp_path / "folds" / "fold1" / "beside.png")
    assert read_folder(tmp_path / "folds").notes == ()
    collection(tmp_path / "again" / "again", fox=2, owl=2)  # as archives unpack
    with pytest.raises(
        DataError, match=r"only one class.* If its folders 'fox', 'owl' are the classes, name"
    ):
        read_folder(tmp_path / "again")


def test_a_folder_one_level_too_high_or_too_deep_is_answered_with_the_one_that_was_meant(tmp_path):
    collection(tmp_path / "shop", bottle=3, can=3, cup=3)
    image(tmp_path / "inbox" / "new.png")
    (note,) = read_folder(tmp_path).notes  # a class may have folders below it
    assert "only shop contains folders of images (bottle, can, cup)" in note
    (tmp_path / "runs" / "first").mkdir(parents=True)
    (tmp_path / "runs" / "first" / "config.yaml").touch()
    with pytest.raises(DataError, match=r"shop in .* itself .*\. Did you mean .*shop\?"):
        read_folder(tmp_path)
    with pytest.raises(
        DataError, match=r"^3 images lie directly in .*can, .*Did you mean .*shop\?"
    ):
        read_folder(tmp_path / "shop" / "can")
    with pytest.raises(DataError, match=r"^1 image lies directly in .*Expected .*inbox/CLASS"):
        read_folder(tmp_path / "inbox")
    image(tmp_path / "outbox" / "new.png")  # folders of images beside runs are no classes
    with pytest.raises(DataError, match=r"^1 image lies directly in .*Expected .*inbox/CLASS"):
        read_folder(tmp_path / "inbox")
    run = tmp_path / "runs" / "first"
    (run / "checkpoints").mkdir()
    with pytest.raises(DataError, match="is a run folder, not a folder of images"):
        read_folder(run)


def test_a_class_that_has_split_folders_is_the_collection(tmp_path):
    for split in ("train", "test"):
        collection(tmp_path / "set" / split, fox=2, owl=2)
    image(tmp_path / "docs" / "figure.png")
    with pytest.raises(DataError, match=r"Did you mean .*set\?"):
        read_folder(tmp_path)


def test_classes_of_classes_as_in_inaturalist_are_read_without_a_word(tmp_path):
    collection(tmp_path / "Plantae", rosa=2, tulipa=2, acer=1)
    collection(tmp_path / "Aves", corvus=2, pica=1)
    collection(tmp_path / "Fungi", amanita=1)
    found = read_folder(tmp_path)
    assert (found.manifest.classes, found.notes) == (("Aves", "Fungi", "Plantae"), ())
