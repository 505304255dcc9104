"""Names from strangers in figures, pages, tables and cards: shown as text, never run, never lost."""

import re
import warnings
import xml.dom.minidom
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from longtail import api
from longtail.core.counts import ClassCounts
from longtail.core.names import perhaps_renamed
from longtail.core.table_cells import plain_cell
from longtail.data.splits.split_file import read_split
from longtail.export.card import as_markdown
from longtail.report import figures
from longtail.report.distribution import draw_distribution
from longtail.report.files import _tex, _write
from longtail.report.page import environment
from longtail.report.saving import describe_missing, save_figure

NAMES = (
    "fox $x^$", "US$ 5 bill_$", "$\\frac{$", "_hidden", "[red]", "<script>alert(1)</script>",
    "a\x1b[2J\x00b", "=1+1", "{\\input{/etc/passwd}}", "a & b | c", "tab\tand\nline\rend", "\u202eevil",
    "[x](javascript:alert(1))", "\ud800", "`code`",
)  # fmt: skip


def rows():
    return [
        {"name": name, "group": "few", "accuracy": 0.5, "train_count": 3, "test_count": 2}
        for name in NAMES
    ]


def test_names_are_text_in_figures_whatever_signs_they_hold(tmp_path):
    confusion = np.ones((len(NAMES), len(NAMES)), dtype=np.int64)
    with matplotlib.rc_context(figures.STYLE):
        points, texts = figures.class_accuracy(rows())
        confused = figures.confusion_matrix(confusion, NAMES)
        groups = {
            g: {"value": 0.5, "interval": (0.4, 0.6)} for g in ("all", "many", "medium", "few")
        }
        compared = figures.compared([(name, groups) for name in NAMES])
    for number, (figure, more) in enumerate([(points, texts), (confused, {}), (compared, {})]):
        svg = figures.to_svg(figure, f"figure{number}", more)
        xml.dom.minidom.parseString(svg.encode("utf-8"))  # no control character, nothing unescaped
        assert "<script>" not in svg
        if number:
            assert "fox $x^$" in svg
            assert "US$ 5 bill_$" in svg
            assert "_hidden" in svg
            assert r"a\x1b[2J\x00b" in svg
        save_figure(figure, tmp_path / "a.png", format="png")
    draw_distribution(ClassCounts(range(1, len(NAMES) + 1), NAMES), tmp_path / "b.png")
    assert (tmp_path / "b.png").stat().st_size > 10_000


