"""`longtail adjust --by auto`: every correction that fits, chosen on val, or none."""

import json

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score

from longtail.adjust import tau_normalize
from longtail.adjust.tool import Classifier, Evidence, Outputs, Request, adjust
from longtail.adjust.tool.choice import TRIED, Choice, Tried, _best, _crossed, choose
from longtail.adjust.tool.corrections import CORRECTIONS, fitting
from longtail.core import ClassCounts
from longtail.core.errors import ConfigError, ProtocolError
from longtail.evaluation.halves import halves

NAMES = ("cat", "lynx", "wolverine")
COUNTS = ClassCounts([60, 12, 4], NAMES)
SIZES = {"train": COUNTS.values, "val": (14, 14, 14), "test": (40, 40, 40)}


def outputs(sizes, seed):
    """Features whose classes lie in the directions of the first three axes."""
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(3), sizes)
    features = generator.normal(size=(len(labels), 8)) + 2.5 * np.eye(3, 8)[labels]
    return Outputs(torch.from_numpy(labels), None, torch.from_numpy(features.astype(np.float32)))


def evidence(**changed):
    """A model that prefers frequent classes by the length of its rows and by its bias."""
    splits = {name: outputs(size, seed) for seed, (name, size) in enumerate(SIZES.items())}
    splits = {name: value for name, value in {**splits, **changed}.items() if value is not None}
    weight = torch.eye(3, 8) * torch.tensor([[3.0], [1.5], [0.8]])
    return Evidence(COUNTS, splits, Classifier(weight, torch.tensor([1.0, 0.0, -1.0])))


def test_a_biased_model_is_corrected_by_the_best_on_val():
    known = evidence()
    choice = choose(known, fitting)
    assert [row.name for row in choice.rows] == ["as it is", *TRIED]
    labels = known.outputs("val").labels.numpy()
    by_name = {row.name: row for row in choice.rows}
    as_it_is = balanced_accuracy_score(labels, known.logits("val").argmax(1))
    assert by_name["as it is"].accuracy == pytest.approx(as_it_is, abs=1e-9)
    for name in ("lws", "crt", "ncm"):  # val fits nothing in them, so that all of it judges
        corrected = adjust(known, name, fitting(name)).corrected
        whole = balanced_accuracy_score(labels, corrected.logits(known, "val").argmax(1))
        assert by_name[name].accuracy == pytest.approx(whole, abs=1e-9)
    best = by_name[choice.name]
    assert best.accuracy > as_it_is + 0.1
    for row in choice.rows:
        if row.name not in choice.left_out:
            assert (row.accuracy, -row.calibration_error) <= (
                best.accuracy,
                -best.calibration_error,
            )
    assert by_name["temperature"].changed == 0


def test_a_strength_is_judged_on_images_that_did_not_choose_it():
    known = evidence()
    labels, features = known.outputs("val").labels, known.features("val")
    half = halves(labels.numpy())
    assert [int(half[labels.numpy() == label].sum()) for label in range(3)] == [7, 7, 7]
    found = _crossed(known, "tau", Request(), adjust(known, "tau").corrected, half)
    weight = known.known_classifier().weight
    for rows in map(torch.from_numpy, (half, ~half)):
        values = [  # tau 0, 0.1, ... 2, by hand
            balanced_accuracy_score(
                labels[rows], (features[rows] @ tau_normalize(weight, step / 10).T).argmax(1)
            )
            for step in range(21)
        ]
        expected = features[~rows] @ tau_normalize(weight, int(np.argmax(values)) / 10).T
        torch.testing.assert_close(found[~rows], expected)


def test_units_stay_in_one_half():
    together = np.arange(42) // 3
    half = halves(np.repeat([0, 1, 2], 14), together)
    for unit in range(14):
        assert len(set(half[together == unit])) == 1
    assert half.sum() == 21  # 7 units of 3


def test_test_is_not_looked_at():
    whole = choose(evidence(), fitting)
    assert choose(evidence(test=None), fitting) == whole
    nonsense = Outputs(torch.zeros(5, dtype=torch.long), None, torch.full((5, 8), 1e6))
    assert choose(evidence(test=nonsense), fitting) == whole


def test_a_good_model_is_left_as_it_is():
    labels = torch.arange(30) % 3
    logits = 40 * torch.eye(3)[labels]  # always right, and sure of it
    known = Evidence(COUNTS, {name: Outputs(labels, logits) for name in ("train", "val")})
    choice = choose(known, fitting)
    assert choice.name is None
    assert choice.rows[0].accuracy == 1
    # features and the last layer are not known
    assert {"tau", "crt", "ncm"} <= set(choice.left_out)
    assert "features" in choice.left_out["crt"]


def test_a_tie_goes_to_the_smaller_calibration_error_among_those_that_gain():
    rows = [
        Tried("as it is", None, 0.709, 0.138, 0),
        Tried("balanced-temperature", 1.02, 0.709, 0.124, 0),
        Tried("tau", 0.5, 0.75, 0.150, 3),
        Tried("lws", None, 0.75, 0.145, 3),
    ]
    assert _best(rows, {}) == "lws"
    assert _best(rows, {"lws": "It cannot be written."}) == "tau"
    # what changes no prediction gains nothing
    assert _best(rows[:2], {}) is None


