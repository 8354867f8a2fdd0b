"""BN601 and BN602: the calibration tables as verdicts, and designs that only look like a collapse or an explosion."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import bnlint
from bnlint.audit import audit_module
from bnlint.job import Job

from .deep import he, mlp, severities


@pytest.fixture
def signal():
    """`signal(model, inputs)` gives {code: finding} of the two rules."""

    def run(model, inputs):
        report = bnlint.check(model, inputs, select=["BN601", "BN602"])
        assert [f.code for f in report.findings if f.code.startswith("BN9")] == []
        assert len({f.code for f in report.findings}) == len(report.findings)  # one finding per model
        return {f.code: f for f in report.findings}

    return run


def normal(std):
    return lambda weight: nn.init.normal_(weight, std=std)


X = torch.randn(128, 256, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("model", "wanted"),
    [
        (mlp(3), {}),
        (mlp(6), {"BN601": "warning"}),
        (mlp(10), {"BN601": "error"}),
        (mlp(20), {"BN601": "error"}),
        (mlp(3, init=he), {}),
        (mlp(6, init=he), {}),
        (mlp(10, init=he), {}),
        (mlp(20, init=he), {}),
        (mlp(40, init=he), {}),
        (mlp(3, nn.Tanh), {}),
        (mlp(6, nn.Tanh), {"BN601": "warning"}),
        (mlp(10, nn.Tanh), {"BN601": "warning"}),
        (mlp(20, nn.Tanh), {"BN601": "error"}),
        (mlp(20, nn.Tanh, lambda w: nn.init.xavier_normal_(w, gain=5 / 3)), {}),
        (mlp(3, nn.Sigmoid), {}),  # too shallow for a verdict
        (mlp(6, nn.Sigmoid), {"BN601": "error"}),
        (mlp(10, nn.Sigmoid), {"BN601": "error"}),
        (mlp(20, nn.SELU, lambda w: nn.init.kaiming_normal_(w, nonlinearity="linear")), {}),
        (mlp(6, init=normal(0.02)), {"BN601": "error"}),
        (mlp(10, init=normal(0.02)), {"BN601": "error"}),
        (mlp(6, init=normal(1.0)), {"BN602": "error"}),
        (mlp(10, init=normal(1.0)), {"BN602": "error"}),
        (mlp(6, init=normal(0.25)), {"BN602": "warning"}),
        *((mlp(depth, norm=nn.BatchNorm1d), {}) for depth in (3, 6, 10, 20, 40)),
        (mlp(20, norm=nn.LayerNorm), {}),
    ],
)
def test_plain_stacks(signal, model, wanted):
    assert severities(signal(model, X)) == wanted


def test_the_place_is_the_first_layer_beyond_the_limit(signal):
    (found,) = signal(mlp(20), X).values()
    assert found.module_path == "6"  # 1, 0.36, 0.13, 0.047
    assert 0.02 < found.evidence["ratio"] < 0.05
    assert 1e-9 < found.evidence["last_ratio"] < 1e-6


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"warn_below": 1e-9, "error_below": 1e-10}, []),
        ({"error_below": 1e-9}, ["warning"]),
        ({"min_layers": 20}, []),
        ({"min_layers": 19}, ["error"]),
    ],
)
def test_limits_are_options(options, wanted):
    job = Job("model", select=("BN601",), rule_options={"BN601": options})
    report = audit_module(mlp(20), job, X)
    assert [f.severity.value for f in report.findings] == wanted


def test_dropout_does_not_hide_a_collapse(signal):
    torch.manual_seed(0)
    layers = [m for _ in range(12) for m in (nn.Linear(256, 256), nn.ReLU(), nn.Dropout(0.5))]
    assert severities(signal(nn.Sequential(*layers, nn.Linear(256, 10)), X)) == {"BN601": "error"}


def vgg13(init=None, norm=False, in_place=True):
    torch.manual_seed(0)
    layers, channels = [], 3
    for width, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            conv = nn.Conv2d(channels, width, 3, padding=1)
            if init is not None:
                init(conv.weight)
                nn.init.zeros_(conv.bias)
            layers += [conv, *([nn.BatchNorm2d(width)] if norm else []), nn.ReLU(inplace=in_place)]
            channels = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 10))


@pytest.mark.parametrize(
    ("model", "wanted"),
    [
        (vgg13(), {"BN601": "warning"}),
        (vgg13(in_place=False), {"BN601": "warning"}),
        (vgg13(normal(0.01)), {"BN601": "error"}),
        (vgg13(he), {}),
        (vgg13(lambda w: nn.init.kaiming_normal_(w, mode="fan_out")), {}),
        (vgg13(norm=True), {}),
    ],
)
def test_convolutions(signal, model, wanted):
    x = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert severities(signal(model, x)) == wanted


class Residual(nn.Module):
    """Blocks x + f(x) of two layers."""

    def __init__(self, depth, norm=None, scale=1.0, zero=False, width=128):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.head, self.scale = nn.Linear(width, width), nn.Linear(width, 10), scale
        self.norms = nn.ModuleList(norm(width) if norm else nn.Identity() for _ in range(depth))
        self.inner = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.outer = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        for layer in (*self.inner, *self.outer):
            he(layer.weight)
        if zero:
            for layer in self.outer:
                nn.init.zeros_(layer.weight)

    def forward(self, x):
        x = self.stem(x)
        for norm, inner, outer in zip(self.norms, self.inner, self.outer, strict=True):
            x = x + self.scale * outer(F.relu(inner(F.relu(norm(x)))))
        return self.head(x)


@pytest.mark.parametrize(
    ("model", "wanted"),
    [
        (Residual(32), {"BN602": "error"}),
        (Residual(12), {"BN602": "warning"}),
        (Residual(32, nn.BatchNorm1d), {}),
        (Residual(32, nn.LayerNorm), {}),
        (Residual(32, scale=0.2), {}),
        (Residual(32, zero=True), {}),  # Fixup, SkipInit
    ],
)
def test_residual_stacks(signal, model, wanted):
    assert severities(signal(model, torch.randn(64, 128, generator=torch.Generator().manual_seed(0)))) == wanted


# -- what only looks like a collapse or an explosion --------------------------------------------------------------------


class SqueezeExcite(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.down, self.up = nn.Linear(channels, 4), nn.Linear(4, channels)

    def forward(self, x):
        gate = self.up(F.relu(self.down(x.mean((2, 3))))).sigmoid()
        return x * gate[:, :, None, None]


def gated():
    layers = [nn.Conv2d(3, 16, 3, padding=1), nn.ReLU()]
    for _ in range(3):
        conv = nn.Conv2d(16, 16, 3, padding=1)
        he(conv.weight)
        layers += [conv, nn.ReLU(), SqueezeExcite(16)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5))


class PreNorm(nn.Module):
    """Transformer blocks on embeddings of std 0.02: the stream grows from there, and every branch normalises it."""

    def __init__(self, depth=12, width=64, layer_scale=None, rms=False):
        super().__init__()
        torch.manual_seed(0)
        self.tokens = nn.Embedding(50, width)
        self.qkv = nn.ModuleList(nn.Linear(width, 3 * width) for _ in range(depth))
        self.out = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.up = nn.ModuleList(nn.Linear(width, 4 * width) for _ in range(depth))
        self.down = nn.ModuleList(nn.Linear(4 * width, width) for _ in range(depth))
        self.head = nn.Linear(width, 50)
        self.scale = nn.Parameter(torch.full((width,), layer_scale or 1.0))
        self.norm = self.rms if rms else nn.LayerNorm(width)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=0.02)

    def rms(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)

    def forward(self, ids):
        x = self.tokens(ids)
        for qkv, out, up, down in zip(self.qkv, self.out, self.up, self.down, strict=True):
            q, k, v = qkv(self.norm(x)).chunk(3, -1)
            x = x + self.scale * out(F.scaled_dot_product_attention(q, k, v))
            x = x + self.scale * down(F.gelu(up(self.norm(x))))
        return self.head(self.norm(x))


class Siren(nn.Module):
    """Sine layers: small weights, scaled by 30 before the sine."""

    def __init__(self, depth=6, width=64):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(2, width)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.head = nn.Linear(width, 3)
        nn.init.uniform_(self.first.weight, -1 / 2, 1 / 2)
        for layer in self.hidden:
            nn.init.uniform_(layer.weight, -math.sqrt(6 / width) / 30, math.sqrt(6 / width) / 30)

    def forward(self, x):
        x = torch.sin(30 * self.first(x))
        for layer in self.hidden:
            x = torch.sin(30 * layer(x))
        return self.head(x)


class Saturated(nn.Module):
    """Raw pixels into a tanh net: the first layer's output is large once, and nothing shrinks after that."""

    def __init__(self):
        super().__init__()
        self.body = mlp(8, nn.Tanh, lambda w: nn.init.xavier_normal_(w, gain=5 / 3), width=64)

    def forward(self, x):
        return self.body(x * 255)


