"""Plug-ins: methods, losses and samplers of files that a user names."""

import json

import pytest
import torch

from longtail import ClassCounts, api
from longtail.core.errors import ConfigError
from longtail.core.stage import Sampling
from longtail.data.sampling.samplers import SAMPLERS, class_probability
from longtail.methods import METHODS
from longtail.methods.ingredients import LossOptions
from longtail.recipes import plugins, resolve
from longtail.recipes.plugins import load_plugin, plugins_of

LOSS = '''
from typing import Literal
from pydantic import Field
from torch.nn.functional import cross_entropy
from longtail.losses import LabelLoss
from longtail.methods.ingredients import LossOptions

class DoubledOptions(LossOptions):
    """Cross-entropy of logits times a factor."""

    name: Literal["doubled"] = "doubled"
    factor: float = Field(2.0, gt=0, description="of the logits")

    def build(self, counts, scale):
        return Doubled(self.factor)

class Doubled(LabelLoss):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def per_image(self, logits, labels):
        return cross_entropy(self.factor * logits, labels, reduction="none")
'''
SAMPLER = """
from longtail.data.sampling.samplers import SAMPLERS

def cube_root(counts, epoch, epochs):
    return [n ** (1 / 3) for n in counts.values]

SAMPLERS["cube-root"] = cube_root
"""
METHOD = '''
from typing import Literal
from longtail.config import Options
from longtail.methods.single_head import SingleHead, SingleHeadOptions

class OwnOptions(SingleHeadOptions):
    name: Literal["own"] = "own"

class Own(SingleHead):
    """As the plain one."""

    Config = OwnOptions
    summary = "an example"
    advice = "never"
    citation = "nobody"
'''


@pytest.fixture(autouse=True)
def tidy(monkeypatch, tmp_path):
    """Give each test a home of its own, and take away what it has loaded."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv(plugins.VARIABLE, raising=False)
    yield
    forget()


def forget():
    import sys

    for name in [name for name in sys.modules if name.startswith(plugins.PREFIX)]:
        plugins._forget(name)
        del sys.modules[name]


def file_of(tmp_path, text, name="mine"):
    file = tmp_path / f"{name}.py"
    file.write_text(text)
    return file


def test_a_loss_is_chosen_by_name_with_its_options(tmp_path):
    load_plugin(file_of(tmp_path, LOSS))
    config = resolve("digits-lt/cross-entropy", ["loss=doubled", "factor=3"])
    loss = config.method.loss.build(ClassCounts([3, 1]), 1.0)
    z = torch.tensor([[1.0, 0.0]])
    # log(1 + e^-3)
    assert loss(z, torch.tensor([0])).item() == pytest.approx(0.04858735)
    assert config.model_dump(mode="json")["method"]["loss"] == {"name": "doubled", "factor": 3.0}
    assert [plugin["module"] for plugin in plugins_of(config.method)] == ["longtail_plugin_mine"]
    assert plugins_of(resolve("digits-lt/cross-entropy").method) == []


def test_a_sampler_is_a_weight_per_class(tmp_path):
    load_plugin(file_of(tmp_path, SAMPLER))
    config = resolve("digits-lt/cross-entropy", ["sampling=cube-root"])
    p = class_probability(config.method.sampling.build(10), ClassCounts([27, 8, 1]))
    assert p == pytest.approx([3 / 6, 2 / 6, 1 / 6])
    assert len(plugins_of(config.method)) == 1
    load_plugin(file_of(tmp_path, SAMPLER.replace("n ** (1 / 3)", "-n")))
    with pytest.raises(
        ConfigError, match=r"cube-root returns.*none below 0.*got \[-27\.0, -8\.0, -1\.0\]"
    ):
        class_probability(Sampling(name="cube-root"), ClassCounts([27, 8, 1]))


def test_an_unknown_sampler_is_told_with_the_nearest():
    with pytest.raises(ConfigError, match="no sampler 'reverse'; did you mean reversed"):
        class_probability(Sampling(name="reverse"), ClassCounts([2, 1]))


def test_a_file_that_is_loaded_again_replaces_what_it_defined(tmp_path):
    load_plugin(file_of(tmp_path, METHOD))
    first = METHODS["own"]
    load_plugin(file_of(tmp_path, METHOD))
    assert METHODS["own"] is first, "the same text is loaded once"
    load_plugin(file_of(tmp_path, METHOD.replace('"own"', '"other"')))
    assert "own" not in METHODS
    assert METHODS["other"].summary == "an example"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1", "defines no method, loss or sampler"),
        ("def f(:", "line 1: SyntaxError"),
        (LOSS + "\nraise RuntimeError('half')", "line 25: RuntimeError: half"),
        (METHOD.replace('"own"', '"do"'), "there is a method 'do' already"),
        (LOSS.replace('"doubled"', '"ldam"'), "there is a 'ldam' already"),
        (SAMPLER + "\nSAMPLERS['x'] = 1 / 0", "ZeroDivisionError"),
        (METHOD.replace('name: Literal["own"] = "own"', 'name: Literal["own"]'), "no name"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
    ],
)
def test_a_file_with_a_mistake_changes_nothing(tmp_path, text, said):
    before = dict(METHODS), dict(SAMPLERS), dict(LossOptions.kinds)
    with pytest.raises(ConfigError, match=said):
        load_plugin(file_of(tmp_path, text))
    assert (dict(METHODS), dict(SAMPLERS), dict(LossOptions.kinds)) == before


@pytest.mark.parametrize("name", ["none.py", "folder.py", "text.txt"])
def test_what_is_no_python_file_is_refused(tmp_path, name):
    (tmp_path / "folder.py").mkdir()
    (tmp_path / "text.txt").write_text("x = 1")
    with pytest.raises(ConfigError, match=f"plug-in .*{name}"):
        load_plugin(tmp_path / name)


def test_a_run_is_opened_by_who_has_loaded_its_plugin_and_runs_nothing_elsewhere(
    tmp_path, monkeypatch
):
    file = file_of(tmp_path, METHOD + LOSS)
    load_plugin(file)
    run = api.train(
        "digits-lt/cross-entropy", ["method=own", "loss=doubled", "epochs=1"],
        out=tmp_path / "run", device="cpu",
    )  # fmt: skip
    (kept,) = json.loads(run.folder.environment.read_text())["plugins"]
    assert kept["source"] == METHOD + LOSS
    # another process of the same user: the copy in the run is loaded, wherever the file went
    file.unlink()
    forget()
    model = api.load(run.folder.path, device="cpu")
    assert type(model.method).__name__ == "Own"
    # somebody else: nothing is run, and the message says what to do
    forget()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another"))
    with pytest.raises(ConfigError, match=r"mine\.py, which is Python code .* --plugin mine\.py"):
        api.load(run.folder.path, device="cpu")
    assert "own" not in METHODS
    # who names a file has chosen
    load_plugin(file_of(tmp_path, METHOD + LOSS))
    assert api.load(run.folder.path, device="cpu").method.config.loss.factor == 2


def test_plugins_of_the_environment_are_loaded_when_a_recipe_is_read(tmp_path, monkeypatch):
    monkeypatch.setenv(plugins.VARIABLE, str(file_of(tmp_path, LOSS)))
    assert resolve("digits-lt/cross-entropy", ["loss=doubled"]).method.loss.factor == 2
