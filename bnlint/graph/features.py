"""Declared feature counts against traced sizes: what a layer takes, what it gets, and what kind of axis that is."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import fx, nn

from bnlint.graph.axes import Axis, Origin, Role, origins, roles
from bnlint.graph.model import Graph
from bnlint.graph.ops import SAME_LAYOUT, WEIGHT_LAYERS, Kind, argument


@dataclass(frozen=True)
class Declared:
    """What a layer takes: `size` features along axis `dim` of its input."""

    dim: int
    size: int
    attribute: str  # "in_features", "num_features", …


def declared(graph: Graph, node: fx.Node) -> Declared | None:
    """The feature count a layer declares for its input; None when it declares none or the rank does not fit."""
    source = graph.data(node)
    ndim = len(graph.shape(source)) if source is not None else 0
    module = graph.module(node)
    found = _of_module(module, ndim) if module is not None else _of_function(graph, node)
    return found if found is not None and -ndim <= found.dim < ndim else None


def got(graph: Graph, node: fx.Node) -> int | None:
    """The traced size of the axis a layer reads its features from."""
    source, wanted = graph.data(node), declared(graph, node)
    return graph.shape(source)[wanted.dim] if source is not None and wanted is not None else None


def mismatched(graph: Graph, node: fx.Node) -> bool:
    """True when the declared count is not the traced one, and the traced one is not a repair's guess."""
    wanted, found = declared(graph, node), got(graph, node)
    return wanted is not None and found != wanted.size and not _guessed(feature_axis(graph, node))


def feature_axis(graph: Graph, node: fx.Node) -> Axis:
    """Where the axis that a layer reads its features from comes from."""
    source, wanted = graph.data(node), declared(graph, node)
    axes = graph.axes(source) if source is not None else ()
    return axes[wanted.dim] if wanted is not None and axes else ()


def maker(graph: Graph, axis: Axis) -> fx.Node | None:
    """The node that made an axis: the layer whose output features it counts, or an input."""
    names = {origin.source for origin in origins(axis)}
    return graph.by_name.get(names.pop()) if len(names) == 1 else None


def mixes_positions(graph: Graph, node: fx.Node) -> bool:
    """True for a Linear on the last spatial axis of a channels-first feature map that nobody permuted."""
    source = graph.data(node)
    if graph.kind(node) is not Kind.LINEAR or source is None:
        return False
    axes = graph.axes(source)
    if len(axes) < 4 or roles(axes[1]) != {Role.CHANNEL} or roles(axes[-1]) != {Role.SPATIAL}:
        return False
    made = graph.origins(source, SAME_LAYOUT)
    return bool(made) and all(graph.kind(n) in WEIGHT_LAYERS | {Kind.INPUT, Kind.SHUFFLE} for n in made)


def channel_mixer(graph: Graph, node: fx.Node) -> str:
    """The 1x1 convolution that does on the channels what a Linear does on the width, for the layers that follow it."""
    source = graph.data(node)
    shape = graph.shape(source) if source is not None else graph.shape(node)
    readers = [declared(graph, n) for n in graph.destinations(node, SAME_LAYOUT)]
    wanted = {row.size for row in readers if row is not None and row.dim == 1}
    out = wanted.pop() if len(wanted) == 1 else graph.shape(node)[-1]
    return f"nn.Conv{len(shape) - 2}d({shape[1]}, {out}, 1)"


def reads_channels_last(graph: Graph, node: fx.Node) -> fx.Node | None:
    """The input (N, H, W, C) that a convolution reads as (N, C, H, W); None when it does not."""
    source, wanted = graph.data(node), declared(graph, node)
    if graph.kind(node) is not Kind.CONV or source is None or wanted is None or wanted.dim != 1:
        return None
    shape = graph.shape(source)
    if not shape[1] != wanted.size == shape[-1] < min(shape[1:-1]):
        return None
    made = graph.origins(source, frozenset((Kind.SAME, Kind.NORM, Kind.DROPOUT, Kind.ADD, Kind.MUL)))
    is_input = len(made) == 1 and graph.kind(made[0]) is Kind.INPUT and graph.shape(made[0]) == shape
    return made[0] if is_input else None


@dataclass(frozen=True)
class WidthNeed:
    """A Linear on a spatial axis: the size it needs, the size it gets, the axis and the Linear that made the axis."""

    node: fx.Node
    size: int
    got: int
    axis: Origin
    made_by: fx.Node | None


