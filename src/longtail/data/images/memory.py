"""One budget of memory for all decoders of a process."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition


class MemoryBudget:
    """Bytes that decoding threads share: who does not fit waits for the others.

    What needs more than the whole budget runs alone, so nothing that fits a machine is refused. Turns are
    given in the order of asking, so a large image is not passed over by small ones for ever.

    Args:
        limit: Bytes.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._used = 0
        self._waiting: deque[object] = deque()
        self._changed = Condition()

    @property
    def used(self) -> int:
        """Bytes that are reserved now."""
        return self._used

    @contextmanager
    def reserve(self, size: int) -> Iterator[None]:
        """Hold `size` bytes inside the block; wait for them first."""
        turn = object()
        with self._changed:
            self._waiting.append(turn)
            self._changed.wait_for(
                lambda: (
                    self._waiting[0] is turn
                    and (self._used == 0 or self._used + size <= self.limit)
                )
            )
            self._waiting.popleft()
            self._used += size
            self._changed.notify_all()  # the next in line may fit as well
        try:
            yield
        finally:
            with self._changed:
                self._used -= size
                self._changed.notify_all()


# memory belongs to the process, so there is one budget, however many loaders and checks decode at once
DECODING = MemoryBudget(2 * 2**30)
