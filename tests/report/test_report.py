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
from longtail.core.errors import DataError, ProtocolError
from longtail.core.figure import FigureData
from longtail.core.names import visible
from longtail.engine.checksums import sealed
from longtail.report import figures
from longtail.report.axes import plain_numbers
from longtail.report.class_comparison import class_comparison
from longtail.report.classes import class_intervals, confused_pairs, standings, worst_first
from longtail.report.compare import Comparison, expand, render_comparison
from longtail.report.embedding import plane
from longtail.report.figures import draw
from longtail.report.images import choose_images
from longtail.report.page import drawings, render_run
from longtail.report.page_data import as_json
from longtail.report.regions import LEFT_OUT
from longtail.report.text import listing, verdict
from longtail.report.view import RunView
from tests.report.synthetic import STRANGE, let_it_see_one_quarter, synthetic_view

THUMBNAIL = "data:image/jpeg;base64,/9j"  # how every JPEG begins
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
    sections = ["verdict", "class-verdict", "next", "numbers", "data-problems", "mistakes", "table",
                "scatter", "pairs", "map", "reliability", "internals", "learning", "norms", "sampling",
                "method-0", "method-1", "repeat", "data"]  # fmt: skip
    assert [name for name in page.ids if name in sections] == sections
    assert len(page.ids) == len(set(page.ids)), "ids of inline figures must differ"
    # nothing leaves the page
    assert all(link.startswith(("data:", "#")) for link in page.fetched)
    assert "@import" not in text
    assert not re.search(r"url\((?!['\"]?#|['\"]?data:)", text)
    scores = api.Run.open(runs["reslt"]).scores("test")
    for row in scores["per_class"]:
        assert f"<td>{row['name']}</td>" in text
    assert f"{100 * scores['macro_accuracy']:.1f}&nbsp;%" in text
    assert scores["checkpoint_sha256"][:12] in text


def test_numbers_of_the_branches_are_those_of_the_model(runs):
    view = RunView.open(runs["reslt"], device="cpu")
    alone, shares = view.figures()
    assert alone.series["sum"][0] == pytest.approx(view.scores["macro_accuracy"], abs=0.02)
    assert set(alone.series) == {"branch 0", "branch 1", "branch 2", "sum"}
    for epoch in range(3):
        assert sum(values[epoch] for values in shares.series.values()) == pytest.approx(1, abs=1e-3)


def test_the_end_of_each_stage_is_shown(runs):
    view = RunView.open(runs["tau"], device="cpu")
    figure = view.stage_figure()
    assert figure.places[0] == view.stages[0].name
    assert figure.places[-1] == "in the end"
    assert figure.series["all"][-1] == pytest.approx(view.scores["macro_accuracy"])
    with torch.inference_mode():
        start = api.load(runs["tau"], device="cpu", stage=0)
    assert start.metadata.stage == 0
    assert RunView.open(runs["reslt"], device="cpu").stage_figure() is None


def test_the_curve_of_tau_is_shown(runs):
    view = RunView.open(runs["tau"], device="cpu")
    (figure,) = view.figures()
    stored = view.lines[-1]["curve"]
    assert figure.places == [row["tau"] for row in stored]
    assert figure.series["few"] == [row["few"] for row in stored]
    assert {d.name for d in drawings(view)} >= {"classes", "norms", "method-0"}


def test_the_verdict_is_made_of_the_scores(runs):
    view = RunView.open(runs["plain/seed-0"], device="cpu")
    said, scores = verdict(view), view.scores
    assert f"classifies {100 * scores['accuracy']:.1f} % of the 500 test images correctly" in said
    mean = f"{100 * scores['macro_accuracy']:.1f} %"
    assert f"The mean accuracy over 10 classes is {mean}" in said
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
    # 347 training images in batches of 16, three epochs
    assert reslt["images"] == 347 // 16 * 16 * 3
    assert (plain["features"], "features of the frozen" in render_comparison(comparison)) == (
        0,
        False,
    )
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


