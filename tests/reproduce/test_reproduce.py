"""`longtail reproduce`: tables of papers, from small files and records."""

import json
import sys

import matplotlib
import numpy as np
import pytest

from longtail import api
from longtail.cli import main
from longtail.core.errors import ConfigError
from longtail.core.stage import epochs_of
from longtail.recipes import resolve
from longtail.report.dots import DotRow, describe, draw_dots
from longtail.report.figures import STYLE
from longtail.reproduce import Records, evidence_of, read_table, render, table_names
from longtail.reproduce.tables import Earlier

TABLE = """
title: digits
source: nobody
note: for a test
rows:
  - {name: plain, recipe: digits-lt/cross-entropy, overrides: ["training.batch_size=16"], paper: 50,
     short: ["training.epochs=2"]}
  - {name: tau, recipe: digits-lt/tau-normalisation, overrides: ["training.batch_size=16"], from: plain,
     short: ["training.epochs=2"]}
  - {name: never, recipe: digits-lt/ldam}
"""
LARGE = ("imagenet", "imagenet-lt", "places-lt", "inaturalist2018")


def call(monkeypatch, *line):
    monkeypatch.setattr(sys, "argv", ["longtail", "reproduce", *map(str, line)])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code or 0


@pytest.mark.parametrize("name", table_names())
def test_every_row_of_a_shipped_table_is_a_valid_recipe(name):
    table = read_table(name)
    assert len(table.rows) >= 3
    for row in table.rows:
        for profile in ("full", "short"):
            config = row.config(profile)
            assert config.data.name in ("cifar10", "cifar100", *LARGE)
        assert 30 <= config.training.epochs <= 60
    text = render(table, "full", Records([]))
    assert text.count("not measured") == len(table.rows)


@pytest.mark.parametrize("name", table_names())
def test_a_short_schedule_is_a_quarter_warm_up_at_most(name):
    for row in read_table(name).rows:
        training = row.config("short").training
        assert epochs_of(training.warmup, training.epochs) <= training.epochs / 4, row.name


@pytest.mark.parametrize("recipe", ["cifar100-lt/balms", "cifar10-lt/balms"])
def test_the_warm_up_of_balms_keeps_its_share(recipe):
    """800 of 13,000 steps in its code, 6 %."""
    warmup = resolve(recipe).training.warmup
    assert warmup == pytest.approx(800 / 13_000, abs=0.002)
    assert [epochs_of(warmup, epochs) for epochs in (591, 40)] == [37, 3]


def test_a_number_that_is_not_from_the_source_of_its_table_says_where_it_is_from():
    text = render(read_table("decoupling-table-2"), "full", Records([]))
    said = next(
        line for line in text.splitlines() if line.startswith("Numbers that the paper takes")
    )
    source = "the README of yanyanSann/Long-Tailed-Classification-Leaderboard@298eb72"
    assert f"LWS, ResNet-10 (as {source} quotes it)" in said
    assert "cRT" not in said
    assert "from elsewhere" not in render(read_table("paco-table-6"), "full", Records([]))


def test_no_published_number_is_from_memory():
    for name in table_names():
        for row in read_table(name).rows:
            assert "memory" not in row.source, f"{name}, {row.name}: no source"


def test_numbers_of_the_papers():
    rows = {row.name: row.paper for row in read_table("reslt-table-5").rows}
    assert rows["ResLT, ratio 100"] == 45.34
    assert rows["ResLT three experts, ratio 10"] == 63.73
    assert {row.name: row.paper for row in read_table("paco-table-6").rows}[
        "PaCo, ratio 50"
    ] == 56.0


