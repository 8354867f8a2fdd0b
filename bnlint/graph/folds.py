"""What a reshape does to the batch axis."""

from __future__ import annotations

import math

from torch import fx

from bnlint.graph.axes import Role, is_batch, roles
from bnlint.graph.batches import sizes_asked
from bnlint.graph.model import LINEAR_OPS, WEIGHT_LAYERS, Graph
from bnlint.graph.ops import Kind


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


def impossible_rows(graph: Graph, node: fx.Node) -> tuple[int | None, int] | None:
    """(rows, features per row) that a failing reshape of whole samples asks for; rows None when left open.

    None when the reshape does not fail, does not make rows, or starts from sizes that are a repair's guess.
    """
    source, wanted = graph.data(node), sizes_asked(node)
    axes = graph.axes(source) if source is not None else ()
    if graph.error(node) is None or source is None or len(axes) < 2 or len(wanted) != 2 or not is_batch(axes[0]):
        return None
    if any(o.guessed for axis in axes for atom in axis for o in atom.origins) or wanted[1] == -1:
        return None
    return (None if wanted[0] == -1 else wanted[0]), wanted[1]


def per_sample(shape: tuple[int, ...]) -> int:
    """The number of features of one sample."""
    return math.prod(shape[1:])
