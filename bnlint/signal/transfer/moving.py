"""Ops that move entries: reshapes, permutations, indexing, splits, concatenations.

The op itself is run on the numbers of the features, so that whatever it does to them is known afterwards.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from bnlint.graph.nest import map_tensors
from bnlint.graph.ops import Kind, argument, op_name
from bnlint.signal.transfer.base import Unknown, data, transfer
from bnlint.signal.value import MOST, POINTS, Value, collapsed, distinct, expanded, gaussian, settled, shares

if TYPE_CHECKING:
    from bnlint.signal.predict import Walk

_MOST = 1 << 23  # entries


@transfer(Kind.SAME)
def same(walk: Walk, node: fx.Node) -> Any:
    """Identity, copies and casts; a gradient does not pass a detach."""
    value = data(walk, node)
    if op_name(node) in ("detach", "data"):
        walk.scale(node, node.all_input_nodes[0], 0.0)
    found = node.meta.get("val")
    return value if isinstance(found, torch.Tensor) and found.is_floating_point() else None


@transfer(Kind.RESHAPE, Kind.PERMUTE, Kind.EXPAND, Kind.SPLIT, Kind.SHUFFLE)
def moved(walk: Walk, node: fx.Node) -> Any:
    """Runs the op on the features' numbers."""
    value = data(walk, node)
    if op_name(node).lower() in ("fold",):
        raise Unknown
    if walk.graph.kind(node) is Kind.SHUFFLE:
        value = replace(value, area=value.area, base=object())
    return _relabelled(walk, node, value)


@transfer(Kind.INDEX)
def index(walk: Walk, node: fx.Node) -> Any:
    """An item of a container, or entries of a tensor."""
    if op_name(node) == "setitem":
        return _written(walk, node)
    source = node.args[0]
    if (
        isinstance(source, fx.Node)
        and op_name(node) == "getitem"
        and not isinstance(source.meta.get("val"), torch.Tensor)
    ):
        nest = walk.values.get(source)
        if nest is None or isinstance(nest, Value):
            raise Unknown
        return nest[node.args[1]]
    value = data(walk, node)
    if any(walk.constants.get(n) is None for n in node.all_input_nodes[1:]):
        return _picked(walk, node, value)
    if len(value.features) == len(walk.graph.shape(node)) and all(f == 1 for f in value.features):
        return replace(value, shape=walk.graph.shape(node), base=object())
    return _relabelled(walk, node, value)


@transfer(Kind.CAT)
def cat(walk: Walk, node: fx.Node) -> Value:
    """Features side by side, or positions with different distributions."""
    parts = _parts(walk, node)
    shape = walk.graph.shape(node)
    default = {"hstack": 1, "vstack": 0}.get(op_name(node), 0)
    dim = int(argument(node, 1, "dim", node.kwargs.get("axis", default))) % len(shape)
    for source, part in zip(_listed(node), parts, strict=False):
        walk.scale(node, source, part.shape[dim] / max(shape[dim], 1))
    if math.prod(max(p.features[d] for p in parts) for d in range(len(shape)) if d != dim) * shape[dim] > MOST:
        return _mixed(parts, shape, dim)
    wide = [expanded(part, [dim]) for part in parts]
    layout = [max(sizes) for sizes in zip(*(part.features for part in wide), strict=True)]

    def fill(part: Value) -> torch.Tensor:
        sizes = [part.shape[dim] if d == dim else size for d, size in enumerate(layout)]
        return part.grid.expand(len(POINTS), *sizes)

    made = Value(torch.cat([fill(p) for p in wide], dim + 1), shape, object())
    return _of_parts(made, parts, [p.noise * p.shape[dim] for p in parts])


def _mixed(parts: list[Value], shape: tuple[int, ...], dim: int) -> Value:
    """Parts too large to keep apart: one distribution for all of them along the axis."""
    parts = [collapsed(part, [dim]) for part in parts]
    weights = [part.shape[dim] / max(shape[dim], 1) for part in parts]
    zero = torch.zeros((), dtype=torch.float64)
    mean = sum((w * p.mean for w, p in zip(weights, parts, strict=True)), zero)
    inside = sum((w * p.variance for w, p in zip(weights, parts, strict=True)), zero)
    apart = sum((w * (p.mean - mean).square() for w, p in zip(weights, parts, strict=True)), zero)
    made = _of_parts(
        gaussian(mean, inside + apart, shape), parts, [w * p.noise for w, p in zip(weights, parts, strict=True)]
    )
    if made.noise > 0:
        made.fixed = (made.fixed * float(inside.mean()) + float(apart.mean())) / made.noise
    return made


def _of_parts(made: Value, parts: list[Value], sizes: list[float]) -> Value:
    made.fixed, made.common, made.area = shares(parts, sizes)
    made.certain = all(part.certain for part in parts)
    return made


