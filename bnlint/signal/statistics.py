"""Statistics of one activation: reduced on its device to a few numbers, put together on the host.

A value is seen as samples x positions x channels. Deviations are taken from the means first and squared afterwards
(two passes), so that a spread far below the mean is not lost; half precision is widened to float32 before anything.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeGuard

import torch
from torch._subclasses.fake_tensor import FakeTensor

_HALVES = (torch.float16, torch.bfloat16)
_FLOATS = (torch.float32, torch.float64, *_HALVES)


@dataclass
class NodeStats:
    """What passed through one node of the graph. A field is None where it was not measured or has no meaning."""

    minimum: float
    maximum: float
    mean: float | None = None
    std: float | None = None  # over everything
    spread: float | None = None  # across samples and positions, per channel: what the layer tells apart
    second_moment: float | None = None
    similarity: float | None = None  # mean cosine between two samples; 1 when all are the same
    gradient: float | None = None  # norm of the loss's gradient with respect to this value

    @property
    def finite(self) -> bool:
        """False when a NaN or an infinity is among the values."""
        return math.isfinite(self.minimum) and math.isfinite(self.maximum)

    @property
    def has_nan(self) -> bool:
        """True when a NaN is among the values."""
        return math.isnan(self.minimum) or math.isnan(self.maximum)


@dataclass(frozen=True)
class Layout:
    """How many samples, positions per sample and channels a value has."""

    samples: int
    positions: int
    channels: int


def measurable(value: object) -> TypeGuard[torch.Tensor]:
    """True for a dense tensor of floating-point numbers with at least one element and data of its own."""
    return (
        isinstance(value, torch.Tensor)
        and value.dtype in _FLOATS
        and value.layout is torch.strided
        and value.numel() > 0
        and value.device.type != "meta"
        and not isinstance(value, FakeTensor)
        and not torch._C._functorch.is_functorch_wrapped_tensor(value)  # inside vmap it has no values of its own
    )


def extremes(value: torch.Tensor) -> list[torch.Tensor]:
    """Minimum and maximum; NaN in both when there is one."""
    low, high = torch.aminmax(value.detach())
    return [low, high]


def moments(value: torch.Tensor, batch: int | None, channel: int | None) -> tuple[list[torch.Tensor], Layout]:
    """The mean and the norms of three deviations: of samples from their mean, of positions, of channels.

    `batch` and `channel` are axes. Without a batch axis the value is one sample; without a channel axis every position
    is a channel of its own.
    """
    x = widened(value.detach())
    if batch is None:
        x, batch, channel = x.unsqueeze(0), 0, channel + 1 if channel is not None else None
    average = x.mean(batch)
    within = torch.linalg.vector_norm(x - average.unsqueeze(batch))
    samples, features = x.shape[batch], average.numel()
    if channel is None:
        channels = average.flatten()
        between = torch.zeros_like(within)
    else:
        rows = average.movedim(channel - (channel > batch), 0).flatten(1) if average.ndim > 1 else average[:, None]
        channels = rows.mean(1)
        between = torch.linalg.vector_norm(rows - channels[:, None])
    mean = channels.mean()
    apart = torch.linalg.vector_norm(channels - mean)
    count = channels.numel()
    return [mean, within, between, apart], Layout(samples, features // count, count)


def summary(numbers: Sequence[float], layout: Layout | None = None) -> NodeStats:
    """Puts together what `extremes` and, with a layout, `moments` measured."""
    stats = NodeStats(numbers[0], numbers[1])
    if layout is None:
        return stats
    mean, within, between, apart = numbers[2:]
    n, positions, channels = layout.samples, layout.positions, layout.channels
    rows, total = n * positions, n * positions * channels
    inside = within * within + n * between * between  # `**` would raise where this gives inf
    stats.mean = mean
    stats.std = math.sqrt((inside + rows * apart * apart) / total)
    stats.second_moment = stats.std * stats.std + mean * mean
    if rows > 1:
        stats.spread = math.sqrt(inside / (channels * (rows - 1)))
    if n > 1 and stats.second_moment > 0:
        stats.similarity = 1 - within * within / ((n - 1) * positions * channels) / stats.second_moment
    return stats


def norm(value: torch.Tensor) -> torch.Tensor:
    """The Euclidean norm, in float32 or better."""
    result: torch.Tensor = torch.linalg.vector_norm(widened(value.detach()))
    return result


def widened(value: torch.Tensor) -> torch.Tensor:
    """Half precision as float32; anything else as it is."""
    return value.float() if value.dtype in _HALVES else value
