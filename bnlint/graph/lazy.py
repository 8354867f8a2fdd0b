"""Lazy layers: parameters that only the first forward pass can size."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import UninitializedBuffer, is_lazy

from bnlint.graph.names import parameters_of


def has_lazy_layers(model: nn.Module) -> bool:
    """True when some parameter or buffer has no shape yet."""
    return any(is_lazy(tensor) for tensor in (*parameters_of(model), *model.buffers()))


def copied(model: nn.Module) -> nn.Module:
    """A deep copy, also of layers whose buffers have no shape yet (those have no deepcopy of their own)."""
    unmade: Any = UninitializedBuffer
    memo: dict[int, Any] = {
        id(b): unmade(device=b.device, dtype=b.dtype) for b in model.buffers() if isinstance(b, UninitializedBuffer)
    }
    return copy.deepcopy(model, memo)


def materialised(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> nn.Module:
    """A copy whose lazy layers one forward pass has sized; the model itself when it has none."""
    if not has_lazy_layers(model):
        return model
    sized = copied(model)
    with torch.no_grad():
        sized(*args, **kwargs)
    return sized
