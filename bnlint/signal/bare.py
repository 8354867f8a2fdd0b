"""Rows of layers with neither a norm nor a skip, and what the scale of each layer's own weights does there."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import fx

from bnlint.graph.activations import activation_name
from bnlint.graph.model import Graph
from bnlint.graph.norms import has_normalised_weight
from bnlint.graph.ops import LAYERS, LINEAR_OPS, WEIGHT_LAYERS, Kind
from bnlint.signal.fans import fans_of
from bnlint.signal.schemes import Recognition
from bnlint.signal.statistics import NodeStats
from bnlint.signal.survey import Survey
from bnlint.signal.transfer.elementwise import apply_elementwise
from bnlint.signal.trunk import Run, spread_runs
from bnlint.signal.value import POINTS, WEIGHTS

_THROUGH = LINEAR_OPS - {Kind.NORM} | {Kind.CAT}
_HE = {"relu": "relu", "relu6": "relu", "leaky_relu": "leaky_relu"}


@dataclass(frozen=True)
class LayerScale:
    """What a layer's weights do to the second moment of a standard normal signal, its activation included."""

    node: fx.Node
    activation: str  # "" where the layer is fed by another layer or by the input
    gain: float  # var(W) times fan-in
    moment: float  # E[φ(z)²] of the activation that feeds the layer
    scheme: Recognition

    @property
    def factor(self) -> float:
        """The second moment behind the layer, for one before the activation."""
        return self.gain * self.moment


def bare_runs(graph: Graph, stats: Mapping[str, NodeStats]) -> Iterator[Run]:
    """The runs of the trunk, cut where a sum closes a skip and where a layer normalises its own weights."""
    for run in spread_runs(graph, stats):
        row = Run()
        for point in run.points:
            if graph.kind(point.node) in WEIGHT_LAYERS and not has_normalised_weight(graph, point.node):
                row.points.append(point)
                continue
            if row.points:
                yield row
            row = Run()
        if row.points:
            yield row


def total_change(run: Run) -> float:
    """What the last layer's spread is relative to the first one's; never zero."""
    return max(run.points[-1].ratio, 1e-30) / max(run.points[0].ratio, 1e-30)


def count_layers(graph: Graph, run: Run) -> int:
    """The layers of a run, with the output layer when it comes next."""
    reached = graph.destinations(run.points[-1].node, frozenset(Kind) - LAYERS - {Kind.OUTPUT})
    return len(run.points) + any(graph.kind(n) in LAYERS and graph.is_last_layer(n) for n in reached)


def layer_scale(graph: Graph, node: fx.Node, survey: Survey) -> LayerScale | None:
    """None where the weights are no fresh random draw, or what feeds the layer is no single activation."""
    found = graph.weight(node)
    scheme = survey.of(found[0]) if found is not None else None
    if found is None or scheme is None or not (scheme.drawn or scheme.law == "orthogonal"):
        return None
    weight, module = found[1].detach(), graph.module(node)
    fans = fans_of(module) if module is not None else None
    fan_in = fans.real_in if fans is not None else weight[0].numel()
    feeding = _feeding(graph, node)
    if feeding is None:
        return None
    name, moment = feeding
    return LayerScale(node, name, float(weight.double().square().mean()) * fan_in, moment, scheme)


def fitting(layer: LayerScale) -> str:
    """Code that draws weights which keep the second moment behind this layer's activation."""
    if layer.activation in _HE:
        return f'nn.init.kaiming_normal_(layer.weight, nonlinearity="{_HE[layer.activation]}")'
    if not layer.activation or layer.activation == "selu":
        return 'nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")'
    if layer.activation == "tanh":
        return 'nn.init.xavier_normal_(layer.weight, gain=nn.init.calculate_gain("tanh"))'
    return f"nn.init.normal_(layer.weight, std={1 / math.sqrt(layer.moment):.3g} / fan_in**0.5)"


def _feeding(graph: Graph, node: fx.Node) -> tuple[str, float] | None:
    """The activation before a layer, and its second moment; several must agree."""
    source = graph.data(node)
    found = set()
    for origin in graph.origins(source, _THROUGH) if source is not None else ():
        if graph.kind(origin) is Kind.ACTIVATION and len(origin.all_input_nodes) == 1:
            found.add((activation_name(graph, origin), round(_second_moment(graph, origin), 4)))
        elif graph.kind(origin) in WEIGHT_LAYERS | {Kind.INPUT}:
            found.add(("", 1.0))
        else:
            return None
    return found.pop() if len(found) == 1 else None


def _second_moment(graph: Graph, activation: fx.Node) -> float:
    """E[φ(z)²] for a standard normal z."""
    points = POINTS.reshape(-1, 1)
    with torch.no_grad():
        values = apply_elementwise(graph, activation, {activation.all_input_nodes[0]: points})
    return float(torch.tensordot(WEIGHTS, values.square(), dims=1).mean())
