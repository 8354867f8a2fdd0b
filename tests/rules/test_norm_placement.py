"""BN106 to BN108: layers and branches without a norm among normalised ones."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from bnlint import Severity

from .blocks import block, conv
from .conftest import Fn
from .nets import line_at

INFO, WARNING, ERROR = Severity.INFO, Severity.WARNING, Severity.ERROR


# -- BN106 ---------------------------------------------------------------------------------------------------------


def discriminator(*, bias=False):
    """bias-bn-09: a helper that always says bias=False, and adds a norm only on request."""
    first = [nn.Conv2d(3, 8, 4, 2, 1, bias=bias), nn.LeakyReLU(0.2)]
    return nn.Sequential(*first, *block(8, 16), *block(16, 32), nn.Conv2d(32, 1, 4, bias=False))


class SqueezeExcite(nn.Module):
    """Bias-free convs that make a gate."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(*block(3, 8), *block(8, 8), *block(8, 8))
        self.squeeze, self.excite = conv(8, 2, 1), conv(2, 8, 1)

    def forward(self, x):
        x = self.body(x)
        return x * torch.sigmoid(self.excite(torch.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))


class Standardised(nn.Conv2d):
    def forward(self, x):
        w = self.weight
        w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-5)
        return F.conv2d(x, w, self.bias, self.stride, self.padding)


def test_neither_bias_nor_norm(severities):
    assert severities("BN106", discriminator(), "4x3x32x32") == {"0": INFO}
    inside = nn.Sequential(*block(3, 8), *block(8, 8, None), *block(8, 8), conv(8, 2))
    assert severities("BN106", inside, "4x3x32x32") == {"3": WARNING}


@pytest.mark.parametrize(
    "model",
    [
        discriminator(bias=True),
        nn.TransformerEncoderLayer(8, 2, 16, bias=False, batch_first=True),  # projections of a transformer
        SqueezeExcite(),
        nn.Sequential(*block(3, 8), *block(8, 8), conv(8, 8, groups=8), *block(8, 8)),  # depthwise separable
        nn.Sequential(*block(3, 8), *block(8, 8), conv(8, 8, groups=8), nn.GELU(), *block(8, 8, kernel=1)),
        nn.Sequential(*block(3, 8), *block(8, 8), conv(8, 2, 1), conv(2, 8, 1), nn.BatchNorm2d(8)),  # low rank
        nn.Sequential(*block(3, 8), *block(8, 8), conv(8, 4), nn.ReLU()),  # the last layer
        nn.Sequential(*block(3, 8), *block(8, 8), nn.AdaptiveAvgPool2d(1), conv(8, 16, 1), nn.ReLU(), conv(16, 2, 1)),
        nn.Sequential(*block(3, 8, None), *block(8, 8, None), *block(8, 8), conv(8, 2)),  # bare as a habit
        nn.Sequential(*block(3, 8), *block(8, 8), weight_norm(conv(8, 8)), nn.ReLU(), conv(8, 2)),
        nn.Sequential(*block(3, 8), *block(8, 8), Standardised(8, 8, 3, bias=False), nn.ReLU(), conv(8, 2)),
    ],
)
def test_bias_free_by_design(severities, model):
    inputs = "4x5x8" if isinstance(model, nn.TransformerEncoderLayer) else "4x3x32x32"
    assert severities("BN106", model, inputs) == {}


class Half(nn.Module):
    """A block of two convs that lost the norm of its first one, in every place it is used."""

    def __init__(self, inside):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inside, 8, 3, padding=1, bias=False),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
        )

    def forward(self, x):
        return self.body(x)


def test_half_of_the_convs_without_norm_or_bias(found):
    model = nn.Sequential(Half(3), Half(8), Half(8), nn.Conv2d(8, 2, 1))
    rows = found(model, "4x3x16x16", info=True, select=["BN106"])
    assert {path: (f.severity, f.modules) for (_, path), f in rows.items()} == {
        "0.body.0": (INFO, ("0.body.0",)),
        "1.body.0": (WARNING, ("1.body.0", "2.body.0")),
    }


# -- BN107 ---------------------------------------------------------------------------------------------------------


