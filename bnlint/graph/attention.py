"""Products of queries and keys that reach a softmax as they are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import fx

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
        sides = [graph.origins(n, _TO_PROJECTION) for n in product.all_input_nodes]
        projected = all(len(side) == 1 and graph.kind(side[0]) in _PROJECTIONS for side in sides)
        size = _head_size(graph, product)
        if not projected or size is None:
            continue
        query, key = (gain(graph, side[0]) for side in sides)
        known = query is not None and key is not None
        yield Scores(product, size, (size * query * key) ** 0.5 if known else None)  # type: ignore[operator]


def _product(graph: Graph, softmax: fx.Node) -> fx.Node | None:
    """The matrix product before the softmax; masks, biases and shape changes are read through, a factor is not."""
    here = graph.data(softmax)
    while here is not None:
        kind = graph.kind(here)
        if kind is Kind.MATMUL:
            return here if op_name(here) in ("matmul", "rmatmul", "bmm", "einsum") else None
        if kind is Kind.ADD:
            products = [n for n in here.all_input_nodes if Kind.MATMUL in (graph.kind(m) for m in _upstream(graph, n))]
            here = products[0] if len(products) == 1 else None
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
