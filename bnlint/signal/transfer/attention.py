"""Softmax, products of two values, and attention layers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn

from bnlint.graph.heads import softmax_axis
from bnlint.graph.ops import Kind, argument, op_name
from bnlint.signal.transfer.base import Unknown, data, transfer
from bnlint.signal.transfer.layers import apply_linear
from bnlint.signal.value import MOST, Value, collapsed, gaussian, uniform

if TYPE_CHECKING:
    from bnlint.signal.predict import Walk


@transfer(Kind.SOFTMAX)
def softmax(walk: Walk, node: fx.Node) -> Value:
    """Weights around 1/n; how uneven they are follows from the spread of the logits along the axis."""
    value, axis = data(walk, node), softmax_axis(walk.graph, node)
    if axis is None:
        raise Unknown
    count = value.shape[axis]
    if op_name(node).lower() in ("log_softmax", "logsoftmax"):
        return value.like(value.mean - value.mean.mean() - math.log(max(count, 1)), value.variance)
    squares = _squares(value, axis, count)
    mean = torch.full((1,) * len(value.shape), 1 / count, dtype=torch.float64)
    walk.scale(node, node.all_input_nodes[0], squares / count)
    made = value.like(mean, torch.full_like(mean, max(squares / count - 1 / count**2, 0.0)))
    made.sums_to_one = True
    return made


def _squares(value: Value, axis: int, count: int) -> float:
    """The expected sum of squared weights of a softmax over normal logits."""
    apart = value.mean - value.mean.mean(axis, keepdim=True)
    spread = value.noise * (1 - (1 - value.fixed) * value.common) + float(apart.square().mean())
    return min(1.0, math.exp(min(spread, 50.0)) / count)


@transfer(Kind.MATMUL)
def matmul(walk: Walk, node: fx.Node) -> Value:
    """A product with a known matrix is a linear layer; one of two values is a sum of independent products."""
    name = op_name(node)
    if name in ("addmm", "baddbmm", "addbmm", "tensordot", "outer", "mv", "dot", "inner"):
        return _addmm(walk, node) if name == "addmm" else _general(walk, node, None)
    if name == "einsum":
        return _einsum(walk, node)
    a, b = node.args[:2]
    known = walk.constants.get(b) if isinstance(b, fx.Node) else None
    if known is not None and known.ndim == 2:
        return apply_linear(walk, node, _of(walk, a), known.T, None)
    return _product(walk, node, _of(walk, a), _of(walk, b))


def _of(walk: Walk, source: Any) -> Value:
    found = walk.value(source)
    if found is None:
        raise Unknown
    return found


def _addmm(walk: Walk, node: fx.Node) -> Value:
    bias, x, weight = (node.args[i] for i in range(3))
    known = walk.constants.get(weight) if isinstance(weight, fx.Node) else None
    if known is None:
        raise Unknown
    made = apply_linear(
        walk, node, _of(walk, x), known.T, walk.constants.get(bias) if isinstance(bias, fx.Node) else None
    )
    walk.factors[node] = {x: walk.factors[node].popitem()[1]} if isinstance(x, fx.Node) else {}
    return made


def _product(walk: Walk, node: fx.Node, a: Value, b: Value) -> Value:
    """`a @ b`, features kept apart where they are."""
    shape, size = walk.graph.shape(node), a.shape[-1]
    if min(len(a.shape), len(b.shape)) < 2:
        return _general(walk, node, size)
    width = max(a.features[-1], b.features[-2])
    if math.prod(a.features[:-1]) * math.prod(b.features[-1:]) * width > MOST * 64:
        a = collapsed(a, range(len(a.features)))
        width = max(a.features[-1], b.features[-2])
    am, av = (t.expand(*t.shape[:-1], width) for t in (a.mean, a.variance))
    bm, bv = (t.expand(*t.shape[:-2], width, t.shape[-1]) for t in (b.mean, b.variance))
    times = size / width
    mean = am @ bm * times
    if a.sums_to_one:
        return _attended(walk, node, a, b, mean)
    variance = (av @ bv + av @ bm.square() + am.square() @ bv) * times
    if b.constant and float(bm.abs().max()) > 0:
        variance = am.square() @ bv * times + av @ bm.square() * times
    made = gaussian(mean, variance, shape)
    made.certain = a.certain and b.certain
    for source, other, outputs in ((node.args[0], b, shape[-1]), (node.args[1], a, shape[-2])):
        walk.scale(node, source, other.power * outputs)  # type: ignore[arg-type]
    return made


def _attended(walk: Walk, node: fx.Node, weights: Value, value: Value, mean: torch.Tensor) -> Value:
    """An average over positions with weights that sum to one."""
    squares = min(1.0, weights.power * weights.shape[-1])
    made = averaged(value, squares, weights.shape[-1], walk.graph.shape(node))
    made.certain = made.certain and weights.certain
    walk.scale(node, node.args[1], squares * walk.graph.shape(node)[-2] / max(value.shape[-2], 1))  # type: ignore[arg-type]
    walk.scale(node, node.args[0], value.noise * walk.graph.shape(node)[-1])  # type: ignore[arg-type]
    return made


def averaged(value: Value, squares: float, count: int, shape: tuple[int, ...]) -> Value:
    """The average of positions with weights of which the squares sum to `squares`."""
    kept = value.common + (1 - value.common) * min(1.0, squares * value.area)
    even = value.common + (1 - value.common) * min(1.0, value.area / max(count, 1))
    moving, fixed = (1 - value.fixed) * kept, value.fixed * max(squares - 1 / max(count, 1), 0.0)
    left = moving + fixed
    merged = collapsed(value, [d for d in range(len(value.features)) if d == len(value.features) - 2])
    made = merged.like(merged.mean, merged.variance * left, shape)
    made.fixed = fixed / left if left > 0 else 0.0
    made.common, made.area = even / kept if kept > 0 else 0.0, 1.0
    return made


def _general(walk: Walk, node: fx.Node, size: int | None) -> Value:
    """Any other product: all entries alike."""
    found = [v for n in node.all_input_nodes[:2] if (v := walk.value(n)) is not None]
    if len(found) != 2 or size is None:
        raise Unknown
    a, b = found
    means = float(a.mean.mean()) * float(b.mean.mean())
    return uniform(means * size, max(a.power * b.power - means**2, 0.0) * size, walk.graph.shape(node))


def _einsum(walk: Walk, node: fx.Node) -> Value:
    """Two operands: rewritten as a matrix product of the last axes where the pattern allows, else all entries alike."""
    equation = str(node.args[0]).replace(" ", "")
    operands = list(node.all_input_nodes)
    if "->" not in equation or "..." in equation or len(operands) != 2:
        raise Unknown
    left, right = equation.split("->")
    first, second = left.split(",")
    a, b = (_of(walk, n) for n in operands)
    summed = [c for c in first if c in second and c not in right]
    size = math.prod(a.shape[first.index(c)] for c in summed)
    shape = walk.graph.shape(node)
    if a.sums_to_one and len(summed) == 1:
        squares = min(1.0, a.power * size)
        merged = collapsed(b, [d for d, c in enumerate(second) if c not in right])
        order = [second.index(c) if c in second else None for c in right]
        layout = [merged.features[d] if d is not None else 1 for d in order]
        dims = [d for d in order if d is not None]
        rest = [d for d in range(len(second)) if d not in dims]
        mean, variance = (t.permute(*rest, *dims).reshape(layout) for t in (merged.mean, merged.variance))
        return averaged(merged.like(mean, variance, shape), squares, size, shape)
    means = float(a.mean.mean() * b.mean.mean())
    noise = a.noise * b.noise + a.noise * float(b.mean.square().mean()) + b.noise * float(a.mean.square().mean())
    for source, other in zip(operands, (b, a), strict=True):
        walk.scale(node, source, other.power * math.prod(shape) * size / max(math.prod(_of(walk, source).shape), 1))
    made = uniform(means * size, noise * size, shape)
    made.certain = a.certain and b.certain
    return made


@transfer(Kind.ATTENTION)
def attention(walk: Walk, node: fx.Node) -> Any:
    """Scaled dot products of functions, and `nn.MultiheadAttention` with its projections."""
    module = walk.graph.module(node)
    if isinstance(module, nn.MultiheadAttention):
        return (_multihead(walk, node, module), None)
    if op_name(node) != "scaled_dot_product_attention":
        raise Unknown
    query, key, value = (_of(walk, argument(node, i, name)) for i, name in enumerate(("query", "key", "value")))
    width, count = query.shape[-1], key.shape[-2]
    scale: Any = node.kwargs.get("scale") or width**-0.5
    logits = float(scale) ** 2 * width * (query.power * key.noise)
    squares = min(1.0, math.exp(min(logits, 50.0)) / count)
    shape = walk.graph.shape(node)
    walk.scale(node, argument(node, 2, "value"), squares * query.shape[-2] / max(count, 1))
    walk.scale(node, argument(node, 0, "query"), 0.0)
    walk.scale(node, argument(node, 1, "key"), 0.0)
    return averaged(value, squares, count, shape)


def _multihead(walk: Walk, node: fx.Node, module: nn.MultiheadAttention) -> Value:
    inputs = [_of(walk, argument(node, i, name)) for i, name in enumerate(("query", "key", "value"))]
    return attend(walk, node, module, *inputs)


def attend(walk: Walk, node: fx.Node, module: nn.MultiheadAttention, query: Value, key: Value, value: Value) -> Value:
    """Projections, softmax and output projection of a multi-head attention layer."""
    weights: list[torch.Tensor] = (
        list(module.in_proj_weight.chunk(3))
        if module.in_proj_weight is not None
        else [module.q_proj_weight, module.k_proj_weight, module.v_proj_weight]
    )
    biases: list[Any] = list(module.in_proj_bias.chunk(3)) if module.in_proj_bias is not None else [None] * 3
    q, k, v = (apply_linear(walk, node, x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True))
    axis = -2 if module.batch_first or len(key.shape) == 2 else 0
    count = key.shape[axis]
    squares = min(1.0, math.exp(min(q.power * k.noise, 50.0)) / count)
    middle = averaged(v, squares, count, (*query.shape[:-1], v.shape[-1]))
    made = apply_linear(walk, node, middle, module.out_proj.weight, module.out_proj.bias)
    made.shape = query.shape
    walk.factors[node] = dict.fromkeys(node.all_input_nodes, 0.0)
    source = (
        argument(node, 2, "value") if argument(node, 2, "value") in node.all_input_nodes else node.all_input_nodes[0]
    )
    powers = [float(w.detach().double().square().mean()) * w.shape[1] for w in (weights[2], module.out_proj.weight)]
    walk.scale(node, source, math.prod(powers) * squares * query.shape[axis] / max(count, 1))
    return made
