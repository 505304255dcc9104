"""Tables of strangers in the many forms that they come in: read right, or refused in words."""

import json
import os
import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from longtail.adjust.tool.table_files import split_of_name
from longtail.adjust.tool.tables import read_tables
from longtail.engine.run_folder import writing_folder

NAMES = ("fox", "lynx", "owl")
MEANS = 1.6 * np.eye(3)
TRAIN, VAL, TEST = (4000, 400, 40), (60, 60, 60), (500, 500, 500)
PRIOR = np.array(TRAIN) / sum(TRAIN)


# --- tables -------------------------------------------------------------------------------------


def exact_logits(sizes, seed):
    """Labels, and the posterior of three normal densities under the training counts, as logits."""
    labels = np.repeat(np.arange(3), sizes)
    points = MEANS[labels] + np.random.default_rng(seed).normal(size=(len(labels), 3))
    return labels, -0.5 * ((points[:, None] - MEANS) ** 2).sum(2) + np.log(PRIOR)


def frame_of(kind, split, sizes, seed, classes=NAMES):
    labels, z = exact_logits(sizes, seed)
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    values = {
        "logits": z, "log-probabilities": np.log(p), "probabilities": p, "percent": 100 * p,
        "rounded": p.round(4), "sigmoid": 1 / (1 + np.exp(-z)), "predictions": np.eye(3)[z.argmax(1)],
    }[kind]  # fmt: skip
    frame = pd.DataFrame(values, columns=[f"logit_{name}" for name in classes])
    frame.insert(0, "label", [classes[label] for label in labels])
    frame.insert(1, "split", split)
    return frame


def whole(kind="logits"):
    return pd.concat(
        [
            frame_of(kind, split, sizes, seed)
            for seed, (split, sizes) in enumerate(
                {"train": TRAIN, "val": VAL, "test": TEST}.items()
            )
        ],
        ignore_index=True,
    )


def right_accuracy():
    """Macro accuracy of the exact correction, worked out without the library."""
    labels, z = exact_logits(TEST, 2)
    right = (z - np.log(PRIOR)).argmax(1) == labels
    return np.mean([right[labels == c].mean() for c in range(3)])


def adjusted(longtail, *sources, out="o.csv", by="logit-adjust", more=("--strength", "1")):
    status, said, wrong = longtail("adjust", *sources, "--by", by, *more, "--out", out)
    return status, " ".join(said.split()), " ".join(wrong.split())


def note(path):
    return json.loads(path.read_text())


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("logits", ""),
        ("log-probabilities", ""),
        ("probabilities", "contains probabilities; their logarithms"),
        ("percent", "contains percent; their logarithms"),
        ("rounded", "contains probabilities"),
    ],
)
def test_scores_of_any_kind_give_the_right_accuracy(kind, said, longtail, tmp_path):
    whole(kind).to_csv(tmp_path / "m.csv", index=False)
    status, shown, _ = adjusted(longtail, "m.csv")
    assert (status, said in shown) == (0, True)
    scores = note(tmp_path / "o-adjustment.json")["scores"]
    after = scores["groups"]["all"]["after"]["value"]
    assert after == pytest.approx(right_accuracy(), abs=0.003)
    # before is the posterior under the training counts: far too sure of the frequent class
    assert scores["calibration_error"]["before"] > 0.2
    assert scores["calibration_error"]["after"] < 0.05


@pytest.mark.parametrize(
    ("kind", "message"),
    [("sigmoid", "outputs of a sigmoid"), ("predictions", "they are predictions")],
)
def test_scores_that_cannot_be_corrected(kind, message, longtail, tmp_path):
    whole(kind).to_csv(tmp_path / "m.csv", index=False)
    status, _, wrong = adjusted(longtail, "m.csv")
    assert status == 2
    assert message in wrong
    assert not (tmp_path / "o.csv").exists()


def test_one_odd_row_of_probabilities_is_named(longtail, tmp_path):
    frame = whole("probabilities")
    frame.loc[7, "logit_fox"] = 0.0
    frame.to_csv(tmp_path / "m.csv", index=False)
    status, _, wrong = adjusted(longtail, "m.csv")
    assert status == 2
    assert "row 7 (counted from 0) sums to" in wrong


