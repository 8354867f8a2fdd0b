"""`bnlint init --suggest`: the function it writes makes badly initialised models healthy, and they learn faster."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import bnlint
from bnlint.audit import audit_module
from bnlint.job import Job

from .bad_inits import BAD, CLASSES, WIDTH

STEPS, BATCH = 30, 64
SPEC = f"{BATCH}x{WIDTH}"


def suggested(model: nn.Module, *inputs: str) -> str:
    report = audit_module(model, Job("net.py:Net", inputs=inputs or (SPEC,), layers=True))
    assert report.status == "ok", report.findings
    return report.suggestion


def applied(model: nn.Module, text: str) -> nn.Module:
    namespace: dict[str, Any] = {}
    exec(compile(text, "suggestion", "exec"), namespace)
    torch.manual_seed(0)
    return model.apply(namespace["init_weights"])


def problems(model: nn.Module) -> set[str]:
    """What the rules of the signal say about it, with the probe."""
    codes = ["BN302", "BN303", "BN310", "BN311", "BN312", "BN314", "BN6", "BN7", "BN301", "BN112"]
    report = bnlint.check(model, SPEC, select=codes, loss="cross_entropy")
    assert report.exit_code() < 2, report
    return {f.code for f in report.findings if f.severity is not bnlint.Severity.INFO}


def loss_after_training(model: nn.Module) -> float:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(256, WIDTH, generator=generator)
    y = (x @ torch.randn(WIDTH, CLASSES, generator=generator)).argmax(1)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    for step in range(STEPS):
        rows = slice(step * BATCH % 256, step * BATCH % 256 + BATCH)
        optimiser.zero_grad()
        F.cross_entropy(model(x[rows]), y[rows]).backward()
        optimiser.step()
    with torch.no_grad():
        return float(F.cross_entropy(model(x), y).nan_to_num(1e9))


@pytest.mark.parametrize("name", BAD)
def test_makes_a_bad_start_healthy(name: str) -> None:
    torch.manual_seed(0)
    bad = BAD[name]()
    good = applied(copy.deepcopy(bad), suggested(bad))
    assert problems(bad)
    assert problems(good) == set()
    assert loss_after_training(good) < loss_after_training(bad) - 0.01


class TestText:
    """What the function says for layers of every kind."""

    @staticmethod
    def after(model: nn.Module, *inputs: str) -> nn.Module:
        return applied(model, suggested(model, *inputs))

    def test_each_activation_has_its_gain(self) -> None:
        layers = [nn.ReLU(), nn.Tanh(), nn.LeakyReLU(0.2), nn.GELU(), nn.SELU(), nn.Identity()]
        model = nn.Sequential(*[part for act in layers for part in (nn.Linear(256, 256), act)], nn.Linear(256, 256))
        self.after(model, "2x256")
        gains = [float(layer.weight.std()) * 16 for layer in model if isinstance(layer, nn.Linear)]
        assert gains == pytest.approx([1, 2**0.5, 5 / 3, (2 / 1.04) ** 0.5, 1.5335, 1, 1], rel=0.03)

    def test_biases_and_norms(self) -> None:
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.LazyLinear(4))
        model(torch.ones(2, 3, 6, 6))
        for parameter in model.parameters():
            nn.init.constant_(parameter, 7.0)
        self.after(model, "2x3x6x6")
        assert not model[0].bias.any() and not model[1].bias.any() and not model[4].bias.any()
        assert bool((model[1].weight == 1).all())

    def test_residual_branches_end_at_zero(self) -> None:
        class Block(nn.Module):
            def __init__(self, norm: bool) -> None:
                super().__init__()
                self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)
                self.norm = nn.BatchNorm1d(8) if norm else nn.Identity()

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                out: torch.Tensor = x + self.norm(self.b(torch.relu(self.a(x))))
                return out

        model = nn.Sequential(Block(False), Block(True), nn.Linear(8, 2))
        self.after(model, "4x8")
        assert not model[0].b.weight.any() and model[0].a.weight.any()  # type: ignore[union-attr, operator]
        assert not model[1].norm.weight.any() and model[1].b.weight.any()  # type: ignore[union-attr, operator]

    def test_a_rectified_branch_is_not_closed_for_good(self) -> None:
        class Block(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.a = nn.Linear(8, 8)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return x + torch.relu(self.a(x))

        model = nn.Sequential(Block(), nn.Linear(8, 2))
        self.after(model, "4x8")
        assert model[0].a.weight.any()  # type: ignore[union-attr, operator]

    def test_recurrent_layers(self) -> None:
        class Net(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.rnn = nn.LSTM(8, 16, batch_first=True)
                self.head = nn.Linear(16, 4)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                out: torch.Tensor = self.head(self.rnn(x)[0][:, -1])
                return out

        model = Net()
        self.after(model, "2x5x8")
        hidden = model.rnn.weight_hh_l0[:16]
        assert torch.allclose(hidden @ hidden.T, torch.eye(16), atol=1e-5)
        assert bool((model.rnn.bias_ih_l0[16:32] == 1).all()) and not model.rnn.bias_hh_l0.any()

    def test_transformer(self) -> None:
        model = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 2, 64, batch_first=True), 2)
        self.after(model, "2x5x32")
        first, second = model.layers[0].linear1.weight, model.layers[1].linear1.weight  # type: ignore[union-attr]
        assert not torch.equal(first, second)  # type: ignore[arg-type]

    def test_a_table_that_is_also_the_output_layer(self) -> None:
        class Net(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.table = nn.Embedding(200, 64)
                self.other = nn.Embedding(10, 64)
                self.norm = nn.LayerNorm(64)
                self.head = nn.Linear(64, 200, bias=False)
                self.head.weight = self.table.weight

            def forward(self, tokens: torch.Tensor) -> torch.Tensor:
                out: torch.Tensor = self.head(self.norm(self.table(tokens) + self.other(tokens[:, :1] * 0)))
                return out

        model = Net()
        before = model.other.weight.clone()
        self.after(model, "int64[4,6]<200")
        assert float(model.table.weight.std()) == pytest.approx(64**-0.5, rel=0.05)
        assert torch.equal(model.other.weight, before)

    def test_frozen_layers_stay(self) -> None:
        model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
        model[0].requires_grad_(False)
        before = model[0].weight.clone()
        self.after(model, "2x8")
        assert torch.equal(model[0].weight, before)

    def test_parts_of_the_class_of_the_whole(self) -> None:
        def part() -> nn.Module:
            return nn.Sequential(nn.Linear(256, 256), nn.BatchNorm1d(256), nn.Tanh())

        model = nn.Sequential(part(), nn.Linear(256, 256), part(), nn.Linear(256, 256))
        self.after(model, "4x256")
        gains = [float(m.weight.std()) * 16 for m in model.modules() if isinstance(m, nn.Linear)]
        assert gains == pytest.approx([1, 5 / 3, 1, 5 / 3], rel=0.03)

    def test_a_model_without_weights(self) -> None:
        assert applied(nn.Sequential(nn.ReLU()), suggested(nn.Sequential(nn.ReLU()), "2x8")) is not None
