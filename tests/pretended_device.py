"""A pretended accelerator: it computes on the CPU, but its tensors do not mix with those of the CPU.

What forgets to move a tensor fails here as it would on a GPU, and what makes the host wait for the
device is written down.
"""

import sys
from contextlib import contextmanager, nullcontext

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

# no tensor of the project is ever there, and PyTorch asks no driver about it
DEVICE = torch.device("meta")
aten = torch.ops.aten
COPIES = {aten._to_copy.default, aten.copy_.default}
SIZED_BY_VALUES = {
    aten.nonzero.default,
    aten.masked_select.default,
    aten._unique2.default,
    aten.unique_dim.default,
    aten.unique_consecutive.default,
    aten.repeat_interleave.Tensor,
    aten.bincount.default,
}


class Away(torch.Tensor):
    """A tensor of the pretended device; `here` is what it computes with."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, here):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            here.size(),
            strides=here.stride(),
            storage_offset=here.storage_offset(),
            dtype=here.dtype,
            device=DEVICE,
        )

    def __init__(self, here):
        assert here.dtype != torch.float64, "Metal has no float64"
        self.here = here

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return compute(func, args, kwargs or {})

    def tolist(self):
        return self.cpu().tolist()

    def __repr__(self):
        return f"Away({self.here})"


def compute(func, args, kwargs):
    """Run an operation on the CPU, if all tensors that it gets are on one device."""
    given = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)]
    away = [x for x in given if isinstance(x, Away)]
    # one number of the CPU may meet tensors of any device
    strangers = [x for x in given if not isinstance(x, Away) and x.ndim]
    assert func in COPIES or not away or not strangers, f"{func} mixes devices"
    target = kwargs.get("device")
    if target is not None:
        kwargs = kwargs | {"device": torch.device("cpu")}
    args, kwargs = tree_map(lambda x: x.here if isinstance(x, Away) else x, (args, kwargs))
    out = func(*args, **kwargs)
    if not (target == DEVICE if target is not None else away):
        return out
    known = {id(x.here): x for x in away}  # what was changed in place is what was given
    return tree_map(lambda x: known.get(id(x), Away(x)) if isinstance(x, torch.Tensor) else x, out)


def waits_for_the_device(func, args, kwargs):
    """Say whether the host can go on only when the device has computed what it was told before."""
    if func in COPIES:
        target = kwargs["device"] if "device" in kwargs else args[0].device
        source = args[-1].device
        if target is None or DEVICE not in (source, target) or source == target:
            return False
        return not (kwargs.get("non_blocking") and target == DEVICE)
    if not any(isinstance(x, Away) for x in tree_flatten((args, kwargs))[0]):
        return False
    if torch.Tag.data_dependent_output in func.tags or func in SIZED_BY_VALUES:
        return True
    indices = args[1] if func in (aten.index.Tensor, aten.index_put_.default) else ()
    masks = [x for x in indices if x is not None and x.dtype in (torch.bool, torch.uint8)]
    # torch 2.11 to 2.14 write one number under one mask as `index_put_`, which fills without counting the
    # mask; torch 2.15 calls `masked_fill_`
    fills = func == aten.index_put_.default and args[2].numel() == 1 and len(indices) == 1
    return bool(masks) and not fills


class Pretence(TorchDispatchMode):
    """Sees every operation, also those that make a tensor.

    Attributes:
        waits: Operations that the host waited for, with the functions that asked for them.
    """

    def __init__(self):
        super().__init__()
        self.waits = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        with self:  # without gradients, compound operations come here whole
            parts = func.decompose(*args, **(kwargs or {}))
        if parts is not NotImplemented:
            return parts
        if waits_for_the_device(func, args, kwargs or {}):
            self.waits.append((str(func), calling_functions()))
        return compute(func, args, kwargs or {})


def calling_functions():
    frame, found = sys._getframe(), set()
    while frame is not None:
        found.add(frame.f_code)
        frame = frame.f_back
    return found


@contextmanager
def installed():
    """Make `DEVICE` usable; yields the `waits` of `Pretence`."""

    def sent(make):  # these two would forget the values before the mode sees them
        return lambda data, *, device=None, **how: make(data, **how).to(device or "cpu")

    with Pretence() as mode, pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "tensor", sent(torch.tensor))
        patch.setattr(torch, "as_tensor", sent(torch.as_tensor))
        patch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # has no such device
        yield mode.waits
