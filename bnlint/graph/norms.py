"""What normalises a signal: norm layers, their functional forms, and norms written out in tensor operations."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import fx, nn

from bnlint.graph.model import AuditedModel, Graph
from bnlint.graph.ops import SHAPE_ONLY, WEIGHT_LAYERS, Kind, argument, op_name


class Family(enum.Enum):
    """How a norm takes its statistics."""

    BATCH = "batch norm"
    INSTANCE = "instance norm"
    GROUP = "group norm"
    LAYER = "layer norm"
    RMS = "RMS norm"
    LOCAL = "local response norm"
    WRITTEN = "norm written by hand"
    FROZEN = "frozen batch norm"  # statistics that are constants


@dataclass(frozen=True)
class Norm:
    """One application of a norm to a signal."""

    node: fx.Node  # its output is normalised
    source: fx.Node  # what it normalises
    family: Family
    path: str  # the module that holds its statistics or weights, else the one in whose forward it runs
    module: nn.Module | None = None
    batch_statistics: bool = False  # taken from the batch (batch norm) or the sample (instance norm) at hand
    running: bool = False  # and kept in running statistics
    groups: int | None = None
    inside: frozenset[fx.Node] = field(default=frozenset())  # the ops of a norm written by hand


# Ops that leave what a norm did in place, or keep a layer's output one linear map away from its norm.
PASSIVE = SHAPE_ONLY | {Kind.DROPOUT, Kind.POOL, Kind.PAD, Kind.RESIZE}
_FUNCTIONS = {
    "batch_norm": Family.BATCH,
    "instance_norm": Family.INSTANCE,
    "group_norm": Family.GROUP,
    "layer_norm": Family.LAYER,
    "rms_norm": Family.RMS,
    "local_response_norm": Family.LOCAL,
}
_CLASSES: tuple[tuple[type[nn.Module], Family], ...] = (
    (nn.modules.batchnorm._BatchNorm, Family.BATCH),
    (nn.modules.instancenorm._InstanceNorm, Family.INSTANCE),
    (nn.GroupNorm, Family.GROUP),
    (nn.LayerNorm, Family.LAYER),
    (nn.LocalResponseNorm, Family.LOCAL),
    *(((nn.RMSNorm, Family.RMS),) if hasattr(nn, "RMSNorm") else ()),
)
_SCALES = frozenset(("rsqrt", "sqrt", "std", "var", "norm", "vector_norm", "std_mean", "var_mean"))
_POWERS = frozenset(("sqrt", "rsqrt", "square", "pow", "abs", "clamp", "clip", "clamp_min", "reciprocal"))
_ARITHMETIC = SHAPE_ONLY | {Kind.REDUCE, Kind.ELEMENTWISE, Kind.ADD, Kind.MUL, Kind.INDEX, Kind.SPLIT}
_TERMS = frozenset((Kind.ADD, Kind.MUL, Kind.SAME))
_MOST_OPS = 24  # in a norm written by hand


class Norms:
    """Every norm of a graph, and what lies before and after a layer when norms count as one step."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.of_data = graph.from_input
        self.all = sorted(_find(graph, self.of_data), key=lambda norm: graph.position[norm.node])
        self._by_node = {node: norm for norm in self.all for node in (*norm.inside, norm.node)}

    def __iter__(self) -> Iterator[Norm]:
        return iter(self.all)

    def at(self, node: fx.Node) -> Norm | None:
        """The norm that a node is, or is a part of."""
        return self._by_node.get(node)

    def readers(self, node: fx.Node, through: frozenset[Kind] = PASSIVE) -> list[fx.Node]:
        """The nearest nodes downstream that are neither `through` nor scale or shift by constants; norms by `node`."""
        return self._nearest(self.graph.consumers(node), {node}, through, self.graph.consumers)

    def makers(self, node: fx.Node, through: frozenset[Kind] = PASSIVE) -> list[fx.Node]:
        """The nearest nodes upstream of a layer's input, found like `readers`."""

        def makers_of(here: fx.Node) -> list[fx.Node]:
            return [n for n in here.all_input_nodes if n in self.of_data]

        source = self.graph.data(node)
        start = [source] if source is not None and source in self.of_data else []
        return self._nearest(start, set(), through, makers_of)

    def _nearest(
        self,
        todo: list[fx.Node],
        seen: set[fx.Node],
        through: frozenset[Kind],
        further: Callable[[fx.Node], list[fx.Node]],
    ) -> list[fx.Node]:
        found: dict[fx.Node, None] = {}
        while todo:
            here = todo.pop(0)
            if here in seen:
                continue
            seen.add(here)
            norm = self.at(here)
            if norm is not None:
                found[norm.node] = None
            elif self._passes(here, through):
                todo += further(here)
            else:
                found[here] = None
        return list(found)

    def follows(self, node: fx.Node) -> bool:
        """True when everything that reads the node's output normalises it first."""
        readers = self.readers(node)
        return bool(readers) and all(self.at(n) for n in readers)

    def precedes(self, node: fx.Node) -> bool:
        """True when a layer's input is a norm's output, perhaps after a nonlinearity."""
        makers = self.makers(node, PASSIVE | {Kind.ACTIVATION})
        return any(self.at(n) for n in makers)

    def is_first(self, node: fx.Node) -> bool:
        """True for a layer that reads the model's input, with no other layer before it."""
        between = PASSIVE | {Kind.ACTIVATION, Kind.ELEMENTWISE, Kind.CAT, Kind.INDEX, Kind.SPLIT}
        return any(self.graph.kind(n) is Kind.INPUT for n in self.makers(node, between))

    def _passes(self, node: fx.Node, through: frozenset[Kind]) -> bool:
        kind = self.graph.kind(node)
        return kind in through or op_name(node) == "getitem" or self._is_affine(node)

    def _is_affine(self, node: fx.Node) -> bool:
        """A scale or shift by constants: the affine half of a norm written by hand, layer scale, a fixed factor."""
        if self.graph.kind(node) not in (Kind.ADD, Kind.MUL):
            return False
        return sum(n in self.of_data for n in node.all_input_nodes) == 1


