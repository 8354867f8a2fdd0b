"""What the probe says when it cannot run, or not all the way."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import bnlint

from .probing import run


@pytest.mark.parametrize("device", ["cuda:99", "cpu:1", "mtia", "nonsense"])
def test_a_device_that_is_not_there(device: str) -> None:
    facts = run(nn.Linear(3, 2), torch.ones(2, 3), device=device)
    assert device in facts.failed
    assert "available: cpu" in facts.failed
    assert facts.stats == {}


def test_a_device_that_is_not_there_ends_the_check() -> None:
    report = bnlint.check(nn.Linear(3, 2), torch.ones(2, 3), device="nonsense")
    assert [finding.code for finding in report.findings] == ["BN903"]
    assert "available: cpu" in report.findings[0].message
    assert report.exit_code() == 2


def test_auto_is_a_device_that_is_there() -> None:
    assert run(nn.Linear(3, 2), torch.ones(2, 3), device="auto").failed is None


def test_a_dtype_that_is_none() -> None:
    assert "`float7`" in run(nn.Linear(3, 2), torch.ones(2, 3), dtype="float7").failed


class Raises(nn.Module):
    """Runs on fake tensors and raises on real ones."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.layer, self.error, self.calls = nn.Linear(3, 3), error, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if type(x) is torch.Tensor:
            raise self.error
        return self.layer(x)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"), "out of memory"),
        (MemoryError(), "out of memory"),
        (SystemExit(3), "SystemExit: 3"),
        (NotImplementedError("no kernel for this\nsecond line"), "NotImplementedError: no kernel for this"),
    ],
)
def test_a_forward_pass_that_fails_becomes_a_sentence(error: BaseException, words: str) -> None:
    facts = run(Raises(error), torch.randn(2, 3))
    assert words in facts.failed
    assert "\n" not in facts.failed
    assert not facts.backward


class Clobbers(nn.Module):
    """Autograd raises: the sigmoid's output, which its gradient needs, is changed in place."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer(x).sigmoid()
        return x.mul_(2)


class Detached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x).detach()


@pytest.mark.parametrize("model", [Clobbers(), Detached()])
def test_without_gradients_the_forward_facts_stand(model: nn.Module) -> None:
    facts = run(model, torch.randn(4, 3))
    assert facts.failed is None
    assert not facts.backward
    assert facts.notes
    assert facts.stats["layer"].spread


def test_complex_values_are_left_out() -> None:
    class Spectral(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(5, dtype=torch.cfloat))
            self.layer = nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(torch.fft.irfft(torch.fft.rfft(x) * self.weight))

    facts = run(Spectral(), torch.randn(4, 8))
    assert facts.backward
    assert "weight" not in facts.parameters
    assert [note.split(",")[0] for note in facts.notes] == ["2 ops give complex numbers"]  # rfft and mul


class TwoWays(nn.Module):
    """Takes another way at every call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = [0]
        self.first, self.left, self.right = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        return self.right(x).sin() if type(x) is torch.Tensor else self.left(x).cos()


def test_a_run_that_leaves_the_recorded_path() -> None:
    facts = run(TwoWays(), torch.randn(4, 4))
    assert "2 ops were not measured" in facts.notes[0]
    assert "first" in facts.stats
    assert "left" not in facts.stats


def test_a_cache_that_keeps_tensors_of_the_recording() -> None:
    cache: dict[int, torch.Tensor] = {}

    class Cached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if 3 not in cache:
                cache[3] = torch.ones(3)
            return self.layer(x) * cache[3]

    facts = run(Cached(), torch.randn(2, 3))
    assert "cache" in facts.failed


def test_inputs_are_not_written_to() -> None:
    class Greedy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x.mul_(0))

    x = torch.ones(2, 3)
    run(Greedy(), x)
    assert x.sum() == 6
