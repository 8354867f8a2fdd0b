"""Axis roles on the layouts people write, by a compact notation.

`b` batch, `c` channels/features, `s` spatial, `t` sequence, `?` unknown, `1` an axis of one; `b*t` folded, `c/` a
piece of an axis, `~` axes interleaved beyond recovery.
"""

import pytest
import torch
from torch import nn

from bnlint.graph.axes import Role
from bnlint.graph.model import Graph
from bnlint.graph.record import record
from bnlint.graph.untouched import untouched
from tests.rules.conftest import Fn

_LETTER = {Role.BATCH: "b", Role.CHANNEL: "c", Role.SPATIAL: "s", Role.SEQUENCE: "t", Role.UNKNOWN: "?"}


def describe(axes):
    def one(axis):
        if any(atom.mixed for atom in axis):
            return "~"
        return "*".join(_LETTER[atom.role] + "/" * bool(atom.part) for atom in axis) or "1"

    return " ".join(one(axis) for axis in axes)


def output_axes(forward, *inputs, batch=(), **layers):
    model = Fn(forward, **layers)
    with untouched(model):
        given = tuple(torch.zeros(s) if isinstance(s, tuple) else s for s in inputs)
        recording = record(model, given, batch_axes=batch)
    assert recording.error is None, recording.error
    graph = Graph(recording, model)
    return [describe(graph.axes(node)) for node in graph.outputs]


def conv(i=3, o=16):
    return nn.Conv2d(i, o, 3, padding=1)


IMAGE = (4, 3, 8, 12)
IDS = torch.zeros(4, 6, dtype=torch.long)

