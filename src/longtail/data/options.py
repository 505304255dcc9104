"""The `data:` part of a recipe."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from longtail.config import Options, Place
from longtail.core.groups import GroupRule
from longtail.data.augmentation import POLICIES
from longtail.data.images.resize import Fit
from longtail.data.sources.file_set import OnBadImage, OnSimilarNames
from longtail.data.splits.long_tail import Kept, Profile


class LongTail(Options):
    """A long-tailed cut of the train split."""

    profile: Profile = Field(
        "exponential",
        description="shape of the class counts, from the most frequent class to the rarest",
    )
    imbalance_ratio: float = Field(
        100, ge=1, description="imbalance ratio: largest divided by smallest training count"
    )
    largest: int | None = Field(None, ge=1, description="number of images of the largest class")
    power: float = Field(6, gt=0, description="exponent of the Pareto profile")
    kept: Kept = Field(
        "published",
        description="which images of a class are kept: drawn as in the published subset, or the first in "
        "file order (released code of weight balancing)",
    )


class _Common(Options):
    """What every data set may be asked."""

    groups: GroupRule = Field("threshold", description="rule for many, medium and few shot")
    augmentation: str | None = Field(
        None, description=f"augmentation policy for training images: {', '.join(sorted(POLICIES))}"
    )
    validation_per_class: int | None = Field(
        None, ge=1, description="training images per class to hold out as val"
    )
    keep_in_train: int = Field(1, ge=1, description="images per class that always stay in train")
    split_seed: int = Field(
        0,
        ge=0,
        description="seed of splits that are drawn here; the training seed does not change them",
    )

    @field_validator("augmentation")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        if value is not None and value not in POLICIES:
            raise ValueError(f"must be one of {', '.join(sorted(POLICIES))}")
        return value


class CifarData(_Common):
    """CIFAR-10 or CIFAR-100, full or as a long-tailed cut."""

    name: Literal["cifar10", "cifar100"]
    root: Place | None = Field(
        None, description="folder of the archive; $LONGTAIL_DATA if not given"
    )
    download: bool = Field(True, description="whether torchvision may download the archive")
    long_tail: LongTail | None = None


class DigitsData(_Common):
    """scikit-learn's digits; needs no download."""

    name: Literal["digits"]
    long_tail: LongTail | None = None


class _Files(_Common):
    image_size: int | None = Field(
        None, ge=8, description="side in pixels; chosen automatically if not given"
    )
    fit: Fit = Field(
        "crop",
        description="for images that are not square: crop keeps the centre, pad keeps everything and adds a "
        "border, squash distorts",
    )
    bit_depth: int | None = Field(
        None,
        ge=8,
        le=16,
        description="bits in use, where more than 8 are stored (many cameras use 12); taken from the file if "
        "not given",
    )
    on_bad_image: OnBadImage = Field("error", description="error, or skip damaged files")
    cache: Place | None = Field(
        None, description="folder for decoded images, about 260 kB each; for large images"
    )


class _Collection(_Files):
    path: Place = Field(description="the folder, or the table")
    test_share: float = Field(
        0.2, gt=0, lt=1, description="share of each class for test, if there is no split"
    )
    validation_share: float = Field(
        0.1, gt=0, lt=1, description="share of each class for val; the rest is train"
    )
    on_similar_names: OnSimilarNames = Field(
        "error",
        description="what to do with classes whose names differ only in case or spaces: error, merge or keep",
    )
    keep_together: str | None = Field(
        None,
        description="which images stay in one split (a burst, an animal, a patient): a column of a table, or "
        "for a folder a regular expression for the common name in the path",
    )

    @model_validator(mode="after")
    def _leaves_train(self) -> Self:
        shares = self.test_share + (
            0 if self.validation_per_class is not None else self.validation_share
        )
        if shares > 1 - 1e-9:
            raise ValueError(
                f"test_share and validation_share are {shares:g} together, which leaves nothing for train"
            )
        return self


class FolderData(_Collection):
    """A folder of images, with or without split folders."""

    name: Literal["folder"]

    @field_validator("keep_together")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except re.error as error:
            raise ValueError(f"must be a regular expression: {error}") from None
        return value


class TableData(_Collection):
    """A CSV or Parquet table with path, label and optionally split."""

    name: Literal["table"]
    root: Place | None = Field(None, description="folder that relative paths refer to")


class ListData(_Files):
    """ImageNet-LT, Places-LT or iNaturalist 2018 by their published lists."""

    name: Literal["imagenet-lt", "places-lt", "inaturalist2018"]
    root: Place | None = Field(
        None, description="folder of the images; $LONGTAIL_DATA if not given"
    )
    lists: Place | None = Field(None, description="folder of the list files; root if not given")


class ImageNetData(_Files):
    """The whole, balanced ImageNet (ILSVRC 2012) in torchvision's folders; its val is the test split."""

    name: Literal["imagenet"]
    root: Place | None = Field(
        None, description="folder of train and val; $LONGTAIL_DATA if not given"
    )


ArrayData = CifarData | DigitsData  # all pixels come at once; of the others each image is a file
FileData = FolderData | TableData | ListData | ImageNetData
DataConfig = Annotated[ArrayData | FileData, Field(discriminator="name")]
