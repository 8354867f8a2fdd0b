"""Starts, watches and stops the process in which the user's code runs. This half imports no torch.

The process (`bnlint/child.py`) gets one line of JSON on its stdin and answers with lines of JSON on a pipe of its own;
whatever the user's code prints goes to another pipe, of which the end is kept. A process that hangs, dies or exits
becomes a failed report, and everything it started is killed with it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from bnlint.job import Job, TargetReport
from bnlint.rule import Finding, Location, Place, engine_finding

_running: set[_Process] = set()
Emit = Callable[[str], None]
STAGES = {
    "start": "starting the process and loading torch",
    "import": "importing the file",
    "construct": "building the model",
    "inputs": "making the inputs",
    "trace": "recording the forward pass",
    "weights": "reading the weights",
    "probe": "running the model on a batch",
    "rules": "running the rules",
}
_BOOT = (  # the user's folder, which may hold a `json.py`, is not on the path while bnlint itself is imported
    "import sys; sys.path[:] = [sys.argv[1], *filter(None, sys.path)]; from bnlint.child import main; main()"
)
_GRACE = 1.0  # seconds in which the last words of a dead process arrive
_TAIL = 64 * 1024  # bytes kept of what the user's code prints
_SHOWN = 10  # lines of it shown


class TargetFailed(Exception):
    """The check did not happen; `report` says why."""

    def __init__(self, target: str, finding: Finding, device: str = "cpu") -> None:
        super().__init__(finding.message)
        finding = dataclasses.replace(finding, target=target)
        self.report = TargetReport(target, "failed", device=device, findings=[finding])


def check(
    job: Job,
    *,
    timeout: float = 120.0,
    memory_limit: int | None = None,
    on_stage: Callable[[str, str], None] | None = None,
    isolate: bool = True,
) -> TargetReport:
    """Audits one target in a process of its own, or in this one; whatever the user's code does, there is a report.

    `on_stage` is called with the target and the stage that begins. The memory limit, in bytes, works on Linux only;
    without one it is the machine's memory when the model runs on the CPU.
    """

    def emit(stage: str) -> None:
        if on_stage is not None:
            on_stage(job.target, stage)

    try:
        _needs_torch(job)
        if not isolate:
            from bnlint import child

            return child.check(job, emit)
        limit = memory_limit or (machine_memory() if job.device == "cpu" else None)
        answer = _supervise({"kind": "check", "job": job.to_json()}, job, timeout, limit, emit)
    except TargetFailed as failure:
        return failure.report
    return TargetReport.from_dict(answer)


def discover(
    path: Path,
    *,
    timeout: float = 120.0,
    memory_limit: int | None = None,
    on_stage: Callable[[str, str], None] | None = None,
    isolate: bool = True,
    files: list[str] | None = None,
) -> tuple[list[str], list[tuple[str, str]]]:
    """The targets of a file without a name, and (class, reason) for those left out; raises TargetFailed.

    `files` is filled with the user's files that were read.
    """
    job = Job(path.as_posix())

    def emit(stage: str) -> None:
        if on_stage is not None:
            on_stage(job.target, stage)

    _needs_torch(job)
    if not isolate:
        from bnlint import child

        return child.discover(job, emit)
    answer = _supervise(
        {"kind": "discover", "job": job.to_json()}, job, timeout, memory_limit or machine_memory(), emit
    )
    if files is not None:
        files += answer["files"]
    return answer["targets"], [(name, reason) for name, reason in answer["skipped"]]


def _needs_torch(job: Job) -> None:
    """Raises TargetFailed when torch is not there at all; whether it works shows when it is loaded."""
    if importlib.util.find_spec("torch") is None:
        message = f"torch is not installed in the environment that bnlint runs in ({sys.executable})"
        help = "install torch and what the model needs there, or run bnlint in the environment of your project"
        raise TargetFailed(job.target, engine_finding("BN901", message, help=help), job.device)


def _supervise(request: dict[str, Any], job: Job, timeout: float, limit: int | None, emit: Emit) -> Any:
    """The process's answer; raises TargetFailed when it has none in time."""
    deadline = time.monotonic() + timeout
    with tempfile.TemporaryDirectory(prefix="bnlint-", ignore_cleanup_errors=True) as folder:
        stacks = Path(folder, "stacks")
        early = timeout - min(1.0, timeout / 4)  # so that the stacks are there when the time is up
        process = _Process(
            {**request, "limit": limit, "dump_after": early, "stacks": str(stacks), "parent": os.getpid()}
        )
        stage = "start"
        try:
            while (event := process.next_event(deadline)) is not None:
                if event["event"] == "answer":
                    return event["answer"]
                if event["event"] == "failed":
                    raise TargetFailed(job.target, TargetReport.from_dict(event["report"]).findings[0], job.device)
                if event["event"] == "stage":
                    stage = event["stage"]
                    emit(stage)
                if event["event"] == "gone":
                    finding = _died(process.exit_code, stage, process.last_output, limit, _place(stacks))
                    raise TargetFailed(job.target, finding, job.device)
            process.stop()
            raise TargetFailed(job.target, _timed_out(timeout, stage, _place(stacks)), job.device)
        finally:
            process.stop()


def stop_all() -> None:
    """Kills the workers that other threads have started and all that these started."""
    for process in list(_running):
        process.stop()


