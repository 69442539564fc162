"""Threads that a piece of code leaves behind. A plain count is no measure: threads of earlier tests end at any moment."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_thread_left(patience: float = 10) -> Iterator[None]:
    """Assert that every thread started within the block has ended `patience` seconds after it at the latest."""
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + patience
    while (left := set(threading.enumerate()) - before) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not left
