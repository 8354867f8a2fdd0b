"""The results of the commonest ops on fake tensors, by rules of our own.

torch computes the shape of nearly every op in Python that is made for symbolic sizes; loading that takes most of a
second and 60 MB, and a batch of one given size never needs it. Here an op is answered when its operands are contiguous
and agree; anything else, errors above all, is left to torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

Result = torch.Tensor | tuple[torch.Tensor, ...] | None


def result_of(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Result:
    """What `func` gives for tensors on the meta device; None when torch has to say it."""
    name = func._schema.name.removeprefix("aten::")
    if name in _VIEWS:
        return _view(func, args, kwargs)
    rule = _RULES.get(name)
    given = [a for a in args if isinstance(a, torch.Tensor)]
    if rule is None or kwargs or not given or not all(t.numel() for t in given):
        return None
    if name not in _OF_ANY_STRIDES and not all(t.is_contiguous() for t in given):
        return None
    if any(t.dtype != given[0].dtype for t in given):
        return None
    known = given[0].is_floating_point() or (name in _OF_INTEGERS and given[0].dtype == torch.int64)
    return rule(*args) if known else None


def _view(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Result:
    try:
        result: Result = func(*args, **kwargs)
    except Exception:
        return None
    return result


def _new(like: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    return torch.empty(shape, dtype=like.dtype, device="meta")


def _same(x: torch.Tensor, *_: Any) -> Result:
    return _new(x, x.shape)


def _in_place(x: torch.Tensor, *_: Any) -> Result:
    return x


def _binary(x: Any, y: Any) -> Result:
    return _new(x, x.shape) if _fits(x, y) else None


def _binary_in_place(x: Any, y: Any) -> Result:
    return x if _fits(x, y) else None


def _fits(x: Any, y: Any) -> bool:
    """True when `y` is a number or broadcasts to the shape of `x`."""
    if not isinstance(x, torch.Tensor) or not isinstance(y, torch.Tensor):
        return isinstance(x, torch.Tensor) and type(y) in ((int, float) if x.is_floating_point() else (int,))
    pairs = zip(reversed(y.shape), reversed(x.shape), strict=False)
    return y.ndim <= x.ndim and all(small in (1, large) for small, large in pairs)


def _addmm(bias: torch.Tensor, x: torch.Tensor, weight: torch.Tensor) -> Result:
    return _mm(x, weight) if bias.shape == weight.shape[1:] else None


def _mm(x: torch.Tensor, y: torch.Tensor) -> Result:
    agree = x.ndim == y.ndim == 2 and x.shape[1] == y.shape[0]
    return _new(x, (x.shape[0], y.shape[1])) if agree else None


def _bmm(x: torch.Tensor, y: torch.Tensor) -> Result:
    agree = x.ndim == y.ndim == 3 and x.shape[0] == y.shape[0] and x.shape[2] == y.shape[1]
    return _new(x, (*x.shape[:2], y.shape[2])) if agree else None


def _mean(x: torch.Tensor, dims: Sequence[int] | None = None, keepdim: bool = False) -> Result:
    if not dims or not all(-x.ndim <= d < x.ndim for d in dims):
        return None
    gone = {d % x.ndim for d in dims}
    kept = [1 if axis in gone else size for axis, size in enumerate(x.shape) if keepdim or axis not in gone]
    return _new(x, kept) if len(gone) == len(dims) else None


def _batch_norm(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    mean: torch.Tensor | None,
    variance: torch.Tensor | None,
    training: bool,
    *_: Any,
) -> Result:
    per_channel = [t for t in (weight, bias, mean, variance) if t is not None]
    if x.ndim < 2 or any(t.shape != x.shape[1:2] for t in per_channel):
        return None
    count = x.shape[1] if training else 0
    return _new(x, x.shape), _new(x, (count,)), _new(x, (count,))


def _layer_norm(x: torch.Tensor, shape: Sequence[int], weight: Any, bias: Any, eps: float) -> Result:
    normalised = tuple(x.shape[x.ndim - len(shape) :])
    if normalised != tuple(shape) or any(t is not None and tuple(t.shape) != normalised for t in (weight, bias)):
        return None
    outer = (*x.shape[: x.ndim - len(shape)], *(1 for _ in shape))
    return _new(x, x.shape), _new(x, outer), _new(x, outer)


def _convolution(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Result:
    first, second = weight.shape[:2]
    read, made = (first, second * groups) if transposed else (second * groups, first)
    if x.ndim != weight.ndim or x.shape[1] != read or first % groups or (bias is not None and bias.shape != (made,)):
        return None
    sizes = []
    for axis, (size, kernel) in enumerate(zip(x.shape[2:], weight.shape[2:], strict=True)):
        s, p, d, o = (_at(option, axis) for option in (stride, padding, dilation, output_padding))
        reach = d * (kernel - 1) + 1
        if s < 1 or d < 1 or p < 0 or (transposed and not 0 <= o < max(s, d)):
            return None
        sizes.append((size - 1) * s - 2 * p + reach + o if transposed else (size + 2 * p - reach) // s + 1)
    return _new(x, (x.shape[0], made, *sizes)) if min(sizes) > 0 else None


def _max_pool2d(
    x: torch.Tensor,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    ceil_mode: bool = False,
) -> Result:
    sizes = []
    for axis, size in enumerate(x.shape[-2:]):
        k, p, d = _at(kernel, axis), _at(padding, axis), _at(dilation, axis)
        s = _at(stride, axis) if stride else k
        if ceil_mode or min(k, s, d) < 1 or not 0 <= p <= k // 2:
            return None
        sizes.append((size + 2 * p - d * (k - 1) - 1) // s + 1)
    if x.ndim not in (3, 4) or min(sizes) < 1:
        return None
    shape = (*x.shape[:-2], *sizes)
    return _new(x, shape), torch.empty(shape, dtype=torch.int64, device="meta")


def _at(option: Sequence[int], axis: int) -> int:
    return option[axis] if len(option) > 1 else option[0]


_VIEWS = frozenset(
    (
        *("view", "_unsafe_view", "t", "transpose", "permute", "unsqueeze", "squeeze"),
        *("expand", "select", "slice", "split", "detach", "unbind"),
    )
)
_SAME = "relu gelu silu sigmoid tanh hardtanh hardswish hardsigmoid elu leaky_relu softplus neg exp sqrt rsqrt _softmax"
_OF_ANY_STRIDES = frozenset(["addmm", "mm", "bmm"])
_OF_INTEGERS = frozenset(["add", "sub", "mul", "add_", "sub_", "mul_"])
_RULES: dict[str, Callable[..., Result]] = {
    **dict.fromkeys(_SAME.split(), _same),
    **dict.fromkeys(["relu_", "silu_", "gelu_", "hardtanh_", "hardswish_", "leaky_relu_"], _in_place),
    **dict.fromkeys(["add", "sub", "mul", "div"], _binary),
    **dict.fromkeys(["add_", "sub_", "mul_", "div_"], _binary_in_place),
    "addmm": _addmm,
    "mm": _mm,
    "bmm": _bmm,
    "mean": _mean,
    "native_batch_norm": _batch_norm,
    "native_layer_norm": _layer_norm,
    "convolution": _convolution,
    "max_pool2d_with_indices": _max_pool2d,
}
