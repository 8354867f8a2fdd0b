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

Container = tuple[Any, list[Any]]  # the type that packs the items, and their keys


def containers_of(model: nn.Module) -> dict[str, Container]:
    """Parameter to container, for the parameters that are not plain tensors."""
    forward = unwrapped(model).forward
    found: dict[str, Container] = {}
    hints = hints_of(forward)
    uses = _uses(forward)
    for parameter in parameters_of(model):
        name, hint = parameter.name, hints.get(parameter.name)
        keys = uses.get(name, [])
        texts = list(dict.fromkeys(key for key in keys if isinstance(key, str)))
        count = max([key + 1 for key in keys if isinstance(key, int)], default=0)
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            found[name] = (hint, [f.name for f in dataclasses.fields(hint) if f.default is dataclasses.MISSING])
        elif texts:
            found[name] = (dict, texts)
        elif get_origin(hint) in (list, tuple) or hint in (list, tuple):
            found[name] = (get_origin(hint) or hint, list(range(max(2, count))))
    return found


def hints_of(forward: Callable[..., Any]) -> dict[str, Any]:
    """The types that a forward declares; {} when they cannot be told."""
    try:
        return get_type_hints(forward)
    except Exception:  # a name that only exists for type checkers
        return {}


def _uses(forward: Callable[..., Any]) -> dict[str, list[Any]]:
    """Constant keys with which the parameters are indexed, or that are taken with `.get`; and tuple unpacking."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(forward)))
    except (OSError, TypeError, SyntaxError, ValueError):
        return {}
    found: dict[str, list[Any]] = {}
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Subscript)
            and isinstance(node.value, ast.Name)
            and isinstance(node.slice, ast.Constant)
        ):
            found.setdefault(node.value.id, []).append(node.slice.value)
    return found
