"""Who may call a method that the model's own construction does not call: what the project's text says."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from bnlint.graph.statements import UserClass, self_attribute
from bnlint.graph.syntax import class_text

_ROOT = (".git", "pyproject.toml", "setup.py", "setup.cfg", "requirements.txt")
_MOST_FILES = 3000
_SKIPPED = frozenset(("site-packages", "node_modules", "build", "__pycache__"))


def may_be_called(found: UserClass, name: str) -> bool:
    """True when the class, its bases or subclasses use the method, or a file of the project asks any object for it."""
    family = [*found.cls.__mro__[1:], *_subclasses(found.cls)]
    if any(name in vars(cls) for cls in family):
        return True  # an interface: whoever knows the base may call it
    texts = [
        text for cls in family if not cls.__module__.startswith(("torch.", "builtins")) if (text := class_text(cls))
    ]
    if any(self_attribute(node) == name for text in texts for node in ast.walk(text.node)):
        return True
    asked = re.compile(rf"(?<!\bself)\.{re.escape(name)}\b|[\"']{re.escape(name)}[\"']")
    return any(asked.search(text) for text in _project(Path(found.text.filename)))


def _nodes(cls: type) -> Iterator[ast.AST]:
    text = class_text(cls) if not cls.__module__.startswith(("torch.", "builtins")) else None
    return ast.walk(text.node) if text is not None else iter(())


def _subclasses(cls: type) -> Iterator[type]:
    sub: type
    for sub in type.__subclasses__(cls):
        yield sub
        yield from _subclasses(sub)


def _project(file: Path) -> Iterator[str]:
    """The text of the Python files of the project that a file belongs to, the file itself first."""
    yield _read(file)
    root = next((parent for parent in file.parents if any((parent / mark).exists() for mark in _ROOT)), file.parent)
    count = 0
    for other in root.rglob("*.py"):
        inside = other.relative_to(root).parts
        if other != file and not any(part in _SKIPPED or part.startswith(".") for part in inside):
            count += 1
            if count > _MOST_FILES:
                return
            yield _read(other)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
