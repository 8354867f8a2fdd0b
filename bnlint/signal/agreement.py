"""The model on its device and in its precision, beside the same model on the CPU in float32, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from bnlint.graph.model import Graph
from bnlint.graph.nest import tensors
from bnlint.graph.ops import LAYERS, Kind
from bnlint.graph.record import record
from bnlint.graph.untouched import training_mode
from bnlint.signal.statistics import measurable
from bnlint.signal.watch import Matcher

_KEPT = 4096  # entries of a value that are compared
_COMPARED = LAYERS | {Kind.NORM, Kind.ADD, Kind.ACTIVATION, Kind.MATMUL}

Call = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Sample:
    """Some entries of every compared value, on the CPU in float32, and how many ops were not found in the graph."""

    values: dict[str, torch.Tensor]
    unmatched: int


@dataclass(frozen=True)
class Agreement:
    """The relative error (of Euclidean norms) of each value, by node name, in the order of the graph."""

    errors: dict[str, float]
    output: float  # the largest error of an output


def sampled(model: nn.Module, graph: Graph, call: Call, seed: int) -> Sample:
    """Runs the model in eval mode and keeps a part of what its layers give."""
    matcher = Matcher(graph)
    outputs = frozenset(graph.outputs)
    kept: dict[str, torch.Tensor] = {}

    def observe(ran: fx.Node, output: Any) -> None:
        node = matcher.match(ran)
        value = next((t for _, t in tensors(output) if measurable(t)), None)
        if node is None or value is None or (graph.kind(node) not in _COMPARED and node not in outputs):
            return
        with torch._C.DisableTorchFunction():
            flat = value.detach().flatten()
            picked = torch.arange(0, flat.numel(), max(1, flat.numel() // _KEPT), device=flat.device)[:_KEPT]
            kept[node.name] = flat[picked].float()

    torch.manual_seed(seed)
    with torch.no_grad(), training_mode(model, False):
        recording = record(model, *call, fake=False, repair=False, observer=observe)
    if recording.error is not None:
        raise recording.error
    return Sample({name: value.cpu() for name, value in kept.items()}, matcher.unmatched)


def agreement(graph: Graph, reference: Sample, here: Sample) -> Agreement | None:
    """Compares two runs; None where they took different ways through the model."""
    if reference.unmatched != here.unmatched or reference.values.keys() != here.values.keys():
        return None
    names = [node.name for node in graph.nodes if node.name in reference.values]
    errors = {name: _error(reference.values[name], here.values[name]) for name in names}
    return Agreement(errors, max((errors[n.name] for n in graph.outputs if n.name in errors), default=0.0))


def _error(wanted: torch.Tensor, got: torch.Tensor) -> float:
    if wanted.shape != got.shape:
        return 0.0
    both = wanted.isfinite() & got.isfinite()  # what is not finite is BN607's and BN801's
    wanted, got = wanted[both].double(), got[both].double()
    size = float(torch.linalg.vector_norm(wanted))
    return float(torch.linalg.vector_norm(got - wanted)) / size if size > 0 else 0.0