@transfer(Kind.STACK)
def stack(walk: Walk, node: fx.Node) -> Value:
    """Values side by side along a new axis, which counts as an axis of features."""
    parts = _parts(walk, node)
    shape = walk.graph.shape(node)
    dim = int(argument(node, 1, "dim", 0)) % len(shape)
    layout = [max(sizes) for sizes in zip(*(part.features for part in parts), strict=True)]
    grids = [part.grid.expand(len(POINTS), *layout) for part in parts]
    for source in _listed(node):
        walk.scale(node, source, 1 / len(parts))
    return _of_parts(Value(torch.stack(grids, dim + 1), shape, object()), parts, [p.noise for p in parts])


def _parts(walk: Walk, node: fx.Node) -> list[Value]:
    found = [walk.value(n) for n in _listed(node)]
    parts = [v for v in found if v is not None]
    if not parts or len(parts) != len(found):
        raise Unknown
    return parts


def _listed(node: fx.Node) -> list[fx.Node]:
    listed: Any = argument(node, 0, "tensors")
    return [n for n in listed if isinstance(n, fx.Node)] if isinstance(listed, (tuple, list)) else []


def _written(walk: Walk, node: fx.Node) -> Value:
    """`x[...] = y`: by how much of x is overwritten."""
    value, source = data(walk, node), walk.value(argument(node, 2, "value"))
    if source is None:
        return value
    share = min(1.0, math.prod(source.shape) / max(math.prod(value.shape), 1))
    dims = range(len(value.features) - 1)
    value = collapsed(value, dims)
    mean, noise = source.mean.mean(), source.noise
    made = gaussian(value.mean * (1 - share) + mean * share, value.variance * (1 - share) + noise * share, value.shape)
    made.fixed, made.common, made.area = shares([value, source], [value.noise * (1 - share), noise * share])
    made.certain = value.certain and source.certain
    return made


def _picked(walk: Walk, node: fx.Node, value: Value) -> Value:
    """Entries at positions that an input decides: rows of a table, as an embedding reads them."""
    shape, last = walk.graph.shape(node), value.features[-1]
    merged = collapsed(value, range(len(value.features) - 1))
    if shape[-1] != value.shape[-1]:
        merged = collapsed(merged, [len(merged.features) - 1])
        last = 1
    layout = (*(1,) * (len(shape) - 1), last)
    made = merged.like(merged.mean.reshape(layout), merged.variance.reshape(layout), shape)
    made.fixed = 0.0 if value.constant else made.fixed
    return made


def _relabelled(walk: Walk, node: fx.Node, value: Value) -> Any:
    features = value.mean.numel()
    numbers = torch.arange(features, dtype=torch.float64).reshape(value.features)
    if math.prod(value.shape) > _MOST:
        if features > 1:
            return _coarse(walk, node, value)
        numbers = numbers.reshape((1,) * len(value.shape))
    out = _run(walk, node, numbers.expand(value.shape))
    whole = value.along(range(1, len(value.shape)))[0]

    def pick(labels: torch.Tensor) -> Value:
        if labels.numel() == 0:
            raise Unknown
        layout = distinct(labels)
        grid = value.grid.reshape(len(POINTS), -1)[:, layout.reshape(-1).long()]
        made = Value(grid.reshape(len(POINTS), *layout.shape), tuple(labels.shape), object())
        made.shared_like(value).sums_to_one = value.sums_to_one
        positions = made.along(range(1, len(made.shape)))[0]
        if whole == 1 and positions > 1 and not value.constant:
            made.common = 1.0
        return settled(made) if positions == 1 and whole > 1 and made.mean.numel() > features else made

    return map_tensors(out, pick)


def _run(walk: Walk, node: fx.Node, numbers: torch.Tensor) -> Any:
    first = node.all_input_nodes[0]

    def known(source: fx.Node) -> Any:
        if source is first:
            return numbers
        found = walk.constants.get(source)
        if found is None and isinstance(found := source.meta.get("val"), torch.Tensor):
            found = torch.zeros(tuple(found.shape))  # `view_as` and its kin only look at the form
        return found

    module = walk.graph.module(node)
    if module is not None:
        return type(module).forward(module, numbers)
    args: Any = fx.node.map_arg(node.args, known)
    kwargs: Any = fx.node.map_arg(node.kwargs, known)
    if op_name(node) in ("T", "mT", "H", "mH"):
        return getattr(numbers, op_name(node))
    if node.op == "call_method":
        name = str(node.target)
        name = name if name.endswith("__") else name.removesuffix("_")  # in place on an expanded tensor would raise
        name = {"view": "reshape", "view_as": "reshape_as"}.get(name, name)
        return getattr(args[0], name)(*args[1:], **kwargs)
    return node.target(*args, **kwargs)  # type: ignore[operator]


def _coarse(walk: Walk, node: fx.Node, value: Value) -> Any:
    """Of a tensor too large to number, the average over all features."""
    merged = collapsed(value, range(len(value.features)))

    def make(tensor: torch.Tensor) -> Value:
        layout = (1,) * tensor.ndim
        return merged.like(merged.mean.reshape(layout), merged.variance.reshape(layout), tensor.shape)

    return map_tensors(node.meta.get("val"), make)
