"""Which initialisation scheme a weight tensor follows, read off its values.

`recognise` says from which law the entries were drawn (`laws.py`) and which published schemes have that law's scale
within sampling error. A scale can belong to several: Xavier and LeCun agree when fan-in equals fan-out, and 64 entries
fix a standard deviation only to a third. All that fit are reported, the plainest first. Weights that are no independent
draw from one of the laws are "unknown": trained, loaded, or made by other means.

Measured by `benchmarks/schemes.py` (docs/schemes.md has the table).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from bnlint.signal.fans import Fans
from bnlint.signal.laws import SMALLEST, Law, Sample, independent, laws, sample

DEFAULT = "PyTorch default"
Z = 4.0  # standard errors within which a scheme's scale must agree
TIGHT = 10.0  # nats: a uniform sample's largest entry stays below the bound by more than this / n once in e^10

_GAINS = {"relu": math.sqrt(2), "linear": 1.0, "tanh": 5 / 3, "selu": 0.75, "leaky_relu(0.2)": math.sqrt(2 / 1.04)}
_COMMON = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 1.0)  # fixed scales that people choose


@dataclass(frozen=True)
class Scheme:
    """One published way to draw weights. `std` is what it gives this tensor."""

    name: str  # "He normal", "Xavier uniform", "N(0, 0.01²)", …
    std: float
    fan: str = ""  # "fan_in", "fan_out" or "average"
    gain: float | None = None
    nonlinearity: str = ""  # the activation its gain is made for
    real: bool = True  # False when the fan is one that torch counts and the layer does not have
    tier: int = 1

    @property
    def usual(self) -> str:
        """The nonlinearity its authors have in mind."""
        return "relu" if self.name.startswith("He") else "linear"

    @property
    def label(self) -> str:
        """`He normal (fan_out)`, `Xavier uniform (gain for tanh)`."""
        notes = [self.fan] if self.fan == "fan_out" else []
        if self.nonlinearity and self.nonlinearity != self.usual:
            notes.append(f"gain for {self.nonlinearity}")
        return f"{self.name} ({', '.join(notes)})" if notes else self.name


@dataclass(frozen=True)
class Recognition:
    """What `recognise` found. `law` is one of: normal, uniform, truncated normal, orthogonal, constant, zeros,
    identity, dirac, sparse, unknown, non-finite, too few."""

    law: str
    mean: float = 0.0
    std: float = 0.0
    schemes: tuple[Scheme, ...] = field(default=())
    error: float = 0.0  # relative standard error of `std`

    @property
    def scheme(self) -> Scheme | None:
        """The plainest scheme that fits, None when the law has none or is unknown."""
        return self.schemes[0] if self.schemes else None

    @property
    def drawn(self) -> bool:
        """True for independent random draws; False for constants, structure and trained weights."""
        return self.law in ("normal", "uniform", "truncated normal")

    @property
    def is_default(self) -> bool:
        """True when the layer's own `reset_parameters` fits."""
        return any(scheme.name == DEFAULT for scheme in self.schemes)

    @property
    def label(self) -> str:
        """For tables: the plainest scheme, how many others fit, or the law alone."""
        if self.schemes:
            others = len(self.schemes) - 1
            return self.schemes[0].label + (f" or {self.schemes[1].label}" if others else "")
        if self.drawn:
            return f"{self.law}, std {self.std:.3g}"
        return {"unknown": "unknown/trained", "constant": f"constant {self.mean:g}"}.get(self.law, self.law)


