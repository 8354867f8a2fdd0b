"""The signal before any data: what every value and gradient will look like, from the graph and the real weights.

Every node's value is expected to have a distribution per feature (`value.py`); each family of ops has a function that
carries it on (`transfer/`). The gradient is carried back by one factor for each edge. Nothing of the model is run:
layers are read, and elementwise functions are evaluated on a quadrature grid.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import fx, nn

from bnlint.graph.axes import Role, roles
from bnlint.graph.model import Graph
from bnlint.graph.nest import map_tensors, tensors
from bnlint.signal.constants import Constants
from bnlint.signal.statistics import NodeStats
from bnlint.signal.transfer import TRANSFERS
from bnlint.signal.value import MOST, Value, collapsed, constant, stats, uniform
from bnlint.signal.watch import batch_and_channel


class Prediction:
    """What is expected at every node; asked for by rules."""

    def __init__(self, graph: Graph, module: nn.Module) -> None:
        self.graph = graph
        walk = Walk(graph, module)
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            walk.run()
        self.stats: Mapping[str, NodeStats] = walk.stats  # like the probe's, by node name
        self._doubtful = walk.doubtful
        self._factors = walk.factors
        self._unruled = walk.unruled
        for node, size in self._gradients.items():
            if node.name in walk.stats:
                walk.stats[node.name].gradient = size

    def spread(self, node: fx.Node) -> float | None:
        """The standard deviation across samples and positions, per channel, as the probe measures it."""
        found = self.stats.get(node.name)
        return found.spread if found is not None else None

    def second_moment(self, node: fx.Node) -> float | None:
        """The mean square of all values."""
        found = self.stats.get(node.name)
        return found.second_moment if found is not None else None

    def similarity(self, node: fx.Node) -> float | None:
        """The mean cosine between two samples."""
        found = self.stats.get(node.name)
        return found.similarity if found is not None else None

    def backward(self, node: fx.Node) -> float | None:
        """The norm of the gradient at the node's value, when each output gets a random gradient of norm one.

        None where no gradient arrives, or an op without a rule lies on its way.
        """
        return self._gradients.get(node)

    def certain(self, node: fx.Node) -> bool:
        """False when an op without a rule lies between the last norm and this node: the scale is a guess."""
        return node.name in self.stats and node not in self._doubtful

    @cached_property
    def certain_stats(self) -> dict[str, NodeStats]:
        """The numbers of those nodes that are certain, by node name."""
        doubtful = {node.name for node in self._doubtful}
        return {name: found for name, found in self.stats.items() if name not in doubtful}

    @cached_property
    def _gradients(self) -> dict[fx.Node, float]:
        """The norm of every node's gradient: the squares add up over all readers."""
        squares: dict[fx.Node, float] = dict.fromkeys(self.graph.outputs, 1.0)
        unknown: set[fx.Node] = set()
        for node in reversed(self.graph.nodes):
            square = squares.get(node, 0.0)
            if node.op == "output" or not square > 0 or not node.meta.get("grad", True):
                continue
            if node in unknown or node in self._unruled:
                unknown.update(node.all_input_nodes)
            factors = self._factors.get(node, {})
            for source in node.all_input_nodes:
                squares[source] = squares.get(source, 0.0) + square * factors.get(source, 1.0)
        return {node: math.sqrt(square) for node, square in squares.items() if node not in unknown}


