"""SARIF 2.1.0, within what GitHub's code scanning takes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import bnlint
from bnlint.job import Report
from bnlint.report.json import plain
from bnlint.report.place import findings, identified, known_rules, path_in, precision, sentence
from bnlint.report.text import Look, clean
from bnlint.rule import ENGINE_CODES, Finding, Location, Rule, Severity

ROOT = "GITHUB_WORKSPACE"
_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_LEVELS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "note"}
_PROBLEMS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "recommendation"}
_TEXT = 1024  # characters of a description
_RESULTS = 25_000  # of a run


def render(report: Report, look: Look | None = None) -> str:
    """The log with one run; silenced findings are in it and say so."""
    rows = findings(report, suppressed=True)[:_RESULTS]
    codes = sorted({row.code for row in rows})
    rules = known_rules(report)
    run: dict[str, Any] = {
        "tool": {
            "driver": {
                "name": "bnlint",
                "semanticVersion": bnlint.__version__,
                "rules": [_descriptor(code, rules, rows) for code in codes],
            }
        },
        "columnKind": "unicodeCodePoints",
        "invocations": [_invocation(report, rows)],
        "results": [_result(row, identity, codes, report) for row, identity in identified(rows)],
    }
    return json.dumps({"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2, allow_nan=False)


def _descriptor(code: str, rules: Mapping[str, type[Rule]], rows: list[Finding]) -> dict[str, Any]:
    rule = rules.get(code)
    name = next(row.name for row in rows if row.code == code)
    own = ENGINE_CODES.get(code)
    summary = rule.summary() if rule else own.summary if own else name
    text = rule.doc() if rule else summary
    severity = rule.severity if rule else own.severity if own else Severity.WARNING
    return {
        "id": code,
        "name": name,
        "shortDescription": {"text": _short(summary)},
        "fullDescription": {"text": _short(text.partition("Example (bad)")[0].strip() or summary)},
        "help": {"text": text, "markdown": text},
        "defaultConfiguration": {"level": _LEVELS[severity]},
        "properties": {
            "tags": ["pytorch", rule.phase.value if rule else "bnlint"],
            "precision": precision(code, rules),
            "problem.severity": _PROBLEMS[severity],
        },
    }


def _result(finding: Finding, identity: str, codes: list[str], report: Report) -> dict[str, Any]:
    text = sentence(finding) + (f"; {clean(finding.help)}" if finding.help else "")
    result: dict[str, Any] = {
        "ruleId": finding.code,
        "ruleIndex": codes.index(finding.code),
        "level": _LEVELS[finding.severity],
        "message": {"text": _no_links(text)},
        "locations": [_location(finding.location, finding)],
        "partialFingerprints": {"primaryLocationLineHash": identity},
        "properties": {
            "target": finding.target,
            "modules": list(finding.modules),
            "evidence": plain(finding.evidence),
        },
    }
    if finding.call and finding.call != finding.location:
        called = {"message": {"text": "called here"}, **_location(finding.call)}
        result["relatedLocations"] = [{"id": 1, **called}]
    if finding.suppressed is not None:
        inside = not finding.suppressed.startswith(("baseline", "per-"))
        kind = "inSource" if inside else "external"
        result["suppressions"] = [{"kind": kind, "justification": clean(finding.suppressed) or "ignored"}]
    if report.baseline:
        result["baselineState"] = "unchanged" if finding.suppressed == "baseline" else "new"
    return result


def _location(at: Location | None, finding: Finding | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if at is not None:
        region = {"startLine": max(at.line, 1)}
        more = {"startColumn": at.column, "endLine": at.end_line, "endColumn": at.end_column}
        region |= {key: value for key, value in more.items() if value is not None}
        found["physicalLocation"] = {"artifactLocation": {"uri": _uri(at.file)}, "region": region}
    if finding is not None and finding.module_path:
        name = finding.module_path.rpartition(".")[2]
        found["logicalLocations"] = [{"name": name, "fullyQualifiedName": finding.module_path, "kind": "object"}]
    return found


def _uri(file: str) -> str:
    path = path_in(file, ROOT)
    absolute = path.startswith("/") or path[1:2] == ":"
    return ("file:///" if absolute else "") + quote(path.lstrip("/") if absolute else path)


def _invocation(report: Report, rows: list[Finding]) -> dict[str, Any]:
    broken = [row for row in rows if row.code in ENGINE_CODES and row.severity is Severity.ERROR]
    found: dict[str, Any] = {"executionSuccessful": report.exit_code() != 2}
    if broken:
        found["toolExecutionNotifications"] = [
            {"descriptor": {"id": row.code}, "level": "error", "message": {"text": _no_links(sentence(row))}}
            for row in broken
        ]
    return found


def _short(text: str) -> str:
    return text if len(text) <= _TEXT else text[: _TEXT - 1] + "…"


def _no_links(text: str) -> str:
    """Brackets that a viewer would take for a link lose that meaning."""
    return text.replace("](", "] (")
