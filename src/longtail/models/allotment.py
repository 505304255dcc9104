"""Allot the weights of one network to stages, so that it holds several networks, one inside the next.

Every entry of an allotted parameter has an owner: a stage 1..T, or 0 while it is free. Sub-model t uses what
stages 1..t own and zeros elsewhere. What is owned lies in a buffer that no optimiser, weight decay or
momentum can reach; the live parameters of the network are what is being trained, seen through the mask of the
stage in training. So settled weights are bit-identical for ever, by construction.

Everything else (at least the statistics of the normalisation) is per stage: it is trained live, and a copy is
kept for each sub-model.

On disk all sub-models together are one tensor per parameter, two bits per entry for its owner, and the
copies: of each entry only the settled or only the live value is ever read again, so only that is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from longtail.core.errors import ConfigError
from longtail.models.low_rank import constant_weights

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Linear)
OWNERS, DONE = "owners", "settled_stages"  # names on disk


def layer_weights(network: nn.Module) -> list[str]:
    """Return the names of the weights of convolutions and linear layers, in order."""
    return [
        f"{name}.weight" for name, module in network.named_modules() if isinstance(module, LAYERS)
    ]


class Allotment(nn.Module):
    """One network, T sub-models.

    Args:
        network: Its parameters are the live ones.
        count: T.
        allotted: Names of the parameters that are divided among the stages.

    Raises:
        ConfigError: If the network has low-rank additions.
    """

    def __init__(self, network: nn.Module, count: int, allotted: Iterable[str]) -> None:
        super().__init__()
        if constant_weights(network):
            raise ConfigError(
                "Weights that are allotted to stages are trained, and light fine-tuning keeps them as they "
                "are; leave model.low_rank and model.adapter out."
            )
        self.network, self.count, self.names = network, count, tuple(allotted)
        live = dict(network.named_parameters())
        self.owner = nn.Module()  # uint8, the stage that owns each entry; 0 is free
        self.settled = nn.Module()  # values of what is owned
        for name in self.names:
            self.owner.register_buffer(_flat(name), torch.ones_like(live[name], dtype=torch.uint8))
            self.settled.register_buffer(_flat(name), torch.zeros_like(live[name].detach()))
        self.kept = nn.ModuleList(nn.Module() for _ in range(count))  # what is per stage
        for store in self.kept:
            for name, value in self._per_stage().items():
                store.register_buffer(_flat(name), torch.zeros_like(value.detach()))
        self.done = 0  # stages that are settled; stored with the weights

    # --- forward passes -----------------------------------------------------------------------

    def live_weights(self, t: int) -> dict[str, Tensor]:
        """Return the allotted parameters as stage t trains them: earlier stages settled, its own live."""
        live = dict(self.network.named_parameters())
        weights = {}
        for name in self.names:
            owner = self.owner_of(name)
            weights[name] = live[name] * (owner == t)
            if t > 1:
                weights[name] = weights[name] + self.values_of(name) * ((owner > 0) & (owner < t))
        return weights

    def forward(self, images: Tensor, t: int) -> Tensor:
        """Run the network as stage t trains it."""
        return self.logits_with(self.live_weights(t), images)

    def logits_with(self, weights: Mapping[str, Tensor], images: Tensor) -> Tensor:
        """Run the network with some of its parameters and buffers replaced."""
        output: Tensor = functional_call(self.network, dict(weights), (images,))
        return output

    def sub_model(self, images: Tensor, t: int) -> Tensor:
        """Run sub-model t: what stages 1..t own, and what stage t kept."""
        return self.logits_with(self.settled_weights(t), images)

    def settled_weights(self, t: int) -> dict[str, Tensor]:
        """Return everything that sub-model t consists of, by name in the network."""
        weights = {}
        for name in self.names:
            owner = self.owner_of(name)
            weights[name] = self.values_of(name) * ((owner > 0) & (owner <= t))
        store = self.kept[t - 1]
        return weights | {name: getattr(store, _flat(name)) for name in self._per_stage()}

    # --- what stages do -----------------------------------------------------------------------

    @torch.no_grad()
    def release(self, t: int, importance: Mapping[str, Tensor], share: float) -> None:
        """Release the least important weights of stage t until `share` of them is free.

        Exactly so many, by a stable order: ties do not release more. Released weights never return.

        Args:
            t: 1..T.
            importance: Of every allotted entry, by name.
            share: Of the weights that the stage began with, in [0, 1].
        """
        flat = torch.cat([importance[name].flatten() for name in self.names])
        owner = torch.cat([self.owner_of(name).flatten() for name in self.names])
        own = (owner == t).nonzero().flatten()
        # a stage begins with everything that is free, so what is free now it has released
        released = int((owner == 0).sum())
        surplus = round(share * (len(own) + released)) - released
        if surplus <= 0:
            return
        owner[own[flat[own].argsort(stable=True)[:surplus]]] = 0
        sizes = [self.owner_of(name).numel() for name in self.names]
        for name, part in zip(self.names, torch.split(owner, sizes), strict=True):
            self.owner_of(name).copy_(part.view_as(self.owner_of(name)))

    @torch.no_grad()
    def settle(self, t: int) -> None:
        """Freeze the weights of stage t for ever, and keep what is per stage."""
        live = dict(self.network.named_parameters())
        for name in self.names:
            own = self.owner_of(name) == t
            self.values_of(name).copy_(torch.where(own, live[name], self.values_of(name)))
        for name, value in self._per_stage().items():
            getattr(self.kept[t - 1], _flat(name)).copy_(value)
        self.done = t

    @torch.no_grad()
    def begin(self, t: int, values: Mapping[str, Tensor]) -> None:
        """Give all free weights to stage t, with new values.

        It starts from what is per stage in the one before, which is live already.
        """
        live = dict(self.network.named_parameters())
        for name in self.names:
            live[name].copy_(values[name])
            owner = self.owner_of(name)
            owner.copy_(torch.where(owner == 0, torch.full_like(owner, t), owner))

    def sizes(self) -> list[int]:
        """Return the number of weights that are free and that stages 1..T own, T + 1 numbers."""
        everything = torch.cat([self.owner_of(name).flatten() for name in self.names])
        return torch.bincount(everything.long(), minlength=self.count + 1).tolist()

    def owner_of(self, name: str) -> Tensor:
        """Return the owner of every entry of a parameter, uint8."""
        found: Tensor = getattr(self.owner, _flat(name))
        return found

    def values_of(self, name: str) -> Tensor:
        """Return the settled values of a parameter."""
        found: Tensor = getattr(self.settled, _flat(name))
        return found

    def snapshot(self) -> Tensor:
        """Return everything live and all owners as one vector."""
        return flatten(self._live_and_owners()).detach()

    @torch.no_grad()
    def restore(self, snapshot: Tensor) -> None:
        """Go back to what `snapshot` returned."""
        own = self._live_and_owners()
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
        owners = []
        for name in self.names:
            owner = self.owner_of(name)
            owners.append(owner.flatten())
            settled = (owner > 0) & (owner <= self.done)
            live = found[f"{prefix}network.{name}"].detach()
            found[f"{prefix}network.{name}"] = torch.where(settled, self.values_of(name), live)
            del found[f"{prefix}settled.{_flat(name)}"], found[f"{prefix}owner.{_flat(name)}"]
        found[prefix + OWNERS] = _pack(torch.cat(owners), self.count)
        found[prefix + DONE] = torch.tensor(self.done, dtype=torch.uint8)
        if self.done == self.count:  # then the last copy is what is live
            for name in self._per_stage():
                del found[f"{prefix}kept.{self.count - 1}.{_flat(name)}"]
        return found

    def omitted(self) -> set[str]:
        """Return the names that are on disk only while stages are being trained."""
        return {f"kept.{self.count - 1}.{_flat(name)}" for name in self._per_stage()}

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, *rest: object
    ) -> None:
        """Spread the compact form over the parts, which are loaded next."""
        if (packed := state_dict.pop(prefix + OWNERS, None)) is not None:
            self.done = int(state_dict.pop(prefix + DONE))
            sizes = [self.owner_of(name).numel() for name in self.names]
            unpacked = torch.split(_unpack(packed, self.count, sum(sizes)), sizes)
            for name, owner in zip(self.names, unpacked, strict=True):
                shaped = owner.view_as(self.owner_of(name))
                value = state_dict[f"{prefix}network.{name}"]
                settled = (shaped > 0) & (shaped <= self.done)
                state_dict[f"{prefix}owner.{_flat(name)}"] = shaped
                state_dict[f"{prefix}settled.{_flat(name)}"] = value * settled.to(value.device)
            for name in self._per_stage():
                copy = f"{prefix}kept.{self.count - 1}.{_flat(name)}"
                state_dict.setdefault(copy, state_dict[f"{prefix}network.{name}"])
        super()._load_from_state_dict(state_dict, prefix, *rest)

    # --- parts --------------------------------------------------------------------------------

    def _live_and_owners(self) -> dict[str, Tensor]:
        live = self.network.state_dict(prefix="live.")
        return live | {f"owner.{name}": self.owner_of(name) for name in self.names}

    def _per_stage(self) -> dict[str, Tensor]:
        """Return parameters and buffers of the network that are not allotted."""
        everything = {**dict(self.network.named_parameters()), **dict(self.network.named_buffers())}
        return {name: value for name, value in everything.items() if name not in self.names}


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
    """Return the bits of an owner 0..count that fill bytes evenly."""
    return 2 if count < 4 else 4


def _pack(owners: Tensor, count: int) -> Tensor:
    """Put several owners into each byte, uint8 [ceil(P / (8 / bits))]."""
    each = 8 // _bits(count)
    padded = nn.functional.pad(owners, (0, -len(owners) % each)).view(-1, each)
    shifts = torch.arange(each, device=owners.device, dtype=torch.uint8) * _bits(count)
    return (padded << shifts).sum(dim=1, dtype=torch.uint8)


def _unpack(packed: Tensor, count: int, size: int) -> Tensor:
    """Undo `_pack` for the first `size` owners."""
    bits = _bits(count)
    shifts = torch.arange(8 // bits, device=packed.device, dtype=torch.uint8) * bits
    spread: Tensor = (packed[:, None] >> shifts) & (2**bits - 1)
    return spread.flatten()[:size]
