"""Weights that can be read, and what they do to the scale of a signal."""

from __future__ import annotations

from typing import TypeGuard

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.parameter import is_lazy

from bnlint.graph.model import Graph


def has_numbers(tensor: torch.Tensor | None) -> TypeGuard[torch.Tensor]:
    """True for a floating-point tensor whose entries can be read: neither lazy, on the meta device nor fake."""
    if not isinstance(tensor, torch.Tensor) or is_lazy(tensor) or tensor.is_meta or isinstance(tensor, FakeTensor):
        return False
    return tensor.is_floating_point()


def gain(graph: Graph, layer: fx.Node) -> float | None:
    """The variance a layer makes of inputs of unit variance, second moment of the weight times fan-in."""
    found = graph.weight(layer)
    if found is None or found[1].ndim < 2 or not has_numbers(found[1]):
        return None
    weight = found[1].detach().float()
    return float(weight.square().mean()) * weight[0].numel()
