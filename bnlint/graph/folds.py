"""What a reshape does to the batch axis."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import fx

from bnlint.graph.axes import Axis, Role, is_batch, roles
from bnlint.graph.axis_arguments import cat_dim
from bnlint.graph.batches import sizes_asked
from bnlint.graph.features import declared, got, mismatched
from bnlint.graph.model import Graph
from bnlint.graph.operands import operands
from bnlint.graph.ops import LAYERS, LINEAR_OPS, WEIGHT_LAYERS, Kind, op_name


def folds_features_into_batch(graph: Graph, node: fx.Node) -> bool:
    """True when a reshape of a channels-first value makes rows that hold only a part of one sample's features.

    Whole axes that are no features, (B, T, C) to (B*T, C), are a legal way to apply a layer per position, and so are
    anchors split off channels that were moved last; neither counts. Only rows that a weight layer reads do.
    """
    source = graph.data(node)
    before, after = (graph.axes(source) if source is not None else ()), graph.axes(node)
    if len(before) < 2 or not after or not is_batch(before[0]) or roles(before[1]) != {Role.CHANNEL}:
        return False
    if not {Role.BATCH, Role.CHANNEL} <= roles(after[0]):
        return False
    readers = graph.destinations(node, LINEAR_OPS | {Kind.ACTIVATION})
    return any(graph.kind(reader) in WEIGHT_LAYERS for reader in readers)


def folds_batch_into_features(graph: Graph, node: fx.Node) -> bool:
    """True when a reshape such as `view(1, -1)` puts all samples into the features that a Linear then refuses."""
    source, after = graph.data(node), graph.axes(node)
    axes = graph.axes(source) if source is not None else ()
    if len(axes) < 2 or not after or not is_batch(axes[0]) or not {Role.BATCH, Role.CHANNEL} <= roles(after[-1]):
        return False
    readers = graph.destinations(node, LINEAR_OPS | {Kind.ACTIVATION})
    return len(after) > 1 and any(graph.kind(n) is Kind.LINEAR and graph.error(n) is not None for n in readers)


def is_unfolded_later(graph: Graph, node: fx.Node) -> bool:
    """True when something downstream has the whole batch as an axis of its own again."""
    reached = {node}
    for other in graph.nodes[graph.position[node] + 1 :]:
        if other.op != "output" and any(n in reached for n in other.all_input_nodes):
            reached.add(other)
            if any(is_batch(axis) for axis in graph.axes(other)):
                return True
    return False


_IN_A_BRANCH = LINEAR_OPS | {Kind.ACTIVATION, Kind.REDUCE, Kind.INDEX}


@dataclass(frozen=True)
class Joined:
    """A concatenation along the batch: how many samples became how many rows, and who says that this is wrong."""

    node: fx.Node
    parts: int
    batch: int
    reader: fx.Node  # the layer that reads the rows
    contradicts: bool  # it takes the features of all parts together


def samples_joined(graph: Graph, node: fx.Node) -> Joined | None:
    """A concatenation that puts what different layers made of one batch below each other instead of side by side.

    Views of one batch that go through the same layers (contrastive pairs, crops) are joined on purpose, and so is all
    that is cut apart again; None for those.
    """
    rows = operands(node) if graph.kind(node) is Kind.CAT and graph.error(node) is None else []
    axes = [graph.axes(row) for row in rows]
    if len(rows) < 2 or cat_dim(node) != 0 or any(len(a) < 2 or a[0] != axes[0][0] for a in axes):
        return None
    makers = [frozenset(map(_layer, graph.origins(row, _IN_A_BRANCH))) for row in rows]
    if not is_batch(axes[0][0]) or any(None in made for made in makers) or len(frozenset.union(*makers)) < len(rows):
        return None
    if sum(map(len, makers)) > len(frozenset.union(*makers)) or _comes_apart(graph, node, axes[0][0]):
        return None
    readers = [n for n in graph.destinations(node, LINEAR_OPS | {Kind.ACTIVATION}) if graph.kind(n) in WEIGHT_LAYERS]
    wide = next((n for n in readers if _takes_all(graph, n, len(rows))), None)
    return Joined(node, len(rows), graph.shape(rows[0])[0], wide or readers[0], wide is not None) if readers else None


def joined_before(graph: Graph, node: fx.Node) -> bool:
    """True for a layer that takes the features of parts side by side, which a concatenation put below each other."""
    found = (samples_joined(graph, cat) for cat in graph.of_kind(Kind.CAT))
    return any(row is not None and row.contradicts and row.reader is node for row in found)


def _layer(node: fx.Node) -> str | None:
    return str(node.target) if node.op == "call_module" and node.meta["kind"] in LAYERS else None


def _takes_all(graph: Graph, node: fx.Node, parts: int) -> bool:
    wanted, size = declared(graph, node), got(graph, node)
    return wanted is not None and size is not None and wanted.size == parts * size and mismatched(graph, node)


def _comes_apart(graph: Graph, cat: fx.Node, batch: Axis) -> bool:
    """True when something downstream has the batch, or a piece of the joined axis, as an axis of its own again."""
    origin = graph.axes(cat)[0][0].origin
    reached = {cat}
    for other in graph.nodes[graph.position[cat] + 1 :]:
        if any(n in reached for n in other.all_input_nodes) and other.op != "output":
            reached.add(other)
            pieces = (atom for axis in graph.axes(other) for atom in axis if atom.origin is origin and atom.part)
            if batch in graph.axes(other) or any(pieces):
                return True
    return False


def impossible_rows(graph: Graph, node: fx.Node) -> tuple[int | None, int] | None:
    """(rows, features per row) that a failing reshape of whole samples asks for; rows None when left open.

    None when the reshape does not fail, does not make rows, or starts from sizes that are a repair's guess.
    """
    source, wanted = graph.data(node), sizes_asked(node)
    axes = graph.axes(source) if source is not None else ()
    if (
        graph.error(node) is None
        or is_strided_view(graph, node)
        or source is None
        or len(axes) < 2
        or len(wanted) != 2
        or not is_batch(axes[0])
    ):
        return None
    if any(o.guessed for axis in axes for atom in axis for o in atom.origins) or wanted[1] == -1:
        return None
    return (None if wanted[0] == -1 else wanted[0]), wanted[1]


def is_strided_view(graph: Graph, node: fx.Node) -> bool:
    """True for a view that fails although its sizes fit: axes that it joins are not side by side in memory."""
    source = graph.data(node)
    if graph.error(node) is None or op_name(node) != "view" or source is None:
        return False
    return math.prod(graph.shape(source)) == math.prod(graph.shape(node))


def per_sample(shape: tuple[int, ...]) -> int:
    """The number of features of one sample."""
    return math.prod(shape[1:])
