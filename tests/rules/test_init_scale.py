"""BN310, BN311, BN312 and BN315: biases, residual stacks, output layers and tied tables of the wrong scale."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bnlint import Severity

from .conftest import Fn

W, INFO = Severity.WARNING, Severity.INFO


def biased(value, act=None):
    model = nn.Sequential(nn.Linear(16, 64), act or nn.ReLU(), nn.Linear(64, 4))
    nn.init.constant_(model[0].bias, value)
    return model


@pytest.mark.parametrize("act", [nn.ReLU(), nn.GELU(), nn.Tanh()])
@pytest.mark.parametrize("value", [4.0, -4.0])
def test_large_bias(severities, act, value):
    assert severities("BN310", biased(value, act), "4x16") == {"0": W}


def test_large_bias_of_a_conv(found):
    model = nn.Sequential(nn.Conv2d(3, 128, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 4))
    nn.init.normal_(model[0].bias, std=5)
    evidence = found(model, "2x3x8x8", select=["BN310"])["BN310", "0"].evidence
    assert evidence["weighted"] == pytest.approx(3**-0.5, rel=0.1)
    assert evidence["bias"] == pytest.approx(5, rel=0.3)


def output_prior():
    model = biased(0.0)
    nn.init.constant_(model[2].bias, -4.6)
    return model


def before_norm():
    layer = nn.Linear(16, 64)
    nn.init.constant_(layer.bias, 4.0)
    return nn.Sequential(layer, nn.LayerNorm(64), nn.ReLU(), nn.Linear(64, 4))


def highway():
    gate = nn.Linear(16, 16)
    nn.init.constant_(gate.bias, -4.0)

    def forward(self, x):
        t = torch.sigmoid(self.gate(x))
        return self.out(t * torch.relu(self.h(x)) + (1 - t) * x)

    return Fn(forward, gate=gate, h=nn.Linear(16, 16), out=nn.Linear(16, 4))


def large_input():
    first = nn.Linear(16, 64)
    nn.init.normal_(first.weight, std=10)
    second = nn.Linear(64, 64)
    nn.init.constant_(second.bias, 4.0)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Linear(64, 4))


def trained_bias():
    model = biased(4.0)
    with torch.no_grad():
        for layer in (model[0], model[2]):
            layer.bias += torch.randn_like(layer.bias)
    return model


def small_weights():
    model = biased(0.05)
    nn.init.normal_(model[0].weight, std=1e-3)
    return model


def positive():
    return biased(4.0, nn.Softplus())


@pytest.mark.parametrize(
    "make", [output_prior, before_norm, highway, large_input, trained_bias, small_weights, positive]
)
def test_biases_that_are_meant(severities, make):
    assert severities("BN310", make(), "4x16") == {}


def he(layer):
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    nn.init.zeros_(layer.bias)
    return layer


class Block(nn.Module):
    def __init__(self, scale=1.0, norm=False, last=he, width=64):
        super().__init__()
        self.scale = scale
        self.norm = nn.LayerNorm(width) if norm else nn.Identity()
        self.a, self.b = he(nn.Linear(width, width)), last(nn.Linear(width, width))

    def forward(self, x):
        return x + self.scale * self.b(torch.relu(self.a(self.norm(x))))


def zeroed(layer):
    nn.init.zeros_(layer.weight)
    return layer


def stack(n, **kwargs):
    return nn.Sequential(nn.Linear(16, 64), *[Block(**kwargs) for _ in range(n)], nn.Linear(64, 4))


@pytest.mark.parametrize("n", [4, 8])
def test_unscaled_residual(found, n):  # the branch of a block makes twice its input's variance
    ((_, finding),) = found(stack(n), "8x16", select=["BN311"]).items()
    assert finding.module_path == "1"
    assert finding.evidence["blocks"] == n
    assert finding.evidence["growth"] == pytest.approx(3, rel=0.1)
    assert finding.evidence["ratio"] == pytest.approx(3**n, rel=0.5)


def test_rectified_sums_keep_the_scale_of_their_branches(severities):
    def forward(self, x):
        for layer in self.layers:
            x = torch.relu(x + layer(x))
        return self.head(x)

    layers = nn.ModuleList([nn.Linear(64, 64) for _ in range(6)])
    for layer in layers:
        nn.init.normal_(layer.weight, std=(3 / 64) ** 0.5)
    model = Fn(forward, layers=layers, head=nn.Linear(64, 4))
    assert len(severities("BN311", model, "8x64")) == 1
    for layer in layers:
        nn.init.normal_(layer.weight, std=(0.2 / 64) ** 0.5)
    assert severities("BN311", model, "8x64") == {}


@pytest.mark.parametrize("kwargs", [{"norm": True}, {"last": zeroed}, {"scale": 0.2}, {"last": lambda layer: layer}])
def test_residual_stacks_that_are_sound(severities, kwargs):
    assert severities("BN311", stack(6, **kwargs), "8x16") == {}


def test_three_blocks_are_not_enough(severities):
    assert severities("BN311", stack(3), "8x16") == {}


def classifier(std, end=None, k=10):
    model = nn.Sequential(nn.Linear(16, 256), nn.ReLU(), nn.Linear(256, k), *([end] if end else []))
    he(model[0])
    nn.init.normal_(model[2].weight, std=std)
    return model


@pytest.mark.parametrize("end", [None, nn.Softmax(1), nn.LogSoftmax(1), nn.Sigmoid()])
@pytest.mark.parametrize("static", [True, False])
def test_large_output_layer(severities, end, static):
    assert severities("BN312", classifier(1.0, end), "64x16", static=static) == {"2": W}
    assert severities("BN312", classifier(0.05, end), "64x16", static=static) == {}


def test_declared_loss_decides(severities):
    model = classifier(0.1)
    nn.init.normal_(model[0].weight, std=2.0)
    assert severities("BN312", model, "8x16") == {}
    assert severities("BN312", model, "8x16", loss="cross_entropy") == {"2": W}
    assert severities("BN312", classifier(1.0), "8x16", loss="mse") == {}


def test_one_output_and_trained_weights_are_no_business(severities):
    assert severities("BN312", classifier(1.0, k=1), "8x16") == {}
    model = classifier(1.0)
    for layer in (model[0], model[2]):
        nn.init.normal_(layer.bias, std=0.317)
        layer.bias.data[::2] *= 7
    assert severities("BN312", model, "8x16") == {}


class Language(nn.Module):
    def __init__(self, std=1.0, scale=1.0, tied=True):
        super().__init__()
        self.scale = scale
        self.table = nn.Embedding(100, 64)
        nn.init.normal_(self.table.weight, std=std)
        self.norm = nn.LayerNorm(64)
        self.head = nn.Linear(64, 100, bias=False)
        if tied:
            self.head.weight = self.table.weight

    def forward(self, tokens):
        return self.head(self.norm(self.table(tokens)) * self.scale)


TOKENS = "int64[4,8]<100"


def test_tied_table(found):
    finding = found(Language(), TOKENS, info=True, select=["BN315"])["BN315", "table"]
    assert finding.severity is INFO
    assert finding.evidence["std"] == pytest.approx(8, rel=0.3)


def test_table_used_by_a_function(severities):
    model = Fn(
        lambda self, x: F.linear(self.norm(self.t(x)), self.t.weight), t=nn.Embedding(100, 64), norm=nn.LayerNorm(64)
    )
    assert severities("BN315", model, TOKENS) == {"t": INFO}


@pytest.mark.parametrize("kwargs", [{"std": 0.02}, {"scale": 64**-0.5}, {"tied": False}])
def test_tables_that_are_sound(severities, kwargs):
    assert severities("BN315", Language(**kwargs), TOKENS) == {}
