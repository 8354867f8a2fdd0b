"""Tries candidates against a model, within bounds on the work."""

from __future__ import annotations

import contextlib
import io
import math
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import fx, nn

from bnlint.graph.fake import Unfollowable
from bnlint.graph.lazy import copied, has_lazy_layers
from bnlint.graph.memory import out_of_memory
from bnlint.graph.model import Graph
from bnlint.graph.record import record
from bnlint.graph.untouched import training_mode, untouched
from bnlint.inputs.ending import write_last_op
from bnlint.inputs.guess import Candidate, Guess, build
from bnlint.inputs.outcome import Outcome
from bnlint.inputs.values import Inputs, model_dtype, parameters_of

TRIES, OPS = 60, 40_000  # the work to spend, counted so that a busy machine does not change the result
SECONDS = 60.0  # and for the worst
LARGEST = 1 << 27  # numbers in the tensors of a candidate
PATIENT = 15.0  # seconds that any trial may take


class _TooSlow(BaseException):
    """Ends a trial; not an Exception, so that the model's own handlers let it pass."""


class Trials:
    """Runs candidates against one model, on fake tensors as long as these can follow it."""

    def __init__(self, model: nn.Module, mode: str, batch: int, seed: int) -> None:
        self.model, self.mode, self.batch, self.seed = model, mode, batch, seed
        self.parameters = {p.name: p for p in parameters_of(model)}
        self.lazy = has_lazy_layers(model)
        scripted = any(isinstance(m, torch.jit.ScriptModule) for m in model.modules())  # keeps fake constants for good
        self.fake, self.doubted = not self.lazy and not scripted, False
        self.deadline = time.monotonic() + SECONDS
        self.longest = math.inf  # seconds that a trial may take: set by the first
        self.ops = 0  # recorded in all trials
        self.outcomes: dict[Any, Outcome | None] = {}
        self.tried: list[Candidate] = []

    @property
    def count(self) -> int:
        """Candidates tried so far."""
        return len(self.outcomes)

    @property
    def exhausted(self) -> bool:
        """True when enough work was spent."""
        return self.count >= TRIES or self.ops >= OPS or time.monotonic() > self.deadline

    def run(self, candidate: Candidate) -> Outcome | None:
        """Tries a candidate once; None when even real tensors cannot follow, or when it takes too long."""
        key = candidate.key
        if key not in self.outcomes:
            start = time.monotonic()
            self.tried.append(candidate)
            self.outcomes[key] = self._within_memory(candidate) if candidate.count <= LARGEST else None
            outcome = self.outcomes[key]
            self.ops += outcome.graph.op_count if outcome is not None else 0
            self.longest = min(self.longest, max(PATIENT, 3 * (time.monotonic() - start)))
        return self.outcomes[key]

    def _within_memory(self, candidate: Candidate) -> Outcome | None:
        try:
            return self._run(candidate)
        except (RuntimeError, MemoryError, OSError) as error:
            if out_of_memory(error) and self.outcomes:  # for this candidate, not for every one
                return None
            raise

    def accepts(self, inputs: Inputs) -> bool:
        """True when the model runs on these without an error."""
        for fake in (True, False):
            with _quiet(), untouched(self.model, values=True), training_mode(self.model, self.mode == "train"):
                try:
                    recording = record(self.model, inputs.args, inputs.kwargs, fake=fake, repair=False)
                except Unfollowable:
                    continue
            if recording.error is None:
                return True
        return False

    def _run(self, candidate: Candidate) -> Outcome | None:
        if self.fake:
            try:
                outcome = self._record(candidate, fake=True)
            except Unfollowable:
                self.fake = False
            else:
                return self._doubted(candidate, outcome)
        try:
            return self._record(candidate, fake=False)
        except Unfollowable:
            return None

    def _doubted(self, candidate: Candidate, outcome: Outcome | None) -> Outcome | None:
        """The run; on real tensors when only these can do what the model itself says, which is tested once."""
        if outcome is None or outcome.finished or not candidate.told or self.doubted:
            return outcome
        self.doubted = True
        real = self._record(candidate, fake=False)
        if real is None or not real.right:
            return outcome
        self.fake = False
        return real

    def _record(self, candidate: Candidate, *, fake: bool) -> Outcome | None:
        batch = self.batch if candidate.batch is None else candidate.batch
        counted = any(g.batch is None and g.high for g in candidate.guesses.values())  # ids of samples: a graph's edges
        batch = batch if fake or batch != self.batch or counted else min(2, batch)
        generator = torch.Generator().manual_seed(self.seed)
        dtype = model_dtype(self.model)
        device = next((p.device for p in self.model.parameters()), torch.device("cpu"))

        def make(guess: Guess) -> torch.Tensor:
            spec = guess.spec(batch)
            if fake:
                return torch.empty(spec.shape, dtype=getattr(torch, spec.dtype) if spec.dtype else dtype, device=device)
            return spec.make(generator, dtype).to(device)

        args, kwargs = build(candidate, self.parameters, make)
        model = copied(self.model) if self.lazy else self.model
        with _quiet(), untouched(model, values=not fake), training_mode(model, self.mode == "train"):
            try:
                recording = record(model, args, kwargs, fake=fake, observer=self._clock())
            except _TooSlow:
                return None
        try:
            write_last_op(recording)
            graph = Graph(recording, model)
        except (ArithmeticError, LookupError, ValueError):  # a candidate so wrong that axes of size 0 came out
            return None
        return Outcome(candidate, recording, graph, batch, self.parameters)

    def _clock(self) -> Callable[[fx.Node, Any], None]:
        end = time.monotonic() + self.longest

        def check(node: fx.Node, output: Any) -> None:
            if time.monotonic() > end:
                raise _TooSlow

        return check


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield
