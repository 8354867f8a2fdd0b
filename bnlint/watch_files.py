"""Which of the user's files a run reads: its modules, and whatever it opens, such as a configuration or weights."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from bnlint.graph.frames import Owner, owner

_SYSTEM = ("/proc/", "/sys/", "/dev/")


class FilesRead:
    """Listens, from its construction to the end of the process."""

    def __init__(self) -> None:
        self._opened: set[str] = set()
        sys.addaudithook(self._hear)

    def __call__(self) -> list[str]:
        """The files that were read, as far as they are the user's."""
        modules = [module for name, module in list(sys.modules.items()) if not name.startswith("bnlint.")]
        names = {str(getattr(module, "__file__", None) or "") for module in modules} | set(self._opened)
        return sorted({str(Path(name).resolve()) for name in names if name and _is_users(name)})

    def _hear(self, event: str, args: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(args[0], (str, os.PathLike)):
            flags = args[2] if isinstance(args[2], int) else 0
            if not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                self._opened.add(os.path.abspath(args[0]))  # noqa: PTH100  # now: the working directory may change


def _is_users(name: str) -> bool:
    if name.endswith(".pyc") or name.startswith(_SYSTEM):
        return False
    path = Path(name).resolve()
    return owner(str(path)) == Owner.USER and _RULES not in path.parents and path.is_file()


_RULES = Path(str(sys.modules["bnlint"].__file__)).resolve().parents[1] / "rules"  # of a checkout
