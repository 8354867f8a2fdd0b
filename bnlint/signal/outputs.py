"""Passes in eval mode of which only the outputs are looked at, with nothing recorded and nothing measured.

Most models give the same outputs every time and keep their samples apart; then these few bare passes answer for all
rules that ask. Where two outputs differ, the passes that find the op (`evaluation`, `repeat`, `mixing`) are made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import fx, nn

from bnlint.graph.model import Graph
from bnlint.graph.nest import tensors
from bnlint.graph.untouched import training_mode
from bnlint.rule import Pass
from bnlint.signal.evaluation import Gap, output_gap
from bnlint.signal.mixing import PAIR, all_alike, batch_axis, is_by_sample, pair_of
from bnlint.signal.repeat import Call, apart, left_behind

if TYPE_CHECKING:
    from bnlint.inputs import Inputs

_SAME = 1e-6  # relative, below what any rule asks for

Output = list[torch.Tensor]


@dataclass(frozen=True)
class Outputs:
    """What bare passes in eval mode gave; each field tells about what was asked for."""

    gap: Gap | None  # between these outputs and those of train mode; None where they are other things
    steady: bool  # the same batch gave the same outputs each time
    separate: bool  # no sample's outputs depend on the others
    numbers: tuple[str, ...]  # plain numbers of modules that the passes left at another value


def outputs(
    model: nn.Module,
    graph: Graph,
    inputs: Inputs,
    copy: Callable[[Inputs], Call],
    trained: Output,
    passes: frozenset[Pass],
) -> Outputs:
    """Makes as few passes as answer what `passes` ask; `trained` is what train mode gave. Raises what the model raises.

    Where samples keep to themselves, two of them answer for the batch.
    """

    def run(given: Inputs) -> Output:
        args, kwargs = copy(given)
        return [tensor.detach() for _, tensor in tensors(model(*args, **kwargs))]

    gap, steady, separate = None, False, False
    with torch.no_grad(), training_mode(model, False), left_behind(model) as numbers:
        pair = pair_of(inputs, graph) if Pass.OTHER_SAMPLES in passes else None
        axes = _sample_axes(graph, inputs)
        if pair is not None:
            both = run(pair)
            separate = all(_keeps(both, run(all_alike(pair, kept)), axes, kept) for kept in range(PAIR))
        if separate and None not in axes:
            steady, gap = True, output_gap([_first(t, d) for t, d in zip(trained, axes, strict=True)], both, trained)
        else:
            whole = run(inputs)
            steady = Pass.EVAL_TWICE in passes and apart(whole, run(inputs)) <= _SAME
            gap = output_gap(trained, whole, trained)
    return Outputs(gap, steady, separate, tuple(numbers))


def _first(tensor: torch.Tensor, axis: int | None) -> torch.Tensor:
    """The first samples."""
    return tensor if axis is None else tensor.narrow(axis, 0, PAIR)


def _sample_axes(graph: Graph, inputs: Inputs) -> list[int | None]:
    """The axis of samples in each tensor that comes out, None where it has none of its own."""
    found: list[fx.Node] = []
    for node in graph.nodes:
        if node.op == "output":
            fx.map_arg(node.args, found.append)
    return [batch_axis(graph.axes(n)) if is_by_sample(graph, n, inputs.batch_size) else None for n in found]


def _keeps(both: Output, alike: Output, axes: Sequence[int | None], kept: int) -> bool:
    """True when the outputs of one sample are what they were beside another one."""
    if not len(both) == len(alike) == len(axes):
        return False
    rows = [(a, b, axis) for a, b, axis in zip(both, alike, axes, strict=True) if axis is not None]
    if any(a.shape != b.shape or a.shape[axis] != PAIR for a, b, axis in rows):
        return False
    return apart([a.select(d, kept) for a, _, d in rows], [b.select(d, kept) for _, b, d in rows]) <= _SAME
