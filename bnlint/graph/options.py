"""Lines that run only when an option of the model says so."""

from __future__ import annotations

import ast
import linecache
from collections.abc import Iterator
from functools import lru_cache

from torch import fx

from bnlint.graph.frames import resolve
from bnlint.graph.statements import self_attribute


def behind_option(node: fx.Node) -> bool:
    """True for an op inside `if self.flag:` or `if not self.flag:`, which whoever builds the model can turn off."""
    call = node.meta.get("call")
    if call is None:
        return False
    line = resolve(call).line
    return any(first <= line <= last for first, last in _optional(call.code.co_filename))


@lru_cache(maxsize=256)
def _optional(filename: str) -> tuple[tuple[int, int], ...]:
    try:
        tree = ast.parse("".join(linecache.getlines(filename)))
    except (SyntaxError, ValueError):
        return ()
    return tuple(_branches(tree))


def _branches(tree: ast.AST) -> Iterator[tuple[int, int]]:
    for found in ast.walk(tree):
        if not isinstance(found, ast.If):
            continue
        test = found.test.operand if isinstance(found.test, ast.UnaryOp) else found.test
        if self_attribute(test) is not None:
            for body in filter(None, (found.body, found.orelse)):
                yield body[0].lineno, body[-1].end_lineno or body[-1].lineno


__all__ = ["behind_option"]