def has_normalised_weight(graph: Graph, node: fx.Node) -> bool:
    """True for weight norm, spectral norm and weight standardisation: the weight is computed from its parameter."""
    module = graph.module(node)
    if module is not None:
        hooked = any(hasattr(module, f"weight_{suffix}") for suffix in ("g", "orig"))
        return hooked or "weight" in (getattr(module, "parametrizations", None) or ())
    operands = node.all_input_nodes
    return graph.kind(node) in WEIGHT_LAYERS and len(operands) > 1 and operands[1].op != "get_attr"


def values_per_channel(graph: Graph, norm: Norm) -> int | None:
    """How many values a batch norm takes each mean from; None where it takes none from the batch."""
    shape = graph.shape(norm.source)
    if norm.family is not Family.BATCH or not norm.batch_statistics or len(shape) < 2:
        return None
    return math.prod(shape) // max(1, shape[1])


def values_per_mean(graph: Graph, norm: Norm) -> int | None:
    """How many values an instance, group or layer norm takes one mean over; None for norms that subtract none."""
    shape = graph.shape(norm.source)
    if len(shape) < 2 or 0 in shape:
        return None
    if norm.family is Family.INSTANCE and norm.batch_statistics:
        unbatched = norm.module is not None and "1d" in type(norm.module).__name__ and len(shape) == 2
        return shape[1] if unbatched else math.prod(shape[2:])
    if norm.family is Family.GROUP and norm.groups:
        return shape[1] // norm.groups * math.prod(shape[2:])
    if norm.family is Family.LAYER and norm.module is not None:
        return math.prod(getattr(norm.module, "normalized_shape", ()))
    return None


def family_of(module: nn.Module) -> Family | None:
    """The family of a norm layer, None for any other module."""
    return next((family for cls, family in _CLASSES if isinstance(module, cls)), None)


def batches_seen(model: AuditedModel, path: str) -> int:
    """How many training batches a registered norm had seen before the audit; the probe's own passes do not count."""
    count = getattr(model.modules.get(path), "num_batches_tracked", None)
    if not isinstance(count, torch.Tensor) or count.is_meta:
        return 0
    probed = model.graph.times_called[path] if model.graph is not None and model.probe is not None else 0
    return max(0, int(count) - probed)


def _find(graph: Graph, of_data: frozenset[fx.Node]) -> Iterator[Norm]:
    taken: set[fx.Node] = set()
    for node in graph.nodes:
        source = graph.data(node)
        if source is None or node not in of_data:
            continue
        module = graph.module(node)
        family = family_of(module) if module is not None else _FUNCTIONS.get(op_name(node))
        if family is not None and source in of_data:
            yield _layer(node, source, family, module) if module is not None else _function(graph, node, source, family)
        elif op_name(node) == "normalize" and source in of_data:
            yield Norm(node, source, Family.WRITTEN, str(node.meta.get("path", "")))
        elif graph.kind(node) is Kind.MUL and node not in taken:
            norm = _written(graph, node, of_data)
            if norm is not None:
                taken |= norm.inside
                yield norm


