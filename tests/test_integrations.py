"""The callbacks for other trainers, with the real libraries where these are installed."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bnlint.integrations import BrokenModel, Once

ROOT = Path(__file__).resolve().parents[1]


class Good(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.2)
        self.fc = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.drop(self.bn(self.conv(x)).relu().mean((2, 3))))


class Warned(Good):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2))


class Broken(Good):
    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm1d(8)


def state(model: nn.Module) -> list[Any]:
    tensors = {name: value.clone() for name, value in model.state_dict(keep_vars=False).items()}
    modes = [module.training for module in model.modules()]
    hooks = [len(module._forward_hooks) for module in model.modules()]
    return [tensors, modes, hooks, torch.get_rng_state(), [parameter.grad for parameter in model.parameters()]]


def same(one: list[Any], other: list[Any]) -> bool:
    return (
        one[0].keys() == other[0].keys()
        and all(torch.equal(value, other[0][name]) for name, value in one[0].items())
        and torch.equal(one[3], other[3])
        and (one[1], one[2], one[4]) == (other[1], other[2], other[4])
    )


@pytest.mark.parametrize("kind", [Good, Broken])
def test_the_model_stays_as_it_was(kind: type[nn.Module]) -> None:
    model = kind()
    model.bn.eval()  # type: ignore[union-attr]
    before = state(model)
    Once("4x3x8x8", "never")(model)
    assert same(before, state(model))


def test_that_test_can_fail() -> None:
    model = Good()
    before = state(model)
    model(torch.randn(4, 3, 8, 8))
    assert not same(before, state(model))


def test_errors_stop_and_warnings_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(BrokenModel, match="BN101") as error:
        Once("4x3x8x8")(Broken())
    assert error.value.report.findings[0].code == "BN101"
    with caplog.at_level(logging.WARNING, "bnlint"):
        Once("4x3x8x8")(Good())
        assert caplog.text == ""
        Once("4x3x8x8")(Warned(), log=False)
        assert caplog.text == ""
        Once("4x3x8x8")(Warned())
        assert "BN401" in caplog.text
    with pytest.raises(BrokenModel):
        Once("4x3x8x8", "warning")(Warned())


def test_a_check_that_cannot_happen_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise ValueError("not today")

    with caplog.at_level(logging.WARNING, "bnlint"):
        Once("4x3x8x8", "info")(Odd())
    assert "BN903" in caplog.text


def test_it_is_done_once() -> None:
    check = Once("4x3x8x8", "never")
    check(Good())
    first = check.report
    check(Broken())
    assert check.report is first


def test_nothing_is_imported_that_is_not_asked_for() -> None:
    code = "import sys, bnlint.integrations; sys.exit(bool({'lightning', 'pytorch_lightning', 'transformers', 'torch'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60, check=False).returncode == 0


Fit = Callable[[nn.Module, list[Any]], dict[str, torch.Tensor]]


@pytest.fixture(params=["lightning.pytorch", "pytorch_lightning"])
def lightning_fit(request: pytest.FixtureRequest, tmp_path: Path) -> Fit:
    """Trains a network for two steps with Lightning, and returns its weights."""
    pl = pytest.importorskip(request.param)
    from torch.utils.data import DataLoader, TensorDataset

    class Module(pl.LightningModule):  # type: ignore[name-defined, misc]
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net, self.example_input_array = net, torch.zeros(4, 3, 8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(x)

        def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
            return nn.functional.cross_entropy(self(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 0.1)

    def fit(net: nn.Module, callbacks: list[Any]) -> dict[str, torch.Tensor]:
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
        trainer = pl.Trainer(max_steps=2, callbacks=callbacks, default_root_dir=tmp_path, **quiet)
        torch.manual_seed(1)
        data = TensorDataset(torch.randn(8, 3, 8, 8), torch.randint(2, (8,)))
        trainer.fit(Module(net), DataLoader(data, 4, shuffle=True))
        return net.state_dict()

    return fit


@pytest.mark.slow
def test_lightning(lightning_fit: Fit) -> None:
    from bnlint.integrations.lightning import CheckModel

    callback = CheckModel()
    check_that_training_is_the_same(lambda net, callbacks: lightning_fit(net, callbacks), callback)
    with pytest.raises(BrokenModel, match="BN101"):
        lightning_fit(Broken(), [CheckModel()])


@pytest.fixture
def transformers_fit(tmp_path: Path) -> Fit:
    """Trains a network for two steps with the Trainer, and returns its weights."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")

    class Model(nn.Module):
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net = net

        def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
            logits = self.net(pixel_values)
            if labels is None:
                return {"logits": logits}
            return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}

    def fit(net: nn.Module, callbacks: list[Any]) -> dict[str, torch.Tensor]:
        torch.manual_seed(1)
        rows = [{"pixel_values": torch.randn(3, 8, 8), "labels": torch.tensor(index % 2)} for index in range(8)]
        arguments = transformers.TrainingArguments(
            str(tmp_path), max_steps=2, per_device_train_batch_size=4, report_to=[], save_strategy="no", use_cpu=True
        )
        transformers.Trainer(Model(net), arguments, train_dataset=rows, callbacks=callbacks).train()
        return net.state_dict()

    return fit


@pytest.mark.slow
def test_transformers(transformers_fit: Fit) -> None:
    from bnlint.integrations.transformers import CheckModel

    check_that_training_is_the_same(transformers_fit, CheckModel("4x3x8x8"))
    with pytest.raises(BrokenModel, match="BN101"):
        transformers_fit(Broken(), [CheckModel("4x3x8x8")])


def check_that_training_is_the_same(fit: Fit, callback: Any) -> None:
    """Two steps give the same weights with and without the callback, which did check."""
    torch.manual_seed(0)
    plain = Good()
    checked = Good()
    checked.load_state_dict(plain.state_dict())
    one, other = fit(plain, []), fit(checked, [callback])
    assert callback.check.report.ok
    assert callback.check.report.targets[0].status == "ok"
    assert all(torch.equal(value, other[name]) for name, value in one.items())
