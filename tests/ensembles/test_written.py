"""An ensemble that is written as a model: what it predicts, what it keeps, what it refuses."""

import itertools
import json
import shutil
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import longtail
from longtail import api
from longtail.cli import show
from longtail.core import ClassCounts, ShotGroups
from longtail.core.errors import CheckpointError, ConfigError, ProtocolError
from longtail.ensembles import Stacking, SubModelLogits, fit_stacking, simplex_grid
from longtail.ensembles.combination import Combination, fit_average, make_combination
from longtail.ensembles.combined_model import Combined, Member
from longtail.ensembles.recommendation import judge, recommend
from longtail.evaluation.halves import halves
from longtail.methods.method import Method
from longtail.prediction import splits

COUNTS = ClassCounts([300, 150, 60, 40, 9, 5])
GROUPS = ShotGroups.from_counts(COUNTS)


def logits(size=60, count=3, classes=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(size) % classes
    truth = torch.nn.functional.one_hot(labels, classes).float()
    each = torch.randn(size, count, classes, generator=generator) + 1.5 * truth[:, None]
    return each, labels


def as_mixture(each, labels, seed=9):
    return SubModelLogits(each, each, logits(len(labels), each.shape[1], seed=seed)[0], labels)


# --- what is computed -------------------------------------------------------------------------


def test_a_weighted_average_is_the_weighted_sum_of_probabilities():
    each, _ = logits()
    made = Combination("weighted average", 3, 6)
    made.weights.copy_(torch.tensor([0.5, 0.2, 0.3]))
    p = each.double().softmax(dim=2)
    by_hand = 0.5 * p[:, 0] + 0.2 * p[:, 1] + 0.3 * p[:, 2]
    torch.testing.assert_close(made(each, each).softmax(1).double(), by_hand, atol=1e-6, rtol=0)
    made.weights.copy_(torch.tensor([1.0, 0.0, 0.0]))
    torch.testing.assert_close(made(each, each).softmax(1).double(), p[:, 0], atol=1e-6, rtol=0)


def test_other_combinations_by_hand():
    each, _ = logits()
    mirror, _ = logits(seed=5)
    p, q = each.softmax(2), mirror.softmax(2)
    plain = {
        "average": p.mean(1),
        "average of logits": each.mean(1).softmax(1),
        "average over views": (p.mean(1) + q.mean(1)) / 2,
    }
    for name, expected in plain.items():
        found = Combination(name, 3, 6)(each, mirror).softmax(1)
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    bias = torch.randn(3, 6, generator=torch.Generator().manual_seed(2))
    made = make_combination("average without known bias", (3, 6), groups=GROUPS, bias=bias)
    torch.testing.assert_close(
        made(each, each).softmax(1), (each - bias).softmax(2).mean(1), atol=1e-6, rtol=0
    )
    # the best of the grid of 231 weights, image by image
    made = Combination("instance, cosine of probabilities", 3, 6)
    for row in range(5):
        values = [
            torch.nn.functional.cosine_similarity(w @ p[row], w @ q[row], dim=0)
            for w in simplex_grid(3).float()
        ]
        best = simplex_grid(3).float()[int(torch.stack(values).argmax())]
        found = made(each[row : row + 1], mirror[row : row + 1]).softmax(1)[0]
        torch.testing.assert_close(found, best @ p[row], atol=1e-5, rtol=0)


def test_the_weights_of_an_average_are_the_most_likely_ones():
    each, labels = logits(90, 3, seed=4)
    each[:, 0] += 1.2 * torch.nn.functional.one_hot(labels, 6)  # it knows more
    right = each.double().softmax(2)[torch.arange(90), :, labels]

    def likelihood(weights):  # 15 images of every class
        return float((right @ weights.double()).log().mean())

    best = max(likelihood(weights) for weights in simplex_grid(3, 0.01))
    found = fit_average(each, labels)
    assert float(found.sum()) == pytest.approx(1, abs=1e-6)
    assert likelihood(found) >= best - 1e-6
    # every class counts alike: images of one class twice change nothing
    twice = torch.cat([torch.arange(90), (labels == 2).nonzero()[:, 0]])
    torch.testing.assert_close(fit_average(each[twice], labels[twice]), found, atol=1e-4, rtol=0)


def test_a_recommendation_is_chosen_on_val_and_measured_elsewhere():
    each, labels = logits(600, 3, seed=1)
    held, told = logits(300, 3, seed=2)
    found = recommend(
        as_mixture(each, labels), ["a", "b", "c"], GROUPS, held_out=as_mixture(held, told)
    )
    values = judge(as_mixture(held, told), GROUPS)
    assert found["combination"] == max(values, key=values.get)
    assert (found["chosen_on"], found["images"], found["held_out_images"]) == ("val", 600, 300)
    # three independent witnesses are better than one
    assert found["groups"]["all"]["difference"]["interval"][0] > 0
    # labels of the scored split choose nothing
    other = recommend(
        as_mixture(each, labels.roll(1)), ["a", "b", "c"], GROUPS, held_out=as_mixture(held, told)
    )
    assert (other["combination"], other["single"]) == (found["combination"], found["single"])
    # what is fitted on val is judged on the half that did not fit it
    half = torch.from_numpy(halves(told.numpy()))
    right = torch.zeros(300, dtype=torch.bool)
    for rows in (half, ~half):
        stacking = fit_stacking(held[rows], told[rows], GROUPS)
        right[~rows] = stacking(held[~rows]).argmax(1) == told[~rows]
    assert values["stacking"] == pytest.approx(float(right.double().mean()), abs=1e-9)


def test_a_single_model_may_be_best_and_without_val_nothing_is_chosen():
    each, labels = logits(300, 2, seed=1)
    held, told = logits(120, 2, seed=2)
    for given, truth in ((each, labels), (held, told)):
        given[:, 0] = 9 * torch.nn.functional.one_hot(truth, 6)  # always right
        given[:, 1] = 30 * torch.nn.functional.one_hot((truth + 1) % 6, 6)  # and always wrong
    args = (as_mixture(each, labels), ["good", "bad"], GROUPS)
    found = recommend(*args, held_out=as_mixture(held, told))
    assert (found["combination"], found["single"]) == (None, "good")
    plain = recommend(*args)
    assert (plain["combination"], plain["chosen_on"]) == ("average", None)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("group, SADE", "all test images together"),
        ("instance, dot of probabilities, 5 steps", "step by step"),
        ("oracle: any sub-model is right", "test labels"),
        ("avrage", "There is no combination"),
    ],
)
def test_what_is_no_function_of_an_image_is_not_kept(name, words):
    with pytest.raises(ConfigError, match=words):
        Combination(name, 2, 6)


