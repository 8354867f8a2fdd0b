"""How layers carry axes from their inputs to their outputs, and what they teach about the axes they read."""

from __future__ import annotations

from torch import fx, nn

from bnlint.graph.axes import Axes, Axis, Role, fresh, resized, roles
from bnlint.graph.axis_pass import AxisPass, Shape, axes_of, data_axes, tensor_argument


def conv(walk: AxisPass, node: fx.Node, shape: Shape) -> Axes:
    """A convolution makes channels and keeps, or resizes, the spatial axes."""
    x = data_axes(node)
    spatial = len(shape) - 2 if len(shape) == len(x) else 0
    if len(x) < 3 or len(x) != len(shape):
        return walk.by_shape(node, shape)
    walk.learn(x[1], Role.CHANNEL)
    for axis in x[2:]:
        walk.learn(axis, Role.SPATIAL)
    out = [resized(axis, node.name, i + 2, shape[i + 2]) for i, axis in enumerate(x[2:])]
    return (x[0], fresh(Role.CHANNEL, node.name, 1, shape[1]), *out) if spatial else walk.by_shape(node, shape)


def linear(walk: AxisPass, node: fx.Node, shape: Shape) -> Axes:
    """A Linear makes features on the last axis."""
    x = data_axes(node)
    if not x or len(x) != len(shape):
        return walk.by_shape(node, shape)
    mixes_tokens = any(roles(axis) == {Role.CHANNEL} for axis in x[:-1])
    walk.learn(x[-1], Role.SEQUENCE if mixes_tokens else Role.CHANNEL)
    return (*x[:-1], fresh(_mixing_role(x[-1]), node.name, len(shape) - 1, shape[-1]))


def embedding(walk: AxisPass, node: fx.Node, shape: Shape) -> Axes:
    """An embedding adds features to the axes of its indices."""
    ids = axes_of(tensor_argument(node, 0 if node.op == "call_module" else _id_position(node)))
    for axis in ids[1:]:
        walk.learn(axis, Role.SEQUENCE)
    lead = ids if len(ids) == len(shape) - 1 else ids[: len(shape) - 1]
    return (*lead, fresh(Role.CHANNEL, node.name, len(shape) - 1, shape[-1]))


def rnn(walk: AxisPass, node: fx.Node, shape: Shape) -> Axes:
    """A recurrent layer makes features; its states have the batch in the middle."""
    x, module = data_axes(node), walk.module_of(node)
    keys = node.meta.get("axis_key") or [0]
    feature = fresh(Role.CHANNEL, node.name, len(shape) - 1, shape[-1])
    if x:
        walk.learn(x[-1], Role.CHANNEL)
    if not isinstance(module, nn.RNNBase) or len(x) != 3:
        return (x[0], feature) if len(shape) == 2 and x else walk.by_shape(node, shape)
    batch, time = (x[0], x[1]) if module.batch_first else (x[1], x[0])
    walk.learn(time, Role.SEQUENCE)
    if keys[0] == 0:
        return (*x[:2], feature)
    return (fresh(Role.UNKNOWN, node.name, 0, shape[0]), batch, feature)


def attention(walk: AxisPass, node: fx.Node, shape: Shape) -> Axes:
    """Attention has the axes of its query and features of its own."""
    query, value = data_axes(node), axes_of(tensor_argument(node, 2))
    keys = node.meta.get("axis_key") or [0]
    if query:
        walk.learn(query[-1], Role.CHANNEL)
    if len(query) != len(shape) or keys[0] != 0:
        return walk.by_shape(node, shape)
    if node.op == "call_module":
        return (*query[:-1], fresh(Role.CHANNEL, node.name, len(shape) - 1, shape[-1]))
    return (*query[:-1], value[-1] if value else fresh(Role.CHANNEL, node.name, len(shape) - 1, shape[-1]))


def _id_position(node: fx.Node) -> int:
    return 0 if node.all_input_nodes and not node.all_input_nodes[0].meta["val"].dtype.is_floating_point else 1


def _mixing_role(axis: Axis) -> Role:
    """A Linear makes features, unless it mixes along positions: those stay positions (token mixing)."""
    found = roles(axis)
    return next(iter(found)) if found in ({Role.SPATIAL}, {Role.SEQUENCE}) else Role.CHANNEL
