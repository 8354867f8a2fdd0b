"""What the text of a class says about where its layers are constructed."""

from __future__ import annotations

import ast
import inspect
import linecache
import sys
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from bnlint.graph.frames import characters, display_path
from bnlint.rule import Location

_CONTAINERS = {"Sequential", "ModuleList", "ModuleDict", "OrderedDict", "dict", "list", "tuple", "__init__"}
_SETTERS = {"add_module", "register_module", "setattr", "__setattr__"}


class Span(NamedTuple):
    """An expression in a file."""

    filename: str
    node: ast.expr

    def location(self) -> Location:
        """Its first to its last character."""
        node, name = self.node, self.filename
        start, end = (
            characters(name, node.lineno, node.col_offset),
            characters(name, node.end_lineno, node.end_col_offset),
        )
        return Location(display_path(name), node.lineno, start, node.end_lineno, end)


class ClassText(NamedTuple):
    """A class statement in a file."""

    filename: str
    node: ast.ClassDef

    def header(self, method: ast.FunctionDef | None = None) -> Location:
        """`class Net(nn.Module)` or a method's `def …(…)`, as far as it stands on one line."""
        node: ast.stmt = method or self.node
        line = linecache.getline(self.filename, node.lineno)
        start = characters(self.filename, node.lineno, node.col_offset) or 1
        end = len(line.split("#")[0].rstrip().removesuffix(":")) + 1
        return Location(display_path(self.filename), node.lineno, start, node.lineno, end)

    def assignment(self, name: str, wanted: str | None) -> Span | None:
        """What is assigned to `self.<name>`; of several the one that calls `wanted`, else the last."""
        values = [value for key, value in _assignments(self.node) if key == name]
        calls = [value for value in values if _called(value) == wanted]
        return Span(self.filename, (calls or values)[-1]) if values else None

    def super_call(self) -> Span | None:
        """`super().__init__(…)`, which gives a Sequential its layers."""
        calls = [node for node in ast.walk(self.node) if _called(node) == "__init__"]
        return Span(self.filename, calls[-1]) if calls and isinstance(calls[-1], ast.expr) else None

    def only_call(self, wanted: str) -> Span | None:
        """The call of `wanted` when the class has just one."""
        calls = [node for node in ast.walk(self.node) if isinstance(node, ast.Call) and _called(node) == wanted]
        return Span(self.filename, calls[0]) if len(calls) == 1 else None


def class_text(cls: type) -> ClassText | None:
    """The statement that defines the class; None when there is no source or the class was made at run time."""
    methods = [value.__code__ for value in vars(cls).values() if inspect.isfunction(value)]
    module_file: str | None = getattr(sys.modules.get(cls.__module__), "__file__", None)
    for filename in dict.fromkeys([module_file or "", *(code.co_filename for code in methods)]):
        found = _classes(_text(filename)).get(cls.__qualname__, [])
        lines = {code.co_firstlineno for code in methods if code.co_filename == filename}
        holding = [node for node in found if any(node.lineno <= line <= (node.end_lineno or 0) for line in lines)]
        if found:
            return ClassText(filename, (holding or found)[-1])
    return None


def element(container: Span, key: str) -> Span | None:
    """The expression of one layer in `nn.Sequential(a, b)`, `OrderedDict(…)`, a list, dict or comprehension."""
    found = _element(container.node, key)
    return Span(container.filename, found) if found else None


def call_on_line(filename: str, line: int, wanted: str) -> Span | None:
    """The call that starts on a line: of several the one of `wanted`, else the outermost."""
    tree = _parse(_text(filename))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and node.lineno == line] if tree else []
    calls.sort(key=lambda node: _called(node) != wanted)
    return Span(filename, calls[0]) if calls else None


def moved_elsewhere(filename: str, line: int) -> bool:
    """True when the function has another way for other devices.

    Either it assigns what this line makes again, moved (`zeros = zeros.cuda()` behind an `if`), or the line is one side
    of an `if` whose other side moves something.
    """
    tree = _parse(_text(filename))
    around = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and _spans(n, line)] if tree else []
    if not around:
        return False
    for choice in (n for n in ast.walk(around[-1]) if isinstance(n, ast.If)):
        here, there = choice.body, choice.orelse
        if any(_spans(row, line) for row in there):
            here, there = there, here
        if any(_spans(row, line) for row in here) and any(_moves(n) for row in there for n in ast.walk(row)):
            return True
    rows = [n for n in ast.walk(around[-1]) if isinstance(n, ast.Assign)]
    names = {t.id for row in rows if _spans(row, line) for t in row.targets if isinstance(t, ast.Name)}
    return any(_moves(row.value, name) for row in rows for name in names if _assigns(row, name))


