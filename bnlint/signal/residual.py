"""Stacks of residual blocks x + f(x) that nothing normalises, and how the signal grows along them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import fx

from bnlint.graph.model import Graph
from bnlint.graph.norms import Norms
from bnlint.graph.ops import SHAPE_ONLY, WEIGHT_LAYERS, Kind
from bnlint.signal.statistics import NodeStats

_BETWEEN = SHAPE_ONLY | {Kind.ACTIVATION, Kind.DROPOUT}


@dataclass(frozen=True)
class Stack:
    """Consecutive blocks; `moments` has the second moment before the first and behind each of them."""

    adds: list[fx.Node]
    moments: list[float]


def residual_stacks(graph: Graph, stats: Mapping[str, NodeStats]) -> Iterator[Stack]:
    """The longest rows of blocks with an identity skip, at least one layer in the branch and no norm anywhere."""
    norms = Norms(graph)
    forks = {add: fork for add in graph.of_kind(Kind.ADD) if (fork := _fork(graph, norms, add)) is not None}
    before = {add: _previous(graph, fork, forks) for add, fork in forks.items()}
    ends = forks.keys() - set(before.values())
    for end in sorted(ends, key=graph.position.__getitem__):
        adds: list[fx.Node] = []
        add: fx.Node | None = end
        while add is not None:
            adds.insert(0, add)
            add = before[add]
        moments = [_moment(stats, node) for node in (forks[adds[0]], *adds)]
        if all(moments):
            yield Stack(adds, [value for value in moments if value])


def _fork(graph: Graph, norms: Norms, add: fx.Node) -> fx.Node | None:
    """Where the skip of a bare residual block leaves; None when the add closes no such block."""
    found = graph.residual_branch(add)
    if found is None:
        return None
    branch, skip = found
    if any(norms.at(node) or graph.kind(node) is Kind.NORM for node in (*branch, *skip)):
        return None
    if not any(graph.kind(node) in WEIGHT_LAYERS for node in branch):
        return None
    if any(graph.kind(node) not in SHAPE_ONLY for node in skip):
        return None
    inside = {*branch, *skip}
    return next(
        (n for node in (*skip, add) for n in node.all_input_nodes if n not in inside and n.op != "get_attr"), None
    )


def _previous(graph: Graph, fork: fx.Node, forks: Mapping[fx.Node, fx.Node]) -> fx.Node | None:
    """The block that feeds this one directly."""
    return next((node for node in graph.origins(fork, _BETWEEN) if node in forks), None)


def _moment(stats: Mapping[str, NodeStats], node: fx.Node) -> float | None:
    found = stats.get(node.name)
    return found.second_moment if found is not None else None
