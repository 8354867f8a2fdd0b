"""A plausible output for an op that failed, so that one run finds every mismatch and not only the first.

`how` is "declared" when the stand-in has the shape the layer itself declares (a Linear gives `out_features` on the
last axis, a norm gives its input back), "guess" when the code does not say (an impossible view, an add of unequal
operands). Findings about axes that only a guess made are not reported.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from bnlint.graph.nest import tensors
from bnlint.graph.ops import Kind, module_kind


@dataclass(frozen=True)
class Repair:
    """The stand-in for a failed op's output."""

    output: Any
    how: str
    error: Exception


_KEEPS_SHAPE = (Kind.ACTIVATION, Kind.SOFTMAX, Kind.DROPOUT, Kind.SAME)
_CONVS = (nn.modules.conv._ConvNd,)
_NORMS = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.LocalResponseNorm,
    *((nn.RMSNorm,) if hasattr(nn, "RMSNorm") else ()),
)


def repair_module(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], error: Exception) -> Repair | None:
    """A stand-in for the output of a leaf layer that raised; None when nothing plausible is known."""
    x = _first_tensor(args, kwargs)
    if x is None:
        return None
    if isinstance(module, nn.Linear):
        return Repair(_like(x, (*x.shape[:-1], module.out_features), module.weight), "declared", error)
    if isinstance(module, nn.Bilinear):
        return Repair(_like(x, (*x.shape[:-1], module.out_features), module.weight), "declared", error)
    if isinstance(module, _CONVS):
        return _conv(module, x, error)
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        shape = x.shape if isinstance(module, nn.Embedding) else x.shape[:1]
        return Repair(_like(x, (*shape, module.embedding_dim), module.weight), "declared", error)
    if isinstance(module, nn.RNNBase) and x.ndim == 3:
        return _retry(module, (_like(x, (*x.shape[:-1], module.input_size), x),), error)
    if isinstance(module, nn.RNNCellBase):
        state = _like(x, (*x.shape[:-1], module.hidden_size), x)
        return Repair((state, state) if isinstance(module, nn.LSTMCell) else state, "declared", error)
    if isinstance(module, nn.MultiheadAttention):
        return Repair((_like(x, (*x.shape[:-1], module.embed_dim), x), None), "declared", error)
    if isinstance(module, _NORMS):
        return Repair(x, "declared", error)
    if isinstance(module, (nn.modules.pooling._MaxPoolNd, nn.modules.pooling._AvgPoolNd)):
        return Repair(_like(x, _shrunk(x, module.kernel_size, module.stride), x), "guess", error)
    if module_kind(module) in _KEEPS_SHAPE:
        return Repair(x, "declared", error)
    if module_kind(module) is Kind.PAD:
        return _pad(x, module.padding, error)
    return None


def repair_function(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], error: Exception) -> Repair | None:
    """A stand-in for the output of a torch function that raised; None when nothing plausible is known."""
    name = getattr(func, "__name__", "").strip("_")
    operands = [t for _, t in tensors(args)]
    if not operands:
        return None
    x = operands[0]
    weight = operands[1] if len(operands) > 1 else kwargs.get("weight")
    if name == "linear" and isinstance(weight, torch.Tensor):
        return Repair(_like(x, (*x.shape[:-1], weight.shape[0]), x), "declared", error)
    if name in ("batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm", "prelu"):
        return Repair(x, "declared", error)
    if name in ("view", "reshape"):
        sizes = args[1] if len(args) == 2 and isinstance(args[1], Sequence) else args[1:]
        return _strided(x, sizes, error) or _view(x, sizes, error)
    if name in _ELEMENTWISE and len(operands) > 1:
        return Repair(_result(max(operands, key=lambda t: (t.ndim, t.numel())), name), "guess", error)
    if name in ("cat", "concat", "concatenate"):
        return _cat(args, kwargs, error)
    if name in ("matmul", "bmm", "mm", "rmatmul", "baddbmm") and len(operands) > 1:
        a, b = (operands[1], operands[0]) if name == "rmatmul" else operands[-2:]
        if min(a.ndim, b.ndim) >= 2:
            return Repair(_like(a, (*a.shape[:-1], b.shape[-1]), a), "guess", error)
    if name == "pad" and len(args) > 1:
        return _pad(x, args[1], error)
    if name == "pack_padded_sequence" and len(operands) > 1:
        return _packed(x, operands[1], error)
    if name.startswith(("max_pool", "avg_pool")) and len(args) > 1:
        return Repair(_like(x, _shrunk(x, args[1], kwargs.get("stride")), x), "guess", error)
    return None


_ELEMENTWISE = {
    *("add", "sub", "mul", "div", "truediv", "pow", "maximum", "minimum", "where", "lerp", "addcmul"),
    *("iadd", "isub", "imul", "itruediv", "radd", "rsub", "rmul", "rtruediv", "masked_fill"),
}


