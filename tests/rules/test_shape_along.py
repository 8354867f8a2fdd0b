"""BN209: layers that run along the batch, and consistent layouts that must stay silent."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from bnlint import Severity

from .conftest import Fn
from .nets import codes, conv, one, tokens


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
    "pooled behind a skip connection": (Fn(lambda m, x: m.h((m.f(x) + m.r(*[m.f(x)] * 3)[0]).mean(1)), f=nn.Linear(5, 16), r=nn.MultiheadAttention(16, 2), h=nn.Linear(16, 3)), "4x10x5", Severity.WARNING),
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


# -- packed sequences ----------------------------------------------------------------------------------------------


class Packed(nn.Module):
    def __init__(self, read, pack=True, back=True):
        super().__init__()
        self.embed, self.rnn, self.head = nn.Embedding(50, 16), nn.LSTM(16, 12), nn.Linear(12, 3)
        self.read, self.pack, self.back = read, pack, back

    def forward(self, ids, lengths):
        x = pack_padded_sequence(self.embed(ids), lengths, batch_first=self.pack, enforce_sorted=False)
        y, (h, _) = self.rnn(x)
        y, _ = pad_packed_sequence(y, batch_first=self.back)
        return self.head(self.read(y, h))


def texts(steps=10):
    return {"ids": torch.arange(4 * steps).view(4, steps), "lengths": torch.tensor([steps, steps - 2, 3, 2])}


@pytest.mark.parametrize(
    ("model", "steps", "axis"),
    [
        (Packed(lambda y, h: y[:, -1], back=False), 10, 1),
        (Packed(lambda y, h: y[:, -1], pack=False), 10, 0),
        (Packed(lambda y, h: h[-1], pack=False), 4, 0),  # as many steps as samples: nothing raises
    ],
)
def test_packed_along_the_batch(found, model, steps, axis):
    finding = one(found(model, texts(steps)), "BN209")
    assert finding.severity is Severity.ERROR and finding.evidence["axis"] == axis
    assert "`batch_first=True`" in finding.help and finding.location.file.endswith("test_shape_along.py")


@pytest.mark.parametrize(
    "model",
    [
        Packed(lambda y, h: y[:, -1]),
        Packed(lambda y, h: y.mean(1)),
        Packed(lambda y, h: h[-1]),
        Packed(lambda y, h: y[-1], back=False),
    ],
)
def test_packed_along_the_time_is_silent(found, model):
    assert [key for key in found(model, texts()) if key[0].startswith("BN2")] == []


# -- loops over steps ----------------------------------------------------------------------------------------------


class Loop(nn.Module):
    """bf-07: steps are taken along the first axis of what a batch-first layer made."""

    def __init__(self, arrange, collect, cell=nn.LSTMCell, batch=1):
        super().__init__()
        self.conv, self.cell, self.head = nn.Conv1d(3, 16, 3, padding=1), cell(16, 12), nn.Linear(12, 5)
        self.arrange, self.collect, self.batch = arrange, collect, batch

    def forward(self, x):
        x = self.arrange(torch.relu(self.conv(x)))
        state = x.new_zeros(x.shape[self.batch], 12)
        state, out = ((state, state) if isinstance(self.cell, nn.LSTMCell) else state), []
        for step in x:
            state = self.cell(step, state)
            out.append(state[0] if isinstance(state, tuple) else state)
        return self.head(self.collect(out))


@pytest.mark.parametrize("cell", [nn.LSTMCell, nn.GRUCell])
def test_loop_along_the_batch(found, cell):
    rows = found(Loop(lambda y: y.transpose(1, 2), lambda out: torch.stack(out)[:, -1], cell), "6x3x10")
    assert list(rows) == [("BN209", "cell")] and rows["BN209", "cell"].severity is Severity.ERROR
    assert "x.unbind(1)" in rows["BN209", "cell"].help


@pytest.mark.parametrize("cell", [nn.LSTMCell, nn.GRUCell])
def test_state_of_another_batch(found, cell):
    rows = found(Loop(lambda y: y.transpose(1, 2), torch.stack, cell, batch=0), "6x3x10")
    assert [key for key in rows if key[0] in ("BN207", "BN903")] == [("BN207", "cell")]


@pytest.mark.parametrize("cell", [nn.LSTMCell, nn.GRUCell])
def test_loop_along_the_time_is_silent(found, cell):
    assert found(Loop(lambda y: y.permute(2, 0, 1), lambda out: torch.stack(out, 1)[:, -1], cell), "6x3x10") == {}
