"""BN308 and BN309: copies of layers and of units, and the copies that are meant."""

import copy

import pytest
import torch
from torch import nn

from bnlint import Severity

from .conftest import Fn

W = Severity.WARNING


def block(width=16):
    return nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width), nn.ReLU(), nn.Linear(width, width))


def clones(n, width=16):
    first = block(width)
    return [copy.deepcopy(first) for _ in range(n)]


def experts(self, x):
    return self.a(x) + self.b(x)


def test_copies_in_a_row(found):
    rows = found(nn.Sequential(*clones(3)), "4x16", select=["BN308"])
    ((key, finding),) = rows.items()
    assert key == ("BN308", "1")
    assert finding.modules == ("1", "2")
    assert (finding.evidence["first"], finding.evidence["tensors"]) == ("0", 2)


def bilinear(channels):
    """FCN's upsampling: the kernel is computed, and the same wherever the size is."""
    layer = nn.ConvTranspose2d(channels, channels, 4, 2, bias=False)
    ramp = torch.tensor([0.25, 0.75, 0.75, 0.25])
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[range(channels), range(channels)] = ramp[:, None] * ramp
    return layer


def test_computed_kernels_are_no_copies(severities):
    model = nn.Sequential(nn.Conv2d(3, 21, 1), bilinear(21), nn.ReLU(), bilinear(21))
    assert severities("BN308", model, "2x3x5x5") == {}


def test_transformer_encoder(severities):
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 3)
    assert severities("BN308", encoder, "2x5x16") == {"layers.1": W}
    for p in encoder.parameters():
        if p.dim() > 1:
            nn.init.xavier_uniform_(p)
    assert severities("BN308", encoder, "2x5x16") == {}


def test_experts_on_one_input(severities):
    a, b = clones(2)
    assert severities("BN308", Fn(experts, a=a, b=b), "4x16") == {"b": W}


def test_one_copied_layer(severities):
    layer = nn.Linear(16, 16)
    model = nn.Sequential(layer, nn.ReLU(), copy.deepcopy(layer), nn.ReLU(), nn.Linear(16, 4))
    assert severities("BN308", model, "4x16") == {"2": W}


def test_one_seed_for_every_layer(severities):
    def seeded():
        torch.manual_seed(0)
        return nn.Linear(16, 16)

    assert severities("BN308", nn.Sequential(seeded(), nn.ReLU(), seeded()), "4x16") == {"2": W}


def tied():
    layer = nn.Linear(16, 16)
    return nn.Sequential(layer, nn.ReLU(), layer)


def constants():
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16))
    for p in model.parameters():
        nn.init.constant_(p, 0.1)
    return model


def target_network():
    a, b = clones(2)
    return Fn(lambda self, x: (self.a(x), self.b(x)), a=a, b=b.requires_grad_(False))


def target_without_gradient():
    def forward(self, x):
        with torch.no_grad():
            target = self.b(x)
        return self.a(x) - target

    a, b = clones(2)
    return Fn(forward, a=a, b=b)


def momentum_copy_unused():
    a, b = clones(2)
    return Fn(lambda self, x: self.a(x), a=a, b=b)


def towers():
    a, b = clones(2)
    return Fn(lambda self, x, y: (self.a(x) * self.b(y)).sum(1), a=a, b=b)


def trained():
    model = nn.Sequential(*clones(2))
    for p in model.parameters():
        if p.ndim < 2:
            p.data.normal_(0, 0.3)
    return model


def identities():
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16))
    for layer in (model[0], model[2]):
        nn.init.eye_(layer.weight)
    return model


@pytest.mark.parametrize(
    "make", [tied, constants, target_network, target_without_gradient, momentum_copy_unused, trained, identities]
)
def test_copies_that_are_meant(severities, make):
    assert severities("BN308", make(), "4x16") == {}


def test_towers_with_an_input_each(severities):
    assert severities("BN308", towers(), ["4x16", "4x16"]) == {}


def twice(layer, share=2):
    """The layer with every unit of its first half in the second half, too."""
    with torch.no_grad():
        for tensor in (layer.weight, layer.bias):
            half = tensor.shape[0] // share
            tensor[half : 2 * half] = tensor[:half]
    return layer


def images(layer, after=None):
    tail = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(4))
    return nn.Sequential(layer, after or nn.ReLU(), tail)


def test_half_of_the_units_are_copies(found):
    rows = found(nn.Sequential(twice(nn.Linear(16, 32)), nn.ReLU(), nn.Linear(32, 4)), "4x16", select=["BN309"])
    finding = rows["BN309", "0"]
    assert (finding.evidence["copies"], finding.evidence["units"]) == (16, 32)


def test_filters_and_transposed_filters(severities):
    assert severities("BN309", images(twice(nn.Conv2d(3, 8, 3))), "2x3x8x8") == {"0": W}
    layer = nn.ConvTranspose2d(3, 8, 3)
    with torch.no_grad():
        layer.weight[:, 4:], layer.bias[4:] = layer.weight[:, :4], layer.bias[:4]
    assert severities("BN309", images(layer), "2x3x8x8") == {"0": W}


def test_a_few_copies(severities):
    model = nn.Sequential(twice(nn.Linear(16, 32), 8), nn.ReLU(), nn.Linear(32, 4))
    assert severities("BN309", model, "4x16") == {"0": W}


def biased_apart():
    layer = twice(nn.Linear(16, 32))
    nn.init.normal_(layer.bias)
    return nn.Sequential(layer, nn.ReLU(), nn.Linear(32, 4)), "4x16"


def depthwise():
    layer = nn.Conv2d(8, 8, 3, groups=8)
    nn.init.zeros_(layer.bias)
    with torch.no_grad():
        layer.weight[:] = layer.weight[:1]
    return images(layer), "2x8x8x8"


def icnr():
    layer = nn.Conv2d(3, 32, 3)
    with torch.no_grad():
        layer.weight[:] = layer.weight[::4].repeat_interleave(4, 0)
        layer.bias.zero_()
    return images(layer, nn.PixelShuffle(2)), "2x3x8x8"


def queries_and_keys():
    return Fn(lambda self, x: self.o(self.a(x).chunk(2, 1)[0]), a=twice(nn.Linear(16, 32)), o=nn.Linear(16, 4)), "4x16"


def output_layer():
    return nn.Sequential(nn.Linear(16, 16), nn.ReLU(), twice(nn.Linear(16, 4))), "4x16"


def frozen():
    return nn.Sequential(twice(nn.Linear(16, 32)).requires_grad_(False), nn.ReLU(), nn.Linear(32, 4)), "4x16"


def zeroed_units():
    layer = nn.Linear(16, 32)
    with torch.no_grad():
        layer.weight[8:], layer.bias[8:] = 0, 0
    return nn.Sequential(layer, nn.ReLU(), nn.Linear(32, 4)), "4x16"


def coarse():
    return nn.Sequential(
        nn.Linear(1, 512, dtype=torch.bfloat16), nn.ReLU(), nn.Linear(512, 4, dtype=torch.bfloat16)
    ), "4x1"


@pytest.mark.parametrize(
    "make", [biased_apart, depthwise, icnr, queries_and_keys, output_layer, frozen, zeroed_units, coarse]
)
def test_equal_units_that_are_meant(severities, make):
    assert severities("BN309", *make()) == {}
