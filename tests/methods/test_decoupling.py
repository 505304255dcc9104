"""Decoupling (Kang et al. 2020). Facts of the specification, A.4, by their numbers.

Facts 1 to 7, 20, 21 and 23 are in test_samplers and test_core, 8, 9, 14, 16, 17 and 18 in test_adjust.
"""

import shutil
import sys
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from longtail import api
from longtail.adjust import (
    Retraining,
    learn_scales,
    nearest_class_mean,
    retrain_classifier,
    tau_curve,
    tau_normalize,
)
from longtail.cli import main
from longtail.cli.train import _variants
from longtail.core import ClassCounts, DataError, Protocol
from longtail.core.batch import Batch
from longtail.core.errors import ConfigError
from longtail.engine import RunFolder
from longtail.engine import checkpoint as ckpt
from longtail.engine.optimisation import build_optimizer, prepare_stage, training_mode
from longtail.engine.options import TrainingConfig
from longtail.engine.schedule import learning_rate
from longtail.recipes import resolve
from tests import tiny
from tests.contract.test_method_contract import batch, crt, position

IMAGES = tiny.images(12, 5)


def trained(tmp_path, options, how=tiny.OPTIONS, **more):
    method = tiny.build("decoupling", options)
    run = tiny.train(method, tmp_path, how, name="decoupling", **more)
    return method.eval(), run


def ends(run):
    return [ckpt.read_weights(run.checkpoints / f"stage-{n}-end") for n in (0, 1)]


def test_10_tau_zero_without_bias_predicts_as_the_joint_classifier(tmp_path):
    method, _ = trained(tmp_path, {"classifier": {"name": "tau", "tau": 0.0}})
    torch.nn.init.zeros_(method.head.bias)
    features = method.backbone(IMAGES)
    assert torch.equal(method.predict(IMAGES), F.linear(features, method.head.weight))
    torch.testing.assert_close(method.predict(IMAGES), method.head(features))


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_11_what_crt_leaves_alone(tmp_path, mode):
    _, run = trained(tmp_path, crt(stage2_bn=mode))
    first, second = ends(run)
    parameters = {name for name, _ in tiny.build("decoupling").named_parameters()}
    for name in first:
        if name.startswith("backbone."):
            moves = mode == "train" and name not in parameters
            assert torch.equal(first[name], second[name]) != moves, name
        else:
            assert not torch.equal(first[name], second[name]), name


def test_11_the_new_classifier_does_not_begin_at_the_old_one():
    method = tiny.build("decoupling")
    before = tiny.weights(method)
    stage = method.stages()[1]
    prepare_stage(method, stage, 0, 1)
    assert not torch.equal(method.head.weight, before["head.weight"])
    assert method.head.weight.abs().max() <= method.head.in_features**-0.5


def test_12_frozen_tensors_have_no_gradient():
    method = tiny.build("decoupling")
    stage = method.stages()[1]
    prepare_stage(method, stage, 0, 1)
    training_mode(method, stage)
    optimizer = build_optimizer(method, stage, TrainingConfig())
    method.training_step([batch()], position(stage=1)).loss.backward()
    for name, parameter in method.named_parameters():
        assert (parameter.grad is None) == name.startswith("backbone."), name
    optimised = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert optimised == {id(method.head.weight), id(method.head.bias)}


def test_13_scales_are_all_that_lws_trains(tmp_path):
    fresh = tiny.build("decoupling", {"classifier": "lws"})
    stage = fresh.stages()[1]
    prepare_stage(fresh, stage, 0, 1)
    free = [p.numel() for p in fresh.parameters() if p.requires_grad]
    assert free == [7]
    fresh.eval()
    # before the first step the logits are those of stage 1, bias included
    assert torch.equal(fresh.predict(IMAGES), fresh.head(fresh.backbone(IMAGES)))
    _, run = trained(tmp_path, {"classifier": "lws"})
    first, second = ends(run)
    assert torch.equal(first["head.weight"], second["head.weight"])
    assert torch.equal(first["head.bias"], second["head.bias"])
    assert not torch.equal(first["scales"], second["scales"])


