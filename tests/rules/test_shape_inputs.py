"""BN211 to BN214: which inputs a model takes, and which batches."""

import pytest
import torch
from torch import nn

from bnlint import Severity

from .conftest import Fn
from .nets import conv, only, tokens

F = nn.functional

# -- BN211 ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "shape", "cure"),
    [
        (nn.Sequential(conv(), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 96, 5)), "2x8x12x3", "x.permute(0, 3, 1, 2)"),
        (nn.Sequential(nn.Conv1d(3, 8, 3), nn.ReLU()), "2x20x3", "x.permute(0, 2, 1)"),
    ],
)
def test_channels_last_and_nothing_else(found, model, shape, cure):
    finding = only(found(model, shape), "BN211")
    assert cure.replace("x.", "input.") in finding.help


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (Fn(lambda m, x: m.a(x.permute(0, 3, 1, 2)), a=conv()), "2x8x12x3"),
        (nn.Sequential(conv(), nn.ReLU()), "2x3x8x3"),
    ],
)
def test_channels_where_they_belong_are_silent(found, model, shape):
    assert found(model, shape) == {}


def test_another_channel_count_is_a_plain_mismatch(found):
    assert only(found(nn.Sequential(conv(), nn.ReLU()), "2x1x28x28"), "BN201")


# -- BN212 ---------------------------------------------------------------------------------------------------------


class Words(nn.Module):
    def __init__(self, rows, places, offset=0):
        super().__init__()
        self.words, self.places = nn.Embedding(rows, 8), nn.Embedding(places, 8)
        self.register_buffer("ids", torch.arange(64)[None])
        self.offset = offset

    def forward(self, ids):
        at = self.ids[:, : ids.shape[1]] + self.offset
        return self.words(ids) + self.places(at)


class Table(nn.Module):
    def __init__(self, rows):
        super().__init__()
        self.words = nn.Embedding(50, 8)
        self.table = nn.Parameter(torch.randn(1, rows, 8))

    def forward(self, ids):
        return self.words(ids) + self.table[:, : ids.shape[1]]


@pytest.mark.parametrize(
    ("model", "path", "rows", "highest"),
    [
        (Words(40, 32), "words", 40, 49),
        (Words(50, 15), "places", 15, 15),
        (Words(50, 16, offset=2), "places", 16, 17),
    ],
)
def test_indices_beyond_the_table(found, model, path, rows, highest):
    finding = found(model, {"ids": torch.arange(64).view(4, 16) % 50})["BN212", path]
    assert (finding.evidence["rows"], finding.evidence["highest"]) == (rows, highest)
    assert f"nn.Embedding({highest + 1}, 8)" in finding.help


class Expanded(Words):
    def forward(self, ids):
        return self.words(ids) + self.places(torch.arange(ids.shape[1]).expand_as(ids))


def test_positions_that_the_model_makes_are_not_laid_to_the_input(found):
    finding = found(Expanded(50, 12), "int64[4,16]<50")["BN212", "places"]
    assert finding.evidence["highest"] == 15 and "`ids`" not in finding.message


def test_negative_index(found):
    ids = torch.arange(64).view(4, 16) % 50 - 1
    assert found(Words(50, 16), {"ids": ids})["BN212", "words"].evidence["lowest"] == -1


def test_table_shorter_than_the_sequence(found):
    finding = only(found(Table(12), "int64[4,16]<50"), "BN212")
    assert finding.evidence == {"rows": 12, "positions": 16}


@pytest.mark.parametrize("model", [Words(50, 16), Words(50, 16 + 2, offset=2), Table(16), Table(40)])
def test_tables_that_are_long_enough_are_silent(found, model):
    assert found(model, "int64[4,16]<50") == {}


def test_lengths_that_bnlint_chose_are_not_held_against_a_table(found):
    assert "BN212" not in {code for code, _ in found(Words(50, 4))}


# -- BN213 ---------------------------------------------------------------------------------------------------------


class State(nn.Module):
    def __init__(self, batch):
        super().__init__()
        self.batch = batch
        self.rnn, self.head = nn.GRU(5, 7, batch_first=True), nn.Linear(7, 3)

    def forward(self, x):
        state = torch.zeros(1, self.batch or x.shape[0], 7)
        return self.head(self.rnn(x, state)[0][:, -1])


