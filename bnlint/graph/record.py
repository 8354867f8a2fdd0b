"""Records one forward pass as a `torch.fx.Graph`, op by op, on fake tensors or real ones.

The model's own Python runs; a `TorchFunctionMode` (`recorder.py`) sees every torch function, method and operator it
calls, and module calls are followed by wrapping `nn.Module.__call__`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from torch import nn

from bnlint.graph.caches import without_fakes
from bnlint.graph.fake import FakeMode, Unfollowable, blames_fakes, fake_state, quiet_failures, reason, to_fake
from bnlint.graph.frames import raised_at, stop_at
from bnlint.graph.memory import out_of_memory
from bnlint.graph.nest import map_tensors, tensors
from bnlint.graph.recorder import Observer, Recorder, followed_calls
from bnlint.graph.recording import Recording
from bnlint.graph.sharded import sharded


def record(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    *,
    fake: bool = True,
    repair: bool = True,
    partial: bool = False,
    observer: Observer | None = None,
    batch_axes: Sequence[int | None] = (),
) -> Recording:
    """Records `model(*args, **kwargs)`; the model's parameters and buffers are never written to when `fake`.

    `batch_axes` says for every tensor of `(args, kwargs)` which axis is the batch; without it the first one is.
    Raises Unfollowable when fake tensors cannot follow the model, unless `partial`. Any other exception that ends the
    run is kept in `Recording.error`, with the graph up to there. The caller restores attributes and modes
    (`untouched`).
    """
    kwargs = dict(kwargs or {})
    with ExitStack() as stack:
        if fake and sharded(model):
            raise Unfollowable("the model is sharded by FSDP", None)
        if fake:
            stack.enter_context(quiet_failures())
            stack.enter_context(without_fakes(model))
            mode = FakeMode(allow_non_fake_inputs=True)
            stack.enter_context(fake_state(model, mode))
            args, kwargs = map_tensors((args, kwargs), lambda t: to_fake(mode, t))
            stack.enter_context(mode)
        recorder = Recorder(model, fake=fake, repair=repair, observer=observer)
        recording = recorder.recording
        batch = {id(tensor): axis for (_, tensor), axis in zip(tensors((args, kwargs)), batch_axes, strict=False)}
        for name, value in _input_names(model, args, kwargs):
            recorder.placeholder(name, value, batch)
        stack.enter_context(followed_calls(recorder))
        try:
            with recorder:
                recording.output = model(*args, **kwargs)
                recorder.finish(recording.output)
        except Unfollowable as stop:
            if not partial:
                raise
            recording.error, recording.error_call = stop, stop.call
        except (Exception, SystemExit) as error:
            if out_of_memory(error):
                raise
            if fake and not partial and isinstance(error, Exception) and blames_fakes(error):
                raise Unfollowable(reason(error), raised_at(error)) from error
            recording.error, recording.error_call = error, raised_at(error)
    return recording


stop_at(record.__code__)


def _input_names(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[tuple[str, Any]]:
    try:
        bound = inspect.signature(model.forward).bind(*args, **kwargs)
    except (TypeError, ValueError):
        return [*((f"arg{i}", value) for i, value in enumerate(args)), *kwargs.items()]
    named: list[tuple[str, Any]] = []
    for name, value in bound.arguments.items():
        kind = bound.signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            named += [(f"{name}_{i}", item) for i, item in enumerate(value)]
        elif kind is inspect.Parameter.VAR_KEYWORD:
            named += list(value.items())
        else:
            named.append((name, value))
    return named