@pytest.mark.parametrize("classes", [1000, 365, 8142, 100])
def test_13_number_of_scales(classes):
    counts = ClassCounts([2] * classes)
    method = tiny.build("decoupling", {"classifier": "lws"}, counts=counts)
    assert method.scales.shape == (classes,)


def test_15_scales_multiply_the_bias():
    method = tiny.build("decoupling", {"classifier": "lws"}).eval()
    torch.nn.init.uniform_(method.scales, 0.5, 2)
    features, scales = method.backbone(IMAGES), method.scales
    expected = features @ (scales[:, None] * method.head.weight).T + scales * method.head.bias
    torch.testing.assert_close(method.predict(IMAGES), expected)


def test_19_learning_rates():
    config = TrainingConfig(warmup=0, schedule="cosine", learning_rate=0.2)
    ten = [learning_rate(config, e, 10) for e in range(10)]
    assert ten == pytest.approx(
        [0.2, 0.195106, 0.180902, 0.158779, 0.130902, 0.1, 0.069098, 0.041221, 0.019098, 0.004894],
        abs=5e-7,
    )
    five = [learning_rate(config, e, 5) for e in range(5)]
    assert five == pytest.approx([0.2, 0.180902, 0.130902, 0.069098, 0.019098], abs=5e-7)
    assert learning_rate(config, 89, 90) == pytest.approx(0.000061, abs=5e-7)


def test_second_stage_has_its_own_schedule(tmp_path):
    # the first stage has warm-up, steps and Nesterov; the second nothing of it, and lr 0.2 B / 512
    long = tiny.OPTIONS.model_copy(update={"warmup": 2.0})
    method = tiny.build("decoupling", crt(epochs=3))
    run = tiny.train(method, tmp_path, long, name="decoupling")
    rates = [line["learning_rate"] for line in run.read_metrics()]
    assert rates[3:] == pytest.approx([0.2 * 16 / 512 * share for share in (1.0, 0.75, 0.25)])
    optimizer = build_optimizer(method, method.stages()[1], long)
    assert optimizer.param_groups[0]["nesterov"] is False
    assert build_optimizer(method, method.stages()[0], long).param_groups[0]["nesterov"] is True


def test_factors_of_the_learning_rate():
    options = crt(train="all", rate=0.1)
    whole = tiny.build("decoupling", options).stages()[1]
    assert whole.learning_rate == pytest.approx(0.02 * 16 / 512)
    part = tiny.build("decoupling", crt(train="all", rate=0.1, rate_of="backbone"))
    stage = part.stages()[1]
    assert stage.learning_rate == pytest.approx(0.2 * 16 / 512)
    prepare_stage(part, stage, 0, 1)
    factors = {
        id(p): group["factor"]
        for group in build_optimizer(part, stage, TrainingConfig()).param_groups
        for p in group["params"]
    }
    for name, parameter in part.named_parameters():
        assert factors[id(parameter)] == (0.1 if name.startswith("backbone.") else 1.0), name


def test_what_the_rows_of_table_1_train(tmp_path):
    for train, moving in (("last-block", "backbone.network.layer3"), ("all", "backbone")):
        _, run = trained(tmp_path / train, crt(train=train, stage2_bn="eval"))
        first, second = ends(run)
        for name, _ in tiny.build("decoupling").named_parameters():
            moves = name.startswith((moving, "head."))
            assert torch.equal(first[name], second[name]) != moves, name


def test_places_trains_its_last_block_only(tmp_path):
    for frozen_bn in ("eval", "train"):
        representation = {"train": "last-block", "backbone_rate": 0.1, "frozen_bn": frozen_bn}
        options = {"representation": representation}
        fresh = tiny.weights(tiny.build("decoupling", options))
        _, run = trained(tmp_path / frozen_bn, options)
        first, _ = ends(run)
        for name, value in fresh.items():
            moves = name.startswith(("backbone.network.layer3.", "head."))
            # the released loop leaves the statistics of frozen layers to the batches
            moves |= frozen_bn == "train" and "running_" in name
            moves |= frozen_bn == "train" and "num_batches" in name
            assert torch.equal(value, first[name]) != moves, name


