"""BN608, BN609 and BN614: eval mode, other samples, and scales that nothing explains."""

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from .conftest import Fn

X = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
MAPS = torch.randn(8, 3, 12, 12, generator=torch.Generator().manual_seed(0))
STEPS = torch.randn(6, 5, 16, generator=torch.Generator().manual_seed(0))
EDGES = torch.tensor([[0, 1, 2, 3], [1, 2, 3, 0]])


@pytest.fixture
def verdict(severities):
    def run(code, model, inputs, **options):
        found = severities(code, model, inputs, static=False, **options)
        return {path: severity.value for path, severity in found.items()}

    return run


def mlp(before=lambda x: x, between=lambda x: x):
    """Two layers, and something before and between them."""
    torch.manual_seed(0)
    layers = {"inner": nn.Linear(16, 32), "outer": nn.Linear(32, 4), "between": between}
    return Fn(lambda m, x: m.outer(m.between(m.inner(before(x)).relu())), **layers)


def pooled_pairs(m, x):
    """All pairs of samples, those of one side pooled by a learnt query that is repeated for each."""
    pooled = nn.functional.scaled_dot_product_attention(m.p.repeat(len(x), 1, 1), m.b(x)[:, None], m.b(x)[:, None])
    return m.a(x) @ pooled[:, 0].T


class Tagger(nn.Module):
    """Recurrent along axis 0, whatever that is."""

    def __init__(self, take):
        super().__init__()
        self.rnn, self.head, self.take = nn.LSTM(16, 8), nn.Linear(8, 4), take

    def forward(self, x):
        return self.head(self.take(self.rnn(x)[0]))


class Dropped(nn.Module):
    def forward(self, x):
        return nn.functional.dropout(x, 0.5)


@pytest.mark.parametrize(
    ("model", "inputs", "wrong"),
    [
        (mlp(lambda x: x - x.mean(0)), X, True),
        (mlp(lambda x: x / x.norm()), X, True),
        (mlp(lambda x: x.cumsum(0)), X, True),  # the first sample sees no other
        (mlp(lambda x: x.flip(0).cumsum(0).flip(0)), X, True),  # and here the last
        (mlp(lambda x: x.softmax(0)), X, True),
        (mlp(lambda x: (x @ x.T / 16).softmax(-1) @ x), X, True),
        (mlp(lambda x: x.softmax(1)), X, False),
        (mlp(between=nn.BatchNorm1d(32)), X, False),  # its running statistics
        (mlp(between=nn.BatchNorm1d(32, track_running_stats=False)), X, False),  # BN121's
        (mlp(between=Dropped()), X, False),  # BN406's, chance is no neighbour
        (Tagger(lambda x: x[:, -1]), STEPS, True),
        (Tagger(lambda x: x), STEPS, False),  # time first, maybe
        (Tagger(lambda x: x[-1]), STEPS, False),  # time first
        (Fn(lambda m, x: m.a(x) @ m.b(x).T, a=nn.Linear(16, 8), b=nn.Linear(16, 8)), X, False),  # all pairs
        (Fn(pooled_pairs, a=nn.Linear(16, 8), b=nn.Linear(16, 8), p=nn.Parameter(torch.randn(1, 1, 8))), X, False),
        (Fn(lambda m, x: m.a(x).mean(), a=nn.Linear(16, 8)), X, False),  # a loss
        (mlp(lambda x: x - x.mean(0)), X[:1], False),  # no other sample
        (nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(4, 8), nn.ReLU(), nn.Conv2d(8, 4, 3)), MAPS, False),
    ],
)
def test_batch_mixing(verdict, model, inputs, wrong):
    assert list(verdict("BN608", model, inputs).values()) == ["error"] * wrong


def branching(m, x):
    """Rows that differ go another way than equal ones."""
    x = m.a(x)
    return x - x.mean() if bool((x[0] != x[-1]).any()) else x * 2


