"""BN203, BN204, BN207, BN208 and BN210 to BN214: sizes that cannot be, constants that should not be."""

import pytest
import torch
from torch import nn

from bnlint import Severity

F = nn.functional


class Fn(nn.Module):
    def __init__(self, forward, **layers):
        super().__init__()
        self.function = forward
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, *args):
        return self.function(self, *args)


def conv(i=3, o=16, k=3, **kw):
    return nn.Conv2d(i, o, k, padding=k // 2, **kw)


def only(rows, code):
    """The one finding of a code; other errors would be echoes of it."""
    assert [c for c, _ in rows if c.startswith("BN2") or c.startswith("BN9")] == [code]
    return next(f for (c, _), f in rows.items() if c == code)


# -- BN203 and BN204: reshapes that cannot be -----------------------------------------------------------------------


def test_rows_that_do_not_divide(found):
    model = Fn(lambda m, x: m.f(m.a(x).view(-1, 500)), a=conv(), f=nn.Linear(500, 5))
    assert "nn.Linear(1536, 5)" in only(found(model, "4x3x8x12"), "BN203").help


def test_all_samples_in_one_row(found):
    """view-07: the batch is flattened too."""
    model = Fn(lambda m, x: m.f(m.a(x).view(1, -1)), a=conv(), f=nn.Linear(1536, 5))
    assert "x.flatten(1)" in only(found(model, "4x3x8x12"), "BN203").help


def test_missing_flatten(found):
    """view-10: images reach a Linear for flat vectors."""
    model = nn.Sequential(nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, 10))
    assert "x.flatten(1)" in only(found(model, "8x1x28x28"), "BN201").help


def test_view_asks_for_another_feature_count(found):
    model = Fn(lambda m, x: m.f(m.a(x).view(x.shape[0], 512)), a=conv(), f=nn.Linear(512, 5))
    finding = only(found(model, "4x3x8x12"), "BN204")
    assert (finding.evidence["declared"], finding.evidence["got"]) == (512, 1536)


def test_impossible_feature_count_is_noted(found):
    model = nn.Sequential(conv(), nn.ReLU(), nn.Flatten(), nn.Linear(1000, 10))
    assert "not a multiple of the 16 channels" in only(found(model, "2x3x8x8"), "BN204").note


# -- BN207 ---------------------------------------------------------------------------------------------------------

IMAGE = "2x3x16x12"


@pytest.mark.parametrize(
    ("model", "shape", "words", "cure"),
    [
        (
            Fn(lambda m, x: (lambda y: m.b(y) + y)(m.a(x)), a=conv(), b=conv(16, 32)),
            IMAGE, ["`b`", "`a`", "32 against 16"], "nn.Conv2d(16, 32, 1)",
        ),
        (
            Fn(lambda m, x: (lambda y: m.b(y) + y)(m.a(x)), a=conv(), b=conv(16, 32, stride=2)),
            IMAGE, ["`b`", "`a`"], "nn.Conv2d(16, 32, 1, stride=2)",
        ),
        (
            Fn(lambda m, x: torch.cat([m.u(m.b(m.a(x))), m.a(x)], 1), a=conv(), b=conv(16, 16, stride=2), u=nn.ConvTranspose2d(16, 16, 2, 2)),
            "2x3x15x12", ["`u`", "`a`", "16 against 15"], "F.interpolate",
        ),
        (Fn(lambda m, x: m.a(x) + m.b(x), a=nn.Linear(5, 8), b=nn.Linear(5, 6)), "2x5", ["`a`", "`b`"], "nn.Linear(6, 8)"),
        (Fn(lambda m, x: m.a(x) * m.b(x).transpose(1, 2), a=nn.Linear(5, 8), b=nn.Linear(5, 8)), "2x3x5", ["`a`", "`b`"], "b.permute(0, 2, 1)"),
        (Fn(lambda m, x: m.a(x) @ m.b(x), a=nn.Linear(5, 8), b=nn.Linear(5, 8)), "2x3x5", ["`a`", "`b`"], "b.transpose(-1, -2)"),
    ],
)  # fmt: skip
def test_operands_and_their_makers(found, model, shape, words, cure):
    finding = only(found(model, shape), "BN207")
    assert all(word in finding.message for word in words) and cure in finding.help
    assert finding.severity is Severity.ERROR and finding.location.file.endswith("test_shape_sizes.py")


