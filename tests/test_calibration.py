"""The probe measures what the rules' thresholds were taken from: spread, cosine and gradients of plain stacks.

The numbers are of the layers before their activation, width 256 and 128 samples, unless a row says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from bnlint.graph.model import Graph
from bnlint.graph.record import record
from bnlint.inputs.values import from_values
from bnlint.signal.probe import probe
from bnlint.signal.statistics import NodeStats
from bnlint.signal.trunk import COLLAPSED

Init = Callable[[torch.Tensor], Any] | None


def he(weight: torch.Tensor) -> None:
    nn.init.kaiming_normal_(weight, nonlinearity="relu")


def small(weight: torch.Tensor) -> None:
    nn.init.normal_(weight, std=0.02)


def xavier(weight: torch.Tensor) -> None:
    nn.init.xavier_normal_(weight)


def tanh(weight: torch.Tensor) -> None:
    nn.init.xavier_normal_(weight, gain=5 / 3)


def measured(
    depth: int, activation: type[nn.Module], init: Init, norm: bool = False, width: int = 256
) -> tuple[NodeStats, NodeStats, float]:
    """What was measured at the first and the last hidden layer, and the ratio of their gradient-to-weight norms."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for _ in range(depth):
        layer = nn.Linear(width, width)
        if init is not None:
            init(layer.weight)
            nn.init.zeros_(layer.bias)
        layers += [layer, *([nn.BatchNorm1d(width)] if norm else []), activation()]
    model = nn.Sequential(*layers, nn.Linear(width, 10))
    inputs = from_values(model, torch.randn(128, width, generator=torch.Generator().manual_seed(1)))
    graph = Graph(record(model, inputs.args), model)
    facts = probe(model, inputs, graph)
    first, *_, last, _ = [node for node in graph.nodes if isinstance(graph.module(node), nn.Linear)]
    one, other = (facts.parameters[f"{node.target}.weight"] for node in (first, last))
    assert one.gradient is not None and other.gradient
    ratio = one.gradient / one.norm / (other.gradient / other.norm)
    return facts.stats[first.name], facts.stats[last.name], ratio


@pytest.mark.parametrize(
    ("activation", "init", "norm", "depth", "std", "spread", "gradient"),
    [
        (nn.ReLU, None, False, 3, 0.18, 0.118, 1.2),
        (nn.ReLU, None, False, 6, 0.071, 6.4e-3, 0.49),
        (nn.ReLU, None, False, 10, 0.068, 1.7e-4, 0.018),
        (nn.ReLU, None, False, 20, 0.070, 2e-8, 1e-6),
        (nn.ReLU, he, False, 3, 1.0, 0.735, 0.72),
        (nn.ReLU, he, False, 10, 0.91, 0.392, 0.65),
        (nn.ReLU, he, False, 40, 1.0, 0.208, 0.42),
        (nn.Tanh, None, False, 6, 0.087, 0.046, 0.80),
        (nn.Tanh, None, False, 20, 0.073, 2e-5, 4e-4),
        (nn.Sigmoid, None, False, 3, 0.51, 0.019, 0.03),
        (nn.Sigmoid, None, False, 10, 0.48, 6e-8, 4e-8),
        (nn.ReLU, small, False, 6, 5.7e-4, 3e-4, 0.87),
        (nn.ReLU, None, True, 10, 0.70, 0.6, 5.7),
        (nn.ReLU, None, True, 40, 0.71, 0.61, 1630),
    ],
)
def test_depth(
    activation: type[nn.Module], init: Init, norm: bool, depth: int, std: float, spread: float, gradient: float
) -> None:
    one, other, ratio = measured(depth, activation, init, norm)
    assert one.std and other.std and one.spread and other.spread
    assert 1 / 2 < other.std / one.std / std < 2
    assert 1 / 2.5 < other.spread / one.spread / spread < 2.5
    assert (other.spread / one.spread < COLLAPSED) == (spread < COLLAPSED)
    assert 1 / 3.5 < ratio / gradient < 3.5


def test_all_samples_alike_is_told_from_a_deep_healthy_stack() -> None:
    dead, alive = (measured(depth, nn.ReLU, init)[1].similarity for depth, init in ((20, None), (40, he)))
    assert dead is not None and alive is not None
    assert dead > 0.9999 and alive < 0.995


@pytest.mark.parametrize(
    ("activation", "init", "depth", "width", "low", "high"),
    [
        (nn.ReLU, he, 10, 64, 0.50, 1.49),
        (nn.ReLU, he, 20, 256, 0.58, 1.64),
        (nn.ReLU, xavier, 10, 256, 0.032, 0.054),
        (nn.ReLU, xavier, 20, 256, 8e-4, 2.3e-3),
        (nn.ReLU, None, 10, 64, 0.115, 0.156),
        (nn.Tanh, tanh, 20, 256, 0.63, 0.67),
        (nn.Tanh, xavier, 20, 256, 0.15, 0.17),
        (nn.GELU, he, 10, 256, 0.36, 0.78),
        (nn.SiLU, he, 20, 256, 3.6e-3, 8.6e-3),
    ],
)
def test_finite_width(activation: type[nn.Module], init: Init, depth: int, width: int, low: float, high: float) -> None:
    one, other, _ = measured(depth, activation, init, width=width)
    assert one.std and other.std
    assert low / 1.6 < other.std / one.std < high * 1.6  # the 2nd to the 98th percentile of 60 seeds, and one seed here
