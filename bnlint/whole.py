"""Writes files whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from bnlint.paths import real


class WriteError(OSError):
    """A file cannot be written; the message is one sentence for people."""


def write(path: Path, text: str) -> None:
    """Replaces a file by the text, through a temporary file beside it, so that no reader ever sees half of it."""
    data = text.encode("utf-8", "backslashreplace")
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(data)  # a pipe or a device, such as /dev/stdout
            return
        path = real(path)  # what a link points to is replaced, not the link
        draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            draft.write_bytes(data)
            if path.exists():
                shutil.copymode(path, draft)
            draft.replace(path)
        finally:
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise WriteError(f"cannot write `{path.as_posix()}`: {reason}") from error
