"""Elementwise ops: run on the quadrature grid when one random variable is behind all operands, else by moments."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn
from torch.nn import functional

from bnlint.graph.activations import activation_name
from bnlint.graph.ops import Kind, argument, op_name
from bnlint.signal.transfer.base import Unknown, data, transfer
from bnlint.signal.value import POINTS, WEIGHTS, Value, comparable, gaussian, shares, uniform

if TYPE_CHECKING:
    from bnlint.graph.model import Graph
    from bnlint.signal.predict import Walk

_RANDOM_FACTORIES = {"randn": (0.0, 1.0), "randn_like": (0.0, 1.0), "rand": (0.5, 1 / 12), "rand_like": (0.5, 1 / 12)}
_QUIET = frozenset(("masked_fill", "tril", "triu", "masked_scatter", "index_fill"))


@transfer(Kind.INPUT)
def model_input(walk: Walk, node: fx.Node) -> Any:
    """Floating inputs are standard normal; integers have no distribution."""
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor):
        raise Unknown
    return uniform(0.0, 1.0, walk.graph.shape(node)) if value.is_floating_point() else None


@transfer(Kind.FACTORY)
def factory(walk: Walk, node: fx.Node) -> Any:
    """Random numbers; what is constant was evaluated before."""
    name, shape = op_name(node), walk.graph.shape(node)
    if name == "bernoulli":
        chance = argument(node, 1, "p", 0.5)
        return uniform(float(chance), float(chance) * (1 - float(chance)), shape)
    if name not in _RANDOM_FACTORIES:
        raise Unknown
    return uniform(*_RANDOM_FACTORIES[name], shape)


@transfer(Kind.ACTIVATION)
def activation(walk: Walk, node: fx.Node) -> Value:
    """The nonlinearity itself, on the grid."""
    name = activation_name(walk.graph, node) or op_name(node)
    if name == "glu":
        return _glu(walk, node)
    return _on_grid(walk, node)


@transfer(Kind.DROPOUT)
def dropout(walk: Walk, node: fx.Node) -> Value:
    """Layers are quiet in the probe, and here; the function drops in any mode it is told to."""
    value = data(walk, node)
    chance, training = argument(node, 1, "p", 0.5), argument(node, 2, "training", True)
    if node.op == "call_module" or not training or not chance:
        return value
    walk.scale(node, node.all_input_nodes[0], 1 / (1 - chance) if chance < 1 else 0.0)
    extra = (value.variance + value.mean.square()) * chance / (1 - chance) if chance < 1 else -value.variance
    return value.like(value.mean, value.variance + extra)


@transfer(Kind.ADD)
def add(walk: Walk, node: fx.Node) -> Value:
    """A sum of independent values adds means and variances."""
    found = [walk.value(n) for n in node.args[:2]]
    name = op_name(node)
    if name in ("addcmul", "addcdiv", "lerp"):
        return _on_grid(walk, node)
    if None in found and any(isinstance(a, fx.Node) and v is None for a, v in zip(node.args[:2], found, strict=False)):
        raise Unknown
    moving = _random(walk, node)
    if len(moving) <= 1 or len({id(v.base) for v in moving}) == 1:
        return _on_grid(walk, node)
    alpha = argument(node, 2, "alpha", 1)
    factor = (alpha if isinstance(alpha, (int, float)) else 1) * (1 if name in ("add", "iadd") else -1)
    for source in node.all_input_nodes:
        walk.scale(node, source, float(factor) ** 2 if source is node.args[1] else 1.0)
    a, b = comparable((v for v in found if v is not None), len(walk.graph.shape(node)))
    mean, variance = a.mean + factor * b.mean, a.variance + factor**2 * b.variance
    return _joined(walk, node, [a, b], [a.noise, factor**2 * b.noise], mean, variance)


@transfer(Kind.MUL)
def mul(walk: Walk, node: fx.Node) -> Value:
    """A product; of independent values by their moments."""
    found = [walk.value(n) for n in node.args[:2]]
    if any(isinstance(a, fx.Node) and v is None for a, v in zip(node.args[:2], found, strict=False)):
        raise Unknown
    moving = _random(walk, node)
    divides = op_name(node) in ("div", "truediv", "true_divide", "divide", "floor_divide")
    if len(moving) <= 1 or len({id(v.base) for v in moving}) == 1:
        return _on_grid(walk, node)
    a, b = comparable((v for v in found if v is not None), len(walk.graph.shape(node)))
    if divides:
        b = _inverse(b)
    walk.scale(node, node.args[0], b.power)  # type: ignore[arg-type]
    walk.scale(node, node.args[1], a.power)  # type: ignore[arg-type]
    variance = a.variance * b.variance + a.variance * b.mean.square() + a.mean.square() * b.variance
    return _joined(walk, node, *_factors(a, b, walk.graph.shape(node)), a.mean * b.mean, variance)


@transfer(Kind.ELEMENTWISE)
def elementwise(walk: Walk, node: fx.Node) -> Any:
    """Other elementwise ops; those that mask pass their first input on."""
    value = node.meta.get("val")
    if isinstance(value, torch.Tensor) and not value.is_floating_point():
        return None
    name = op_name(node)
    if name in _QUIET:
        return data(walk, node)
    if name in ("maximum", "minimum", "where", "neg", "clamp_", "exp2", "nan_to_num"):
        return _on_grid(walk, node)
    if name in ("zero", "fill"):
        return uniform(float(argument(node, 1, "value", 0.0)) if name == "fill" else 0.0, 0.0, walk.graph.shape(node))
    if name == "normalize":
        return _normalize(walk, node)
    raise Unknown


def _normalize(walk: Walk, node: fx.Node) -> Value:
    value, dim = data(walk, node), argument(node, 2, "dim", 1)
    size = value.shape[dim]
    power = (value.variance + value.mean.square()).mean(dim, keepdim=True)
    scale = (power * size).clamp(min=1e-24).rsqrt()
    walk.scale(node, node.all_input_nodes[0], float(scale.square().mean()))
    made = value.like(value.mean * scale, value.variance * scale.square())
    made.certain = True
    return made


def _random(walk: Walk, node: fx.Node) -> list[Value]:
    found = [walk.value(n) for n in node.all_input_nodes]
    if any(v is None for v in found):
        raise Unknown
    return [v for v in found if v is not None and not v.constant]


def _factors(a: Value, b: Value, shape: tuple[int, ...]) -> tuple[list[Value], list[float]]:
    """The three parts of a product's variance: what each factor alone brings, and what both bring together."""
    a, b = _broadcast(a, shape), _broadcast(b, shape)
    both = replace(a, fixed=a.fixed * b.fixed, common=a.common * b.common, area=min(a.area, b.area))
    means = [float(v.mean.square().mean()) for v in (a, b)]
    return [a, b, both], [a.noise * means[1], b.noise * means[0], a.noise * b.noise]