class Forgotten(nn.Module):
    """Five layers written out by hand, one norm forgotten in forward."""

    def __init__(self, use=True):
        super().__init__()
        self.use = use
        self.conv1 = nn.Conv2d(3, 8, 3)
        self.conv2 = nn.Conv2d(8, 8, 3)
        self.conv3 = nn.Conv2d(8, 8, 3)
        self.conv4 = nn.Conv2d(8, 8, 3)
        self.norm1, self.norm2, self.norm4 = (nn.BatchNorm2d(8) for _ in range(3))
        self.norm3 = nn.BatchNorm2d(8) if use else None
        self.fc = nn.Linear(8, 10)

    def forward(self, x):
        x = F.relu(self.norm1(self.conv1(x)))
        x = F.relu(self.norm2(self.conv2(x)))
        x = self.conv3(x) if self.norm3 is None else self.norm3(self.conv3(x))
        x = F.relu(self.norm4(self.conv4(F.relu(x))))
        return self.fc(x.mean((2, 3)))


class Made(nn.Module):
    """A helper builds every layer; a flag leaves norms out."""

    def __init__(self, flags):
        super().__init__()
        layers = []
        for inside, use in zip([3, *[8] * (len(flags) - 1)], flags, strict=True):
            layers.append(nn.Conv2d(inside, 8, 3, padding=1))
            layers += [nn.BatchNorm2d(8)] if use else []
            layers.append(nn.LeakyReLU(0.2))
        self.body, self.last = nn.Sequential(*layers), nn.Conv2d(8, 1, 3)

    def forward(self, x):
        return self.last(self.body(x))


class HeadBesideBody(nn.Module):
    """The bare layers of a head are none of the normalised body's kind, place or both."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3)
        self.conv2 = nn.Conv2d(8, 8, 3)
        self.conv3 = nn.Conv2d(8, 8, 3)
        self.norm1, self.norm2, self.norm3 = (nn.BatchNorm2d(8) for _ in range(3))
        self.mix = nn.Conv2d(8, 8, 1)
        self.hidden = nn.Linear(8, 8)
        self.fc = nn.Linear(8, 10)

    def forward(self, x):
        x = F.relu(self.norm1(self.conv1(x)))
        x = F.relu(self.norm2(self.conv2(x)))
        x = F.relu(self.norm3(self.conv3(x)))
        return self.fc(F.relu(self.hidden(F.relu(self.mix(x)).mean((2, 3)))))


class DCGAN(nn.Module):
    """The first layer of a discriminator is bare by design."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 4, 2, 1)
        self.conv2 = nn.Conv2d(8, 8, 4, 2, 1)
        self.conv3 = nn.Conv2d(8, 8, 4, 2, 1)
        self.conv4 = nn.Conv2d(8, 8, 4, 2, 1)
        self.last = nn.Conv2d(8, 1, 2)
        self.norm2, self.norm3, self.norm4 = (nn.BatchNorm2d(8) for _ in range(3))

    def forward(self, x):
        x = F.leaky_relu(self.conv1(x))
        x = F.leaky_relu(self.norm2(self.conv2(x)))
        x = F.leaky_relu(self.norm3(self.conv3(x)))
        return self.last(F.leaky_relu(self.norm4(self.conv4(x))))


def test_the_odd_one_out(severities):
    assert severities("BN107", Forgotten(use=False), "4x3x32x32") == {"conv3": WARNING}
    assert severities("BN107", Forgotten(), "4x3x32x32") == {}


@pytest.mark.parametrize(
    "model",
    [Made([True, True, True, True]), Made([False, True, True, True]), HeadBesideBody(), DCGAN()],
)
def test_bare_by_design(severities, model):
    assert severities("BN107", model, "4x3x32x32") == {}


def test_a_flag_that_leaves_one_out_is_a_remark(severities):
    assert severities("BN107", Made([True, True, False, True, True]), "4x3x32x32") == {"body.6": INFO}


