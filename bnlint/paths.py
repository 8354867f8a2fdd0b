"""Paths as the file system has them."""

from __future__ import annotations

import os
from pathlib import Path


def real(path: str | os.PathLike[str]) -> Path:
    """The absolute path without links; one that leads in a circle stays as it is, and opening it says so."""
    return Path(os.path.realpath(path))  # `Path.resolve` raises RuntimeError for a circle before Python 3.13
