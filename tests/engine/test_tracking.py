"""Trackers: what arrives in each, read back with its own library; without network and login."""

import re

import pytest

from longtail import api
from longtail.core.errors import ConfigError, LongtailError
from longtail.engine import tracking
from longtail.engine.log import SilentLog
from longtail.engine.tracking import TrackedRun, Tracking, open_tracker
from longtail.runs import training

SOURCE = "digits-lt/cross-entropy"
SHORT = ("epochs=2", "batch_size=128", "workers=1")
OPTIONS = {"method.name": "single-head", "training.epochs": "2", "training.seed": "0"}


def of_one_line(run):
    """A report that takes no second to draw."""
    path = run.folder.path / "report.html"
    path.write_text("one line")
    return path


def trained(tracker, folder, report=of_one_line, **rest):
    options = [*SHORT, f"tracker={tracker}"]
    log = Failures()
    run = training.train(SOURCE, options, out=folder, device="cpu", report=report, log=log, **rest)
    assert log.told == []
    return run


class Failures(SilentLog):
    def __init__(self):
        self.told = []

    def note(self, text):
        if "failed" in text:
            self.told.append(text)


def expected(run):
    """The numbers of a run that every tracker must hold, from the run folder: name -> value by step."""
    scores, lines = run.scores("test"), run.folder.read_metrics()
    groups = {
        f"test/{name}_shot_accuracy": scores["groups"][name]["accuracy"] for name in ("many", "few")
    }
    return {
        "loss": {line["epochs_done"]: line["loss"] for line in lines},
        "test/macro_accuracy": {2: scores["macro_accuracy"]},
        **{name: {2: value} for name, value in groups.items()},
    }


