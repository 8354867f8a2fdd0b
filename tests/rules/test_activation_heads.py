"""BN402 and BN408: what the declared loss expects against what the model returns, with the floor of the loss."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bnlint import Severity

CODES = ["BN402", "BN408"]
ACTIVATIONS = {
    "softmax": nn.Softmax(dim=1),
    "log_softmax": nn.LogSoftmax(dim=1),
    "sigmoid": nn.Sigmoid(),
    "relu": nn.ReLU(),
    "tanh": nn.Tanh(),
}


def classifier(*end):
    return nn.Sequential(nn.Linear(42, 16), nn.ReLU(), nn.Linear(16, 10), *end)


def verdict(found, model, loss, inputs="4x42", **options):
    rows = found(model, inputs, loss=loss, select=CODES, info=True, **options)
    return {code: f.severity for (code, _), f in rows.items()}


@pytest.mark.parametrize(
    ("activation", "loss", "code"),
    [
        ("softmax", "cross_entropy", "BN402"),  # smce-01
        ("sigmoid", "cross_entropy", "BN402"),
        ("tanh", "cross_entropy", "BN402"),
        ("relu", "cross_entropy", "BN402"),  # outact-01
        ("sigmoid", "binary_cross_entropy_with_logits", "BN402"),  # sgbce-01
        ("sigmoid", "bce_with_logits", "BN402"),
        ("relu", "binary_cross_entropy_with_logits", "BN402"),
        ("softmax", "nll_loss", "BN408"),
        ("sigmoid", "nll_loss", "BN408"),
        (None, "nll_loss", "BN408"),
        (None, "binary_cross_entropy", "BN408"),
        ("tanh", "binary_cross_entropy", "BN408"),
        ("log_softmax", "binary_cross_entropy", "BN408"),
    ],
)
def test_wrong_for_the_loss(found, activation, loss, code):
    model = classifier(*([ACTIVATIONS[activation]] if activation else []))
    assert verdict(found, model, loss) == {code: Severity.ERROR}


@pytest.mark.parametrize(
    ("activation", "loss"),
    [
        (None, "cross_entropy"),
        (None, "binary_cross_entropy_with_logits"),
        ("log_softmax", "nll_loss"),
        ("sigmoid", "binary_cross_entropy"),
        ("softmax", "binary_cross_entropy"),
        (None, "mse_loss"),
        ("relu", "l1_loss"),
        (None, None),
        ("relu", None),
        ("tanh", None),
    ],
)
def test_right_for_the_loss(found, activation, loss):
    model = classifier(*([ACTIVATIONS[activation]] if activation else []))
    assert verdict(found, model, loss) == {}


@pytest.mark.parametrize(
    ("activation", "loss"),
    [
        *(("softmax", None), ("sigmoid", None), ("log_softmax", None)),
        ("log_softmax", "cross_entropy"),  # smce-08
        *(("sigmoid", "mse_loss"), ("tanh", "l1"), ("softmax", "huber_loss")),  # outact-07
    ],
)
def test_remark_only(found, activation, loss):
    assert verdict(found, classifier(ACTIVATIONS[activation]), loss) == {"BN402": Severity.INFO}


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_floor_of_cross_entropy_is_reached_by_a_perfect_prediction(found, classes):
    model = nn.Sequential(nn.Linear(8, classes), nn.Softmax(dim=1))
    ((_, finding),) = found(model, "4x8", loss="cross_entropy", select=CODES).items()
    perfect = F.cross_entropy(torch.eye(classes), torch.arange(classes)).item()
    assert finding.evidence["floor"] == pytest.approx(perfect, abs=1e-4)
    assert finding.evidence["floor"] == pytest.approx(math.log(math.e + classes - 1) - 1, abs=1e-4)
    assert finding.module_path == "1"


def test_floor_of_binary_cross_entropy(found):
    model = nn.Sequential(nn.Linear(8, 1), nn.Sigmoid())
    (finding,) = found(model, "4x8", loss="binary_cross_entropy_with_logits", select=CODES).values()
    worst = F.binary_cross_entropy_with_logits(torch.zeros(1), torch.zeros(1)).item()
    assert finding.evidence["floor"] == pytest.approx(worst, abs=1e-4)


class Uses(nn.Module):
    def __init__(self, forward):
        super().__init__()
        self.head = nn.Sequential(nn.Linear(8, 4), nn.Sigmoid())
        self.function = forward

    def forward(self, x):
        return self.function(self.head, x)


@pytest.mark.parametrize(
    ("forward", "loss"),
    [
        (lambda head, x: head[0](x), "binary_cross_entropy_with_logits"),  # sgbce-neg-01: only the Linear is called
        (lambda head, x: (head[0](x), head(x)), "binary_cross_entropy_with_logits"),
        (lambda head, x: (head(x), head[0](x)), "binary_cross_entropy_with_logits"),  # the scores are beside them
        (lambda head, x: 30 * torch.tanh(head[0](x) / 30), "cross_entropy"),  # a soft cap on logits
        (lambda head, x: head[0](x) * head(x), "cross_entropy"),  # a gate
        (lambda head, x: torch.log(head(x) + 1e-6), "nll_loss"),
        (lambda head, x: head(x).clamp(1e-6, 1), "binary_cross_entropy"),
        (lambda head, x: F.hardtanh(head[0](x), -30, 30), "cross_entropy"),
    ],
)
def test_designs_are_silent(found, forward, loss):
    assert verdict(found, Uses(forward), loss, "4x8") == {}


class SqueezeHead(nn.Sequential):
    """SqueezeNet ends in conv, ReLU and an average over the map."""


def test_relu_before_pooling_is_silent(found):
    model = SqueezeHead(nn.Conv2d(3, 10, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert verdict(found, model, "cross_entropy", "2x3x8x8") == {}


@pytest.mark.parametrize("end", [lambda y: y.softmax(1), lambda y: torch.stack([a.softmax(0) for a in y.unbind()])])
def test_functional_softmax_is_at_its_line(found, end):
    rows = found(Uses(lambda head, x: end(head[0](x))), "4x8", loss="cross_entropy", select=CODES)
    (finding,) = rows.values()
    assert finding.severity is Severity.ERROR and finding.location.file.endswith("test_activation_heads.py")
