"""`longtail report`: the page of a run and of a comparison, as files and in a browser."""

import csv
import json
import re
import shutil
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from longtail import api
from longtail.cli import main
from longtail.core import ClassCounts, ShotGroups
from longtail.core.errors import DataError
from longtail.core.panel import Panel
from longtail.report import figures
from longtail.report.axes import plain_numbers
from longtail.report.compare import Comparison, expand, judged
from longtail.report.figures import panel
from longtail.report.page import drawings, render_run
from longtail.report.text import listing, verdict
from longtail.report.view import RunView

SHORT = ["epochs=3", "batch_size=16", "backbone=resnet20"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Cross-entropy in two seeds, ResLT and tau-normalisation on the digits."""
    root = tmp_path_factory.mktemp("runs")
    made = {}
    for name, recipe, more in (
        ("plain/seed-0", "cross-entropy", []),
        ("plain/seed-1", "cross-entropy", ["seed=1"]),
        ("reslt", "reslt", []),
        ("tau", "tau-normalisation", []),
    ):
        made[name] = root / name
        api.train(f"digits-lt/{recipe}", [*SHORT, *more], out=root / name, device="cpu")
    return made


def call(monkeypatch, *line):
    monkeypatch.setattr(sys, "argv", ["longtail", "report", *map(str, line), "--device", "cpu"])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code or 0


class Page(HTMLParser):
    """Collects ids and everything that a browser would fetch."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.fetched, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        if "id" in found:
            self.ids.append(found["id"])
        for key in ("src", "href", "xlink:href"):
            if key in found:
                self.fetched.append(found[key])


def test_the_page_of_a_run_holds_every_section(runs, monkeypatch):
    assert call(monkeypatch, runs["reslt"]) == 0
    file = runs["reslt"] / "report.html"
    text = file.read_text()
    assert file.stat().st_size < 3_000_000
    page = Page(text)
    sections = ["verdict", "numbers", "classes", "confusion", "reliability", "learning", "norms",
                "sampling", "method-0", "method-1", "mistakes", "table", "data", "repeat"]  # fmt: skip
    assert [name for name in page.ids if name in sections] == sections
    assert len(page.ids) == len(set(page.ids)), "ids of inline figures must differ"
    # nothing leaves the page
    assert all(link.startswith(("data:", "#")) for link in page.fetched)
    assert "@import" not in text
    assert not re.search(r"url\((?!['\"]?#|['\"]?data:)", text)
    scores = api.Run.open(runs["reslt"]).scores("test")
    for row in scores["per_class"]:
        assert f"<td>{row['name']}</td>" in text
    assert f"{100 * scores['macro_accuracy']:.1f} %" in text
    assert scores["checkpoint_sha256"][:12] in text


def test_numbers_of_the_branches_are_those_of_the_model(runs):
    view = RunView.open(runs["reslt"], device="cpu")
    alone, shares = view.panels()
    assert alone.series["sum"][0] == pytest.approx(view.scores["macro_accuracy"], abs=0.02)
    assert set(alone.series) == {"branch 0", "branch 1", "branch 2", "sum"}
    for epoch in range(3):
        assert sum(values[epoch] for values in shares.series.values()) == pytest.approx(1, abs=1e-3)


def test_the_end_of_each_stage_is_shown(runs):
    view = RunView.open(runs["tau"], device="cpu")
    panel = view.stage_panel()
    assert panel.places[0] == view.stages[0].name
    assert panel.places[-1] == "in the end"
    assert panel.series["all"][-1] == pytest.approx(view.scores["macro_accuracy"])
    with torch.inference_mode():
        start = api.load(runs["tau"], device="cpu", stage=0)
    assert start.card.stage == 0
    assert RunView.open(runs["reslt"], device="cpu").stage_panel() is None


def test_the_curve_of_tau_is_shown(runs):
    view = RunView.open(runs["tau"], device="cpu")
    (panel,) = view.panels()
    stored = view.lines[-1]["curve"]
    assert panel.places == [row["tau"] for row in stored]
    assert panel.series["few"] == [row["few"] for row in stored]
    assert {d.name for d in drawings(view)} >= {"classes", "norms", "method-0"}


def test_the_verdict_is_made_of_the_scores(runs):
    view = RunView.open(runs["plain/seed-0"], device="cpu")
    text, scores = verdict(view), view.scores
    assert f"{100 * scores['macro_accuracy']:.1f} %" in text
    never = [row["name"] for row in scores["per_class"] if row["accuracy"] == 0]
    assert (f"no picture of {len(never)} of 10 classes" in text) == bool(never)
    assert text.count(". ") == 1, "two sentences"
    assert listing(["a"]) == "a"
    assert listing(["a", "b", "c"]) == "a, b and c"


def test_a_comparison_puts_seeds_together(runs, tmp_path, monkeypatch):
    first, *others = (RunView.open(path, device="cpu") for path in runs.values())
    comparison = Comparison.of([first, *others])
    assert [arm.name for arm in comparison.arms] == ["cross-entropy", "reslt", "tau-normalisation"]
    assert [row["seeds"] for row in comparison.rows] == [2, 1, 1]
    plain, reslt, _ = comparison.rows
    mean = np.mean(
        [api.Run.open(runs[f"plain/seed-{s}"]).scores("test")["macro_accuracy"] for s in (0, 1)]
    )
    assert plain["accuracy"]["all"]["value"] == pytest.approx(mean, abs=1e-6)
    assert plain["difference"]["all"]["value"] == 0
    own = api.Run.open(runs["reslt"]).scores("test")["macro_accuracy"]
    assert reslt["difference"]["all"]["value"] == pytest.approx(own - mean, abs=1e-6)
    # 347 training pictures in batches of 16, three epochs
    assert reslt["pictures"] == 347 // 16 * 16 * 3
    # a folder of seeds stands for its runs
    out = tmp_path / "c.html"
    line = [runs["plain/seed-0"].parent, runs["reslt"], "--out", out]
    assert call(monkeypatch, *line, "--figures", tmp_path / "f", "--tables", tmp_path / "t") == 0
    page = Page(out.read_text())
    assert {"verdict", "accuracy", "difference", "groups", "budget", "runs"} <= set(page.ids)
    assert all(link.startswith(("data:", "#")) for link in page.fetched)
    with (tmp_path / "t" / "comparison.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["run"] for row in rows] == ["cross-entropy", "reslt"]
    assert float(rows[1]["all"]) == pytest.approx(100 * own, abs=0.051)
    assert (tmp_path / "t" / "comparison.tex").read_text().count(r"\\") == 3
    with Image.open(tmp_path / "f" / "groups.png") as image:
        assert image.size[0] > 1000
    assert (tmp_path / "f" / "groups.svg").read_text().startswith("<?xml")


def test_options_name_what_differs(runs, tmp_path):
    for metric in ("euclidean", "cosine"):
        api.train(
            "digits-lt/nearest-class-mean", [*SHORT, f"metric={metric}", f"from={runs['plain/seed-0']}"],
            out=tmp_path / metric, device="cpu",
        )  # fmt: skip
    found = [RunView.open(path, device="cpu") for path in expand([tmp_path])]
    names = [arm.name for arm in Comparison.of(found).arms]
    assert names == ["nearest-class-mean (metric=cosine)", "nearest-class-mean (metric=euclidean)"]
    assert all(row["shared"] for row in Comparison.of(found).rows)


def test_better_needs_the_whole_interval():
    assert judged({"value": 0.1, "interval": [0.01, 0.2]}) == 1
    assert judged({"value": 0.1, "interval": [-0.01, 0.2]}) == 0
    assert judged({"value": -0.1, "interval": [-0.2, -0.01]}) == -1
    assert judged({"value": None, "interval": None}) == 0


def test_what_cannot_be_reported(runs, tmp_path, monkeypatch, capsys):
    assert call(monkeypatch, tmp_path) == 2
    assert "is no run folder" in capsys.readouterr().err
    assert call(monkeypatch, runs["tau"], "--split", "train") == 2
    assert "longtail evaluate" in capsys.readouterr().err
    assert call(monkeypatch, runs["tau"], "--split", "no") == 2
    other = tmp_path / "other"
    api.train("digits-lt/cross-entropy", [*SHORT, "imbalance_ratio=10"], out=other, device="cpu")
    assert call(monkeypatch, runs["tau"], other) == 2
    assert "cannot be compared" in capsys.readouterr().err
    # scores that do not belong to the predictions are not shown
    copy = tmp_path / "copy"
    shutil.copytree(runs["tau"], copy)
    scores = json.loads((copy / "scores-test.json").read_text()) | {"checkpoint_sha256": "x"}
    (copy / "scores-test.json").write_text(json.dumps(scores))
    with pytest.raises(DataError, match="different checkpoints"):
        RunView.open(copy)


def test_own_pictures_names_and_lost_data(picture_folder, tmp_path):
    strange = picture_folder.parent / "mine"
    picture_folder.rename(strange)
    first = next(path for path in sorted(strange.iterdir()) if path.is_dir())
    first.rename(strange / "<b>ant & co")
    run = api.train(
        str(strange),
        ["epochs=1", "batch_size=8", "backbone=resnet20"],
        out=tmp_path / "r",
        device="cpu",
    )
    text = render_run(RunView.open(run.folder.path, device="cpu"))
    assert "&lt;b&gt;ant &amp; co" in text
    assert "<b>ant" not in text
    assert "data:image/jpeg;base64" in text
    assert 'id="data"' in text
    perfect = RunView.open(run.folder.path, device="cpu")
    perfect.__dict__["right"] = np.ones_like(perfect.right)  # as its cache would
    text = render_run(perfect)
    assert "no mistakes to show" in text
    assert "could not be opened" not in text
    assert "No damaged, repeated or leaking picture" in text
    # the same picture under two names, one of them for test: found by the run's own split
    manifest = RunView.open(run.folder.path, device="cpu").data.manifest
    train, test = (manifest.paths[manifest.rows(split)[0]] for split in ("train", "test"))
    shutil.copy(strange / train, strange / test)
    text = render_run(RunView.open(run.folder.path, device="cpu"))
    assert "1 picture occurs in two splits (leakage)" in text or "1 picture occurs with" in text
    shutil.rmtree(strange)
    text = render_run(RunView.open(run.folder.path, device="cpu"))
    assert "could not be opened from here" in text
    assert "data:image/jpeg" not in text


def test_many_classes_stay_small():
    rows = [
        {"name": f"class {n}", "group": ("many", "medium", "few")[n % 3], "train_count": 1 + n % 900,
         "accuracy": n % 7 / 7 if n % 11 else None}
        for n in range(8142)
    ]  # fmt: skip
    with figures.matplotlib.rc_context(figures.STYLE):
        figure, texts = figures.class_accuracy(rows)
    assert texts == {}
    assert len(figures.to_svg(figure, "x")) < 1_500_000


def test_empty_groups_and_perfect_models_are_drawn():
    counts = ClassCounts([5, 4], ("a", "b"))
    groups = ShotGroups.from_counts(counts)
    with figures.matplotlib.rc_context(figures.STYLE):
        assert figures.confused(np.diag([5, 5]), counts.names) is None
        svg = figures.to_svg(figures.row_norms(np.array([1.0, 2.0]), counts, groups), "n")
        assert figures.learning_curves([{"stage": "tau", "seconds": 1}]) is None
    assert "currentColor" in svg
    assert "NaN" not in svg


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ((9, 55), {"10", "20", "50"}),
        ((21, 48), {"30", "40"}),
        ((3, 4000), {"10", "100", "1000"}),
        ((0.3, 4), {"0.5", "1", "2"}),
    ],
)
def test_logarithmic_axes_have_plain_numbers(values, labels):
    figure, axes = figures.new()
    axes.plot(values, values)
    axes.set(xscale="log", xlim=values)
    plain_numbers(axes.xaxis)
    figure.draw_without_rendering()
    inside = {
        tick.label1.get_text()
        for tick in [*axes.xaxis.get_major_ticks(), *axes.xaxis.get_minor_ticks()]
        if values[0] <= tick.get_loc() <= values[1]
    }
    assert inside - {""} == labels


