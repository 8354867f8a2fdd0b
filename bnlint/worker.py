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
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from bnlint.ending import died, last_line, timed_out
from bnlint.interpreter import interpreter
from bnlint.job import Job, TargetReport
from bnlint.rule import Finding, engine_finding

_running: set[_Process] = set()
Emit = Callable[[str], None]
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
    python: str | None = None,
) -> TargetReport:
    """Audits one target in a process of its own, or in this one; whatever the user's code does, there is a report.

    `on_stage` is called with the target and the stage that begins. The memory limit, in bytes, works on Linux only;
    without one it is the machine's memory when the model runs on the CPU.
    """

    def emit(stage: str) -> None:
        if on_stage is not None:
            on_stage(job.target, stage)

    try:
        if not isolate:
            from bnlint import child

            needs_torch(job)
            return child.check(job, emit)
        limit = memory_limit or (machine_memory() if job.device == "cpu" else None)
        answer = _supervise("check", job, timeout, limit, emit, python)
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
    python: str | None = None,
    files: list[str] | None = None,
    meta: bool = False,
) -> tuple[list[str], list[tuple[str, str]]]:
    """The targets of a file without a name, and (class, reason) for those left out; raises TargetFailed.

    `files` is filled with the user's files that were read.
    """
    job = Job(path.as_posix(), meta=meta)

    def emit(stage: str) -> None:
        if on_stage is not None:
            on_stage(job.target, stage)

    if not isolate:
        from bnlint import child

        needs_torch(job)
        return child.discover(job, emit)
    answer = _supervise("discover", job, timeout, memory_limit or machine_memory(), emit, python)
    if files is not None:
        files += answer["files"]
    return answer["targets"], [(name, reason) for name, reason in answer["skipped"]]


def needs_torch(job: Job) -> None:
    """Raises TargetFailed when torch is not there at all; whether it works shows when it is loaded."""
    if importlib.util.find_spec("torch") is None:
        message = f"torch is not installed in the environment that bnlint runs in ({sys.executable})"
        help = "install torch and what the model needs there, or run bnlint in the environment of your project"
        raise TargetFailed(job.target, engine_finding("BN901", message, help=help), job.device)


def _supervise(kind: str, job: Job, timeout: float, limit: int | None, emit: Emit, python: str | None) -> Any:
    """The process's answer; raises TargetFailed when it has none in time."""
    deadline = time.monotonic() + timeout
    executable = interpreter(python, job.root)
    if executable == sys.executable:
        needs_torch(job)  # in another one the process finds out
    with tempfile.TemporaryDirectory(prefix="bnlint-", ignore_cleanup_errors=True) as folder:
        stacks = Path(folder, "stacks")
        early = timeout - min(1.0, timeout / 4)  # so that the stacks are there when the time is up
        request = {"kind": kind, "job": job.to_json(), "limit": limit, "dump_after": early, "stacks": str(stacks)}
        try:
            process = _Process(executable, {**request, "parent": os.getpid()})
        except OSError as error:
            message = f"the interpreter `{executable}` cannot be started: {error.strerror}"
            help = "name the Python of the project's environment with --python, such as .venv/bin/python"
            raise TargetFailed(job.target, engine_finding("BN901", message, help=help), job.device) from error
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
                    finding = died(process.exit_code, stage, process.last_output, limit, last_line(stacks))
                    raise TargetFailed(job.target, finding, job.device)
            process.stop()
            raise TargetFailed(job.target, timed_out(timeout, stage, last_line(stacks)), job.device)
        finally:
            process.stop()


def stop_all() -> None:
    """Kills the workers that other threads have started and all that these started."""
    for process in list(_running):
        process.stop()


class _Process:
    """A running worker; everything that comes from it arrives in one queue, `gone` at the end."""

    def __init__(self, executable: str, request: dict[str, Any]) -> None:
        self._popen = subprocess.Popen(
            [executable, "-c", _BOOT, str(Path(__file__).parents[1])],
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


def machine_memory() -> int | None:
    """Bytes that the machine has; None where that is not known."""
    if sys.platform == "win32":
        return None
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None