@pytest.mark.parametrize("name", ["crt", "lws"])
def test_features_that_are_computed_once_give_the_same_classifier(name, tmp_path):
    still = replace(tiny.data(), default_view="none")  # the same images in every epoch
    found = {}
    for augment in (True, False):
        options = {"name": name, "augment": augment, "stage2_bn": "eval", "epochs": 4}
        method, run = trained(tmp_path / str(augment), {"classifier": options}, train_set=still)
        first, second = ends(run)
        moved = {name for name in first if not torch.equal(first[name], second[name])}
        assert moved == ({"head.weight", "head.bias"} if name == "crt" else {"scales"})
        found[augment] = tiny.weights(method)
    for key, value in found[True].items():
        torch.testing.assert_close(found[False][key], value, atol=1e-5, rtol=1e-4)
    passes = [line for line in run.read_metrics() if "features" in line]
    assert [(line["stage"], line["features"]) for line in passes] == [
        ("classifier" if name == "crt" else "scales", 77)
    ]


def normalised(data):
    return (data.images.pixels.float() / 255 - 0.3) / 0.25


def test_ncm_of_a_run_is_the_plain_function(tmp_path):
    method, _ = trained(tmp_path, {"classifier": "ncm"})
    features = method.backbone(normalised(tiny.data()))
    labels = torch.tensor(tiny.data().manifest.labels)
    expected = nearest_class_mean(features, labels, 7)
    torch.testing.assert_close(
        method.predict(IMAGES), expected.scores(method.backbone(IMAGES)), atol=1e-5, rtol=1e-4
    )


def test_tau_is_chosen_on_val_or_else_on_train(tmp_path):
    val = tiny.data().take([0, 9, 40, 44, 50, 64, 70])
    method, run = trained(
        tmp_path / "val",
        {"classifier": "tau"},
        selection_set=val,
        protocol=Protocol(has_val=True),
        validate=lambda m, _: {"accuracy": 0.0, "macro_accuracy": 0.0},
    )
    found = run.read_metrics()[-1]
    assert (found["curve_on"], len(found["curve"])) == ("val", 21)
    features = method.backbone(normalised(val))
    labels = torch.tensor(val.manifest.labels)
    for row in found["curve"]:
        # the curve by the slow way: one classifier per tau
        logits = features @ tau_normalize(method.head.weight, row["tau"]).T
        right = (logits.argmax(1) == labels).double()
        assert row["macro_accuracy"] == pytest.approx(float(right.mean()))  # one image a class
    best = max(row["macro_accuracy"] for row in found["curve"])
    first_best = next(row["tau"] for row in found["curve"] if row["macro_accuracy"] == best)
    assert found["tau"] == pytest.approx(first_best)
    assert method.notes == (f"tau = {first_best:.1f} (best macro accuracy on val).",)
    other, run = trained(tmp_path / "train", {"classifier": "tau"})
    assert run.read_metrics()[-1]["curve_on"] == "train"
    assert "on train" in other.notes[0]


def test_tau_curve_ignores_classes_without_images():
    features, weight = torch.eye(3), torch.diag(torch.tensor([1.0, 2.0, 3.0]))
    curve = tau_curve(features[:2], torch.tensor([0, 1]), weight)
    assert curve.accuracy == (1.0,) * 21
    assert curve.best == 0.0
    assert torch.isnan(curve.per_class[:, 2]).all()


