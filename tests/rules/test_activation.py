"""BN401: linear maps that collapse into one, and pairs that are linear by design."""

import pytest
import torch
from torch import nn

import bnlint

from .conftest import Fn


class TrajectoryHead(nn.Module):
    """nonlin-01: two Linears with nothing between."""

    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(35, 64)
        self.fc2 = nn.Linear(64, 24)

    def forward(self, features, state):
        return self.fc2(self.fc1(torch.cat([features, state], 1)))


def test_missing_activation_is_at_the_second_layer(found):
    rows = found(TrajectoryHead(), ["4x32", "4x3"])
    assert list(rows) == [("BN401", "fc2")]
    assert rows["BN401", "fc2"].evidence == {"first": "fc1", "second": "fc2"}


@pytest.mark.parametrize(
    "layers",
    [
        [nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Linear(16, 4)],
        [nn.Linear(8, 16), nn.Dropout(0.5), nn.Linear(16, 4)],
        [nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 4)],  # nonlin-05: three in a row
    ],
)
def test_linear_ops_between_change_nothing(found, layers):
    assert {code for code, _ in found(nn.Sequential(*layers), "16x8")} == {"BN401"}


def test_convs_in_a_row(found):
    model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.AvgPool2d(2), nn.Conv2d(32, 64, 3), nn.ReLU())
    assert list(found(model, "2x3x16x16")) == [("BN401", "2")]


def test_max_pooling_alone_is_info(found):
    model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3), nn.ReLU())
    assert found(model, "2x3x16x16") == {}
    assert found(model, "2x3x16x16", info=True)["BN401", "2"].severity is bnlint.Severity.INFO


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (nn.Sequential(nn.Linear(64, 4), nn.Linear(4, 64), nn.ReLU()), "4x64"),  # low rank
        (nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 16, 1), nn.ReLU()), "2x8x8x8"),  # separable
        (nn.Sequential(nn.Conv2d(8, 16, 1), nn.Conv2d(16, 16, 3, groups=16), nn.ReLU()), "2x8x8x8"),
        (nn.Sequential(nn.Conv2d(8, 8, (1, 7)), nn.Conv2d(8, 8, (7, 1)), nn.ReLU()), "2x8x16x16"),  # factorised
        (nn.Sequential(nn.ConvTranspose2d(8, 8, 2, 2), nn.Conv2d(8, 4, 3), nn.ReLU()), "2x8x8x8"),
        (nn.Sequential(nn.Conv2d(8, 16, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4)), "2x8x8x8"),
        (nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8),
                       nn.Conv2d(8, 32, 1), nn.ReLU()), "2x8x8x8"),  # a linear bottleneck and the next expansion
        (Fn(lambda m, x: m.b(m.a(x) + x), a=nn.Linear(8, 8), b=nn.Linear(8, 4)), "4x8"),  # a skip
        (Fn(lambda m, x: m.b(m.a(x).tanh()), a=nn.Linear(8, 8), b=nn.Linear(8, 4)), "4x8"),
        (Fn(lambda m, x: m.o((m.q(x) @ m.k(x).mT / 3).softmax(-1) @ m.v(x)), q=nn.Linear(8, 8), k=nn.Linear(8, 8),
            v=nn.Linear(8, 8), o=nn.Linear(8, 8)), "2x5x8"),
        (nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.Linear(16, 4)), "4x8"),  # normalises each sample
    ],
)  # fmt: skip
def test_linear_by_design_is_silent(found, model, shape):
    assert found(model, shape) == {}
