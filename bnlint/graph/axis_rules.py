"""How every kind of op carries axes from its inputs to its outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import fx, nn

from bnlint.graph.axes import Axes, Axis, Role, cut, fresh, joined, reshape, resized, roles, size_of
from bnlint.graph.axis_arguments import cat_dim, ignorance, indexed, merge, permutation, squeezed
from bnlint.graph.axis_layers import attention, conv, embedding, linear, rnn
from bnlint.graph.axis_pass import AxisPass, AxisRule, Shape, axes_of, data_axes
from bnlint.graph.ops import Kind, argument, op_name, shape_of


def _keep(walk: AxisPass, node: fx.Node, shape: Shape) -> Axes:
    x = data_axes(node)
    if len(x) != len(shape):
        return walk.by_shape(node, shape)
    return tuple(resized(axis, node.name, dim, size) for dim, (axis, size) in enumerate(zip(x, shape, strict=True)))


def _pool(walk: AxisPass, node: fx.Node, shape: Shape) -> Axes:
    x = data_axes(node)
    for axis in x[2:]:
        walk.learn(axis, Role.SPATIAL)
    axes = _keep(walk, node, shape)
    if op_name(node).lower().startswith("adaptive") and len(x) == len(shape):
        for old, new in zip(x, axes, strict=True):
            if new is not old and new:
                new[0].origin.guessed = False  # the layer says the size itself
    return axes


def _transformer(walk: AxisPass, node: fx.Node, shape: Shape) -> Axes:
    x = data_axes(node)
    if x:
        walk.learn(x[-1], Role.CHANNEL)
    return _keep(walk, node, shape)


def _broadcast(walk: AxisPass, node: fx.Node, shape: Shape) -> Axes:
    operands = [axes_of(n) for n in node.all_input_nodes if shape_of(n) is not None]
    axes: list[Axis] = []
    for dim in range(-len(shape), 0):
        fitting = [o[dim] for o in operands if len(o) >= -dim and size_of(o[dim]) == shape[dim] and o[dim]]
        axes.append(min(fitting, key=ignorance) if fitting else fresh(Role.UNKNOWN, node.name, dim, shape[dim]))
    return tuple(axes)


def _reshape(walk: AxisPass, node: fx.Node, shape: Shape) -> Axes:
    x = data_axes(node)
    total = 1
    for axis in x:
        total *= size_of(axis)
    wanted = 1
    for size in shape:
        wanted *= size
    return reshape(x, shape) if total == wanted else walk.by_shape(node, shape)


def _permute(walk: AxisPass, node: fx.Node, shape: Shape) -> Axes:
    x = data_axes(node)
    order = permutation(node, len(x))
    return tuple(x[i] for i in order) if order is not None and len(x) == len(shape) else walk.by_shape(node, shape)


def _index(walk: AxisPass, node: fx.Node, shape: Shape) -> Axes:
    x, name = data_axes(node), op_name(node)
    if name == "getitem":
        return indexed(node, x, shape) or walk.by_shape(node, shape)
    if name == "unsqueeze":
        dim = int(argument(node, 1, "dim", 0)) % len(shape)
        return (*x[:dim], (), *x[dim:])
    if name == "squeeze":
        return squeezed(node, x)
    if name == "select":
        dim = int(argument(node, 1, "dim", 0)) % max(1, len(x))
        return (*x[:dim], *x[dim + 1 :])
    if name == "narrow" and len(x) == len(shape):
        dim, start = (argument(node, i, key) for i, key in ((1, "dim"), (2, "start")))
        if isinstance(dim, int) and isinstance(start, int):
            dim %= len(x)
            return (*x[:dim], cut(x[dim], start, node.name, dim, shape[dim]), *x[dim + 1 :])
    return _keep(walk, node, shape)


def _expand(walk: AxisPass, node: fx.Node, shape: Shape) -> Axes:
    x = data_axes(node)
    padded: Axes = ((),) * (len(shape) - len(x)) + x
    return tuple(
        axis if size_of(axis) == size else fresh(Role.UNKNOWN, node.name, dim, size)
        for dim, (axis, size) in enumerate(zip(padded, shape, strict=False))
    )


def _cat(walk: AxisPass, node: fx.Node, shape: Shape) -> Axes:
    parts = [axes_of(n) for n in node.all_input_nodes]
    dim = cat_dim(node) % max(1, len(shape))
    if any(len(p) != len(shape) for p in parts):
        parts = [p for p in parts if len(p) == len(shape)] or [walk.by_shape(node, shape)]
    axes = [min((p[d] for p in parts), key=ignorance) for d in range(len(shape))]
    known = {role for p in parts for role in roles(p[dim])} - {Role.UNKNOWN}
    role = known.pop() if len(known) == 1 else Role.UNKNOWN
    if size_of(axes[dim]) != shape[dim]:
        rows = argument(node, 0, "tensors", ())  # all of them: `all_input_nodes` leaves repetitions out
        along = [axes_of(n)[dim] for n in rows if isinstance(n, fx.Node) and len(axes_of(n)) == len(shape)]
        axes[dim] = joined(along, role, node.name, dim, shape[dim])
    return tuple(axes)


def _stack(walk: AxisPass, node: fx.Node, shape: Shape) -> Axes:
    first = min((axes_of(n) for n in node.all_input_nodes), key=lambda a: sum(map(ignorance, a)), default=())
    dim = int(argument(node, 1, "dim", 0)) % max(1, len(shape))
    return (*first[:dim], fresh(Role.UNKNOWN, node.name, dim, shape[dim]), *first[dim:])


def _split(walk: AxisPass, node: fx.Node, shape: Shape) -> Axes:
    x = data_axes(node)
    if len(x) == len(shape):
        return _pieces(node, x, shape) or _keep(walk, node, shape)
    dim = int(argument(node, 1, "dim", 0)) % max(1, len(x))  # unbind
    return (*x[:dim], *x[dim + 1 :])


def _pieces(node: fx.Node, x: Axes, shape: Shape) -> Axes | None:
    keys = node.meta.get("axis_key") or [None]
    dim = argument(node, 2, "dim", 0)
    if not isinstance(keys[0], int) or not isinstance(dim, int) or not isinstance(node.meta["val"], (list, tuple)):
        return None
    dim %= len(x)
    start = sum(int(piece.shape[dim]) for piece in node.meta["val"][: keys[0]])
    return (*x[:dim], cut(x[dim], start, node.name, dim, shape[dim]), *x[dim + 1 :])


def _reduce(walk: AxisPass, node: fx.Node, shape: Shape) -> Axes:
    x = data_axes(node)
    if len(x) == len(shape):
        return tuple(axis if size_of(axis) == size else () for axis, size in zip(x, shape, strict=True))
    dims = argument(node, 1, "dim", argument(node, 1, "axis"))
    if dims is None:
        return ()
    gone = {int(d) % max(1, len(x)) for d in (dims if isinstance(dims, (tuple, list)) else (dims,))}
    return tuple(axis for i, axis in enumerate(x) if i not in gone)


def _matmul(walk: AxisPass, node: fx.Node, shape: Shape) -> Axes:
    if op_name(node) == "einsum":
        return _einsum(walk, node, shape)
    operands = [axes_of(n) for n in node.all_input_nodes if shape_of(n) is not None][-2:]
    if len(operands) == 1:
        operands *= 2
    if len(operands) != 2 or min(map(len, operands)) < 2:
        return walk.by_shape(node, shape)
    a, b = operands
    lead = merge(a[:-2], b[:-2])
    return (*lead, a[-2], b[-1])


def _shuffle(walk: AxisPass, node: fx.Node, shape: Shape) -> Axes:
    x = data_axes(node)
    if node.op == "call_method":  # Tensor.unfold: windows along one axis, not im2col
        kept = [resized(axis, node.name, dim, shape[dim]) for dim, axis in enumerate(x)]
        return (*kept, fresh(Role.UNKNOWN, node.name, len(x), shape[-1]))
    lead = x[0] if x and size_of(x[0]) == shape[0] else fresh(Role.UNKNOWN, node.name, 0, shape[0])
    rest = [fresh(Role.SPATIAL, node.name, dim, size) for dim, size in enumerate(shape) if dim > 1]
    return (lead, fresh(Role.CHANNEL, node.name, 1, shape[1]), *rest) if len(shape) > 2 else walk.by_shape(node, shape)


def _einsum(walk: AxisPass, node: fx.Node, shape: Shape) -> Axes:
    equation = node.args[0]
    if not isinstance(equation, str) or "." in equation or "->" not in equation:
        return walk.by_shape(node, shape)
    left, right = equation.replace(" ", "").split("->")
    letters: dict[str, Axis] = {}
    operands: Sequence[fx.Node] = [n for n in node.all_input_nodes if shape_of(n) is not None]
    terms = left.split(",")
    if len(operands) != len(terms):
        return walk.by_shape(node, shape)
    for term, operand in zip(terms, operands, strict=True):
        for letter, axis in zip(term, axes_of(operand), strict=False):
            letters[letter] = min((letters.get(letter, ()), axis), key=ignorance)
    return tuple(letters.get(letter, ()) for letter in right)


_RULES: dict[Kind, AxisRule] = {
    Kind.CONV: conv,
    Kind.CONV_TRANSPOSE: conv,
    Kind.LINEAR: linear,
    Kind.BILINEAR: linear,
    Kind.EMBEDDING: embedding,
    Kind.RNN: rnn,
    Kind.ATTENTION: attention,
    Kind.TRANSFORMER: _transformer,
    Kind.POOL: _pool,
    Kind.RESHAPE: _reshape,
    Kind.PERMUTE: _permute,
    Kind.INDEX: _index,
    Kind.EXPAND: _expand,
    Kind.CAT: _cat,
    Kind.STACK: _stack,
    Kind.SPLIT: _split,
    Kind.REDUCE: _reduce,
    Kind.MATMUL: _matmul,
    Kind.SHUFFLE: _shuffle,
    **dict.fromkeys((Kind.NORM, Kind.SOFTMAX, Kind.DROPOUT, Kind.RESIZE, Kind.PAD, Kind.SAME), _keep),
    **dict.fromkeys((Kind.ADD, Kind.MUL, Kind.ELEMENTWISE, Kind.ACTIVATION), _broadcast),
}


def assign_axes(graph: fx.Graph, module_of: Callable[[fx.Node], nn.Module | None]) -> None:
    """Sets `meta["axes"]` on every node whose value is a tensor."""
    pass_ = AxisPass(module_of, _RULES)
    for node in graph.nodes:
        shape = shape_of(node)
        if shape is not None and node.op != "output":
            axes = pass_.axes(node, shape)
            node.meta["axes"] = axes if _fits(axes, shape) else pass_.by_shape(node, shape)
    pass_.settle()


def _fits(axes: Axes, shape: Shape) -> bool:
    return len(axes) == len(shape) and all(size_of(a) in (1, s) or s == 1 for a, s in zip(axes, shape, strict=True))
