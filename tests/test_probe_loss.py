"""Where the backward pass starts: a declared loss, or a projection of every output."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import bnlint
from bnlint.signal.loss import LossError, gradients_of_outputs


@pytest.mark.parametrize(
    ("shape", "axis", "loss"),
    [
        ((4, 10), 1, "cross_entropy"),
        ((4, 6, 10), 2, "cross_entropy"),
        ((4, 10, 8, 8), 1, "cross_entropy"),
        ((4, 10), 1, "nll_loss"),
        ((4, 1), 1, "bce_with_logits"),
        ((4, 3), 1, "mse_loss"),
        ((4, 3), 1, "soft_margin_loss"),
    ],
)
def test_a_declared_loss_starts_from_its_value(shape: tuple[int, ...], axis: int, loss: str) -> None:
    logits = torch.randn(shape, requires_grad=True)
    start = gradients_of_outputs(logits, {shape: axis}, loss, 1)
    assert "random targets" in start.words
    assert start.declared in (loss, "binary_cross_entropy_with_logits")
    assert start.classes == (2 if "bce" in loss or "margin" in loss else 0 if "mse" in loss else shape[axis])
    assert start.tensors[0].ndim == 0
    start.tensors[0].backward()
    assert logits.grad.abs().sum() > 0


def test_the_classes_of_a_sequence_are_found() -> None:
    logits = torch.randn(2, 3, 7, requires_grad=True)
    (value,) = gradients_of_outputs(logits, {(2, 3, 7): 2}, "cross_entropy", 5).tensors
    target = torch.randint(7, (2, 3), generator=torch.Generator().manual_seed(5))
    assert float(value) == pytest.approx(float(F.cross_entropy(logits.movedim(2, 1), target)))


@pytest.mark.parametrize("loss", [None, "my_loss", "binary_cross_entropy"])
def test_otherwise_every_output_is_projected(loss: str | None) -> None:
    outputs = {"a": torch.randn(4, 3, requires_grad=True) - 9, "b": [torch.randn(2, requires_grad=True)], "n": 3}
    start = gradients_of_outputs(outputs, {}, loss, 0)
    assert start.words.startswith("a random projection")
    assert [t.shape for t in start.tensors] == [(), ()]
    found = torch.autograd.grad(sum(start.tensors), [outputs["a"], outputs["b"][0]])
    assert all(abs(float(gradient.norm()) - 1) < 1 for gradient in found)


def test_nothing_to_start_from() -> None:
    with pytest.raises(LossError):
        gradients_of_outputs((torch.ones(3), torch.ones(2, dtype=torch.int64)), {}, None, 0)


def test_a_model_without_parameters_is_told_so(tmp_path) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\n\n\nclass Net(nn.Module):\n    def forward(self, x):\n        return x + 1\n"
    )
    (target,) = bnlint.check(f"{tmp_path}/net.py:Net", inputs="4x8", isolate=False).targets
    assert target.notes == ["no gradients: no output depends on a parameter that requires one"]
