"""Layers that run along the batch: recurrent layers and attention whose time axis holds the samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import fx, nn

from bnlint.graph.axes import Axis, Origin, Role, holds_batch, is_batch, origins
from bnlint.graph.loops import Loop, loops
from bnlint.graph.model import Graph
from bnlint.graph.operands import operands
from bnlint.graph.ops import LAYERS, SAME_LAYOUT, SHAPE_ONLY, Kind, argument, op_name, shape_of, upstream
from bnlint.graph.packed import mispacked, unpacked

Position = tuple[tuple[int, ...], int]

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
    layers = graph.of_kind(Kind.RNN, Kind.ATTENTION, Kind.TRANSFORMER)
    facts = _Facts(graph)
    for node in layers:
        module, source = graph.module(node), graph.data(node)
        first = _batch_first(module)
        shape = graph.shape(source) if source is not None else ()
        axes = graph.axes(source) if source is not None else ()
        if source is None or first is None or graph.error(node) is not None:
            continue
        if len(shape) == 2 and isinstance(module, nn.RNNBase) and shape[0] > 1 and is_batch(axes[0]):
            why = _treated_as_batch(facts, source, axes[0])
            if why:
                yield Along(node, shape, 0, True, f"{why}; two axes are one sequence without a batch")
        elif len(shape) == 3 and min(shape[:2]) > 1:
            dim = 1 if first else 0
            certain, why = _evidence(facts, node, source, dim)
            if why:
                yield Along(node, shape, dim, certain, why)
    for node, shape, dim in mispacked(graph):
        why = f"there is one length for each sample, and it looks for them at axis {dim}"
        yield Along(node, shape, 1 - dim, True, why)
    for back in unpacked(graph):
        certain, why = _read_as_time(graph, back.node, facts.readings(back.time, back.batch))
        if why:
            yield Along(back.node, back.shape, back.dim, certain, why.replace("the other axis", f"axis {back.dim}"))
    for loop in loops(graph):
        found = _loop(facts, loop)
        if found is not None:
            yield found


class _Facts:
    """What one pass over the graph tells about all of its layers."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._readings: dict[tuple[Axis, Axis], dict[fx.Node, _Reading]] = {}
        self._takers: dict[frozenset[Origin], set[fx.Node]] = {}

    @cached_property
    def positions(self) -> dict[fx.Node, frozenset[Position]]:
        """Positions added before a value."""
        return _positions(self.graph)

    def readings(self, time: Axis, other: Axis) -> dict[fx.Node, _Reading]:
        """How values with these axes are read."""
        if (time, other) not in self._readings:
            self._readings[time, other] = _readings(self.graph, time, other)
        return self._readings[time, other]

    def takers(self, batches: frozenset[Origin]) -> set[fx.Node]:
        """The layers that take one of these axes as their samples."""
        if batches not in self._takers:
            self._takers[batches] = {node for node in self.graph.nodes if _takes_samples(self.graph, node, batches)}
        return self._takers[batches]


def _evidence(facts: _Facts, node: fx.Node, source: fx.Node, dim: int) -> tuple[bool, str]:
    graph = facts.graph
    time, other = graph.axes(source)[dim], graph.axes(source)[1 - dim]
    if not other or time == other:
        return False, ""
    if holds_batch(time) and not holds_batch(other):
        why = _treated_as_batch(facts, source, time)
        if why:
            return True, why
    step = _read_as_time(graph, node, facts.readings(time, other))
    if step[1]:
        return step
    if dim == 0 and (graph.shape(source), 1) in facts.positions[source]:
        return False, "positions are added along axis 1"
    return False, ""


def _loop(facts: _Facts, loop: Loop) -> Along | None:
    """A cell that steps from sample to sample, by what came before or by what reads its states."""
    shape, axes = facts.graph.shape(loop.source), facts.graph.axes(loop.source)
    if min(shape[:2]) < 2 or not axes[1] or axes[0] == axes[1]:
        return None
    certain, why = False, ""
    if holds_batch(axes[0]) and not holds_batch(axes[1]):
        certain, why = True, _treated_as_batch(facts, loop.source, axes[0])
    if not why and loop.stacked is not None:
        states = facts.graph.axes(loop.stacked)
        certain, why = _read_as_time(facts.graph, loop.stacked, facts.readings(states[0], states[1]))
    return Along(loop.cell, shape, 0, certain, why) if why else None


