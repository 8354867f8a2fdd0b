"""BN207, BN208 and BN210: sizes that cannot be."""

import pytest
import torch
from torch import nn

from bnlint import Severity

from .conftest import Fn
from .nets import conv, only

F = nn.functional

# -- BN207 ---------------------------------------------------------------------------------------------------------

IMAGE = "2x3x16x12"


@pytest.mark.parametrize(
    ("model", "shape", "words", "cure"),
    [
        (
            Fn(lambda m, x: (lambda y: m.b(y) + y)(m.a(x)), a=conv(), b=conv(16, 32)),
            IMAGE, ["`b`", "`a`", "32 against 16"], "nn.Conv2d(16, 32, 1)",
        ),
        (
            Fn(lambda m, x: (lambda y: m.b(y) + y)(m.a(x)), a=conv(), b=conv(16, 32, stride=2)),
            IMAGE, ["`b`", "`a`"], "nn.Conv2d(16, 32, 1, stride=2)",
        ),
        (
            Fn(lambda m, x: torch.cat([m.u(m.b(m.a(x))), m.a(x)], 1), a=conv(), b=conv(16, 16, stride=2), u=nn.ConvTranspose2d(16, 16, 2, 2)),
            "2x3x15x12", ["`u`", "`a`", "16 against 15"], "F.interpolate",
        ),
        (Fn(lambda m, x: m.a(x) + m.b(x), a=nn.Linear(5, 8), b=nn.Linear(5, 6)), "2x5", ["`a`", "`b`"], "nn.Linear(6, 8)"),
        (Fn(lambda m, x: m.a(x) * m.b(x).transpose(1, 2), a=nn.Linear(5, 8), b=nn.Linear(5, 8)), "2x3x5", ["`a`", "`b`"], "b.permute(0, 2, 1)"),
        (Fn(lambda m, x: m.a(x) @ m.b(x), a=nn.Linear(5, 8), b=nn.Linear(5, 8)), "2x3x5", ["`a`", "`b`"], "b.transpose(-1, -2)"),
    ],
)  # fmt: skip
def test_operands_and_their_makers(found, model, shape, words, cure):
    finding = only(found(model, shape), "BN207")
    assert all(word in finding.message for word in words) and cure in finding.help
    assert finding.severity is Severity.ERROR and finding.location.file.endswith("test_shape_sizes.py")


@pytest.mark.parametrize(
    "model",
    [
        Fn(lambda m, x: m.a(x) + m.g, a=conv(), g=nn.Parameter(torch.zeros(1, 16, 1, 1))),
        Fn(lambda m, x: m.a(x) * m.a(x).mean((2, 3), keepdim=True).sigmoid(), a=conv()),
        Fn(lambda m, x: torch.cat([m.a(x), x], 1), a=conv()),
    ],
)
def test_operands_that_fit_are_silent(found, model):
    assert not [key for key in found(model, IMAGE) if key[0].startswith("BN2")]


# -- BN208 ---------------------------------------------------------------------------------------------------------


class Deep(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 7, stride=2, padding=3)
        self.pool = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.body = nn.Conv2d(8, 8, 3, stride=2)
        self.skip = nn.Conv2d(8, 8, 1, stride=2)
        self.last = nn.Conv2d(8, 8, (5, 3))

    def forward(self, x):
        x = F.avg_pool2d(torch.relu(self.pool(self.stem(x))), 2)
        return self.last(torch.relu(self.body(x))).mean((2, 3))


def runs(model, shape):
    try:
        model(torch.randn(shape))
    except RuntimeError:
        return False
    return True


def test_smallest_input_is_the_smallest(found):
    finding = only(found(Deep(), "2x3x64x64"), "BN208")
    height, width = finding.evidence["smallest_input"]
    assert runs(Deep(), (2, 3, height, width)) and f"{height}x{width}" in finding.help
    assert not runs(Deep(), (2, 3, height - 1, width)) and not runs(Deep(), (2, 3, height, width - 1))


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Conv2d(3, 8, 3)), "2x3x32x32"),
        (Fn(lambda m, x: F.max_pool2d(m.a(x), 9), a=nn.Conv2d(3, 8, 1)), "2x3x8x32"),
        (nn.Sequential(nn.Conv1d(3, 8, 9), nn.ReLU()), "2x3x7"),
    ],
)
def test_kernel_larger_than_its_map(found, model, shape):
    assert only(found(model, shape), "BN208").severity is Severity.ERROR


