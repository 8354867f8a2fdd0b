"""The model under `torch.compile` beside the same model run eagerly: one forward and one backward pass of each."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from bnlint.graph.compiler import compiling
from bnlint.graph.frames import Owner, display_path, owner
from bnlint.graph.memory import out_of_memory
from bnlint.graph.names import join
from bnlint.graph.nest import map_tensors, tensors
from bnlint.rule import Location
from bnlint.signal.device import ProbeError, first_line
from bnlint.signal.repeat import Call
from bnlint.signal.statistics import widened

_ROUNDING = 1e-4  # relative; below it nothing is looked for
_ULPS = 4.0  # how much inputs are moved, in units of their last place, to see what rounding does
_SURE = 3.0  # what the compiler does beyond this many times that is not rounding


@dataclass(frozen=True)
class Compiled:
    """What the compiler made of a module; `path` is the innermost one where it shows."""

    path: str = ""
    raised: str | None = None  # what compiling it or running it raised
    line: Location | None = None  # of the model's code, where that was
    output: float = 0.0  # relative distance from the eager outputs
    gradient: float = 0.0  # and from the eager gradients, over all parameters

    @property
    def worst(self) -> float:
        """One number to compare by."""
        return math.inf if self.raised else max(self.output, self.gradient)


@dataclass(frozen=True)
class _Results:
    outputs: list[torch.Tensor]
    gradients: list[torch.Tensor]


def compiled(model: nn.Module, copy: Callable[[], Call], device: str, seed: int) -> Compiled:
    """Compares the two; where they depart, goes down into the part that does so by itself.

    What is random may depart, and what magnifies rounding.

    Raises ProbeError where nothing can be compiled, and what the model raises when run eagerly.
    """
    with compiling():
        whole = found = _beside(model, copy(), seed)
        differs = whole.worst > _ROUNDING and whole.raised is None
        if differs and (_draws(model, copy, seed) or _is_rounding(whole, model, copy, seed)):
            return Compiled()
        while whole.worst > _ROUNDING:
            inner = next((part for part in _parts(model, found.path, copy(), seed) if _as_bad(part, whole)), None)
            if inner is None:
                break
            found = inner
    if whole.raised is not None:
        _assert_works(device)
    return replace(whole, path=found.path, line=found.line, raised=found.raised)


def _draws(model: nn.Module, copy: Callable[[], Call], seed: int) -> bool:
    """True for a model whose outputs depend on the seed: compiled, it may draw its numbers in another order."""
    one, other = (_run(model, model, copy(), number) for number in (seed, seed + 1))
    return _apart(one.outputs, other.outputs) > 0


def _is_rounding(found: Compiled, model: nn.Module, copy: Callable[[], Call], seed: int) -> bool:
    """True where the eager model is as far from itself once its inputs are rounded a little differently.

    A deep stack of batch norms makes 4 % in the gradients of what is one part in ten million at the input.
    """

    def rounded(tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.is_floating_point():
            return tensor
        return tensor * (1 + _ULPS * torch.finfo(tensor.dtype).eps * torch.randn_like(tensor))

    one = _run(model, model, copy(), seed)
    torch.manual_seed(seed)
    other = _run(model, model, map_tensors(copy(), rounded), seed)
    outputs, gradients = _apart(one.outputs, other.outputs), _apart(one.gradients, other.gradients)
    return found.output <= _SURE * outputs and found.gradient <= _SURE * gradients


def _assert_works(device: str) -> None:
    """Raises ProbeError where not even an addition can be compiled."""
    new = time.time()  # a number that no kernel was kept for
    try:
        with compiling():
            torch.compile(lambda x: x + new)(torch.ones(2, device=device))
    except Exception as error:
        raise ProbeError(f"not compiled, as torch.compile does not work here: {first_line(error)}") from None


def _as_bad(part: Compiled, whole: Compiled) -> bool:
    return part.raised is not None if whole.raised is not None else part.worst > whole.worst / 2


def _parts(model: nn.Module, path: str, call: Call, seed: int) -> Iterator[Compiled]:
    """The children of the module at `path`, each by itself on what it gets in an eager run, in the order of calls."""
    calls: dict[str, Call] = {}
    children = dict(model.get_submodule(path).named_children())
    with ExitStack() as stack, torch.no_grad():
        for name, child in children.items():

            def keep(_: nn.Module, args: Any, kwargs: Any, name: str = name) -> None:
                calls.setdefault(name, map_tensors((args, kwargs), lambda tensor: tensor.detach().clone()))

            stack.callback(child.register_forward_pre_hook(keep, with_kwargs=True).remove)
        torch.manual_seed(seed)
        model(*call[0], **call[1])
    for name, inputs in calls.items():
        yield _beside(children[name], inputs, seed, join(path, name))


def _beside(module: nn.Module, call: Call, seed: int, path: str = "") -> Compiled:
    eager = _run(module, module, call, seed)
    try:
        other = _run(module, torch.compile(module), call, seed)
    except Exception as error:
        if out_of_memory(error):
            raise
        return Compiled(path, _said(error), _line(error))
    return Compiled(
        path, output=_apart(eager.outputs, other.outputs), gradient=_apart(eager.gradients, other.gradients)
    )


def _run(module: nn.Module, run: Callable[..., Any], call: Call, seed: int) -> _Results:
    """One pass; the backward pass starts from a fixed random projection of the outputs."""
    args, kwargs = map_tensors(call, torch.clone)
    torch.manual_seed(seed)
    outputs = [tensor for _, tensor in tensors(run(*args, **kwargs))]
    starts = [tensor for tensor in outputs if tensor.requires_grad]
    parameters = [p for p in module.parameters() if p.requires_grad]
    gradients: list[torch.Tensor] = []
    if starts and parameters:
        torch.manual_seed(seed)
        ends = [torch.randn_like(tensor) for tensor in starts]
        found = torch.autograd.grad(starts, parameters, ends, allow_unused=True)
        gradients = [g if g is not None else torch.zeros_like(p) for g, p in zip(found, parameters, strict=True)]
    return _Results([tensor.detach() for tensor in outputs], gradients)


def _apart(wanted: list[torch.Tensor], got: list[torch.Tensor]) -> float:
    """The distance of two lists of tensors over the size of the first; what is not finite in one must be in both."""
    if [t.shape for t in wanted] != [t.shape for t in got]:
        return math.inf
    size = distance = 0.0
    for a, b in zip(wanted, got, strict=True):
        if not (a.is_floating_point() and a.numel()):
            continue
        both = a.isfinite()
        if not torch.equal(both, b.isfinite()):
            return math.inf
        a, b = widened(a[both]), widened(b[both])
        size, distance = math.hypot(size, _norm(a)), math.hypot(distance, _norm(b - a))
    return distance / size if size > 0 else 0.0


def _norm(tensor: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor))


def _said(error: BaseException) -> str:
    """The compiler's own explanation where it gives one, else the first line."""
    found = re.search(r"^\s*Explanation: (.+)$", str(error), re.MULTILINE)
    return found[1] if found else first_line(error)


def _line(error: BaseException) -> Location | None:
    """The innermost line of the model's own code that the compiler was at."""
    stack = getattr(error, "real_stack", None) or ()
    own = [frame for frame in stack if owner(frame.filename) == Owner.USER]
    return Location(display_path(own[-1].filename), own[-1].lineno or 1) if own else None
