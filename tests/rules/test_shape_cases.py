"""Real shape bugs, retold in small: the bug is found by its rule, and the repaired model is silent.

The names are those of the collection of public bug reports; `bug` and `fix` differ only in what the report changed.
"""

import pytest
import torch
from torch import nn

from .conftest import Fn
from .nets import conv, tokens


def rows(read, **layers):
    return Fn(read, conv=conv(), **layers)


# a norm of another rank


class Overwritten(nn.Module):
    def __init__(self, own_name):
        super().__init__()
        self.conv, self.fc = conv(1, 8), nn.Linear(8, 8)
        self.bn = nn.BatchNorm2d(8)
        setattr(self, "bn_fc" if own_name else "bn", nn.BatchNorm1d(8))

    def forward(self, x):
        x = torch.relu(self.bn(self.conv(x))).mean((2, 3))
        return torch.relu(getattr(self, "bn_fc", self.bn)(self.fc(x)))


def head(norm):
    return nn.Sequential(nn.Linear(12, 8), norm(8), nn.ReLU(), nn.Linear(8, 2))


def video(norm):
    return nn.Sequential(nn.Conv3d(3, 8, 3, padding=1), norm(8), nn.ReLU(), nn.Conv3d(8, 4, 3))


# view where a permutation was meant


def spectrogram(right):
    def forward(m, x):
        y = torch.relu(m.conv(x))
        n, _, t, _ = y.shape
        y = y.permute(0, 1, 3, 2) if right else y
        return m.k(y.reshape(n, -1, t, 1))

    return rows(forward, k=nn.Conv2d(16 * 12, 4, 1))


def queries(right):
    def forward(m, x):
        y = torch.relu(m.e(x))
        return m.f(y.transpose(0, 1) if right else y.reshape(y.shape[1], y.shape[0], 7))

    return Fn(forward, e=nn.Linear(5, 7), f=nn.Linear(7, 3))


def folded_heads(right):
    def forward(m, x):
        n, t, _ = x.shape
        q, k, v = (m.get_submodule(name)(x).view(n, t, 4, 6).transpose(1, 2).reshape(n * 4, t, 6) for name in "qkv")
        y = torch.bmm((torch.bmm(q, k.transpose(1, 2)) / 6**0.5).softmax(-1), v)
        return m.o(y.view(n, 4, t, 6).transpose(1, 2).reshape(n, t, 24) if right else y.view(n, t, 24))

    return Fn(forward, **{name: nn.Linear(24, 24) for name in "qkvo"})


# the batch in a view


def clips(right):
    def forward(m, x):
        y = m.pool(torch.relu(m.conv3(x)))
        return m.fc((y.mean(2) if right else y).reshape(-1, 8 * 4 * 4))

    return Fn(
        forward, conv3=nn.Conv3d(3, 8, 3, padding=1), pool=nn.AdaptiveAvgPool3d((2, 4, 4)), fc=nn.Linear(8 * 4 * 4, 5)
    )


def backbone(width):
    return rows(lambda m, x: m.fc(torch.relu(m.conv(x)).mean((2, 3)).view(-1, width)), fc=nn.Linear(width, 5))


def converted(right):
    return rows(
        lambda m, x: m.fc(torch.relu(m.conv(x)).view(x.shape[0] if right else 1, -1)), fc=nn.Linear(16 * 8 * 12, 5)
    )


def digits(right):
    return Fn(
        lambda m, x: m.b(torch.relu(m.a(x.view(x.shape[0], -1) if right else x))), a=nn.Linear(784, 32), b=nn.Linear(32, 10)
    )  # fmt: skip


def branches(right):
    return Fn(
        lambda m, x: m.head(torch.cat([torch.relu(m.get_submodule(f"b{i}")(x)) for i in range(6)], int(right))),
        **{f"b{i}": nn.Linear(8, 16) for i in range(6)},
        head=nn.Linear(96 if right else 16, 5),
    )


# layers along the batch


