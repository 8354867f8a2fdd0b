"""BN302, BN303 and BN305: weights of the wrong scale or centre, and the designs that look like them."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from bnlint import Severity

from .conftest import Fn

WARNING = Severity.WARNING
ROWS, MAPS = "32x128", "16x3x16x16"


def drawn(model, draw):
    torch.manual_seed(0)
    for layer in model.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            layer.reset_parameters()
            if draw is not None:
                draw(layer.weight)
                nn.init.zeros_(layer.bias)
    return model


def normal(std):
    return lambda weight: nn.init.normal_(weight, std=std)


def he(weight):
    nn.init.kaiming_normal_(weight, nonlinearity="relu")


def lecun(weight):
    nn.init.kaiming_normal_(weight, nonlinearity="linear")


def mlp(draw, *, layers=4, activation=nn.ReLU, width=128, wrap=lambda layer: [layer]):
    rows = [part for _ in range(layers - 1) for part in (*wrap(nn.Linear(width, width)), activation())]
    return drawn(nn.Sequential(*rows, nn.Linear(width, 10)), draw)


def vgg(draw):
    layers, inside = [], 3
    for i, width in enumerate((16, 16, 32, 32, 64, 64)):
        layers += [nn.Conv2d(inside, width, 3, padding=1), nn.ReLU(), *([nn.MaxPool2d(2)] if i % 2 else [])]
        inside = width
    return drawn(nn.Sequential(*layers, nn.Flatten(), nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 10)), draw)


class Skips(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers, self.head = nn.ModuleList(nn.Linear(128, 128) for _ in range(7)), nn.Linear(128, 4)

    def forward(self, x):
        for layer in self.layers:
            x = x + layer(F.relu(x))
        return self.head(x)


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        (mlp(normal(0.01)), ROWS),
        (mlp(normal(0.02), layers=6), ROWS),
        (mlp(normal(1.0)), ROWS),
        (mlp(normal(1.0), activation=nn.LeakyReLU), ROWS),
        (mlp(lambda w: nn.init.uniform_(w, -0.05, 0.05), layers=6), ROWS),
        (mlp(normal(0.01), activation=nn.Tanh), ROWS),
        (vgg(normal(0.01)), MAPS),
    ],
)
def test_fixed_scales_that_fit_no_layer(severities, model, inputs):
    assert list(severities("BN302", model, inputs)) == ["0"]
    assert severities("BN302", model, inputs)["0"] is WARNING


def test_all_layers_are_one_finding_that_names_the_scheme_and_the_factor(found):
    (finding,) = found(mlp(normal(0.01)), ROWS, select=["BN302"]).values()
    assert finding.modules == ("0", "2", "4")
    assert finding.evidence["factor"] == pytest.approx(1e-4 * 128 / 2, rel=0.1)
    assert finding.evidence["moment"] == pytest.approx(0.5, abs=1e-3)
    assert "N(0, 0.01²)" in finding.message
    assert 'kaiming_normal_(layer.weight, nonlinearity="relu")' in finding.help


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.GELU, nn.SiLU, nn.SELU, nn.Identity])
def test_what_the_help_says_keeps_the_signal(found, activation):
    """The advice, followed, leaves a healthy signal."""
    (finding,) = found(mlp(normal(0.002), layers=6, activation=activation), ROWS, select=["BN302"]).values()
    code = finding.help.split("`")[1]

    def draw(weight):
        exec(code, {"nn": nn, "layer": type("Layer", (), {"weight": weight}), "fan_in": weight.shape[1]})

    model = mlp(draw, layers=6, activation=activation)
    assert found(model, ROWS, select=["BN302", "BN303", "BN109"]) == {}
    hidden = model[:-1](torch.randn(256, 128))
    assert 0.1 < hidden.square().mean() < 5


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        (mlp(he, layers=12), ROWS),
        (mlp(lecun, layers=12, activation=nn.SELU), ROWS),
        (mlp(nn.init.xavier_normal_, activation=nn.Tanh, layers=6), ROWS),
        (mlp(nn.init.orthogonal_, activation=nn.Tanh, layers=6), ROWS),
        (mlp(normal(0.01), layers=3), ROWS),
        (mlp(normal(0.01), layers=8, wrap=lambda layer: [layer, nn.BatchNorm1d(128)]), ROWS),
        (mlp(normal(0.01), layers=8, wrap=lambda layer: [layer, nn.LayerNorm(128)]), ROWS),
        (mlp(normal(0.01), layers=8, wrap=lambda layer: [weight_norm(layer)]), ROWS),
        (drawn(Skips(), normal(0.01)), ROWS),
        (vgg(he), MAPS),
        (mlp(None, layers=8), ROWS),  # PyTorch's default is BN303's
    ],
)
def test_sound_or_normalised_scales_are_silent(severities, model, inputs):
    assert severities("BN302", model, inputs) == {}


@pytest.mark.parametrize("mode", ["fan_in", "fan_out"])
def test_one_odd_layer_in_a_sound_row_is_silent(severities, mode):
    """As in torchvision's VGG: He's weights, and a classifier of N(0, 0.01²)."""
    model = drawn(vgg(None), lambda w: nn.init.kaiming_normal_(w, mode=mode, nonlinearity="relu"))
    nn.init.normal_(model[-3].weight, std=0.04)
    assert severities("BN302", model, MAPS) == {}


def test_the_weights_of_torchvisions_vgg_are_silent(found):
    """Sixteen layers lose a little each; the classifier's N(0, 0.01²) is the only one far off, and makes a quarter."""
    widths, layers, inside = (16, 16, 0, 32, 32, 0, 64, 64, 64, 0, 128, 128, 128, 0, 128, 128, 128), [], 3
    for width in widths:
        layers += [nn.Conv2d(inside, width, 3, padding=1), nn.ReLU()] if width else [nn.MaxPool2d(2)]
        inside = width or inside
    layers += [nn.Flatten(), nn.Linear(2048, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)]
    model = drawn(nn.Sequential(*layers), lambda w: nn.init.kaiming_normal_(w, mode="fan_out", nonlinearity="relu"))
    nn.init.normal_(model[-5].weight, std=0.6 / 2048**0.5)
    nn.init.normal_(model[-3].weight, std=0.4 / 512**0.5)
    assert found(model, "2x3x64x64", select=["BN302"]) == {}