class UNet(nn.Module):
    """No norm: the bottom of the U is small, but the long skips go past it."""

    def __init__(self, width=8):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.down = nn.ModuleList(nn.Conv2d(width, width, 3, 2, 1) for _ in range(4))
        self.up = nn.ModuleList(nn.Conv2d(2 * width, width, 3, padding=1) for _ in range(4))
        self.head = nn.Conv2d(width, 2, 1)

    def forward(self, x):
        x = self.stem(x)
        skips = []
        for layer in self.down:
            skips.append(x)
            x = F.relu(layer(x))
        for layer in self.up:
            skip = skips.pop()
            x = F.relu(layer(torch.cat([F.interpolate(x, size=skip.shape[2:]), skip], 1)))
        return self.head(x)


def pooled(depth=5):
    """Averages over positions shrink the spread of white noise; the weights do not."""
    torch.manual_seed(0)
    layers = []
    for channels in [3] + [32] * (depth - 1):
        conv = nn.Conv2d(channels, 32, 3, padding=1)
        he(conv.weight)
        layers += [conv, nn.ReLU(), nn.AvgPool2d(2)]
    fc = nn.Linear(32, 32)
    he(fc.weight)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), fc, nn.ReLU(), nn.Linear(32, 10))


def small_head():
    model = mlp(8, init=he, width=64)
    nn.init.normal_(model[-1].weight, std=1e-5)
    return model