def test_computing_the_features_of_a_frozen_network_is_no_cost_of_the_run_that_came_first(
    runs, monkeypatch
):
    first, second = (RunView.open(runs[name], device="cpu") for name in ("reslt", "tau"))
    own = sum(line["seconds"] for line in first.lines)
    computed = {"stage": "head", "epochs_done": 0, "seconds": 45.0, "features": 347}
    monkeypatch.setitem(vars(first), "lines", [computed, *first.lines])
    comparison = Comparison.of([first, second])
    assert comparison.rows[0]["seconds"] == pytest.approx(own)
    assert "computed them (at most 45 seconds)" in render_comparison(comparison)


def test_importance_is_computed_only_if_it_is_asked_for(runs, tmp_path, monkeypatch, capsys):
    def never(*_):
        raise AssertionError("nobody asked for gradients")

    with monkeypatch.context() as patch:
        patch.setattr("longtail.report.view.importance_by_class", never)
        assert call(patch, runs["tau"], "--out", tmp_path / "without.html") == 0
    line = (runs["reslt"], "--importance", "train", "--out", tmp_path / "with.html")
    assert call(monkeypatch, *line) == 0
    assert "importance" in Page((tmp_path / "with.html").read_text()).ids
    assert "importance" not in Page((tmp_path / "without.html").read_text()).ids
    view = RunView.open(runs["plain/seed-0"], importance="test")
    (values,) = view.importance_figure.series.values()
    assert len(values) == len(view.importance_figure.places)
    assert all(value > 0 for value in values)
    with pytest.raises(DataError, match=r"--importance val needs the images .* has no val split"):
        _ = RunView.open(runs["plain/seed-0"], importance="val").importance_figure
    for more, words in (
        (["--importance", "all"], "must be one of train, val, test"),
        ([runs["tau"], "--importance", "train"], "needs a single run, but got 2"),
    ):
        assert call(monkeypatch, runs["reslt"], *more) == 2
        assert words in " ".join(capsys.readouterr().err.split())


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


def arm_rows(differences, seeds):
    """A comparison whose rows are given: name -> difference and interval, all of `seeds` seeds."""
    made = Comparison(())
    made.__dict__["rows"] = [
        {"name": name, "seeds": seeds, "least_seeds": seeds,
         "difference": {"all": {"value": value, "interval": interval}}}
        for name, value, interval in differences
    ]  # fmt: skip
    return made.verdict()


def test_better_needs_three_seeds_a_side():
    rows = [("base", 0.0, [0.0, 0.0]), ("up", 0.03, [0.01, 0.05]), ("down", -0.03, [-0.05, -0.01]),
            ("same", 0.01, [-0.01, 0.03])]  # fmt: skip
    assert arm_rows(rows, 3) == (
        "up (+3.0 [+1.0, +5.0] points) is better than base in macro accuracy; down (-3.0 [-5.0, -1.0] "
        "points) is worse than base in macro accuracy; no clear difference between base and same "
        "(+1.0 [-1.0, +3.0] points)."
    )
    of_one = arm_rows(rows, 1)
    assert of_one.startswith("In these runs, up (+3.0 [+1.0, +5.0] points) is above base in macro")
    assert "better" not in of_one
    assert "worse" not in of_one
    two = arm_rows([(name, value, None) for name, value, _ in rows], 2)
    assert two.startswith("No clear difference between base and up (+3.0 points, no interval)")


