"""BN102, BN103, BN104: statistics that are few, short-lived or shared."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bnlint import Severity

from .conftest import Fn

INFO, WARNING, ERROR = Severity.INFO, Severity.WARNING, Severity.ERROR


# -- BN102 ---------------------------------------------------------------------------------------------------------


class ImagePooling(nn.Module):
    """bn-n1-01, bn-n1-03, bn-n1-05: global pooling, then a conv, then a batch norm."""

    def __init__(self, norm=nn.BatchNorm2d):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(8)
        self.project = nn.Conv2d(8, 16, 1, bias=False)
        self.norm2 = norm(16)

    def forward(self, x):
        x = F.adaptive_avg_pool2d(self.norm1(self.stem(x)).relu(), 1)
        return self.norm2(self.project(x)).relu()


@pytest.mark.parametrize(("batch", "severity"), [(1, ERROR), (2, WARNING), (7, WARNING), (8, INFO)])
def test_values_per_channel(severities, batch, severity):
    assert severities("BN102", ImagePooling(), f"{batch}x3x16x16").get("norm2") is severity


def test_a_batch_that_was_guessed_gives_no_warning(severities):
    model = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4))
    assert severities("BN102", model, None, batch_size=None) == {"1": INFO}


class WithExample(nn.Sequential):
    """A model that keeps one sample as an example of its input."""

    def __init__(self):
        super().__init__(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4))
        self.example_input_array = torch.randn(1, 8)


@pytest.mark.parametrize(("batch", "severity"), [(None, INFO), (4, WARNING), (1, ERROR)])
def test_an_example_of_one_sample_is_no_batch_size(found, batch, severity):
    rows = found(WithExample(), None, batch_size=batch, info=True, static=False, select=["BN102", "BN6"])
    assert {code: f.severity for (code, _), f in rows.items() if code != "BN904"} == {"BN102": severity}


def test_few_values_says_which_batch_is_enough(found):
    (finding,) = found(ImagePooling(), "2x3x16x16", select=["BN102"]).values()
    assert (finding.evidence["batch"], finding.evidence["enough"]) == (2, 8)


def test_few_values_is_about_batch_norm_in_training_only(severities):
    assert severities("BN102", ImagePooling(lambda c: nn.GroupNorm(4, c)), "2x3x16x16") == {}
    assert severities("BN102", ImagePooling(), "2x3x16x16", mode="eval") == {}


def test_the_failing_batch_norm_explains_the_failing_forward(found):
    assert set(found(ImagePooling(), "1x3x16x16")) == {("BN102", "norm2")}


# -- BN103 ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("momentum", "severity"),
    [(0.99, WARNING), (0.9, WARNING), (0.5, WARNING), (0.4, None), (0.1, None), (0.01, None), (0.001, INFO), (0.0, INFO), (None, None)],
)  # fmt: skip
def test_momentum(severities, momentum, severity):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=momentum))
    assert severities("BN103", model, "4x3x8x8").get("1") is severity


@pytest.mark.parametrize("cls", [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm])
def test_momentum_of_every_batch_norm(severities, cls):
    model = nn.Sequential(nn.Linear(8, 8), nn.Identity())
    model.norm = cls(8, momentum=0.99)
    assert severities("BN103", model.eval(), "4x8", mode="eval") == {"norm": WARNING}


def test_momentum_without_running_statistics_is_nothing(severities):
    model = nn.Sequential(
        nn.BatchNorm2d(3, momentum=0.9, track_running_stats=False), nn.InstanceNorm2d(3, momentum=0.9)
    )
    assert severities("BN103", model, "4x3x8x8") == {}


def test_equal_momentum_is_one_finding_that_names_the_convention(found):
    """bn-mom-01: a TensorFlow port."""
    model = nn.Sequential(nn.BatchNorm2d(3, momentum=0.99), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, momentum=0.99))
    rows = found(model, "4x3x8x8", select=["BN103"])
    assert rows["BN103", "0"].modules == ("0", "2") and "momentum=0.01" in rows["BN103", "0"].help


# -- BN104 ---------------------------------------------------------------------------------------------------------


def siamese(m, a, b):
    return m.net(a) - m.net(b)


def levels(m, x):
    """shared-bn-01: one head with one norm over all feature levels."""
    return [m.net(F.avg_pool2d(x, size)).relu() for size in (1, 2, 4)]


def contrast(m, x):
    """shared-bn-03: one norm behind different convs."""
    return m.norm(m.a(x)).relu() + m.norm(m.b(x)).relu()


def unrolled(m, x):
    for _ in range(3):
        x = m.norm(m.a(x)).relu()
    return x


def recurrent(m, x):
    """R2U-Net: the first step stands on a line of its own."""
    y = m.norm(m.a(x)).relu()
    for _ in range(2):
        y = m.norm(m.a(x + y)).relu()
    return y


def in_turn(m, x):
    for conv in (m.a, m.b):
        x = m.norm(conv(x)).relu()
    return x


def over_time(m, x):
    return torch.stack([m.net(x[:, t]) for t in range(x.shape[1])], 1)


def head(norm=nn.BatchNorm2d):
    return nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), norm(3))


def test_shared_by_levels_and_by_layers(severities):
    assert severities("BN104", Fn(levels, net=head()), "4x3x16x16") == {"net.1": WARNING}
    for function in (contrast, in_turn):
        model = Fn(function, a=nn.Conv2d(3, 3, 1), b=nn.Conv2d(3, 3, 1), norm=nn.BatchNorm2d(3))
        assert severities("BN104", model, "4x3x8x8") == {"norm": WARNING}


def test_a_shared_part_called_piece_by_piece_is_one_finding(found):
    def pieces(m, x):
        return [m.net["last"](m.net["first"](F.avg_pool2d(x, size)).relu()) for size in (1, 2)]

    model = Fn(pieces, net=nn.ModuleDict({"first": head(), "last": head()}))
    rows = found(model, "4x3x16x16", select=["BN104"])
    assert [f.modules for f in rows.values()] == [("net.first.1", "net.last.1")]


def test_siamese_is_info_once_for_the_shared_network(found):
    model = Fn(siamese, net=nn.Sequential(head(), nn.ReLU(), head()))
    rows = found(model, ["4x3x8x8", "4x3x8x8"], info=True, select=["BN104"])
    assert {path: (f.severity, f.modules) for (_, path), f in rows.items()} == {
        "net.0.1": (INFO, ("net.0.1", "net.2.1"))
    }


@pytest.mark.parametrize(
    ("model", "shapes"),
    [
        (Fn(levels, net=head(lambda c: nn.GroupNorm(1, c))), "4x3x16x16"),
        (Fn(levels, net=head(lambda c: nn.BatchNorm2d(c, track_running_stats=False))), "4x3x16x16"),
        (Fn(unrolled, a=nn.Conv2d(3, 3, 1), norm=nn.BatchNorm2d(3)), "4x3x8x8"),
        (Fn(recurrent, a=nn.Conv2d(3, 3, 1), norm=nn.BatchNorm2d(3)), "4x3x8x8"),
        (Fn(over_time, net=head()), "4x5x3x8x8"),
        (Fn(siamese, net=nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8))), ["4x8", "4x8"]),
    ],
)
def test_sharing_that_is_fine(severities, model, shapes):
    assert severities("BN104", model, shapes) == {}
