"""Norms along positions where features were meant."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx, nn

from bnlint.graph.axes import Role, roles
from bnlint.graph.features import declared
from bnlint.graph.model import Graph
from bnlint.graph.ops import SAME_LAYOUT, WEIGHT_LAYERS, Kind

_POSITIONS = ({Role.SPATIAL}, {Role.SEQUENCE})


@dataclass(frozen=True)
class Misnormed:
    """The axis a norm works along, and the axis that holds the channels."""

    shape: tuple[int, ...]
    dim: int
    what: str
    channels: int
    channel_dim: int


def normalised_axis(graph: Graph, node: fx.Node) -> Misnormed | None:
    """Where a norm works along positions by mistake; None when it works on features, or cannot tell."""
    module, source = graph.module(node), graph.data(node)
    if source is None or graph.error(node) is not None:
        return None
    axes, shape = graph.axes(source), graph.shape(source)
    if len(shape) < 3:
        return None
    if isinstance(module, nn.LayerNorm) and len(module.normalized_shape) == 1:
        on_map = roles(axes[1]) == {Role.CHANNEL} and roles(axes[-1]) == {Role.SPATIAL}
        if on_map and _channels_first(graph, source):
            return Misnormed(shape, len(shape) - 1, "the width of the feature map", shape[1], 1)
    if isinstance(module, (nn.BatchNorm1d, nn.InstanceNorm1d)) and len(shape) == 3:
        on_positions = roles(axes[1]) in _POSITIONS and roles(axes[2]) == {Role.CHANNEL}
        if on_positions and _by_chance(graph, node):
            return Misnormed(shape, 1, "the positions", shape[2], 2)
    return None


def _channels_first(graph: Graph, source: fx.Node) -> bool:
    """True when the map comes from a layer as it is, with no axis moved since."""
    made = graph.origins(source, SAME_LAYOUT)
    return bool(made) and all(graph.kind(n) in WEIGHT_LAYERS | {Kind.SHUFFLE} for n in made)


def _by_chance(graph: Graph, node: fx.Node) -> bool:
    """True when the declared count says nothing, or would fit the features as well as the positions."""
    source, wanted = graph.data(node), declared(graph, node)
    return source is not None and (wanted is None or graph.shape(source)[1] == graph.shape(source)[2])


__all__ = ["Misnormed", "normalised_axis"]