def test_one_layer_that_kills_the_signal(found):
    model = mlp(he, layers=6)
    nn.init.normal_(model[4].weight, std=1e-4)
    (finding,) = found(model, ROWS, select=["BN302"]).values()
    assert finding.modules == ("4",)


def test_trained_weights_are_not_judged(severities):
    model = mlp(normal(0.02), layers=6)
    with torch.no_grad():
        for layer in model[::2]:
            layer.weight += 0.05 * torch.randn(len(layer.weight), 1) @ torch.randn(1, layer.weight.shape[1]) / 10
            layer.bias += 0.1 * torch.randn_like(layer.bias)
    assert severities("BN302", model, ROWS) == {}


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.GELU])
def test_deep_default_weights(found, activation):
    (finding,) = found(mlp(None, layers=8, activation=activation), ROWS, select=["BN303"]).values()
    assert (finding.module_path, finding.severity) == ("0", WARNING)
    assert finding.evidence["layers"] == 7
    assert finding.evidence["ratio"] == pytest.approx(finding.evidence["per_layer"] ** 6)


def test_issue_6950_default_convolutions(found):
    """init-08: the variance decays with depth."""
    assert list(found(vgg(None), MAPS, select=["BN303"])) == [("BN303", "0")]


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        (mlp(None, layers=4), ROWS),
        (mlp(he, layers=12), ROWS),
        (mlp(None, layers=12, wrap=lambda layer: [layer, nn.LayerNorm(128)]), ROWS),
        (drawn(Skips(), None), ROWS),
        (mlp(nn.init.xavier_uniform_, layers=12), ROWS),  # decays as well, but by another law
    ],
)
def test_shallow_normalised_skipped_or_chosen_weights_are_not_the_default(severities, model, inputs):
    assert severities("BN303", model, inputs) == {}


def uniform(low, high, *, bias=True):
    model = nn.Sequential(nn.Linear(16, 32, bias=bias), nn.ReLU(), nn.Linear(32, 4))
    nn.init.uniform_(model[0].weight, low, high)
    return model


@pytest.mark.parametrize(
    "model",
    [
        uniform(0, 1),
        uniform(-0.1, 0.9),
        uniform(-1, 0, bias=False),
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3)).apply(
            lambda m: nn.init.normal_(m.weight, 0.5, 0.1) if getattr(m, "in_channels", 0) == 3 else None
        ),
    ],
)
def test_shifted_weights(severities, model):
    assert severities("BN305", model, None) == {"0": WARNING}


def test_everything_uniform_between_zero_and_one(severities):
    model = nn.Sequential(nn.Linear(16, 32), nn.LSTM(32, 32))
    for p in model.parameters():
        nn.init.uniform_(p)
    assert severities("BN305", model, None) == {"0": WARNING, "1": WARNING}


def bilinear():
    """FCN's upsampling: a positive kernel that is no random draw."""
    layer = nn.ConvTranspose2d(8, 8, 4, 2, 1, bias=False)
    row = torch.tensor([0.25, 0.75, 0.75, 0.25])
    layer.weight.data.zero_()
    layer.weight.data[range(8), range(8)] = row[:, None] * row
    return nn.Sequential(layer)


def frozen():
    model = nn.Sequential(nn.Linear(16, 32))
    nn.init.uniform_(model[0].weight).requires_grad_(False)
    return model


def embedding():
    model = nn.Embedding(100, 16)
    nn.init.uniform_(model.weight)
    return nn.Sequential(model)


class Positive(nn.Linear):
    def forward(self, x):
        return F.linear(x, self.weight.exp(), self.bias)


def positive():
    layer = Positive(16, 32)
    nn.init.uniform_(layer.weight, 0, 1)
    return nn.Sequential(layer)


@pytest.mark.parametrize(
    "model",
    [
        uniform(-0.3, 0.35),  # 0.13 standard deviations
        uniform(-0.2, 0.2),
        bilinear(),
        frozen(),
        embedding(),
        positive(),
        nn.utils.weight_norm(nn.Conv1d(64, 128, 41)),  # HiFi-GAN: lengths of vectors are never negative
        nn.Sequential(nn.BatchNorm1d(128), nn.Linear(128, 4)),
        nn.Linear(8, 16, device="meta"),
        nn.LazyLinear(8),
        Fn(lambda self, x: x @ self.mix.softmax(0), mix=nn.Parameter(torch.rand(16, 16))),
    ],
)
def test_centred_fixed_and_structured_weights_are_silent(severities, model):
    assert severities("BN305", model, None) == {}


def test_few_entries_may_be_shifted_by_chance(severities):
    torch.manual_seed(1)
    layers = [nn.Linear(1, 8) for _ in range(200)]
    assert any(abs(layer.weight.mean() / layer.weight.std()) > 0.5 for layer in layers)
    assert severities("BN305", nn.ModuleList(layers), None) == {}
