"""BN409: attention scores without a factor, judged by their size."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bnlint import Severity


class SelfAttention(nn.Module):
    def __init__(self, scores, width=256, init=None):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.q, self.k, self.v = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, width)
        self.scores = scores
        if init is not None:
            init(self)

    def forward(self, x):
        x = self.norm(x)
        q, k, v = (layer(x).unflatten(-1, (1, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        return (self.scores(q, k).softmax(-1) @ v).transpose(1, 2).flatten(2)


def t5(model):
    """T5 leaves the factor out and puts it into the query's initial weights."""
    nn.init.normal_(model.q.weight, 0, (256 * 256) ** -0.5)
    nn.init.normal_(model.k.weight, 0, 256**-0.5)


def xavier(model):
    nn.init.xavier_uniform_(model.q.weight)
    nn.init.xavier_uniform_(model.k.weight)


def verdict(found, model, inputs="4x20x256", **options):
    return [f.severity for f in found(model, inputs, select=["BN409"], info=True, **options).values()]


@pytest.mark.parametrize(
    "scores",
    [
        lambda q, k: q @ k.mT,
        lambda q, k: torch.matmul(q, k.transpose(-2, -1)),
        lambda q, k: torch.einsum("bhqd,bhkd->bhqk", q, k),
        lambda q, k: (q @ k.mT).masked_fill(torch.ones(20, 20).triu(1) > 0, float("-inf")),
        lambda q, k: F.dropout(q @ k.mT + torch.zeros(20, 20), 0.1),
    ],
)
def test_unscaled(found, scores):
    assert verdict(found, SelfAttention(scores)) == [Severity.WARNING]


@pytest.mark.parametrize(
    ("model", "severity"),
    [
        (SelfAttention(lambda q, k: q @ k.mT, 64), Severity.INFO),  # default weights: a standard deviation of 2.7
        (SelfAttention(lambda q, k: q @ k.mT, 64, xavier), Severity.WARNING),  # 8
    ],
)
def test_size_decides(found, model, severity):
    assert verdict(found, model, "4x20x64") == [severity]


def test_prediction_is_what_the_scores_do(found):
    model = SelfAttention(lambda q, k: q @ k.mT, 256, xavier)
    (finding,) = found(model, "4x20x256", select=["BN409"]).values()
    x = model.norm(torch.randn(64, 20, 256))
    measured = (model.q(x) @ model.k(x).mT).std().item()
    assert finding.evidence["std"] == pytest.approx(measured, rel=0.2)


@pytest.mark.parametrize(
    ("scores", "width", "init"),
    [
        (lambda q, k: q @ k.mT / 16, 256, None),
        (lambda q, k: (q * 256**-0.5) @ k.mT, 256, None),
        (lambda q, k: q @ (k.mT / 16), 256, None),
        (lambda q, k: F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT, 256, None),  # cosine
        (lambda q, k: F.layer_norm(q, (256,)) @ F.layer_norm(k, (256,)).mT * 0.1, 256, None),
        (lambda q, k: q @ k.mT, 256, t5),
        (lambda q, k: q @ k.mT, 16, None),  # a small head
    ],
)
def test_scaled_in_some_way(found, scores, width, init):
    assert verdict(found, SelfAttention(scores, width, init), f"4x20x{width}") == []
