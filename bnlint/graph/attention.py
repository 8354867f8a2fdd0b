"""Products of queries and keys that reach a softmax as they are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import fx

from bnlint.graph.axis_arguments import permutation
from bnlint.graph.model import Graph
from bnlint.graph.ops import SHAPE_ONLY, Kind, op_name
from bnlint.graph.weights import gain

_MASKS = frozenset(("masked_fill", "where"))
_TO_PROJECTION = SHAPE_ONLY | {Kind.SPLIT, Kind.INDEX}
_PROJECTIONS = (Kind.LINEAR, Kind.CONV)


@dataclass(frozen=True)
class Scores:
    """Unscaled attention scores: the product, the length of its vectors and its spread for inputs of unit variance."""

    product: fx.Node
    head_size: int
    predicted_std: float | None


def unscaled_scores(graph: Graph) -> Iterator[Scores]:
    """Every matrix product of two projections that a softmax reads with no factor or norm on the way."""
    for softmax in graph.of_kind(Kind.SOFTMAX):
        product = _product(graph, softmax)
        if product is None or len(product.all_input_nodes) != 2:
            continue
        sides = [_projection(graph, n) for n in product.all_input_nodes]
        size = _head_size(graph, product)
        if None in sides or size is None:
            continue
        query, key = (gain(graph, side) for side in sides if side is not None)
        known = query is not None and key is not None
        yield Scores(product, size, (size * query * key) ** 0.5 if known else None)  # type: ignore[operator]


def summed_axis(graph: Graph, softmax: fx.Node, axis: int) -> int | None:
    """The axis that a matrix product sums attention weights over, where it is not the one that they add up to 1 along.

    None unless the softmax reads a product of two projections, and nothing but that sum reads its weights: divided by
    their own sum (slot attention), or counted, they mean something else.
    """
    shape, product = graph.shape(softmax), _product(graph, softmax, scaled=True)
    ndim = len(shape)
    if product is None or ndim < 3 or axis < ndim - 2 or {*graph.shape(product)[-2:]} != {*shape[-2:]}:
        return None
    if None in [_projection(graph, side) for side in product.all_input_nodes]:
        return None
    other = 2 * ndim - 3 - axis
    todo, sums = [(softmax, (axis, other))], 0
    while todo:
        node, (own, wanted) = todo.pop()
        for reader in node.users:
            kind = graph.kind(reader)
            order = permutation(reader, ndim) if kind is Kind.PERMUTE else None
            if order is not None:
                todo.append((reader, (order.index(own), order.index(wanted))))
            elif kind in (Kind.SAME, Kind.DROPOUT):
                todo.append((reader, (own, wanted)))
            elif kind is Kind.MATMUL and _sums(graph, reader, node, own, wanted):
                sums += 1
            elif kind is not Kind.OUTPUT:
                return None
    return other if sums else None


def _sums(graph: Graph, product: fx.Node, node: fx.Node, kept: int, summed: int) -> bool:
    """True when the product sums over one axis of its operand `node` and keeps the other."""
    ndim, operands = len(graph.shape(node)), product.all_input_nodes
    if len(operands) != 2:
        return False
    if op_name(product) == "einsum":
        terms = str(product.args[0]).replace(" ", "").split("->")
        letters = terms[0].split(",")[operands.index(node)]
        return (
            len(terms) == 2 and len(letters) == ndim and letters[kept] in terms[1] and letters[summed] not in terms[1]
        )
    first = operands[0] is node if op_name(product) != "rmatmul" else operands[1] is node
    return op_name(product) in ("matmul", "rmatmul", "bmm") and summed == ndim - (1 if first else 2)


def _projection(graph: Graph, node: fx.Node) -> fx.Node | None:
    """The one layer that the node is a part or another shape of."""
    origins = graph.origins(node, _TO_PROJECTION)
    return origins[0] if len(origins) == 1 and graph.kind(origins[0]) in _PROJECTIONS else None


def _product(graph: Graph, softmax: fx.Node, *, scaled: bool = False) -> fx.Node | None:
    """The product before the softmax; masks, biases and shape changes are read through, a factor only if `scaled`."""
    here = graph.data(softmax)
    while here is not None:
        kind = graph.kind(here)
        if kind is Kind.MATMUL:
            return here if op_name(here) in ("matmul", "rmatmul", "bmm", "einsum") else None
        if kind is Kind.ADD:
            products = [n for n in here.all_input_nodes if Kind.MATMUL in (graph.kind(m) for m in _upstream(graph, n))]
            here = products[0] if len(products) == 1 else None
        elif scaled and kind is Kind.MUL:
            here = graph.data(here)
        elif kind in SHAPE_ONLY | {Kind.DROPOUT} or op_name(here) in _MASKS:
            here = here.all_input_nodes[1] if op_name(here) == "where" else graph.data(here)
        else:
            return None
    return None


def _upstream(graph: Graph, node: fx.Node) -> list[fx.Node]:
    return graph.origins(node, SHAPE_ONLY)


def _head_size(graph: Graph, product: fx.Node) -> int | None:
    """The length of the axis that the product sums over."""
    first, second = (graph.shape(n) for n in product.all_input_nodes)
    if op_name(product) == "einsum":
        terms = str(product.args[0]).replace(" ", "").split("->")
        letters = terms[0].split(",")
        if len(terms) != 2 or len(letters) != 2 or "." in terms[0] or len(letters[0]) != len(first):
            return None
        summed = [size for letter, size in zip(letters[0], first, strict=True) if letter not in terms[1]]
        return summed[0] if len(summed) == 1 else None
    if op_name(product) == "rmatmul":
        first = second
    return first[-1] if len(first) > 1 else None