@pytest.mark.parametrize(
    "pattern",
    [
        "model-{}.csv",
        "model_{}.csv",
        "model.{}.csv",
        "model {}.csv",
        "{}_logits.csv",
        "model{}.csv",
    ],
)
def test_file_names_tell_the_split(pattern, longtail, tmp_path):
    frame = whole()
    sources = []
    for split, word in (("train", "training"), ("val", "validation"), ("test", "Test")):
        name = pattern.format(word.title() if "model{" in pattern else word)
        sources.append(name)
        rows = frame["split"] == split
        frame[rows].drop(columns="split").to_csv(tmp_path / name, index=False)
    status, _, wrong = adjusted(longtail, *sources, out="o")
    assert status == 0, wrong
    assert note(tmp_path / "o" / "adjustment.json")["scores"]["images"] == sum(TEST)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("x-dev", "val"), ("valLogits", "val"), ("resnet50_TEST", "test"), ("latest", None),
        ("interval", None), ("train_test", "test"), ("test2024", "test"), ("contrasts", None),
    ],
)  # fmt: skip
def test_words_in_file_names(name, split, tmp_path):
    assert split_of_name(tmp_path / f"{name}.csv") == split


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "Split"}, None),
        ({"split": " split", "label": "LABEL "}, None),
        ({"logit_fox": "Logit_fox"}, None),
        ({"split": "splits"}, "is almost `split`"),
        ({"split": "spilt"}, "is almost `split`"),
        ({"label": "labels"}, "is almost `label`"),
        ({"split": "subset"}, "the column 'subset' contains names of splits"),
        ({"split": "camera"}, "contains names of splits"),
    ],
)
def test_headers_that_are_nearly_right(change, message, longtail, tmp_path):
    whole().rename(columns=change).to_csv(tmp_path / "m.csv", index=False)
    status, _, wrong = adjusted(longtail, "m.csv")
    if message is None:
        assert status == 0, wrong
        assert note(tmp_path / "o-adjustment.json")["scores"]["images"] == sum(TEST)
        return
    assert status == 2
    assert message in wrong


def test_tables_that_say_different_things(longtail, tmp_path):
    frame = whole()
    inside = frame["split"] == "train"
    frame[inside].to_csv(tmp_path / "a.csv", index=False)
    frame[~inside].drop(columns="split").to_csv(tmp_path / "b.csv", index=False)
    _, _, wrong = adjusted(longtail, "a.csv", "b.csv", out="o")
    assert "b.csv does not say which split" in wrong
    whole("probabilities")[~inside].to_csv(tmp_path / "b.csv", index=False)
    _, _, wrong = adjusted(longtail, "a.csv", "b.csv", out="o")
    assert "b.csv contains a different kind of scores" in wrong
    text = (tmp_path / "a.csv").read_text().split("\n")
    (tmp_path / "c.csv").write_text(
        "\n".join([text[0], *(f"{line},1" for line in text[1:] if line)])
    )
    _, _, wrong = adjusted(longtail, "c.csv")
    assert "more cells than the header" in wrong


def archive(**changes):
    features = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    arrays = {
        "features": features, "labels": np.arange(30) % 3, "split": np.repeat(["train", "val", "test"], 10),
        "weight": np.eye(3, 4), "bias": np.zeros(3), "class_counts": np.array([4, 3, 3]),
    }  # fmt: skip
    return {k: v for k, v in (arrays | changes).items() if v is not None}


