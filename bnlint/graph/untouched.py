"""Leaves a model as it was found: mode, parameters, buffers, attributes, gradients, hooks and random state."""

from __future__ import annotations

import random
import sys
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from bnlint.graph.names import parameters_of
from bnlint.graph.sharded import put_apart

_CONTAINERS = frozenset((list, dict, set, OrderedDict))


@contextmanager
def untouched(model: nn.Module, *, values: bool = False, parameters: bool = False) -> Iterator[None]:
    """Restores what a forward or backward pass may change, also when it raises.

    Attributes (one container deep), registered tensors as objects and as storage, modes, hooks, gradients, default
    dtype and every random state are always restored. With `values`, buffers are restored from a copy; with
    `parameters`, parameters too (twice the memory: only for a model that goes on living in this process).
    """
    attributes = [(m, {key: _container_copy(v) for key, v in m.__dict__.items()}) for m in model.modules()]
    buffers = list(model.buffers())
    tensors = [(t, t.grad, t.requires_grad, _data(t)) for t in (*parameters_of(model), *buffers)]
    copied = [*(buffers if values else ()), *(parameters_of(model) if parameters else ())]
    copies = [(t, t.detach().clone()) for t in copied if _is_plain(t)]
    dtype, grad = torch.get_default_dtype(), torch.is_grad_enabled()
    restore_random = _random_state()
    try:
        yield
    finally:
        put_apart(model)
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(grad)
        for module, saved in attributes:
            _restore_attributes(module, saved)
        for tensor, gradient, requires_grad, data in tensors:
            if data is not None:
                tensor.data = data
            if tensor.requires_grad != requires_grad:
                tensor.requires_grad_(requires_grad)
            tensor.grad = gradient
        with torch.no_grad():
            for tensor, copy in copies:
                tensor.copy_(copy)
        restore_random()


@contextmanager
def training_mode(model: nn.Module, train: bool) -> Iterator[None]:
    """`model.train(train)`, undone module by module afterwards."""
    modes = [(m, m.training) for m in model.modules()]
    model.train(train)
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _is_plain(tensor: torch.Tensor) -> bool:
    return not nn.parameter.is_lazy(tensor) and tensor.device.type != "meta"


def _data(tensor: torch.Tensor) -> torch.Tensor | None:
    return tensor.data if _is_plain(tensor) and not tensor.is_sparse else None


def _container_copy(value: Any) -> Any:
    """The value, and a copy of it when it is a plain container that a forward may write into (a cache, say)."""
    return (value, value.copy()) if type(value) in _CONTAINERS else (value, None)


def _restore_attributes(module: nn.Module, saved: dict[str, tuple[Any, Any]]) -> None:
    now = module.__dict__
    for key in [key for key in now if key not in saved]:
        del now[key]
    for key, (value, contents) in saved.items():
        if now.get(key) is not value:
            now[key] = value
        if contents is not None and (value or contents) and not _same_items(value, contents):
            value.clear()
            (value.extend if isinstance(value, list) else value.update)(contents)


def _same_items(a: Any, b: Any) -> bool:
    if len(a) != len(b):
        return False
    if isinstance(a, dict):
        return all(k1 is k2 and v1 is v2 for (k1, v1), (k2, v2) in zip(a.items(), b.items(), strict=True))
    return all(x is y for x, y in zip(a, b, strict=True)) if isinstance(a, list) else bool(a == b)


def _random_state() -> Any:
    python, cpu = random.getstate(), torch.get_rng_state()
    numpy = sys.modules.get("numpy")
    arrays = numpy.random.get_state() if numpy is not None else None
    has_cuda = torch.cuda.is_available() and torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    cuda = torch.cuda.get_rng_state_all() if has_cuda else None

    def restore() -> None:
        random.setstate(python)
        torch.set_rng_state(cpu)
        if numpy is not None and arrays is not None:
            numpy.random.set_state(arrays)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)

    return restore
