"""Everything in the README runs as printed."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from longtail.cli import main

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README.read_text(), flags=re.DOTALL)
COMMANDS = [
    line for kind, text in BLOCKS if kind == "bash" for line in text.splitlines() if line.strip()
]
TOUR = [line for line in COMMANDS if "my-pictures" in line or "runs/first" in line]
# what would train for hours is checked up to the configuration
LONG = [line for line in COMMANDS if "cifar100" in line and "train" in line]


def call(monkeypatch, line):
    monkeypatch.setattr(sys, "argv", shlex.split(line))
    with pytest.raises(SystemExit) as caught:
        main()
    return caught.value.code or 0


def test_the_first_commands_are_there():
    assert COMMANDS[:2] == ["pip install .", "longtail demo"]
    assert COMMANDS[2:4] == ["pip install '.[test]'", "pytest -n auto"]


def test_the_tour_runs_as_printed(monkeypatch, picture_folder, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    picture_folder.rename(tmp_path / "my-pictures")
    (tmp_path / "my-pictures" / "ant" / "broken.jpg").write_bytes(b"")
    assert len(TOUR) >= 7
    for line in TOUR:
        if "pretrained=true" in line:
            continue  # needs the network; the keys are checked below
        if "train my-pictures" in line:
            # the same commands, shortened: a few epochs of a small network
            line += " epochs=2 batch_size=8 backbone=resnet20"
            if "skip" not in line:
                line += " --on-bad-picture skip"
        assert call(monkeypatch, line) == 0, (line, capsys.readouterr().err)
    assert (tmp_path / "inspection" / "distribution.png").exists()
    assert (tmp_path / "runs" / "first" / "scores-val.json").exists()


def test_long_commands_are_valid(tmp_path, monkeypatch):
    from longtail.recipes import resolve

    pretrained = [line for line in TOUR if "pretrained=true" in line]
    for line in [*LONG, *pretrained]:
        words = shlex.split(line)
        source, *rest = words[words.index("train") + 1 :]
        (tmp_path / "my-pictures").mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path)
        variants = [[]]
        if "--each" in rest:
            key, _, values = rest.pop(rest.index("--each") + 1).partition("=")
            variants = [[f"{key}={value}"] for value in values.split(",")]
        for variant in variants:
            resolve(source, [word for word in rest if "=" in word] + variant)


def test_the_python_examples_run(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    examples = [text for kind, text in BLOCKS if kind == "python"]
    assert len(examples) == 3
    for text in examples:
        exec(compile(text, "README.md", "exec"), {})
    assert "many" in capsys.readouterr().out


def test_tables_are_rendered_from_the_records():
    done = subprocess.run(
        [sys.executable, str(README.parent / "benchmarks" / "render.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_versions_agree():
    import longtail

    root = README.parent
    cited = yaml.safe_load((root / "CITATION.cff").read_text())["version"]
    declared = re.search(r'^version = "(.+)"', (root / "pyproject.toml").read_text(), re.MULTILINE)
    assert longtail.__version__ == cited == declared[1]