BIG = np.where(np.arange(30) == 5, 2**31, np.arange(30) % 3)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"labels": BIG, "weight": None, "class_counts": None}, "30 rows and row 5 (counted from 0) has"),
        ({"labels": np.array(["9" * 30] * 30)}, "3 class counts but 1 class names"),
        ({"labels": np.array([1.5] * 30)}, "whole numbers from 0"),
        ({"labels": np.array([[0], [1]] * 15)}, "labels of shape [30, 1]"),
        ({"features": np.zeros(30)}, "[N, width], but have shape [30]"),
        ({"features": np.zeros((30, 4, 1))}, "[N, width], but have shape"),
        ({"features": np.array([["a"] * 4] * 30)}, "are not numbers"),
        ({"features": np.full((30, 4), 1e200)}, "not finite, or too large for float32"),
        ({"weight": np.full((3, 4), 1e200)}, "not finite"),
        ({"weight": np.zeros((3, 5))}, "weight is for 5 features"),
        ({"assumed_prior": np.array([0.5, 0.6, 0.1])}, "must sum to 1"),
        ({"assumed_prior": np.array([0.5, 0.5])}, "2 shares for 3 classes"),
        ({"classes": np.array("fox")}, "classes must be a list"),
        ({"class_counts": np.array(5)}, "class_counts has shape []"),
        ({"split": np.array(["trian"] * 30)}, "is also trian"),
    ],
)  # fmt: skip
def test_archives_that_are_damaged(arrays, message, longtail, tmp_path):
    np.savez(tmp_path / "m.npz", **archive(**arrays))
    status, _, wrong = adjusted(longtail, "m.npz", out="o.npz", by="crt", more=())
    assert (status, "m.npz" in wrong or "classes" in wrong or "classifier" in wrong) == (2, True), (
        wrong
    )
    assert message in wrong


def test_files_that_are_no_tables(longtail, tmp_path):
    np.save(tmp_path / "array.npz.npy", np.zeros(3))
    (tmp_path / "array.npz.npy").rename(tmp_path / "array.npz")
    (tmp_path / "empty.npz").write_bytes(b"")
    (tmp_path / "empty.csv").write_bytes(b"")
    (tmp_path / "wide.csv").write_bytes("label,logit_a\n".encode("utf-16"))
    (tmp_path / "evil.csv").write_text("label,logit_a,logit_b\n\x1b[31mred,1,2\n")
    table = pa.Table.from_pandas(whole().head(5))
    bad = table.replace_schema_metadata({b"longtail": b"{not json"})
    pq.write_table(bad, tmp_path / "bad.parquet")
    pq.write_table(
        table.replace_schema_metadata({b"longtail": b'{"classes": 5}'}), tmp_path / "odd.parquet"
    )
    os.mkfifo(tmp_path / "pipe.csv")
    for path in sorted(tmp_path.iterdir()):
        status, _, wrong = adjusted(longtail, path.name)
        assert status == 2
        assert path.name in wrong, wrong
        assert "\x1b" not in wrong
        assert len(wrong) < 500


@pytest.mark.parametrize("strength", ["1e300", "nan", "inf", "-1000"])
def test_strengths_out_of_this_world(strength, longtail, tmp_path):
    whole().to_csv(tmp_path / "m.csv", index=False)
    for by in ("logit-adjust", "temperature"):
        status, _, wrong = adjusted(longtail, "m.csv", by=by, more=(f"--strength={strength}",))
        assert status == 2
        assert "--strength" in wrong
    assert [path.name for path in tmp_path.iterdir()] == ["m.csv"]


@pytest.mark.parametrize("suffix", ["csv", "parquet", "npz"])
def test_a_second_correction_knows_of_the_first(suffix, longtail, tmp_path):
    """Moved to a prior and then to another one is moved to the other one at once."""
    frame = whole()
    source = tmp_path / f"m.{suffix}"
    if suffix == "npz":
        logits = frame[[f"logit_{name}" for name in NAMES]].to_numpy()
        np.savez(
            source, logits=logits, labels=frame["label"].to_numpy(str), classes=np.array(NAMES),
            split=frame["split"].to_numpy(str),
        )  # fmt: skip
    else:
        frame.to_csv(source, index=False) if suffix == "csv" else frame.to_parquet(source)
    (tmp_path / "a.txt").write_text("class,share\nfox,0.1\nlynx,0.2\nowl,0.7\n")
    (tmp_path / "b.txt").write_text("class,share\nfox,0.5\nlynx,0.3\nowl,0.2\n")
    for start, prior, out in (("m", "a", "x"), ("x", "b", "y"), ("m", "b", "z")):
        line = {"by": "prior", "more": ("--prior", f"{prior}.txt"), "out": f"{out}.{suffix}"}
        status, _, wrong = adjusted(longtail, f"{start}.{suffix}", **line)
        assert status == 0, wrong
    twice, once = (read_tables([tmp_path / f"{n}.{suffix}"]).evidence for n in "yz")
    difference = twice.logits("test").softmax(1) - once.logits("test").softmax(1)
    assert difference.abs().max() < 1e-5
    assert twice.prior().tolist() == pytest.approx([0.5, 0.3, 0.2])
    assert note(tmp_path / "x-adjustment.json")["assumed_prior"] == pytest.approx([0.1, 0.2, 0.7])


