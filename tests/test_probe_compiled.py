"""`--compile`: the model under torch.compile beside the eager one. The compiler is the one without code generation."""

from __future__ import annotations

import inspect
from functools import partial

import pytest
import torch
from torch import nn

import bnlint
from bnlint.signal import compiled

pytestmark = pytest.mark.skipif(not hasattr(torch.compiler, "set_stance"), reason="torch 2.6 or later is needed")


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.fc(x)
        return x * 1.5 if torch.compiler.is_compiling() else x


class Breaks(Scaled):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.compiler.is_compiling():
            x = x.view(3, 3)
        return self.fc(x)


class Backward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 2 if torch.compiler.is_compiling() else gradient


class Gradient(Scaled):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return Backward.apply(self.fc(x))


class Fine(Scaled):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x) + torch.randn(4, 1)


class Random(Scaled):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + torch.randn(4, 1)


class Sensitive(Scaled):
    """Magnifies the last place of its input, and the compiler changes that."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.fc(x)
        return (1e6 * (x * (1 + 3e-7) if torch.compiler.is_compiling() else x)).sin()


class Net(nn.Module):
    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.first, self.norm, self.drop = nn.Linear(16, 16), nn.BatchNorm1d(16), nn.Dropout(0.5)
        self.parts = nn.Sequential(nn.ReLU(), part)
        self.last = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.drop(self.parts(self.norm(self.first(x)))))


@pytest.fixture(autouse=True)
def _without_code_generation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))


def check(part: nn.Module, **options: object) -> bnlint.Report:
    torch.manual_seed(0)
    return bnlint.check(Net(part), inputs="float32[4,16]", select=["BN805"], compile=True, **options)


@pytest.mark.parametrize(("kind", "severity"), [(Scaled, "warning"), (Breaks, "error"), (Gradient, "warning")])
def test_the_part_that_differs_is_named(kind: type[nn.Module], severity: str) -> None:
    (finding,) = check(kind()).findings
    assert (finding.code, finding.module_path, finding.severity.value) == ("BN805", "parts.1", severity)
    if kind is Breaks:
        assert finding.call.file.endswith("test_probe_compiled.py")
        assert finding.call.line == inspect.getsourcelines(Breaks.forward)[1] + 2


@pytest.mark.parametrize("kind", [Fine, Random, Sensitive])
def test_a_model_that_compiles_well_draws_or_magnifies_rounding_gives_nothing(kind: type[nn.Module]) -> None:
    report = check(kind())
    assert report.findings == []
    assert report.targets[0].skipped_rules == []


def test_only_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def compiles(*_: object, **__: object) -> None:
        raise AssertionError("compiled")

    monkeypatch.setattr(torch, "compile", compiles)
    assert bnlint.check(Net(Scaled()), inputs="float32[4,16]", select=["BN805"]).findings == []


def test_without_a_compiler_the_report_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> None:
        raise RuntimeError("no working C++ compiler found\nset CXX")

    monkeypatch.setattr(torch, "compile", missing)
    report = check(Scaled())
    (row,) = report.targets[0].skipped_rules
    assert row["code"] == "BN805"
    assert [note for note in report.targets[0].notes if "C++" in note and "\n" not in note]


def test_a_part_that_breaks_only_eagerly_is_no_finding() -> None:
    class Eager(Scaled):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise ValueError("stop")

    x = torch.randn(4, 16)
    with pytest.raises(ValueError, match="stop"):
        compiled.compiled(Net(Eager()), lambda: ((x,), {}), "cpu", 0)


def test_the_model_is_left_as_it_was() -> None:
    torch.manual_seed(0)
    model = Net(Scaled())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    bnlint.check(model, inputs="float32[4,16]", select=["BN805"], compile=True)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_pre_hooks for m in model.modules())
