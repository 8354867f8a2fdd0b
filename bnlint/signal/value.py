"""What is expected of one value before any data: a distribution for every feature.

A value is seen as samples x positions x features. Every feature has a distribution over samples and positions, given at
fixed quantiles of a standard normal variable (a quadrature grid), so that an elementwise op is applied to it by running
the op on the grid. `fixed` is the share of the variance that is the same for every sample (patterns that padding or
positional encodings make); `common` is the share, of what differs between samples, that all positions of a sample have
in common; `area` is the number of positions over which the rest is correlated, 1 for white maps.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from bnlint.signal.statistics import NodeStats

_STEP = 0.125
POINTS = (torch.arange(-48, 48, dtype=torch.float64) + 0.5) * _STEP  # a kink in zero lies between two points
WEIGHTS = torch.exp(-POINTS.square() / 2)
WEIGHTS /= WEIGHTS.sum()
MOST = 1 << 15  # features told apart; of more, the average
_MASKED = -50.0  # a constant of zeros and entries below this is an attention mask, no part of the signal


@dataclass(eq=False)
class Value:
    """The expectation of one tensor of the graph. `grid` is points x features, features laid out like the tensor.

    Along an axis on which all entries have the same distribution, the grid has size 1. Values with the same `base` are
    functions of the same random variable.
    """

    grid: torch.Tensor
    shape: tuple[int, ...]
    base: object
    fixed: float = 0.0
    common: float = 0.0
    area: float = 1.0
    ripple: float = 0.0  # sum of the squared correlations between positions that few inputs per output leave by chance
    certain: bool = True
    sums_to_one: bool = False  # attention weights

    @cached_property
    def mean(self) -> torch.Tensor:
        """The mean of every feature."""
        found: torch.Tensor = torch.tensordot(WEIGHTS, self.grid, dims=1)
        return found

    @cached_property
    def variance(self) -> torch.Tensor:
        """The variance of every feature over samples and positions."""
        found: torch.Tensor = torch.tensordot(WEIGHTS, (self.grid - self.mean).square(), dims=1)
        return found

    @cached_property
    def power(self) -> float:
        """The second moment, over everything."""
        return float((self.variance + self.mean.square()).mean())

    @cached_property
    def noise(self) -> float:
        """The variance over samples and positions, over all features."""
        return float(self.variance.mean())

    @property
    def features(self) -> tuple[int, ...]:
        """The layout of the features."""
        return tuple(self.grid.shape[1:])

    @property
    def constant(self) -> bool:
        """True when the value is the same for every sample and position."""
        return self.noise == 0

    def along(self, dims: Iterable[int]) -> tuple[int, int]:
        """How many positions, and how many features, lie along these axes."""
        dims = tuple(dims)
        features = math.prod(self.features[d] for d in dims)
        return math.prod(self.shape[d] for d in dims) // max(features, 1), features

    def like(self, mean: torch.Tensor, variance: torch.Tensor, shape: Sequence[int] | None = None) -> Value:
        """A Gaussian value with these moments and this one's shares."""
        made = gaussian(mean, variance, self.shape if shape is None else shape)
        return made.shared_like(self)

    def shared_like(self, other: Value) -> Value:
        """Itself, with the shares and the certainty of another value."""
        self.fixed, self.common, self.area, self.ripple = other.fixed, other.common, other.area, other.ripple
        self.certain = other.certain
        return self


def gaussian(mean: torch.Tensor, variance: torch.Tensor, shape: Sequence[int], *, certain: bool = True) -> Value:
    """Normally distributed features; `mean` and `variance` broadcast to the layout of the features."""
    mean, variance = torch.broadcast_tensors(mean.double(), variance.double())  # type: ignore[no-untyped-call]
    points = POINTS.reshape(-1, *(1,) * mean.ndim)
    grid = mean + variance.clamp(min=0).sqrt() * points
    made = Value(grid, tuple(shape), object(), certain=certain)
    made.__dict__.update(mean=mean, variance=variance.clamp(min=0))  # exact, where the grid is not
    return made


def uniform(mean: float, variance: float, shape: Sequence[int], *, certain: bool = True) -> Value:
    """A value whose entries all have the same normal distribution."""
    one = torch.ones((1,) * len(shape), dtype=torch.float64)
    return gaussian(one * mean, one * variance, shape, certain=certain)


