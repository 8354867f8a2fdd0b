"""BN701 and BN702: gradients along the depth, and what only looks as if they vanished or exploded."""

from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import bnlint

from .deep import he, mlp, severities


@pytest.fixture
def gradient():
    """`gradient(model, inputs)` gives {code: finding} of the two rules."""

    def run(model, inputs, **options):
        report = bnlint.check(model, inputs, select=["BN701", "BN702"], **options)
        assert [f.code for f in report.findings if f.code.startswith("BN9")] == []
        return {f.code: f for f in report.findings}

    return run


X = torch.randn(128, 256, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("model", "wanted"),
    [
        (mlp(3), {}),
        (mlp(10), {}),  # 0.004
        (mlp(20), {"BN701": "error"}),
        (mlp(20, init=he), {}),
        (mlp(40, init=he), {}),
        (mlp(10, nn.Tanh), {}),
        (mlp(20, nn.Tanh), {"BN701": "warning"}),
        (mlp(3, nn.Sigmoid), {}),
        (mlp(6, nn.Sigmoid), {"BN701": "warning"}),
        (mlp(10, nn.Sigmoid), {"BN701": "error"}),
        (mlp(10, init=lambda w: nn.init.normal_(w, std=0.02)), {}),  # everything shrinks alike
        (mlp(20, init=lambda w: nn.init.normal_(w, std=1.0)), {}),  # norms overflow, no gradient does
        (mlp(10, norm=nn.BatchNorm1d), {}),
        (mlp(20, norm=nn.BatchNorm1d), {}),
        (mlp(40, norm=nn.BatchNorm1d), {"BN702": "warning"}),
        (mlp(20, norm=nn.LayerNorm), {}),
    ],
)
def test_plain_stacks(gradient, model, wanted):
    assert severities(gradient(model, X)) == wanted


def test_the_place_is_the_first_layer(gradient):
    (found,) = gradient(mlp(20), X).values()
    assert found.module_path == "0"
    assert 1e-8 < found.evidence["ratio"] < 1e-5
    assert found.evidence["layers"] == 20


@pytest.mark.parametrize("loss", [None, "cross_entropy", "mse_loss"])
def test_the_verdict_does_not_hang_on_the_loss(gradient, loss):
    assert severities(gradient(mlp(10, nn.Sigmoid), X, loss=loss)) == {"BN701": "error"}
    assert severities(gradient(mlp(20, init=he), X, loss=loss)) == {}


class Residual(nn.Module):
    def __init__(self, depth, norm=nn.Identity, zero=False, width=64):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.head = nn.Linear(width, width), nn.Linear(width, 10)
        self.norms = nn.ModuleList(norm(width) if norm is not nn.Identity else norm() for _ in range(depth))
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        for layer in self.layers:
            (nn.init.zeros_ if zero else he)(layer.weight)

    def forward(self, x):
        x = self.stem(x)
        for norm, layer in zip(self.norms, self.layers, strict=True):
            x = x + layer(F.relu(norm(x)))
        return self.head(x)


class Auxiliary(nn.Module):
    """A second output halfway: gradient comes in from the side."""

    def __init__(self):
        super().__init__()
        self.first, self.rest = mlp(4, init=he, width=64)[:-1], mlp(6, init=he, width=64)
        self.extra = nn.Linear(64, 10)

    def forward(self, x):
        x = self.first(x)
        return self.rest(x) * 1e-6, self.extra(x)


def frozen():
    model = mlp(8, init=he)
    for layer in list(model)[:8]:
        layer.requires_grad_(False)
    return model


def zero_head():
    model = mlp(8, init=he)
    nn.init.zeros_(model[-1].weight)
    return model


def tiny_head():
    model = mlp(8, init=he)
    nn.init.normal_(model[-1].weight, std=1e-6)
    return model


