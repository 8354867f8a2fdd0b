"""The schemes of all parameters of a model, with what the rest of a layer and of the model says about training.

A small tensor alone cannot show that it was trained: 1,000 trained entries may look normal and have some scheme's scale
by chance. But training moves biases and norms too, and those start at values that are known exactly. A layer whose own
bias has moved is trained; so is every small tensor of a model in which much else has moved.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from bnlint.graph.names import attribute, join
from bnlint.signal.fans import fans_of
from bnlint.signal.laws import KOLMOGOROV, SMALLEST
from bnlint.signal.schemes import Recognition, recognise

SMALL = 8192  # entries; a larger tensor shows by itself that it was trained
MANY = 512  # entries of a bias that fix its scale to a tenth
TINY = 1e-5  # standard deviation of a bias; one optimizer step moves it by more
SHARE = 1 / 3  # of the parameters that can tell: if so many have moved, the model is taken to be trained


class Survey:
    """Parameter name to recognised scheme, looked up when asked for."""

    def __init__(self, model: nn.Module, *, loaded: bool = False) -> None:
        self._owners: dict[str, tuple[nn.Module, str, nn.Parameter]] = {
            join(path, key): (module, key, value)
            for path, module in model.named_modules()
            for key, value in module._parameters.items()
            if value is not None and not is_lazy(value)
        }
        self._loaded = loaded
        self._alone: dict[str, Recognition | None] = {}

    def of(self, name: str) -> Recognition | None:
        """The scheme of the parameter called `name` (`layer1.0.conv1.weight`); None when it has no values."""
        if name not in self._owners:
            return None
        found, (module, _, value) = self._recognised(name), self._owners[name]
        if found is None or not (found.drawn or found.law == "orthogonal"):
            return found
        if self._loaded or self._moved(module) or (value.numel() < SMALL and self.trained):
            return replace(found, law="unknown", schemes=())
        return found

    @cached_property
    def trained(self) -> bool:
        """True when the model as a whole was trained, or its weights were loaded."""
        if self._loaded:
            return True
        verdicts = [self._moved(module) for module in dict.fromkeys(module for module, _, _ in self._owners.values())]
        for name, (_, _, value) in self._owners.items():
            found = self._recognised(name) if value.ndim > 1 else None
            if found is not None and found.law not in ("too few", "zeros", "constant"):
                verdicts.append(found.law == "unknown")
        known = [verdict for verdict in verdicts if verdict is not None]
        return bool(known) and sum(known) >= SHARE * len(known)

    def _recognised(self, name: str) -> Recognition | None:
        if name not in self._alone:
            module, key, value = self._owners[name]
            self._alone[name] = recognise(value, fans_of(module, key), module)
        return self._alone[name]

    def _moved(self, module: nn.Module) -> bool | None:
        """Whether the layer's bias or statistics have left their first values; None when that cannot be seen."""
        counted = attribute(module, "num_batches_tracked")
        if isinstance(counted, torch.Tensor) and not counted.is_meta and int(counted) > 0:
            return True
        bias = attribute(module, "bias")
        if not isinstance(bias, nn.Parameter) or is_lazy(bias) or bias.is_meta or bias.numel() < 4:
            return None
        values = bias.detach().flatten().double()
        if bool((values == values[0]).all()):
            return False
        fans = fans_of(module)
        if fans is None:
            return True if attribute(module, "weight") is not None and values.numel() < SMALLEST else None
        return _left_default(values, fans.default_bound or math.inf) and not _drawn_otherwise(
            bias, attribute(module, "weight")
        )


def _left_default(values: torch.Tensor, bound: float) -> bool:
    """True when the values are no draw from the uniform law on ±bound."""
    if math.isinf(bound):
        return False
    if float(values.abs().max()) > bound * 1.01:
        return True
    n = values.numel()
    cdf = (values.sort().values / bound + 1) / 2
    steps = torch.arange(n + 1, dtype=torch.float64) / n
    distance = float(torch.maximum(cdf - steps[:-1], steps[1:] - cdf).max())
    return distance * (math.sqrt(n) + 0.12 + 0.11 / math.sqrt(n)) > KOLMOGOROV


def _drawn_otherwise(bias: torch.Tensor, weight: Any) -> bool:
    """True for a bias drawn from a law of its own: that of the layer's weight, or one of a scale that people choose.

    Fewer than `MANY` trained entries look like a draw of some round scale as often as not.
    """
    found = recognise(bias)
    if found is None or not found.drawn:
        return False
    if found.std < TINY:
        return True
    usual = {scheme.label for scheme in found.schemes if scheme.tier == 1}
    if bias.numel() >= MANY:
        return bool(usual)
    beside = recognise(weight) if isinstance(weight, torch.Tensor) else None
    return beside is not None and not usual.isdisjoint(scheme.label for scheme in beside.schemes)
