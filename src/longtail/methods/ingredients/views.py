"""Names of the views that a method asks for."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

from longtail.data.augmentation import find_policy

DEFAULT = "default"  # the data set's own policy


def _known(name: str) -> str:
    if name != DEFAULT:
        find_policy(name)
    return name


# an augmentation policy, or `default`; unknown names are refused with the nearest known one
ViewName = Annotated[str, AfterValidator(_known)]