def test_what_a_combination_needs():
    with pytest.raises(ProtocolError, match="val split"):
        make_combination("stacking", (3, 6), groups=GROUPS)
    with pytest.raises(ConfigError, match="known bias"):
        make_combination("average without known bias", (3, 6), groups=GROUPS)


class Fixed(Method):
    """Predicts three numbers that depend on the brightness of an image."""

    def __init__(self, values):
        super().__init__()
        self.register_buffer("values", torch.tensor(values))

    def predict(self, images):
        return images.mean(dim=(1, 2, 3))[:, None] * self.values


def test_classes_are_matched_by_name_and_each_member_normalises_for_itself():
    one = Member(Fixed([1.0, 2.0, 3.0]), ("a", "b", "c"), (0.5,) * 3, (0.25,) * 3)
    other = Member(Fixed([5.0, 7.0, 9.0]), ("c", "a", "b"), (0.0,) * 3, (2.0,) * 3)
    made = Combined([one, other], Combination("average of logits", 2, 3), ("a", "b", "c"))
    # brightness 1 is (1 - 0.5) / 0.25 = 2 for the first and 0.5 for the second, whose a, b, c are 7, 9, 5
    expected = [(2 * x + 0.5 * y) / 2 for x, y in zip((1, 2, 3), (7, 9, 5), strict=True)]
    torch.testing.assert_close(made.predict(torch.ones(1, 3, 4, 4)), torch.tensor([expected]))
    strange = Member(Fixed([1.0, 2.0, 3.0]), ("a", "b", "d"), (0.0,) * 3, (1.0,) * 3)
    with pytest.raises(ConfigError, match="only one of these has: c, d"):
        Combined([one, strange], Combination("average", 2, 3), ("a", "b", "c"))


