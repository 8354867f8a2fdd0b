"""Layers that take one spatial size of the input only."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx, nn

from bnlint.graph.axes import Role, roles
from bnlint.graph.extents import extents
from bnlint.graph.features import feature_axis, flattened, mismatched
from bnlint.graph.model import Graph
from bnlint.graph.operands import clashes, guessed
from bnlint.graph.ops import Kind, op_name

_LARGEST = 2048


@dataclass(frozen=True)
class OneSize:
    """The layer that fixes the size, the map it needs (() when it is no map) and why it needs it."""

    node: fx.Node
    source: fx.Node | None
    what: str


def may_fix_size(graph: Graph) -> bool:
    """False when no op could refuse a larger map, so that trying one is not worth a recording."""
    return any(_may_fix(graph, node) for node in graph.nodes)


def _may_fix(graph: Graph, node: fx.Node) -> bool:
    kind, source = graph.kind(node), graph.data(node)
    if kind is Kind.RESHAPE and source is not None and len(graph.shape(source)) > 2:
        made = graph.origins(source, frozenset((Kind.SAME, Kind.DROPOUT, Kind.ACTIVATION, Kind.NORM)))
        return not all(graph.kind(n) is Kind.POOL and "adaptive" in op_name(n).lower() for n in made)
    if kind is Kind.LINEAR:
        return bool(roles(feature_axis(graph, node)) & {Role.SPATIAL, Role.SEQUENCE})
    module = graph.module(node)
    if isinstance(module, nn.LayerNorm):
        return len(module.normalized_shape) > 1
    return kind in (Kind.ADD, Kind.MUL) and any(n.op == "get_attr" for n in node.all_input_nodes)


def only_size(base: Graph, larger: Graph) -> OneSize | None:
    """What makes a run on a larger map fail although the first one runs; None when it is not the size alone."""
    failed = next(iter(larger.recording.errors), None)
    names = {node.name: node for node in base.nodes}
    node = names.get(failed.name) if failed is not None else None
    if failed is None or node is None or base.kind(node) is not larger.kind(failed):
        return None
    flat = flattened(larger, failed)
    if flat is not None and mismatched(larger, failed):
        reshape = names.get(flat.name)
        source = base.data(reshape) if reshape is not None else None
        return OneSize(node, source, "takes the flattened map") if source is not None else None
    module = larger.module(failed)
    if isinstance(module, nn.Linear) and roles(feature_axis(larger, failed)) <= {Role.SPATIAL, Role.SEQUENCE}:
        return OneSize(node, base.data(node), "mixes the positions") if mismatched(larger, failed) else None
    if isinstance(module, nn.LayerNorm) and len(module.normalized_shape) > 1:
        return OneSize(node, base.data(node), "normalises over the positions")
    found = clashes(larger, failed) if larger.kind(failed) in (Kind.ADD, Kind.MUL) else []
    table = len(found) == 1 and any(n.op == "get_attr" for n in (found[0].first, found[0].second))
    return OneSize(node, None, "adds a table of one size") if table and not guessed(larger, found[0]) else None


def accepted(graph: Graph, source: fx.Node) -> tuple[tuple[int, int], ...] | None:
    """The smallest and largest input size, per spatial axis, that give `source` the size it has; None when unknown."""
    shape = graph.shape(source)
    rank = len(shape) - 2
    if rank < 1:
        return None
    found = []
    for dim in range(rank):
        sizes = [
            size for size in range(1, _LARGEST) if extents(graph, rank, dim, size).get(source) == shape[dim - rank]
        ]
        if not sizes or sizes[-1] == _LARGEST - 1:
            return None
        found.append((sizes[0], sizes[-1]))
    return tuple(found)


__all__ = ["OneSize", "accepted", "may_fix_size", "only_size"]
