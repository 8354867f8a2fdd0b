"""BN206, BN209 and BN117: shape bugs that raise nothing, and the look-alikes that must stay silent."""

import pytest
import torch
from nets import Fn, codes, conv, tokens
from torch import nn

from bnlint import Severity

F = nn.functional

# -- BN206 ---------------------------------------------------------------------------------------------------------

COLUMN = {"f": nn.Linear(5, 8), "v": nn.Linear(8, 1), "w": nn.Linear(8, 1)}


@pytest.mark.parametrize(
    "forward",
    [
        lambda m, x: m.v(m.f(x)) + m.w(m.f(x)).squeeze(1),
        lambda m, x: torch.sigmoid(m.v(m.f(x))) * m.f(x).mean(1),
        lambda m, x: m.w(m.f(x))[:, 0] - 2 * m.v(m.f(x)),
        lambda m, x: F.mse_loss(m.v(m.f(x)), x[:, 0]),
        lambda m, x: m.v(m.f(x)) - x.sum(-1),
    ],
)
def test_column_against_row(found, forward):
    rows = found(Fn(forward, **COLUMN), "4x5")
    assert codes(rows, "BN206") == ["BN206"]
    (finding,) = (f for (code, _), f in rows.items() if code == "BN206")
    assert "squeeze(1)" in finding.help and finding.severity is Severity.WARNING


@pytest.mark.parametrize(
    "forward",
    [
        lambda m, x: m.v(m.f(x)) + m.w(m.f(x)),
        lambda m, x: m.v(m.f(x))[:, 0][:, None] - m.w(m.f(x))[:, 0],  # all pairs, on purpose
        lambda m, x: m.v(m.f(x)) - m.w(m.f(x)).T,
        lambda m, x: (lambda s: s + s.T - 2 * m.f(x) @ m.f(x).T)(m.f(x).pow(2).sum(1, keepdim=True)),
        lambda m, x: (lambda s: s + m.f(x).pow(2).sum(1) - 2 * m.f(x) @ m.f(x).T)(m.f(x).pow(2).sum(1, keepdim=True)),
        lambda m, x: m.f(x) * m.v(m.f(x)).sigmoid(),  # a gate
        lambda m, x: m.f(x) @ m.f(x).T / 0.07,  # contrastive
        lambda m, x: ((m.v(m.f(x)) + m.w(m.f(x))[:, 0]).softmax(-1)) @ x,  # additive attention over the rows
    ],
)
def test_deliberate_pairs_are_silent(found, forward):
    assert codes(found(Fn(forward, **COLUMN), "4x5"), "BN206") == []


# -- BN209 ---------------------------------------------------------------------------------------------------------


def rnn(read, **options):
    return Fn(lambda m, x: m.h(read(m.r(torch.relu(m.f(x))))), f=nn.Linear(5, 8), r=nn.LSTM(8, 6, **options), h=nn.Linear(6, 3))  # fmt: skip


def after_conv(layer, arrange, read):
    return Fn(lambda m, x: m.h(read(m.r(arrange(m.a(x))))), a=conv(), r=layer, h=nn.Linear(16, 3))


def encoder(**options):
    return nn.TransformerEncoderLayer(16, 2, 32, 0.0, **options)


