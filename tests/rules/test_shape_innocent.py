"""Well-made models of the kinds that look like shape bugs: no finding of the shape family above info."""

import pytest
import torch
from torch import nn

from .conftest import Fn
from .nets import conv, tokens

F = nn.functional


def gmlp(m, x):
    x = tokens(m.patch(x))
    u, v = F.gelu(m.up(m.norm(x))).chunk(2, -1)
    return x + m.down(u * m.space(m.gate(v).transpose(1, 2)).transpose(1, 2))


def mlp_mixer(m, x):
    x = tokens(m.patch(x))
    x = x + m.t2(F.gelu(m.t1(m.norm(x).transpose(1, 2)))).transpose(1, 2)
    return x + m.c2(F.gelu(m.c1(m.norm(x))))


def squeeze_excite(m, x):
    x = m.conv(x)
    gate = m.up(F.relu(m.down(x.mean((2, 3))))).sigmoid()
    return x * gate.view(x.shape[0], -1, 1, 1)


def squeeze_excite_by_convs(m, x):
    x = m.conv(x)
    return x * m.up(F.relu(m.down(F.adaptive_avg_pool2d(x, 1)))).sigmoid()


def spatial_gate(m, x):
    x = m.conv(x)
    return x * m.gate(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)).sigmoid()