def constant(tensor: torch.Tensor) -> Value:
    """A tensor that is known; of a large one only the averages over all axes but the last are kept."""
    x = tensor.detach().double()
    if bool(((x == 0) | (x <= _MASKED)).all()):
        x = torch.zeros_like(x)
    shape, x = tuple(x.shape), distinct(x)
    made = Value(x.expand(len(POINTS), *x.shape), shape, object())
    made.__dict__.update(mean=x, variance=torch.zeros_like(x))
    return collapsed(made, range(x.ndim - 1)) if x.numel() > MOST else made


def distinct(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor with size 1 along every axis on which it does not change."""
    for d in range(tensor.ndim):
        if tensor.shape[d] > 1:
            first = tensor.narrow(d, 0, 1)
            if tensor.stride(d) == 0 or bool((tensor == first).all()):
                tensor = first
    return tensor


def collapsed(value: Value, dims: Iterable[int]) -> Value:
    """The value with one distribution for all entries along these axes; what tells them apart becomes variance."""
    dims = [d for d in dims if value.features[d] > 1]
    if not dims:
        return value
    mean = value.mean.mean(dims, keepdim=True)
    apart = (value.mean - mean).square().mean(dims, keepdim=True)
    inside = value.variance.mean(dims, keepdim=True)
    made = value.like(mean, inside + apart)
    if made.noise > 0:
        made.fixed = float((inside.mean() * value.fixed + apart.mean()) / made.noise)
    made.sums_to_one = value.sums_to_one
    return made


def comparable(values: Iterable[Value], ndim: int) -> list[Value]:
    """The values with so few features that those of an op on all of them, with `ndim` axes, can be told apart."""
    found = list(values)
    for d in range(ndim - 1):
        layouts = [(1,) * (ndim - len(v.features)) + v.features for v in found]
        if math.prod(map(max, *layouts, layouts[0])) <= MOST:
            break
        found = [collapsed(v, [k] if (k := d - ndim + len(v.features)) >= 0 else []) for v in found]
    return found


def settled(value: Value) -> Value:
    """The value when its positions have become features: what was fixed across samples now tells features apart."""
    if value.fixed == 0 or value.mean.numel() == 1:
        return value
    signs = (torch.arange(value.mean.numel()) % 2 * 2 - 1).reshape(value.mean.shape)
    mean = value.mean + signs * (value.variance * value.fixed).sqrt()
    made = value.like(mean, value.variance * (1 - value.fixed))
    made.fixed = 0.0
    return made


def expanded(value: Value, dims: Iterable[int]) -> Value:
    """The value with a distribution of its own for every entry along these axes."""
    layout = list(value.features)
    for d in dims:
        layout[d] = value.shape[d]
    return replace(value, grid=value.grid.expand(len(POINTS), *layout), base=object())


def shares(parts: Sequence[Value], weights: Sequence[float]) -> tuple[float, float, float]:
    """`fixed`, `common` and `area` of a sum of independent parts with these variances."""
    total = sum(weights)
    if not total > 0 or not math.isfinite(total):
        return 0.0, 0.0, 1.0
    fixed = sum(w * p.fixed for p, w in zip(parts, weights, strict=True)) / total
    random = [w * (1 - p.fixed) for p, w in zip(parts, weights, strict=True)]
    moving = sum(random)
    if not moving > 0:
        return fixed, 0.0, 1.0
    common = sum(w * p.common for p, w in zip(parts, random, strict=True)) / moving
    area = sum(w * p.area for p, w in zip(parts, random, strict=True)) / moving
    return fixed, common, area


def stats(value: Value, batch: int | None, channel: int | None) -> NodeStats:
    """The numbers the probe would measure; minimum and maximum are those of six standard deviations."""
    mean = float(value.mean.mean())
    apart = float((value.mean - mean).square().mean())
    spread = value.noise * (1 - value.fixed)
    if channel is not None:
        others = [d for d in range(len(value.features)) if d != channel and value.features[d] > 1]
        between = (value.mean - value.mean.mean(others, keepdim=True)).square().mean() if others else 0.0
        spread = value.noise + float(between)
    found = NodeStats(float(value.grid.min()), float(value.grid.max()), mean)
    found.second_moment, found.std = value.power, math.sqrt(max(value.noise + apart, 0.0))
    found.spread = math.sqrt(spread) if spread >= 0 else None
    if value.power > 0:
        found.similarity = 1 - value.noise * (1 - value.fixed) / value.power
    return found