def test_every_difference_of_configurations_is_named_and_confounders_are_warned_of(runs, tmp_path):
    for name, more in (("long", ["epochs=4"]), ("loss", ["loss=focal"])):
        line = [*SHORT, *more]
        api.train("digits-lt/cross-entropy", line, out=tmp_path / name, device="cpu")
    paths = [*sorted(runs["plain/seed-0"].parent.iterdir()), tmp_path / "long", tmp_path / "loss"]
    comparison = Comparison.of([RunView.open(path, device="cpu") for path in paths])
    assert [arm.name for arm in comparison.arms] == [
        "cross-entropy (loss=cross-entropy, epochs=3)",
        "cross-entropy (loss=cross-entropy, epochs=4)",
        "cross-entropy (loss=focal, epochs=3)",
    ]
    assert comparison.confounders == {"training.epochs": ["3", "4", "3"]}
    assert comparison.differences["training.epochs"] == ["3", "4", "3"]
    assert "method.loss.name" in comparison.differences
    assert "training.seed" not in comparison.differences
    # the text of a recipe is no option, and as a row it would be wider than the page
    assert "description" not in comparison.arms[0].config
    # two seeds of the first make no interval, one of the others does not either, held against it
    assert comparison.rows[0]["accuracy"]["all"]["interval"] is None
    assert comparison.rows[1]["accuracy"]["all"]["interval"] is not None
    assert comparison.rows[1]["difference"]["all"]["interval"] is None
    page = render_comparison(comparison)
    assert "<code>training.epochs</code>: 3 / 4" in page
    assert {"confounders", "few-seeds", "differences"} <= set(Page(page).ids)


def test_no_inference_is_made_that_is_not_shown(runs, tmp_path, monkeypatch):
    def never(*_, **__):
        raise AssertionError("a method of one stage without figures of its own predicts nothing")

    sent = []

    def send(images, device):
        sent.append(len(images))
        return torch.from_numpy(images)

    monkeypatch.setattr("longtail.report.view.predict_sub_models", never)
    monkeypatch.setattr("longtail.data.sampling.loader.send", send)
    assert call(monkeypatch, runs["plain/seed-0"], "--out", tmp_path / "r.html") == 0
    page = (tmp_path / "r.html").read_text()
    assert sum(sent) == page.count('<img class="region"'), "only mistakes that are looked into"


def test_a_page_of_val_does_not_replace_that_of_test(tmp_path, monkeypatch):
    line = [*SHORT, "epochs=1", "validation_per_class=1", "keep_in_train=2"]
    run = api.train("digits-lt/cross-entropy", line, out=tmp_path / "r", device="cpu")
    api.evaluate(run, "val", device="cpu")
    assert call(monkeypatch, tmp_path / "r") == 0
    before = (tmp_path / "r" / "report.html").read_text()
    assert call(monkeypatch, tmp_path / "r", "--split", "val") == 0
    assert (tmp_path / "r" / "report.html").read_text() == before
    assert "val" in (tmp_path / "r" / "report-val.html").read_text()


def test_what_cannot_be_reported(runs, tmp_path, monkeypatch, capsys):
    assert call(monkeypatch, tmp_path) == 2
    assert "is not a run folder" in capsys.readouterr().err
    assert call(monkeypatch, runs["tau"], "--split", "train") == 2
    assert "longtail evaluate" in capsys.readouterr().err
    assert call(monkeypatch, runs["tau"], "--split", "no") == 2
    other = tmp_path / "other"
    api.train("digits-lt/cross-entropy", [*SHORT, "imbalance_ratio=10"], out=other, device="cpu")
    assert call(monkeypatch, runs["tau"], other) == 2
    assert "cannot be compared" in capsys.readouterr().err
    # what cannot be written is told before anything is drawn
    drawn = []
    monkeypatch.setattr("longtail.report.page.render_run", lambda *given: drawn.append(given))
    monkeypatch.setattr("longtail.report.page.drawings", lambda *given, **more: drawn.append(given))
    (tmp_path / "file").touch()
    below = tmp_path / "file" / "below"
    for line in (
        ["--out", below / "page.html"],
        ["--out", tmp_path],
        ["--figures", below],
        ["--tables", below],
    ):
        assert call(monkeypatch, runs["tau"], *line) in (1, 2)
        assert "cannot be written" in capsys.readouterr().err
    assert drawn == []
    monkeypatch.undo()
    # scores that do not belong to the predictions are not shown
    copy = tmp_path / "copy"
    shutil.copytree(runs["tau"], copy)
    scores = json.loads((copy / "scores-test.json").read_text()) | {"checkpoint_sha256": "x"}
    (copy / "scores-test.json").write_text(json.dumps(sealed(scores)))
    with pytest.raises(DataError, match="different checkpoints"):
        RunView.open(copy)


