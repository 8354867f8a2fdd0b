"""BN404 and BN405: activations in a row, and saturating ones layer after layer."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bnlint import Severity


class Fn(nn.Module):
    """A Linear, any function of its output, a Linear."""

    def __init__(self, function, width=8):
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(width, 4)
        self.function = function

    def forward(self, x):
        return self.b(self.function(self.a(x)))


def verdict(found, model, code, inputs="4x8"):
    return [f.severity for f in found(model, inputs, select=[code], info=True).values()]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.relu(torch.relu(x)),
        lambda x: torch.sigmoid(x).relu(),
        lambda x: torch.sigmoid(F.relu(x)),
        lambda x: F.relu(F.dropout(F.relu(x), 0.5)),
        lambda x: F.relu(F.gelu(x).view(-1, 8)),
        lambda x: x.softmax(1).softmax(1),
        lambda x: F.leaky_relu(F.elu(x)),
    ],
)
def test_two_in_a_row(found, function):
    assert verdict(found, Fn(function), "BN404") == [Severity.WARNING]


@pytest.mark.parametrize("end", [nn.Softmax(1), nn.LogSoftmax(1)])
def test_relu_before_the_returned_softmax(found, end):  # outact-01
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4), nn.ReLU(), end)
    rows = found(model, "4x8", select=["BN404"])
    assert list(rows) == [("BN404", "4")]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.log(F.softplus(x)),
        lambda x: x * torch.tanh(F.softplus(x)),  # mish
        lambda x: x * F.relu6(x + 3) / 6,  # hard swish
        lambda x: torch.relu(torch.tanh(x)),  # a rectified tanh (graph learning)
        lambda x: F.relu6(F.relu(x)),  # a bound
        lambda x: torch.tanh(x[:, :4].repeat(1, 2)) * torch.sigmoid(x[:, 4:].repeat(1, 2)),  # a gated unit
        lambda x: F.relu(F.max_pool1d(F.relu(x), 1)),  # pooling between
        lambda x: F.relu(F.relu(x) - 0.5),
        lambda x: F.leaky_relu(x, 0.2).softmax(1) * x,  # graph attention
        lambda x: F.relu(x).softmax(1) * x,  # a learned adjacency
        lambda x: (lambda h: h + F.relu(h))(F.relu(x)),  # the first has another reader
        lambda x: F.relu(x).square(),
    ],
)
def test_deliberate_pairs(found, function):
    assert verdict(found, Fn(function), "BN404") == []


def deep(activation, layers, norm=False, scale=None):
    blocks = []
    for _ in range(layers):
        layer = nn.Linear(8, 8)
        if scale:
            nn.init.normal_(layer.weight, 0, scale)
        blocks += [layer, *([nn.BatchNorm1d(8)] if norm else []), activation()]
    return nn.Sequential(*blocks, nn.Linear(8, 4))


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (deep(nn.Sigmoid, 4), [Severity.INFO]),  # outact-08
        (deep(nn.Tanh, 4, scale=1.0), [Severity.INFO]),
        (deep(nn.Sigmoid, 3), []),
        (deep(nn.Sigmoid, 4, norm=True), []),
        (deep(nn.Tanh, 4), []),
        (deep(nn.ReLU, 4), []),
        (nn.Sequential(*(nn.Sequential(nn.Linear(8, 8), nn.SiLU()) for _ in range(5))), []),
    ],
)
def test_saturating_hidden_layers(found, model, expected):
    assert verdict(found, model, "BN405") == expected


def test_saturating_layers_are_one_finding(found):
    ((key, finding),) = found(deep(nn.Sigmoid, 5), "4x8", select=["BN405"], info=True).items()
    assert key == ("BN405", "0") and finding.modules == ("0", "2", "4", "6", "8")
