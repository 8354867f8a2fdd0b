"""The passes in eval mode: bare ones answer for most models, recorded ones find the op where outputs differ."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bnlint.graph.model import Graph
from bnlint.graph.nest import map_tensors, tensors
from bnlint.graph.record import record
from bnlint.graph.untouched import untouched
from bnlint.inputs.values import Inputs
from bnlint.rule import Pass
from bnlint.signal import further
from bnlint.signal.mixing import Mixing
from bnlint.signal.outputs import Outputs, outputs
from bnlint.signal.probe import ProbeFacts, probe
from bnlint.signal.repeat import Repeat

ALL = frozenset((Pass.WARMED_EVAL, Pass.EVAL_TWICE, Pass.OTHER_SAMPLES))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.norm(self.first(x)).relu())


class Noisy(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + torch.rand(())


class LooksBack(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).cumsum(0)


class LooksAhead(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).flip(0).cumsum(0).flip(0)


class Counts(Net):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return super().forward(x)


class Remembers(Net):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("state", torch.zeros(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = super().forward(x)
        self.state += 1
        return out + self.state


class SumsUp(Net):
    """An output of its own for each sample, and one of the whole batch that is random."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        out = super().forward(x)
        return out, out.mean() + torch.rand(())


def given(size: int) -> Inputs:
    x = torch.randn(size, 8, generator=torch.Generator().manual_seed(0))
    return Inputs((x,), {}, [{"name": "x", "from": "a test"}], batch_size=size, batch_axes=[0])


def graph_of(model: nn.Module, inputs: Inputs) -> Graph:
    with untouched(model, values=True):
        return Graph(record(model, inputs.args, fake=False), model)


def seen(model: nn.Module, size: int) -> Outputs:
    inputs = given(size)
    graph = graph_of(model, inputs)
    with untouched(model, values=True):
        trained = [tensor for _, tensor in tensors(model.train(size > 1)(*inputs.args))]
        return outputs(model, graph, inputs, lambda i: (map_tensors(i.args, torch.clone), i.kwargs), trained, ALL)


def probed(model: nn.Module, size: int = 6) -> ProbeFacts:
    inputs = given(size)
    graph = graph_of(model, inputs)
    with untouched(model, values=True):
        return probe(model.train(), inputs, graph, passes=ALL)


@pytest.mark.parametrize("size", [2, 6])
@pytest.mark.parametrize(
    ("kind", "steady", "separate"),
    [
        (Net, True, True),
        (Noisy, False, False),
        (LooksBack, True, False),
        (LooksAhead, True, False),
        (Remembers, False, False),
        (SumsUp, False, True),
    ],
)
def test_outputs_say_what_is_steady_and_what_separate(
    kind: type[nn.Module], steady: bool, separate: bool, size: int
) -> None:
    found = seen(kind(), size)
    assert (found.steady, found.separate) == (steady, separate)
    assert found.gap is not None
    assert found.gap.difference > 0


def test_one_sample_has_no_neighbours() -> None:
    found = seen(Net(), 1)
    assert (found.steady, found.separate) == (True, False)


def test_numbers_that_a_pass_leaves_behind() -> None:
    assert seen(Counts(), 6).numbers == ("calls",)
    assert probed(Counts()).repeat.numbers == ("calls",)


def test_a_model_that_keeps_samples_apart_is_not_recorded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded: list[str] = []
    for name in ("repeat", "mixing", "train_eval_gap"):
        monkeypatch.setattr(further, name, lambda *_, name=name: recorded.append(name))
    facts = probed(Net(), 64)
    assert facts.passes == ALL
    assert facts.repeat == Repeat(facts.repeat.graph, 0.0)
    assert facts.mixing == Mixing(0.0)
    assert 0 < facts.gap.difference < further.WORTH_A_SEARCH
    assert recorded == []
    probed(Noisy(), 64)
    assert recorded == ["train_eval_gap", "repeat", "mixing"]


def test_where_outputs_differ_the_op_is_found() -> None:
    facts = probed(LooksBack())
    assert facts.mixing.difference > 0.01
    assert facts.mixing.first.target == "cumsum"
    assert [node.target for node in probed(Noisy()).repeat.changed] == [torch.rand]


def test_a_pass_starts_from_what_the_first_left() -> None:
    model = Remembers()
    facts = probed(model)
    assert facts.repeat.buffers == ("state",)
    assert model.state.sum() == 0
