"""What came of a candidate: one recording, and what went wrong in it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import fx, nn

from bnlint.graph.axes import holds_batch
from bnlint.graph.model import Graph
from bnlint.graph.ops import Kind, op_name
from bnlint.graph.recording import Recording
from bnlint.inputs.guess import Candidate, Path
from bnlint.inputs.wants import batch_first

NORMS_ON_MAPS = ("BatchNorm", "InstanceNorm", "GroupNorm", "SyncBatchNorm")
_FILLED = ("zeros", "ones", "full", "zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full")
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
        idle = bool(self.parameters) and not self.graph.op_count  # a loop over no inputs at all
        return (not any(shapes) and not idle) or any(kept)

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
            return not (from_input(inputs[0]) or _filled(inputs[0])) and shape[-1:] > (module.num_embeddings,)
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


def _filled(node: fx.Node) -> bool:
    """True for ids that are all the same, such as segment zero, as opposed to positions."""
    return op_name(node) in _FILLED or (
        node.meta["kind"] in (Kind.SAME, Kind.EXPAND, Kind.RESHAPE) and all(map(_filled, node.all_input_nodes[:1]))
    )


def _is_floating(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return not isinstance(value, torch.Tensor) or value.is_floating_point()