def _batch_first(module: nn.Module | None) -> bool | None:
    if isinstance(module, (nn.RNNBase, nn.MultiheadAttention)):
        return bool(module.batch_first)
    if isinstance(module, _TRANSFORMERS):
        inner = next((m for m in module.modules() if isinstance(m, nn.MultiheadAttention)), None)
        return bool(inner.batch_first) if inner is not None else None
    return None


def _treated_as_batch(facts: _Facts, source: fx.Node, time: Axis) -> str:
    """Words for the layer upstream that took this axis as its batch; "" when none did."""
    takers = facts.takers(frozenset(origin for origin in origins(time) if origin.role is Role.BATCH))
    node = next((n for n in upstream(source) if n in takers), None) if takers else None
    if node is None:
        return ""
    return f"`{node.target if node.op == 'call_module' else op_name(node)}` takes it as the batch"


def _takes_samples(graph: Graph, node: fx.Node, batches: frozenset[Origin]) -> bool:
    data = graph.data(node)
    axes = graph.axes(data) if data is not None else ()
    if not axes or not batches & origins(axes[0]):
        return False
    takes_maps = graph.kind(node) in _SAMPLES_FIRST and len(axes) >= 3
    return takes_maps or isinstance(graph.module(node), nn.BatchNorm1d)


@dataclass(frozen=True)
class _Reading:
    """What the rest of the model does with a value whose axes `time` and `other` it gets."""

    picked: frozenset[int] = frozenset()  # positions taken along `other`
    flattened: str = ""
    pooled: str = ""

    def __or__(self, more: _Reading) -> _Reading:
        return _Reading(self.picked | more.picked, self.flattened or more.flattened, self.pooled or more.pooled)


def _read_as_time(graph: Graph, node: fx.Node, readings: Mapping[fx.Node, _Reading]) -> tuple[bool, str]:
    """Whether what follows takes the axis that the layer has for the batch as the time, and the words for it."""
    start = [n for n in node.users if op_name(n) == "getitem" and n.args[1] == 0] if not shape_of(node) else [node]
    found = _Reading()
    for value in start:
        found |= readings[value]
    if found.flattened:
        return True, found.flattened
    last = {-1, 0} if graph.kind(node) is Kind.RNN else {-1}
    if -1 in found.picked and found.picked <= last:
        return True, "the last step is then taken along the other axis"
    if graph.kind(node) is not Kind.RNN and found.picked == {0}:
        return True, "the first token is then taken along the other axis"
    return False, found.pooled


def _readings(graph: Graph, time: Axis, other: Axis) -> dict[fx.Node, _Reading]:
    """For every value, how it and what keeps its layout is read downstream."""
    found: dict[fx.Node, _Reading] = {}
    for here in reversed(graph.nodes):
        reading = _Reading()
        axes = graph.axes(here)
        for reader in here.users:
            if reader.op == "output" or (graph.data(reader) is not here and graph.kind(reader) is not Kind.ADD):
                continue
            after = graph.axes(reader)
            picked = frozenset(index for dim, index in _selected(reader) if _same(axes, dim, other))
            flattened = pooled = ""
            if _flattens(graph, reader, time, other):
                flattened = f"the output is flattened to [{graph.shape(reader)[0]}, …] for a Linear"
            if graph.kind(reader) is Kind.REDUCE and _reduced(axes, after, time, other):
                pooled = f"`{op_name(reader)}` over the other axis follows"
            reading |= _Reading(picked, flattened, pooled)
            keeps = graph.kind(reader) in _KEEPS_AXES or op_name(reader) == "index_select"
            if keeps and any(axis == other for axis in after):
                reading |= found[reader]
        found[here] = reading
    return found


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


def _positions(graph: Graph) -> dict[fx.Node, frozenset[Position]]:
    """For every node, the shape and axis of the sums before it that add a table without a batch to a sequence."""
    found: dict[fx.Node, frozenset[Position]] = {}
    for node in graph.nodes:
        here = frozenset(_tables(graph, node)) if graph.kind(node) is Kind.ADD else frozenset()
        if graph.kind(node) in SAME_LAYOUT:
            here = here.union(*(found[source] for source in node.all_input_nodes))
        found[node] = here
    return found


def _tables(graph: Graph, add: fx.Node) -> Iterator[Position]:
    shape = graph.shape(add)
    for row in operands(add):
        table = graph.shape(row)
        if len(shape) == 3 and 2 <= len(table) <= 3 and row not in graph.from_input:
            sizes = (1,) * (3 - len(table)) + table
            yield from ((shape, dim) for dim in (0, 1) if sizes[dim] == shape[dim] and sizes[1 - dim] == 1)


__all__ = ["Along", "runs_along_batch"]
