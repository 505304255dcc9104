"""`python -m longtail.reproduce`: render the pages of this repository from its records."""

import argparse
import sys
from pathlib import Path

from longtail.reproduce.pages import write_pages


def main() -> None:
    """Rewrite or check the pages."""
    parser = argparse.ArgumentParser(prog="python -m longtail.reproduce", description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail if a page is out of date"
    )
    parser.add_argument("--root", type=Path, default=Path(), help="the repository")
    arguments = parser.parse_args()
    stale = write_pages(arguments.root, check=arguments.check)
    if arguments.check and stale:
        names = ", ".join(str(page) for page in stale)
        sys.exit(f"out of date: {names}; run python -m longtail.reproduce")


if __name__ == "__main__":
    main()
