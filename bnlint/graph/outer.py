"""Elementwise ops that pair every sample with every other one without being asked to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import fx

from bnlint.graph.axes import is_batch
from bnlint.graph.model import Graph
from bnlint.graph.operands import operands
from bnlint.graph.ops import WEIGHT_LAYERS, Kind, op_name

LOSSES = ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "binary_cross_entropy_with_logits", "poisson_nll_loss")
_POINTWISE = frozenset((Kind.SAME, Kind.ACTIVATION, Kind.DROPOUT, Kind.NORM, Kind.ADD, Kind.MUL, Kind.ELEMENTWISE))
_COLUMN_MAKERS = WEIGHT_LAYERS | {Kind.INPUT, Kind.RNN}
_PAIRWISE_READERS = frozenset((Kind.SOFTMAX, Kind.MATMUL))


@dataclass(frozen=True)
class Outer:
    """A column (N, 1, ...) combined with a row (N, ...): the result holds all pairs of samples."""

    node: fx.Node
    column: fx.Node
    row: fx.Node


def accidental_outer(graph: Graph) -> Iterator[Outer]:
    """Every (N, 1, ...) that a layer made, combined with an (N, ...), where nobody inserted an axis on purpose."""
    for node in graph.nodes:
        if graph.kind(node) not in (Kind.ADD, Kind.MUL, Kind.ELEMENTWISE) and op_name(node) not in LOSSES:
            continue
        rows = operands(node)
        if len(rows) != 2:
            continue
        for column, row in (rows, rows[::-1]):
            if _meet(graph, column, row) and _made_with_one(graph, column) and not _is_pairwise(graph, node):
                yield Outer(node, column, row)


def _meet(graph: Graph, column: fx.Node, row: fx.Node) -> bool:
    """True for (N, 1, ...) against (N, ...) of the same batch: its axis meets the one of size 1."""
    (n, *_), x, y = graph.shape(column) or (0,), graph.shape(column), graph.shape(row)
    if n < 2 or len(x) < 2 or x[1] != 1 or (n, *x[2:]) != y:
        return False
    return is_batch(graph.axes(column)[0]) and graph.axes(column)[0] == graph.axes(row)[0]


def _made_with_one(graph: Graph, node: fx.Node) -> bool:
    """True when the axis of size 1 is the one feature or channel of a layer or an input."""
    made = graph.origins(node, _POINTWISE)
    return bool(made) and all(graph.kind(n) in _COLUMN_MAKERS or _keeps_one(graph, n) for n in made)


def _keeps_one(graph: Graph, node: fx.Node) -> bool:
    """True for `x[:, :1]`: a column cut from features."""
    items = node.args[1] if op_name(node) == "getitem" and len(node.args) > 1 else None
    return isinstance(items, tuple) and len(items) > 1 and all(isinstance(item, slice) for item in items)


def _is_pairwise(graph: Graph, node: fx.Node) -> bool:
    """True when what reads the result needs all pairs: a softmax over them, a product with a matrix."""
    return any(graph.kind(n) in _PAIRWISE_READERS for n in graph.destinations(node, _POINTWISE))


__all__ = ["Outer", "accidental_outer"]
