"""How every kind of op carries axes from its inputs to its outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx, nn

from bnlint.graph.axes import Atom, Axes, Axis, Origin, Role, fresh, reshape, resized, roles, size_of
from bnlint.graph.axis_arguments import cat_dim, ignorance, indexed, merge, permutation, squeezed
from bnlint.graph.ops import Kind, argument, op_name, shape_of

Shape = tuple[int, ...]


def assign_axes(graph: fx.Graph, module_of: Callable[[fx.Node], nn.Module | None]) -> None:
    """Sets `meta["axes"]` on every node whose value is a tensor."""
    pass_ = _AxisPass(module_of)
    for node in graph.nodes:
        shape = shape_of(node)
        if shape is not None and node.op != "output":
            axes = pass_.axes(node, shape)
            node.meta["axes"] = axes if _fits(axes, shape) else pass_.by_shape(node, shape)
    pass_.settle()


def _fits(axes: Axes, shape: Shape) -> bool:
    return len(axes) == len(shape) and all(size_of(a) in (1, s) or s == 1 for a, s in zip(axes, shape, strict=True))


class _AxisPass:
    def __init__(self, module_of: Callable[[fx.Node], nn.Module | None]) -> None:
        self.module_of = module_of
        self.batches: dict[int, Origin] = {}
        self.inputs: list[tuple[Origin, torch.dtype]] = []

    # -- entry points ----------------------------------------------------------------------------------------------

    def axes(self, node: fx.Node, shape: Shape) -> Axes:
        """The axes of a node's output."""
        if node.op == "placeholder":
            return self._input(node, shape, node.meta["batch"][()])
        if node.op == "get_attr":
            return tuple(fresh(Role.UNKNOWN, node.name, dim, size) for dim, size in enumerate(shape))
        if op_name(node) == "getitem" and shape_of(_operand(node)) is None:
            return self._item(node, shape)
        if _error_guess(node):
            return self.guess(node, shape)
        rule = _RULES.get(node.meta["kind"])
        if rule is None or 0 in shape:
            return self.by_shape(node, shape)
        try:
            return rule(self, node, shape)
        except (IndexError, TypeError, ValueError, ZeroDivisionError):
            return self.by_shape(node, shape)  # called in an unusual way: an op bnlint does not know

    def guess(self, node: fx.Node, shape: Shape) -> Axes:
        """For the stand-in of an op that failed; a convolution still declares its channels."""
        x = _data_axes(node)
        if node.meta["kind"] in (Kind.CONV, Kind.CONV_TRANSPOSE) and len(x) == len(shape) > 2:
            spatial = [fresh(Role.SPATIAL, node.name, i, size, guessed=True) for i, size in enumerate(shape) if i > 1]
            return (x[0], fresh(Role.CHANNEL, node.name, 1, shape[1]), *spatial)
        return self.by_shape(node, shape, guessed=True)

    def by_shape(self, node: fx.Node, shape: Shape, *, guessed: bool = False) -> Axes:
        """For an op bnlint does not know: axes of the same size at the same place are taken to be the same.

        Of a repair's guess only the batch axis is believed.
        """
        for source in (_axes(n) for n in node.all_input_nodes):
            if not guessed and source and len(source) == len(shape) and size_of(source[0]) == shape[0]:
                return tuple(
                    axis if size_of(axis) == size else fresh(Role.UNKNOWN, node.name, dim, size)
                    for dim, (axis, size) in enumerate(zip(source, shape, strict=True))
                )
        lead = next((a[0] for a in map(_axes, node.all_input_nodes) if a and shape and size_of(a[0]) == shape[0]), None)
        axes = [fresh(Role.UNKNOWN, node.name, dim, size, guessed=guessed) for dim, size in enumerate(shape)]
        return (lead, *axes[1:]) if lead and Role.BATCH in roles(lead) else tuple(axes)

    def settle(self) -> None:
        """Input axes that no layer gave a role: positions of ids or beside a channel axis, else features."""
        with_channels = {origin.source for origin, _ in self.inputs if origin.role is Role.CHANNEL}
        for origin, dtype in self.inputs:
            if origin.role is Role.UNKNOWN:
                positions = not dtype.is_floating_point or origin.source in with_channels
                origin.role = Role.SEQUENCE if positions else Role.CHANNEL

    def learn(self, axis: Axis, role: Role) -> None:
        """Gives an input axis the role that the first layer to read it implies."""
        if len(axis) == 1 and axis[0].whole and axis[0].origin.role is Role.UNKNOWN:
            axis[0].origin.role = role

    # -- inputs and containers -------------------------------------------------------------------------------------

    def _input(self, node: fx.Node, shape: Shape, batch: int | None) -> Axes:
        axes: list[Axis] = []
        dtype = node.meta["val"].dtype
        for dim, size in enumerate(shape):
            if dim == batch:
                origin = self.batches.setdefault(size, Origin(Role.BATCH, node.name, dim, size))
                axes.append((Atom(origin, size),) if size != 1 else ())
            else:
                axes.append(fresh(Role.UNKNOWN, node.name, dim, size))
                self.inputs += [(atom.origin, dtype) for atom in axes[-1]]
        return tuple(axes)

    def _item(self, node: fx.Node, shape: Shape) -> Axes:
        keys: list[Any] = []
        source = node
        while op_name(source) == "getitem" and shape_of(_operand(source)) is None:
            keys.insert(0, source.args[1])
            source = _operand(source)
        if source.op == "placeholder":
            return self._input(node, shape, source.meta["batch"][tuple(keys)])
        rule = _RULES.get(source.meta["kind"])
        if rule is None or _error_guess(source):
            return self.by_shape(source, shape)
        source.meta["axis_key"] = keys
        return rule(self, source, shape)

    # -- layers ----------------------------------------------------------------------------------------------------

    def conv(self, node: fx.Node, shape: Shape) -> Axes:
        x = _data_axes(node)
        spatial = len(shape) - 2 if len(shape) == len(x) else 0
        if len(x) < 3 or len(x) != len(shape):
            return self.by_shape(node, shape)
        self.learn(x[1], Role.CHANNEL)
        for axis in x[2:]:
            self.learn(axis, Role.SPATIAL)
        out = [resized(axis, node.name, i + 2, shape[i + 2]) for i, axis in enumerate(x[2:])]
        return (x[0], fresh(Role.CHANNEL, node.name, 1, shape[1]), *out) if spatial else self.by_shape(node, shape)

    def linear(self, node: fx.Node, shape: Shape) -> Axes:
        x = _data_axes(node)
        if not x or len(x) != len(shape):
            return self.by_shape(node, shape)
        mixes_tokens = any(roles(axis) == {Role.CHANNEL} for axis in x[:-1])
        self.learn(x[-1], Role.SEQUENCE if mixes_tokens else Role.CHANNEL)
        return (*x[:-1], fresh(_mixing_role(x[-1]), node.name, len(shape) - 1, shape[-1]))

    def embedding(self, node: fx.Node, shape: Shape) -> Axes:
        ids = _axes(_tensor_argument(node, 0 if node.op == "call_module" else _id_position(node)))
        for axis in ids[1:]:
            self.learn(axis, Role.SEQUENCE)
        lead = ids if len(ids) == len(shape) - 1 else ids[: len(shape) - 1]
        return (*lead, fresh(Role.CHANNEL, node.name, len(shape) - 1, shape[-1]))

    def rnn(self, node: fx.Node, shape: Shape) -> Axes:
        x, module = _data_axes(node), self.module_of(node)
        keys = node.meta.get("axis_key") or [0]
        feature = fresh(Role.CHANNEL, node.name, len(shape) - 1, shape[-1])
        if x:
            self.learn(x[-1], Role.CHANNEL)
        if not isinstance(module, nn.RNNBase) or len(x) != 3:
            return (x[0], feature) if len(shape) == 2 and x else self.by_shape(node, shape)
        batch, time = (x[0], x[1]) if module.batch_first else (x[1], x[0])
        self.learn(time, Role.SEQUENCE)
        if keys[0] == 0:
            return (*x[:2], feature)
        return (fresh(Role.UNKNOWN, node.name, 0, shape[0]), batch, feature)

    def attention(self, node: fx.Node, shape: Shape) -> Axes:
        query, value = _data_axes(node), _axes(_tensor_argument(node, 2))
        keys = node.meta.get("axis_key") or [0]
        if query:
            self.learn(query[-1], Role.CHANNEL)
        if len(query) != len(shape) or keys[0] != 0:
            return self.by_shape(node, shape)
        if node.op == "call_module":
            return (*query[:-1], fresh(Role.CHANNEL, node.name, len(shape) - 1, shape[-1]))
        return (*query[:-1], value[-1] if value else fresh(Role.CHANNEL, node.name, len(shape) - 1, shape[-1]))

    def transformer(self, node: fx.Node, shape: Shape) -> Axes:
        x = _data_axes(node)
        if x:
            self.learn(x[-1], Role.CHANNEL)
        return self.keep(node, shape)

    # -- shape-preserving and shape-changing ops -------------------------------------------------------------------

    def keep(self, node: fx.Node, shape: Shape) -> Axes:
        x = _data_axes(node)
        if len(x) != len(shape):
            return self.by_shape(node, shape)
        return tuple(resized(axis, node.name, dim, size) for dim, (axis, size) in enumerate(zip(x, shape, strict=True)))

    def pool(self, node: fx.Node, shape: Shape) -> Axes:
        x = _data_axes(node)
        for axis in x[2:]:
            self.learn(axis, Role.SPATIAL)
        axes = self.keep(node, shape)
        if op_name(node).lower().startswith("adaptive") and len(x) == len(shape):
            for old, new in zip(x, axes, strict=True):
                if new is not old and new:
                    new[0].origin.guessed = False  # the layer says the size itself
        return axes

    def broadcast(self, node: fx.Node, shape: Shape) -> Axes:
        operands = [_axes(n) for n in node.all_input_nodes if shape_of(n) is not None]
        axes: list[Axis] = []
        for dim in range(-len(shape), 0):
            fitting = [o[dim] for o in operands if len(o) >= -dim and size_of(o[dim]) == shape[dim] and o[dim]]
            axes.append(min(fitting, key=ignorance) if fitting else fresh(Role.UNKNOWN, node.name, dim, shape[dim]))
        return tuple(axes)

    def reshape(self, node: fx.Node, shape: Shape) -> Axes:
        x = _data_axes(node)
        total = 1
        for axis in x:
            total *= size_of(axis)
        wanted = 1
        for size in shape:
            wanted *= size
        return reshape(x, shape) if total == wanted else self.by_shape(node, shape)

    def permute(self, node: fx.Node, shape: Shape) -> Axes:
        x = _data_axes(node)
        order = permutation(node, len(x))
        return tuple(x[i] for i in order) if order is not None and len(x) == len(shape) else self.by_shape(node, shape)

    def index(self, node: fx.Node, shape: Shape) -> Axes:
        x, name = _data_axes(node), op_name(node)
        if name == "getitem":
            return indexed(node, x, shape) or self.by_shape(node, shape)
        if name == "unsqueeze":
            dim = int(argument(node, 1, "dim", 0)) % len(shape)
            return (*x[:dim], (), *x[dim:])
        if name == "squeeze":
            return squeezed(node, x)
        if name == "select":
            dim = int(argument(node, 1, "dim", 0)) % max(1, len(x))
            return (*x[:dim], *x[dim + 1 :])
        return self.keep(node, shape)

    def expand(self, node: fx.Node, shape: Shape) -> Axes:
        x = _data_axes(node)
        padded: Axes = ((),) * (len(shape) - len(x)) + x
        return tuple(
            axis if size_of(axis) == size else fresh(Role.UNKNOWN, node.name, dim, size)
            for dim, (axis, size) in enumerate(zip(padded, shape, strict=False))
        )

    def cat(self, node: fx.Node, shape: Shape) -> Axes:
        parts = [_axes(n) for n in node.all_input_nodes]
        dim = cat_dim(node) % max(1, len(shape))
        if any(len(p) != len(shape) for p in parts):
            parts = [p for p in parts if len(p) == len(shape)] or [self.by_shape(node, shape)]
        axes = [min((p[d] for p in parts), key=ignorance) for d in range(len(shape))]
        known = {role for p in parts for role in roles(p[dim])} - {Role.UNKNOWN}
        role = known.pop() if len(known) == 1 else Role.UNKNOWN
        axes[dim] = axes[dim] if size_of(axes[dim]) == shape[dim] else fresh(role, node.name, dim, shape[dim])
        return tuple(axes)

    def stack(self, node: fx.Node, shape: Shape) -> Axes:
        first = min((_axes(n) for n in node.all_input_nodes), key=lambda a: sum(map(ignorance, a)), default=())
        dim = int(argument(node, 1, "dim", 0)) % max(1, len(shape))
        return (*first[:dim], fresh(Role.UNKNOWN, node.name, dim, shape[dim]), *first[dim:])

    def split(self, node: fx.Node, shape: Shape) -> Axes:
        x = _data_axes(node)
        if len(x) == len(shape):
            return self.keep(node, shape)
        dim = int(argument(node, 1, "dim", 0)) % max(1, len(x))  # unbind
        return (*x[:dim], *x[dim + 1 :])

    def reduce(self, node: fx.Node, shape: Shape) -> Axes:
        x = _data_axes(node)
        if len(x) == len(shape):
            return tuple(axis if size_of(axis) == size else () for axis, size in zip(x, shape, strict=True))
        dims = argument(node, 1, "dim", argument(node, 1, "axis"))
        if dims is None:
            return ()
        gone = {int(d) % max(1, len(x)) for d in (dims if isinstance(dims, (tuple, list)) else (dims,))}
        return tuple(axis for i, axis in enumerate(x) if i not in gone)

    def matmul(self, node: fx.Node, shape: Shape) -> Axes:
        if op_name(node) == "einsum":
            return _einsum(self, node, shape)
        operands = [_axes(n) for n in node.all_input_nodes if shape_of(n) is not None][-2:]
        if len(operands) == 1:
            operands *= 2
        if len(operands) != 2 or min(map(len, operands)) < 2:
            return self.by_shape(node, shape)
        a, b = operands
        lead = merge(a[:-2], b[:-2])
        return (*lead, a[-2], b[-1])

    def shuffle(self, node: fx.Node, shape: Shape) -> Axes:
        x = _data_axes(node)
        if node.op == "call_method":  # Tensor.unfold: windows along one axis, not im2col
            kept = [resized(axis, node.name, dim, shape[dim]) for dim, axis in enumerate(x)]
            return (*kept, fresh(Role.UNKNOWN, node.name, len(x), shape[-1]))
        lead = x[0] if x and size_of(x[0]) == shape[0] else fresh(Role.UNKNOWN, node.name, 0, shape[0])
        rest = [fresh(Role.SPATIAL, node.name, dim, size) for dim, size in enumerate(shape) if dim > 1]
        return (
            (lead, fresh(Role.CHANNEL, node.name, 1, shape[1]), *rest) if len(shape) > 2 else self.by_shape(node, shape)
        )


