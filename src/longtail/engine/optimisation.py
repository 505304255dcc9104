"""From a stage to an optimiser: what is trained, what is frozen, what decays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from longtail.core.errors import ConfigError
from longtail.core.rng import derive_seed
from longtail.core.stage import Stage
from longtail.engine.options import TrainingConfig

_NAMING = ("trainable", "reset", "update_norm", "no_weight_decay")


def prepare_stage(method: nn.Module, stage: Stage, seed: int, number: int) -> None:
    """Freeze, unfreeze and re-initialise the parts of `method` as `stage` says.

    Raises:
        ConfigError: If a name in the stage matches no module or parameter (a renamed module that is
            silently never trained has ruined published baselines), or a part is trained whose features
            are computed once.
    """
    named = {kind: getattr(stage, kind) for kind in _NAMING}
    named["rates"] = [name for name, _ in stage.rates]
    named["features"] = [] if stage.features is None else [stage.features]
    for kind, names in named.items():
        _matching(method, names, f"{kind} of stage {stage.name!r}")
    trained = _below(stage.trainable)
    for name, parameter in method.named_parameters():
        parameter.requires_grad_(not stage.trainable or trained(name))
    if stage.features is not None:
        part = method.get_submodule(stage.features)
        if any(parameter.requires_grad for parameter in part.parameters()):
            raise ConfigError(
                f"Stage {stage.name!r} trains {stage.features}, although its features are computed only once."
            )
    with seeded(derive_seed(seed, "reset", number)):
        for name in stage.reset:
            for module in method.get_submodule(name).modules():
                if callable(reset := getattr(module, "reset_parameters", None)):
                    reset()


def training_mode(method: nn.Module, stage: Stage) -> None:
    """Put trained parts into train mode and frozen ones into eval mode.

    A frozen part in train mode is not frozen: its BatchNorm statistics follow the batches. Parts
    that the stage names in `update_norm` do so on purpose.
    """
    followed = _below(stage.update_norm)

    def visit(module: nn.Module, name: str, inherited: bool) -> None:
        parameters = list(module.parameters())
        # a part without parameters (dropout, pooling) does as the part around it
        trained = any(p.requires_grad for p in parameters) if parameters else inherited
        module.training = trained or followed(name)
        for child_name, child in module.named_children():
            visit(child, f"{name}.{child_name}" if name else child_name, module.training)

    visit(method, "", True)


def build_optimizer(
    method: nn.Module, stage: Stage, config: TrainingConfig
) -> torch.optim.Optimizer:
    """Build the optimiser of a stage over its trained parameters.

    Every parameter group has a `factor`, its share of the stage's learning rate.

    Raises:
        ConfigError: If the stage trains nothing.
    """
    decay = config.weight_decay if stage.weight_decay is None else stage.weight_decay
    rate = config.learning_rate if stage.learning_rate is None else stage.learning_rate
    exempt = _below(stage.no_weight_decay)
    slowed = [(_below([part]), factor) for part, factor in stage.rates]
    groups: dict[tuple[float, float], list[nn.Parameter]] = {(decay, 1.0): [], (0.0, 1.0): []}
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            small = parameter.ndim <= 1 and not config.decay_norm_and_bias
            amount = 0.0 if small or exempt(name) else decay
            factor = next((factor for inside, factor in slowed if inside(name)), 1.0)
            groups.setdefault((amount, factor), []).append(parameter)
    parameter_groups = [
        {"params": parameters, "weight_decay": amount, "factor": factor}
        for (amount, factor), parameters in groups.items()
        if parameters
    ]
    if not parameter_groups:
        raise ConfigError(f"Stage {stage.name!r} trains nothing: no parameter is trainable.")
    if config.optimizer == "adamw":
        return torch.optim.AdamW(parameter_groups, lr=rate, foreach=True)
    # SAM changes where the gradient is taken, not the step: see `longtail.engine.sharpness`
    return torch.optim.SGD(
        parameter_groups,
        lr=rate,
        momentum=config.momentum,
        nesterov=config.nesterov if stage.nesterov is None else stage.nesterov,
        foreach=True,
    )


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run a block with torch's global generators at `seed`, and put them back afterwards.

    For library code that draws from the global generator: initialisation and dropout.
    """
    with torch.random.fork_rng(devices=current_devices()):
        torch.manual_seed(seed)
        yield


def current_devices() -> list[int]:
    """Return the GPU whose generator is used besides the CPU's, if there is one."""
    return [torch.cuda.current_device()] if torch.cuda.is_available() else []


def _matching(method: nn.Module, names: Sequence[str], where: str) -> None:
    known = {name for name, _ in method.named_modules()} | {n for n, _ in method.named_parameters()}
    if unknown := [name for name in names if name not in known]:
        raise ConfigError(
            f"{where} contains {', '.join(unknown)}, which the method does not have. Top-level parts: "
            f"{', '.join(sorted((name for name, _ in method.named_children())))}."
        )


def _below(names: Sequence[str]) -> Callable[[str], bool]:
    """Return a test whether a dotted name is one of `names` or lies below one."""
    return lambda name: any(name == top or name.startswith(f"{top}.") for top in names)