# --- tried as a new user would -----------------------------------------------------------------


def test_softmax_taken_twice_is_refused(longtail, tmp_path):
    frame = whole("probabilities")
    columns = [f"logit_{name}" for name in NAMES]
    again = np.exp(frame[columns].to_numpy())
    frame[columns] = again / again.sum(axis=1, keepdims=True)
    frame.to_csv(tmp_path / "m.csv", index=False)
    status, _, wrong = adjusted(longtail, "m.csv")
    assert status == 2
    assert "softmax had been applied twice" in wrong


def test_files_that_would_overwrite_or_count_twice(longtail, tmp_path):
    frame = whole()
    for folder, rows in (("a", frame["split"] == "train"), ("b", frame["split"] != "train")):
        (tmp_path / folder).mkdir()
        frame[rows].to_csv(tmp_path / folder / "m.csv", index=False)
    _, _, wrong = adjusted(longtail, "a/m.csv", "b/m.csv", out="o")
    assert "have the same name" in wrong
    shutil.copy(tmp_path / "b" / "m.csv", tmp_path / "copy.csv")
    _, _, wrong = adjusted(longtail, "b/m.csv", "copy.csv", "a/m.csv", out="o")
    assert "copy.csv contains the same rows as b/m.csv" in wrong
    assert not (tmp_path / "o").exists()


def test_names_of_files_and_what_is_inside(longtail, tmp_path):
    whole().to_csv(tmp_path / "M.CSV", index=False)
    assert adjusted(longtail, "M.CSV", out="o.csv")[0] == 0
    _, _, wrong = adjusted(longtail, "M.CSV", out="o.parquet")
    assert "--out ends in .parquet, but the file is written in the format of M.CSV" in wrong
    whole().to_csv(tmp_path / "semi.csv", index=False, sep=";", decimal=",")
    _, _, wrong = adjusted(longtail, "semi.csv", out="s.csv")
    assert "by ';'" in wrong
    whole().to_csv(tmp_path / "index.csv")
    assert adjusted(longtail, "index.csv", out="i.csv")[0] == 0


def test_archives_of_bytes_and_small_numbers(longtail, tmp_path):
    frame = whole()
    np.savez(
        tmp_path / "m.npz", logits=frame[[f"logit_{n}" for n in NAMES]].to_numpy(np.float16),
        labels=frame["label"].to_numpy("S5"), split=frame["split"].to_numpy("S5"),
        classes=np.array(NAMES, "S5"),
    )  # fmt: skip
    assert adjusted(longtail, "m.npz", out="o.npz")[0] == 0
    after = note(tmp_path / "o-adjustment.json")["scores"]["groups"]["all"]["after"]["value"]
    assert after == pytest.approx(right_accuracy(), abs=0.005)


def test_a_corrected_table_that_was_edited_does_not_say_its_prior(longtail, tmp_path):
    whole().to_csv(tmp_path / "m.csv", index=False)
    (tmp_path / "shares.csv").write_text(" Class, Share\nfox ,50\nlynx,30\nowl,20\n")
    more = ("--prior", "shares.csv")
    assert adjusted(longtail, "m.csv", by="prior", more=more, out="x.csv")[0] == 0
    assert note(tmp_path / "x-adjustment.json")["deployed_prior"] == [0.5, 0.3, 0.2]
    with (tmp_path / "x.csv").open("a") as stream:
        stream.write("fox,test,1,2,3\n")
    status, _, wrong = adjusted(longtail, "x.csv", by="prior", more=more, out="y.csv")
    assert status == 2
    assert "--assumed" in wrong
    more = (*more, "--assumed", "shares.csv", "--force")  # nothing changes
    assert adjusted(longtail, "x.csv", by="prior", more=more, out="y.csv")[0] == 0


