"""Every kind of norm counts for every rule that asks whether a layer has one; the same net with one forgotten does not.

The net is a stem, three blocks with a projection shortcut, and five plain layers with PyTorch's default weights.
"""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import spectral_norm as hooked_spectral_norm
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

import bnlint

CODES = ["BN106", "BN107", "BN108", "BN109", "BN110"]
WIDTH = 8


class ChannelsLast(nn.Module):
    """A norm over the last axis, on channels-first maps."""

    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, x):
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class NormAct(nn.BatchNorm2d):
    """A batch norm with its activation in one, as in timm; functional inside."""

    def forward(self, x):
        x = F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, self.training, 0.1, self.eps)
        return F.relu(x)


class FunctionalLayerNorm(nn.Module):
    def forward(self, x):
        return F.layer_norm(x.permute(0, 2, 3, 1), (WIDTH,)).permute(0, 3, 1, 2)


class Standardise(nn.Module):
    """A norm that no class name gives away."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1, WIDTH, 1, 1))

    def forward(self, x):
        mean, variance = x.mean((1, 2, 3), keepdim=True), x.var((1, 2, 3), keepdim=True)
        return self.gain * (x - mean) / (variance + 1e-5).sqrt()


class Constants(nn.Module):
    """A frozen batch norm: all statistics are buffers."""

    def __init__(self):
        super().__init__()
        for name, value in (("weight", 1.0), ("bias", 0.0), ("mean", 0.0), ("var", 0.05)):
            self.register_buffer(name, torch.full((1, WIDTH, 1, 1), value))

    def forward(self, x):
        scale = self.weight * (self.var + 1e-5).rsqrt()
        return x * scale + (self.bias - self.mean * scale)


class Conv(nn.Module):
    """A conv, what normalises it, a ReLU; the norm may be one of the weights."""

    def __init__(self, inside, make, wrap, kernel=3, act=True):
        super().__init__()
        conv = nn.Conv2d(inside, WIDTH, kernel, padding=kernel // 2, bias=False)
        self.conv = wrap(conv) if wrap else conv
        self.norm, self.act = make() if make else nn.Identity(), nn.ReLU() if act else nn.Identity()

    def forward(self, x):
        return self.act(self.norm(self.conv(x)))


class Block(nn.Module):
    def __init__(self, make, wrap):
        super().__init__()
        self.one, self.two = Conv(WIDTH, make, wrap), Conv(WIDTH, make, wrap, act=False)
        self.shortcut = Conv(WIDTH, make, wrap, kernel=1, act=False)

    def forward(self, x):
        return F.relu(self.two(self.one(x)) + self.shortcut(x))


def net(make=None, wrap=None, forget=None):
    torch.manual_seed(0)
    blocks, plain = [Block(make, wrap) for _ in range(3)], [Conv(WIDTH, make, wrap) for _ in range(6)]
    model = nn.Sequential(Conv(3, make, wrap), *blocks, *plain, nn.Conv2d(WIDTH, 2, 1))
    if forget is not None:
        model.get_submodule(forget).norm = nn.ReLU()  # in place of a norm with its activation, too
    return model


NORMS = {
    "BatchNorm2d": lambda: nn.BatchNorm2d(WIDTH),
    "SyncBatchNorm": lambda: nn.SyncBatchNorm(WIDTH),
    "GroupNorm": lambda: nn.GroupNorm(2, WIDTH),
    "InstanceNorm2d": lambda: nn.InstanceNorm2d(WIDTH),
    "LocalResponseNorm": lambda: nn.LocalResponseNorm(2, alpha=1.0, k=0.0),
    "LayerNorm": lambda: ChannelsLast(nn.LayerNorm(WIDTH)),
    "RMSNorm": lambda: ChannelsLast(nn.RMSNorm(WIDTH)),
    "norm with activation": lambda: NormAct(WIDTH),
    "F.layer_norm": FunctionalLayerNorm,
    "written by hand": Standardise,
    "frozen": Constants,
}
WEIGHTS = {"weight_norm": weight_norm, "spectral_norm": spectral_norm, "hooked spectral_norm": hooked_spectral_norm}


def codes(model):
    mode = "eval" if any(isinstance(m, nn.SyncBatchNorm) for m in model.modules()) else "train"
    report = bnlint.check(model, "8x3x8x8", static=True, select=CODES, mode=mode)
    return {(f.code, f.module_path) for f in report.findings}


@pytest.mark.parametrize("kind", NORMS)
def test_a_layer_with_this_norm_has_a_norm(kind):
    assert codes(net(NORMS[kind])) == set()


@pytest.mark.parametrize("kind", NORMS)
def test_the_one_layer_without_it_has_none(kind):
    assert ("BN106", "6.conv") in codes(net(NORMS[kind], forget="6"))


@pytest.mark.parametrize("kind", WEIGHTS)
def test_a_normalised_weight_counts(kind):
    assert codes(net(wrap=WEIGHTS[kind])) == set()


def test_without_any_norm_the_signal_dies():
    assert "BN109" in {code for code, _ in codes(net())}