def test_own_images_names_and_lost_data(image_folder, tmp_path):
    strange = image_folder.parent / "mine"
    image_folder.rename(strange)
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
    assert THUMBNAIL in text
    sheet = text[text.index("Most confident mistakes") :]
    # a file that can be found
    assert re.search(r"taken for [^<]+</span> [\d.]+\xa0%<code>[^<]+/[^<]+\.\w+</code>", sheet)
    assert not re.search(r"<code>image \d+</code>", sheet)
    perfect = RunView.open(run.folder.path, device="cpu")
    perfect.__dict__["right"] = np.ones_like(perfect.right)  # as its cache would
    text = render_run(perfect)
    assert "no mistakes to show" in text
    assert "could not be opened" not in text
    assert "No damaged, duplicate or leaking images" in text
    # the same image under two names, one of them for test: found by the run's own split
    manifest = RunView.open(run.folder.path, device="cpu").data.manifest
    train, test = (manifest.paths[manifest.rows(split)[0]] for split in ("train", "test"))
    shutil.copy(strange / train, strange / test)
    with pytest.raises(ProtocolError, match="was trained on 1 of the 4 images of test"):
        render_run(RunView.open(run.folder.path, device="cpu"))
    shutil.rmtree(strange)
    text = render_run(RunView.open(run.folder.path, device="cpu"))
    assert "could not be opened" in text
    assert THUMBNAIL not in text


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


def test_many_classes_are_drawn_as_pairs():
    names = [f"class {n}" for n in range(100)]
    pairs = np.array([[7, 3, 8], *([n, n + 1, 2] for n in range(40))])
    with figures.matplotlib.rc_context(figures.STYLE):
        drawn = figures.confused_pairs(pairs, np.full(100, 10), names)
        matrix = figures.confusion_matrix(np.array([[3, 1], [0, 2]]), ("a", "b"))
    (axes,) = drawn.axes
    assert drawn.get_suptitle() == "The 25 most frequent of 41 confusions between 100 classes"
    assert axes.get_yticklabels()[0].get_text() == "class 7 → class 3"
    assert [patch.get_width() for patch in axes.patches][:2] == [80, 20]
    assert axes.texts[0].get_text().strip() == "8 of 10"
    assert matrix.axes[0].get_title("left") == "All 2 classes"


def test_empty_groups_and_perfect_models_are_drawn():
    counts = ClassCounts([5, 4], ("a", "b"))
    groups = ShotGroups.from_counts(counts)
    with figures.matplotlib.rc_context(figures.STYLE):
        assert figures.confusion_matrix(np.diag([5, 5]), counts.names) is None
        assert figures.confused_pairs(np.empty((0, 3), int), np.array([5, 5]), counts.names) is None
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


def show(browser, file, width, page):
    """Open a page at a width; nothing may be wider than it."""
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    file.write_text(page, encoding="utf-8")
    browser.get(file.as_uri())
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width


