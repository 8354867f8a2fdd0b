"""Weights that can be read, and what they do to the scale of a signal."""

from __future__ import annotations

from typing import TypeGuard

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.parameter import is_lazy

from bnlint.graph.model import Graph

_FEW = 16


def has_numbers(tensor: torch.Tensor | None) -> TypeGuard[torch.Tensor]:
    """True for a floating-point tensor with entries to read: neither empty, lazy, on the meta device nor fake."""
    if not isinstance(tensor, torch.Tensor) or is_lazy(tensor) or tensor.is_meta or isinstance(tensor, FakeTensor):
        return False
    return tensor.is_floating_point() and tensor.numel() > 0


def all_finite(tensor: torch.Tensor) -> bool:
    """True when no entry is NaN or infinite: one of them would make the sum so."""
    values = tensor.detach()
    return bool(values.sum(dtype=torch.float32).isfinite()) or bool(values.isfinite().all())


def constant(tensor: torch.Tensor) -> float | None:
    """The value that all entries have; None where two differ, which the first few nearly always show."""
    values = tensor.detach().flatten()
    first = values[0]
    if bool((values[:_FEW] != first).any()) or not bool((values == first).all()):
        return None
    return float(first)


def gain(graph: Graph, layer: fx.Node) -> float | None:
    """The variance a layer makes of inputs of unit variance, second moment of the weight times fan-in."""
    found = graph.weight(layer)
    if found is None or found[1].ndim < 2 or not has_numbers(found[1]):
        return None
    weight = found[1].detach().float()
    return float(weight.square().mean()) * weight[0].numel()
