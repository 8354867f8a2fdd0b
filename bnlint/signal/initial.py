"""How every layer of a model starts out, and how its place in the model calls for it to start."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import fx, nn
from torch.nn.parameter import is_lazy

from bnlint.graph.activations import activation_name
from bnlint.graph.model import AuditedModel, Graph
from bnlint.graph.norms import Norms
from bnlint.graph.ops import LINEAR_OPS, SHAPE_ONLY, WEIGHT_LAYERS, Kind
from bnlint.signal.fans import Fans, fans_of, shape_fans
from bnlint.signal.transfer.elementwise import apply_elementwise
from bnlint.signal.value import POINTS, WEIGHTS

_THROUGH = LINEAR_OPS - {Kind.NORM} | {Kind.CAT}
_BRANCH_ENDS = SHAPE_ONLY | {Kind.DROPOUT}
_STEP = 1e-4  # of the difference quotient


@dataclass(frozen=True)
class Place:
    """What a layer's weights have to fit: the activation that feeds it, and what becomes of its output."""

    activation: str = ""  # "" for a layer fed by another layer, a norm or the input
    slope: float = 0.0  # of a leaky ReLU
    moment: float = 1.0  # E[φ(z)²] for standard normal z
    derivative: float = 1.0  # E[φ'(z)²]
    normalised: bool = False  # a norm follows, and the scale does not matter
    zero: bool = False  # it ends a residual branch that has no norm


@dataclass(frozen=True)
class LayerInit:
    """One weight: its shape, values and scheme, and what its place calls for."""

    name: str  # of the parameter
    kind: str  # the layer's class
    shape: tuple[int, ...]
    fans: Fans
    mean: float | None
    std: float | None
    scheme: str
    place: Place
    node: str = ""  # of the graph, "" for a weight that the run did not use as a layer's

    @property
    def wanted(self) -> float:
        """The standard deviation that keeps the second moment behind the activation."""
        return 0.0 if self.place.zero else 1 / math.sqrt(self.fans.real_in * self.place.moment)

    @property
    def gain(self) -> float | None:
        """Standard deviation times the root of fan-in."""
        return None if self.std is None else self.std * math.sqrt(self.fans.real_in)

    @property
    def ratio(self) -> float | None:
        """The standard deviation relative to the wanted one."""
        return None if self.std is None or not self.wanted else self.std / self.wanted

    @property
    def forward(self) -> float | None:
        """The factor of the second moment, from before the activation that feeds the layer to behind the layer."""
        return None if self.gain is None else self.gain**2 * self.place.moment

    @property
    def backward(self) -> float | None:
        """The same factor for the gradient, on its way back through the layer and that activation."""
        return None if self.std is None else self.std**2 * self.fans.real_out * self.place.derivative


def described(model: AuditedModel, row: LayerInit) -> dict[str, Any]:
    """The row as JSON values, with what the layer's output is expected to be and, where the probe ran, was."""
    node = next((n for n in model.graph.nodes if n.name == row.node), None) if model.graph and row.node else None
    prediction, probe = model.prediction, model.probe
    measured = probe.stats.get(row.node) if probe is not None else None
    predicted = prediction.stats[row.node].std if node and prediction and prediction.certain(node) else None
    numbers = {
        "mean": row.mean,
        "std": row.std,
        "wanted_std": row.wanted if row.node else None,
        "gain": row.gain,
        "ratio": row.ratio if row.node else None,
        "forward": row.forward if row.node else None,
        "backward": row.backward if row.node else None,
        "predicted_std": predicted,
        "measured_std": measured.std if measured is not None else None,
    }
    return {
        "name": row.name,
        "kind": row.kind,
        "shape": list(row.shape),
        "fan_in": row.fans.real_in,
        "fan_out": row.fans.real_out,
        "scheme": row.scheme,
        "behind": row.place.activation,
        "normalised": row.place.normalised,
        "zero": row.place.zero,
        **{key: value if value is None or math.isfinite(value) else None for key, value in numbers.items()},
    }


