"""What docs/extending.md shows works as it is printed."""

import re
from pathlib import Path

import pytest
import torch

from longtail import ClassCounts, api
from longtail.core import Batch, Position
from longtail.data.sampling.samplers import SAMPLERS, class_probability
from longtail.methods import METHODS
from longtail.methods.ingredients import LossOptions
from longtail.prediction import read_predictions
from longtail.recipes import resolve
from longtail.reproduce import read_table

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
PYTHON = [text for kind, text in BLOCKS if kind == "python"]
RECIPE, TABLE = (text for kind, text in BLOCKS if kind == "yaml")


@pytest.fixture
def names(monkeypatch, tmp_path):
    """Run the examples of the page and give what they define."""
    monkeypatch.chdir(tmp_path)
    found = {"__name__": "example"}
    assert len(PYTHON) == 3
    for text in PYTHON:
        exec(compile(text, str(PAGE), "exec"), found)
    yield found
    # the lists are those of the package again
    del METHODS["two-heads"], LossOptions.kinds["scaled"], SAMPLERS["cube-root"]


def test_the_method_of_the_page_is_one_like_the_others(names):
    run = names["run"]
    assert run.config.method == names["TwoHeadsOptions"](power=1)
    assert len(read_predictions(run.folder.predictions("test")).ids) == 500
    method = api.load(run.folder.path, device="cpu").method.train()
    generator = torch.Generator().manual_seed(0)
    batches = [
        Batch((torch.randn(8, 3, 8, 8, generator=generator),), torch.arange(8), torch.arange(8))
        for _ in range(2)
    ]
    moved = {}
    for epoch in (0, 5):
        method.zero_grad()
        method.training_step(batches, Position(0, 0, epoch, 0, 10)).loss.backward()
        moved[epoch] = [bool(head.weight.grad.any()) for head in (method.frequent, method.rare)]
    assert moved == {
        0: [True, False],
        5: [True, True],
    }  # the first epoch is of the first head alone


def test_the_loss_and_the_sampler_of_the_page_can_be_chosen(names):
    config = resolve("digits-lt/cross-entropy", ["loss=scaled", "sampling=cube-root"])
    counts = ClassCounts([8, 1])
    z, y = torch.tensor([[1.0, 1.0]]), torch.tensor([1])
    # the factors are 1 and 8^-0.3 = 0.5358867: log(1 + e^(1 - 0.5358867))
    loss = config.method.loss.build(counts, 1.0)(z, y)
    assert loss.item() == pytest.approx(0.9518907, abs=1e-6)
    drawn = class_probability(config.method.sampling.build(1), counts)
    assert drawn == pytest.approx([2 / 3, 1 / 3])


def test_the_recipe_of_the_page_trains_what_it_says(tmp_path):
    file = tmp_path / "my-recipe.yaml"
    file.write_text(RECIPE)
    config = resolve(str(file), ["epochs=10"])
    assert config.data.name == "cifar100"
    assert config.method.class_weights.name == "effective-number"
    assert config.method.class_weights.start == 0.8


def test_the_table_of_the_page_has_three_rows_that_differ(tmp_path):
    file = tmp_path / "losses.yaml"
    file.write_text(TABLE)
    table = read_table(str(file))
    configs = [row.config("full") for row in table.rows]
    assert len(configs) == 3
    assert all(one != other for one in configs for other in configs if one is not other)
    assert configs[2].training.learning_rate == 0.03
    assert table.against == table.rows[0].name
