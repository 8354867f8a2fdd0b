"""BN101 and BN2xx: real bugs retold, and the look-alikes that must stay silent."""

import pytest
import torch
from torch import nn

from bnlint import Severity


class Fn(nn.Module):
    def __init__(self, forward, **layers):
        super().__init__()
        self.function = forward
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, *args):
        return self.function(self, *args)


# -- BN101 ---------------------------------------------------------------------------------------------------------


class Overwritten(nn.Module):
    """bn-rank-01: one attribute, two norms; the second replaces the first."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 8)
        self.bn = nn.BatchNorm1d(8)

    def forward(self, x):
        x = torch.relu(self.bn(self.conv(x))).mean((2, 3))
        return torch.relu(self.bn(self.fc(x)))


class VideoDenseBlock(nn.Module):
    """bn-rank-05: one BatchNorm2d left over in a 3-D network."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv3d(3, 8, 3, padding=1)
        self.norm1 = nn.BatchNorm3d(8)
        self.conv2 = nn.Conv3d(8, 8, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(8)

    def forward(self, x):
        x = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(x)))


def line_of(cls, text):
    import inspect

    lines, start = inspect.getsourcelines(cls)
    return start + next(i for i, line in enumerate(lines) if text in line)


def test_overwritten_norm(found):
    finding = found(Overwritten(), "4x1x80x20")["BN101", "bn"]
    assert finding.location.line in (line_of(Overwritten, "BatchNorm1d"), line_of(Overwritten, "BatchNorm2d"))
    assert finding.call.line == line_of(Overwritten, "self.bn(self.conv(x))")
    assert "nn.BatchNorm2d(8)" in finding.help


def test_norm_left_over_from_images(found):
    rows = found(VideoDenseBlock(), "2x3x8x16x16")
    assert list(rows) == [("BN101", "norm2")]
    assert rows["BN101", "norm2"].location.line == line_of(VideoDenseBlock, "self.norm2 =")
    assert "nn.BatchNorm3d(8)" in rows["BN101", "norm2"].help


@pytest.mark.parametrize(
    ("norm", "shape", "cure"),
    [
        (nn.BatchNorm2d(6), "4x6", "nn.BatchNorm1d(6)"),  # bn-rank-03: a 2d norm in the fully connected head
        (nn.BatchNorm2d(6), "4x6x9", "nn.BatchNorm1d(6)"),
        (nn.BatchNorm1d(6), "6", "unsqueeze"),  # bn-rank-07: one sample without a batch axis
        (nn.BatchNorm3d(6), "4x6x5x5", "nn.BatchNorm2d(6)"),
        (nn.InstanceNorm1d(6, affine=True), "4x6x5x5", "nn.InstanceNorm2d(6)"),
    ],
)
def test_rank_and_cure(found, norm, shape, cure):
    finding = found(nn.Sequential(norm), shape)["BN101", "0"]
    assert finding.severity is Severity.ERROR and cure in finding.help


@pytest.mark.parametrize(
    ("norm", "shape"),
    [
        (nn.BatchNorm1d(6), "16x6"),
        (nn.BatchNorm1d(6), "4x6x9"),
        (nn.InstanceNorm2d(6), "6x9x9"),
        (nn.LayerNorm(9), "4x6x9x9"),
        (nn.GroupNorm(2, 6), "4x6x9x9"),
    ],
)
def test_accepted_ranks_are_silent(found, norm, shape):
    assert found(nn.Sequential(norm), shape) == {}


# -- BN201 ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layers", "shape", "path", "declared", "got"),
    [
        ([nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(32, 8, 3)], "2x3x16x16", "2", 32, 16),
        ([nn.Linear(8, 16), nn.ReLU(), nn.Linear(17, 3)], "2x8", "2", 17, 16),
        ([nn.Conv2d(3, 16, 3), nn.BatchNorm2d(8)], "2x3x16x16", "1", 8, 16),
        ([nn.Linear(8, 16), nn.LayerNorm(12)], "2x5x8", "1", 12, 16),
        ([nn.Conv2d(3, 16, 3), nn.GroupNorm(4, 12)], "2x3x16x16", "1", 12, 16),
        ([nn.Conv2d(3, 16, 3), nn.PReLU(8)], "2x3x16x16", "1", 8, 16),
        ([nn.Linear(8, 16), nn.LSTM(12, 7, batch_first=True)], "2x5x8", "1", 12, 16),
        ([nn.Conv2d(3, 16, 3), nn.ConvTranspose2d(8, 4, 2)], "2x3x16x16", "1", 8, 16),
    ],
)
def test_declared_against_traced(found, layers, shape, path, declared, got):
    finding = found(nn.Sequential(*layers), shape)["BN201", path]
    assert (finding.evidence["declared"], finding.evidence["got"]) == (declared, got)
    assert finding.severity is Severity.ERROR


def test_functional_layers_are_compared_too(found):
    model = Fn(lambda m, x: nn.functional.linear(x, m.w), w=nn.Parameter(torch.randn(4, 9)))
    assert [code for code, _ in found(model, "2x8")] == ["BN201"]


def test_all_mismatches_in_one_run(found):
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(9), nn.ReLU(), nn.Conv2d(7, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.PReLU(5)
    )  # fmt: skip
    assert list(found(model, "2x3x16x16")) == [("BN201", "1"), ("BN201", "3"), ("BN201", "6")]


# -- BN202 ---------------------------------------------------------------------------------------------------------


def on_width(width, shape="2x3x8x12", **layers):
    return Fn(lambda m, x: m.fc(m.conv(x)), conv=nn.Conv2d(3, 16, 3, padding=1), fc=nn.Linear(width, 5)), shape


def test_width_clash_is_an_error(found):
    model, shape = on_width(16)
    finding = found(model, shape)["BN202", "fc"]
    assert finding.severity is Severity.ERROR and "nn.Conv2d(16, 5, 1)" in finding.help


def test_width_that_happens_to_fit_is_a_warning(found):
    model, shape = on_width(12)
    rows = found(model, shape)
    assert list(rows) == [("BN202", "fc")] and rows["BN202", "fc"].severity is Severity.WARNING


def test_missing_flatten_is_named(found):
    model, shape = on_width(16 * 8 * 12)
    assert "x.flatten(1)" in found(model, shape)["BN202", "fc"].help


class Mixer(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 4, stride=4)
        self.norm = nn.LayerNorm(16)
        self.tokens = nn.Sequential(nn.Linear(6, 24), nn.GELU(), nn.Linear(24, 6))
        self.channels = nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 16))

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = x + self.tokens(self.norm(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm(x))


@pytest.mark.parametrize(
    "model",
    [
        Mixer(),
        Fn(lambda m, x: m.fc(m.conv(x).permute(0, 2, 3, 1)), conv=nn.Conv2d(3, 16, 3), fc=nn.Linear(16, 5)),
        Fn(lambda m, x: m.fc(m.conv(x).transpose(2, 3)), conv=nn.Conv2d(3, 16, 3, padding=1), fc=nn.Linear(8, 5)),
        Fn(lambda m, x: m.fc(m.conv(x).flatten(2)), conv=nn.Conv2d(3, 16, 3, padding=1), fc=nn.Linear(96, 5)),
        Fn(lambda m, x: m.fc(m.conv(x).mean((2, 3))), conv=nn.Conv2d(3, 16, 3, padding=1), fc=nn.Linear(16, 5)),
    ],
)
def test_deliberate_position_mixing_is_silent(found, model):
    assert found(model, "2x3x8x12") == {}


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
    assert finding.location.file.endswith("test_shape.py")


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
