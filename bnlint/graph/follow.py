"""Records a model on fake tensors; on real ones when fakes cannot follow, or fail where real ones do not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from bnlint.graph.fake import Unfollowable
from bnlint.graph.frames import Call, resolve
from bnlint.graph.names import holds_values
from bnlint.graph.record import record
from bnlint.graph.recording import Recording
from bnlint.graph.untouched import untouched


def follow(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], batch_axes: Sequence[int | None] = ()
) -> tuple[Recording, str | None]:
    """The recording, and why it had to be made on real tensors: None when it was not."""
    if not holds_values(model):
        with untouched(model):
            return record(model, args, kwargs, partial=True, batch_axes=batch_axes), None
    try:
        with untouched(model):
            recording = record(model, args, kwargs, batch_axes=batch_axes)
    except Unfollowable as stop:
        with untouched(model, values=True):
            return record(model, args, kwargs, fake=False, batch_axes=batch_axes), f"{stop.reason}{_at(stop.call)}"
    if recording.error is None and not recording.errors:
        return recording, None
    with untouched(model, values=True):
        real = record(model, args, kwargs, fake=False, repair=False, batch_axes=batch_axes)
    if real.error is not None:
        return recording, None
    call = recording.errors[0].meta["call"] if recording.errors else recording.error_call
    return real, f"an op fails only on fake tensors{_at(call)}"


def _at(call: Call | None) -> str:
    place = resolve(call) if call is not None else None
    return f", at {place.file}:{place.line}" if place is not None else ""
