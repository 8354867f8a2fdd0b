"""BN101, BN201 and BN202: real bugs retold, and the look-alikes that must stay silent."""

import pytest
import torch
from torch import nn

from bnlint import Severity

from .conftest import Fn
from .nets import line_of

F = nn.functional

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


@pytest.mark.parametrize(("channels", "wanted"), [(16, {"BN201", "BN207"}), (32, {"BN207"})])
def test_the_channels_behind_a_concatenation_that_fails(found, channels, wanted):
    def forward(m, x):
        edge = torch.relu(m.down(x))
        inside = torch.relu(m.deep(F.max_pool2d(edge, 2)))
        return m.head(torch.cat([m.up(inside), edge], dim=1))

    model = Fn(
        forward,
        down=nn.Conv2d(1, 16, 3),
        deep=nn.Conv2d(16, 16, 3),
        up=nn.ConvTranspose2d(16, 16, 2, 2),
        head=nn.Conv2d(channels, 4, 3),
    )
    assert {code for code, _ in found(model, "2x1x32x32") if code.startswith("BN2")} == wanted
