"""What to check: `path.py:Net(num_classes=10)` and its relatives, read without importing anything of the user."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_FILE = re.compile(r"(?P<path>.+?\.py)(?::(?P<rest>.*))?", re.DOTALL | re.IGNORECASE)
_MODULE = re.compile(r"(?P<module>[^\W\d]\w*(?:\.[^\W\d]\w*)*):(?P<rest>[^\W\d][\w.]*\s*(?:\(.*\)\s*)?)", re.DOTALL)
_NOT_SOURCE = {"__pycache__", "node_modules", "site-packages", "dist-packages", "build", "dist", "venv", "env"}


class TargetError(Exception):
    """The target's text cannot be understood; the message is one sentence for people."""


@dataclass(frozen=True)
class Target:
    """One thing to check: where it is, what it is called and the arguments to build it with."""

    text: str
    path: Path | None = None
    module: str | None = None
    attribute: str | None = None
    args: tuple[object, ...] = ()
    kwargs: dict[str, object] = field(default_factory=dict)
    called: bool = False

    @property
    def place(self) -> str:
        """The file or module part of the text."""
        return self.path.as_posix() if self.path else self.module or ""


def parse(text: str) -> Target:
    """Reads a target; raises TargetError when the text is not one."""
    text = text.strip()
    if match := _MODULE.fullmatch(text):
        if match["module"].endswith(".ipynb"):
            raise TargetError(f"`{match['module']}` is a notebook: save its model in a Python file and check that")
        if not match["module"].lower().endswith(".py"):
            return _with_attribute(match["module"], match["rest"], module=match["module"])
    if match := _FILE.fullmatch(text):
        path = Path(match["path"].replace("\\", "/"))
        if match["rest"] is None:
            return Target(path.as_posix(), path=path)
        return _with_attribute(path.as_posix(), match["rest"], path=path)
    if _is_folder(text):
        return Target(Path(text).as_posix(), path=Path(text))
    raise TargetError(
        f"`{text}` is not a target: write `path/to/file.py:Net`, `path/to/file.py` for every model of the file, "
        "a folder, or `package.module:Net`"
    )


def expand(texts: Sequence[str]) -> list[str]:
    """Folders become the files in them that define module classes; everything else stays as it is."""
    found: list[str] = []
    for text in texts:
        if not _is_folder(text):
            found.append(text)
            continue
        folder = Path(text.replace("\\", "/"))
        files = [path.as_posix() for path in _python_files(folder) if defines_modules(path)]
        found += files
    return list(dict.fromkeys(found))


def _is_folder(text: str) -> bool:
    try:
        return bool(text) and Path(text.replace("\\", "/")).is_dir()
    except (OSError, ValueError):  # a long target is no valid file name
        return False


def _with_attribute(place: str, rest: str, *, path: Path | None = None, module: str | None = None) -> Target:
    rest = rest.strip()
    try:
        node = ast.parse(rest, mode="eval").body
    except (SyntaxError, ValueError) as error:
        raise TargetError(
            f"`{rest}` after `{place}:` is not a name or a call such as `Net` or `Net(num_classes=10)`"
        ) from error
    called = isinstance(node, ast.Call)
    name = node.func if isinstance(node, ast.Call) else node
    attribute = ast.unparse(name)
    if not _is_dotted_name(name):
        raise TargetError(f"`{attribute}` after `{place}:` is not a name such as `Net` or `models.Net`")
    args: list[object] = []
    kwargs: dict[str, object] = {}
    if isinstance(node, ast.Call):
        args = [_literal(value, ast.unparse(value)) for value in node.args]
        for keyword in node.keywords:
            if keyword.arg is None:
                raise TargetError(f"`{ast.unparse(keyword)}` in `{rest}` is not allowed: write each argument by name")
            kwargs[keyword.arg] = _literal(keyword.value, ast.unparse(keyword))
    return Target(f"{place}:{rest}", path, module, attribute, tuple(args), kwargs, called)


def _literal(node: ast.expr, text: str) -> object:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
        raise TargetError(
            f"the argument `{text}` is not a literal (a number, string, bool, None, list, tuple or dict): "
            "for anything else write a function that builds the model and check that function"
        ) from error


def _is_dotted_name(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) or (isinstance(node, ast.Attribute) and _is_dotted_name(node.value))


def _python_files(folder: Path) -> Iterator[Path]:
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith(".") or entry.name in _NOT_SOURCE or entry.name.endswith(".egg-info"):
            continue
        if entry.is_dir() and not entry.is_symlink() and not (entry / "pyvenv.cfg").exists():
            yield from _python_files(entry)
        elif entry.suffix == ".py" and entry.is_file():
            yield entry


def defines_modules(path: Path) -> bool:
    """Whether a class of the file derives from `nn.Something`, from a `…Module` or has a `forward` method."""
    try:
        source = path.read_bytes()
        tree = ast.parse(source) if b"class " in source else None
    except (OSError, SyntaxError, ValueError, RecursionError):
        return False
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)] if tree else []
    return any(_looks_like_module(node) for node in classes)


def _looks_like_module(node: ast.ClassDef) -> bool:
    bases = [ast.unparse(base) for base in node.bases]
    if any(base.endswith("Module") or base.startswith(("nn.", "torch.nn.")) for base in bases):
        return True
    return bool(bases) and any(isinstance(item, ast.FunctionDef) and item.name == "forward" for item in node.body)
