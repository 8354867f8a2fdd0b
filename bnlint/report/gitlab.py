"""GitLab's code quality report."""

from __future__ import annotations

import json

from bnlint.job import Report
from bnlint.report.place import digest, findings, identified, path_in, sentence
from bnlint.report.text import Look
from bnlint.rule import Severity

ROOT = "CI_PROJECT_DIR"
_SEVERITIES = {Severity.ERROR: "critical", Severity.WARNING: "major", Severity.INFO: "info"}


def render(report: Report, look: Look | None = None) -> str:
    """The array of issues. GitLab does not show the name of a check, so the description begins with it."""
    rows = [
        {
            "description": f"{finding.code} {finding.name}: {sentence(finding)}",
            "check_name": finding.code,
            "fingerprint": digest(identity),
            "severity": _SEVERITIES[finding.severity],
            "location": {"path": path_in(at.file, ROOT), "lines": {"begin": at.line, "end": at.end_line or at.line}},
        }
        for finding, identity in identified(findings(report))
        if (at := finding.location)
    ]
    return json.dumps(rows, indent=2)
