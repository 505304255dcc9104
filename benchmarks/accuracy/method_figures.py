"""Write the figures of runs as numbers: accuracy at the end of each stage, and the method's own figures.

    python benchmarks/accuracy/method_figures.py runs/reproduce/do-ablations/short/do/seed-*

For DO these are tables 7 and 9 and figures 1b and 4 of the paper. Appends a line per run to
results/method-figures.jsonl.

Time: not measured.
"""

from __future__ import annotations

from dataclasses import asdict

import of_runs

from longtail.report.view import RunView
from longtail.runs import append_record


def main() -> None:
    """Draw nothing; write the numbers."""
    arguments = of_runs.parser(__doc__, "method-figures.jsonl").parse_args()
    for path in arguments.runs:
        view = RunView.open(path, device="cpu")
        ends = view.stage_figure()
        shown = [*([ends] if ends else []), *view.figures()]
        line = {
            **of_runs.facts("figures", view.run, view.scores["checkpoint_sha256"]),
            "row": path.parent.name,
            "split": view.split,
            "figures": [asdict(figure) for figure in shown],
        }
        append_record(arguments.record, line)
        for figure in shown:
            print(figure.title, list(figure.places))
            for name, values in figure.series.items():
                rounded = [
                    None if v is None else round(v, 4 if figure.percent else 8) for v in values
                ]
                print(f"  {name}: {rounded}")


if __name__ == "__main__":
    main()