_RULES: dict[Kind, Callable[[_AxisPass, fx.Node, Shape], Axes]] = {
    Kind.CONV: _AxisPass.conv,
    Kind.CONV_TRANSPOSE: _AxisPass.conv,
    Kind.LINEAR: _AxisPass.linear,
    Kind.BILINEAR: _AxisPass.linear,
    Kind.EMBEDDING: _AxisPass.embedding,
    Kind.RNN: _AxisPass.rnn,
    Kind.ATTENTION: _AxisPass.attention,
    Kind.TRANSFORMER: _AxisPass.transformer,
    Kind.POOL: _AxisPass.pool,
    Kind.RESHAPE: _AxisPass.reshape,
    Kind.PERMUTE: _AxisPass.permute,
    Kind.INDEX: _AxisPass.index,
    Kind.EXPAND: _AxisPass.expand,
    Kind.CAT: _AxisPass.cat,
    Kind.STACK: _AxisPass.stack,
    Kind.SPLIT: _AxisPass.split,
    Kind.REDUCE: _AxisPass.reduce,
    Kind.MATMUL: _AxisPass.matmul,
    Kind.SHUFFLE: _AxisPass.shuffle,
    **dict.fromkeys((Kind.NORM, Kind.SOFTMAX, Kind.DROPOUT, Kind.RESIZE, Kind.PAD, Kind.SAME), _AxisPass.keep),
    **dict.fromkeys((Kind.ADD, Kind.MUL, Kind.ELEMENTWISE, Kind.ACTIVATION), _AxisPass.broadcast),
}