def test_calibration_alone_is_no_reason_to_choose():
    # three of four right whatever is done; the model is far too sure of it
    labels = torch.tensor([0, 1, 2] * 16)
    told = labels.clone()
    told[::4] = (told[::4] + 1) % 3
    known = Evidence(
        ClassCounts([9, 9, 9], NAMES), {"val": Outputs(labels, 12 * torch.eye(3)[told])}
    )
    choice = choose(known, fitting)
    by_name = {row.name: row for row in choice.rows}
    assert by_name["as it is"].accuracy == by_name["temperature"].accuracy == 0.75
    assert by_name["as it is"].calibration_error == pytest.approx(0.25, abs=1e-4)
    # not 0: each half is tempered by the other, whose share of mistakes differs a little
    assert by_name["temperature"].calibration_error < 0.1
    assert choice.name is None


def test_what_cannot_be_written_is_not_chosen():
    def no_bias(corrected):
        if corrected.means is None and corrected.classifier is None:
            raise ConfigError("The last layer has no bias. Choose another.")

    choice = choose(evidence(), fitting, no_bias)
    assert choice.name in ("tau", "crt", "ncm")
    assert choice.left_out["logit-adjust"] == "The last layer has no bias."


def test_what_the_rows_do_not_show_is_explained_and_nothing_else():
    rows = [
        Tried("as it is", None, 0.66, 0.10, 0),
        Tried("temperature", 1.01, 0.66, 0.08, 0),
        Tried("tau", 0.9, 0.63, 0.01, 16),
        Tried("lws", None, 0.66, 0.10, 0),
        Tried("ncm", None, 0.56, 0.47, 28),
        Tried("logit-adjust", 0.1, 0.68, 0.09, 2),  # better on the halves, not on the whole
    ]
    left_out = dict.fromkeys(
        ("temperature", "ncm", "lws", "crt", "logit-adjust"), "It does not help."
    )
    choice = Choice(None, 86, tuple(rows), left_out)
    assert list(choice.unexplained()) == ["crt", "logit-adjust"]


def test_what_auto_needs():
    with pytest.raises(ProtocolError, match="validation split, and there is none"):
        choose(evidence(val=None), fitting)
    only_features = Evidence(COUNTS, evidence().splits)
    with pytest.raises(ConfigError, match="own predictions"):
        choose(only_features, fitting)


def archive(path, known):
    """Write evidence as the npz that `adjust` reads."""
    splits = [name for name, part in known.splits.items() for _ in range(len(part))]
    np.savez(
        path,
        labels=np.concatenate([part.labels.numpy() for part in known.splits.values()]),
        features=np.concatenate([part.features.numpy() for part in known.splits.values()]),
        split=np.array(splits),
        classes=np.array(NAMES),
        weight=known.classifier.weight.numpy(),
        bias=known.classifier.bias.numpy(),
    )


def test_auto_on_the_command_line(tmp_path, longtail):
    archive(tmp_path / "model.npz", evidence())
    status, said, wrong = longtail("adjust", "model.npz", "--by", "auto", "--out", "better.npz")
    assert status == 0, wrong
    name = choose(evidence(), fitting).name
    assert f"chosen: {name}, by macro accuracy on val" in said
    note = json.loads((tmp_path / "better-adjustment.json").read_text())
    assert note["correction"] == name
    assert [row["name"] for row in note["auto"]["tried"]] == ["as it is", *TRIED]
    expected = adjust(evidence(), name, fitting(name)).corrected
    with np.load(tmp_path / "better.npz") as written:
        if expected.classifier is not None:
            np.testing.assert_allclose(written["weight"], expected.classifier.weight, atol=1e-5)


def test_leaving_it_is_no_error(tmp_path, longtail):
    labels = np.tile(np.arange(3), 20)
    np.savez(
        tmp_path / "good.npz", labels=labels, logits=(40 * np.eye(3)[labels]).astype(np.float32),
        split=np.repeat(["train", "val"], 30), classes=np.array(NAMES),
    )  # fmt: skip
    status, said, _ = longtail("adjust", "good.npz", "--by", "auto")
    assert status == 0
    assert "Leave the model as it is" in said
    assert "Nothing was written. To calibrate" in said
    _, said, _ = longtail("adjust", "good.npz", "--by", "auto", "--out", "better.npz")
    assert "Nothing was written to better.npz. To calibrate" in " ".join(said.split())
    assert [path.name for path in tmp_path.iterdir()] == ["good.npz"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--strength", "1"], "--strength works only with a named correction"),
        (["--force"], "--force works only with a named correction"),
        (["--prior", "uniform"], "--prior belongs to --by prior"),
    ],
)
def test_what_does_not_go_with_auto(more, words, tmp_path, longtail):
    archive(tmp_path / "model.npz", evidence())
    status, _, wrong = longtail("adjust", "model.npz", "--by", "auto", *more)
    assert status == 2
    assert words in " ".join(wrong.split())


def test_a_prior_that_is_assumed_already_does_not_help():
    uniform = torch.full((3,), 1 / 3, dtype=torch.float64)
    known = evidence().told(assumed=uniform)
    done = adjust(known, "prior", Request(prior=uniform))
    assert "already assume this class distribution" in (done.harm or "")
    assert done.scores["predictions_changed"] == 0
    # without val, too; and another prior is another matter
    assert "already" in (
        adjust(evidence(val=None).told(assumed=uniform), "prior", Request(prior=uniform)).harm or ""
    )
    other = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    assert "already" not in (adjust(known, "prior", Request(prior=other)).harm or "")


def test_each_group_says_on_how_many_images_it_rests():
    done = adjust(evidence(), "lws")
    groups = done.scores["groups"]
    # 60 training images are medium, 12 and 4 few; 40 test images each
    assert {name: row["images"] for name, row in groups.items()} == {
        "all": 120, "many": 0, "medium": 40, "few": 80,
    }  # fmt: skip
    assert set(CORRECTIONS) - set(TRIED) == {"prior"}
