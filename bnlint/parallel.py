"""Several targets at once: how many, in which order the results come, and what Ctrl-C does."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import TypeVar

from bnlint import worker
from bnlint.config import Settings

_Row = TypeVar("_Row")
_Result = TypeVar("_Result")
_MEMORY = 2**30  # bytes that a worker with torch and a model of ordinary size takes


def jobs_for(settings: Iterable[Settings], wanted: int | None = None) -> int:
    """How many targets to check at once: one for each core, as far as the memory that is free goes around.

    One alone without isolation, and, unless more are wanted, on a device, whose memory nobody shares out.
    """
    rows = list(settings)
    if not all(row.isolate for row in rows):
        return 1
    if wanted is not None or any(row.device != "cpu" for row in rows):
        return wanted or 1
    free, each = _free_memory(), max([row.memory_limit or _MEMORY for row in rows], default=_MEMORY)
    return max(1, min(_cores(), len(rows), free // each if free is not None else len(rows)))


def in_order(work: Callable[[_Row], _Result], rows: Sequence[_Row], jobs: int) -> list[_Result]:
    """The results of `work`, which runs in worker processes, for every row; an interrupt ends all of them."""
    if jobs < 2 or len(rows) < 2:
        return [work(row) for row in rows]
    pool = ThreadPoolExecutor(min(jobs, len(rows)))
    futures = [pool.submit(work, row) for row in rows]
    pending = set(futures)
    try:
        while pending:
            done, pending = wait(pending, timeout=0.25)  # in short waits, so that Ctrl-C works on Windows
            for future in done:
                future.result()  # raises what `work` raised
        return [future.result() for future in futures]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        while not all(future.done() for future in futures):
            worker.stop_all()  # again and again: a thread may just be starting one
            time.sleep(0.02)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _free_memory() -> int | None:
    """Bytes that processes can have without anything being swapped out; None where only the user knows."""
    try:
        rows = dict(line.split(":") for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
        return int(rows["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return worker.machine_memory()
