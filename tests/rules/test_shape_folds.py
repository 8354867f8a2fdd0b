"""BN203 and BN204: what becomes of the batch and the features in a reshape, and the seed network."""

import pytest
import torch
from torch import nn

from bnlint import Severity

from .conftest import Fn
from .nets import conv, line_of, only

F = nn.functional

# -- BN203 ---------------------------------------------------------------------------------------------------------

CONV = {"conv": lambda: nn.Conv2d(3, 16, 3, padding=1)}


@pytest.mark.parametrize(
    ("forward", "fc"),
    [
        (lambda m, x: m.fc(m.conv(x).view(-1, 512)), nn.Linear(512, 5)),
        (lambda m, x: m.fc(m.conv(x).mean((2, 3)).view(-1, 8)), nn.Linear(8, 5)),  # view-09: hard-coded channel count
        (lambda m, x: m.fc(torch.relu(m.conv(x).reshape(-1, 96))), nn.Linear(96, 5)),
    ],
)
def test_features_in_the_rows(found, forward, fc):
    rows = found(Fn(forward, conv=nn.Conv2d(3, 16, 3, padding=1), fc=fc), "4x3x16x12")
    assert [code for code, _ in rows] == ["BN203"]
    (finding,) = rows.values()
    assert finding.severity is Severity.ERROR and "x.flatten(1)" in finding.help
    assert finding.location.file.endswith("test_shape_folds.py")


