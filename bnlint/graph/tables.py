"""Tables that positions index: what the indices are, and whether the table is long enough."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.fx.node import map_arg

from bnlint.graph.model import AuditedModel, Graph
from bnlint.graph.operands import clashes, guessed
from bnlint.graph.ops import Kind, argument, op_name, shape_of

_LARGEST = 1 << 22  # values; a replayed tensor may not be larger
_REPLAYED = frozenset((Kind.FACTORY, Kind.INDEX, Kind.EXPAND, Kind.RESHAPE, Kind.PERMUTE, Kind.SAME, Kind.ADD)) | {
    *(Kind.MUL, Kind.ELEMENTWISE, Kind.CAT, Kind.STACK, Kind.ACTIVATION, Kind.SPLIT)
}
_UNKNOWN_VALUES = ("rand", "empty", "bernoulli", "normal", "setitem", "masked_select", "as_tensor", "new_tensor")
_TABLE_VIEWS = frozenset((Kind.INDEX, Kind.SAME, Kind.EXPAND, Kind.RESHAPE))


@dataclass(frozen=True)
class Lookup:
    """Rows of a table that integers choose: the smallest and largest of them, and how many rows there are."""

    node: fx.Node
    rows: int
    low: int
    high: int
    from_input: str  # the input that holds the indices, "" when the model makes them


def lookups(model: AuditedModel) -> Iterator[Lookup]:
    """Every embedding whose indices are known: they come from an integer input or from arange and the like."""
    graph = model.graph
    assert graph is not None
    tables = graph.of_kind(Kind.EMBEDDING)
    values = _integers(model, graph) if tables else {}
    for node in tables:
        ids, rows = _ids(node), _rows(graph, node)
        known = values.get(ids) if ids is not None else None
        if ids is None or rows is None or known is None or not known.numel():
            continue
        yield Lookup(node, rows, int(known.min()), int(known.max()), _input(ids))


def _ids(node: fx.Node) -> fx.Node | None:
    first = argument(node, 0, "input")
    return first if isinstance(first, fx.Node) else None


def _rows(graph: Graph, node: fx.Node) -> int | None:
    module = graph.module(node)
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return module.num_embeddings
    weight = argument(node, 1, "weight")
    shape = shape_of(weight) if isinstance(weight, fx.Node) else None
    return shape[0] if shape and op_name(node) == "embedding" else None


def _input(ids: fx.Node) -> str:
    if ids.op == "placeholder" or ids.meta["kind"] is Kind.FACTORY:
        return str(ids.target) if ids.op == "placeholder" else ""
    operands = ids.all_input_nodes[: 1 if op_name(ids).endswith("_as") else None]  # `expand_as` reads a shape
    return next(filter(None, map(_input, operands)), "")


def _integers(model: AuditedModel, graph: Graph) -> dict[fx.Node, torch.Tensor]:
    """The values of integer tensors that follow from inputs, buffers and sizes alone, computed once more on the CPU."""
    found: dict[fx.Node, torch.Tensor] = {}
    given = model.inputs
    rows = [row["name"] for row in given.rows] if given is not None else []
    inputs = dict(zip(rows, given.tensors, strict=True)) if given is not None else {}
    for node in graph.nodes:
        value = node.meta.get("val")
        if not isinstance(value, torch.Tensor) or value.dtype.is_floating_point or value.numel() > _LARGEST:
            continue
        result = _value(model, graph, node, inputs, found)
        if isinstance(result, torch.Tensor) and result.shape == value.shape and result.device.type == "cpu":
            found[node] = result
    return found


def _value(
    model: AuditedModel, graph: Graph, node: fx.Node, inputs: dict[str, torch.Tensor], found: dict[fx.Node, Any]
) -> Any:
    if node.op == "placeholder":
        return inputs.get(str(node.target))
    if node.op == "get_attr":
        try:
            return functools.reduce(getattr, str(node.target).split("."), model.module)
        except AttributeError:
            return None
    name = op_name(node)
    if graph.kind(node) not in _REPLAYED or any(word in name for word in _UNKNOWN_VALUES):
        return None
    if any(n not in found for n in node.all_input_nodes):
        return None
    args, kwargs = map_arg((node.args, node.kwargs), lambda n: found[n].clone())
    run = getattr(torch.Tensor, node.target) if isinstance(node.target, str) else node.target
    try:
        with torch.no_grad():
            return run(*args, **kwargs)
    except (RuntimeError, TypeError, ValueError, IndexError):
        return None


@dataclass(frozen=True)
class ShortTable:
    """A learnt or fixed table of positions that is added to, or put beside, more positions than it has rows."""

    table: fx.Node
    axis: int  # of the table
    rows: int
    wanted: int


def short_table(graph: Graph, node: fx.Node) -> ShortTable | None:
    """The table that makes an addition or product fail for being too short; None when something else does."""
    found = clashes(graph, node) if graph.kind(node) in (Kind.ADD, Kind.MUL) else []
    if len(found) != 1 or guessed(graph, found[0]):
        return None
    clash = found[0]
    rows = ((clash.first, clash.dim, clash.sizes), (clash.second, clash.other_dim, clash.sizes[::-1]))
    for operand, dim, (size, wanted) in rows:
        made = _table(graph, operand)
        rank = len(graph.shape(operand))
        if made is not None and dim != -1 and size < wanted and rank >= 2 and size in graph.shape(made):
            return ShortTable(made, graph.shape(made).index(size), size, wanted)
    return None


def _table(graph: Graph, node: fx.Node) -> fx.Node | None:
    """The parameter or buffer of which `node` is a part."""
    while graph.kind(node) in _TABLE_VIEWS and len(node.all_input_nodes) == 1:
        node = node.all_input_nodes[0]
    return node if graph.kind(node) is Kind.CONSTANT else None


__all__ = ["Lookup", "ShortTable", "lookups", "short_table"]
