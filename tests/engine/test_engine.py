"""Learning rates, stages, optimisers, checkpoints, run folders."""

import json
import math
import os

import pytest
import torch
from torch import nn

from longtail.core import CheckpointError, ConfigError, Stage
from longtail.engine import checkpoint as ckpt
from longtail.engine.checksums import checksum, read_json, sealed
from longtail.engine.optimisation import build_optimizer, prepare_stage, seeded, training_mode
from longtail.engine.options import TrainingConfig
from longtail.engine.run_folder import RunFolder, writing
from longtail.engine.schedule import learning_rate


def rates(epochs, **options):
    config = TrainingConfig(epochs=epochs, **options)
    return [learning_rate(config, epoch, epochs) for epoch in range(epochs)]


def test_step_schedule_of_reslt():
    # specification, B.5 fact 17
    made = rates(200, warmup=5, milestones=(160, 180), decay_factor=0.1)
    expected = {0: 0.046667, 1: 0.06, 2: 0.073333, 3: 0.086667, 4: 0.1, 5: 0.1, 159: 0.1,
                160: 0.01, 179: 0.01, 180: 0.001, 199: 0.001}  # fmt: skip
    assert {epoch: made[epoch] for epoch in expected} == pytest.approx(expected, abs=1e-6)
    assert rates(200, warmup=0.025, milestones=(0.8, 0.9)) == made


def test_step_schedule_of_ldam():
    made = rates(200, warmup=5, warmup_start=0, milestones=(160, 180), decay_factor=0.01)
    assert made[:6] == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1, 0.1])
    assert (made[160], made[180]) == (pytest.approx(1e-3), pytest.approx(1e-5))


def test_short_schedule_of_forty_epochs():
    made = rates(40)
    assert made[0] == pytest.approx(0.1)  # one warm-up epoch reaches the peak at once
    assert [e for e in range(1, 40) if made[e] < made[e - 1]] == [32, 36]
    assert made[-1] == pytest.approx(0.001)


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [
        (
            10,
            [
                0.2,
                0.195106,
                0.180902,
                0.158779,
                0.130902,
                0.1,
                0.069098,
                0.041221,
                0.019098,
                0.004894,
            ],
        ),
        (5, [0.2, 0.180902, 0.130902, 0.069098, 0.019098]),
    ],
)
def test_cosine_of_decoupling(epochs, expected):
    # A.4 fact 19
    made = rates(epochs, schedule="cosine", warmup=0, learning_rate=0.2)
    assert made == pytest.approx(expected, abs=1e-6)
    assert rates(90, schedule="cosine", warmup=0, learning_rate=0.2)[-1] == pytest.approx(
        0.000061, abs=1e-6
    )


def test_cosine_after_warmup_of_reslt_on_imagenet():
    # B.2.2: warm-up lr (e + 1) / 5, then cosine of (e - 4) / (T - 4), T = 180
    made = rates(180, schedule="cosine", warmup=5, warmup_start=0)
    assert (made[4], made[5], made[90], made[179]) == (
        pytest.approx(0.1),
        pytest.approx(0.099992, abs=1e-6),
        pytest.approx(0.051785, abs=1e-6),
        pytest.approx(8e-6, abs=1e-6),
    )
    assert rates(3, schedule="constant", warmup=0) == [0.1] * 3


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.5))
        self.neck = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
        self.head = nn.Linear(4, 2)


def test_frozen_parts_are_in_eval_mode_and_named_ones_follow():
    net = Net()
    stage = Stage(name="s", epochs=1, trainable=("head",), update_norm=("backbone",))
    prepare_stage(net, stage, seed=0, number=0)
    training_mode(net, stage)
    assert [n for n, p in net.named_parameters() if p.requires_grad] == ["head.weight", "head.bias"]
    assert net.backbone[1].training  # its statistics follow on purpose
    assert not net.neck[1].training
    assert net.head.training
    stage = Stage(name="s", epochs=1, trainable=("head",), update_norm=("neck.1",))
    training_mode(net, stage)
    assert net.neck[1].training
    assert not net.backbone[1].training
    assert not net.backbone[2].training  # dropout of a frozen part is off
    everything = Stage(name="s", epochs=1)
    prepare_stage(net, everything, seed=0, number=0)
    training_mode(net, everything)
    assert all(module.training for module in net.modules())


def test_reset_is_seeded_and_leaves_the_rest():
    net = Net()
    before = {name: p.clone() for name, p in net.named_parameters()}
    state = torch.random.get_rng_state()
    prepare_stage(net, Stage(name="s", epochs=1, reset=("head",)), seed=3, number=1)
    first = net.head.weight.clone()
    assert not torch.equal(first, before["head.weight"])
    assert torch.equal(net.neck[0].weight, before["neck.0.weight"])
    prepare_stage(net, Stage(name="s", epochs=1, reset=("head",)), seed=3, number=1)
    assert torch.equal(net.head.weight, first)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("kind", ["trainable", "reset", "update_norm", "no_weight_decay"])
