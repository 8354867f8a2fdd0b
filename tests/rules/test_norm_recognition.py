"""What counts as a norm: layers, functions, and what is written out in tensor operations; never a name."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import spectral_norm
from torch.nn.utils.parametrizations import weight_norm

from bnlint.graph.model import Graph
from bnlint.graph.norms import Family, Norms, has_normalised_weight
from bnlint.graph.ops import Kind
from bnlint.graph.record import record

from .conftest import Fn


class Affine(nn.Module):
    """Whatever it computes, then a scale and shift per channel."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.weight, self.bias = nn.Parameter(torch.ones(8)), nn.Parameter(torch.zeros(8))

    def forward(self, x):
        return self.function(x) * self.weight[:, None, None] + self.bias[:, None, None]


def layer_norm(x):
    mean = x.mean(1, keepdim=True)
    variance = (x - mean).pow(2).mean(1, keepdim=True)
    return (x - mean) / torch.sqrt(variance + 1e-6)


def rms_norm(x):
    x = x.to(torch.float64)
    return x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-6)


def square_root_as_power(x):
    return x * ((x * x).mean(1, True) + 1e-6) ** -0.5


def batch_norm(x):
    variance, mean = torch.var_mean(x, dim=(0, 2, 3), keepdim=True)
    return (x - mean) * torch.rsqrt(variance + 1e-5)


def standard_deviation(x):
    return (x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + 1e-6)


def unit_length(x):
    return x / x.norm(dim=1, keepdim=True)


class Frozen(nn.Module):
    def __init__(self):
        super().__init__()
        for name, value in (("weight", 1.0), ("bias", 0.0), ("mean", 0.0), ("var", 1.0)):
            self.register_buffer(name, torch.full((8, 1, 1), value))

    def forward(self, x):
        scale = self.weight * (self.var + 1e-5).rsqrt()
        return x * scale + (self.bias - self.mean * scale)


class NormAct(nn.BatchNorm2d):
    """A subclass with a forward of its own, as in timm."""

    def forward(self, x):
        x = F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, self.training, 0.1, self.eps)
        return x.relu()


def norms_of(model, *shape):
    model.train()
    recording = record(model, (torch.randn(*(shape or (4, 8, 6, 6))),))
    assert recording.error is None and not recording.errors
    return Norms(Graph(recording, model))


@pytest.mark.parametrize(
    ("norm", "family"),
    [
        (nn.BatchNorm2d(8), Family.BATCH),
        (nn.SyncBatchNorm(8, process_group=1).eval(), Family.BATCH),
        (nn.InstanceNorm2d(8), Family.INSTANCE),
        (nn.GroupNorm(4, 8), Family.GROUP),
        (nn.LayerNorm(6), Family.LAYER),
        (nn.RMSNorm(6), Family.RMS),
        (nn.LocalResponseNorm(2), Family.LOCAL),
        (NormAct(8), Family.BATCH),
        (Fn(lambda m, x: F.group_norm(x, 2)), Family.GROUP),
        (Fn(lambda m, x: F.layer_norm(x.permute(0, 2, 3, 1), (8,))), Family.LAYER),
        (Fn(lambda m, x: F.instance_norm(x)), Family.INSTANCE),
        (Fn(lambda m, x: F.normalize(x)), Family.WRITTEN),
        (Frozen(), Family.FROZEN),
        *((Affine(f), Family.WRITTEN) for f in (layer_norm, rms_norm, square_root_as_power, batch_norm)),
        *((Affine(f), Family.WRITTEN) for f in (standard_deviation, unit_length)),
    ],
)  # fmt: skip
def test_every_norm_follows_the_layer_before_it(norm, family):
    if isinstance(norm, nn.SyncBatchNorm):
        norm.train = lambda mode=True: norm  # it runs in training only where there are several processes
    found = norms_of(nn.Sequential(nn.Conv2d(8, 8, 1), norm, nn.ReLU()))
    assert [n.family for n in found] == [family]
    (conv,) = found.graph.of_kind(Kind.CONV)
    assert found.all[0].source is conv or found.graph.origins(found.all[0].source) == [conv]
    assert found.follows(conv)


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: x * torch.sigmoid(m.layer(x.mean((2, 3), keepdim=True))),  # squeeze and excitation
        lambda m, x: ((x @ x.mT) / 6**0.5).softmax(-1) @ x,
        lambda m, x: x / 255,
        lambda m, x: x - x.mean(0, keepdim=True),
        lambda m, x: F.softmax(x, 1) * x,
        lambda m, x: F.conv2d(
            x, F.batch_norm(m.layer.weight.view(1, 8, 8), None, None, training=True).view(8, 8, 1, 1)
        ),
    ],
)
def test_what_does_not_normalise_the_signal(function):
    assert list(norms_of(Fn(function, layer=nn.Conv2d(8, 8, 1)))) == []


def test_a_norm_holds_the_path_of_its_statistics():
    (norm,) = norms_of(nn.Sequential(nn.Conv2d(8, 8, 1), NormAct(8)))
    assert (norm.path, norm.batch_statistics, norm.running) == ("1", True, True)
    model = nn.Sequential(nn.BatchNorm2d(8, track_running_stats=False), nn.InstanceNorm2d(8))
    assert [(n.batch_statistics, n.running) for n in norms_of(model)] == [(True, False), (True, False)]


@pytest.mark.parametrize(
    ("layer", "normalised"),
    [
        (weight_norm(nn.Conv2d(8, 8, 1)), True),
        (spectral_norm(nn.Conv2d(8, 8, 1)), True),
        (torch.nn.utils.parametrizations.spectral_norm(nn.Conv2d(8, 8, 1)), True),
        (nn.Conv2d(8, 8, 1), False),
    ],
)
def test_normalised_weights(layer, normalised):
    graph = norms_of(nn.Sequential(layer)).graph
    (conv,) = graph.of_kind(Kind.CONV)
    assert has_normalised_weight(graph, conv) is normalised