def test_22_balanced_draws_level_the_norms():
    # two clouds per class around one direction: the frequent classes get the longer rows, unless
    # the draws are balanced
    counts = ClassCounts([400, 200, 100, 50, 25, 12, 6])
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(7).repeat_interleave(torch.tensor(counts.values))
    features = torch.randn(len(labels), 16, generator=generator)
    features += 1.5 * torch.nn.functional.one_hot(labels, 16)
    norms = {}
    for name in ("instance", "class-balanced"):
        how = Retraining(
            epochs=30, batch_size=64, learning_rate=0.1,
            sampling=resolve("digits-lt/cross-entropy", [f"sampling={name}"])
            .method.sampling.build(30),
        )  # fmt: skip
        norms[name] = retrain_classifier(features, labels, counts, how)[0].norm(dim=1)
    steps = torch.arange(7.0)
    slope = {
        name: float(torch.corrcoef(torch.stack([-steps, n]))[0, 1]) for name, n in norms.items()
    }
    assert slope["instance"] > 0.6
    assert slope["class-balanced"] < slope["instance"] - 0.5


@pytest.mark.parametrize("name", ["crt", "lws"])
def test_correction_and_stage_of_a_run_are_one_procedure(name):
    """Four images a class and batches of all of them: a class-balanced batch is the set in another order."""
    counts, epochs, rate = ClassCounts([4] * 7), 5, 0.5
    labels = torch.arange(7).repeat_interleave(4)
    options = {"name": name, "epochs": epochs, "learning_rate": rate, "augment": False}
    method = tiny.build(
        "decoupling", {"classifier": options | {"stage2_bn": "eval"}}, counts=counts
    )
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(28, method.head.in_features, generator=generator)
    config, stage = TrainingConfig(batch_size=28, weight_decay=1e-3), method.stages()[1]
    how = Retraining(epochs=epochs, batch_size=28, learning_rate=rate, weight_decay=1e-3)
    prepare_stage(method, stage, 0, 1)
    if name == "crt":
        start = retrain_classifier(features, labels, counts, replace(how, epochs=0))
        for ours, theirs in zip(method.head.parameters(), start, strict=True):
            ours.data.copy_(theirs)
        expected = retrain_classifier(features, labels, counts, how)
        trained_tensors = list(method.head.parameters())
    else:
        start = (torch.ones(7),)
        logits = method.head(features).detach()
        expected = (learn_scales(logits, labels, counts, how),)
        trained_tensors = [method.scales]
    optimizer = build_optimizer(method, stage, config)
    training_mode(method, stage)
    for epoch in range(epochs):
        optimizer.param_groups[0]["lr"] = learning_rate(
            config, epoch, stage.epochs,
            peak=stage.learning_rate, schedule=stage.schedule, warmup=stage.warmup,
        )  # fmt: skip
        optimizer.zero_grad()
        out = method.training_step([Batch((features,), labels, labels)], position(stage=1))
        out.loss.backward()
        optimizer.step()
    for before, ours, theirs in zip(start, trained_tensors, expected, strict=True):
        assert not torch.allclose(before, theirs, atol=1e-3)
        torch.testing.assert_close(ours.detach(), theirs, atol=1e-6, rtol=1e-5)


def test_learn_scales_lifts_the_rare_class():
    counts = ClassCounts([90, 10])
    labels = torch.arange(2).repeat_interleave(torch.tensor(counts.values))
    generator = torch.Generator().manual_seed(0)
    signal = 0.3 * torch.randn(100, generator=generator) + 4 * labels
    # the classifier separates the classes, but its rare row is too short to win
    logits = torch.stack([torch.ones(100), 0.2 * signal], dim=1)
    assert (logits.argmax(1) == labels)[90:].sum() <= 1
    scales = learn_scales(logits, labels, counts, Retraining(epochs=20, batch_size=20))
    assert (scales * logits).argmax(1).tolist() == labels.tolist()
    with pytest.raises(DataError, match="There are 2 logits but 3 classes"):
        learn_scales(
            logits, labels + (torch.arange(100) > 95), ClassCounts([90, 6, 4]), Retraining()
        )
    with pytest.raises(DataError, match="do not match the class counts"):
        learn_scales(logits, labels, ClassCounts([89, 11]), Retraining())
    with pytest.raises(DataError, match="must be \\[N, width\\]"):
        learn_scales(logits, labels[1:], counts, Retraining())


def test_augmentation_is_needed_to_train_the_backbone():
    with pytest.raises(ValueError, match="only the classifier can be trained"):
        tiny.build("decoupling", crt(train="all", augment=False))


