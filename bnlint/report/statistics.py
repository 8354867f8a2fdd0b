"""How often each rule found something: the format behind `--statistics`."""

from __future__ import annotations

from collections import Counter

from bnlint.job import Report
from bnlint.report.text import Look, bold, total, visible


def render(report: Report, look: Look | None = None) -> str:
    """A line for each rule, the most frequent first, and a line for the whole."""
    look = look or Look()
    found = [finding for target in report.targets for finding in visible(target, look)]
    times = Counter((finding.code, finding.name, finding.severity) for finding in found)
    places = {(finding.code, finding.severity, finding.target) for finding in found}
    targets = Counter((code, severity) for code, severity, _ in places)
    rows = sorted(times.items(), key=lambda row: (-row[1], row[0][0], row[0][2].rank))
    width = len(str(rows[0][1])) if rows else 0
    lines = [
        f"{count:>{width}}  {bold(f'{severity.value}[{code}]', look, severity)} {name}"
        + (f" in {targets[code, severity]} of {len(report.targets)} targets" if len(report.targets) > 1 else "")
        for (code, name, severity), count in rows
    ]
    return "\n".join(lines + ([] if look.quiet else total(report)))
