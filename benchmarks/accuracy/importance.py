"""Measure the importance of weights for shot groups (figure 1b of DO), for any trained method.

    python benchmarks/accuracy/importance.py runs/cross-entropy runs/do --split train

The mean of (w g)^2 over the weights of all convolutions and linear layers that prediction uses, g the
gradient of the mean cross-entropy of one class, averaged over the classes of a group. For DO of each
sub-model; of other methods with several networks, of all of them together. The paper expects
many > medium > few for a plainly trained network and even numbers for DO. Large values also mean that images
are predicted badly: their loss has large gradients; so the split matters. Appends a line per run to
results/importance.jsonl.

Time: not measured.
"""

from __future__ import annotations

import of_runs
import torch

from longtail import api
from longtail.core.figure import measured_mean
from longtail.core.groups import GROUP_NAMES
from longtail.prediction.importance import importance_by_class
from longtail.runs import Run, append_record

CPU = torch.device("cpu")


def main() -> None:
    """Measure the runs that are given."""
    parser = of_runs.parser(__doc__, "importance.jsonl")
    parser.add_argument("--split", default="train")
    arguments = parser.parse_args()
    for path in arguments.runs:
        run, model = Run.open(path), api.load(path, device="cpu")
        data = run.open_data().split(arguments.split)
        data = data.normalised_by(model.metadata.mean, model.metadata.std)
        found = {
            name: {group: measured_mean(each[model.groups.mask(group)]) for group in GROUP_NAMES}
            for name, each in importance_by_class(model.method, data, CPU).items()
        }
        line = {
            **of_runs.facts("importance", run, model.metadata.weights_sha256),
            "split": arguments.split,
            "importance": found,
        }
        append_record(arguments.record, line)
        for name, values in found.items():
            print(path, arguments.split, name, values)


if __name__ == "__main__":
    main()
