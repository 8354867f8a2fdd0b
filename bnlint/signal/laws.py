"""Which law the entries of a tensor were drawn from, if they were drawn independently at all.

A sample of at most `SAMPLE` entries is looked at: evenly spaced rows and columns of the weight as a matrix (units by
inputs), so the answer is deterministic and costs the same few milliseconds for a layer of any size. A law is kept when
the Kolmogorov-Smirnov test accepts it (false rate 0.001) and no other law is
e^7 times as likely. The matrix must also look independent: the spread of row and column means and second moments, and
the largest singular value (against the Tracy-Widom law), are those of independent entries. Training leaves traces in
one of these long before it changes the histogram.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch

SAMPLE = 32768
SORTED = 8192  # the goodness-of-fit test sorts at most so many; 16-bit tensors get fewer, their grid is coarse
SORTED_COARSE = 4096
SMALLEST = 64  # entries; fewer say too little
LIKELIHOOD = 7.0  # nats by which a law may be less likely than the best
KOLMOGOROV = 1.95  # sqrt(n) D at a false rate of 0.001; the scale is estimated, which only lowers the rate
DISPERSION = 5.0  # standard errors of the row and column statistics
TRACY_WIDOM = 4.6  # 0.9999 quantile for real matrices


@dataclass(frozen=True)
class Law:
    """A family of distributions with its scale: `std` of the entries and `nominal`, the std before truncation."""

    name: str  # "normal", "uniform", "truncated normal"
    std: float
    nominal: float
    bound: float = math.inf  # of the support
    error: float = 0.0  # relative standard error of `std`


@dataclass(frozen=True)
class Sample:
    """Some of a tensor's entries as a matrix, and what was seen on the way."""

    matrix: torch.Tensor
    epsilon: float
    zero_rows: int
    zeros: float

    @property
    def coarse(self) -> bool:
        """True for 16-bit tensors, whose draws come from a grid."""
        return self.epsilon > 1e-5


