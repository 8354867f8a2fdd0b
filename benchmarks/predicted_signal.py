"""How well the predicted signal agrees with the measured one, on torchvision's classification models at init.

Every builder is built with its default initialisation. The spread across samples and positions that the graph and the
weights promise for each convolution and linear layer is compared with the one that a batch of N(0, 1) images has there.
At least `SHARE` of all layers must lie within a factor of `FACTOR`. Drop paths are off, as dropout is in the probe,
since whole branches that one sample skips and another does not are no part of the signal; `--drop-paths` leaves
them on. `--plot` draws the distribution of the errors.
"""

from __future__ import annotations

import argparse
import gc
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from tabulate import tabulate
from torch import nn

from bnlint.graph.follow import follow
from bnlint.graph.model import Graph
from bnlint.graph.ops import WEIGHT_LAYERS
from bnlint.graph.untouched import training_mode, untouched
from bnlint.inputs.values import Inputs
from bnlint.signal.predict import Prediction
from bnlint.signal.probe import probe

FACTOR, SHARE = 1.5, 0.95
BINS = [k / 20 for k in range(-20, 21)]  # of the logarithm to base 2


@dataclass(frozen=True)
class Row:
    """One model: the predicted over the measured spread of its layers, and what the prediction took."""

    name: str
    ratios: list[float]
    doubtful: int
    gradients: list[float]
    seconds: float


def builders(largest: float, *, drop_paths: bool) -> Iterator[tuple[str, nn.Module, int]]:
    """Name, model and image size of every classification builder of at most so many million parameters."""
    from torchvision import models
    from torchvision.ops import StochasticDepth

    for name in models.list_models(module=models):
        if models.get_model_weights(name).DEFAULT.meta["num_params"] > largest * 1e6:
            continue
        torch.manual_seed(0)
        options = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
        model = models.get_model(name, weights=None, **options)
        for module in model.modules():
            if not drop_paths and isinstance(module, StochasticDepth):
                module.p = 0.0
        yield name, model, 299 if name == "inception_v3" else 224


def measure(name: str, model: nn.Module, images: torch.Tensor) -> Row:
    """Predicts and measures one model in training mode."""
    with untouched(model), training_mode(model, True):
        recording, _ = follow(model, (images,), {})
        graph = Graph(recording, model)
        started = time.perf_counter()
        predicted = Prediction(graph, model)
        seconds = time.perf_counter() - started
        found = probe(model, Inputs((images,), {}), graph)
    if found.failed:
        raise RuntimeError(f"{name}: {found.failed}")
    ratios, gradients, doubtful = [], [], 0
    for node in graph.of_kind(*WEIGHT_LAYERS):
        measured = found.stats.get(node.name)
        if measured is None or not measured.spread:
            continue
        ratios.append((predicted.spread(node) or 0.0) / measured.spread)
        doubtful += not predicted.certain(node)
        if measured.gradient and predicted.backward(node):
            gradients.append((predicted.backward(node) or 0.0) / measured.gradient)
    return Row(name, ratios, doubtful, gradients, seconds)


def within(ratios: Sequence[float], factor: float = FACTOR) -> float:
    """The share of ratios that are right to within a factor."""
    return sum(1 / factor <= r <= factor for r in ratios) / len(ratios) if ratios else math.nan


