"""Train tiny variants of methods for a few steps and write their losses: one process of one or of several.

python -m tests.contract.in_two_processes FILE < JSON of {variant: [method, options]}
"""

import json
import sys
import tempfile
from pathlib import Path

import torch

from longtail.core import distributed
from tests import tiny

# a small rate: what is asked is whether the losses are the same, not how rounding grows over many steps
OPTIONS = tiny.OPTIONS.model_copy(
    update={
        "epochs": 2,
        "learning_rate": 0.002,
        "joint_norm": True,
        "momentum": 0.0,
        "nesterov": False,
    }
)


def losses_of(variants, folder):
    """Return the loss of every epoch and the logits at the end, by variant."""
    found = {}
    for number, (variant, (name, options)) in enumerate(variants.items()):
        method = tiny.build(name, options, epochs=OPTIONS.epochs)
        made = tiny.trainer(method, folder / str(number), OPTIONS, name=name)
        made.run(resume=False)
        found[variant] = [line["loss"] for line in made.folder.read_metrics() if "loss" in line]
    return found


def main():
    torch.set_num_threads(1)
    distributed.start(torch.device("cpu"))
    with tempfile.TemporaryDirectory() as own:
        folder = Path(distributed.broadcast(own))
        found = losses_of(json.load(sys.stdin), folder)
        distributed.barrier()
    if distributed.is_main():
        Path(sys.argv[1]).write_text(json.dumps(found))
    distributed.stop()


if __name__ == "__main__":
    main()
