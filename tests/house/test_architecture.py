"""The shape of the code: who may import whom, sizes, no state, nothing written twice."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import longtail

PACKAGE = Path(longtail.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
# imports point down; rooms of one row do not import each other. A file that a row names is a room of its own.
ROWS = [["core"], ["config"], ["data"], ["models"],
        ["losses", "adjust", "ensembles", "uncertainty"], ["methods", "frozen"],
        ["engine"], ["evaluation", "prediction"],
        ["ensembles.sub_models_of_run", "ensembles.combined_model", "ensembles.recommendation"],
        ["recipes"], ["runs"],
        ["report", "export", "adjust.tool", "ensembles.several_runs"],
        ["reproduce", "serve", "run_queue"], ["api"], ["cli"]]  # fmt: skip
LEVEL = {name: level for level, row in enumerate(ROWS) for name in row}
CORE_MAY_IMPORT = {"torch", "numpy"}


def room_of(module):
    """Return the room of `a.b.c` below the package: the longest name in the rows that it begins with."""
    parts = module.split(".")
    names = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
    return next((name for name in names if name in LEVEL), parts[0])


def imported(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "longtail":
            yield from (f"longtail.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_imports_point_down(file):
    own = room_of(".".join(file.relative_to(PACKAGE).with_suffix("").parts))
    if own in ("__init__", "__main__"):
        return
    for module in imported(file):
        if not module.startswith("longtail."):
            continue
        other = room_of(module.removeprefix("longtail."))
        assert other in LEVEL, f"{module} has no place in the order"
        fine = other == own or LEVEL[other] < LEVEL[own]
        assert fine, f"{file.name} imports {module}: {own} may only import from below"


def test_the_rooms_of_data_import_down():
    rooms = [
        "augmentation",
        "images",
        "near_duplicates",
        "data_set",
        "sources",
        "splits",
        "sampling",
    ]
    for level, room in enumerate(rooms):
        files = [*(PACKAGE / "data").glob(f"{room}.py"), *(PACKAGE / "data" / room).glob("*.py")]
        assert files, room
        for file in files:
            for module in imported(file):
                if module.startswith("longtail.data."):
                    assert module.split(".")[2] in rooms[: level + 1], f"{file} imports {module}"


def test_every_package_says_what_lives_there_and_what_does_not():
    for file in PACKAGE.rglob("__init__.py"):
        if file.parent not in (
            PACKAGE,
            *(PACKAGE / "methods").iterdir(),
        ):  # one method in several files
            first = ast.get_docstring(ast.parse(file.read_text())).split("\n\n")[0]
            said = set(first.replace(";", " ").replace(".", " ").lower().split())
            assert said & {"no", "not", "nothing", "without", "elsewhere"}, file


def test_losses_know_core_only():
    for file in (PACKAGE / "losses").rglob("*.py"):
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


def test_the_public_surface_only_hands_names_on():
    assert (PACKAGE / "api.py").read_text().count("\n") < 120
    for file in FILES:
        for module in imported(file):
            assert module != "longtail.api" or file == PACKAGE / "__init__.py", file


def test_public_names():
    assert longtail.__all__ == [
        "ClassCounts", "Features", "LongTailClassifier", "LongtailError", "Manifest", "MethodComparison",
        "PredictOptions", "Predictions", "Protocol", "Run", "ShotGroups", "__version__", "adjust_run",
        "compare", "compare_runs", "ensemble", "evaluate", "features", "load", "predict", "train",
        "write_report",
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
    verbs = "; ".join(
        f"import longtail.cli.{file.stem}" for file in (PACKAGE / "cli").glob("[a-z]*.py")
    )
    told = f"import sys; {verbs}; print([m for m in {slow} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
