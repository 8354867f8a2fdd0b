"""Workflow commands that GitHub shows beside the lines of a pull request, and the table of the job's summary."""

from __future__ import annotations

import html
import re

from bnlint.job import Report
from bnlint.report.place import findings, path_in, sentence
from bnlint.report.text import Look, clean, counts
from bnlint.rule import Finding, Severity

ROOT = "GITHUB_WORKSPACE"
SUMMARY = "GITHUB_STEP_SUMMARY"
_COMMANDS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "notice"}
_ROWS = 500  # of the summary, which may have 1 MiB


def render(report: Report, look: Look | None = None) -> str:
    """One command for each finding; errors come first because GitHub shows ten of each level in a step."""
    return "\n".join(_command(finding) for finding in findings(report))


def summary(report: Report) -> str:
    """All findings as a Markdown table."""
    rows = findings(report)
    numbers = ", ".join(f"{n} {word}" for word, n in counts(rows).items() if n) or "no findings"
    failed = sum(target.status == "failed" for target in report.targets)
    lines = [f"### bnlint: {numbers}" + (f", {failed} could not be checked" if failed else "")]
    if rows:
        lines += ["", "| severity | rule | place | message |", "|---|---|---|---|"]
    for row in rows[:_ROWS]:
        cells = (row.severity.value, f"{row.code} {row.name}", _place(row), sentence(row))
        lines.append(f"| {' | '.join(map(_cell, cells))} |")
    return "\n".join(lines + ([f"\nand {len(rows) - _ROWS} more"] if len(rows) > _ROWS else [])) + "\n"


def _command(finding: Finding) -> str:
    at = finding.location
    fields = {"title": f"{finding.code} {finding.name}"}
    if at is not None:
        fields |= {"file": clean(path_in(at.file, ROOT)), "line": str(at.line)}
        if at.column is not None and at.end_line in (None, at.line):  # else GitHub drops the annotation
            fields["col"] = str(at.column)
            fields |= {"endColumn": str(at.end_column)} if at.end_column else {}
        elif at.end_line is not None:
            fields["endLine"] = str(at.end_line)
    told = ",".join(f"{key}={_escaped(value, ':,')}" for key, value in fields.items())
    text = sentence(finding) + (f"\nhelp: {clean(finding.help)}" if finding.help else "")
    return f"::{_COMMANDS[finding.severity]} {told}::{_escaped(text, '')}"


def _escaped(text: str, more: str) -> str:
    return re.sub(f"[%\r\n{more}]", lambda match: f"%{ord(match[0]):02X}", text)


def _place(finding: Finding) -> str:
    return f"{clean(path_in(finding.location.file, ROOT))}:{finding.location.line}" if finding.location else ""


def _cell(text: str) -> str:
    """Text that is nothing but text in Markdown."""
    plain = html.escape(text.replace("\n", " "), quote=False)
    return re.sub(r"([\\`*_{}\[\]()#+!|~@])", lambda match: f"&#{ord(match[0])};", plain)
