"""Layers with weights: linear, convolutions of every kind, bilinear, embeddings."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn

from bnlint.graph.ops import Kind, argument
from bnlint.signal.transfer.base import Unknown, data, transfer
from bnlint.signal.value import MOST, WEIGHTS, Value, collapsed, gaussian, settled, uniform

if TYPE_CHECKING:
    from bnlint.signal.predict import Walk

_ROWS = 1 << 18  # entries of a weight squared at a time
_TABLE = 1 << 22  # entries of an embedding that are looked at


@transfer(Kind.LINEAR)
def linear(walk: Walk, node: fx.Node) -> Value:
    """Every output feature is a weighted sum of the input's features."""
    return apply_linear(walk, node, data(walk, node), *_parameters(walk, node))


def apply_linear(walk: Walk, node: fx.Node, value: Value, weight: torch.Tensor, bias: torch.Tensor | None) -> Value:
    """The value of `x @ weight.T + bias`."""
    if weight.ndim != 2 or value.shape[-1] != weight.shape[1]:
        raise Unknown
    if math.prod(value.features[:-1]) * max(weight.shape) > MOST:
        value = collapsed(value, range(len(value.features) - 1))
    if value.along(range(1, len(value.shape)))[0] == 1:
        value = settled(value)
    mean, variance = weighted(weight, value.mean, value.variance)
    if bias is not None:
        mean = mean + bias.detach().double()
    made = value.like(mean, variance, (*value.shape[:-1], weight.shape[0]))
    walk.scale(node, node.all_input_nodes[0], _power(weight) * weight.shape[1])
    return made


@transfer(Kind.BILINEAR)
def bilinear(walk: Walk, node: fx.Node) -> Value:
    """A product of two inputs behind a weight each."""
    weight, _ = _parameters(walk, node)
    values = [walk.value(n) for n in node.all_input_nodes[:2]]
    a, b = (v for v in values if v is not None)
    noise = a.power * b.power - float(a.mean.mean()) ** 2 * float(b.mean.mean()) ** 2
    scale = _power(weight) * weight[0].numel()
    for source, other in zip(node.all_input_nodes[:2], (b, a), strict=True):
        walk.scale(node, source, _power(weight) * weight[0].numel() * other.power)
    return uniform(0.0, scale * noise, walk.graph.shape(node))