@pytest.fixture(scope="module")
def strange(runs):
    """A run of twelve classes with names that are markup, and its page."""
    view = synthetic_view(runs["plain/seed-0"], 12, 9)
    return view, render_run(view)


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_works_in_a_browser(width, strange, browser, tmp_path):
    view, page = strange
    show(browser, tmp_path / "r.html", width, page)
    run = browser.execute_script
    rows = "[...document.querySelectorAll('#classes-table tr.row')]"
    # the numbers are those of the scores, the worst first, and names are text
    shown = run(f"return {rows}.map(r => [r.cells[0].textContent, r.cells[3].textContent, "
                "r.querySelector('.value').textContent])")  # fmt: skip
    expected = {
        visible(row["name"]): [str(row["test_count"]), f"{100 * row['accuracy']:.1f}"]
        for row in view.scores["per_class"]
    }
    assert {name: rest for name, *rest in shown} == expected
    values = [float(value) for _, images, value in shown if int(images) >= 5]
    assert values == sorted(values)
    assert [images for _, images, _ in shown].index("1") == 11, "what cannot be judged is last"
    for sign in ("ascending", "descending"):
        run("document.querySelector('#classes-table th[data-key=train] button').click()")
        counts = run(f"return {rows}.map(r => Number(r.cells[2].textContent))")
        assert counts == sorted(view.counts.values, reverse=sign == "descending")
    search = "const f = document.querySelector('%s'); f.value = '%s'; f.dispatchEvent(new Event('input'))"
    run(search % ("#class-search", "few"))
    few = sum(row["group"] == "few" for row in view.scores["per_class"])
    assert run(f"return {rows}.length") == few
    assert (
        run("return document.getElementById('class-status').textContent") == f"{few} of 12 classes"
    )
    # a click opens a class, with its images and what it is confused with
    worst = int(np.nanargmin(np.where(view.tested >= 5, view.class_accuracy, np.nan)))
    run(f"document.querySelector('tr[data-class=\"{worst}\"] button').click()")
    detail = run("return document.getElementById('opened').textContent")
    missed = [pair for pair in view.pairs.tolist() if pair[0] == worst]
    assert f"{visible(view.counts.names[missed[0][1]])}: {missed[0][2]} of 9 images" in detail
    assert run(
        "return [...document.querySelectorAll('#opened img')].every(i => i.src.startsWith('data:'))"
    )
    run(search % ("#pair-search", "lynx"))
    found = run(
        "return [...document.querySelectorAll('#pairs-table tr.row')].map(r => r.textContent)"
    )
    lynx = view.counts.names.index("lynx \U0001f408")
    assert len(found) == sum(lynx in pair[:2] for pair in view.pairs.tolist())
    assert run("return document.documentElement.scrollWidth") <= width
    quiet(browser)


PERCENT_SIGNS = """
const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), lines = [];
while (walk.nextNode()) {
  const node = walk.currentNode, text = node.textContent;
  if (node.parentElement.closest('script, style, pre, code')) continue;
  for (const found of text.matchAll(/\\d\\s%/g)) {
    const range = document.createRange(), tops = at => {
      range.setStart(node, at); range.setEnd(node, at + 1);
      return [...range.getClientRects()].map(r => Math.round(r.top));
    };
    const ends = [...tops(found.index), ...tops(found.index + 2)];
    if (ends.length) lines.push(new Set(ends).size);  // what is folded has no place
  }
}
return lines;
"""


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_a_percent_sign_is_on_the_line_of_its_number(width, strange, browser, tmp_path):
    _, page = strange
    show(browser, tmp_path / "r.html", width, page)
    browser.execute_script("document.querySelector('#classes-table tr.row button').click()")
    lines = browser.execute_script(PERCENT_SIGNS)
    assert len(lines) > 15
    assert set(lines) == {1}


ALPHA = """
const done = arguments[0], marks = [...document.querySelectorAll('#mistakes .region')];
Promise.all(marks.map(image => image.decode())).then(() => done(marks.map(image => {
  const drawn = document.createElement('canvas').getContext('2d');
  drawn.drawImage(image, 0, 0);
  return [...drawn.getImageData(0, 0, 32, 32).data].filter((_, i) => i % 4 == 3);
})));
"""