def recognise(tensor: torch.Tensor, fans: Fans | None = None, module: nn.Module | None = None) -> Recognition | None:
    """The scheme of a parameter; None for tensors without values (meta, fake) and those that are not real numbers.

    `fans` as from `fans_of(module, name)`; without them only laws and fixed scales are known. `module` tells an
    embedding's default from a plain N(0, 1).
    """
    if tensor.is_meta or isinstance(tensor, FakeTensor) or not tensor.dtype.is_floating_point or not tensor.numel():
        return None
    seen = sample(tensor)
    if not bool(torch.isfinite(seen.matrix).all()):
        return Recognition("non-finite")
    plain = _constant(tensor, seen) or _structured(tensor, seen)
    if plain is not None:
        return plain
    entries = seen.matrix.flatten()
    mean, std = float(entries.mean()), float(entries.std()) if entries.numel() > 1 else 0.0
    if seen.zeros > 0.05:
        nonzero = entries[entries != 0]
        is_sparse = nonzero.numel() >= SMALLEST and laws(nonzero, coarse=seen.coarse)
        return Recognition("sparse" if is_sparse else "unknown", mean, std)
    if entries.numel() < SMALLEST:
        return Recognition("too few", mean, std)
    return _drawn(seen, mean, std, fans, module)


def _drawn(seen: Sample, mean: float, std: float, fans: Fans | None, module: nn.Module | None) -> Recognition:
    entries = seen.matrix.flatten()
    n = entries.numel()
    if not independent(seen.matrix):
        return Recognition("unknown", mean, std)
    centre = 0.0
    if abs(mean) > (Z / math.sqrt(n) + seen.epsilon) * std:  # shifted: the law around its middle, no scheme
        centre = mean
        if (entries.max() - mean) < 2 * std and (mean - entries.min()) < 2 * std:
            centre = float(entries.max() + entries.min()) / 2
    fitting = laws(entries - centre, coarse=seen.coarse)
    if not fitting:
        return Recognition("unknown", mean, std)
    if centre:
        return Recognition(fitting[0].name, mean, std, error=fitting[0].error)
    fitting.sort(key=lambda law: law.name == "truncated normal")  # plainest first
    schemes: dict[str, Scheme] = {}
    for law in fitting:
        for scheme in _schemes(law, seen, fans, module):
            schemes.setdefault(scheme.label, scheme)
    ordered = sorted(schemes.values(), key=lambda scheme: scheme.tier)
    return Recognition(fitting[0].name, mean, std, tuple(ordered), fitting[0].error)


def _schemes(law: Law, seen: Sample, fans: Fans | None, module: nn.Module | None) -> Iterator[Scheme]:
    """The schemes of this law whose scale agrees."""
    n, slack = seen.matrix.numel(), (0.01 if seen.coarse else 0.0) + seen.epsilon
    if law.name == "uniform":
        top = law.bound / math.sqrt(3)
        low, high = top * (1 - 2 * seen.epsilon), top / (1 - min(TIGHT / n, 0.5)) * (1 + slack)
    else:
        low, high = law.std * (1 - Z * law.error - slack), law.std * (1 + Z * law.error + slack)
    for scheme in _candidates(law, fans, module):
        if low <= scheme.std <= high:
            yield scheme
    factor = math.sqrt(3) if law.name == "uniform" else law.nominal / law.std
    value = _tidiest(low * factor, high * factor)
    if value is not None:
        name = {"normal": f"N(0, {value:g}²)", "uniform": f"U(±{value:g})"}.get(law.name, f"truncated N(0, {value:g}²)")
        yield Scheme(name, value / factor, tier=1 if value in _COMMON else 3)


def _candidates(law: Law, fans: Fans | None, module: nn.Module | None) -> Iterator[Scheme]:
    if law.name == "normal" and isinstance(module, nn.Embedding | nn.EmbeddingBag):
        yield Scheme(DEFAULT, 1.0, tier=0)
    if fans is None:
        return
    if law.name == "uniform" and fans.default_bound:
        yield Scheme(DEFAULT, fans.default_bound / math.sqrt(3), "fan_in", 1 / math.sqrt(3), tier=0)
    precise = law.name == "uniform" or law.error < 0.01  # else the rarer gains fit everything
    for scheme in _by_fan(law.name, fans, _GAINS if precise else {key: _GAINS[key] for key in ("relu", "linear")}):
        yield scheme
        if law.name == "truncated normal":  # most libraries do not make up for what the truncation takes away
            yield replace(scheme, std=scheme.std * law.std / law.nominal)


