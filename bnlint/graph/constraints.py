"""Layers that need a map of a certain size, and pairs of them that no input size can serve."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

from torch import fx

from bnlint.graph.extents import extents
from bnlint.graph.features import declared, flattened, got, mixes_positions
from bnlint.graph.model import Graph
from bnlint.graph.ops import Kind

_LIMIT = 1024  # the largest input size tried; a proof needs every map to outgrow its need before that


@dataclass(frozen=True)
class SizeNeed:
    """A Linear that needs `positions` positions in the map `source`: along the width alone, or in all of it."""

    node: fx.Node
    source: fx.Node
    positions: int
    flat: bool
    met: bool  # with the input at hand

    def words(self) -> str:
        """What it needs, for people."""
        return f"a map of {self.positions} positions" if self.flat else f"width {self.positions}"

    def fulfilled(self, sizes: tuple[int, ...]) -> bool:
        """True when a map of these sizes serves it."""
        return (math.prod(sizes) if self.flat else sizes[-1]) == self.positions


def size_needs(graph: Graph) -> list[SizeNeed]:
    """Every Linear on a width or on a flattened map, in the order they run."""
    found = []
    for node in graph.of_kind(Kind.LINEAR):
        wanted, source, size = declared(graph, node), graph.data(node), got(graph, node)
        reshape = flattened(graph, node)
        if wanted is None or source is None:
            continue
        if mixes_positions(graph, node):
            found.append(SizeNeed(node, source, wanted.size, False, size == wanted.size))
        elif reshape is not None:
            data = graph.data(reshape)
            shape = graph.shape(data) if data is not None else ()
            whole = len(shape) > 2 and graph.shape(reshape)[1:] == (math.prod(shape[1:]),)
            if data is not None and whole and wanted.size % shape[1] == 0:
                found.append(SizeNeed(node, data, wanted.size // shape[1], True, size == wanted.size))
    return found


def map_of(positions: int, rank: int) -> tuple[int, ...]:
    """The sizes of a map of so many positions, as square as they can be."""
    if rank == 1:
        return (positions,)
    root = round(positions ** (1 / rank))
    side = next(size for size in range(root, 0, -1) if positions % size == 0)
    return (side, *map_of(positions // side, rank - 1))


def contradict(graph: Graph, first: SizeNeed, second: SizeNeed) -> bool:
    """True when no input size gives both layers what they need; False also when that cannot be proven."""
    rank = len(graph.shape(first.source)) - 2
    if (first.met and second.met) or rank != len(graph.shape(second.source)) - 2 or not 1 <= rank <= 3:
        return False
    if sum(graph.kind(n) is Kind.INPUT and len(graph.shape(n)) == rank + 2 for n in graph.nodes) != 1:
        return False
    choices = [_choices(graph, rank, dim, first, second) for dim in range(rank)]
    if any(rows is None for rows in choices):
        return False
    for pairs in product(*(rows or () for rows in choices)):
        if first.fulfilled(tuple(a for a, _ in pairs)) and second.fulfilled(tuple(b for _, b in pairs)):
            return False
    return True


def _choices(graph: Graph, rank: int, dim: int, first: SizeNeed, second: SizeNeed) -> list[tuple[int, int]] | None:
    """The pairs of sizes along an axis that the two maps can have together; None when they are not known."""
    bound = [need.flat or dim == rank - 1 for need in (first, second)]  # whether the need limits this axis
    rows: dict[tuple[int, int], None] = {}
    for size in range(1, _LIMIT + 1):
        found = extents(graph, rank, dim, size)
        a, b = found.get(first.source), found.get(second.source)
        if a is None or b is None:
            return None
        rows[a, b] = None
        if not any(bound) and a and b:
            return [(a, b)]
        if (bound[0] and a > first.positions) or (bound[1] and b > second.positions):
            return [pair for pair in rows if all(pair)]
    return None


__all__ = ["SizeNeed", "contradict", "map_of", "size_needs"]