@pytest.mark.parametrize("last", [2, 3, 40, 400])
def test_epochs_are_whole_numbers(last):
    lines = [
        {"stage": "joint", "epochs_done": n, "loss": 1 / n, "epoch": n} for n in range(1, last + 1)
    ]
    with figures.matplotlib.rc_context(figures.STYLE):
        figure = figures.learning_curves(lines)
    figure.draw_without_rendering()
    ticks = figure.axes[0].get_xticks()
    assert all(float(tick).is_integer() for tick in ticks)
    assert sum(1 <= tick <= last for tick in ticks) >= 2


# --- in a browser ------------------------------------------------------------------------------

VALUES = (
    "return [...document.querySelectorAll('#%s tbody td:nth-child(%d)')]"
    ".map(cell => Number(cell.dataset.value))"
)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    from selenium.common.exceptions import WebDriverException

    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    try:
        opened = webdriver.Chrome(options, webdriver.ChromeService(driver))
    except WebDriverException as error:
        pytest.skip(f"chromium does not start on this machine ({error.msg})")
    yield opened
    opened.quit()


def quiet(browser):
    """Say that nothing was logged to the console and nothing but the page was asked for."""
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]
    assert all(url.startswith(("file:", "data:", "chrome:")) for url in asked), asked


@pytest.mark.parametrize("width", [360, 1400])
def test_the_page_works_in_a_browser(width, runs, browser, monkeypatch):
    call(monkeypatch, runs["reslt"])
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    browser.get((runs["reslt"] / "report.html").as_uri())
    run = browser.execute_script
    # nothing is wider than the page
    assert run("return document.documentElement.scrollWidth") <= width
    assert run("return document.querySelectorAll('section > figure > svg').length") >= 8
    heading = "#classes-table th:nth-child(5) button"
    column = VALUES % ("classes-table", 5)
    run(f"document.querySelector('{heading}').click()")
    assert (values := run(column)) == sorted(values)
    run(f"document.querySelector('{heading}').click()")
    assert run(column) == sorted(values, reverse=True)
    run(
        "const f = document.querySelector('input[type=search]');"
        "f.value = 'few'; f.dispatchEvent(new Event('input'))"
    )
    rows = "[...document.querySelectorAll('#classes-table tbody tr')]"
    shown = f"return {rows}.filter(r => !r.hidden).length"
    few = sum(
        row["group"] == "few" for row in api.Run.open(runs["reslt"]).scores("test")["per_class"]
    )
    assert run(shown) == few
    quiet(browser)


