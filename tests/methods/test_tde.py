"""TDE against the facts of the specification of the baselines (entry 11)."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from longtail.core import Batch, ConfigError, Position, StepOutput
from longtail.engine import checkpoint as ckpt
from longtail.methods import METHODS
from longtail.models.heads import CausalHead
from longtail.recipes import resolve
from tests import tiny

X = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
DIRECTION = torch.tensor([1.0, 0.0], dtype=torch.float64)
START = Position(0, 0, 0, 0, 3)


def golden_head():
    head = CausalHead(2, 3, heads=1)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]]))
    return head


@pytest.mark.parametrize(
    ("strength", "expected"),
    [
        (None, [9.309091, 12.603077, 15.496759]),
        (1.0, [0, 12.603077, 8.855291]),
        (3.0, [-18.618182, 12.603077, -4.427645]),
    ],
)
def test_the_golden_values(strength, expected):
    head = golden_head()
    out = head(X) if strength is None else head(X, DIRECTION, strength)
    assert out[0].tolist() == pytest.approx(expected, abs=1e-6)


def parts(vectors, heads):
    return F.normalize(vectors.unflatten(-1, (heads, -1)), dim=-1)


@given(st.sampled_from([1, 2, 4]), st.integers(0, 2**31))
def test_every_head_sees_its_part(heads, seed):
    generator = torch.Generator().manual_seed(seed)
    head = CausalHead(8, 5, heads=heads)
    x, d = torch.randn(6, 8, generator=generator), torch.randn(8, generator=generator)
    expected = torch.zeros(6, 5)
    for k in range(heads):
        part = slice(k * 8 // heads, (k + 1) * 8 // heads)
        u, v, w = F.normalize(x[:, part]), F.normalize(d[part], dim=0), head.weight[:, part]
        rest = u - 1.5 * (u @ v)[:, None] * v
        expected += 16 / heads * rest @ (w / (w.norm(dim=1, keepdim=True) + 1 / 32)).T
    torch.testing.assert_close(head(x, d, 1.5), expected, atol=1e-5, rtol=1e-4)
    # nothing taken out, or no direction yet: the logits of training
    torch.testing.assert_close(head(x, d, 0.0), head(x))
    torch.testing.assert_close(head(x, torch.zeros(8), 1.5), head(x))
    # only the direction counts
    torch.testing.assert_close(head(x, 7 * d, 1.5), head(x, d, 1.5))


def test_with_one_head_and_alpha_one_nothing_along_the_direction_is_left():
    head = golden_head()
    moved = X + 5 * DIRECTION
    there, here = (head(x, DIRECTION, 1.0)[0] for x in (moved, X))
    # only the length of x, by which all logits are divided, still depends on it
    torch.testing.assert_close(there * moved.norm(), here * X.norm())


def test_the_direction_is_the_sum_of_mean_features():
    method = tiny.build("tde", {"momentum": 0.5})
    first, second = torch.randn(6, 64), torch.randn(6, 64)
    for features in (first, second):
        method.after_step(StepOutput(torch.zeros(()), carry={"features": features}), START)
    expected = 0.5 * first.mean(dim=0) + second.mean(dim=0)
    torch.testing.assert_close(method.direction, expected)


def test_training_neither_sees_nor_moves_what_is_taken_out():
    method = tiny.build("tde", {"alpha": 3.0})
    labels = torch.arange(7)
    batch = Batch((tiny.images(7),), labels, labels)
    method.direction.normal_()
    method.alpha.fill_(3.0)
    loss = method.training_step([batch], START).loss
    torch.testing.assert_close(
        loss, F.cross_entropy(method.head(method.backbone(batch.images)), labels)
    )


def test_alpha_by_the_rule_of_thumb(tmp_path):
    method = tiny.build("tde")
    assert [stage.kind for stage in method.stages()] == ["train", "fit"]
    tiny.train(method, tmp_path, name="tde")
    line = tiny.RunFolder(tmp_path).read_metrics()[-1]
    assert line["alpha"] * line["mean_cosine"] == pytest.approx(1)
    data = tiny.data()
    pixels = torch.stack([data.images.pixels[i] for i in range(len(data.manifest))]) / 255
    x = method.eval().backbone((pixels - 0.3) / 0.25).detach()
    cosines = (parts(x, 2) * parts(method.direction, 2)).sum(dim=2)
    assert line["mean_cosine"] == pytest.approx(float(cosines.mean()), abs=1e-4)
    assert method.notes == (
        f"alpha = {line['alpha']:.2f} (1 over the mean cosine of training features).",
    )
    given = tiny.build("tde", {"alpha": 1.5})
    assert given.fit(given.stages()[1], [], "train") == {"alpha": 1.5}
    assert (given.notes, float(given.alpha)) == ((), 1.5)


def test_another_alpha_needs_no_training(tmp_path):
    kind = METHODS["tde"]
    assert kind.shares_first_stage(kind.Config(alpha=3.0), kind.Config())
    assert not kind.shares_first_stage(kind.Config(heads=4), kind.Config())
    assert not kind.shares_first_stage(kind.Config(), METHODS["mislas"].Config())
    trained = tiny.build("tde", {"alpha": 0.0})
    tiny.train(trained, tmp_path / "a", name="tde")
    first = ckpt.read_weights(tmp_path / "a" / "checkpoints" / "stage-0-end")
    other = tiny.build("tde", {"alpha": 3.0}, seed=1)
    trainer = tiny.trainer(other, tmp_path / "b", name="tde")
    trainer.start_from(first, 3, "a")
    trainer.run()
    assert torch.equal(other.direction, trained.direction)
    images = tiny.images(3)
    x = trained.eval().backbone(images)
    torch.testing.assert_close(trained.predict(images), trained.head(x))
    torch.testing.assert_close(other.eval().predict(images), trained.head(x, other.direction, 3.0))


def test_features_that_do_not_lean_to_the_direction_stay():
    method = tiny.build("tde").eval()
    x = method.backbone(tiny.images(5)).detach()
    method.direction.copy_(-x.mean(dim=0))
    facts = method.fit(method.stages()[1], [(tiny.images(5), torch.zeros(5))], "train")
    assert facts["mean_cosine"] < 0
    assert facts["alpha"] == 0


def test_heads_divide_the_features():
    with pytest.raises(ConfigError, match="must divide the 64 features"):
        tiny.build("tde", {"heads": 3})


def test_recipes_have_the_published_options():
    recipe = resolve("cifar100-lt/tde")
    assert (recipe.training.batch_size, recipe.training.milestones) == (256, (0.595, 0.795))
    method = recipe.method
    assert (method.heads, method.scale, method.softening, method.alpha) == (2, 16, 1 / 32, 1.5)
    assert resolve("imagenet-lt/tde", ["root=x"]).method.alpha == 3
