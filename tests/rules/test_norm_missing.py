"""BN109: a deep row without norms is reported where its signal is lost, and nowhere else."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

import bnlint
from bnlint import Severity

from .conftest import Fn

WARNING = Severity.WARNING
WIDTHS = (16, 16, 32, 32, 64, 64, 64, 64)
MAPS = "16x3x16x16"


def he(weight):
    nn.init.kaiming_normal_(weight, nonlinearity="relu")


def lecun(weight):
    nn.init.kaiming_normal_(weight, nonlinearity="linear")


def initialised(model, scheme):
    torch.manual_seed(0)
    for layer in model.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            if scheme is not None:
                scheme(layer.weight)
                nn.init.zeros_(layer.bias)
            else:
                layer.reset_parameters()
    return model


def vgg(scheme=None, *, activation=nn.ReLU, norm=None, wrap=lambda layer: layer, widths=WIDTHS):
    layers, inside = [], 3
    for i, width in enumerate(widths):
        layers.append(nn.Conv2d(inside, width, 3, padding=1))
        layers += [norm(width)] if norm is not None else []
        layers += [activation(), *([nn.MaxPool2d(2)] if i in (3, 5) else [])]
        inside = width
    model = initialised(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inside, 10)), scheme)
    for i, layer in enumerate(model):
        if isinstance(layer, nn.Conv2d):
            model[i] = wrap(layer)
    return model


class Skip(nn.Module):
    """Residual blocks without norm: `kind` says how a branch is kept small."""

    def __init__(self, kind, depth=8):
        super().__init__()
        self.kind, self.stem, self.head = kind, nn.Linear(32, 32), nn.Linear(32, 4)
        self.first = nn.ModuleList(nn.Linear(32, 32) for _ in range(depth))
        self.second = nn.ModuleList(nn.Linear(32, 32) for _ in range(depth))
        initialised(self, he)
        self.alpha = nn.Parameter(torch.zeros(depth))
        if kind == "fixup":
            for a, b in zip(self.first, self.second, strict=True):
                nn.init.normal_(a.weight, std=math.sqrt(2 / 32) * depth**-0.5)
                nn.init.zeros_(b.weight)

    def forward(self, x):
        x = self.stem(x)
        for i, (a, b) in enumerate(zip(self.first, self.second, strict=True)):
            branch = b(F.relu(a(F.relu(x))))
            x = x + {"fixup": 1.0, "skipinit": self.alpha[i], "nf": 0.2}[self.kind] * branch
        return self.head(x)


class Standardised(nn.Conv2d):
    """Weight standardisation with a gain, as in NF nets."""

    def forward(self, x):
        w = self.weight
        w = (w - w.mean((1, 2, 3), True)) / (w.std((1, 2, 3), keepdim=True) * w[0].numel() ** 0.5 + 1e-6)
        return F.conv2d(x, 1.7 * w, self.bias, self.stride, self.padding)


class Written(nn.Module):
    """A norm that no class name gives away."""

    def __init__(self, width):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1, width, 1, 1))

    def forward(self, x):
        return self.scale * (x - x.mean((1, 2, 3), keepdim=True)) / (x.var((1, 2, 3), keepdim=True) + 1e-5).sqrt()


def findings(model, inputs=MAPS, *, static=True):
    codes = ["BN109"] if static else ["BN109", "BN607"]  # a rule of the probe's, so that the probe runs
    return [f for f in bnlint.check(model, inputs, static=static, select=codes).findings if f.code == "BN109"]


@pytest.mark.parametrize("static", [True, False])
@pytest.mark.parametrize(
    ("scheme", "ratio"),
    [(None, (1e-3, 0.05)), (lambda w: nn.init.normal_(w, 0, 0.01), (0, 1e-4)), (nn.init.normal_, (1e6, 1e20))],
)
def test_weights_that_lose_the_signal(scheme, ratio, static):
    (row,) = findings(vgg(scheme), static=static)
    assert (row.code, row.module_path, row.severity, len(row.modules)) == ("BN109", "0", WARNING, len(WIDTHS))
    assert ratio[0] < row.evidence["ratio"] < ratio[1]
    assert row.evidence["measured"] is not static
    assert all(f"`{path}`" in row.help for path in row.modules[:6])  # where a norm belongs


def test_prediction_and_measurement_agree():
    predicted, measured = (findings(vgg(), static=static)[0].evidence["ratio"] for static in (True, False))
    assert predicted == pytest.approx(measured, rel=0.5)


def test_the_norm_it_asks_for_brings_the_signal_back():
    """The expected effect: behind every norm the spread is one again."""
    model, x = vgg(norm=nn.BatchNorm2d), torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    spreads = []
    for layer in model.train():
        x = layer(x)
        if isinstance(layer, nn.BatchNorm2d):
            spreads.append(float(x.var((0, 2, 3)).mean()) ** 0.5)
    assert len(spreads) == len(WIDTHS) and all(0.9 < spread < 1.1 for spread in spreads)


@pytest.mark.parametrize("static", [True, False])
@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        (vgg(he), MAPS),
        (vgg(lambda w: nn.init.kaiming_normal_(w, mode="fan_out", nonlinearity="relu")), MAPS),
        (vgg(lambda w: nn.init.orthogonal_(w, 2**0.5)), MAPS),
        (vgg(lecun, activation=nn.SELU), MAPS),
        (vgg(norm=nn.BatchNorm2d), MAPS),
        (vgg(norm=lambda width: nn.GroupNorm(4, width)), MAPS),
        (vgg(norm=Written), MAPS),
        (vgg(wrap=weight_norm), MAPS),
        (vgg(wrap=spectral_norm), MAPS),
        (vgg(widths=WIDTHS[:4]), MAPS),  # four layers and the head
        (Skip("fixup"), "16x32"),
        (Skip("skipinit"), "16x32"),
        (Skip("nf"), "16x32"),
    ],
)
def test_signal_that_arrives(model, inputs, static):
    assert findings(model, inputs, static=static) == []


def test_standardised_weights_count_as_a_norm():
    body = [m for _ in range(8) for m in (Standardised(8, 8, 3, padding=1), nn.ReLU())]
    assert findings(nn.Sequential(*body, nn.Flatten(), nn.Linear(8 * 256, 4)), "16x8x16x16") == []


def test_one_small_layer_is_no_missing_norm():
    model = vgg(he)
    with torch.no_grad():
        model[4].weight.mul_(1e-3)
    assert findings(model) == []


class Opaque(torch.autograd.Function):
    """A kernel of one's own, of which nothing is known."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


def test_an_op_that_cannot_be_predicted_leaves_it_to_the_probe():
    layers = list(vgg())
    model = nn.Sequential(*layers[:2], Fn(lambda m, x: Opaque.apply(x)), *layers[2:])
    assert findings(model) == []
    assert [row.evidence["measured"] for row in findings(model, static=False)] == [True]
