"""Where NaN and infinities come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import fx

from bnlint.graph.model import Graph
from bnlint.graph.ops import WEIGHT_LAYERS, Kind, op_name, upstream
from bnlint.signal.statistics import NodeStats

# Ops that write -inf on purpose, for a softmax or a maximum to ignore.
_MASKING = frozenset(("masked_fill", "where", "full", "full_like", "new_full", "fill", "setitem", "index_fill", "triu"))
_MASKING_KINDS = frozenset((Kind.FACTORY, Kind.CONSTANT, Kind.INPUT))

Stats = Mapping[str, NodeStats]


@dataclass(frozen=True)
class Origin:
    """The first op that made values that are not finite out of finite ones."""

    node: fx.Node
    inputs: list[fx.Node]  # the measured values it worked on
    before: list[fx.Node]  # the measured ops that ran just before, the latest last
    reaches_output: bool
    from_input_only: bool  # no layer with weights is involved: the values are the input's own doing


def finite_outputs(graph: Graph, stats: Stats) -> bool:
    """True when no output of the model holds a NaN or an infinity that was measured."""
    return all(stats[n.name].finite for out in graph.outputs for n in measured(out, stats))


def measured(node: fx.Node, stats: Stats) -> list[fx.Node]:
    """The node itself when it was measured, else the nearest measured ones upstream."""
    found: dict[fx.Node, None] = {}
    seen: set[fx.Node] = set()
    todo = [node]
    while todo:
        here = todo.pop()
        if here in seen:
            continue
        seen.add(here)
        if here.name in stats:
            found[here] = None
        else:
            todo += here.all_input_nodes
    return list(found)


def first_origin(graph: Graph, stats: Stats, count: int = 5) -> Origin | None:
    """The op to blame for values that are not finite; None when there are none, or only masks that were used up."""
    spoilt = [n for n in graph.nodes if n.name in stats and not stats[n.name].finite]
    reaching = _reaching(graph, stats)
    candidates = [n for n in spoilt if _is_origin(n, stats)]
    harmful = [n for n in candidates if n in reaching]
    chosen = next(iter(harmful), None) or next((n for n in candidates if stats[n.name].has_nan), None)
    if chosen is None:
        return None
    inputs = [m for n in chosen.all_input_nodes for m in measured(n, stats)]
    ran = [n for n in graph.nodes[: graph.position[chosen]] if n.name in stats]
    return Origin(chosen, inputs, ran[-count:], chosen in reaching, _from_input_only(graph, chosen))


def _is_origin(node: fx.Node, stats: Stats) -> bool:
    if op_name(node) in _MASKING or node.op == "placeholder":
        return False
    here = stats[node.name]
    inputs = [stats[m.name] for n in node.all_input_nodes for m in measured(n, stats)]
    if here.has_nan:
        return not any(s.has_nan for s in inputs)
    return all(s.finite for s in inputs) and not _is_log_of_mask(node, stats)


def _is_log_of_mask(node: fx.Node, stats: Stats) -> bool:
    """The logarithm of probabilities, some of which a mask made zero."""
    if not op_name(node).startswith("log") or stats[node.name].maximum == float("inf"):
        return False
    return any(op_name(n) in _MASKING or "bool" in str(getattr(n.meta.get("val"), "dtype", "")) for n in upstream(node))


def _reaching(graph: Graph, stats: Stats) -> set[fx.Node]:
    """Spoilt nodes whose bad values get as far as an output."""
    found: set[fx.Node] = set()
    todo = [m for out in graph.outputs for m in measured(out, stats) if not stats[m.name].finite]
    while todo:
        node = todo.pop()
        if node in found:
            continue
        found.add(node)
        todo += [m for n in node.all_input_nodes for m in measured(n, stats) if not stats[m.name].finite]
    return found


def _from_input_only(graph: Graph, node: fx.Node) -> bool:
    return not any(
        graph.kind(n) in WEIGHT_LAYERS or n.op == "get_attr" or (n.op == "call_module" and _has_weights(graph, n))
        for n in upstream(node)
    )


def _has_weights(graph: Graph, node: fx.Node) -> bool:
    module = graph.module(node)
    return module is not None and any(True for _ in module.parameters())
