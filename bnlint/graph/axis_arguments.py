"""Reading the arguments of reshaping ops: permutations, squeezes, indices, concatenations."""

from __future__ import annotations

from typing import Any

from torch import fx

from bnlint.graph.axes import Axes, Axis, Role, cut, resized, roles, size_of
from bnlint.graph.ops import argument, op_name, shape_of

Shape = tuple[int, ...]


def ignorance(axis: Axis) -> int:
    """Sorts axes by how little is known of them: data before constants, constants before nothing."""
    return 0 if roles(axis) - {Role.UNKNOWN} else 1 if axis else 2


def merge(a: Axes, b: Axes) -> Axes:
    """The axes of two batches of matrices, broadcast: of each pair the one more is known of."""
    long, short = (a, b) if len(a) >= len(b) else (b, a)
    padded: Axes = ((),) * (len(long) - len(short)) + short
    return tuple(min((x, y), key=ignorance) for x, y in zip(long, padded, strict=True))


def permutation(node: fx.Node, ndim: int) -> list[int] | None:
    """The source axis of every axis of a transposed value; None when the arguments do not say."""
    name, order = op_name(node), list(range(ndim))
    if name in ("T", "t") or (name in ("H",) and ndim == 2):
        return order[::-1]
    if name in ("mT", "mH", "adjoint"):
        return [*order[:-2], *order[-2:][::-1]]
    if name == "permute":
        dims: Any = argument(node, 1, "dims")
        dims = node.args[1:] if isinstance(dims, int) else dims
        return [int(d) % ndim for d in dims] if dims is not None and len(dims) == ndim else None
    if name in ("transpose", "swapaxes", "swapdims"):
        pair = [argument(node, i + 1, f"dim{i}", argument(node, i + 1, f"axis{i}")) for i in (0, 1)]
        if not all(isinstance(d, int) for d in pair):
            return None
        i, j = (int(d) % ndim for d in pair)
        order[i], order[j] = order[j], order[i]
        return order
    return _moved(node, ndim)


def _moved(node: fx.Node, ndim: int) -> list[int] | None:
    source, target = argument(node, 1, "source"), argument(node, 2, "destination")
    if source is None or target is None:
        return None
    sources = [int(d) % ndim for d in (source if isinstance(source, (tuple, list)) else (source,))]
    targets = [int(d) % ndim for d in (target if isinstance(target, (tuple, list)) else (target,))]
    rest = [d for d in range(ndim) if d not in sources]
    placed = dict(zip(targets, sources, strict=True))
    return [placed[d] if d in placed else rest.pop(0) for d in range(ndim)]


def squeezed(node: fx.Node, x: Axes) -> Axes:
    """The axes that are left after a squeeze."""
    dims = argument(node, 1, "dim")
    source = shape_of(node.all_input_nodes[0]) or ()
    if dims is None:
        return tuple(axis for axis, size in zip(x, source, strict=False) if size != 1)
    gone = {int(d) % max(1, len(x)) for d in (dims if isinstance(dims, (tuple, list)) else (dims,))}
    return tuple(axis for i, axis in enumerate(x) if i not in gone or source[i] != 1)


def indexed(node: fx.Node, x: Axes, shape: Shape) -> Axes | None:
    """`x[...]` with integers, slices, None and Ellipsis; None when tensors or lists index."""
    index = node.args[1]
    items = list(index) if isinstance(index, tuple) else [index]
    if not all(item is None or item is Ellipsis or isinstance(item, (int, slice)) for item in items):
        return None
    if any(isinstance(item, bool) for item in items):
        return None
    used = sum(isinstance(item, (int, slice)) for item in items)
    filler: list[Any] = [slice(None)] * (len(x) - used)
    at = next((i for i, item in enumerate(items) if item is Ellipsis), len(items))
    items[at : at + 1] = filler
    result: list[Axis] = []
    source = iter(x)
    for item in items:
        if item is None:
            result.append(())
            continue
        axis = next(source)
        if isinstance(item, slice):
            result.append(_sliced(axis, item, node, len(result), shape))
    return tuple(result)


def _sliced(axis: Axis, item: slice, node: fx.Node, dim: int, shape: Shape) -> Axis:
    if item == slice(None) or dim >= len(shape):
        return axis
    ends = (item.start, item.stop, item.step)
    if item.step in (None, 1) and all(end is None or isinstance(end, int) for end in ends):
        return cut(axis, item.indices(size_of(axis))[0], node.name, dim, shape[dim])
    return resized(axis, node.name, dim, shape[dim])


def cat_dim(node: fx.Node) -> int:
    """The axis that a concatenation joins."""
    name = op_name(node)
    if name in ("hstack", "vstack"):
        return 1 if name == "hstack" else 0
    dim = argument(node, 1, "dim", node.kwargs.get("axis", 0))
    return dim if isinstance(dim, int) else 0
