"""The main path of a model, and how the signal and its gradient change along it.

A node is on the trunk when every path from an input to an output goes through it: what is lost there is lost. Gates,
residual branches, attention logits and the layers under a long skip connection are not on it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from torch import fx

from bnlint.graph.model import Graph
from bnlint.graph.norms import Norms, values_per_channel
from bnlint.graph.ops import SHAPE_ONLY, WEIGHT_LAYERS, Kind, op_name
from bnlint.signal.statistics import NodeStats

COLLAPSED, EXPLODED = 0.05, 20.0  # the spread over that after the first layer, where a run is in trouble
_MAX_ENDS = 8  # inputs and outputs considered
_FLOOR = 1e-30  # stands for a ratio of zero in logarithms, its inverse for an infinite ratio
# After these the scale is a new one, or the values are no longer the same kind of signal.
RESETS = frozenset(
    (Kind.NORM, Kind.RNN, Kind.ATTENTION, Kind.TRANSFORMER, Kind.EMBEDDING, Kind.SOFTMAX, Kind.OTHER, Kind.STACK)
)
_SCALE_FREE = frozenset(("rsqrt", "std", "var", "var_mean", "std_mean", "norm", "vector_norm", "normalize"))
# These average or copy positions: the change of spread they make is not the weights' doing.
RESAMPLING = frozenset((Kind.POOL, Kind.REDUCE, Kind.RESIZE, Kind.PAD, Kind.SHUFFLE, Kind.MATMUL))
_UNMEASURED = SHAPE_ONLY | {Kind.SPLIT, Kind.INDEX, Kind.CONSTANT, Kind.DROPOUT}


@dataclass(frozen=True)
class Point:
    """A layer on the trunk with a measured value, and that value relative to the reference of its run."""

    node: fx.Node
    value: float
    ratio: float


@dataclass
class Run:
    """Consecutive layers of the trunk that may be compared with each other."""

    points: list[Point] = field(default_factory=list)

    def gradual(self, layers: int = 1, limit: float = 0.6) -> bool:
        """True when at least `layers` layers change the signal in the same direction and none does most of it alone."""
        logs = [math.log(max(point.ratio, _FLOOR)) for point in self.points]
        total = logs[-1] - logs[0]
        steps = [b - a for a, b in pairwise(logs)]
        along = sum(step * total > 0 for step in steps)
        return along >= layers and max(map(abs, steps), default=0.0) <= limit * abs(total)


def trunk(graph: Graph, *, all_outputs: bool = False) -> list[fx.Node]:
    """The nodes on every path from one input to one output (or to all), in order, for the pair with most layers."""
    outputs = list(dict.fromkeys(graph.outputs))
    ends = [outputs] if all_outputs else [[output] for output in outputs[:_MAX_ENDS]]
    ways_on = [(sinks, _paths_to(graph, sinks)) for sinks in ends]
    best: list[fx.Node] = []
    for source in [node for node in graph.nodes if node.op == "placeholder"][:_MAX_ENDS]:
        before = _paths_from(graph, source)
        for sinks, after in ways_on:
            total = sum(before.get(sink, 0) for sink in sinks)
            found = [node for node, ways in before.items() if total and ways * after.get(node, 0) == total]
            best = max(best, found, key=lambda nodes: _rank(graph, nodes))
    return best


def spread_runs(graph: Graph, stats: Mapping[str, NodeStats]) -> list[Run]:
    """The spread across samples after each layer, relative to the first, where no norm is on or beside the trunk.

    A point is a weight layer, or an add that ends a residual branch; a scaling right after it belongs to it.
    """
    walk = _SpreadWalk(graph, stats)
    for node, beside in with_sides(graph, trunk(graph)):
        walk.visit(node, beside)
    walk.end()
    return walk.runs


def gradient_runs(graph: Graph, stats: Mapping[str, NodeStats]) -> list[Run]:
    """What a relative change of each layer's output does to the loss, relative to the last layer of the run.

    That is |gradient| times the root mean square of the output. A skip connection, which carries the gradient past the
    layers it spans, ends a run; so does an output, where gradient comes in from the side, and a batch norm over two
    values, on the trunk or beside it: what it gives is +1 and -1, and its slope a matter of its eps.
    """
    signs = {n.node for n in Norms(graph) if values_per_channel(graph, n) == 2}
    rows: list[list[tuple[fx.Node, float]]] = [[]]
    for node, beside in with_sides(graph, trunk(graph, all_outputs=True)):
        skips = graph.kind(node) is Kind.ADD and any(graph.kind(n) in WEIGHT_LAYERS for n in beside)
        if skips or not signs.isdisjoint((node, *beside)):
            rows.append([])
        if graph.kind(node) in WEIGHT_LAYERS and not graph.is_last_layer(node):
            found = stats.get(node.name)
            value = (found.gradient or 0.0) * math.sqrt(found.second_moment or 0.0) if found is not None else 0.0
            if value > 0 and math.isfinite(value):
                rows[-1].append((node, value))
    return [Run([Point(n, value, value / row[-1][1]) for n, value in row]) for row in rows if row]


class _SpreadWalk:
    """Walks down the trunk and collects runs."""

    def __init__(self, graph: Graph, stats: Mapping[str, NodeStats]) -> None:
        self.graph, self.stats = graph, stats
        self.runs: list[Run] = []
        self.points: list[Point] = []
        self.reference = 0.0  # the first layer's spread, carried through pools
        self.last: float | None = None  # spread of the previous measured node of the trunk
        self.linear = False  # no nonlinearity since the last point

    def visit(self, node: fx.Node, beside: list[fx.Node]) -> None:
        graph, kind = self.graph, self.graph.kind(node)
        found = self.stats.get(node.name)
        spread = found.spread if found is not None else None
        if kind in RESETS or any(sets_scale(graph, n) for n in beside):
            self.end()
        elif kind in WEIGHT_LAYERS or (kind is Kind.ADD and any(graph.kind(n) in WEIGHT_LAYERS for n in beside)):
            self._layer(node, spread)
        elif kind in (Kind.ADD, Kind.MUL) and self.linear:
            layer = self.points.pop().node
            self._layer(layer, spread)
        elif kind in RESAMPLING:
            self._resample(spread)
        elif kind is Kind.ACTIVATION:
            self.linear = False
        if kind not in _UNMEASURED:
            self.last = spread

    def _layer(self, node: fx.Node, spread: float | None) -> None:
        if spread is None or math.isnan(spread) or self.graph.is_last_layer(node) or self._is_zero(node, spread):
            self.end()
            return
        if not self.points:
            self.reference = spread
        if self.reference > 0 and math.isfinite(self.reference):
            self.points.append(Point(node, spread, min(spread / self.reference, 1 / _FLOOR)))
            self.linear = True

    def _is_zero(self, node: fx.Node, spread: float) -> bool:
        """A layer whose weights are zero starts so on purpose, or is a matter of its weights, not of the signal."""
        weight = getattr(self.graph.module(node), "weight", None)
        return spread == 0 and weight is not None and not bool(weight.any())

    def _resample(self, spread: float | None) -> None:
        if self.points and spread and self.last:
            self.reference *= spread / self.last
            self.linear = False
        else:
            self.end()

    def end(self) -> None:
        """Closes the run; the next layer starts another."""
        if self.points:
            self.runs.append(Run(self.points))
        self.points, self.linear = [], False


def with_sides(graph: Graph, nodes: list[fx.Node]) -> Iterator[tuple[fx.Node, list[fx.Node]]]:
    """Each trunk node with the nodes that lie beside the trunk between it and the trunk node before it."""
    if not nodes:
        return
    on_a_path = _paths_from(graph, nodes[0]).keys() & _paths_to(graph, nodes[-1:]).keys()
    previous = graph.position[nodes[0]]
    for node in nodes:
        here = graph.position[node]
        yield node, [n for n in graph.nodes[previous + 1 : here] if n in on_a_path]
        previous = here


def sets_scale(graph: Graph, node: fx.Node) -> bool:
    """True for a norm, also for the pieces of one written by hand."""
    return graph.kind(node) in RESETS or graph.kind(node) is Kind.REDUCE or op_name(node) in _SCALE_FREE


def _paths_from(graph: Graph, source: fx.Node) -> dict[fx.Node, int]:
    """How many paths lead from the source to each node."""
    ways = {source: 1}
    for node in graph.nodes[graph.position[source] + 1 :]:
        count = sum(ways.get(n, 0) for n in node.all_input_nodes)
        if count:
            ways[node] = count
    return ways


def _paths_to(graph: Graph, sinks: Sequence[fx.Node]) -> dict[fx.Node, int]:
    """How many paths lead from each node to the sinks."""
    ends = frozenset(sinks)
    ways: dict[fx.Node, int] = {}
    for node in reversed(graph.nodes):
        count = sum(ways.get(n, 0) for n in node.users) + (node in ends)
        if count:
            ways[node] = count
    return ways


def _rank(graph: Graph, nodes: list[fx.Node]) -> tuple[int, int]:
    return sum(graph.kind(n) in WEIGHT_LAYERS or graph.kind(n) is Kind.ADD for n in nodes), len(nodes)
