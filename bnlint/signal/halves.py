"""Half precision: which values have it, where they overflow, and which numbers in the code meet it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import fx

from bnlint.graph.model import Graph
from bnlint.graph.ops import LAYERS, Kind, op_name
from bnlint.signal.nonfinite import Origin, first_origin, measured
from bnlint.signal.statistics import NodeStats

_HALVES = ("float16", "bfloat16")
_MASKING = frozenset(("masked_fill", "where", "full", "full_like", "new_full", "fill", "setitem", "index_fill", "triu"))
_FILLS = {"masked_fill": 2, "full": 1, "full_like": 1, "new_full": 2, "fill": 1, "fill_": 1, "masked_fill_": 2}
_CLAMPS = frozenset(("clamp", "clamp_", "clip", "clamp_min", "clamp_max", "clamp_min_"))
_SUMS = frozenset(("add", "add_", "sub", "sub_", "radd", "rsub", "iadd", "isub"))
_GUARDED = frozenset(("div", "truediv", "rtruediv", "div_", "log", "log2", "log10", "sqrt", "rsqrt", "reciprocal"))
_DIVISIONS = frozenset(("div", "truediv", "div_"))
_WIDE = (torch.float32, torch.float64)
_GIVEN = frozenset((Kind.INPUT, Kind.FACTORY, Kind.CONSTANT))
_NEW_DTYPE = LAYERS | {Kind.NORM, Kind.EMBEDDING}


def is_half(stats: NodeStats) -> bool:
    """True for a value of half precision."""
    return stats.dtype in _HALVES


def overflow(graph: Graph, stats: Mapping[str, NodeStats]) -> Origin | None:
    """The first op whose result in half precision is infinite although all it got is finite."""
    origin = first_origin(graph, stats)
    if origin is None or not is_half(stats[origin.node.name]):
        return None
    found = stats[origin.node.name]
    infinite = not found.has_nan and not found.finite
    return origin if infinite and origin.inputs and all(stats[n.name].finite for n in origin.inputs) else None


def grown(graph: Graph, stats: Mapping[str, NodeStats], share: float) -> list[fx.Node]:
    """Ops whose result is beyond a share of the dtype's range although nothing they work with is.

    A mask is large because a number in the code or a constant tensor is, and so is what it is added to.
    """

    def large(node: fx.Node) -> bool:
        found = stats.get(node.name)
        return found is not None and found.limit is not None and found.reach > share * found.limit

    found = [n for n in graph.nodes if large(n) and graph.kind(n) not in _GIVEN and n.op != "get_attr"]
    return [
        node
        for node in found
        if op_name(node) not in _MASKING
        and not any(large(m) for n in node.all_input_nodes for m in measured(n, stats))
        and not _is_made_large(graph, stats, node, share * (stats[node.name].limit or 0.0))
    ]


def _is_made_large(graph: Graph, stats: Mapping[str, NodeStats], node: fx.Node, limit: float) -> bool:
    """True where a number in the code is the large one: it is added, or multiplies zeros and ones."""
    if not any(abs(value) > limit for value in _numbers(node)):
        return False
    given = [stats[m.name].reach for n in node.all_input_nodes for m in measured(n, stats)]
    return graph.kind(node) is not Kind.MUL or max(given, default=0.0) <= 1


def _numbers(node: fx.Node) -> list[float]:
    return [value for value in (*node.args, *node.kwargs.values()) if isinstance(value, (int, float))]


def runs_in_model_dtype(graph: Graph) -> frozenset[fx.Node]:
    """Nodes whose value has the model's dtype: not those that the code turned into a wider one on the way."""
    wide: set[fx.Node] = set()
    inside: set[fx.Node] = set()
    for node in graph.nodes:
        value = node.meta.get("val")
        if not isinstance(value, torch.Tensor) or not value.dtype.is_floating_point:
            continue
        if (
            _widens(node)
            or (node.op != "placeholder" and graph.kind(node) is Kind.FACTORY and "dtype" not in node.kwargs)
            or (
                graph.kind(node) not in _NEW_DTYPE
                and not _narrows(node)
                and any(n in wide for n in node.all_input_nodes)
            )
        ):
            wide.add(node)
        else:
            inside.add(node)
    return frozenset(inside)


def _is_made_wide(graph: Graph, node: fx.Node) -> bool:
    """A new tensor of the default dtype."""
    return graph.kind(node) is Kind.FACTORY and not node.all_input_nodes and "dtype" not in node.kwargs


def _widens(node: fx.Node) -> bool:
    given = [value for value in (*node.args, *node.kwargs.values()) if isinstance(value, torch.dtype)]
    return op_name(node) in ("float", "double") or any(dtype in _WIDE for dtype in given)


def _narrows(node: fx.Node) -> bool:
    """A cast to the dtype of another value, or to a half one."""
    return op_name(node) in ("to", "type", "type_as", "half", "bfloat16")


def literals(graph: Graph, node: fx.Node) -> Iterator[tuple[float, bool]]:
    """The numbers that an op works with, and whether each guards a division, a logarithm or a root."""
    name, args = op_name(node), list(node.args)
    if name in _FILLS:
        place = _FILLS[name]
        found = [node.kwargs.get("value", node.kwargs.get("fill_value", args[place] if place < len(args) else None))]
    elif name in _CLAMPS:
        found = [*args[1:], *(node.kwargs.get(key) for key in ("min", "max"))]
    elif name in _SUMS:
        found = args
    else:
        return
    guards = any(_guards(node, user) for user in node.users)
    for value in found:
        if isinstance(value, float):
            yield value, guards


def _guards(node: fx.Node, user: fx.Node) -> bool:
    name = op_name(user)
    if name in _DIVISIONS:
        return len(user.args) > 1 and user.args[1] is node
    return name in _GUARDED