def down(*layers, rank=2):
    first = (nn.Conv1d, nn.Conv2d)[rank - 1](3, 8, 3, stride=4, padding=1)
    return nn.Sequential(first, nn.Tanh(), *layers)


@pytest.mark.parametrize(
    ("model", "shape", "smallest"),
    [
        (down(nn.ReflectionPad2d(3), nn.Conv2d(8, 8, 7)), "2x3x8x16", [13, 13]),
        (down(nn.ReflectionPad2d((0, 1, 3, 0)), nn.Conv2d(8, 8, 1)), "2x3x8x16", [13, 5]),
        (down(nn.Conv2d(8, 8, 7, padding=3, padding_mode="reflect")), "2x3x8x16", [13, 13]),
        (down(nn.Conv2d(8, 8, 7, padding=3, padding_mode="circular")), "2x3x8x16", [9, 9]),
        (down(nn.ReflectionPad1d(3), nn.Conv1d(8, 8, 7), rank=1), "2x3x8", [13]),
        (down(Fn(lambda m, x: F.pad(x, (3, 3, 3, 3), mode="reflect"))), "2x3x8x16", [13, 13]),
        (down(nn.ZeroPad2d(1), nn.Conv2d(8, 8, 7)), "2x3x8x16", [17, 17]),
    ],
)
def test_padding_and_the_smallest_input(found, model, shape, smallest):
    finding = only(found(model, shape), "BN208")
    assert finding.evidence["smallest_input"] == smallest
    assert runs(model, (2, 3, *smallest))
    assert not any(runs(model, (2, 3, *(n - (i == at) for i, n in enumerate(smallest)))) for at in range(len(smallest)))


@pytest.mark.parametrize(
    "model",
    [down(nn.ReflectionPad2d(3)), down(nn.ZeroPad2d(9)), down(nn.ReplicationPad2d(9)), down(nn.CircularPad2d(4))],
)
def test_padding_that_fits_is_silent(found, model):
    assert found(model, "2x3x16x16") == {}


def test_kernel_as_large_as_its_map_is_silent(found):
    assert found(nn.Sequential(nn.Conv2d(3, 8, 7), nn.Tanh(), nn.Flatten()), "2x3x7x7") == {}


# -- BN210 ---------------------------------------------------------------------------------------------------------


def two_heads(first, second, between=None):
    between = between or nn.Identity()

    def forward(m, x):
        y = torch.relu(m.a(x))
        return m.f(y.flatten(1)), m.g(m.p(y).flatten(1))

    return Fn(forward, a=conv(3, 4), p=between, f=nn.Linear(first, 5), g=nn.Linear(second, 5))


@pytest.mark.parametrize("model", [two_heads(4 * 64, 4 * 81), two_heads(4 * 64, 4 * 64, nn.MaxPool2d(2))])
def test_two_flattens_that_contradict(found, model):
    rows = found(model, "2x3x8x8")
    finding = rows["BN210", "g"]
    assert finding.severity is Severity.ERROR and {"f", "g"} == set(finding.evidence["needs"])
    assert ("BN204", "g") in rows and ("BN204", "f") not in rows


@pytest.mark.parametrize(
    "model", [two_heads(4 * 64, 4 * 16, nn.MaxPool2d(2)), two_heads(4 * 81, 4 * 16, nn.MaxPool2d(2))]
)
def test_a_size_for_both_exists(found, model):
    assert "BN210" not in {code for code, _ in found(model, "2x3x32x32")}


def test_width_against_flatten(found):
    def forward(m, x):
        y = torch.relu(m.a(x))
        return m.f(y).mean((2, 3)), m.g(y.flatten(1))

    broken = Fn(forward, a=conv(3, 4), f=nn.Linear(16, 4), g=nn.Linear(4 * 18, 5))  # 18 = 16 * h has no h
    assert ("BN210", "g") in found(broken, "2x3x16x16")
    fits = Fn(forward, a=conv(3, 4), f=nn.Linear(16, 4), g=nn.Linear(4 * 48, 5))  # 3 x 16
    assert "BN210" not in {code for code, _ in found(fits, "2x3x16x16")}