def test_tensorboard(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = trained("tensorboard", tmp_path / "run")
    events = accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    for name, values in expected(run).items():
        found = {scalar.step: scalar.value for scalar in events.Scalars(name)}
        assert found == pytest.approx(values, rel=1e-6), name
    text = events.Tensors("options/text_summary")[0].tensor_proto.string_val[0].decode()
    assert '"training.epochs": 2' in text


def test_mlflow(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    options = [*SHORT, "tracker=mlflow"]
    run = api.train(SOURCE, options, out=tmp_path / "run", device="cpu", progress=False)
    assert "<html" in (tmp_path / "run" / "report.html").read_text()
    client = mlflow.MlflowClient()
    place = client.get_experiment_by_name("longtail").experiment_id
    (found,) = client.search_runs([place])
    assert {key: found.data.params[key] for key in OPTIONS} == OPTIONS
    for name, values in expected(run).items():
        history = client.get_metric_history(found.info.run_id, name)
        assert {metric.step: metric.value for metric in history} == pytest.approx(values), name
    assert [file.path for file in client.list_artifacts(found.info.run_id)] == ["report.html"]
    assert found.info.status == "FINISHED"

    # resumed, it is the same run there, not a second one
    trained("mlflow", tmp_path / "run", resume=True)
    (again,) = client.search_runs([place])
    assert again.info.run_id == found.info.run_id


def records_of(file):
    """Yield the records of wandb's file: LevelDB's log format after a header of seven bytes."""
    data, place, parts = file.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while place < len(data):
        if 32768 - place % 32768 < 7:  # a block of 32 KB ends in less than a header
            place += 32768 - place % 32768
            continue
        length = int.from_bytes(data[place + 4 : place + 6], "little")
        kind, place = data[place + 6], place + 7
        parts += data[place : place + length]
        place += length
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


def test_wandb_offline(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "artifacts"))
    run = trained("wandb", tmp_path / "run")
    wandb.teardown()  # its own process has written everything
    (file,) = (tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")
    found, options, kept = {}, {}, []
    for data in records_of(file):
        record = Record.FromString(data)
        numbers = {item.key or item.nested_key[0]: item.value_json for item in record.history.item}
        for name in set(numbers) - {"_step"}:
            found.setdefault(name, {})[int(numbers["_step"])] = float(numbers[name])
        begun = record.run.config.update
        options |= {item.key or item.nested_key[0]: item.value_json for item in begun}
        kept += [(record.artifact.type, entry.path) for entry in record.artifact.manifest.contents]
    for name, values in expected(run).items():
        assert found[name] == pytest.approx(values), name
    assert {key: options[key].strip('"') for key in OPTIONS} == OPTIONS
    assert kept == [("report", "report.html")]


def test_trackio(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio", reason="trackio is not installed; it is too large for the tests")
    from trackio.sqlite_storage import SQLiteStorage

    run = trained("trackio", tmp_path / "run")
    (name,) = SQLiteStorage.get_runs("longtail")
    lines = SQLiteStorage.get_logs("longtail", name)
    for key, values in expected(run).items():
        found = {line["step"]: line[key] for line in lines if key in line}
        assert found == pytest.approx(values), key
    assert [artifact["type"] for artifact in SQLiteStorage.get_artifacts("longtail")] == ["report"]


def test_nothing_is_tracked_unless_it_is_asked_for(tmp_path):
    run = api.train(SOURCE, SHORT, out=tmp_path / "run", device="cpu", progress=False)
    assert run.config.training.tracker == "none"
    assert not {"tensorboard", "wandb", "report.html"} & {p.name for p in run.folder.path.iterdir()}


def test_a_missing_library_is_told_before_anything_is_done(tmp_path, monkeypatch):
    monkeypatch.setattr(tracking.tracked.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=r"^tracker=wandb needs wandb: pip install 'longtail\[wandb\]'$"
    ):
        trained("wandb", tmp_path / "run")
    assert not (tmp_path / "run").exists()


class Broken:
    """A tracker whose server goes away."""

    def __init__(self):
        self.calls = []

    def numbers(self, values, step):
        self.calls.append((values, step))
        if step == 2:
            raise OSError("connection\nreset")

    def file(self, path):
        raise AssertionError("nothing is sent after a failure")

    def close(self, *, finished):
        raise AssertionError("nothing is sent after a failure")


def test_a_tracker_that_fails_is_told_once_and_the_run_goes_on():
    told, broken = [], Broken()
    tracked = Tracking("mlflow", broken, told.append)
    for step in (1, 2, 3):
        tracked.epoch({"epochs_done": step, "loss": 1 / step, "stage": "joint"})
    tracked.file(lambda: pytest.fail("the report is not written either"))
    tracked.end(finished=True)
    assert broken.calls == [({"loss": 1.0}, 1), ({"loss": 0.5}, 2)]
    assert told == ["mlflow failed: connection reset. The run goes on and is no longer tracked."]


class Recorder(Broken):
    def close(self, *, finished):
        self.calls.append(finished)


@pytest.fixture
def recorder(monkeypatch):
    found = Recorder()
    pytest.importorskip("tensorboard")
    from longtail.engine.tracking import on_tensorboard

    monkeypatch.setattr(on_tensorboard, "begin", lambda run, project: found)
    return found


def test_a_tracker_hears_how_the_run_ended(recorder, tmp_path):
    run = TrackedRun("0a", "run", tmp_path, {})
    with open_tracker("tensorboard", run, print):
        pass
    with pytest.raises(KeyboardInterrupt), open_tracker("tensorboard", run, print):
        raise KeyboardInterrupt
    assert recorder.calls == [True, False]


def test_a_tracker_that_cannot_begin_is_one_sentence(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://nowhere")
    message = r"^mlflow cannot begin a run: .+\. To train without it, choose tracker=none\. If .+ --resume\.$"
    with pytest.raises(LongtailError) as caught:
        trained("mlflow", tmp_path / "run")
    assert re.match(message, str(caught.value)), str(caught.value)
    assert trained("none", tmp_path / "run", resume=True).evaluated_splits() == ["test"]
