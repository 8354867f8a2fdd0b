"""Which names of a function's text still stand for a value that an in-place op has changed."""

from __future__ import annotations

import ast
import linecache
from functools import lru_cache

from torch import fx

from bnlint.graph.frames import Call, resolve


def reads_stale_name(changer: fx.Node, reader: fx.Node) -> bool:
    """True when both ops are in one function and the reader's line names the value as it was before the change.

    In `y = relu_(x)` and in `y = conv(relu_(x))` that is `x`, in `skip = x; x = relu_(x)` it is `skip`; in
    `x = relu_(x)` alone nothing is stale. In `x + conv(relu_(x))` it is the first `x`, or another name for it.
    """
    first, second = changer.meta.get("call"), reader.meta.get("call")
    if first is None or second is None or first.code is not second.code:
        return False
    rows = _statements(first.code.co_filename, first.code.co_name, first.code.co_firstlineno)
    here, there = _row(rows, first), _row(rows, second)
    if here is None or there is None or here > there:
        return False
    call = _changing_call(rows[here], changer)
    if call is None or (getattr(rows[here], "value", None) is call and isinstance(rows[here], ast.Expr)):
        return False  # a statement of its own, `x.relu_()`, says that `x` is to change
    subject = _subject(call)
    assert isinstance(subject, ast.Name)
    if here == there:
        return _reads(rows[here], _names_of(subject.id, rows[:here]), but=subject)
    stale = _names_of(subject.id, rows[:here]) - _assigned(rows[here])
    for row in rows[here + 1 : there]:
        stale -= _assigned(row)
    return _reads(rows[there], stale)


def _reads(row: ast.stmt, names: set[str], but: ast.expr | None = None) -> bool:
    """True when the row uses one of the names as it is; `x.shape` is no such use, and neither is the node `but`."""
    attributes = [n.value for n in ast.walk(row) if isinstance(n, ast.Attribute)]
    found = [n for n in ast.walk(row) if isinstance(n, ast.Name) and n.id in names and n is not but]
    return any(not any(n is value for value in attributes) for n in found)


def _changing_call(row: ast.stmt, changer: fx.Node) -> ast.Call | None:
    """The call in place on this row: the one of the op's name, else what is assigned; its subject must be a name."""
    target = changer.target
    name = target.rpartition(".")[2] if isinstance(target, str) else target.__name__
    calls = [n for n in ast.walk(row) if isinstance(n, ast.Call) and isinstance(_subject(n), ast.Name)]
    named = [n for n in calls if name in (getattr(n.func, "attr", None), getattr(n.func, "id", None))]
    whole = [n for n in calls if isinstance(row, ast.Assign) and n is row.value]
    found = named or whole
    return found[0] if len(found) == 1 else None


def _subject(call: ast.Call) -> ast.expr | None:
    """What a call works on: `x` in `relu(x)` and in `x.relu_()`."""
    return call.args[0] if call.args else call.func.value if isinstance(call.func, ast.Attribute) else None


def _names_of(name: str, rows: list[ast.stmt]) -> set[str]:
    """The names that, after these rows, stand for the same value as `name`."""
    names = {name}
    for row in rows:
        targets = _assigned(row)
        if isinstance(row, ast.Assign) and isinstance(row.value, ast.Name) and row.value.id == name:
            names |= targets
        else:
            names = {name} if name in targets else names - targets
    return names


def _assigned(row: ast.stmt) -> set[str]:
    targets = row.targets if isinstance(row, ast.Assign) else []
    return {n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)}


def _row(rows: list[ast.stmt], call: Call) -> int | None:
    line = resolve(call).line
    return next((i for i, row in enumerate(rows) if row.lineno <= line <= (row.end_lineno or 0)), None)


@lru_cache(maxsize=256)
def _statements(filename: str, name: str, line: int) -> list[ast.stmt]:
    """The simple statements of a function, in the order of the text."""
    try:
        tree = ast.parse("".join(linecache.getlines(filename)))
    except (SyntaxError, ValueError):
        return []
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef) and function.name == name and _starts(function) == line:
            rows = [s for s in ast.walk(function) if isinstance(s, ast.stmt) and not hasattr(s, "body")]
            return sorted(rows, key=lambda s: s.lineno)
    return []


def _starts(function: ast.FunctionDef) -> int:
    return min([function.lineno, *(d.lineno for d in function.decorator_list)])
