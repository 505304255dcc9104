"""What papers call the systems that our methods make, and the recipe of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

# method -> system, as the field writes it -> last part of the names of its recipes
SYSTEMS: Mapping[str, Mapping[str, str]] = {
    "single-head": {
        "CE": "cross-entropy",
        "mixup": "mixup",
        "CutMix": "cutmix",
        "CMO": "cmo",
        "Focal": "focal",
        "CB-CE": "class-balanced-cross-entropy",
        "CB-Focal": "class-balanced-focal",
        "CE-DRW": "cross-entropy-drw",
        "CE-DRS": "cross-entropy-drs",
        "LDAM": "ldam",
        "LDAM-DRW": "ldam-drw",
        "BSCE": "balanced-softmax",
        "LA": "logit-adjusted",
        "LADE": "lade",
        "SEQL": "softmax-equalization",
        "VS": "vector-scaling",
        "ADRW and TLA": "adrw-tla",
        "lifted structured": "lifted-structured",
        "range": "range",
        "SAM": "sam",
        "ImbSAM": "imbsam",
        "Focal-SAM": "focal-sam",
    },
    "decoupling": {
        "cRT": "crt",
        "LWS": "lws",
        "tau-norm": "tau-normalisation",
        "NCM": "nearest-class-mean",
        "LOS": "los",
        "H2T": "h2t",
    },
    "balms": {"BALMS": "balms"},
    "mislas": {"MiSLAS": "mislas"},
    "gcl": {"GCL": "gcl"},
    "weight-balancing": {"WB": "weight-balancing"},
    "cc-sam": {"CC-SAM": "cc-sam"},
    "oltr": {"OLTR": "oltr", "cRT and memory": "crt-memory-resnet10"},
    "fslwf": {"FSLwF": "fslwf"},
    "tde": {"TDE": "tde"},
    "bbn": {"BBN": "bbn"},
    "rsg": {"RSG": "rsg"},
    "elf": {"ELF": "elf"},
    "experts": {"RIDE": "ride", "SADE": "sade", "BalPoE": "balpoe"},
    "mdcs": {"MDCS": "mdcs"},
    "ace": {"ACE": "ace"},
    "lfme": {"LFME": "lfme"},
    "ncl": {"NCL": "ncl"},
    "shike": {"SHIKE": "shike"},
    "reslt": {"ResLT": "reslt"},
    "sure": {"SURE": "sure"},
    "glmc": {"GLMC": "glmc"},
    "paco": {
        "PaCo": "paco",
        "GPaCo": "gpaco",
        "SupCon": "supcon",
        "CE and SupCon": "paco-multi-task",
    },
    "bcl": {"BCL": "bcl"},
    "proco": {"ProCo": "proco"},
    "tsc": {"TSC": "tsc", "KCL": "kcl"},
    "do": {"DO": "do"},
}
# other names of them -> last part of the recipe, as `normal` writes it
ALSO: Mapping[str, str] = {
    "softmax": "cross-entropy",
    "erm": "cross-entropy",
    "bs": "balanced-softmax",
    "logit-adjustment": "logit-adjusted",
    "tau": "tau-normalisation",
    "tau-normalization": "tau-normalisation",
    "causal-norm": "tde",
    "tade": "sade",
    "vs-loss": "vector-scaling",
    "ddc": "adrw-tla",
    "adrw": "adrw-tla",
    "tla": "adrw-tla",
    "vs-+-adrw-+-tla": "adrw-tla",
    "crt-memory": "crt-memory-resnet10",
    "supervised-contrast": "supcon",
    "multi-task": "paco-multi-task",
}


class System(NamedTuple):
    """A system of a paper: its name there, our method, and the last part of the names of its recipes."""

    name: str
    method: str
    recipe: str


def normal(name: str) -> str:
    """Write a name as our recipes do: small letters with hyphens."""
    return "-".join(name.lower().replace("_", " ").replace("-", " ").split())


def systems_of(method: str) -> tuple[str, ...]:
    """Return what papers call the systems of a method; nothing for a method of the user's own."""
    return tuple(SYSTEMS.get(method, {}))


def recipes_by_name() -> dict[str, str]:
    """Return the last part of a recipe for each name that a system has, all of them as `normal` writes."""
    named = {normal(s): recipe for own in SYSTEMS.values() for s, recipe in own.items()}
    return {**named, **ALSO}


def system_named(name: str) -> System | None:
    """Return a system by its name, that of its recipe, or another one; however it is spelt."""
    wanted = recipes_by_name().get(normal(name), normal(name))
    for method, own in SYSTEMS.items():
        for system, recipe in own.items():
            if recipe == wanted:
                return System(system, method, recipe)
    return None
