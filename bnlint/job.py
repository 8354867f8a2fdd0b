"""What to check and what came of it: the JSON that crosses the pipe between the command line and the worker."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bnlint.rule import Finding, Location, Severity


@dataclass(frozen=True)
class Job:
    """One target and how to check it."""

    target: str
    inputs: tuple[str, ...] = ()
    input_fn: str | None = None
    batch: str | None = None  # a file of tensors, or `file.py:loader`
    batch_size: int | None = None
    loss: str | None = None
    seed: int = 0
    device: str = "cpu"
    dtype: str | None = None
    autocast: str | None = None
    compile: bool = False  # run the model under torch.compile too
    mode: str = "train"
    weights: str | None = None  # a file with values for the parameters and buffers
    meta: bool = False  # build the model on the meta device
    static: bool = False
    layers: bool = False  # describe every layer's weights instead of running rules
    select: tuple[str, ...] = ()  # resolved rule codes; empty means all
    rule_paths: tuple[str, ...] = ()
    rule_options: dict[str, dict[str, Any]] = field(default_factory=dict)
    root: str = ""  # a folder that packages are also imported from
    debug: bool = False

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Job:
        """Reads what `to_json` wrote."""
        data = json.loads(text)
        for key in ("inputs", "select", "rule_paths"):
            data[key] = tuple(data[key])
        return cls(**data)


@dataclass
class TargetReport:
    """What happened to one target. `status` is ok, partial or failed; failed means the check did not happen."""

    target: str
    status: str = "ok"
    input: list[dict[str, Any]] = field(default_factory=list)  # name, shape, dtype, from
    device: str = "cpu"
    ops: int = 0
    parameters: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    rule_seconds: dict[str, float] = field(default_factory=dict)  # by code
    skipped_rules: list[dict[str, str]] = field(default_factory=list)  # code, reason
    notes: list[str] = field(default_factory=list)  # short facts for people: "probe skipped: …"
    profile: list[dict[str, Any]] = field(default_factory=list)  # the signal by depth: name, kind, spread, gradient
    rules: int = 0  # how many rules ran
    ran: list[str] = field(default_factory=list)  # their codes
    classes: dict[str, list[int]] = field(default_factory=dict)  # lines of the classes it is built of, by file
    files: list[str] = field(default_factory=list)  # of the user's, that the check read
    cached: bool = False  # whether this is the answer of an earlier run
    findings: list[Finding] = field(default_factory=list)
    layers: list[dict[str, Any]] = field(default_factory=list)  # for a job that asks for them
    suggestion: str = ""  # the text of a function that initialises the model

    def to_dict(self) -> dict[str, Any]:
        """Everything, findings included, as JSON values (the pipe's form, not the report's)."""
        data = dataclasses.asdict(self)
        for row in data["findings"]:
            row["severity"] = row["severity"].value
        return data

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> TargetReport:
        """Reads what `to_dict` wrote, after a trip through JSON."""
        findings = [_finding_from_dict(row) for row in data["findings"]]
        return cls(**{**data, "findings": findings})


@dataclass
class Report:
    """The result of a run: a report per target, in the order the targets were given."""

    targets: list[TargetReport] = field(default_factory=list)
    baseline: str | None = None  # the file that silences known findings
    rule_paths: tuple[str, ...] = ()  # where rules of the user's own were loaded from

    @property
    def findings(self) -> list[Finding]:
        """All findings that are not suppressed, errors first, then by place."""
        rows = [f for t in self.targets for f in t.findings if f.suppressed is None]
        return sort_findings(rows)

    @property
    def ok(self) -> bool:
        """True when every check happened and nothing at warning level or above was found."""
        return self.exit_code() == 0

    def exit_code(self, fail_on: Severity = Severity.WARNING) -> int:
        """0 nothing at or above `fail_on`, 1 something is, 2 a check did not happen or a rule crashed."""
        if any(t.status == "failed" for t in self.targets) or any(f.code == "BN909" for f in self.findings):
            return 2
        return int(any(f.severity.rank >= fail_on.rank for f in self.findings))

    def to_json(self) -> str:
        """The JSON report, as `--output-format json` prints it."""
        from bnlint.report.json import render

        return render(self)

    def _repr_html_(self) -> str:
        """The report in a notebook."""
        from bnlint.report.html import render

        return render(self)

    def __str__(self) -> str:
        """The full text report without colour."""
        from bnlint.report.full import render

        return render(self)


def sort_findings(findings: Sequence[Finding]) -> list[Finding]:
    """Errors first, then by target, file, line, column, code and module path: the same order on every run."""

    def key(f: Finding) -> tuple[Any, ...]:
        at = f.location or f.call or Location("", 0)
        return (-f.severity.rank, f.target, at.file, at.line, at.column or 0, f.code, f.module_path, f.message)

    return sorted(findings, key=key)


def _finding_from_dict(row: dict[str, Any]) -> Finding:
    places = {key: Location(**row[key]) if row[key] else None for key in ("location", "call")}
    lists = {key: tuple(row[key]) for key in ("modules", "nodes")}
    return Finding(**{**row, **places, **lists, "severity": Severity(row["severity"])})
