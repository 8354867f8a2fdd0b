"""Norms: they set the scale, so what comes out is certain again."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn

from bnlint.graph.ops import Kind, argument, op_name
from bnlint.signal.transfer.base import Unknown, data, transfer
from bnlint.signal.value import Value, collapsed

if TYPE_CHECKING:
    from bnlint.signal.predict import Walk

Affine = tuple[torch.Tensor | None, torch.Tensor | None]


@transfer(Kind.NORM)
def norm(walk: Walk, node: fx.Node) -> Value:
    """Any norm, by what its statistics are taken over."""
    value, module = data(walk, node), walk.graph.module(node)
    name = op_name(node)
    if isinstance(module, nn.modules.instancenorm._InstanceNorm) or name == "instance_norm":
        return _instance(walk, node, value)
    if isinstance(module, nn.modules.batchnorm._NormBase) or name == "batch_norm":
        return _batch(walk, node, value)
    if isinstance(module, nn.GroupNorm) or name == "group_norm":
        return _group(walk, node, value)
    if isinstance(module, nn.LocalResponseNorm) or name == "local_response_norm":
        return _local(walk, node, value)
    return _layer(walk, node, value)


def _batch(walk: Walk, node: fx.Node, value: Value) -> Value:
    module = walk.graph.module(node)
    value = collapsed(value, [d for d in range(len(value.features)) if d != 1])
    layout = (1, -1, *(1,) * (len(value.shape) - 2))
    if module is not None:
        running = getattr(module, "running_mean", None), getattr(module, "running_var", None)
        fresh, eps = module.training or running[0] is None, getattr(module, "eps", 1e-5)
    else:
        running = _known(walk, argument(node, 1, "running_mean")), _known(walk, argument(node, 2, "running_var"))
        fresh, eps = bool(argument(node, 5, "training", False)) or running[0] is None, argument(node, 7, "eps", 1e-5)
    if fresh:
        found = _scaled(walk, node, value, value.mean, value.variance, float(eps), _affine(walk, node, 3), layout)
        found.certain = True
        return found
    mean, variance = (_shaped(v, layout, 0.0) for v in running)
    return _scaled(walk, node, value, mean, variance, float(eps), _affine(walk, node, 3), layout)


def _instance(walk: Walk, node: fx.Node, value: Value) -> Value:
    """Over the positions of one sample: what they have in common goes, the rest becomes the scale."""
    module = walk.graph.module(node)
    layout = (1, -1, *(1,) * (len(value.shape) - 2))
    value = collapsed(value, [d for d in range(len(value.features)) if d != 1])
    if math.prod(value.shape[2:]) <= 1:
        within = value.variance * 0
    else:
        within = value.variance * (1 - (1 - value.fixed) * value.common)
    eps = getattr(module, "eps", 1e-5) if module is not None else argument(node, 7, "eps", 1e-5)
    before = value.like(value.mean, within)
    before.common = 0.0
    if value.noise > 0 and before.noise > 0:
        before.fixed = min(1.0, value.fixed * value.noise / before.noise)
    found = _scaled(walk, node, before, value.mean, within, float(eps), _affine(walk, node, 3), layout)
    found.certain = True
    return found


def _group(walk: Walk, node: fx.Node, value: Value) -> Value:
    """Over the positions and the channels of a group."""
    module = walk.graph.module(node)
    groups = module.num_groups if isinstance(module, nn.GroupNorm) else argument(node, 1, "num_groups")
    eps = module.eps if isinstance(module, nn.GroupNorm) else argument(node, 4, "eps", 1e-5)
    layout = (1, -1, *(1,) * (len(value.shape) - 2))
    value = collapsed(value, [d for d in range(len(value.features)) if d != 1])
    channels = value.shape[1]
    mean, variance = (v.expand(1, channels, *v.shape[2:]).reshape(groups, -1) for v in (value.mean, value.variance))
    centre = mean.mean(1, keepdim=True)
    power = (variance + (mean - centre).square()).mean(1, keepdim=True)
    centre, power = (v.expand(groups, channels // groups).reshape(layout) for v in (centre, power))
    found = _scaled(walk, node, value, centre, power, float(eps), _affine(walk, node, 2), layout)
    found.certain = True
    return found


def _layer(walk: Walk, node: fx.Node, value: Value) -> Value:
    """LayerNorm and RMSNorm: over the features of one sample, or of one position."""
    module = walk.graph.module(node)
    shape: Any = getattr(module, "normalized_shape", None) if module is not None else argument(node, 1, "shape", None)
    shape = shape if shape is not None else node.kwargs.get("normalized_shape")
    if shape is None:
        raise Unknown
    count = len(shape) if isinstance(shape, (tuple, list)) else 1
    centred = "rms" not in (type(module).__name__ if module is not None else op_name(node)).lower()
    eps = getattr(module, "eps", None) if module is not None else argument(node, 4 if centred else 3, "eps", None)
    dims = list(range(len(value.shape) - count, len(value.shape)))
    mean = value.mean.mean(dims, keepdim=True) * (1.0 if centred else 0.0)
    power = (value.variance + (value.mean - mean).square()).mean(dims, keepdim=True)
    layout = (1,) * (len(value.shape) - count) + tuple(value.shape[-count:])
    found = _scaled(walk, node, value, mean, power, float(eps or 1e-5), _affine(walk, node, 2), layout)
    found.certain = True
    return found


def _local(walk: Walk, node: fx.Node, value: Value) -> Value:
    module = walk.graph.module(node)
    names, defaults = ("alpha", "beta", "k"), (1e-4, 0.75, 1.0)
    options = [
        float(getattr(module, name) if module is not None else argument(node, 2 + i, name, default))
        for i, (name, default) in enumerate(zip(names, defaults, strict=True))
    ]
    alpha, beta, k = options
    factor = (k + alpha * value.power) ** -beta
    walk.scale(node, node.all_input_nodes[0], factor**2)
    return value.like(value.mean * factor, value.variance * factor**2)


def _scaled(
    walk: Walk,
    node: fx.Node,
    value: Value,
    mean: torch.Tensor,
    variance: torch.Tensor,
    eps: float,
    affine: Affine,
    layout: tuple[int, ...],
) -> Value:
    """`(x - mean) / sqrt(variance + eps) * weight + bias`."""
    weight, bias = _shaped(affine[0], layout, 1.0), _shaped(affine[1], layout, 0.0)
    factor = weight * (variance + eps).rsqrt()
    walk.scale(node, node.all_input_nodes[0], float(factor.square().mean()))
    made = Value((value.grid - mean) * factor + bias, value.shape, value.base if factor.numel() else object())
    return made.shared_like(value)


def _affine(walk: Walk, node: fx.Node, position: int) -> Affine:
    module = walk.graph.module(node)
    if module is not None:
        return getattr(module, "weight", None), getattr(module, "bias", None)
    return _known(walk, argument(node, position, "weight")), _known(walk, argument(node, position + 1, "bias"))


def _known(walk: Walk, source: Any) -> torch.Tensor | None:
    return walk.constants.get(source) if isinstance(source, fx.Node) else None


def _shaped(tensor: torch.Tensor | None, layout: tuple[int, ...], otherwise: float) -> torch.Tensor:
    if tensor is None:
        return torch.full((1,) * len(layout), otherwise, dtype=torch.float64)
    return tensor.detach().double().reshape(layout)
