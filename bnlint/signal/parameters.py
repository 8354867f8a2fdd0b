"""Parameters and the gradients that arrived at them, as a few numbers each."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from bnlint.signal.statistics import extremes, measurable, norm
from bnlint.signal.watch import to_host


@dataclass(frozen=True)
class ParameterStats:
    """Norms of one parameter and of its gradient; `gradient` is None where none arrived.

    `finite` says whether every entry of the gradient is, `zero` whether every one is zero: the norm of small or large
    ones may come out as zero or infinity although they are not.
    """

    norm: float
    gradient: float | None
    finite: bool
    trainable: bool
    zero: bool = False


def parameter_stats(model: nn.Module) -> dict[str, ParameterStats]:
    """By every name a parameter has."""
    found: dict[int, tuple[nn.Parameter, list[str]]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if measurable(parameter):
            found.setdefault(id(parameter), (parameter, []))[1].append(name)
    rows: dict[str, list[torch.Tensor]] = {}
    for parameter, (name, *_) in found.values():
        gradient = parameter.grad if measurable(parameter.grad) else None
        rows[name] = [
            norm(parameter),
            *([norm(gradient), *extremes(gradient).values()] if gradient is not None else []),
        ]
    numbers = to_host(rows)
    return {
        name: _parameter(numbers[names[0]], trainable=parameter.requires_grad)
        for parameter, names in found.values()
        for name in names
    }


def _parameter(numbers: list[float], *, trainable: bool) -> ParameterStats:
    weight, *gradient = numbers
    finite, zero = all(map(math.isfinite, gradient[1:])), gradient[1:] == [0.0, 0.0]
    return ParameterStats(weight, gradient[0] if gradient else None, finite, trainable, zero)