# --- what is written --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("members")
    options = ["epochs=2", "batch_size=16", "validation_per_class=3", "keep_in_train=1"]
    return [
        api.train(f"digits-lt/{name}", options, out=folder / name, device="cpu")
        for name in ("cross-entropy", "balanced-softmax")
    ]


def pixels(size=20):
    return torch.rand(size, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def probabilities(run, images):
    model = longtail.load(run, device="cpu")
    mean, std = (torch.tensor(v)[:, None, None] for v in (model.metadata.mean, model.metadata.std))
    with torch.inference_mode():
        return model.method.predict((images - mean) / std).double().softmax(1)


@pytest.mark.parametrize("name", ["average", "weighted average", "stacking"])
def test_the_written_model_predicts_what_its_members_say(name, runs, tmp_path):
    line = longtail.ensemble(runs, out=tmp_path / "both", combination=name, device="cpu")
    assert line["written"]["combination"] == name
    members = torch.stack([probabilities(run.folder.path, pixels()) for run in runs], dim=1)
    kept = longtail.load(tmp_path / "both", device="cpu").method.combination
    if name == "stacking":
        by_hand = Stacking(kept.by_class.double(), kept.offsets.double())(members.log()).softmax(1)
    else:
        by_hand = (members * kept.weights.double()[:, None]).sum(1)
    found = probabilities(tmp_path / "both", pixels())
    torch.testing.assert_close(found, by_hand, atol=1e-6, rtol=0)


def test_an_ensemble_stands_alone(runs, tmp_path):
    copies = []
    for run in runs:
        shutil.copytree(run.folder.path, tmp_path / run.folder.path.name)
        copies.append(api.Run.open(tmp_path / run.folder.path.name))
    line = longtail.ensemble(copies, out=tmp_path / "both", combination="average", device="cpu")
    before = probabilities(tmp_path / "both", pixels())
    for run in copies:
        shutil.rmtree(run.folder.path)
    assert torch.equal(probabilities(tmp_path / "both", pixels()), before)
    note = json.loads((tmp_path / "both" / "ensemble.json").read_text())
    row = next(row for row in line["mixtures"] if row["name"] == "average")
    assert note["scores"]["accuracy"] == pytest.approx(row["accuracy"])
    Image.fromarray(np.full((8, 8, 3), 90, np.uint8)).save(tmp_path / "x.png")
    table = longtail.predict(tmp_path / "both", tmp_path / "x.png", device="cpu")
    whole = probabilities(tmp_path / "both", torch.full((1, 3, 8, 8), 90 / 255))
    assert table.loc[0, "probability_1"] == pytest.approx(float(whole.max()), abs=1e-5)


@pytest.mark.slow
def test_an_ensemble_is_exported(runs, tmp_path, longtail):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    folders = [run.folder.path for run in runs]
    line = (*folders, "--out", "both", "--combination", "average", "--device", "cpu")
    assert longtail("ensemble", *line)[0] == 0
    status, said, wrong = longtail("export", "both", "--format", "onnx", "--out", "both.onnx")
    assert status == 0, wrong
    assert "largest difference" in said
    card = (tmp_path / "both-card.md").read_text()
    assert "the average of 2 models" in card
    status, _, wrong = longtail("export", "both", "--format", "safetensors")
    assert (status, "holds the weights of a single network" in " ".join(wrong.split())) == (2, True)


def test_weights_of_each_image_are_predicted_with_and_not_exported(runs, tmp_path, longtail):
    folders = [run.folder.path for run in runs]
    name = "instance, cosine of probabilities"
    line = (*folders, "--out", "both", "--combination", name, "--device", "cpu")
    assert longtail("ensemble", *line)[0] == 0
    status, _, wrong = longtail("export", "both", "--format", "onnx")
    assert (status, "searches weights for each image" in " ".join(wrong.split())) == (2, True)
    assert probabilities(tmp_path / "both", pixels()).shape == (20, 10)


def test_where_no_combination_is_better_the_folder_that_stays_empty_is_named(
    runs, tmp_path, longtail, monkeypatch
):
    monkeypatch.setattr(
        "longtail.ensembles.several_runs.recommend",
        lambda *given, **more: recommend(*given, **more) | {"combination": None},
    )
    folders = [run.folder.path for run in runs]
    status, said, wrong = longtail("ensemble", *folders, "--out", "both", "--device", "cpu")
    assert status == 0, wrong
    assert "Nothing was written to both. To write" in " ".join(said.split())
    assert not (tmp_path / "both").exists()


@pytest.mark.slow
def test_the_command_line_recommends_first(runs, tmp_path, longtail):
    folders = [run.folder.path for run in runs]
    status, said, wrong = longtail("ensemble", *folders, "--device", "cpu")
    assert status == 0, wrong
    status, on_val, wrong = longtail("ensemble", *folders, "--split", "val", "--device", "cpu")
    assert status == 0, wrong
    assert "(val is what is scored, so this is the plain average)" in " ".join(on_val.split())
    assert said.startswith("recommended: ")
    assert "the best single model" in " ".join(said.split())
    assert "SADE" not in said
    assert "SADE" in longtail("ensemble", *folders, "--all", "--device", "cpu")[1]


@pytest.mark.slow
def test_a_log_says_how_far_it_is(runs, longtail, monkeypatch):
    """Batches of 40 images take 10 s each by the clock, so that a line is due after every third."""
    clock = SimpleNamespace(perf_counter=itertools.count(step=10.0).__next__)
    monkeypatch.setattr(show, "time", clock)
    small = partial(splits.evaluation_batches, batch_size=40)
    monkeypatch.setattr(splits, "evaluation_batches", small)
    status, _, wrong = longtail("ensemble", *(run.folder.path for run in runs), "--device", "cpu")
    assert status == 0, wrong
    images = len(runs[0].open_data().split("test").manifest)
    told = [line for line in wrong.splitlines() if f" of {2 * 2 * images:,} images, " in line]
    assert len(told) > 2
    assert all(line.startswith("predicting with each model and view: ") for line in told)
    done = [int(line.split(": ")[1].split(" of ")[0].replace(",", "")) for line in told]
    assert done == sorted(done)
    assert done[0] < images  # while the first model predicts the first view


def test_members_may_be_augmented_differently(runs, tmp_path, longtail):
    options = ["epochs=1", "batch_size=16", "validation_per_class=3", "keep_in_train=1"]
    other = api.train(
        "digits-lt/cross-entropy",
        [*options, "augmentation=none"],
        out=tmp_path / "other",
        device="cpu",
    )
    assert other.config.data.augmentation != runs[0].config.data.augmentation
    status, said, wrong = longtail(
        "ensemble", runs[0].folder.path, other.folder.path, "--device", "cpu"
    )
    assert status == 0, wrong
    assert said.startswith("recommended: ")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--combination", "average"], "needs --out"),
        (["--out", "x", "--combination", "group, SADE"], "all test images together"),
        (["--out", "x", "--combination", "average over views", "--views", "sade"], "random views"),
        (["--out", "full"], "already exists"),
    ],
)
def test_wrong_wishes_are_told_in_words(more, words, runs, tmp_path, longtail):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    status, _, wrong = longtail("ensemble", *(run.folder.path for run in runs), *more)
    assert status == 2
    assert words in " ".join(wrong.split())


def test_a_damaged_ensemble_is_refused(runs, tmp_path, longtail):
    folders = [run.folder.path for run in runs]
    line = (*folders, "--out", "both", "--combination", "average", "--device", "cpu")
    assert longtail("ensemble", *line)[0] == 0
    status, _, wrong = longtail("evaluate", "both")
    assert (status, "is an ensemble" in wrong) == (2, True)
    file = tmp_path / "both" / "combination.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    with pytest.raises(CheckpointError, match="changed after it was written"):
        api.load(tmp_path / "both", device="cpu")
    shutil.rmtree(tmp_path / "both" / "members" / "2")
    file.unlink()
    with pytest.raises((CheckpointError, ConfigError)):
        api.load(tmp_path / "both", device="cpu")
