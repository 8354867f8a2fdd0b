"""Tensors that stay on one device when the model is moved to another."""

from __future__ import annotations

import linecache
from collections.abc import Callable

import torch
from torch import fx

from bnlint.graph.frames import resolve
from bnlint.graph.model import Graph
from bnlint.graph.ops import Kind, op_name, shape_of
from bnlint.graph.syntax import moved_elsewhere

_BY_FIRST = frozenset(("getitem", "setitem", "copy", "index"))  # work between devices; the first operand's stays
_MOVES = frozenset(("to", "cuda", "type_as"))


def left_behind(graph: Graph, starts: Callable[[fx.Node], bool]) -> dict[fx.Node, fx.Node]:
    """The tensors that start on the default device, each with the first op that combines it with the model's own.

    The model's own are its floating inputs, its parameters and buffers and all that is computed from them. Integer
    inputs and numbers without an axis may be anywhere.
    """
    stays: dict[fx.Node, fx.Node] = {}  # node to the tensor it was made of
    moves: set[fx.Node] = set()
    found: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        operands = [n for n in node.all_input_nodes if _rank(n)]
        if starts(node):
            stays[node] = node
        elif _moves(node):
            moves.add(node)
        elif node.op.startswith("call_"):
            _follow(graph, node, operands, stays, moves, found)
    return found


def _follow(
    graph: Graph,
    node: fx.Node,
    operands: list[fx.Node],
    stays: dict[fx.Node, fx.Node],
    moves: set[fx.Node],
    found: dict[fx.Node, fx.Node],
) -> None:
    left = [n for n in operands if n in stays]
    module = graph.module(node)
    own = any(n in moves for n in operands) or (module is not None and any(True for _ in module.parameters()))
    if op_name(node) in _BY_FIRST and operands:
        left, own = [n for n in operands[:1] if n in stays], operands[0] in moves
    if left and own:
        found.setdefault(stays[left[0]], node)
    if own:
        moves.add(node)
    elif left:
        stays[node] = stays[left[0]]


def _moves(node: fx.Node) -> bool:
    if node.op == "placeholder":
        return _is_floating(node)
    if node.op == "get_attr":
        return bool(node.meta.get("registered"))
    return node.kwargs.get("device") is not None or (op_name(node) in _MOVES and not _casts(node))


def _casts(node: fx.Node) -> bool:
    """True for `.to(dtype)`, which stays where it is."""
    given = (*node.args[1:2], node.kwargs.get("dtype"))
    return op_name(node) == "to" and isinstance(given[0], torch.dtype)


def is_made_without_device(node: fx.Node) -> bool:
    """True for calls such as `torch.zeros(n)` that name no device and take no tensor that tells one.

    One that the function moves on some devices only (`if x.is_cuda: zeros = zeros.cuda()`) is not, and neither is one
    without an entry, which stands for an argument left out.
    """
    if node.meta["kind"] is not Kind.FACTORY or node.all_input_nodes or node.kwargs.get("device") is not None:
        return False
    if 0 in (shape_of(node) or ()):
        return False
    call = node.meta.get("call")
    return call is None or not moved_elsewhere(call.code.co_filename, resolve(call).line)


def fixed_device(node: fx.Node) -> str | None:
    """The device that a call's text names: `.cuda()`, `.to("cpu")`, `torch.zeros(n, device="cuda")`."""
    if node.op not in ("call_method", "call_function"):
        return None
    name = op_name(node)
    given = [node.kwargs.get("device"), *(node.args[1:2] if name == "to" else ())]
    devices = [name] if name in ("cuda", "cpu") else [d for d in given if isinstance(d, (str, torch.device))]
    text, marks = _line(node), (".",) if name in ("cuda", "cpu") else ("'", '"')
    for device in map(str, devices):
        kind = device.partition(":")[0]
        if kind in ("cpu", "cuda", "mps", "xpu") and any(f"{mark}{kind}" in text for mark in marks):
            return device
    return None


def _line(node: fx.Node) -> str:
    call = node.meta.get("call")
    return linecache.getline(call.code.co_filename, resolve(call).line) if call is not None else ""


def _rank(node: fx.Node) -> int:
    value = node.meta.get("val")
    return value.ndim if isinstance(value, torch.Tensor) else 1


def _is_floating(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.dtype.is_floating_point
