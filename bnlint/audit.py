"""The pipeline, on one page: target → build → inputs → trace → weights → probe → rules → report.

Each stage adds facts to one `AuditedModel`; rules only read it. Nothing here knows a rule by name.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from bnlint.collector import rare_collections
from bnlint.grouping import grouped, settled
from bnlint.job import Job, TargetReport, sort_findings
from bnlint.registry import load_rules
from bnlint.rule import Finding, Phase, Rule, engine_finding
from bnlint.untraced import NO_VALUES, obstacle

if TYPE_CHECKING:
    from types import ModuleType

    from torch import nn

    from bnlint.graph.model import AuditedModel
    from bnlint.graph.source import Source
    from bnlint.inputs import Inputs
    from bnlint.signal.predict import Prediction

Emit = Callable[[str], None]


def run(job: Job, emit: Emit) -> TargetReport:
    """Audits a target given as text; user code is imported and run here, so only call it in the worker."""
    from bnlint.build import BuildError, build
    from bnlint.target import parse

    started = time.perf_counter()
    try:
        built = build(parse(job.target), job.seed, emit, job.root, meta=job.meta)
        loaded = _loaded(built.model, job, emit)
    except BuildError as error:
        return TargetReport(job.target, "failed", device=job.device, findings=[_of(job, error.finding)])
    seconds = time.perf_counter() - started
    report = audit_module(
        built.model,
        job,
        source=built.source,
        user_module=built.module,
        name=built.name,
        emit=emit,
        unwritten=built.unwritten,
    )
    report.seconds = {"build": seconds, **report.seconds}
    report.notes = [*loaded, *report.notes]
    return report


def audit_module(
    model: nn.Module,
    job: Job,
    inputs: Any = None,
    *,
    source: Source | None = None,
    user_module: ModuleType | None = None,
    name: str = "",
    emit: Emit = lambda stage: None,
    keep_parameters: bool = False,
    unwritten: Mapping[str, int] | None = None,
) -> TargetReport:
    """Audits a built model and leaves it as it was; `inputs` (tensor, tuple or dict) overrides the job's."""
    from bnlint.graph.compiler import no_compiler
    from bnlint.graph.model import AuditedModel
    from bnlint.graph.source import locate
    from bnlint.graph.untouched import training_mode, untouched
    from bnlint.inputs.values import unwrapped
    from bnlint.signal.survey import Survey

    model = unwrapped(model)
    rules = [rule(**job.rule_options.get(code, {})) for code, rule in _selected(job).items()]
    run = _Run(job, rules, emit, TargetReport(job.target, device=job.device, parameters=_count(model)))
    found = source or locate(model, None)
    audited = AuditedModel(model, name or type(model).__name__, found, job.loss, job.mode, job.dtype)
    audited.weights, audited.unwritten = job.weights, unwritten or {}
    audited.look = lambda: Survey(audited.module, loaded=job.weights is not None)
    kept = untouched(model, values=True, parameters=keep_parameters)
    with no_compiler(), kept, training_mode(model, job.mode == "train"):
        run.stages(audited, inputs, user_module)
    return run.report


