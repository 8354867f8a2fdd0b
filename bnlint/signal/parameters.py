"""Parameters and the gradients that arrived at them, as a few numbers each."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn

from bnlint.signal.statistics import extremes, measurable, norm
from bnlint.signal.watch import to_host


@dataclass(frozen=True)
class ParameterStats:
    """Norms of one parameter and of its gradient; `gradient` is None where none arrived.

    `finite` says whether every entry of the gradient is, `zero` whether every one is zero.
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
    gradients = {name: p.grad for p, (name, *_) in found.values() if p.grad is not None and measurable(p.grad)}
    rows = {
        name: [norm(p), *([norm(gradients[name])] if name in gradients else [])] for p, (name, *_) in found.values()
    }
    norms = to_host(rows)
    # the norm of small or large entries may come out as zero or infinity although they are not
    unclear = [name for name in gradients if not 0 < norms[name][1] < math.inf]
    ranges = to_host({name: list(extremes(gradients[name]).values()) for name in unclear})
    return {
        name: ParameterStats(
            norms[first][0],
            norms[first][1] if first in gradients else None,
            all(map(math.isfinite, ranges.get(first, ()))),
            parameter.requires_grad,
            ranges.get(first) == [0.0, 0.0],
        )
        for parameter, (first, *others) in found.values()
        for name in (first, *others)
    }
