"""Which Python the models run in: this one, or that of the project they belong to."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

_SCRIPTS = "Scripts" if sys.platform == "win32" else "bin"


def interpreter(told: str | None = None, root: str = "") -> str:
    """What was told or, when torch is not here, the project's: of the active environment, else of a `.venv`."""
    if told:
        return shutil.which(told) or told
    if importlib.util.find_spec("torch") is not None:
        return sys.executable
    places = (f"{folder / _SCRIPTS}{os.pathsep}{folder}" for folder in _environments(root))  # conda's on Windows: there
    found = (shutil.which("python", path=place) for place in places)
    return next(filter(None, found), sys.executable)


def _environments(root: str) -> Iterator[Path]:
    active = os.environ.get("VIRTUAL_ENV") or os.environ.get("CONDA_PREFIX")
    if active:
        yield Path(active)
    yield from (Path(folder) / ".venv" for folder in dict.fromkeys((root or ".", ".")))
