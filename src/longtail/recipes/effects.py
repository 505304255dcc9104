"""Which values of a configuration change nothing, given the others: the rules, all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from longtail.recipes.options import RunConfig

Get = Callable[[str], Any]  # value of a dotted key; None where there is none


@dataclass(frozen=True)
class Rule:
    """Some keys are without effect under a condition.

    Attributes:
        keys: Dotted; a key stands for all that is below it.
        reason: Said after "no effect:".
        applies: Whether they are.
    """

    keys: tuple[str, ...]
    reason: str
    applies: Callable[[Get], bool]


def _is(key: str, *values: Any) -> Callable[[Get], bool]:  # noqa: ANN401 - any option
    return lambda get: get(key) in values


def _no_steps(get: Get) -> bool:
    """Whether no stage lowers its rate at milestones."""
    # the classifier of TSC and KCL is trained by steps, whatever the contrast's schedule
    later = get("method.name") == "tsc" or get("method.second_schedule") == "step"
    return bool(get("training.schedule") != "step" and not later)


def _own_milestones(get: Get) -> bool:
    """Whether steps are taken in stage 2 alone, which has milestones of its own."""
    return bool(get("training.schedule") != "step" and get("method.name") == "fslwf")


def _no_contrast(get: Get) -> bool:
    return bool(get("method.name") == "paco" and get("method.objective") != "paco")


def _own_views(get: Get) -> bool:
    """Whether no view of the images is the data set's own."""
    views = get("method.views")
    return bool(views and "default" not in views)


RULES = (
    Rule(("training.milestones", "training.decay_factor"), "no stage uses steps", _no_steps),
    Rule(("training.milestones",), "only stage 2 uses steps", _own_milestones),
    Rule(
        ("method.second_milestones",), "stage 2 does not use steps",
        _is("method.second_schedule", "cosine", "constant"),
    ),
    Rule(
        ("training.warmup_start", "training.warmup_end"), "there is no warm-up",
        _is("training.warmup", 0),
    ),
    Rule(("training.momentum", "training.nesterov"), "AdamW has none", _is("training.optimizer", "adamw")),
    Rule(("training.swa_factor",), "no epochs are averaged", _is("training.swa", None)),
    Rule(("training.rho",), "of SAM", _is("training.optimizer", "sgd", "adamw")),
    Rule(
        ("data.keep_in_train",), "nothing is held out",
        lambda get: get("data.validation_per_class") is None
        and get("data.name") not in ("folder", "table"),
    ),
    Rule(
        ("data.split_seed",), "no split is drawn",
        lambda get: get("data.validation_per_class") is None
        and get("data.name") not in ("folder", "table"),
    ),
    Rule(
        ("data.long_tail.power",), "used only by the Pareto profile",
        lambda get: get("data.long_tail.profile") not in (None, "pareto"),
    ),
    Rule(("data.augmentation",), "the method defines its own views", _own_views),
    Rule(
        (
            "method.loss", "method.sampling", "method.class_weights", "method.augment", "data.augmentation",
            "training.epochs", "training.batch_size", "training.optimizer", "training.learning_rate",
            "training.schedule", "training.weight_decay",
        ),
        "nothing is trained", _is("method.train", "nothing"),
    ),
    Rule(
        ("method.reduction",), "no classes are weighted",
        lambda get: get("method.name") == "single-head" and get("method.class_weights") is None,
    ),
    Rule(
        ("method.tilt",), "there is no diversity term",
        lambda get: get("method.name") == "experts" and get("method.diversity") == 0,
    ),
    Rule(
        ("method.alpha", "method.rebalance", "method.centre_temperature"), "used only by objective paco",
        _no_contrast,
    ),
    Rule(
        ("method.representation.frozen_bn",), "nothing is frozen in the first stage",
        _is("method.representation.train", "all"),
    ),
    Rule(
        ("method.momentum",), "there is no momentum copy",
        lambda get: get("method.name") == "paco" and get("method.keys") == "own",
    ),
    Rule(
        ("method.weight",), "of the objective multi-task",
        lambda get: get("method.name") == "paco" and get("method.objective") != "multi-task",
    ),
    Rule(
        ("method.probe_epochs", "method.probe_rate"), "used only by objective supcon",
        lambda get: get("method.name") == "paco" and get("method.objective") != "supcon",
    ),
    Rule(
        ("method.search_rule",), "gamma is not searched",
        lambda get: get("method.name") == "do" and get("method.release") != "search",
    ),
    Rule(
        ("method.pool_first",), "used only by the convolution head",
        lambda get: get("method.name") == "reslt" and get("method.head") == "batchnorm",
    ),
)  # fmt: skip
# of a part of the method, wherever it stands: its name and what is below it
PARTS: Mapping[str, tuple[Rule, ...]] = {
    "sampling": (
        Rule(
            ("draws_per_class",), "used only by the published class-balanced cycle",
            lambda get: get("name") is not None
            and (get("name") != "class-balanced" or get("form") != "published"),
        ),
        Rule(
            ("beta",), "of effective-number sampling",
            lambda get: get("name") not in (None, "effective-number"),
        ),
        Rule(
            ("start",), "sampling is instance-balanced before and after",
            lambda get: get("name") == "instance" and get("form") == "published",
        ),
    ),
    "class_weights": (
        Rule(
            ("beta",), "of effective-number weights",
            lambda get: get("name") not in (None, "effective-number"),
        ),
        Rule(("exponent",), "of power weights", lambda get: get("name") not in (None, "power")),
    ),
    "head": (
        Rule(("scale",), "used only by the cosine classifier", _is("name", "linear")),
        Rule(("initialisation",), "used only by the linear classifier", _is("name", "cosine")),
    ),
}  # fmt: skip