def _joined(
    walk: Walk, node: fx.Node, parts: list[Value], sizes: list[float], mean: torch.Tensor, variance: torch.Tensor
) -> Value:
    """Independent values, put together by their moments."""
    shape = walk.graph.shape(node)
    made = gaussian(mean, variance, shape)
    shown = [_broadcast(part, shape) for part in parts]
    made.fixed, made.common, made.area = shares(shown, sizes)
    made.certain = all(part.certain for part in parts)
    return made


def _broadcast(value: Value, shape: tuple[int, ...]) -> Value:
    """A value of one position per sample is common to all positions it is spread over."""
    positions = value.along(range(1, len(value.shape)))[0]
    total = 1
    for d in range(1, len(shape)):
        total *= shape[d]
    if positions > 1 or value.mean.numel() * positions >= total:
        return value
    made = value.like(value.mean, value.variance)
    made.common = 1.0
    return made


def _inverse(value: Value) -> Value:
    """A divisor: by the op where it stays away from zero, else by its scale."""
    mean, low = value.mean.abs(), 4 * value.variance.sqrt()
    if bool((mean > low).all()):
        grid = 1 / value.grid
        made = Value(grid, value.shape, object())
    else:
        made = value.like((value.variance + value.mean.square()).clamp(min=1e-60).rsqrt(), value.variance * 0)
        made.certain = False
    return made


def _glu(walk: Walk, node: fx.Node) -> Value:
    value = data(walk, node)
    module = walk.graph.module(node)
    dim = module.dim if isinstance(module, nn.GLU) else argument(node, 1, "dim", -1)
    if value.features[dim] > 1:
        first, gate = value.grid.chunk(2, dim if dim < 0 else dim + 1)
    else:
        first = gate = value.grid
    shape = walk.graph.shape(node)
    a, b = Value(first, shape, object()), Value(torch.sigmoid(gate), shape, object())
    walk.scale(node, node.all_input_nodes[0], (b.power + a.power * 0.05) / 2)
    variance = a.variance * b.variance + a.variance * b.mean.square() + a.mean.square() * b.variance
    return value.like(a.mean * b.mean, variance, shape)


# -- the op itself on the grid -------------------------------------------------------------------------------------


