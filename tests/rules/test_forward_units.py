"""BN603 to BN606, BN612, BN613: what single channels and samples show, and designs that only look like a defect."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from .conftest import Fn

X = torch.randn(128, 256, generator=torch.Generator().manual_seed(0))
IMAGES = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def verdict(severities):
    """`verdict(code, model, inputs)` gives {module path: severity} after running on data."""

    def run(code, model, inputs, **options):
        found = severities(code, model, inputs, static=False, **options)
        return {path: severity.value for path, severity in found.items()}

    return run


def stack(depth, activation=nn.ReLU, width=256, init=None, bias=None):
    torch.manual_seed(0)
    layers = []
    for _ in range(depth):
        layer = nn.Linear(width, width)
        if init is not None:
            init(layer.weight)
            nn.init.zeros_(layer.bias)
        if bias is not None:
            nn.init.constant_(layer.bias, bias)
        layers += [layer, activation()]
    return nn.Sequential(*layers, nn.Linear(width, 10))


def he(weight):
    nn.init.kaiming_normal_(weight, nonlinearity="relu")


# -- BN603 -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "alike"),
    [
        (stack(3), False),
        (stack(6), False),  # cosine 0.992
        (stack(10), True),
        (stack(20), True),
        (stack(10, nn.Tanh), False),  # 0.996
        (stack(20, nn.Tanh), True),
        (stack(10, nn.Sigmoid), True),
        (stack(20, init=he), False),
        (stack(40, init=he), False),  # 0.988
        (stack(10, init=lambda w: nn.init.normal_(w, std=0.02)), False),  # collapsed, but the direction is kept
    ],
)
def test_samples_that_cannot_be_told_apart(verdict, model, alike):
    assert list(verdict("BN603", model, X).values()) == (["error"] if alike else [])


def test_samples_that_are_alike_themselves(verdict):
    assert verdict("BN603", stack(20), X[:1] + 1e-3 * X) == {}


def test_global_pooling_makes_samples_alike(verdict):
    layers = [
        m for c in (3, 32, 32, 32, 32, 32) for m in (nn.Conv2d(c, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU())
    ]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
    assert verdict("BN603", model, IMAGES) == {}


# -- BN604 -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "wanted"),
    [
        (stack(3), []),
        (stack(1, bias=-1.0), []),  # 96 % zeros, hardly a dead unit
        (stack(3, bias=-3.0), ["error"]),
        (stack(20, init=he), []),  # units are always on or always off, half and half
        (stack(40, init=he), []),
        (stack(10), []),  # the same after a collapse
        (stack(3, nn.LeakyReLU, bias=-3.0), []),
        (stack(3, nn.GELU, bias=-3.0), []),
    ],
)
def test_dead_units(verdict, model, wanted):
    assert list(verdict("BN604", model, X).values()) == wanted


def partly(share, rows):
    model = stack(1)
    nn.init.constant_(model[0].bias[: int(256 * share)], -6.0)
    return model, X[:rows]


@pytest.mark.parametrize(("share", "rows", "wanted"), [(0.2, 128, "warning"), (0.7, 128, "error"), (0.05, 128, None)])
def test_the_share_of_dead_units(verdict, share, rows, wanted):
    assert verdict("BN604", *partly(share, rows)) == ({"0": wanted} if wanted else {})


def test_too_few_values_say_nothing(verdict):
    assert verdict("BN604", *partly(0.7, 8)) == {}


class Excited(nn.Module):
    """Squeeze and excitation: its inner ReLU sees one nearly equal vector for every sample."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 64, 3)
        self.down, self.up, self.head = nn.Conv2d(64, 16, 1), nn.Conv2d(16, 64, 1), nn.Linear(64, 10)

    def forward(self, x):
        x = F.relu(self.stem(x))
        gate = self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))).sigmoid()
        return self.head((x * gate).mean((2, 3)))


@pytest.mark.parametrize("batch", [8, 64])
def test_gates_look_dead(verdict, batch):
    images = torch.randn(batch, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert verdict("BN604", Excited(), images) == {}


def test_healthy_layers_of_many_seeds_have_no_dead_units(verdict):
    for seed in range(20):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))
        assert verdict("BN604", model, torch.randn(16, 32)) == {}