class PseudoVideo(nn.Module):
    """view-06: a remaining time axis is folded into the batch."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(3, 8, 3, padding=1)
        self.pool = nn.AdaptiveAvgPool3d((2, 4, 4))
        self.fc = nn.Linear(8 * 4 * 4, 5)

    def forward(self, x):
        x = self.pool(torch.relu(self.conv(x)))
        return self.fc(x.view(-1, 8 * 4 * 4))


def test_remaining_time_axis(found):
    rows = found(PseudoVideo(), "2x3x8x16x16")
    assert [code for code, _ in rows] == ["BN203"]
    (finding,) = rows.values()
    assert finding.location.line == line_of(PseudoVideo, "x.view(-1")
    assert "nn.Linear(256, 5)" in finding.help


class PerStep(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        self.fc = nn.Linear(16, 50)

    def forward(self, ids):
        return self.fc(torch.relu(self.embed(ids)).view(-1, 16))


class Frames(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        n, t = x.shape[:2]
        x = torch.relu(self.conv(x.flatten(0, 1))).mean((2, 3))
        return self.fc(x.view(n, t, -1).mean(1))


class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(16, 48)
        self.out = nn.Linear(16, 16)

    def forward(self, x):
        n, t, c = x.shape
        q, k, v = self.qkv(x).view(n, t, 3, 4, 4).permute(2, 0, 3, 1, 4).reshape(3, n * 4, t, 4).unbind(0)
        y = (q @ k.transpose(1, 2) / 2).softmax(-1) @ v
        return self.out(y.view(n, 4, t, 4).transpose(1, 2).reshape(n, t, c))


class Anchors(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.boxes = nn.Conv2d(8, 12, 1)

    def forward(self, x):
        return self.boxes(torch.relu(self.conv(x))).permute(0, 2, 3, 1).reshape(-1, 4)


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (PerStep(), "int64[4,6]<50"),
        (Frames(), "2x3x3x8x8"),
        (Heads(), "2x6x16"),
        (Anchors(), "2x3x8x8"),
        (
            Fn(lambda m, x: m.fc(m.conv(x).view(x.size(0), -1)), conv=nn.Conv2d(3, 16, 3), fc=nn.Linear(576, 5)),
            "2x3x8x8",
        ),
        (Fn(lambda m, x: m.conv(x).mean((1, 2, 3)).view(-1), conv=nn.Conv2d(3, 16, 3)), "2x3x8x8"),
    ],
)
def test_legal_folds_are_silent(found, model, shape):
    assert found(model, shape) == {}


# -- BN203 and BN204: reshapes that cannot be -----------------------------------------------------------------------


def test_rows_that_do_not_divide(found):
    model = Fn(lambda m, x: m.f(m.a(x).view(-1, 500)), a=conv(), f=nn.Linear(500, 5))
    assert "nn.Linear(1536, 5)" in only(found(model, "4x3x8x12"), "BN203").help


def test_all_samples_in_one_row(found):
    """view-07: the batch is flattened too."""
    model = Fn(lambda m, x: m.f(m.a(x).view(1, -1)), a=conv(), f=nn.Linear(1536, 5))
    assert "x.flatten(1)" in only(found(model, "4x3x8x12"), "BN203").help


def test_missing_flatten(found):
    """view-10: images reach a Linear for flat vectors."""
    model = nn.Sequential(nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, 10))
    assert "x.flatten(1)" in only(found(model, "8x1x28x28"), "BN201").help


def test_view_asks_for_another_feature_count(found):
    model = Fn(lambda m, x: m.f(m.a(x).view(x.shape[0], 512)), a=conv(), f=nn.Linear(512, 5))
    finding = only(found(model, "4x3x8x12"), "BN204")
    assert (finding.evidence["declared"], finding.evidence["got"]) == (512, 1536)


def test_impossible_feature_count_is_noted(found):
    model = nn.Sequential(conv(), nn.ReLU(), nn.Flatten(), nn.Linear(1000, 10))
    assert "not a multiple of the 16 channels" in only(found(model, "2x3x8x8"), "BN204").note


# -- BN203: results joined along the batch --------------------------------------------------------------------------


def branches(count, features, then=lambda y: y, dim=0):
    """view-12: several branches, joined, and read by one layer."""

    def forward(m, x):
        return then(m.head(torch.cat([torch.relu(m.get_submodule(f"b{i}")(x)) for i in range(count)], dim)))

    return Fn(forward, **{f"b{i}": nn.Linear(8, 16) for i in range(count)}, head=nn.Linear(features, 5))


@pytest.mark.parametrize(
    ("features", "loss", "severity"),
    [(16, None, Severity.WARNING), (16, "cross_entropy", Severity.ERROR), (96, None, Severity.ERROR)],
)
def test_results_below_each_other(found, features, loss, severity):
    rows = found(branches(6, features), "10x8", loss=loss)
    assert [code for code, _ in rows] == ["BN203"]
    (finding,) = rows.values()
    assert finding.severity is severity and "dim=1" in finding.help
    assert finding.evidence == {"parts": 6, "batch": 10}


PAIR = {"a": nn.Linear(8, 16), "b": nn.Linear(8, 16), "head": nn.Linear(16, 5)}


@pytest.mark.parametrize(
    "model",
    [
        branches(6, 96, dim=1),
        branches(2, 16, lambda y: y.chunk(2)),
        branches(2, 16, lambda y: y[:4] - y[4:]),
        branches(2, 16, lambda y: y.view(2, 4, 5).mean(0)),
        branches(2, 16, lambda y: y.split(4)[1]),
        Fn(lambda m, x: torch.cat([m.a(x), m.b(x)]), **PAIR),  # two encoders, contrasted by the loss
        Fn(lambda m, x: m.head(torch.cat([m.a(x), m.a(x.flip(1))])), **PAIR),  # two views, one encoder
        Fn(lambda m, x: m.head(torch.cat([x, x + 1])), head=nn.Linear(8, 5)),
        Fn(lambda m, x: m.head(torch.cat([m.a(x), m.b(x[:2])])), **PAIR),
    ],
)
def test_joined_on_purpose_is_silent(found, model):
    assert "BN203" not in {code for code, _ in found(model, "4x8")}


# -- BN204 ---------------------------------------------------------------------------------------------------------


def flat(features):
    return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(features, 10))


def test_flatten_size_and_its_two_cures(found):
    rows = found(flat(16 * 5 * 5), "2x3x8x8")
    assert list(rows) == [("BN204", "3")]
    finding = rows["BN204", "3"]
    assert "nn.Linear(1024, 10)" in finding.help and "nn.AdaptiveAvgPool2d(5)" in finding.help


def test_right_flatten_size_is_silent(found):
    assert found(flat(1024), "2x3x8x8") == {}


def test_seed_net(found):
    import sys

    sys.path.insert(0, "examples")
    try:
        from seed_net import Net
    finally:
        sys.path.remove("examples")
    rows = found(Net(), "8x3x32x32")
    assert {code: f.modules for (code, _), f in rows.items()} == {
        "BN101": ("bn1.bn", "bn2.bn"),
        "BN202": ("bn1.linear", "bn2.linear"),
        "BN203": ("",),
        "BN210": ("bn2.linear",),
        "BN401": ("fc2",),
    }
    lines = {code: f.location.line for (code, _), f in rows.items()}
    assert lines == {"BN101": 9, "BN202": 10, "BN203": 32, "BN210": 10, "BN401": 25}
    fits = found(Net(), "8x3x16x16")
    severities = {path: f.severity for (code, path), f in fits.items() if code == "BN202"}
    assert severities == {"bn1.linear": Severity.WARNING, "bn2.linear": Severity.ERROR}
