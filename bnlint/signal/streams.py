"""Streams along the trunk: the variance of residual streams, and the rank of what layers make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import fx

from bnlint.graph.model import Graph
from bnlint.graph.ops import WEIGHT_LAYERS, Kind
from bnlint.signal.statistics import RANK_ROWS, NodeStats
from bnlint.signal.trunk import RESAMPLING, RESETS, Point, sets_scale, trunk

_NARROWING = WEIGHT_LAYERS | RESAMPLING | {Kind.ADD}
_PASSED_ON = frozenset((Kind.SAME, Kind.DROPOUT))


@dataclass(frozen=True)
class Rank:
    """The effective rank of what a layer makes, and the largest it could have."""

    node: fx.Node
    rank: float
    possible: int

    @property
    def share(self) -> float:
        """The part of it that is there."""
        return self.rank / self.possible


def residual_streams(graph: Graph, stats: Mapping[str, NodeStats]) -> list[list[Point]]:
    """The spread after each `x + f(x)` on the trunk, in rows that no layer, norm or pool interrupts."""
    rows: list[list[Point]] = [[]]
    for node in trunk(graph):
        kind, found = graph.kind(node), stats.get(node.name)
        if kind is Kind.ADD and _adds_to_stream(graph, node) and found is not None and found.spread:
            rows[-1].append(Point(node, found.spread, 1.0))
        elif kind in RESETS or kind in WEIGHT_LAYERS or kind in RESAMPLING or sets_scale(graph, node):
            rows.append([])
    return [row for row in rows if len(row) > 1]


def _adds_to_stream(graph: Graph, add: fx.Node) -> bool:
    parts = graph.residual_branch(add)
    if parts is None or not all(graph.kind(n) in _PASSED_ON for n in parts[1]):
        return False
    return any(graph.kind(n) in WEIGHT_LAYERS for n in parts[0])


def ranks(graph: Graph, stats: Mapping[str, NodeStats]) -> list[Rank]:
    """The ranks along the trunk, with the fewest rows and channels so far as the largest that is possible."""
    found: list[Rank] = []
    possible = RANK_ROWS
    for node in trunk(graph):
        here = stats.get(node.name)
        if here is None or here.rows is None or graph.kind(node) not in _NARROWING:
            continue
        possible = min(possible, here.rows, here.channels or possible)
        if here.rank is not None:
            found.append(Rank(node, here.rank, possible))
    return found