def _axes(node: fx.Node | None) -> Axes:
    return node.meta.get("axes", ()) if node is not None else ()


def _operand(node: fx.Node) -> fx.Node:
    first = node.args[0] if node.args else next(iter(node.kwargs.values()))
    return first if isinstance(first, fx.Node) else node.all_input_nodes[0]


def _data_axes(node: fx.Node) -> Axes:
    return _axes(node.all_input_nodes[0]) if node.all_input_nodes else ()


def _tensor_argument(node: fx.Node, position: int) -> fx.Node | None:
    rows = node.all_input_nodes
    return rows[position] if position < len(rows) else (rows[0] if rows else None)


def _id_position(node: fx.Node) -> int:
    return 0 if node.all_input_nodes and not node.all_input_nodes[0].meta["val"].dtype.is_floating_point else 1


def _error_guess(node: fx.Node) -> bool:
    error = node.meta.get("error")
    return error is not None and error.repair == "guess"


def _mixing_role(axis: Axis) -> Role:
    """A Linear makes features, unless it mixes along positions: those stay positions (token mixing)."""
    found = roles(axis)
    return next(iter(found)) if found in ({Role.SPATIAL}, {Role.SEQUENCE}) else Role.CHANNEL


def _einsum(pass_: _AxisPass, node: fx.Node, shape: Shape) -> Axes:
    equation = node.args[0]
    if not isinstance(equation, str) or "." in equation or "->" not in equation:
        return pass_.by_shape(node, shape)
    left, right = equation.replace(" ", "").split("->")
    letters: dict[str, Axis] = {}
    operands: Sequence[fx.Node] = [n for n in node.all_input_nodes if shape_of(n) is not None]
    terms = left.split(",")
    if len(operands) != len(terms):
        return pass_.by_shape(node, shape)
    for term, operand in zip(terms, operands, strict=True):
        for letter, axis in zip(term, _axes(operand), strict=False):
            letters[letter] = min((letters.get(letter, ()), axis), key=ignorance)
    return tuple(letters.get(letter, ()) for letter in right)