@dataclass
class _Run:
    """One pass through the stages; what each could not do is written into the report."""

    job: Job
    rules: list[Rule]
    emit: Emit
    report: TargetReport
    findings: list[Finding] = field(default_factory=list)

    def stages(self, audited: AuditedModel, inputs: Any, user_module: ModuleType | None) -> None:
        given = self._inputs(audited, inputs, user_module) if self._has_device() else None
        if given is not None:
            self._trace(audited, given)
            self._probe(audited, given)
        with self._stage("rules"), rare_collections():
            for rule in self.rules:
                self._check(rule, audited)
        self._layers(audited)
        self._unexplained(audited)
        self._untraced(audited)
        self.report.classes = audited.source.classes()
        found = settled(grouped(self.findings), {rule.code: rule.yields_to for rule in self.rules})
        self.report.findings = sort_findings([_of(self.job, f) for f in found])

    def _has_device(self) -> bool:
        from bnlint.signal.probe import ProbeError, find_device

        try:
            self.report.device = str(find_device(self.job.device))
        except ProbeError as error:
            self._fail(engine_finding("BN903", str(error), help="choose one of those with --device"))
            return False
        return True

    def _inputs(self, audited: AuditedModel, told: Any, user_module: ModuleType | None) -> Inputs | None:
        from bnlint.graph.lazy import materialised
        from bnlint.inputs import InputError, from_values, resolve

        if not self.job.layers and all(rule.phase in (Phase.SOURCE, Phase.MODULES) for rule in self.rules):
            return None
        try:
            with self._stage("inputs"):
                model = audited.module
                given = from_values(model, told) if told is not None else resolve(model, self.job, user_module)
                audited.module = materialised(model, given.args, given.kwargs)
        except InputError as error:
            self._fail(error.finding)
            return None
        audited.inputs = given
        self.report.input = given.rows
        return given

    def _trace(self, audited: AuditedModel, given: Inputs) -> None:
        from bnlint.graph.follow import follow
        from bnlint.graph.model import Graph
        from bnlint.inputs.variants import record_variant

        with self._stage("trace"), rare_collections():
            recording, reason = follow(audited.module, given.args, given.kwargs, given.batch_axes)
            audited.graph = Graph(recording, audited.module)
            if recording.error is None:
                audited.record_variant = partial(record_variant, model=audited.module, given=given)
        audited.predict = lambda: self._predict(audited)
        self.report.ops = audited.graph.op_count
        if reason:
            self.report.notes.append(f"recorded on real tensors: {reason}")

    def _predict(self, audited: AuditedModel) -> Prediction:
        """The signal from the weights: found when a rule first asks for it, which most runs never do."""
        from bnlint.signal.predict import Prediction

        assert audited.graph is not None
        with self._stage("weights"):
            return Prediction(audited.graph, audited.module)

    def _probe(self, audited: AuditedModel, given: Inputs) -> None:
        graph = audited.graph
        measuring = any(rule.phase in (Phase.FORWARD, Phase.BACKWARD) for rule in self.rules)
        if graph is None or not (measuring or self.job.layers):
            return
        if self.job.static or not audited.has_values:
            return
        if not graph.runs:
            self.report.notes.append("probe skipped: the forward pass does not run")
            return
        from bnlint.graph.untouched import untouched
        from bnlint.signal.probe import probe
        from bnlint.signal.profile import profile

        backward = any(rule.phase is Phase.BACKWARD for rule in self.rules)
        passes = frozenset(wanted for rule in self.rules for wanted in rule.passes)
        job = self.job
        with self._stage("probe"), rare_collections(), untouched(audited.module, values=True):
            audited.probe = probe(
                audited.module,
                given,
                graph,
                device=job.device,
                dtype=job.dtype,
                autocast=job.autocast,
                compile=job.compile,
                loss=job.loss,
                seed=job.seed,
                backward=backward,
                passes=passes,
            )
        self.report.device = audited.probe.device
        if audited.probe.failed:
            self.report.notes.append(f"probe stopped: {audited.probe.failed}")
        else:
            self.report.profile = profile(audited)
        self.report.notes += audited.probe.notes

    def _layers(self, audited: AuditedModel) -> None:
        if not self.job.layers or audited.graph is None:
            return
        from bnlint.signal.initial import Initials, described
        from bnlint.signal.suggest import suggestion

        initials = Initials(audited)
        rows = list(initials)
        self.report.layers = [described(audited, row) for row in rows]
        self.report.suggestion = suggestion(audited, initials, rows)

    def _check(self, rule: Rule, audited: AuditedModel) -> None:
        reason = obstacle(rule, audited, self.job)
        if reason:
            self.report.skipped_rules.append({"code": rule.code, "reason": reason})
            return
        started = time.perf_counter()
        try:
            audited.unfollowed.clear()
            self.findings += list(rule.check(audited))
            if audited.unfollowed:
                reason = f"the model could not be followed again: {', '.join(audited.unfollowed)}"
                self.report.skipped_rules.append({"code": rule.code, "reason": reason})
            self.report.rules += 1
            self.report.rule_seconds[rule.code] = time.perf_counter() - started
        except Exception as error:
            if not audited.has_values and "meta" in str(error):
                self.report.skipped_rules.append({"code": rule.code, "reason": NO_VALUES})
                return
            message = f"{rule.code} {rule.name} raised {type(error).__name__}: {error}"
            help = "this is a bug in the rule; run again with --debug for its traceback and report it"
            note = traceback.format_exc() if self.job.debug else ""
            self.findings.append(engine_finding("BN909", message, help=help, note=note, evidence={"rule": rule.code}))

    def _unexplained(self, audited: AuditedModel) -> None:
        """A forward that fails for a reason no finding explains: the check did not happen."""
        from bnlint.unexplained import nearest_input, unexplained

        if audited.graph is None:
            return
        near = nearest_input(audited, self.job)
        found = unexplained(audited, self.findings, near)
        if found is not None:
            self._fail(found)
        elif near:
            self.report.notes.append(f"the input does not fit; one that does is {near}")

    def _untraced(self, audited: AuditedModel) -> None:
        """Says which rules did not run and what was not followed."""
        from bnlint.untraced import untraced_part

        finding = untraced_part(audited, self.report.skipped_rules)
        if finding is not None and self.report.status == "ok":
            self.report.status = "partial"
            self.findings.append(finding)

    def _fail(self, finding: Finding) -> None:
        self.report.status = "failed"
        self.findings.append(finding)

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        self.emit(name)
        started = time.perf_counter()
        try:
            yield
        finally:
            self.report.seconds[name] = time.perf_counter() - started


def _loaded(model: nn.Module, job: Job, emit: Emit) -> list[str]:
    """Puts the weights that the job names into the model and says from where."""
    from bnlint.checkpoint import load_weights

    if job.weights is None:
        return []
    emit("load")
    return [f"weights: {load_weights(model, job.weights)}"]


def _selected(job: Job) -> dict[str, type[Rule]]:
    if job.layers:
        return {}
    return {code: rule for code, rule in load_rules(job.rule_paths).items() if not job.select or code in job.select}


def _count(model: nn.Module) -> int:
    from torch.nn.parameter import is_lazy

    from bnlint.graph.names import parameters_of

    return sum(p.numel() for p in parameters_of(model) if not is_lazy(p))


def _of(job: Job, finding: Finding) -> Finding:
    return replace(finding, target=job.target)