# --- one representation, many classifiers ------------------------------------------------------

SHORT = ["epochs=2", "batch_size=32"]


@pytest.fixture(scope="module")
def representation(tmp_path_factory):
    path = tmp_path_factory.mktemp("representation") / "joint"
    return api.train("digits-lt/cross-entropy", SHORT, out=path, device="cpu")


def test_a_run_starts_from_the_first_stage_of_another(representation, tmp_path):
    whole = api.train("digits-lt/crt", SHORT, out=tmp_path / "whole", device="cpu")
    start = f"from={representation.folder.path}"
    second = api.train("digits-lt/crt", [*SHORT, start], out=tmp_path / "second", device="cpu")
    # the representation of single-head and of decoupling is the same function of the seed
    one, other = (ckpt.read_weights(ckpt.finished(r.folder.checkpoints)) for r in (whole, second))
    assert tiny.equal(one, other)
    lines = second.folder.read_metrics()
    assert {line["stage"] for line in lines} == {"classifier"}
    assert lines[-1]["epochs_done"] == 12
    record = api.record(second)
    assert record["started_from"]["weights_sha256"] == (
        ckpt.read_metadata(ckpt.finished(representation.folder.checkpoints)).weights_sha256
    )
    assert record["config"]["from"] == str(representation.folder.path)
    assert api.load(second.folder.path).metadata.corrections == (
        "classifier retrained with class-balanced sampling",
    )


def test_a_begun_run_goes_on_without_the_run_that_it_started_from(representation, tmp_path):
    shutil.copytree(representation.folder.path, tmp_path / "joint")
    start = [*SHORT, f"from={tmp_path / 'joint'}"]
    whole = api.train("digits-lt/crt", start, out=tmp_path / "crt", device="cpu")
    end = ckpt.finished(whole.folder.checkpoints)
    expected = ckpt.read_weights(end)
    shutil.rmtree(end)
    shutil.rmtree(tmp_path / "joint")
    again = api.train("digits-lt/crt", start, out=tmp_path / "crt", device="cpu", resume=True)
    assert tiny.equal(ckpt.read_weights(ckpt.finished(again.folder.checkpoints)), expected)


def test_a_run_without_steps_is_recorded(representation, tmp_path):
    start = f"from={representation.folder.path}"
    run = api.train(
        "digits-lt/tau-normalisation", [*SHORT, start], out=tmp_path / "tau", device="cpu"
    )
    record = api.record(run)
    assert (record["final_loss"], record["images_per_second"]) == (None, None)
    assert record["found"][0]["curve_on"] == "train"
    assert any(note.startswith("tau = ") for note in run.scores("test")["notes"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["recipe=x", "classifier=joint"], "there is no other"),
        (["imbalance_ratio=10"], "class_counts differ"),
        (["backbone=resnet32"], "missing backbone"),
        (["from=/nowhere"], "is not a run folder"),
    ],
)
def test_what_cannot_be_started_from(representation, tmp_path, overrides, message):
    start = [] if "from=/nowhere" in overrides else [f"from={representation.folder.path}"]
    with pytest.raises((ConfigError, ckpt.CheckpointError), match=message):
        api.train("digits-lt/crt", [*SHORT, *start, *overrides], out=tmp_path / "x", device="cpu")
    assert not RunFolder(tmp_path / "x").config.exists()


def test_selection_on_val_ends_each_stage_with_its_best_epoch(tmp_path):
    scores = iter([0.1, 0.5, 0.2, 0.3, 0.1])
    config = tiny.OPTIONS.model_copy(update={"select": "best-validation"})
    _, run = trained(
        tmp_path, crt(epochs=2, stage2_bn="eval"), how=config,
        protocol=Protocol(has_val=True, selection="best-validation"),
        validate=lambda m, _: {"accuracy": 0.0, "macro_accuracy": next(scores)},
    )  # fmt: skip
    first, second = (run.checkpoints / f"stage-{n}-end" for n in (0, 1))
    assert ckpt.read_metadata(first).selected_epoch == 2
    assert ckpt.read_metadata(second).selected_epoch == 4  # the best of stage 2, though below 0.5
    backbone = [name for name in ckpt.read_weights(first) if name.startswith("backbone.")]
    one, other = ckpt.read_weights(first), ckpt.read_weights(second)
    assert all(torch.equal(one[name], other[name]) for name in backbone)


