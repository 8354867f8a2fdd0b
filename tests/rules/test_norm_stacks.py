"""BN110 and BN114 to BN116: norms that are missing, last, repeated or many."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from bnlint import Severity

from .blocks import block, conv
from .conftest import Fn

INFO, WARNING, ERROR = Severity.INFO, Severity.WARNING, Severity.ERROR


# -- BN110 ---------------------------------------------------------------------------------------------------------


def mlp(depth, *, norm=None, activation=nn.ReLU, wrap=lambda layer: layer):
    layers = []
    for _ in range(depth):
        layers += [wrap(nn.Linear(16, 16)), *([norm(16)] if norm else []), activation()]
    return nn.Sequential(*layers, nn.Linear(16, 4))


class Branch(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.inner, self.outer = nn.LayerNorm(16), nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x):
        return x + self.outer(F.gelu(self.inner(self.norm(x))))


def test_bare_hidden_layers_are_one_finding(found):
    rows = found(mlp(9), "8x16", info=True, select=["BN110"])
    assert {path: f.severity for (_, path), f in rows.items()} == {"0": INFO}
    assert rows["BN110", "0"].modules == tuple(str(i) for i in range(0, 18, 2))


@pytest.mark.parametrize(
    "model",
    [
        mlp(7),
        mlp(9, norm=nn.LayerNorm),
        mlp(9, norm=nn.BatchNorm1d),
        mlp(9, activation=nn.SELU),
        mlp(9, wrap=weight_norm),
        nn.Sequential(*(Branch() for _ in range(9)), nn.Linear(16, 4)),
    ],
)
def test_hidden_layers_that_are_normalised_or_few(severities, model):
    assert severities("BN110", model, "8x16") == {}


# -- BN114 ---------------------------------------------------------------------------------------------------------


def test_batch_norm_on_the_output(severities):
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4), nn.BatchNorm1d(4))
    assert severities("BN114", model, "8x8") == {"3": INFO}
    assert severities("BN114", nn.Sequential(*model, nn.Sigmoid()), "8x8") == {"3": INFO}


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Linear(8, 4), nn.LayerNorm(4)),
        nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4), nn.ReLU()),  # features
        nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)),
        nn.BatchNorm1d(8),
    ],
)
def test_outputs_that_are_no_normalised_logits(severities, model):
    assert severities("BN114", model, "8x8") == {}


# -- BN115 ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "severity"),
    [
        (nn.BatchNorm2d(8), nn.BatchNorm2d(8), WARNING),
        (nn.InstanceNorm2d(8, affine=True), nn.InstanceNorm2d(8), WARNING),
        (nn.GroupNorm(8, 8), nn.GroupNorm(8, 8), WARNING),
        (nn.GroupNorm(2, 8), nn.GroupNorm(2, 8), INFO),
        (nn.LayerNorm(6), nn.LayerNorm(6), INFO),
    ],
)
def test_norm_after_norm(severities, first, second, severity):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), first, second, nn.ReLU())
    assert severities("BN115", model, "4x3x8x8") == {"2": severity}


@pytest.mark.parametrize(
    "middle",
    [
        [nn.BatchNorm2d(8), nn.ReLU(), nn.BatchNorm2d(8)],
        [nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)],
        [nn.BatchNorm2d(8), nn.MaxPool2d(2), nn.BatchNorm2d(8)],
        [nn.BatchNorm2d(8), nn.InstanceNorm2d(8)],
        [nn.GroupNorm(2, 8), nn.GroupNorm(4, 8)],
        [nn.LayerNorm(6, elementwise_affine=False), nn.LayerNorm(6)],
        [nn.BatchNorm2d(8, affine=False), nn.BatchNorm2d(8)],
    ],
)
def test_norms_that_do_not_undo_each_other(severities, middle):
    assert severities("BN115", nn.Sequential(nn.Conv2d(3, 8, 3), *middle, nn.ReLU()), "4x3x8x8") == {}


def test_a_first_norm_with_a_second_reader_has_a_purpose(severities):
    model = Fn(
        lambda m, x: (lambda y: y + m.c(m.b(y)))(m.a(x)), a=nn.LayerNorm(8), b=nn.LayerNorm(8), c=nn.Linear(8, 8)
    )
    assert severities("BN115", model, "4x8") == {}


def test_undoing_is_exact():
    """What the rule says of batch norm after batch norm."""
    first, second, x = nn.BatchNorm1d(8).double(), nn.BatchNorm1d(8).double(), torch.randn(64, 8, dtype=torch.float64)
    before = second(first(x))
    nn.init.uniform_(first.weight, 0.5, 2.0)
    nn.init.normal_(first.bias)
    assert torch.allclose(before, second(first(x)), atol=1e-4)


# -- BN116 ---------------------------------------------------------------------------------------------------------


class Parallel(nn.Module):
    """RepVGG: a norm on every way, none that all ways go through."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.n = conv(3, 3), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x):
        return F.relu(self.b(self.a(x)) + self.n(x))


def test_deep_plain_stack(severities):
    plain = nn.Sequential(*(layer for _ in range(21) for layer in block(3, 3)))
    assert severities("BN116", plain, "8x3x8x8") == {"1": INFO}
    assert severities("BN116", plain[:-3], "8x3x8x8") == {}
    residual = Fn(lambda m, x: m.b(x + m.a(x)), a=plain[:30], b=plain[30:])  # ten under a skip, eleven after it
    assert severities("BN116", residual, "8x3x8x8") == {}
    assert severities("BN116", nn.Sequential(*(Parallel() for _ in range(30))), "8x3x8x8") == {}
