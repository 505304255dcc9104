"""The examples for other people's loops run as printed, and balance what they train."""

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

PAGE = Path(__file__).parents[2] / "docs" / "other-loops.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
LIGHTNING, TRAINER = (
    next(text for text in BLOCKS if library in text)
    for library in ("pytorch_lightning", "transformers")
)


def run(text, names):
    exec(compile(text, str(PAGE), "exec"), names)


@pytest.fixture(scope="module")
def names():
    """What the examples without further libraries define."""
    found = {"__name__": "example"}
    for text in BLOCKS:
        if text not in (LIGHTNING, TRAINER):
            run(text, found)
    return found


def accuracies(network, names):
    with torch.no_grad():
        return names["group_accuracies"](
            network(names["test_set"].tensors[0]), names["labels"][names["test"]]
        )


def test_the_plain_loop_balances(names):
    found = accuracies(names["network"], names)
    assert set(found) == {"medium", "few"}  # no class has more than 100 rows
    assert min(found.values()) > 0.6
    predicted = names["network"](names["test_set"].tensors[0]).argmax(1).numpy()
    few = names["groups"].mask("few").numpy()
    test_labels = names["labels"][names["test"]]
    by_hand = [(predicted == test_labels)[test_labels == c].mean() for c in np.flatnonzero(few)]
    assert found["few"] == pytest.approx(np.mean(by_hand))


def test_the_sampler_draws_classes_as_its_name_says(names):
    labels, counts = names["labels"][names["train"]], names["counts"]
    generator = torch.Generator().manual_seed(1)
    drawn = Counter()
    for _ in range(200):
        sampler = names["class_sampler"](labels, counts, "square-root", generator)
        drawn.update(labels[list(sampler)].tolist())
    share = np.array([drawn[c] for c in range(10)]) / sum(drawn.values())
    roots = np.sqrt(np.array(counts.values))
    np.testing.assert_allclose(share, roots / roots.sum(), atol=0.005)


@pytest.mark.filterwarnings("ignore")  # of the libraries
def test_lightning(names):
    pytest.importorskip("pytorch_lightning", reason="Lightning is too large for the tests")
    torch.manual_seed(0)
    run(LIGHTNING, names)
    logged = {
        key: float(value) for key, value in names["lightning_trainer"].callback_metrics.items()
    }
    network = names["lightning_trainer"].lightning_module.network
    expected = {f"val_{name}": value for name, value in accuracies(network, names).items()}
    assert logged == pytest.approx(expected, abs=1e-6)
    assert min(expected.values()) > 0.5


@pytest.mark.filterwarnings("ignore")
def test_the_trainer_of_transformers(names, tmp_path, monkeypatch):
    pytest.importorskip("transformers", reason="transformers is too large for the tests")
    monkeypatch.chdir(tmp_path)
    run(TRAINER, names)
    expected = accuracies(names["hf_trainer"].model.head, names)
    found = {name: names["hf_metrics"][f"eval_{name}"] for name in expected}
    assert found == pytest.approx(expected, abs=1e-6)
    assert min(expected.values()) > 0.5