def test_names_that_match_nothing_are_errors(kind):
    stage = Stage(name="second", epochs=1, **{kind: ("classifier",)})
    with pytest.raises(ConfigError, match=rf"{kind} of stage 'second' contains classifier.*head"):
        prepare_stage(Net(), stage, seed=0, number=0)


def test_weight_decay_groups():
    net = Net()
    exempt = Stage(name="s", epochs=1, no_weight_decay=("head.bias",))
    groups = build_optimizer(net, exempt, TrainingConfig()).param_groups
    by_decay = {group["weight_decay"]: group["params"] for group in groups}
    assert [p is net.head.bias for p in by_decay[0.0]] == [True]
    small = TrainingConfig(decay_norm_and_bias=False)
    groups = build_optimizer(net, Stage(name="s", epochs=1), small).param_groups
    by_decay = {group["weight_decay"]: group["params"] for group in groups}
    assert all(p.ndim == 1 for p in by_decay[0.0])
    assert all(p.ndim > 1 for p in by_decay[5e-4])
    rate = Stage(name="s", epochs=1, learning_rate=0.02, weight_decay=0.5)
    optimizer = build_optimizer(net, rate, TrainingConfig(optimizer="adamw"))
    assert isinstance(optimizer, torch.optim.AdamW)
    assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["weight_decay"]) == (
        0.02,
        0.5,
    )
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(ConfigError, match="trains nothing"):
        build_optimizer(net, Stage(name="s", epochs=1), TrainingConfig())


def test_stages_are_checked():
    with pytest.raises(ConfigError, match="at least one epoch"):
        Stage(name="s", epochs=0)
    with pytest.raises(ConfigError, match="at least one sampling"):
        Stage(name="s", epochs=1, samplings=())


def test_seeded_blocks_repeat_and_restore():
    state = torch.random.get_rng_state()
    with seeded(5):
        first = torch.rand(3)
    with seeded(5):
        assert torch.equal(torch.rand(3), first)
    assert torch.equal(torch.random.get_rng_state(), state)


def metadata(**changes):
    parts = {
        "method": "single-head", "classes": ("a", "b"), "class_counts": (2, 1), "corrections": (),
        "mean": (0.5,) * 3, "std": (0.2,) * 3, "image_size": 8, "stage": 0, "epoch": 1,
        "epochs_done": 1, "finished": False,
    }  # fmt: skip
    return ckpt.CheckpointMetadata(**(parts | changes))


def save(folder, name, net=None, **changes):
    ckpt.save_checkpoint(
        folder, name, metadata(**changes), (net or Net()).state_dict(), {"best": 0.5}
    )


def test_checkpoints_come_back_equal(tmp_path):
    net = Net().to(memory_format=torch.channels_last)
    save(tmp_path, "stage-0-epoch-0001", net)
    found = ckpt.newest(tmp_path)
    weights = ckpt.read_weights(found)
    other = Net()
    ckpt.load_weights(other, weights, "x")
    assert all(
        torch.equal(a, b)
        for a, b in zip(net.state_dict().values(), other.state_dict().values(), strict=True)
    )
    assert ckpt.read_state(found) == {"best": 0.5}
    assert ckpt.read_metadata(found).classes == ("a", "b")


def test_two_checkpoints_stage_ends_and_the_best_are_kept(tmp_path):
    save(tmp_path, ckpt.checkpoint_name(0, 9, finished=True), stage=0, epoch=9)
    for epoch in range(1, 12):
        save(tmp_path, ckpt.checkpoint_name(1, epoch, finished=False), stage=1, epoch=epoch)
        if epoch in (3, 7):
            save(tmp_path, ckpt.best_name(epoch))
        ckpt.drop_old(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "best-epoch-00007", "stage-0-end", "stage-1-epoch-0010", "stage-1-epoch-0011",
    ]  # fmt: skip
    assert ckpt.newest(tmp_path).name == "stage-1-epoch-0011"
    with pytest.raises(CheckpointError, match="interrupted; finish it first"):
        ckpt.finished(tmp_path)
    save(tmp_path, ckpt.checkpoint_name(1, 12, finished=True), finished=True)
    assert ckpt.finished(tmp_path).name == "stage-1-end"
    assert ckpt.best(tmp_path).name == "best-epoch-00007"