class Swin(nn.Module):
    """Shifted windows of 4 x 4 with a relative position bias and a mask."""

    def __init__(self, dim=16, heads=2):
        super().__init__()
        self.patch, self.norm = nn.Conv2d(3, dim, 4, stride=4), nn.LayerNorm(dim)
        self.qkv, self.out, self.heads = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim), heads
        self.table = nn.Parameter(torch.randn(7 * 7, heads))
        at = torch.stack(torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij")).flatten(1)
        apart = (at[:, :, None] - at[:, None]).permute(1, 2, 0) + 3
        self.register_buffer("index", apart[..., 0] * 7 + apart[..., 1])

    def forward(self, x):
        x = self.norm(self.patch(x).permute(0, 2, 3, 1))
        n, h, w, c = x.shape
        x = torch.roll(x, (-2, -2), (1, 2))
        x = x.view(n, h // 4, 4, w // 4, 4, c).transpose(2, 3).reshape(-1, 16, c)
        q, k, v = self.qkv(x).reshape(-1, 16, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        bias = self.table[self.index.view(-1)].view(16, 16, -1).permute(2, 0, 1)
        a = q @ k.transpose(-2, -1) / 8**0.5 + bias[None]
        a = a.view(n, -1, self.heads, 16, 16) + torch.zeros(h * w // 16, 16, 16)[:, None]
        a = a.view(-1, self.heads, 16, 16).softmax(-1)
        x = self.out((a @ v).transpose(1, 2).reshape(-1, 16, c))
        x = x.view(n, h // 4, w // 4, 4, 4, c).transpose(2, 3).reshape(n, h, w, c)
        return torch.roll(x, (2, 2), (1, 2)).permute(0, 3, 1, 2)


def axial(m, x):
    x = m.conv(x)
    n, c, h, w = x.shape
    y = x.permute(0, 3, 2, 1).reshape(n * w, h, c)
    x = m.columns(y, y, y)[0].reshape(n, w, h, c).permute(0, 2, 1, 3)
    y = x.reshape(n * h, w, c)
    return m.rows(y, y, y)[0].view(n, h, w, c).permute(0, 3, 1, 2)


def time_distributed(m, x):
    n, t = x.shape[:2]
    y = F.relu(m.conv(x.view(n * t, *x.shape[2:]))).mean((2, 3))
    return m.head(m.rnn(y.view(n, t, -1))[0][:, -1])


def beams(m, ids):
    n, t = ids.shape
    y = m.embed(ids[:, None].expand(n, 3, t).reshape(n * 3, t))
    scores = m.head(m.rnn(y)[0][:, -1]).log_softmax(-1)
    return scores.view(n, 3 * 9).topk(3).values


def contrastive(m, x):
    z = F.normalize(m.b(F.relu(m.a(torch.cat([x, x.flip(1)])))), dim=1)
    return z @ z.T / 0.1


def clip(m, x):
    a, b = F.normalize(m.a(x), dim=1), F.normalize(m.b(x), dim=1)
    return a @ b.T * m.scale.exp()


def triplets(m, x):
    z = m.b(F.relu(m.a(x)))
    apart = (z[:, None] - z[None]).pow(2).sum(-1)
    return (apart[:, :, None] - apart[:, None]).relu()


def segments(m, x):
    y = F.relu(m.conv(x.view(-1, 3, *x.shape[3:]))).mean((2, 3))
    return m.head(y).view(x.shape[0], -1, 5).mean(1)


def im2col(m, x):
    x = m.conv(x)
    columns = F.unfold(x, 3, padding=1)  # (N, C * 9, L)
    y = m.weight.view(8, -1) @ columns
    return y.view(x.shape[0], 8, *x.shape[2:])


def channel_attention(m, x):
    n, _, h, w = x.shape
    q, k, v = m.qkv(x).reshape(n, 3, 4, 4, h * w).unbind(1)
    return ((q @ k.transpose(-1, -2)).softmax(-1) @ v).reshape(n, 16, h, w)


def pixel_shuffles(m, x):
    y = F.pixel_shuffle(m.conv(x), 2)
    return m.back(F.pixel_unshuffle(F.relu(y), 2))


def patch_merging(m, x):
    x = m.patch(x).permute(0, 2, 3, 1)
    n, h, w, c = x.shape
    x = x.reshape(n, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 4, 2, 5).flatten(3)
    return m.reduce(x)


def class_token(m, x):
    x = tokens(m.patch(x))
    x = torch.cat([m.cls.expand(x.shape[0], -1, -1), x], 1) + m.places
    x = m.block(x)
    return m.head(x[:, 0]), x[:, 1:].transpose(1, 2).unflatten(2, (4, 6))


def attention(**options):
    return nn.MultiheadAttention(16, 2, **options)


PATCH = {"patch": nn.Conv2d(3, 16, 4, stride=4)}
PAIR = {"a": nn.Linear(12, 16), "b": nn.Linear(16, 8)}
IMAGE = "2x3x16x24"
MODELS = {
    "gMLP": (Fn(gmlp, **PATCH, norm=nn.LayerNorm(16), up=nn.Linear(16, 32), gate=nn.LayerNorm(16), space=nn.Linear(24, 24), down=nn.Linear(16, 16)), IMAGE),
    "MLP-Mixer": (Fn(mlp_mixer, **PATCH, norm=nn.LayerNorm(16), t1=nn.Linear(24, 48), t2=nn.Linear(48, 24), c1=nn.Linear(16, 32), c2=nn.Linear(32, 16)), IMAGE),
    "MLP-Mixer, as many tokens as channels": (Fn(mlp_mixer, **PATCH, norm=nn.LayerNorm(16), t1=nn.Linear(16, 48), t2=nn.Linear(48, 16), c1=nn.Linear(16, 32), c2=nn.Linear(32, 16)), "2x3x16x16"),
    "squeeze-excite": (Fn(squeeze_excite, conv=conv(), down=nn.Linear(16, 4), up=nn.Linear(4, 16)), IMAGE),
    "squeeze-excite by convs": (Fn(squeeze_excite_by_convs, conv=conv(), down=conv(16, 4, 1), up=conv(4, 16, 1)), IMAGE),
    "spatial gate": (Fn(spatial_gate, conv=conv(), gate=conv(2, 1, 7)), IMAGE),
    "Swin": (Swin(), "2x3x32x48"),
    "Swin, as many windows as samples": (Swin(), "4x3x32x32"),
    "axial attention": (Fn(axial, conv=conv(), columns=attention(batch_first=True), rows=attention(batch_first=True)), IMAGE),
    "axial attention, square": (Fn(axial, conv=conv(), columns=attention(batch_first=True), rows=attention(batch_first=True)), "16x3x16x16"),
    "time-distributed": (Fn(time_distributed, conv=conv(), rnn=nn.GRU(16, 8, batch_first=True), head=nn.Linear(8, 5)), "2x6x3x8x8"),
    "time-distributed, as many steps as samples": (Fn(time_distributed, conv=conv(), rnn=nn.GRU(16, 8, batch_first=True), head=nn.Linear(8, 5)), "6x6x3x8x8"),
    "beams": (Fn(beams, embed=nn.Embedding(9, 8), rnn=nn.GRU(8, 8, batch_first=True), head=nn.Linear(8, 9)), "int64[4,6]<9"),
    "contrastive views": (Fn(contrastive, **PAIR), "8x12"),
    "two encoders contrasted": (Fn(clip, a=nn.Linear(12, 8), b=nn.Linear(12, 8), scale=nn.Parameter(torch.zeros(()))), "8x12"),
    "triplets": (Fn(triplets, **PAIR), "8x12"),
    "segments": (Fn(segments, conv=conv(), head=nn.Linear(16, 5)), "2x4x3x8x8"),
    "im2col": (Fn(im2col, conv=conv(), weight=nn.Parameter(torch.randn(8, 16, 3, 3))), IMAGE),
    "channel attention": (Fn(channel_attention, qkv=conv(3, 48, 1)), IMAGE),
    "pixel shuffle and back": (Fn(pixel_shuffles, conv=conv(), back=conv(16, 16)), IMAGE),
    "patch merging": (Fn(patch_merging, **PATCH, reduce=nn.Linear(64, 32)), IMAGE),
    "class token": (Fn(class_token, **PATCH, cls=nn.Parameter(torch.zeros(1, 1, 16)), places=nn.Parameter(torch.randn(1, 25, 16)), block=nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True), head=nn.Linear(16, 5)), IMAGE),
    "depthwise and grouped": (nn.Sequential(conv(), nn.ReLU(), conv(16, 16, groups=16), conv(16, 24, 1), nn.ReLU(), conv(24, 24, groups=4), nn.ReLU()), IMAGE),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_well_made_models_are_silent(found, name):
    assert [key for key in found(*MODELS[name]) if key[0].startswith(("BN117", "BN2", "BN9"))] == []


@pytest.mark.parametrize("name", MODELS)
def test_they_run(name):
    model, shape = MODELS[name]
    sizes = [int(size) for size in shape.removeprefix("int64[").partition("]")[0].replace(",", "x").split("x")]
    model(torch.zeros(sizes, dtype=torch.long) if shape.startswith("int64") else torch.randn(sizes))


@pytest.mark.parametrize(
    ("merge", "wanted"),
    [
        (lambda y, n, t: y.transpose(1, 2).reshape(n, t, 24), []),
        (lambda y, n, t: y.permute(0, 2, 1, 3).flatten(2), []),
        (lambda y, n, t: y.transpose(1, 2).contiguous().view(n, -1, 24), []),
        (lambda y, n, t: y.reshape(n, t, 24), ["BN205"]),
        (lambda y, n, t: y.contiguous().view(n, -1, 24), ["BN205"]),
        (lambda y, n, t: y.permute(0, 3, 1, 2).reshape(n, t, 24), ["BN205"]),  # each wrong in its own way
        (lambda y, n, t: y.permute(2, 0, 1, 3).reshape(n, t, 24), ["BN205"]),
    ],
)
@pytest.mark.parametrize("steps", [10, 7])
def test_heads_put_together(found, merge, wanted, steps):
    def forward(m, x):
        n, t, _ = x.shape
        q, k, v = (m.get_submodule(name)(x).view(n, t, 4, 6).transpose(1, 2) for name in "qkv")
        return m.o(merge((q @ k.transpose(-1, -2) / 6**0.5).softmax(-1) @ v, n, t))

    model = Fn(forward, **{name: nn.Linear(24, 24) for name in "qkvo"})
    assert [code for code, _ in found(model, f"3x{steps}x24") if code.startswith("BN2")] == wanted