def width_needs(graph: Graph) -> list[WidthNeed]:
    """Every Linear that mixes positions, in the order they run."""
    linears = {node.name: node for node in graph.of_kind(Kind.LINEAR)}
    found = []
    for node in linears.values():
        axis, wanted, size = feature_axis(graph, node), declared(graph, node), got(graph, node)
        if mixes_positions(graph, node) and len(axis) == 1 and wanted is not None and size is not None:
            origin = axis[0].origin
            found.append(WidthNeed(node, wanted.size, size, origin, linears.get(origin.root.source)))
    return found


def flattened(graph: Graph, node: fx.Node) -> fx.Node | None:
    """The reshape that folded channels and positions into the features a Linear reads; None when there is none."""
    source = graph.data(node)
    if graph.kind(node) is not Kind.LINEAR or source is None:
        return None
    axis = feature_axis(graph, node)
    if len(origins(axis)) < 2 and not (axis and axis[0].mixed):
        return None
    keep = frozenset((Kind.SAME, Kind.DROPOUT, Kind.ACTIVATION, Kind.NORM))
    made = graph.origins(source, keep)
    return made[0] if len(made) == 1 and graph.kind(made[0]) is Kind.RESHAPE else None


def _guessed(axis: Axis) -> bool:
    return any(origin.guessed for origin in origins(axis))


def _of_module(module: nn.Module, ndim: int) -> Declared | None:
    if isinstance(module, nn.Linear):
        return Declared(-1, module.in_features, "in_features")
    if isinstance(module, nn.modules.conv._ConvNd):
        batched = len(module.kernel_size) + 2
        return (
            Declared(ndim - batched + 1, module.in_channels, "in_channels") if ndim in (batched - 1, batched) else None
        )
    if isinstance(module, nn.modules.batchnorm._NormBase):
        checked = module.running_mean is not None or module.weight is not None
        dim = ndim - max(accepted_ranks(module)) + 1 if isinstance(module, nn.modules.instancenorm._InstanceNorm) else 1
        return (
            Declared(dim, module.num_features, "num_features") if checked and ndim in accepted_ranks(module) else None
        )
    if isinstance(module, nn.GroupNorm):
        return Declared(1, module.num_channels, "num_channels")
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)) and len(module.normalized_shape) == 1:
        return Declared(-1, module.normalized_shape[0], "normalized_shape")
    if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        return Declared(-1, module.input_size, "input_size")
    if isinstance(module, nn.MultiheadAttention):
        return Declared(-1, module.embed_dim, "embed_dim")
    if isinstance(module, (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)):
        return Declared(-1, module.self_attn.embed_dim, "d_model")
    if isinstance(module, nn.PReLU) and module.num_parameters > 1:
        return Declared(1, module.num_parameters, "num_parameters")
    return None


def _of_function(graph: Graph, node: fx.Node) -> Declared | None:
    found = graph.weight(node)
    if found is None:
        return None
    shape = tuple(found[1].shape)
    if graph.kind(node) is Kind.LINEAR:
        return Declared(-1, shape[-1], "weight.shape[1]")
    if graph.kind(node) is Kind.CONV:
        groups = argument(node, 6, "groups", 1)
        return Declared(1, shape[1] * (groups if isinstance(groups, int) else 1), "weight.shape[1]")
    return None


def accepted_ranks(module: nn.Module | None) -> tuple[int, ...]:
    """The input ranks a batch or instance norm takes; () for any other layer and for lazily typed norms."""
    unbatched = 1 if isinstance(module, nn.modules.instancenorm._InstanceNorm) else 0
    for dims, classes in (
        (1, (nn.BatchNorm1d, nn.InstanceNorm1d)),
        (2, (nn.BatchNorm2d, nn.InstanceNorm2d)),
        (3, (nn.BatchNorm3d, nn.InstanceNorm3d)),
    ):
        if isinstance(module, classes):
            return (2, 3) if dims == 1 else tuple(range(dims + 2 - unbatched, dims + 3))
    return ()


def positions(shape: tuple[int, ...]) -> int:
    """The number of positions of a channels-first map: the product of its axes after the channels."""
    return math.prod(shape[2:])


__all__ = [
    "Declared",
    "WidthNeed",
    "accepted_ranks",
    "channel_mixer",
    "declared",
    "feature_axis",
    "flattened",
    "got",
    "maker",
    "mismatched",
    "mixes_positions",
    "positions",
    "reads_channels_last",
    "width_needs",
]
