"""Lists of what ships: without PyTorch, for people, for grep and for programs."""

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import asdict

import pytest

from longtail.cli import sketches
from longtail.cli.lists import complete_override
from longtail.cli.recipes import complete_recipe
from longtail.cli.sketches import completed
from longtail.cli.verbs import written_sketches
from longtail.methods import METHODS
from longtail.recipes import describe, recipe_names, resolve
from longtail.recipes.catalogue import DESCRIBED, FILE, catalogue, read_described
from longtail.recipes.described import written_descriptions
from longtail.recipes.explain import options_of_runs, written_catalogue
from longtail.recipes.systems import SYSTEMS, recipes_by_name, system_named
from tests.cli.test_verbs import SHORT

WITHOUT_TORCH = """
import sys
for slow in ("torch", "numpy", "pandas"):
    sys.modules[slow] = None  # importing it fails
sys.argv[0] = "longtail"
from longtail.__main__ import main
main()
"""


@pytest.mark.parametrize(
    ("words", "expected", "status"),
    [
        (["recipes"], "cifar100-lt/ldam-drw", 0),
        (["recipes", "cifar100-lt", "--json"], '"cifar100-lt/do"', 0),
        (["methods", "DO"], "Cite: ", 0),
        (["options", "rate"], "training.learning_rate", 0),
        (["methods", "mislaz"], "Did you mean mislas?", 2),
        (["methods", "rid"], "Did you mean RIDE?", 2),
        (["methods", "KCL"], "KCL is the method tsc with the options of these recipes: ", 0),
        (["recipes", "SHIKE"], "cifar100-lt/shike", 0),
        (["recipes", "BSCE"], "cifar100-lt/balanced-softmax", 0),
        (["recipes", "cifar100-lt/reslt"], "values are assumptions", 0),
        (["recipes", "cifar100-lt/reslt", "--json"], '"set_by": "cifar100-lt/_base"', 0),
        (["options", "wd"], "training.weight_decay", 0),
        (["options", "device"], "--device cuda", 2),
        (["train", "my-imges"], "no recipe, folder or table 'my-imges'", 2),
        (["predict", "runs/none", "image.png"], "runs/none is not a run folder", 2),
        (["predict", ".", "imges"], "imges does not exist.", 2),
        (["data", "inspect", "imges"], "no folder or table imges", 2),
        (["adjust", "runs/none"], "no run folder, table or checkpoint runs/none", 2),
        (["evaluate", ".", "--data", "imges"], "no folder or table imges", 2),
        (["train", "--help"], "Train on your own images or by a recipe", 0),
        (["data", "inspect", "--help"], "longtail data inspect", 0),
    ],
)
def test_lists_need_no_torch(words, expected, status):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *words],
        env=dict(os.environ), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    assert expected in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("adjust runs/a --by ", ["tau", "auto"]),
        ("export runs/a --format o", ["onnx"]),
        ("evaluate runs/a --split te", ["test"]),
        ("train cifar100-lt/res", ["cifar100-lt/reslt"]),
        ("train cifar100-lt/reslt learning_r", ["learning_rate="]),
        ("train --se", ["--seeds"]),
        ("data in", ["inspect"]),
        ("methods misl", ["mislas"]),
        ("tra", ["train"]),
    ],
)
def test_completion_needs_no_torch(words, expected):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH],
        env=os.environ
        | {"_LONGTAIL_COMPLETE": "complete_bash", "COMP_WORDS": f"longtail {words}",
           "COMP_CWORD": str(len(words.split()) - (not words.endswith(" ")) + 1)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert set(expected) <= set(done.stdout.split()), done.stdout + done.stderr
    beginning = "" if words.endswith(" ") else words.split()[-1]
    assert all(word.startswith(beginning) for word in done.stdout.split())


def test_what_is_completed():
    sketch = {
        "options": {"--by": ["tau", "auto"], "--force": None},
        "arguments": [["one"], ["two"]],
    }
    for given, typed, expected in (
        ([], "", ["one"]),
        (["one"], "", ["two"]),
        (["one", "--by"], "t", ["tau"]),
        (["--by", "tau"], "", ["one"]),
        (["--force"], "", ["one"]),
        (["one", "two"], "", ["two"]),
        (["one"], "--f", ["--force"]),
    ):
        assert completed(sketch, given, typed) == expected, (given, typed)


def test_help_and_completion_know_the_verbs_as_they_are():
    assert sketches.FILE.read_text(encoding="utf-8") == written_sketches(), (
        'run python -c "from longtail.cli.verbs import write_sketches; write_sketches()"'
    )


def helps(of, name):
    """Yield name and help of a command and of those below it."""
    yield name, of["help"]
    for word, below in of.get("commands", {}).items():
        yield from helps(below, f"{name} {word}")


@pytest.mark.parametrize("verb", ["", *sketches.sketches()])
def test_no_help_is_cut_at_80_columns(verb, longtail, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    of = sketches.sketches()[verb] if verb else {"help": longtail("--help")[1]}
    for name, text in helps(of, f"longtail {verb}".strip()):
        lines = text.splitlines()
        assert max(map(len, lines)) <= 80, name
        for line in lines:
            assert not line.endswith("...") or line.startswith("Usage: "), (name, line)
            assert "…" not in line, (name, line)
            assert not re.search(r"\w-$", line), (name, line)  # cut within a word


def test_every_example_can_be_copied_from_the_help():
    for verb, of in sketches.sketches().items():
        for name, text in helps(of, verb):
            shown = text.split("\nArguments:")[0].split("\nOptions:")[0]
            for example in re.findall(r"\n\n    (\S.*?)(?=\n\n|$)", shown, re.DOTALL):
                one = re.sub(r" \\\n +", " ", example)
                assert "\n" not in one, (name, example)
                assert shlex.split(one)[0] in ("longtail", "curl", "find"), (name, one)


def test_recipes_are_described_as_they_are():
    assert DESCRIBED.read_text(encoding="utf-8") == written_descriptions(), (
        "run python -m longtail.reproduce"
    )
    for name in ("images/frozen-features", "imagenet-lt/do"):
        assert asdict(read_described(name)) == json.loads(json.dumps(asdict(describe(name))))


def test_options_are_found_by_the_words_of_other_tools(longtail):
    for word, key in (("lr", "training.learning_rate"), ("batch", "training.batch_size"),
                      ("patience", "training.early_stopping"), ("epochs", "training.epochs"),
                      ("workers", "training.workers"), ("rate", "training.learning_rate")):  # fmt: skip
        assert longtail("options", word)[1].split("\t")[0] == key, word
    status, out, _ = longtail("options", "damaged", "files")
    assert status == 0
    assert [line.split("\t")[0] for line in out.splitlines()] == ["data.on_bad_image"]


def test_the_catalogue_is_up_to_date():
    assert FILE.read_text(encoding="utf-8") == written_catalogue(), (
        "run python -m longtail.reproduce"
    )
    assert list(catalogue().recipes) == recipe_names()
    assert list(catalogue().methods) == list(METHODS)
    assert catalogue().options == tuple(options_of_runs())


def test_outside_a_terminal_a_row_is_a_line(longtail):
    lines = longtail("recipes")[1].splitlines()
    assert [line.split("\t")[0] for line in lines] == recipe_names()
    assert [line.split("\t")[0] for line in longtail("methods")[1].splitlines()] == list(METHODS)
    lines = longtail("options")[1].splitlines()
    assert [line.split("\t")[0] for line in lines] == [row.key for row in options_of_runs()]


def test_lists_as_json(longtail):
    assert set(json.loads(longtail("methods", "--json")[1])) == set(METHODS)
    method = json.loads(longtail("methods", "Do", "--json")[1])
    assert method["method"] == "do"
    assert {"key", "default", "values", "meaning"} == set(method["options"][0])
    found = json.loads(longtail("options", "warmup", "--json")[1])
    assert "training.warmup" in [row["key"] for row in found]


def test_systems_are_known_by_the_names_of_papers(longtail):
    methods = json.loads(longtail("methods", "--json")[1])
    assert methods["experts"]["systems"] == ["RIDE", "SADE", "BalPoE"]
    # a method and its recipes, whatever the spelling
    for name, method in (("cRT", "decoupling"), ("ce_drw", "single-head"), ("tau", "decoupling"),
                         ("Causal Norm", "tde"), ("lifted structured", "single-head")):  # fmt: skip
        assert json.loads(longtail("methods", name, "--json")[1])["method"] == method, name
    last = {recipe.rpartition("/")[2] for recipe in recipe_names()}
    for method, own in SYSTEMS.items():
        assert method in METHODS
        for system, recipe in own.items():
            assert system_named(system) == (system, method, recipe)
            assert recipe in last
            name = next(name for name in recipe_names() if name.endswith(f"/{recipe}"))
            if system != "CE":  # which some benchmarks train as a first stage of cRT
                assert resolve(name).method_name == method, name
    assert set(recipes_by_name().values()) <= last


def test_scores_as_json(longtail, tmp_path):
    longtail("train", *SHORT, "--out", "run")
    status, out, _ = longtail("evaluate", "run", "--json")
    assert status == 0
    assert json.loads(out) == json.loads((tmp_path / "run" / "scores-test.json").read_text())


def test_recipes_and_keys_are_completed():
    assert "cifar100-lt/reslt" in complete_recipe("cifar100-lt/res")
    assert "training.learning_rate=" in complete_override("training.learn")
    assert complete_override("learning_r") == ["learning_rate="]
    assert complete_override("epochs=4") == []