def _conv(module: nn.modules.conv._ConvNd, x: torch.Tensor, error: Exception) -> Repair | None:
    rank = len(module.kernel_size) + 2
    if x.ndim == rank:
        if module.in_channels == x.shape[-1] < min(x.shape[1:-1]):
            x = x.movedim(-1, 1)  # an image with its channels last
        again = _retry(module, (_like(x, (x.shape[0], module.in_channels, *x.shape[2:]), x),), error)
        if again is not None:
            return again
        unchanged = (max(2, int(size)) for size in x.shape[2:])  # an axis of one would forget that it is a guess
        return Repair(_like(x, (x.shape[0], module.out_channels, *unchanged), x), "guess", error)
    spatial = (*x.shape[2:], *([1] * rank))[: rank - 2]
    return Repair(_like(x, (x.shape[0], module.out_channels, *spatial), x), "guess", error)


def _retry(module: nn.Module, args: tuple[torch.Tensor, ...], error: Exception) -> Repair | None:
    try:
        return Repair(type(module).forward(module, *args), "declared", error)
    except Exception:
        return None


def _strided(x: torch.Tensor, sizes: Sequence[Any], error: Exception) -> Repair | None:
    """A view of sizes that fit, but not the strides: what `reshape`, which may copy, makes of it."""
    try:
        return Repair(x.reshape([int(s) for s in sizes]), "declared", error)
    except (RuntimeError, TypeError, ValueError):
        return None


def _view(x: torch.Tensor, sizes: Sequence[Any], error: Exception) -> Repair | None:
    """An impossible view: the sizes asked for, with the leading axis taken as the batch where it was left open."""
    shape = [int(s) for s in sizes]
    if -1 in shape:
        at = shape.index(-1)
        known = math.prod(s for s in shape if s != -1)
        shape[at] = x.shape[0] if at == 0 and x.ndim else max(1, x.numel() // max(1, known))
    return Repair(_like(x, shape, x), "guess", error)


def _cat(args: Sequence[Any], kwargs: Mapping[str, Any], error: Exception) -> Repair | None:
    parts = list(args[0])
    dim = args[1] if len(args) > 1 else kwargs.get("dim", kwargs.get("axis", 0))
    if not isinstance(dim, int) or len({p.ndim for p in parts}) != 1:
        return None
    shape = list(max(parts, key=torch.Tensor.numel).shape)
    shape[dim] = sum(p.shape[dim] for p in parts)
    return Repair(_like(parts[0], shape, parts[0]), "guess", error)


def _pad(x: torch.Tensor, edges: Any, error: Exception) -> Repair | None:
    """A map too small for its padding: the size it would have, never one, which would forget that it is a guess."""
    shape = list(x.shape)
    for i in range(0, len(edges), 2):
        shape[-1 - i // 2] = max(2, shape[-1 - i // 2] + edges[i] + edges[i + 1])
    return Repair(_like(x, shape, x), "guess", error)


def _packed(x: torch.Tensor, lengths: torch.Tensor, error: Exception) -> Repair:
    """Rows and batch sizes as the lengths say; only real tensors get here, fake ones cannot follow lengths."""
    sizes = torch.stack([(lengths > step).sum() for step in range(int(lengths.max()))]).cpu()
    return Repair((_like(x, (int(lengths.sum()), *x.shape[2:]), x), sizes), "declared", error)


def _result(x: torch.Tensor, name: str) -> torch.Tensor:
    return x if name.startswith("i") else _like(x, x.shape, x)


def _like(x: torch.Tensor, shape: Sequence[int], dtype_of: torch.Tensor) -> torch.Tensor:
    """Zeros of a shape, on the graph of `x` as far as autograd goes."""
    dtype = dtype_of.dtype if dtype_of.dtype.is_floating_point or not x.dtype.is_floating_point else x.dtype
    out = x.new_zeros([int(s) for s in shape], dtype=dtype)
    return out + x.sum() * 0 if x.requires_grad and dtype.is_floating_point else out


def _shrunk(x: torch.Tensor, kernel: Any, stride: Any) -> list[int]:
    step = stride or kernel
    count = len(step) if isinstance(step, Sequence) else min(2, x.ndim - 2)
    steps = list(step) if isinstance(step, Sequence) else [step] * count
    lead = x.shape[: x.ndim - count]
    return [*lead, *(max(2, int(s) // int(k)) for s, k in zip(x.shape[x.ndim - count :], steps, strict=True))]


def _first_tensor(args: Sequence[Any], kwargs: Mapping[str, Any]) -> torch.Tensor | None:
    return next((t for _, t in tensors((tuple(args), dict(kwargs)))), None)


__all__ = ["Repair", "repair_function", "repair_module"]
