"""BN607: which op made the first NaN or infinity, and masks that are meant."""

import math
import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import bnlint


class Fn(nn.Module):
    """One layer, then a function of its output (and of the input)."""

    def __init__(self, function):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.head, self.function = nn.Linear(8, 8), nn.Linear(8, 8), function
        self.register_buffer("mask", torch.full((8, 8), -math.inf).triu(1))

    def forward(self, x):
        return self.function(self, x, self.layer(x))


@pytest.fixture
def check():
    def run(function, inputs=None):
        model = function if isinstance(function, nn.Module) else Fn(function)
        inputs = torch.randn(8, 8, generator=torch.Generator().manual_seed(0)) if inputs is None else inputs
        report = bnlint.check(model, inputs, select=["BN607"])
        assert report.targets[0].status == "ok"
        return [(f.severity.value, f.evidence["op"], f.evidence["nan"]) for f in report.findings]

    return run


@pytest.mark.parametrize(
    ("function", "op", "nan"),
    [
        (lambda m, x, h: m.head(h.sqrt()), "sqrt", True),
        (lambda m, x, h: m.head(torch.log(h)), "log", True),
        (lambda m, x, h: m.head(h / (h - h)), "div", False),
        (lambda m, x, h: m.head(h * 0 / (h - h)), "div", True),
        (lambda m, x, h: m.head((h * 1000).exp()), "exp", False),
        (lambda m, x, h: m.head(h.exp().exp().exp() / h.exp().exp().exp()), "exp", False),  # inf first, then inf / inf
        (lambda m, x, h: m.head(h**-0.5), "pow", True),
        (lambda m, x, h: (h + m.mask).sum(1).softmax(0) * 0 + h.relu().log(), "log", False),
        (lambda m, x, h: (h[:1] - h[:1]) / h[:1].var(0, correction=0), "div", True),
        (lambda m, x, h: F.normalize(h * 0, eps=0.0), "normalize", True),
    ],
)
def test_the_first_op_is_named(check, function, op, nan):
    assert check(function) == [("error", op, nan)]


def test_place_and_ranges():
    report = bnlint.check(Fn(lambda m, x, h: m.head(h.sqrt())), torch.randn(8, 8), select=["BN607"])
    (found,) = report.findings
    assert found.call is not None or found.location is not None
    assert "`layer` [" in found.message
    assert "`layer` [" in found.note


def test_the_five_ops_before_are_shown_with_their_ranges():
    def chain(m, x, h):
        return m.head((h.relu().tanh().cos().sin() + 1).neg().log())

    (found,) = bnlint.check(Fn(chain), torch.randn(8, 8), select=["BN607"]).findings
    assert found.evidence["op"] == "log"
    shown = re.findall(r"`(\w+)` \[(\S+), (\S+)\]", " ".join(found.note.split()))
    assert [name for name, *_ in shown] == ["tanh", "cos", "sin", "add", "neg"]
    assert all(float(low) <= float(high) for _, low, high in shown)


def test_the_cure_of_a_logarithm_makes_it_finite():
    class Net(nn.Module):
        def __init__(self, cure=None):
            super().__init__()
            self.fc, self.head, self.cure = nn.Linear(8, 8), nn.Linear(8, 2), cure

        def forward(self, x):
            x = self.fc(x)
            return self.head(torch.log(self.cure(x) if self.cure else x))

    (finding,) = bnlint.check(Net(), "4x8", select=["BN607"]).findings
    assert "`softplus`" in finding.help and "`clamp(min=1e-6)`" in finding.help
    for cure in (nn.functional.softplus, lambda x: x.clamp(min=1e-6)):
        assert bnlint.check(Net(cure), "4x8", select=["BN607"]).findings == []


def test_weights_that_are_not_finite(check):
    model = Fn(lambda m, x, h: m.head(h))
    with torch.no_grad():
        model.layer.weight[0, 0] = math.nan
    assert check(model) == [("error", "Linear", True)]


def attention(mask):
    def run(m, x, h):
        return (m.head(h) @ h.T + mask(m, h)).softmax(-1) @ h

    return run


@pytest.mark.parametrize(
    "function",
    [
        pytest.param(attention(lambda m, h: m.mask), id="buffer"),
        pytest.param(attention(lambda m, h: torch.full((8, 8), -math.inf).triu(1)), id="full-triu"),
        pytest.param(attention(lambda m, h: torch.zeros(8, 8).masked_fill(m.mask < 0, -math.inf)), id="masked-fill"),
        pytest.param(attention(lambda m, h: torch.where(m.mask < 0, -math.inf, 0.0)), id="where"),
        pytest.param(attention(lambda m, h: (m.mask == 0).float().log()), id="log-of-mask"),
        pytest.param(lambda m, x, h: (h @ h.T).masked_fill(m.mask < 0, -math.inf), id="masked-logits"),
        pytest.param(
            lambda m, x, h: (h @ h.T).masked_fill(m.mask < 0, -math.inf).log_softmax(-1), id="masked-log-probabilities"
        ),
        pytest.param(
            lambda m, x, h: (h @ h.T).masked_fill(m.mask < 0, -math.inf).softmax(-1).log(), id="log-of-masked-softmax"
        ),
        pytest.param(lambda m, x, h: (h + m.mask).amax(1), id="maximum"),
        pytest.param(lambda m, x, h: 1 / (1 + (h * 1000).exp()), id="infinity-used-up"),
        pytest.param(lambda m, x, h: torch.empty(8, 8).fill_(math.nan).copy_(h), id="unwritten-memory"),
        pytest.param(lambda m, x, h: F.scaled_dot_product_attention(h, h, h, is_causal=True), id="causal"),
    ],
)
def test_masks_are_meant(check, function):
    assert check(function) == []


def test_a_row_that_is_masked_altogether(check):
    assert check(lambda m, x, h: (h + torch.full((8, 8), -math.inf)).softmax(-1)) == [("error", "softmax", True)]


def test_a_nan_that_is_replaced_is_info(check):
    rows = check(lambda m, x, h: m.head((h * 0 / (h * 0)).nan_to_num()))
    assert rows == [("info", "div", True)]


def test_values_the_input_alone_makes_are_info(check):
    assert check(lambda m, x, h: m.head(x.log())) == [("info", "log", True)]


def test_a_finite_model(check):
    assert check(lambda m, x, h: m.head(h.relu())) == []


def test_half_precision_overflows():
    """BN801 reports it, with the range of the format."""
    model = Fn(lambda m, x, h: m.head(h * 1000 * 1000))
    report = bnlint.check(model, torch.randn(8, 8), select=["BN607", "BN801"], dtype="float16")
    assert [f.code for f in report.findings] == ["BN801"]
    assert bnlint.check(model, torch.randn(8, 8), select=["BN607", "BN801"]).findings == []
