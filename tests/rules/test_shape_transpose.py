"""BN205: reshapes used as a transpose, and the well-made reshapes that must stay silent."""

import pytest
import torch
from torch import nn

from bnlint import Severity

from .conftest import Fn
from .nets import codes, conv, one

F = nn.functional

# -- BN205 ---------------------------------------------------------------------------------------------------------


def heads(merge):
    def forward(m, x):
        n, t, _ = x.shape
        q, k, v = (layer(x).view(n, t, 4, 6).transpose(1, 2) for layer in (m.q, m.k, m.v))
        y = (q @ k.transpose(-1, -2) / 6**0.5).softmax(-1) @ v
        return m.o(merge(y, n, t))

    return Fn(forward, **{name: nn.Linear(24, 24) for name in "qkvo"})


def folded_heads(merge):
    """view-05: attention on (B*H, L, D)."""

    def forward(m, x):
        n, t, _ = x.shape
        q, k, v = (layer(x).view(n, t, 4, 6).transpose(1, 2).reshape(n * 4, t, 6) for layer in (m.q, m.k, m.v))
        y = torch.bmm((torch.bmm(q, k.transpose(1, 2)) / 6**0.5).softmax(-1), v)
        return m.o(merge(y, n, t))

    return Fn(forward, **{name: nn.Linear(24, 24) for name in "qkvo"})


def split_heads(split):
    def forward(m, x):
        n, t, _ = x.shape
        q, k, v = (split(layer(x), n, t) for layer in (m.q, m.k, m.v))
        y = (q @ k.transpose(-1, -2) / 6**0.5).softmax(-1) @ v
        return m.o(y.view(n, t, 24))

    return Fn(forward, **{name: nn.Linear(24, 24) for name in "qkvo"})


def reshaped(view, shape="2x3x8x12", **layers):
    return Fn(lambda m, x: view(m, m.a(x)), a=conv(), **layers), shape


