"""The engine's word on a check that did not cover everything: what was not followed, and which rules did not run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Place, Rule, engine_finding

if TYPE_CHECKING:
    from bnlint.graph.model import AuditedModel
    from bnlint.job import Job

NO_VALUES = "the model is on the meta device, where tensors have no values"
TRAINED = "trained weights in eval mode: it is about the start of training"
CHOSEN = frozenset({"--static", TRAINED})  # reasons that are a person's own choice


def obstacle(rule: Rule, audited: AuditedModel, job: Job) -> str | None:
    """Why a rule cannot run; None when it can."""
    graph, probe, phase = audited.graph, audited.probe, rule.phase
    if rule.values and not audited.has_values:
        return NO_VALUES
    if rule.at_init and job.weights is not None and job.mode == "eval":
        return TRAINED
    if phase in (Phase.SOURCE, Phase.MODULES):
        return None
    if graph is None:
        return "no input to run the model with"
    if phase is Phase.GRAPH:
        return None
    if job.static:
        return "--static"
    if not audited.has_values:
        return NO_VALUES
    if not graph.runs:
        return "the forward pass does not run"
    if rule.explains_failure and probe is not None and probe.unsupported:
        return None
    if probe is None or probe.failed:
        return f"the probe stopped: {probe.failed}" if probe else "the probe did not run"
    if rule.passes - probe.passes:
        return "its own pass did not run"
    if phase is Phase.BACKWARD and not probe.backward:
        return "the backward pass did not run"
    return None


def untraced_part(audited: AuditedModel, skipped: Sequence[Mapping[str, str]]) -> Finding | None:
    """One finding for all that was left out against the person's will; None when everything asked for was done."""
    import torch

    from bnlint.graph.fake import Unfollowable

    graph = audited.graph
    if graph is None:
        return None
    reasons: dict[str, list[str]] = {}
    for row in skipped:
        if row["reason"] not in CHOSEN:
            reasons.setdefault(row["reason"], []).append(row["code"])
    recording = graph.recording
    parts, place, help = [], Place(""), ""
    if recording.error is not None:
        why = f": {recording.error.reason}" if isinstance(recording.error, Unfollowable) else ""
        parts.append(f"the forward pass ends after {graph.op_count} ops and what comes after was not followed{why}")
        place = Place("", audited.resolve_call(recording.error_call))
    elif isinstance(audited.module, torch.jit.ScriptModule):
        parts.append("the model is compiled by TorchScript, which hides what is inside")
        help = "check the module that was given to torch.jit.script or torch.jit.trace"
    elif recording.errors:
        place = replace(audited.place(recording.errors[0]), node=None)
    codes = [code for rows in reasons.values() for code in rows]
    if codes:
        count = f"{len(codes)} rule{'s' if len(codes) > 1 else ''} did not run"
        parts.append(f"{count}: {next(iter(reasons))}" if len(reasons) == 1 else count)
    if not parts:
        return None
    probe = audited.probe
    if probe is not None and probe.failed_call is not None and place.call is None:
        place = Place("", audited.resolve_call(probe.failed_call))
    if probe is not None and probe.out_of_memory:
        help = "pass a smaller one with --input, run on another --device, or without values with --static"
    note = "\n".join(f"not run: {_listed(rows)} ({reason})" for reason, rows in reasons.items())
    evidence = {"skipped": sorted(codes), "ops": graph.op_count}
    return engine_finding("BN904", "; ".join(parts), help=help, note=note, place=place, evidence=evidence)


def _listed(codes: Sequence[str]) -> str:
    """The codes in order, three and more in a row as "BN601 to BN607"."""
    runs: list[list[str]] = []
    for code in sorted(codes):
        if runs and _next(runs[-1][-1]) == code:
            runs[-1].append(code)
        else:
            runs.append([code])
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(run) for run in runs)


def _next(code: str) -> str:
    letters = code.rstrip("0123456789")
    return f"{letters}{int(code[len(letters) :]) + 1:03d}"
