"""OLTR: the meta-embedding and its losses by loops, the memory, and what attention adds."""

import math

import pytest
import torch
import torch.nn.functional as F

from longtail.core import Batch, ConfigError, Position
from longtail.methods.oltr import MetaEmbedding, centroid_losses
from longtail.models.modulated_attention import ModulatedAttention
from longtail.recipes import resolve
from tests import tiny

LABELS = torch.tensor([0, 1, 1, 2, 3])


def drawn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def memory_of(centroids, scale=16.0):
    memory = MetaEmbedding(centroids.shape[1], len(centroids), scale).double()
    memory.centroids.data.copy_(centroids)
    return memory


def test_the_meta_embedding_is_that_of_loops():
    x, centroids, asked = drawn(4, 3), drawn(5, 3, seed=1), drawn(4, 5, seed=2)
    memory = memory_of(centroids)
    S, t = memory.selector.weight.tolist(), memory.selector.bias.tolist()
    rows, found = memory.rows.tolist(), memory(x, asked).detach()
    for i, (image, asks) in enumerate(zip(x.tolist(), asked.tolist(), strict=True)):
        total = sum(math.exp(a) for a in asks)
        o = [math.exp(a) / total for a in asks]
        gamma = min(math.dist(image, c) for c in centroids.tolist())
        v = []
        for j in range(3):
            recalled = sum(o[c] * float(centroids[c, j]) for c in range(5))
            e = math.tanh(sum(S[j][k] * image[k] for k in range(3)) + t[j])
            v.append(10 / gamma * (image[j] + e * recalled))
        length = math.hypot(*v)
        for c, w in enumerate(rows):
            cosine = sum(a * b for a, b in zip(v, w, strict=True)) / length / math.hypot(*w)
            assert float(found[i, c]) == pytest.approx(16 * length / (1 + length) * cosine)


def test_a_feature_at_distance_1_is_ten_times_as_long():
    """With nothing selected, only the reach is left: 16 * 10 |x| / (1 + 10 |x|) cos."""
    centroids = torch.tensor([[1.0, 0.0], [4.0, 4.0]], dtype=torch.float64)
    memory = memory_of(centroids)
    torch.nn.init.zeros_(memory.selector.weight)
    torch.nn.init.zeros_(memory.selector.bias)
    memory.rows.data.copy_(torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
    found = memory(torch.tensor([[2.0, 0.0]], dtype=torch.float64), torch.zeros(1, 2).double())
    expected = [16 * 20 / 21, 16 * 20 / 21 * math.sqrt(0.5)]
    assert found[0].tolist() == pytest.approx(expected)


def test_the_losses_of_centroids_are_those_of_loops():
    x, centroids = drawn(5, 3), drawn(4, 3, seed=1)
    near, following, apart = centroid_losses(x, LABELS, centroids, 10.0)
    squares = [[math.dist(a, c) ** 2 for c in centroids.tolist()] for a in x.tolist()]
    own = [squares[i][y] for i, y in enumerate(LABELS.tolist())]
    assert float(near) == pytest.approx(sum(own) / 10)
    others = sum(map(sum, squares)) - sum(own)
    assert float(apart) == pytest.approx(max(0.0, 10 - others / 20))
    assert float(following) == 0.0
    far = centroid_losses(x, LABELS, 100 * centroids, 10.0)
    assert float(far[2]) == 0.0


def test_centroids_follow_as_the_released_gradient_says():
    """(M_c - x_i) summed over the class, over 1 + its images, over B; features get no part of it."""
    x, centroids = drawn(5, 3).requires_grad_(), drawn(4, 3, seed=1).requires_grad_()
    near, following, _ = centroid_losses(x, LABELS, centroids, 10.0)
    (near + following).backward()
    for c in range(4):
        own = [i for i, y in enumerate(LABELS.tolist()) if y == c]
        summed = sum(centroids[c].detach() - x[i].detach() for i in own)
        torch.testing.assert_close(centroids.grad[c], summed / (1 + len(own)) / 5)
    torch.testing.assert_close(x.grad, (x - centroids[LABELS]).detach() / 5)


def test_attention_changes_nothing_in_the_beginning_and_is_softmax_over_places():
    maps = drawn(2, 6, 7, 7).float()
    attention = ModulatedAttention(6)
    assert torch.equal(attention(maps), maps)
    torch.nn.init.normal_(attention.out.weight)
    found = attention(maps)
    for i in range(2):
        q, k, v = (
            torch.einsum("oc,chw->ohw", layer.weight[:, :, 0, 0], maps[i]).flatten(1)
            for layer in (attention.query, attention.key, attention.value)
        )
        places = attention.places(maps[i].flatten()).softmax(dim=0)
        for n in range(49):
            scores = torch.stack([(q[:, n] * k[:, m]).sum() for m in range(49)]).softmax(dim=0)
            mixed = sum(scores[m] * v[:, m] for m in range(49))
            expected = maps[i, :, n // 7, n % 7] + places[n] * (
                attention.out.weight[..., 0, 0] @ mixed
            )
            torch.testing.assert_close(found[i, :, n // 7, n % 7], expected, atol=1e-4, rtol=1e-4)
    assert attention(drawn(2, 6, 3, 5).float()).shape == (2, 6, 3, 5)


def test_the_memory_holds_class_means_and_then_predicts():
    method = tiny.build("oltr").eval()
    images, labels = tiny.images(5), LABELS
    batch = Batch((images,), labels, torch.arange(5))
    before = method.predict(images)
    pooled = method.backbone.feature_map(images).mean(dim=(2, 3))
    torch.testing.assert_close(before, method.head(pooled))
    torch.testing.assert_close(
        method.training_step([batch], Position(0, 0, 0, 0, 3)).loss,
        F.cross_entropy(before, labels),
    )
    method.fit(method.stages()[1], [(images[:3], labels[:3]), (images[3:], labels[3:])], "train")
    x = method.layer(pooled).detach()
    torch.testing.assert_close(method.memory.centroids[1], x[1:3].mean(dim=0))
    torch.testing.assert_close(method.memory.centroids[3], x[4])
    assert torch.equal(method.predict(images), before)  # nothing is trained on it yet
    at = Position(0, 2, 0, 0, 3)
    out = method.training_step([batch], at)
    z = method.memory(x, method.head(x))
    near, _, apart = centroid_losses(x, labels, method.memory.centroids, 10.0)
    expected = F.cross_entropy(z, labels) + 0.01 * (near + 0.01 * apart)
    torch.testing.assert_close(out.loss, expected)
    method.after_step(out, at)
    torch.testing.assert_close(method.predict(images), z)


def test_crt_and_memory_leaves_the_backbone_alone():
    options = {"attention": False, "layer": "none", "train": "added"}
    method = tiny.build("oltr", options)
    last = method.stages()[-1]
    assert last.trainable == ("head", "memory")
    assert last.update_norm == ("backbone",)


def test_a_width_of_the_second_stage_alone_is_refused():
    with pytest.raises(ConfigError, match="layer_width needs layer=both"):
        resolve("digits-lt/oltr", ["layer_width=12"])
