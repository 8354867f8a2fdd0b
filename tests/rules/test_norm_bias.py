"""BN105: a bias is listed exactly where changing it changes nothing, shown by changing it."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import bnlint

from .conftest import Fn


class ResidualStream(nn.Module):
    """Pre-activation: the biases of branch ends and stem run down the stream, and a norm reads every point of it."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(3))
        self.convs = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(2))

    def forward(self, x):
        x = self.stem(x)
        for norm, conv in zip(self.norms, self.convs, strict=False):
            x = x + conv(torch.relu(norm(x)))
        return self.norms[2](x).relu()


class FunctionalNorm(nn.BatchNorm2d):
    def forward(self, x):
        x = F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, self.training)
        return x.relu()


CANCELLED = {
    "conv": nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()),
    "transposed": nn.Sequential(nn.ConvTranspose2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()),
    "depthwise": nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.BatchNorm2d(6), nn.ReLU()),
    "linear": nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.BatchNorm1d(8), nn.ReLU()),
    "max pool": nn.Sequential(nn.Conv2d(3, 8, 3), nn.MaxPool2d(3, 2, 1), nn.BatchNorm2d(8), nn.ReLU()),
    "average pool": nn.Sequential(nn.Conv2d(3, 8, 3), nn.AvgPool2d(2), nn.BatchNorm2d(8), nn.ReLU()),
    "flatten": nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.BatchNorm1d(32), nn.ReLU()),
    "instance": nn.Sequential(nn.Conv2d(3, 8, 3), nn.InstanceNorm2d(8), nn.ReLU()),
    "group per channel": nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(8, 8), nn.ReLU()),
    "functional": nn.Sequential(nn.Conv2d(3, 8, 3), FunctionalNorm(8)),
    "cat": Fn(lambda m, x: m.n(torch.cat([m.a(x), m.b(x)], 1)).relu(), a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(3, 4, 1),
              n=nn.BatchNorm2d(8)),
    "stream": ResidualStream(),
}  # fmt: skip

KEPT = {
    "relu between": nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.BatchNorm2d(8)),
    "layer norm": nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.LayerNorm(8), nn.ReLU()),
    "group norm": nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(4, 8), nn.ReLU()),
    "zero padding": nn.Sequential(nn.Conv2d(3, 8, 3), nn.ZeroPad2d(1), nn.BatchNorm2d(8), nn.ReLU()),
    "padded average": nn.Sequential(nn.Conv2d(3, 8, 3), nn.AvgPool2d(3, 1, 1), nn.BatchNorm2d(8), nn.ReLU()),
    "conv between": nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)),
    "group norm after flatten": nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.GroupNorm(4, 288), nn.ReLU()),
    "second reader": Fn(lambda m, x: m.n(m.a(x)) + m.a(x).relu(), a=nn.Conv2d(3, 8, 1), n=nn.BatchNorm2d(8)),
    "returned as well": Fn(lambda m, x: (lambda y: (m.n(y), y))(m.a(x)), a=nn.Conv2d(3, 8, 1), n=nn.BatchNorm2d(8)),
    "scaled map": Fn(lambda m, x: m.n(m.a(x) * x.mean((2, 3), True)[:, :1]), a=nn.Conv2d(3, 8, 1), n=nn.BatchNorm2d(8)),
    "tokens": Fn(lambda m, x: m.n(m.a(x.flatten(2))), a=nn.Linear(64, 8), n=nn.BatchNorm1d(3)),
}  # fmt: skip


def listed(model, mode="train"):
    report = bnlint.check(model, "float64[4,3,8,8]", static=True, mode=mode, select=["BN105"])
    return {path for finding in report.findings for path in finding.modules}


def ignored(model):
    """Layers whose bias can be changed without any effect on the output."""
    model.train()
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = set()
    for path, module in model.named_modules():
        bias = getattr(module, "bias", None)
        if isinstance(module, (nn.modules.conv._ConvNd, nn.Linear)) and bias is not None:
            before = run(model, x)
            with torch.no_grad():
                bias += torch.randn(bias.shape, generator=torch.Generator().manual_seed(1))
            if torch.allclose(before, run(model, x), atol=1e-9):
                found.add(path)
    return found


def run(model, x):
    output = model(x)
    return torch.cat([t.flatten() for t in (output if isinstance(output, tuple) else (output,))])


@pytest.mark.parametrize("name", CANCELLED)
def test_a_listed_bias_has_no_effect(name):
    model = CANCELLED[name].double()
    layers = {p for p, m in model.named_modules() if isinstance(m, (nn.modules.conv._ConvNd, nn.Linear))}
    assert listed(model) == ignored(model) == layers


@pytest.mark.parametrize("name", KEPT)
def test_a_bias_with_an_effect_is_not_listed(name):
    model = KEPT[name].double()
    assert listed(model) == ignored(model) == set()


def test_a_norm_in_evaluation_cancels_nothing():
    assert listed(CANCELLED["conv"].double(), mode="eval") == set()


def test_one_finding_counts_what_all_layers_have():
    """bias-bn-01 and bias-bn-03: every conv of a U-Net block keeps its bias."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.BatchNorm2d(16))
    rows = bnlint.check(model, "4x3x16x16", static=True, select=["BN105"]).findings
    assert [(f.code, f.module_path, f.modules) for f in rows] == [("BN105", "0", ("0", "3"))]
    assert rows[0].evidence == {"layers": 2, "parameters": 24}
    assert rows[0].severity is bnlint.Severity.INFO


def test_a_frozen_bias_and_one_used_elsewhere_stay():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    model[0].bias.requires_grad_(False)
    assert listed(model.double()) == set()
    shared = nn.Conv2d(3, 8, 1)
    both = Fn(lambda m, x: m.n(m.a(x)) + m.a.bias[:, None, None], a=shared, n=nn.BatchNorm2d(8))
    assert listed(both.double()) == set()