def _layer(node: fx.Node, source: fx.Node, family: Family, module: nn.Module) -> Norm:
    kept = getattr(module, "running_mean", None) is not None
    fresh = family in (Family.BATCH, Family.INSTANCE) and (module.training or not kept)
    groups = int(module.num_groups) if isinstance(module, nn.GroupNorm) else None
    return Norm(node, source, family, str(node.target), module, fresh, fresh and kept, groups)


def _function(graph: Graph, node: fx.Node, source: fx.Node, family: Family) -> Norm:
    buffer = argument(node, 1, "running_mean") if family in (Family.BATCH, Family.INSTANCE) else None
    weight = argument(node, 3 if family is Family.BATCH else 2, "weight")
    held = next((n for n in (buffer, weight) if isinstance(n, fx.Node) and n.op == "get_attr"), None)
    path = str(held.target).rpartition(".")[0] if held is not None else str(node.meta.get("path", ""))
    fresh = False
    if family is Family.BATCH:
        fresh = buffer is None or bool(argument(node, 5, "training", False))
    elif family is Family.INSTANCE:
        fresh = buffer is None or bool(argument(node, 5, "use_input_stats", True))
    groups = argument(node, 1, "num_groups") if family is Family.GROUP else None
    return Norm(node, source, family, path, None, fresh, fresh and buffer is not None, groups)


def _written(graph: Graph, node: fx.Node, of_data: frozenset[fx.Node]) -> Norm | None:
    """A product of a signal and a scale computed from that signal's own statistics, or from constants (frozen)."""
    operands = [n for n in node.all_input_nodes if graph.shape(n) is not None]
    path = str(node.meta.get("path", ""))
    for signal, scale in ((a, b) for a in operands for b in operands if a is not b):
        if signal not in of_data or not _smaller(graph.shape(scale), graph.shape(signal)):
            continue
        parts = _closure(graph, [scale], _ARITHMETIC, path)
        if not any(op_name(n) in _SCALES or _is_root(n) for n in parts):
            continue
        if scale not in of_data:
            return Norm(node, signal, Family.FROZEN, path)
        source = _measured(graph, parts)
        if source is None:
            continue
        terms = _closure(graph, [signal], _TERMS | {Kind.REDUCE}, path)
        if source in terms or source is signal:
            between = {n for n in (*parts, *terms) if graph.position[n] > graph.position[source]}
            return Norm(node, source, Family.WRITTEN, path, inside=frozenset(between))
    return None


def _smaller(scale: tuple[int, ...], signal: tuple[int, ...]) -> bool:
    return len(scale) <= len(signal) and scale != signal


def _is_root(node: fx.Node) -> bool:
    return op_name(node) == "pow" and argument(node, 1, "exponent") in (0.5, -0.5)


def _closure(graph: Graph, start: Iterable[fx.Node], through: frozenset[Kind], path: str) -> set[fx.Node]:
    """Nodes upstream, as long as they are arithmetic in the same module's forward; the ends are included."""
    found: set[fx.Node] = set()
    todo = list(start)
    while todo and len(found) < _MOST_OPS:
        node = todo.pop(0)
        if node in found or node.op in ("get_attr", "output"):
            if node.op == "get_attr":
                found.add(node)
            continue
        found.add(node)
        arithmetic = graph.kind(node) in through or op_name(node) in _POWERS
        if arithmetic and node.op != "placeholder" and node.meta.get("path", "") == path:
            todo += node.all_input_nodes
    return found


def _measured(graph: Graph, parts: set[fx.Node]) -> fx.Node | None:
    """What the statistics among these ops are taken of: the input of the first reduction, squares looked through."""
    reductions = sorted((n for n in parts if graph.kind(n) is Kind.REDUCE), key=lambda n: graph.position[n])
    node = graph.data(reductions[0]) if reductions else None
    while node is not None and node.op != "placeholder":
        squared = op_name(node) in _POWERS or (graph.kind(node) is Kind.MUL and len(node.all_input_nodes) == 1)
        if not squared and graph.kind(node) is not Kind.SAME:
            return node
        node = graph.data(node)
    return node
