"""BN301: constants that break a network, and those that are set on purpose."""

import pytest
import torch
from torch import nn

from bnlint import Severity


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(8, 16)
        self.up = nn.Linear(16, 32)
        self.down = nn.Linear(32, 16)
        self.head = nn.Linear(16, 4)
        nn.init.zeros_(self.down.weight)

    def forward(self, x):
        x = self.stem(x)
        return self.head(torch.relu(x + self.down(torch.relu(self.up(torch.relu(x))))))


class LanguageGate(nn.Module):
    """init-13: both layers of a gate are zero, neither ever gets a gradient."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(8, 16)
        self.gate = nn.Sequential(nn.Linear(16, 16, bias=False), nn.ReLU(), nn.Linear(16, 16, bias=False), nn.Tanh())
        self.head = nn.Linear(16, 4)
        nn.init.zeros_(self.gate[0].weight)
        nn.init.zeros_(self.gate[2].weight)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        return self.head(x + self.gate(x) * x)


class AdaptiveNorm(nn.Module):
    """adaLN-zero: the modulation starts at zero so that every block starts as the identity."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(16, elementwise_affine=False)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(16, 48))
        self.mlp = nn.Linear(16, 16)
        nn.init.zeros_(self.modulation[1].weight)
        nn.init.zeros_(self.modulation[1].bias)

    def forward(self, x, c):
        shift, scale, gate = self.modulation(c).chunk(3, -1)
        return x + gate * torch.relu(self.mlp(self.norm(x) * (1 + scale) + shift))


def filled(model, value, *paths):
    for path in paths:
        nn.init.constant_(model.get_submodule(path).weight, value)
    return model


def mlp():
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))


@pytest.mark.parametrize("bias", [True, False])
def test_every_layer_constant(found, bias):
    model = filled(mlp(), 0.5, "0", "2", "4")
    if not bias:
        for i in (0, 2, 4):
            nn.init.zeros_(model[i].bias)
    rows = found(model, "4x8")
    assert list(rows) == [("BN301", "0"), ("BN301", "2")]
    assert all(f.severity is Severity.ERROR for f in rows.values())
    out = model[:3](torch.randn(4, 8))
    assert bool((out == out[:, :1]).all()) is not bias  # what the messages say of the units
    assert all(("for ever" in f.message) is not bias for f in rows.values())


def test_one_constant_layer_is_a_warning(found):
    (finding,) = found(filled(mlp(), 0.5, "2"), "4x8").values()
    assert (finding.code, finding.module_path, finding.severity) == ("BN301", "2", Severity.WARNING)


def test_two_zero_layers_without_bias_never_move(found):
    model = LanguageGate()
    finding = found(model, "4x8")["BN301", "gate.0"]
    assert finding.severity is Severity.ERROR
    model(torch.randn(4, 8)).sum().backward()
    assert not model.gate[0].weight.grad.any() and not model.gate[2].weight.grad.any()  # the claim itself


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        (filled(nn.Sequential(nn.Linear(8, 4)), 0.0, "0"), "4x8"),  # init-neg-01 and -03: one zero layer
        (filled(mlp(), 0.0, "4"), "4x8"),  # a zero last layer
        (Residual(), "4x8"),
        (AdaptiveNorm(), ["4x16", "4x16"]),
        (filled(nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.ReLU(), nn.Conv2d(4, 2, 1)), 1 / 9, "0"), "2x4x8x8"),
        (nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4)), "16x8"),
    ],
)
def test_deliberate_constants_are_silent(found, model, inputs):
    assert found(model, inputs) == {}
