"""BN313: schemes whose fan was read off the wrong dimension, and scales that only look like it."""

import pytest
import torch
from torch import nn

from bnlint import Severity

from .conftest import Fn

W = Severity.WARNING


def images(*layers):
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1), *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(4)
    )


def he(layer, mode="fan_in"):
    nn.init.kaiming_normal_(layer.weight, mode=mode, nonlinearity="relu")
    return layer


def depthwise(mode):
    return he(nn.Conv2d(64, 64, 3, padding=1, groups=64), mode)


def up(stride=2):
    return nn.ConvTranspose2d(64, 64, 4, stride=stride, padding=1)


@pytest.mark.parametrize("seed", range(3))
def test_depthwise_fan_out(found, seed):
    torch.manual_seed(seed)
    ((key, finding),) = found(images(depthwise("fan_out"), nn.ReLU()), "2x3x8x8", select=["BN313"]).items()
    assert key == ("BN313", "1")
    assert finding.evidence["ratio"] in (64, 32.5)  # Xavier's and kaiming's fan_out hardly differ here
    assert finding.evidence["fitting_std"] == pytest.approx(2 / 3 / 2**0.5, rel=0.5)


def test_transposed_conv(severities):
    layer = he(nn.ConvTranspose2d(256, 8, 4, stride=1, padding=1))
    model = nn.Sequential(nn.Conv2d(3, 256, 1), nn.ReLU(), layer, nn.ReLU(), nn.Conv2d(8, 4, 1))
    assert severities("BN313", model, "2x3x8x8") == {"2": W}
    he(layer, "fan_out")
    assert severities("BN313", model, "2x3x8x8") == {}


def test_matrix_used_from_the_right(severities):
    weight = nn.Parameter(torch.empty(256, 16))
    nn.init.kaiming_uniform_(weight, nonlinearity="relu")
    model = Fn(lambda self, x: self.out(torch.relu(x @ self.weight)), weight=weight, out=nn.Linear(16, 4))
    assert severities("BN313", model, "4x256") == {"": W}
    nn.init.kaiming_uniform_(weight, mode="fan_out", nonlinearity="relu")
    assert severities("BN313", model, "4x256") == {}


def drawn(layer, std):
    nn.init.normal_(layer.weight, std=std)
    return layer


SOUND = {
    "right fan of a depthwise conv": lambda: images(depthwise("fan_in"), nn.ReLU()),
    "norm behind it": lambda: images(depthwise("fan_out"), nn.BatchNorm2d(64), nn.ReLU()),
    "norm behind the pointwise conv": lambda: images(
        depthwise("fan_out"), nn.Conv2d(64, 64, 1), nn.BatchNorm2d(64), nn.ReLU()
    ),
    "default of a transposed conv": lambda: images(up(), nn.ReLU()),
    "DCGAN": lambda: images(drawn(up(), 0.02), nn.ReLU()),
    "right fan of a transposed conv": lambda: images(drawn(up(), (2 / 256) ** 0.5), nn.ReLU()),
    "Xavier hardly differs": lambda: images(nn.Conv2d(64, 64, 3, groups=2), nn.ReLU()),
    "plain conv by fan_out": lambda: images(he(nn.Conv2d(64, 8, 3), "fan_out"), nn.ReLU()),
    "another scale": lambda: images(drawn(depthwise("fan_out"), 0.2), nn.ReLU()),
}


@pytest.mark.parametrize("name", SOUND)
def test_scales_that_are_sound(severities, name):
    assert severities("BN313", SOUND[name](), "2x3x8x8") == {}


def test_graph_convolution_of_kipf(severities):
    """Its bound is one over the root of the output width, on purpose or not: it is no scheme's scale."""
    weight = nn.Parameter(torch.empty(256, 16).uniform_(-0.25, 0.25))
    model = Fn(lambda self, x: self.out(torch.relu(x @ self.weight)), weight=weight, out=nn.Linear(16, 4))
    assert severities("BN313", model, "4x256") == {}