def _on_grid(walk: Walk, node: fx.Node) -> Value:
    """Evaluates the op at every point of the grid, and its slope for the way back."""
    given = {n: v for n in node.all_input_nodes if (v := walk.value(n)) is not None}
    if len(given) != len(node.all_input_nodes) or not given:
        raise Unknown
    shape = walk.graph.shape(node)
    moving = [v for v in given.values() if not v.constant]
    lead = max(moving or list(given.values()), key=lambda v: (len(v.shape), v.mean.numel()))
    ndim = len(shape)
    given = dict(zip(given, comparable(given.values(), ndim), strict=True))
    grids = {n: _points(v, ndim) for n, v in given.items()}
    full = [
        max(sizes) for sizes in zip(*(g.shape for g in grids.values()), strict=True)
    ]  # slopes of copies would add up
    with torch.enable_grad():
        leaves = {n: g.detach().expand(full).clone().requires_grad_() for n, g in grids.items()}
        out = apply_elementwise(walk.graph, node, leaves)
        slopes = torch.autograd.grad(out.sum(), list(leaves.values()), allow_unused=True) if out.requires_grad else ()
    for n, slope in zip(given, slopes, strict=False):
        if slope is not None:
            squares = slope.nan_to_num().square().reshape(len(POINTS), -1)
            walk.scale(node, n, float(torch.tensordot(WEIGHTS, squares, 1).mean()))
    grid = out.detach().reshape(len(POINTS), *out.shape[1:])
    if ndim < grid.ndim - 1 or bool(grid.isnan().any()):
        raise Unknown
    made = Value(grid, shape, lead.base).shared_like(lead)
    made.certain = all(v.certain for v in given.values())
    _carry_shares(made, lead)
    return made


def _points(value: Value, ndim: int) -> torch.Tensor:
    """The grid with as many axes as the result has, for broadcasting."""
    return value.grid.reshape(len(POINTS), *(1,) * (ndim - len(value.features)), *value.features)


def apply_elementwise(graph: Graph, node: fx.Node, leaves: dict[fx.Node, torch.Tensor]) -> torch.Tensor:
    """The op itself on other tensors; their first axis is the grid's."""
    module = graph.module(node)
    if module is not None:
        return _layer(module, next(iter(leaves.values())))
    args: Any = fx.node.map_arg(node.args, lambda n: leaves[n] * 1.0)
    kwargs: Any = fx.node.map_arg(node.kwargs, lambda n: leaves[n] * 1.0)
    kwargs = {**kwargs, **({"training": False} if op_name(node) == "rrelu" else {})}
    if node.op == "call_method":
        found = getattr(args[0], str(node.target))(*args[1:], **kwargs)
    else:
        found = node.target(*args, **kwargs)  # type: ignore[operator]
    if not isinstance(found, torch.Tensor):
        raise Unknown
    return found


def _layer(module: nn.Module, grid: torch.Tensor) -> torch.Tensor:
    if isinstance(module, nn.PReLU):
        weight = module.weight.detach().double()
        layout = (1, 1, -1, *(1,) * (grid.ndim - 3)) if grid.ndim > 2 else (1, -1)
        slope = weight.reshape(layout) if weight.numel() > 1 else weight
        return torch.where(grid >= 0, grid, slope * grid)
    if isinstance(module, nn.RReLU):
        return functional.leaky_relu(grid, (module.lower + module.upper) / 2)
    found: torch.Tensor = type(module).forward(module, grid * 1.0)
    return found


def _carry_shares(made: Value, before: Value) -> None:
    """How much two samples, or two positions, still have in common after a nonlinearity (Hermite, to second order)."""
    if before.constant or made.constant or before.features != made.features:
        return
    together = torch.tensordot(WEIGHTS, (made.grid - made.mean) * (before.grid - before.mean), dims=1)
    follows = together.square() / before.variance.clamp(min=1e-300)
    linear = min(float(follows.mean()) / made.noise, 1.0)

    def after(correlation: float) -> float:
        return linear * correlation + (1 - linear) * correlation**2

    same_place = after(before.fixed)
    same_sample = after(before.fixed + (1 - before.fixed) * before.common)
    made.fixed = min(same_place, 1.0)
    if made.fixed < 1:
        kept = 1 - after(before.fixed)
        made.common = min(max(same_sample - same_place, 0.0) / kept, 1.0) if kept > 0 else 0.0
    made.area = 1 + (before.area - 1) * (linear + (1 - linear) / 2) + (1 - linear) * before.ripple
    made.ripple = linear**2 * before.ripple