class Positions(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.f, self.h = nn.Linear(5, 16), nn.Linear(16, 3)
        self.table = nn.Parameter(torch.randn(*shape))
        self.encoder = nn.TransformerEncoder(encoder(), 2, enable_nested_tensor=False)

    def forward(self, x):
        return self.h(self.encoder(self.f(x) + self.table))


ALONG = {
    "bf-01: after a conv": (after_conv(nn.LSTM(16, 16), tokens, lambda y: y[0]), "4x3x8x12", Severity.ERROR),
    "last step": (rnn(lambda y: y[0][:, -1]), "4x10x5", Severity.ERROR),
    "last step of the other layout": (rnn(lambda y: y[0][-1], batch_first=True), "4x10x5", Severity.ERROR),
    "flattened steps": (Fn(lambda m, x: m.h(m.r(torch.relu(m.f(x)))[0].reshape(x.shape[0], -1)), f=nn.Linear(5, 8), r=nn.GRU(8, 6), h=nn.Linear(60, 3)), "4x10x5", Severity.ERROR),
    "bf-05: rows of a table": (Fn(lambda m, x: m.h(m.r(m.e(x)).reshape(x.shape[0], -1)), e=nn.Embedding(9, 16), r=nn.TransformerEncoder(encoder(), 2, enable_nested_tensor=False), h=nn.Linear(160, 3)), "int64[4,10]<9", Severity.ERROR),
    "pooled steps": (rnn(lambda y: y[0].mean(1)), "4x10x5", Severity.WARNING),
    "positions along axis 1": (Positions((1, 10, 16)), "4x10x5", Severity.WARNING),
    "permuted twice": (after_conv(nn.GRU(16, 16, batch_first=True), lambda y: tokens(y).transpose(0, 1), lambda y: y[0]), "4x3x8x12", Severity.ERROR),
    "features as one sequence": (after_conv(nn.LSTM(16, 16), lambda y: y.mean((2, 3)), lambda y: y[0]), "4x3x8x12", Severity.ERROR),
}  # fmt: skip


def windowed(m, x):
    y = m.a(x).permute(0, 2, 3, 1)
    n, h, w, c = y.shape
    y = y.view(n, h // 4, 4, w // 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, c)
    return m.h(m.r(y, y, y)[0]).view(n, h // 4, w // 4, 4, 4, 3)


ALONG["bf-03: windows"] = (
    Fn(windowed, a=conv(), r=nn.MultiheadAttention(16, 2), h=nn.Linear(16, 3)), "2x3x8x12", Severity.ERROR,
)  # fmt: skip


@pytest.mark.parametrize("name", ALONG)
def test_runs_along_the_batch(found, name):
    model, shape, severity = ALONG[name]
    rows = found(model, shape)
    assert codes(rows, "BN209") == ["BN209"]
    (finding,) = (f for (code, _), f in rows.items() if code == "BN209")
    assert finding.severity is severity


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (rnn(lambda y: y[0][:, -1], batch_first=True), "4x10x5"),
        (rnn(lambda y: y[0][-1]), "10x4x5"),  # consistent with (L, N, C)
        (rnn(lambda y: y[1][0][-1]), "10x4x5"),
        (rnn(lambda y: y[0]), "10x4x5"),
        (rnn(lambda y: y[0].mean(0)), "10x4x5"),
        (Fn(lambda m, x: m.h(m.r(m.f(x).transpose(0, 1))[0].transpose(0, 1)[:, -1]), f=nn.Linear(5, 8), r=nn.LSTM(8, 6), h=nn.Linear(6, 3)), "4x10x5"),
        (after_conv(nn.LSTM(16, 16), lambda y: y.mean(2).permute(2, 0, 1), lambda y: y[0]), "4x3x8x12"),  # text lines
        (after_conv(nn.LSTM(16, 16, batch_first=True), tokens, lambda y: y[0]), "4x3x8x12"),
        (after_conv(encoder(batch_first=True), tokens, lambda y: y[:, 0]), "4x3x8x12"),
        (after_conv(encoder(), lambda y: tokens(y).transpose(0, 1), lambda y: y[0]), "4x3x8x12"),
        (after_conv(encoder(), lambda y: y.mean((2, 3)).unsqueeze(1), lambda y: y.squeeze(1)), "4x3x8x12"),  # BatchFormer
        (after_conv(nn.LSTM(16, 16), lambda y: y.mean((2, 3)).view(2, 4, 16), lambda y: y[0]), "8x3x8x12"),  # frames
        (Positions((10, 1, 16)), "10x4x5"),
        (nn.LSTM(5, 8), None),
    ],
)  # fmt: skip
def test_consistent_layouts_are_silent(found, model, shape):
    assert codes(found(model, shape), "BN209", "BN205") == []


# -- BN117 ---------------------------------------------------------------------------------------------------------


def of_map(forward, **layers):
    return Fn(lambda m, x: forward(m, m.a(x)), a=conv(), **layers)


@pytest.mark.parametrize(
    ("model", "shape", "path", "axis"),
    [
        (of_map(lambda m, y: m.n(y), n=nn.LayerNorm(12)), "2x3x8x12", "n", 3),
        (Fn(lambda m, x: m.n(m.a(x)), a=nn.Conv1d(3, 16, 3, padding=1), n=nn.LayerNorm(12)), "2x3x12", "n", 2),
        (Fn(lambda m, x: m.n(m.e(x)), e=nn.Embedding(9, 16), n=nn.BatchNorm1d(16)), "int64[4,16]<9", "n", 1),
        (Fn(lambda m, x: m.n(m.e(x)), e=nn.Embedding(9, 16), n=nn.InstanceNorm1d(10)), "int64[4,10]<9", "n", 1),
    ],
)
def test_norm_on_positions(found, model, shape, path, axis):
    finding = found(model, shape)["BN117", path]
    assert finding.severity is Severity.WARNING and finding.evidence["axis"] == axis


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (of_map(lambda m, y: m.n(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), n=nn.LayerNorm(16)), "2x3x8x12"),
        (of_map(lambda m, y: m.n(y), n=nn.LayerNorm([16, 8, 12])), "2x3x8x12"),
        (of_map(lambda m, y: m.n(y), n=nn.GroupNorm(1, 16)), "2x3x8x12"),
        (of_map(lambda m, y: m.n(tokens(y)), n=nn.LayerNorm(16)), "2x3x8x12"),
        (of_map(lambda m, y: m.n(y.transpose(2, 3)), n=nn.LayerNorm(8)), "2x3x8x12"),
        (Fn(lambda m, x: m.n(m.e(x).transpose(1, 2)), e=nn.Embedding(9, 16), n=nn.BatchNorm1d(16)), "int64[4,16]<9"),
        (Fn(lambda m, x: m.n(m.e(x)), e=nn.Embedding(9, 16), n=nn.BatchNorm1d(10)), "int64[4,10]<9"),  # per position
        (nn.Sequential(nn.Conv1d(3, 16, 3), nn.BatchNorm1d(16)), "2x3x12"),
    ],
)
def test_norm_on_features_is_silent(found, model, shape):
    assert codes(found(model, shape), "BN117") == []
