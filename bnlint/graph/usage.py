"""Which registered modules a forward pass used, and which the model's source at least mentions."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from torch import nn

from bnlint.graph.model import AuditedModel, Graph
from bnlint.graph.names import parameters_of
from bnlint.rule import Variant


def unused_modules(model: AuditedModel) -> Iterator[tuple[str, nn.Module]]:
    """The outermost modules with trainable parameters that did not run, lent none of them and are mentioned nowhere."""
    assert model.graph is not None
    used = _used_in(model.graph)
    found = list(_unused(model, used))
    if found and model.mode == "train":
        evaluated = model.variant(Variant.EVAL)  # the other mode may take another branch
        found = list(_unused(model, used | _used_in(evaluated))) if evaluated is not None else found
    yield from found


def _unused(model: AuditedModel, used: set[str]) -> Iterator[tuple[str, nn.Module]]:
    reported: set[str] = set()
    leaves = _leaves(model)
    lent = {id(p) for path, m in model.module.named_modules() if path in used for p in m.parameters(False)}
    mentioned = _mentioned(model.module)
    for path, module in model.module.named_modules():
        if not path or not reported.isdisjoint(_around(path)):
            continue
        if path in used or not any(p.requires_grad for p in parameters_of(module)):
            continue
        owner, _, name = path.rpartition(".")
        parent = model.modules[owner]
        if isinstance(module, (nn.ParameterList, nn.ParameterDict)):
            continue  # nothing to call
        if isinstance(parent, (nn.ModuleList, nn.ModuleDict, nn.Sequential)) or name in mentioned:
            continue
        if "" in leaves or not leaves.isdisjoint(_around(path)):
            continue  # part of a layer that torch itself runs, such as the projections of MultiheadAttention
        if any(id(p) in lent for p in parameters_of(module)):
            continue  # tied weights
        reported.add(path)
        yield path, module


def _used_in(graph: Graph) -> set[str]:
    """Every module that ran or holds a tensor that an op used directly, and all modules around those."""
    called = {str(n.target) for n in graph.nodes if n.op == "call_module"}
    direct = {str(n.target).rpartition(".")[0] for n in graph.nodes if n.op == "get_attr"}
    used: set[str] = set()
    for path in called | direct | {call.path for call in graph.recording.calls}:
        while path not in used:
            used.add(path)
            path = path.rpartition(".")[0]
    return used


def _around(path: str) -> Iterator[str]:
    """The paths of the modules that hold a module."""
    while path := path.rpartition(".")[0]:
        yield path


def _leaves(model: AuditedModel) -> set[str]:
    assert model.graph is not None
    return {str(n.target) for n in model.graph.nodes if n.op == "call_module"}


def _mentioned(model: nn.Module) -> frozenset[str]:
    """Attribute names read anywhere in the source of the model's classes, assignments to them left out."""
    classes = {base for module in model.modules() for base in type(module).__mro__}
    names: set[str] = set()
    for base in classes:
        cls: Any = base
        if issubclass(cls, nn.Module) and not cls.__module__.startswith("torch."):
            names |= _reads(cls)
    return frozenset(names)


@lru_cache(maxsize=4096)
def _reads(cls: Any) -> frozenset[str]:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    except (OSError, TypeError, SyntaxError, IndentationError):
        return frozenset()
    names: set[str] = set()
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.FunctionDef) and any(word in node.name for word in ("init", "reset_parameters")):
            continue  # building and initialising a layer is not using it
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            names.add(node.attr)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names.add(node.value)
        todo += ast.iter_child_nodes(node)
    return frozenset(names)
