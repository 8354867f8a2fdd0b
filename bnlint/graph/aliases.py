"""Which names of a function's text still stand for a value that an in-place op has changed."""

from __future__ import annotations

import ast
import linecache
from functools import lru_cache

from torch import fx

from bnlint.graph.frames import Call, resolve


def reads_stale_name(changer: fx.Node, reader: fx.Node) -> bool:
    """True when both ops are in one function and the reader's line names the value as it was before the change.

    In `y = relu_(x)` that is `x`, in `skip = x; x = relu_(x)` it is `skip`; in `x = relu_(x)` alone nothing is stale.
    """
    first, second = changer.meta.get("call"), reader.meta.get("call")
    if first is None or second is None or first.code is not second.code:
        return False
    rows = _statements(first.code.co_filename, first.code.co_name, first.code.co_firstlineno)
    here, there = _row(rows, first), _row(rows, second)
    if here is None or there is None or here >= there:
        return False
    stale = _stale_after(rows[: here + 1])
    for row in rows[here + 1 : there]:
        stale -= _assigned(row)
    return any(isinstance(n, ast.Name) and n.id in stale for n in ast.walk(rows[there]))


def _stale_after(rows: list[ast.stmt]) -> set[str]:
    """Names of the value that the last row's call writes into, other than the one its result gets."""
    here = rows[-1]
    call = here.value if isinstance(here, ast.Assign) else None
    if not isinstance(call, ast.Call):
        return set()
    subject = call.args[0] if call.args else call.func.value if isinstance(call.func, ast.Attribute) else None
    if not isinstance(subject, ast.Name):
        return set()
    names = {subject.id}
    for row in rows[:-1]:
        targets = _assigned(row)
        if isinstance(row, ast.Assign) and isinstance(row.value, ast.Name) and row.value.id == subject.id:
            names |= targets
        else:
            names = {subject.id} if subject.id in targets else names - targets
    return names - _assigned(here)


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