# -- BN605 -------------------------------------------------------------------------------------------------------------


def wide(activation, scale):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(256, 64), activation, nn.Linear(64, 4))
    nn.init.normal_(model[0].weight, std=scale)
    return model


@pytest.mark.parametrize(
    ("model", "wanted"),
    [
        (wide(nn.Tanh(), 1.0), {"1": "warning"}),
        (wide(nn.Sigmoid(), 1.0), {"1": "warning"}),
        (wide(nn.Tanh(), 0.1), {}),
        (wide(nn.ReLU(), 1.0), {}),
        (wide(nn.SiLU(), 1.0), {}),
    ],
)
def test_saturated_units(verdict, model, wanted):
    assert verdict("BN605", model, X) == wanted


def test_masked_scores_and_gates_are_not_judged(verdict):
    mask = torch.full((256, 64), -1e9).triu(-30)
    model = Fn(
        lambda m, x: m.head((m.layer(x) + mask[: len(x)]).sigmoid()), layer=nn.Linear(256, 64), head=nn.Linear(64, 4)
    )
    assert verdict("BN605", model, X) == {}
    gate, layer = nn.Linear(256, 256), nn.Linear(256, 4)
    nn.init.constant_(gate.bias, -20.0)
    assert verdict("BN605", Fn(lambda m, x: m.layer(x * m.gate(x).sigmoid()), gate=gate, layer=layer), X) == {}


# -- BN606 -------------------------------------------------------------------------------------------------------------


class Residual(nn.Module):
    def __init__(self, depth, norm=nn.Identity, zero=False, width=256, stem=1.0):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.head = nn.Linear(width, width), nn.Linear(width, 10)
        nn.init.normal_(self.stem.weight, std=stem / width**0.5)
        self.norms = nn.ModuleList(norm(width) if norm is not nn.Identity else norm() for _ in range(depth))
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        for layer in self.layers:
            (nn.init.zeros_ if zero else he)(layer.weight)

    def forward(self, x):
        x = self.stem(x)
        for norm, layer in zip(self.norms, self.layers, strict=True):
            x = x + layer(F.relu(norm(x)))
        return self.head(x)


@pytest.mark.parametrize(
    ("model", "wanted"),
    [
        (Residual(6), ["warning"]),
        (Residual(3), []),
        (Residual(24), []),  # BN602's
        (Residual(24, nn.LayerNorm), []),
        (Residual(24, nn.BatchNorm1d), []),
        (Residual(24, nn.LayerNorm, stem=0.02), []),  # the first branches dwarf a small stem
        (Residual(24, zero=True), []),
    ],
)
def test_residual_growth(verdict, model, wanted):
    assert list(verdict("BN606", model, X).values()) == wanted


# -- BN612 -------------------------------------------------------------------------------------------------------------


def test_channels_that_a_clamp_makes_constant(verdict):
    model = Fn(lambda m, x: m.second(m.first(x).clamp(10, 255)), first=nn.Linear(256, 64), second=nn.Linear(64, 8))
    assert verdict("BN612", model, X) == {"second": "warning"}


def zero_rows():
    layer = nn.Linear(256, 64)
    with torch.no_grad():
        layer.weight[:32] = 0
    return nn.Sequential(layer, nn.ReLU(), nn.Linear(64, 8))


def zero_gammas():
    norm = nn.BatchNorm2d(16)
    nn.init.zeros_(norm.weight[:8])
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), norm, nn.Conv2d(16, 16, 3, groups=16), nn.Flatten(), nn.Linear(16 * 676, 2)
    )


