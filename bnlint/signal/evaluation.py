"""Train mode against eval mode, once the running statistics are those of the batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from bnlint.graph.model import Graph
from bnlint.graph.nest import tensors
from bnlint.graph.record import record
from bnlint.graph.untouched import training_mode
from bnlint.signal.statistics import NodeStats, widened
from bnlint.signal.watch import Watch

WORTH_A_SEARCH = 0.1  # a gap from which on the op where it begins is looked for

Call = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Gap:
    """How far the two outputs lie apart, relative to how far those of train mode vary, and where it begins."""

    difference: float
    first: fx.Node | None = None


@contextmanager
def warming_up(model: nn.Module, wanted: bool) -> Iterator[None]:
    """While it lasts, norms keep the plain average of the batches they see, from nothing."""
    layers = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._NormBase) and m.track_running_stats]
    momenta = [layer.momentum for layer in layers]
    for layer in layers if wanted else ():
        layer.reset_running_stats()
        layer.momentum = None
    try:
        yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum


def train_eval_gap(
    model: nn.Module, graph: Graph, trained: list[torch.Tensor], stats: Mapping[str, NodeStats], call: Call
) -> Gap | None:
    """One recorded pass in eval mode on the batch that train mode had; None where the two give other things."""
    watch = Watch(graph, backward=False)
    with torch.no_grad(), training_mode(model, False):
        recording = record(model, *call, fake=False, repair=False, observer=watch)
    if recording.error is not None:
        raise recording.error
    gap = output_gap(trained, [t for _, t in tensors(recording.output)], trained)
    if gap is None:
        return None
    now = watch.fetch()
    first = next((n for n in graph.nodes if n.name in now and _changed(stats.get(n.name), now[n.name])), None)
    return Gap(gap.difference, first)


def output_gap(trained: list[torch.Tensor], outputs: list[torch.Tensor], whole: list[torch.Tensor]) -> Gap | None:
    """Compares the outputs alone; how far they vary is told by `whole`, which `trained` may be a part of."""
    if [t.shape for t in outputs] != [t.shape for t in trained]:
        return None
    rows = [
        row for row in zip(trained, outputs, whole, strict=True) if row[0].is_floating_point() and row[2].numel() > 1
    ]
    return Gap(max((_apart(*row) for row in rows), default=0.0))


def _apart(a: torch.Tensor, b: torch.Tensor, whole: torch.Tensor) -> float:
    a, b, whole = widened(a), widened(b), widened(whole)
    scale = float((whole - whole.mean()).square().mean().sqrt())
    return float((a - b).square().mean().sqrt()) / scale if scale > 0 else 0.0


def _changed(one: NodeStats | None, two: NodeStats, limit: float = 0.3) -> bool:
    """True when the scale or the spread is another."""
    pairs = ((one.std, two.std), (one.spread, two.spread)) if one is not None else ()
    return any(a is not None and b is not None and abs(a - b) > limit * max(a, b) for a, b in pairs)