LAYOUTS = {
    "nchw": (lambda m, x: m.a(x), [IMAGE], {"a": conv()}, "b c s s"),
    "nchw strided": (lambda m, x: m.a(x)[:, :, ::2], [IMAGE], {"a": conv()}, "b c s s"),
    "nhwc by permute": (lambda m, x: m.a(x).permute(0, 2, 3, 1), [IMAGE], {"a": conv()}, "b s s c"),
    "nhwc and back": (lambda m, x: m.a(x).permute(0, 2, 3, 1).permute(0, 3, 1, 2), [IMAGE], {"a": conv()}, "b c s s"),
    "movedim": (lambda m, x: m.a(x).movedim(1, -1), [IMAGE], {"a": conv()}, "b s s c"),
    "channels-last linear": (lambda m, x: m.f(m.a(x).permute(0, 2, 3, 1)), [IMAGE], {"a": conv(), "f": nn.Linear(16, 5)}, "b s s c"),
    "linear on width": (lambda m, x: m.f(m.a(x)), [IMAGE], {"a": conv(), "f": nn.Linear(12, 12)}, "b c s s"),
    "flatten": (lambda m, x: m.a(x).flatten(1), [IMAGE], {"a": conv()}, "b c*s*s"),
    "flatten view": (lambda m, x: m.a(x).view(x.size(0), -1), [IMAGE], {"a": conv()}, "b c*s*s"),
    "flatten positions": (lambda m, x: m.a(x).flatten(2), [IMAGE], {"a": conv()}, "b c s*s"),
    "patch tokens": (lambda m, x: m.a(x).flatten(2).transpose(1, 2), [IMAGE], {"a": conv()}, "b s*s c"),
    "unflatten tokens": (lambda m, x: m.a(x).flatten(2).view(4, 16, 8, 12), [IMAGE], {"a": conv()}, "b c s s"),
    "global pool": (lambda m, x: m.a(x).mean((2, 3)), [IMAGE], {"a": conv()}, "b c"),
    "adaptive pool": (lambda m, x: nn.functional.adaptive_avg_pool2d(m.a(x), 1), [IMAGE], {"a": conv()}, "b c 1 1"),
    "batch folded": (lambda m, x: m.a(x).view(-1, 96), [IMAGE], {"a": conv()}, "b*c s*s"),
    "features split into rows": (lambda m, x: m.a(x).view(-1, 192), [IMAGE], {"a": conv()}, "b*c/ c/*s*s"),
    "wrong view for permute": (lambda m, x: m.a(x).view(4, 8, 12, 16), [IMAGE], {"a": conv()}, "b c/ ~ ~"),
    "ids": (lambda m, x: m.e(x), [IDS], {"e": nn.Embedding(10, 8)}, "b t c"),
    "ids to conv1d": (lambda m, x: m.k(m.e(x).transpose(1, 2)), [IDS], {"e": nn.Embedding(10, 8), "k": nn.Conv1d(8, 7, 3)}, "b c t"),
    "time folded into batch and back": (
        lambda m, x: m.f(m.e(x).reshape(-1, 8)).reshape(4, 6, 5), [IDS], {"e": nn.Embedding(10, 8), "f": nn.Linear(8, 5)}, "b t c",
    ),
    "time folded into batch": (lambda m, x: m.e(x).view(-1, 8), [IDS], {"e": nn.Embedding(10, 8)}, "b*t c"),
    "batch and time swapped by view": (lambda m, x: m.e(x).view(6, 4, 8), [IDS], {"e": nn.Embedding(10, 8)}, "~ ~ ~"),
    "sequence first": (lambda m, x: m.e(x).transpose(0, 1), [IDS], {"e": nn.Embedding(10, 8)}, "t b c"),
    "lstm batch first": (lambda m, x: m.l(x)[0], [(4, 6, 5)], {"l": nn.LSTM(5, 7, batch_first=True)}, "b t c"),
    "lstm last step": (lambda m, x: m.l(x)[0][:, -1], [(4, 6, 5)], {"l": nn.LSTM(5, 7, batch_first=True)}, "b c"),
    "lstm hidden": (lambda m, x: m.l(x)[1][0][-1], [(4, 6, 5)], {"l": nn.LSTM(5, 7, batch_first=True)}, "b c"),
    "gru on swapped axes": (lambda m, x: m.l(x.transpose(0, 1))[0], [(4, 6, 5)], {"l": nn.GRU(5, 7)}, "t b c"),
    "heads split": (lambda m, x: m.f(x).view(4, 6, 2, 4), [(4, 6, 5)], {"f": nn.Linear(5, 8)}, "b t c/ c/"),
    "heads moved": (lambda m, x: m.f(x).view(4, 6, 2, 4).transpose(1, 2), [(4, 6, 5)], {"f": nn.Linear(5, 8)}, "b c/ t c/"),
    "heads merged again": (
        lambda m, x: m.f(x).view(4, 6, 2, 4).transpose(1, 2).transpose(1, 2).reshape(4, 6, 8), [(4, 6, 5)], {"f": nn.Linear(5, 8)}, "b t c",
    ),
    "heads merged without transpose": (
        lambda m, x: m.f(x).view(4, 6, 2, 4).transpose(1, 2).reshape(4, 6, 8), [(4, 6, 5)], {"f": nn.Linear(5, 8)}, "b c/*t/ t/*c/",
    ),
    "attention scores": (
        lambda m, x: (lambda q: q @ q.transpose(-1, -2))(m.f(x).view(4, 6, 2, 4).transpose(1, 2)), [(4, 6, 5)], {"f": nn.Linear(5, 8)}, "b c/ t t",
    ),
    "sdpa": (
        lambda m, x: (lambda q: nn.functional.scaled_dot_product_attention(q, q, q))(m.f(x).view(4, 6, 2, 4).transpose(1, 2)),
        [(4, 6, 5)], {"f": nn.Linear(5, 8)}, "b c/ t c/",
    ),
    "einsum scores": (lambda m, x: torch.einsum("bid,bjd->bij", m.f(x), m.f(x)), [(4, 6, 5)], {"f": nn.Linear(5, 8)}, "b t t"),
    "multihead attention": (lambda m, x: m.h(m.f(x), m.f(x), m.f(x))[0], [(4, 6, 5)], {"f": nn.Linear(5, 8), "h": nn.MultiheadAttention(8, 2, batch_first=True)}, "b t c"),
    "token mixing": (lambda m, x: m.g(m.f(x).transpose(1, 2)).transpose(1, 2), [(4, 6, 5)], {"f": nn.Linear(5, 8), "g": nn.Linear(6, 9)}, "b t c"),
    "windows": (
        lambda m, x: m.a(x).permute(0, 2, 3, 1).view(4, 2, 4, 3, 4, 16).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, 16), [IMAGE], {"a": conv()}, "b*s/*s/ s/*s/ c",
    ),
    "windows and back": (
        lambda m, x: m.a(x).permute(0, 2, 3, 1).view(4, 2, 4, 3, 4, 16).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, 16)
        .view(4, 2, 3, 4, 4, 16).permute(0, 1, 3, 2, 4, 5).reshape(4, 8, 12, 16), [IMAGE], {"a": conv()}, "b s s c",
    ),
    "channel shuffle": (lambda m, x: m.a(x).view(4, 2, 8, 8, 12).transpose(1, 2).reshape(4, 16, 8, 12), [IMAGE], {"a": conv()}, "b c/*c/ s s"),
    "grouped conv": (lambda m, x: m.a(x), [(4, 8, 6, 6)], {"a": nn.Conv2d(8, 8, 3, groups=8)}, "b c s s"),
    "pixel shuffle": (lambda m, x: nn.functional.pixel_shuffle(m.a(x), 2), [IMAGE], {"a": conv()}, "b c s s"),
    "unfold": (lambda m, x: nn.functional.unfold(m.a(x), 2), [IMAGE], {"a": conv()}, "b c s"),
    "patches by Tensor.unfold": (lambda m, x: m.f(x.unfold(-1, 4, 2)), [(4, 7, 16)], {"f": nn.Linear(4, 9)}, "b c ? c"),
    "squeeze-excite gate": (
        lambda m, x: (lambda y: y * m.g(y.mean((2, 3)))[:, :, None, None].sigmoid())(m.a(x)), [IMAGE], {"a": conv(), "g": nn.Linear(16, 16)}, "b c s s",
    ),
    "position table": (lambda m, x: m.e(x) + m.p(torch.arange(6)), [IDS], {"e": nn.Embedding(10, 8), "p": nn.Embedding(6, 8)}, "b t c"),
    "class token": (lambda m, x: torch.cat([m.e(x).mean(1, keepdim=True), m.e(x)], 1), [IDS], {"e": nn.Embedding(10, 8)}, "b t c"),
    "class token and back": (
        lambda m, x: (lambda y: torch.cat([y.mean(1, keepdim=True), y], 1)[:, 1:].view(4, 8, 12, 16))(m.a(x).flatten(2).transpose(1, 2)),
        [IMAGE], {"a": conv()}, "b s s c",
    ),
    "joined and split": (lambda m, x: torch.cat([m.a(x), m.b(x)]).chunk(2)[1], [IMAGE], {"a": conv(), "b": conv()}, "b c s s"),
    "joined and split elsewhere": (lambda m, x: torch.cat([m.a(x), m.b(x)])[2:6], [IMAGE], {"a": conv(), "b": conv()}, "b c s s"),
    "joined twice the same": (lambda m, x: (lambda y: torch.cat([y, y]).split([4, 4])[0])(m.a(x)), [IMAGE], {"a": conv()}, "b c s s"),
    "skip": (lambda m, x: m.a(x) + m.b(m.a(x)), [IMAGE], {"a": conv(), "b": conv(16)}, "b c s s"),
    "dense block": (lambda m, x: torch.cat([m.a(x), x], 1), [IMAGE], {"a": conv()}, "b c s s"),
    "transposed conv": (lambda m, x: m.a(x), [IMAGE], {"a": nn.ConvTranspose2d(3, 5, 2, 2)}, "b c s s"),
    "chunk": (lambda m, x: m.a(x).chunk(2, 1)[1], [IMAGE], {"a": conv()}, "b c s s"),
    "unbind qkv": (lambda m, x: m.f(x).view(4, 6, 3, 8).unbind(2)[1], [(4, 6, 5)], {"f": nn.Linear(5, 24)}, "b t c/"),
    "volume": (lambda m, x: m.a(x), [(2, 1, 4, 5, 6)], {"a": nn.Conv3d(1, 4, 3, padding=1)}, "b c s s s"),
    "frames folded into batch": (
        lambda m, x: m.a(x.flatten(0, 1)).mean((2, 3)).unflatten(0, (4, 5)), [(4, 5, 3, 8, 8)], {"a": conv()}, "b t c",
    ),
    "two inputs share the batch": (lambda m, x, y: torch.cat([m.f(x), m.g(y)], -1), [(4, 5), (4, 6)], {"f": nn.Linear(5, 3), "g": nn.Linear(6, 2)}, "b c"),
    "expand": (lambda m, x: m.f(x)[:, None].expand(4, 7, 3), [(4, 5)], {"f": nn.Linear(5, 3)}, "b ? c"),
    "encoder layer": (lambda m, x: m.t(x), [(4, 6, 8)], {"t": nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)}, "b t c"),
    "masked": (lambda m, x: m.e(x).masked_fill((x == 0)[..., None], 0.0), [IDS], {"e": nn.Embedding(10, 8)}, "b t c"),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_layout(name):
    forward, inputs, layers, expected = LAYOUTS[name]
    assert output_axes(forward, *inputs, **layers) == [expected]


