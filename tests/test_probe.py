"""The probe: what it measures, that it leaves nothing behind, and what it says when it cannot run."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.parameter import UninitializedTensorMixin

from .probing import run
from .zoo import ENTRIES, Entry


class Net(nn.Module):
    """Convolutions with norms, a skip, dropout and in-place activations."""

    def __init__(self, *, inplace: bool = True) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.norm1, self.norm2 = nn.BatchNorm2d(8), nn.BatchNorm2d(8)
        self.relu, self.drop = nn.ReLU(inplace=inplace), nn.Dropout(0.5)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.norm1(self.conv1(x)))
        x = self.relu(self.norm2(self.conv2(x)) + x)
        return self.head(self.drop(x.mean((2, 3)))).softmax(1)


IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def state_of(model: nn.Module) -> list[Any]:
    tensors = [*model.parameters(), *model.buffers()]
    return [
        [id(t) for t in tensors],
        [t.clone() for t in tensors],
        [t.grad for t in model.parameters()],
        [m.training for m in model.modules()],
        [len(m._forward_hooks) + len(m._backward_hooks) for m in model.modules()],
        torch.get_rng_state().clone(),
    ]


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    return all(map(same, a, b)) if isinstance(a, list) else bool(a == b)


@pytest.mark.parametrize("dtype", [None, "float64", "bfloat16"])
def test_the_model_is_left_as_it_was(dtype: str | None) -> None:
    model = Net()
    model.conv1.weight.grad = torch.ones_like(model.conv1.weight)
    model.drop.eval()
    before = state_of(model)
    facts = run(model, IMAGES, dtype=dtype)
    assert facts.backward
    assert same(before, state_of(model))
    assert model.norm1.num_batches_tracked == 0


def test_the_same_seed_gives_the_same_figures() -> None:
    torch.manual_seed(0)
    model = Net()
    first, again, other = (run(model, IMAGES, seed=seed) for seed in (3, 3, 4))
    assert first == again
    assert first.stats["conv1"].gradient != other.stats["conv1"].gradient


def test_statistics_are_of_the_value_at_that_op() -> None:
    torch.manual_seed(0)
    model = Net()
    facts = run(model, IMAGES)
    made = model.conv1(IMAGES).detach()
    conv, norm = facts.stats["conv1"], facts.stats["norm1"]
    assert conv.spread == pytest.approx(float(made.var((0, 2, 3)).mean().sqrt()), rel=1e-4)
    assert (conv.minimum, conv.maximum) == pytest.approx((float(made.min()), float(made.max())))
    assert norm.spread == pytest.approx(1, rel=1e-2)
    assert facts.stats["relu"].minimum == 0


def test_an_in_place_activation_changes_neither_statistics_nor_gradients() -> None:
    torch.manual_seed(0)
    model = Net(inplace=True)
    clobbering = run(model, IMAGES)
    model.relu.inplace = False
    assert clobbering == run(model, IMAGES)
    assert all(clobbering.stats[name].gradient for name in ("conv1", "norm1", "conv2", "norm2", "add", "head"))


def test_gradients_are_those_of_the_projection() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    x = torch.randn(4, 6)
    facts = run(model, x, seed=7)
    direction = torch.randn(4, 3, generator=torch.Generator().manual_seed(7)) / math.sqrt(12)
    hidden = model[0](x)
    (gradient,) = torch.autograd.grad((model[2](hidden.tanh()) * direction).sum(), hidden, retain_graph=True)
    (weight,) = torch.autograd.grad((model[2](hidden.tanh()) * direction).sum(), model[0].weight)
    assert facts.stats["_0"].gradient == pytest.approx(float(gradient.norm()), rel=1e-5)
    assert facts.parameters["0.weight"].gradient == pytest.approx(float(weight.norm()), rel=1e-5)
    assert facts.parameters["0.weight"].norm == pytest.approx(float(model[0].weight.detach().norm()), rel=1e-5)
    assert facts.parameters["0.weight"].finite


def test_branches_are_not_dropped() -> None:
    class DropPath(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 0 if self.training else x

    model = nn.Sequential(nn.Linear(6, 5), DropPath(), nn.Linear(5, 3))
    assert run(model, torch.randn(4, 6)).parameters["0.weight"].gradient > 0
    assert model[1].training


def test_a_softmax_head_has_a_gradient() -> None:
    facts = run(Net(), IMAGES)
    assert facts.parameters["head.weight"].gradient > 1e-4  # that of a sum would be 0


def test_only_numbers_per_channel_are_kept_and_the_host_is_asked_only_at_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from bnlint.signal import watch

    sizes: list[int] = []
    fetch = watch.on_host
    methods = {name: getattr(torch.Tensor, name) for name in ("item", "__bool__", "__float__", "cpu")}

    def watched(values: dict[Any, torch.Tensor]) -> dict[Any, torch.Tensor]:
        sizes.extend(number.numel() for number in values.values())
        for name, method in methods.items():
            monkeypatch.setattr(torch.Tensor, name, method)
        return fetch(values)

    def asked(*_: Any) -> None:
        raise AssertionError("the run waits for the device")

    monkeypatch.setattr(watch, "on_host", watched)
    for name in methods:
        monkeypatch.setattr(torch.Tensor, name, asked)
    facts = run(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)), IMAGES)
    assert facts.failed is None
    assert facts.notes == []
    assert set(sizes) <= {1, 2, 3, 4}  # channels; a layer's values are 8 x 4 x 6 x 6


def test_parameters_by_every_name_they_have() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens, self.head = nn.Embedding(10, 4), nn.Linear(4, 10, bias=False)
            self.head.weight = self.tokens.weight
            self.frozen = nn.Linear(4, 4).requires_grad_(False)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.head(self.frozen(self.tokens(ids)))

    facts = run(Tied(), torch.randint(10, (3, 5)))
    assert facts.parameters["tokens.weight"] == facts.parameters["head.weight"]
    assert facts.parameters["tokens.weight"].trainable
    assert facts.parameters["frozen.weight"].gradient is None
    assert not facts.parameters["frozen.weight"].trainable


def test_tokens_are_spread_over_batch_and_positions() -> None:
    model = nn.Sequential(nn.Embedding(20, 6), nn.Linear(6, 4))
    ids = torch.randint(20, (5, 7))
    made = model(ids)
    (spread,) = [s.spread for name, s in run(model, ids).stats.items() if name.strip("_") == "1"]
    assert spread == pytest.approx(float(made.flatten(0, 1).var(0).mean().sqrt()), rel=1e-4)


# -- every model of the zoo ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=list(ENTRIES))
def test_zoo_models_are_measured_and_left_as_they_were(entry: Entry) -> None:
    model, args, kwargs = entry.make()
    if any(isinstance(p, UninitializedTensorMixin) for p in (*model.parameters(), *model.buffers())):
        model(*args, **kwargs)
    before = state_of(model)
    facts = run(model, *args, kwargs=kwargs)
    assert same(before, state_of(model))
    assert facts.failed is None
    assert facts.backward
    assert all(s.finite for s in facts.stats.values() if s.gradient is not None)
    assert any(s.gradient for s in facts.stats.values())
    assert [note for note in facts.notes if "complex numbers" not in note] == []


class LastState(nn.Module):
    """Of a recurrent layer's outputs only one gets a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent, self.layer = nn.LSTM(6, 8), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        _, (state, _) = self.recurrent(x)
        return self.layer(state[-1])


def test_an_output_without_a_gradient_does_not_stop_the_backward_pass() -> None:
    facts = run(LastState(), torch.randn(5, 4, 6))
    assert facts.backward, facts.notes
    assert facts.parameters["recurrent.weight_hh_l0"].gradient
