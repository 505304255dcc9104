"""Which methods several processes train as one process does."""

from __future__ import annotations

from longtail.methods import METHODS


def several_processes_table() -> str:
    """Return a row for every method; the tests compare the losses of one process and of two."""
    rows = ["| method | two processes train as one |", "|---|---|"]
    for name, method in METHODS.items():
        why = method.several_processes
        rows.append(f"| {name} | {f'no: each process {why}' if why else 'yes'} |")
    return "\n".join(rows)
