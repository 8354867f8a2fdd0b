"""BN503 and BN505: parameters that no gradient reaches, and layers that forward makes anew."""

import copy

import pytest
import torch
from torch import nn

from bnlint import Severity


class Fn(nn.Module):
    """An encoder and a head joined by a function."""

    def __init__(self, function, **attributes):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
        self.head = nn.Linear(8, 4)
        self.function = function
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x):
        return self.function(self, x)


def without_gradient(model):
    model.zero_grad()
    out = model(torch.randn(4, 8))
    out = out[0] if isinstance(out, tuple) else out
    if out.requires_grad:
        out.sum().backward()
    return {name for name, p in model.named_parameters() if p.grad is None}


CUT = [
    Fn(lambda m, x: m.head(m.encoder(x).detach())),  # det-01
    Fn(lambda m, x: m.head(m.encoder(x).clone().detach())),
    Fn(lambda m, x: m.head(m.encoder(x).data)),
    Fn(lambda m, x: m.head((m.encoder(x) > 0).float())),
    Fn(lambda m, x: m.head(nn.functional.one_hot(m.encoder(x).argmax(1), 8).float())),
]


@pytest.mark.parametrize("model", CUT)
def test_encoder_is_cut_off(found, model):
    ((key, finding),) = found(model, "4x8", select=["BN503"]).items()
    assert key == ("BN503", "encoder") and finding.severity is Severity.WARNING
    assert set(finding.evidence["parameters"]) == without_gradient(model)


def test_round_passes_no_slope(found):
    model = Fn(lambda m, x: m.head(torch.round(m.encoder(x))))
    ((key, finding),) = found(model, "4x8", select=["BN503"]).items()
    assert key == ("BN503", "encoder") and finding.evidence["stopped_by"] == ["round"]
    model(torch.randn(4, 8)).sum().backward()
    assert not any(p.grad.any() for p in model.encoder.parameters())


@pytest.mark.parametrize("end", [torch.Tensor.detach, torch.round, lambda y: (y > 0).float()])
def test_nothing_gets_a_gradient(found, end):
    (finding,) = found(Fn(lambda m, x: end(m.head(m.encoder(x)))), "4x8", select=["BN503"]).values()
    assert finding.severity is Severity.ERROR and finding.modules == ("encoder", "head")


def test_bare_parameter_is_named_at_its_line(found):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(8))
            self.head = nn.Linear(8, 4)

        def forward(self, x):
            return self.head(x * self.scale.detach())

    ((key, finding),) = found(Scaled(), "4x8", select=["BN503"]).items()
    assert key == ("BN503", "scale")
    assert finding.location.line == Scaled.__init__.__code__.co_firstlineno + 2


def no_grad(m, x):
    with torch.no_grad():
        features = m.encoder(x)
    return m.head(features)


def straight_through(m, x):
    z = m.encoder(x)
    code = m.codebook.weight[torch.cdist(z, m.codebook.weight).argmin(1)]
    return m.head(z + (code - z).detach())


@pytest.mark.parametrize(
    "model", [Fn(no_grad), Fn(straight_through, codebook=nn.Embedding(5, 8)), Fn(lambda m, x: no_grad(m, x), frozen=1)]
)
def test_mostly_meant_is_a_remark(found, model):
    rows = found(model, "4x8", select=["BN503"], info=True).values()
    assert [f.severity for f in rows] == [Severity.INFO]


def teacher(m, x):
    with torch.no_grad():
        target = m.teacher(x)
    return m.head(m.encoder(x)), target


def moving_average(m, x):
    z = m.encoder(x)
    m.average.data.mul_(0.9).add_(z.mean(0).detach())
    return m.head(z - m.average.detach())


def kept_elsewhere(m, x):
    z = m.encoder(x)
    m.loss = m.probe(z).sum()
    return m.head(z)


def two_ways(m, x):
    z = m.encoder(x)
    return m.head(z), m.probe(z.detach())


def quantised(m, x):
    z = m.encoder(x)
    return m.head(z + (torch.round(z) - z).detach())


class Shake(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a, b):
        return a * 0.3 + b * 0.7

    @staticmethod
    def backward(ctx, grad):
        return grad * 0.6, grad * 0.4


shake = Shake.apply  # bound before the recording, which then sees the ops inside


FROZEN = nn.Linear(8, 8).requires_grad_(False)


@pytest.mark.parametrize(
    "model",
    [
        Fn(lambda m, x: m.head(m.encoder(x))),
        Fn(two_ways, probe=nn.Linear(8, 2)),  # det-neg-01: a detached side branch
        Fn(teacher, teacher=copy.deepcopy(FROZEN)),
        Fn(lambda m, x: m.head(m.encoder(x) + m.frozen(x).detach()), frozen=copy.deepcopy(FROZEN)),
        Fn(moving_average, average=nn.Parameter(torch.zeros(8))),
        Fn(kept_elsewhere, probe=nn.Linear(8, 2)),
        Fn(quantised),
        Fn(lambda m, x: m.head(shake(m.encoder(x), x))),
        Fn(lambda m, x: m.head(m.encoder(x)).argmax(1)),  # labels: the model is being used
        Fn(lambda m, x: m.head(m.encoder(x)).to(m.marker), marker=nn.Parameter(torch.zeros(1))),
        Fn(lambda m, x: m.head(m.encoder(x).detach() * 0 + m.encoder(x))),
        nn.utils.parametrizations.weight_norm(nn.Linear(8, 4)),
        nn.utils.parametrizations.spectral_norm(nn.Linear(8, 4)),
    ],
)
def test_legal_wiring_is_silent(found, model):
    assert found(model, "4x8", select=["BN503"], info=True) == {}


def made_anew(m, x):
    return nn.Linear(8, 4)(m.encoder(x))


def made_parameter(m, x):
    return m.head(m.encoder(x) * nn.Parameter(torch.ones(8)))


@pytest.mark.parametrize("function", [made_anew, made_parameter])
def test_made_in_forward_and_returned(found, function):
    rows = found(Fn(function), "4x8", select=["BN505"]).values()
    assert [(f.code, f.severity) for f in rows] == [("BN505", Severity.ERROR)]
    assert [f.location.line for f in rows] == [function.__code__.co_firstlineno + 1]


class OnFirstUse(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = None

    def forward(self, x):
        if self.fc is None:
            self.fc = nn.Linear(x.shape[1], 4)
        return self.fc(x)


class FixedKernel(nn.Module):
    def forward(self, x):
        blur = nn.Conv1d(1, 1, 3, padding=1, bias=False)
        blur.weight = nn.Parameter(torch.full((1, 1, 3), 1 / 3))
        return blur(x[:, None])[:, 0]


@pytest.mark.parametrize("model", [OnFirstUse(), FixedKernel()])
def test_kept_or_set_by_the_author_is_a_warning(found, model):
    assert {f.severity for f in found(model, "4x8", select=["BN505"]).values()} == {Severity.WARNING}


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: nn.Softplus()(m.head(m.encoder(x))),
        lambda m, x: m.head(nn.Dropout(0.1)(m.encoder(x))),
        lambda m, x: m.head(nn.BatchNorm1d(8, affine=False)(m.encoder(x))),
        lambda m, x: m.head(m.encoder(x)) + nn.Linear(8, 4).requires_grad_(False)(x),
        lambda m, x: m.head(m.encoder(x)) + m.held[0](x),
    ],
)
def test_nothing_trainable_is_made(found, function):
    model = Fn(function, held=[nn.Linear(8, 4)])  # BN501's case, not this rule's
    assert found(model, "4x8", select=["BN505"]) == {}
