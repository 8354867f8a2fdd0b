"""Ops that draw random numbers, and what the model does with the draw."""

from __future__ import annotations

import enum

from torch import fx

from bnlint.graph.model import Graph
from bnlint.graph.ops import SHAPE_ONLY, Kind, argument, op_name

_NAMES = (
    "rand randn randint randperm rand_like randn_like randint_like normal bernoulli multinomial poisson uniform "
    "exponential cauchy log_normal geometric random standard_normal standard_gamma dirichlet trunc_normal "
    "gumbel_softmax rrelu fractional_max_pool2d fractional_max_pool3d from_numpy"
)
_DRAWS = frozenset(_NAMES.split())
_COMPARISONS = frozenset(("lt", "le", "gt", "ge", "floor", "round", "bernoulli", "logical_not", "invert"))
_PLAIN = SHAPE_ONLY | {Kind.MUL, Kind.ADD, Kind.ELEMENTWISE, Kind.FACTORY, Kind.INDEX}


class Use(enum.Enum):
    """How a random draw meets the signal."""

    MASK = "mask"  # a random mask that nothing else reads multiplies it: dropout written by hand
    NOISE = "noise"  # added to it on a constant scale
    OTHER = "other"  # sampling from what the model computed, masked modelling, random inputs


def draws(node: fx.Node) -> bool:
    """True for an op that makes random numbers in whatever mode the model is in."""
    return op_name(node) in _DRAWS


def use_of(graph: Graph, node: fx.Node) -> Use:
    """Follows a draw through arithmetic with constants to the one op that combines it with the signal."""
    signal = _of_input(graph)
    masked = op_name(node) in _COMPARISONS
    here = node
    while True:
        readers = graph.consumers(here)
        if len(readers) != 1:
            return Use.OTHER
        (reader,) = readers
        others = [n for n in reader.all_input_nodes if n is not here]
        if any(n in signal for n in others):
            return _meeting(graph, reader, here, masked)
        if graph.kind(reader) not in _PLAIN or any(_is_learnt(n) for n in others):
            return Use.OTHER
        masked = masked or op_name(reader) in _COMPARISONS
        here = reader


def _meeting(graph: Graph, reader: fx.Node, draw: fx.Node, masked: bool) -> Use:
    kind, name = graph.kind(reader), op_name(reader)
    if name == "masked_fill" and argument(reader, 1, "mask") is draw and masked:
        return Use.MASK
    if kind is Kind.MUL and masked:
        return Use.MASK
    if kind is Kind.ADD and not masked and name in ("add", "sub"):
        return Use.NOISE
    return Use.OTHER


def _is_learnt(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return node.op == "get_attr" and bool(getattr(value, "requires_grad", False))


def _of_input(graph: Graph) -> set[fx.Node]:
    """Nodes that carry values of an input of floating numbers, not only its shape."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "placeholder" or (any(n in found for n in node.all_input_nodes) and not _shape_only(node)):
            found.add(node)
    return found


def _shape_only(node: fx.Node) -> bool:
    """`zeros_like(x)`, `randn_like(x)`, `x.new_empty(…)`: new values of the shape of x."""
    return op_name(node).endswith("_like") or op_name(node).startswith("new_")
