"""Tries a candidate: one recording, and what went wrong in it."""

from __future__ import annotations

import contextlib
import io
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import fx, nn

from bnlint.graph.axes import holds_batch
from bnlint.graph.fake import Unfollowable
from bnlint.graph.lazy import copied, has_lazy_layers
from bnlint.graph.memory import out_of_memory
from bnlint.graph.model import Graph
from bnlint.graph.ops import Kind, op_name
from bnlint.graph.record import record
from bnlint.graph.recording import Recording
from bnlint.graph.untouched import training_mode, untouched
from bnlint.inputs.ending import write_last_op
from bnlint.inputs.guess import Candidate, Guess, Path, build
from bnlint.inputs.values import Inputs, model_dtype, parameters_of
from bnlint.inputs.wants import batch_first

NORMS_ON_MAPS = ("BatchNorm", "InstanceNorm", "GroupNorm", "SyncBatchNorm")
TRIES, OPS = 60, 40_000  # the work to spend, counted so that a busy machine does not change the result
SECONDS = 60.0  # and for the worst
LARGEST = 1 << 27  # numbers in the tensors of a candidate
PATIENT = 15.0  # seconds that any trial may take
ENOUGH = 4  # the smallest feature map that is worth looking at


@dataclass
class Outcome:
    """What came of a candidate."""

    candidate: Candidate
    recording: Recording
    graph: Graph
    batch: int
    parameters: Mapping[str, Any]

    @cached_property
    def failures(self) -> list[fx.Node]:
        """Ops that failed, or that read the input without a batch or beyond a table, in the order they ran."""
        return [node for node in self.graph.nodes if "error" in node.meta or self._misread(node)]

    @property
    def finished(self) -> bool:
        """True when the run reached its end."""
        return self.recording.error is None

    @property
    def right(self) -> bool:
        """True when nothing failed and the output still has the batch, or the model itself says that this is it."""
        return self.finished and not self.failures and (self.batch_kept or self.candidate.told)

    @cached_property
    def batch_kept(self) -> bool:
        """True when an output has the batch as one of its first two axes or a row per token, or is a single number."""
        if not self.finished:
            return False
        tokens = {
            self.batch * math.prod(guess.shape[axis] for axis in guess.free)
            for guess in self.candidate.guesses.values()
            if guess.ladder == "sequence" and guess.free
        }
        shapes = [self.graph.shape(n) for node in self.graph.nodes if node.op == "output" for n in node.all_input_nodes]
        kept = (self.batch in shape[:2] or (shape[:1] and shape[0] in tokens) for shape in shapes)
        return not any(shapes) or any(kept)

    @cached_property
    def _sides(self) -> list[int]:
        """The sides of the maps that convolutions and norms read."""
        return [
            side
            for node in self.graph.nodes
            if node.meta["kind"] is Kind.CONV or node.meta.get("class", "").startswith(NORMS_ON_MAPS)
            for side in self.graph.shape(node.all_input_nodes[0])[2:]
            if "adaptive" not in op_name(node.all_input_nodes[0]).lower()
        ]

    @property
    def smallest_map(self) -> int:
        """The shortest side of the maps; those of one position are pooled ones."""
        return min([side for side in self._sides if side > 1] or self._sides, default=ENOUGH)

    @property
    def growth(self) -> float:
        """How many times larger the input must be for maps that are worth looking at: one position may be a map too."""
        return ENOUGH / min(self._sides, default=ENOUGH) if self.smallest_map < ENOUGH else 0.0

    @property
    def score(self) -> tuple[int, ...]:
        """Smaller is better."""
        if not self.finished:
            return (1, -len(self.graph.nodes), len(self.failures))
        return (0, len(self.failures), int(not self.batch_kept), int(self.doubtful), -min(self.smallest_map, ENOUGH))

    @cached_property
    def sources(self) -> dict[str, Path]:
        """Name of an input node to the path of its guess."""
        found: dict[str, Path] = {}
        for node in self.graph.nodes:
            path = self._path(node)
            if path in self.candidate.guesses:
                found[node.name] = path
        return found

    def _path(self, node: fx.Node) -> Path:
        if node.op == "placeholder":
            return (str(node.target),)
        if op_name(node) == "getitem" and node.all_input_nodes:
            outer = self._path(node.all_input_nodes[0])
            return (*outer, node.args[1]) if outer and isinstance(node.args[1], (str, int)) else ()
        return ()

    def _misread(self, node: fx.Node) -> bool:
        """An unbatched call of a layer, or a position beyond the table."""
        inputs = node.all_input_nodes
        if not inputs:
            return False
        kind, shape, module = node.meta["kind"], self.graph.shape(inputs[0]), self.graph.module(node)
        if kind in (Kind.CONV, Kind.CONV_TRANSPOSE) and hasattr(module, "kernel_size"):
            return len(shape) == len(module.kernel_size) + 1  # type: ignore[union-attr,arg-type]
        if isinstance(module, (nn.RNNBase, nn.MultiheadAttention)) or kind is Kind.TRANSFORMER:
            packed = isinstance(module, nn.RNNBase) and any(not _is_floating(n) for n in inputs)
            return len(shape) == 2 and not packed
        if isinstance(module, nn.Embedding):
            return not from_input(inputs[0]) and bool(shape) and shape[-1] > module.num_embeddings
        return False

    @cached_property
    def doubtful(self) -> bool:
        """True when the run may fit by accident: an axis as long as the batch, or attention along the batch."""
        products = self.graph.of_kind(Kind.MATMUL) if len(self.candidate.guesses) == 1 else []
        axes = map(self.graph.axes, products)
        along = any(len(a) >= 2 and all(map(holds_batch, a[-2:])) for a in axes)
        return self.candidate.doubtful or along or self.swapped_layout

    @cached_property
    def swapped_layout(self) -> bool:
        """True when ids with the batch in front reach a layer that takes the sequence in front."""
        if not any(guess.whole and guess.batch == 0 for guess in self.candidate.guesses.values()):
            return False
        shapes = [
            self.graph.shape(node.all_input_nodes[0])
            for node in self.graph.of_kind(Kind.RNN, Kind.ATTENTION, Kind.TRANSFORMER)
            if (layer := self.graph.module(node)) is not None and not batch_first(layer)
        ]
        return any(len(shape) == 3 and shape[0] == self.batch != shape[1] for shape in shapes)


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
        batch = batch if fake or batch != self.batch else min(2, batch)
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


def from_input(node: fx.Node) -> bool:
    """False for constants, and for what the model makes of itself: positions, zeros."""
    seen, todo = set(), [node]
    while todo:
        here = todo.pop()
        if here.op == "placeholder":
            return True
        if here not in seen and here.meta["kind"] is not Kind.FACTORY:
            seen.add(here)
            todo += here.all_input_nodes
    return False


def _is_floating(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return not isinstance(value, torch.Tensor) or value.is_floating_point()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield
