"""Names of a package that are imported when they are first asked for: PyTorch takes seconds to import."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def names_from(
    package: str, homes: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the `__getattr__` and `__dir__` (PEP 562) of a package: `dir` shows what its `__all__` names.

    Args:
        package: Its `__name__`.
        homes: Names, separated by spaces, for each module of it.

    Raises:
        AttributeError: When a name is asked for that no module gives.
    """
    home = {name: module for module, names in homes.items() for name in names.split()}

    def find(name: str) -> Any:  # noqa: ANN401 - any name of the package
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        found = getattr(importlib.import_module(f"{package}.{home[name]}"), name)
        setattr(sys.modules[package], name, found)
        return found

    return find, lambda: sorted(vars(sys.modules[package])["__all__"])
