"""The terminal: whether to colour, what its encoding can show, and a line of progress that is gone at the end."""

from __future__ import annotations

import os
import shutil
from types import TracebackType
from typing import TextIO

import click

from bnlint.report.text import clean, columns

_WIDTH = 100  # of text that does not go to a terminal


def colored(flag: str, stream: TextIO) -> bool:
    """Whether to colour: the flag, else NO_COLOR, else FORCE_COLOR, else whether the stream is a terminal."""
    if flag != "auto":
        return flag == "always"
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR", "0") not in ("", "0"):
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def width(stream: TextIO) -> int:
    """The columns of a terminal; a fixed number for files and pipes."""
    return shutil.get_terminal_size((_WIDTH, 24)).columns if stream.isatty() else _WIDTH


def put(text: str, stream: TextIO, *, color: bool = False) -> None:
    """Prints a text, escaping what the stream's encoding lacks; an empty one prints nothing."""
    encoding = stream.encoding or "utf-8"
    if text:
        click.echo(text.encode(encoding, "backslashreplace").decode(encoding), file=stream, color=color)


class Progress:
    """A status line on a terminal; silent anywhere else, and in hooks and continuous integration."""

    def __init__(self, stream: TextIO, *, quiet: bool = False) -> None:
        hushed = quiet or any(os.environ.get(name) for name in ("CI", "PRE_COMMIT"))
        self._stream, self._enabled = stream, stream.isatty() and not hushed
        self._room, self._shown = width(stream) - 1, 0

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._show("")

    def stage(self, target: str, stage: str) -> None:
        """Shows which stage of a target's check has begun."""
        from bnlint.ending import STAGES

        self._show(f"{clean(target)}: {STAGES.get(stage, clean(stage))} ...")

    def _show(self, text: str) -> None:
        if not self._enabled:
            return
        text = text if columns(text) <= self._room else text[: max(self._room - 3, 0)] + "..."
        blank = " " * (self._shown - columns(text))
        self._stream.write(f"\r{text}{blank}" + ("" if text else "\r"))
        self._stream.flush()
        self._shown = columns(text)