class Positions(nn.Module):
    """Learnt positions and a time step: the same for every sample."""

    def __init__(self):
        super().__init__()
        self.place, self.time = nn.Parameter(torch.randn(1, 32, 16)), nn.Linear(8, 16)
        self.embed, self.mix, self.head = nn.Linear(256, 16), nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x):
        step = torch.ones(len(x) // 4, 8).sin()
        tokens = self.embed(x).view(-1, 4, 16) + self.time(step)[:, None]
        return self.head(self.mix(tokens + self.mix(self.place)[:, :4]))


class PaddedChannels(nn.Module):
    """A shortcut that fills new channels with zeros, and coordinates as channels."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 1), nn.Conv2d(17, 4, 1)

    def forward(self, x):
        x = self.first(x)
        x = self.second(x) + F.pad(x, (0, 0, 0, 0, 0, 8))
        rows = torch.linspace(-1, 1, x.shape[2])[None, None, :, None].expand(len(x), 1, -1, x.shape[3])
        return self.third(torch.cat([x, rows], 1))


def small_embedding():
    """DeepFM's: what starts at 1e-8 is below the resolution of the biases that are added to it."""
    first = nn.Linear(256, 64)
    nn.init.normal_(first.weight, std=1e-8)
    nn.init.zeros_(first.bias)
    return nn.Sequential(first, nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))


class ClassToken(nn.Module):
    """CaiT: branches start so small that the token hardly knows the picture, while the positions differ."""

    def __init__(self, drop=None):
        super().__init__()
        self.token, self.norm = nn.Parameter(torch.randn(1, 1, 16)), nn.LayerNorm(16)
        self.embed, self.head = nn.Linear(64, 16), nn.Linear(16, 400)
        self.drop = nn.Dropout(drop) if drop is not None else nn.Sequential()

    def forward(self, x):
        tokens = self.embed(x.view(len(x), 4, 64))
        token = self.token + 1e-6 * tokens.mean(1, keepdim=True)
        return self.head(self.drop(self.norm(torch.cat([token, tokens], 1))[:, 0]))


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        (zero_rows(), X),
        (ClassToken(), X),
        (ClassToken(drop=0.0), X),
        (zero_gammas(), IMAGES[:, :, :30, :30]),
        (Positions(), X),
        (PaddedChannels(), IMAGES),
        (small_embedding(), X),
        (stack(20), X),  # a collapse is BN601's
        (stack(3, bias=-8.0), X),  # dead units are BN604's
    ],
)
def test_constants_that_are_meant_or_reported_elsewhere(verdict, model, inputs):
    assert verdict("BN612", model, inputs) == {}


# -- BN613 -------------------------------------------------------------------------------------------------------------


def attention(skip, depth=4, width=256):
    torch.manual_seed(0)
    layers = {f"value{i}": nn.Linear(width, width) for i in range(depth)}

    def forward(m, x):
        x = m.stem(x)
        for i in range(depth):
            mixed = (x @ x.transpose(1, 2) / math.sqrt(width)).softmax(-1) @ getattr(m, f"value{i}")(x)
            x = x + mixed if skip else mixed
        return m.head(x)

    return Fn(forward, stem=nn.Linear(width, width), head=nn.Linear(width, 10), **layers)


def bottleneck():
    return nn.Sequential(
        nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 2), nn.Linear(2, 256), nn.ReLU(), nn.Linear(256, 256)
    )


def pooled():
    """One vector a sample, repeated at every position."""
    layers = {
        "conv": nn.Conv2d(3, 64, 3, padding=1),
        "deep": nn.Conv2d(64, 64, 3, padding=1),
        "last": nn.Conv2d(64, 64, 1),
    }

    def forward(m, x):
        x = m.deep(m.conv(x).relu())
        return m.last(x.mean((2, 3), keepdim=True).expand(-1, -1, 16, 16).relu())

    return Fn(forward, **layers)


TOKENS = torch.randn(8, 32, 256, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("model", "inputs", "count"),
    [
        (attention(False), TOKENS, 1),
        (attention(True), TOKENS, 0),
        (bottleneck(), X.repeat(2, 1), 0),
        (pooled(), IMAGES, 0),
        (stack(40, init=he), X, 0),
        (attention(False), torch.ones(8, 32, 1) * TOKENS[:, :1], 0),  # the input has no more
    ],
)
def test_rank(verdict, model, inputs, count):
    assert len(verdict("BN613", model, inputs)) == count
