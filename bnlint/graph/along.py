"""Layers that run along the batch: recurrent layers and attention whose time axis holds the samples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from bnlint.graph.axes import Axis, Role, holds_batch, is_batch, origins
from bnlint.graph.model import LAYERS, SAME_LAYOUT, SHAPE_ONLY, Graph
from bnlint.graph.operands import operands
from bnlint.graph.ops import Kind, argument, op_name, shape_of

_KEEPS_AXES = SAME_LAYOUT | SHAPE_ONLY | LAYERS
_TRANSFORMERS = (
    *(nn.Transformer, nn.TransformerEncoder, nn.TransformerDecoder),
    *(nn.TransformerEncoderLayer, nn.TransformerDecoderLayer),
)
_SAMPLES_FIRST = frozenset((Kind.CONV, Kind.CONV_TRANSPOSE, Kind.POOL))


@dataclass(frozen=True)
class Along:
    """A layer, the axis it runs along, and what says that this is the batch."""

    node: fx.Node
    shape: tuple[int, ...]
    dim: int
    certain: bool
    why: str


def runs_along_batch(graph: Graph) -> Iterator[Along]:
    """Every recurrent or attention layer whose axis of time is, by the rest of the model, the batch."""
    for node in graph.of_kind(Kind.RNN, Kind.ATTENTION, Kind.TRANSFORMER):
        module, source = graph.module(node), graph.data(node)
        first = _batch_first(module)
        shape = graph.shape(source) if source is not None else ()
        axes = graph.axes(source) if source is not None else ()
        if source is None or first is None or graph.error(node) is not None:
            continue
        if len(shape) == 2 and isinstance(module, nn.RNNBase) and shape[0] > 1 and is_batch(axes[0]):
            why = _treated_as_batch(graph, source, axes[0])
            if why:
                yield Along(node, shape, 0, True, f"{why}; two axes are one sequence without a batch")
        elif len(shape) == 3 and min(shape[:2]) > 1:
            dim = 1 if first else 0
            certain, why = _evidence(graph, node, source, axes[dim], axes[1 - dim], dim)
            if why:
                yield Along(node, shape, dim, certain, why)


def _evidence(graph: Graph, node: fx.Node, source: fx.Node, time: Axis, other: Axis, dim: int) -> tuple[bool, str]:
    if not other or time == other:
        return False, ""
    if holds_batch(time) and not holds_batch(other):
        why = _treated_as_batch(graph, source, time)
        if why:
            return True, why
    step = _read_as_time(graph, node, time, other)
    if step[1]:
        return step
    if dim == 0 and _positions_along(graph, source, 1):
        return False, "positions are added along axis 1"
    return False, ""


def _batch_first(module: nn.Module | None) -> bool | None:
    if isinstance(module, (nn.RNNBase, nn.MultiheadAttention)):
        return bool(module.batch_first)
    if isinstance(module, _TRANSFORMERS):
        inner = next((m for m in module.modules() if isinstance(m, nn.MultiheadAttention)), None)
        return bool(inner.batch_first) if inner is not None else None
    return None


def _treated_as_batch(graph: Graph, source: fx.Node, time: Axis) -> str:
    """Words for the layer upstream that took this axis as its batch; "" when none did."""
    batches = {origin for origin in origins(time) if origin.role is Role.BATCH}
    for node in _upstream(source):
        data = graph.data(node)
        axes = graph.axes(data) if data is not None else ()
        if not axes or not batches & origins(axes[0]):
            continue
        takes_maps = graph.kind(node) in _SAMPLES_FIRST and len(axes) >= 3
        if takes_maps or isinstance(graph.module(node), nn.BatchNorm1d):
            return f"`{node.target if node.op == 'call_module' else op_name(node)}` takes it as the batch"
    return ""


def _upstream(node: fx.Node) -> Iterator[fx.Node]:
    todo, seen = [node], {node}
    while todo:
        here = todo.pop()
        yield here
        for source in here.all_input_nodes:
            if source not in seen:
                seen.add(source)
                todo.append(source)


def _read_as_time(graph: Graph, node: fx.Node, time: Axis, other: Axis) -> tuple[bool, str]:
    """Whether what follows takes the axis that the layer has for the batch as the time, and the words for it."""
    start = [n for n in node.users if op_name(n) == "getitem" and n.args[1] == 0] if not shape_of(node) else [node]
    picked: list[int] = []
    pooled, seen, todo = "", set(start), list(start)
    while todo:
        here = todo.pop()
        for reader in here.users:
            if reader.op == "output" or reader in seen or graph.data(reader) is not here:
                continue
            axes, after = graph.axes(here), graph.axes(reader)
            picked += [index for dim, index in _selected(reader) if _same(axes, dim, other)]
            if _flattens(graph, reader, time, other):
                return True, f"the output is flattened to [{graph.shape(reader)[0]}, …] for a Linear"
            if graph.kind(reader) is Kind.REDUCE and _reduced(axes, after, time, other):
                pooled = f"`{op_name(reader)}` over the other axis follows"
            if graph.kind(reader) in _KEEPS_AXES and any(axis == other for axis in after):
                seen.add(reader)
                todo.append(reader)
    last = {-1, 0} if graph.kind(node) is Kind.RNN else {-1}
    if picked and set(picked) <= last and -1 in picked:
        return True, "the last step is then taken along the other axis"
    if graph.kind(node) is not Kind.RNN and set(picked) == {0}:
        return True, "the first token is then taken along the other axis"
    return False, pooled


def _same(axes: tuple[Axis, ...], dim: int, other: Axis) -> bool:
    return dim < len(axes) and axes[dim] == other


def _selected(node: fx.Node) -> list[tuple[int, int]]:
    """(axis, index) of every whole number in an index."""
    if op_name(node) == "select":
        dim, index = argument(node, 1, "dim"), argument(node, 2, "index")
        return [(dim, index)] if isinstance(dim, int) and isinstance(index, int) and dim >= 0 else []
    if op_name(node) != "getitem" or len(node.args) < 2:
        return []
    items: Any = node.args[1] if isinstance(node.args[1], tuple) else (node.args[1],)
    if any(item is Ellipsis or item is None for item in items):
        return []
    return [(dim, item) for dim, item in enumerate(items) if isinstance(item, int) and not isinstance(item, bool)]


def _flattens(graph: Graph, node: fx.Node, time: Axis, other: Axis) -> bool:
    axes = graph.axes(node)
    if graph.kind(node) is not Kind.RESHAPE or len(axes) != 2 or axes[0] != time:
        return False
    joined = origins(axes[1]) >= origins(other) and len(origins(axes[1])) > len(origins(other))
    return joined and any(graph.kind(n) is Kind.LINEAR for n in graph.destinations(node, SAME_LAYOUT | SHAPE_ONLY))


def _reduced(axes: tuple[Axis, ...], after: tuple[Axis, ...], time: Axis, other: Axis) -> bool:
    return other in axes and time in axes and time in after and other not in after


def _positions_along(graph: Graph, source: fx.Node, dim: int) -> bool:
    """True when a table without a batch axis was added along `dim` on the way to a layer."""
    shape = graph.shape(source)
    todo, seen = [source], {source}
    while todo:
        here = todo.pop()
        rows = operands(here) if graph.kind(here) is Kind.ADD else []
        for row in rows:
            table = graph.shape(row)
            alone = all(n.op == "get_attr" or graph.kind(n) is Kind.FACTORY for n in _roots(row))
            if alone and 2 <= len(table) <= 3 and len(graph.shape(here)) == 3 and graph.shape(here) == shape:
                sizes = (1,) * (3 - len(table)) + table
                if sizes[dim] == shape[dim] and sizes[1 - dim] == 1:
                    return True
        if graph.kind(here) in SAME_LAYOUT:
            fresh = [n for n in here.all_input_nodes if n not in seen]
            seen.update(fresh)
            todo += fresh
    return False


def _roots(node: fx.Node) -> list[fx.Node]:
    return [n for n in _upstream(node) if not n.all_input_nodes]


__all__ = ["Along", "runs_along_batch"]
