"""Fifty equal blocks with one mistake are one finding that lists them all."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import bnlint

MAP, ROWS, TOKENS = "4x8x8x8", "8x32", "4x6x32"


class Shortcut(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.skip = nn.Conv2d(8, 8, 1)

    def forward(self, x):
        return torch.relu(self.norm(self.conv(x)) + self.skip(x))


class Pair(nn.Module):
    def __init__(self, *middle):
        super().__init__()
        self.first, self.middle, self.second = nn.Linear(32, 32), nn.Sequential(*middle), nn.Linear(32, 32)

    def forward(self, x):
        return F.gelu(self.second(self.middle(self.first(x))))


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.fc, self.function = nn.Linear(32, 32), function

    def forward(self, x):
        return self.function(F.gelu(self.fc(x)))


class InplaceSkip(nn.Module):
    def __init__(self):
        super().__init__()
        self.branch = nn.Sequential(nn.LeakyReLU(0.1, inplace=True), nn.Conv2d(8, 8, 3, padding=1))

    def forward(self, x):
        return x + self.branch(x)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(32, 32, bias=False) for _ in range(3))
        for layer in (self.q, self.k):
            nn.init.normal_(layer.weight)

    def forward(self, x):
        return x + F.layer_norm((self.q(x) @ self.k(x).mT).softmax(-1) @ self.v(x), (32,))


class Cut(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(32, 32), nn.Linear(32, 32)

    def forward(self, x):
        return torch.relu(self.b(self.a(x).detach())) + x


class TwoNorms(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(32, 32)
        self.norm1 = nn.BatchNorm1d(32)
        self.norm2 = nn.BatchNorm1d(32)

    def forward(self, x):
        return F.relu(self.norm2(self.norm1(self.fc(x))))


class Held(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = [nn.Linear(32, 32)]

    def forward(self, x):
        return torch.relu(self.layers[0](x))


class Shift(nn.Module):
    def __init__(self):
        super().__init__()
        self.shift = torch.randn(32)

    def forward(self, x):
        return x + self.shift


class Spare(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.spare = nn.Linear(32, 32), nn.Linear(32, 32)

    def forward(self, x):
        return torch.relu(self.used(x))


class Overwritten(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(32, 64)
        self.fc = nn.Linear(32, 32)

    def forward(self, x):
        return torch.relu(self.fc(x))


def small(norm):
    nn.init.constant_(norm.weight, 0.01)
    return norm


CASES = {
    "BN103": (lambda: nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1), nn.BatchNorm2d(8, momentum=0.9), nn.ReLU()), MAP),
    "BN105": (lambda: nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.ReLU()), MAP),
    "BN108": (Shortcut, MAP),
    "BN110": (lambda: nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1), nn.ReLU()), MAP),
    "BN111": (lambda: nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1), nn.BatchNorm2d(8).requires_grad_(False)), MAP),
    "BN112": (lambda: nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1), small(nn.BatchNorm2d(8)), nn.ReLU()), MAP),
    "BN113": (lambda: nn.Sequential(nn.Linear(32, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.5)), ROWS),
    "BN115": (TwoNorms, ROWS),
    "BN116": (lambda: nn.Sequential(nn.Linear(32, 32), nn.BatchNorm1d(32), nn.ReLU()), ROWS),
    "BN118": (lambda: nn.Sequential(nn.Linear(32, 32), nn.GroupNorm(32, 32), nn.ReLU()), ROWS),
    "BN121": (lambda: nn.Sequential(nn.Linear(32, 32), nn.BatchNorm1d(32, track_running_stats=False)), ROWS),
    "BN401": (lambda: Pair(nn.Dropout(0.1)), ROWS),
    "BN404": (lambda: nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Sigmoid()), ROWS),
    "BN405": (lambda: nn.Sequential(nn.Linear(32, 32), nn.Sigmoid()), ROWS),
    "BN406": (lambda: Function(lambda x: F.dropout(x, 0.2)), ROWS),
    "BN407": (InplaceSkip, MAP),
    "BN409": (Attention, TOKENS),
    "BN501": (Held, ROWS),
    "BN502": (Spare, ROWS),
    "BN503": (Cut, ROWS),
    "BN504": (Shift, ROWS),
    "BN505": (lambda: Function(lambda x: nn.Linear(32, 32)(x)), ROWS),
    "BN507": (lambda: Function(lambda x: x + torch.zeros(32)), ROWS),
    "BN508": (Overwritten, ROWS),
}


@pytest.mark.parametrize("code", CASES)
def test_one_finding_with_the_list(code):
    make, inputs = CASES[code]
    model = nn.Sequential(nn.Sequential(*(make() for _ in range(50))), nn.Linear(8 if inputs == MAP else 32, 4))
    found = bnlint.check(model, inputs, static=True, select=[code]).findings
    assert [f.code for f in found] == [code]
    assert len(found[0].modules) >= 49
