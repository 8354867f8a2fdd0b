"""How many inputs a unit sums over, and how many units an input reaches: for real, and as torch.nn.init counts."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from bnlint.graph.names import attribute


@dataclass(frozen=True)
class Fans:
    """`real_*` describe the layer, `torch_*` are what `torch.nn.init` reads off the weight's shape.

    They differ for transposed convolutions, whose weight is (in, out/groups, *kernel), so that torch's fan_in is the
    fan-out; for grouped ones, where torch's fan_out counts the units of all groups; and for weights that are stored as
    (in, out) and used as `x @ weight`.
    """

    real_in: float
    real_out: float
    torch_in: float
    torch_out: float
    default_bound: float | None = None  # of the uniform law that the layer's own reset_parameters draws from


def fans_of(module: nn.Module, name: str = "weight") -> Fans | None:
    """The fans of one parameter of a layer; None where there are none: norms, embeddings, biases, unknown classes."""
    tensor = attribute(module, name)
    if not isinstance(tensor, torch.Tensor) or tensor.ndim < 2:
        return None
    if isinstance(module, nn.Embedding | nn.EmbeddingBag) or _is_length(module, name):
        return None
    fan_in, fan_out = shape_fans(tensor.shape)
    bound = 1 / math.sqrt(max(fan_in, 1))
    if isinstance(module, _ConvTransposeNd):
        steps = math.prod(module.stride)
        return Fans(fan_out / module.groups / steps, fan_in, fan_in, fan_out, bound)
    if isinstance(module, _ConvNd):
        return Fans(fan_in, fan_out / module.groups, fan_in, fan_out, bound)
    if isinstance(module, nn.RNNBase | nn.RNNCellBase):
        return Fans(fan_in, fan_out, fan_in, fan_out, 1 / math.sqrt(module.hidden_size))
    if isinstance(module, nn.Bilinear):
        inputs = module.in1_features * module.in2_features
        return Fans(inputs, fan_out, fan_in, fan_out, 1 / math.sqrt(module.in1_features))
    if isinstance(module, nn.Linear):
        return Fans(fan_in, fan_out, fan_in, fan_out, bound)
    return Fans(fan_in, fan_out, fan_in, fan_out)


def _is_length(module: nn.Module, name: str) -> bool:
    """True for the `weight_g` of `torch.nn.utils.weight_norm`: one length for each unit, never negative."""
    return name.endswith("_g") and f"{name[:-1]}v" in module._parameters


def shape_fans(shape: torch.Size) -> tuple[int, int]:
    """Fan-in and fan-out as `torch.nn.init` counts them: dimensions 1 and 0 times the kernel."""
    kernel = math.prod(shape[2:])
    return shape[1] * kernel, shape[0] * kernel
