"""Where a model forks and joins: gates, residual branches, skips."""

from __future__ import annotations

from torch import fx

from bnlint.graph.model import Graph
from bnlint.graph.norms import PASSIVE
from bnlint.graph.ops import SHAPE_ONLY, WEIGHT_LAYERS, Kind, op_name

_GATES = frozenset(
    ("sigmoid", "hardsigmoid", "tanh", "softmax", "softplus", "exp", "clamp", "clip", "relu6", "hardtanh")
)
_KEEP_GATES = SHAPE_ONLY | {Kind.INDEX, Kind.SPLIT, Kind.DROPOUT, Kind.RESIZE, Kind.ADD, Kind.MUL}
_RECTIFIERS = frozenset(
    ("relu", "relu6", "leakyrelu", "prelu", "rrelu", "elu", "celu", "gelu", "silu", "mish", "hardswish")
)


def gate_nodes(graph: Graph) -> frozenset[fx.Node]:
    """Nodes that do nothing but make a factor: squeeze-and-excitation, attention maps, highway gates, softmax scores.

    A factor is an operand of a product that a squashing function made.
    """
    squashed = _squashed(graph)
    found: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        if node.op == "output" or not node.users:
            continue
        if all(user in found or (squashed[node] and _multiplies(graph, user)) for user in node.users):
            found.add(node)
    return frozenset(found)


def _multiplies(graph: Graph, node: fx.Node) -> bool:
    return graph.kind(node) in (Kind.MUL, Kind.MATMUL) and len(node.all_input_nodes) > 1


def _squashed(graph: Graph) -> dict[fx.Node, bool | None]:
    """Whether every value is made of nothing but the results of squashing functions; None for constants."""
    found: dict[fx.Node, bool | None] = {}
    for node in graph.nodes:
        if node.op == "get_attr":
            found[node] = None
        elif graph.kind(node) in _KEEP_GATES or graph.is_item(node):
            made = {found[source] for source in node.all_input_nodes} - {None}
            found[node] = made == {True} if made else None
        else:
            found[node] = _squashes(graph, node)
    return found


def _squashes(graph: Graph, node: fx.Node) -> bool:
    return graph.kind(node) is Kind.SOFTMAX or op_name(node).lower() in _GATES


def is_rectifier(graph: Graph, node: fx.Node) -> bool:
    """True for ReLU and its relatives, which cut off one side and keep the other."""
    return graph.kind(node) is Kind.ACTIVATION and op_name(node).lower().replace("_", "") in _RECTIFIERS


def ends_branch(graph: Graph, node: fx.Node) -> bool:
    """True when a node's output is added to a skip, perhaps scaled, cut, padded or put back in order before."""
    through = PASSIVE | {Kind.MUL, Kind.INDEX, Kind.SPLIT, Kind.CAT, Kind.STACK, Kind.SHUFFLE}
    return any(graph.kind(n) is Kind.ADD and _joins(n) for n in graph.destinations(node, through))


def _joins(add: fx.Node) -> bool:
    return len([n for n in add.all_input_nodes if n.op != "get_attr"]) > 1


def weight_layers(graph: Graph) -> list[fx.Node]:
    """Convs and linears, in the order they run."""
    return [node for node in graph.nodes if graph.kind(node) in WEIGHT_LAYERS]