class Inception(nn.Module):
    """Branches of one block, each in a container of its own."""

    def __init__(self, norm):
        super().__init__()
        self.one = nn.Sequential(nn.Conv2d(8, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.two = nn.Sequential(
            nn.Conv2d(8, 4, 3, padding=1),
            norm(4),
            nn.ReLU(),
            nn.Conv2d(4, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
        )

    def forward(self, x):
        return torch.cat([self.one(x), self.two(x)], 1)


def test_the_same_norm_is_missing_in_every_block(found):
    """Siblings are looked for in all blocks of a class, as one block alone has too few; one finding lists them."""
    stem, head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 1)
    bare, normed = (
        nn.Sequential(stem, *(Inception(n) for _ in range(3)), head) for n in (lambda _: nn.Identity(), nn.BatchNorm2d)
    )
    ((key, finding),) = found(bare, "4x3x16x16", select=["BN107"]).items()
    assert key == ("BN107", "1.two.0") and finding.modules == ("1.two.0", "2.two.0", "3.two.0")
    assert "nn.Conv2d(8, 4, 3, padding=1)," in line_at(finding.location)
    assert found(normed, "4x3x16x16", select=["BN107"]) == {}


# -- BN108 ---------------------------------------------------------------------------------------------------------


class Residual(nn.Module):
    """miss-bn-03: the projection shortcut of a residual block, with or without a norm."""

    def __init__(self, shortcut, *, last=nn.BatchNorm2d):
        super().__init__()
        self.body = nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 8), last(8))
        self.shortcut = shortcut

    def forward(self, x):
        return F.relu(self.body(x) + self.shortcut(x))


class PreActivation(nn.Module):
    def __init__(self, shortcut=None):
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(3), conv(3, 8)
        self.norm2, self.conv2 = nn.BatchNorm2d(8), conv(8, 8)
        self.own, self.shortcut = shortcut, conv(3, 8, 1)

    def forward(self, x):
        y = F.relu(self.norm1(x))
        return (self.own(x) if self.own else self.shortcut(y)) + self.conv2(F.relu(self.norm2(self.conv1(y))))


def scaled(factor):
    layer = nn.Conv2d(3, 8, 1)
    with torch.no_grad():
        layer.weight *= factor
    return layer


def test_bare_shortcut(severities):
    assert severities("BN108", Residual(nn.Conv2d(3, 8, 1)), "4x3x8x8") == {"shortcut": WARNING}


def test_the_probe_decides_the_severity(found):
    for factor, severity in ((1, WARNING), (20, ERROR)):
        rows = found(Residual(scaled(factor)), "4x3x8x8", static=False, select=["BN108", "BN601"])
        assert rows["BN108", "shortcut"].severity is severity
        assert (rows["BN108", "shortcut"].evidence["variance_ratio"] > 10) is (severity is ERROR)


def test_a_branch_that_starts_small_is_no_error(found):
    model = Residual(scaled(20))
    nn.init.constant_(model.body[4].weight, 0.1)
    rows = found(model, "4x3x8x8", static=False, select=["BN108", "BN601"])
    assert rows["BN108", "shortcut"].severity is WARNING


def test_a_branch_without_its_last_norm(severities):
    """A ResNet block whose second norm was deleted; the projection still has its own."""
    model = Residual(nn.Sequential(conv(3, 8, 1), nn.BatchNorm2d(8)), last=lambda _: nn.Identity())
    assert severities("BN108", model, "4x3x8x8") == {"body.3": WARNING}


@pytest.mark.parametrize(
    "model",
    [
        PreActivation(nn.Sequential(conv(3, 8, 1), nn.BatchNorm2d(8))),
        Residual(nn.Sequential(conv(3, 8, 1), nn.BatchNorm2d(8))),
        Residual(nn.Sequential(conv(3, 8, 1), nn.GroupNorm(2, 8))),
        Residual(weight_norm(nn.Conv2d(3, 8, 1))),
        Residual(nn.Conv2d(3, 8, 1), last=lambda _: nn.Identity()),  # both ends bare
        PreActivation(),
        Fn(lambda m, x: m.n(m.c(F.relu(m.b(m.a(x)))) + m.s(x)), a=conv(3, 8), b=nn.BatchNorm2d(8), c=conv(8, 8),
           s=conv(3, 8, 1), n=nn.BatchNorm2d(8)),  # the sum is normalised
        Fn(lambda m, x: m.c(m.b(m.a(x))) + m.b(m.a(x)), a=conv(3, 8), b=nn.BatchNorm2d(8), c=conv(8, 8)),
    ],
)  # fmt: skip
def test_joins_that_are_fine(severities, model):
    assert severities("BN108", model, "4x3x8x8") == {}
