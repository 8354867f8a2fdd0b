"""BN401: more pairs that are linear by design, met in published models."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn


class Attention(nn.Module):
    """CrossViT, Perceiver IO: the output projection, then the projection to another width."""

    def __init__(self):
        super().__init__()
        self.qkv, self.out, self.project = nn.Linear(8, 24), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.project(self.out((q @ k.mT / 3).softmax(-1) @ v))


class HardSwish(nn.Module):
    def forward(self, x):
        return x * F.relu6(x + 3) / 6


class SameConv(nn.Conv2d):
    def forward(self, x):
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


def separable(conv, activation):
    """MobileNetV3: a depthwise conv, its nonlinearity, a linear bottleneck, then the next block's expansion."""
    return nn.Sequential(
        conv(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8), activation, conv(8, 8, 1), nn.BatchNorm2d(8),
        conv(8, 32, 1), nn.ReLU(), conv(32, 4, 1),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (Attention(), "2x5x8"),
        (separable(nn.Conv2d, HardSwish()), "2x8x8x8"),
        (separable(SameConv, nn.ReLU()), "2x8x8x8"),
        (nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.MaxPool2d(2), nn.Conv2d(8, 16, 4, 4)), "2x3x34x34"),
        (nn.Sequential(nn.Linear(8, 16, bias=False), nn.Linear(16, 4)), "4x8"),  # N-BEATS: coefficients of a basis
    ],
)
def test_linear_by_design(found, model, shape):
    assert found(model, shape, select=["BN401"]) == {}


def test_functional_convs_still_count(found):
    model = nn.Sequential(SameConv(3, 8, 3), SameConv(8, 16, 3), nn.ReLU())
    assert len(found(model, "2x3x8x8", select=["BN401"])) == 1


class Registered(nn.Module):
    """N-BEATS: blocks in a list, their parameters in a ParameterList."""

    def __init__(self):
        super().__init__()
        self.blocks = [nn.Linear(8, 8)]
        self.weights = nn.ParameterList(p for block in self.blocks for p in block.parameters())

    def forward(self, x):
        return torch.relu(self.blocks[0](x))


def test_parameters_registered_in_another_way(found):
    assert found(Registered(), "4x8", select=["BN501"]) == {}
