"""One forward and one backward pass on real data, on the target device: what every op and parameter does at init.

The run is recorded like the static graph, so that each value is known by its node there. Statistics are reduced on the
device as soon as a value exists, kept there as a few numbers, and copied to the host once, after the backward pass.
Further passes, in eval mode, are made only when a selected rule asks for them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from bnlint.graph.fake import meets_a_fake
from bnlint.graph.frames import Call as CallSite
from bnlint.graph.model import Graph
from bnlint.graph.nest import map_tensors, tensors
from bnlint.graph.record import record
from bnlint.graph.recording import Recording
from bnlint.rule import Pass
from bnlint.signal.device import (
    OutOfMemory,
    ProbeError,
    casting,
    explained,
    find_device,
    find_dtype,
    first_line,
    is_unsupported,
    release,
)
from bnlint.signal.evaluation import warming_up
from bnlint.signal.facts import FailedOp, ProbeFacts, Where
from bnlint.signal.further import FurtherPasses
from bnlint.signal.loss import InitialLoss, gradients_of_outputs
from bnlint.signal.parameters import ParameterStats, parameter_stats
from bnlint.signal.quiet import own_gradients, quiet_dropout
from bnlint.signal.repeat import Call
from bnlint.signal.watch import Watch

if TYPE_CHECKING:
    from bnlint.inputs import Inputs

CACHED = "the model keeps tensors of the recording run in a cache of its own and goes on using them"


def probe(
    model: nn.Module,
    inputs: Inputs,
    graph: Graph,
    *,
    device: str = "cpu",
    dtype: str | None = None,
    autocast: str | None = None,
    compile: bool = False,
    loss: str | None = None,
    seed: int = 0,
    backward: bool = True,
    passes: frozenset[Pass] = frozenset(),
) -> ProbeFacts:
    """Runs the model once, forward and backward, in the mode it is in; on half the batch when memory runs out.

    Moves the model to the device, writes gradients and buffers and uses the random state: the caller restores
    (`untouched(model, values=True)`).
    """
    asked, where = inputs.batch_size, Where(device, dtype, autocast)
    while True:
        try:
            facts = _Probe(model, inputs, graph, where, loss, seed).facts(backward, compile, passes)
        except OutOfMemory as error:
            smaller = _halved(inputs)
            if smaller is None:
                return ProbeFacts(where.device, failed=str(error), failed_call=error.call, out_of_memory=True)
        else:
            smaller = None
        if smaller is not None:  # the exception is gone, and with it the last hold on the tensors
            inputs = smaller
            release(where.device)
            continue
        if inputs.batch_size != asked:
            facts.notes.append(f"out of memory with {asked} samples: probed with {inputs.batch_size}")
        return facts


def _halved(inputs: Inputs) -> Inputs | None:
    return inputs.with_batch(inputs.batch_size // 2) if inputs.batch_size > 1 else None


class _Probe:
    """One attempt; raises OutOfMemory when the device has too little."""

    def __init__(
        self, model: nn.Module, inputs: Inputs, graph: Graph, where: Where, loss: str | None, seed: int
    ) -> None:
        self.model, self.inputs, self.graph = model, inputs, graph
        self.where, self.loss, self.seed = where, loss, seed
        self.found = ProbeFacts(where.device, str(where))

    def facts(self, backward: bool, compile: bool, passes: frozenset[Pass]) -> ProbeFacts:
        """What the passes gave; a failure of the first is written down."""
        watch = Watch(self.graph, backward)
        further = FurtherPasses(
            self.model, self.graph, self.inputs, self._copy, self.where.autocast, self.seed, self.found
        )
        try:
            self.found.device = str(find_device(self.where.device))
            with own_gradients(self.model):
                reference = further.reference() if Pass.REFERENCE in passes and not self.where.is_reference else None
                self._move()
                if Pass.REFERENCE in passes:  # before a pass in train mode moves the running statistics
                    further.make(Pass.REFERENCE, lambda: further.beside(reference))
                if Pass.WARMED_EVAL in passes and not self.model.training:  # there is one mode, and no gap
                    passes -= {Pass.WARMED_EVAL}
                    self.found.passes.add(Pass.WARMED_EVAL)
                torch.manual_seed(self.seed)
                with quiet_dropout(self.model), warming_up(self.model, Pass.WARMED_EVAL in passes):
                    output = self._run(watch, backward)
                self.found.parameters = parameter_stats(self.model)
                self.found.stats = watch.fetch()
                further.in_eval_mode(output, passes)
                if Pass.COMPILED in passes:
                    further.make(Pass.COMPILED, further.compiled if compile else lambda: None)
            self.found.notes += watch.notes()
        except OutOfMemory:
            raise
        except ProbeError as error:
            self.found.failed, self.found.failed_call = str(error), error.call
        return self.found

    def _move(self) -> None:
        wanted = find_dtype(self.where.dtype)
        with explained("moving the model", self.where.device):
            if self.where.device != "cpu" or wanted is not None:
                self.model.to(device=torch.device(self.found.device), dtype=wanted)

    def _copy(self, inputs: Inputs) -> Call:
        """Fresh tensors on the device: a pass may write into its own."""
        wanted = find_dtype(self.where.dtype)

        def move(tensor: torch.Tensor) -> torch.Tensor:
            to = wanted if tensor.dtype.is_floating_point else None
            return tensor.detach().to(device=self.found.device, dtype=to, copy=True)

        with explained("moving the inputs", self.where.device):
            args, kwargs = map_tensors((inputs.args, inputs.kwargs), move)
        return args, kwargs

    def _run(self, watch: Watch, backward: bool) -> list[torch.Tensor]:
        """The pass that is measured; returns its outputs."""
        with explained("the forward pass", self.found.device), casting(self.found.device, self.where.autocast):
            recording = record(self.model, *self._copy(self.inputs), fake=False, repair=False, observer=watch)
            if recording.error is not None:
                self._blame(recording.error, recording.error_call)
                raise recording.error
            if any(isinstance(t, FakeTensor) for _, t in tensors(recording.output)):
                raise ProbeError(CACHED)
        if backward:
            self._backward(recording, watch)
        return [t.detach() for _, t in tensors(recording.output)]

    def _blame(self, error: BaseException, at: CallSite | None) -> None:
        """Writes down what the forward raised, where it is the model's own failure or the device's."""
        failed = FailedOp(type(error).__name__, first_line(error), at)
        if not self.where.is_reference and is_unsupported(error):
            self.found.unsupported = failed
        if self._raises_alone(type(error)):
            self.found.raised = failed

    def _raises_alone(self, kind: type[BaseException]) -> bool:
        """True when the model raises the same without the recorder around it, and not for what a recording left."""
        args, kwargs = self._copy(self.inputs)
        torch.manual_seed(self.seed)
        try:
            self.model(*args, **kwargs)
        except (Exception, SystemExit) as error:
            return type(error) is kind and not meets_a_fake(error)
        return False

    def _backward(self, recording: Recording, watch: Watch) -> None:
        """Runs the backward pass; when it fails the forward facts still stand."""
        facts = self.found
        try:
            with explained("the backward pass", facts.device):
                start = gradients_of_outputs(
                    recording.output, watch.output_axes(), self.loss, self.seed, self._targets()
                )
                facts.loss = start.words
                torch.autograd.backward(start.tensors)
                if start.declared:
                    value = float(start.tensors[0].detach())
                    facts.initial_loss = InitialLoss(start.declared, value, start.classes, start.real_targets)
            facts.backward = True
        except OutOfMemory:
            raise
        except ProbeError as error:
            facts.notes.append(f"no gradients: {error}")

    def _targets(self) -> Any:
        return map_tensors(self.inputs.targets, lambda tensor: tensor.to(self.found.device))


__all__ = ["FailedOp", "ParameterStats", "ProbeError", "ProbeFacts", "Where", "find_device", "probe"]
