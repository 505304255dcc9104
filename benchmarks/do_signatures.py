"""Write what each stage of a DO run gives and takes, and which sub-model is mixed in for whom.

    python benchmarks/do_signatures.py runs/reproduce/do-ablations/short/*/seed-1

Tables 7 and 9 of the paper for many readings of its text: the panels of panels.py that need no gradients,
in less time. Appends a line per run to results/do-signatures.jsonl.
"""

from __future__ import annotations

from dataclasses import asdict

import of_runs
import torch

from longtail.data.loader import evaluation_batches
from longtail.methods.do import DO
from longtail.methods.do_figures import sub_models_and_weights
from longtail.report.view import RunView
from longtail.runs import append_record


def main() -> None:
    """Score the ends of the stages, and mix."""
    arguments = of_runs.parser(__doc__, "do-signatures.jsonl").parse_args()
    for path in arguments.runs:
        view = RunView.open(path, device="cpu")
        method, card = view.model.method, view.model.card
        if not isinstance(method, DO):
            raise SystemExit(f"{path} is no run of DO.")
        data = view.run.open_data().split(view.split).normalised_by(card.mean, card.std)
        labels = torch.tensor(data.manifest.labels)
        with torch.inference_mode():
            batches = (
                (x, labels[rows])
                for x, rows in evaluation_batches(data, device=torch.device("cpu"))
            )
            mixed = list(
                sub_models_and_weights(
                    method.answers, method.predict, batches, method.preferred, method.config.mixture
                )
            )
        line = {
            **of_runs.facts("do-signatures", view.run, view.scores["checkpoint_sha256"]),
            "row": path.parent.name,
            "split": view.split,
            "panels": [
                asdict(panel) for panel in (view.stage_panel(), *mixed) if panel is not None
            ],
        }
        append_record(arguments.record, line)
        for panel in line["panels"]:
            print(path, panel["title"], panel["places"], panel["series"])


if __name__ == "__main__":
    main()