POOLED = {"a": conv(), "f": nn.Linear(16, 4)}


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (Fn(lambda m, x: m.f(m.a(x).mean((2, 3)).view(8, -1)), **POOLED), None),
        (Fn(lambda m, x: m.f(m.a(x).view(8, 16, -1).mean(2)), **POOLED), "8x3x6x6"),
        (Fn(lambda m, x: m.f(m.a(x).mean((2, 3)).unsqueeze(1).expand(8, 5, 16)), **POOLED), "8x3x6x6"),
        (State(4), "4x10x5"),
    ],
)
def test_batch_written_into_the_code(found, model, shape):
    rows = found(model, shape)
    assert only(rows, "BN213").severity is Severity.ERROR and "x.shape[0]" in only(rows, "BN213").help


def test_constant_that_the_given_batch_does_not_fit(found):
    model = Fn(lambda m, x: m.f(m.a(x).mean((2, 3)).view(32, 16)), **POOLED)
    assert only(found(model, "8x3x6x6"), "BN213").evidence == {"asked": 32, "batch": 8}


def test_squeeze_names_its_axes(found):
    pooled = Fn(lambda m, x: m.f(F.adaptive_avg_pool2d(m.a(x), 1).squeeze()), **POOLED)
    finding = only(found(pooled, "4x3x6x6"), "BN213")
    assert "squeeze((2, 3))" in finding.help and finding.severity is Severity.WARNING
    column = Fn(lambda m, x: m.f(m.a(x).mean((2, 3))).squeeze(), a=conv(), f=nn.Linear(16, 1))
    assert "squeeze(1)" in only(found(column, "4x3x6x6"), "BN213").help


def segments(m, x):
    y = m.a(x).mean((2, 3))
    return m.f(y.view(x.shape[0] // 2, 2, 16).mean(1))


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (Fn(lambda m, x: m.f(m.a(x).mean((2, 3)).view(x.shape[0], -1)), **POOLED), "8x3x6x6"),
        (Fn(segments, **POOLED), "8x3x6x6"),
        (Fn(lambda m, x: m.f(m.a(x).mean((2, 3)).view(2, -1, 16).sum(0)), **POOLED), "2x3x6x6"),  # pairs
        (Fn(lambda m, x: (lambda a, b: m.f(a * b))(*m.a(x).mean((2, 3)).chunk(2)), **POOLED), "8x3x6x6"),
        (Fn(lambda m, x: m.f(m.a(x).mean((2, 3))).squeeze(1), a=conv(), f=nn.Linear(16, 1)), "4x3x6x6"),
        (Fn(lambda m, x: m.f(m.n(m.a(x).mean((2, 3)))), n=nn.BatchNorm1d(16), **POOLED), "8x3x6x6"),
        (State(None), "4x10x5"),
    ],
)
def test_any_batch_size_is_silent(found, model, shape):
    assert "BN213" not in {code for code, _ in found(model, shape)}


# -- BN214 ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "path", "words"),
    [
        (nn.Sequential(conv(), nn.ReLU(), nn.MaxPool2d(4), nn.Flatten(), nn.Linear(64, 5)), "4", "8 to 11 x 8 to 11"),
        (nn.Sequential(conv(), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 5)), "3", "8 x 8"),
        (Fn(lambda m, x: m.f(tokens(m.a(x)).transpose(1, 2)), a=conv(), f=nn.Linear(64, 5)), "f", "mixes"),
    ],
)
def test_one_size_only(found, model, path, words):
    finding = found(model, "2x3x8x8", info=True)["BN214", path]
    assert finding.severity is Severity.INFO and words in finding.message


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(conv(), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 5)),
        Fn(
            lambda m, x: m.u(m.d(m.a(x))) + m.a(x),
            a=conv(),
            d=conv(16, 16, stride=2),
            u=nn.ConvTranspose2d(16, 16, 2, 2),
        ),
    ],
)
def test_any_size_is_silent(found, model):
    assert "BN214" not in {code for code, _ in found(model, "2x3x8x8", info=True)}