def test_damaged_checkpoints_are_named(tmp_path):
    save(tmp_path, "stage-0-epoch-0001")
    folder = tmp_path / "stage-0-epoch-0001"
    whole = (folder / ckpt.WEIGHTS).read_bytes()
    (folder / ckpt.WEIGHTS).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(CheckpointError, match="Restore the file from a copy, or train again"):
        ckpt.read_weights(folder)
    (tmp_path / "stage-0-epoch-0000").mkdir()
    with pytest.raises(CheckpointError, match=f"longtail train --resume --out {tmp_path.parent}"):
        ckpt.read_weights(folder)
    (folder / ckpt.STATE).write_bytes(b"no")
    with pytest.raises(CheckpointError, match=r"state.pt was changed after it was written"):
        ckpt.read_state(folder)
    (folder / ckpt.METADATA).write_text("{}")
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        ckpt.read_metadata(folder)
    (folder / ckpt.METADATA).unlink()
    assert ckpt.newest(tmp_path) is None
    with pytest.raises(CheckpointError, match="interrupted before its first checkpoint"):
        ckpt.finished(tmp_path)
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "scores-test.json").write_text("{}")
    with pytest.raises(CheckpointError, match="run is finished, but its weights are missing from"):
        ckpt.finished(run / "checkpoints")


class Attack:
    def __reduce__(self):
        return os.system, ("touch /tmp/longtail-state-was-here",)


def test_a_malicious_state_is_not_run(tmp_path):
    save(tmp_path, "stage-0-epoch-0001")
    folder = tmp_path / "stage-0-epoch-0001"
    torch.save({"best": Attack()}, folder / ckpt.STATE)
    with pytest.raises(CheckpointError, match="was changed"):
        ckpt.read_state(folder)
    # who made it can make the checksum, too
    known = checksum((folder / ckpt.STATE).read_bytes())
    changed = json.loads((folder / ckpt.METADATA).read_text()) | {"state_sha256": known}
    (folder / ckpt.METADATA).write_text(json.dumps(sealed(changed)))
    with pytest.raises(CheckpointError, match="cannot be read"):
        ckpt.read_state(tmp_path / "stage-0-epoch-0001")
    assert not os.path.exists("/tmp/longtail-state-was-here")  # noqa: PTH110


def test_weights_of_another_model_are_listed():
    weights = Net().state_dict()
    other = {name: value for name, value in weights.items() if name != "neck.0.bias"}
    other["head.weight"] = torch.zeros(5, 4)
    other["extra"] = torch.zeros(1)
    net = Net()
    before = net.head.bias.clone()
    with pytest.raises(CheckpointError) as caught:
        ckpt.load_weights(net, other, "old.safetensors")
    for words in ("old.safetensors belongs to another model", "missing neck.0.bias",
                  "unexpected extra", "head.weight has shape [5, 4] instead of [2, 4]"):  # fmt: skip
        assert words in str(caught.value)
    assert torch.equal(net.head.bias, before)


def test_files_are_whole_or_absent(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.create()
    folder.write_json(folder.environment, {"a": 1})
    folder.write_json(folder.environment, {"a": [1, math.nan, {"b": -math.inf}]})
    assert read_json(folder.environment, needs_seal=True)["a"] == [1, None, {"b": None}]
    assert [p.name for p in folder.path.iterdir() if p.name.endswith(".tmp")] == []
    with (
        pytest.raises(CheckpointError, match=r"cannot be written .*to another place"),
        writing(folder.environment / "x") as f,  # a file where its folder would be
    ):
        f.write_text("x")
    with writing(tmp_path / "new" / "x") as f:
        f.write_text("x")
    assert (tmp_path / "new" / "x").read_text() == "x"


def test_runs_are_never_overwritten(tmp_path):
    folder = RunFolder(tmp_path)
    with pytest.raises(ConfigError, match="is not a run folder"):
        folder.require()
    folder.create()
    folder.write_config({"recipe": "x"}, None)
    with pytest.raises(ConfigError, match=r"already contains a run. .*--resume"):
        folder.create()
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be created"):
        RunFolder(tmp_path / "file" / "run").create()


def test_a_run_is_trained_by_one_process_at_a_time(tmp_path):
    folder, same = RunFolder(tmp_path), RunFolder(tmp_path)
    with (
        folder.held(),
        pytest.raises(CheckpointError, match=r"is being trained by another process\. Wait"),
        same.held(),
    ):
        pass
    with same.held():  # let go
        pass
    (tmp_path / "file").touch()
    with (
        pytest.raises(CheckpointError, match="cannot be written"),
        RunFolder(tmp_path / "file").held(),
    ):
        pass


def test_metrics_survive_a_cut_line(tmp_path):
    folder = RunFolder(tmp_path)
    folder.append_metrics({"epoch": 1})
    folder.append_metrics({"epoch": 2})
    with folder.metrics.open("a") as stream:
        stream.write('{"epoch": 3, "los')
    assert folder.read_metrics() == [{"epoch": 1}, {"epoch": 2}]
    folder.keep_metrics(1)
    assert folder.metrics.read_text() == '{"epoch": 1}\n'


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"early_stopping": 3}, "needs select=best-validation"),
        ({"batch_size": 10, "accumulate": 3}, "divisible by accumulate"),
        ({"momentum": 0.0}, "needs a momentum"),
        ({"milestones": (0.9, 0.8)}, "ascend"),
        ({"learning_rate": 0}, "greater than 0"),
    ],
)
def test_training_options_are_checked(options, words):
    with pytest.raises(ValueError, match=words):
        TrainingConfig(**options)