def zero_layer():
    """A layer that starts at zero is a matter of its weights."""
    model = mlp(8, init=he, width=64)
    nn.init.zeros_(model[10].weight)
    return model


def one_small_layer():
    model = mlp(8, init=he, width=64)
    nn.init.normal_(model[10].weight, std=1e-4)
    return model


IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
IDS = torch.randint(50, (4, 16), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        pytest.param(gated(), IMAGES, id="gates"),
        pytest.param(PreNorm(), IDS, id="pre-norm"),
        pytest.param(PreNorm(rms=True), IDS, id="norm-by-hand"),
        pytest.param(PreNorm(layer_scale=1e-6), IDS, id="layer-scale"),
        pytest.param(Siren(), torch.rand(64, 2) * 2 - 1, id="sine"),
        pytest.param(Saturated(), torch.rand(64, 64), id="saturated-once"),
        pytest.param(UNet(), IMAGES, id="long-skips"),
        pytest.param(pooled(), IMAGES, id="pooling"),
        pytest.param(small_head(), torch.randn(64, 64), id="small-head"),
        pytest.param(zero_layer(), torch.randn(64, 64), id="zero-layer"),
        pytest.param(mlp(20), X[0], id="no-batch"),
        pytest.param(mlp(20), X[:1], id="batch-of-one"),
    ],
)
def test_designs_that_are_no_defect(signal, model, inputs):
    assert severities(signal(model, inputs)) == {}


def test_one_small_layer_is_no_error(signal):
    assert severities(signal(one_small_layer(), torch.randn(64, 64))) == {"BN601": "warning"}


def test_the_batch_need_not_come_first(signal):
    class SequenceFirst(nn.Module):
        def __init__(self, init):
            super().__init__()
            self.body = mlp(12, init=init, width=64)

        def forward(self, x):
            return self.body(x.transpose(0, 1))

    x = torch.randn(8, 5, 64)
    assert severities(signal(SequenceFirst(None), x)) == {"BN601": "error"}
    assert severities(signal(SequenceFirst(he), x)) == {}


def test_the_cure_fits_the_activation(signal):
    assert 'nonlinearity="relu"' in signal(mlp(20), X)["BN601"].help
    assert "xavier" in signal(mlp(20, nn.Tanh), X)["BN601"].help
    assert "residual branch" in signal(Residual(32), torch.randn(64, 128))["BN602"].help
