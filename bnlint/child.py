"""The worker's inner half: runs one job, turns what the user's code raises into findings, and never lets it speak."""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import json
import os
import re
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from bnlint.ending import STAGES, no_memory
from bnlint.job import Job, TargetReport
from bnlint.rule import Finding, Place, engine_finding
from bnlint.target import TargetError
from bnlint.watch_files import FilesRead
from bnlint.worker import Emit, TargetFailed, needs_torch

OLDEST_TORCH = (2, 4)
_Result = TypeVar("_Result")
_PR_SET_PDEATHSIG, _SIGKILL = 1, 9


def check(job: Job, emit: Emit, limit: int | None = None, *, alone: bool = False) -> TargetReport:
    """The audit, in this process; raises TargetFailed for what the user's code raises past it.

    In a process `alone`, which no Ctrl-C reaches, that includes KeyboardInterrupt.
    """
    from bnlint import audit

    return _guarded(lambda emit: audit.run(job, emit), job, emit, limit, alone)


def discover(
    job: Job, emit: Emit, limit: int | None = None, *, alone: bool = False
) -> tuple[list[str], list[tuple[str, str]]]:
    """The models of a file, in this process; raises TargetFailed as `check` does."""
    from bnlint import build

    path = Path(job.target)
    return _guarded(lambda emit: build.discover(path, job.seed, emit, meta=job.meta), job, emit, limit, alone)


def main() -> None:
    """Does the one job that stands on stdin and ends without running the user's exit handlers."""
    sys.path.remove(sys.argv.pop(1))
    channel = _Channel()
    request = json.loads(sys.stdin.buffer.readline())
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    _die_with(request["parent"])
    stacks = Path(request["stacks"]).open("w")  # noqa: SIM115
    faulthandler.enable(stacks, all_threads=False)
    faulthandler.dump_traceback_later(request["dump_after"], file=stacks)
    try:
        _answer(request, channel)
        status = 0
    except BaseException:
        traceback.print_exc()
        status = 1
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def _answer(request: dict[str, Any], channel: _Channel) -> None:
    job, limit = Job.from_json(request["job"]), request["limit"]
    try:
        needs_torch(job)
        start = _load_torch()
        files = FilesRead()
        _assert_enough(limit, job)
        _limit_memory(limit)
        if request["kind"] == "discover":
            targets, skipped = discover(job, channel.stage, limit, alone=True)
            answer: dict[str, Any] = {"targets": targets, "skipped": skipped, "files": files()}
        else:
            report = check(job, channel.stage, limit, alone=True)
            report.seconds = {"start": start, **report.seconds}
            report.files = files()
            answer = report.to_dict()
    except TargetFailed as failure:
        channel.send({"event": "failed", "report": failure.report.to_dict()})
    else:
        channel.send({"event": "answer", "answer": answer})


def _load_torch() -> float:
    """How long it took; before the memory limit, which is about the user's code."""
    started = time.perf_counter()
    gc.disable()
    import torch  # noqa: F401

    gc.freeze()  # what the import made stays; looking through it again and again takes a tenth of the time
    gc.enable()
    return time.perf_counter() - started


class _Channel:
    """The pipe to the command line; fd 1 becomes the log, so the user's prints cannot reach it."""

    def __init__(self) -> None:
        self._pipe, self._pid = os.dup(1), os.getpid()
        os.dup2(2, 1)
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]

    def stage(self, name: str) -> None:
        """Says that a stage begins."""
        self.send({"event": "stage", "stage": name})

    def send(self, event: dict[str, Any]) -> None:
        """Writes one event; a fork of this process, made by the user's code, ends here instead."""
        if os.getpid() != self._pid:
            os._exit(0)
        data = json.dumps(event, default=str).encode() + b"\n"
        while data:
            data = data[os.write(self._pipe, data) :]


def _guarded(work: Callable[[Emit], _Result], job: Job, emit: Emit, limit: int | None, alone: bool) -> _Result:
    from bnlint.failure import BuildError

    stage = "start"

    def enter(name: str) -> None:
        nonlocal stage
        stage = name
        emit(name)

    try:
        _needs_new_torch()
        return work(enter)
    except BuildError as error:
        finding = error.finding
    except TargetError as error:
        finding = engine_finding("BN901", str(error))
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) and not alone:
            raise
        if limit is not None:
            _limit_memory(None)  # the report needs some, too
        finding = _raised(error, stage, limit)
    raise TargetFailed(job.target, finding, job.device)


def _needs_new_torch() -> None:
    import torch

    from bnlint.failure import failed

    numbers = re.findall(r"\d+", torch.__version__)[:2]  # 2.4.0a0+nv24.07 is new enough
    if tuple(map(int, numbers)) < OLDEST_TORCH:
        oldest = ".".join(map(str, OLDEST_TORCH))
        message = f"bnlint needs torch {oldest} or newer, and this environment has {torch.__version__}"
        raise failed("BN901", message, help="update torch there, or run bnlint in an environment with a newer one")


def _raised(error: BaseException, stage: str, limit: int | None) -> Finding:
    from bnlint.failure import said, users_traceback
    from bnlint.graph.memory import out_of_memory

    note, location = users_traceback(error)
    place, doing = Place("", location), STAGES.get(stage, stage)
    if out_of_memory(error):
        return no_memory(stage, limit, place)
    innermost = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)][-1]
    if isinstance(error, SystemExit):
        message = f"the model's code exits the program while {doing}"
    elif location is None or innermost.startswith(str(Path(__file__).parent)):
        note = "".join(traceback.format_exception(error))
        message, help = f"bnlint failed with {said(error)} while {doing}", "this is a bug in bnlint: please report it"
        return engine_finding("BN906", message, help=help, note=note)
    else:
        message = f"the model's code raises {said(error)} while {doing}"
    code = {"start": "BN906", "import": "BN901", "construct": "BN902"}.get(stage, "BN903")
    return engine_finding(code, message, note=note, place=place)


def _assert_enough(limit: int | None, job: Job) -> None:
    """Raises TargetFailed for a limit below what is in use before the model is there."""
    status = Path("/proc/self/status")
    if limit is None or not status.exists():
        return
    used = next(
        (int(line.split()[1]) << 10 for line in status.read_text().splitlines() if line.startswith("VmData")), 0
    )
    if limit < used:
        message = f"the memory limit leaves no room for the model: torch alone takes {used >> 20} MiB"
        help = f"write --memory-limit {-(-2 * used >> 30)}G or more"
        raise TargetFailed(job.target, engine_finding("BN906", message, help=help), job.device)


def _limit_memory(limit: int | None) -> None:
    """Sets the soft limit on the process's data; None takes it away again. Only Linux counts what torch allocates."""
    if sys.platform == "linux":
        import resource

        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        soft = hard if limit is None else limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _die_with(parent: int) -> None:
    """Asks the kernel to end this process when the command line dies; only Linux can."""
    if sys.platform == "linux":
        import ctypes

        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, _SIGKILL)
            if os.getppid() != parent:
                os._exit(0)
