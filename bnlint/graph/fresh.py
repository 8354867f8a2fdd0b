"""Memory that nobody has written to: torch marks it with NaN while the user's code builds a model."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.parameter import is_lazy
from torch.utils import deterministic


@contextmanager
def marked_memory() -> Iterator[None]:
    """Lets `torch.empty` and its like give NaN, or the largest integer, until the block ends."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    filled = deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    _set(True, warn_only=True, fill=True)
    try:
        yield
    finally:
        now = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
        algorithms, warn_only = before if now == (True, True) else now  # what the user's code chose stays
        _set(algorithms, warn_only=warn_only, fill=filled)


def take_marks(model: nn.Module) -> dict[str, int]:
    """How many entries of each parameter were never written; puts plausible values into all memory still marked."""
    found: dict[str, int] = {}
    for name, tensor in (*model.named_parameters(), *model.named_buffers(), *_plain_tensors(model)):
        if is_lazy(tensor) or tensor.is_meta or isinstance(tensor, FakeTensor) or tensor.layout != torch.strided:
            continue
        with torch.no_grad():
            values = torch.view_as_real(tensor.detach()) if tensor.is_complex() else tensor.detach()
            count = _take(values)
        if count and isinstance(tensor, nn.Parameter):
            found[name] = count
    return found


def _set(algorithms: bool, *, warn_only: bool, fill: bool) -> None:
    torch._C._set_deterministic_algorithms(algorithms, warn_only=warn_only)  # the public function loads a compiler
    deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]


def _take(values: torch.Tensor) -> int:
    if not values.is_floating_point():
        if values.dtype != torch.bool and values.numel() and bool((values == torch.iinfo(values.dtype).max).all()):
            values.zero_()
        return 0
    if values.dtype.itemsize == 1 or not bool(torch.isnan(values).any()):
        return 0
    marks = torch.isnan(values)
    if values.dtype.itemsize > 2:  # a conversion to 16 bits may change the sign
        marks &= ~torch.signbit(values)  # 0/0 gives one with the sign set
    count = int(marks.sum())
    if count:
        bound = 1 / math.sqrt(max(values[0].numel() if values.ndim > 1 else values.numel(), 1))
        drawn = torch.empty_like(values).uniform_(
            -bound, bound, generator=torch.Generator(values.device).manual_seed(0)
        )
        values[marks] = drawn[marks]
    return count


def _plain_tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    for path, module in model.named_modules():
        for key, value in vars(module).items():
            if isinstance(value, torch.Tensor):
                yield f"{path}.{key}", value
