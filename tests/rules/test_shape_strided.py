"""BN215: a view of sizes that fit and strides that do not; `reshape` and views that work stay silent."""

import inspect

import pytest
import torch
from torch import nn

from .conftest import Fn
from .nets import codes, only


def attention(m, x):
    n, t, _ = x.shape
    q, k, v = (part.view(n, t, 2, 8).transpose(1, 2) for part in m.a(x).chunk(3, -1))
    y = (q @ k.transpose(-1, -2) / 8**0.5).softmax(-1) @ v
    return m.o(y.transpose(1, 2).view(n, t, 16))


def channels_last(m, x):
    x = torch.relu(m.a(x.to(memory_format=torch.channels_last)))
    return m.o(x.view(len(x), -1))


def expanded(m, x):
    return m.o(m.a(x)[:, :4, None].expand(-1, 4, 4).view(len(x), 16))


def open_rows(m, x):
    return m.o(m.a(x).view(-1, 4, 4).transpose(1, 2).view(-1, 16))


def sliced(m, x):
    return m.o(m.a(x)[:, :, :8].view(len(x), -1))


BAD = {
    "attention": (attention, {"a": nn.Linear(16, 48), "o": nn.Linear(16, 16)}, "4x10x16"),
    "channels last": (channels_last, {"a": nn.Conv2d(3, 16, 3, padding=1), "o": nn.Linear(1024, 3)}, "8x3x8x8"),
    "expanded": (expanded, {"a": nn.Linear(20, 16), "o": nn.Linear(16, 3)}, "8x20"),
    "rows left open": (open_rows, {"a": nn.Linear(20, 16), "o": nn.Linear(16, 3)}, "8x20"),
    "a slice": (sliced, {"a": nn.Linear(20, 16), "o": nn.Linear(80, 3)}, "8x10x20"),
}


@pytest.mark.parametrize("name", BAD)
def test_view_of_strided_axes(found, name):
    forward, layers, spec = BAD[name]
    rows = found(Fn(forward, **layers), spec)
    finding = only(rows, "BN215")
    lines, start = inspect.getsourcelines(forward)
    assert finding.location.line == start + next(
        i for i, line in enumerate(lines) if ".view(" in line and "m.o" in line
    )
    assert "reshape" in finding.help


@pytest.mark.parametrize(
    "forward",
    [
        lambda m, x: m.o(m.a(x).view(-1, 4, 4).transpose(1, 2).reshape(-1, 16)),
        lambda m, x: m.o(m.a(x).view(-1, 4, 4).transpose(1, 2).contiguous().view(-1, 16)),
        lambda m, x: m.o(m.a(x).view(-1, 4, 4).transpose(1, 2).transpose(1, 2).view(-1, 16)),
        lambda m, x: m.o(m.a(x)[:, :, None].expand(-1, 16, 2).view(len(x), 16, 2)[:, :, 0]),
    ],
)
def test_what_runs_is_silent(found, forward):
    model = Fn(forward, a=nn.Linear(20, 16), o=nn.Linear(16, 3))
    assert codes(found(model, "8x20"), "BN215", "BN203", "BN204", "BN903") == []


def test_sizes_that_do_not_fit_are_another_matter(found):
    model = Fn(lambda m, x: m.o(m.a(x).transpose(1, 2).view(len(x), 30)), a=nn.Linear(20, 16), o=nn.Linear(30, 3))
    assert codes(found(model, "8x4x20"), "BN215", "BN204") == ["BN204"]
