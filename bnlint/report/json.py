"""The report for programs: one JSON document, version 1, the same on two runs but for the seconds."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import bnlint
from bnlint.job import Report, TargetReport, sort_findings
from bnlint.report.place import known_rules, precision
from bnlint.report.text import Look, counts, relative, rule_url
from bnlint.rule import Finding, Location, Rule


def render(report: Report, look: Look | None = None) -> str:
    """The document; lines and columns count from 1, paths start at the working directory."""
    findings = sort_findings([finding for target in report.targets for finding in target.findings])
    rules = known_rules(report)
    document = {
        "version": 1,
        "tool": {
            "name": "bnlint",
            "version": bnlint.__version__,
            "torch": _torch_version(),
            "python": platform.python_version(),
        },
        "targets": [_target(target) for target in report.targets],
        "findings": [finding_values(finding, rules) for finding in findings],
        "summary": counts(report.findings),
    }
    return json.dumps(plain(document), indent=2, allow_nan=False)


def _target(target: TargetReport) -> dict[str, Any]:
    return {
        "target": target.target,
        "status": target.status,
        "input": target.input,
        "device": target.device,
        "ops": target.ops,
        "parameters": target.parameters,
        "seconds": {stage: round(seconds, 3) for stage, seconds in target.seconds.items()},
        "cached": target.cached,
        "skipped_rules": target.skipped_rules,
    }


def finding_values(finding: Finding, rules: Mapping[str, type[Rule]]) -> dict[str, Any]:
    """A finding in JSON's types."""
    at, call = finding.location, finding.call
    return {
        "target": finding.target,
        "code": finding.code,
        "name": finding.name,
        "severity": finding.severity.value,
        "message": finding.message,
        "help": finding.help,
        "note": finding.note,
        "module_path": finding.module_path,
        "modules": list(finding.modules),
        **_span(at),
        "call_file": relative(call.file) if call else None,
        "call_line": call.line if call else None,
        "evidence": plain(finding.evidence),
        "fingerprint": finding.fingerprint,
        "suppressed": finding.suppressed,
        "url": rule_url(finding.code, finding.name),
        "precision": precision(finding.code, rules),
    }


def _span(at: Location | None) -> dict[str, Any]:
    return {
        "file": relative(at.file) if at else None,
        "line": at.line if at else None,
        "column": at.column if at else None,
        "end_line": at.end_line if at else None,
        "end_column": at.end_column if at else None,
    }


def _torch_version() -> str | None:
    try:
        return metadata.version("torch")  # read from the package's metadata: importing torch takes seconds
    except metadata.PackageNotFoundError:
        return None


def plain(value: Any) -> Any:
    """The value in JSON's types; numbers that JSON lacks become `"nan"`, `"inf"` and `"-inf"`."""
    if isinstance(value, Mapping):
        return {str(key): plain(row) for key, row in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(row) for row in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return value if value is None or isinstance(value, (str, int)) else str(value)
