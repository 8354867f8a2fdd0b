"""reviewdog's diagnostic format, with which reviewdog comments on pull requests anywhere."""

from __future__ import annotations

import json
from typing import Any

from bnlint.job import Report
from bnlint.report.place import findings, path_in, sentence
from bnlint.report.text import Look, clean, source_lines
from bnlint.rule import Finding, Location, Severity

_SEVERITIES = {Severity.ERROR: "ERROR", Severity.WARNING: "WARNING", Severity.INFO: "INFO"}


def render(report: Report, look: Look | None = None) -> str:
    """The document; lines and columns count from 1."""
    rows = [_diagnostic(finding) for finding in findings(report)]
    return json.dumps({"source": {"name": "bnlint"}, "diagnostics": rows}, indent=2)


def _diagnostic(finding: Finding) -> dict[str, Any]:
    text = sentence(finding) + (f"\nhelp: {clean(finding.help)}" if finding.help else "")
    row: dict[str, Any] = {"message": text, "severity": _SEVERITIES[finding.severity], "code": {"value": finding.code}}
    if finding.location:
        row["location"] = {"path": path_in(finding.location.file), "range": _range(finding.location)}
    return row


def _range(at: Location) -> dict[str, Any]:
    start = _position(at.file, at.line, at.column)
    if at.end_line is None or at.end_column is None:
        return {"start": start}
    return {"start": start, "end": _position(at.file, at.end_line, at.end_column)}


def _position(file: str, line: int, column: int | None) -> dict[str, int]:
    """The format counts columns in bytes of UTF-8, where bnlint counts characters."""
    if column is None:
        return {"line": line}
    before = source_lines(file)[line - 1 : line]
    return {"line": line, "column": len(before[0][: column - 1].encode()) + 1 if before else column}
