"""How well the predicted signal agrees with the measured one, on torchvision's classification models at init.

Every builder is built with its default initialisation. The spread across samples and positions that the graph and the
weights promise for each convolution and linear layer is compared with the one that a batch of N(0, 1) images has there.
At least `SHARE` of all layers must lie within a factor of 1.5. Drop paths are off, as dropout is in the probe, since
whole branches that one sample skips and another does not are no part of the signal; `--drop-paths` leaves them on.
Results are kept in a file, so a long run can be made in parts; `--page docs/signal.md` writes the page and its plot.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent / "zoo"))

import torch
import torchvision_models  # noqa: F401  # makes torchvision importable without its compiled operators
from signal_page import FACTOR, Row, models, page, plot, summary, within
from torch import nn

from bnlint.graph.follow import follow
from bnlint.graph.model import Graph
from bnlint.graph.ops import WEIGHT_LAYERS
from bnlint.graph.untouched import training_mode, untouched
from bnlint.inputs.values import Inputs
from bnlint.signal.predict import Prediction
from bnlint.signal.probe import probe

SHARE = 0.95


def builders(largest: float, size: int, *, drop_paths: bool) -> Iterator[tuple[str, Callable[[], nn.Module], int]]:
    """Name, constructor and image size of every classification builder of at most so many million parameters."""
    from torchvision import models

    for name in models.list_models(module=models):
        if models.get_model_weights(name).DEFAULT.meta["num_params"] <= largest * 1e6:
            yield name, partial(build, name, drop_paths=drop_paths), _size(name, size)


def _size(name: str, usual: int) -> int:
    """What the model takes, where it takes one size only."""
    return 299 if name == "inception_v3" else 224 if name.startswith(("vit", "maxvit")) else usual


def build(name: str, *, drop_paths: bool) -> nn.Module:
    """One model with its default initialisation."""
    from torchvision import models
    from torchvision.ops import StochasticDepth

    torch.manual_seed(0)
    options = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    model: nn.Module = models.get_model(name, weights=None, **options)
    for module in model.modules():
        if not drop_paths and isinstance(module, StochasticDepth):
            module.p = 0.0
    return model


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
    ratios, gradients, misses, doubtful = [], [], {}, 0
    for node in graph.of_kind(*WEIGHT_LAYERS):
        measured = found.stats.get(node.name)
        if measured is None or not measured.spread:
            continue
        ratios.append((predicted.spread(node) or 0.0) / measured.spread)
        if not 1 / FACTOR <= ratios[-1] <= FACTOR:
            misses[str(node.target)] = ratios[-1]
        doubtful += not predicted.certain(node)
        if measured.gradient and predicted.backward(node):
            gradients.append((predicted.backward(node) or 0.0) / measured.gradient)
    return Row(name, ratios, doubtful, gradients, seconds, misses)


def main() -> int:
    """Runs the benchmark; 1 when too many layers are off."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--largest", type=float, default=145.0, help="most parameters of a model, in millions")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--size", type=int, default=224, help="pixels along a side of an image")
    parser.add_argument("--drop-paths", action="store_true", help="leave stochastic depth as the model has it")
    parser.add_argument("--match", default="", help="only builders with this in their name")
    parser.add_argument("--results", type=Path, help="JSON file of finished models, which are not run again")
    parser.add_argument("--page", type=Path, help="where to write the page; its plot goes beside it")
    options = parser.parse_args()
    rows = _kept(options.results)
    done = {row.name for row in rows}
    try:
        for name, make, pixels in builders(options.largest, options.size, drop_paths=options.drop_paths):
            if options.match not in name or name in done:
                continue
            rows.append(measure(name, make(), torch.randn(options.batch_size, 3, pixels, pixels)))
            print(f"{name}: {rows[-1].within:.1%} of {len(rows[-1].ratios)}", file=sys.stderr, flush=True)
            if options.results is not None:
                options.results.write_text(json.dumps([asdict(row) for row in rows]), encoding="utf-8")
            gc.collect()
    except ModuleNotFoundError as error:
        print(f"skipped: {error}; install torchvision to run this benchmark")
        return 0
    print(models(rows), summary(rows), sep="\n\n")
    if options.page is not None:
        picture = options.page.with_suffix(".svg")
        plot(rows, picture)
        every = sum(1 for _ in builders(options.largest, options.size, drop_paths=options.drop_paths))
        setting = f"{len(rows)} of the {every} classification models of torchvision with at most {options.largest:g} "
        setting += f"million parameters, default initialisation, batches of {options.batch_size} N(0, 1) images of "
        setting += f"{options.size} pixels a side where a model takes any size"
        options.page.write_text(page(rows, setting, picture.name), encoding="utf-8")
    return int(within([ratio for row in rows for ratio in row.ratios]) < SHARE)


def _kept(path: Path | None) -> list[Row]:
    if path is None or not path.exists():
        return []
    return [Row(**row) for row in json.loads(path.read_text(encoding="utf-8"))]


if __name__ == "__main__":
    sys.exit(main())
