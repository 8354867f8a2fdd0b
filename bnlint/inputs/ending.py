"""The op that ended a recording early: it has no output, so the recorder leaves it out of the graph."""

from __future__ import annotations

from types import FrameType

from bnlint.graph.recorder import Recorder, _fx_target
from bnlint.graph.recording import Recording
from bnlint.graph.repair import Repair

_CALLS = (Recorder.__torch_function__.__code__, Recorder._call_leaf.__code__)


def write_last_op(recording: Recording) -> None:
    """Adds the op whose exception ended the run to the graph, as a failed one; does nothing for other exceptions."""
    error, frame = recording.error, _last_call(recording)
    if frame is None or not isinstance(error, Exception):
        return
    values = frame.f_locals
    recorder, args, kwargs = values["self"], values["args"], values["kwargs"] or {}
    failed = Repair(None, "none", error)
    recorder.in_leaf = True  # describing the arguments calls torch functions too
    if "module" in values:
        recorder.write("call_module", values["path"], args, kwargs, None, failed)
    else:
        op, target, args = _fx_target(values["func"], values["name"], args)
        recorder.write(op, target, args, kwargs, None, failed)


def _last_call(recording: Recording) -> FrameType | None:
    trace = recording.error.__traceback__ if recording.error is not None else None
    while trace is not None and trace.tb_frame.f_code not in _CALLS:  # the outermost: what it calls is part of it
        trace = trace.tb_next
    return trace.tb_frame if trace is not None else None
