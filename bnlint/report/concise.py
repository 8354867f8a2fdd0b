"""One line for each finding: `path:line:column: CODE severity name: message [module]`."""

from __future__ import annotations

from bnlint.job import Report
from bnlint.report.text import Look, bold, clean, position, state, visible
from bnlint.rule import Finding


def render(report: Report, look: Look | None = None) -> str:
    """The findings for editors and grep; nothing at all when there is none."""
    return "\n".join(_line(finding, look or Look()) for target in report.targets for finding in visible(target, look))


def _line(finding: Finding, look: Look) -> str:
    at = finding.location or finding.call
    column = ":1" if at and at.column is None else ""
    where = position(at) + column if at else clean(finding.target)
    code = bold(finding.code, look, finding.severity)
    more = f", {len(finding.modules) - 1} more" if len(finding.modules) > 1 else ""
    module = f" [{clean(finding.module_path)}{more}]" if finding.module_path else ""
    return f"{where}: {code} {finding.severity.value} {finding.name}: {clean(finding.message)}{module}{state(finding)}"