@transfer(Kind.EMBEDDING)
def embedding(walk: Walk, node: fx.Node) -> Value:
    """Samples draw rows of the table at random; with known indices the rows are a pattern all samples share."""
    module = walk.graph.module(node)
    found = walk.graph.weight(node)
    weight = found[1] if found is not None else None
    for source in node.all_input_nodes:
        known = walk.constants.get(source)
        if weight is None and known is not None and known.is_floating_point() and known.ndim == 2:
            weight = known
    if weight is None or weight.is_meta:
        raise Unknown
    rows = (
        weight.detach().double() if weight.numel() < _TABLE else weight.detach()[: _TABLE // weight.shape[1]].double()
    )
    shape = walk.graph.shape(node)
    layout = (1,) * (len(shape) - 1) + (-1,)
    made = gaussian(rows.mean(0).reshape(layout), rows.var(0, correction=0).reshape(layout), shape)
    indices = node.all_input_nodes[0]
    if module is not None and walk.constants.get(indices) is not None:
        made.fixed = 1.0
    return made


@transfer(Kind.CONV, Kind.CONV_TRANSPOSE)
def convolution(walk: Walk, node: fx.Node) -> Value:
    """Like a linear layer over channels and taps; taps that fall into padding give nothing there."""
    value = data(walk, node)
    weight, bias = _parameters(walk, node)
    if weight.is_meta or len(value.shape) != weight.ndim:
        raise Unknown
    value = collapsed(value, [d for d in range(len(value.features)) if d != 1])
    form = _form(walk, node, weight)
    shape = walk.graph.shape(node)
    inside = [_taps(shape[2 + d], value.shape[2 + d], weight.shape[2 + d], form, d) for d in range(weight.ndim - 2)]
    channels = value.shape[1]
    mean = value.mean.reshape(-1).expand(channels) if value.features[1] == 1 else value.mean.reshape(-1)
    variance = value.variance.reshape(-1).expand(channels) if value.features[1] == 1 else value.variance.reshape(-1)
    grouped = _grouped(weight, form.groups, transposed=form.transposed)  # groups x out x in x taps
    reached = _outer([v.double().mean(0) for v in inside]).reshape(-1)
    means, variances, patterns = [], [], []
    pairs = _covariance(inside)
    scale = float(variance.max()) or 1.0
    for rows, m, v in _chunks(grouped, mean, variance / scale):
        taps, squares = _sums(rows, m, v, alike=value.features[1] == 1)
        means.append(taps @ reached)
        variances.append(squares @ reached * scale)
        patterns.append(((taps @ pairs) * taps).sum(1).clamp(min=0))
    total, born = torch.cat(variances), torch.cat(patterns)
    centre = torch.cat(means) + (bias.detach().double() if bias is not None else 0.0)
    layout = (1, -1, *(1,) * (weight.ndim - 2))
    made = value.like(centre.reshape(layout), (total + born).reshape(layout), shape)
    inherited, noise = float(total.mean()) * value.fixed, made.noise
    made.fixed = (inherited + float(born.mean())) / noise if noise > 0 else 0.0
    steps = math.prod(form.stride)
    made.area = 1 + (value.area - 1) / (1 if form.transposed else steps)
    made.ripple = (1 + _excess_kurtosis(value) / 2) * _shared(weight, form)
    walk.scale(node, node.all_input_nodes[0], _power(weight) * weight.numel() / shape[1] * float(reached.mean()))
    return made


def _sums(
    rows: torch.Tensor, mean: torch.Tensor, variance: torch.Tensor, *, alike: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Per output and tap, the sum over the inputs of weight times mean, and of weight squared times variance."""
    if alike:  # all inputs have the same moments
        taps = rows.sum(2) * mean[:, :1, None]
        squares = torch.linalg.vector_norm(rows, dim=2).square() * variance[:, :1, None]
    else:
        taps = torch.einsum("goit,gi->got", rows, mean)
        squares = torch.einsum("goit,gi->got", rows.square(), variance)
    return taps.double().flatten(0, 1), squares.double().flatten(0, 1)


@dataclass(frozen=True)
class _Form:
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    transposed: bool
    zeros: bool  # what padding is filled with


def _form(walk: Walk, node: fx.Node, weight: torch.Tensor) -> _Form:
    module, dims = walk.graph.module(node), weight.ndim - 2
    transposed = walk.graph.kind(node) is Kind.CONV_TRANSPOSE
    options: list[Any]
    if isinstance(module, nn.modules.conv._ConvNd):
        options, groups = [module.stride, module.padding, module.dilation], module.groups
    else:
        places = (3, "stride", 1), (4, "padding", 0), (7 if transposed else 5, "dilation", 1)
        options, groups = [argument(node, *place) for place in places], int(argument(node, 6, "groups", 1))

    def each(option: Any) -> tuple[int, ...]:
        row = tuple(option) if isinstance(option, (tuple, list)) else (option,)
        return tuple(int(o) for o in (row * dims if len(row) == 1 else row))

    stride, padding, dilation = options
    if isinstance(padding, str):
        same = padding == "same"
        padding = [d * (k - 1) // 2 * same for d, k in zip(each(dilation), weight.shape[2:], strict=True)]
    zeros = getattr(module, "padding_mode", "zeros") == "zeros"
    return _Form(each(stride), each(padding), each(dilation), groups, transposed, zeros)


def _taps(outputs: int, inputs: int, kernel: int, form: _Form, d: int) -> torch.Tensor:
    """Which taps of the kernel meet an input, for every output position along one axis."""
    stride, padding, dilation = form.stride[d], form.padding[d], form.dilation[d]
    where, tap = torch.arange(outputs)[:, None], torch.arange(kernel)[None, :]
    if form.transposed:
        reached = where + padding - tap * dilation
        return (reached % stride == 0) & (reached >= 0) & (reached // stride < inputs)
    if not form.zeros:
        return torch.ones(outputs, kernel, dtype=torch.bool)
    reached = where * stride - padding + tap * dilation
    return (reached >= 0) & (reached < inputs)


def _shared(weight: torch.Tensor, form: _Form) -> float:
    """The expected sum of squares of the correlations that shared inputs give an output's neighbours.

    For random weights of n terms it is the number of pairs of different taps that meet on one input, over n (n + 2).
    """
    kernel = weight.shape[2:]
    terms = math.prod(kernel) * weight.shape[0 if form.transposed else 1] / (form.groups if form.transposed else 1)
    pairs = 1
    for size, stride, dilation in zip(kernel, form.stride, form.dilation, strict=True):
        step = 1 if form.transposed else stride // math.gcd(stride, dilation)
        pairs *= sum((1 if lag == 0 else 2) * (size - lag) for lag in range(0, size, step))
    channels = terms / math.prod(kernel)
    return channels * (pairs - math.prod(kernel)) / (terms * (terms + 2))


def _excess_kurtosis(value: Value) -> float:
    """Of the features' distributions: heavy tails make neighbours that share few inputs large at the same time."""
    fourth = torch.tensordot(WEIGHTS, (value.grid - value.mean).pow(4), dims=1).mean()
    spread = value.variance.square().mean()
    return float(fourth / spread) - 3 if spread > 0 else 0.0


def _outer(rows: list[torch.Tensor]) -> torch.Tensor:
    found = rows[0]
    for row in rows[1:]:
        found = found.unsqueeze(-1) * row
    return found


def _covariance(inside: list[torch.Tensor]) -> torch.Tensor:
    """How the presence of two taps varies together over positions."""
    both = torch.ones(1, 1, dtype=torch.float64)
    each = torch.ones(1, dtype=torch.float64)
    for valid in (v.double() for v in inside):
        both = torch.kron(both, valid.T @ valid / len(valid))
        each = torch.kron(each, valid.mean(0))
    return both - each[:, None] * each[None, :]


def _grouped(weight: torch.Tensor, groups: int, *, transposed: bool) -> torch.Tensor:
    weight = weight.detach()
    if transposed:
        inputs, outputs = weight.shape[0] // groups, weight.shape[1]
        return weight.reshape(groups, inputs, outputs, -1).transpose(1, 2)
    return weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)


def _chunks(
    grouped: torch.Tensor, mean: torch.Tensor, variance: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Parts of a weight (groups x out x in x taps) that squares fit beside, with their inputs' moments."""
    groups, outputs, inputs = grouped.shape[:3]
    dtype = grouped.dtype if grouped.dtype in (torch.float32, torch.float64) else torch.float32
    many = max(1, _ROWS // max(grouped[0].numel(), 1))
    few = max(1, _ROWS // max(grouped[0, 0].numel(), 1)) if many == 1 else outputs
    for g in range(0, groups, many):
        m, v = (x.reshape(groups, inputs)[g : g + many].to(dtype) for x in (mean, variance))
        for start in range(0, outputs, few):
            yield grouped[g : g + many, start : start + few].to(dtype), m, v


def weighted(weight: torch.Tensor, mean: torch.Tensor, variance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Means and variances of weighted sums over the last axis; variances scaled so that float32 holds them."""
    width = weight.shape[1]
    mean, variance = (v.expand(*v.shape[:-1], width) for v in (mean, variance))
    scale = float(variance.max()) or 1.0
    means, variances = [], []
    dtype = weight.dtype if weight.dtype in (torch.float32, torch.float64) else torch.float32
    few = max(1, _ROWS // width)
    for start in range(0, len(weight), few):
        rows = weight.detach()[start : start + few].to(dtype)
        means.append(mean.to(dtype) @ rows.T)
        variances.append((variance / scale).to(dtype) @ rows.square().T)
    return torch.cat(means, -1).double(), torch.cat(variances, -1).double() * scale


def _power(tensor: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor.detach(), dtype=torch.float32)) ** 2 / max(tensor.numel(), 1)


def _parameters(walk: Walk, node: fx.Node) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The weight and bias of a layer, or of a function called with known tensors."""
    module, found = walk.graph.module(node), walk.graph.weight(node)
    if module is not None:
        bias = getattr(module, "bias", None)
        weight = found[1] if found is not None else None
    else:
        given = [argument(node, 1, "weight"), argument(node, 2, "bias")]
        weight, bias = (walk.constants.get(n) if isinstance(n, fx.Node) else None for n in given)
    if weight is None or weight.is_meta or not weight.is_floating_point():
        raise Unknown
    return weight, bias if isinstance(bias, torch.Tensor) else None
