"""BN801-BN804: half precision, autocast, and what a device or a dtype cannot do; all on the CPU."""

from pathlib import Path

import pytest
import torch
from torch import nn

from .conftest import Fn

X = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def verdict(severities):
    def run(code, model, **options):
        found = severities(code, model, X, static=False, **options)
        return [severity.value for severity in found.values()]

    return run


def net(change):
    torch.manual_seed(0)
    layers = {"inner": nn.Linear(16, 32), "outer": nn.Linear(32, 4)}
    return Fn(lambda m, x: m.outer(change(m.inner(x))), **layers)


@pytest.mark.parametrize(
    ("change", "options", "wanted"),
    [
        (lambda x: (x * 1e4).square(), {"dtype": "float16"}, ["error"]),
        (lambda x: (x * 1e4).square().clamp(max=1), {"dtype": "float16"}, ["warning"]),  # it ends there
        (lambda x: (x * 1e4).square().clamp(max=1), {"dtype": "bfloat16"}, []),
        (lambda x: (x * 1e4).square().clamp(max=1), {}, []),
        (lambda x: (x * 1e4).clamp(max=1), {"dtype": "float16"}, ["warning"]),
        (lambda x: (x * 1e3).clamp(max=1), {"dtype": "float16"}, []),
        (lambda x: (x.float() * 1e6).clamp(-1, 1).half(), {"dtype": "float16"}, []),
        (lambda x: x.masked_fill(x < 0, -60000.0).softmax(-1), {"dtype": "float16"}, []),
        (lambda x: (x + (x < 0).to(x.dtype) * -10000.0).softmax(-1), {"dtype": "float16"}, []),
        (lambda x: (x + torch.full((32,), -60000.0, dtype=x.dtype)).softmax(-1), {"dtype": "float16"}, []),
        (lambda x: x.relu(), {"dtype": "float16"}, []),
        (lambda x: x.relu(), {"autocast": "bfloat16"}, []),
    ],
)
def test_range(verdict, change, options, wanted):
    assert verdict("BN801", net(change), **options) == wanted


def test_an_overflow_is_reported_once(found):
    rows = found(net(lambda x: (x * 1e4).square()), X, select=["BN607", "BN801"], static=False, dtype="float16")
    assert [code for code, _ in rows] == ["BN801"]


def test_an_output_below_the_range(found):
    model = net(lambda x: x.relu())
    with torch.no_grad():
        model.inner.weight.mul_(1e-7)
        model.inner.bias.zero_()
    (finding,) = found(model, X, select=["BN801"], static=False, dtype="float16").values()
    assert finding.module_path == "inner" and finding.evidence["zeros"] > 0.5


@pytest.mark.parametrize(
    ("change", "dtype", "wanted"),
    [
        (lambda x: x.masked_fill(x < 0, -1e9).softmax(-1), "float16", ["error"]),
        (lambda x: x.masked_fill(x < 0, -1e9).softmax(-1), "bfloat16", []),
        (lambda x: x.masked_fill(x < 0, -1e9).softmax(-1), None, []),
        (lambda x: x.masked_fill(x < 0, -1e4).softmax(-1), "float16", []),
        (lambda x: x.masked_fill(x < 0, float("-inf")).softmax(-1), "float16", []),
        (lambda x: x.float().masked_fill(x < 0, -1e9).softmax(-1).to(x.dtype), "float16", []),
        (lambda x: x / (x.abs().sum(-1, keepdim=True) + 1e-12), "float16", ["error"]),
        (lambda x: x / (x.abs().sum(-1, keepdim=True) + 1e-6), "float16", []),
        (lambda x: x / x.abs().sum(-1, keepdim=True).clamp(min=1e-12), "float16", ["error"]),
        (lambda x: x + 1e-12, "float16", []),  # guards nothing
        (lambda x: (x.square() + 1e-10).sqrt(), "float16", ["error"]),
    ],
)
def test_literals(severities, change, dtype, wanted):
    found = severities("BN802", net(change), X, dtype=dtype)
    assert [severity.value for severity in found.values()] == wanted


@pytest.mark.parametrize(
    ("change", "options", "wanted"),
    [
        (lambda x: (x + 100) - 100, {"dtype": "bfloat16"}, ["warning"]),
        (lambda x: (x + 100) - 100, {"autocast": "bfloat16"}, ["warning"]),
        (lambda x: (x + 100) - 100, {"dtype": "float32"}, []),
        (lambda x: x.relu(), {"dtype": "bfloat16"}, []),
        (lambda x: x.relu(), {"dtype": "float16"}, []),
        (lambda x: x.relu(), {"autocast": "bfloat16"}, []),
        (lambda x: x.softmax(-1) * 32, {"dtype": "bfloat16"}, []),
    ],
)
def test_agreement_with_float32(verdict, change, options, wanted):
    assert verdict("BN803", net(change), **options) == wanted


@pytest.mark.parametrize(("only", "compared"), [(None, 2), (8, 8)])
def test_the_reference_runs_on_two_samples(verdict, only, compared):
    sizes = []

    def change(x):
        if not torch.is_grad_enabled():
            sizes.append(len(x))
        return (x.view(only, -1) if only else x) + 100 - 100

    assert verdict("BN803", net(change), dtype="bfloat16") == ["warning"]
    assert sizes.count(compared) == 2  # on the CPU in float32, and in bfloat16


def test_running_statistics_are_the_same_in_both_runs(found):
    model = nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4))
    assert found(model, X * 20 + 9, select=["BN803", "BN609"], static=False, dtype="bfloat16") == {}


def test_the_first_layer_that_departs(found):
    torch.manual_seed(0)
    layers = {"a": nn.Linear(16, 32), "b": nn.Linear(32, 32), "c": nn.Linear(32, 4)}
    model = Fn(lambda m, x: m.c((m.b(m.a(x).relu()) + 300) - 300), **layers)
    (finding,) = found(model, X, select=["BN803"], static=False, dtype="bfloat16").values()
    assert finding.nodes[0].startswith("sub")


@pytest.mark.parametrize(
    ("change", "options", "wanted"),
    [
        (lambda x: x @ torch.linalg.inv(torch.eye(32, dtype=x.dtype)), {"dtype": "bfloat16"}, ["error"]),
        (lambda x: x @ torch.linalg.inv(torch.eye(32, dtype=x.dtype)), {}, []),
        (lambda x: x @ torch.eye(32), {"dtype": "bfloat16"}, ["error"]),  # made in another dtype
        (lambda x: x.relu(), {"dtype": "bfloat16"}, []),
    ],
)
def test_ops_without_a_kernel(verdict, change, options, wanted):
    assert verdict("BN804", net(change), **options) == wanted


def test_the_line_of_the_op(found):
    def forward(m, x):
        x = m.inner(x)
        return torch.linalg.inv(x @ x.T)

    model = Fn(forward, inner=nn.Linear(16, 32))
    (finding,) = found(model, X, select=["BN804"], static=False, dtype="bfloat16").values()
    assert Path(finding.location.file).name == Path(__file__).name
    assert finding.location.line == forward.__code__.co_firstlineno + 2