def sample(tensor: torch.Tensor) -> Sample:
    """Evenly spaced rows and columns, without the rows that are all zero (padding rows of an embedding)."""
    rows = tensor.detach().flatten(1) if tensor.ndim > 1 else tensor.detach().flatten()[:, None]
    width = min(rows.shape[1], max(256, SAMPLE // rows.shape[0]))
    height = min(rows.shape[0], max(1, SAMPLE // width))
    picked = rows[_spaced(rows.shape[0], height)][:, _spaced(rows.shape[1], width)].double()
    filled = picked.any(1)
    matrix = picked[filled]
    zeros = float((matrix == 0).double().mean()) if matrix.numel() else 1.0
    epsilon = torch.finfo(tensor.dtype).eps if tensor.dtype.is_floating_point else 0.0
    return Sample(matrix, epsilon, int((~filled).sum()), zeros)


def laws(entries: torch.Tensor, *, coarse: bool = False) -> list[Law]:
    """The laws that fit entries around zero, the likeliest first."""
    n = entries.numel()
    found = [law for law in (_normal(entries), _uniform(entries), *_truncated(entries)) if law is not None]
    likelihood = {law: _log_likelihood(law, entries) for law in found}
    best = max(likelihood.values(), default=0.0)
    found = [law for law in found if likelihood[law] > best - LIKELIHOOD]
    kept = entries[_spaced(n, min(n, SORTED_COARSE if coarse else SORTED))].sort().values
    found = [law for law in found if _fits(law, kept)]
    return sorted(found, key=lambda law: -likelihood[law])


def independent(matrix: torch.Tensor) -> bool:
    """True when rows and columns differ no more than those of independent entries, and no direction stands out."""
    p, q = matrix.shape
    if min(p, q) < 2 or p * q < 256:
        return True
    centred = matrix - matrix.mean()
    m2 = float(centred.square().mean())
    kurtosis = float(centred.pow(4).mean()) / m2**2
    for table in (centred, centred.T):
        groups, size = table.shape
        means = table.mean(1).square().sum() / (m2 / size)
        if _beyond_chance(float(means), groups, (kurtosis - 3) / size):
            return False
        squares = table.square().mean(1)
        spread = (squares - squares.mean()).square().sum() / (m2**2 * (kurtosis - 1) / size)
        if _beyond_chance(float(spread), groups, 12 / size):
            return False
    return _largest_singular_value(centred) < TRACY_WIDOM


def _beyond_chance(statistic: float, groups: int, excess: float) -> bool:
    """Whether a chi-square-like sum over groups, whose terms have this excess kurtosis, is too large or too small."""
    degrees = groups - 1
    standard_error = math.sqrt(max(2 * degrees + degrees * max(excess, 0.0), 1.0))
    low = degrees - DISPERSION * math.sqrt(2 * degrees)
    return not low < statistic < degrees + DISPERSION * standard_error + 12


def _largest_singular_value(centred: torch.Tensor) -> float:
    """The largest eigenvalue of the Gram matrix, in the units in which it follows the Tracy-Widom law."""
    table = centred if centred.shape[0] <= centred.shape[1] else centred.T
    table = table[_spaced(table.shape[0], min(table.shape[0], 128))]
    table = table[:, _spaced(table.shape[1], min(table.shape[1], 1024))]
    p, q = table.shape
    if p < 4:
        return 0.0
    table = table / table.square().mean().sqrt()
    largest = float(torch.linalg.eigvalsh(table @ table.T)[-1])
    centre = (math.sqrt(q - 1) + math.sqrt(p)) ** 2
    scale = float((math.sqrt(q - 1) + math.sqrt(p)) * (1 / math.sqrt(q - 1) + 1 / math.sqrt(p)) ** (1 / 3))
    return (largest - centre) / scale


def _normal(x: torch.Tensor) -> Law:
    n, std = x.numel(), float(x.square().mean().sqrt())
    return Law("normal", std, std, error=math.sqrt(0.5 / n))


def _uniform(x: torch.Tensor) -> Law | None:
    n, std, top = x.numel(), float(x.square().mean().sqrt()), float(x.abs().max())
    error = math.sqrt(0.2 / n)
    if abs(std * math.sqrt(3) / top - 1) > 5 * error + 0.005:
        return None
    return Law("uniform", top * (n + 1) / n / math.sqrt(3), std, top, error)


def _truncated(x: torch.Tensor) -> list[Law]:
    """Normals cut at two and at three standard deviations."""
    n, std, top = x.numel(), float(x.square().mean().sqrt()), float(x.abs().max())
    found = []
    for cut in (2.0, 3.0):
        error = math.sqrt((_truncated_kurtosis(cut) - 1) / 4 / n)
        nominal = std / _truncated_std(cut)
        if top / nominal < cut * (1 + 5 * error):
            nominal = max(nominal, top / cut)
            found.append(Law("truncated normal", std, nominal, cut * nominal, error))
    return found


def _fits(law: Law, ordered: torch.Tensor) -> bool:
    n = ordered.numel()
    cdf = _cdf(law, ordered)
    steps = torch.arange(n + 1, dtype=torch.float64) / n
    distance = float(torch.maximum(cdf - steps[:-1], steps[1:] - cdf).max())
    return distance * (math.sqrt(n) + 0.12 + 0.11 / math.sqrt(n)) < KOLMOGOROV


def _cdf(law: Law, x: torch.Tensor) -> torch.Tensor:
    if law.name == "uniform":
        return (x / law.bound + 1) / 2
    z: torch.Tensor = torch.special.ndtr(x / law.nominal)
    if law.name == "normal":
        return z
    low = float(torch.special.ndtr(torch.tensor(-law.bound / law.nominal, dtype=torch.float64)))
    return (z - low) / (1 - 2 * low)


def _log_likelihood(law: Law, x: torch.Tensor) -> float:
    n = x.numel()
    if law.name == "uniform":
        return -n * math.log(2 * law.bound)
    value = -n * math.log(law.nominal * math.sqrt(2 * math.pi)) - float(x.square().sum()) / 2 / law.nominal**2
    if law.name == "truncated normal":
        value -= n * math.log(math.erf(law.bound / law.nominal / math.sqrt(2)))
    return value


@cache
def _truncated_std(cut: float) -> float:
    density = math.exp(-cut * cut / 2) / math.sqrt(2 * math.pi)
    return math.sqrt(1 - 2 * cut * density / math.erf(cut / math.sqrt(2)))


@cache
def _truncated_kurtosis(cut: float) -> float:
    ratio = 2 * math.exp(-cut * cut / 2) / math.sqrt(2 * math.pi) / math.erf(cut / math.sqrt(2))
    return (3 - ratio * (cut**3 + 3 * cut)) / _truncated_std(cut) ** 4


def _spaced(n: int, count: int) -> torch.Tensor:
    return torch.arange(count) * n // count
