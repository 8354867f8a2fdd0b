"""A forward pass that fails for a reason no rule explains, told with what helps: an input that fits, a near name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Location, Place, Severity, engine_finding

if TYPE_CHECKING:
    from torch import nn

    from bnlint.graph.model import AuditedModel
    from bnlint.job import Job


def unexplained(audited: AuditedModel, findings: Sequence[Finding], nearest: str) -> Finding | None:
    """BN903 for the first failure that no error among the findings is about; `nearest` is an input that fits."""
    from bnlint.graph.fake import Unfollowable

    graph = audited.graph
    assert graph is not None
    explained = {name for f in findings if f.severity is Severity.ERROR for name in f.nodes}
    error = graph.recording.error
    raised = audited.probe.raised if audited.probe is not None else None
    failed = [node for node in graph.recording.errors if node.name not in explained]
    if failed and not explained:
        fault = graph.error(failed[0])
        assert fault is not None
        return _failed(audited, fault.kind, fault.message, audited.place(failed[0]), nearest)
    if error is not None and not explained and not isinstance(error, Unfollowable):
        place = Place("", audited.resolve_call(graph.recording.error_call))
        found = _failed(audited, type(error).__name__, str(error), place, nearest)
        return None if _is_explained(audited, place.location, findings) else found
    if raised is not None:
        line = audited.resolve_call(raised.call)
        if not _is_explained(audited, line, findings):
            return _failed(audited, raised.kind, raised.message, Place("", line), nearest)
    return None


def nearest_input(audited: AuditedModel, job: Job) -> str:
    """Options for an input that the model takes, when those that were told do not fit; `""` otherwise."""
    from bnlint.inputs.given import nearest

    wrong = job.inputs and audited.graph is not None and not audited.graph.runs
    return nearest(audited.module, job) if wrong else ""


def _is_explained(audited: AuditedModel, line: Location | None, findings: Sequence[Finding]) -> bool:
    """True when an error is about an op that this line calls."""
    assert audited.graph is not None
    errors = [f for f in findings if f.severity is Severity.ERROR]
    named = {name for f in errors for name in f.nodes}
    ops = [audited.call_line(node) for node in audited.graph.nodes if node.name in named]
    places = [at for at in (*ops, *(f.call for f in errors), *(f.location for f in errors)) if at]
    return line is not None and any((at.file, at.line) == (line.file, line.line) for at in places)


def _failed(audited: AuditedModel, kind: str, message: str, place: Place, nearest: str) -> Finding:
    first = message.strip().splitlines()[0] if message.strip() else "no message"
    help = _meant(audited.module, message) or (
        f"the model takes {nearest}" if nearest else _other_dtype(audited, first)
    )
    help = help or "run the model by hand with the input named below; if that input is wrong, pass another with --input"
    return engine_finding("BN903", f"the forward pass raises {kind}: {first}", help=help, place=place)


def _other_dtype(audited: AuditedModel, message: str) -> str:
    """What to do about numbers of another dtype than the weights, where the failure is about dtypes; `""` else."""
    import torch

    weights = next((p.dtype for p in audited.module.parameters() if p.is_floating_point()), None)
    given = [tensor.dtype for tensor in audited.inputs.tensors] if audited.inputs is not None else []
    other = next((d for d in given if d is torch.uint8 or (d.is_floating_point and d is not weights)), None)
    if weights is None or other is None or not re.search(r"\b(d?type)\b", message):
        return ""
    one, two = (str(dtype).removeprefix("torch.") for dtype in (other, weights))
    return f"the input is {one} and the weights are {two}: convert the input, as `x.to(torch.{two})` does"


def _meant(model: nn.Module, message: str) -> str:
    """The attribute of the model that comes near to one that it lacks, as help; `""` for any other failure."""
    lacks = re.match(r"'(\w+)' object has no attribute '(\w+)'", message)
    holder = next((m for m in model.modules() if lacks and type(m).__name__ == lacks[1]), None)
    known = [*vars(holder), *holder._modules, *holder._parameters, *holder._buffers] if holder is not None else []
    near = difflib.get_close_matches(lacks[2], known, n=1) if lacks else []
    return f"did you mean `{near[0]}`?" if near else ""
