"""Running a model on fake tensors: shapes without data, and no way to reach the real parameters."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
    UnsupportedOperatorException,
)

from bnlint.graph.frames import Call

_CANNOT_FAKE = (DataDependentOutputException, DynamicOutputShapeException, UnsupportedOperatorException)


class Unfollowable(Exception):
    """Fake tensors cannot follow the model here (data-dependent value, numpy, an op without a fake kernel)."""

    def __init__(self, reason: str, call: Call | None) -> None:
        super().__init__(reason)
        self.reason, self.call = reason, call


@contextmanager
def fake_state(model: nn.Module, mode: FakeTensorMode) -> Iterator[None]:
    """Every parameter, buffer and plain tensor attribute replaced by a fake one, so that no op can reach real data."""
    saved: list[tuple[dict[str, Any], dict[str, Any]]] = []
    made: dict[int, torch.Tensor] = {}

    def fake(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or nn.parameter.is_lazy(value):
            return value
        if id(value) not in made:
            made[id(value)] = to_fake(mode, value)
        return made[id(value)]

    for module in model.modules():
        if isinstance(module, torch.jit.ScriptModule):
            continue
        stores: tuple[dict[str, Any], ...] = (module._parameters, module._buffers, module.__dict__)
        for store in stores:
            held: dict[str, Any] = {k: v for k, v in store.items() if isinstance(v, torch.Tensor)}
            saved.append((store, held))
            store.update({k: fake(v) for k, v in held.items()})
    try:
        yield
    finally:
        for store, held in saved:
            store.update(held)


@contextmanager
def quiet_failures() -> Iterator[None]:
    """Keeps torch from logging every failed shape computation; bnlint reports them itself."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


def to_fake(mode: FakeTensorMode, tensor: torch.Tensor) -> torch.Tensor:
    """A fake tensor of the same shape, dtype, device and strides; a fake one is returned as it is."""
    return tensor if isinstance(tensor, FakeTensor) else mode.from_tensor(tensor, static_shapes=True)


_SAYINGS = (
    *("tensor subclasses", "FakeTensor", "fake tensor", "data pointer", "'Meta' backend", "meta tensor"),
    *("DataDependentOutputException", "DynamicOutputShapeException", "TorchScript interpreter"),  # scripted modules
)


def cannot_follow(error: Exception) -> bool:
    """True for an exception that says more about fake tensors than about the model."""
    text = str(error)
    return isinstance(error, (*_CANNOT_FAKE, NotImplementedError)) or any(words in text for words in _SAYINGS)


def reason(error: Exception) -> str:
    """Why fake tensors cannot follow, for people."""
    if isinstance(error, DataDependentOutputException):
        return "the forward pass reads a tensor's value (an `if`, `.item()` or `int()` on data)"
    if isinstance(error, DynamicOutputShapeException):
        return "the size of an intermediate result depends on the data (`nonzero`, boolean indexing)"
    first = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
    return f"an op has no shape-only implementation ({first})"
