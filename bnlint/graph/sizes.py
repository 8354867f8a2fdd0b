"""Which axes have size 1 whatever the input is."""

from __future__ import annotations

from torch import fx

from bnlint.graph.model import Graph
from bnlint.graph.ops import Kind, argument, op_name

_UNARY = frozenset((Kind.ACTIVATION, Kind.NORM, Kind.DROPOUT, Kind.SAME, Kind.SOFTMAX))


def always_one(graph: Graph, node: fx.Node, dim: int) -> bool:
    """True when the code itself makes the axis one long: a layer with one output, `unsqueeze`, `keepdim=True`.

    An axis that merely happens to be one long for this input, such as a sequence of one step, does not count.
    """
    shape, kind, name = graph.shape(node), graph.kind(node), op_name(node)
    if not -len(shape) <= dim < len(shape) or shape[dim] != 1:
        return False
    dim %= len(shape)
    source = graph.data(node)
    if kind is Kind.LINEAR:
        return dim == len(shape) - 1
    if kind in (Kind.CONV, Kind.CONV_TRANSPOSE):
        return dim == 1
    if source is None or not graph.shape(source):
        return False
    before = len(graph.shape(source))
    if name == "unsqueeze":
        at = argument(node, 1, "dim")
        return dim == at % len(shape) or always_one(graph, source, dim - (dim > at % len(shape)))
    if name in ("transpose", "swapaxes") and len(node.args) == 3:
        first, second = (int(d) % before for d in node.args[1:3])  # type: ignore[arg-type]
        return always_one(graph, source, {first: second, second: first}.get(dim, dim))
    if kind is Kind.REDUCE and before == len(shape):
        reduced = argument(node, 1, "dim")
        return isinstance(reduced, int) and dim == reduced % before
    scaled = kind in (Kind.MUL, Kind.ADD) and len(node.all_input_nodes) == 1
    return (kind in _UNARY or scaled) and before == len(shape) and always_one(graph, source, dim)