@pytest.mark.parametrize(("width", "quarter"), [(390, (0, 1)), (1280, (1, 0))])
def test_mistakes_show_what_the_network_sees(width, quarter, runs, browser, tmp_path):
    """A network that sees one quarter of an image has marks there and nowhere else."""
    view = synthetic_view(runs["plain/seed-0"], 12, 9)
    let_it_see_one_quarter(view, *quarter)
    show(browser, tmp_path / "r.html", width, render_run(view))
    run = browser.execute_script
    hidden = "return [...document.querySelectorAll('#mistakes .region')].every(i => !i.offsetWidth)"
    assert run(hidden)
    run("document.querySelector('#show-regions').click()")
    assert not run(hidden)
    assert run("return !document.querySelector('#regions-text').hidden")
    assert run(
        "return [...document.querySelectorAll('#mistakes .marked')].every(m => {"
        "const [a, b] = [...m.querySelectorAll('img')].map(i => i.getBoundingClientRect());"
        "return a.x == b.x && a.y == b.y && a.width == b.width && a.height == b.height; })"
    ), "a mark lies on its image"
    marks = np.array(browser.execute_async_script(ALPHA)).reshape(-1, 2, 16, 2, 16)
    inside = marks[:, quarter[0], :, quarter[1]].reshape(len(marks), -1)
    featured = [place for found in choose_images(view).featured.values() for place in found]
    assert len(marks) == len(featured)
    assert (marks.sum(axis=(1, 2, 3, 4)) == inside.sum(axis=1)).all(), "nothing lies elsewhere"
    below = view.predictions.predicted()[featured] < view.predictions.labels[featured]
    np.testing.assert_array_equal(inside.max(axis=1), np.where(below, 153, 0))
    assert below.any()
    assert run("return document.documentElement.scrollWidth") <= width
    quiet(browser)


def test_a_method_of_several_networks_says_that_it_is_not_looked_into(runs):
    view = synthetic_view(runs["plain/seed-0"], 12, 9)
    assert LEFT_OUT not in render_run(view)
    view.model.method.backbone = torch.nn.ModuleList()
    page = render_run(view)
    assert LEFT_OUT in page
    assert 'class="region"' not in page


@pytest.mark.parametrize("width", [390, 1280])
def test_points_have_a_tooltip_and_lead_to_their_class(width, strange, browser, tmp_path):
    from selenium.webdriver import ActionChains, Keys
    from selenium.webdriver.common.actions.action_builder import ActionBuilder

    view, page = strange
    show(browser, tmp_path / "r.html", width, page)
    run = browser.execute_script
    assert run("return document.querySelectorAll('#scatter-plot circle.p').length") == 12
    wrong = int((~view.right).sum())
    assert run("return document.querySelectorAll('#map-plot path.x').length") == wrong
    run(
        "document.querySelector('#scatter-plot').scrollIntoView({block: 'center', behavior: 'instant'})"
    )
    point = browser.find_elements("css selector", "#scatter-plot circle.p")[0]
    ActionChains(browser).move_to_element(point).perform()
    tip = run("return document.querySelector('#scatter-plot .tip').textContent")
    assert visible(view.counts.names[0]) in tip
    assert f"{100 * view.class_accuracy[0]:.1f}\u00a0% [" in tip
    assert "500 training images, 9 test" in tip
    run("document.querySelector('#error-bars').click()")
    assert run("return document.querySelectorAll('#scatter-plot line.e').length") == 12
    point = browser.find_elements("css selector", "#scatter-plot circle.p")[0]
    ActionChains(browser).click(point).perform()
    assert run("return document.querySelector('tr.open').dataset.class") == "0"
    # the same by the keyboard, the pointer at the edge of the window: the page scrolls under it
    origin = ActionBuilder(browser)
    origin.pointer_action.move_to_location(1, 1)
    origin.perform()
    svg = browser.find_element("css selector", "#scatter-plot svg")
    run("arguments[0].focus()", svg)
    svg.send_keys(Keys.END, Keys.ARROW_RIGHT, Keys.ENTER)
    assert run("return document.querySelector('tr.open').dataset.class") == "11", "the rarest"
    quiet(browser)


