"""Print pip constraints that pin what a user installs to the lowest versions of pyproject.toml."""

import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
declared = [*project["dependencies"], *project["optional-dependencies"]["export"]]
for requirement in declared:
    name, lowest = requirement.split(">=")
    print(f"{name}=={lowest}")
