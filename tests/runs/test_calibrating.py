"""A run is calibrated on its val split, and predict and the card say when not to believe it."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from safetensors import safe_open

from longtail import api
from longtail.core.errors import CheckpointError, ProtocolError
from longtail.evaluation.metrics import softmax, wilson_interval
from longtail.prediction import read_predictions
from longtail.prediction.calibration import Calibration
from longtail.runs import Run
from longtail.runs.calibrating import CHOSEN_AFTERWARDS, Wish, calibrate, describe
from longtail.uncertainty import lower_bound

SIZES = {"ant": 150, "bee": 60, "cow": 12, "dog": 12}
COLOURS = {"ant": (250, 0, 0), "bee": (0, 250, 0), "cow": (0, 0, 250), "dog": (0, 80, 250)}
HIERARCHY = (
    "class,parent\nant,insect\nbee,insect\ncow,beast\ndog,beast\nbeast,animal\ninsect,animal\n"
)


def write_images(root, sizes, seed, noise=0.6):
    generator = np.random.default_rng(seed)
    for name, size in sizes.items():
        (root / name).mkdir(parents=True)
        for number in range(size):
            pixels = noise * generator.integers(0, 256, (16, 16, 3)) + (1 - noise) * np.array(
                COLOURS[name]
            )
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{number:03d}.png")
    return root


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    images = write_images(folder / "images", SIZES, seed=0)
    options = [
        "epochs=4",
        "batch_size=32",
        "backbone=resnet20",
        "data.validation_share=0.4",
        "select=last",
    ]
    api.train(str(images), options, out=folder / "run", progress=False, device="cpu")
    run = Run.open(folder / "run")
    parents = dict(line.split(",") for line in HIERARCHY.split()[1:])
    calibrate(run, Wish(precision=0.8, coverage=0.8, alarm=0.1, parents=parents), device="cpu")
    return folder


@pytest.fixture
def run(trained, tmp_path):
    shutil.copytree(trained / "run", tmp_path / "run")
    return tmp_path / "run"


def test_thresholds_are_chosen_on_val_and_hold_by_the_bound(longtail, run):
    assert longtail("evaluate", run, "--split", "val")[0] == 0
    found = read_predictions(run / "predictions-val.parquet")
    told = Calibration.read(run / "calibration.safetensors").described
    assert told.images == len(found.labels)
    assert told.groups == ("medium", "medium", "few", "few")  # of 60, 24, 5 and 5 training images
    sure, predicted = softmax(found.logits).max(axis=1), found.predicted()
    for name, own in told.reject.items():
        inside = np.isin(predicted, [c for c in range(4) if name in ("all", told.groups[c])])
        assert own.images == inside.sum()
        if own.value is not None:
            accepted = inside & (sure > own.value)
            hits = int((accepted & (predicted == found.labels)).sum())
            assert (own.accepted, own.right) == (accepted.sum(), hits)
            assert 0.8 <= own.bound <= lower_bound(hits, own.accepted, 0.05)
    assert told.reject["medium"].value is not None
    assert told.reject["few"].value is None  # 10 val images show nothing
    # 1/.2 - 1 = 4 val images give a class a threshold of its own
    assert told.set_pools == ("own",) * 4
    assert told.set_images == tuple(np.bincount(found.labels))


def test_predict_says_what_is_accepted_possible_and_unusual(longtail, trained, run, tmp_path):
    new = write_images(tmp_path / "new", SIZES | {"ant": 15, "bee": 15}, seed=5)
    status, out, err = longtail("predict", run, new, "--out", "new.parquet")
    assert status == 0, err
    known = pd.read_parquet(tmp_path / "new.parquet").set_index("path")
    labels = [path.split("/")[-2] for path in known.index]
    names = set(known["accepted_as"].dropna())
    assert names <= {"ant", "bee", "cow", "dog", "insect", "beast"}
    accepted = known["accepted_as"] == known["class_1"]
    assert accepted.sum() >= 10
    assert not (accepted & (known["group"] == "few")).any()
    covered = [label in said for label, said in zip(labels, known["prediction_set"], strict=True)]
    assert np.mean(covered) > 0.6
    assert (known["unusual"] == (known["typical"] <= 0.1)).all()
    assert known["unusual"].mean() < 0.4
    # a spreadsheet gets the names of a set in one cell
    assert longtail("predict", run, new / "ant", "--out", "ant.csv")[0] == 0
    cells = pd.read_csv(tmp_path / "ant.csv")["prediction_set"].fillna("")
    assert [c.split(" | ") for c in cells if c] == [
        list(c) for p, c in known["prediction_set"].items() if "/ant/" in p and len(c)
    ]
    # another class prior moves the predictions, which were not calibrated for it
    status, out, err = longtail("predict", run, new / "ant", "--prior", "uniform")
    assert status == 0
    assert "accepted_as" not in out.splitlines()[0]
    assert "prediction_set" in out.splitlines()[0]
    assert "no column accepted_as" in err


def test_what_holds_is_measured_on_test(longtail, run):
    told = Calibration.read(run / "calibration.safetensors").described
    found = read_predictions(run / "predictions-test.parquet")
    row = told.measured["all"]
    sure, predicted = softmax(found.logits).max(axis=1), found.predicted()
    limits = [told.reject[told.groups[c]].value for c in predicted]
    accepted = np.array(
        [limit is not None and s > limit for s, limit in zip(sure, limits, strict=True)]
    )
    right = accepted & (predicted == found.labels)
    assert (row["images"], row["accepted"], row["right"]) == (
        len(sure),
        accepted.sum(),
        right.sum(),
    )
    assert row["precision"]["interval"] == pytest.approx(
        wilson_interval(right.sum(), accepted.sum())
    )
    thresholds = np.array([np.inf if t is None else t for t in told.set_thresholds])
    sets = 1 - softmax(found.logits) <= thresholds
    assert row["covered"] == sets[np.arange(len(sure)), found.labels].sum()
    assert row["set_size"] == pytest.approx(sets.sum(axis=1).mean())


def test_features_far_from_all_of_training_are_unusual(trained):
    found = Calibration.read(trained / "run" / "calibration.safetensors")
    bank = found.nearest.bank
    assert len(bank) == 60 + 24 + 5 + 5
    logits = np.zeros((2, 4), np.float32)
    judged = found.judge(logits, np.stack([bank[0], -bank.mean(axis=0)]))
    assert judged.unusual.tolist() == [False, True]
    assert judged.typical[0] == 1  # a training image lies as near as can be


def test_the_verb_explains_itself(longtail, run, tmp_path):
    (tmp_path / "kinds.csv").write_text(HIERARCHY)
    status, out, err = longtail("calibrate", run, "--precision", 0.97, "--hierarchy", "kinds.csv")
    assert status == 0, err
    # .97^99 = .049
    assert "To show that 97 % of the accepted predictions are correct takes 99 correctly" in out
    assert "The highest precision that val shows there is" in out
    assert "correct, if a coarser name" in out
    for wrong in (
        ["--precision", 1],
        ["--coverage", 0],
        ["--sets", "raps"],
        ["--hierarchy", "absent.csv"],
    ):
        assert longtail("calibrate", run, *wrong)[0] == 2, wrong
    (tmp_path / "kinds.csv").write_text(HIERARCHY.replace("cow,beast", "bull,beast"))
    status, _, err = longtail("calibrate", run, "--hierarchy", "kinds.csv")
    assert status == 2
    assert "has no parent for: cow" in err


def test_what_cannot_be_promised_comes_with_what_can_and_with_a_remedy(run):
    told = Calibration.read(run / "calibration.safetensors").described
    few = told.reject["few"]
    assert told.reject["medium"].highest is None
    text = "\n".join(describe(told))
    assert "few shot: no prediction is accepted. No threshold on the" in text
    assert text.count("data.validation_share") == 1
    # 9 images take 14 correct ones: .8^14 = .044
    short = few.model_copy(update={"images": 9, "needed": 14, "highest": 0.71})
    off = {"share_covered": {"value": 0.59}, "share_unusual": {"value": 0.2}}
    made = told.model_copy(
        update={
            "reject": {"few": short},
            "set_pools": ("own", "few shot", "all small classes", "all small classes"),
            "measured": {"few": off},
        }
    )
    first, *rest = describe(made)
    assert "takes 14 correctly classified val images, more than the 9 val images that are" in first
    assert first.endswith("The highest precision that val shows there is 71 % (--precision 0.71).")
    # .8^13 = .055 and .8^14 = .044
    assert rest[1].startswith(
        "To show 80 %, a group needs at least 14 val images predicted as one of its"
    )
    poor = made.model_copy(update={"reject": {"few": short.model_copy(update={"highest": 0.49})}})
    assert "highest precision" not in "".join(describe(poor))  # nobody accepts what is mostly wrong
    assert CHOSEN_AFTERWARDS not in describe(poor)
    # the same images chose it
    assert rest[0] == CHOSEN_AFTERWARDS
    assert "is not guaranteed with 95 % confidence" in CHOSEN_AFTERWARDS
    text = "\n".join(rest)
    assert "at least 4 val images (1 of 4 classes)" in text
    assert (
        "Classes with fewer val images share thresholds: one for 1 few shot class and one for 2 classes "
        "whose groups have too few val images (chosen on the images of all classes with fewer than 4). For "
        "these, 80 % holds on average over the classes" in text
    )
    # coverage .8, alarm .1: more than twice the errors, but .2 is just twice
    assert "On test: few shot, 59.0 % of the sets contain the class." in text
    assert "flagged" not in text


def test_without_val_nothing_is_chosen(longtail, image_folder, tmp_path):
    options = ["epochs=1", "batch_size=8", "backbone=resnet20"]
    table = [
        (p.relative_to(tmp_path), p.parent.name, "train") for p in sorted(image_folder.glob("*/*"))
    ]
    table += [(p.with_name(f"copy-{p.name}"), label, "test") for p, label, _ in table[:3]]
    for path, label, split in table:
        if split == "test":
            Image.fromarray(np.full((16, 16, 3), len(label), np.uint8)).save(tmp_path / path)
    pd.DataFrame(table, columns=["path", "label", "split"]).to_csv(tmp_path / "t.csv", index=False)
    run = api.train(
        str(tmp_path / "t.csv"), options, out=tmp_path / "no-val", progress=False, device="cpu"
    )
    with pytest.raises(ProtocolError, match="test never chooses anything"):
        calibrate(run, Wish(), device="cpu")
    assert not run.folder.calibration.exists()


def test_a_damaged_or_foreign_calibration_is_refused(longtail, trained, run):
    file = run / "calibration.safetensors"
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="changed after it was written"):
        Calibration.read(file)
    file.write_bytes(file.read_bytes()[:100])
    status, _, err = longtail("predict", run, trained / "images" / "cow")
    assert status in (1, 2)
    assert "longtail calibrate" in err
    with pytest.raises(CheckpointError, match="other weights"):
        Calibration.read(trained / "run" / "calibration.safetensors", "0" * 64)


def test_exports_carry_the_thresholds(longtail, run):
    status, _, err = longtail("export", run, "--format", "safetensors")
    assert status == 0, err
    with safe_open(run / "export" / "model-safetensors.safetensors", framework="np") as opened:
        told = json.loads(opened.metadata()["calibration"])
    kept = Calibration.read(run / "calibration.safetensors").described
    assert told["set_thresholds"] == list(kept.set_thresholds)
    assert told["reject"]["medium"]["value"] == kept.reject["medium"].value
    card = (run / "export" / "model-safetensors-card.md").read_text()
    assert "When not to trust it" in card
    assert "few shot: no prediction is accepted" in card