@pytest.mark.parametrize(
    ("classes", "per_class", "most"),
    [(100, 100, 3e6), pytest.param(8142, 1, 8e6, marks=pytest.mark.slow)],
)
def test_pages_of_many_classes_stay_small_and_work(
    classes, per_class, most, runs, browser, tmp_path
):
    view = synthetic_view(
        runs["plain/seed-0"], classes, per_class, side=32 if classes > 100 else 96
    )
    page = render_run(view)
    assert len(page.encode()) < most
    show(browser, tmp_path / "r.html", 390, page)
    run = browser.execute_script
    assert run("return document.querySelectorAll('#scatter-plot circle.p').length") == classes
    run("showClass(classes.order[classes.order.length - 1])")
    assert run("return document.querySelectorAll('#opened').length") == 1
    assert run("return document.documentElement.scrollWidth") <= 390
    quiet(browser)


def test_json_of_a_page_ends_no_script():
    content = {"names": [*STRANGE, "a & b"], "none": None}
    written = as_json({**content, "names": [visible(name) for name in content["names"]]})
    assert not set("<>&\u2028") & set(written)
    assert json.loads(written)["names"] == [visible(name) for name in content["names"]]


def test_standing_of_a_class_needs_its_whole_interval():
    # Wilson's intervals by hand: 8 of 10 is .49 to .94, 9 of 10 is .60 to .98, 0 of 4 is too few images
    labels = np.repeat([0, 1, 2, 3], [10, 10, 10, 4])
    right = np.concatenate([np.arange(10) < 8, np.arange(10) < 9, np.arange(10) < 1, np.zeros(4)])
    found = class_intervals(labels, right.astype(bool), 5)
    assert found[0] == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert np.isnan(found[4]).all()
    tested = np.bincount(labels, minlength=5)
    assert standings(found, tested) == ["open", "recognised", "missed", "open", "untested"]
    # ten images of two bursts are two witnesses: 5 hits of 5 and 5 of 5 are Wilson's of 2 in 2, .342 to 1
    units = class_intervals(np.zeros(10, int), np.ones(10, bool), 1, np.repeat([0, 1], 5))
    assert units[0] == pytest.approx((0.3424, 1.0), abs=1e-4)
    order = worst_first(
        np.array([0.5, 0.0, 0.2, np.nan, 0.2]), np.array([9, 4, 9, 0, 9]), np.array([9, 8, 7, 6, 5])
    )
    assert order.tolist() == [4, 2, 0, 1, 3]


def test_confused_pairs_are_counted():
    labels, predicted = np.array([0, 0, 0, 1, 2, 2]), np.array([1, 1, 0, 1, 0, 1])
    assert confused_pairs(labels, predicted, 3).tolist() == [[0, 1, 2], [2, 0, 1], [2, 1, 1]]


def test_the_comparison_works_in_a_browser(runs, browser, tmp_path, monkeypatch):
    out = tmp_path / "c.html"
    call(monkeypatch, *runs.values(), "--out", out)
    run = browser.execute_script
    for width in (390, 1280):
        show(browser, out, width, out.read_text())
        run("document.querySelector('#accuracy-table th:nth-child(3) button').click()")
        values = run(VALUES % ("accuracy-table", 3))
        assert len(values) == 3
        assert values == sorted(values)
        # class by class, of the run that is chosen
        run(
            "const s = document.querySelector('#arm'); s.value = '2'; s.dispatchEvent(new Event('change'))"
        )
        rows = run("return [...document.querySelectorAll('#classes-table tr.row')].map(r => "
                   "[...r.cells].map(c => c.textContent))")  # fmt: skip
        scores = {
            row["name"]: row["accuracy"]
            for row in api.Run.open(runs["tau"]).scores("test")["per_class"]
        }
        assert {row[0]: row[3] for row in rows} == {n: f"{100 * a:.1f}" for n, a in scores.items()}
        quiet(browser)