@pytest.mark.parametrize(
    "model",
    [
        Fn(lambda m, x: m.a(x) + m.g, a=conv(), g=nn.Parameter(torch.zeros(1, 16, 1, 1))),
        Fn(lambda m, x: m.a(x) * m.a(x).mean((2, 3), keepdim=True).sigmoid(), a=conv()),
        Fn(lambda m, x: torch.cat([m.a(x), x], 1), a=conv()),
    ],
)
def test_operands_that_fit_are_silent(found, model):
    assert not [key for key in found(model, IMAGE) if key[0].startswith("BN2")]


# -- BN208 ---------------------------------------------------------------------------------------------------------


class Deep(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 7, stride=2, padding=3)
        self.pool = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.body = nn.Conv2d(8, 8, 3, stride=2)
        self.skip = nn.Conv2d(8, 8, 1, stride=2)
        self.last = nn.Conv2d(8, 8, (5, 3))

    def forward(self, x):
        x = F.avg_pool2d(torch.relu(self.pool(self.stem(x))), 2)
        return self.last(torch.relu(self.body(x))).mean((2, 3))


def runs(model, shape):
    try:
        model(torch.randn(shape))
    except RuntimeError:
        return False
    return True


def test_smallest_input_is_the_smallest(found):
    finding = only(found(Deep(), "2x3x64x64"), "BN208")
    height, width = finding.evidence["smallest_input"]
    assert runs(Deep(), (2, 3, height, width)) and f"{height}x{width}" in finding.help
    assert not runs(Deep(), (2, 3, height - 1, width)) and not runs(Deep(), (2, 3, height, width - 1))


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Conv2d(3, 8, 3)), "2x3x32x32"),
        (Fn(lambda m, x: F.max_pool2d(m.a(x), 9), a=nn.Conv2d(3, 8, 1)), "2x3x8x32"),
        (nn.Sequential(nn.Conv1d(3, 8, 9), nn.ReLU()), "2x3x7"),
    ],
)
def test_kernel_larger_than_its_map(found, model, shape):
    assert only(found(model, shape), "BN208").severity is Severity.ERROR


def test_kernel_as_large_as_its_map_is_silent(found):
    assert found(nn.Sequential(nn.Conv2d(3, 8, 7), nn.Tanh(), nn.Flatten()), "2x3x7x7") == {}


# -- BN210 ---------------------------------------------------------------------------------------------------------


def two_heads(first, second, between=None):
    between = between or nn.Identity()

    def forward(m, x):
        y = torch.relu(m.a(x))
        return m.f(y.flatten(1)), m.g(m.p(y).flatten(1))

    return Fn(forward, a=conv(3, 4), p=between, f=nn.Linear(first, 5), g=nn.Linear(second, 5))


@pytest.mark.parametrize("model", [two_heads(4 * 64, 4 * 81), two_heads(4 * 64, 4 * 64, nn.MaxPool2d(2))])
def test_two_flattens_that_contradict(found, model):
    rows = found(model, "2x3x8x8")
    finding = rows["BN210", "g"]
    assert finding.severity is Severity.ERROR and {"f", "g"} == set(finding.evidence["needs"])
    assert ("BN204", "g") in rows and ("BN204", "f") not in rows


@pytest.mark.parametrize(
    "model", [two_heads(4 * 64, 4 * 16, nn.MaxPool2d(2)), two_heads(4 * 81, 4 * 16, nn.MaxPool2d(2))]
)
def test_a_size_for_both_exists(found, model):
    assert "BN210" not in {code for code, _ in found(model, "2x3x32x32")}


def test_width_against_flatten(found):
    def forward(m, x):
        y = torch.relu(m.a(x))
        return m.f(y).mean((2, 3)), m.g(y.flatten(1))

    broken = Fn(forward, a=conv(3, 4), f=nn.Linear(16, 4), g=nn.Linear(4 * 18, 5))  # 18 = 16 * h has no h
    assert ("BN210", "g") in found(broken, "2x3x16x16")
    fits = Fn(forward, a=conv(3, 4), f=nn.Linear(16, 4), g=nn.Linear(4 * 48, 5))  # 3 x 16
    assert "BN210" not in {code for code, _ in found(fits, "2x3x16x16")}


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


def tokens(y):
    return y.flatten(2).transpose(1, 2)


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
