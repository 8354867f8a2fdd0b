"""Ops that combine many entries into one: pooling, reductions, resizing."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn

from bnlint.graph.ops import Kind, argument, op_name
from bnlint.signal.transfer.base import Unknown, averaging, data, transfer
from bnlint.signal.value import POINTS, Value, collapsed

if TYPE_CHECKING:
    from bnlint.signal.predict import Walk

_RANDOM_SIDES = frozenset(("max", "min", "amax", "amin"))


@transfer(Kind.POOL)
def pool(walk: Walk, node: fx.Node) -> Any:
    """Averages lose what differs between positions; maxima shift the distribution."""
    value = data(walk, node)
    module, name = walk.graph.module(node), op_name(node).lower()
    shapes = [t.shape for t in _outputs(node)]
    if not shapes or "lppool" in name or "lp_pool" in name:
        raise Unknown
    shape = tuple(shapes[0])
    dims = next((d for d in (1, 2, 3) if f"{d}d" in name), len(shape) - 2)
    value = collapsed(value, range(len(shape) - dims, len(shape)))
    kernel, stride = _window(module, node, value.shape[-dims:], shape[-dims:], adaptive="adaptive" in name)
    covered = _covered(kernel, stride, value.shape[-dims:], shape[-dims:])
    overlap, strides = 1.0, 1.0
    for k, s in zip(kernel, stride, strict=True):
        overlap, strides = overlap * _overlap(k, s), strides * s
    if "max" in name:
        made = _maximum(value, covered)
        made.area = max(overlap, value.area / strides, 1.0)
        walk.scale(node, node.all_input_nodes[0], 1.0)
    else:
        left, fixed, common, area = averaging(value, covered, strides)
        made = value.like(value.mean, value.variance * left)
        made.fixed, made.common, made.area = fixed, common, max(area, overlap)
        walk.scale(node, node.all_input_nodes[0], 1 / max(covered, 1))
    made.shape = shape
    return (made, None) if len(shapes) > 1 or isinstance(node.meta.get("val"), (tuple, list)) else made


@transfer(Kind.REDUCE)
def reduce(walk: Walk, node: fx.Node) -> Any:
    """Means, sums, extremes and measures of spread along axes."""
    value, name = data(walk, node), op_name(node)
    if name in ("var_mean", "std_mean"):
        return _pair(walk, node, value, name)
    if name not in ("mean", "sum", "var", "std", "norm", "vector_norm", *_RANDOM_SIDES):
        raise Unknown
    if name in ("max", "min") and len(node.all_input_nodes) > 1:
        raise Unknown
    ndim = len(value.shape)
    dims, keep = _axes(node, ndim), bool(argument(node, 2, "keepdim", False))
    if name in ("norm", "vector_norm", "var", "std"):
        keep = bool(node.kwargs.get("keepdim", argument(node, 3, "keepdim", False)))
        dims = _axes_of(node.kwargs.get("dim", argument(node, 1 if name in ("var", "std") else 2, "dim")), ndim)
    count = math.prod(value.shape[d] for d in dims)
    if name == "mean":
        made = _average(walk, node, value, dims, 1.0, count)
    elif name == "sum":
        made = _average(walk, node, value, dims, float(count), count)
    elif name in _RANDOM_SIDES:
        merged = collapsed(value, dims)
        made = _maximum(merged, count) if "max" in name else _negative(_maximum(_negative(merged), count))
        walk.scale(node, node.all_input_nodes[0], 1.0)
    else:
        made = _size(walk, node, value, dims, name, count)
    shown = _dropped(made, dims, keep=keep, shape=walk.graph.shape(node))
    return (shown, None) if name in ("max", "min") and isinstance(node.meta.get("val"), (tuple, list)) else shown


def _pair(walk: Walk, node: fx.Node, value: Value, name: str) -> tuple[Value, Value]:
    """A measure of spread and the mean, both along the same axes."""
    dims = _axes_of(node.kwargs.get("dim", argument(node, 1, "dim")), len(value.shape))
    shapes = [tuple(t.shape) for t in _outputs(node)]
    count, keep = math.prod(value.shape[d] for d in dims), len(shapes[0]) == len(value.shape)
    size = _size(walk, node, value, dims, name.removesuffix("_mean"), count)
    mean = _average(walk, node, value, dims, 1.0, count)
    return _dropped(size, dims, keep=keep, shape=shapes[0]), _dropped(mean, dims, keep=keep, shape=shapes[1])


def _average(walk: Walk, node: fx.Node, value: Value, dims: list[int], factor: float, count: int) -> Value:
    """Features are independent of each other, positions as far as their shares say."""
    positions, features = value.along(dims)
    left, fixed, common, area = averaging(value, positions, positions)
    mean = value.mean.mean(dims, keepdim=True)
    variance = value.variance.mean(dims, keepdim=True) / features * left
    walk.scale(node, node.all_input_nodes[0], factor**2 / count)
    made = value.like(mean * factor, variance * factor**2, value.shape)
    made.fixed, made.common, made.area, made.sums_to_one = fixed, common, area, False
    return made


def _size(walk: Walk, node: fx.Node, value: Value, dims: list[int], name: str, count: int) -> Value:
    """Standard deviations, variances and norms: nearly the same number for every sample."""
    power = (value.variance + value.mean.square()).mean(dims, keepdim=True)
    if name in ("var", "std"):
        power = power - value.mean.mean(dims, keepdim=True).square()
    else:
        power = power * count
    found = power if name == "var" else power.clamp(min=0).sqrt()
    walk.scale(node, node.all_input_nodes[0], 1 / count if name != "var" else 4 * float(power.mean()) / count)
    return value.like(found, found.square() * (0.5 / max(count, 2)), value.shape)


def _dropped(value: Value, dims: list[int], *, keep: bool, shape: tuple[int, ...]) -> Value:
    if keep:
        value.shape = shape
        return value
    layout = [f for d, f in enumerate(value.features) if d not in dims]
    made = Value(value.grid.reshape(len(POINTS), *layout), shape, object())
    return made.shared_like(value)


def _maximum(value: Value, count: float) -> Value:
    """The largest of independent entries: the quantile u of the maximum is the quantile u^(1/n) of one."""
    count = max(1.0, count / max(1.0, value.area**0.5))
    upper = -torch.expm1(torch.special.log_ndtr(POINTS) / count)  # exact in the upper tail, where maxima live
    moved = -torch.special.ndtri(upper.clamp(1e-300, 1 - 1e-16))
    grid = value.grid.sort(0).values
    at = ((moved - POINTS[0]) / (POINTS[1] - POINTS[0])).clamp(0, len(POINTS) - 1)
    low = at.floor().long().clamp(max=len(POINTS) - 2)
    part = (at - low).reshape(-1, *(1,) * (grid.ndim - 1))
    made = Value(grid[low] * (1 - part) + grid[low + 1] * part, value.shape, object())
    return made.shared_like(value)


def _negative(value: Value) -> Value:
    made = Value(-value.grid, value.shape, object())
    return made.shared_like(value)


@transfer(Kind.RESIZE)
def resize(walk: Walk, node: fx.Node) -> Value:
    """Interpolation: nearest copies positions, the others average neighbours."""
    value, shape = data(walk, node), walk.graph.shape(node)
    if op_name(node) == "grid_sample":
        raise Unknown
    module = walk.graph.module(node)
    mode = getattr(module, "mode", None) if module is not None else argument(node, 3, "mode", "nearest")
    scale = math.prod(shape[2:]) / max(math.prod(value.shape[2:]), 1)
    value = collapsed(value, range(2, len(value.features)))
    walk.scale(node, node.all_input_nodes[0], scale)
    dims = len(shape) - 2
    made = value.like(value.mean, value.variance, shape)
    if "nearest" not in str(mode) and scale > 1:
        smooth = (2 / 3) ** dims
        kept = value.common + (1 - value.common) * (smooth + (1 - smooth) * (1 - 1 / value.area))
        made = value.like(value.mean, value.variance * (value.fixed + (1 - value.fixed) * kept), shape)
    made.area = max(1.0, value.area * scale)
    return made


@transfer(Kind.PAD)
def pad(walk: Walk, node: fx.Node) -> Value:
    """Zeros at the border pull the means down; reflections and copies change nothing."""
    value, shape, module = data(walk, node), walk.graph.shape(node), walk.graph.module(node)
    grown = [d for d, (a, b) in enumerate(zip(shape, value.shape, strict=True)) if a != b]
    mode = argument(node, 2, "mode", "constant") if module is None else type(module).__name__.lower()
    filled = argument(node, 3, "value", 0) if module is None else getattr(module, "value", 0)
    if any(value.features[d] > 1 for d in grown):
        value = collapsed(value, grown)
    if ("constant" not in str(mode) and "zero" not in str(mode)) or filled:
        return value.like(value.mean, value.variance, shape)
    kept = min(1.0, math.prod(value.shape) / max(math.prod(shape), 1))
    born = value.mean.square() * kept * (1 - kept)
    made = value.like(value.mean * kept, value.variance * kept + born, shape)
    if made.noise > 0:
        made.fixed = (value.noise * kept * value.fixed + float(born.mean())) / made.noise
    return made


def _outputs(node: fx.Node) -> list[torch.Tensor]:
    found = node.meta.get("val")
    return [found] if isinstance(found, torch.Tensor) else [t for t in found or () if isinstance(t, torch.Tensor)]


def _window(
    module: nn.Module | None, node: fx.Node, before: tuple[int, ...], after: tuple[int, ...], *, adaptive: bool
) -> tuple[list[float], list[float]]:
    """Kernel and stride along every pooled axis."""
    if adaptive or (module is not None and not hasattr(module, "kernel_size")):
        sizes = [b / max(a, 1) for b, a in zip(before, after, strict=True)]
        return sizes, sizes

    def each(option: Any) -> list[float]:
        option = option if isinstance(option, (tuple, list)) else [option]
        return [float(o) for o in option] if len(option) > 1 else [float(option[0])] * len(before)

    if module is not None:
        kernel, stride = module.kernel_size, getattr(module, "stride", None)
    else:
        kernel, stride = argument(node, 1, "kernel_size"), argument(node, 2, "stride")
    sizes = each(kernel)
    return sizes, each(stride) if stride not in (None, (), []) else sizes


def _covered(kernel: list[float], stride: list[float], before: tuple[int, ...], after: tuple[int, ...]) -> float:
    """How many entries a window holds, on average over the windows; borders hold fewer."""
    total = 1.0
    for k, s, b, a in zip(kernel, stride, before, after, strict=True):
        reach = (a - 1) * s + k
        border = max(0.0, reach - b)
        total *= max(1.0, min(k, k - border / max(a, 1)))
    return total


def _overlap(kernel: float, stride: float) -> float:
    """How many neighbouring windows an entry is in."""
    steps = range(1, math.ceil(kernel / stride) + 1)
    return 1 + 2 * sum(max(0.0, 1 - j * stride / kernel) for j in steps)


def _axes(node: fx.Node, ndim: int) -> list[int]:
    dim = argument(node, 1, "dim", node.kwargs.get("axis"))
    return _axes_of(dim if not isinstance(dim, fx.Node) else None, ndim)


def _axes_of(dim: Any, ndim: int) -> list[int]:
    if dim is None or dim in ((), []):
        return list(range(ndim))
    dims = dim if isinstance(dim, (tuple, list)) else (dim,)
    return [int(d) % ndim for d in dims]