def test_choices_made_on_the_data(verdict):
    assert verdict("BN608", Fn(branching, a=nn.Linear(16, 4)), X) == {}
    ranked = Fn(lambda m, x: m.a(x) + m.a(x).topk(1, dim=0).values, a=nn.Linear(16, 4))
    assert list(verdict("BN608", ranked, X).values()) == ["info"]


def test_the_op_that_mixes_is_named(found):
    model = mlp(between=lambda x: x - x.amax(0))
    (finding,) = found(model, X, select=["BN608"], static=False).values()
    assert finding.nodes[0].startswith("amax") or finding.nodes[0].startswith("sub")


def test_nodes_of_a_graph_are_no_batch(verdict):
    model = Fn(lambda m, x, e: m.a(x).index_add(0, e[1], m.a(x)[e[0]]), a=nn.Linear(16, 8))
    assert verdict("BN608", model, (X, EDGES)) == {}
    adjacency = Fn(lambda m, x, a: a @ m.a(x), a=nn.Linear(16, 8))
    assert verdict("BN608", adjacency, (X, torch.eye(8) + 0.1)) == {}


class Shared(nn.Module):
    """One norm for two streams of very different scale."""

    def __init__(self):
        super().__init__()
        self.norm, self.head = nn.BatchNorm1d(16), nn.Linear(16, 4)

    def forward(self, x):
        return self.head(self.norm(x * 100 + 500) + 2 * self.norm(x))


class Modes(nn.Module):
    def __init__(self, change):
        super().__init__()
        self.a, self.b, self.change = nn.Linear(16, 16), nn.Linear(16, 4), change

    def forward(self, x):
        x = self.a(x).relu()
        return self.b(self.change(x) if self.training else x)


@pytest.mark.parametrize(
    ("model", "inputs", "wrong"),
    [
        (Shared(), X.repeat(4, 1), True),
        (Modes(lambda x: x * 5), X, True),
        (Modes(lambda x: x * 1.1), X, False),
        (mlp(between=nn.BatchNorm1d(32)), X, False),
        (mlp(between=nn.Dropout(0.9)), X, False),
        (
            nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, momentum=0.01), nn.ReLU(), nn.Conv2d(8, 4, 3)),
            MAPS,
            False,
        ),
        (Fn(lambda m, x: (m.a(x), m.a(x)) if m.training else m.a(x), a=nn.Linear(16, 4)), X, False),
    ],
)
def test_train_and_eval(verdict, model, inputs, wrong):
    assert list(verdict("BN609", model, inputs).values()) == ["info"] * wrong


def test_norms_are_left_as_they_were(found):
    model = mlp(between=nn.BatchNorm1d(32, momentum=0.3))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found(model, X, select=["BN608", "BN609"], static=False)
    norm = next(m for m in model.modules() if isinstance(m, nn.BatchNorm1d))
    assert norm.momentum == 0.3
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def scaled(model, factor):
    """The second layer gives more than its weights say."""
    model[2].register_forward_hook(lambda module, args, output: output * factor)
    return model


def stack(depth=4, width=64):
    torch.manual_seed(0)
    layers = [layer for _ in range(depth) for layer in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(width, 4))


WIDE = torch.randn(32, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("model", "wanted"),
    [
        (stack(), {}),
        (scaled(stack(), 4), {"2": "info"}),
        (scaled(stack(), 1 / 4), {"2": "info"}),
        (scaled(stack(), 1.3), {}),
        (nn.Sequential(weight_norm(nn.Linear(64, 64)), nn.ReLU(), nn.Linear(64, 4)), {}),
        (
            nn.Sequential(
                nn.Linear(64, 64), nn.LayerNorm(64), nn.GELU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4)
            ),
            {},
        ),
    ],
)
def test_scale_surprise(verdict, model, wanted):
    assert verdict("BN614", model, WIDE) == wanted


def test_a_batch_of_another_scale_is_no_surprise(verdict):
    assert verdict("BN614", stack(), WIDE * 40 + 100) == {}