def test_one_command_trains_every_classifier_on_one_representation(tmp_path, monkeypatch, capsys):
    line = "longtail train digits-lt/crt epochs=2 --device cpu --each classifier=joint,tau,ncm --seeds 2"
    monkeypatch.setattr(sys, "argv", [*line.split(), "--out", str(tmp_path / "all")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    shown = capsys.readouterr().out
    assert all(f"classifier-{name}" in shown for name in ("joint", "tau", "ncm"))
    for seed in (0, 1):
        joint = tmp_path / "all" / "classifier-joint" / f"seed-{seed}"
        tau = tmp_path / "all" / "classifier-tau" / f"seed-{seed}"
        one, other = (ckpt.read_weights(ckpt.finished(f / "checkpoints")) for f in (joint, tau))
        assert all(torch.equal(one[name], other[name]) for name in one)
        assert [line["stage"] for line in RunFolder(tau).read_metrics()] == ["tau"]


def test_commas_in_brackets_belong_to_a_value():
    variants = _variants("method.cuts=[0.5],[0.25, 0.5, 0.75]")
    assert [changes for _, changes in variants] == [
        ["method.cuts=[0.5]"],
        ["method.cuts=[0.25, 0.5, 0.75]"],
    ]


@pytest.mark.parametrize("each", ["classifier", "=crt", "classifier=crt,,lws"])
def test_a_malformed_each_is_explained(each, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["longtail", "train", "digits-lt/crt", "--each", each])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "--each needs KEY=A,B" in capsys.readouterr().err


def test_a_representation_trained_with_mixup_is_that_of_mislas():
    """Both are cross-entropy of a linear classifier on mixed pairs."""
    one = tiny.build("decoupling", {"representation": {"mixing": "mixup"}, "classifier": "lws"})
    other = tiny.build("mislas")
    other.load_state_dict(one.state_dict(), strict=False)
    losses = [method.training_step([batch()], position()).loss for method in (one, other)]
    torch.testing.assert_close(*losses)
    plain = tiny.build("decoupling", {"classifier": "lws"}).training_step([batch()], position())
    assert float((losses[0] - plain.loss).detach()) != 0
    second = one.training_step([batch()], position(stage=1)).loss  # no mixing any more
    torch.testing.assert_close(second, F.cross_entropy(one.predict(batch().images), batch().labels))


def test_h2t_replaces_a_share_of_the_features_for_the_whole_batch():
    method = tiny.build("decoupling", {"classifier": {"name": "h2t", "fused": 0.25}})
    assert [s.name for s in method.stages()[1].samplings] == ["class-balanced", "instance"]
    one, other = torch.zeros(3, 64), torch.ones(3, 64)
    fused = [method.classifier.fused([one, other], position(step=n, stage=1)) for n in range(2)]
    for each in fused:
        assert each.sum(dim=1).tolist() == [16.0] * 3
        assert torch.equal(each[0], each[1])
    assert not torch.equal(*fused)  # other features in the next step
    assert torch.equal(fused[0], method.classifier.fused([one, other], position(stage=1)))


def test_h2t_trains_the_classifier_of_stage_1_on_labels_of_balanced_images():
    method = tiny.build("decoupling", {"classifier": "h2t"}).eval()
    balanced, plain = batch(), batch(seed=1)
    features = [method.backbone(each.images) for each in (balanced, plain)]
    x = method.classifier.fused(features, position(stage=1))
    loss = method.training_step([balanced, plain], position(stage=1)).loss
    torch.testing.assert_close(loss, F.cross_entropy(method.head(x), balanced.labels))
    assert (method.stages()[1].reset, method.stages()[1].trainable) == ((), ("head",))
