"""BN407: in-place ops that break a skip silently, or the backward pass loudly."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bnlint import Severity


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)


class ChangesASigmoid(Two):
    def forward(self, x):
        h = torch.sigmoid(self.a(x))
        h.mul_(2)
        return self.b(h)


class ChangesASavedInput(Two):
    def forward(self, x):
        h = self.a(x)
        y = h * h
        h.relu_()
        return self.b(y) + h


class ChangesAView(Two):
    def forward(self, x):
        h = torch.exp(self.a(x))
        h[:, :4].zero_()
        return self.b(h)


class AddsInPlaceAfterRelu(Two):
    def forward(self, x):
        h = torch.relu(self.a(x))
        h += x
        return self.b(h)


class InPlaceAfterALinear(Two):
    def forward(self, x):
        h = F.relu(self.a(x), inplace=True)
        return self.b(h)


class AddsInPlaceToTheSum(Two):
    def forward(self, x):
        h = self.a(x) + x
        h += 1
        h.relu_()
        return self.b(h)


class FillsABuffer(Two):
    def forward(self, x):
        out = torch.zeros(len(x), 8)
        out[:, :4] = self.a(x)[:, :4]
        out[:, 4:] = self.b(x)[:, 4:]
        return out


class SharedNorm(nn.Module):
    """The statistics of a batch norm are written twice; its backward pass does not need them."""

    def __init__(self):
        super().__init__()
        self.norm, self.fc = nn.BatchNorm1d(8), nn.Linear(8, 8)

    def forward(self, x):
        return self.norm(self.fc(self.norm(x)))


MODELS = [
    SharedNorm,
    ChangesASigmoid,
    ChangesASavedInput,
    ChangesAView,
    AddsInPlaceAfterRelu,
    InPlaceAfterALinear,
    AddsInPlaceToTheSum,
    FillsABuffer,
]


@pytest.mark.parametrize("cls", MODELS)
def test_errors_are_exactly_where_autograd_raises(found, cls):
    model = cls()
    try:
        model(torch.randn(4, 8)).sum().backward()
        raises = False
    except RuntimeError:
        raises = True
    rows = found(model, "4x8", select=["BN407"]).values()
    assert [f.severity for f in rows] == [Severity.ERROR] * raises


def test_the_op_in_place_is_named(found):
    (finding,) = found(ChangesASigmoid(), "4x8", select=["BN407"]).values()
    line = ChangesASigmoid.forward.__code__.co_firstlineno + 2
    assert finding.location.line == line and finding.evidence == {"saved_by": "Sigmoid"}


class Block(nn.Module):
    """inpl-01: the branch begins with an in-place ReLU of the block's input."""

    def __init__(self, inplace):
        super().__init__()
        self.conv = nn.Sequential(
            nn.ReLU(inplace=inplace), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(8, 8, 1)
        )

    def forward(self, x):
        out = self.conv(x)
        out += x
        return out


class Residual(nn.Module):
    def __init__(self, block):
        super().__init__()
        self.stem, self.block = nn.Conv2d(3, 8, 3), block

    def forward(self, x):
        return self.block(self.stem(x))


class Aliased(nn.Module):
    """inpl-03: the kept name and the changed value are one tensor."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)

    def forward(self, x):
        skip = x
        x = F.relu(x, inplace=True)
        x = self.conv2(F.relu(self.conv1(x)))
        return x + skip


class OtherName(Aliased):
    def forward(self, x):
        out = F.relu_(x)
        out = self.conv2(F.relu(self.conv1(out)))
        return out + x


class Nested(Aliased):
    """The result in place has no name of its own."""

    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.conv2(F.relu(self.conv1(self.relu(x))))
        return y + x


class OneLine(Nested):
    def forward(self, x):
        return x + self.conv1(self.relu(x))


class NestedRebound(Nested):
    """`x` is the branch's end by then."""

    def forward(self, x):
        skip = 2 * x
        x = self.conv1(self.relu(x))
        return x + skip


class ShapeOnly(Nested):
    """The row reads nothing but the size of the changed value."""

    def forward(self, x):
        y = 2 * x
        return self.relu(x) + y.view(x.shape)


class PreActivation(Aliased):
    """The changed value is what both the branch and the skip are meant to read."""

    def forward(self, x):
        x = F.relu_(x)
        out = self.conv2(F.relu(self.conv1(x)))
        return out + x


class Rebound(Aliased):
    def forward(self, x):
        out = F.relu_(x)
        x = self.conv1(out)
        return self.conv2(x) + out


class UNetLevel(nn.Module):
    """The branch changes what the concatenation then reads."""

    def __init__(self, inplace):
        super().__init__()
        self.down = nn.Sequential(nn.LeakyReLU(0.2, inplace), nn.Conv2d(8, 8, 3, padding=1))

    def forward(self, x):
        return torch.cat([x, self.down(x)], 1)


class AfterRelu(nn.Module):
    """The value is not negative: the in-place ReLU changes nothing."""

    def __init__(self):
        super().__init__()
        self.block = Block(True)

    def forward(self, x):
        return self.block(F.max_pool2d(F.relu(x), 2))


@pytest.mark.parametrize("block", [Block(True), Aliased(), OtherName(), Nested(), OneLine(), UNetLevel(True)])
def test_skip_reads_the_changed_value(found, block):
    rows = found(Residual(block), "2x3x9x9", select=["BN407"]).values()
    assert [f.severity for f in rows] == [Severity.WARNING]


def test_finding_is_at_the_layer_in_place(found):
    assert list(found(Residual(Block(True)), "2x3x9x9", select=["BN407"])) == [("BN407", "block.conv.0")]


@pytest.mark.parametrize(
    "block", [Block(False), PreActivation(), Rebound(), NestedRebound(), ShapeOnly(), UNetLevel(False), AfterRelu()]
)
def test_skips_that_read_what_was_meant(found, block):
    assert found(Residual(block), "2x3x9x9", select=["BN407"]) == {}


def test_warned_model_really_adds_the_changed_value():
    x = torch.randn(2, 8, 5, 5)
    kept = x.clone()
    Block(True)(x)
    assert not torch.equal(x, kept) and torch.equal(x, kept.relu())
