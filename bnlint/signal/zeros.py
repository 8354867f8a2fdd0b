"""Parameters whose gradient is zero in every entry, and what on the way to the loss makes it so."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass

from torch import fx

from bnlint.graph.draws import draws
from bnlint.graph.gradients import Gradients
from bnlint.graph.model import AuditedModel, Graph
from bnlint.graph.norms import Norms, values_per_mean
from bnlint.graph.ops import SHAPE_ONLY, WEIGHT_LAYERS, Kind, argument, op_name
from bnlint.signal.describe import label
from bnlint.signal.statistics import NodeStats

_FAINT = 1e-18  # the norm of a gradient whose product with a faint value is no float32
_PRODUCTS = WEIGHT_LAYERS | {Kind.MUL, Kind.MATMUL, Kind.NORM}


class Cause(enum.Enum):
    """Why no gradient gets to a parameter."""

    ZERO_WEIGHT = "a layer or factor that starts at zero"
    ZERO_FACTOR = "a factor that is zero for this batch"
    ZERO_INPUT = "an input of zeros"
    OFF = "an activation whose values are all zero"
    UNDERFLOW = "a gradient too small for its dtype"
    UNKNOWN = "unknown"
    CHANCE = "a random draw, or an input of one entry"


@dataclass(frozen=True)
class Blocked:
    """Parameters that get no gradient for one cause; `node` is where it ends, None where no one op is to blame."""

    parameters: tuple[str, ...]
    cause: Cause
    node: fx.Node | None
    because: str


def blocked_parameters(model: AuditedModel) -> list[Blocked]:
    """The parameters whose gradient is zero, by what holds it back; those that chance switched off are left out."""
    probe, graph = model.probe, model.graph
    assert probe is not None and graph is not None
    zero = [name for name, p in probe.parameters.items() if p.zero and p.trainable]
    moving = {name.rpartition(".")[0] for name, p in probe.parameters.items() if p.gradient and not p.zero}
    names = [name for name in zero if not _is_spare_bias(name, moving)]
    search = _Search(model, graph)
    groups: dict[tuple[Cause, fx.Node | None], list[str]] = {}
    for name in names:
        found = search.cause(name)
        if found is not None and found[0] is not Cause.CHANCE:
            groups.setdefault(found, []).append(name)
    return [Blocked(tuple(names), *key, _because(model, *key)) for key, names in groups.items()]


def _is_spare_bias(name: str, moving: set[str]) -> bool:
    """A bias of a layer whose other parameters do get a gradient: something after it takes the mean off."""
    owner, _, last = name.rpartition(".")
    return last == "bias" and owner in moving


def _because(model: AuditedModel, cause: Cause, node: fx.Node | None) -> str:
    if cause is Cause.UNDERFLOW:
        return ": what arrives there is so little that it is rounded to zero"
    if node is None or cause is Cause.UNKNOWN:
        return ""
    what = f"`{label(model, node)}`"
    return {
        Cause.ZERO_WEIGHT: f": what comes next starts at zero in {what}; it begins to learn after the first step",
        Cause.ZERO_FACTOR: f": {what} multiplies it by values that are all zero for this batch",
        Cause.ZERO_INPUT: f": {what} gets only zeros",
        Cause.OFF: f": every value after {what} is zero",
    }.get(cause, "")


class _Search:
    """Follows values from a parameter towards the outputs until something stops the gradient."""

    def __init__(self, model: AuditedModel, graph: Graph) -> None:
        assert model.probe is not None
        self.graph, self.stats, self.measured = graph, model.probe.stats, model.probe.parameters
        self.gradients = Gradients(graph)
        self.parameters = dict(model.module.named_parameters(remove_duplicate=False))
        self.zeros = {name for name, p in self.parameters.items() if not bool(p.detach().any())}
        self.drawn = self._after_draws()
        self.constant = {norm.node for norm in Norms(graph) if values_per_mean(graph, norm) == 1}

    def cause(self, name: str) -> tuple[Cause, fx.Node | None] | None:
        """The worst of the causes on all ways to an output, with its op; None where the parameter's op did not run."""
        owner = name.rpartition(".")[0]
        users = [n for n in self.graph.nodes if n.op == "call_module" and str(n.target) == owner]
        users += [u for n in self.graph.nodes if n.op == "get_attr" and str(n.target) == name for u in n.users]
        if not users or not all(self._ran(n) for n in users):
            return None
        given = [self.stats.get(source.name) for n in users for source in n.all_input_nodes[:1]]
        only_zeros = bool(given) and all(s is not None and _is_zero(s) for s in given)
        if name.endswith("weight") and only_zeros:
            return Cause.ZERO_INPUT, users[0]
        if self._is_faint(name):
            return Cause.UNDERFLOW, None
        found = list(self._ends(users))
        for cause in (Cause.CHANCE, Cause.UNKNOWN, Cause.OFF, Cause.ZERO_FACTOR, Cause.ZERO_WEIGHT):
            node = next((node for c, node in found if c is cause), None)
            if node is not None and cause is Cause.OFF and only_zeros:  # the units get nothing: they are not off
                return Cause.ZERO_INPUT, users[0]
            if node is not None:
                return cause, None if cause is Cause.UNKNOWN else node
        return None

    def _is_faint(self, name: str) -> bool:
        """True where the layer's bias tells that something arrives, but next to nothing."""
        owner, _, last = name.rpartition(".")
        bias = self.measured.get(f"{owner}.bias".lstrip("."))
        if last == "bias" or bias is None or bias.zero or bias.gradient is None:
            return False
        return bias.gradient < _FAINT

    def _ran(self, node: fx.Node) -> bool:
        """False for a layer that was called on no samples: an expert that no token chose."""
        return node.name in self.stats or self.graph.kind(node) not in WEIGHT_LAYERS | {Kind.NORM, Kind.EMBEDDING}

    def _ends(self, start: list[fx.Node]) -> Iterator[tuple[Cause, fx.Node]]:
        """Where each way ends: at an op that stops the gradient, or, with no known cause, at an output."""
        seen = set(start)
        todo = [(node, node) for node in start]
        while todo:
            node, source = todo.pop()
            cause = self._stops(node, source)
            if cause is not None:
                yield cause, node
                continue
            fresh = [user for user in self.gradients.onward(node) if user not in seen]
            seen.update(fresh)
            todo += [(user, node) for user in fresh]

    def _stops(self, node: fx.Node, source: fx.Node) -> Cause | None:
        if node.op == "output":
            return Cause.UNKNOWN
        kind, found = self.graph.kind(node), self.stats.get(node.name)
        if self._is_single(node):
            return Cause.CHANCE
        if node is not source and kind in _PRODUCTS:
            if self._starts_at_zero(node, source):
                return Cause.ZERO_WEIGHT
            others = [n for n in node.all_input_nodes if n is not source]
            made_zero = found is not None and _is_zero(found)  # a mask of booleans has no statistics of its own
            if any(_is_zero(self.stats[n.name]) if n.name in self.stats else made_zero for n in others):
                return Cause.CHANCE if any(n in self.drawn for n in others) else Cause.ZERO_FACTOR
        if found is not None and _is_zero(found) and kind is Kind.ACTIVATION:
            return Cause.OFF
        return None

    def _starts_at_zero(self, node: fx.Node, source: fx.Node) -> bool:
        """True for a layer of zero weights (a bias of zeros stops nothing) and a factor of zeros."""
        weight = self.graph.weight(node)
        if weight is not None:
            return weight[0] in self.zeros
        others = [_scale(node)] if self.graph.kind(node) is Kind.NORM else node.all_input_nodes
        return any(self._root(n) in self.zeros for n in others if isinstance(n, fx.Node) and n is not source)

    def _root(self, node: fx.Node) -> str | None:
        """The name of the parameter that a node is a view of."""
        while self.graph.kind(node) in SHAPE_ONLY and node.all_input_nodes:
            node = node.all_input_nodes[0]
        return str(node.target) if node.op == "get_attr" else None

    def _is_single(self, node: fx.Node) -> bool:
        """A softmax over one entry is 1 whatever it gets, and a norm over one value its bias."""
        kind, shape = self.graph.kind(node), self.graph.shape(node)
        if kind is Kind.ATTENTION:
            keys = self.graph.shape(node.all_input_nodes[1]) if len(node.all_input_nodes) > 1 else ()
            return 1 in keys[-2:-1]
        return node in self.constant or (kind is Kind.SOFTMAX and 1 in shape[1:])

    def _after_draws(self) -> set[fx.Node]:
        found: set[fx.Node] = set()
        for node in self.graph.nodes:
            if draws(node) or any(n in found for n in node.all_input_nodes):
                found.add(node)
        return found


def _scale(node: fx.Node) -> object:
    """What a norm given as a function multiplies by."""
    return argument(node, 3 if op_name(node) in ("batch_norm", "instance_norm") else 2, "weight")


def _is_zero(stats: NodeStats) -> bool:
    return stats.minimum == 0 == stats.maximum