def sized(widths=(256, 512, 16, 1024, 8, 256)):
    """Layers of very different sizes: gradient-to-weight norms differ, what a layer does to the loss does not."""
    torch.manual_seed(0)
    layers = []
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b), nn.ReLU()]
        he(layers[-2].weight)
    return nn.Sequential(*layers, nn.Linear(widths[-1], 10))


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(Residual(24, nn.LayerNorm), id="pre-norm"),
        pytest.param(Residual(24, nn.BatchNorm1d), id="batch-norm"),
        pytest.param(Residual(24, zero=True), id="branches-at-zero"),
        pytest.param(Auxiliary(), id="auxiliary-output"),
    ],
)
def test_skips_and_side_outputs(gradient, model):
    assert severities(gradient(model, X[:, :64])) == {}


@pytest.mark.parametrize("model", [frozen(), zero_head(), tiny_head(), sized()])
def test_what_is_no_defect(gradient, model):
    assert severities(gradient(model, X)) == {}


def test_in_place_activations_do_not_break_it(gradient):
    model = mlp(20, lambda: nn.ReLU(inplace=True))
    assert severities(gradient(model, X)) == {"BN701": "error"}


def test_batch_norm_with_biased_convolutions(gradient):
    """The bias before a norm has a gradient near zero, which is nobody's defect."""
    torch.manual_seed(0)
    layers = []
    for channels in (3, 16, 16, 16, 16):
        layers += [nn.Conv2d(channels, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(inplace=True)]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    assert severities(gradient(model, torch.randn(8, 3, 16, 16))) == {}


class Gated(nn.Module):
    """Squeeze-excite gates with a batch norm on what they pooled."""

    def __init__(self, depth=24, width=16):
        super().__init__()
        torch.manual_seed(0)
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(depth))
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(depth))
        self.down = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in range(depth))
        self.squeezed = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(depth))
        for layer in self.down:
            nn.init.normal_(layer.weight, std=0.02)
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        for conv, norm, down, squeezed in zip(self.convs, self.norms, self.down, self.squeezed, strict=True):
            x = norm(conv(x))
            x = F.relu(x * F.relu(squeezed(down(x.mean((2, 3), keepdim=True)))).sigmoid())
        return self.head(x.mean((2, 3)))


def test_a_norm_over_few_values_has_a_slope_of_its_own(gradient):
    """Two pooled values lie close together, so that their norm is steep; with more samples it is not."""
    images = torch.randn(32, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    assert severities(gradient(Gated(), images)) == {}
    assert severities(gradient(Gated(), images[:2])) == {}


def test_a_norm_over_two_values_passes_on_no_gradient(gradient):
    """What it gives is +1 and -1, whatever it gets."""
    model = nn.Sequential(*mlp(6, init=he)[:-1], nn.BatchNorm1d(256), *mlp(6, init=he))
    assert severities(gradient(model, X[:32])) == {}
    assert severities(gradient(model, 100 * X[:2])) == {}


# -- gradients that are not finite --------------------------------------------------------------------------------------


class Distance(nn.Module):
    """The norm of a difference that is exactly zero has no slope."""

    def __init__(self, eps):
        super().__init__()
        self.embed, self.eps = nn.Linear(8, 8), eps

    def forward(self, x):
        difference = self.embed(x) - self.embed(x)
        return (difference.pow(2).sum(1) + self.eps).sqrt()


def test_a_root_at_zero(gradient):
    found = gradient(Distance(0.0), torch.randn(4, 8))
    assert severities(found) == {"BN702": "error"}
    assert set(found["BN702"].evidence["parameters"]) == {"embed.weight", "embed.bias"}
    assert severities(gradient(Distance(1e-8), torch.randn(4, 8))) == {}


def test_an_output_that_is_not_finite_is_another_rules_matter(gradient):
    class Log(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, x):
            return self.layer(x).log()

    assert severities(gradient(Log(), torch.randn(4, 8))) == {}


def test_no_backward_pass_no_verdict():
    class Detached(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = mlp(20, width=32)

        def forward(self, x):
            return self.body(x).detach()

    report = bnlint.check(Detached(), torch.randn(8, 32), select=["BN701", "BN702"])
    assert [f.code for f in report.findings] == ["BN904"]
    assert {row["code"] for row in report.targets[0].skipped_rules} == {"BN701", "BN702"}
