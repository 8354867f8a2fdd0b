"""BN506, BN508 and BN510: what the text of a class says about its layers."""

import pytest
import torch
from torch import nn

from bnlint import Severity


def places(found, model, code, inputs="4x8"):
    return [path for (_, path) in found(model, inputs, select=[code], info=True)]


def test_repeated_reference(found):
    model = nn.Sequential(*[nn.Linear(8, 8)] * 3, nn.ReLU())
    ((key, finding),) = found(model, "4x8", select=["BN506"], info=True).items()
    assert key == ("BN506", "0") and finding.modules == ("0", "1", "2") and finding.severity is Severity.INFO


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(*[nn.Linear(8, 8) for _ in range(3)]),
        nn.Sequential(nn.Linear(8, 8), *[nn.ReLU()] * 3),
        nn.ModuleDict({"a": nn.Linear(8, 8), "b": nn.Linear(8, 8)}),
    ],
)
def test_repeated_without_shared_weights(found, model):
    assert places(found, model, "BN506") == []


class Slip(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(8, 8)
        self.fc2 = nn.Linear(8, 16)
        self.fc2 = nn.Linear(8, 4)

    def forward(self, x):
        return self.fc2(torch.relu(self.fc1(x)))


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.left = Slip()
        self.right = Slip()

    def forward(self, x):
        return self.left(x) + self.right(x)


def test_overwritten_layer_is_at_the_second_line(found):
    ((key, finding),) = found(Slip(), "4x8", select=["BN508"]).items()
    assert key == ("BN508", "fc2") and finding.severity is Severity.WARNING
    first = Slip.__init__.__code__.co_firstlineno
    assert (finding.evidence["first_line"], finding.location.line) == (first + 3, first + 4)


def test_one_slip_in_two_places_is_one_finding(found):
    ((_, finding),) = found(Nested(), "4x8", select=["BN508"]).items()
    assert finding.modules == ("left.fc2", "right.fc2")


class Branches(nn.Module):
    def __init__(self, deep=True):
        super().__init__()
        if deep:
            self.fc = nn.Linear(8, 4)
        else:
            self.fc = nn.Linear(8, 8)

    def forward(self, x):
        return self.fc(x)


class Override(nn.Module):
    def __init__(self, deep=True):
        super().__init__()
        self.fc = nn.Linear(8, 4)
        if deep:
            self.fc = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))

    def forward(self, x):
        return self.fc(x)


class Wrapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 8)
        self.fc = nn.Sequential(self.fc, nn.ReLU())

    def forward(self, x):
        return self.fc(x)


class Collected(nn.Module):
    def __init__(self):
        super().__init__()
        layers = []
        self.fc = nn.Linear(8, 16)
        layers.append(self.fc)
        self.fc = nn.Linear(16, 4)
        layers.append(self.fc)
        self.body = nn.Sequential(*layers)

    def forward(self, x):
        return self.body(x)


class Placeholder(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = None
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        return self.fc(x)


class Replaces(Branches):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 2)


@pytest.mark.parametrize("model", [Branches(), Override(), Wrapped(), Collected(), Placeholder(), Replaces()])
def test_assigned_again_on_purpose(found, model):
    assert places(found, model, "BN508") == []


class Direct(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 8)
        self.layers = nn.ModuleList([nn.Linear(8, 8)])

    def forward(self, x):
        x = self.fc.forward(x)
        return self.layers[0].forward(x)


class Base(nn.Linear):
    def forward(self, x):
        return torch.relu(super().forward(x))


class ByClass(nn.Linear):
    def forward(self, x):
        return nn.Linear.forward(self, x)


class Helper:
    def forward(self, x):
        return x


class NoLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.helper = Helper()
        self.fc = nn.Linear(8, 8)

    def forward(self, x):
        return self.helper.forward(self.fc(x))


def test_forward_called_by_name(found):
    ((key, finding),) = found(Direct(), "4x8", select=["BN510"], info=True).items()
    line = Direct.forward.__code__.co_firstlineno
    assert key == ("BN510", "fc") and finding.modules == ("fc", "layers") and finding.severity is Severity.INFO
    assert finding.location.line == line + 1 and finding.evidence["lines"] == [line + 1, line + 2]


@pytest.mark.parametrize("model", [Base(8, 8), ByClass(8, 8), NoLayer()])
def test_other_forwards_are_silent(found, model):
    assert places(found, model, "BN510") == []
