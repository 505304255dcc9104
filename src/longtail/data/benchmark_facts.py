"""Facts about the benchmarks, to check a copy against."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from longtail.core.counts import ClassCounts
from longtail.core.groups import ShotGroups
from longtail.data.sources.benchmark_lists import LIST_FILES, list_entries
from longtail.data.sources.cifar import LAYOUTS, read_cifar
from longtail.data.sources.imagenet import FOLDERS, read_imagenet
from longtail.data.splits.long_tail import profile_counts, published_ranks

# SHA-256 of the ranks that the published cut keeps, as little-endian int64, by (classes, ratio)
RANKS_SHA256 = {
    (10, 100): "8a54f5b6fa9722952358bc99897aa969bc20f845d0b15034e5013337df1e4ec7",
    (10, 50): "7bb90363b243a944125b22035862d78afbc280cb2c0f509019ffc6960fd0f523",
    (10, 10): "2b3a8656bec514c6c87236694978bc8a90f04fa51b4ed2009d2f8f336a614242",
    (100, 100): "f123ec136d44ab1b224fe55bb8a73ab03432d25a81975af68f26fb6777d5aca8",
    (100, 50): "1bc82de2629e5cbd51d6ea8f1d70cf7986616bfecb4a8606a427fbcc1dd50c16",
    (100, 10): "5906ba7310b91b5ee5a4e0b172d27f9370929d8acacd8026f44e160daa1f4834",
}
CIFAR_MD5 = {
    "cifar10": ("data_batch_1", "c99cafc152244af753f735de768cd75f"),
    "cifar100": ("train", "16019d7e3df5f24257cddd939b257f8d"),
}


@dataclass(frozen=True)
class ListFacts:
    """What is known of one published list.

    Attributes:
        images: Lines of the list.
        classes: Number of classes.
        most: Largest class.
        least: Smallest class.
        sha256: Of the text of the list, where we had it to compute.
    """

    images: int
    classes: int
    most: int
    least: int
    sha256: str | None = None


LIST_FACTS = {
    "ImageNet_LT_train.txt": ListFacts(115_846, 1000, 1280, 5),
    "ImageNet_LT_val.txt": ListFacts(
        20_000, 1000, 20, 20, "9af7ba688acf9532ff5845a8fb14a1e97fdc4c51ac48bc72c08ea9c3f7ff142e"
    ),
    "ImageNet_LT_test.txt": ListFacts(
        50_000, 1000, 50, 50, "d1590191cf8a71fada7b1aaedaa2d139a2aea93ff2f1b755319d0bd8dbaa55d5"
    ),
    "Places_LT_train.txt": ListFacts(
        62_500, 365, 4980, 5, "726c4871dcbf07ce2f857703bfe32e9a83ffbf52d704239f6d95c4f4f4c247f7"
    ),
    "Places_LT_val.txt": ListFacts(
        7_300, 365, 20, 20, "719e3cf3766c09134ea28f56f1036c78def511ac1ed2c2532a6beef78f2439ba"
    ),
    "Places_LT_test.txt": ListFacts(
        36_500, 365, 100, 100, "44eee8441c8098c59195465abede425721bc35525d75209f9433b161a6eb37bc"
    ),
    "iNaturalist18_train.txt": ListFacts(437_513, 8142, 1000, 2),
    "iNaturalist18_val.txt": ListFacts(
        24_426, 8142, 3, 3, "efaeff65f80641b60864470e6f255aa69453406ef5717eec8c6681748f3a61f3"
    ),
}

# images, and smallest and largest class (Russakovsky et al., IJCV 2015, table 2)
IMAGENET_SIZES = {"train": (1_281_167, "732..1300"), "test": (50_000, "50..50")}


@dataclass(frozen=True)
class Check:
    """One line of a verification.

    Attributes:
        what: What was compared.
        found: What is there.
        expected: What should be there.
        passed: Whether they agree; None for a note that is no failure.
    """

    what: str
    found: str
    expected: str
    passed: bool | None


def verify_cifar(name: str, root: Path) -> list[Check]:
    """Compare a copy of CIFAR with what is published: sizes, balance, and the long-tailed cuts."""
    data = read_cifar(name, root, download=False)
    num_classes = LAYOUTS[name].num_classes
    full = 50_000 // num_classes
    train, test = data.manifest.histogram("train"), data.manifest.histogram("test")
    checks = [
        _compare("classes", len(data.manifest.classes), num_classes),
        _compare("training images of each class", _range(train), _range(np.array([full]))),
        _compare("test images of each class", _range(test), _range(np.array([full // 5]))),
    ]
    file, expected = CIFAR_MD5[name]
    content = (root / LAYOUTS[name].folder / file).read_bytes()
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    same = found == expected
    checks.append(Check(f"bytes of {file} (MD5)", found, expected, True if same else None))
    for ratio in (100, 50, 10):
        counts = profile_counts("exponential", num_classes, full, ratio)
        kept = np.concatenate(published_ranks(counts, train)).astype("<i8")
        digest = hashlib.sha256(kept.tobytes()).hexdigest()
        checks.append(
            _compare(f"ranks of the cut at ratio {ratio}", digest, RANKS_SHA256[num_classes, ratio])
        )
    return checks


def verify_lists(name: str, folder: Path) -> list[Check]:
    """Compare the published lists of a large benchmark with what is known of them.

    Lists that are not there are reported as a failure each; the images are not opened.
    """
    checks = []
    for split, file in LIST_FILES[name].items():
        path = next((p for p in (folder / file, folder / f"{file}.gz") if p.exists()), None)
        if path is None:
            checks.append(Check(f"{split} list", "missing", str(folder / file), False))
            continue
        facts = LIST_FACTS[file]
        entries = list_entries(path)
        counts = np.bincount([label for _, label in entries])
        checks += [
            _compare(f"{file}: images", len(entries), facts.images),
            _compare(f"{file}: classes", int((counts > 0).sum()), facts.classes),
            _compare(f"{file}: class sizes", _range(counts), f"{facts.least}..{facts.most}"),
        ]
        if facts.sha256:
            text = "".join(f"{path} {label}\n" for path, label in entries)
            digest = hashlib.sha256(text.encode()).hexdigest()
            checks.append(_compare(f"{file}: SHA-256", digest, facts.sha256))
        if split == "train":
            groups = ShotGroups.from_counts(ClassCounts(counts))
            checks.append(Check(f"{file}: groups", groups.describe(), "", None))
    return checks


def verify_imagenet(folder: Path) -> list[Check]:
    """Compare the folders of the whole ImageNet with its published sizes; the images are not opened."""
    manifest = read_imagenet(folder).manifest
    checks = [_compare("classes", len(manifest.classes), 1000)]
    for split, (images, sizes) in IMAGENET_SIZES.items():
        counts = manifest.histogram(split)
        checks += [
            _compare(f"{FOLDERS[split]}: images", int(counts.sum()), images),
            _compare(f"{FOLDERS[split]}: class sizes", _range(counts), sizes),
        ]
    return checks


def _compare(what: str, found: object, expected: object) -> Check:
    return Check(what, str(found), str(expected), found == expected)


def _range(counts: NDArray[np.int64]) -> str:
    least, most = int(counts.min()), int(counts.max())
    return f"{least}..{most}"