def frames(**options):
    return rows(lambda m, x: m.rnn(tokens(torch.relu(m.conv(x))))[0], rnn=nn.LSTM(16, 8, **options))


def windows(**options):
    def forward(m, x):
        n, h, w = x.shape[0], *x.shape[2:]
        y = (
            m.conv(x)
            .permute(0, 2, 3, 1)
            .view(n, h // 4, 4, w // 4, 4, 16)
            .permute(0, 1, 3, 2, 4, 5)
            .reshape(-1, 16, 16)
        )
        return m.h(m.a(y, y, y)[0]).view(n, h // 4, w // 4, 4, 4, 3)

    return rows(forward, a=nn.MultiheadAttention(16, 2, **options), h=nn.Linear(16, 3))


def table_rows(right):
    layer = nn.TransformerEncoderLayer(16, 2, 32, 0.0)

    def forward(m, x):
        y = m.e(x)
        y = m.t(y.transpose(0, 1)).transpose(0, 1) if right else m.t(y)
        return m.h(y.reshape(x.shape[0], -1))

    encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
    return Fn(forward, e=nn.Embedding(9, 16), t=encoder, h=nn.Linear(160, 3))


class Stacked(nn.Module):
    """Layers of cells; what the first gives back is steps first again, or only what the last gives back is."""

    def __init__(self, right, cell=nn.GRUCell):
        super().__init__()
        self.cells, self.head, self.right = nn.ModuleList([cell(5, 8), cell(8, 8)]), nn.Linear(8, 3), right

    def forward(self, x):
        for cell in self.cells:
            state, out = x.new_zeros(len(x), 8), []
            for step in x.unbind(1) if self.right else x:
                state = cell(step, state)
                out.append(state)
            x = torch.stack(out, 1 if self.right else 0)
        return self.head(x if self.right else x.transpose(0, 1))


IMAGE = "4x3x8x12"
CASES = {  # report: bug, fix, input, code
    "bn-rank-01": (Overwritten(False), Overwritten(True), "16x1x8x8", "BN101"),
    "bn-rank-03": (head(nn.BatchNorm2d), head(nn.BatchNorm1d), "8x12", "BN101"),
    "bn-rank-05": (video(nn.BatchNorm2d), video(nn.BatchNorm3d), "2x3x8x16x16", "BN101"),
    "bn-rank-07": (nn.Sequential(nn.BatchNorm1d(6)), nn.Sequential(nn.Unflatten(0, (1, 6)), nn.LayerNorm(6)), "6", "BN101"),
    "view-01": (spectrogram(False), spectrogram(True), IMAGE, "BN205"),
    "view-03": (queries(False), queries(True), "4x10x5", "BN205"),
    "view-05": (folded_heads(False), folded_heads(True), "2x10x24", "BN205"),
    "view-06": (clips(False), clips(True), "2x3x8x16x16", "BN203"),
    "view-07": (converted(False), converted(True), IMAGE, "BN203"),
    "view-09": (backbone(8), backbone(16), IMAGE, "BN203"),
    "view-10": (digits(False), digits(True), "8x1x28x28", "BN201"),
    "view-12": (branches(False), branches(True), "10x8", "BN203"),
    "bf-01": (frames(), frames(batch_first=True), IMAGE, "BN209"),
    "bf-03": (windows(), windows(batch_first=True), IMAGE, "BN209"),
    "bf-05": (table_rows(False), table_rows(True), "int64[4,10]<9", "BN209"),
    "bf-07": (Stacked(False), Stacked(True), "4x10x5", "BN207"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_bug_is_found(found, case):
    bug, _, shape, code = CASES[case]
    assert {c for c, _ in found(bug, shape) if c.startswith(("BN101", "BN2", "BN9"))} == {code}


@pytest.mark.parametrize("case", CASES)
def test_the_repair_is_silent(found, case):
    _, fix, shape, _ = CASES[case]
    assert [key for key in found(fix, shape) if key[0].startswith(("BN1", "BN2", "BN9"))] == []
