"""Why a process gave no answer, as a finding: it died, its time ran out, or its memory."""

from __future__ import annotations

import re
import signal
from pathlib import Path

from bnlint.rule import Finding, Location, Place, engine_finding

STAGES = {
    "start": "starting the process and loading torch",
    "import": "importing the file",
    "construct": "building the model",
    "load": "loading the weights",
    "inputs": "making the inputs",
    "trace": "recording the forward pass",
    "weights": "reading the weights",
    "probe": "running the model on a batch",
    "rules": "running the rules",
}


def died(code: int, stage: str, output: str, limit: int | None, place: Place) -> Finding:
    """BN906 for a process that ended by itself or by a signal (a negative code)."""
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


def timed_out(timeout: float, stage: str, place: Place) -> Finding:
    """BN905: the time is up."""
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


def last_line(stacks: Path) -> Place:
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