SCRAMBLED = {
    "tokens by view": (
        *reshaped(lambda m, y: m.f(y.view(y.shape[0], 96, 16)), f=nn.Linear(16, 5)), "x.permute(0, 2, 3, 1).flatten(1, 2)",
    ),
    "channels last by view": (
        *reshaped(lambda m, y: m.f(y.view(-1, 8, 12, 16)), f=nn.Linear(16, 5)), "x.permute(0, 2, 3, 1)",
    ),
    "view-01": (
        *reshaped(lambda m, y: m.k(y.view(y.shape[0], -1, 8, 1)), k=nn.Conv2d(16 * 12, 4, 1)), "x.transpose(2, 3).reshape(-1, 192, 8, 1)",
    ),
    "view-03: queries and batch": (
        Fn(lambda m, x: m.f(torch.relu(m.e(x)).reshape(10, x.shape[0], 7)), e=nn.Linear(5, 7), f=nn.Linear(7, 3)),
        "4x10x5", "x.transpose(0, 1)",
    ),
    "heads merged without transpose": (heads(lambda y, n, t: y.reshape(n, t, 24)), "2x10x24", "x.transpose(1, 2).flatten(2, 3)"),
    "view-05": (folded_heads(lambda y, n, t: y.view(n, t, 24)), "2x10x24", "x.reshape(-1, 4, 10, 6).transpose(1, 2).flatten(2, 3)"),
    "heads split without transpose": (split_heads(lambda y, n, t: y.view(n, 4, t, 6)), "2x10x24", "x.reshape(-1, 10, 4, 6).transpose(1, 2)"),
    "heads folded without transpose": (split_heads(lambda y, n, t: y.view(n * 4, t, 6)), "2x10x24", "x.reshape(-1, 10, 4, 6).transpose(1, 2).flatten(0, 1)"),
    "last states of a bidirectional RNN": (
        Fn(lambda m, x: m.f(m.r(x)[1].reshape(x.shape[0], 14)), r=nn.GRU(5, 7, batch_first=True, bidirectional=True), f=nn.Linear(14, 3)),
        "4x10x5", "x.transpose(0, 1).flatten(1, 2)",
    ),
    "sequence to channels by view": (
        Fn(lambda m, x: m.c(m.e(x).view(-1, 32, 16)), e=nn.Embedding(9, 32), c=nn.Conv1d(32, 4, 3)), "int64[4,16]<9", "x.transpose(1, 2)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SCRAMBLED)
def test_reshape_as_transpose(found, name):
    model, shape, cure = SCRAMBLED[name]
    rows = found(model, shape)
    assert codes(rows, "BN205") == ["BN205"]
    (finding,) = (f for (code, _), f in rows.items() if code == "BN205")
    assert finding.severity is Severity.WARNING and f"`{cure}`" in finding.help
    assert finding.location.file.endswith("test_shape_transpose.py")


def windows(m, x):
    y = m.a(x).permute(0, 2, 3, 1)
    n, h, w, c = y.shape
    y = y.view(n, h // 4, 4, w // 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, c)
    y = m.f(y).view(n, h // 4, w // 4, 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(n, h, w, c)
    return y.permute(0, 3, 1, 2)


def pixel_shuffle(m, x):
    y = m.a(x)
    n, c, h, w = y.shape
    return y.view(n, c // 4, 2, 2, h, w).permute(0, 1, 4, 2, 5, 3).reshape(n, c // 4, h * 2, w * 2)


def pixel_unshuffle(m, x):
    y = m.a(x)
    n, c, h, w = y.shape
    return y.reshape(n, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4).reshape(n, c * 4, h // 2, w // 2)


def channel_shuffle(m, x):
    y = m.a(x)
    n, c, h, w = y.shape
    return y.view(n, 4, c // 4, h, w).transpose(1, 2).reshape(n, c, h, w)


def im2col(m, x):
    y = F.unfold(m.a(x), 3, padding=1)
    return m.f(y.view(x.shape[0], 16, 9, 96).mean(2).transpose(1, 2))


def beams(m, x):
    n, t, _ = x.shape
    y = m.f(x.unsqueeze(1).expand(n, 3, t, 5).reshape(n * 3, t, 5))
    return y.view(n, 3, t, 8).amax(1)


def axial(m, x):
    y = m.a(x)
    n, c, h, w = y.shape
    rows = m.r(y.permute(0, 2, 3, 1).reshape(n * h, w, c)).view(n, h, w, c)
    columns = m.c(rows.permute(0, 2, 1, 3).reshape(n * w, h, c)).view(n, w, h, c)
    return columns.permute(0, 3, 2, 1)


def axial_attention():
    return Fn(
        axial,
        a=conv(),
        **{name: nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True) for name in "rc"},
    )


def stacked_frames(m, x):
    n, t, c = x.shape
    return m.f(x.reshape(n, t // 2, c * 2))


WELL_MADE = {
    "heads": (heads(lambda y, n, t: y.transpose(1, 2).reshape(n, t, 24)), "2x10x24"),
    "folded heads": (folded_heads(lambda y, n, t: y.view(n, 4, t, 6).transpose(1, 2).reshape(n, t, 24)), "2x10x24"),
    "windows": (Fn(windows, a=conv(), f=nn.Linear(16, 16)), "2x3x8x12"),
    "windows as large as the batch": (Fn(windows, a=conv(), f=nn.Linear(16, 16)), "4x3x8x16"),
    "pixel shuffle": (Fn(pixel_shuffle, a=conv()), "2x3x8x12"),
    "pixel unshuffle": (Fn(pixel_unshuffle, a=conv()), "2x3x8x12"),
    "channel shuffle": (Fn(channel_shuffle, a=conv()), "2x3x8x12"),
    "im2col": (Fn(im2col, a=conv(), f=nn.Linear(16, 5)), "2x3x8x12"),
    "beams": (Fn(beams, f=nn.Linear(5, 8)), "2x10x5"),
    "axial attention": (axial_attention(), "2x3x8x12"),
    "stacked frames": (Fn(stacked_frames, f=nn.Linear(10, 8)), "2x12x5"),
    "windows of a sequence": (Fn(lambda m, x: m.f(x.reshape(-1, 2, 8)).sum(1), f=nn.Linear(8, 5)), "2x16x8"),
    "flatten": (reshaped(lambda m, y: m.f(y.flatten(1)), f=nn.Linear(16 * 96, 5))),
    "unflatten": (Fn(lambda m, x: m.a(x.view(-1, 3, 8, 12)), a=conv()), "2x288"),
    "grouped conv": (reshaped(lambda m, y: m.b(y), b=conv(16, 16, groups=16))),
    "groups of heads": (Fn(lambda m, x: m.g(m.f(x).view(*x.shape[:2], 4, 6).flatten(2).view(*x.shape[:2], 2, 12)), f=nn.Linear(24, 24), g=nn.Linear(12, 4)), "2x10x24"),
    "squeezed axes": (Fn(lambda m, x: m.f(m.a(x).mean((2, 3), keepdim=True).view(-1, 1, 1, 16)), a=conv(), f=nn.Linear(16, 5)), "2x3x8x12"),
}  # fmt: skip


@pytest.mark.parametrize("name", WELL_MADE)
def test_well_made_reshapes_are_silent(found, name):
    rows = found(*WELL_MADE[name])
    assert {key for key in rows if key[0].startswith("BN2")} == set()


# -- equally long axes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (reshaped(lambda m, y: m.f(y.view(y.shape[0], -1, y.shape[1])), f=nn.Linear(16, 5))[0], "2x3x4x4"),
        (reshaped(lambda m, y: m.f(y.view(y.shape[0], *y.shape[2:], 16)), f=nn.Linear(16, 5))[0], "2x3x16x16"),
        (
            Fn(lambda m, x: m.f(m.e(x).reshape(x.shape[1], x.shape[0], 7)), e=nn.Linear(5, 7), f=nn.Linear(7, 3)),
            "6x6x5",
        ),
    ],
)
def test_equally_long_axes(found, model, shape):
    finding = one(found(model, shape), "BN205")
    assert finding.severity is Severity.WARNING and "larger input" in finding.note


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (reshaped(lambda m, y: m.f(y.flatten(2).transpose(1, 2)), f=nn.Linear(16, 5))[0], "2x3x4x4"),
        (reshaped(lambda m, y: m.f(y.view(y.shape[0], 16, -1).mean(2)), f=nn.Linear(16, 5))[0], "2x3x4x4"),
        (
            reshaped(lambda m, y: m.f(y.permute(0, 2, 3, 1).reshape(y.shape[0], -1, 16)), f=nn.Linear(16, 5))[0],
            "2x3x4x4",
        ),
        (Fn(windows, a=conv(), f=nn.Linear(16, 16)), "4x3x16x16"),
        (heads(lambda y, n, t: y.transpose(1, 2).reshape(n, t, 24)), "4x4x24"),
    ],
)
def test_equally_long_axes_of_well_made_models_are_silent(found, model, shape):
    assert codes(found(model, shape), "BN205") == []


# -- transpositions that an option turns on ------------------------------------------------------------------------


class Mixed(nn.Module):
    """Informer's attention layer: `mix` is a constructor argument of its own."""

    def __init__(self, mix, always=False):
        super().__init__()
        self.q, self.o, self.mix, self.always = nn.Linear(24, 24), nn.Linear(24, 24), mix, always

    def forward(self, x):
        n, t, _ = x.shape
        y = self.q(x).view(n, t, 4, 6).transpose(1, 2)
        y = ((y @ y.transpose(-1, -2) / 6**0.5).softmax(-1) @ y).transpose(1, 2)
        if self.mix:
            y = y.transpose(2, 1).contiguous()
        if self.always or t > 10**6:
            y = y.transpose(2, 1).contiguous()
        return self.o(y.reshape(n, t, -1))


@pytest.mark.parametrize(
    ("model", "wanted"), [(Mixed(True), []), (Mixed(False), []), (Mixed(False, always=True), ["BN205"])]
)
def test_an_option_that_transposes_is_meant(found, model, wanted):
    assert codes(found(model, "2x10x24"), "BN205") == wanted


def registers(m, x):
    """MaxViT with registers: windows by blocks, register tokens joined and cut off, then windows by a grid."""
    y = m.a(x).permute(0, 2, 3, 1)
    n, h, w, c = y.shape
    y = y.view(n, h // 4, 4, w // 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, c)
    y = m.f(torch.cat([y.mean(1, keepdim=True), y], 1))[:, 1:]
    y = y.reshape(n, h // 4, w // 4, 4, 4, c).permute(0, 5, 1, 3, 2, 4).reshape(n, c, h, w)
    return m.f(y.reshape(n, c, 4, h // 4, 4, w // 4).permute(0, 3, 5, 2, 4, 1).reshape(-1, 16, c))


def test_windows_of_two_kinds_are_silent(found):
    assert codes(found(Fn(registers, a=conv(), f=nn.Linear(16, 16)), "2x3x8x12"), "BN205") == []


# -- the relative shift --------------------------------------------------------------------------------------------


def by_cutting(s, n, t):
    """Transformer-XL, as Funnel and XLNet write it: scores against 2 T distances become scores against positions."""
    return s.reshape(n, 3, 2 * t, t)[:, :, 1:].reshape(n, 3, t, 2 * t - 1)


def by_padding(s, n, t):
    return F.pad(s, (0, 1)).view(n, 3, 2 * t + 1, t)[:, :, 1:].reshape(n, 3, t, 2 * t)


def by_zeros(s, n, t):
    return torch.cat([s.new_zeros(n, 3, t, 1), s], -1).view(n, 3, 2 * t + 1, t)[:, :, 1:].reshape(n, 3, t, 2 * t)


def by_nothing(s, n, t):
    return s.reshape(n, 3, 2 * t, t)


@pytest.mark.parametrize(
    ("shift", "wanted"), [(by_cutting, []), (by_padding, []), (by_zeros, []), (by_nothing, ["BN205"])]
)
def test_relative_shift_is_meant(found, shift, wanted):
    def forward(m, x):
        n, t, _ = x.shape
        scores = (m.q(x).view(n, t, 3, 8).transpose(1, 2) @ m.r.T).reshape(n, 3, t, 2 * t)
        return shift(scores, n, t)

    model = Fn(forward, q=nn.Linear(24, 24), r=nn.Parameter(torch.randn(20, 8)))
    assert codes(found(model, "2x10x24"), "BN205") == wanted
