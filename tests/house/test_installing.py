"""The page about installing names what `pyproject.toml` declares."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_extra_is_named_with_what_it_installs():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    page = (ROOT / "docs" / "installing.md").read_text()
    named = dict(re.findall(r"^\| `(\w+)` \| .* \| (.*) \|$", page, re.MULTILINE))
    assert named.keys() == declared.keys()
    for extra, packages in declared.items():
        if extra != "test":
            assert named[extra].split(", ") == [re.split("[><=]", name)[0] for name in packages]