def test_rows_train_once_and_are_rendered_from_records(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.yaml").write_text(TABLE)
    line = ["t.yaml", "--profile", "short", "--seeds", "2", "--only", "plain", "--only", "tau",
            "--device", "cpu"]  # fmt: skip
    assert call(monkeypatch, *line, "--page", "t.md") == 0
    records = [
        json.loads(text)
        for text in (tmp_path / "results/reproduce-t.jsonl").read_text().splitlines()
    ]
    assert [(r["recipe"], r["seed"]) for r in records] == [
        ("digits-lt/cross-entropy", 0), ("digits-lt/cross-entropy", 1),
        ("digits-lt/tau-normalisation", 0), ("digits-lt/tau-normalisation", 1),
    ]  # fmt: skip
    assert records[2]["started_from"]["weights_sha256"] == records[0]["checkpoint_sha256"]
    page = (tmp_path / "t.md").read_text()
    mean = 50 * (records[0]["accuracy"] + records[1]["accuracy"])
    assert f"| plain | 50 | {mean:.1f} ± " in page
    assert "| never | - | not measured |" in page
    assert "no difference is shown" in page
    again = (
        "longtail reproduce t.yaml --profile short --seeds 2 --out retrained --results retrained"
    )
    assert f"`{again}`" in page
    # drawn, too: rows with a record, and what the image shows as its description
    assert call(monkeypatch, *line, "--show", "--figure", "figures/t.svg") == 0
    drawing = (tmp_path / "figures/t.svg").read_text()
    few = 50 * (records[0]["few"] + records[1]["few"])
    assert f"few {few:.1f}); tau " in drawing
    assert "never" not in drawing
    # once more: nothing is left to train
    assert call(monkeypatch, *line) == 0
    assert len((tmp_path / "results/reproduce-t.jsonl").read_text().splitlines()) == 4
    # a lost record of a finished run is made again without training
    (tmp_path / "results/reproduce-t.jsonl").unlink()
    before = (tmp_path / "runs/reproduce/t/short/plain/seed-0/metrics.jsonl").read_text()
    assert call(monkeypatch, *line) == 0
    assert (tmp_path / "runs/reproduce/t/short/plain/seed-0/metrics.jsonl").read_text() == before
    capsys.readouterr()


def test_only_the_same_configuration_is_evidence(tmp_path):
    run = api.train("digits-lt/cross-entropy", ["epochs=1"], out=tmp_path / "run", device="cpu")
    file = tmp_path / "r.jsonl"
    file.write_text(json.dumps(api.record(run)) + "\n" + json.dumps({"lines": []}) + "\n")
    same = run.config.model_copy(update={"recipe": "another name"})
    assert [evidence.seed for evidence in Records([file]).of(same)] == [0]
    for change in ({"epochs": 2}, {"learning_rate": 0.2}):
        training = run.config.training.model_copy(update=change)
        assert Records([file]).of(run.config.model_copy(update={"training": training})) == []
    seeded = run.config.training.model_copy(update={"seed": 7, "workers": 9})
    assert len(Records([file]).of(run.config.model_copy(update={"training": seeded}))) == 1


def test_a_record_from_before_an_option_is_of_what_was_done_then(tmp_path):
    config = read_table("do-ablations").rows[0].config("short")
    plain = config.model_dump(mode="json")
    del plain["method"]["retraining"]  # once there was no choice
    line = {"config": plain, "accuracy": 0.3, "split": "test", "seed": 0}
    (tmp_path / "r.jsonl").write_text(json.dumps(line) + "\n")
    assert len(Records([tmp_path / "r.jsonl"]).of(config)) == 1
    other = config.method.model_copy(update={"retraining": "uniform"})
    other = config.model_copy(update={"method": other})
    assert Records([tmp_path / "r.jsonl"]).of(other) == []
    assert Records([tmp_path / "r.jsonl"]).of(config, split="left out") == []
    # a run folder of then is opened as what it was, too
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(json.dumps(plain))
    assert api.Run.open(run).config.method == config.method
    (run / "config.yaml").write_text("[]")
    with pytest.raises(ConfigError, match="does not contain the configuration"):
        api.Run.open(run)


def test_a_record_whose_options_are_no_more_is_shown_as_such(tmp_path):
    row = (
        read_table("overview-cifar100")
        .rows[-1]
        .model_copy(update={"earlier": Earlier(commit="1234567", checkpoints=("abc",))})
    )
    table = read_table("overview-cifar100").model_copy(update={"rows": (row,)})
    plain = row.config("short").model_dump(mode="json")
    plain["method"]["networks"] = "separate"
    scores = {"accuracy": 0.3, "many": 0.4, "medium": 0.3, "few": 0.2}
    known = {"config": plain, "split": "test", "seed": 0}
    line = known | scores | {"checkpoint_sha256": "abcd"}
    (tmp_path / "r.jsonl").write_text(json.dumps(line) + "\n")
    records = Records([tmp_path / "r.jsonl"])
    assert records.of(row.config("short")) == []
    short = render(table, "short", records)
    assert "| DO † | 53.8 | 30.0 | 40.0 | 30.0 | 20.0 | 1 |" in short
    assert "Measured with an earlier recipe (DO: other options, as at commit 1234567)" in short
    assert "| DO | 53.8 | not measured |" in render(table, "full", records)
    elsewhere = Records([])  # a folder of one's own
    assert "| DO | 53.8 | not measured |" in render(table, "short", elsewhere)
    with pytest.raises(
        ConfigError, match=r"There is no record of the checkpoint abc\.\.\. on test"
    ):
        elsewhere.of_checkpoints(["abc"])


MIXED = """
title: "T"
source: "S"
rows:
  - {name: DO, recipe: digits-lt/do, short: &short [epochs=2, "retraining_steps=1"]}
  - {name: average, recipe: digits-lt/do, short: *short, mixture: average}
  - {name: oracle, recipe: digits-lt/do, short: *short, mixture: "oracle: best sub-model of the true group"}
"""


def test_one_training_fills_a_row_for_every_mixture(tmp_path, monkeypatch, capsys):
    (tmp_path / "m.yaml").write_text(MIXED)
    monkeypatch.chdir(tmp_path)
    line = ["m.yaml", "--profile", "short", "--seeds", "1", "--device", "cpu"]
    assert call(monkeypatch, *line, "--only", "average") == 0
    assert [p.name for p in (tmp_path / "runs/reproduce/m/short").iterdir()] == ["do"]
    assert call(monkeypatch, *line) == 0
    (record,) = (tmp_path / "results/reproduce-m.jsonl").read_text().splitlines()
    scored = {row["name"]: row for row in json.loads(record)["mixtures"]}
    records = Records([tmp_path / "results/reproduce-m.jsonl"])
    shown = read_table("m.yaml").rows
    rows = {row.name: evidence_of(row, "short", records)[0][0] for row in shown}
    assert rows["DO"].line["accuracy"] == json.loads(record)["accuracy"]
    for name, mixture in (
        ("average", "average"),
        ("oracle", "oracle: best sub-model of the true group"),
    ):
        for key in ("accuracy", "many", "medium", "few"):
            assert rows[name].line[key] == scored[mixture][key]
    assert rows["oracle"].line["accuracy"] >= scored["sub-model 1"]["accuracy"]
    no_such = shown[0].model_copy(update={"mixture": "x"})
    assert evidence_of(no_such, "short", records)[0] == []


def test_full_schedules_print_a_difference():
    full, short = (render(read_table("do-ablations"), p, Records([])) for p in ("full", "short"))
    beside = "against DO, same seeds"
    assert f"| row | paper | ours | difference | {beside} | many | medium | few | seeds |" in full
    assert f"| row | paper | ours | {beside} | many | medium | few | seeds |" in short
    assert "best epoch on test |" not in full


def test_both_schedules_stand_side_by_side_where_both_are_recorded(tmp_path):
    (tmp_path / "t.yaml").write_text(TABLE)
    table = read_table(str(tmp_path / "t.yaml"))
    groups = {"many": 0.7, "medium": 0.4, "few": 0.1}
    short_groups = {"many": 0.6, "medium": 0.3, "few": 0.2}
    lines = [
        {"config": table.rows[0].config(profile).model_dump(mode="json"), "split": "test", "seed": seed}
        | {"accuracy": accuracy} | scores
        for profile, seed, accuracy, scores in (
            ("full", 0, 0.47, groups), ("short", 0, 0.30, short_groups), ("short", 1, 0.32, short_groups),
        )
    ]  # fmt: skip
    for file, some in (("full", lines[:1]), ("short", lines[1:])):
        (tmp_path / f"{file}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in some))
    records = Records([tmp_path / "full.jsonl", tmp_path / "short.jsonl"])
    full, short = (render(table, profile, records) for profile in ("full", "short"))
    titles = "| row | paper | ours, full schedule | difference | many | medium | few | seeds |"
    assert f"{titles} ours, short schedule |" in full
    # 47.0 in one run is 3 below the 50 of the paper; .30 and .32 have mean .31, deviation .01 * sqrt 2
    assert "| plain | 50 | 47.0 | -3.0 | 70.0 | 40.0 | 10.0 | 1 | 31.0 ± 1.4 |" in full
    assert "| tau | - | not measured | - | - | - | - | 0 | - |" in full
    titles = "| row | paper | ours, full schedule | difference | ours, short schedule | many |"
    assert titles in short
    line = "| plain | 50 | 47.0 | -3.0 | 31.0 ± 1.4 | 60.0 ± 0.0 | 30.0 ± 0.0 | 20.0 ± 0.0 | 2 |"
    assert line in short
    assert "| tau | - | - | - | not measured |" in short
    for text in (full, short):
        assert "`full.jsonl`" in text
        assert "`short.jsonl`" in text
    assert "no difference is shown" not in short
    # with one schedule alone there is nothing to set beside it
    alone = render(table, "short", Records([tmp_path / "short.jsonl"]))
    assert "| row | paper | ours | many | medium | few | seeds |" in alone
    assert "no difference is shown" in alone


def test_the_mark_of_an_earlier_recipe_stands_at_the_schedule_that_it_is_of(tmp_path):
    rows = {row.name: row for row in read_table("overview-cifar100").rows}
    ldam = rows["Focal"]
    then, now = ldam.earlier_config("short"), ldam.config("full")
    known = {"split": "test", "seed": 0, "many": 0.6, "medium": 0.3, "few": 0.1}
    lines = [
        known | {"config": config.model_dump(mode="json"), "accuracy": accuracy}
        for config, accuracy in ((then, 0.3), (now, 0.4))
    ]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    table = read_table("overview-cifar100").model_copy(update={"rows": (ldam,)})
    records = Records([tmp_path / "r.jsonl"])
    assert "| Focal | 38.4 | 40.0 | +1.6 | 30.0 † |" in render(table, "short", records)
    full = render(table, "full", records)
    assert "| Focal | 38.4 | 40.0 | +1.6 | 60.0 | 30.0 | 10.0 | 1 | 30.0 † |" in full
    for text in (full, render(table, "short", records)):
        assert "† Measured with an earlier recipe (Focal: method.head.init" in text


def test_a_seed_on_another_processor_is_another_run(tmp_path):
    (tmp_path / "t.yaml").write_text(TABLE.replace("rows:", "against: plain\nrows:"))
    table = read_table(str(tmp_path / "t.yaml"))
    runs = [
        ("plain", 0, "A", 0.30), ("plain", 1, "B", 0.40), ("plain", 1, "A", 0.20),
        ("tau", 0, "A", 0.31), ("tau", 1, "A", 0.22), ("never", 0, "B", 0.33), ("never", 1, "B", 0.45),
        ("never", 1, "B", 0.46),
    ]  # fmt: skip
    configs = {row.name: row.config("short").model_dump(mode="json") for row in table.rows}
    with (tmp_path / "r.jsonl").open("w") as file:
        for row, seed, cpu, accuracy in runs:
            line = {"config": configs[row], "seed": seed, "split": "test", "accuracy": accuracy}
            line |= {"hardware": {"cpu": cpu}, **dict.fromkeys(("many", "medium", "few"))}
            file.write(json.dumps(line) + "\n")
    text = render(table, "short", Records([tmp_path / "r.jsonl"]))
    assert "| plain | 50 | 30.0 ± 10.0 | - | - | - | - | 2 (3 runs) |" in text
    # both seeds on A: 1 and 2 points, not 1 and -18
    assert "| tau | - | 26.5 ± 6.4 | +1.5 ± 0.7 | - | - | - | 2 |" in text
    # seed 1 on B, its newest record; seed 0 is there on A only
    assert "| never | - | 39.5 ± 9.2 | +4.5 ± 2.1 | - | - | - | 2 |" in text
    assert "counts as two runs" in text


def test_rows_are_held_against_one_of_them_seed_by_seed(tmp_path):
    (tmp_path / "t.yaml").write_text(TABLE.replace("rows:", "against: plain\nrows:"))
    table = read_table(str(tmp_path / "t.yaml"))
    accuracies = {
        "plain": {0: 0.30, 1: 0.40},
        "tau": {1: 0.43, 2: 0.9},
        "never": {0: 0.32, 1: 0.45},
    }
    with (tmp_path / "r.jsonl").open("w") as file:
        for row in table.rows:
            config = row.config("short").model_dump(mode="json")
            for seed, accuracy in accuracies[row.name].items():
                line = {"config": config, "seed": seed, "split": "test", "accuracy": accuracy}
                file.write(json.dumps(line | dict.fromkeys(("many", "medium", "few"))) + "\n")
    text = render(table, "short", Records([tmp_path / "r.jsonl"]))
    assert "| row | paper | ours | against plain, same seeds | many |" in text
    assert "| plain | 50 | 35.0 ± 7.1 | - |" in text
    # seed 2 of tau has nothing to be held against; 2 and 5 points are 3.5 with a deviation of 2.1
    assert "| tau | - | 66.5 ± 33.2 | +3.0 |" in text
    assert "| never | - | 38.5 ± 9.2 | +3.5 ± 2.1 |" in text
    (tmp_path / "t.yaml").write_text(TABLE.replace("rows:", "against: plan\nrows:"))
    with pytest.raises(ConfigError, match="is not a table: against: there is no row 'plan'"):
        read_table(str(tmp_path / "t.yaml"))


def test_the_best_epoch_on_test_stands_beside_the_last_and_changes_nothing(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    own = """
title: digits
source: nobody; best epoch on test
best_on_test: true
rows:
  - {name: plain, recipe: digits-lt/cross-entropy, paper: 50, overrides: [epochs=4, learning_rate=0.3]}
"""
    (tmp_path / "t.yaml").write_text(own)
    assert call(monkeypatch, "t.yaml", "--seeds", "1", "--device", "cpu", "--page", "t.md") == 0
    capsys.readouterr()
    record = json.loads((tmp_path / "results/reproduce-t.jsonl").read_text())
    folder = tmp_path / "runs/reproduce/t/full/plain/seed-0"
    curve = [
        json.loads(x)["test_accuracy"] for x in (folder / "metrics.jsonl").read_text().splitlines()
    ]
    assert len(curve) == 4
    assert record["accuracy"] == pytest.approx(curve[-1], abs=1e-4)  # the last epoch, as always
    best = record["best_on_test"]
    assert best["accuracy"] == pytest.approx(max(curve), abs=1e-4)
    assert curve[best["epoch"] - 1] == max(curve)
    last, most = 100 * record["accuracy"], 100 * best["accuracy"]
    row = f"| plain | 50 | {last:.1f} | {last - 50:+.1f} | {most:.1f} |"
    assert row in (tmp_path / "t.md").read_text()
    # a run that never looks is the same run, and evidence for the same row
    unwatched = api.train("digits-lt/cross-entropy", ["epochs=4", "learning_rate=0.3"],
                          out=tmp_path / "run", device="cpu")  # fmt: skip
    plain = api.record(unwatched)
    assert plain["checkpoint_sha256"] == record["checkpoint_sha256"]
    assert plain["best_on_test"] is None
    (tmp_path / "r.jsonl").write_text(json.dumps(plain) + "\n")
    text = render(read_table("t.yaml"), "full", Records([tmp_path / "r.jsonl"]))
    assert f"| plain | 50 | {last:.1f} | {last - 50:+.1f} | - |" in text


def test_the_figure_shows_means_over_seeds_and_keeps_schedules_together():
    rows = [
        DotRow("a", "", {"all": [0.3, 0.5], "many": [0.6, 0.8], "medium": [0.4, 0.4], "few": []}),
        DotRow("b", "other", {"all": [0.2], "many": [0.5], "medium": [0.1], "few": [0.0]}),
        DotRow("c", "", {"all": [0.1], "many": [0.3], "medium": [0.05], "few": [0.02]}),
    ]
    assert describe(rows[:2]) == (
        "Accuracy in %. a 40.0 ± 14.1 (many 70.0, medium 40.0); b 20.0 (many 50.0, medium 10.0, few 0.0)."
    )
    with matplotlib.rc_context(STYLE):
        (axes,) = draw_dots("title", rows).axes
    lines = dict(
        zip([t.get_text() for t in axes.get_yticklabels()], axes.get_yticks(), strict=True)
    )
    assert lines == {"a": 0, "c": 1, "b": 3}  # a line for the heading of b
    drawn = {
        (float(x), float(y)) for line in axes.lines for x, y in zip(*line.get_data(), strict=True)
    }
    assert {(70.0, 0.0), (40.0, 0.0), (50.0, 3.0), (0.0, 3.0), (2.0, 1.0)} <= drawn
    assert not any(y == 0 and x not in (40.0, 70.0) for x, y in drawn)  # a has no few-shot class
    whiskers = [segment for c in axes.collections for segment in c.get_segments()]
    assert any(
        np.allclose(s, [[40 - 200**0.5, 0], [40 + 200**0.5, 0]]) for s in whiskers
    )  # n - 1: 10 sqrt 2
    assert [t.get_text() for t in axes.texts if t.get_style() == "italic"] == ["other"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "title: x\nsource: y\nrows: [{name: a, recipe: r}, {name: a, recipe: r}]",
            "the same name",
        ),
        ("title: x\nsource: y\nrows: [{name: a, recipe: r, from: b}]", "not a row above"),
        ("title: x\nrows: []", "source: Field required"),
        ("- 1", "valid dictionary"),
        ("{", "cannot be read as YAML"),
    ],
)
def test_wrong_tables(text, message, tmp_path):
    (tmp_path / "t.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_table(str(tmp_path / "t.yaml"))


def test_wrong_commands(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.yaml").write_text(TABLE)  # a file where a folder is wanted
    for line, message in (
        (["reslt-table-55"], "Did you mean reslt-table-5"),
        (["reslt-table-5", "--profile", "huge"], "must be one of full, short"),
        (["reslt-table-5", "--only", "x"], "has no row x"),
        (["reslt-table-5", "--figure", "x.jpeg"], "must end in .svg or .png"),
        (["reslt-table-5", "--show", "--figure", "x.svg"], "nothing to draw"),
        (["reslt-table-5", "--show", "--page", "t.yaml/x.md"], "cannot be written"),
    ):
        assert call(monkeypatch, *line) == 2
        assert message in capsys.readouterr().err
    (tmp_path / "results").mkdir()
    (tmp_path / "results/bad.jsonl").write_text("{")
    assert call(monkeypatch, "reslt-table-5", "--show") == 2
    assert "not a results file" in capsys.readouterr().err
    assert call(monkeypatch) == 0
    assert "paco-table-6" in capsys.readouterr().out


@pytest.mark.slow
def test_parallel_rows_wait_for_the_stage_they_share(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.yaml").write_text(TABLE)
    line = ["t.yaml", "--profile", "short", "--seeds", "1", "--only", "tau", "--device", "cpu"]
    assert call(monkeypatch, *line, "--only", "plain", "--parallel", "2", "--out", "a") == 0
    printed = capsys.readouterr().out
    ended = [text.split(":")[0] for text in printed.splitlines() if text.endswith(": done")]
    assert ended == ["a/t/short/plain/seed-0", "a/t/short/tau/seed-0"]
    lines = [
        json.loads(text)
        for text in (tmp_path / "results/reproduce-t.jsonl").read_text().splitlines()
    ]
    assert [bool(line["started_from"]) for line in lines] == [False, True]
    # a row whose source has a record and no run here trains its own first stage, and says so
    (tmp_path / "results/reproduce-t.jsonl").write_text(json.dumps(lines[0]) + "\n")
    assert call(monkeypatch, *line, "--out", "b") == 0
    assert "tau, seed 0; trains its own first stage, because b/t" in capsys.readouterr().out
