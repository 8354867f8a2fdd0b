"""Python's garbage collector while a graph is made and read."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_YOUNG = 100_000  # objects; Python's own limit is some hundreds


@contextmanager
def rare_collections() -> Iterator[None]:
    """Collects seldom: a graph is full of cycles that live to the end, and each collection looks through them all."""
    before = gc.get_threshold()
    gc.set_threshold(_YOUNG, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
