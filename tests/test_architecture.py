"""The shape of the code: who may import whom, sizes, no state, nothing written twice."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import longtail

PACKAGE = Path(longtail.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
# imports point down; folders of one row do not import each other
ROWS = [["core"], ["data"], ["models"], ["losses", "adjust"], ["methods"], ["engine"], ["evaluation"],
        ["recipes"], ["runs"], ["api"], ["report", "export", "repair", "reproduce", "joining"],
        ["cli"]]  # fmt: skip
LEVEL = {name: level for level, row in enumerate(ROWS) for name in row}
CORE_MAY_IMPORT = {"torch", "numpy"}


def folder_of(file):
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return parts[0]


def imported(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_imports_point_down(file):
    own = folder_of(file)
    if own in ("__init__", "__main__"):
        return
    for module in imported(file):
        if not module.startswith("longtail."):
            continue
        other = module.split(".")[1]
        assert other in LEVEL, f"{module} has no place in the order"
        fine = other == own or LEVEL[other] < LEVEL[own]
        assert fine, f"{file.name} imports {module}: {own} may only import from below"


def test_losses_know_core_only():
    for file in (PACKAGE / "losses").glob("*.py"):
        for module in imported(file):
            if module.startswith("longtail."):
                assert module.split(".")[1] in ("core", "losses"), f"{file.name} imports {module}"


def test_core_imports_torch_numpy_and_the_standard_library_only():
    for file in (PACKAGE / "core").glob("*.py"):
        for module in imported(file):
            top = module.split(".")[0]
            assert top in CORE_MAY_IMPORT | {"longtail"} or top in sys.stdlib_module_names, module


def test_the_engine_knows_no_method_by_name():
    for file in (PACKAGE / "engine").glob("*.py"):
        for module in imported(file):
            assert not module.startswith("longtail.methods.") or module == "longtail.methods.method"


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_sizes(file):
    text = file.read_text()
    assert text.count("\n") <= 450
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno < 80, f"{file.name}: {node.name}"
            positional = [*node.args.posonlyargs, *node.args.args]
            assert len(positional) <= 8, f"{file.name}: {node.name}"


def test_no_devices_by_decree_and_no_global_seeds():
    for file in FILES:
        text = file.read_text()
        assert ".cuda()" not in text, file
        for call in ("np.random.seed", "random.seed("):
            assert call not in text, file
        if file.name != "optimisation.py":  # `seeded` puts the generators back
            assert "torch.manual_seed" not in text, file


def test_no_grab_bags():
    assert not {"utils", "common", "helpers", "misc"} & {p.stem for p in PACKAGE.rglob("*")}


def test_public_names():
    assert longtail.__all__ == [
        "ClassCounts", "LongtailError", "Manifest", "Predictions", "Protocol", "Question", "Run",
        "ShotGroups", "__version__", "evaluate", "load", "train",
    ]  # fmt: skip


def test_a_command_starts_without_libraries_that_take_seconds_to_import():
    slow = (
        "matplotlib",
        "scipy.optimize",
        "scipy.stats",
        "sklearn",
        "timm",
        "torch._dynamo",
        "torchvision",
    )
    told = f"import sys, longtail.cli; print([m for m in {slow} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
