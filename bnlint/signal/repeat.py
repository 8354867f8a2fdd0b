"""Two forward passes in eval mode over the same batch, op by op: where the second first gives something else."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from bnlint.graph.model import Graph
from bnlint.graph.nest import tensors
from bnlint.graph.ops import op_name
from bnlint.graph.record import record
from bnlint.graph.recording import Recording
from bnlint.graph.untouched import training_mode
from bnlint.signal.statistics import widened
from bnlint.signal.watch import to_host

_TOLERANCE = 1e-5  # of a fingerprint; sums on a GPU may differ by 1e-6 from one pass to the next
_UNWRITTEN = frozenset(("empty", "empty_like", "new_empty", "empty_strided"))

Call = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Repeat:
    """What two passes in eval mode over one batch had in common."""

    graph: Graph  # of the first pass
    difference: float  # of the outputs, relative to the largest entry; infinite when they differ in number or shape
    changed: tuple[fx.Node, ...] = ()  # ops of the first pass that got the same tensors and gave others, in order
    buffers: tuple[str, ...] = ()  # buffers that a pass wrote to
    numbers: tuple[str, ...] = ()  # plain numbers of modules that the passes left at another value


def repeat(model: nn.Module, first: Call, second: Call) -> Repeat:
    """Runs the model twice in eval mode; `first` and `second` are copies of the same arguments.

    Raises what the model raises. Buffers and random state are the caller's to restore.
    """
    with torch.no_grad(), training_mode(model, False), left_behind(model) as numbers:
        before = {name: buffer.clone() for name, buffer in model.named_buffers()}
        one, prints = _pass(model, first)
        moved = [name for name, b in model.named_buffers() if name in before and not _equal(b, before[name])]
        two, again = _pass(model, second)
    difference = apart([t for _, t in tensors(one.output)], [t for _, t in tensors(two.output)])
    changed = _changed(one.graph, two.graph, prints, again) if difference > 0 else ()
    return Repeat(Graph(one, model), difference, changed, tuple(moved), tuple(numbers))


@contextmanager
def left_behind(model: nn.Module) -> Iterator[list[str]]:
    """Afterwards the list holds the plain numbers of modules, by path, that have another value than before."""
    before, found = _plain_numbers(model), list[str]()
    yield found
    now = _plain_numbers(model)
    found += [path for path, value in before.items() if now.get(path, value) != value]


def _plain_numbers(model: nn.Module) -> dict[str, float]:
    """Attributes such as a dropout rate, by path."""
    return {
        f"{path}.{key}".lstrip("."): value
        for path, module in model.named_modules()
        for key, value in vars(module).items()
        if type(value) in (int, float)
    }


def _pass(model: nn.Module, call: Call) -> tuple[Recording, dict[str, list[float]]]:
    """One recorded run and a fingerprint of every value in it."""
    numbers: dict[str, list[torch.Tensor]] = {}

    def observe(node: fx.Node, output: Any) -> None:
        if op_name(node) not in _UNWRITTEN:  # unwritten memory means nothing until something is written to it
            with torch._C.DisableTorchFunction():
                numbers[node.name] = [number for _, t in tensors(output) for number in _fingerprint(t)]

    recording = record(model, *call, fake=False, repair=False, observer=observe)
    if recording.error is not None:
        raise recording.error
    return recording, to_host(numbers)


def _fingerprint(value: torch.Tensor) -> list[torch.Tensor]:
    """Two numbers that change with the values and with their order."""
    if value.layout is not torch.strided or value.device.type == "meta" or not value.numel():
        return []
    x = _numbers(value).flatten()
    return [torch.linalg.vector_norm(x), x @ torch.linspace(1, 2, x.numel(), device=x.device, dtype=x.dtype)]


def _numbers(value: torch.Tensor) -> torch.Tensor:
    """The tensor in float32 or better, a complex one as pairs."""
    value = torch.view_as_real(value) if value.is_complex() else value
    return widened(value) if value.is_floating_point() else value.float()


def _changed(
    one: fx.Graph, two: fx.Graph, prints: dict[str, list[float]], again: dict[str, list[float]]
) -> tuple[fx.Node, ...]:
    """Ops whose inputs agree in both passes and whose outputs do not; the first op that only one pass has is one."""
    differs: set[fx.Node] = set()
    found: list[fx.Node] = []
    for a, b in zip(one.nodes, two.nodes, strict=False):
        if (a.op, a.target, a.meta.get("path")) != (b.op, b.target, b.meta.get("path")):
            found.append(a)
            break
        downstream = any(n in differs for n in a.all_input_nodes)
        if downstream or not _close(prints.get(a.name, []), again.get(b.name, [])):
            differs.add(a)
            if not downstream and a.op != "placeholder":
                found.append(a)
    return tuple(found)


def _close(a: Sequence[float], b: Sequence[float]) -> bool:
    if len(a) != len(b):
        return False
    pairs = zip(a, b, strict=True)
    return all(math.isclose(x, y, rel_tol=_TOLERANCE) or (math.isnan(x) and math.isnan(y)) for x, y in pairs)


def _equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())


def apart(one: Sequence[torch.Tensor], two: Sequence[torch.Tensor]) -> float:
    """The largest relative difference of two lists of outputs; entries that are not numbers must be so in both."""
    if [t.shape for t in one] != [t.shape for t in two]:
        return math.inf
    worst = 0.0
    for a, b in zip(one, two, strict=True):
        if not a.numel() or _equal(a, b):
            continue
        a, b = _numbers(a), _numbers(b)
        scale = float(a.abs().nan_to_num(posinf=0.0).max())
        gap = float((a - b).abs().nan_to_num(nan=math.inf).max())
        worst = max(worst, gap / scale if scale else math.inf)
    return worst
