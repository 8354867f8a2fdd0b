"""BN206 and BN117: shape bugs that raise nothing, and the look-alikes that must stay silent."""

import pytest
import torch
from torch import nn

from bnlint import Severity

from .conftest import Fn
from .nets import codes, conv, one, tokens

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


@pytest.mark.parametrize(
    "forward",
    [
        lambda m, x: m.v(x).sigmoid() * m.f(x).amax(1),
        lambda m, x: m.f(x).mean(1) - m.v(x),
        lambda m, x: m.v(x) + (m.f(x)[:, :1] * 2).squeeze(1),
    ],
)
def test_map_against_mask(found, forward):
    rows = found(Fn(forward, f=conv(3, 8), v=conv(3, 1)), "4x3x6x7")
    assert one(rows, "BN206").evidence == {"shapes": [[4, 1, 6, 7], [4, 6, 7]]}


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.score = conv(3, 1)

    def forward(self, x, mask):
        return self.score(x).sigmoid() * mask


@pytest.mark.parametrize(("shape", "wanted"), [((4, 6, 7), ["BN206"]), ((4, 1, 6, 7), []), ((6, 7), [])])
def test_mask_that_is_an_input(found, shape, wanted):
    rows = found(Masked(), {"x": torch.randn(4, 3, 6, 7), "mask": torch.ones(shape)})
    assert codes(rows, "BN206") == wanted


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