# what stands for a value that is not given
OWN_VIEW = {"cifar10": "crop-flip", "cifar100": "crop-flip", "digits": "crop"}


def without_effect(config: RunConfig) -> dict[str, str]:
    """Return the keys whose value changes nothing, with the reason.

    Args:
        config: Resolved.
    """
    plain = config.model_dump(mode="json")
    found = _idle(RULES, plain)
    for path, part in _parts(plain["method"], "method."):
        inside = _idle(PARTS.get(path.rpartition(".")[2], ()), part)
        found.update({f"{path}.{key}": reason for key, reason in inside.items()})
    return found


def in_effect(config: RunConfig) -> dict[str, Any]:
    """Return a configuration as plain values, without those that change nothing."""
    plain = config.model_dump(mode="json")
    if plain["data"]["augmentation"] is None:
        plain["data"]["augmentation"] = OWN_VIEW.get(plain["data"]["name"])
    for key in without_effect(config):
        above, _, last = key.rpartition(".")
        # without effect as a whole, a part of the method is gone before its own keys come
        if isinstance(place := value_of(plain, above), dict):
            place.pop(last, None)
    return plain


def value_of(plain: Mapping[str, Any], key: str) -> Any:  # noqa: ANN401 - any option
    """Return the value of a dotted key, None where there is none."""
    place: Any = plain
    for part in key.split("."):
        if not isinstance(place, Mapping) or part not in place:
            return None
        place = place[part]
    return place


def _idle(rules: Iterable[Rule], plain: Mapping[str, Any]) -> dict[str, str]:
    return {
        key: rule.reason
        for rule in rules
        if rule.applies(lambda key: value_of(plain, key))
        for key in rule.keys
        if _present(plain, key)
    }


def _parts(plain: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield every mapping below `plain` with its path."""
    for key, value in plain.items():
        if isinstance(value, Mapping):
            yield f"{prefix}{key}", value
            yield from _parts(value, f"{prefix}{key}.")


def _present(plain: Mapping[str, Any], key: str) -> bool:
    parent, _, last = key.rpartition(".")
    above = value_of(plain, parent) if parent else plain
    return isinstance(above, Mapping) and last in above
