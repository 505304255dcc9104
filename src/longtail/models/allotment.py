"""Allot the weights of one network to groups, so that it holds several networks, one inside the next.

Every weight of a convolution or linear layer belongs to one group: an integer, 0 while it is free.
Sub-model t uses the weights of groups 1..t and zeros elsewhere. What belongs to a group is a buffer that no
optimiser, weight decay or momentum can reach; the live parameters of the network are what is being
trained, seen through the mask of the group in training. So settled weights are bit-identical for ever, by
construction.

Everything else (normalisation, biases) is per stage: it is trained live, and a copy is kept for each
sub-model.

On disk all sub-models together are one tensor per weight, two bits per weight for its group, and the copies:
of each entry only the settled or only the live value is ever read again, so only that one is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from longtail.core.errors import ConfigError
from longtail.models.low_rank import LowRankLinear

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Linear)
NORMALISATION = (nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm)
GROUPS, DONE = "groups", "settled_groups"  # names on disk


class Allotment(nn.Module):
    """One network, T sub-models.

    Args:
        network: Its parameters are the live ones.
        count: T.
        keep_whole: Prefixes of layers whose weights are per stage instead of allotted.
        reuse: Whether sub-model t sees the groups below t; without, it is group t alone.

    Raises:
        ConfigError: If the network has low-rank additions.
    """

    def __init__(
        self,
        network: nn.Module,
        count: int,
        keep_whole: tuple[str, ...] = (),
        *,
        reuse: bool = True,
    ) -> None:
        super().__init__()
        if any(isinstance(module, LowRankLinear) for module in network.modules()):
            raise ConfigError(
                "Weights that are allotted to groups are trained, and low-rank additions keep them as they "
                "are; leave model.low_rank out."
            )
        self.network, self.count, self.reuse = network, count, reuse
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
        self.done = 0  # groups that are settled; stored with the weights

    # --- forward passes -----------------------------------------------------------------------

    def live_weights(self, stage: int) -> dict[str, Tensor]:
        """Return the weights of stage 1..T as trained: settled groups below it, live ones in it."""
        live = dict(self.network.named_parameters())
        weights = {}
        for name in self.names:
            group = self.groups_of(name)
            weights[name] = live[name] * (group == stage)
            if stage > 1 and self.reuse:
                weights[name] = weights[name] + self.values_of(name) * (
                    (group > 0) & (group < stage)
                )
        return weights

    def forward(self, images: Tensor, stage: int) -> Tensor:
        """Run the network of stage 1..T with live parameters."""
        return self.answer(self.live_weights(stage), images)

    def answer(self, weights: Mapping[str, Tensor], images: Tensor) -> Tensor:
        """Run the network with some of its parameters and buffers replaced."""
        output: Tensor = functional_call(self.network, dict(weights), (images,))
        return output

    def sub_model(self, images: Tensor, stage: int) -> Tensor:
        """Run sub-model 1..T: settled weights of groups 1..`stage`, and what it kept."""
        return self.answer(self.settled_weights(stage), images)

    def settled_weights(self, stage: int) -> dict[str, Tensor]:
        """Return everything that sub-model `stage` consists of, by name in the network."""
        weights = {}
        for name in self.names:
            group = self.groups_of(name)
            seen = (group > 0) & (group <= stage) if self.reuse else group == stage
            weights[name] = self.values_of(name) * seen
        store = self.kept[stage - 1]
        return weights | {name: getattr(store, _flat(name)) for name in self._per_stage()}

    # --- what stages do -----------------------------------------------------------------------

    @torch.no_grad()
    def prune(
        self,
        stage: int,
        importance: Mapping[str, Tensor],
        share: float,
        scope: Literal["global", "layer"] = "global",
    ) -> None:
        """Release the least important weights of the stage until `share` of it is released.

        Exactly so many, by a stable order: ties do not release more. Released weights never return.

        Args:
            stage: 1..T.
            importance: Of every weight, by name.
            share: Of the weights that the stage began with, in [0, 1].
            scope: Rank all weights together, or those of each layer alone.
        """
        together = [self.names] if scope == "global" else [(name,) for name in self.names]
        for names in together:
            flat = torch.cat([importance[name].flatten() for name in names])
            group = torch.cat([self.groups_of(name).flatten() for name in names])
            own = (group == stage).nonzero().flatten()
            # a stage begins with everything that is free, so what is free now it has released
            released = int((group == 0).sum())
            surplus = round(share * (len(own) + released)) - released
            if surplus <= 0:
                continue
            group[own[flat[own].argsort(stable=True)[:surplus]]] = 0
            self._give(names, group)

    @torch.no_grad()
    def settle(self, stage: int, *, share_norm: bool = False) -> None:
        """Freeze the weights of a stage for ever, and keep what is per stage.

        Args:
            stage: 1..T.
            share_norm: Overwrite the normalisation of earlier sub-models too, which ruins them: a control.
        """
        live = dict(self.network.named_parameters())
        for name in self.names:
            own = self.groups_of(name) == stage
            self.values_of(name).copy_(torch.where(own, live[name], self.values_of(name)))
        shared = self._normalisation() if share_norm else set()
        for name, value in self._per_stage().items():
            for store in self.kept[:stage] if name in shared else self.kept[stage - 1 : stage]:
                getattr(store, _flat(name)).copy_(value)
        self.done = stage

    @torch.no_grad()
    def begin(self, stage: int, values: Mapping[str, Tensor] | None = None) -> None:
        """Give all free weights to `stage`, with new `values` or with those that they have.

        Later sub-models start from what is per stage in the one before, which is live already.
        """
        live = dict(self.network.named_parameters())
        for name in self.names:
            if values is not None:
                live[name].copy_(values[name])
            group = self.groups_of(name)
            group.copy_(torch.where(group == 0, torch.full_like(group, stage), group))

    def sizes(self) -> list[int]:
        """Return the number of weights in groups 0..T."""
        everything = torch.cat([self.groups_of(name).flatten() for name in self.names])
        return torch.bincount(everything.long(), minlength=self.count + 1).tolist()

    def groups_of(self, name: str) -> Tensor:
        """Return the group of every entry of a weight, uint8."""
        found: Tensor = getattr(self.group, _flat(name))
        return found

    def values_of(self, name: str) -> Tensor:
        """Return the settled values of a weight."""
        found: Tensor = getattr(self.settled, _flat(name))
        return found

    def snapshot(self) -> Tensor:
        """Return everything live and the groups of all weights as one vector."""
        return flatten(self._live_and_groups()).detach()

    @torch.no_grad()
    def restore(self, snapshot: Tensor) -> None:
        """Go back to what `snapshot` returned."""
        own = self._live_and_groups()
        for name, value in cut(snapshot, own).items():
            own[name].copy_(value)

    # --- on disk ------------------------------------------------------------------------------

    def state_dict(  # type: ignore[override]
        self,
        *,
        destination: Any = None,  # noqa: ANN401
        prefix: str = "",
        keep_vars: bool = False,
    ) -> dict[str, Any]:
        """Return the compact form, see the head of this file."""
        found: dict[str, Any] = super().state_dict(
            destination=destination, prefix=prefix, keep_vars=keep_vars
        )
        groups = []
        for name in self.names:
            group = self.groups_of(name)
            groups.append(group.flatten())
            settled = (group > 0) & (group <= self.done)
            live = found[f"{prefix}network.{name}"].detach()
            found[f"{prefix}network.{name}"] = torch.where(settled, self.values_of(name), live)
            del found[f"{prefix}settled.{_flat(name)}"], found[f"{prefix}group.{_flat(name)}"]
        found[prefix + GROUPS] = _pack(torch.cat(groups), self.count)
        found[prefix + DONE] = torch.tensor(self.done, dtype=torch.uint8)
        if self.done == self.count:  # then the last copy is what is live
            for name in self._per_stage():
                del found[f"{prefix}kept.{self.count - 1}.{_flat(name)}"]
        return found

    def omitted(self) -> set[str]:
        """Return the names that are on disk only while groups are being trained."""
        return {f"kept.{self.count - 1}.{_flat(name)}" for name in self._per_stage()}

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, *rest: object
    ) -> None:
        """Spread the compact form over the parts, which are loaded next."""
        if (packed := state_dict.pop(prefix + GROUPS, None)) is not None:
            self.done = int(state_dict.pop(prefix + DONE))
            sizes = [self.groups_of(name).numel() for name in self.names]
            unpacked = torch.split(_unpack(packed, self.count, sum(sizes)), sizes)
            for name, group in zip(self.names, unpacked, strict=True):
                shaped = group.view_as(self.groups_of(name))
                value = state_dict[f"{prefix}network.{name}"]
                settled = (shaped > 0) & (shaped <= self.done)
                state_dict[f"{prefix}group.{_flat(name)}"] = shaped
                state_dict[f"{prefix}settled.{_flat(name)}"] = value * settled.to(value.device)
            for name in self._per_stage():
                copy = f"{prefix}kept.{self.count - 1}.{_flat(name)}"
                state_dict.setdefault(copy, state_dict[f"{prefix}network.{name}"])
        super()._load_from_state_dict(state_dict, prefix, *rest)

    # --- parts --------------------------------------------------------------------------------

    def _give(self, names: tuple[str, ...], group: Tensor) -> None:
        """Write groups of several weights, in order, into their buffers."""
        sizes = [self.groups_of(name).numel() for name in names]
        for name, part in zip(names, torch.split(group, sizes), strict=True):
            self.groups_of(name).copy_(part.view_as(self.groups_of(name)))

    def _live_and_groups(self) -> dict[str, Tensor]:
        live = self.network.state_dict(prefix="live.")
        return live | {f"group.{name}": self.groups_of(name) for name in self.names}

    def _per_stage(self) -> dict[str, Tensor]:
        """Return parameters and buffers of the network that are not allotted."""
        everything = {**dict(self.network.named_parameters()), **dict(self.network.named_buffers())}
        return {name: value for name, value in everything.items() if name not in self.names}

    def _normalisation(self) -> set[str]:
        """Return the names of everything that belongs to normalisation layers."""
        return {
            f"{place}.{name}"
            for place, module in self.network.named_modules()
            if isinstance(module, NORMALISATION)
            for name in module.state_dict()
        }


class SeparateNetworks(nn.Module):
    """T networks of their own in the place of an allotment: a control with T times the weights.

    Args:
        networks: One per stage.
    """

    def __init__(self, networks: list[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.count = self.done = len(networks)

    def forward(self, images: Tensor, stage: int) -> Tensor:
        """Run network 1..T."""
        output: Tensor = self.networks[stage - 1](images)
        return output

    sub_model = forward


def flatten(tensors: Mapping[str, Tensor]) -> Tensor:
    """Return tensors one after the other as one vector, float32."""
    return torch.cat([value.flatten().float() for value in tensors.values()])


def cut(flat: Tensor, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo `flatten` for tensors of the names and shapes of `like`."""
    parts = torch.split(flat, [value.numel() for value in like.values()])
    named = zip(parts, like.items(), strict=True)
    return {name: part.view_as(value) for part, (name, value) in named}


def _flat(name: str) -> str:
    """Return a name that a buffer may have."""
    return name.replace(".", "__")


def _bits(count: int) -> int:
    """Return the bits of a group number 0..count that fill bytes evenly."""
    return 2 if count < 4 else 4


def _pack(groups: Tensor, count: int) -> Tensor:
    """Put several group numbers into each byte, uint8 [ceil(P / (8 / bits))]."""
    each = 8 // _bits(count)
    padded = nn.functional.pad(groups, (0, -len(groups) % each)).view(-1, each)
    shifts = torch.arange(each, device=groups.device, dtype=torch.uint8) * _bits(count)
    return (padded << shifts).sum(dim=1, dtype=torch.uint8)


def _unpack(packed: Tensor, count: int, size: int) -> Tensor:
    """Undo `_pack` for the first `size` numbers."""
    bits = _bits(count)
    shifts = torch.arange(8 // bits, device=packed.device, dtype=torch.uint8) * bits
    spread: Tensor = (packed[:, None] >> shifts) & (2**bits - 1)
    return spread.flatten()[:size]
