"""What the model's first output last passed through: an activation that bounds it, or a bare layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import fx

from bnlint.graph.activations import activation_name, value_range
from bnlint.graph.axes import Role, roles
from bnlint.graph.model import Graph
from bnlint.graph.ops import SHAPE_ONLY, WEIGHT_LAYERS, Kind, argument

_SAME_VALUES = SHAPE_ONLY | {Kind.INDEX, Kind.CAT, Kind.STACK}
_AVERAGES = _SAME_VALUES | {Kind.POOL, Kind.RESIZE}


@dataclass(frozen=True)
class Head:
    """The end of the model: `activation` is "" for raw scores, whose `low` and `high` are infinite."""

    node: fx.Node
    activation: str
    low: float
    high: float
    classes: int


def head(graph: Graph) -> Head | None:
    """How the first floating output is made; None when several ops make it, or another output may be the scores."""
    outputs = [n for n in graph.outputs if _is_floating(n)]
    if not graph.runs or not outputs or any(_may_be_scores(graph, outputs[0], other) for other in outputs[1:]):
        return None
    last = graph.origins(outputs[0], _SAME_VALUES)
    names = {activation_name(graph, n) for n in last}
    bounds = value_range(graph, last[0]) if last else None
    if len(names) == 1 and bounds is not None and all(_only_returned(graph, n) for n in last):
        return Head(last[0], names.pop(), *bounds, _classes(graph, last[0], outputs[0]))
    scores = graph.origins(outputs[0], _AVERAGES)
    if scores and all(graph.kind(n) in WEIGHT_LAYERS | {Kind.NORM} for n in scores):
        return Head(scores[0], "", -float("inf"), float("inf"), _classes(graph, scores[0], outputs[0]))
    return None


def softmax_axis(graph: Graph, node: fx.Node) -> int | None:
    """The axis a softmax runs along, also where PyTorch has to choose it; None when it has no one tensor."""
    ndim = len(graph.shape(node))
    dim = declared_axis(graph, node)
    if dim is None:
        dim = 0 if ndim in (0, 1, 3) else 1
    return dim % ndim if ndim else None


def declared_axis(graph: Graph, node: fx.Node) -> int | None:
    """The `dim` a softmax was given."""
    module = graph.module(node)
    if module is not None:
        dim = getattr(module, "dim", -3)  # Softmax2d
    else:
        dim = argument(node, 1, "dim", node.kwargs.get("axis"))
    return dim if isinstance(dim, int) else None


def _is_floating(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.dtype.is_floating_point


def _may_be_scores(graph: Graph, first: fx.Node, other: fx.Node) -> bool:
    """A second output of as many values, such as the logits beside the probabilities."""
    return other is not first and graph.shape(other) == graph.shape(first)


def _only_returned(graph: Graph, node: fx.Node) -> bool:
    return all(graph.kind(n) is Kind.OUTPUT for n in graph.destinations(node, _SAME_VALUES))


def _classes(graph: Graph, last: fx.Node, output: fx.Node) -> int:
    if graph.kind(last) is Kind.SOFTMAX:
        axis = softmax_axis(graph, last)
        return graph.shape(last)[axis] if axis is not None else 1
    shape = graph.shape(output)
    made = [d for d, axis in enumerate(graph.axes(output)) if Role.CHANNEL in roles(axis)]
    axis = made[0] if len(made) == 1 else min(1, len(shape) - 1)
    return shape[axis] if shape else 1