@pytest.mark.parametrize("width", [400, 1280])
def test_a_class_with_few_images_is_not_judged_and_its_dot_stays_with_its_name(
    width, runs, browser, tmp_path
):
    names = ("plain/seed-0", "reslt")
    views = [synthetic_view(runs[name], 12, 9, seed=seed) for seed, name in enumerate(names)]
    comparison = Comparison.of(views)
    arm = class_comparison(comparison)["arms"][1]  # the last class has one test image
    assert None not in arm["difference"]
    assert [label for label, low in enumerate(arm["low"]) if low is None] == [11]
    show(browser, tmp_path / "c.html", width, render_comparison(comparison))
    run = browser.execute_script
    # as if there were three seeds, and nothing but losses
    run("for (const a of data.arms) { a.sure = true; for (const k of ['low', 'high']) "
        "a[k] = a[k].map(v => v === null ? v : -100); } list.draw()")  # fmt: skip
    rows = run("return [...document.querySelectorAll('#classes-table tr.row')].map(r => "
               "[r.textContent.includes('too few to tell'), !!r.querySelector('.worse')])")  # fmt: skip
    assert rows == [[False, True]] * 11 + [[True, False]]
    assert run("return [...document.querySelectorAll('.named')].every(named => { const [dot, name] = "
               "[...named.children].map(e => e.getClientRects()[0]); "
               "return dot.top > name.top && dot.bottom < name.top + 26; })")  # fmt: skip
    wide = run("return getComputedStyle(document.querySelector('.scroll')).backgroundAttachment")
    assert wide == "local, local, scroll, scroll"


@pytest.mark.parametrize("width", [360, 400, 1280])
def test_letters_of_the_figures_in_the_open_can_be_read(width, strange, browser, tmp_path):
    show(browser, tmp_path / "r.html", width, strange[1])
    sizes = browser.execute_script(
        "return [...document.querySelectorAll('#reliability text, #acceptance text')].map(t => {"
        "const m = t.getScreenCTM();"
        "return Math.hypot(m.a, m.b) * parseFloat(getComputedStyle(t).fontSize); })"
    )
    assert len(sizes) > 20
    assert 10 <= min(sizes) <= max(sizes) <= 17


@pytest.mark.parametrize(
    "names",
    [
        ["expert 1, cross-entropy", "expert 2, balanced-softmax", "expert 3, inverse-softmax", "mean"],
        ["sub-model 1", "sub-model 2", "sub-model 3", "average", "oracle: best for each group"],
        ["a run with a name of more than forty letters", "and another one, which is as long as that"],
    ],
)  # fmt: skip
def test_a_legend_stays_inside_its_figure(names):
    shown = FigureData(
        title="t", text="", x="x", y="y", kind="bars", places=["all", "few"],
        series={name: [0.5, 0.4] for name in names},
    )  # fmt: skip
    figure = draw(shown)
    figure.canvas.draw()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert figure.bbox.x0 <= box.x0
    assert box.x1 <= figure.bbox.x1
    assert [text.get_text() for text in legend.get_texts()] == names


def test_the_map_shows_the_principal_components():
    from sklearn.decomposition import PCA

    generator = np.random.default_rng(3)
    for images, classes in ((200, 12), (20, 50)):
        logits = generator.standard_normal((images, classes)) * np.geomspace(9, 0.1, classes)
        points, share = plane(logits.astype(np.float32))
        centred = logits.astype(np.float32) - logits.mean(axis=1, keepdims=True)
        expected = PCA(2, svd_solver="full").fit(centred)
        assert share == pytest.approx(expected.explained_variance_ratio_.sum(), rel=1e-3)
        theirs = expected.transform(centred)
        turned = np.sign((points * theirs).sum(axis=0))
        np.testing.assert_allclose(points, theirs * turned, atol=1e-2 * np.abs(theirs).max())
    assert plane(np.ones((5, 4), np.float32)) is None
