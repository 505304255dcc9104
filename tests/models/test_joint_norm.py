"""Statistics of the joint batch: the formulas against PyTorch's, and what is refused."""

import pytest
import torch
from torch import nn

from longtail.core import ConfigError, distributed
from longtail.models.joint_norm import join_statistics

RANKS = 2


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Tanh(), nn.Flatten(), nn.Linear(80, 7), nn.BatchNorm1d(7)
    ).double()  # fmt: skip


def images():
    return torch.randn(8, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def state_after_backward(net, x):
    net(x).square().sin().mean().backward()
    return {**net.state_dict(), **{f"gradient of {n}": p.grad for n, p in net.named_parameters()}}


def one_of_two(rank, store, out):
    group = torch.distributed.FileStore(store, RANKS)
    torch.distributed.init_process_group("gloo", store=group, rank=rank, world_size=RANKS)
    net = network()
    join_statistics(net)
    found = state_after_backward(net, images().chunk(RANKS)[rank])
    averaged = {n: distributed.mean(v) if n.startswith("gradient") else v for n, v in found.items()}
    torch.save(averaged, f"{out}{rank}")
    distributed.stop()


@pytest.mark.slow
def test_two_processes_have_the_statistics_and_gradients_of_the_joint_batch(tmp_path):
    expected = state_after_backward(network(), images())
    out = str(tmp_path / "rank")
    torch.multiprocessing.spawn(one_of_two, (str(tmp_path / "store"), out), RANKS)
    for rank in range(RANKS):
        found = torch.load(f"{out}{rank}")
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, atol=1e-11, rtol=1e-10)


@pytest.fixture
def group_of_one(tmp_path):
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    distributed.stop()


@pytest.mark.parametrize(("kind", "shape"), [(nn.BatchNorm1d, (6, 4)), (nn.BatchNorm2d, (3, 4, 5, 2)),
                         (nn.BatchNorm1d, (3, 4, 7)), (nn.BatchNorm3d, (2, 4, 2, 3, 2))])  # fmt: skip
@pytest.mark.parametrize("momentum", [0.1, None])
def test_in_one_process_it_is_pytorchs_own(group_of_one, kind, shape, momentum):
    torch.manual_seed(0)
    plain, joint = (nn.Sequential(kind(4, momentum=momentum)) for _ in range(2))
    for module in (plain, joint):
        nn.init.normal_(module[0].weight, generator=torch.Generator().manual_seed(1))
    join_statistics(joint)
    assert list(joint.state_dict()) == list(plain.state_dict())
    x = torch.randn(shape) * 3 + 5
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    for module, given in zip((plain, joint), inputs, strict=True):
        for _ in range(2):
            (module(given).sin() * 2).sum().backward()
    torch.testing.assert_close(inputs[1].grad, inputs[0].grad, atol=1e-4, rtol=1e-4)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(joint.state_dict()[name], value, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(joint[0].weight.grad, plain[0].weight.grad, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(joint.eval()(x), plain.eval()(x))


def test_without_a_group_nothing_changes():
    module = nn.Sequential(nn.BatchNorm2d(3))
    join_statistics(module)
    assert type(module[0]) is nn.BatchNorm2d


def test_an_unknown_kind_is_refused(group_of_one):
    class Other(nn.BatchNorm2d):
        pass

    with pytest.raises(
        ConfigError, match="0 is a Other, whose statistics cannot be computed across"
    ):
        join_statistics(nn.Sequential(Other(3)))
