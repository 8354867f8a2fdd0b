"""The tensors that an op combines: which axes clash, which are broadcast, and who made them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx, nn

from bnlint.graph.axes import Axis, origins
from bnlint.graph.axis_arguments import cat_dim
from bnlint.graph.model import Graph
from bnlint.graph.ops import Kind, op_name, shape_of

COMBINING = (Kind.ADD, Kind.MUL, Kind.ELEMENTWISE, Kind.CAT, Kind.STACK, Kind.MATMUL, Kind.RNN)
MAKERS = frozenset((Kind.SAME, Kind.DROPOUT, Kind.ACTIVATION, Kind.NORM, Kind.RESHAPE, Kind.PERMUTE, Kind.EXPAND))


def operands(node: fx.Node) -> list[fx.Node]:
    """The tensors an elementwise op, a concatenation or a product combines, in the order of its arguments."""
    given = node.args[0] if node.args and isinstance(node.args[0], (list, tuple)) else node.args
    found = [n for n in given if isinstance(n, fx.Node) and shape_of(n) is not None]
    named = [n for n in node.kwargs.values() if isinstance(n, fx.Node) and shape_of(n) is not None]
    found = [*found, *named]
    return found[::-1] if op_name(node) == "rmatmul" else found


@dataclass(frozen=True)
class Clash:
    """An axis, counted from the end, along which two operands of one op have sizes that do not fit."""

    first: fx.Node
    second: fx.Node
    dim: int  # of the first
    other_dim: int  # of the second
    sizes: tuple[int, int]


def clashes(graph: Graph, node: fx.Node) -> list[Clash]:
    """The clashing axes of the first pair of operands that do not fit; [] when all fit or the op is another."""
    rows = operands(node)
    kind = graph.kind(node)
    if kind is Kind.RNN:
        return _states(graph, node) if isinstance(graph.module(node), nn.RNNCellBase) else []
    if kind is Kind.MATMUL:
        return _product(graph, rows) if len(rows) == 2 and op_name(node) in ("matmul", "bmm", "mm", "rmatmul") else []
    if kind not in COMBINING or len(rows) < 2 or op_name(node) in ("setitem", "index_add", "index_copy", "scatter"):
        return []
    for other in rows[1:]:
        if kind in (Kind.CAT, Kind.STACK):
            found = _joined(graph, node, rows[0], other)
        else:
            found = _broadcast(graph, rows[0], other)
        if found:
            return found
    return []


def guessed(graph: Graph, clash: Clash) -> bool:
    """True when one of the two sizes is only a repair's guess."""
    return any(o.guessed for axis in axes_of(graph, clash) for o in origins(axis))


def axes_of(graph: Graph, clash: Clash) -> tuple[Axis, Axis]:
    """Where the two clashing axes come from."""
    rows = ((graph.axes(clash.first), clash.dim), (graph.axes(clash.second), clash.other_dim))
    first, second = (axes[dim] if axes else () for axes, dim in rows)
    return first, second


def source_name(graph: Graph, node: fx.Node) -> str:
    """The layer, input or parameter that an operand comes from, for people; "" when several are mixed."""
    found = graph.origins(node, MAKERS) or [node]
    if len(found) != 1 or graph.kind(node) is Kind.CONSTANT:
        return f"`{node.target}`" if node.op == "get_attr" else ""
    made = found[0]
    if made.op == "placeholder":
        return f"the input `{made.target}`"
    return f"`{made.target}`" if made.op in ("call_module", "get_attr") else f"`{op_name(made)}`"


def _broadcast(graph: Graph, a: fx.Node, b: fx.Node) -> list[Clash]:
    x, y = graph.shape(a), graph.shape(b)
    return [
        Clash(a, b, -i, -i, (x[-i], y[-i]))
        for i in range(1, min(len(x), len(y)) + 1)
        if x[-i] != y[-i] and 1 not in (x[-i], y[-i])
    ]


def _states(graph: Graph, node: fx.Node) -> list[Clash]:
    """A recurrent cell's input and state that hold another number of samples."""
    rows = node.all_input_nodes
    x = graph.shape(rows[0]) if rows else ()
    return [
        Clash(rows[0], row, -2, -2, (x[0], graph.shape(row)[0]))
        for row in rows[1:]
        if len(x) == len(graph.shape(row)) == 2 and x[0] != graph.shape(row)[0]
    ][:1]


def _joined(graph: Graph, node: fx.Node, a: fx.Node, b: fx.Node) -> list[Clash]:
    x, y = graph.shape(a), graph.shape(b)
    if len(x) != len(y) or not x:
        return []
    along = cat_dim(node) % len(x) if graph.kind(node) is Kind.CAT else None
    dims = [i for i in range(len(x)) if i != along and x[i] != y[i]]
    return [Clash(a, b, i - len(x), i - len(x), (x[i], y[i])) for i in dims]


def _product(graph: Graph, rows: list[fx.Node]) -> list[Clash]:
    a, b = rows
    x, y = graph.shape(a), graph.shape(b)
    if min(len(x), len(y)) < 2 or x[-1] == y[-2]:
        return []
    return [Clash(a, b, -1, -2, (x[-1], y[-2]))]


__all__ = ["COMBINING", "Clash", "axes_of", "clashes", "guessed", "operands", "source_name"]
