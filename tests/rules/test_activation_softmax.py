"""BN403: the axis of a softmax."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bnlint import Severity

from .conftest import Fn

pytestmark = pytest.mark.filterwarnings("ignore:Implicit dimension choice")


def attention(weights):
    """Weights over the steps of a (batch, steps, 8) input, then one vector per sample."""
    return Fn(lambda m, x: (weights(m.score(x)) * x).sum(1), score=nn.Linear(8, 1))


def verdict(found, model, inputs, **options):
    return [f.severity for f in found(model, inputs, select=["BN403"], info=True, **options).values()]


@pytest.mark.parametrize(
    ("model", "inputs", "severity"),
    [
        (attention(lambda s: s.softmax(0)), "4x5x8", Severity.WARNING),  # smdim-01
        (attention(lambda s: F.softmax(s)), "4x5x8", Severity.WARNING),  # smdim-05: three axes, PyTorch picks 0
        (attention(nn.Softmax()), "4x5x8", Severity.WARNING),
        (nn.Sequential(nn.Linear(8, 4), nn.LogSoftmax(dim=0)), "4x8", Severity.WARNING),
        (nn.Sequential(nn.Linear(8, 4), nn.Softmax()), "4x8", Severity.INFO),  # two axes: picks 1, the classes
        (nn.Sequential(nn.Linear(8, 1), nn.Softmax(dim=1)), "4x8", Severity.ERROR),  # outact-05
        (nn.Sequential(nn.Conv2d(3, 1, 3), nn.Softmax2d()), "2x3x8x8", Severity.ERROR),
        (attention(lambda s: s.softmax(-1)), "4x5x8", Severity.ERROR),  # smdim-03: the one score of a step
        (attention(lambda s: s.transpose(1, 2).softmax(1).transpose(1, 2)), "4x5x8", Severity.ERROR),
        (attention(lambda s: torch.tanh(s).squeeze(-1).unsqueeze(1).softmax(1).mT), "4x5x8", Severity.ERROR),
    ],
)
def test_wrong_axis(found, model, inputs, severity):
    assert verdict(found, model, inputs) == [severity]


def similarity(dim):
    return Fn(lambda m, x, y: (m.a(x) @ m.b(y).T).softmax(dim), a=nn.Linear(8, 8), b=nn.Linear(8, 8))


class SequenceFirst(nn.Module):
    """(steps, batch, features): axis 0 is time."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(8, 8)
        self.score = nn.Linear(8, 1)

    def forward(self, x):
        h, _ = self.rnn(x)
        return h * self.score(h).softmax(0)


class Bag(nn.Module):
    """Multiple-instance learning: the leading axis holds the instances of one bag."""

    def __init__(self):
        super().__init__()
        self.embed, self.score, self.head = nn.Linear(8, 8), nn.Linear(8, 1), nn.Linear(8, 1)

    def forward(self, x):
        h = torch.relu(self.embed(x))
        weights = self.score(h).transpose(0, 1).softmax(1)
        return torch.sigmoid(self.head(weights @ h))


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        (attention(lambda s: s.softmax(1)), "4x5x8"),
        (attention(lambda s: s.softmax(1)), "4x1x8"),  # a sequence of one step: the input, not the code
        (nn.Sequential(nn.Linear(8, 4), nn.Softmax(dim=1)), "4x8"),
        (nn.Sequential(nn.Linear(8, 4), nn.Softmax(dim=-1)), "1x8"),
        (similarity(0), ["4x8", "4x8"]),  # samples compared with samples
        (similarity(1), ["4x8", "4x8"]),
        (SequenceFirst(), "5x4x8"),
        (Bag(), "6x8"),
    ],
)
def test_right_axis(found, model, inputs):
    assert verdict(found, model, inputs) == []


def attended(weigh, use=lambda a, v: a @ v):
    """Scores of (batch, queries, keys), of one input or of two, become weights that sum the values."""

    def forward(m, x):
        return use(weigh(m.q(x) @ m.k(x[:, :5]).transpose(1, 2) / 8**0.5), m.v(x[:, :5]))

    return Fn(forward, q=nn.Linear(8, 8), k=nn.Linear(8, 8), v=nn.Linear(8, 8))


@pytest.mark.parametrize(
    "model",
    [
        attended(lambda s: s.softmax(1)),
        attended(lambda s: F.dropout(s.softmax(-2), 0.1)),
        attended(lambda s: s.softmax(1), lambda a, v: torch.bmm(a, v)),
        attended(lambda s: s.transpose(1, 2).softmax(-1).transpose(1, 2)),
        attended(lambda s: s.softmax(1), lambda a, v: torch.einsum("bqk,bkd->bqd", a, v)),
        attended(lambda s: s.softmax(1), lambda a, v: (v.transpose(1, 2) @ a.transpose(1, 2), a)),
    ],
)
def test_a_softmax_along_the_queries(found, model):
    assert verdict(found, model, "2x7x8") == [Severity.WARNING]


@pytest.mark.parametrize(
    "model",
    [
        attended(lambda s: s.softmax(-1)),
        attended(lambda s: s.transpose(1, 2).softmax(1).transpose(1, 2)),
        attended(lambda s: s.softmax(1), lambda a, v: a / a.sum(-1, keepdim=True) @ v),  # slot attention
        attended(lambda s: s.softmax(1), lambda a, v: a.transpose(1, 2) @ v[:, :1].expand(-1, 7, -1)),
        attended(lambda s: s.softmax(1) * s.softmax(2)),  # matches in both directions
        attended(lambda s: s.softmax(1), lambda a, v: torch.einsum("bqk,bkd->bkd", a, v)),
    ],
)
def test_weights_that_add_up_to_one(found, model):
    assert verdict(found, model, "2x7x8") == []
