"""`longtail`, and `python -m longtail` for `torchrun -m longtail train ...`."""

from longtail.core.interrupts import ending_quietly


def main() -> None:
    """Run the command line."""
    with ending_quietly():
        from longtail.cli import main as run
    run()


if __name__ == "__main__":
    main()