class Initials:
    """The weights of a model, in the order in which they are used."""

    def __init__(self, model: AuditedModel) -> None:
        assert model.graph is not None
        self.model, self.graph = model, model.graph
        self.norms = Norms(self.graph)

    def __iter__(self) -> Iterator[LayerInit]:
        left = {id(p): (n, p) for n, p in self.model.module.named_parameters() if not is_lazy(p) and p.ndim > 1}
        for node in self.graph.of_kind(*WEIGHT_LAYERS):
            found = self.graph.weight(node)
            if found is not None and id(found[1]) in left:
                yield self._row(*left.pop(id(found[1])), node)
        for name, parameter in left.values():
            yield self._row(name, parameter, None)

    @cached_property
    def branch_ends(self) -> dict[fx.Node, bool]:
        """Layers and norms that end a residual branch; True when the branch has no norm at all."""
        found: dict[fx.Node, bool] = {}
        for add in self.graph.of_kind(Kind.ADD):
            paths = self.graph.residual_branch(add)
            if paths is None or not any(self.graph.kind(n) in WEIGHT_LAYERS for n in paths[0]):
                continue
            branch = paths[0]
            end = next((n for n in reversed(branch) if self.graph.kind(n) not in _BRANCH_ENDS), None)
            if end is not None and self.graph.kind(end) in WEIGHT_LAYERS | {Kind.NORM}:
                found[end] = not any(self.norms.at(n) for n in branch)
        return found

    def _row(self, name: str, parameter: nn.Parameter, node: fx.Node | None) -> LayerInit:
        path, _, key = name.rpartition(".")
        module = self.model.module.get_submodule(path)
        fans = fans_of(module, key)
        if fans is None:
            fan_in, fan_out = shape_fans(parameter.shape)
            fans = Fans(fan_in, fan_out, fan_in, fan_out)
        recognition = self.model.survey.of(name)
        known = not parameter.is_meta
        values = parameter.detach().double()
        return LayerInit(
            name,
            type(module).__name__,
            tuple(parameter.shape),
            fans,
            float(values.mean()) if known else None,
            float(values.std(correction=0)) if known else None,
            recognition.label if recognition is not None else "no values",
            self._place(node) if node is not None else Place(),
            node.name if node is not None else "",
        )

    def _place(self, node: fx.Node) -> Place:
        name, slope, moment, derivative = _feeding(self.graph, node)
        bare = self.branch_ends.get(node, False)
        return Place(name, slope, moment, derivative, self.norms.follows(node), bare)


def _feeding(graph: Graph, node: fx.Node) -> tuple[str, float, float, float]:
    """Name, slope, E[φ²] and E[φ'²] of the activation that feeds a layer; those of the identity when several do."""
    source, identity = graph.data(node), ("", 0.0, 1.0, 1.0)
    found = {_described(graph, n) or identity for n in (graph.origins(source, _THROUGH) if source is not None else ())}
    return found.pop() if len(found) == 1 else identity


def _described(graph: Graph, node: fx.Node) -> tuple[str, float, float, float] | None:
    if graph.kind(node) is not Kind.ACTIVATION or len(node.all_input_nodes) != 1:
        return None
    try:
        return activation_name(graph, node), _slope(graph, node), *_moments(graph, node)
    except Exception:  # one that works across features, such as GLU
        return None


def _slope(graph: Graph, activation: fx.Node) -> float:
    at = torch.full((len(POINTS), 1), -1.0, dtype=torch.float64)
    name = activation_name(graph, activation)
    return round(-float(_applied(graph, activation, at)[0]), 4) if name in ("leaky_relu", "prelu") else 0.0


def _moments(graph: Graph, activation: fx.Node) -> tuple[float, float]:
    points = POINTS.reshape(-1, 1)
    values = _applied(graph, activation, points)
    slopes = (_applied(graph, activation, points + _STEP) - _applied(graph, activation, points - _STEP)) / 2 / _STEP
    moment, derivative = (float(torch.tensordot(WEIGHTS, x.square(), dims=1).mean()) for x in (values, slopes))
    return round(max(moment, 1e-6), 4), round(derivative, 4)


def _applied(graph: Graph, activation: fx.Node, points: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return apply_elementwise(graph, activation, {activation.all_input_nodes[0]: points})
