"""BN401: more pairs that are linear by design, met in published models."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bnlint import Severity


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


class Pyramid(nn.Module):
    """FPN: lateral 1x1 convs onto one width, then a conv on every level."""

    def __init__(self):
        super().__init__()
        self.down = nn.ModuleList(nn.Conv2d(c, 2 * c, 3, 2, 1) for c in (4, 8, 16))
        self.lateral = nn.ModuleList(nn.Conv2d(c, 8, 1) for c in (8, 16, 32))
        self.smooth = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(3))

    def forward(self, x):
        levels = []
        for conv in self.down:
            x = conv(x).relu()
            levels.append(x)
        merged = [lateral(level) for lateral, level in zip(self.lateral, levels, strict=True)]
        for i in (1, 0):
            merged[i] = merged[i] + F.interpolate(merged[i + 1], scale_factor=2)
        return [smooth(level) for smooth, level in zip(self.smooth, merged, strict=True)]


class Reassemble(nn.Module):
    """DPT: tokens are projected, then brought to their scale by a strided conv."""

    def __init__(self):
        super().__init__()
        self.projection, self.resize = nn.Conv2d(8, 16, 1), nn.Conv2d(16, 16, 3, 2, 1)

    def forward(self, x):
        return self.resize(self.projection(x))


class Head(nn.Module):
    def __init__(self, kernel=3):
        super().__init__()
        self.conv, self.out = nn.Conv2d(16, 16, kernel, padding=kernel // 2), nn.Conv2d(16, 4, 1)

    def forward(self, x):
        return self.out(F.relu(self.conv(x)))


class Projected(nn.Module):
    def __init__(self, kernel=1):
        super().__init__()
        self.body, self.project = nn.Conv2d(8, 8, 3), nn.Conv2d(8, 16, kernel)

    def forward(self, x):
        return self.project(F.relu(self.body(x)))


@pytest.mark.parametrize(
    ("model", "shape", "severity"),
    [
        (nn.Sequential(Projected(), Head()), "2x8x8x8", Severity.INFO),  # a 1x1 projection where two classes meet
        (nn.Sequential(Reassemble(), Head()), "2x8x16x16", Severity.INFO),  # a change of scale there
        (nn.Sequential(Projected(3), Head()), "2x8x8x8", Severity.WARNING),
        (nn.Sequential(nn.Conv2d(8, 16, 1), nn.Conv2d(16, 16, 3), nn.ReLU()), "2x8x8x8", Severity.WARNING),
    ],
)
def test_a_projection_between_two_classes_is_a_remark(found, model, shape, severity):
    assert [f.severity for f in found(model, shape, select=["BN401"], info=True).values()] == [severity]


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (Attention(), "2x5x8"),
        (Pyramid(), "2x4x32x32"),
        (Reassemble(), "2x8x8x8"),
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