def test_the_comparison_works_in_a_browser(runs, browser, tmp_path, monkeypatch):
    call(monkeypatch, *runs.values(), "--out", tmp_path / "c.html")
    browser.get((tmp_path / "c.html").as_uri())
    run = browser.execute_script
    run("document.querySelector('#accuracy-table th:nth-child(3) button').click()")
    values = run(VALUES % ("accuracy-table", 3))
    assert len(values) == 3
    assert values == sorted(values)
    quiet(browser)


@pytest.mark.parametrize(
    "names",
    [
        ["expert 1, cross-entropy", "expert 2, balanced-softmax", "expert 3, inverse-softmax", "mean"],
        ["sub-model 1", "sub-model 2", "sub-model 3", "average", "oracle: best for each group"],
        ["a run with a name of more than forty letters", "and another one, which is as long as that"],
    ],
)  # fmt: skip
def test_a_legend_stays_inside_its_figure(names):
    shown = Panel(
        title="t", text="", x="x", y="y", kind="bars", places=["all", "few"],
        series={name: [0.5, 0.4] for name in names},
    )  # fmt: skip
    figure = panel(shown)
    figure.canvas.draw()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert figure.bbox.x0 <= box.x0
    assert box.x1 <= figure.bbox.x1
    assert [text.get_text() for text in legend.get_texts()] == names
