"""What is set aside while the probe runs: dropout, and the gradients that were there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def quiet_dropout(model: nn.Module) -> Iterator[None]:
    """Layers that drop units or whole branches let all through: the spread is to be the signal's, not the noise's."""
    layers = [m for m in model.modules() if m.training and _drops(m)]
    for layer in layers:
        layer.training = False
    try:
        yield
    finally:
        for layer in layers:
            layer.training = True


def _drops(module: nn.Module) -> bool:
    name = type(module).__name__.lower()
    return isinstance(module, nn.modules.dropout._DropoutNd) or name.endswith(("droppath", "stochasticdepth"))


@contextmanager
def own_gradients(model: nn.Module) -> Iterator[None]:
    """Starts with no gradient and puts back those that were there."""
    before = [(p, p.grad) for p in model.parameters()]
    for parameter, _ in before:
        parameter.grad = None
    try:
        yield
    finally:
        for parameter, gradient in before:
            fits = gradient is not None and (gradient.device, gradient.dtype) == (parameter.device, parameter.dtype)
            parameter.grad = gradient if fits else None  # the caller puts back a model that was moved