class _Process:
    """A running worker; everything that comes from it arrives in one queue, `gone` at the end."""

    def __init__(self, request: dict[str, Any]) -> None:
        self._popen = subprocess.Popen(
            [sys.executable, "-c", _BOOT, str(Path(__file__).parents[1])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
        _running.add(self)
        assert self._popen.stdin and self._popen.stdout and self._popen.stderr
        self._events: queue.Queue[dict[str, Any]] = queue.Queue()
        self._log = b""
        self._listener = threading.Thread(target=self._listen, args=(self._popen.stdout,), daemon=True)
        self._drain = threading.Thread(target=self._read_log, args=(self._popen.stderr,), daemon=True)
        self._waiter = threading.Thread(target=self._wait, daemon=True)
        for thread in (self._listener, self._drain, self._waiter):
            thread.start()
        with contextlib.suppress(OSError), self._popen.stdin as stdin:  # it may be dead already
            stdin.write(json.dumps(request).encode() + b"\n")

    @property
    def exit_code(self) -> int:
        """Of a process that is gone; negative for a signal."""
        return self._popen.returncode or 0

    @property
    def last_output(self) -> str:
        """The last lines that the user's code, or Python itself, printed."""
        self._drain.join(_GRACE)
        return "\n".join(self._log.decode(errors="replace").split("\n")[-_SHOWN - 1 :]).strip()

    def next_event(self, deadline: float) -> dict[str, Any] | None:
        """What it says next; None when the deadline is past."""
        while (left := deadline - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                return self._events.get(timeout=min(left, 0.25))  # in short waits, so that Ctrl-C works on Windows
        return None

    def stop(self) -> None:
        """Kills the process and all it started that did not leave its group."""
        _running.discard(self)
        if sys.platform == "win32":
            subprocess.run(["taskkill", "/F", "/T", "/PID", str(self._popen.pid)], capture_output=True, check=False)
        else:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._popen.pid, signal.SIGKILL)
        self._popen.kill()
        for thread in (self._waiter, self._listener, self._drain):
            thread.join(_GRACE)

    def _listen(self, pipe: IO[bytes]) -> None:
        with pipe:
            for line in pipe:
                with contextlib.suppress(ValueError):
                    self._events.put(json.loads(line))

    def _read_log(self, pipe: IO[bytes]) -> None:
        with pipe:
            while chunk := os.read(pipe.fileno(), _TAIL):
                self._log = (self._log + chunk)[-_TAIL:]

    def _wait(self) -> None:
        self._popen.wait()
        self._listener.join(_GRACE)  # not for ever: a grandchild may hold the pipe open
        self._events.put({"event": "gone"})


def _died(code: int, stage: str, output: str, limit: int | None, place: Place) -> Finding:
    doing = STAGES.get(stage, stage)
    note = f"the last output was:\n{output}" if output else ""
    if code >= 0:
        shown = code if code < 256 else hex(code)  # Windows reports crashes as large numbers
        message = f"the process ended with exit code {shown} while {doing}"
        help = "look for a call of os._exit or exit, or for a library that ends the program"
        return engine_finding(
            "BN906", message, help=help, note=note, place=place, evidence={"stage": stage, "exit": code}
        )
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    if "bad_alloc" in output:
        return no_memory(stage, limit, place)
    help = {
        "SIGKILL": "this was probably the machine's out-of-memory killer: a smaller input needs less memory, and "
        "--memory-limit stops a run before the machine does",
        "SIGSEGV": "a C extension crashed, or a recursion filled the C stack; `python -X faulthandler` shows where",
    }.get(name, "")
    message = f"the process was killed by {name} while {doing}"
    return engine_finding(
        "BN906", message, help=help, note=note, place=place, evidence={"stage": stage, "signal": name}
    )


def _timed_out(timeout: float, stage: str, place: Place) -> Finding:
    message = f"stopped after {timeout:g} s while {STAGES.get(stage, stage)}"
    if stage in ("start", "import"):
        help = 'code that trains or downloads belongs below `if __name__ == "__main__":`; --timeout raises the limit'
    else:
        help = "--timeout raises the limit; a smaller input, or --static, takes less time"
    return engine_finding("BN905", message, help=help, place=place, evidence={"stage": stage, "timeout": timeout})


def no_memory(stage: str, limit: int | None, place: Place) -> Finding:
    """BN906 for a run that needs more memory than it may have."""
    size = f"; the limit is {limit / 2**30:.3g} GiB" if limit else ""
    message = f"ran out of memory while {STAGES.get(stage, stage)}{size}"
    help = "use a smaller input or batch, or raise the limit with --memory-limit"
    return engine_finding("BN906", message, help=help, place=place, evidence={"stage": stage, "limit": limit})


def _place(stacks: Path) -> Place:
    """The user's innermost line in the stacks that the process left behind when it hung or crashed."""
    from bnlint.graph.frames import Owner, display_path, owner

    try:
        text = stacks.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return Place("")
    threads = re.split(r"^(?=(?:Current thread|Thread) 0x)", text, flags=re.MULTILINE)
    main = next(
        (t for t in reversed(threads) if t.startswith("Current") or str(Path(__file__).parent) in t), threads[-1]
    )
    for name, line in re.findall(r'^  File "(.*)", line (\d+) in ', main, flags=re.MULTILINE):
        name = name if Path(name).exists() else name.encode().decode("unicode_escape", errors="replace")
        if owner(name) == Owner.USER:
            return Place("", Location(display_path(name), int(line)))
    return Place("")


def machine_memory() -> int | None:
    """Bytes that the machine has; None where that is not known."""
    if sys.platform == "win32":
        return None
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None
