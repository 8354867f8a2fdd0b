"""BN703: what stops a gradient, and where that is meant."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from .conftest import Fn

X = torch.randn(32, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def verdict(severities):
    def run(model, inputs=X):
        found = severities("BN703", model, inputs, static=False)
        return {path: severity.value for path, severity in found.items()}

    return run


def linear(features=16, out=16, zero=False, bias=None):
    torch.manual_seed(features + out)
    layer = nn.Linear(features, out)
    if zero:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    if bias is not None:
        nn.init.constant_(layer.bias, bias)
    return layer


def both(beside, **layers):
    """A path that learns, and another beside it."""
    return Fn(lambda m, x: m.head(m.main(x).tanh() + beside(m, x)), main=linear(), head=linear(16, 4), **layers)


def gated(m, x):
    """A squeeze-excite gate on a branch that starts at zero."""
    x = m.end(x)
    return x * m.up(m.side(x).relu()).sigmoid()


@pytest.mark.parametrize(
    ("model", "wanted"),
    [
        (both(lambda m, x: m.side(x).clamp(10, 20), side=linear()), {"side": "warning"}),
        (both(lambda m, x: m.side(x).relu(), side=linear(bias=-50.0)), {"side": "warning"}),
        (both(lambda m, x: m.side(x) * 0, side=linear()), {"side": "warning"}),
        (both(lambda m, x: m.side(x), side=linear()), {}),
        (both(lambda m, x: m.side(x).detach(), side=linear()), {}),  # none arrives: BN503's
        (both(lambda m, x: m.end(m.side(x).relu()), side=linear(), end=linear(zero=True)), {"side": "info"}),
        (both(lambda m, x: m.side(x) * m.gamma, side=linear(), gamma=nn.Parameter(torch.zeros(1))), {"side": "info"}),
        (
            both(lambda m, x: m.side(x) * m.gate.tanh(), side=linear(), gate=nn.Parameter(torch.zeros(16))),
            {"side": "info"},
        ),
        (
            both(lambda m, x: x @ m.a @ m.b.T, a=nn.Parameter(torch.randn(16, 4)), b=nn.Parameter(torch.zeros(16, 4))),
            {"": "info"},
        ),
        (both(lambda m, x: m.side(torch.zeros_like(x)), side=linear()), {"side": "info"}),
        (
            both(lambda m, x: m.end(m.side(x).relu()), side=linear(zero=True), end=linear()),
            {"side": "warning", "end": "info"},
        ),
        (both(gated, end=linear(zero=True), side=linear(bias=0.0), up=linear()), {"side": "info"}),
        (both(lambda m, x: m.norm(m.side(x)), side=linear(), norm=nn.BatchNorm1d(16)), {}),
        (both(lambda m, x: F.one_hot(x.argmax(1), 16) * m.side(x), side=linear()), {}),
        (both(lambda m, x: (x[:, :1] > 99) * m.side(x), side=linear()), {"side": "info"}),  # an expert nobody chose
        (both(lambda m, x: m.side(x) * torch.zeros(32, 1).bernoulli_(1e-9), side=linear()), {}),  # stochastic depth
        (both(lambda m, x: x.index_add(0, (x[:, 0] > 99).nonzero()[:, 0], m.side(x[x[:, 0] > 99])), side=linear()), {}),
    ],
)
def test_what_stops_a_gradient(verdict, model, wanted):
    assert verdict(model) == wanted


def test_a_norm_that_starts_at_zero(verdict):
    norm = nn.BatchNorm1d(16)
    nn.init.zeros_(norm.weight)
    assert verdict(both(lambda m, x: m.norm(m.side(x)), side=linear(), norm=norm)) == {"side": "info"}


def test_attention_over_one_token(verdict):
    def forward(m, x):
        x = x[:, None]
        scores = (m.q(x) @ m.k(x).transpose(1, 2)).softmax(-1)
        return m.head(scores @ m.v(x))

    assert verdict(Fn(forward, q=linear(), k=linear(), v=linear(), head=linear(16, 4))) == {}


def test_one_cause_is_one_finding(found):
    model = both(lambda m, x: m.end(m.b(m.a(x).relu()).relu()), a=linear(), b=linear(), end=linear(zero=True))
    (finding,) = found(model, X, info=True, select=["BN703"], static=False).values()
    assert finding.evidence["parameters"] == ["a.weight", "a.bias", "b.weight", "b.bias"]
    assert finding.modules == ("a", "b")


def test_a_gradient_that_underflows(found):
    model = both(lambda m, x: m.side(x * 1e-12) * 1e-36, side=linear())
    (finding,) = found(model, X, select=["BN703"], static=False).values()
    assert finding.evidence == {"parameters": ["side.weight"], "cause": "a gradient too small for its dtype"}


@pytest.mark.parametrize(
    "forward",
    [
        lambda m, x: m.head(m.main(x).tanh() + m.end(y := m.side(x)).reshape_as(y)),
        lambda m, x: (m.head(m.main(x).tanh() + m.end(y := m.side(x))), y.detach()),
        lambda m, x: (m.head(m.main(x).tanh() + m.end(y := m.side(x))), y.argmax(1)),
    ],
    ids=["shape", "detached", "argmax"],
)
def test_only_ways_that_a_gradient_comes_back_count(verdict, forward):
    model = Fn(forward, main=linear(), side=linear(), end=linear(zero=True), head=linear(16, 4))
    assert verdict(model) == {"side": "info"}


def test_an_op_without_a_slope_is_another_rules_matter(found):
    model = both(lambda m, x: m.side(x).round(), side=linear())
    assert list(found(model, X, select=["BN503", "BN703"], static=False)) == [("BN503", "side")]


class Affine(nn.Module):
    """A scale and a shift of everything, as timm's LearnableAffineBlock."""

    def __init__(self):
        super().__init__()
        self.scale, self.bias = nn.Parameter(torch.ones(())), nn.Parameter(torch.zeros(()))

    def forward(self, x):
        return self.scale * x + self.bias


def test_a_shift_that_is_taken_off_again(verdict):
    model = both(lambda m, x: (y := m.shift(m.side(x)))[:, :1] - y[:, 1:2], side=linear(), shift=Affine())
    assert verdict(model) == {}


def test_a_norm_as_a_function_that_starts_at_zero(found):
    norm = nn.BatchNorm1d(16)
    nn.init.zeros_(norm.weight)
    model = both(lambda m, x: F.batch_norm(m.side(x), None, None, m.norm.weight, m.norm.bias, True), side=linear())
    model.norm = norm
    (finding,) = found(model, X, info=True, select=["BN703"], static=False).values()
    assert finding.evidence["cause"] == "a layer or factor that starts at zero"


def test_a_norm_over_one_value_is_the_cause(found):
    model = both(lambda m, x: m.norm(m.side(x)), side=linear(16, 1), norm=nn.LayerNorm(1))
    assert list(found(model, X, select=["BN118", "BN703"], static=False)) == [("BN118", "norm")]
