"""The recorded graph with facts on every node, and the questions rules ask it."""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensor

from bnlint.graph.axes import Axes
from bnlint.graph.axis_rules import assign_axes
from bnlint.graph.ops import LAYERS, LINEAR_OPS, SHAPE_ONLY, WEIGHT_LAYERS, Kind, kind_of, op_name, shape_of
from bnlint.graph.recording import OpError, Recording

# A branch of any length is found, but the sums of an unrolled recurrence have the whole past before them: what longer
# branches than the short ones cost all together stays in proportion to the graph.
SHORT_BRANCH, ALLOWANCE = 30, 10


class Graph:
    """A recording with facts on every node, and the queries on it. Nodes are plain `torch.fx` nodes."""

    def __init__(self, recording: Recording, root: nn.Module) -> None:
        self.recording = recording
        self.nodes: list[fx.Node] = list(recording.graph.nodes)
        self.position = {node: i for i, node in enumerate(self.nodes)}
        self._modules = {**dict(root.named_modules()), **recording.unregistered}
        self._parameters: dict[str, torch.Tensor] = dict(root.named_parameters(remove_duplicate=False))
        for node in self.nodes:
            module = self.module(node)
            if module is not None:
                node.meta["class"] = type(module).__name__
            node.meta["kind"] = kind_of(node, module)
        assign_axes(recording.graph, self.module)
        self._branches: dict[fx.Node, tuple[list[fx.Node], list[fx.Node]] | None] = {}
        self._allowance = ALLOWANCE * len(self.nodes)  # steps

    @property
    def runs(self) -> bool:
        """True when the forward pass reached its end and no op failed on the way."""
        return self.recording.error is None and not self.recording.errors

    @cached_property
    def by_name(self) -> dict[str, fx.Node]:
        """The nodes by their name."""
        return {node.name: node for node in self.nodes}

    @cached_property
    def times_called(self) -> Counter[str]:
        """How often every leaf ran."""
        return Counter(str(node.target) for node in self.nodes if node.op == "call_module")

    @cached_property
    def from_input(self) -> frozenset[fx.Node]:
        """The nodes whose value depends on the model's input."""
        found: set[fx.Node] = set()
        for node in self.nodes:
            if node.op == "placeholder" or any(n in found for n in node.all_input_nodes):
                found.add(node)
        return frozenset(found)

    @cached_property
    def to_output(self) -> frozenset[fx.Node]:
        """The nodes whose value something that the model returns is computed from."""
        found: set[fx.Node] = set()
        for node in reversed(self.nodes):
            if any(user.op == "output" or user in found for user in node.users):
                found.add(node)
        return frozenset(found)

    @property
    def op_count(self) -> int:
        """How many ops were recorded; inputs, constants and the output do not count."""
        return sum(node.op.startswith("call_") for node in self.nodes)

    @property
    def outputs(self) -> list[fx.Node]:
        """The nodes whose tensors the model returns."""
        return [source for node in self.nodes if node.op == "output" for source in node.all_input_nodes]

    # -- one node --------------------------------------------------------------------------------------------------

    def module(self, node: fx.Node) -> nn.Module | None:
        """The layer a `call_module` node calls."""
        return self._modules.get(str(node.target)) if node.op == "call_module" else None

    def kind(self, node: fx.Node) -> Kind:
        """The node's family."""
        kind: Kind = node.meta["kind"]
        return kind

    def shape(self, node: fx.Node) -> tuple[int, ...]:
        """The shape of the node's tensor, () when it is not one tensor."""
        return shape_of(node) or ()

    def axes(self, node: fx.Node) -> Axes:
        """Where every axis of the node's tensor comes from."""
        axes: Axes = node.meta.get("axes", ())
        return axes

    def error(self, node: fx.Node) -> OpError | None:
        """Why the op failed, None when it did not."""
        return node.meta.get("error")

    def data(self, node: fx.Node) -> fx.Node | None:
        """The node's first input: what a layer is applied to."""
        return node.all_input_nodes[0] if node.all_input_nodes else None

    def weight(self, node: fx.Node) -> tuple[str, torch.Tensor] | None:
        """The name and value of a layer's weight, also of `F.linear(x, self.weight)`; None when it has none."""
        module = self.module(node)
        if module is not None:
            weight = getattr(module, "weight", None)
            if not isinstance(weight, torch.Tensor) or isinstance(weight, FakeTensor):
                return None  # a layer made in forward has no real weight
            return f"{node.target}.weight", weight
        if self.kind(node) in WEIGHT_LAYERS and len(node.all_input_nodes) > 1:
            source = node.all_input_nodes[1]
            if source.op == "get_attr" and str(source.target) in self._parameters:
                return str(source.target), self._parameters[str(source.target)]
        return None

    # -- neighbours ------------------------------------------------------------------------------------------------

    def consumers(self, node: fx.Node) -> list[fx.Node]:
        """The nodes that read this one, items of a tuple read through."""
        found: list[fx.Node] = []
        for user in node.users:
            found += self.consumers(user) if self.is_item(user) else [user]
        return found

    def is_item(self, node: fx.Node) -> bool:
        """True for an item of a tuple that an op returned."""
        return op_name(node) == "getitem" and not shape_of(node.all_input_nodes[0])

    def of_kind(self, *kinds: Kind) -> list[fx.Node]:
        """All nodes of these families, in the order they ran."""
        return [node for node in self.nodes if node.meta["kind"] in kinds]

    def origins(self, node: fx.Node, through: frozenset[Kind] = SHAPE_ONLY) -> list[fx.Node]:
        """The nearest nodes upstream that are not of the kinds `through`, constants left out."""
        return self._walk([node], through, lambda n: n.all_input_nodes)

    def destinations(self, node: fx.Node, through: frozenset[Kind] = SHAPE_ONLY) -> list[fx.Node]:
        """The nearest nodes downstream that are not of the kinds `through`."""
        return self._walk(self.consumers(node), through, self.consumers)

    def chain(self, node: fx.Node, through: frozenset[Kind]) -> Iterator[fx.Node]:
        """The nodes after `node` as long as each has a single reader; ends with the first not in `through`."""
        readers = self.consumers(node)
        while len(readers) == 1:
            yield readers[0]
            if self.kind(readers[0]) not in through:
                return
            readers = self.consumers(readers[0])

    def following_norm(self, node: fx.Node) -> fx.Node | None:
        """The norm that the node's output goes into, through shape-only ops; None when it meets something else."""
        return next((n for n in self.chain(node, SHAPE_ONLY) if self.kind(n) is Kind.NORM), None)

    def next_activation(self, node: fx.Node) -> fx.Node | None:
        """The first nonlinearity on the way to the next weight layer; None when there is none."""
        found = [n for n in self.destinations(node, LINEAR_OPS) if self.kind(n) in (Kind.ACTIVATION, Kind.SOFTMAX)]
        return found[0] if found else None

    def previous_activation(self, node: fx.Node) -> fx.Node | None:
        """The nonlinearity that feeds a layer, through linear ops; None when a layer or the input feeds it."""
        source = self.data(node)
        found = self.origins(source, LINEAR_OPS) if source is not None else []
        return found[0] if found and self.kind(found[0]) is Kind.ACTIVATION else None

    def is_last_layer(self, node: fx.Node) -> bool:
        """True when no weight layer lies downstream."""
        return node not in self._before_a_layer

    def residual_branch(self, add: fx.Node) -> tuple[list[fx.Node], list[fx.Node]] | None:
        """For `x + f(x)`: the nodes of the branch f, then those of the skip ([] for identity); None for another add."""
        if add not in self._branches:
            self._branches[add] = self._find_branch(add)
        return self._branches[add]

    def siblings(self, node: fx.Node) -> list[fx.Node]:
        """Layers of the same class in the same role: the same attribute name, or the same position in a Sequential."""
        name = str(node.target).rpartition(".")[2]
        cls = node.meta.get("class")
        return [
            n
            for n in self.of_kind(self.kind(node))
            if n is not node and n.meta.get("class") == cls and str(n.target).rpartition(".")[2] == name
        ]

    # -- internals -------------------------------------------------------------------------------------------------

    def _find_branch(self, add: fx.Node) -> tuple[list[fx.Node], list[fx.Node]] | None:
        operands = [n for n in add.all_input_nodes if n.op != "get_attr"]
        if self.kind(add) is not Kind.ADD or len(operands) != 2:
            return None
        reached = {operands[0]: 1, operands[1]: 2}
        todo = [(-self.position[n], n) for n in operands]
        heapq.heapify(todo)
        paths: dict[int, list[fx.Node]] = {1: [], 2: []}  # from the sum upwards
        while todo:
            node = heapq.heappop(todo)[1]
            if reached[node] == 3:
                first, second = paths[1][::-1], paths[2][::-1]
                return (first, second) if len(first) >= len(second) else (second, first)
            if len(paths[1]) + len(paths[2]) > SHORT_BRANCH:
                self._allowance -= 1
                if self._allowance < 0:
                    return None
            paths[reached[node]].append(node)
            for source in node.all_input_nodes:
                if source.op == "get_attr":
                    continue
                if source not in reached:
                    heapq.heappush(todo, (-self.position[source], source))
                reached[source] = reached.get(source, 0) | reached[node]
        return None

    def _walk(
        self, start: list[fx.Node], through: frozenset[Kind], step: Callable[[fx.Node], Sequence[fx.Node]]
    ) -> list[fx.Node]:
        found: dict[fx.Node, None] = {}
        seen: set[fx.Node] = set()
        todo = deque(start)
        while todo:
            here = todo.popleft()
            if here in seen or here.op == "get_attr":
                continue
            seen.add(here)
            if self.kind(here) in through or self.is_item(here):
                todo += step(here)
            else:
                found[here] = None
        return list(found)

    @cached_property
    def _before_a_layer(self) -> frozenset[fx.Node]:
        """Nodes with a weight layer downstream."""
        found: set[fx.Node] = set()
        for node in reversed(self.nodes):
            if any(user in found or self.kind(user) in LAYERS for user in node.users):
                found.add(node)
        return frozenset(found)