def _assigns(row: ast.Assign, name: str) -> bool:
    return any(isinstance(target, ast.Name) and target.id == name for target in row.targets)


def _spans(node: ast.stmt, line: int) -> bool:
    return node.lineno <= line <= (node.end_lineno or 0)


def _moves(value: ast.AST, name: str | None = None) -> bool:
    """`name.cuda(…)`, `name.to(…)`, `name.type_as(…)`; of anything when there is no name."""
    func = value.func if isinstance(value, ast.Call) else None
    if not isinstance(func, ast.Attribute) or func.attr not in ("cuda", "to", "type_as", "type"):
        return False
    return name is None or (isinstance(func.value, ast.Name) and func.value.id == name)


def _element(node: ast.expr, key: str) -> ast.expr | None:
    if isinstance(node, ast.Call) and _called(node) in _CONTAINERS:
        named = [word.value for word in node.keywords if word.arg == key]
        if named:
            return named[0]
        inner = _element(node.args[0], key) if len(node.args) == 1 else None
        return inner or _item(node.args, key)
    if isinstance(node, (ast.List, ast.Tuple)):
        return _pair(node.elts, key) or _item(node.elts, key)
    if isinstance(node, ast.Dict):
        return next((value for name, value in zip(node.keys, node.values, strict=True) if _text_is(name, key)), None)
    if isinstance(node, (ast.ListComp, ast.GeneratorExp)):
        return node.elt.elts[-1] if isinstance(node.elt, ast.Tuple) else node.elt
    if isinstance(node, ast.DictComp):
        return node.value
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        return next((e for side in (node.left, node.right) if (e := _element(side, "0")) is not None), None)
    return None


def _item(items: Sequence[ast.expr], key: str) -> ast.expr | None:
    index = int(key) if key.isdecimal() else len(items)
    if index >= len(items) or any(isinstance(item, ast.Starred) for item in items[: index + 1]):
        return None
    return items[index]


def _pair(items: Sequence[ast.expr], key: str) -> ast.expr | None:
    pairs = [item.elts for item in items if isinstance(item, (ast.Tuple, ast.List)) and len(item.elts) == 2]
    return next((value for name, value in pairs if _text_is(name, key)), None)


def _text_is(node: ast.expr | None, key: str) -> bool:
    return isinstance(node, ast.Constant) and str(node.value) == key


def _assignments(tree: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """Attribute name and value of `self.x = …`, `self.a, self.b = …`, `self.add_module("x", …)` and `setattr`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                yield from _unpack(target, node.value)
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            yield from _unpack(node.target, node.value)
        elif isinstance(node, ast.Call) and _called(node) in _SETTERS and len(node.args) >= 2:
            name, value = node.args[-2:]
            if isinstance(name, ast.Constant):
                yield str(name.value), value


def _unpack(target: ast.expr, value: ast.expr) -> Iterator[tuple[str, ast.expr]]:
    if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name):
        yield target.attr, value
    elif isinstance(target, ast.Tuple):
        values = value.elts if isinstance(value, ast.Tuple) and len(value.elts) == len(target.elts) else []
        for part, item in zip(target.elts, values or [value] * len(target.elts), strict=True):
            yield from _unpack(part, item)


def _called(node: ast.AST) -> str | None:
    """`Conv2d` for `nn.Conv2d(…)`."""
    func = node.func if isinstance(node, ast.Call) else None
    return func.attr if isinstance(func, ast.Attribute) else func.id if isinstance(func, ast.Name) else None


def _text(filename: str) -> str:
    return "".join(linecache.getlines(filename))


@lru_cache(maxsize=64)
def _parse(text: str) -> ast.Module | None:
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


@lru_cache(maxsize=64)
def _classes(text: str) -> dict[str, list[ast.ClassDef]]:
    """Every class of the text by its `__qualname__`; a name can be defined more than once."""
    found: dict[str, list[ast.ClassDef]] = {}

    def visit(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            inner = prefix
            if isinstance(child, ast.ClassDef):
                found.setdefault(prefix + child.name, []).append(child)
                inner = f"{prefix}{child.name}."
            elif isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
                inner = f"{prefix}{child.name}.<locals>."
            visit(child, inner)

    tree = _parse(text)
    if tree is not None:
        visit(tree, "")
    return found
