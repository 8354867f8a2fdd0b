"""An exception out of the user's code, told as one finding: where, and their part of the traceback."""

from __future__ import annotations

import importlib
import linecache
import traceback
from types import TracebackType

from bnlint.graph.frames import Call, Owner, display_path, owner, resolve
from bnlint.rule import Finding, Location, Place, engine_finding

_FRAMES = 12  # the innermost ones shown
_MESSAGE = 2000  # characters of the exception's own words shown


class BuildError(Exception):
    """The target cannot be imported or built; `finding` says why."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.message)
        self.finding = finding


def failed(code: str, message: str, error: BaseException | None = None, *, help: str = "") -> BuildError:
    """A BuildError with the finding `code`; `error` gives its line and traceback."""
    note, location = users_traceback(error) if error is not None else ("", None)
    return BuildError(engine_finding(code, message, help=help, note=note, place=Place("", location)))


def said(error: BaseException) -> str:
    """`ValueError: what it says`, on one line."""
    lines = "".join(traceback.format_exception_only(type(error), error)).strip().splitlines()
    return lines[-1] if isinstance(error, SyntaxError) else lines[0]


def users_traceback(error: BaseException) -> tuple[str, Location | None]:
    """The frames of the user's files, of installed packages when there are none, and the innermost of them."""
    points = list(_points(error.__traceback__))
    kinds = [owner(point.code.co_filename) for point, _ in points]
    best = max(kinds, default=Owner.TORCH)
    kept = [row for row, kind in zip(points, kinds, strict=True) if kind == best and kind != Owner.TORCH]
    frames = [
        traceback.FrameSummary(
            display_path(point.code.co_filename),
            line,
            point.code.co_name,
            lookup_line=False,
            line=linecache.getline(point.code.co_filename, line).strip(),
        )
        for point, line in kept[-_FRAMES:]
    ]
    message = "".join(traceback.format_exception_only(type(error), error))
    text = "".join([*traceback.StackSummary.from_list(frames).format(), message[:_MESSAGE]]).rstrip()
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        end_line, end = (error.end_lineno, error.end_offset) if error.end_offset else (None, None)
        return text, Location(display_path(error.filename), error.lineno, error.offset or None, end_line, end)
    return text, resolve(kept[-1][0]) if kept else None


def _points(trace: TracebackType | None) -> list[tuple[Call, int]]:
    found = []
    while trace is not None:
        if trace.tb_frame.f_code.co_filename != importlib.__file__:
            found.append((Call(trace.tb_frame.f_code, trace.tb_lasti), trace.tb_lineno))
        trace = trace.tb_next
    return found
