"""Passes in eval mode that only some rules need; when one fails, the facts of the first pass still stand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from bnlint.graph.model import Graph
from bnlint.graph.nest import map_tensors
from bnlint.graph.untouched import untouched
from bnlint.rule import Pass
from bnlint.signal.agreement import Sample, agreement, sampled
from bnlint.signal.compiled import compiled
from bnlint.signal.device import ProbeError, casting, explained
from bnlint.signal.evaluation import WORTH_A_SEARCH, train_eval_gap
from bnlint.signal.facts import ProbeFacts
from bnlint.signal.mixing import PAIR, Mixing, mixing
from bnlint.signal.outputs import Outputs, outputs
from bnlint.signal.quiet import quiet_dropout
from bnlint.signal.repeat import Call, Repeat, repeat

if TYPE_CHECKING:
    from bnlint.inputs import Inputs


@dataclass
class FurtherPasses:
    """Makes them on one model, where it is; what they give is written into `found`."""

    model: nn.Module
    graph: Graph
    inputs: Inputs
    copy: Callable[[Inputs], Call]  # fresh tensors on the device: a pass may write into its own
    autocast: str | None
    seed: int
    found: ProbeFacts

    def in_eval_mode(self, trained: list[torch.Tensor], passes: frozenset[Pass]) -> None:
        """What `passes` ask about eval mode; `trained` is what the model gave in train mode."""
        asked = passes & {Pass.WARMED_EVAL, Pass.EVAL_TWICE, Pass.OTHER_SAMPLES}
        bare = self._outputs(trained, asked) if asked else None
        if Pass.WARMED_EVAL in asked:
            self.make(Pass.WARMED_EVAL, lambda: self._gap(trained, bare))
        if Pass.EVAL_TWICE in asked:
            self.make(Pass.EVAL_TWICE, lambda: self._repeat(bare))
        if Pass.OTHER_SAMPLES in asked:
            self.make(Pass.OTHER_SAMPLES, lambda: self._mix(bare))

    def make(self, which: Pass, run: Callable[[], None]) -> None:
        """Makes one pass; when it fails that is noted."""
        try:
            run()
            self.found.passes.add(which)
        except ProbeError as error:
            self.found.notes.append(str(error))

    @contextmanager
    def _pass(self, doing: str) -> Iterator[None]:
        """What a pass changes is put back, so that the next one meets the model as this one did."""
        device = self.found.device
        with untouched(self.model, values=True), explained(doing, device), casting(device, self.autocast):
            yield

    def _outputs(self, trained: list[torch.Tensor], asked: frozenset[Pass]) -> Outputs | None:
        """None where a pass fails: each of those that are asked for then says so itself."""
        try:
            with self._pass("a pass in eval mode"):
                return outputs(self.model, self.graph, self.inputs, self.copy, trained, asked)
        except ProbeError:
            return None

    def _gap(self, trained: list[torch.Tensor], bare: Outputs | None) -> None:
        if bare is not None and (bare.gap is None or bare.gap.difference < WORTH_A_SEARCH):
            self.found.gap = bare.gap
            return
        with self._pass(_further(Pass.WARMED_EVAL)):
            call = self.copy(self.inputs)
            self.found.gap = train_eval_gap(self.model, self.graph, trained, self.found.stats, call)

    def _repeat(self, bare: Outputs | None) -> None:
        if bare is not None and bare.steady:
            self.found.repeat = Repeat(self.graph, 0.0, numbers=bare.numbers)
            return
        with self._pass(_further(Pass.EVAL_TWICE)):
            self.found.repeat = repeat(self.model, self.copy(self.inputs), self.copy(self.inputs))

    def _mix(self, bare: Outputs | None) -> None:
        if bare is not None and bare.separate:
            self.found.mixing = Mixing(0.0)
            return
        with self._pass(_further(Pass.OTHER_SAMPLES)):
            self.found.mixing = mixing(self.model, self.graph, self.inputs, self.copy, self.seed)

    def compiled(self) -> None:
        """The model under `torch.compile`, in the mode it is in."""
        with self._pass(_further(Pass.COMPILED)), quiet_dropout(self.model):
            self.found.compiled = compiled(self.model, lambda: self.copy(self.inputs), self.found.device, self.seed)

    # -- beside the CPU --------------------------------------------------------------------------------------------

    def reference(self) -> tuple[Inputs, Sample] | None:
        """The model as it is, before it is moved: on the CPU, on two samples where it runs on so few."""
        if any(p.device.type != "cpu" or p.dtype is not torch.float32 for p in self.model.parameters()):
            return None
        few = self.inputs.with_batch(PAIR) if self.inputs.batch_size > PAIR else None
        failed: ProbeError | None = None
        for inputs in (few, self.inputs) if few is not None else (self.inputs,):
            call = map_tensors((inputs.args, inputs.kwargs), lambda t: t.detach().clone())
            try:
                with untouched(self.model, values=True), explained("the reference run", "cpu"):
                    return inputs, sampled(self.model, self.graph, call, self.seed)
            except ProbeError as error:
                failed = error
        self.found.notes.append(str(failed))
        return None

    def beside(self, reference: tuple[Inputs, Sample] | None) -> None:
        """The same on the device, compared."""
        if reference is not None:
            inputs, there = reference
            with self._pass(_further(Pass.REFERENCE)):
                here = sampled(self.model, self.graph, self.copy(inputs), self.seed)
            self.found.agreement = agreement(self.graph, there, here)


def _further(which: Pass) -> str:
    return f"a further pass ({which.value})"
