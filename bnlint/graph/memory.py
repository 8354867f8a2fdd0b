"""Whether an exception means that memory ran out. Imports no torch."""

from __future__ import annotations

_NO_MEMORY = (
    "can't allocate memory",
    "bad_alloc",
    "out of memory",
    "Cannot allocate memory",
    "CUDA error: out of memory",
)


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, whatever the library calls it."""
    if isinstance(error, (MemoryError, RuntimeError, OSError)):
        return isinstance(error, MemoryError) or any(text in str(error) for text in _NO_MEMORY)
    return False
