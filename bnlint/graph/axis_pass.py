"""The walk that gives every value of a graph its axes, and what is true of any op."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx, nn

from bnlint.graph.axes import Atom, Axes, Axis, Origin, Role, fresh, resized, roles, size_of
from bnlint.graph.axis_arguments import cat_dim
from bnlint.graph.ops import Kind, argument, op_name, shape_of

Shape = tuple[int, ...]


class AxisPass:
    """One walk over the graph in the order of the run; `rules` says what each kind of op does."""

    def __init__(self, module_of: Callable[[fx.Node], nn.Module | None], rules: Mapping[Kind, AxisRule]) -> None:
        self.module_of, self.rules = module_of, rules
        self.batches: dict[int, Origin] = {}
        self.inputs: list[tuple[Origin, torch.dtype]] = []

    def axes(self, node: fx.Node, shape: Shape) -> Axes:
        """The axes of a node's output."""
        if node.op == "placeholder":
            return self._input(node, shape, node.meta["batch"][()])
        if node.op == "get_attr":
            return tuple(fresh(Role.UNKNOWN, node.name, dim, size) for dim, size in enumerate(shape))
        if op_name(node) == "getitem" and shape_of(operand(node)) is None:
            return self._item(node, shape)
        if error_guess(node):
            return self.guess(node, shape)
        rule = self.rules.get(node.meta["kind"])
        if rule is None or 0 in shape:
            return self.by_shape(node, shape)
        try:
            return rule(self, node, shape)
        except (IndexError, TypeError, ValueError, ZeroDivisionError):
            return self.by_shape(node, shape)  # called in an unusual way: an op bnlint does not know

    def guess(self, node: fx.Node, shape: Shape) -> Axes:
        """For the stand-in of an op that failed; a convolution still declares its channels."""
        x = data_axes(node)
        if node.meta["kind"] in (Kind.CONV, Kind.CONV_TRANSPOSE) and len(x) == len(shape) > 2:
            spatial = [fresh(Role.SPATIAL, node.name, i, size, guessed=True) for i, size in enumerate(shape) if i > 1]
            return (x[0], fresh(Role.CHANNEL, node.name, 1, shape[1]), *spatial)
        if node.meta["kind"] is Kind.CAT:
            return self._unequal_parts(node, shape)
        return self.by_shape(node, shape, guessed=True)

    def _unequal_parts(self, node: fx.Node, shape: Shape) -> Axes:
        """A concatenation that failed: its parts tell the axis it joins, and the others where they agree."""
        parts, joins = [axes_of(n) for n in node.all_input_nodes], cat_dim(node) % len(shape)
        sure = [d == joins or len({size_of(part[d]) for part in parts}) == 1 for d in range(len(shape))]
        return tuple(
            axis if sure[d] else fresh(Role.UNKNOWN, node.name, d, shape[d], guessed=True)
            for d, axis in enumerate(self.rules[Kind.CAT](self, node, shape))
        )

    def by_shape(self, node: fx.Node, shape: Shape, *, guessed: bool = False) -> Axes:
        """For an op bnlint does not know: axes of the same size at the same place are taken to be the same.

        Of a repair's guess only the batch axis is believed.
        """
        for source in (axes_of(n) for n in node.all_input_nodes):
            if not guessed and source and len(source) == len(shape) and size_of(source[0]) == shape[0]:
                return tuple(
                    axis if size_of(axis) == size else fresh(Role.UNKNOWN, node.name, dim, size)
                    for dim, (axis, size) in enumerate(zip(source, shape, strict=True))
                )
        lead = next(
            (a[0] for a in map(axes_of, node.all_input_nodes) if a and shape and size_of(a[0]) == shape[0]), None
        )
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
        while op_name(source) == "getitem" and shape_of(operand(source)) is None:
            keys.insert(0, source.args[1])
            source = operand(source)
        if source.op == "placeholder":
            return self._input(node, shape, source.meta["batch"][tuple(keys)])
        rule = self.rules.get(source.meta["kind"])
        if op_name(source) in PACKERS and keys == [0]:
            return PACKERS[op_name(source)](source, shape) or self.by_shape(source, shape)
        if rule is None or error_guess(source):
            return self.by_shape(source, shape)
        source.meta["axis_key"] = keys
        return rule(self, source, shape)


AxisRule = Callable[[AxisPass, fx.Node, Shape], Axes]


def axes_of(node: fx.Node | None) -> Axes:
    """The axes of a node's value, () when it is no tensor."""
    return node.meta.get("axes", ()) if node is not None else ()


def operand(node: fx.Node) -> fx.Node:
    """What an op works on."""
    first = node.args[0] if node.args else next(iter(node.kwargs.values()))
    return first if isinstance(first, fx.Node) else node.all_input_nodes[0]


def data_axes(node: fx.Node) -> Axes:
    """The axes of a node's first tensor."""
    return axes_of(node.all_input_nodes[0]) if node.all_input_nodes else ()


def tensor_argument(node: fx.Node, position: int) -> fx.Node | None:
    """A node's tensor by position; the first when there are fewer."""
    rows = node.all_input_nodes
    return rows[position] if position < len(rows) else (rows[0] if rows else None)


def error_guess(node: fx.Node) -> bool:
    """True when the value is a stand-in whose shape is a guess."""
    error = node.meta.get("error")
    return error is not None and error.repair == "guess"


def _pack(node: fx.Node, shape: Shape) -> Axes | None:
    x = data_axes(node)
    if len(x) < 2:
        return None
    rows = fresh(Role.SEQUENCE, node.name, 0, shape[0])
    for atom in rows:
        atom.origin.packed = (x[0], x[1]) if argument(node, 2, "batch_first", False) else (x[1], x[0])
    return (rows, *x[2:])


def _unpack(node: fx.Node, shape: Shape) -> Axes | None:
    rows, *rest = data_axes(node) or ((),)
    if len(rows) != 1 or not rows[0].origin.packed:
        return None
    batch, time = rows[0].origin.packed
    order = (batch, time) if argument(node, 2, "batch_first", False) else (time, batch)
    return (*(resized(axis, node.name, i, shape[i]) for i, axis in enumerate(order)), *rest)


PACKERS: Mapping[str, Callable[[fx.Node, Shape], Axes | None]] = {
    "pack_padded_sequence": _pack,
    "pad_packed_sequence": _unpack,
}
