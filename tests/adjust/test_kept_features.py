"""A run on frozen features is corrected from the features that are kept, which are those of its layer."""

import torch

from longtail import api
from longtail.adjust.tool import last_layer
from longtail.adjust.tool.runs import read_run
from longtail.core import ClassCounts


def test_kept_features_are_what_goes_into_the_last_layer(image_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("LONGTAIL_CACHE", str(tmp_path / "cache"))
    line = ["weights=embedded", "enlarge_to=32", "epochs=1", "batch_size=8"]
    run = api.train(str(image_folder), line, out=tmp_path / "run", device="cpu")
    passes = []
    plain = last_layer.evaluation_batches
    monkeypatch.setattr(
        last_layer,
        "evaluation_batches",
        lambda *given, **named: passes.append(1) or plain(*given, **named),
    )
    found = read_run(run.folder.path, device="cpu")
    assert len(passes) == 1  # to find the last layer
    loaded = api.load(run.folder.path, device="cpu")
    data = run.open_data().normalised_by(loaded.metadata.mean, loaded.metadata.std)
    counts = ClassCounts(loaded.metadata.class_counts, loaded.metadata.classes)
    seen: list[tuple[int, int]] = []
    expected = last_layer.collect(
        found.model.network, found.model.layer, data, counts, torch.device("cpu"), 1,
        progress=lambda done, size: seen.append((done, size)),
    )  # fmt: skip
    ended = [size for done, size in seen if done == size]
    assert ended == [len(outputs.features) for outputs in expected.splits.values()]
    for split, outputs in expected.splits.items():
        torch.testing.assert_close(found.evidence.splits[split].features, outputs.features)
