"""Whether the samples of a batch keep to themselves in eval mode.

A batch of two, (a, b), is run again as (a, a) and as (b, b). What the model makes of `a` must not change with its
neighbour, nor what it makes of `b`: both directions are needed, since a recurrence along the batch only looks back.
Rows are replaced by copies of the sample that is kept, so every value stays one that the model can be given.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn

from bnlint.graph.axes import Axis, Role
from bnlint.graph.model import Graph
from bnlint.graph.nest import map_tensors, tensors
from bnlint.graph.record import record
from bnlint.graph.untouched import training_mode
from bnlint.signal.statistics import measurable, widened
from bnlint.signal.watch import Matcher, to_host

if TYPE_CHECKING:
    from bnlint.inputs import Inputs

PAIR = 2
_TOLERANCE = 1e-5  # of the fingerprint of one sample

Call = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Mixing:
    """How far one sample's output depends on the other, and the first op where the other gets in."""

    difference: float  # relative; 0 when the samples keep to themselves
    first: fx.Node | None = None


def mixing(model: nn.Module, graph: Graph, inputs: Inputs, copy: Callable[[Inputs], Call], seed: int) -> Mixing | None:
    """Compares three passes; None where the batch is one sample, or what belongs to a sample is not known.

    None as well where the code branches on the data: which way it takes is then the batch's affair.
    """
    pair = pair_of(inputs, graph)
    if pair is None:
        return None
    outputs = [node for node in graph.outputs if is_by_sample(graph, node, inputs.batch_size)]
    with torch.no_grad(), training_mode(model, False):
        both, way = _pass(model, graph, copy(pair), (0, 1), seed)
        runs = [_pass(model, graph, copy(all_alike(pair, kept)), (kept,), seed) for kept in range(PAIR)]
    if any(other != way for _, other in runs):
        return None
    alone = [prints for prints, _ in runs]
    found = {name: _difference(both, alone, name) for name in both}
    worst = max((found[node.name] for node in outputs if node.name in found), default=0.0)
    first = next((node for node in graph.nodes if found.get(node.name, 0.0) > _TOLERANCE), None)
    return Mixing(worst, first) if worst > _TOLERANCE else Mixing(0.0)


def pair_of(inputs: Inputs, graph: Graph) -> Inputs | None:
    """Two samples of a batch; None where it has but one, or what belongs to a sample is not known."""
    pair = inputs.with_batch(PAIR) if inputs.batch_size > PAIR else inputs
    if pair is None or pair.batch_size != PAIR or not _is_a_batch(inputs):
        return None
    return pair if any(is_by_sample(graph, node, inputs.batch_size) for node in graph.outputs) else None


def is_by_sample(graph: Graph, node: fx.Node, size: int) -> bool:
    """True for an output with samples along one axis; a second axis of that length may be samples, too: all pairs."""
    return batch_axis(graph.axes(node)) is not None and graph.shape(node).count(size) == 1


def _is_a_batch(inputs: Inputs) -> bool:
    """True when every tensor that goes in has the samples on one axis, and no other axis could be theirs as well.

    The nodes of a graph are rows, too, but come with edges or an adjacency matrix, and are meant to be mixed.
    """
    rows = list(zip(inputs.tensors, inputs.batch_axes, strict=False))
    size = inputs.batch_size
    return len(rows) == len(inputs.tensors) and all(
        axis is not None and tuple(tensor.shape).count(size) == 1 for tensor, axis in rows if tensor.ndim
    )


def all_alike(inputs: Inputs, kept: int) -> Inputs:
    """The pair with one of its samples in both places."""
    rows = zip(inputs.tensors, inputs.batch_axes, strict=True)
    changed = {
        id(tensor): tensor if axis is None else tensor.index_select(axis, torch.full((PAIR,), kept))
        for tensor, axis in rows
    }
    args, kwargs = map_tensors((inputs.args, inputs.kwargs), lambda tensor: changed[id(tensor)])
    return replace(inputs, args=args, kwargs=kwargs)


def batch_axis(axes: Sequence[Axis]) -> int | None:
    """The one axis that counts samples and nothing else."""
    found = [d for d, axis in enumerate(axes) if any(atom.role is Role.BATCH for atom in axis)]
    if len(found) != 1 or len(axes[found[0]]) != 1 or not axes[found[0]][0].whole:
        return None
    return found[0]


def _pass(
    model: nn.Module, graph: Graph, call: Call, kept: Sequence[int], seed: int
) -> tuple[dict[str, list[list[float]]], list[tuple[str, Any]]]:
    """For each value, by node, a fingerprint of each sample kept; and the ops that ran."""
    matcher = Matcher(graph)
    numbers: dict[str, list[torch.Tensor]] = {}

    def observe(ran: fx.Node, output: Any) -> None:
        node = matcher.match(ran)
        value = next((t for _, t in tensors(output) if measurable(t)), None)
        axes = _axes(graph, node) if node is not None else ()
        axis = batch_axis(axes) if value is not None and value.ndim == len(axes) else None
        if node is None or value is None or axis is None or value.shape[axis] != PAIR:
            return
        with torch._C.DisableTorchFunction():
            numbers[node.name] = [n for sample in kept for n in _fingerprint(value.select(axis, sample))]

    torch.manual_seed(seed)
    recording = record(model, *call, fake=False, repair=False, observer=observe)
    if recording.error is not None:
        raise recording.error
    size = 2
    prints = {name: [row[i : i + size] for i in range(0, len(row), size)] for name, row in to_host(numbers).items()}
    return prints, [(node.op, node.target) for node in recording.graph.nodes if node.op != "get_attr"]


def _axes(graph: Graph, node: fx.Node) -> Sequence[Axis]:
    """The axes of a value; of an op that returns several, those of the first."""
    items = [user for user in node.users if graph.is_item(user) and user.args[1] == 0]
    return graph.axes(node) or (graph.axes(items[0]) if items else ())


def _fingerprint(sample: torch.Tensor) -> list[torch.Tensor]:
    """Two numbers of the size of the values that change with them and with their order."""
    x = widened(sample).flatten()
    weights = torch.linspace(1, 2, x.numel(), device=x.device, dtype=x.dtype)
    return [torch.linalg.vector_norm(x), torch.linalg.vector_norm(x * weights)]


def _difference(both: dict[str, list[list[float]]], alone: list[dict[str, list[list[float]]]], name: str) -> float:
    """The largest relative change of a sample's fingerprint; 0 where it was not seen in all passes or is not finite."""
    if any(name not in row for row in alone):
        return 0.0
    worst = 0.0
    for kept, row in enumerate(alone):
        for a, b in zip(both[name][kept], row[name][0], strict=True):
            if math.isfinite(a) and math.isfinite(b) and a != b:
                worst = max(worst, abs(a - b) / max(abs(a), abs(b)))
    return worst
