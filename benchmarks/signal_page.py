"""The page `docs/signal.md` and its plot, from what `predicted_signal.py` measured."""

from __future__ import annotations

import math
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path

from tabulate import tabulate

from bnlint import __version__

FACTOR, GRADIENT_FACTOR = 1.5, 2.0
EDGES = [k / 20 for k in range(-24, 25)]  # of the histogram, in powers of two

_METHOD = """\
# The predicted signal

bnlint knows what every value and gradient of a fresh model will look like before it sees any data. It reads the
recorded graph and the real weights, and runs nothing of the model.

1. A floating input counts as standard normal: N(0, 1), independent between samples, positions and channels.
2. Every value is a distribution for each feature, kept at 96 quantiles. A linear or convolutional layer turns means m
   and variances v of its inputs into W m + b and W² v, over the taps that the padding leaves; an activation, or any
   elementwise op, is applied to the quantiles themselves; a norm centres and scales by what its statistics are taken
   over; sums add variances, products multiply moments, concatenations lay features side by side.
3. Beside the variance goes what it is made of: the share that is the same for every sample (padding and positions
   make it), the share that all positions of a sample have in common, and over how many positions the rest is
   correlated. Pooling and attention average the independent part away and keep the common one. Convolutions with few
   inputs per output, depthwise ones above all, make neighbours alike by chance, the more so the heavier the tails of
   their inputs; the next nonlinearity turns that into correlation.
4. The gradient is carried back by one factor per edge: fan-out times the weight's second moment for a layer, E[φ'²]
   for an activation, 1/σ² for a norm.
5. An op without a rule passes on the scale of its first input, and all behind it is marked as uncertain up to the next
   norm. No rule of bnlint judges by an uncertain number.

What is compared is the **spread**: the standard deviation over samples and positions of each channel, averaged over
channels. The deviation of all numbers together says little; with PyTorch's default weights it stays at 0.04 in a deep
ReLU net whose outputs are the same for every input.

The gradient is the weaker half. What a batch norm takes out of it in every block is not counted, so the prediction
grows by a few per cent per block of a ResNet, four times too large in front of a hundred layers; in the concatenations
of a DenseNet it grows faster. Behind the class token of a vision transformer none is promised. No rule judges by it.

Where it is used: BN109, BN302, BN303 and others warn without data, and the probe's rules say what was expected.
"""


@dataclass(frozen=True)
class Row:
    """One model: predicted over measured for each of its layers, and what the prediction took."""

    name: str
    ratios: list[float]
    doubtful: int
    gradients: list[float]
    seconds: float
    misses: dict[str, float]

    @property
    def within(self) -> float:
        """The share of layers whose spread is right to within the factor."""
        return within(self.ratios)


def within(ratios: Sequence[float], factor: float = FACTOR) -> float:
    """The share of ratios that are right to within a factor."""
    return sum(1 / factor <= r <= factor for r in ratios) / len(ratios) if ratios else math.nan


def summary(rows: Sequence[Row]) -> str:
    """The totals, as a table."""
    spread = [r for row in rows for r in row.ratios]
    gradient = [r for row in rows for r in row.gradients]
    columns = ["", "layers", f"within {FACTOR:g}", f"within {GRADIENT_FACTOR:g}", "half within", "90 %", "99 %"]
    table = [
        (
            what,
            len(ratios),
            f"{within(ratios):.2%}",
            f"{within(ratios, GRADIENT_FACTOR):.2%}",
            *(f"{math.exp(_quantile(ratios, q)):.2f}" for q in (0.5, 0.9, 0.99)),
        )
        for what, ratios in (("spread of the output", spread), ("norm of its gradient", gradient))
    ]
    return tabulate(table, columns, tablefmt="github", disable_numparse=True)


def models(rows: Sequence[Row]) -> str:
    """One line for each model, the worst first."""
    columns = ["model", "layers", f"within {FACTOR:g}", "lowest", "median", "highest", "gradient", "uncertain"]
    table = [
        (
            row.name,
            len(row.ratios),
            f"{row.within:.1%}",
            f"{min(row.ratios):.2f}",
            f"{sorted(row.ratios)[len(row.ratios) // 2]:.2f}",
            f"{max(row.ratios):.2f}",
            f"{within(row.gradients, GRADIENT_FACTOR):.0%}" if row.gradients else "none",
            row.doubtful,
        )
        for row in sorted(rows, key=lambda row: (row.within, row.name))
    ]
    return tabulate(table, columns, tablefmt="github", disable_numparse=True)


def page(rows: Sequence[Row], setting: str, picture: str) -> str:
    """The whole page."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision"))
    missed = [(row.name, layer, ratio) for row in rows for layer, ratio in row.misses.items()]
    missed.sort(key=lambda miss: -abs(math.log(miss[2])))
    worst = [f"`{name}` `{layer}` {ratio:.2f}" for name, layer, ratio in missed[:12]]
    return "\n".join(
        [
            _METHOD,
            "## Measured\n",
            f"`python benchmarks/predicted_signal.py`, {date.today().isoformat()}: bnlint {__version__}, {versions}, "
            f"Python {platform.python_version()}, on a CPU: {setting}, in training mode with dropout and drop paths "
            "off. Every convolution and linear layer counts once. Numbers are predicted over measured.\n",
            summary(rows),
            f"\n![Histograms of predicted over measured]({picture})\n",
            models(rows),
            "\n`gradient` is the share of layers whose gradient's norm is right to within a factor 2; `uncertain` "
            "counts the layers that bnlint itself marks.\n",
            f"The layers furthest off, of {len(missed)}: {', '.join(worst)}.\n" if worst else "No layer is off.\n",
        ]
    )


def plot(rows: Sequence[Row], path: Path) -> None:
    """Two histograms of the logarithm of predicted over measured."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "bnlint", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9})
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(8, 2.8), layout="constrained")
    parts = (
        ("spread of a layer's output", [r for row in rows for r in row.ratios], FACTOR),
        ("norm of its gradient", [r for row in rows for r in row.gradients], GRADIENT_FACTOR),
    )
    for axis, (title, ratios, factor) in zip(axes, parts, strict=True):
        logs = [min(max(math.log2(max(r, 1e-9)), EDGES[0]), EDGES[-1]) for r in ratios]
        axis.hist(logs, bins=EDGES, color="#3b6ea5")
        axis.axvspan(-math.log2(factor), math.log2(factor), color="#3b6ea5", alpha=0.12, lw=0)
        ticks = (0.5, 1 / 1.5, 1.0, 1.5, 2.0)
        axis.set_xticks([math.log2(t) for t in ticks], [f"{t:.2g}" for t in ticks])
        axis.set(title=f"{title}, {len(ratios)} layers", xlabel="predicted / measured", ylabel="layers")
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _quantile(ratios: Sequence[float], q: float) -> float:
    errors = sorted(abs(math.log(max(r, 1e-9))) for r in ratios)
    return errors[int(q * (len(errors) - 1))]
