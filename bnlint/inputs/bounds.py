"""Which integers an input may hold: below the size of every table that it is an index into."""

from __future__ import annotations

from dataclasses import replace

from torch import fx

from bnlint.graph.ops import Kind, argument, op_name
from bnlint.inputs.guess import Candidate, Path
from bnlint.inputs.outcome import Outcome

_ARITHMETIC = frozenset((Kind.ADD, Kind.MUL, Kind.ELEMENTWISE))
_CHANGED = 2  # the bound of ids that the model computes with before it looks them up: offsets, say


def bounded(outcome: Outcome) -> Candidate:
    """The candidate with a bound on every tensor of integers, or of numbers that become integers."""
    bounds: dict[Path, int] = {}
    for node in outcome.graph.nodes:
        for ids, bound in _lookups(outcome, node):
            for path, changed in _inputs_of(outcome, ids):
                limit = min(bound, _CHANGED) if changed else bound
                bounds[path] = min(limit, bounds.get(path, limit))
    candidate = outcome.candidate
    for path, guess in candidate.guesses.items():
        if guess.whole or path in bounds:
            candidate = candidate.having(path, replace(guess, high=bounds.get(path, guess.high or 2)))
    return candidate


def _lookups(outcome: Outcome, node: fx.Node) -> list[tuple[fx.Node, int]]:
    """(ids, bound) for every integer tensor that the op uses as positions."""
    graph, inputs, name = outcome.graph, node.all_input_nodes, op_name(node)
    kind = node.meta["kind"]
    if kind is Kind.EMBEDDING and inputs:
        weight = graph.weight(node)
        table = weight[1].shape[0] if weight else max(graph.shape(n)[0] for n in inputs if graph.shape(n))
        return [(n, table) for n in inputs[:2] if n.op != "get_attr"][:1]
    if name == "one_hot" and inputs:
        classes = argument(node, 1, "num_classes", -1)
        return [(inputs[0], classes)] if isinstance(classes, int) and classes > 0 else []
    if name in ("cross_entropy", "nll_loss", "CrossEntropyLoss", "NLLLoss") and len(inputs) > 1:
        return [(inputs[1], (*graph.shape(inputs[0]), 2, 2)[1])]
    if name in ("gather", "index_select", "take_along_dim") and len(inputs) > 1:
        dim, shape = argument(node, 1, "dim", 0), graph.shape(inputs[0])
        return [(inputs[1], shape[dim])] if isinstance(dim, int) and -len(shape) <= dim < len(shape) else []
    if name == "getitem" and len(inputs) > 1 and graph.shape(inputs[0]):
        return [(n, min(graph.shape(inputs[0]))) for n in inputs[1:]]
    return []


def _inputs_of(outcome: Outcome, node: fx.Node) -> list[tuple[Path, bool]]:
    """The inputs that ids come from, and whether they were computed with on the way."""
    found, seen, todo = [], set(), [(node, False)]
    while todo:
        here, changed = todo.pop()
        if here in seen:
            continue
        seen.add(here)
        if here.name in outcome.sources:
            found.append((outcome.sources[here.name], changed))
        elif here.meta["kind"] is not Kind.EMBEDDING:
            changed = changed or here.meta["kind"] in _ARITHMETIC
            todo += [(n, changed) for n in here.all_input_nodes]
    return found
