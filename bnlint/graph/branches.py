"""Where a model forks and joins: gates, residual branches, skips."""

from __future__ import annotations

from torch import fx

from bnlint.graph.model import SHAPE_ONLY, WEIGHT_LAYERS, Graph
from bnlint.graph.norms import PASSIVE
from bnlint.graph.ops import Kind, op_name

_GATES = frozenset(
    ("sigmoid", "hardsigmoid", "tanh", "softmax", "softplus", "exp", "clamp", "clip", "relu6", "hardtanh")
)
_RECTIFIERS = frozenset(
    ("relu", "relu6", "leakyrelu", "prelu", "rrelu", "elu", "celu", "gelu", "silu", "mish", "hardswish")
)


def gate_nodes(graph: Graph) -> frozenset[fx.Node]:
    """Nodes that do nothing but make a factor: squeeze-and-excitation, attention maps, highway gates, softmax scores.

    A factor is an operand of a product that a squashing function made.
    """
    found: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        if node.op == "output" or not node.users:
            continue
        if all(user in found or _is_factor(graph, node, user) for user in node.users):
            found.add(node)
    return frozenset(found)


def _is_factor(graph: Graph, node: fx.Node, product: fx.Node) -> bool:
    if graph.kind(product) not in (Kind.MUL, Kind.MATMUL) or len(product.all_input_nodes) < 2:
        return False
    made = graph.origins(node, SHAPE_ONLY | {Kind.INDEX, Kind.SPLIT, Kind.DROPOUT, Kind.RESIZE, Kind.ADD, Kind.MUL})
    squashed = [_squashes(graph, n) for n in made]
    return bool(squashed) and all(squashed)


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