class Walk:
    """Goes through the graph once, in order; transfers ask it for the values of a node's inputs."""

    def __init__(self, graph: Graph, module: nn.Module) -> None:
        self.graph, self.constants = graph, Constants(graph, module)
        self.values: dict[fx.Node, Any] = {}
        self.stats: dict[str, NodeStats] = {}
        self.doubtful: set[fx.Node] = set()
        self.unruled: set[fx.Node] = set()
        self.factors: dict[fx.Node, dict[fx.Node, float]] = {}

    def run(self) -> None:
        """Finds the value of every node; values that nothing reads any more are let go."""
        readers = Counter(source for node in self.graph.nodes for source in node.all_input_nodes)
        for node in self.graph.nodes:
            if node.op == "output":
                continue
            value = self._tidy(node, self._transfer(node))
            self.values[node] = value
            self._note(node, value)
            for source in node.all_input_nodes:
                readers[source] -= 1
                if not readers[source]:
                    self.values.pop(source, None)

    def value(self, node: Any) -> Value | None:
        """The value of an argument: of a node, of a known tensor; None for what has no distribution."""
        if not isinstance(node, fx.Node):
            return None
        found = self.values.get(node)
        if found is None and (tensor := self.constants.get(node)) is not None and not tensor.is_complex():
            found = self.values[node] = constant(tensor)
        return found if isinstance(found, Value) else None

    def scale(self, node: fx.Node, source: fx.Node, factor: float) -> None:
        """Says by what factor the node passes the square of its gradient on to one of its inputs."""
        row = self.factors.setdefault(node, {})
        row[source] = row.get(source, 0.0) + factor

    def _transfer(self, node: fx.Node) -> Any:
        if node.op == "get_attr" or self.constants.get(node) is not None:
            return None  # made on demand
        transfer = TRANSFERS.get(self.graph.kind(node))
        try:
            found = transfer(self, node) if transfer is not None else None
        except Exception:  # an op in a form its rule does not expect is an op without a rule
            found = None
        return found if found is not None else self._guess(node)

    def _guess(self, node: fx.Node) -> Any:
        """An op without a rule passes the scale of its first input on."""
        self.unruled.add(node)
        self.factors.pop(node, None)
        given = [v for n in node.all_input_nodes if (v := self.value(n)) is not None]
        power, mean = (given[0].power, float(given[0].mean.mean())) if given else (1.0, 0.0)
        noise = max(power - mean * mean, 0.0)

        def make(tensor: torch.Tensor) -> Any:
            return uniform(mean, noise, tensor.shape, certain=False) if tensor.is_floating_point() else None

        return map_tensors(node.meta.get("val"), make)

    def _tidy(self, node: fx.Node, value: Any) -> Any:
        """Keeps features apart, positions and samples not."""
        if not isinstance(value, Value):
            return value
        shape = self.graph.shape(node)
        if len(shape) != len(value.features) or any(
            f not in (1, s) for f, s in zip(value.features, shape, strict=True)
        ):
            return uniform(float(value.mean.mean()), value.noise, shape, certain=False) if shape else value
        value = value if value.shape == shape else replace(value, shape=shape)
        axes = self.graph.axes(node)
        if len(axes) == len(shape) and len(shape) > 1 and not value.constant:
            value = collapsed(value, [d for d, axis in enumerate(axes) if roles(axis) and not _tells_apart(axis)])
        for d in range(len(shape) - 1):
            if value.mean.numel() > MOST:
                value = collapsed(value, [d])
        return value

    def _note(self, node: fx.Node, value: Any) -> None:
        found = value if isinstance(value, Value) else None
        if found is None:
            found = next((v for v in _values(value)), None)
        tensor = next((t for _, t in tensors(node.meta.get("val")) if t.is_floating_point()), None)
        if found is None or tensor is None or node.op == "get_attr" or not found.grid.numel():
            return
        self.stats[node.name] = stats(found, *batch_and_channel(self.graph, node, tensor))
        if not found.certain or not math.isfinite(found.power):
            self.doubtful.add(node)


def _tells_apart(axis: Any) -> bool:
    return bool(roles(axis) & {Role.CHANNEL, Role.UNKNOWN})


def _values(nest: Any) -> list[Value]:
    if isinstance(nest, Value):
        return [nest]
    items = nest.values() if isinstance(nest, Mapping) else nest if isinstance(nest, (tuple, list)) else ()
    return [value for item in items for value in _values(item)]