SEQUENCE_FIRST = {
    "lstm": (lambda m, x: m.l(x)[0], [(6, 4, 5)], [1], {"l": nn.LSTM(5, 7)}, "t b c"),
    "lstm last step": (lambda m, x: m.l(x)[0][-1], [(6, 4, 5)], [1], {"l": nn.LSTM(5, 7)}, "b c"),
    "lstm hidden": (lambda m, x: m.l(x)[1][0][-1], [(6, 4, 5)], [1], {"l": nn.LSTM(5, 7)}, "b c"),
    "linear": (lambda m, x: m.f(x), [(6, 4, 5)], [1], {"f": nn.Linear(5, 8)}, "t b c"),
    "attention": (
        lambda m, x: m.h(x, x, x)[0], [(6, 4, 8)], [1], {"h": nn.MultiheadAttention(8, 2)}, "t b c",
    ),
    "encoder": (
        lambda m, x: m.e(x), [(6, 4, 8)], [1], {"e": nn.TransformerEncoderLayer(8, 2, 16)}, "t b c",
    ),
    "heads as people write them": (
        lambda m, x: m.f(x).view(6, 4 * 2, 4).transpose(0, 1), [(6, 4, 5)], [1], {"f": nn.Linear(5, 8)}, "b*c/ t c/",
    ),
    "ids": (lambda m, x: m.e(x), [IDS.t()], [1], {"e": nn.Embedding(10, 8)}, "t b c"),
    "to batch first": (lambda m, x: m.f(x).transpose(0, 1), [(6, 4, 5)], [1], {"f": nn.Linear(5, 8)}, "b t c"),
    "mean over time": (lambda m, x: m.f(x).mean(0), [(6, 4, 5)], [1], {"f": nn.Linear(5, 8)}, "b c"),
    "as long as the batch": (lambda m, x: m.f(x), [(4, 4, 5)], [1], {"f": nn.Linear(5, 8)}, "t b c"),
    "positions without a batch": (
        lambda m, x, p: m.f(x) + m.e(p), [(4, 6, 5), torch.arange(6)], [0, None], {"f": nn.Linear(5, 8), "e": nn.Embedding(6, 8)}, "b t c",
    ),
    "pairs in a list": (
        lambda m, xs: torch.stack([m.f(xs[0]), m.f(xs[1])]), [[torch.zeros(6, 4, 5), torch.zeros(6, 4, 5)]], [1, 1], {"f": nn.Linear(5, 8)}, "? t b c",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SEQUENCE_FIRST)
def test_layout_whose_batch_is_not_in_front(name):
    forward, inputs, batch, layers, expected = SEQUENCE_FIRST[name]
    assert output_axes(forward, *inputs, batch=batch, **layers) == [expected]
