"""One forward and one backward pass on real data, on the target device: what every op and parameter does at init.

The run is recorded like the static graph, so that each value is known by its node there. Statistics are reduced on the
device as soon as a value exists, kept there as a few numbers, and copied to the host once, after the backward pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from bnlint.graph.model import Graph
from bnlint.graph.nest import map_tensors, tensors
from bnlint.graph.record import record
from bnlint.graph.recording import Recording
from bnlint.rule import Pass
from bnlint.signal.device import ProbeError, find_device, find_dtype
from bnlint.signal.loss import LossError, gradients_of_outputs
from bnlint.signal.repeat import Call, Repeat, repeat
from bnlint.signal.statistics import NodeStats, extremes, measurable, norm
from bnlint.signal.watch import Watch, to_host

if TYPE_CHECKING:
    from bnlint.inputs import Inputs


@dataclass(frozen=True)
class ParameterStats:
    """Norms of one parameter and of its gradient; `gradient` is None where none arrived.

    `finite` says whether every entry of the gradient is, `zero` whether every one is zero: the norm of small or large
    ones may come out as zero or infinity although they are not.
    """

    norm: float
    gradient: float | None
    finite: bool
    trainable: bool
    zero: bool = False


@dataclass(frozen=True)
class InitialLoss:
    """What a declared loss was on the batch."""

    name: str
    value: float
    classes: int  # 0 for a loss that is not about classes
    real_targets: bool = False  # they came with the user's batch


@dataclass
class ProbeFacts:
    """What the probe measured. `stats` is by node name of the static graph, `parameters` by every name they have."""

    device: str
    loss: str = ""  # what the backward pass started from
    initial_loss: InitialLoss | None = None  # the value of a declared loss
    backward: bool = False  # the backward pass ran to its end
    stats: dict[str, NodeStats] = field(default_factory=dict)
    parameters: dict[str, ParameterStats] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    failed: str | None = None  # why the forward pass did not run or stopped
    passes: set[Pass] = field(default_factory=set)  # the further ones that ran
    repeat: Repeat | None = None  # what two passes in eval mode gave


def probe(
    model: nn.Module,
    inputs: Inputs,
    graph: Graph,
    *,
    device: str = "cpu",
    dtype: str | None = None,
    loss: str | None = None,
    seed: int = 0,
    backward: bool = True,
    passes: frozenset[Pass] = frozenset(),
) -> ProbeFacts:
    """Runs the model once, forward and backward, in the mode it is in.

    Moves the model to the device, writes gradients and buffers and uses the random state: the caller restores
    (`untouched(model, values=True)`).
    """
    facts = ProbeFacts(device)
    watch = Watch(graph, backward)
    try:
        facts.device = str(find_device(device))
        with _own_gradients(model):
            copies = _moved(model, inputs, facts.device, dtype)
            torch.manual_seed(seed)
            with _quiet_dropout(model):
                _run(model, copies(), watch, facts, loss=loss, seed=seed, backward=backward)
            facts.parameters = _parameter_stats(model)
            if Pass.EVAL_TWICE in passes:
                _repeat(model, copies, facts)
        facts.stats = watch.fetch()
        facts.notes += watch.notes()
    except ProbeError as error:
        facts.failed = str(error)
    return facts


def _moved(model: nn.Module, inputs: Inputs, device: str, dtype: str | None) -> Callable[[], Call]:
    """Moves the model; what it returns makes a fresh copy of the inputs there, as a pass may write into its own."""
    wanted = find_dtype(dtype)

    def move(tensor: torch.Tensor) -> torch.Tensor:
        to = wanted if tensor.dtype.is_floating_point else None
        return tensor.detach().to(device=device, dtype=to, copy=True)

    def copies() -> Call:
        with _explained("moving the inputs", device):
            args, kwargs = map_tensors((inputs.args, inputs.kwargs), move)
        return args, kwargs

    with _explained("moving the model", device):
        if device != "cpu" or wanted is not None:
            model.to(device=torch.device(device), dtype=wanted)
    return copies


def _run(
    model: nn.Module, call: Call, watch: Watch, facts: ProbeFacts, *, loss: str | None, seed: int, backward: bool
) -> None:
    with _explained("the forward pass", facts.device):
        recording = record(model, *call, fake=False, repair=False, observer=watch)
        if recording.error is not None:
            raise recording.error
        if any(isinstance(t, FakeTensor) for _, t in tensors(recording.output)):
            raise ProbeError(
                "the model keeps tensors of the recording run in a cache of its own and goes on using them"
            )
    if backward:
        _backward(recording, watch, facts, loss, seed)


def _repeat(model: nn.Module, copies: Callable[[], Call], facts: ProbeFacts) -> None:
    """Two passes in eval mode; when they fail the facts of the pass in training mode still stand."""
    try:
        with _explained("a second pass, in eval mode,", facts.device):
            facts.repeat = repeat(model, copies(), copies())
        facts.passes.add(Pass.EVAL_TWICE)
    except ProbeError as error:
        facts.notes.append(str(error))


def _backward(recording: Recording, watch: Watch, facts: ProbeFacts, loss: str | None, seed: int) -> None:
    """Runs the backward pass; when it fails the forward facts still stand."""
    try:
        with _explained("the backward pass", facts.device):
            start = gradients_of_outputs(recording.output, watch.output_axes(), loss, seed)
            facts.loss = start.words
            torch.autograd.backward(start.tensors, start.gradients)
            if start.declared:
                facts.initial_loss = InitialLoss(start.declared, float(start.tensors[0].detach()), start.classes)
        facts.backward = True
    except (ProbeError, LossError) as error:
        facts.notes.append(f"no gradients: {error}")


def _parameter_stats(model: nn.Module) -> dict[str, ParameterStats]:
    found: dict[int, tuple[nn.Parameter, list[str]]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if measurable(parameter):
            found.setdefault(id(parameter), (parameter, []))[1].append(name)
    rows: dict[str, list[torch.Tensor]] = {}
    for parameter, (name, *_) in found.values():
        gradient = parameter.grad if measurable(parameter.grad) else None
        rows[name] = [
            norm(parameter),
            *([norm(gradient), *extremes(gradient).values()] if gradient is not None else []),
        ]
    numbers = to_host(rows)
    return {
        name: _parameter(numbers[names[0]], trainable=parameter.requires_grad)
        for parameter, names in found.values()
        for name in names
    }


def _parameter(numbers: list[float], *, trainable: bool) -> ParameterStats:
    weight, *gradient = numbers
    finite, zero = all(map(math.isfinite, gradient[1:])), gradient[1:] == [0.0, 0.0]
    return ParameterStats(weight, gradient[0] if gradient else None, finite, trainable, zero)


@contextmanager
def _quiet_dropout(model: nn.Module) -> Iterator[None]:
    """Layers that drop units or whole branches let all through: the spread is to be the signal's, not the noise's."""
    layers = [m for m in model.modules() if m.training and _drops(m)]
    for layer in layers:
        layer.training = False
    try:
        yield
    finally:
        for layer in layers:
            layer.training = True


def _drops(module: nn.Module) -> bool:
    name = type(module).__name__.lower()
    return isinstance(module, nn.modules.dropout._DropoutNd) or name.endswith(("droppath", "stochasticdepth"))


@contextmanager
def _own_gradients(model: nn.Module) -> Iterator[None]:
    """Starts with no gradient and puts back those that were there."""
    before = [(p, p.grad) for p in model.parameters()]
    for parameter, _ in before:
        parameter.grad = None
    try:
        yield
    finally:
        for parameter, gradient in before:
            fits = gradient is not None and (gradient.device, gradient.dtype) == (parameter.device, parameter.dtype)
            parameter.grad = gradient if fits else None  # the caller puts back a model that was moved


@contextmanager
def _explained(doing: str, device: str) -> Iterator[None]:
    """Turns what a device, an allocator or an op raises into one sentence."""
    try:
        yield
    except (ProbeError, LossError):
        raise
    except (Exception, SystemExit) as error:
        text = str(error).strip().splitlines()
        first = text[0] if text else "no message"
        if isinstance(error, MemoryError) or "out of memory" in str(error) or "can't allocate memory" in str(error):
            raise ProbeError(f"{doing} runs out of memory on `{device}`; try a smaller --batch-size") from None
        raise ProbeError(f"{doing} fails on `{device}`: {type(error).__name__}: {first}") from None


__all__ = ["ParameterStats", "ProbeError", "ProbeFacts", "find_device", "probe"]
