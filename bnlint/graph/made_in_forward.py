"""Layers and parameters that forward makes while it runs."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import fx, nn

from bnlint.graph.gradients import carries
from bnlint.graph.model import AuditedModel, Graph
from bnlint.graph.names import parameters_of
from bnlint.graph.ops import op_name
from bnlint.graph.syntax import class_text

_MADE = re.compile(r"(^|\.)\w+\(\)(#\d+)?$")


@dataclass(frozen=True)
class Made:
    """A layer with trainable parameters, or a bare parameter, that did not exist before the run."""

    node: fx.Node  # the first op that uses it
    path: str
    what: str  # "Linear", "Parameter"
    parameters: int
    returned: bool  # a value that the model returns depends on it
    kept: bool  # the text of the class stores it in an attribute


def made_in_forward(model: AuditedModel) -> Iterator[Made]:
    """Everything trainable that forward makes anew, with the first op that uses it."""
    graph = model.graph
    assert graph is not None
    returned = _returned(graph)
    for path, module in graph.recording.unregistered.items():
        trainable = [p for p in parameters_of(module) if p.requires_grad]
        nodes = [n for n in graph.nodes if _belongs(n, path)]
        if not _MADE.search(path) or not trainable or not any(carries(n) for n in nodes):
            continue
        name = type(module).__name__
        count = sum(p.numel() for p in trainable)
        used = any(n in returned for n in nodes)
        yield Made(nodes[0], path, name, count, used, _is_kept(model, path.rpartition(".")[0], name))
    for node in graph.nodes:
        if _is_new_parameter(node):
            size: int = node.meta["val"].numel()
            used = any(n in returned for n in node.users)
            if used:
                yield Made(
                    node, node.meta["path"], "Parameter", size, used, _is_kept(model, node.meta["path"], "Parameter")
                )


def _belongs(node: fx.Node, path: str) -> bool:
    return node.op.startswith("call_") and (node.meta["path"] == path or node.meta["path"].startswith(f"{path}."))


def _is_new_parameter(node: fx.Node) -> bool:
    """`nn.Parameter(t)` is recorded as the detach it begins with; one inside a new layer's `__init__` is used by it."""
    value = node.meta.get("val")
    return op_name(node) == "detach" and isinstance(value, torch.Tensor) and isinstance(value, nn.Parameter)


def _returned(graph: Graph) -> set[fx.Node]:
    found: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        if any(user.op == "output" or user in found for user in node.users):
            found.add(node)
    return found


def _is_kept(model: AuditedModel, owner: str, name: str) -> bool:
    """True when a method of the owner assigns such a layer to an attribute outside `__init__`."""
    try:
        module = model.module.get_submodule(owner)
    except AttributeError:
        return True
    for base in type(module).__mro__:
        text = class_text(base) if not base.__module__.startswith(("torch.", "builtins")) else None
        for function in text.node.body if text is not None else ():
            if isinstance(function, ast.FunctionDef) and function.name != "__init__" and _keeps(function, name):
                return True
    return False


def _keeps(function: ast.FunctionDef, name: str) -> bool:
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Attribute) for t in node.targets):
            calls = [c.func for c in ast.walk(node.value) if isinstance(c, ast.Call)]
            if any(name in (getattr(f, "attr", None), getattr(f, "id", None)) for f in calls):
                return True
        if isinstance(node, ast.Attribute) and node.attr in ("weight", "bias") and isinstance(node.ctx, ast.Store):
            return True
        if isinstance(node, ast.Call) and getattr(node.func, "attr", None) in (
            "add_module",
            "copy_",
            "load_state_dict",
        ):
            return True
    return False
