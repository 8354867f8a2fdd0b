"""What the tests of the shape family share: layers, layouts, and how to look at what was found."""

import inspect
import linecache

from torch import nn


def conv(i=3, o=16, k=3, **kw):
    """A convolution that keeps the size."""
    return nn.Conv2d(i, o, k, padding=k // 2, **kw)


def tokens(y):
    """(N, C, H, W) as (N, H*W, C)."""
    return y.flatten(2).transpose(1, 2)


def codes(rows, *wanted):
    """The codes among those found that are asked for."""
    return [code for code, _ in rows if code in wanted]


def one(rows, code):
    """The one finding of a code, whatever else was found."""
    (finding,) = (f for (c, _), f in rows.items() if c == code)
    return finding


def only(rows, code):
    """The one finding of a code; other errors of the shape family would be echoes of it."""
    assert [c for c, _ in rows if c.startswith("BN2") or c.startswith("BN9")] == [code]
    return one(rows, code)


def line_at(location):
    """The text at a finding's place."""
    return linecache.getline(location.file, location.line)


def line_of(cls, text):
    """The line of a class's source that holds a text."""
    lines, start = inspect.getsourcelines(cls)
    return start + next(i for i, line in enumerate(lines) if text in line)