# --- harm ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("by", "more", "reason"),
    [
        ("logit-adjust", ("--strength=-1",), "macro accuracy on val is"),
        ("logit-adjust", ("--strength", "0"), "macro accuracy on val is"),
        ("temperature", ("--strength", "0.05"), "negative log-likelihood on val is"),
        (
            "logit-adjust",
            ("--strength", "50"),
            "all images of test would be predicted as the same class, owl",
        ),
        (
            "prior",
            ("--prior", "uniform", "--assumed", "uniform"),
            "the model's scores already assume this class distribution",
        ),
    ],
)
def test_corrections_that_do_not_help_are_not_written(by, more, reason, longtail, tmp_path):
    whole().to_csv(tmp_path / "m.csv", index=False)
    status, shown, wrong = adjusted(longtail, "m.csv", by=by, more=more)
    assert status == 2
    assert reason in wrong
    assert f"of {sum(TEST):,} predictions change" in shown
    assert not (tmp_path / "o.csv").exists()
    assert adjusted(longtail, "m.csv", by=by, more=(*more, "--force"))[0] == 0
    assert reason in note(tmp_path / "o-adjustment.json")["does_not_help"]


def test_an_estimate_is_tried_on_val_first(longtail, tmp_path):
    whole().to_csv(tmp_path / "m.csv", index=False)
    more = ("--prior", "estimate")
    assert (
        adjusted(longtail, "m.csv", by="prior", more=more, out="x.csv")[0] == 0
    )  # exact posteriors
    # scores that are no posteriors lead the estimate astray; val is as the scores assume
    frame = whole()
    frame[["logit_fox", "logit_lynx"]] *= 0.2
    few = frame["split"] == "val"
    frame = pd.concat([frame[~few], frame[few].iloc[:61], frame[few].iloc[-1:]])
    frame.to_csv(tmp_path / "y.csv", index=False)
    status, _, wrong = adjusted(longtail, "y.csv", by="prior", more=more, out="z.csv")
    assert status == 2
    assert "the estimate is off by" in wrong or "as the same class" in wrong


# --- delivery -----------------------------------------------------------------------------------


def test_a_folder_is_whole_or_not_there(tmp_path):
    target = tmp_path / "out"

    def dies():
        with writing_folder(target) as folder:
            (folder / "a").write_text("half")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        dies()
    assert list(tmp_path.iterdir()) == []
    # what a killed process left is removed; what a living one is writing is not
    gone, living = tmp_path / ".out.999999999.tmp", tmp_path / ".out.1.tmp"
    for leftover in (gone, living):
        leftover.mkdir()
        (leftover / "a").write_text("half")
    target.mkdir()  # an empty folder may be there
    with writing_folder(target) as folder:
        assert not gone.exists()
        (folder / "a").write_text("whole")
    assert (target / "a").read_text() == "whole"
    assert living.exists()
    shutil.rmtree(living)


def test_a_killed_adjustment_leaves_nothing(longtail, tmp_path, monkeypatch):
    for split in ("train", "val", "test"):
        whole()[lambda f, s=split: f["split"] == s].to_csv(tmp_path / f"m-{split}.csv", index=False)
    sources = [f"m-{split}.csv" for split in ("train", "val", "test")]
    real = pd.DataFrame.to_csv
    written = []

    def dies(frame, path, *more, **options):
        written.append(path)
        if len(written) == 2:
            raise KeyboardInterrupt
        return real(frame, path, *more, **options)

    monkeypatch.setattr(pd.DataFrame, "to_csv", dies)
    status, _, _ = adjusted(longtail, *sources, out="o")
    assert status == 130
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(sources)
    status, _, _ = adjusted(longtail, *sources, out="o")
    assert status == 0
    assert (tmp_path / "o" / "adjustment.json").exists()
