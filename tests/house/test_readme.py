"""Everything in the README and in the pages that it leads to runs as printed."""

import re
import shlex
import sys
from pathlib import Path

import pytest
import yaml

from longtail.cli import main
from longtail.core.errors import ConfigError
from longtail.recipes.compared import named_methods
from longtail.report.dots import DotRow, dots
from longtail.reproduce import pages
from longtail.reproduce.pages import write_pages

README = Path(__file__).parents[2] / "README.md"
PAGES = [
    README,
    *(README.parent / "docs" / f"{name}.md" for name in ("start", "repair", "research")),
]
BLOCKS = [
    block
    for page in PAGES
    for block in re.findall(r"```(\w*)\n(.*?)```", page.read_text(), flags=re.DOTALL)
]
# a page may show a command again
COMMANDS = list(
    dict.fromkeys(
        line
        for kind, text in BLOCKS
        if kind == "bash"
        for line in text.splitlines()
        if line.strip()
    )
)
TOUR = [line for line in COMMANDS if "my-images" in line or "runs/first" in line]
# what would train for hours is checked up to the configuration
LONG = [line for line in COMMANDS if "cifar100" in line and "train" in line]


def call(monkeypatch, line):
    monkeypatch.setattr(sys, "argv", shlex.split(line))
    with pytest.raises(SystemExit) as caught:
        main()
    return caught.value.code or 0


def test_the_first_commands_are_there():
    assert COMMANDS[:2] == ["pip install .", "longtail demo"]
    assert COMMANDS[2:5] == [
        "longtail data inspect my-images --out inspection",
        "longtail train my-images --out runs/first",
        "longtail report runs/first",
    ]
    # CI reads its test command from here
    assert (
        "<!-- test command -->\n```bash\npip install '.[test]'\npytest -n auto\n```"
        in README.read_text()
    )


def test_the_readme_is_short():
    text = re.sub(
        r"<!-- table .*?<!-- end of table -->|```.*?```", "", README.read_text(), flags=re.DOTALL
    )
    assert len(text.split()) <= 900


def test_its_links_and_images_lead_somewhere():
    for page in PAGES:
        for place in re.findall(r"\]\(([^)#]+)", page.read_text()):
            generated = place.startswith(("methods/", "api/", "options.md", "commands.md"))
            assert generated or (page.parent / place).exists(), (page, place)


def test_the_tour_runs_as_printed(monkeypatch, image_folder, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    image_folder.rename(tmp_path / "my-images")
    (tmp_path / "my-images" / "ant" / "broken.jpg").write_bytes(b"")
    assert len(TOUR) >= 7
    for line in TOUR:
        if "pretrained=true" in line:
            continue  # needs the network; the keys are checked below
        if "train my-images" in line:
            # the same commands, shortened: a few epochs of a small network
            line += " epochs=2 batch_size=8 backbone=resnet20"
            if "skip" not in line:
                line += " --on-bad-image skip"
        if "compare my-images" in line:
            if "--methods" in line:
                named_methods(line.split()[line.split().index("--methods") + 1])
                continue  # a minute; tests/cli/test_compare.py trains some
            line += " --seeds 1 epochs=2 batch_size=8 backbone=resnet20 --on-bad-image skip"
        assert call(monkeypatch, line) == 0, (line, capsys.readouterr().err)
    assert (tmp_path / "inspection" / "distribution.png").exists()
    assert (tmp_path / "runs" / "first" / "scores-val.json").exists()


def test_long_commands_are_valid(tmp_path, monkeypatch):
    from longtail.recipes import resolve

    pretrained = [line for line in TOUR if "pretrained=true" in line]
    for line in [*LONG, *pretrained]:
        words = shlex.split(line)
        source, *rest = words[words.index("train") + 1 :]
        (tmp_path / "my-images").mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path)
        while "--slurm" in rest:  # its value is an option of sbatch
            del rest[rest.index("--slurm") : rest.index("--slurm") + 2]
        variants = [[]]
        if "--each" in rest:
            key, _, values = rest.pop(rest.index("--each") + 1).partition("=")
            variants = [[f"{key}={value}"] for value in values.split(",")]
        for variant in variants:
            resolve(source, [word for word in rest if "=" in word] + variant)


def test_the_python_examples_run(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    # what trains for half an hour is run by tests/run_queue/test_comparison.py
    examples = [t for kind, t in BLOCKS if kind == "python" and "longtail.compare(" not in t]
    assert len(examples) == 3
    for text in examples:
        exec(compile(text, "README.md", "exec"), {})
    assert "many" in capsys.readouterr().out


def test_tables_are_rendered_from_the_records():
    assert write_pages(README.parent, check=True) == []


def test_a_page_that_is_not_up_to_date_is_named_and_rewritten(tmp_path, monkeypatch):
    (tmp_path / "docs" / "figures").mkdir(parents=True)
    (tmp_path / "README.md").write_text("# none\n")
    (tmp_path / "docs" / "results").mkdir()
    page = tmp_path / "docs" / "results" / "one.md"
    page.write_text("before\n<!-- table one -->\n| typed |\n<!-- end of table -->\nafter\n")
    measured = tmp_path / "measured.json"
    monkeypatch.setattr(pages, "TABLES", {"one": lambda results: f"| {results.folder.name} |"})
    monkeypatch.setattr(pages, "MEASURED", measured)
    monkeypatch.setattr(pages, "measured", lambda results: "{}\n")
    monkeypatch.setattr(pages, "table_names", tuple)
    row = DotRow("plain", "short", {"all": [0.3], "many": [0.5], "medium": [0.25], "few": [0.125]})
    monkeypatch.setattr(pages, "FIGURES", {"overview": lambda results: dots("title", [row])})
    figure = tmp_path / "docs" / "figures" / "overview.svg"
    assert write_pages(tmp_path, check=True) == [page, measured, figure]
    assert "typed" in page.read_text()
    assert not measured.exists()
    assert write_pages(tmp_path, check=False) == [page, measured, figure]
    assert page.read_text() == (
        "before\n<!-- table one -->\n| results |\n<!-- end of table -->\nafter\n"
    )
    assert write_pages(tmp_path, check=True) == []
    # a table may be shown on two pages, an unknown one on none
    (tmp_path / "docs" / "again.md").write_text(page.read_text())
    assert write_pages(tmp_path, check=True) == []
    page.write_text(page.read_text() + "<!-- table two -->\n<!-- end of table -->\n")
    with pytest.raises(ConfigError, match="no table two; choose from one"):
        write_pages(tmp_path, check=True)
    page.write_text("nothing")
    (tmp_path / "docs" / "again.md").write_text("nothing")
    with pytest.raises(ConfigError, match="No page shows one"):
        write_pages(tmp_path, check=True)


def test_versions_agree():
    import longtail

    root = README.parent
    cited = yaml.safe_load((root / "CITATION.cff").read_text())["version"]
    declared = re.search(r'^version = "(.+)"', (root / "pyproject.toml").read_text(), re.MULTILINE)
    assert longtail.__version__ == cited == declared[1]


def test_no_line_of_a_page_begins_as_a_comment():
    """MyST leaves out lines that begin with %, and a sentence may be broken before "% of"."""
    pages = [page for page in (README.parent / "docs").rglob("*.md") if "build" not in page.parts]
    lines = [(page.name, line) for page in pages for line in page.read_text().splitlines()]
    assert len(lines) > 1000
    assert not [found for found in lines if found[1].startswith("%")]