def plot(rows: Sequence[Row]) -> str:
    """A histogram of predicted over measured, as SVG."""
    ratios = [math.log2(max(r, 1e-9)) for row in rows for r in row.ratios]
    low, step = BINS[0], BINS[1] - BINS[0]
    counts = [0] * (len(BINS) - 1)
    for r in ratios:
        counts[min(max(int((r - low) / step), 0), len(counts) - 1)] += 1
    width, height, left, bottom = 640, 240, 48, 36
    bar, most = (width - left - 8) / len(counts), max(counts)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height + bottom}" font-family="sans-serif" '
        'font-size="11">',
        f'<rect width="{width}" height="{height + bottom}" fill="white"/>',
    ]
    inside = math.log2(FACTOR)
    for k, count in enumerate(counts):
        centre, tall = low + (k + 0.5) * step, (height - 16) * count / most
        colour = "#3b6ea5" if abs(centre) <= inside else "#c05746"
        parts.append(
            f'<rect x="{left + k * bar:.1f}" y="{height - tall:.1f}" width="{bar - 1:.1f}" height="{tall:.1f}" '
            f'fill="{colour}"/>'
        )
    for label in (0.5, 1 / FACTOR, 1.0, FACTOR, 2.0):
        x = left + (math.log2(label) - low) / step * bar
        parts.append(f'<text x="{x:.1f}" y="{height + 14}" text-anchor="middle">{label:.2g}</text>')
    for share in (0.5, 1.0):
        y = height - (height - 16) * share
        parts.append(f'<text x="{left - 4}" y="{y + 4:.1f}" text-anchor="end">{round(most * share)}</text>')
    title = f"predicted / measured spread, {len(ratios)} layers of {len(rows)} models"
    parts.append(f'<text x="{(left + width) / 2:.0f}" y="{height + 30}" text-anchor="middle">{title}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def report(rows: Sequence[Row]) -> float:
    """Prints a table, the worst models first, and gives the share of layers that are right."""
    columns = [
        "model",
        "layers",
        f"within {FACTOR:g}",
        "doubtful",
        "lowest",
        "median",
        "highest",
        "gradient",
        "seconds",
    ]
    table = [
        (
            row.name,
            len(row.ratios),
            f"{within(row.ratios):.1%}",
            row.doubtful,
            f"{min(row.ratios):.2f}",
            f"{sorted(row.ratios)[len(row.ratios) // 2]:.2f}",
            f"{max(row.ratios):.2f}",
            f"{within(row.gradients, 2.0):.0%}",
            f"{row.seconds:.1f}",
        )
        for row in sorted(rows, key=lambda row: within(row.ratios))
    ]
    print(tabulate(table, columns, tablefmt="github", disable_numparse=True))
    ratios = [r for row in rows for r in row.ratios]
    gradients = [r for row in rows for r in row.gradients]
    errors = sorted(abs(math.log(max(r, 1e-9))) for r in ratios)
    print(f"\n{len(ratios)} layers of {len(rows)} models: {within(ratios):.2%} within a factor {FACTOR:g};", end=" ")
    print(", ".join(f"{q:.0%} within {math.exp(errors[int(q * (len(errors) - 1))]):.2f}" for q in (0.5, 0.9, 0.99)))
    print(f"gradient norms: {within(gradients, 2.0):.2%} of {len(gradients)} within a factor 2")
    return within(ratios)


def main() -> int:
    """Runs the benchmark; 1 when too many layers are off."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--largest", type=float, default=120.0, help="most parameters of a model, in millions")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--drop-paths", action="store_true", help="leave stochastic depth as the model has it")
    parser.add_argument("--match", default="", help="only builders with this in their name")
    parser.add_argument("--plot", type=Path, help="where to write the histogram (SVG)")
    options = parser.parse_args()
    rows = []
    try:
        for name, model, size in builders(options.largest, drop_paths=options.drop_paths):
            if options.match in name:
                rows.append(measure(name, model, torch.randn(options.batch_size, 3, size, size)))
                print(f"{name}: {within(rows[-1].ratios):.1%} of {len(rows[-1].ratios)}", file=sys.stderr, flush=True)
            del model
            gc.collect()
    except ModuleNotFoundError as error:
        print(f"skipped: {error}; install torchvision to run this benchmark")
        return 0
    share = report(rows)
    if options.plot is not None:
        options.plot.write_text(plot(rows), encoding="utf-8")
    return int(share < SHARE)


if __name__ == "__main__":
    sys.exit(main())
