"""Train tiny methods for a few steps and write their losses: one process of one or of several.

python -m tests.contract.in_two_processes FILE < JSON of {variant: [method, options]}
"""

import json
import sys
import tempfile
from pathlib import Path

import torch

from longtail.core import distributed
from tests import tiny

# small steps: what is asked is whether the losses are the same, not how rounding grows
OPTIONS = tiny.OPTIONS.model_copy(
    update={
        "epochs": 2,
        "learning_rate": 0.002,
        "momentum": 0.0,
        "nesterov": False,
        "joint_norm": True,
    }
)


def losses_of(variants, folder):
    """Return the loss of every epoch of each variant."""
    found = {}
    for number, (variant, (name, options)) in enumerate(variants.items()):
        method = tiny.build(name, options, epochs=OPTIONS.epochs)
        run = tiny.train(method, folder / str(number), OPTIONS, name=name)
        found[variant] = [line["loss"] for line in run.read_metrics() if "loss" in line]
    return found


def main():
    torch.set_num_threads(1)
    distributed.start(torch.device("cpu"))
    with tempfile.TemporaryDirectory() as own:
        found = losses_of(json.load(sys.stdin), Path(distributed.broadcast(own)))
        distributed.barrier()
    if distributed.is_main():
        Path(sys.argv[1]).write_text(json.dumps(found))
    distributed.stop()


if __name__ == "__main__":
    main()
