"""Which parameters of a forward are dicts, lists, tuples or dataclasses of tensors: read from its source and hints."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Callable
from typing import Any, get_origin, get_type_hints

from torch import nn

from bnlint.inputs.values import parameters_of, unwrapped

ITEMS = object()
Container = tuple[Any, list[Any]]  # the type that packs the items, and their keys


def containers_of(model: nn.Module) -> dict[str, Container]:
    """Parameter to container, for the parameters that are not plain tensors."""
    forward = unwrapped(model).forward
    found: dict[str, Container] = {}
    hints = hints_of(forward)
    tree = _tree(forward)
    uses, lengths = _uses(tree), _lengths(tree, unwrapped(model))
    named = next((list(m) for m in model.modules() if isinstance(m, nn.ModuleDict)), [])
    for parameter in parameters_of(model):
        name, hint = parameter.name, hints.get(parameter.name)
        keys = uses.get(name, [])
        texts = list(dict.fromkeys(key for key in keys if isinstance(key, str)))
        count = max([key + 1 for key in keys if isinstance(key, int)], default=0)
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            found[name] = (hint, [f.name for f in dataclasses.fields(hint) if f.default is dataclasses.MISSING])
        elif texts or (named and ITEMS in keys):
            found[name] = (dict, texts or named)
        elif (get_origin(hint) or hint) in (list, tuple) or name in lengths:
            kind = tuple if (get_origin(hint) or hint) is tuple else list
            found[name] = (kind, list(range(max(lengths.get(name, 2), count))))
    return found


def hints_of(forward: Callable[..., Any]) -> dict[str, Any]:
    """The types that a forward declares; {} when they cannot be told."""
    try:
        return get_type_hints(forward)
    except Exception:  # a name that only exists for type checkers
        return {}


def _tree(forward: Callable[..., Any]) -> ast.AST:
    try:
        return ast.parse(textwrap.dedent(inspect.getsource(forward)))
    except (OSError, TypeError, SyntaxError, ValueError):
        return ast.Module([], [])


def _uses(tree: ast.AST) -> dict[str, list[Any]]:
    """Constant keys with which the parameters are indexed; ITEMS for one that is gone through as a dict."""
    found: dict[str, list[Any]] = {}
    for node in ast.walk(tree):
        if not isinstance(node, (ast.Subscript, ast.Attribute)) or not isinstance(node.value, ast.Name):
            continue
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            found.setdefault(node.value.id, []).append(node.slice.value)
        elif isinstance(node, ast.Attribute) and node.attr in ("items", "keys", "values"):
            found.setdefault(node.value.id, []).append(ITEMS)
    return found


def _lengths(tree: ast.AST, model: nn.Module) -> dict[str, int]:
    """How many items a parameter has that goes through a `zip` with a list of layers."""
    found: dict[str, int] = {}
    rebound = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "zip":
            layers = [getattr(model, a.attr, None) for a in node.args if isinstance(a, ast.Attribute)]
            counts = [len(each) for each in layers if isinstance(each, nn.ModuleList)]
            names = {a.id for a in node.args if isinstance(a, ast.Name)} - rebound
            found |= dict.fromkeys(names, counts[0]) if counts else {}
    return found
