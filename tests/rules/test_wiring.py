"""BN501 and BN502: layers the model does not know, and layers it does not use."""

import copy
from collections import deque

import pytest
import torch
from torch import nn

from bnlint import Severity


class InAList(nn.Module):
    """list-01, list-03, list-05: layers in plain containers of any nesting."""

    def __init__(self, container):
        super().__init__()
        self.layers = container
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.run(self.layers, x))

    def run(self, held, x):
        if isinstance(held, (nn.Linear, nn.Sequential)):
            return torch.relu(held(x))
        for row in held.values() if isinstance(held, dict) else held:
            x = self.run(row, x)
        return x


@pytest.mark.parametrize(
    ("container", "cure"),
    [
        ([nn.Linear(8, 8), nn.Linear(8, 8)], "nn.ModuleList"),
        ((nn.Linear(8, 8),), "nn.ModuleList"),
        ({"a": nn.Linear(8, 8)}, "nn.ModuleDict"),
        ([[nn.Linear(8, 8)], [nn.Linear(8, 8)]], "nn.ModuleList"),
        ([nn.Sequential(nn.Linear(8, 8))], "nn.ModuleList"),
        (deque([nn.Linear(8, 8)]), "nn.ModuleList"),
        ({"a": [nn.Linear(8, 8), {"b": (nn.Linear(8, 8),)}]}, "nn.ModuleDict"),
    ],
)
def test_plain_containers(found, container, cure):
    (finding,) = found(InAList(container), "4x8").values()
    assert (finding.code, finding.severity) == ("BN501", Severity.ERROR)
    assert finding.module_path.startswith("layers[") and cure in finding.help


class Teacher(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(8, 2)
        self.hidden_from_parameters = [copy.deepcopy(self.net).requires_grad_(False)]

    def forward(self, x):
        with torch.no_grad():
            target = self.hidden_from_parameters[0](x)
        return self.net(x) - target


class SameModulesTwice(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])
        self.order = [self.layers[1], self.layers[0]]

    def forward(self, x):
        for layer in self.order:
            x = torch.relu(layer(x))
        return x


class KnownParameters(nn.Module):
    """Blocks in a list, their parameters registered by hand under a name that hides the method."""

    def __init__(self):
        super().__init__()
        self.blocks = [nn.Linear(8, 8), nn.Linear(8, 8)]
        self.parameters = nn.ParameterList([p for block in self.blocks for p in block.parameters()])

    def forward(self, x):
        for block in self.blocks:
            x = torch.relu(block(x))
        return x


@pytest.mark.parametrize(
    "model", [Teacher(), SameModulesTwice(), KnownParameters(), InAList(nn.ModuleList([nn.Linear(8, 8)]))]
)
def test_lists_on_purpose_are_silent(found, model):
    assert found(model, "4x8") == {}


class Forgotten(nn.Module):
    """use-01: a layer that no line of forward calls."""

    def __init__(self):
        super().__init__()
        self.layer1 = nn.Linear(8, 8)
        self.layer2 = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
        nn.init.xavier_uniform_(self.layer2[0].weight)

    def forward(self, x):
        return torch.relu(self.layer1(x))


def test_forgotten_layer_is_one_finding(found):
    rows = found(Forgotten(), "4x8")
    assert list(rows) == [("BN502", "layer2")]
    finding = rows["BN502", "layer2"]
    assert finding.severity is Severity.WARNING and finding.location.file.endswith("test_wiring.py")


def test_fifty_blocks_with_the_same_unused_layer_are_one_finding(found):
    (finding,) = found(nn.Sequential(*(Forgotten() for _ in range(50))), "4x8", select=["BN502"]).values()
    assert (finding.code, len(finding.modules)) == ("BN502", 50)


class FlagSelects(nn.Module):
    def __init__(self, deep=False):
        super().__init__()
        self.deep = deep
        self.a = nn.Linear(8, 8)
        self.b = nn.Linear(8, 8)

    def forward(self, x):
        return torch.relu(self.b(x) if self.deep else self.a(x))


class ByMode(nn.Module):
    """One head for training, one for evaluation, found by a name that the text does not hold."""

    def __init__(self, modes=("train", "eval")):
        super().__init__()
        self.modes = modes
        self.a_train, self.a_eval = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        return torch.relu(getattr(self, "a_" + self.modes[not self.training])(x))


def test_both_modes_count(found):
    assert found(ByMode(), "4x8") == {}
    assert list(found(ByMode(("train", "train")), "4x8")) == [("BN502", "a_eval")]


class Position(nn.Module):
    """A table of positions whose rows are read directly."""

    def __init__(self):
        super().__init__()
        self.pos, self.fc = nn.Embedding(16, 8), nn.Linear(8, 8)

    def forward(self, x):
        return self.fc(x + self.pos.weight[: x.shape[1]])


class Example(nn.Module):
    """What Lightning wants, a frozen average and an auxiliary head that a subclass or a loss calls."""

    def __init__(self):
        super().__init__()
        self.example_input_array = torch.zeros(4, 8)
        self.net, self.aux = nn.Linear(8, 8), nn.Linear(8, 2)
        self.ema = copy.deepcopy(self.net).requires_grad_(False)

    def forward(self, x):
        return torch.relu(self.net(x))

    def training_step(self, x):
        return self.aux(self(x))


class DirectWeight(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Linear(8, 8, bias=False)

    def forward(self, x):
        return nn.functional.linear(x, self.table.weight)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(10, 8)
        self.out = nn.Linear(8, 10, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, ids):
        return nn.functional.linear(torch.tanh(self.embed(ids)), self.embed.weight)


class Frozen(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(8, 2)
        self.average = copy.deepcopy(self.net).requires_grad_(False)

    def forward(self, x):
        return self.net(x)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x)[0]


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        (FlagSelects(), "4x8"),
        (DirectWeight(), "4x8"),
        (Position(), "4x5x8"),
        (Example(), "4x8"),
        (Tied(), "int64[4,5]<10"),
        (Frozen(), "4x8"),
        (Attention(), "2x5x8"),
        (nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2), "2x5x8"),
    ],
)
def test_used_in_another_way_is_silent(found, model, inputs):
    assert {code for code, _ in found(model, inputs)} <= {"BN308"}  # nn.TransformerEncoder copies its layers