def test_letters_without_a_font_are_told_once(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        missing = draw_distribution(
            ClassCounts([3, 2], ["\U00012000\U00012001", "fox"]), tmp_path / "a.png"
        )
    assert missing == "\U00012000\U00012001"
    assert "\U00012000" in describe_missing(missing)
    assert describe_missing("") == ""


def test_pages_hold_names_as_text():
    template = environment().from_string("<p>{{ name }}</p>{{ made | safe }}")
    for name in NAMES:
        page = template.render(name=name, made="<b>ours</b>")
        page.encode("utf-8")
        assert page.endswith("<b>ours</b>")
        inside = page[3 : page.index("</p>")]
        assert "<" not in inside
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", inside)


def test_tables_hold_names_as_they_are(tmp_path):
    header, cells = ["class", "n"], [[name, number] for number, name in enumerate(NAMES)]
    csv, tex = _write("classes", header, cells, tmp_path)
    frame = pd.read_csv(csv, keep_default_na=False)
    read = [plain_cell(cell) for cell in frame["class"]]
    expected = [name if name != "\ud800" else r"\ud800" for name in NAMES]
    assert read == expected
    assert frame.n.tolist() == list(range(len(NAMES)))
    lines = tex.read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(NAMES) + 6  # one line a row
    assert r"\{\textbackslash{}input\{/etc/passwd\}\} & 8 \\" in lines
    for line in lines[4:-2]:
        cell = line.rpartition(" & ")[0]
        # what is left of LaTeX's own signs are the ones written here
        plain = re.sub(r"\\text[a-z]+\{\}|\\[&%$#_{}]", "", cell)
        assert not set(plain) & set("\\{}$&#^_~%"), line


@pytest.mark.parametrize("sign", '\\&%$#_{}~^<>|"')
def test_every_sign_of_latex_stands_for_itself(sign):
    assert _tex(sign) not in (sign, "")


def test_a_run_keeps_odd_names_of_files_as_they_are(tmp_path):
    """In `split.csv`, by which it finds them again: no apostrophe, and a return is no end of a row."""
    root = tmp_path / "set"
    for label, names in {"-a": ["=1.png", "a\rb.png"], "b": ['q"u,.png', "@x.png"]}.items():
        (root / label).mkdir(parents=True)
        for number, name in enumerate(names * 3):
            pixels = np.random.default_rng(number).integers(0, 255, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / label / f"{number}{name}")
    options = ["epochs=1", "backbone=resnet20", "batch_size=2", "image_size=8"]
    run = api.train(str(root), options, out=tmp_path / "run", device="cpu")
    kept = read_split(run.folder.split)
    assert sorted(kept.path) == sorted(f"{p.parent.name}/{p.name}" for p in root.glob("*/*"))
    assert set(kept.label) == {"-a", "b"}
    assert api.evaluate(run, run.evaluated_splits()[0], device="cpu")["num_images"] > 0


def test_cards_hold_names_as_text():
    shown = ", ".join(map(as_markdown, NAMES))
    shown.encode("utf-8")
    assert "<" not in shown
    assert "\n" not in shown
    assert "](" not in shown.replace("\\](", "")
    assert as_markdown("left_red") == r"left\_red"
    assert as_markdown("# head") == r"\# head"
    assert as_markdown("a | b") == r"a \| b"
    assert as_markdown("Hélène 狐") == "Hélène 狐"


@pytest.mark.parametrize(
    ("gone", "new", "renamed"),
    [
        (["lynx", "ant"], ["lynxes", "zebra"], {"lynxes": "lynx"}),
        (["Red Fox"], ["red_fox"], {"red_fox": "Red Fox"}),
        (["class 1"], ["class 2"], {}),
        (["class 1"], ["klass 1"], {"klass 1": "class 1"}),
        (["cat"], ["bat"], {}),
        (["cow"], ["cows", "cow s"], {"cows": "cow"}),  # one of them only
        ([], ["cow"], {}),
    ],
)
def test_a_new_name_is_an_old_one_if_it_resembles_it(gone, new, renamed):
    assert perhaps_renamed(gone, new) == renamed


def test_whole_lists_of_other_names_are_not_compared():
    names = [f"{word} {n}" for word in ("oak", "elm") for n in range(200)]
    assert perhaps_renamed(names, [f"{name}s" for name in names]) == {}


def test_nothing_prints_around_the_terminal():
    """Every verb prints through `Terminal`; what prints by itself is named here with its reason."""
    package = Path(figures.__file__).parents[1]
    allowed = {
        ("engine/terminal.py", "Console("),  # the class itself
        ("engine/terminal.py", "print("),  # and its method
        ("engine/log.py", "print("),  # plain lines, through `visible`
        ("cli/__init__.py", "typer.echo("),  # the version
        ("cli/verbs.py", "typer.echo("),  # help that was rendered before
        ("cli/lines.py", "sys.stdout.write("),  # lists for other programs, through `visible`
        ("models/text_tower.py", "print("),  # in a message: what a user may type
        ("cli/predict.py", "sys.stdout.write("),  # data, through `visible` on a terminal
    }
    found = set()
    for file in package.rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        for call in (
            r"(?<![\w.])Console\(",
            r"(?<![\w.])print\(",
            r"typer\.echo\(",
            r"sys\.stdout\.write\(",
        ):
            for match in re.finditer(call, text):
                found.add((file.relative_to(package).as_posix(), match[0]))
    assert found <= allowed, found - allowed
