"""Allot the weights of one network to groups, so that it holds several networks, one inside the next.

Every weight of a convolution or linear layer belongs to one group: an integer, 0 while it is free.
Sub-model t uses the weights of groups 1..t and zeros elsewhere. What belongs to a group is a buffer that no
optimiser, weight decay or momentum can reach; the live parameters of the network are what is being
trained, seen through the mask of the group in training. So settled weights are bit-identical for ever, by
construction.

Everything else (normalisation, biases) is per stage: it is trained live, and a copy is kept for each
sub-model.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Linear)


class Allotment(nn.Module):
    """One network, T sub-models.

    Args:
        network: Its parameters are the live ones.
        count: T.
        keep_whole: Prefixes of layers whose weights are per stage instead of allotted.
    """

    def __init__(self, network: nn.Module, count: int, keep_whole: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.network, self.count = network, count
        self.names = tuple(
            f"{name}.weight"
            for name, module in network.named_modules()
            if isinstance(module, LAYERS) and not name.startswith(keep_whole or ("\0",))
        )
        live = dict(network.named_parameters())
        self.group = nn.Module()  # uint8, the group of every weight; 0 is free
        self.settled = nn.Module()  # values of weights that belong to a group
        for name in self.names:
            self.group.register_buffer(_flat(name), torch.ones_like(live[name], dtype=torch.uint8))
            self.settled.register_buffer(_flat(name), torch.zeros_like(live[name].detach()))
        self.kept = nn.ModuleList(nn.Module() for _ in range(count))  # what is per stage
        for store in self.kept:
            for name, value in self._per_stage().items():
                store.register_buffer(_flat(name), torch.zeros_like(value.detach()))

    # --- forward passes -----------------------------------------------------------------------

    def live_weights(self, stage: int) -> dict[str, Tensor]:
        """Return the weights of stage 1..T as trained: settled groups below it, live ones in it."""
        live = dict(self.network.named_parameters())
        weights = {}
        for name in self.names:
            group = self.groups_of(name)
            own = live[name] * (group == stage)
            weights[name] = own + self.values_of(name) * ((group > 0) & (group < stage))
        return weights

    def forward(self, images: Tensor, stage: int) -> Tensor:
        """Run the network of stage 1..T with live parameters."""
        output: Tensor = functional_call(self.network, self.live_weights(stage), (images,))
        return output

    def sub_model(self, images: Tensor, stage: int) -> Tensor:
        """Run sub-model 1..T: settled weights of groups 1..`stage`, and what it kept."""
        output: Tensor = functional_call(self.network, self.settled_weights(stage), (images,))
        return output

    def settled_weights(self, stage: int) -> dict[str, Tensor]:
        """Return everything that sub-model `stage` consists of, by name in the network."""
        weights = {}
        for name in self.names:
            group = self.groups_of(name)
            weights[name] = self.values_of(name) * ((group > 0) & (group <= stage))
        store = self.kept[stage - 1]
        return weights | {name: getattr(store, _flat(name)) for name in self._per_stage()}

    # --- what stages do -----------------------------------------------------------------------

    @torch.no_grad()
    def prune(self, stage: int, importance: Mapping[str, Tensor], share: float) -> None:
        """Release the least important weights of the stage until `share` of it is released.

        Exactly so many, by a stable order: ties do not release more. Released weights never return.

        Args:
            stage: 1..T.
            importance: Of every weight, by name.
            share: Of the weights that the stage began with, in [0, 1].
        """
        flat = torch.cat([importance[name].flatten() for name in self.names])
        group = torch.cat([self.groups_of(name).flatten() for name in self.names])
        own = (group == stage).nonzero().flatten()
        # a stage begins with everything that is free, so what is free now it has released
        released = int((group == 0).sum())
        surplus = round(share * (len(own) + released)) - released
        if surplus <= 0:
            return
        order = flat[own].argsort(stable=True)
        group[own[order[:surplus]]] = 0
        start = 0
        for name in self.names:
            part = self.groups_of(name)
            part.copy_(group[start : start + part.numel()].view_as(part))
            start += part.numel()

    @torch.no_grad()
    def settle(self, stage: int) -> None:
        """Freeze the weights of a stage for ever, and keep what is per stage."""
        live = dict(self.network.named_parameters())
        for name in self.names:
            own = self.groups_of(name) == stage
            self.values_of(name).copy_(torch.where(own, live[name], self.values_of(name)))
        for name, value in self._per_stage().items():
            getattr(self.kept[stage - 1], _flat(name)).copy_(value)

    @torch.no_grad()
    def begin(self, stage: int, fresh: Mapping[str, Tensor] | None) -> None:
        """Give all free weights to `stage`, with the values `fresh`, or zeros.

        Later sub-models start from what is per stage in the one before, which is live already.
        """
        live = dict(self.network.named_parameters())
        for name in self.names:
            group = self.groups_of(name)
            live[name].copy_(torch.zeros_like(live[name]) if fresh is None else fresh[name])
            group.copy_(torch.where(group == 0, torch.full_like(group, stage), group))

    def sizes(self) -> list[int]:
        """Return the number of weights in groups 0..T."""
        return [
            sum(int((self.groups_of(name) == g).sum()) for name in self.names)
            for g in range(self.count + 1)
        ]

    def groups_of(self, name: str) -> Tensor:
        """Return the group of every entry of a weight, uint8."""
        found: Tensor = getattr(self.group, _flat(name))
        return found

    def values_of(self, name: str) -> Tensor:
        """Return the settled values of a weight."""
        found: Tensor = getattr(self.settled, _flat(name))
        return found

    def _per_stage(self) -> dict[str, Tensor]:
        """Return parameters and buffers of the network that are not allotted."""
        everything = {**dict(self.network.named_parameters()), **dict(self.network.named_buffers())}
        return {name: value for name, value in everything.items() if name not in self.names}


def _flat(name: str) -> str:
    """Return a name that a buffer may have."""
    return name.replace(".", "__")
