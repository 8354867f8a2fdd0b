"""Which line of whose code calls an op: the stack, looked at cheaply while recording, resolved lazily afterwards."""

from __future__ import annotations

import importlib.util
import itertools
import linecache
import os
import sys
import sysconfig
from functools import cache
from pathlib import Path
from types import CodeType, FrameType
from typing import NamedTuple

from bnlint.rule import Location

_ENGINE = str(Path(__file__).parents[1]) + os.sep
_LIBRARY = tuple({sysconfig.get_path(key) for key in ("stdlib", "platstdlib", "purelib", "platlib")})


_boundary: CodeType | None = None


def _folder_of(package: str) -> str:
    spec = importlib.util.find_spec(package)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    return folders[0] + os.sep if folders else os.devnull


_TORCH = _folder_of("torch")  # without importing it: the command line names lines too


class Call(NamedTuple):
    """A point in running code."""

    code: CodeType
    lasti: int


class Owner:
    """Whose code a file is."""

    TORCH, LIBRARY, USER = range(3)


@cache
def owner(filename: str) -> int:
    """TORCH for torch and bnlint itself, LIBRARY for installed packages and the standard library, else USER."""
    if filename.startswith((_TORCH, _ENGINE)) or filename.startswith("<"):
        return Owner.TORCH
    if "site-packages" in filename or "dist-packages" in filename or filename.startswith(_LIBRARY):
        return Owner.LIBRARY
    return Owner.USER


def stop_at(code: CodeType) -> None:
    """Frames from this function outwards are not the model's."""
    global _boundary
    _boundary = code


def calling_line(depth: int) -> Call | None:
    """The innermost frame of the user's code above `depth`; else of a library; else None."""
    return users_call(sys._getframe(depth))


def users_call(frame: FrameType | None, outside: FrameType | None = None) -> Call | None:
    """The same from a frame outwards, `outside` left out."""
    library: Call | None = None
    while frame is not None and frame is not outside and frame.f_code is not _boundary:
        kind = owner(frame.f_code.co_filename)
        if kind == Owner.USER:
            return Call(frame.f_code, frame.f_lasti)
        if kind == Owner.LIBRARY and library is None:
            library = Call(frame.f_code, frame.f_lasti)
        frame = frame.f_back
    return library


def raised_at(error: BaseException) -> Call | None:
    """The innermost frame of the user's code in a traceback; else the innermost of a library."""
    found: dict[int, Call] = {}
    trace = error.__traceback__
    while trace is not None:
        found[owner(trace.tb_frame.f_code.co_filename)] = Call(trace.tb_frame.f_code, trace.tb_lasti)
        trace = trace.tb_next
    return found.get(Owner.USER) or found.get(Owner.LIBRARY)


def resolve(call: Call) -> Location:
    """The source span of a call; columns from Python 3.11 on. The path is relative to the working directory."""
    path = display_path(call.code.co_filename)
    if sys.version_info < (3, 11):
        line = next(
            (row for start, end, row in _lines(call.code) if start <= call.lasti < end), call.code.co_firstlineno
        )
        return Location(path, line)
    line, end_line, column, end_column = next(itertools.islice(call.code.co_positions(), call.lasti // 2, None))
    start, end = (characters(call.code.co_filename, row, at) for row, at in ((line, column), (end_line, end_column)))
    return Location(path, line or call.code.co_firstlineno, start, end_line, end)


def _lines(code: CodeType) -> list[tuple[int, int, int]]:
    return [(start, end, line) for start, end, line in code.co_lines() if line is not None]


def characters(filename: str, line: int | None, column: int | None) -> int | None:
    """A 1-based column in characters from a 0-based one in UTF-8 bytes."""
    if line is None or column is None:
        return None
    text = linecache.getline(filename, line)
    return len(text.encode()[:column].decode(errors="ignore")) + 1


def display_path(filename: str) -> str:
    """Relative to the working directory when below it, with forward slashes."""
    path = Path(filename)
    try:
        return path.resolve().relative_to(Path.cwd().resolve()).as_posix()
    except ValueError:
        return path.as_posix()
