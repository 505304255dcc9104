"""`python -m longtail`, for `torchrun -m longtail train ...`."""

from longtail.cli import main

if __name__ == "__main__":
    main()
