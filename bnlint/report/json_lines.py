"""One JSON object a line for each finding, with the keys of the JSON report's findings."""

from __future__ import annotations

import json

from bnlint.job import Report, sort_findings
from bnlint.report.json import finding_values
from bnlint.report.place import known_rules
from bnlint.report.text import Look


def render(report: Report, look: Look | None = None) -> str:
    """The lines; nothing at all when there is no finding."""
    rows = sort_findings([finding for target in report.targets for finding in target.findings])
    rules = known_rules(report)
    return "\n".join(json.dumps(finding_values(row, rules), allow_nan=False) for row in rows)