def _by_fan(law: str, fans: Fans, gains: dict[str, float]) -> Iterator[Scheme]:
    """He, LeCun and Xavier with every gain that torch knows, for the fans of the layer and those of torch."""
    for nonlinearity, gain in gains.items():
        usual = nonlinearity in ("relu", "linear")
        for fan in ("fan_in", "fan_out"):
            side = fan[4:]
            for count in dict.fromkeys((getattr(fans, f"torch_{side}"), getattr(fans, f"real_{side}"))):
                real = count == getattr(fans, f"real_{side}")
                name = f"{'LeCun' if nonlinearity == 'linear' else 'He'} {law}"
                tier = 1 if usual and fan == "fan_in" else 2
                yield Scheme(name, gain / math.sqrt(count), fan, gain, nonlinearity, real, tier)
        for total in dict.fromkeys((fans.torch_in + fans.torch_out, fans.real_in + fans.real_out)):
            real = total == fans.real_in + fans.real_out
            std = gain * math.sqrt(2 / total)
            tier = 1 if nonlinearity == "linear" else 2
            yield Scheme(f"Xavier {law}", std, "average", gain, nonlinearity, real, tier)
    if law == "uniform":
        for k in (2, 3, 4, 0.5):
            yield Scheme(f"U(±{k:g}/√n)", k / math.sqrt(3 * fans.torch_in), "fan_in", k / math.sqrt(3), tier=3)


def _tidiest(low: float, high: float) -> float | None:
    """The number of fewest digits in a range: 1, 2 or 5 first, then any one digit, then 1.5, 2.5, … times a power."""
    for digits in ((1, 2, 5), (3, 4, 6, 7, 8, 9), (1.5, 2.5, 3.5, 4.5, 7.5)):
        exponent = math.floor(math.log10(low))
        values = [d * 10.0**e for e in (exponent, exponent + 1) for d in digits]
        found = [float(f"{v:.3g}") for v in values if low <= v <= high]
        if found:
            return min(found, key=lambda v: abs(math.log(v * v / low / high)))
    return None


def _constant(tensor: torch.Tensor, seen: Sample) -> Recognition | None:
    first = tensor.detach().flatten()[0]
    sampled = seen.matrix if seen.matrix.numel() else seen.matrix.new_zeros(1)
    if bool((sampled != sampled.flatten()[0]).any()) or not bool((tensor.detach() == first).all()):
        return None
    return Recognition("constant", float(first)) if first else Recognition("zeros")


def _structured(tensor: torch.Tensor, seen: Sample) -> Recognition | None:
    """Identity and Dirac weights, and orthogonal ones up to a gain."""
    if tensor.ndim < 2:
        return None
    weight = tensor.detach()
    if seen.zeros > 0.4 and int(weight.count_nonzero()) <= min(weight.shape[0], weight[0].numel()):
        value = float(weight.abs().max())
        if weight.ndim == 2 and bool((weight.diagonal() == value).all()):
            return Recognition("identity", value)
        centre = weight
        for size in weight.shape[2:]:
            centre = centre.select(2, size // 2)
        if weight.ndim > 2 and int((centre == value).sum()) == int(weight.count_nonzero()):
            return Recognition("dirac", value)
    gain = _orthogonal_gain(weight.flatten(1))
    if gain is None:
        return None
    scheme = Scheme("orthogonal", float(seen.matrix.square().mean().sqrt()), gain=gain)
    return Recognition("orthogonal", float(seen.matrix.mean()), scheme.std, (scheme,))


def _orthogonal_gain(rows: torch.Tensor) -> float | None:
    """The common length of rows, or of columns when there are fewer, that are orthogonal; None when they are not."""
    if rows.shape[0] > rows.shape[1]:
        rows = rows.T
    if rows.shape[0] < 2:
        return None
    tolerance, scale = max(1e-4, 2 * torch.finfo(rows.dtype).eps), 0.0
    for count in sorted({2, min(rows.shape[0], 64)}):  # two of them settle it for nearly all others
        some = rows[torch.arange(count) * rows.shape[0] // count].double()
        gram = some @ some.T
        scale = float(gram.diagonal().mean())
        if scale <= 0 or float((gram / scale - torch.eye(count)).abs().max()) > tolerance:
            return None
    return math.sqrt(scale)
