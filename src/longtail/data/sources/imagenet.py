"""Reader of the whole ImageNet (ILSVRC 2012), in the folders that torchvision leaves behind."""

from __future__ import annotations

from pathlib import Path

from longtail.core.errors import DataError
from longtail.core.names import printable, shown
from longtail.core.words import counted
from longtail.data.sources.file_set import FileSet, Row, file_set
from longtail.data.sources.folder_contents import list_images

# the official validation images are labelled and those of test are not, so val is the test split
FOLDERS = {"train": "train", "test": "val"}


def read_imagenet(root: Path) -> FileSet:
    """Read `root/train/WNID/...` as train and `root/val/WNID/...` as test.

    Classes are called by their WordNet number, n01440764 and so on, which sorts them as everywhere. What else
    lies in the folder (the unlabelled test images, say) is not looked at.

    Args:
        root: Folder of train and val.

    Raises:
        DataError: If one of them is missing or cannot be read, its images do not lie in folders of classes,
            or their classes are not the same.
    """
    rows: list[Row] = []
    classes: dict[str, set[str]] = {}
    for split, name in FOLDERS.items():
        folder = root / name
        if not folder.is_dir():
            raise DataError(
                f"imagenet needs the folders train and val in {shown(str(root))}, but there is no {name}. "
                "Set the folder that contains both with data.root=DIR."
            )
        listed = list_images(folder)
        inside = [path.relative_to(folder) for path in listed.images]
        loose = [path for path in inside if len(path.parts) == 1]
        if loose or not inside:
            found = (
                f"{counted(len(loose), 'image', 'images')} outside class folders"
                if loose
                else "no image"
            )
            raise DataError(
                f"{shown(str(folder))} contains {found}; imagenet needs one folder per class, "
                f"{name}/n01440764/*.JPEG and so on. torchvision.datasets.ImageNet sorts the archives into "
                "such folders."
            )
        classes[name] = {printable(path.parts[0]) for path in inside}
        rows += [
            (printable((name / path).as_posix()), printable(path.parts[0]), split)
            for path in inside
        ]
    if only := sorted(classes["train"] ^ classes["val"]):
        where = "train" if only[0] in classes["train"] else "val"
        raise DataError(
            f"{shown(str(root))}: train has {counted(len(classes['train']), 'class', 'classes')} and "
            f"val {len(classes['val'])}; {shown(only[0])} is only in {where}. Unpack both archives "
            "again."
        )
    return file_set(root, "imagenet", rows)
