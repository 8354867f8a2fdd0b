"""Statistics of one activation: reduced on its device to a few numbers a channel, put together on the host.

A value is seen as samples x positions x channels. Deviations are taken from the means first and squared afterwards
(two passes), so that a spread far below the mean is not lost; half precision is widened to float32 before anything.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeGuard

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional

_HALVES = (torch.float16, torch.bfloat16)
_FLOATS = (torch.float32, torch.float64, *_HALVES)
_CHUNK = 1 << 18  # entries whose deviations a CPU takes at a time: they stay in its cache
SAME = 1e-6  # a channel varies when its deviation is more than this of its size
_CERTAIN = 4.7534  # standard deviations that a normal variable exceeds with probability 1e-6
_FEWEST_ROWS = 16  # values of a unit that say anything about its sign
_FEWEST_FOR_RANK = 40
RANK_ROWS = 256  # rows of a value that its rank is taken from

Numbers = Mapping[str, torch.Tensor]


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
    channels: int | None = None
    constant: int | None = None  # channels that are the same for every sample and at every position
    off: int | None = None  # channels that are never above zero, by a margin no chance explains
    on: int | None = None  # channels as far on the other side
    saturated: float | None = None  # share of entries that a sigmoid or tanh maps to its limits
    rows: int | None = None  # samples times positions
    rank: float | None = None  # effective rank of up to 256 rows
    dtype: str | None = None
    limit: float | None = None  # the largest number of that dtype
    zeros: float | None = None  # share of entries that are exactly zero; of layers in half precision

    @property
    def reach(self) -> float:
        """The largest absolute value."""
        return max(abs(self.minimum), abs(self.maximum))

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


def extremes(value: torch.Tensor) -> dict[str, torch.Tensor]:
    """Minimum and maximum; NaN in both when there is one."""
    low, high = torch.aminmax(value.detach())
    return {"minimum": low, "maximum": high}


def moments(value: torch.Tensor, batch: int | None, channel: int | None) -> tuple[dict[str, torch.Tensor], Layout]:
    """Each channel's mean, and its squared deviations: of samples from their mean, and of positions from the channel's.

    `batch` and `channel` are axes. Without a batch axis the value is one sample; without a channel axis every position
    is a channel of its own, and only sums over the channels are given.
    """
    x = widened(value.detach())
    if batch is None:
        x, batch, channel = x.unsqueeze(0), 0, channel + 1 if channel is not None else None
    average = x.mean(batch)
    samples, features = x.shape[batch], average.numel()
    if channel is None:
        within, means = _squares(x, average, batch, None).sum(), average.flatten()
        mean = means.mean()
        return {"mean": mean, "within": within, "apart": (means - mean).square_().sum()}, Layout(samples, 1, features)
    numbers = {"mean": average, "within": _squares(x, average, batch, channel)}
    channels = x.shape[channel]
    if average.ndim > 1:
        rows = average.movedim(channel - (channel > batch), 0).flatten(1)
        numbers["mean"] = rows.mean(1)
        numbers["between"] = (rows - numbers["mean"][:, None]).square_().sum(1)
    return numbers, Layout(samples, features // channels, channels)


def _squares(x: torch.Tensor, average: torch.Tensor, batch: int, channel: int | None) -> torch.Tensor:
    """Sums over each channel, or over the samples alone, of the squared deviations from `average`."""
    average = average.unsqueeze(batch)
    axes = [d for d in range(x.ndim) if d != channel] if channel is not None else [batch]
    size = max(1, _CHUNK // average.numel()) if x.device.type == "cpu" else x.shape[batch]
    parts = [(part - average).square_().sum(axes) for part in torch.split(x, size, batch)]
    return parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)


def highest(value: torch.Tensor, channel: int) -> torch.Tensor:
    """The maximum of each channel."""
    return value.detach().amax([d for d in range(value.ndim) if d != channel])


def saturation(value: torch.Tensor, limit: float = 5.0, mask: float = 1e6) -> torch.Tensor:
    """The share of entries beyond `limit`; those beyond `mask` are masked on purpose."""
    size = widened(value.detach()).abs()
    return ((size > limit) & (size < mask)).float().mean()


def flatness(value: torch.Tensor, channel: int) -> dict[str, torch.Tensor]:
    """The sum of the squared shares of the principal directions: one over the effective rank of the centred rows.

    Empty where there are too few rows or channels to speak of a rank.
    """
    rows = value.detach().movedim(channel, -1)
    count = rows.numel() // rows.shape[-1]
    if min(count, rows.shape[-1]) < _FEWEST_FOR_RANK:
        return {}
    picked = torch.arange(0, count, max(1, count // RANK_ROWS), device=value.device)[:RANK_ROWS]
    index = []
    for size in reversed(rows.shape[:-1]):
        index.append(picked % size)
        picked = picked // size
    x = widened(rows[tuple(reversed(index))])
    x = x - x.mean(0)
    x = functional.normalize(x) / x.shape[0] ** 0.5  # each row counts alike: one outlier is no direction of all
    products = x @ x.T if x.shape[0] < x.shape[1] else x.T @ x
    return {"flatness": torch.linalg.vector_norm(products).square()}


def zero_share(value: torch.Tensor) -> torch.Tensor:
    """The share of entries that are exactly zero."""
    return (value.detach() == 0).float().mean()


def is_half(dtype: torch.dtype) -> bool:
    """True for float16 and bfloat16."""
    return dtype in _HALVES


def summary(numbers: Numbers, layout: Layout | None = None, dtype: torch.dtype | None = None) -> NodeStats:
    """Puts together what the functions above measured; `layout` is that of `moments`."""
    stats = NodeStats(float(numbers["minimum"]), float(numbers["maximum"]))
    if dtype is not None:
        stats.dtype, stats.limit = str(dtype).removeprefix("torch."), torch.finfo(dtype).max
    if "zeros" in numbers:
        stats.zeros = float(numbers["zeros"])
    if "gradient" in numbers:
        stats.gradient = float(numbers["gradient"])
    if layout is None:
        return stats
    n, positions, channels = layout.samples, layout.positions, layout.channels
    rows, total = n * positions, n * positions * channels
    stats.rows = rows
    stats.mean = float(numbers["mean"].mean())
    within = float(numbers["within"].sum())
    inside = within + (n * float(numbers["between"].sum()) if "between" in numbers else 0.0)
    apart = float(numbers["apart"] if "apart" in numbers else (numbers["mean"] - stats.mean).square().sum())
    stats.std = math.sqrt((inside + rows * apart) / total)
    stats.second_moment = stats.std * stats.std + stats.mean * stats.mean
    if rows > 1:
        stats.spread = math.sqrt(inside / (channels * (rows - 1)))
    if n > 1 and stats.second_moment > 0:
        stats.similarity = 1 - within / ((n - 1) * positions * channels) / stats.second_moment
    if "apart" not in numbers and rows > 1:
        _count_channels(stats, numbers, rows, n)
    if "saturated" in numbers:
        stats.saturated = float(numbers["saturated"])
    flat = float(numbers.get("flatness", 0.0))
    if flat > 0:  # zero or NaN where all rows are one, or beyond what their squares can hold
        stats.rank = 1 / flat
    return stats


def _count_channels(stats: NodeStats, numbers: Numbers, rows: int, samples: int) -> None:
    """How many channels do not vary, and how many are always on one side of zero."""
    mean = numbers["mean"]
    inside = numbers["within"] + samples * numbers["between"] if "between" in numbers else numbers["within"]
    deviation = (inside / (rows - 1)).sqrt()
    stats.channels = mean.numel()
    stats.constant = int((deviation <= SAME * mean.abs()).sum())
    if "highest" in numbers and rows >= _FEWEST_ROWS:
        reach = deviation * _margin(rows)
        stats.off = int(((mean + reach < 0) & (numbers["highest"] <= 0)).sum())
        stats.on = int((mean - reach > 0).sum())


def _margin(rows: int) -> float:
    """How many standard deviations from the mean of `rows` values the next one lies with probability 1e-6 (Student)."""
    z, n = _CERTAIN, rows - 1
    first, second = (z**3 + z) / (4 * n), (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3)
    return (z + first + second + third) * math.sqrt(1 + 1 / rows)


def norm(value: torch.Tensor) -> torch.Tensor:
    """The Euclidean norm, in float32 or better."""
    result: torch.Tensor = torch.linalg.vector_norm(widened(value.detach()))
    return result


def widened(value: torch.Tensor) -> torch.Tensor:
    """Half precision as float32; anything else as it is."""
    return value.float() if value.dtype in _HALVES else value
