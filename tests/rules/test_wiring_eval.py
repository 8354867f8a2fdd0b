"""BN509: two passes over one batch in eval mode that differ, and what makes them differ."""

import linecache
import random

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import bnlint
from bnlint import Severity

from .conftest import Fn

INFO, WARNING = Severity.INFO, Severity.WARNING


class Average(nn.Module):
    """A running mean that forward updates whatever the mode is."""

    def __init__(self, *, follows_mode=False):
        super().__init__()
        self.fc, self.follows_mode = nn.Linear(8, 8), follows_mode
        self.register_buffer("mean", torch.zeros(8))

    def forward(self, x):
        if self.training or not self.follows_mode:
            self.mean.mul_(0.9).add_(0.1 * x.detach().mean(0))
        return self.fc(x - self.mean)


class Hidden(nn.Module):
    """A state that one call leaves to the next."""

    def __init__(self):
        super().__init__()
        self.fc, self.state = nn.Linear(8, 8), None

    def forward(self, x):
        self.state = x if self.state is None else torch.tanh(self.fc(self.state.detach()) + x)
        return self.fc(self.state)


class Sampler(nn.Module):
    """The encoder of a variational autoencoder."""

    def __init__(self, *, in_eval=True):
        super().__init__()
        self.mean, self.log_variance, self.in_eval = nn.Linear(8, 4), nn.Linear(8, 4), in_eval

    def forward(self, x):
        mean, log_variance = self.mean(x), self.log_variance(x)
        if self.training or self.in_eval:
            mean = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        return mean


def with_layers(function, **more):
    return Fn(function, a=nn.Linear(8, 8), b=nn.Linear(8, 4), **more)


def check(model, **options):
    return bnlint.check(model, "16x8", select=["BN509"], **options)


def severities_of(model, **options):
    return [finding.severity for finding in check(model, **options).findings]


@pytest.mark.parametrize(
    "model",
    [
        with_layers(lambda m, x: m.b(m.a(x).relu() * (torch.rand(8) > 0.5))),  # drop-03: dropout that ignores the mode
        with_layers(lambda m, x: m.b(m.a(x) * torch.bernoulli(torch.full((16, 8), 0.5)) / 0.5)),
        with_layers(lambda m, x: m.b(m.a(x).masked_fill(torch.rand_like(x) < 0.3, 0.0))),
        with_layers(lambda m, x: m.b(m.a(x) + 0.5 * torch.randn_like(x))),
        with_layers(lambda m, x: m.b(x + m.scale * torch.randn(8)), scale=0.1),
        Average(),
    ],
)
def test_ignores_the_mode(model):
    assert severities_of(model) == [WARNING]


@pytest.mark.parametrize(
    "model",
    [
        Sampler(),
        with_layers(lambda m, x: m.b(m.a(torch.randn_like(x)))),  # a generator that draws its own input
        with_layers(lambda m, x: m.b(x + m.scale * torch.randn(8)), scale=nn.Parameter(torch.ones(8))),  # StyleGAN
        with_layers(lambda m, x: (lambda mask: (m.b(x * mask), mask))(torch.rand_like(x) > 0.7)),  # masked modelling
        with_layers(lambda m, x: F.gumbel_softmax(m.b(x))),
        with_layers(lambda m, x: m.b(x) * (1 + random.random())),
        Hidden(),
    ],
)
def test_may_be_the_method(model):
    assert severities_of(model) == [INFO]


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 2)),
        Average(follows_mode=True),
        Sampler(in_eval=False),
        with_layers(lambda m, x: m.b(x + 0.5 * torch.randn_like(x) if m.training else x)),
        with_layers(lambda m, x: m.b(F.dropout(x, 0.5, m.training))),
        with_layers(lambda m, x: m.b(F.dropout(x))),  # BN406's
        with_layers(lambda m, x: F.scaled_dot_product_attention(x, m.a(x), x, dropout_p=0.2)),  # BN406's
        with_layers(lambda m, x: nn.Linear(8, 8)(x)),  # BN505's
        with_layers(lambda m, x: (torch.rand_like(x), m.b(x))[1]),  # drawn, and never used
        with_layers(lambda m, x: m.b(torch.empty_like(x).fill_(1) + x)),
        with_layers(lambda m, x: m.b(x.mul_(2))),  # writes into its own input
        with_layers(lambda m, x: m.b(x) / torch.zeros(4)),  # not a number in both passes
        nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8, track_running_stats=False)),
    ],
)
def test_the_same_twice(model):
    assert severities_of(model) == []


def test_finding_is_at_the_op_that_differs():
    model = nn.Sequential(nn.Linear(8, 8), with_layers(lambda m, x: m.b(m.a(x) + 0.5 * torch.randn_like(x))))
    (row,) = check(model).findings
    assert (row.code, row.module_path, row.severity) == ("BN509", "1", WARNING)
    assert "randn_like" in linecache.getline(row.location.file, row.location.line)
    assert row.evidence["difference"] > 0.1


def test_a_number_that_was_drawn_and_taken_out_is_the_cause():
    (row,) = check(with_layers(lambda m, x: m.b(x) * torch.rand(1).item())).findings
    assert row.code == "BN509" and "`rand`" in row.message and "training" in row.help


class Rate(nn.Module):
    """drop-04: the first evaluation switches dropout off for good."""

    def __init__(self):
        super().__init__()
        self.fc, self.p, self.calls = nn.Linear(8, 8), 0.5, 0

    def forward(self, x):
        self.calls += 1
        if not self.training:
            self.p = 0.0
        return F.dropout(self.fc(x), self.p)


class RateByMode(Rate):
    def forward(self, x):
        self.calls += 1
        self.p = 0.5 if self.training else 0.0
        return F.dropout(self.fc(x), self.p)


class RateSetBack(Rate):
    def forward(self, x):
        if self.training:
            self.p = 0.5
        return super().forward(x)


def test_a_rate_that_stays_at_zero_after_the_first_evaluation():
    (row,) = check(nn.Sequential(Rate())).findings
    assert (row.module_path, row.severity, row.evidence["value"]) == ("0.p", WARNING, 0.0)
    assert severities_of(RateByMode()) == severities_of(RateSetBack()) == []
    model = Rate()
    twice = [bool((model.train()(torch.ones(4, 8)) == 0).any()), model.eval()(torch.ones(4, 8)) is None]
    assert twice == [True, False] and not bool((model.train()(torch.ones(4, 8)) == 0).any())


def test_fifty_noisy_blocks_are_one_finding():
    blocks = [with_layers(lambda m, x: m.a(x) + 0.1 * torch.randn_like(x)) for _ in range(50)]
    (row,) = check(nn.Sequential(*blocks)).findings
    assert len(row.modules) == 50


def test_the_passes_are_made_only_when_asked_for():
    calls = []
    model = with_layers(lambda m, x: calls.append(m.training) or m.b(x))
    bnlint.check(model, "4x8", select=["BN602"])
    without = calls.count(False)
    check(model)
    assert (without, calls.count(False)) == (0, 2)


def test_nothing_is_left_behind():
    model = Average()
    with torch.no_grad():
        model.mean.fill_(3.0)
    check(model)
    assert torch.equal(model.mean, torch.full((8,), 3.0)) and model.training


def test_a_model_that_fails_in_eval_mode_is_said_to_be_unchecked():
    def forward(m, x):
        assert m.training, "only for training"
        return m.b(x)

    report = check(with_layers(forward)).targets[0]
    assert [row["code"] for row in report.skipped_rules] == ["BN509"]
