"""What a reshape does to the batch axis."""

from __future__ import annotations

import math

from torch import fx

from bnlint.graph.axes import Role, is_batch, roles
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


def is_unfolded_later(graph: Graph, node: fx.Node) -> bool:
    """True when something downstream has the whole batch as an axis of its own again."""
    reached = {node}
    for other in graph.nodes[graph.position[node] + 1 :]:
        if other.op != "output" and any(n in reached for n in other.all_input_nodes):
            reached.add(other)
            if any(is_batch(axis) for axis in graph.axes(other)):
                return True
    return False


def per_sample(shape: tuple[int, ...]) -> int:
    """The number of features of one sample."""
    return math.prod(shape[1:])
